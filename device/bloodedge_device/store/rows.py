"""Slides and cells as the database has them, for the page and for programs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from bloodedge.decision.kinds import Kind, Stage
from bloodedge.decision.prevalence import ShareFigures
from bloodedge.decision.slide_verdict import SlideVerdict, VerdictFigures
from bloodedge.imaging import Box
from bloodedge_device.slide.share import SlideShare


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class ShareRow(_Row):
    """A slide's share of blasts, as called and corrected, and its verdict."""

    blast_share: float | None
    """Among called cells, as called, 0..1; see corrected_share"""
    blast_ci95: tuple[float, float]
    """Wilson's interval: as if cells were independent"""
    blast_ci95_clustered: tuple[float, float] | None
    """With cells of a frame resembling each other"""
    corrected_share: ShareFigures
    share_headline: str
    """The corrected share in a word or two"""
    share_sentences: list[str]
    """What to say beside it, the most important first"""

    verdict: VerdictFigures | None
    """What the slide as a whole looks like; null where the bundle holds no held-out people's scores"""
    verdict_headline: str
    """The verdict in a few words; empty where there is none"""
    verdict_sentences: list[str]

    @staticmethod
    def values(share: SlideShare, verdict: SlideVerdict | None) -> dict[str, Any]:
        """The fields of a slide's share and verdict."""
        return {
            "blast_share": share.counted.share,
            "blast_ci95": share.counted.ci95,
            "blast_ci95_clustered": share.counted.clustered_ci95,
            "corrected_share": share.figures,
            "share_headline": share.headline,
            "share_sentences": share.sentences,
            "verdict": verdict and verdict.figures,
            "verdict_headline": verdict.headline if verdict else "",
            "verdict_sentences": verdict.sentences if verdict else [],
        }


class SlideRow(ShareRow):
    """A slide in the list. Cells seen in several frames count once."""

    id: int
    label: str
    started: datetime
    finished: datetime | None
    """null while it is the current slide, and for ever after a power cut"""
    cells: int
    blasts: int
    normals: int
    reviewed: int
    """Cells that a person looked at"""


class CalledCell(_Row):
    """What became of a cell."""

    box: Box
    """x, y, width, height in pixels of the frame"""
    label: str
    """blast, normal or uncertain; other where that is not asked of its kind"""
    blast_probability: float | None
    """Calibrated, 0..1; null when the cell was not classified"""
    reason: str | None
    """Why it is uncertain; model_fault: the network gave no probability"""
    area_um2: float
    repeated: bool
    """Another view shows the same cell, and it counts there"""
    kind: Kind | None = None
    """What kind of cell it is; null where that was not told"""
    kind_probability: float | None = None
    """Calibrated, 0..1; of the likeliest kind where it is unknown"""
    stage: Stage | None = None
    """band or segmented, of a neutrophil"""


class CellRow(CalledCell):
    """A cell of a slide."""

    id: int
    frame: int
    """The frame's number on its slide"""
    source: str
    """The frame's file name, where it has one"""
    captured_at: datetime
    review: str | None
    """The class in the latest review; null without one, and where only the kind was said"""
    review_kind: Kind | None = None
    """The kind in the latest review"""
    review_stage: Stage | None = None
    has_crop: bool
