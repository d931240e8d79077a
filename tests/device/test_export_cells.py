"""Stored cells as a data set: exactly the device's pixels, and nothing that names a patient."""

import csv
import errno
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from bloodedge.cli import cli
from bloodedge.data.dataset import read_dataset
from bloodedge.data.exported_cells import COLUMNS, is_export, read_cell, read_export
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.finder import find_cells
from bloodedge.imaging import ImagingSpec, network_input, read_image
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.export.answers import Answer, settle
from bloodedge_device.export.select import Wanted, select
from bloodedge_device.export.write import require_room, write_export
from bloodedge_device.frames import CellResult, Frame, FrameResult
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.slide.review import Review
from bloodedge_device.store import DATABASE, Store
from support import fakes

SPECS = (
    ImagingSpec(size_px=96, um_per_px=0.2, light="relit"),
    ImagingSpec(size_px=160, views=("canonical", "physical"), light="levelled", denoise="median"),
)
UM_PER_PX = 0.1 + 1e-9


@pytest.fixture(scope="module")
def frame() -> Frame:
    """A rendered field with dark and pale cells in it."""
    bgr = render_field(0, FieldSpec(white_cells=(4, 4))).bgr
    return replace(fakes.frame(7), bgr=bgr, um_per_px=UM_PER_PX)


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(state)
    yield store
    store.close()


def new_slide(store: Store, label: str = "Erika Mustermann") -> int:
    return store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), label)


def result(index: int, probabilities: list[float], days_ago: float = 0) -> FrameResult:
    """A frame of cells with masks, under a known light."""
    seen = fakes.result(index, probabilities)
    capture = replace(seen.capture, captured_at=datetime.now(UTC) - timedelta(days=days_ago))
    return replace(seen, capture=capture, cells=[masked(cell) for cell in seen.cells])


def masked(cell: CellResult) -> CellResult:
    mask = np.zeros(cell.crop.shape[:2], np.uint8)
    cv2.circle(mask, (20, 20), 14, 255, -1)
    return replace(cell, mask=mask, light=(226, 222, 232))


def export(state: Path, target: Path, **wanted: str | bool) -> list[str]:
    return write_export(select(state, Wanted.of(**wanted)), target).sentences  # type: ignore[arg-type]


def test_an_exported_cell_gives_training_the_bytes_that_the_network_had(
    store: Store, frame: Frame, tmp_path: Path
) -> None:
    found = find_cells(frame.bgr, UM_PER_PX)
    whole = [cell for cell in found.cells if not cell.touches_border]
    assert len(whole) >= 2
    pipeline = Pipeline(fakes.FakeEngine(), fakes.make_manifest(), fakes.check, lambda *_: found)
    slide = new_slide(store)
    store.put_frames(slide, [pipeline.process(frame)], keep_crops=True)
    pipeline.close()
    for row in store._database.execute("SELECT id FROM cells").fetchall():
        store.review(row["id"], Review.of("blast"), "random", "page")
    export(store.state, tmp_path / "cells")
    exported = {(cell.x, cell.y): cell for cell in read_export(tmp_path / "cells")}
    assert len(exported) == len(whole)
    in_training = {one.name: one.read() for one in read_dataset(tmp_path / "cells").cells}
    for cell in whole:
        row = exported[cell.box[:2]]
        again = read_cell(tmp_path / "cells" / row.file, row.um_per_px, cell.light)
        on_device = cell.crop(frame.bgr, UM_PER_PX)
        for spec in SPECS:
            assert np.array_equal(network_input(again, spec), network_input(on_device, spec))
            assert np.array_equal(network_input(in_training[row.file], spec), network_input(on_device, spec))
        assert (row.light_blue, row.light_green, row.light_red) == cell.light
        assert row.density_green == pytest.approx(cv2.mean(cell.density, mask=cell.mask)[1] / 64, abs=1e-4)


