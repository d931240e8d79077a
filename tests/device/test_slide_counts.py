"""Counts of slides that have ended are kept, are those of their cells, and spare pages from reading all of these."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_device.daemon.slide_counter import SlideCounter
from bloodedge_device.latency import StageTimes
from bloodedge_device.report import reading
from bloodedge_device.report.reading import DeviceReport, read_report
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.slide.review import Review
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store import DATABASE, Store, galleries, kind_queries, open_for_reading, queries
from bloodedge_device.store.frame_rows import forget_crops
from bloodedge_device.store.slide_counts import read_counts
from bloodedge_device.store.statistics import read_statistics
from bloodedge_device.teach import queue
from support import fakes
from support.waiting import until
from support.web_fakes import FakeDaemon, mixed_daemon

WHOLE_TABLE = re.compile(r"SCAN (cells|frames|rejected)\b")


def kept(state: Path) -> list[int]:
    with open_for_reading(state) as database:
        return [row[0] for row in database.execute("SELECT slide FROM slide_counts ORDER BY slide")]


def filled(store: Store, frames: int, label: str = "") -> int:
    """A slide of two cells a frame, which has ended."""
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    slide = store.begin_slide(run, label)
    results = [fakes.result(index, [0.9 - index / 10**5, 0.1]) for index in range(frames)]
    store.put_frames(slide, results, keep_crops=True)
    store.end_slide(slide, StageTimes())
    return slide


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    with closing(Store(state, StoreSettings(reserve_mb=0))) as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A mixed smear that has ended, with reviews of classes and kinds; no slide since."""
    daemon = mixed_daemon(tmp_path)
    reviews = {1: Review.of("normal", "lymphocyte"), 4: Review.of(kind="eosinophil"), 9: Review.of("not_a_cell")}
    daemon.desk.review_all(reviews | {2: Review.of("blast")}, "random", "page")
    daemon.desk.review_all({4: Review.of(kind="basophil")}, "gallery", "page")
    daemon.desk.end_slide("page")
    yield daemon
    daemon.store.close()


def galleries_of(report: DeviceReport) -> list[list[Path]]:
    return [[cell.crop for cell in row] for row in (report.most_blast_like, report.most_uncertain, report.refused)]


def everything(state: Path, slide: int) -> dict[str, Any]:
    """What pages show of a slide."""
    report = read_report(state, slide)
    return {
        "report": json.dumps(report.to_json()),
        "galleries": galleries_of(report),
        "row": queries.find_slide(state, slide),
        "kinds": kind_queries.cells_by_kind(state, slide),
    }


def test_what_is_shown_of_a_slide_is_the_same_before_and_after_its_counts_are_kept(daemon: FakeDaemon) -> None:
    before = everything(daemon.desk.state, 1)
    assert "lymphocyte" in before["report"]
    assert daemon.store.keep_counts() == 1
    assert kept(daemon.desk.state) == [1]
    assert everything(daemon.desk.state, 1) == before


def test_a_review_after_that_is_seen_at_once(daemon: FakeDaemon) -> None:
    daemon.store.keep_counts()
    daemon.desk.review(3, Review.of(kind="monocyte"), "random", "page")
    daemon.desk.review(5, Review.of(kind="artefact"), "random", "page")
    shown = everything(daemon.desk.state, 1)
    assert shown["row"].reviewed == 6
    assert 5 in shown["kinds"]["artefact"]
    with closing(sqlite3.connect(daemon.desk.state / DATABASE)) as database:
        database.execute("DELETE FROM slide_counts")
        database.commit()
    assert everything(daemon.desk.state, 1) == shown


def test_the_slide_under_the_microscope_is_counted_anew_and_an_interrupted_one_is_kept(store: Store) -> None:
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    interrupted = store.begin_slide(run, "")
    store.put_frames(interrupted, [fakes.result(0, [0.9])], keep_crops=False)
    assert store.keep_counts() == 0
    current = store.begin_slide(run, "")
    assert store.keep_counts() == 1
    assert kept(store.state) == [interrupted]
    store.end_slide(current, StageTimes())
    assert store.keep_counts() == 1
    assert store.keep_counts() == 0


def test_a_frame_that_comes_late_counts(store: Store) -> None:
    slide = filled(store, 3)
    store.keep_counts()
    store.put_frames(slide, [fakes.result(3, [0.9])], keep_crops=False)
    assert kept(store.state) == []
    row = queries.find_slide(store.state, slide)
    assert row is not None
    assert (row.cells, row.blasts) == (7, 4)


def test_a_frame_that_comes_while_its_slide_is_counted_is_not_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = filled(store, 3)

    def interrupted(database: sqlite3.Connection, number: int) -> SlideStatistics:
        found = read_statistics(database, number)
        store.put_frames(slide, [fakes.result(3, [0.9])], keep_crops=False)
        monkeypatch.undo()
        return found

    monkeypatch.setattr("bloodedge_device.store.slide_counts.read_statistics", interrupted)
    assert store.keep_counts() == 1  # at the second attempt
    with open_for_reading(store.state) as database:
        assert read_counts(database, slide).statistics.cells_total == 7


def test_the_daemon_keeps_counts_of_a_slide_that_has_ended(daemon: FakeDaemon) -> None:
    counter = SlideCounter(daemon.store, 0.01)
    counter.start()
    assert until(lambda: kept(daemon.desk.state) == [1], 10)
    counter.stop()


