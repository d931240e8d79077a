"""Cells that several boards exported, as one data set."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.data.exported_cells import ExportedCell, csv_text, read_cell, read_export
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_fleet.cells import merge


def cell(bench: str, number: int, label: str = "blast") -> ExportedCell:
    file = f"{label}/lymphocyte/{bench}-s1-c{number}.png"
    light = dict.fromkeys(("light_blue", "light_green", "light_red"), 220)
    density = dict.fromkeys(("density_blue", "density_green", "density_red"), 0.3)
    model = {"model": "m", "model_serial": 1, "model_label": "blast", "model_reason": ""}
    model |= {"model_blast_probability": 0.9, "model_kind": "", "model_kind_probability": None}
    place = {"slide": 1, "frame": 0, "cell": number, "x": 1, "y": 2, "width": 20, "height": 20, "um_per_px": 0.1}
    said = {"file": file, "label": label, "kind": "lymphocyte", "stage": "", "sampling": "random"}
    return ExportedCell(subject=f"{bench}-s1", bench=bench, **said, **place, **light, **density, **model)  # type: ignore[arg-type]


def write(folder: Path, *cells: ExportedCell) -> Path:
    for one in cells:
        for name, channels in ((one.file, 4), (f"images/{Path(one.file).name}", 3)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), np.full((20, 20, channels), one.cell, np.uint8))
    (folder / "cells.csv").write_text(csv_text(cells))
    return folder


def test_folders_and_archives_of_boards_become_one_and_the_last_answer_counts(tmp_path: Path) -> None:
    first = write(tmp_path / "first", cell("aaaaaa", 1), cell("aaaaaa", 2))
    later = write(tmp_path / "later", cell("aaaaaa", 2, "normal"), cell("bbbbbb", 1))
    with zipfile.ZipFile(tmp_path / "later.zip", "w") as archive:
        for path in later.rglob("*"):
            archive.write(path, path.relative_to(later))
    text = merge(tmp_path / "all", [first, tmp_path / "later.zip"])
    assert text.startswith("3 cells of 2 boards are in ")
    assert "1 of them came twice: the later export counts." in text
    rows = {(row.bench, row.cell): row for row in read_export(tmp_path / "all")}
    assert {key: row.label for key, row in rows.items()} == {
        ("aaaaaa", 1): "blast", ("aaaaaa", 2): "normal", ("bbbbbb", 1): "blast",
    }  # fmt: skip
    assert all(read_cell(tmp_path / "all" / row.file, 0.1).mask.any() for row in rows.values())
    assert not (tmp_path / "all/blast/lymphocyte/aaaaaa-s1-c2.png").exists()


def test_what_is_no_export_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    good = write(tmp_path / "good", cell("aaaaaa", 1))
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(UsageError, match="neither a folder nor a ZIP archive"):
        merge(tmp_path / "all", [good, tmp_path / "text.zip"])
    (good / "images" / "aaaaaa-s1-c1.png").unlink()
    with pytest.raises(BloodedgeError, match=r"lacks aaaaaa-s1-c1\.png"):
        merge(tmp_path / "all", [good])
    assert not (tmp_path / "all").exists()
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        merge(good, [good])
