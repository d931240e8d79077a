"""A database of either kind, a broker, and boards that report."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from bloodedge_fleet.database import migrate, open_database

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import Broker, until

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
NOBODY = "nobody"
"""PostgreSQL does not run as root."""


def _program(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server on a Unix socket."""
    initdb, server = _program("initdb"), _program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:
        options |= {"user": NOBODY, "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, NOBODY)
        for parent in folder.parents[:2]:  # pytest's own folders are for this user alone
            parent.chmod(0o755)
    data = folder / "data"
    subprocess.run([initdb, "-D", data, "-U", "fleet", "-A", "trust", "--no-sync"], check=True, cwd=folder, **options)
    command = [server, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(command, cwd=folder, **options)
    try:
        assert until(lambda: _answers(folder), 30)
        yield f"postgresql://fleet@/postgres?host={folder}"
    finally:
        process.terminate()
        process.wait(20)


def _answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return (folder / "data" / "postmaster.pid").is_file() and probe.connect_ex(f"{folder}/.s.PGSQL.5432") == 0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of an empty database; None: SQLite in the state folder."""
    if request.param == "sqlite":
        return None
    import psycopg

    base: str = request.getfixturevalue("postgres")
    name = f"t{os.urandom(6).hex()}"
    assert until(lambda: _made(psycopg, base, name), 20)
    return base.replace("/postgres?", f"/{name}?")


def _made(psycopg: Any, base: str, name: str) -> bool:
    try:
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
    except psycopg.OperationalError:  # it has just started
        return False
    return True


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The server's folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(url: str | None, state: Path) -> Iterator[Engine]:
    """A database with its tables."""
    made = open_database(url, state)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder)
    yield made
    made.stop()
