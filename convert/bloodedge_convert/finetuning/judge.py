"""Old against new: on slides of the bench that were held back, and on the release's own people."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.manifest import Agreement, Manifest
from bloodedge.decision.operating_point import OperatingPoint, choose_thresholds
from bloodedge.decision.thresholds import Thresholds
from bloodedge.errors import BloodedgeError
from bloodedge.evaluation.scoring import agree, score
from bloodedge.logistic.solver import sigmoid
from bloodedge_convert.finetuning.fit import Change, Fit, Source, Space, dealt, fit
from bloodedge_convert.finetuning.losses import gained, loss

DATA = "the bench's reviewed cells, each called by a head that was fitted to none of its slide"
WITHIN_CHANCE = 2.0
"""Points of balanced accuracy that a model with a smaller log loss may lose: few cells lie at the line."""
WIDENED = 0.1
"""Share of the bench's cells that a new domain must take in, beside the old one's, to be worth a bundle."""
DOUBTFUL = 0.1
"""Points of balanced accuracy (0..1) below the release's: then answers are wrong, or the cells are others."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class New:
    """A change with the thresholds of its bundle."""

    change: Change
    thresholds: Thresholds
    point: OperatingPoint | None
    release: Floats
    """Log-odds of the release's cells, by changes that were not fitted to their people."""


@dataclass(frozen=True)
class Judged:
    """What fine-tuning comes to."""

    new: New
    folds: NDArray[np.int64]
    """(N,): in which the bench's cells were held back."""
    outer: list[Change]
    """By fold: fitted to the other slides."""
    before: Evaluation
    after: Evaluation
    lost: Agreement
    """Of the new on the bench's cells; negative drops are gains."""
    release_before: Evaluation
    release_after: Evaluation
    losses: tuple[float, float]
    """Mean log loss on the bench, before and after."""
    less: tuple[float, float]
    """Log loss that slides lose, and its standard error over them; see ``fit.gained``."""

    @property
    def forgotten(self) -> float:
        """Points of AUC or of balanced accuracy, whichever is more, that the release's own cells lose."""
        pairs = [
            (getattr(self.release_before, n), getattr(self.release_after, n)) for n in ("auc", "balanced_accuracy")
        ]
        return max(100 * float(old - new) for old, new in pairs)

    @property
    def gain(self) -> float:
        """Points of balanced accuracy on the bench."""
        return 100 * ((self.after.balanced_accuracy or 0) - (self.before.balanced_accuracy or 0))

    def log_odds(self, source: Source) -> Floats:
        """Of the bench's cells (N,), each by the change that was fitted to none of its slide."""
        found = np.empty(len(source.labels))
        for fold, change in enumerate(self.outer):
            own = self.folds == fold
            found[own] = change.log_odds(source.some(own))
        return found


def judge(space: Space, manifest: Manifest, most_forgotten: float) -> Judged:
    """Fit to all cells, and again without each slide in turn; most_forgotten: see ``fit``."""
    bench, release = space.bench, space.release
    folds = dealt(bench.labels, bench.groups, seed=1)
    everything = np.ones(len(folds), bool)
    with threadpool_limits(1, user_api="blas"):  # the matrices are small: more threads mostly wait for each other
        new = _fitted(space, everything, manifest, most_forgotten)
        outer = [_fitted(space, folds != fold, manifest, most_forgotten).change for fold in range(int(folds.max()) + 1)]

    def of(log_odds: Floats, source: Source) -> Evaluation:
        blast = called(log_odds, manifest)
        return score(source.labels, blast, source.groups.tolist(), threshold=manifest.thresholds.blast)

    found = np.empty(len(folds))
    for fold, change in enumerate(outer):
        found[folds == fold] = change.log_odds(bench.some(folds == fold))
    ours, theirs = (called(values, manifest) for values in (bench.log_odds, found))
    return Judged(
        new=new,
        folds=folds,
        outer=outer,
        before=of(bench.log_odds, bench),
        after=of(found, bench),
        lost=agree(ours, theirs, bench.labels, bench.groups.tolist(), manifest.thresholds),
        release_before=of(release.log_odds, release),
        release_after=of(new.release, release),
        losses=(
            loss(bench.log_odds, bench.labels, bench.groups),
            loss(found, bench.labels, bench.groups),
        ),
        less=gained(bench.log_odds, found, bench.labels, bench.groups),
    )


