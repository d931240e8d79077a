"""Roll-outs as the page, the command line and the metrics show them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select

from bloodedge_fleet.boards.overview import read_unreachable
from bloodedge_fleet.database.tables import rollouts
from bloodedge_fleet.rollouts.stages import BOARD_STATES, Rollout
from bloodedge_fleet.rollouts.store import read_rollouts

ENDED = {"waiting": "not asked", "asked": "withdrawn"}
"""Names of a board's state once its roll-out has ended."""


@dataclass(frozen=True)
class Part:
    """One board's part in a roll-out, in words."""

    board: str
    state: str
    lasted: timedelta
    """Time in this state, until now or the roll-out's end."""
    why: str
    """Why it failed, or what it waits for."""


@dataclass(frozen=True)
class RolloutView:
    """A roll-out with its boards in words."""

    rollout: Rollout
    row: Row[Any]
    """With began, ended and its bundle."""
    parts: tuple[Part, ...]

    @property
    def failed(self) -> tuple[Part, ...]:
        """Boards that failed."""
        return tuple(part for part in self.parts if part.state == "failed")

    @property
    def counts(self) -> str:
        """Boards by state, such as "2 good, 1 not asked"."""
        counts = Counter(part.state for part in self.parts)
        return ", ".join(f"{counts[state]} {state}" for state in (*BOARD_STATES, *ENDED.values()) if counts[state])


def read_rollout_views(
    connection: Connection, silent: timedelta, *, among: list[str] | None = None, now: datetime | None = None
) -> list[RolloutView]:
    """Every roll-out, or those named in ``among``, the newest first; silent: as for read_boards."""
    now = now or datetime.now(UTC)
    unreachable = read_unreachable(connection, silent, now)
    return [
        RolloutView(rollout, row, _parts(rollout, row.ended, unreachable, now))
        for rollout, row in read_rollouts(connection, among=among)
    ]


def _parts(rollout: Rollout, ended: datetime | None, unreachable: Mapping[str, str], now: datetime) -> tuple[Part, ...]:
    if ended is not None:
        return tuple(Part(s.board, ENDED.get(s.state, s.state), ended - s.since, s.why) for s in rollout.steps)
    asked = {step.board for step in rollout.in_stage if step.state != "failed"}
    parts = []
    for step in rollout.steps:
        blocks = unreachable.get(step.board, "") if step.board in asked else ""
        why = step.why if blocks in step.why else f"{step.why} {blocks}".strip()
        parts.append(Part(step.board, step.state, now - step.since, why))
    return tuple(parts)


def newest_names(connection: Connection, number: int) -> list[str]:
    """Names of so many of the newest roll-outs, and of all that run."""
    newest = connection.execute(select(rollouts.c.name).order_by(rollouts.c.began.desc()).limit(number)).scalars()
    running = connection.execute(select(rollouts.c.name).where(rollouts.c.state == "running")).scalars()
    return [*{*newest, *running}]


def count_states(connection: Connection) -> dict[str, int]:
    """How many roll-outs there are in each state."""
    query = select(rollouts.c.state, func.count()).group_by(rollouts.c.state)
    return dict(connection.execute(query).tuples().all())
