"""Boards and roll-outs in the terminal, and as JSON for programs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from bloodedge.console import console
from bloodedge.report import milliseconds, percent
from bloodedge_fleet.boards.overview import Board
from bloodedge_fleet.rollouts.stages import BOARD_STATES, Rollout

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "silent": "red", "offline": "red", "new": "dim"}

DASH = "\N{EN DASH}"
Found = Sequence[tuple[Rollout, Row[Any]]]


def board_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Each board with its newest report, ready for JSON."""
    return [
        {
            "name": board.name,
            "state": board.state,
            "sentence": board.sentence,
            "last_report": None if board.last_report is None else board.last_report.isoformat(),
            "reports_missing": board.missing,
            "latency_over_baseline": board.times_baseline,
            "report": None if board.report is None else board.report.model_dump(mode="json"),
        }
        for board in boards
    ]


def print_boards(boards: Sequence[Board]) -> None:
    """A table, and below it what is wrong with which board."""
    from rich.table import Table

    out = console()
    if not boards:
        out.print("No board has reported yet; set mqtt.host on each, and see firmware_configs/README.md.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("board", "state", "bundle", "uncertain", "inference ms", "baseline ms", "reviewed right"):
        table.add_column(title, justify="left" if title in {"board", "state", "bundle"} else "right")
    for board in boards:
        table.add_row(board.name, f"[{COLOURS[board.state]}]{board.state}[/]", *_cells(board))
    out.print(table)
    for board in boards:
        if board.sentence:
            out.print(f"{board.name}: {board.sentence}", markup=False)


def _cells(board: Board) -> list[str]:
    report = board.report
    if report is None:
        return [DASH] * 5
    reviewed = board.reviewed_accuracy
    return [
        report.bundle.title,
        percent(report.uncertain_share),
        DASH if board.inference_ms is None else milliseconds(board.inference_ms),
        milliseconds(report.bundle.baseline.latency_ms.p50),
        DASH if reviewed is None else percent(reviewed[0]),
    ]


def rollout_rows(found: Found) -> list[dict[str, Any]]:
    """Each roll-out with its boards, ready for JSON."""
    return [
        {
            "name": rollout.name,
            "bundle": row.bundle,
            "serial": row.serial,
            "sha256": rollout.sha256,
            "state": rollout.state,
            "why": rollout.why,
            "stage": rollout.stage + 1,
            "stages": list(rollout.stages),
            "soak_s": rollout.soak_s,
            "halt_on": rollout.halt_on,
            "began": row.began.isoformat(),
            "ended": None if row.ended is None else row.ended.isoformat(),
            "boards": [
                {"name": step.board, "state": step.state, "since": step.since.isoformat(), "why": step.why}
                for step in rollout.steps
            ],
        }
        for rollout, row in found
    ]


def print_rollouts(found: Found) -> None:
    """A paragraph for each."""
    out = console()
    if not found:
        out.print("There is no roll-out; begin one with: bloodedge fleet rollout BUNDLE --trust FOLDER")
    for rollout, row in found:
        stage = f"stage {rollout.stage + 1} of {len(rollout.stages)}"
        counts = ", ".join(f"{number} {state}" for state in BOARD_STATES if (number := rollout.number(state)))
        out.print(f"{rollout.name}  {row.bundle} {row.serial}  {rollout.state}, {stage}: {counts}", markup=False)
        for text in [rollout.why, *(f"{step.board}: {step.why}" for step in rollout.steps if step.why)]:
            if text:
                out.print(f"  {text}", markup=False)
