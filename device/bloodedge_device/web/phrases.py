"""The live page's sentences, and where the focus meter's needle stands."""

from collections.abc import Mapping
from dataclasses import dataclass

from bloodedge.decision.kinds import OTHER, kind_words
from bloodedge.decision.thresholds import WHY_UNCERTAIN, Reason
from bloodedge.report import count, percent
from bloodedge_device.store.rows import CalledCell
from bloodedge_device.web.status import FrameStatus, SlideStatus

FRAME_REASONS = {
    "out_of_focus": "Out of focus: turn the fine focus.",
    "motion_blur": "Blurred by movement: hold the stage still.",
    "too_dark": "Too dark: turn up the lamp.",
    "too_bright": "Too bright: turn down the lamp.",
    "no_cell": "No white cell in this field: move the stage.",
    "bad_frame": "The camera sent a frame that cannot be read: check its cable.",
}

SHARP = 1.25
"""Times the needed focus; above it, turning the knob gains little."""


@dataclass(frozen=True)
class Focus:
    """The focus meter."""

    text: str
    words: str
    at: float
    """Where the needle stands, 0..100; the needed focus is at 50."""
    good: bool


def verdict(frame: FrameStatus) -> tuple[bool, str]:
    """Whether a frame was used, and a sentence about it."""
    if frame.reason == "bad_frame" and frame.detail:
        return False, frame.detail
    if frame.reason is not None:
        return frame.reason == "no_cell", FRAME_REASONS.get(frame.reason, frame.reason.replace("_", " "))
    number = len(frame.cells)
    if faults := sum(cell.reason == Reason.MODEL_FAULT for cell in frame.cells):
        return False, f"The network gave no probability for {faults} of {number} white cells: install another bundle."
    return True, f"Sharp, {number} white {'cell' if number == 1 else 'cells'}."


def focus(frame: FrameStatus) -> Focus | None:
    """The focus meter of a frame; None when its focus was not measured."""
    if frame.focus is None or frame.focus_needed <= 0:
        return None
    ratio = frame.focus / frame.focus_needed
    words = "not sharp enough" if ratio < 1 else "just sharp enough" if ratio < SHARP else "sharp"
    return Focus(
        f"{frame.focus:.3g}, {frame.focus_needed:.3g} needed", words, round(min(100.0, 50 * ratio), 1), ratio >= 1
    )


def why(reason: str) -> str:
    """Why a cell is uncertain."""
    return WHY_UNCERTAIN.get(reason, reason.replace("_", " "))


def described(cell: CalledCell) -> str:
    """What the device says of a cell, in words."""
    kind = "" if cell.kind is None else kind_words(cell.kind, cell.stage)
    if cell.label == OTHER:
        return f"{kind}: blast or normal? is not asked of it"
    call = cell.label + (f" ({why(cell.reason)})" if cell.reason else "")
    return f"{kind}: {call}" if kind else call


def why_uncertain(reasons: Mapping[str, int]) -> dict[str, int]:
    """Uncertain cells by reason, in words."""
    return {why(reason): cells for reason, cells in reasons.items()}


def progress(slide: SlideStatus) -> tuple[int, str]:
    """How far a slide is from enough cells: 0..100, and a sentence."""
    called = slide.blasts + slide.normals
    if slide.enough:
        return 100, f"Enough cells: the share is known within {percent(slide.half_width, 0)} either way."
    if slide.cells_needed is None:
        return 100, f"More cells will not bring the share within {percent(slide.half_width, 0)} either way."
    return round(100 * called / (called + slide.cells_needed)), f"About {count(slide.cells_needed)} more cells needed."


def summary(slide: SlideStatus | None) -> str:
    """The slide's figure for screen readers."""
    if slide is None:
        return "There is no current slide."
    if slide.blast_share is None:
        return "No cell was called yet."
    figure = f"Blasts: {slide.share_headline}. " if "%" in slide.share_headline else ""
    return f"{figure}{slide.share_sentences[0]} {progress(slide)[1]}"
