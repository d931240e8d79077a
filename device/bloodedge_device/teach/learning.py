"""Whether more reviewed cells would help: accuracy on slides that a fit did not see, by how many cells it had.

The board keeps no features of the network, so the fit is a stand-in for fine-tuning: a ridge regression on what is
stored of each cell, its blast log-odds and the figures of its colour, size and texture (``bloodedge.decision.domain``).
It says how much reviews of this bench can teach, not what a fine-tuned model will reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge_device.slide.interval import ClusteredShare

SIZES = (10, 20, 40, 80, 160, 320, 640)
REPEATS = 5
FOLDS = 5
RIDGE, RIDGE_OF_FIGURES = 0.1, 20.0
"""Penalty of the device's own log-odds, and of each of the figures, which many cells must bear out."""
FEWEST_CELLS, FEWEST_OF_CLASS, FEWEST_SLIDES, FEWEST_RANDOM = 50, 10, 4, 20
LEAST_GAIN = 0.01
"""A smaller gain is none; with few cells to judge by, neither is half a standard error."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaughtCell:
    """A reviewed cell of a class."""

    slide: int
    blast: bool
    """What the reviewer said."""
    random: bool
    probability: float
    """Of a blast, by the device, 0..1."""
    figures: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """Accuracy on held-out slides after so many reviewed cells of others."""

    cells: int
    """0: the device as it is."""
    accuracy: ClusteredShare
    """Random cells by slide, each called blast or normal."""


def missing(cells: Sequence[TaughtCell]) -> list[str]:
    """What must still be reviewed before a fit means anything, a clause each; empty where nothing is."""
    blasts = sum(cell.blast for cell in cells)
    wanted = (
        ("reviewed cells that are blast or normal", len(cells), FEWEST_CELLS),
        ("blasts among them", blasts, FEWEST_OF_CLASS),
        ("normal cells among them", len(cells) - blasts, FEWEST_OF_CLASS),
        ("slides that they come from", len({cell.slide for cell in cells}), FEWEST_SLIDES),
        ("of them drawn at random", sum(cell.random for cell in cells), FEWEST_RANDOM),
    )
    return [f"{fewest - there} more {what} ({there} of {fewest})" for what, there, fewest in wanted if there < fewest]


def learning_curve(cells: Sequence[TaughtCell]) -> list[Point]:
    """Points by number of cells, the device as it is first; judged on random cells of slides held out in turn."""
    features, blast = _features(cells), np.array([cell.blast for cell in cells])
    slides, random = np.array([cell.slide for cell in cells]), np.array([cell.random for cell in cells])
    as_it_is = np.array([cell.probability >= 0.5 for cell in cells])
    points = [Point(0, _share(as_it_is == blast, slides, random))]
    folds = _folds(slides)
    least = min(int(np.count_nonzero(folds != fold)) for fold in np.unique(folds))
    for size in sorted({*(size for size in SIZES if size < least), least}):
        right = [_right(features, blast, folds, size, np.random.default_rng(repeat)) for repeat in range(REPEATS)]
        points.append(Point(size, _share(np.mean(right, axis=0), slides, random)))
    return points


def verdict(points: Sequence[Point]) -> str:
    """Whether more reviews would help, a sentence."""
    before, last = points[0].accuracy.share or 0.0, points[-1].accuracy.share or 0.0
    half = next((p for p in reversed(points[:-1]) if p.cells and 2 * p.cells <= points[-1].cells), points[0])
    gain = max(LEAST_GAIN, 0.25 / max(1, points[0].accuracy.trials) ** 0.5)
    if last - (half.accuracy.share or 0.0) >= gain:
        return "The curve still rises: more reviewed cells, best of further slides, would help."
    if last - before < gain:
        return (
            "Reviews of this bench teach this stand-in nothing that the device does not know: the model may fit the"
            " bench already, or its errors lie where colour, size and texture do not tell."
        )
    return "The curve is flat: further cells of slides like these change little. Fine-tune now, or review other slides."


def _features(cells: Sequence[TaughtCell]) -> Floats:
    """(N, D): log-odds, standardised as the figures after them, and a constant."""
    probability = np.clip([cell.probability for cell in cells], 1e-4, 1 - 1e-4)
    columns = np.column_stack([np.log(probability / (1 - probability)), np.array([cell.figures for cell in cells])])
    spread = columns.std(axis=0)
    return np.column_stack([(columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1), np.ones(len(cells))])


def _folds(slides: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each cell's fold: slides in turn, the largest first."""
    names, counts = np.unique(slides, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    fold = {int(slide): number % FOLDS for number, slide in enumerate(order)}
    return np.array([fold[int(slide)] for slide in slides])


def _right(
    features: Floats, blast: NDArray[np.bool_], folds: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(N,) 1 where a ridge regression of ``size`` cells of other folds is right, else 0."""
    right = np.zeros(len(blast))
    penalties = np.array([RIDGE, *[RIDGE_OF_FIGURES] * (features.shape[1] - 2), RIDGE])
    for fold in np.unique(folds):
        held_out, others = folds == fold, np.nonzero(folds != fold)[0]
        chosen = rng.permutation(others)[:size]
        x, y = features[chosen], np.where(blast[chosen], 1.0, -1.0)
        weights = np.linalg.solve(x.T @ x + np.diag(penalties), x.T @ y)
        right[held_out] = (features[held_out] @ weights >= 0) == blast[held_out]
    return right


def _share(right: NDArray[np.generic], slides: NDArray[np.int64], random: NDArray[np.bool_]) -> ClusteredShare:
    """Right among random cells, by slide; means over repeats are rounded to whole cells."""
    names = np.unique(slides[random])
    inside = [random & (slides == slide) for slide in names]
    return ClusteredShare(
        [round(float(np.sum(right[cells]))) for cells in inside], [int(np.count_nonzero(cells)) for cells in inside]
    )
