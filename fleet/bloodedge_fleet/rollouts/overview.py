"""What the page, the command line and the metrics tell of roll-outs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select

from bloodedge_fleet.boards.overview import read_away
from bloodedge_fleet.database.tables import rollouts
from bloodedge_fleet.rollouts.stages import BOARD_STATES, Rollout
from bloodedge_fleet.rollouts.store import read_rollouts

ENDED = {"waiting": "not asked", "asked": "withdrawn"}
"""What a board's state is called once nobody waits for it any more."""


@dataclass(frozen=True)
class Part:
    """One board's part in a roll-out, in words."""

    board: str
    state: str
    lasted: timedelta
    """How long it has been so, or was when the roll-out ended."""
    why: str
    """Why it failed, or what it waits for."""


@dataclass(frozen=True)
class Shown:
    """A roll-out as it is shown."""

    rollout: Rollout
    row: Row[Any]
    """With began, ended and its bundle."""
    parts: tuple[Part, ...]

    @property
    def failed(self) -> tuple[Part, ...]:
        """Of the boards, those that failed."""
        return tuple(part for part in self.parts if part.state == "failed")

    @property
    def counts(self) -> str:
        """Boards by state, such as "2 good, 1 not asked"."""
        counts = Counter(part.state for part in self.parts)
        return ", ".join(f"{counts[state]} {state}" for state in (*BOARD_STATES, *ENDED.values()) if counts[state])


def read_shown(
    connection: Connection, silent: timedelta, *, among: list[str] | None = None, now: datetime | None = None
) -> list[Shown]:
    """Every roll-out, or those of these names, the newest first; silent: as for read_boards."""
    now = now or datetime.now(UTC)
    away = read_away(connection, silent, now)
    return [
        Shown(rollout, row, _going(rollout, away, now) if rollout.state == "running" else _gone(rollout, row.ended))
        for rollout, row in read_rollouts(connection, among=among)
    ]


def _going(rollout: Rollout, away: Mapping[str, str], now: datetime) -> tuple[Part, ...]:
    asked = {step.board for step in rollout.in_stage if step.state != "failed"}
    parts = []
    for step in rollout.steps:
        holds_up = away.get(step.board, "") if step.board in asked else ""
        why = step.why if holds_up in step.why else f"{step.why} {holds_up}".strip()
        parts.append(Part(step.board, step.state, now - step.since, why))
    return tuple(parts)


def _gone(rollout: Rollout, ended: datetime) -> tuple[Part, ...]:
    return tuple(
        Part(step.board, ENDED.get(step.state, step.state), ended - step.since, step.why) for step in rollout.steps
    )


def newest_names(connection: Connection, number: int) -> list[str]:
    """Of that many roll-outs, the newest, and of all that run."""
    newest = connection.execute(select(rollouts.c.name).order_by(rollouts.c.began.desc()).limit(number)).scalars()
    running = connection.execute(select(rollouts.c.name).where(rollouts.c.state == "running")).scalars()
    return [*{*newest, *running}]


def count_states(connection: Connection) -> dict[str, int]:
    """How many roll-outs there are in each state."""
    query = select(rollouts.c.state, func.count()).group_by(rollouts.c.state)
    return dict(connection.execute(query).tuples().all())
