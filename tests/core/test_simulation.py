"""The simulated microscope draws what it says it draws."""

import re
import subprocess
import sys
from itertools import combinations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from bloodedge.data.dataset import read_dataset
from bloodedge.decision.kinds import Kind
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import CNMC_UM_PER_PX, Cell, ImagingSpec, cell_on_black, network_input, read_image
from bloodedge.simulation import (
    MIXED,
    FieldSpec,
    SubjectStyle,
    golden_inputs,
    paste_cells,
    render_cell,
    render_field,
    write_dataset,
)

NOTHING = {"red_cells_per_1000_um2": 0, "platelets_per_1000_um2": 0, "white_cells": (0, 0)}
SHARP = {"defocus_um": 0, "sensor_noise": 0}


def diameter_um(cell: Cell) -> float:
    return 2 * np.sqrt(cell.area_um2 / np.pi)


def auc(scores: list[float], positive: list[bool]) -> float:
    """Mann-Whitney: the share of (blast, normal) pairs that the score puts in order."""
    values, is_blast = np.array(scores), np.array(positive)
    pairs = values[is_blast][:, None] - values[~is_blast][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.fixture(scope="module")
def cells_of_forty_subjects() -> list[tuple[Cell, str]]:
    labels = ("normal", "blast")
    return [(render_cell(labels[i % 2], i, SubjectStyle.of(i // 8)), labels[i % 2]) for i in range(320)]


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    program = (
        "import hashlib; from bloodedge.simulation import *; from bloodedge.imaging import ImagingSpec\n"
        "field = render_field(7, FieldSpec(style=SubjectStyle.of(3)))\n"
        "cell = render_cell('blast', 5)\n"
        "data = field.bgr.tobytes() + cell.bgr.tobytes() + golden_inputs(ImagingSpec(), 2).tobytes()\n"
        "print(hashlib.sha256(data).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "12"]
    assert len(runs[0].stdout) == 65
    assert runs[0].stdout == runs[1].stdout


def test_another_seed_gives_another_field():
    assert not np.array_equal(render_field(1).bgr, render_field(2).bgr)


def test_the_default_field_has_white_cells_red_cells_and_the_stated_size():
    field = render_field(0)
    assert field.bgr.shape == (480, 640, 3)
    assert field.bgr.dtype == np.uint8
    assert 1 <= len(field.cells) <= 3
    assert 15 <= len(field.red_cells) <= 60


def test_every_mask_fills_its_box_and_lies_in_the_frame():
    cut = []
    for seed in range(12):
        for cell in render_field(seed, FieldSpec(white_cells=(3, 3))).cells:
            x, y, width, height = cell.box
            assert cell.mask.shape == (height, width)
            assert cell.mask.dtype == np.uint8
            assert set(np.unique(cell.mask)) <= {0, 255}
            assert cv2.boundingRect(cell.mask) == (0, 0, width, height)
            assert x >= 0
            assert y >= 0
            assert x + width <= 640
            assert y + height <= 480
            at_border = x == 0 or y == 0 or x + width == 640 or y + height == 480
            assert at_border or not cell.cut_by_border
            cut.append(cell.cut_by_border)
    assert any(cut)
    assert not all(cut)


def test_cells_are_darker_and_more_saturated_than_the_background_and_nothing_is_drawn_outside_the_truth():
    clean = {"sensor_noise": 0, "defocus_um": 0.15}
    field = render_field(4, FieldSpec(white_cells=(2, 2), **clean))
    empty = render_field(4, FieldSpec(**NOTHING, **clean))
    for cell in field.cells:
        crop = cell.crop(field)
        x, y, width, height = cell.box
        without = empty.bgr[y : y + height, x : x + width]
        inside = cell.mask > 0
        assert crop.bgr[inside].mean() < 0.75 * without[inside].mean()
        saturation = [cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[:, :, 1][inside].mean() for image in (crop.bgr, without)]
        assert saturation[0] > 2 * saturation[1]
    outside = np.ones(field.bgr.shape[:2], bool)
    for x, y, width, height in [*(c.box for c in field.cells), *field.red_cells, *field.platelets]:
        outside[max(0, y - 8) : y + height + 8, max(0, x - 8) : x + width + 8] = False
    assert outside.sum() > 5000
    assert np.abs(field.bgr[outside].astype(int) - empty.bgr[outside]).max() <= 1


def test_twice_the_stain_squares_the_transmittance():
    light = render_field(9, FieldSpec(**NOTHING, **SHARP)).bgr.astype(float)
    once, twice = (render_field(9, FieldSpec(stain_strength=s, **SHARP)).bgr.astype(float) for s in (0.5, 1.0))
    assert twice.min() < 90
    expected = light * (once / light) ** 2
    # Half a level of rounding in each of the three pictures: 0.5 + 2 * 0.5 * T + 0.5 * T**2 levels.
    assert np.abs(twice - expected).max() <= 2.01


def test_no_stain_shows_the_empty_slide():
    unstained = render_field(3, FieldSpec(stain_strength=0, **SHARP)).bgr
    assert np.array_equal(unstained, render_field(3, FieldSpec(**NOTHING, **SHARP)).bgr)


def test_red_cells_measured_in_the_picture_are_6_to_8_and_a_half_micrometres_wide_with_a_pale_centre():
    diameters, pallor = [], []
    for seed in range(6):
        spec = FieldSpec(red_cells_per_1000_um2=4, overlap=0, white_cells=(0, 0), platelets_per_1000_um2=0, **SHARP)
        field = render_field(seed, spec)
        empty = render_field(seed, FieldSpec(**NOTHING, **SHARP))
        absorbed = empty.bgr[:, :, 1].astype(int) - field.bgr[:, :, 1]
        count, parts, stats, _ = cv2.connectedComponentsWithStats((absorbed > 4).astype(np.uint8))
        boxes = {tuple(int(v) for v in stats[i, :4]): i for i in range(1, count)}
        for x, y, width, height in field.red_cells:
            inside = x > 2 and y > 2 and x + width < 638 and y + height < 478
            alone = [b for b in boxes if np.abs(np.subtract(b, (x, y, width, height))).max() <= 3]
            if inside and alone:
                label = boxes[alone[0]]
                diameters.append(2 * np.sqrt(stats[label, cv2.CC_STAT_AREA] / np.pi) * field.um_per_px)
                centre = absorbed[y + height // 2, x + width // 2]
                pallor.append(centre / np.percentile(absorbed[parts == label], 90))
    assert len(diameters) > 25
    assert min(diameters) > 5.9
    assert max(diameters) < 8.7
    assert 7.0 < np.median(diameters) < 7.9
    assert np.median(pallor) < 0.7


def test_platelets_are_2_to_3_micrometres_wide():
    spec = FieldSpec(platelets_per_1000_um2=5, red_cells_per_1000_um2=0, white_cells=(0, 0))
    sides = [np.sqrt(w * h) * 0.1 for x, y, w, h in render_field(0, spec).platelets if x > 0 and y > 0]
    assert len(sides) > 5
    assert 1.8 < np.median(sides) < 3.6


@pytest.mark.slow
def test_lymphocytes_and_blasts_have_textbook_diameters_that_overlap(cells_of_forty_subjects):
    normal = [diameter_um(cell) for cell, label in cells_of_forty_subjects if label == "normal"]
    blast = [diameter_um(cell) for cell, label in cells_of_forty_subjects if label == "blast"]
    assert min(normal) > 6.3  # drawn above 6.9; where the cytoplasm is pale the finder's outline lies further in
    assert max(normal) < 12.1
    assert min(blast) > 9.6
    assert max(blast) < 18.1
    assert np.median(blast) > np.median(normal) + 1
    assert max(normal) > np.median(blast)


def test_neither_size_nor_brightness_alone_gives_the_class_away(cells_of_forty_subjects):
    blast = [label == "blast" for _, label in cells_of_forty_subjects]
    assert 0.75 < auc([cell.area_um2 for cell, _ in cells_of_forty_subjects], blast) < 0.92
    assert 0.3 < auc([cell.bgr[cell.mask > 0].mean() for cell, _ in cells_of_forty_subjects], blast) < 0.7


def test_a_field_asked_for_no_white_cells_has_none():
    for seed in range(5):
        assert render_field(seed, FieldSpec(white_cells=(0, 0))).cells == ()


@pytest.mark.parametrize(("share", "label"), [(0.0, "normal"), (1.0, "blast")])
def test_the_blast_share_decides_the_labels(share, label):
    cells = [c for s in range(4) for c in render_field(s, FieldSpec(white_cells=(2, 2), blast_share=share)).cells]
    assert len(cells) == 8
    assert {cell.label for cell in cells} == {label}


def test_the_same_field_at_half_the_micrometres_per_pixel_has_red_cells_twice_as_wide():
    red_only = {"white_cells": (0, 0), "platelets_per_1000_um2": 0}
    coarse = render_field(2, FieldSpec(width=640, height=480, um_per_px=0.1, **red_only)).red_cells
    fine = render_field(2, FieldSpec(width=1280, height=960, um_per_px=0.05, **red_only)).red_cells
    inside = [(a, b) for a, b in zip(coarse, fine, strict=True) if a[0] > 0 and a[1] > 0 and a[0] + a[2] < 640]
    assert len(inside) > 10
    for small, large in inside:
        assert abs(large[2] - 2 * small[2]) <= 3


def test_defocus_softens_and_noise_grows_with_the_light_as_photons_do():
    sharp, soft = (render_field(1, FieldSpec(defocus_um=d, sensor_noise=0)).bgr for d in (0.1, 0.6))
    assert cv2.Laplacian(soft, cv2.CV_64F).var() < 0.2 * cv2.Laplacian(sharp, cv2.CV_64F).var()

    def variance(level: float) -> float:
        spec = FieldSpec(**NOTHING, unevenness=0, style=SubjectStyle(light_level=level))
        return float(render_field(1, spec).bgr[:, :, 1].var())

    # Shot noise: twice the light, twice the variance; read noise and rounding add a little to both.
    assert variance(1.0) / variance(0.5) == pytest.approx(2, rel=0.1)


def test_uneven_light_dims_the_corners_by_the_stated_share():
    levels = render_field(1, FieldSpec(**NOTHING, **SHARP, unevenness=0.3)).bgr[:, :, 1].astype(float)
    assert levels.min() / levels.max() == pytest.approx(0.7, abs=0.02)


def test_subjects_differ_in_stain_and_light():
    means = [render_cell("normal", 1, SubjectStyle.of(s)).bgr[200:250, 200:250].mean(axis=(0, 1)) for s in range(6)]
    assert min(np.abs(a - b).max() for a, b in combinations(means, 2)) > 1
    assert SubjectStyle.of(4) == SubjectStyle.of(4)


def test_a_rendered_cell_is_cut_out_onto_black_as_cnmc_cells_are():
    cell = render_cell("blast", 3)
    assert cell.bgr.shape == (450, 450, 3)
    assert cell.um_per_px == CNMC_UM_PER_PX
    assert not cell.bgr[cell.mask == 0].any()
    assert np.array_equal(cell_on_black(cell.bgr).mask, cell.mask)


def test_a_cell_of_an_unknown_class_is_refused():
    with pytest.raises(BloodedgeError, match="normal, blast"):
        render_cell("all", 0)


def test_a_cell_found_in_a_field_looks_like_a_rendered_crop_to_the_network():
    spec = ImagingSpec()
    fields = [render_field(seed, FieldSpec(white_cells=(1, 1), blast_share=1)) for seed in range(12)]
    found = [network_input(c.crop(f), spec) for f in fields for c in f.cells if not c.cut_by_border]
    drawn = [network_input(render_cell("blast", seed), spec) for seed in range(12)]
    lit = [np.concatenate([image[image.any(axis=2)] for image in images]) for images in (found, drawn)]
    assert np.abs(lit[0].mean(axis=0) - lit[1].mean(axis=0)).max() < 15
    areas = [np.mean([np.count_nonzero(image.any(axis=2)) for image in images]) for images in (found, drawn)]
    assert areas[0] == pytest.approx(areas[1], rel=0.15)


def test_a_rendered_data_set_has_the_cnmc_layout_whole_subjects_per_fold_and_says_that_it_is_rendered(tmp_path):
    steps = []
    write_dataset(tmp_path / "data", subjects=6, cells_per_subject=4, seed=1, progress=lambda *step: steps.append(step))
    assert steps[-1] == (24, 24)
    assert "simulated microscope" in (tmp_path / "data" / "RENDERED.txt").read_text()
    data = read_dataset(tmp_path / "data")
    assert data.rendered
    assert [len(data.cells), len(data.unique), len(data.unreadable)] == [24, 24, 0]
    files = sorted((tmp_path / "data").rglob("*.png"))
    assert len(files) == 24
    folds: dict[str, set[str]] = {}
    for path in files:
        match = re.fullmatch(r"UID_(H?\d+)_\d+_\d+_(all|hem)\.png", path.name)
        assert match is not None
        assert path.parent.name == match[2]
        assert match[1].startswith("H") == (match[2] == "hem")
        folds.setdefault(match[1], set()).add(path.parent.parent.name)
    assert set(folds) == {"1", "2", "3", "H1", "H2", "H3"}
    assert all(len(where) == 1 for where in folds.values())
    assert {next(iter(where)) for where in folds.values()} == {"fold_0", "fold_1", "fold_2"}
    assert len({path.read_bytes() for path in files}) == 24
    assert 6.9 < diameter_um(cell_on_black(read_image(files[0]))) < 18.1


def test_a_rendered_data_set_is_byte_identical_when_written_again(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, subjects=2, cells_per_subject=2, seed=5)
    written = [{p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*") if p.is_file()} for n in ("a", "b")]
    assert len(written[0]) == 5
    assert written[0] == written[1]


def test_an_interrupted_rendering_leaves_no_half_data_set(tmp_path):
    def interrupt(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", subjects=2, cells_per_subject=4, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_never_replaced_by_rendered_cells(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "patient.png").write_text("a real cell")
    with pytest.raises(UsageError, match="holds files that this command did not make"):
        write_dataset(tmp_path / "mine", subjects=2, cells_per_subject=2)
    assert (tmp_path / "mine" / "patient.png").read_text() == "a real cell"


def test_golden_inputs_are_network_inputs_of_different_cells():
    spec = ImagingSpec(size_px=96, um_per_px=0.2)
    inputs = golden_inputs(spec, count=6)
    assert inputs.shape == (6, 96, 96, 3)
    assert inputs.dtype == np.uint8
    assert len({image.tobytes() for image in inputs}) == 6
    assert np.array_equal(inputs, golden_inputs(spec, count=6))
    assert not np.array_equal(inputs, golden_inputs(spec, count=6, seed=1))


@pytest.mark.parametrize("um_per_px", [0.05, 0.1, 0.17])
def test_a_pasted_cell_keeps_its_size_and_colour_at_another_scale(um_per_px):
    background = render_field(6, FieldSpec(white_cells=(0, 0), um_per_px=um_per_px)).bgr
    originals = [(render_cell("blast", 1), "blast"), (render_cell("normal", 2), "normal")]
    field = paste_cells(background, originals, um_per_px, seed=0)
    assert [cell.label for cell in field.cells] == ["blast", "normal"]
    for (original, _), pasted in zip(originals, field.cells, strict=True):
        crop = pasted.crop(field)
        assert crop.mask.shape == crop.bgr.shape[:2]
        assert cv2.boundingRect(crop.mask) == (0, 0, *crop.mask.shape[::-1])
        assert not pasted.cut_by_border
        assert crop.area_um2 == pytest.approx(original.area_um2, rel=0.02)
        levels = [cell.bgr[cv2.erode(cell.mask, np.ones((5, 5), np.uint8)) > 0].mean() for cell in (crop, original)]
        assert levels[0] == pytest.approx(levels[1], rel=0.12)


def test_pasting_changes_only_the_pasted_cells_surroundings_and_cells_do_not_overlap():
    background = render_field(6, FieldSpec(white_cells=(0, 0))).bgr
    field = paste_cells(background, [(render_cell("normal", s), "normal") for s in range(4)], 0.1, seed=3)
    assert len(field.cells) == 4
    covered = np.zeros(background.shape[:2], int)
    for cell in field.cells:
        x, y, width, height = cell.box
        covered[y : y + height, x : x + width] += cell.mask > 0
    assert covered.max() == 1
    around = cv2.dilate(covered.astype(np.uint8), np.ones((21, 21), np.uint8))
    assert np.array_equal(field.bgr[around == 0], background[around == 0])


def test_pasting_a_cell_larger_than_the_frame_or_with_an_unknown_label_says_what_to_do():
    small = np.full((64, 64, 3), 215, np.uint8)
    with pytest.raises(BloodedgeError, match="larger than the frame"):
        paste_cells(small, [(render_cell("blast", 0), "blast")], 0.1, seed=0)
    with pytest.raises(BloodedgeError, match="normal, blast"):
        paste_cells(small, [(render_cell("blast", 0), "all")], 0.1, seed=0)


def test_real_cells_can_be_pasted_into_rendered_and_real_frames(real_data):
    paths = sorted((real_data / "cnmc").rglob("*.webp"))[::2500]
    cells = [(cell_on_black(read_image(path)), "blast" if path.parent.name == "all" else "normal") for path in paths]
    real_frame = read_image(min((real_data / "chula" / "Dataset").iterdir()))
    for background, um_per_px in ((render_field(1, FieldSpec(white_cells=(0, 0))).bgr, 0.1), (real_frame, 0.16)):
        field = paste_cells(background, cells, um_per_px, seed=1)
        assert len(field.cells) == len(cells)
        for (original, _), pasted in zip(cells, field.cells, strict=True):
            assert pasted.crop(field).area_um2 == pytest.approx(original.area_um2, rel=0.03)


@pytest.mark.parametrize("wrong", [{"white_cells": (3, 1)}, {"um_per_px": 0}, {"blast_share": 1.5}, {"widht": 640}])
def test_an_impossible_field_is_refused(wrong):
    with pytest.raises(ValidationError):
        FieldSpec(**wrong)


def lone(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray, str | None]:
    """A sharp cell of a kind at 0.1 µm per pixel: BGR, mask as truth values, stage."""
    one = {"other_kinds": {kind: 1}, "white_cells": (1, 1), "width": 400, "height": 400}
    nothing = {"red_cells_per_1000_um2": 0, "platelets_per_1000_um2": 0, "unevenness": 0}
    while True:
        field = render_field(seed, FieldSpec(**one, **nothing, sensor_noise=0))
        (cell,) = field.cells
        if not cell.cut_by_border:
            return cell.crop(field).bgr, cell.mask > 0, cell.stage
        seed += 1000


def nucleus_of(bgr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels of the nucleus, which takes up most red light, by Otsu's threshold inside the cell, without specks."""
    red = bgr[:, :, 2][mask]
    level, _ = cv2.threshold(red.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    dark = ((bgr[:, :, 2] <= level) & mask).astype(np.uint8)
    return cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))


OTHERS = (Kind.NEUTROPHIL, Kind.MONOCYTE, Kind.EOSINOPHIL, Kind.BASOPHIL)


def test_a_mixed_smear_holds_each_kind_by_its_share():
    shares = {Kind.NEUTROPHIL: 0.5, Kind.MONOCYTE: 0.2, Kind.EOSINOPHIL: 0.1}
    small = {"width": 640, "height": 480, "um_per_px": 0.3, "red_cells_per_1000_um2": 0}
    spec = FieldSpec(other_kinds=shares, white_cells=(8, 8), blast_share=0.25, **small)
    cells = [cell for seed in range(24) for cell in render_field(seed, spec).cells]
    assert len(cells) > 180
    for kind, share in shares.items():
        assert sum(cell.kind is kind for cell in cells) / len(cells) == pytest.approx(share, abs=0.1)
    assert not any(cell.kind is Kind.BASOPHIL for cell in cells)
    for cell in cells:
        assert (cell.label == "other") == (cell.kind is not Kind.LYMPHOCYTE)
        assert (cell.stage in {"band", "segmented"}) == (cell.kind is Kind.NEUTROPHIL)
    blasts = sum(cell.label == "blast" for cell in cells)
    assert blasts / sum(cell.kind is Kind.LYMPHOCYTE for cell in cells) == pytest.approx(0.25, abs=0.15)


def test_without_other_kinds_every_cell_is_a_lymphocyte_or_a_blast():
    cells = [cell for seed in range(6) for cell in render_field(seed).cells]
    assert {(cell.kind, cell.label) for cell in cells} == {(Kind.LYMPHOCYTE, "blast"), (Kind.LYMPHOCYTE, "normal")}


def test_shares_of_kinds_beyond_the_whole_are_refused():
    with pytest.raises(ValidationError, match="at most 1"):
        FieldSpec(other_kinds={Kind.NEUTROPHIL: 0.7, Kind.MONOCYTE: 0.4})
    with pytest.raises(ValidationError):
        FieldSpec(other_kinds={Kind.ERYTHROBLAST: 0.1})
    assert sum(MIXED.values()) < 1


@pytest.mark.parametrize(
    ("kind", "smallest_um", "largest_um"),
    [(Kind.NEUTROPHIL, 10, 15), (Kind.MONOCYTE, 12, 20), (Kind.EOSINOPHIL, 11, 16), (Kind.BASOPHIL, 10, 14)],
)
def test_cells_of_every_kind_have_textbook_diameters(kind: Kind, smallest_um: float, largest_um: float):
    diameters = [2 * np.sqrt(lone(kind, seed)[1].sum() * 0.01 / np.pi) for seed in range(8)]
    assert smallest_um * 0.98 < min(diameters)
    assert max(diameters) < largest_um * 1.02
    assert max(diameters) > 1.05 * min(diameters)


def test_nuclei_have_the_shapes_of_their_kinds():
    """Solidity, the share of the convex hull that is filled: lobes and bands have little, a monocyte's kidney more."""

    def solidity(kind: Kind, seed: int) -> float:
        bgr, mask, _ = lone(kind, seed)
        points = cv2.findNonZero(nucleus_of(bgr, mask))
        hull = np.zeros(mask.shape, np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
        return len(points) / int(hull.sum())

    seeds = range(8)
    median = {kind: np.median([solidity(kind, seed) for seed in seeds]) for kind in OTHERS[:3]}
    assert median[Kind.NEUTROPHIL] < 0.8
    assert median[Kind.MONOCYTE] > 0.85


def test_colours_are_those_of_the_kinds():
    """Eosinophils are the most orange, basophils the darkest, and monocytes' cytoplasm is bluer than neutrophils'."""
    warmth, darkness = {}, {}
    for kind in OTHERS:
        cells = [lone(kind, seed)[:2] for seed in range(6)]
        outside = [bgr[mask & (nucleus_of(bgr, mask) == 0)].astype(float).mean(axis=0) for bgr, mask in cells]
        warmth[kind] = np.mean([colour[2] - colour[0] for colour in outside])
        darkness[kind] = np.mean([255 - bgr[mask].mean() for bgr, mask in cells])
    assert max(warmth, key=warmth.__getitem__) is Kind.EOSINOPHIL
    assert max(darkness, key=darkness.__getitem__) is Kind.BASOPHIL
    assert warmth[Kind.MONOCYTE] < warmth[Kind.NEUTROPHIL]


def test_a_band_is_one_piece_and_segments_are_several():
    """Where filaments are worn off, a segmented nucleus falls apart and a band does not."""
    pieces: dict[str, list[int]] = {"band": [], "segmented": []}
    seed = 0
    while len(pieces["band"]) < 3 or len(pieces["segmented"]) < 8:
        bgr, mask, stage = lone(Kind.NEUTROPHIL, seed)
        worn = cv2.erode(nucleus_of(bgr, mask), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13)))
        pieces[str(stage)].append(cv2.connectedComponents(worn)[0] - 1)
        seed += 1
    assert max(pieces["band"]) == 1
    assert np.mean(pieces["segmented"]) > 1.6