def test_counting_ends_at_once_when_the_daemon_does(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store, 50)
    monkeypatch.setattr("bloodedge_device.store.slide_counts.STEPS", 100)
    asked = iter([False, False, True, True])
    assert store.keep_counts(lambda: next(asked)) == 0
    assert kept(store.state) == []
    assert store.keep_counts() == 1


def test_a_store_that_cannot_be_counted_does_not_end_the_counter(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception] = [BloodedgeError("The disk is away."), ValueError("a fault")]
    caplog.set_level("INFO", "bloodedge.device")

    def fail(_: object) -> int:
        if faults:
            raise faults.pop(0)
        return 0

    monkeypatch.setattr(store, "keep_counts", fail)
    counter = SlideCounter(store, 0.01)
    counter.start()
    assert until(lambda: not faults, 10)
    counter.stop()
    assert "The disk is away." in caplog.text
    assert "it is tried again" in caplog.text


def test_a_gallery_shows_further_cells_once_the_images_of_the_first_are_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(galleries, "MOST_KEPT", 4)
    monkeypatch.setattr(galleries, "GALLERY", 2)
    slide = filled(store, 8)
    store.keep_counts()
    shown = []
    for gone in range(8):
        cells = read_report(store.state, slide).most_blast_like
        shown.append([cell.frame for cell in cells])
        name = f"{slide}/0000/{gone:07d}-000.png"
        (store.crops / name).unlink()
        forget_crops(store._database, [name])
    assert shown[:6] == [[n, n + 1] for n in range(6)]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the database answers each query of a page, line by line."""
    found: list[str] = []

    @contextmanager
    def traced(state: Path) -> Iterator[sqlite3.Connection]:
        with open_for_reading(state) as database:
            statements: list[str] = []
            database.set_trace_callback(statements.append)
            yield database
            database.set_trace_callback(None)
            found.extend(plan_of(database, statements))

    for module in (queries, kind_queries, reading, queue):
        monkeypatch.setattr(module, "open_for_reading", traced)
    return found


def plan_of(database: sqlite3.Connection, statements: list[str]) -> list[str]:
    explained = [one for one in statements if one.startswith(("SELECT", "UPDATE", "DELETE"))]
    return [row[3] for one in explained for row in database.execute(f"EXPLAIN QUERY PLAN {one}")]


PAGES: dict[str, Callable[[Path, int], object]] = {
    "slides": lambda state, _: queries.slides(state, 10**6, 50),
    "slide": queries.find_slide,
    "report": read_report,
    "drift": queries.drift_of,
    "cells": lambda state, slide: queries.cells(state, slide, 3, 5),
    "cell": lambda state, _: queries.find_cell(state, 3),
    "review": lambda state, slide: queries.review_order(state, slide, "random"),
    "gallery": lambda state, slide: queries.review_order(state, slide, "gallery"),
    "answers": lambda state, slide: queries.answers(state, slide, "random"),
    "review result": queries.reviewed_cells,
    "agreement": lambda state, _: queries.agreement(state, "mobilenetv2", 1),
    "kinds": kind_queries.cells_by_kind,
    "review queue": lambda state, _: queue.suggest(state),
}


@pytest.mark.parametrize("are_kept", [True, False])
@pytest.mark.parametrize("page", PAGES)
def test_no_page_goes_through_a_whole_table(page: str, are_kept: bool, store: Store, plans: list[str]) -> None:
    slide = [filled(store, 4) for _ in range(3)][1]
    store.review(slide * 8 - 3, Review.of("blast"), "random", "page")
    if are_kept:
        store.keep_counts()
    PAGES[page](store.state, slide)
    assert [line for line in plans if WHOLE_TABLE.match(line)] == []
    assert plans or page == "drift"  # the fakes' bundle has no reference


@pytest.mark.parametrize("page", ["slides", "slide", "report", "cells", "answers", "review result"])
def test_a_page_reads_no_more_of_a_slide_with_ten_times_the_cells(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for frames in (60, 600):
        with closing(Store(tmp_path / str(frames), StoreSettings(reserve_mb=0))) as store:
            slide = filled(store, frames)
            store.review(2 * frames, Review.of("normal"), "random", "page")
            store.keep_counts()
        taken.append(steps(lambda store=store, slide=slide: PAGES[page](store.state, slide), monkeypatch))
    assert taken[1] < 1.5 * taken[0]


def steps(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Instructions of SQLite's virtual machine that a call takes."""
    number = 0

    def one_more() -> int:
        nonlocal number
        number += 1
        return 0

    @contextmanager
    def counted(state: Path) -> Iterator[sqlite3.Connection]:
        with open_for_reading(state) as database:
            database.set_progress_handler(one_more, 1)
            yield database

    for module in (queries, reading):
        monkeypatch.setattr(module, "open_for_reading", counted)
    call()
    return number


def test_rows_of_deleted_images_are_found_by_slide_and_frame(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        filled(store, 4)
    statements: list[str] = []
    store._database.set_trace_callback(statements.append)
    monkeypatch.setattr("bloodedge_device.store.crops.free_bytes", lambda _: 0)
    assert store.tidy() == 24
    store._database.set_trace_callback(None)
    plan = plan_of(store._database, statements)
    assert any("cells_of_frame" in line for line in plan)
    assert [line for line in plan if WHOLE_TABLE.match(line)] == []
    with open_for_reading(store.state) as database:
        assert database.execute("SELECT count(*) FROM cells WHERE crop IS NOT NULL").fetchone()[0] == 0
