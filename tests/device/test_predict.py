"""``bloodedge predict`` as a user types it."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import bloodedge_device.kinds
from bloodedge.cli import main
from bloodedge.decision.kinds import Kind, KindCall
from bloodedge.imaging import CNMC_UM_PER_PX, cell_on_black
from bloodedge.simulation import Field, FieldSpec, render_cell, render_field
from bloodedge_device.kinds import KindInput
from bloodedge_device.predict.page import gallery_file
from bloodedge_device.predict.pictures import Picture
from bloodedge_device.predict.predictor import CellPrediction, Prediction
from support.films import film

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
LARGE_UM2 = 130.0
"""The stand-in for the kind network calls larger cells segmented neutrophils, and all others lymphocytes."""
CELL_KEYS = {"box", "outline", "kind", "stage", "kind_probability", "blast_probability", "decision", "reason"}


def kinds(cells: Sequence[KindInput]) -> list[KindCall]:
    neutrophil = KindCall(Kind.NEUTROPHIL, 0.81, asked=False, stage="segmented")
    lymphocyte = KindCall(Kind.LYMPHOCYTE, 0.93, asked=True)
    areas = [np.count_nonzero(cell.mask) * cell.um_per_px**2 for cell in cells]
    return [neutrophil if area > LARGE_UM2 else lymphocyte for area in areas]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloodedge_device.kinds, "default_kinds", lambda: kinds)


@pytest.fixture
def field() -> Field:
    """640x480 at 0.1 µm per pixel."""
    return render_field(0)


@pytest.fixture
def frame(tmp_path: Path, field: Field) -> Path:
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), field.bgr)
    return path


def run(*arguments: str | Path, bundle: Path = BUNDLE) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["predict", str(bundle), *map(str, arguments)])
    return int(exit_info.value.code or 0)


Told = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs the command and gives its JSON."""

    def predicted(*arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
        assert run(*arguments, "--json", "-") == code
        entries: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return entries

    return predicted


def black(path: Path, seed: int, label: str = "blast") -> Path:
    """A cell cut out onto black, as C-NMC has them."""
    cell = render_cell(label, seed)
    cv2.imwrite(str(path), cv2.bitwise_and(cell.bgr, cell.bgr, mask=cell.mask))
    return path


def crop_of(field: Field, number: int, cut_px: int = 0) -> np.ndarray:
    """A whole cell with its surroundings, 40 pixels on each side but the left, where as many pixels are cut off."""
    x, y, width, height = [cell for cell in field.cells if not cell.cut_by_border][number].box
    rows, columns = field.bgr.shape[:2]
    left = x + cut_px if cut_px else max(0, x - 40)
    return field.bgr[max(0, y - 40) : min(rows, y + height + 40), left : min(columns, x + width + 40 - cut_px)]


def test_a_field_gives_its_cells_in_the_promised_form(frame: Path, field: Field, told: Told) -> None:
    (entry,) = told(frame, "--um-per-px", "0.1")
    assert (entry["source"], entry["um_per_px"], entry["shows"]) == (str(frame), 0.1, "field")
    assert len(entry["cells"]) == len(field.cells)
    assert "problem" not in entry
    for cell in entry["cells"]:
        assert cell.keys() >= CELL_KEYS
        x, y, width, height = cell["box"]
        outline = np.array(cell["outline"])
        assert (outline.min(axis=0) == (x, y)).all()
        assert (outline.max(axis=0) == (x + width - 1, y + height - 1)).all()
        if cell["touches_border"]:
            assert (cell["decision"], cell["reason"], cell["kind"]) == ("uncertain", "cut_by_border", None)
        elif cell["area_um2"] > LARGE_UM2:
            assert (cell["decision"], cell["kind"], cell["stage"]) == ("other", "neutrophil", "segmented")
            assert (cell["kind_probability"], cell["blast_probability"]) == (0.81, None)
        else:
            assert (cell["kind"], cell["stage"]) == ("lymphocyte", None)
            assert 0 <= cell["blast_probability"] <= 1
            assert cell["decision"] in {"blast", "normal", "uncertain"}
    assert all(other.keys() == {"box", "reason"} for other in entry["rejected"])


def test_without_a_scale_a_fields_red_cells_give_it(frame: Path, told: Told) -> None:
    (entry,) = told(frame)
    assert entry["um_per_px"] == pytest.approx(0.1, rel=0.1)


def test_a_cell_on_black_is_judged_as_it_is(tmp_path: Path, told: Told) -> None:
    path = black(tmp_path / "cell.png", 4)
    (entry,) = told(path)
    assert (entry["shows"], entry["um_per_px"], entry["quality"]) == ("cell", CNMC_UM_PER_PX, None)
    (cell,) = entry["cells"]
    assert tuple(cell["box"]) == cv2.boundingRect(cell_on_black(cv2.imread(str(path))).mask)
    assert cell["kind"] in {"lymphocyte", "neutrophil"}
    (coarser,) = told(path, "--um-per-px", "0.1")
    assert coarser["cells"][0]["area_um2"] == pytest.approx(cell["area_um2"] * (0.1 / CNMC_UM_PER_PX) ** 2, rel=1e-3)


def test_a_round_field_on_black_is_no_cell_on_black(tmp_path: Path, told: Told) -> None:
    """Eyepieces show one."""
    spec = FieldSpec(width=640, height=640)
    disc = np.zeros((640, 640), np.uint8)
    cv2.circle(disc, (320, 320), 310, 255, -1)
    bgr = render_field(0, spec).bgr
    cv2.imwrite(str(tmp_path / "eyepiece.png"), cv2.bitwise_and(bgr, bgr, mask=disc))
    (entry,) = told(tmp_path / "eyepiece.png")
    assert entry["shows"] == "field"


def test_the_cell_in_the_middle_of_a_crop_is_judged_though_the_border_cuts_it(
    tmp_path: Path, field: Field, told: Told
) -> None:
    whole, tight = tmp_path / "whole.png", tmp_path / "tight.png"
    cv2.imwrite(str(whole), crop_of(field, 0))
    cv2.imwrite(str(tight), crop_of(field, 0, 12))
    entries = told(whole, tight, "--um-per-px", "0.1")
    assert [entry["shows"] for entry in entries] == ["crop", "crop"]
    middles = [max(entry["cells"], key=lambda cell: cell["area_um2"]) for entry in entries]
    assert [cell["touches_border"] for cell in middles] == [False, True]
    assert all(cell["kind"] for cell in middles)
    assert all(cell["reason"] != "cut_by_border" for cell in middles)


def test_a_cell_at_the_border_of_a_field_is_uncertain(tmp_path: Path, field: Field, told: Told) -> None:
    x, _, width, _ = next(cell.box for cell in field.cells if not cell.cut_by_border)
    cv2.imwrite(str(tmp_path / "cut.png"), np.ascontiguousarray(field.bgr[:, x + width // 2 :]))
    (entry,) = told(tmp_path / "cut.png", "--um-per-px", "0.1")
    assert entry["shows"] == "field"
    assert "cut_by_border" in {cell["reason"] for cell in entry["cells"]}


def test_what_the_frame_gate_says_of_a_field_is_told_and_changes_nothing(tmp_path: Path, told: Told) -> None:
    dark, bright = tmp_path / "dark.png", tmp_path / "right.png"
    cv2.imwrite(str(dark), render_field(0).bgr // 5)
    cv2.imwrite(str(bright), render_field(0).bgr)
    entries = told(dark, bright, "--um-per-px", "0.1")
    assert [entry["quality"] for entry in entries] == ["too_dark", None]
    assert entries[0]["cells"]


def test_folders_are_searched_to_their_end_in_the_order_of_paths(frame: Path, tmp_path: Path, told: Told) -> None:
    for name in ("b/a/2.png", "b/1.png", "a.png", ".hidden/x.png", "b/._1.png", "__MACOSX/b/1.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(frame.read_bytes())
    names = ["a.png", "b/1.png", "b/a/2.png", "field.png"]
    assert [entry["source"] for entry in told(tmp_path)] == [str(tmp_path / name) for name in names]


def test_more_pictures_than_are_read_at_once_come_in_order(tmp_path: Path, told: Told) -> None:
    for number in range(18):
        black(tmp_path / f"{number:02}.png", number)
    entries = told(tmp_path)
    assert [Path(entry["source"]).name for entry in entries] == [f"{number:02}.png" for number in range(18)]
    assert len({str(entry["cells"][0]["outline"]) for entry in entries}) == 18


def test_pages_of_a_tiff_and_frames_of_a_video_are_pictures(tmp_path: Path, frame: Path, told: Told) -> None:
    stack, video = tmp_path / "b.tif", film(tmp_path / "c.avi", 3)
    assert cv2.imwritemulti(str(stack), [render_field(seed).bgr for seed in range(2)])
    entries = told(frame, stack, video, frame)
    parts = [(Path(entry["source"]).name, entry["page"], entry["frame"]) for entry in entries]
    assert parts == [
        ("field.png", None, None), ("b.tif", 1, None), ("b.tif", 2, None),
        ("c.avi", None, 0), ("c.avi", None, 1), ("c.avi", None, 2),
    ]  # fmt: skip


def test_a_videos_scale_is_measured_over_its_frames(tmp_path: Path, told: Told) -> None:
    entries = told(film(tmp_path / "film.avi", 3))
    scales = [entry["um_per_px"] for entry in entries]
    alone = []
    for seed in range(3):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), render_field(seed, FieldSpec(width=320, height=240)).bgr)
        alone += told(tmp_path / f"{seed}.png")
    spread = np.ptp([entry["um_per_px"] for entry in alone])
    assert abs(scales[-1] - scales[-2]) <= spread


def test_unreadable_pictures_have_an_entry_and_the_others_are_still_done(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, grey, slide, video = (tmp_path / name for name in ("cut.png", "grey.png", "slide.svs", "broken.mp4"))
    cut.write_bytes(frame.read_bytes()[:2000])
    cv2.imwrite(str(grey), np.full((100, 100), 90, np.uint8))
    for path in (slide, video):
        path.write_bytes(b"nothing that can be read")
    missing = tmp_path / "missing.png"
    assert run(cut, grey, slide, video, missing, frame, "--json", "-") == 0
    output = capsys.readouterr()
    *broken, good = json.loads(output.out)
    assert good["cells"]
    words = ("truncated", "grey", "SVS file", "cannot be read as a video", "cannot be read (No such file")
    lines = [line for line in output.err.splitlines() if line.startswith("bloodedge: ")]
    for path, entry, line, word in zip((cut, grey, slide, video, missing), broken, lines, words, strict=True):
        assert entry["source"] == str(path)
        assert (entry["cells"], entry["rejected"], entry["um_per_px"]) == ([], [], None)
        assert word in entry["problem"]
        assert path.name in line
        assert word in line


def test_a_folder_of_unreadable_pictures_fails(tmp_path: Path, told: Told) -> None:
    for name in ("1.png", "2.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    assert len(told(tmp_path, code=1)) == 2


def test_an_empty_folder_a_file_that_is_no_bundle_and_a_missing_engine_are_wrong_usage(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 2
    assert "has no picture or video" in capsys.readouterr().err
    for bundle in (frame, tmp_path / "no.bundle"):
        assert run(frame, bundle=bundle) == 2
        assert "bundle" in capsys.readouterr().err
    assert run(frame, "--engine", "onnx") == 2
    assert "onnx" in capsys.readouterr().err


def test_outputs_take_no_pictures_place_and_each_has_its_own(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = frame.read_bytes()
    assert run(frame, "--json", frame) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert frame.read_bytes() == before
    assert run(frame, "--json", "-", "--csv", "-") == 2
    assert run(frame, "--json", tmp_path / "x", "--csv", tmp_path / "." / "x") == 2
    assert not (tmp_path / "x").exists()


def test_an_output_that_cannot_be_written_is_said_in_a_sentence(
    frame: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(frame, "--json", frame / "x.json") == 1
    error = capsys.readouterr().err
    assert "Could not write x.json" in error
    assert "Traceback" not in error


def test_csv_has_a_row_for_each_cell_and_for_each_picture_without_one(
    frame: Path, tmp_path: Path, field: Field, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((480, 640, 3), 205, np.uint8))
    (tmp_path / "=broken.png").write_bytes(b"nothing")
    monkeypatch.chdir(frame.parent)
    assert run("empty.png", "=broken.png", frame.name, "--um-per-px", "0.1", "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["source"] for row in rows] == ["empty.png", "'=broken.png", *["field.png"] * len(field.cells)]
    assert rows[0]["x"] == rows[0]["problem"] == ""
    assert "truncated" in rows[1]["problem"]
    for row in rows[2:]:
        assert float(row["width"]) > 20
        assert row["decision"] in {"blast", "normal", "other", "uncertain"}


def test_geojson_has_a_closed_polygon_in_pixels_for_each_cell(frame: Path, tmp_path: Path, field: Field) -> None:
    target = tmp_path / "new" / "cells.geojson"
    assert run(frame, "--um-per-px", "0.1", "--geojson", target, "--json", tmp_path / "cells.json") == 0
    collection = json.loads(target.read_text())
    (entry,) = json.loads((tmp_path / "cells.json").read_text())
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == len(field.cells)
    for feature, cell in zip(collection["features"], entry["cells"], strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")
        assert ring == [*cell["outline"], cell["outline"][0]]
        properties = feature["properties"]
        assert (properties["objectType"], properties["source"]) == ("detection", str(frame))
        name = properties["classification"]["name"]
        assert name == {"other": "neutrophil"}.get(cell["decision"]) or name.endswith(cell["decision"])
        assert len(properties["classification"]["color"]) == 3
        measured = properties["measurements"]
        assert measured["Area µm^2"] == pytest.approx(cell["area_um2"], abs=0.01)
        assert measured.get("Blast probability") == cell["blast_probability"]
        assert all(isinstance(value, float) for value in measured.values())


def test_the_table_fits_80_columns_and_ends_with_counts(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(frame, black(tmp_path / "UID_12_3_4_all.png", 3)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "UID_12_3_4_all.png" in "".join(lines)
    assert any("cells in 2 pictures" in line for line in lines)
    assert any(line.startswith("Kinds: ") and "lymphocyte" in line for line in lines)
    assert any(line.startswith("Decisions: ") for line in lines)


def test_real_crops_of_one_cell_are_judged_where_it_lies(real_data: Path, told: Told) -> None:
    pictures = [
        path for label in ("LY", "MO", "SNE") for path in sorted((real_data / "pbc/images").glob(f"{label}*"))[:3]
    ]
    entries = told(*pictures)
    judged = 0
    for entry in entries:
        assert entry["shows"] == "crop"
        assert entry["um_per_px"] == pytest.approx(0.1, rel=0.25)
        for x, y, width, height in (cell["box"] for cell in entry["cells"] if cell["kind"]):
            judged += x < 180 < x + width and y < 181 < y + height
    assert judged >= len(pictures) - 1


class Page(HTMLParser):
    """A page's text, its pictures, and its tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(html)
        self.text = " ".join(self.text.split()).replace("\u202f", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, tag: str, word: str) -> int:
        return sum(name == tag and word in named.get("class", "").split() for name, named in self.tags)


def test_the_gallery_shows_each_cell_with_its_outline_kind_and_decision(frame: Path, tmp_path: Path) -> None:
    folder, target, cells = tmp_path / "cells", tmp_path / "new" / "page.html", tmp_path / "cells.json"
    folder.mkdir()
    for number in range(3):
        black(folder / f"{number}.png", number)
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"nothing")
    assert run(frame, folder, broken, "--um-per-px", "0.1", "--gallery", target, "--json", cells) == 0
    page = Page(target.read_text("utf-8"))
    entries = json.loads(cells.read_text())
    told = [cell for entry in entries for cell in entry["cells"]]
    outlines = [named["points"] for tag, named in page.tags if tag == "polygon"]
    for cell in told:
        assert " ".join(f"{x},{y}" for x, y in cell["outline"]) in outlines
    for decision in {cell["decision"] for cell in told}:
        number = sum(cell["decision"] == decision for cell in told)
        assert page.having("li", f"is-{decision}") == number
        assert f"{decision} {number} " in page.text
    for kind in {cell["kind"] for cell in told if cell["kind"]}:
        assert page.having("li", f"is-kind-{kind}") == sum(cell["kind"] == kind for cell in told)
    assert page.having("section", "group") == 2  # the field, and the folder of small pictures
    assert f"{broken} is truncated or not an image" in page.text
    pictures = [named["src"] for tag, named in page.tags if tag == "img"]
    assert len(pictures) == len(told) + 1
    assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
    assert not {"script", "link", "iframe", "b>broken.png"} & {tag for tag, _ in page.tags}


def test_two_thousand_cells_make_a_page_that_a_browser_can_open(tmp_path: Path) -> None:
    outline = tuple((20 + n, 20) for n in range(60))
    cell = CellPrediction((20, 20, 60, 60), outline, 90.0, touches_border=False, decision="blast")
    pixels = np.random.default_rng(0).integers(0, 255, (450, 450, 3), dtype=np.uint8)  # compresses worse than a cell
    with gallery_file(str(tmp_path / "page.html")) as add:
        for number in range(2000):
            add(Prediction(Picture(tmp_path / f"{number}.png", pixels), "cell", 0.1, (cell,)))
    assert (tmp_path / "page.html").stat().st_size < 60e6
    assert Page((tmp_path / "page.html").read_text()).having("li", "is-blast") == 2000


def test_the_finders_gallery_shows_kinds(frame: Path, tmp_path: Path, field: Field) -> None:
    with pytest.raises(SystemExit):
        main(["find", str(frame), "--um-per-px", "0.1", "--gallery", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text())
    whole = sum(not cell.cut_by_border for cell in field.cells)
    assert page.having("li", "is-lymphocyte") + page.having("li", "is-neutrophil") == whole
    assert "lymphocyte" in page.text


def test_a_gallery_takes_no_pictures_place(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(frame, "--gallery", frame) == 2
    assert "must end in .html" in capsys.readouterr().err
