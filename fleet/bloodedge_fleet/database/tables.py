"""The tables; ``migrations`` creates them, and a test compares the two."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class Utc(TypeDecorator[datetime]):
    """A moment, stored in UTC and always read with its time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; SQLite has no time zones."""
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

TOTALS = ("frames", "blasts", "normals", "uncertain")

MAX_NAME = 200
"""Most characters of a board's name."""


def _totals() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in TOTALS]


boards = Table(
    "boards",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(MAX_NAME), nullable=False, unique=True),
    Column("first_seen", Utc, nullable=False),
    Column("last_report", Utc),  # when the newest report was stored, by this server's clock
    Column("online", Boolean),  # what the broker says of its connection
    Column("online_since", Utc),
    Column("report", Text),  # the newest, JSON of BoardReport
)

forgotten = Table(  # boards that a person had forgotten, and that have not reported since
    "forgotten",
    metadata,
    Column("name", String(MAX_NAME), primary_key=True),
)

boots = Table(  # a board's daemon from one start to the next
    "boots",
    metadata,
    Column("board", ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
    Column("boot", String(32), primary_key=True),
    Column("began", Utc, nullable=False),
    Column("first", BigInteger, nullable=False),  # sequence number that was to come first
    Column("highest", BigInteger, nullable=False),  # and the highest that came
    Column("reports", BigInteger, nullable=False),  # stored; fewer than ``first`` to ``highest`` when some were lost
    *_totals(),  # of the report with the highest number
)

reports = Table(
    "reports",
    metadata,
    Column("board", ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
    Column("boot", String(32), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("sent_at", Utc, nullable=False),  # by the board's clock
    Column("stored_at", Utc, nullable=False),  # by this server's
    Column("bundle", String(140), nullable=False),
    Column("level", String(10), nullable=False),
    Column("temperature_c", Float),
    *_totals(),  # since the report before, like the following
    Column("cells_timed", BigInteger, nullable=False),
    Column("inference_p50_ms", Float),
    Column("inference_p95_ms", Float),
)
Index("ix_reports_stored_at", reports.c.stored_at)

hours = Table(  # what reports come to by the hour in which they were sent; kept when reports are removed
    "hours",
    metadata,
    Column("board", ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
    Column("hour", Utc, primary_key=True),
    Column("bundle", String(140), primary_key=True),
    Column("reports", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),  # reports of a board of which a part had failed
    *_totals(),
    Column("cells_timed", BigInteger, nullable=False),
    Column("inference_p50_sum_ms", Float, nullable=False),  # each report's p50 times its cells
    Column("inference_p95_max_ms", Float, nullable=False),
)

refused = Table(  # messages that could not be read
    "refused",
    metadata,
    Column("board", String(MAX_NAME), primary_key=True),  # as the topic names it, known or not
    Column("messages", BigInteger, nullable=False),
    Column("last_at", Utc, nullable=False),
    Column("sentence", Text, nullable=False),
)

bundles = Table(  # files in the server's folder, offered to boards
    "bundles",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("signer", String(200), nullable=False),
    Column("added_at", Utc, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("sha256", ForeignKey("bundles.sha256"), nullable=False),
    Column("began", Utc, nullable=False),
    Column("stages", Text, nullable=False),  # JSON: boards asked by the end of each stage, [1, 10, 200]
    Column("soak_s", Float, nullable=False),
    Column("halt_on", Integer, nullable=False),
    Column("state", String(10), nullable=False),  # running, done, halted
    Column("stage", Integer, nullable=False),  # from 0
    Column("why", Text, nullable=False),
    Column("ended", Utc),
)

rollout_boards = Table(
    "rollout_boards",
    metadata,
    Column("rollout", ForeignKey("rollouts.name", ondelete="CASCADE"), primary_key=True),
    Column("board", ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, nullable=False),  # in the order in which boards are asked, from 0
    Column("state", String(10), nullable=False),  # waiting, asked, installed, good, failed
    Column("since", Utc, nullable=False),
    Column("why", Text, nullable=False),
    Column("boot", String(32), nullable=False, server_default=""),  # daemon's start in which it runs the bundle well
    Column("uptime_s", Float, nullable=False, server_default="0"),  # and how long that was up when it was seen first
)
