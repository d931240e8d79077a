"""What reviewers say of cells, and how often they agree with the device.

Only cells drawn at random represent the slide. Those that a person picked in the gallery are its extremes, the most
blast-like and the most uncertain: figures from them are biased, and are never mixed with the others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from bloodedge.decision.kinds import Kind, Stage
from bloodedge.decision.thresholds import LABELS
from bloodedge.errors import UsageError
from bloodedge.metrics import auc
from bloodedge_device.slide.interval import ClusteredShare

ReviewLabel = Literal["blast", "normal", "not_a_cell", "unsure"]
REVIEW_LABELS: tuple[ReviewLabel, ...] = get_args(ReviewLabel)
"""A reviewer's labels; the last two are counted, but are neither right nor wrong."""
Sampling = Literal["random", "gallery", "chosen"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
"""How the reviewed cells were chosen: drawn at random from all cells, picked in the gallery, or chosen to teach the
model most."""
OF_A_SLIDE: tuple[Sampling, ...] = ("random", "gallery")
"""How cells are chosen in the review of one slide."""


@dataclass(frozen=True)
class Review:
    """What a person says of a cell: its class, its kind, or both; it replaces what was said before."""

    label: ReviewLabel | None = None
    """None: only the kind is said."""
    kind: Kind | None = None
    """None: only the class is said."""
    stage: Stage | None = None
    """Of a neutrophil."""

    @classmethod
    def of(cls, label: str | None = None, kind: str | None = None, stage: str | None = None) -> "Review":
        """Of words from outside; raises UsageError where they are none, or say nothing."""
        for value, allowed in ((label, REVIEW_LABELS), (kind, tuple(Kind)), (stage, get_args(Stage))):
            if value is not None and value not in allowed:
                raise UsageError(f'"{value}" is not one of {", ".join(allowed)}.')
        if label is None and kind is None:
            raise UsageError("A review says a cell's class, its kind or both.")
        if stage is not None and kind != Kind.NEUTROPHIL:
            raise UsageError("Only a neutrophil is band or segmented.")
        return cls(cast("ReviewLabel | None", label), Kind(kind) if kind else None, cast("Stage | None", stage))

    @property
    def said(self) -> dict[str, str]:
        """What was said."""
        return {key: str(value) for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ReviewedCell:
    """A cell with the device's label and the reviewer's."""

    predicted: str
    """blast, normal, uncertain or other."""
    reviewed: ReviewLabel
    blast_probability: float | None
    """Calibrated, 0..1; None when it was not classified."""
    cluster: int
    """Its frame, or its slide where figures are over several slides."""
    sampling: Sampling


@dataclass(frozen=True)
class ReviewFigures:
    """The device compared with the reviewer, over cells of one sampling."""

    sampling: Sampling
    answers: dict[ReviewLabel, int]
    """The reviewer's labels of all reviewed cells."""
    uncertain: dict[ReviewLabel, int]
    """The reviewer's labels of the cells that the device called uncertain."""
    confusion: tuple[tuple[int, ...], ...]
    """(2, 2), of called cells: the reviewer's normal and blast in rows, the device's in columns."""
    accuracy: ClusteredShare
    """Right among the called."""
    sensitivity: ClusteredShare
    """Called blast among the reviewer's blasts that were called."""
    specificity: ClusteredShare
    """Called normal among the reviewer's normal cells that were called."""
    auc: float | None
    """Of the probabilities of all cells that the reviewer called blast or normal, uncertain ones too; None when a class
    is missing."""

    @property
    def reviewed(self) -> int:
        """Number of reviewed cells."""
        return sum(self.answers.values())

    @property
    def unbiased(self) -> bool:
        """Whether the figures represent the slide."""
        return self.sampling == "random"


def review_figures(cells: Sequence[ReviewedCell]) -> dict[Sampling, ReviewFigures]:
    """Figures of the reviewed cells by sampling; every sampling is there, even without cells."""
    return {
        sampling: _figures(sampling, [cell for cell in cells if cell.sampling == sampling]) for sampling in SAMPLINGS
    }


def _figures(sampling: Sampling, cells: list[ReviewedCell]) -> ReviewFigures:
    named = [cell for cell in cells if cell.reviewed in LABELS]
    called = [cell for cell in named if cell.predicted in LABELS]
    pairs = Counter[tuple[str, str]]((cell.reviewed, cell.predicted) for cell in called)
    judged = [(cell.reviewed == "blast", p) for cell in named if (p := cell.blast_probability) is not None]
    return ReviewFigures(
        sampling=sampling,
        answers=_answers(cells),
        uncertain=_answers([cell for cell in cells if cell.predicted == "uncertain"]),
        confusion=tuple(tuple(pairs[reviewed, predicted] for predicted in LABELS) for reviewed in LABELS),
        accuracy=_right(called),
        sensitivity=_right([cell for cell in called if cell.reviewed == "blast"]),
        specificity=_right([cell for cell in called if cell.reviewed == "normal"]),
        auc=auc([blast for blast, _ in judged], [probability for _, probability in judged]),
    )


def _answers(cells: list[ReviewedCell]) -> dict[ReviewLabel, int]:
    counts = Counter(cell.reviewed for cell in cells)
    return {label: counts[label] for label in REVIEW_LABELS}


def _right(cells: list[ReviewedCell]) -> ClusteredShare:
    whole = Counter(cell.cluster for cell in cells)
    part = Counter(cell.cluster for cell in cells if cell.predicted == cell.reviewed)
    return ClusteredShare([part[cluster] for cluster in whole], list(whole.values()))
