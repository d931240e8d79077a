"""Data as people have them: classes, people and scales from folders, tables, names and options."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.cli import cli
from bloodedge.data.audit import audit
from bloodedge.data.dataset import Dataset, read_dataset
from bloodedge.errors import UsageError
from bloodedge.evaluation.reading import read_for
from bloodedge.imaging import CNMC_UM_PER_PX, ImagingSpec, network_input
from bloodedge.simulation import FieldSpec, render_field

WriteCells = Callable[[Path, Iterable[str]], Path]
Draw = Callable[[int], NDArray[np.uint8]]
UM_PER_PX = 0.11


def told(data: Dataset) -> dict[str, tuple[str, int]]:
    """Subject and class by name."""
    return {cell.name: (cell.subject, cell.label) for cell in data.cells}


def test_folders_of_any_names_are_classes(tmp_path: Path, write_cells: WriteCells) -> None:
    names = ["Benign/P1_a.png", "Early/P2_a.png", "Pre/deep/er/P3_a.png", "Other/P4_a.png"]
    root = write_cells(tmp_path, [*names, "__MACOSX/Benign/P1_b.png", "Benign/._P1_a.png"])
    (root / "Benign" / "Thumbs.db").write_bytes(b"x")
    layout = DataLayout(classes={"benign": "normal", "early": "blast", "pre": "blast"}, subject=r"^(\w+?)_")
    data = read_dataset(root, layout=layout)
    assert told(data) == dict(zip(names, [("P1", 0), ("P2", 1), ("P3", 1)], strict=False))
    assert data.passed_over == {
        "pictures in Other/, a folder of no class": 1,
        "hidden files and files of the system, such as __MACOSX": 2,
    }


def test_the_table_of_cnmcs_preliminary_test_is_found_and_read(tmp_path: Path, write_cells: WriteCells) -> None:
    name = "C-NMC_test_prelim_phase_data"
    write_cells(tmp_path / name, ["1.bmp", "2.bmp", "3.bmp"])
    rows = ["Patient_ID,new_names,labels", "UID_57_29_1_all.bmp,1.bmp,1", "UID_H48_1_2_hem.bmp,2.bmp,0"]
    (tmp_path / f"{name}_labels.csv").write_text("\n".join(rows))
    for root, inside in ((tmp_path, f"{name}/"), (tmp_path / name, "")):
        data = read_dataset(root)
        assert told(data) == {f"{inside}1.bmp": ("57", 1), f"{inside}2.bmp": ("H48", 0)}
        assert list(data.passed_over.values()) == [1]
        again = read_dataset(root, layout=data.layout)
        assert again == data
    assert data.layout.subject_column == "Patient_ID"


def test_cells_that_left_a_device_are_read_as_it_wrote_them(tmp_path: Path, write_cells: WriteCells) -> None:
    names = ["blast/lymphocyte/b-s1-c1.png", "other/monocyte/b-s1-c2.png", "images/b-s1-c1.png"]
    root = write_cells(tmp_path, names)
    table(root, f"file,class,subject,um_per_px\n{names[0]},blast,b-s1,0.2\n{names[1]},other,b-s1,0.2\n", "cells.csv")
    data = read_dataset(root)
    assert told(data) == {names[0]: ("B-S1", 1)}
    assert data.cells[0].um_per_px == 0.2
    assert data.passed_over == {
        "pictures of the label other, which is no class": 1,
        "pictures that cells.csv does not name": 1,
    }


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_table_gives_classes_people_and_scales(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["a/1.png", "b/1.png", "b/2.png", "b/3.png"])
    table(
        root,
        "\ufeffpicture;diagnosis;who;scale\na\\1;ALL-L2;x;0,1\nb/1.png;healthy;y;\n2;healthy;y;0.2\n3.png;CML;z;\n",
    )
    layout = DataLayout(
        labels="labels.csv",
        image_column="Picture",
        label_column="diagnosis",
        subject_column="who",
        um_per_px_column="scale",
        classes={"all-l2": "blast", "healthy": "normal"},
        um_per_px=0.3,
    )
    data = read_dataset(root, layout=layout)
    assert told(data) == {"a/1.png": ("X", 1), "b/1.png": ("Y", 0), "b/2.png": ("Y", 0)}
    assert [cell.um_per_px for cell in data.cells] == [0.1, 0.3, 0.2]
    assert data.passed_over == {"pictures of the label cml, which is no class": 1}
    assert [cell.read().um_per_px for cell in data.cells] == [0.1, 0.3, 0.2]


LABELS = "labels.csv"
HEAD = "image,label,subject\n"


@pytest.mark.parametrize(
    ("text", "layout", "words"),
    [
        (HEAD, {}, "no rows below its header"),
        (HEAD + "1.png,blast\n", {}, "line 2, has 2 of 3 columns"),
        (
            HEAD + "1.png,blast,a\n",
            {"label_column": "kind"},
            "no column kind; its columns are: image, label, subject",
        ),
        ("x,y\n1.png,blast\n", {}, "which column names the pictures: give --image-column, one of: x, y"),
        (HEAD + "1.png,blast,a\n1.png,normal,a\n", {}, "lines 2 and 3 say different things of 1.png"),
        (HEAD + "1.png,blast,a\n2.png,sick,a\n", {}, "has the labels blast, sick, and sick is no class"),
        (HEAD + "1.png,blast,a\n", {"classes": {"sick": "blast"}}, "has no label sick, .* there are: blast"),
        (HEAD + "9.png,blast,a\n", {}, "None of the 1 pictures that .* names"),
        (HEAD + "1.png,blast,\n", {}, "The column subject gives no subject for 1 of the 1"),
        (HEAD + "same.png,blast,a\n", {}, "same.png may be a/same.png and b/same.png"),
        ("image,label,um_per_px\n1.png,blast,66 nm\n", {}, 'line 2: "66 nm" is no scale'),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence(
    text: str, layout: dict[str, Any], words: str, tmp_path: Path, write_cells: WriteCells
) -> None:
    root = table(write_cells(tmp_path, ["1.png", "2.png", "a/same.png", "b/same.png"]), text)
    with pytest.raises(UsageError, match=words):
        read_dataset(root, layout=DataLayout(labels=LABELS, **layout))


def test_pictures_that_only_the_table_has_are_listed(tmp_path: Path, write_cells: WriteCells) -> None:
    root = table(write_cells(tmp_path, ["1.png"]), HEAD + "1.png,1,a\n2.png,0,b\n")
    data = read_dataset(root, layout=DataLayout(labels=LABELS))
    assert data.unreadable == {"2.png": "labels.csv names it in line 3, but it is not there."}


def test_folders_without_a_known_name_are_listed_with_what_to_say(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["Benign/1.png", "Early/1.png"])
    with pytest.raises(UsageError, match=r"are Benign, Early: .* --classes Benign=normal,Early=blast"):
        read_dataset(root)
    with pytest.raises(UsageError, match=r"has no folder pro, which --classes names; there are: Benign, Early"):
        read_dataset(root, layout=DataLayout(classes={"benign": "normal", "pro": "blast"}))


def test_names_that_the_subject_rule_does_not_fit_are_listed(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["all/P1_1.png", *(f"hem/{n}.png" for n in range(5))])
    with pytest.raises(UsageError, match=r"no subject for 5 of the 6 .*: hem/0.png, hem/1.png, hem/2.png and 2 more"):
        read_dataset(root, layout=DataLayout(subject=r"^(\w+)_"))
    with pytest.raises(UsageError, match="needs a group in brackets"):
        read_dataset(root, layout=DataLayout(subject="P1"))


def test_every_page_of_a_tiff_is_a_cell(tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "hem").mkdir()
    cv2.imwritemulti(str(tmp_path / "all" / "P1.tif"), [draw(n).astype(np.uint16) * 257 for n in range(3)])
    cv2.imwrite(str(tmp_path / "hem" / "P2.tif"), draw(3))
    data = read_dataset(tmp_path, layout=DataLayout(subject=r"(P\d)"))
    assert [cell.name for cell in data.cells] == ["all/P1.tif#1", "all/P1.tif#2", "all/P1.tif#3", "hem/P2.tif"]
    assert len(data.unique) == 4
    assert all(np.array_equal(cell.read().bgr, draw(n)) for n, cell in enumerate(data.cells))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops around simulated white cells, red cells and all, of two people."""
    root = tmp_path_factory.mktemp("crops")
    for number, label in enumerate(("normal", "blast")):
        (root / label).mkdir()
        field = render_field(number, FieldSpec(um_per_px=UM_PER_PX, white_cells=(3, 3)))
        for index, cell in enumerate(field.cells):
            x, y = cell.box[0] + cell.box[2] // 2, cell.box[1] + cell.box[3] // 2
            crop = field.bgr[max(0, y - 110) : y + 110, max(0, x - 110) : x + 110]
            if crop.shape == (220, 220, 3):
                cv2.imwrite(str(root / label / f"P{number}_{index}.png"), crop)
    return root


