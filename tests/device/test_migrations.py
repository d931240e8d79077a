import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_device.report.reading import read_report
from bloodedge_device.slide.review import Review
from bloodedge_device.store import DATABASE, SCHEMA_VERSION, Store, open_for_reading, queries
from bloodedge_device.store.schema import APPLICATION_ID, MIGRATIONS
from support import fakes


@pytest.fixture
def first_version(state: Path) -> Path:
    """A database as version 1 left it: a run, a slide, two frames, three cells."""
    state.mkdir()
    info = fakes.run_info(fakes.make_manifest())
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(MIGRATIONS[0])
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA user_version = 1")
        database.execute(
            "INSERT INTO runs VALUES (1, ?, NULL, 812.0, 'mobilenetv2', 1790000000, 'litert', 'why', 'runtime', 'int8',"
            ' 2, \'Test Board 5\', \'replay\', \'{"inputs": 64, "flips": 1, "max_probability_difference": 0.07,'
            ' "passed": true}\', ?)',
            (info.started.isoformat(), info.manifest),
        )
        database.execute("INSERT INTO slides VALUES (1, 1, 'an old slide', ?, NULL)", (info.started.isoformat(),))
        for frame in (1, 2):
            database.execute(
                "INSERT INTO frames VALUES (?, 1, ?, ?, 'a.png', 0, 640, 480, 0.1, NULL, NULL, 30.0, 128.0)",
                (frame, frame - 1, info.started.isoformat()),
            )
        for cell, (frame, label, blast) in enumerate([(1, "blast", 0.9), (1, "normal", 0.1), (2, "blast", 0.8)]):
            database.execute(
                "INSERT INTO cells VALUES (?, ?, 1, 2, 30, 40, ?, ?, NULL, 99.0, NULL)", (cell + 1, frame, label, blast)
            )
        database.commit()
    return state


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def test_results_of_the_first_version_are_kept_and_new_ones_go_beside_them(first_version: Path) -> None:
    before = rows(first_version, "SELECT id, frame, label, blast_probability, area_um2 FROM cells")
    store = Store(first_version)
    assert store.damaged is None
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a new slide")
    store.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=False)
    store.review(1, Review.of("normal"), "random", "page")
    store.close()
    assert (
        rows(first_version, "SELECT id, frame, label, blast_probability, area_um2 FROM cells WHERE id <= 3") == before
    )
    assert rows(first_version, "SELECT label FROM slides") == [("an old slide",), ("a new slide",)]
    assert rows(first_version, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert rows(first_version, "PRAGMA integrity_check") == [("ok",)]
    old = read_report(first_version, 1)
    assert (old.statistics.cells["blast"], old.statistics.cells["normal"], old.statistics.repeated) == (2, 1, 0)


def test_an_older_database_is_not_changed_by_reading_it(first_version: Path) -> None:
    with pytest.raises(BloodedgeError, match="start the daemon once"), open_for_reading(first_version):
        pass
    assert rows(first_version, "PRAGMA user_version") == [(1,)]


def test_a_database_of_the_version_before_is_read_as_it_is(first_version: Path) -> None:
    with closing(sqlite3.connect(first_version / DATABASE)) as database:
        database.executescript(f"{MIGRATIONS[1]} PRAGMA user_version = 2;")
    assert read_report(first_version, 1).statistics.cells_total == 3
    assert rows(first_version, "PRAGMA user_version") == [(2,)]


def test_reviews_of_an_older_version_are_kept_and_kinds_go_beside_them(first_version: Path) -> None:
    with closing(sqlite3.connect(first_version / DATABASE)) as database:
        database.executescript(f"{''.join(MIGRATIONS[1:5])} PRAGMA user_version = 5;")
        database.execute("INSERT INTO reviews VALUES (7, 1, 'normal', 'random', 'page', '2026-01-01T00:00:00+00:00')")
        database.commit()
    cell = queries.cells(first_version, 1, 0, 1)[0]
    assert (cell.review, cell.review_kind, cell.kind) == ("normal", None, None)
    assert rows(first_version, "PRAGMA user_version") == [(5,)]
    store = Store(first_version)
    store.review(1, Review.of(kind="neutrophil", stage="band"), "gallery", "page")
    store.close()
    assert rows(first_version, "SELECT id, cell, label, kind, stage, sampling FROM reviews") == [
        (7, 1, "normal", None, None, "random"),
        (8, 1, None, "neutrophil", "band", "gallery"),
    ]
    assert rows(first_version, "PRAGMA foreign_key_check") == []


def test_a_migrated_database_is_like_a_new_one(first_version: Path, tmp_path: Path) -> None:
    for state in (first_version, tmp_path / "new"):
        Store(state).close()
    tables = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'index') ORDER BY name"
    assert rows(first_version, tables) == rows(tmp_path / "new", tables)
    for (table,) in rows(first_version, "SELECT name FROM sqlite_schema WHERE type = 'table'"):
        columns = f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}')"
        assert rows(first_version, columns) == rows(tmp_path / "new", columns)


def test_a_migration_that_fails_midway_leaves_the_old_version_whole(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = f"{MIGRATIONS[1]} CREATE TABLE runs (x INTEGER) STRICT;"
    monkeypatch.setattr("bloodedge_device.store.database.MIGRATIONS", (MIGRATIONS[0], broken))
    with pytest.raises(BloodedgeError):
        Store(first_version)
    assert rows(first_version, "PRAGMA user_version") == [(1,)]
    assert rows(first_version, "SELECT name FROM sqlite_schema WHERE name = 'outbox'") == []
    monkeypatch.undo()
    Store(first_version).close()
    assert rows(first_version, "SELECT count(*) FROM cells") == [(3,)]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_a_newer_database_is_refused_and_left_as_it_is(state: Path, version: int) -> None:
    Store(state).close()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(BloodedgeError, match="newer bloodedge"), open_for_reading(state):
        pass
    with pytest.raises(BloodedgeError, match="newer bloodedge"):
        Store(state)
    assert rows(state, "PRAGMA user_version") == [(version,)]
    assert not list(state.glob("damaged-*"))


def test_cells_that_an_earlier_version_called_without_a_probability_are_model_faults(first_version: Path) -> None:
    with closing(sqlite3.connect(first_version / DATABASE)) as database:
        database.execute("UPDATE cells SET label = 'normal', blast_probability = NULL WHERE id = 3")
        database.commit()
    Store(first_version).close()
    assert rows(first_version, "SELECT label, reason FROM cells ORDER BY id") == [
        ("blast", None),
        ("normal", None),
        ("uncertain", "model_fault"),
    ]
    assert read_report(first_version).statistics.uncertain == {"model_fault": 1}
