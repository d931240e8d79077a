"""The server's SQLite file, deleted or replaced while the server runs."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from bloodedge_fleet.boards.archive import Archive
from bloodedge_fleet.database import DATABASE, DatabaseError, migrate, open_database, reading
from bloodedge_fleet.database.kept_file import KeptFile
from bloodedge_fleet.database.tables import reports
from support.fleet_fakes import report, sent


@pytest.fixture
def sqlite(state: Path) -> Engine:
    """Of the state folder."""
    made = open_database(None, state)
    migrate(made)
    return made


def stored(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(reports)).scalar_one())


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_database_that_is_taken_away_is_written_again_with_all_reports(
    sqlite: Engine, state: Path, how: str, tmp_path: Path
) -> None:
    archive, kept = Archive(sqlite), KeptFile(sqlite)
    for time in range(3):  # it may happen again
        archive.store(sent("pi", report(3 * time + 1)))
        if how == "moved":
            (state / DATABASE).rename(tmp_path / f"elsewhere{time}")
        else:
            for path in state.glob(f"{DATABASE}*"):
                path.unlink()
        if how == "replaced":
            (state / DATABASE).write_bytes(b"something else")
        assert "deleted or moved" in kept.state
        archive.store(sent("pi", report(3 * time + 2)))  # what is still open takes it
        kept.check()
        assert not kept.state
        archive.store(sent("pi", report(3 * time + 3)))
        assert stored(sqlite) == 3 * (time + 1)
    kept.close()
    sqlite.dispose()
    assert stored(open_database(None, state)) == 9
    assert len(list(state.glob("another-*"))) == (3 if how == "replaced" else 0)


def test_meanwhile_nobody_opens_an_empty_database_in_its_place(sqlite: Engine, state: Path) -> None:
    kept = KeptFile(sqlite)
    sqlite.dispose()
    (state / DATABASE).unlink()
    with pytest.raises(DatabaseError, match="its file was deleted or moved"):
        stored(sqlite)
    assert not (state / DATABASE).exists()
    kept.check()
    assert stored(sqlite) == 0
    kept.close()
