"""``bloodedge find`` as a user types it."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.cli import main
from bloodedge.imaging import read_image
from bloodedge.simulation import render_field


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


def test_unreadable_images_are_named_and_the_others_still_done(
    frame: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated, grey, deep = (tmp_path / name for name in ("truncated.png", "grey.png", "deep.png"))
    truncated.write_bytes(frame.read_bytes()[:2000])
    cv2.imwrite(str(grey), np.full((100, 100), 90, np.uint8))
    cv2.imwrite(str(deep), np.full((100, 100, 3), 9000, np.uint16))
    assert run([truncated, grey, deep, frame, "--json", "-"]) == 1
    output = capsys.readouterr()
    assert [entry["image"] for entry in json.loads(output.out)] == [str(frame)]
    lines = output.err.splitlines()
    assert len(lines) == 3
    for path, line, what in zip((truncated, grey, deep), lines, ("truncated", "grey", "16 bits"), strict=True):
        assert path.name in line
        assert what in line


def test_no_readable_image_at_all_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([tmp_path / "missing.png"]) == 2
    assert "missing.png" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run([empty]) == 2
    assert "holds no images" in capsys.readouterr().err


def test_an_impossible_scale_is_refused(frame: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([frame, "--um-per-px", "40"]) == 2
    assert "--um-per-px" in capsys.readouterr().err
