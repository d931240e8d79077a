"""What programs send and receive, besides the daemon's status."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from bloodedge.config import Strict
from bloodedge.decision.kinds import Kind, Stage
from bloodedge.text import ONE_LINE
from bloodedge_device.slide.review import ReviewLabel, Sampling
from bloodedge_device.store.rows import CellRow, SlideRow

MOST = 2**53
"""Ids up to here are exact in every program; no database has so many."""

Label = Annotated[str, StringConstraints(max_length=200, pattern=ONE_LINE)]
"""A slide's label, one line."""


class StatusQuery(Strict):
    """Of GET /api/v1/status."""

    after: int = Field(default=0, ge=0, le=MOST, description="Answer once a frame with a higher number is there")
    wait_s: float = Field(default=0, ge=0, le=20, description="But after so many seconds in any case")


class SlidesQuery(Strict):
    """Of GET /api/v1/slides."""

    before: int = Field(default=MOST, ge=1, le=MOST, description="Slides with a lower id")
    limit: int = Field(default=50, ge=1, le=200)


class CellsQuery(Strict):
    """Of GET /api/v1/slides/{slide}/cells."""

    after: int = Field(default=0, ge=0, le=MOST, description="Cells with a higher id")
    limit: int = Field(default=500, ge=1, le=1000)


class ExportQuery(Strict):
    """Of GET /api/v1/cells.zip."""

    reviewed: bool = Field(default=False, description="Only cells that somebody reviewed")
    slides: str = Field(
        default="", max_length=1000, description="Only these slides: ids or labels, with commas between"
    )
    since: str = Field(default="", max_length=40, description="Only cells captured from this date on")


class SlideLabel(Strict):
    """What to call a slide."""

    label: Label


class NewReview(Strict):
    """What a person says of a cell: its class (label), its kind or both. It replaces an earlier review."""

    label: ReviewLabel | None = None
    kind: Kind | None = None
    stage: Stage | None = Field(default=None, description="Of a neutrophil: band or segmented")
    sampling: Sampling = Field(description="How the cell was chosen; only random ones represent the slide")


class SlideReference(BaseModel):
    """A slide."""

    slide: int


class ReviewReference(BaseModel):
    """A stored review."""

    cell: int
    label: ReviewLabel | None
    kind: Kind | None = None
    stage: Stage | None = None


class SlideList(BaseModel):
    """Newest first."""

    slides: list[SlideRow]


class CellList(BaseModel):
    """Oldest first; ask again ``after`` the last one's id until there are none."""

    cells: list[CellRow]


class Problem(BaseModel):
    """What went wrong."""

    error: str = Field(description="One sentence that says what to do")