def test_the_surroundings_are_the_cameras_own_pixels(store: Store, frame: Frame, tmp_path: Path) -> None:
    found = find_cells(frame.bgr, UM_PER_PX)
    pipeline = Pipeline(fakes.FakeEngine(), fakes.make_manifest(), fakes.check, lambda *_: found)
    seen = pipeline.process(frame)
    pipeline.close()
    store.put_frames(new_slide(store), [seen], keep_crops=True)
    export(store.state, tmp_path / "cells")
    crops = {cell.box[:2]: cell.crop for cell in seen.cells}
    for row in read_export(tmp_path / "cells"):
        image = read_image(tmp_path / "cells" / "images" / Path(row.file).name)
        assert np.array_equal(image, crops[row.x, row.y])


def test_folders_are_by_class_and_kind_as_the_reviewer_said_and_rows_say_what_the_device_had(
    store: Store, tmp_path: Path
) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9, 0.1, 0.9, 0.5, 0.2])], keep_crops=True)
    for cell, review in (
        (1, Review.of("blast")),
        (2, Review.of("normal", "lymphocyte")),
        (3, Review.of(kind="neutrophil", stage="band")),
        (4, Review.of("not_a_cell")),
    ):
        store.review(cell, review, "random" if cell < 3 else "gallery", "page")
    lines = export(store.state, tmp_path / "cells", reviewed=True)
    assert lines[0] == "4 cells of 1 slide: 2 other, 1 blast, 1 normal."
    rows = {row.cell: row for row in read_export(tmp_path / "cells")}
    assert [(rows[n].label, rows[n].kind, rows[n].stage, rows[n].sampling) for n in (1, 2, 3, 4)] == [
        ("blast", "unknown", "", "random"),
        ("normal", "lymphocyte", "", "random"),
        ("other", "neutrophil", "band", "gallery"),
        ("other", "artefact", "", "gallery"),
    ]
    assert rows[2].file.startswith("normal/lymphocyte/")
    assert (rows[3].model_label, rows[3].model_blast_probability) == ("blast", 0.9)
    assert (rows[4].model_label, rows[4].model_reason) == ("uncertain", "abstain_band")
    assert rows[1].model == fakes.make_manifest().name
    everything = export(store.state, tmp_path / "all")
    assert everything[0] == "5 cells of 1 slide: 2 other, 1 blast, 1 normal, 1 no class."


def test_nothing_in_an_export_names_a_patient(store: Store, tmp_path: Path) -> None:
    seen = result(0, [0.9])
    capture = replace(seen.capture, source="Mustermann_1961.png")
    store.put_frames(new_slide(store), [replace(seen, capture=capture)], keep_crops=True)
    store.review(1, Review.of("blast"), "random", "Dr. Reviewer")
    lines = export(store.state, tmp_path / "cells")
    assert lines[-1].startswith("Nothing in it names a patient")
    texts = [path.read_text() for path in (tmp_path / "cells").rglob("*") if path.suffix in {".csv", ".txt"}]
    names = [path.name for path in (tmp_path / "cells").rglob("*")]
    today = datetime.now(UTC).date().isoformat()
    for word in ("Mustermann", "Reviewer", "1961", today):
        assert not any(word in text for text in [*texts, *names])
    assert any("names a patient" in text for text in texts)


def test_slides_of_two_databases_are_told_apart(tmp_path: Path) -> None:
    subjects = set()
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        store.put_frames(new_slide(store), [result(0, [0.9])], keep_crops=True)
        store.close()
        export(tmp_path / name, tmp_path / f"cells {name}")
        subjects |= {row.subject for row in read_export(tmp_path / f"cells {name}")}
    assert len(subjects) == 2


