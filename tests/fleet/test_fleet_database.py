"""The database: migrated tables are those of the code, and what goes wrong is one sentence."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_fleet.database import (
    DatabaseError,
    RejectedError,
    _alembic,
    head_revision,
    migrate,
    open_database,
    reading,
    require_current,
    writing,
)
from bloodedge_fleet.database.tables import metadata
from bloodedge_fleet.rollouts.stages import Step
from bloodedge_fleet.rollouts.store import read_rollouts
from support.fleet_fakes import PostgreSQL

GUIDE = Path(__file__).resolve().parents[2] / "firmware_configs" / "README.md"


def test_migrations_make_the_tables_of_the_code(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == head_revision()
    require_current(engine)
    migrate(engine)  # a second time changes nothing


def test_what_the_first_version_kept_is_there_after_a_migration(url: str | None, state: Path) -> None:
    engine = open_database(url, state)
    now = datetime.now(UTC)
    with writing(engine) as connection:
        command.upgrade(_alembic(connection), "0001")
        insert = {
            "boards": {"id": 1, "name": "pi", "first_seen": now},
            "bundles": {"sha256": "a", "name": "cells", "serial": 7, "size_bytes": 9, "signer": "", "added_at": now},
            "rollouts": {"name": "r", "sha256": "a", "began": now, "stages": "[1]", "soak_s": 60.0, "halt_on": 1}
            | {"state": "running", "stage": 0, "why": ""},
            "rollout_boards": {"rollout": "r", "board": 1, "place": 0, "state": "good", "since": now, "why": ""},
        }
        for name, row in insert.items():
            connection.execute(metadata.tables[name].insert(), row)
    migrate(engine)
    with reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        ((rollout, _),) = read_rollouts(connection)
    assert rollout.steps == (Step("pi", "good", now),)
    engine.dispose()


def test_what_a_database_never_takes_is_told_from_one_that_is_away(engine: Engine) -> None:
    row = {"board": "a", "messages": None, "last_at": datetime.now(UTC), "sentence": "No."}
    with pytest.raises(RejectedError), writing(engine) as connection:
        connection.execute(metadata.tables["refused"].insert(), row)
    with pytest.raises(DatabaseError) as told, writing(engine) as connection:
        connection.execute(text("SELECT * FROM gone"))
    assert not isinstance(told.value, RejectedError)


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


@pytest.mark.parametrize("url", ["postgresql://u@127.0.0.1:1/x?password=secret", "postgresql://u:secret@h:abc/x"])
def test_a_password_anywhere_in_the_url_is_not_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError) as told, reading(open_database(url, tmp_path)):
        pass
    assert "secret" not in str(told.value)


def test_commands_by_hand_find_the_password_where_the_guide_puts_it(own_postgres: PostgreSQL, tmp_path: Path) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE USER lab PASSWORD 'of the lab'")
        connection.execute("CREATE DATABASE bloodedge OWNER lab")
    (own_postgres.folder / "data" / "pg_hba.conf").write_text("local all fleet trust\nlocal all all scram-sha-256\n")
    own_postgres.stop()
    own_postgres.start()
    (name,) = re.findall(r"`/var/lib/bloodedge-fleet/(\S*pgpass)`", GUIDE.read_text())
    (tmp_path / name).write_text("localhost:5432:bloodedge:lab:of the lab\n*:*:bloodedge:lab:of the lab\n")
    (tmp_path / name).chmod(0o600)
    url = f"postgresql://lab@/bloodedge?host={own_postgres.folder}"
    done = subprocess.run(
        [sys.executable, "-m", "bloodedge", "fleet", "boards", "--database", url, "--state", tmp_path],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},  # as sudo -u makes it
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has no tables yet" in done.stderr  # it was let in


def test_nobody_else_reads_a_database_in_a_file(state: Path) -> None:
    engine = open_database(None, state)
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(text("SELECT 1"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in state.glob("*.sqlite*")}
    engine.dispose()
    assert modes
    assert set(modes.values()) == {0o600}


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
