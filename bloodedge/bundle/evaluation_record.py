"""Figures of a model as they are stored: in ``metrics.json``, in a manifest, and as ``bloodedge evaluate --json``."""

from collections.abc import Sequence

from bloodedge.config import Strict
from bloodedge.decision.thresholds import LABELS


class LatencyMs(Strict):
    """Percentiles of a latency in milliseconds."""

    p50: float
    p95: float
    p99: float


class SubjectScore(Strict):
    """One subject's part of an evaluation; ``label`` is its true class, or "mixed"."""

    label: str
    cells: int
    accuracy: float


class Evaluation(Strict):
    """Held-out figures; a blast is the positive class. None for a figure that needs both classes where one is missing.

    Figures with a default are missing in older records.
    """

    cells: int
    subjects: int
    accuracy: float
    weighted_f1: float
    macro_f1: float
    balanced_accuracy: float | None
    precision: float | None = None
    sensitivity: float | None
    """Recall of blasts."""
    specificity: float | None
    f1: float | None = None
    """F1 of the blasts."""
    auc: float | None
    pr_auc: float | None = None
    """Average precision."""
    brier: float | None = None
    ece: float
    ece_before: float | None = None
    """Before the temperature."""
    mean_subject_accuracy: float | None = None
    ci95: dict[str, tuple[float, float]]
    """95 % intervals, bootstrapped over subjects."""
    per_subject: dict[str, SubjectScore]
    confusion: list[list[int]]
    """Rows: true normal, true blast; columns: called normal, called blast."""
    latency_ms: LatencyMs | None = None
    leaky: bool = False
    """True when training and test cells may come from the same subject (a split by image)."""

    @property
    def never_called(self) -> str | None:
        """The class that has cells though no cell was called it; None where both are called."""
        return never_called(self.confusion)

    def text(self, figure: str) -> str:
        """A figure by its field's name with its 95 % interval, such as "0.871 [0.802, 0.923]"; a dash for None."""
        value: float | None = getattr(self, figure)
        if value is None:
            return "\N{EN DASH}"
        return f"{value:.3f}" + (" [{:.3f}, {:.3f}]".format(*self.ci95[figure]) if figure in self.ci95 else "")

    @property
    def worst_subject(self) -> str:
        """The subject with the lowest accuracy; among equals the one with most cells."""
        return min(self.per_subject, key=lambda name: (self.per_subject[name].accuracy, -self.per_subject[name].cells))


def never_called(confusion: Sequence[Sequence[float]]) -> str | None:
    """The class of a confusion matrix (true by called) that has cells though no cell was called it."""
    called = [sum(column) for column in zip(*confusion, strict=True)]
    return next((label for label, row, n in zip(LABELS, confusion, called, strict=True) if sum(row) and not n), None)
