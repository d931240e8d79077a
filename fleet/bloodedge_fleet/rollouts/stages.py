"""How boards' reports move a roll-out on: which boards are asked next, and when it halts. No database, no broker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, get_args

from bloodedge.errors import UsageError
from bloodedge.fleet_messages import BoardReport

BoardState = Literal["waiting", "asked", "installed", "good", "failed"]
BOARD_STATES: tuple[BoardState, ...] = get_args(BoardState)
RolloutState = Literal["running", "done", "halted"]


@dataclass(frozen=True)
class Step:
    """One board's progress."""

    board: str
    state: BoardState
    since: datetime
    why: str = ""
    """Why it failed, or what it waits for."""
    boot: str = ""
    """Start of its daemon in which it runs the bundle well."""
    uptime_s: float = 0.0
    """Uptime of that daemon in its first report of that."""


@dataclass(frozen=True)
class LastReport:
    """A board's last report."""

    report: BoardReport
    at: datetime
    """When it was stored."""
    unreachable: bool = False
    """The board has no connection by now, or is silent."""


@dataclass(frozen=True)
class Rollout:
    """A bundle on its way to boards."""

    name: str
    sha256: str
    stages: tuple[int, ...]
    """Boards asked by the end of each stage, ascending; the last is all of them."""
    soak_s: float
    """Every board of a stage must run the bundle well for so long before the next stage."""
    halt_on: int
    """This many failed boards halt it."""
    steps: tuple[Step, ...]
    """In the order in which boards are asked."""
    state: RolloutState = "running"
    stage: int = 0
    why: str = ""

    @property
    def in_stage(self) -> tuple[Step, ...]:
        """Boards up to the present stage."""
        return self.steps[: self.stages[self.stage]]

    def number(self, state: BoardState) -> int:
        """How many boards are in a state."""
        return sum(step.state == state for step in self.steps)


def plan(boards: int, canary: int, percents: Sequence[float]) -> tuple[int, ...]:
    """How many boards are asked by the end of each stage: the canaries, then shares of all boards, finally all.

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


def advanced(rollout: Rollout, last_reports: dict[str, LastReport], now: datetime) -> Rollout:
    """The roll-out after its boards' last reports; itself where nothing changed."""
    if rollout.state != "running":
        return rollout
    asked = len(rollout.in_stage)
    steps = tuple(
        _advanced(step, rollout, last_reports.get(step.board), now) if place < asked else step
        for place, step in enumerate(rollout.steps)
    )
    rollout = replace(rollout, steps=steps)
    failed = [step for step in steps if step.state == "failed"]
    if len(failed) >= rollout.halt_on:
        why = f"{failed[-1].board}: {failed[-1].why}"
        return replace(rollout, state="halted", why=why)
    if not all(_has_soaked(step, rollout, last_reports.get(step.board)) for step in rollout.in_stage):
        return rollout
    if rollout.stage + 1 == len(rollout.stages):
        return replace(rollout, state="done")
    return advanced(replace(rollout, stage=rollout.stage + 1), last_reports, now)


def _advanced(step: Step, rollout: Rollout, last: LastReport | None, now: datetime) -> Step:
    if step.state == "waiting":
        step = replace(step, state="asked", since=now)
    if step.state == "failed" or last is None or (step.state == "asked" and last.at < step.since):
        return step  # a report from before the board was asked is no answer
    state, why = _state(step, rollout, last.report)
    boot, uptime_s = (last.report.boot, last.report.uptime_s) if state == "good" else ("", 0.0)
    if (state, boot) == (step.state, step.boot):
        return replace(step, why=why)
    return replace(step, state=state, since=now, why=why, boot=boot, uptime_s=uptime_s)


def _state(step: Step, rollout: Rollout, report: BoardReport) -> tuple[BoardState, str]:
    """The state of a board that was asked, and why."""
    answer = report.wanted
    if answer is None or answer.rollout != rollout.name:
        answer = None
    elif answer.state in {"refused", "went back"}:
        return "failed", answer.sentence or f"The board gives no reason; its state is: {answer.state}."
    if report.bundle.sha256 == rollout.sha256:
        return _running(report)
    if step.state in {"installed", "good"}:
        return "failed", "The board went back to another bundle."
    return "asked", "" if answer is None else answer.sentence


def _running(report: BoardReport) -> tuple[BoardState, str]:
    """The state of a board that runs the bundle, and why."""
    if report.bundle.state != "good":
        return "installed", "On probation."
    if not report.alive or report.level == "failed":
        return "installed", "The board reports a problem."
    return "good", ""


def _has_soaked(step: Step, rollout: Rollout, last: LastReport | None) -> bool:
    """Whether a board has run the bundle well for long enough and still reports it, or has failed.

    The daemon's uptime counts, from one report to another. Time without reports does not count, nor does time in which
    reports waited somewhere.
    """
    if step.state != "good" or last is None or last.unreachable:
        return step.state == "failed"
    return last.report.uptime_s - step.uptime_s >= rollout.soak_s
