"""The cell finder on rendered fields, on real frames, and on frames that hold nothing."""

from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.errors import BloodedgeError
from bloodedge.finder import FinderParameters, Found, estimate_um_per_px, find_cells
from bloodedge.imaging import ImagingSpec, network_input, read_image
from bloodedge.simulation import Field, FieldSpec, render_field


def iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def assert_all_found(field: Field, found: Found) -> None:
    """Every true cell under a box of its own, and nothing else."""
    assert len(found.cells) == len(field.cells)
    for cell in field.cells:
        assert max(iou(cell.box, other.box) for other in found.cells) >= 0.7


def whole_frame(field: Field, box: tuple[int, int, int, int], mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    canvas = np.zeros(field.bgr.shape[:2], bool)
    x, y, width, height = box
    canvas[y : y + height, x : x + width] = mask > 0
    return canvas


@pytest.mark.parametrize("light", ["warm", "neutral", "blue"])
@pytest.mark.parametrize("um_per_px", [0.066, 0.1, 0.25])
def test_every_white_cell_of_a_field_is_found_at_any_scale_and_light(light: str, um_per_px: float) -> None:
    size = {"width": round(64 / um_per_px), "height": round(48 / um_per_px)}
    for seed in range(3):
        field = render_field(seed, FieldSpec.model_validate({"light": light, "um_per_px": um_per_px, **size}))
        assert_all_found(field, find_cells(field.bgr, um_per_px))


AS_BLUE_AS_NUCLEI = np.array([[0.7, 0.3, 0.1], [0.5, 1.0, 0.2], [0.3, 0.4, 0.9]])
"""BGR densities of a smear, from the right: what absorbed green alone absorbs red too."""


@pytest.mark.parametrize("seed", range(4))
def test_white_cells_are_found_among_red_cells_as_blue_as_nuclei(seed: int) -> None:
    field = render_field(seed, FieldSpec(width=480, height=360, um_per_px=0.15, white_cells=(2, 4)))
    light = np.percentile(field.bgr.reshape(-1, 3), 95, axis=0)
    density = -np.log10((field.bgr + 1.0) / (light + 1)) @ AS_BLUE_AS_NUCLEI.T
    bgr = np.clip(np.rint((light + 1) * 10**-density - 1), 0, 255).astype(np.uint8)
    assert_all_found(field, find_cells(bgr, field.um_per_px))


@pytest.mark.parametrize("side_px", [120, 300])
def test_a_picture_of_one_cell_alone_gives_that_cell(side_px: int) -> None:
    """No red cell shows the scale."""
    field = render_field(2, FieldSpec(white_cells=(1, 1), red_cells_per_1000_um2=0, platelets_per_1000_um2=0))
    x, y, width, height = field.cells[0].box
    room = max(width, height) // 3
    crop = field.bgr[max(0, y - room) : y + height + room, max(0, x - room) : x + width + room]
    zoom = side_px / max(crop.shape[:2])
    found = find_cells(cv2.resize(crop, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))
    assert len(found.cells) == 1
    true_um_per_px = field.um_per_px / zoom
    assert 0.5 < found.um_per_px / true_um_per_px < 2
    near = min(x, room), min(y, room)
    truth = (round(near[0] * zoom), round(near[1] * zoom), round(width * zoom), round(height * zoom))
    assert iou(truth, found.cells[0].box) > 0.7


def test_a_nucleus_lies_in_its_cell() -> None:
    field = render_field(0)
    for cell in find_cells(field.bgr, field.um_per_px).cells:
        assert cell.nucleus.shape == cell.mask.shape
        assert np.count_nonzero(cell.nucleus) == cell.nucleus_px > 0
        assert not (cell.nucleus[cell.mask == 0]).any()


def test_a_field_crowded_with_blasts_is_not_taken_for_red_cells() -> None:
    spec = FieldSpec(white_cells=(12, 20), um_per_px=0.2, red_cells_per_1000_um2=2, blast_share=1)
    field = render_field(7, spec)
    assert_all_found(field, find_cells(field.bgr, 0.2))


def test_masks_follow_the_whole_cell() -> None:
    for seed in range(6):
        field = render_field(seed)
        for cell in find_cells(field.bgr, field.um_per_px).cells:
            truth = max(field.cells, key=lambda true: iou(true.box, cell.box))
            a, b = whole_frame(field, truth.box, truth.mask), whole_frame(field, cell.box, cell.mask)
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
            assert cell.area_px == np.count_nonzero(cell.mask)
            assert cell.area_um2 == pytest.approx(cell.area_px * field.um_per_px**2)
            assert cell.nucleus_px <= cell.area_px


def test_cells_share_no_pixel() -> None:
    field = render_field(3, FieldSpec(white_cells=(15, 20), um_per_px=0.2))
    count = np.zeros(field.bgr.shape[:2], int)
    for cell in find_cells(field.bgr, 0.2).cells:
        count += whole_frame(field, cell.box, cell.mask)
    assert count.max() == 1


def test_a_cell_cut_by_the_border_is_found_and_flagged() -> None:
    field = next(f for f in map(render_field, range(40)) if f.cells and not f.cells[0].cut_by_border)
    x, y, width, height = field.cells[0].box
    halved = np.ascontiguousarray(field.bgr[:, x + width // 2 :])
    cut = min(find_cells(halved, field.um_per_px).cells, key=lambda cell: cell.box[0] + abs(cell.box[1] - y))
    assert cut.touches_border
    assert cut.box[0] == 0
    assert 0.3 < cut.completeness < 0.75
    whole = max(find_cells(field.bgr, field.um_per_px).cells, key=lambda cell: iou(cell.box, field.cells[0].box))
    assert not whole.touches_border
    assert whole.completeness == pytest.approx(1, abs=0.03)
    assert (whole.box[2], whole.box[3]) == pytest.approx((width, height), rel=0.15)


def test_a_found_cell_becomes_the_networks_input() -> None:
    field = next(f for f in map(render_field, range(20)) if f.cells)
    for cell in find_cells(field.bgr, field.um_per_px).cells:
        crop = cell.crop(field.bgr, field.um_per_px)
        assert crop.bgr.shape[:2] == crop.mask.shape
        image = network_input(crop, ImagingSpec())
        assert image.any()
        assert not image[0].any()


def test_the_outline_encloses_the_mask() -> None:
    field = next(f for f in map(render_field, range(20)) if f.cells)
    for cell in find_cells(field.bgr, field.um_per_px).cells:
        drawn = np.zeros(field.bgr.shape[:2], np.uint8)
        cv2.fillPoly(drawn, [np.array(cell.outline, np.int32)], 255)
        assert np.count_nonzero(drawn) == pytest.approx(cell.area_px, rel=0.01)


def test_platelets_are_turned_down_as_too_small() -> None:
    spec = FieldSpec(white_cells=(0, 0), platelets_per_1000_um2=6)
    fields = [render_field(seed, spec) for seed in range(3)]
    found = [find_cells(field.bgr, field.um_per_px) for field in fields]
    assert not any(one.cells for one in found)
    assert Reason.TOO_SMALL in {thing.reason for one in found for thing in one.rejected}


@pytest.mark.parametrize("um_per_px", [0.08, 0.15, 0.25])
def test_scale_is_read_off_the_red_cells(um_per_px: float) -> None:
    size = {"width": round(64 / um_per_px), "height": round(48 / um_per_px)}
    for seed in range(3):
        field = render_field(seed, FieldSpec.model_validate({"um_per_px": um_per_px, **size}))
        assert estimate_um_per_px(field.bgr) == pytest.approx(um_per_px, rel=0.1)


def test_a_frame_without_red_cells_has_no_scale_of_its_own() -> None:
    assert estimate_um_per_px(np.full((240, 320, 3), 200, np.uint8)) is None


@pytest.mark.parametrize("size", [(16, 16), (480, 640), (17, 900)])
@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("um_per_px", [None, 0.02, 0.2, 1.5])
def test_an_empty_frame_holds_nothing(size: tuple[int, int], level: int, um_per_px: float | None) -> None:
    found = find_cells(np.full((*size, 3), level, np.uint8), um_per_px)
    assert found.cells == ()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (120, 20, 90), (40, 40, 40)])
def test_a_field_of_nothing_but_stain_holds_nothing(colour: tuple[int, int, int]) -> None:
    assert find_cells(np.full((240, 320, 3), colour, np.uint8), 0.2).cells == ()


@pytest.mark.parametrize("spread", [1, 5, 20, 80])
def test_noise_is_not_thresholded_into_cells(spread: float) -> None:
    noise = np.random.default_rng(1).normal(190, spread, (480, 640, 3))
    assert find_cells(np.clip(noise, 0, 255).astype(np.uint8), 0.1).cells == ()


def test_a_grey_ramp_holds_nothing() -> None:
    ramp = np.repeat(np.linspace(90, 220, 640, dtype=np.uint8)[None, :, None], 480, axis=0).repeat(3, axis=2)
    assert find_cells(np.ascontiguousarray(ramp), 0.1).cells == ()


@pytest.mark.parametrize(("what", "colour"), [("dirt", (35, 35, 35)), ("loose blue dye", (190, 120, 40))])
def test_dirt_and_dye_among_red_cells_are_turned_down(what: str, colour: tuple[int, int, int]) -> None:
    bgr = render_field(4, FieldSpec(white_cells=(0, 0), platelets_per_1000_um2=0)).bgr.copy()
    cv2.circle(bgr, (300, 200), 50, colour, cv2.FILLED)
    found = find_cells(bgr, 0.1)
    assert found.cells == (), what
    assert [thing.reason for thing in found.rejected] == [Reason.NO_NUCLEUS], what


@settings(max_examples=60, deadline=None)
@given(
    frame=st.tuples(st.integers(16, 70), st.integers(16, 70)).flatmap(lambda size: arrays(np.uint8, (*size, 3))),
    grow=st.integers(1, 6),
    um_per_px=st.one_of(st.none(), st.floats(0.01, 2)),
)
def test_any_frame_gives_an_answer(frame: NDArray[np.uint8], grow: int, um_per_px: float | None) -> None:
    large = np.ascontiguousarray(frame.repeat(grow, axis=0).repeat(grow, axis=1))
    found = find_cells(large, um_per_px)
    for cell in found.cells:
        x, y, width, height = cell.box
        assert 0 <= x < x + width <= large.shape[1]
        assert 0 <= y < y + height <= large.shape[0]
        assert cell.mask.shape == (height, width)
        assert np.isfinite([cell.area_um2, cell.completeness, cell.focus, cell.nuclear_density]).all()
        assert cell.outline


def test_a_frame_without_any_green_gives_an_answer() -> None:
    frame = np.full((32, 32, 3), (166, 0, 128), np.uint8)
    frame[:4, :4] = 248, 0, 161  # what passes for a nucleus here has no green density to take a share of
    assert all(np.isfinite(cell.nuclear_density) for cell in find_cells(frame, 1.0).cells)


@pytest.mark.parametrize("frame", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 3), np.uint16)])
def test_grey_and_16_bit_frames_are_refused(frame: NDArray[np.generic]) -> None:
    with pytest.raises(BloodedgeError, match="8-bit"):
        find_cells(frame, 0.1)  # type: ignore[arg-type]


