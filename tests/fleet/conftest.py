"""A database of either kind, a broker, and boards that report."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from bloodedge_fleet.database import migrate, open_database
from support.fleet_fakes import PostgreSQL
from support.mqtt import Broker
from support.needs import required


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server."""
    made = PostgreSQL(tmp_path_factory.mktemp("postgres"))
    try:
        made.start()
        yield made.url
    finally:
        made.stop()


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """One that a test may stop and start."""
    made = PostgreSQL(tmp_path_factory.mktemp("own_postgres"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of an empty database; None: SQLite in the state folder."""
    if request.param == "sqlite":
        return None
    import psycopg

    base: str = request.getfixturevalue("postgres")
    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return base.replace("/postgres?", f"/{name}?")


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
    required("mosquitto")
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder)
    yield made
    made.stop()