def test_a_cell_among_others_is_cut_out_at_its_scale(crops: Path) -> None:
    with pytest.raises(UsageError, match=r"with --um-per-px X .*: bloodedge find IMAGE"):
        read_dataset(crops)
    data = read_dataset(crops, layout=DataLayout(um_per_px=UM_PER_PX, subject=r"^(P\d)_"))
    assert data.cells
    assert all(cell.cut for cell in data.cells)
    assert Counter(cell.label for cell in data.cells).keys() == {0, 1}
    cell = data.cells[0].read()
    assert cell.area_px == data.cells[0].area_px
    assert 6 < 2 * np.sqrt(cell.area_um2 / np.pi) < 25
    assert cell.light is not None
    assert min(cell.light) > cell.bgr[cell.mask > 0].mean()  # the field is brighter than the cell
    assert network_input(cell, ImagingSpec(size_px=64)).any()
    result = audit(data)
    assert result.cut_by_finder == len(data.cells)
    assert result.scales == {f"{UM_PER_PX:g}": len(data.cells)}
    assert not result.cautions


def test_a_field_or_an_empty_crop_is_listed_with_the_reason(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    some = next((crops / "normal").iterdir())
    (tmp_path / "all" / "good.png").write_bytes(some.read_bytes())
    cv2.imwrite(str(tmp_path / "all" / "field.png"), render_field(3, FieldSpec(um_per_px=0.2, white_cells=(8, 8))).bgr)
    data = read_dataset(tmp_path, layout=DataLayout(um_per_px=UM_PER_PX))
    assert [cell.name for cell in data.cells] == ["all/good.png"]
    assert "white cell" in data.unreadable["all/field.png"]


def test_a_scale_changes_the_fingerprint_and_the_networks_input(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["all/1.png", "hem/2.png"])
    plain, scaled = read_dataset(root), read_dataset(root, layout=DataLayout(um_per_px=0.12))
    assert plain.fingerprint != scaled.fingerprint
    assert plain.cells[0].pixels_digest == scaled.cells[0].pixels_digest
    assert plain.cells[0].input_digest != scaled.cells[0].input_digest
    assert (plain.cells[0].um_per_px, plain.cells[0].scale_known) == (CNMC_UM_PER_PX, False)


def test_cells_of_another_scale_or_of_two_are_noticed(tmp_path: Path, draw: Draw) -> None:
    for name, factor in (("all", 1), ("hem", 4)):
        (tmp_path / name).mkdir()
        for number in range(6):
            picture = cv2.resize(draw(number), None, fx=factor, fy=factor)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), picture)
    [mixed] = audit(read_dataset(tmp_path)).cautions
    assert "Cells of hem are 4" in mixed
    assert "if two scales are mixed" in mixed
    layout = DataLayout(classes={"all": "blast"})
    [small] = audit(read_dataset(tmp_path, layout=layout)).cautions
    assert "give the scale with --um-per-px" in small
    assert not audit(read_dataset(tmp_path, layout=layout.model_copy(update={"um_per_px": 0.3}))).cautions