def test_cells_without_an_outline_or_an_image_and_unsure_ones_are_left_out_and_counted(
    store: Store, tmp_path: Path
) -> None:
    slide = new_slide(store)
    store.put_frames(slide, [result(0, [0.9, 0.8, 0.7])], keep_crops=True)
    store.put_frames(slide, [result(1, [0.9, 0.1])], keep_crops=False)
    for row in store._database.execute("SELECT crop FROM cells WHERE id IN (1, 2)").fetchall():
        image = store.crops / row["crop"]
        image.rename(image.with_suffix(".jpg"))
    store._database.execute("UPDATE cells SET crop = replace(crop, '.png', '.jpg') WHERE id IN (1, 2)")
    lines = export(store.state, tmp_path / "cells")
    assert lines[0] == "1 cell of 1 slide: 1 no class."
    assert "2: its image was stored by an earlier version, without the cell's outline" in lines[1]
    assert "2: its image was not kept, or was removed to make room" in lines[1]
    with (tmp_path / "cells" / "left_out.csv").open(newline="") as file:
        assert [int(row["cell"]) for row in csv.DictReader(file)] == [1, 2, 4, 5]
    store.review(3, Review.of("unsure"), "random", "page")
    with pytest.raises(BloodedgeError, match=r"None of 1 cells can be exported; .*the reviewer was unsure"):
        export(store.state, tmp_path / "none", reviewed=True)


def test_contradictory_answers_are_listed_and_left_out(store: Store, tmp_path: Path) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9, 0.1])], keep_crops=True)
    for label, sampling in (("blast", "random"), ("normal", "gallery")):
        store.review(1, Review.of(label), sampling, "page")
    store.review(2, Review.of("normal"), "random", "page")
    lines = export(store.state, tmp_path / "cells", reviewed=True)
    assert "Left out (named in left_out.csv): 1: contradictory answers." in lines
    assert "  Slide 1, cell 1: contradictory answers: blast (random) and normal (gallery)." in lines


def said(label: str | None, kind: str | None = None, sampling: str = "random", reviewer: str = "page") -> Answer:
    return Answer(label, kind, None, sampling, reviewer)


def test_a_later_answer_of_the_same_reviewer_corrects_the_earlier() -> None:
    assert settle([said("blast"), said("normal")]).label == "normal"
    assert settle([said("blast"), said("unsure")]).problem == "the reviewer was unsure"


def test_class_and_kind_may_come_from_two_answers_and_must_fit() -> None:
    both = settle([said("normal"), said(None, "monocyte", "gallery")])
    assert (both.label, both.kind, both.problem, both.sampling) == ("normal", "monocyte", "", "random")
    assert settle([said("blast"), said(None, "neutrophil", "gallery")]).contradictory
    assert settle([said("normal"), said(None, "neutrophil", "gallery")]).label == "other"
    assert settle([said("blast"), said("normal", reviewer="api")]).contradictory
    assert settle([said("blast"), said("unsure", reviewer="api")]).label == "blast"


def test_a_cell_that_several_frames_show_is_exported_once_with_all_answers(store: Store, tmp_path: Path) -> None:
    slide = new_slide(store)
    views = [result(index, [0.9]) for index in (0, 1)]
    numbered = [replace(view, cells=[replace(cell, number=4) for cell in view.cells]) for view in views]
    for view in numbered:
        store.put_frames(slide, [view], keep_crops=True)
    store.review(1, Review.of("blast"), "random", "page")  # before the better view came
    export(store.state, tmp_path / "cells")
    (row,) = read_export(tmp_path / "cells")
    assert (row.label, row.cell) == ("blast", 2)


def test_slides_and_dates_narrow_an_export(store: Store, tmp_path: Path) -> None:
    for label, days_ago in (("A", 10), ("B", 0), ("C", 0)):
        store.put_frames(new_slide(store, label), [result(0, [0.9], days_ago)], keep_crops=True)
    export(store.state, tmp_path / "two", slides="A, 3")
    assert [row.slide for row in read_export(tmp_path / "two")] == [1, 3]
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    export(store.state, tmp_path / "new", since=yesterday)
    assert [row.slide for row in read_export(tmp_path / "new")] == [2, 3]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"slides": "7"}, r'has no slide "7"; it has 1 \(Erika Mustermann\)\.'),
        ({"since": "last week"}, '"last week" is no date; write it as 2026-11-30'),
        ({"since": "2999-01-01"}, "There is no cell among these slides and dates"),
        ({"reviewed": True}, "No cell was reviewed in .*; review some on the device's page"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    store: Store, tmp_path: Path, wanted: dict[str, str | bool], sentence: str
) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9])], keep_crops=True)
    with pytest.raises(UsageError, match=sentence):
        export(store.state, tmp_path / "cells", **wanted)
    assert not (tmp_path / "cells").exists()