def test_white_cells_of_real_frames_are_found(real_data: Path) -> None:
    """Every sixth BCCD frame; the whole set is in benchmarks/finder.py."""
    annotated = matched = found_cells = 0
    for path in sorted((real_data / "bccd" / "Annotations").glob("*.xml"))[::6]:
        boxes = []
        for thing in ET.parse(path).iter("object"):
            corners = [int(thing.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")]
            if thing.findtext("name") == "WBC":
                boxes.append((corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]))
        cells = find_cells(read_image(real_data / "bccd" / "JPEGImages" / f"{path.stem}.jpg")).cells
        annotated, found_cells = annotated + len(boxes), found_cells + len(cells)
        matched += sum(any(iou(box, cell.box) >= 0.5 for cell in cells) for box in boxes)
    assert matched >= 0.95 * annotated
    assert matched >= 0.9 * found_cells


def test_fields_of_red_cells_alone_give_no_white_cells(real_data: Path) -> None:
    """All forty Chula frames; four hold a white cell (141, 171, 341 and 391, looked at by eye)."""
    with_cells = {
        path.stem for path in (real_data / "chula" / "Dataset").glob("*.jpg") if find_cells(read_image(path)).cells
    }
    assert with_cells <= {"141", "171", "341", "391"}
    assert len(with_cells) >= 3


def test_red_cells_of_real_frames_measure_what_a_ruler_says(real_data: Path) -> None:
    """Mean of width and height in pixels of one lone red cell each, read off a ruler drawn into the enlarged frame."""
    by_hand = {
        "bccd/JPEGImages/BloodImage_00107.jpg": 93,
        "bccd/JPEGImages/BloodImage_00261.jpg": 89,
        "bccd/JPEGImages/BloodImage_00372.jpg": 96,
        "chula/Dataset/101.jpg": 36,
        "chula/Dataset/161.jpg": 31,
        "chula/Dataset/301.jpg": 39,
        "chula/Dataset/391.jpg": 42,
    }
    for name, diameter_px in by_hand.items():
        assert estimate_um_per_px(read_image(real_data / name)) == pytest.approx(7.5 / diameter_px, rel=0.1), name


def test_white_cells_among_blue_red_cells_of_another_microscope_are_found(real_data: Path) -> None:
    """Leukaemia fields; their boxes are loose, and some cells at the border have none."""
    boxes = leukaemia_boxes(real_data)
    annotated = matched = wrong = 0
    for name, frame_boxes in boxes.items():
        bgr = read_image(real_data / "leukaemia_fields" / f"{name}.webp")
        found = find_cells(bgr).cells
        whole = [box for box in frame_boxes if not at_border(box, bgr.shape)]
        annotated += len(whole)
        matched += sum(any(iou(box, cell.box) >= 0.3 for cell in found) for box in whole)
        wrong += sum(
            not at_border(cell.box, bgr.shape) and not any(iou(box, cell.box) >= 0.3 for box in frame_boxes)
            for cell in found
        )
    assert matched >= 0.9 * annotated
    assert wrong <= 0.12 * matched


def leukaemia_boxes(data: Path) -> dict[str, list[tuple[int, int, int, int]]]:
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    for line in (data / "leukaemia_fields" / "boxes.csv").read_text().splitlines()[1:]:
        name, _, *sides = line.split(",")
        x, y, width, height = map(int, sides)
        boxes.setdefault(name, []).append((x, y, width, height))
    return boxes


def at_border(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    x, y, width, height = box
    return min(x, y) <= 3 or x + width >= shape[1] - 3 or y + height >= shape[0] - 3


@pytest.mark.parametrize("part", ["jiangxi", "cellavision"])
def test_single_cells_are_outlined_without_a_scale(real_data: Path, part: str) -> None:
    dices = []
    for path in sorted((real_data / "wbc_masks" / part).glob("*.webp"))[::6]:
        truth = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE) > 64
        best = 0.0
        for cell in find_cells(read_image(path)).cells:
            x, y, width, height = cell.box
            whole = np.zeros(truth.shape, bool)
            whole[y : y + height, x : x + width] = cell.mask > 0
            best = max(best, 2 * float((whole & truth).sum()) / float(whole.sum() + truth.sum()))
        dices.append(best)
    assert np.median(dices) > 0.9
    assert np.mean(np.array(dices) > 0.5) > 0.9


def test_settings_of_an_older_finder_are_read_and_ignored() -> None:
    assert FinderParameters.model_validate({"nuclear_share": 0.6, "lobe_gap_um": 2.0}) == FinderParameters()
