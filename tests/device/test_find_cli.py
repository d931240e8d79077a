"""``bloodedge find`` as a user types it."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge import RESEARCH_USE
from bloodedge.cli import main
from bloodedge.finder import find_cells
from bloodedge.imaging import read_image
from bloodedge.simulation import render_field
from bloodedge.text import as_path


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """A rendered frame with white cells, 0.1 µm per pixel."""
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), render_field(0).bgr)
    return path


def run(arguments: Sequence[str | Path]) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["find", *map(str, arguments)])
    return int(exit_info.value.code or 0)


def test_json_names_every_cell_with_its_box_area_and_outline(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([frame, "--um-per-px", "0.1", "--json", "-"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["image"] == str(frame)
    truth = render_field(0).cells
    assert len(entry["cells"]) == len(truth)
    for cell in entry["cells"]:
        x, y, width, height = cell["box"]
        outline = np.array(cell["outline"])
        assert (outline.min(axis=0) == (x, y)).all()
        assert (outline.max(axis=0) == (x + width - 1, y + height - 1)).all()
        assert cell["area_um2"] == pytest.approx(cell["area_px"] * 0.01, abs=0.01)
        assert cell["touches_border"] in (True, False)
    for thing in entry["rejected"]:
        assert len(thing["box"]) == 4
        assert thing["reason"]


def test_json_goes_to_a_file_beside_the_table(frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "found.json"
    assert run([frame, "--json", target]) == 0
    assert json.loads(target.read_text())[0]["cells"]
    assert "white cells in 1 frames" in capsys.readouterr().out


def test_a_folder_stands_for_its_images(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frame.parent / "notes.txt").write_text("not an image")
    cv2.imwrite(str(frame.with_name("another.jpg")), render_field(1).bgr)
    assert run([frame.parent, "--json", "-"]) == 0
    names = [Path(entry["image"]).name for entry in json.loads(capsys.readouterr().out)]
    assert names == ["another.jpg", "field.png"]


def test_outlines_are_drawn_into_a_copy_of_each_frame(frame: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / "field.png"
    twin.write_bytes(frame.read_bytes())
    pictures = tmp_path / "pictures"
    assert run([frame, twin, "--outlines", pictures]) == 0
    assert sorted(path.name for path in pictures.iterdir()) == ["field-2.png", "field.png"]
    drawn, plain = read_image(pictures / "field.png"), read_image(frame)
    assert drawn.shape == plain.shape
    assert not np.array_equal(drawn, plain)


def test_outlines_never_take_the_place_of_the_frames(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = frame.read_bytes()
    assert run([frame, "--outlines", tmp_path / "." / "b" / ".."]) == 2
    assert "holds the images themselves" in capsys.readouterr().err
    assert frame.read_bytes() == before


def test_a_gallery_takes_no_pictures_place(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = frame.read_bytes()
    assert run([frame, "--gallery", frame]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert frame.read_bytes() == before


def test_unreadable_images_are_named_and_the_others_still_done(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated, grey, deep = (tmp_path / name for name in ("truncated.png", "grey.png", "deep.tif"))
    truncated.write_bytes(frame.read_bytes()[:2000])
    cv2.imwrite(str(grey), np.full((100, 100), 90, np.uint8))
    cv2.imwrite(str(deep), np.full((100, 100, 3), 0.5, np.float32))
    assert run([truncated, grey, deep, frame, "--json", "-"]) == 1
    output = capsys.readouterr()
    assert [entry["image"] for entry in json.loads(output.out)] == [str(frame)]
    lines = [line for line in output.err.splitlines() if line.startswith("bloodedge: ")]
    assert len(lines) == 3
    for path, line, what in zip((truncated, grey, deep), lines, ("truncated", "grey", "32 bits"), strict=True):
        assert path.name in line
        assert what in line


def test_every_page_of_a_tiff_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = tmp_path / "stack.tif"
    fields = [render_field(seed) for seed in range(3)]
    assert cv2.imwritemulti(str(stack), [field.bgr for field in fields])
    assert run([stack, "--um-per-px", "0.1", "--json", "-"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [Path(entry["image"]).name for entry in entries] == [f"stack-page{n}.tif" for n in (1, 2, 3)]
    assert [len(entry["cells"]) for entry in entries] == [len(field.cells) for field in fields]


def test_many_grey_images_are_refused_in_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((100, 100), 90, np.uint8))
    assert run([tmp_path]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 10
    assert "is a grey image" in lines[1]  # below the name of the step
    assert "25 more images cannot be read" in lines[-1]


def test_no_readable_image_at_all_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([tmp_path / "missing.png"]) == 2
    assert "missing.png" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run([empty]) == 2
    assert "has no images" in capsys.readouterr().err


def test_an_impossible_scale_is_refused(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([frame, "--um-per-px", "40"]) == 2
    assert "--um-per-px" in capsys.readouterr().err


class Page(HTMLParser):
    """What a page says, its tags, and the addresses it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.pictures, self.links, self.ids = "", [], [], [], set()
        self.feed(html)
        self.text = " ".join(self.text.split()).replace("\u202f", " ")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.tags.append((tag, named))
        self.ids |= {named["id"]} if "id" in named else set()
        if "src" in named:
            self.pictures.append(named["src"])
        if "href" in named:
            self.links.append(named["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


def gallery(arguments: Sequence[str | Path], target: Path, code: int = 0) -> Page:
    assert run([*arguments, "--gallery", target]) == code
    return Page(target.read_text())


def picture(address: str) -> NDArray[np.uint8]:
    kind, data = address.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR), np.uint8)