def test_a_folder_with_something_in_it_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9])], keep_crops=True)
    target = tmp_path / "cells"
    target.mkdir()
    export(store.state, target)
    before = sorted(path.name for path in target.rglob("*"))
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        export(store.state, target)
    assert sorted(path.name for path in target.rglob("*")) == before


def test_a_full_disk_in_the_middle_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9, 0.8, 0.7])], keep_crops=True)
    written = []
    write_bytes = Path.write_bytes

    def until_full(path: Path, data: bytes) -> int:
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    (tmp_path / "out").mkdir()
    with pytest.raises(BloodedgeError, match="the disk is full"):
        export(store.state, tmp_path / "out" / "cells")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_locked_database_is_a_sentence(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9])], keep_crops=True)
    store.close()
    connect = sqlite3.connect
    with connect(store.state / DATABASE) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, timeout=0.05))
        with pytest.raises(BloodedgeError, match="another program keeps it locked"):
            export(store.state, tmp_path / "cells")


def test_coco_and_yolo_outline_the_cell_in_each_picture(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        store.put_frames(new_slide(store), [result(0, [0.9, 0.1])], keep_crops=True)
    store.review(1, Review.of("blast"), "random", "page")
    target = tmp_path / "cells"
    write_export(select(store.state, Wanted()), target, coco=True, yolo=True)
    coco = json.loads((target / "coco.json").read_text())
    assert [(target / image["file_name"]).is_file() for image in coco["images"]] == [True] * 4
    assert coco["annotations"][0]["bbox"] == [6, 6, 29, 29]  # a disc of radius 14 about (20, 20)
    assert coco["annotations"][0]["category_id"] == next(c["id"] for c in coco["categories"] if c["name"] == "blast")
    held_out = (target / "val.txt").read_text().split()
    assert len(held_out) == 2  # the second slide's
    assert all((target / name).is_file() for name in held_out)
    label, *points = (target / "labels" / Path(held_out[0]).with_suffix(".txt").name).read_text().split()
    assert label == "3"  # no class
    xs = np.array(points[::2], float) * 40
    assert (xs.min(), xs.max()) == (pytest.approx(6.5), pytest.approx(34.5))


def test_the_command_says_what_it_wrote_and_what_to_check(store: Store, tmp_path: Path) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9, 0.1])], keep_crops=True)
    store.review(1, Review.of("blast"), "random", "page")
    target = tmp_path / "cells"
    ran = CliRunner().invoke(cli, ["device", "export", str(target), "--reviewed", "--state", str(store.state)])
    assert ran.exit_code == 0, ran.output
    assert f"{target}: 1 cell of 1 slide: 1 blast." in ran.output
    assert "Each slide counts as one person" in ran.output
    assert is_export(target)


def test_a_row_that_somebody_broke_is_named(store: Store, tmp_path: Path) -> None:
    store.put_frames(new_slide(store), [result(0, [0.9])], keep_crops=True)
    export(store.state, tmp_path / "cells")
    path = tmp_path / "cells" / "cells.csv"
    text = path.read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    path.write_text(text.replace("no_class,", "lymphoblast,", 1))
    with pytest.raises(UsageError, match=r'cells\.csv, line 2: "lymphoblast" is no class'):
        read_export(tmp_path / "cells")
    path.write_text(text.replace("no_class/unknown", "../elsewhere", 1))
    with pytest.raises(UsageError, match="not inside the folder"):
        read_export(tmp_path / "cells")
    assert not is_export(tmp_path)


def test_room_is_asked_for_though_images_are_deleted_between_two_looks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_frames(new_slide(store), [result(1, [0.9, 0.1])], keep_crops=True)
    selection = select(store.state, Wanted.of())
    assert selection.cells
    for cell in selection.cells:
        cell.image.unlink()
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # as it was a moment ago
    require_room(selection, store.state, 0)
