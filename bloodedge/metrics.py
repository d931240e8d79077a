"""Figures and their intervals; the positive class is a blast (label 1) throughout.

Intervals are bootstrapped over subjects, not cells: cells of one person are alike, and a figure is read as "on a new
person".
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bloodedge.errors import BloodedgeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ECE_BINS = 15
"""As in Guo et al., "On calibration of modern neural networks", ICML 2017."""
AT_ONCE = 2**22
"""Cells times replicates weighed at once for average precision: 32 MiB a table."""


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None when a class is missing.

    labels: (N,) 0 or 1; scores: (N,), larger means more blast-like.
    """
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    negatives = np.sort(s[y == 0])
    positives = s[y == 1]
    if not len(negatives) or not len(positives):
        return None
    return float(_beaten(negatives, positives).sum() / (2 * len(negatives) * len(positives)))


def _beaten(negatives: Floats, positives: Floats) -> Ints:
    """Twice the number of ``negatives`` (sorted) below each of ``positives``, ties counted once."""
    return np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")


def wilson(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, 0..1; (0, 1) without trials (Wilson, JASA 1927)."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def kappa(confusion: ArrayLike) -> float:
    """Cohen's kappa of a confusion matrix (2, 2), true by called; 0 when chance alone explains it all.

    Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 1960.
    """
    c = np.asarray(confusion, np.float64)
    total = c.sum()
    by_chance = float(c.sum(axis=0) @ c.sum(axis=1)) / total**2
    return 0.0 if by_chance == 1 else (float(np.trace(c)) / total - by_chance) / (1 - by_chance)


@dataclass(frozen=True)
class Ranking:
    """The cells from the most to the least blast-like."""

    subject: Ints
    """(N,): index of the subject."""
    blast: NDArray[np.bool_]
    """(N,): whether it is a blast."""
    ends: Ints
    """(K,): the last cell of each set of cells with one score, which no threshold can part."""


@dataclass(frozen=True)
class Sums:
    """Per-subject sums that every figure follows from; a bootstrap replicate is a weighted sum over subjects."""

    confusion: Floats
    """(subjects, 2, 2): true class by called class."""
    wins: Floats
    """(subjects, subjects): normal cells of the first ranked below blasts of the second, ties half."""
    bins: Floats
    """(subjects, ECE_BINS, 2): right calls and summed confidence by confidence bin."""
    bins_before: Floats | None
    """The same before the temperature, where it is known."""
    squares: Floats
    """(subjects,): squared differences of probability and truth."""
    ranking: Ranking
    subjects: list[str]
    blast_share: Floats
    """(subjects,): share of each subject's cells that are blasts."""


def subject_sums(
    labels: ArrayLike,
    blast: ArrayLike,
    subjects: list[str],
    threshold: float = 0.5,
    uncalibrated: ArrayLike | None = None,
) -> Sums:
    """Sums for calibrated blast probabilities ``blast`` (N,), 0..1, called a blast from ``threshold`` on.

    uncalibrated: (N,) blast probabilities before the temperature. Raises BloodedgeError when a cell has no probability:
    it is neither called a blast nor normal, so no figure can count it.
    """
    y, p = np.asarray(labels, np.int64), np.asarray(blast, np.float64)
    faults = ~((p >= 0) & (p <= 1 + 1e-6))  # float32 rounds
    if faults.any():
        raise BloodedgeError(
            f"{faults.sum()} of {len(p)} cells have no probability from 0 to 1, so there are no figures; train or"
            " convert the network again."
        )
    names, index = np.unique(np.asarray(subjects), return_inverse=True)
    called = (p >= threshold).astype(np.int64)
    confusion = np.bincount(4 * index + 2 * y + called, minlength=4 * len(names)).reshape(-1, 2, 2).astype(np.float64)
    wins = np.zeros((len(names), len(names)))
    positives = y == 1
    for row in range(len(names)):
        negatives = np.sort(p[(index == row) & ~positives])
        if len(negatives):
            beaten = _beaten(negatives, p[positives])
            wins[row] = np.bincount(index[positives], beaten / 2, len(names))
    before = None if uncalibrated is None else np.asarray(uncalibrated, np.float64)
    per_class = confusion.sum(axis=2)
    return Sums(
        confusion=confusion,
        wins=wins,
        bins=_confidence_bins(y, p, index, threshold),
        bins_before=None if before is None else _confidence_bins(y, before, index, threshold),
        squares=np.bincount(index, (p - y) ** 2).astype(np.float64),
        ranking=_ranking(p, positives, index),
        subjects=[str(n) for n in names],
        blast_share=per_class[:, 1] / per_class.sum(axis=1),
    )


def _confidence_bins(y: Ints, p: Floats, index: Ints, threshold: float) -> Floats:
    """(subjects, ECE_BINS, 2), as in Sums."""
    called = p >= threshold
    confidence = np.where(called, p, 1 - p)
    which = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    count = int(index.max()) + 1
    place, size = ECE_BINS * index + which, ECE_BINS * count
    right, claimed = np.bincount(place, called == y, size), np.bincount(place, confidence, size)
    bins: Floats = np.stack([right, claimed], axis=-1).reshape(count, ECE_BINS, 2).astype(np.float64)
    return bins


def _ranking(p: Floats, positives: NDArray[np.bool_], index: Ints) -> Ranking:
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    return Ranking(index[order], positives[order], ends)


def figures(sums: Sums, weights: Floats | None = None) -> dict[str, Floats]:
    """Every figure for each row of subject weights (R, subjects); by default one row of ones.

    Each is float64 (R,), NaN where it has no value: where a class is missing or, for precision, never called. F1, macro
    and weighted, as in scikit-learn; there a class neither present nor called gives 0. ``ece_before`` is there if
    probabilities before the temperature were given.
    """
    w = np.ones((1, len(sums.subjects))) if weights is None else weights
    c = np.einsum("rs,sij->rij", w, sums.confusion)
    tn, fp, fn, tp = c[:, 0, 0], c[:, 0, 1], c[:, 1, 0], c[:, 1, 1]
    normal, blasts = tn + fp, fn + tp
    total = normal + blasts
    f1_blast, f1_normal = _ratio(2 * tp, 2 * tp + fp + fn, 0.0), _ratio(2 * tn, 2 * tn + fp + fn, 0.0)
    sensitivity, specificity = _ratio(tp, blasts), _ratio(tn, normal)
    right = np.trace(sums.confusion, axis1=1, axis2=2) / sums.confusion.sum(axis=(1, 2))
    before = {} if sums.bins_before is None else {"ece_before": _calibration_error(sums.bins_before, w, total)}
    return {
        "accuracy": (tn + tp) / total,
        "weighted_f1": (f1_normal * normal + f1_blast * blasts) / total,
        "macro_f1": (f1_normal + f1_blast) / 2,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "precision": _ratio(tp, tp + fp),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "auc": _ratio(np.einsum("rs,st,rt->r", w, sums.wins, w), normal * blasts),
        "pr_auc": _average_precision(sums.ranking, w),
        "brier": w @ sums.squares / total,
        "ece": _calibration_error(sums.bins, w, total),
        "mean_subject_accuracy": w @ right / w.sum(axis=1),
    } | before


def _calibration_error(bins: Floats, weights: Floats, total: Floats) -> Floats:
    summed = np.einsum("rs,sbk->rbk", weights, bins)
    error: Floats = np.abs(summed[:, :, 0] - summed[:, :, 1]).sum(axis=1) / total
    return error


def _average_precision(ranking: Ranking, weights: Floats) -> Floats:
    """Area under the precision-recall curve in steps, as scikit-learn has it, for each row of weights (R, subjects)."""
    rows = max(1, AT_ONCE // len(ranking.subject))
    parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
    return np.concatenate([_average_precision_at_once(ranking, part) for part in parts])


def _average_precision_at_once(ranking: Ranking, weights: Floats) -> Floats:
    cells = weights[:, ranking.subject]
    called = np.cumsum(cells, axis=1)[:, ranking.ends]
    found = np.cumsum(cells * ranking.blast, axis=1)[:, ranking.ends]
    gained = np.diff(found, axis=1, prepend=0)
    area = (gained * _ratio(found, called, 0.0)).sum(axis=1)
    both = found[:, -1] < called[:, -1]
    return np.where(both, _ratio(area, found[:, -1]), math.nan)


def _ratio(part: Floats, whole: Floats, empty: float = math.nan) -> Floats:
    filled: Floats = np.divide(part, whole, out=np.full(part.shape, empty), where=whole > 0)
    return filled


def resampled_weights(sums: Sums, replicates: int = 2000, seed: int = 0) -> Floats:
    """Bootstrap weights (replicates, subjects): subjects drawn with replacement, within patients and within healthy.

    Drawing within each class keeps both in every replicate even when few subjects are healthy.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((replicates, len(sums.subjects)))
    mostly_blast = sums.blast_share >= 0.5
    for stratum in (mostly_blast, ~mostly_blast):
        members = np.flatnonzero(stratum)
        if len(members):
            drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
            weights[:, members] = drawn
    return weights


def interval(values: Floats) -> tuple[float, float] | None:
    """2.5th and 97.5th percentile of bootstrap replicates; None when some replicate has no value."""
    if np.isnan(values).any():
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
