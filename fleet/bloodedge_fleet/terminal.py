"""Boards and roll-outs in the terminal, and as JSON for programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bloodedge.console import console, plain
from bloodedge.report import milliseconds, percent
from bloodedge.tables import print_table
from bloodedge_fleet.boards.overview import Board
from bloodedge_fleet.rollouts.overview import RolloutView

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "silent": "red", "offline": "red", "new": "dim"}

DASH = "\N{EN DASH}"


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
    """Print a table of boards, and below it their problems."""
    from rich.text import Text

    out = console()
    if not boards:
        out.print("No board has reported yet; set mqtt.host on each, and see firmware_configs/README.md.")
        return
    columns = ("board", "state", "bundle", "uncertain", "inference ms", "baseline ms", "reviewed right")
    rows = [(plain(board.name), Text(board.state, COLOURS[board.state]), *_cells(board)) for board in boards]
    print_table(columns, rows, left=columns[:3], sentences={"board", "bundle"})
    for board in boards:
        if board.sentence:
            out.print(plain(f"{board.name}: {board.sentence}"))


def _cells(board: Board) -> list["str | Text"]:
    report = board.report
    if report is None:
        return [DASH] * 5
    reviewed = board.reviewed_accuracy
    return [
        plain(report.bundle.title),
        percent(report.uncertain_share),
        DASH if board.inference_ms is None else milliseconds(board.inference_ms),
        milliseconds(report.bundle.baseline.latency_ms.p50),
        DASH if reviewed is None else percent(reviewed[0]),
    ]


def rollout_rows(found: Sequence[RolloutView]) -> list[dict[str, Any]]:
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
        for rollout, row in ((view.rollout, view.row) for view in found)
    ]


def print_rollouts(found: Sequence[RolloutView]) -> None:
    """Print a paragraph for each roll-out."""
    out = console()
    if not found:
        out.print("There is no roll-out; begin one with: bloodedge fleet rollout BUNDLE --trust FOLDER")
    for view in found:
        rollout, row = view.rollout, view.row
        stage = f"stage {rollout.stage + 1} of {len(rollout.stages)}"
        out.print(plain(f"{rollout.name}  {row.bundle} {row.serial}  {rollout.state}, {stage}: {view.counts}"))
        for text in [rollout.why, *(f"{part.board}: {part.why}" for part in view.parts if part.why)]:
            if text:
                out.print(plain(f"  {text}"))
