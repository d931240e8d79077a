"""How often a person who looks at the cells agrees with what the device said of them.

Only cells drawn at random stand for the slide. Those that a person picked in the gallery are its extremes, the most
blast-like and the most uncertain: figures from them are biased, and are never mixed with the others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bloodedge.decision.thresholds import LABELS
from bloodedge.metrics import auc
from bloodedge_device.slide.interval import ClusteredShare

ReviewLabel = Literal["blast", "normal", "not_a_cell", "unsure"]
REVIEW_LABELS: tuple[ReviewLabel, ...] = get_args(ReviewLabel)
"""What a person may say of a cell; the last two are counted, but are neither right nor wrong."""
Sampling = Literal["random", "gallery"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
"""How the reviewed cells were come by: drawn at random from all that were found, or picked in the gallery."""


@dataclass(frozen=True)
class ReviewedCell:
    """A cell, what the device said of it and what a person says."""

    said: str
    """blast, normal or uncertain."""
    person: ReviewLabel
    blast_probability: float | None
    """Calibrated, 0..1; None when it was not classified."""
    cluster: int
    """Its frame, or its slide where several slides are put together."""
    sampling: Sampling


@dataclass(frozen=True)
class ReviewFigures:
    """The device held against a person, over cells of one sampling."""

    sampling: Sampling
    answers: dict[ReviewLabel, int]
    """What the person said, of all reviewed cells."""
    uncertain: dict[ReviewLabel, int]
    """What the person said of the cells that the device called uncertain."""
    confusion: tuple[tuple[int, ...], ...]
    """The person's normal and blast (rows) by the device's (columns), (2, 2), of called cells."""
    accuracy: ClusteredShare
    """Right among the called."""
    sensitivity: ClusteredShare
    """Called a blast among the person's called blasts."""
    specificity: ClusteredShare
    """Called normal among the person's called normal cells."""
    auc: float | None
    """Of the probabilities of all cells that have one and that the person named, uncertain ones too; None when a class
    is missing."""

    @property
    def reviewed(self) -> int:
        """Cells that a person looked at."""
        return sum(self.answers.values())

    @property
    def unbiased(self) -> bool:
        """Whether the figures stand for the slide's cells."""
        return self.sampling == "random"


def review_figures(cells: Sequence[ReviewedCell]) -> dict[Sampling, ReviewFigures]:
    """Figures of the reviewed cells by how they were come by; every sampling is there, without cells too."""
    return {
        sampling: _figures(sampling, [cell for cell in cells if cell.sampling == sampling]) for sampling in SAMPLINGS
    }


def _figures(sampling: Sampling, cells: list[ReviewedCell]) -> ReviewFigures:
    named = [cell for cell in cells if cell.person in LABELS]
    called = [cell for cell in named if cell.said in LABELS]
    pairs = Counter[tuple[str, str]]((cell.person, cell.said) for cell in called)
    judged = [(cell.person == "blast", p) for cell in named if (p := cell.blast_probability) is not None]
    return ReviewFigures(
        sampling=sampling,
        answers=_answers(cells),
        uncertain=_answers([cell for cell in cells if cell.said == "uncertain"]),
        confusion=tuple(tuple(pairs[person, said] for said in LABELS) for person in LABELS),
        accuracy=_right(called),
        sensitivity=_right([cell for cell in called if cell.person == "blast"]),
        specificity=_right([cell for cell in called if cell.person == "normal"]),
        auc=auc([blast for blast, _ in judged], [probability for _, probability in judged]),
    )


def _answers(cells: list[ReviewedCell]) -> dict[ReviewLabel, int]:
    counts = Counter(cell.person for cell in cells)
    return {label: counts[label] for label in REVIEW_LABELS}


def _right(cells: list[ReviewedCell]) -> ClusteredShare:
    whole = Counter(cell.cluster for cell in cells)
    part = Counter(cell.cluster for cell in cells if cell.said == cell.person)
    return ClusteredShare([part[cluster] for cluster in whole], list(whole.values()))