def test_the_gallery_shows_every_frame_cell_and_rejected_thing(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((120, 160, 3), 205, np.uint8))
    page = gallery([frame, tmp_path / "empty.png", "--um-per-px", "0.1", "--json", "-"], tmp_path / "g.html")
    entries = json.loads(capsys.readouterr().out)
    cells = [cell for entry in entries for cell in entry["cells"]]
    rejected = [thing for entry in entries for thing in entry["rejected"]]
    assert cells
    assert len(page.pictures) == len(entries) + 2 * len(cells) + len(rejected)
    for said in (RESEARCH_USE, "field.png", "empty.png", "No white cell found", "0.100 µm per px (as given)"):
        assert said in page.text, said
    for cell in cells:
        assert f"{cell['area_um2']:.0f} µm²" in page.text
    for reason in {thing["reason"] for thing in rejected}:
        assert reason.replace("_", " ") in page.text
    outlines = [named["points"] for tag, named in page.tags if tag == "polygon" and named["class"] == "line"]
    for cell in cells:
        assert " ".join(f"{x},{y}" for x, y in cell["outline"]) in outlines
    assert {link.removeprefix("#") for link in page.links} <= page.ids


def test_a_cells_cut_picture_is_black_outside_its_mask(frame: Path, tmp_path: Path) -> None:
    page = gallery([frame, "--um-per-px", "0.1"], tmp_path / "g.html")
    cells = find_cells(read_image(frame), 0.1).cells
    whole = next(number for number, cell in enumerate(cells) if not cell.touches_border)
    raw, cut = (picture(address) for address in page.pictures[1 + 2 * whole : 3 + 2 * whole])
    assert raw.shape == cut.shape
    for corner in (np.s_[:3, :3], np.s_[-3:, -3:]):
        assert raw[corner].min() > 60
        assert cut[corner].max() < 12
    middle = np.s_[cut.shape[0] // 2 - 3 : cut.shape[0] // 2 + 3, cut.shape[1] // 2 - 3 : cut.shape[1] // 2 + 3]
    assert np.abs(raw[middle].astype(int) - cut[middle]).mean() < 6


def test_the_gallery_needs_nothing_from_anywhere_and_no_script(frame: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "g.html"
    page = gallery([frame], target)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.pictures)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|https?://", target.read_text())


def test_the_gallerys_filter_counts_what_it_keeps(frame: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    x, _, width, _ = next(cell.box for cell in render_field(0).cells if not cell.cut_by_border)
    cv2.imwrite(str(cut), render_field(0).bgr[:, x + width // 2 :])
    page = gallery([frame, cut, "--um-per-px", "0.1"], tmp_path / "g.html")
    kinds = [named["class"] for tag, named in page.tags if tag == "li" and "thing" in (named.get("class") or "")]
    choices = [i.removeprefix("only-") for i in page.ids if i.startswith("only-")]
    assert {"all", "whole", "cut"} <= set(choices)
    assert sum("is-cut" in kind for kind in kinds) >= 1
    for kind in {kind.rsplit("is-", 1)[1] for kind in kinds}:
        number = sum(f"is-{kind}" in other for other in kinds)
        name = {"whole": "whole cells", "cut": "cells cut by the border"}.get(kind, kind.replace("_", " "))
        assert f"{name} {number} " in page.text, kind
        assert f"#only-{kind}:checked" in (tmp_path / "g.html").read_text()


def test_the_gallery_says_what_the_gate_turns_away(tmp_path: Path) -> None:
    dark = tmp_path / "dark.png"
    cv2.imwrite(str(dark), render_field(0).bgr // 6)
    page = gallery([dark], tmp_path / "g.html")
    assert "Turned away by the gate: too dark." in page.text
    assert "only-gate-too_dark" in page.ids


def test_a_hostile_file_name_and_an_unreadable_image_are_only_text_in_the_gallery(frame: Path, tmp_path: Path) -> None:
    hostile = tmp_path / '<img src=x onerror="alert(1)">&.png'
    hostile.write_bytes(frame.read_bytes())
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"nothing")
    page = gallery([hostile, broken], tmp_path / "g.html", code=1)
    assert hostile.name in page.text
    assert f"{broken} is truncated or not an image" in page.text
    assert not any("onerror" in named for _, named in page.tags)
    assert all(address.startswith("data:") for address in page.pictures)


def test_a_gallery_that_cannot_be_written_is_said_in_a_sentence(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run([frame, "--gallery", tmp_path / "file" / "g.html"]) == 1
    error = capsys.readouterr().err
    assert "Could not write g.html" in error
    assert "Traceback" not in error


def test_frames_whose_names_are_not_utf8_are_found_in_and_told_on_any_output(frame: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"Pr\xe4parat.png")
    frame.rename(odd)
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    page, pictures = tmp_path / "page.html", tmp_path / "outlines"
    command = [sys.executable, "-m", "bloodedge", "find", odd, "--gallery", page, "--outlines", pictures]
    done = subprocess.run(
        [*command, "--json", tmp_path / "found.json"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rb"Pr\xe4parat.png" in done.stdout
    (entry,) = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert as_path(entry["image"]) == odd
    assert entry["cells"]
    assert r"Pr\xe4parat.png" in page.read_text("utf-8")
    assert len(list(pictures.iterdir())) == 1
