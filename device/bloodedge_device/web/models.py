"""What programs send and get, beside the daemon's status."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from bloodedge.config import Strict
from bloodedge.decision.prevalence import ShareFigures
from bloodedge.text import ONE_LINE
from bloodedge_device.slide.review import ReviewLabel, Sampling

MOST = 2**53
"""Ids that every program can hold exactly; far more than a database ever has."""

Label = Annotated[str, StringConstraints(max_length=200, pattern=ONE_LINE)]
"""A slide's: one line."""


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


class SlideLabel(Strict):
    """What to call a slide."""

    label: Label


class NewReview(Strict):
    """What a person says of a cell."""

    label: ReviewLabel
    sampling: Sampling = Field(description="How the cell was come by: only random ones stand for the slide")


class SlideReference(BaseModel):
    """A slide."""

    slide: int


class ReviewReference(BaseModel):
    """A stored review."""

    cell: int
    label: ReviewLabel


class SlideRow(BaseModel):
    """A slide in the list. Cells seen in several frames count once."""

    id: int
    label: str
    started: datetime
    finished: datetime | None = Field(description="null while it is in work, and for ever after a power cut")
    cells: int
    blasts: int
    normals: int
    blast_share: float | None = Field(description="Among called cells, as called, 0..1; see corrected_share")
    blast_ci95: tuple[float, float] = Field(description="Wilson's interval: as if cells were independent")
    blast_ci95_clustered: tuple[float, float] | None = Field(description="With cells of a frame resembling each other")
    corrected_share: ShareFigures
    share_headline: str = Field(description="The corrected share in a word or two")
    share_sentences: list[str] = Field(description="What is to be said beside it, the most important first")
    reviewed: int = Field(description="Cells that a person looked at")


class SlideList(BaseModel):
    """Newest first."""

    slides: list[SlideRow]


class CellRow(BaseModel):
    """A cell of a slide."""

    id: int
    frame: int = Field(description="The frame's number on its slide")
    source: str = Field(description="The frame's file name, where it has one")
    captured_at: datetime
    box: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels of the frame")
    label: str = Field(description="blast, normal or uncertain")
    blast_probability: float | None = Field(description="Calibrated, 0..1; null when the cell was not classified")
    reason: str | None = Field(description="Why it is uncertain; model_fault: the network gave no probability")
    area_um2: float
    repeated: bool = Field(description="Another row shows the same cell, and it counts there")
    review: str | None = Field(description="What a person said of it last")
    has_crop: bool


class CellList(BaseModel):
    """Oldest first; ask again ``after`` the last one's id until there are none."""

    cells: list[CellRow]


class Problem(BaseModel):
    """What went wrong."""

    error: str = Field(description="One sentence that says what to do")
