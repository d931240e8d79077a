"""The audit tells what in a data set would make a figure too good to be true."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from bloodedge.cli import main
from bloodedge.data.audit import audit
from bloodedge.data.dataset import Dataset, read_dataset

WriteCells = Callable[[Path, Iterable[str]], Path]
Draw = Callable[[int], NDArray[np.uint8]]


@pytest.fixture
def folder(tmp_path: Path, write_cells: WriteCells, draw: Draw) -> Path:
    """Three patients and two healthy; patients 1 and 2 share a picture, H1 and 3 another; one file is cut off."""
    names = [f"fold_0/all/UID_{s}_{n}_1_all.png" for s in (1, 2, 3) for n in range(4)]
    names += [f"fold_1/hem/UID_H{s}_{n}_1_hem.png" for s in (1, 2) for n in range(5)]
    root = write_cells(tmp_path / "data", names)
    repeated = {1: ["fold_0/all/UID_1_8_1_all.png", "fold_1/all/UID_2_8_1_all.bmp"]}
    repeated[2] = ["fold_0/all/UID_3_8_1_all.png", "fold_0/hem/UID_H1_8_1_hem.png"]
    for seed, places in repeated.items():
        for place in places:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / place), draw(seed))
    (root / "fold_0/all/UID_9_1_1_all.png").write_bytes(b"\x89PNG")
    return root


def test_the_audit_counts_and_names_every_fault(folder: Path) -> None:
    result = audit(read_dataset(folder))
    assert (result.cells, result.unique_cells) == (26, 23)
    assert result.classes == {"all": 15, "hem": 11}
    assert result.folds == {"fold_0": {"all": 14, "hem": 1}, "fold_1": {"all": 1, "hem": 10}}
    assert result.groups == {"1+2": ["1", "2"], "3+H1": ["3", "H1"], "H2": ["H2"]}
    assert (len(result.duplicates), result.across_subjects, result.across_folds, result.across_classes) == (2, 2, 1, 1)
    kinds = {tuple(same.subjects): same.bytes_identical for same in result.duplicates}
    assert kinds == {("1", "2"): False, ("3", "H1"): True}
    assert list(result.unreadable) == ["fold_0/all/UID_9_1_1_all.png"]
    people = {row.subject: (row.cells, row.all, row.hem) for row in result.subjects}
    assert people == {"1": (5, 5, 0), "2": (5, 5, 0), "3": (5, 5, 0), "H1": (6, 0, 6), "H2": (5, 0, 5)}


def test_people_who_share_photographed_cells_are_named(
    folder: Path, draw: Draw, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        source = folder / f"fold_1/hem/UID_H1_{number % 5}_1_hem.png"
        picture = cv2.imread(str(source)) if number < 4 else draw(40 + number)
        assert picture is not None
        picture[32, 32] ^= 1
        cv2.imwrite(str(folder / f"fold_0/hem/UID_H7_{number}_1_hem.png"), picture)
    [near] = [near for near in audit(read_dataset(folder)).near_duplicates if not near.by_chance]
    assert near.groups == ("3+H1", "H7")
    assert len(near.files) == 4
    with pytest.raises(SystemExit):
        main(["data", "audit", str(folder)])
    assert "3+H1 and H7 may be one person: 4 pairs" in " ".join(capsys.readouterr().out.split())


def test_the_signal_in_size_and_light_alone_is_its_auc(folder: Path) -> None:
    data = read_dataset(folder)
    result = audit(data)
    labels = [c.label for c in data.unique]
    areas, light = [], []
    for cell in data.unique:
        pixels = cv2.imread(str(cell.path))
        inside = pixels.max(axis=2) > 10
        areas.append(inside.sum())
        light.append(pixels[inside].mean())
    assert result.area_auc == pytest.approx(roc_auc_score(labels, areas))
    assert result.brightness_auc == pytest.approx(roc_auc_score(labels, light))


def test_one_class_has_no_auc(tmp_path: Path, write_cells: WriteCells) -> None:
    result = audit(read_dataset(write_cells(tmp_path, ["all/UID_1_1_1_all.png", "all/cell.png"])))
    assert result.area_auc is None
    assert result.without_subject == 1


def test_json_stands_alone_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["data", "audit", str(folder), "--json", "-"])
    assert exit_.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cells"] == 26
    assert told["groups"]["1+2"] == ["1", "2"]
    assert told["area_auc"] == pytest.approx(audit(read_dataset(folder)).area_auc)


def test_the_table_tells_people_the_same(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "audit.json"
    with pytest.raises(SystemExit) as exit_:
        main(["data", "audit", str(folder), "--json", str(target)])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for words in ("26 cells (23 unique)", "1 + 2", "3 + H1", "UID_9_1_1_all.png", "truncated", "cell area alone"):
        assert words in text
    assert json.loads(target.read_text())["unique_cells"] == 23


def test_a_missing_folder_is_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["data", "audit", str(tmp_path / "none")])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.slow
def test_the_real_data_set_has_the_shortcuts_that_its_readme_warns_of(real_cnmc: Dataset) -> None:
    result = audit(real_cnmc)
    folders = Counter(path.parent.name for path in real_cnmc.root.rglob("*.webp"))
    assert (result.cells, result.classes) == (folders.total(), folders)
    assert result.duplicates
    assert [near.groups for near in result.near_duplicates if not near.by_chance] == []
    apart = audit(real_cnmc.by_pictures_alone())
    assert ("43", "44") in {near.groups for near in apart.near_duplicates if not near.by_chance}
    assert result.area_auc is not None
    assert result.area_auc > 0.7
    areas = {f: {"all": [], "hem": []} for f in result.folds}
    for row in result.subjects:
        for fold in row.folds:
            areas[fold]["all" if row.all else "hem"].append(row.median_area_px)
    assert np.median(areas["fold_0"]["all"]) > 1.3 * np.median(areas["fold_0"]["hem"])