def test_the_audit_command_shows_what_the_options_yield(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path / "data", ["Benign/P1_a.png", "Early/P2_a.png", "Pro/P2_b.png"])
    args = ["data", "audit", str(root), "--classes", "benign=normal,Early=blast", "--subject", r"^(\w+)_"]
    result = CliRunner().invoke(cli, [*args, "--um-per-px", "0.2", "--json", str(tmp_path / "audit.json")])
    assert result.exit_code == 0, result.output
    shown = json.loads((tmp_path / "audit.json").read_text())
    assert shown["classes"] == {"all": 1, "hem": 1}
    assert shown["passed_over"] == {"pictures in Pro/, a folder of no class": 1}
    assert shown["read_with"] == r"--classes benign=normal,early=blast --subject '^(\w+)_' --um-per-px 0.2"
    for wrong, words in (("early", "is neither"), ("a=normal,a=blast", "both normal and blast")):
        result = CliRunner().invoke(cli, ["data", "audit", str(root), "--classes", wrong])
        assert result.exit_code != 0
        assert words in str(result.exception)


def test_a_runs_own_data_are_read_as_they_were_for_it(tmp_path: Path, write_cells: WriteCells) -> None:
    layout = DataLayout(classes={"benign": "normal", "early": "blast"}, um_per_px=0.2)
    for place in ("own", "others"):
        write_cells(tmp_path / place, ["Benign/1.png", "Early/2.png"])
    member: Any = SimpleNamespace(layout=layout, data=tmp_path / "own")
    assert read_for([member], tmp_path / "own").layout == layout
    with pytest.raises(UsageError, match=r"were read with: --classes benign=normal,early=blast --um-per-px 0\.2"):
        read_for([member], tmp_path / "others")
    assert read_for([member], tmp_path / "others", layout).layout == layout


def test_the_audit_suggests_a_scale_where_it_is_missing(crops: Path, tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "all").mkdir()
    cv2.imwrite(str(tmp_path / "all" / "black.png"), draw(1))
    for crop in [*(crops / "normal").iterdir(), *(crops / "blast").iterdir()]:
        (tmp_path / "all" / crop.name).write_bytes(crop.read_bytes())
    sentence = audit(read_dataset(tmp_path)).cautions[-1]
    assert "need --um-per-px X" in sentence
    if "suggest X = " in sentence:
        assert float(sentence.rstrip(".").rpartition("= ")[2]) == pytest.approx(UM_PER_PX, rel=0.15)