def _fitted(space: Space, kept: NDArray[np.bool_], manifest: Manifest, most_forgotten: float) -> New:
    """The change and its band of uncertainty, chosen on slides held back; the released threshold stays."""
    found: Fit = fit(space, kept, most_forgotten)
    bench, temperature, before = space.bench.some(kept), manifest.temperature, manifest.thresholds
    blast = called(found.bench, manifest)
    chosen = choose_thresholds(blast, bench.labels, bench.groups.tolist(), DATA)
    if chosen is None:
        return New(found.change, before, None, found.release)
    shift = temperature * (_odds(before.blast) - _odds(chosen[0].blast))
    low, high = (
        float(sigmoid(np.array(_odds(p) + shift / temperature)))
        for p in (chosen[0].uncertain_low, chosen[0].uncertain_high)
    )
    thresholds = Thresholds(
        blast=before.blast, uncertain_low=min(low, before.blast), uncertain_high=max(high, before.blast)
    )
    return New(found.change, thresholds, chosen[1], found.release)


def called(log_odds: Floats, manifest: Manifest) -> Floats:
    """Calibrated blast probabilities (N,) of log-odds that are 0 at the manifest's threshold."""
    return np.asarray(sigmoid(log_odds / manifest.temperature + _odds(manifest.thresholds.blast)))


def line(manifest: Manifest) -> float:
    """The log-odds, before the temperature, at the manifest's threshold."""
    return manifest.temperature * _odds(manifest.thresholds.blast)


def _odds(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def kept_head(judged: Judged, space: Space, manifest: Manifest) -> Judged:
    """The same with the released head, for a bundle whose domain alone is new."""
    count = space.bench.features.shape[1]
    same = Change(1.0, np.zeros(count), 0.0)
    blast, people = called(space.bench.log_odds, manifest), space.bench.groups.tolist()
    agreement = agree(blast, blast, space.bench.labels, people, manifest.thresholds)
    return replace(
        judged,
        new=New(same, manifest.thresholds, manifest.operating_point, space.release.log_odds),
        outer=[same] * len(judged.outer),
        after=judged.before,
        lost=agreement,
        release_after=judged.release_before,
        losses=(judged.losses[0], judged.losses[0]),
        less=(0.0, 0.0),
    )


def decide(
    judged: Judged, space: Space, manifest: Manifest, accepted: tuple[float, float], most_forgotten: float
) -> Judged:
    """What goes into the bundle: the new head if it is better on the bench, else the old one in a wider domain.

    accepted: shares of the bench's cells inside the domain, before and after. Raises BloodedgeError where neither is
    better, or the new head forgets too much.
    """
    better = judged.less[0] > judged.less[1] and judged.gain >= -WITHIN_CHANCE
    if better and judged.forgotten <= most_forgotten:
        return judged
    before, after = (100 * (one.balanced_accuracy or 0) for one in (judged.before, judged.after))
    cells, slides = judged.after.cells, judged.after.subjects
    of = f" of {slides} slides" if slides < cells else ""
    figures = (
        f"balanced accuracy {before:.1f} % before and {after:.1f} % after, on {cells} cells{of}, each held back in turn"
    )
    if better:
        raise BloodedgeError(
            f"No bundle was written: on the release's own people the new model loses {judged.forgotten:.1f} points, "
            f"more than the {most_forgotten:g} allowed ({figures}). Review cells of more slides, or, for a model of "
            f"this bench alone, allow it with --accept-forgetting {np.ceil(judged.forgotten):g}."
        )
    holds = (judged.before.balanced_accuracy or 0) >= (judged.release_before.balanced_accuracy or 0) - DOUBTFUL
    if holds and accepted[1] - accepted[0] >= WIDENED:
        return kept_head(judged, space, manifest)
    raise BloodedgeError(
        f"No bundle was written: the new model is not better on this bench by more than chance ({figures}; log loss "
        f"{judged.losses[0]:.3f} and {judged.losses[1]:.3f}). Review cells of more slides, and look again at answers "
        "that you were not sure of."
    )


def doubts(judged: Judged) -> list[str]:
    """Sentences on what a reader of the figures should doubt."""
    after, there = judged.after.balanced_accuracy or 0, judged.release_before.balanced_accuracy or 0
    found = []
    if not judged.new.change.weights.any():
        found.append(
            "The released head is as good on this bench as any that was fitted to it, and stays; what is new is the "
            "domain, inside which it answers, and the error rates."
        )
    elif judged.lost.drop_ci95.get("balanced_accuracy", (0.0, 0.0))[1] >= 0:
        found.append("The gain is within what chance gives so few slides; review cells of more slides.")
    if after < there - DOUBTFUL:
        found.append(
            f"On slides held back {100 * after:.0f} % are called as you answered, against {100 * there:.0f} % of the "
            "release's own cells: some answers may be wrong, or these are other cells. Look at the pictures below."
        )
    return found
