"""What follows from what boards report: which are asked next, and when a roll-out halts. No database, no broker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, get_args

from bloodedge.board import BoardReport
from bloodedge.errors import UsageError

BoardState = Literal["waiting", "asked", "installed", "good", "failed"]
BOARD_STATES: tuple[BoardState, ...] = get_args(BoardState)
RolloutState = Literal["running", "done", "halted"]


@dataclass(frozen=True)
class Step:
    """How far one board is."""

    board: str
    state: BoardState
    since: datetime
    why: str = ""
    """Why it failed, or what it waits for."""


@dataclass(frozen=True)
class Rollout:
    """A bundle on its way."""

    name: str
    sha256: str
    stages: tuple[int, ...]
    """Boards asked by the end of each stage, ascending; the last is all of them."""
    soak_s: float
    """Every board of a stage has to run the bundle well for so long before the next stage."""
    halt_on: int
    """So many failed boards halt it."""
    steps: tuple[Step, ...]
    """In the order in which boards are asked."""
    state: RolloutState = "running"
    stage: int = 0
    why: str = ""

    @property
    def in_stage(self) -> tuple[Step, ...]:
        """Boards that have been asked by now, or are to be."""
        return self.steps[: self.stages[self.stage]]

    def number(self, state: BoardState) -> int:
        """Boards in a state."""
        return sum(step.state == state for step in self.steps)


def plan(boards: int, canary: int, percents: Sequence[float]) -> tuple[int, ...]:
    """How many boards are asked by the end of each stage: the canaries, then shares of all, and at last all.

    Raises UsageError when there is no board, or the shares do not ascend within 0..100.
    """
    require_ascending(percents)
    require_boards(boards)
    counts = [min(canary, boards), *(math.ceil(boards * percent / 100) for percent in percents), boards]
    return tuple(sorted({count for count in counts if count > 0}))


def require_boards(boards: int) -> None:
    """UsageError when there is no board."""
    if boards < 1:
        raise UsageError("There is no board to roll out to; name one that has reported (see: bloodedge fleet boards).")


def require_ascending(percents: Sequence[float]) -> None:
    """UsageError when shares do not ascend within 0..100."""
    if any(not 0 < percent <= 100 for percent in percents) or sorted(set(percents)) != list(percents):
        raise UsageError("--percent takes ascending shares of the boards, such as 10,50,100.")


def advanced(rollout: Rollout, reports: dict[str, BoardReport], now: datetime) -> Rollout:
    """The roll-out after the newest reports of its boards; itself where nothing has changed."""
    if rollout.state != "running":
        return rollout
    asked = len(rollout.in_stage)
    steps = tuple(
        _advanced(step, rollout, reports.get(step.board), now) if place < asked else step
        for place, step in enumerate(rollout.steps)
    )
    rollout = replace(rollout, steps=steps)
    failed = [step for step in steps if step.state == "failed"]
    if len(failed) >= rollout.halt_on:
        why = f"{failed[-1].board}: {failed[-1].why}"
        return replace(rollout, state="halted", why=why)
    if any(not _has_soaked(step, rollout, reports.get(step.board), now) for step in rollout.in_stage):
        return rollout
    if rollout.stage + 1 == len(rollout.stages):
        return replace(rollout, state="done")
    return advanced(replace(rollout, stage=rollout.stage + 1), reports, now)


def _advanced(step: Step, rollout: Rollout, report: BoardReport | None, now: datetime) -> Step:
    if step.state == "failed":
        return step
    state, why = _seen(step, rollout, report)
    if state == step.state:
        return replace(step, why=why)
    return replace(step, state=state, since=now, why=why)


def _seen(step: Step, rollout: Rollout, report: BoardReport | None) -> tuple[BoardState, str]:
    """What a board that was asked has come to, and why."""
    told = None if report is None else report.wanted
    if told is None or told.rollout != rollout.name:
        told = None
    elif told.state in {"refused", "went back"}:
        return "failed", told.sentence or f"The board says no more than: {told.state}."
    if report is not None and report.bundle.sha256 == rollout.sha256:
        return _running(report)
    if step.state in {"installed", "good"}:
        return "failed", "The board runs another bundle again."
    return "asked", "" if told is None else told.sentence


def _running(report: BoardReport) -> tuple[BoardState, str]:
    """What a board has come to that runs the bundle."""
    if report.bundle.state != "good":
        return "installed", "On probation."
    if not report.alive or report.level == "failed":
        return "installed", "The board is not well."
    return "good", ""


def _has_soaked(step: Step, rollout: Rollout, report: BoardReport | None, now: datetime) -> bool:
    """Whether a board has run the bundle well for long enough and reports it still, or is given up."""
    if step.state == "failed":
        return True
    if step.state != "good" or report is None:
        return False
    return now - step.since >= timedelta(seconds=rollout.soak_s)
