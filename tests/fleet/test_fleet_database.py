"""The database: migrated tables are those of the code, and what goes wrong is one sentence."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_fleet.database import REVISION, DatabaseError, migrate, open_database, reading, require_current, writing
from bloodedge_fleet.database.tables import metadata


def test_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION
    require_current(engine)
    migrate(engine)  # a second time changes nothing


def test_a_database_without_tables_is_told_what_makes_them(url: str | None, state: Path) -> None:
    with pytest.raises(BloodedgeError, match=r"has no tables yet; start its server once: bloodedge fleet serve"):
        require_current(open_database(url, state))


def test_a_database_of_a_newer_version_is_refused_and_kept(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BloodedgeError, match="made by a newer bloodedge"):
        migrate(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
        assert inspect(connection).has_table("reports")


@pytest.mark.parametrize("url", ["nonsense", "mysql://a@b/c", "sqlite://", "strange://x"])
def test_other_databases_are_refused_with_a_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"postgresql://USER@HOST/NAME"):
        open_database(url, tmp_path)


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    engine = open_database("postgresql://fleet:secret@127.0.0.1:1/fleet", tmp_path)
    with pytest.raises(DatabaseError) as told, reading(engine):
        pass
    assert "check that it runs" in str(told.value)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    row = {"board": "a", "messages": 1, "last_at": datetime.now(UTC), "sentence": "No."}

    def fail() -> None:
        with writing(engine) as connection:
            connection.execute(metadata.tables["refused"].insert(), row)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with reading(engine) as connection:
        assert connection.execute(metadata.tables["refused"].select()).all() == []
