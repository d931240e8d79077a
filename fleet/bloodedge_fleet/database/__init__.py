"""The database of boards, reports and roll-outs: SQLite beside the server, or PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.files import make_private
from bloodedge_fleet.addresses import is_host

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = "bloodedge_fleet.database:migrations"
DATABASE = "fleet.sqlite"
ANSWER_WITHIN_S = 5

Values = dict[str, Any]


def open_database(url: str | None, state: Path) -> Engine:
    """The database of ``url``, such as postgresql://USER@HOST/NAME; without one, SQLite in the state folder.

    Raises UsageError for a wrong URL, and BloodedgeError when the folder cannot be made. It does not connect yet.
    """
    if url is None:
        with disk_errors("the server's folder"):
            state.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{state / DATABASE}"
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind == "postgresql" and all(host.startswith("/") or is_host(host) for host in _hosts(parsed)):
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                connect_args={"connect_timeout": ANSWER_WITHIN_S},
            )
            _wait_for_no_lock_without_end(engine)
            return engine
        if kind == "sqlite" and parsed.database and not parsed.query:
            engine = create_engine(parsed, connect_args={"timeout": ANSWER_WITHIN_S})
            _keep_sqlite_safe(engine, Path(parsed.database))
            return engine
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise UsageError("The database's URL cannot be read; give one such as postgresql://USER@HOST/NAME.") from error
    raise UsageError("The database must be PostgreSQL (postgresql://USER@HOST/NAME) or a file (sqlite:///FILE).")


def _keep_sqlite_safe(engine: Engine, file: Path) -> None:
    """Commits survive a power cut; a writing transaction locks before it reads; other users cannot read the file."""

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        if file.exists():  # not one in memory
            make_private(file)
        connection.isolation_level = None  # transactions begin as ``begin`` below says
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _wait_for_no_lock_without_end(engine: Engine) -> None:
    """What another program has locked is waited for as long as SQLite waits: not for ever, as PostgreSQL would."""
    wait_ms = 1000 * ANSWER_WITHIN_S

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {wait_ms}")
        connection.commit()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one moment; raises BloodedgeError when the database does not answer."""
    options: Values = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with database_errors(engine), engine.execution_options(**options).begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction, stored whole when the block succeeds, else not at all; BloodedgeError as in reading."""
    with database_errors(engine), engine.execution_options(writes=True).begin() as connection:
        yield connection


def hold(connection: Connection, table: Table) -> None:
    """Lock a table against changes by others until this transaction ends; they may read it."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        connection.execute(text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))


def insert_into(connection: Connection, table: Any) -> Any:
    """The database's own INSERT, which has ON CONFLICT."""
    return import_module(f"sqlalchemy.dialects.{connection.dialect.name}").insert(table)


class DatabaseError(BloodedgeError):
    """The database does not answer, or fails."""


class RejectedError(DatabaseError):
    """The database works and rejected the data; trying again does not help."""


@contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Turn errors of the database's driver into a sentence."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        first = str(cause).strip().partition("\n")[0].rstrip(".")
        if isinstance(error, DataError | IntegrityError):
            raise RejectedError(f"{_name(engine)} rejected the data ({first}); correct or omit them.") from error
        raise DatabaseError(f"{_name(engine)} rejected the query ({first}); {_cure(engine, first)}.") from error


def _name(engine: Engine) -> str:
    """Its name in sentences, without the rest of its URL, such as a password."""
    hosts = ", ".join(_hosts(engine.url))
    return f"The database {engine.url.database}" + (f" on {hosts}" if hosts else "")


def _hosts(url: URL) -> Sequence[str]:
    """The database's hosts; a socket's folder begins with a slash."""
    hosts = url.host or url.query.get("host", ())
    return (hosts,) if isinstance(hosts, str) else hosts


def _cure(engine: Engine, cause: str) -> str:
    if "locked" in cause or "lock timeout" in cause:
        return "another program keeps it locked: end that program, or try again"
    if engine.dialect.name == "sqlite":
        return "check its disk (free some space where it is full) and its permissions"
    return "check that it runs, and the name, the user and the password in its URL"


def migrate(engine: Engine) -> None:
    """Create the tables, or bring them up to date; BloodedgeError when a newer bloodedge made them."""
    from alembic import command
    from alembic.util.exc import CommandError

    try:
        with writing(engine) as connection:
            command.upgrade(_alembic(connection), "head")
    except CommandError as error:
        raise BloodedgeError(f"{_name(engine)} was made by a newer bloodedge ({error}); upgrade this one.") from error
    except SQLAlchemyError as error:
        raise BloodedgeError(f"{_name(engine)} could not be brought up to date ({error}); it is unchanged.") from error


def require_current(engine: Engine) -> None:
    """Raise BloodedgeError unless the tables are of this version; only the server brings them up to date."""
    with reading(engine) as connection:
        has_tables = inspect(connection).has_table("alembic_version")
        query = text("SELECT version_num FROM alembic_version")
        now: str | None = connection.execute(query).scalar_one_or_none() if has_tables else None
    if now != head_revision():
        state = "has no tables yet" if now is None else "is of another version"
        raise BloodedgeError(f"{_name(engine)} {state}; start its server once: bloodedge fleet serve")


def head_revision() -> str | None:
    """Revision of the newest migration."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.attributes["connection"] = connection
    return config
