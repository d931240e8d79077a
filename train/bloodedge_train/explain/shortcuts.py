"""Shortcuts: how far cues that are no proof of disease predict the class, and how much of a network's skill they carry.

Cues are measured on the crop and weighed by a logistic regression on the run's training part; like the network, they
are then scored on people they never saw. Altered cells show what the network itself leans on.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, in_threads, owners, read_dataset
from bloodedge.data.split import recall
from bloodedge.evaluation.classifier import Classifier, blast_probabilities
from bloodedge.evaluation.ensemble import rescaled
from bloodedge.evaluation.scoring import agree, score
from bloodedge.imaging import (
    BACKGROUND_LEVEL,
    CNMC_UM_PER_PX,
    Cell,
    Image,
    as_image,
    cell_on_black,
    network_input,
    read_image,
)

Floats = NDArray[np.float64]

HELD_OUT = ("test", "shift")
BATCH = 64
BLUR_UM = 1.0
"""Sigma of the blur: chromatin's clumps and threads are finer, a nucleus of 7 µm or more and its place are not."""
RIDGE = 1.0
"""Penalty on the squared weights of standardised cues, as scikit-learn's default (C = 1)."""


def area(cell: Cell) -> list[float]:
    """Pixels of the cell."""
    return [cell.area_px]


def brightness(cell: Cell) -> list[float]:
    """Mean of the cell's pixels over the three channels, 0..255, as ``bloodedge data audit`` has it."""
    return [float(np.mean(colour(cell)))]


def colour(cell: Cell) -> list[float]:
    """Mean blue, green and red of the cell, 0..255."""
    return list(cv2.mean(cell.bgr, cell.mask)[:3])


def silhouette(cell: Cell) -> list[float]:
    """The outline alone: size, how round, how smooth, how elongated, and Hu's moments (Hu, IRE Trans. 1962)."""
    contours, _ = cv2.findContours(cell.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    perimeter, inside = cv2.arcLength(outline, closed=True), max(cv2.contourArea(outline), 1.0)
    hull = cv2.convexHull(outline)
    moments = cv2.moments(cell.mask, binaryImage=True)
    hu = np.log10(np.abs(cv2.HuMoments(moments)).ravel() + 1e-12)
    return [
        cell.area_px,
        perimeter,
        4 * np.pi * inside / max(perimeter, 1.0) ** 2,
        inside / max(cv2.contourArea(hull), 1.0),
        cv2.arcLength(hull, closed=True) / max(perimeter, 1.0),
        _eccentricity(moments),
        *hu.tolist(),
    ]


def _eccentricity(moments: dict[str, float]) -> float:
    """Of the ellipse with the mask's second moments, 0 (a circle) to 1."""
    spread = np.array([[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]])
    minor, major = np.linalg.eigvalsh(spread)
    return float(np.sqrt(max(0.0, 1 - minor / max(major, 1e-12))))


def background(cell: Cell) -> list[float]:
    """What can be seen once the cell is blacked out: the rest of the crop, black where ``imaging`` calls it black."""
    return _around(cell, above=True)


def haze(cell: Cell) -> list[float]:
    """What is left below that level: compression smears a faint haze about a cell, whose extent tells its size."""
    return _around(cell, above=False)


def _around(cell: Cell, *, above: bool) -> list[float]:
    """Mean and spread of each channel, the brightest pixel and the share that is lit, outside the cell."""
    blue, green, red = cv2.split(cell.bgr)
    brightest = cv2.max(cv2.max(blue, green), red)
    how = cv2.THRESH_BINARY if above else cv2.THRESH_BINARY_INV
    _, chosen = cv2.threshold(brightest, BACKGROUND_LEVEL, 255, how)
    chosen = cv2.bitwise_and(chosen, cv2.bitwise_not(cell.mask))
    mean, spread = cv2.meanStdDev(cv2.bitwise_and(cell.bgr, cell.bgr, mask=chosen))
    left = cv2.bitwise_and(brightest, chosen)
    lit = cv2.countNonZero(left) / left.size
    return [*mean.ravel().tolist(), *spread.ravel().tolist(), float(left.max()), lit]


CUES: dict[str, Callable[[Cell], list[float]]] = {
    "area": area,
    "brightness": brightness,
    "mean colour": colour,
    "silhouette": silhouette,
    "background": background,
    "haze": haze,
}


@dataclass(frozen=True)
class Logistic:
    """A logistic regression on standardised cues, both classes weighing the same."""

    mean: Floats
    scale: Floats
    weights: Floats
    """(cues + 1,), the intercept last."""

    def predict(self, cues: ArrayLike) -> Floats:
        """Blast probabilities (N,) of cues (N, K)."""
        z = _with_one((np.asarray(cues, np.float64) - self.mean) / self.scale) @ self.weights
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -50, 50))), np.float64)


def fit_logistic(cues: ArrayLike, labels: ArrayLike) -> Logistic:
    """Newton's method on the ridge-penalised likelihood; cues: (N, K), labels: (N,) 0 or 1, both present."""
    x, y = np.asarray(cues, np.float64), np.asarray(labels, np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    x = _with_one((x - mean) / scale)
    balance = np.where(y == 1, len(y) / (2 * y.sum()), len(y) / (2 * (len(y) - y.sum())))
    penalty = np.diag([*np.full(x.shape[1] - 1, RIDGE), 0.0])
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -50, 50)))
        slope = x.T @ (balance * (p - y)) + penalty @ weights
        curve = (x * (balance * p * (1 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(curve + 1e-9 * np.eye(len(curve)), slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return Logistic(mean, scale, weights)


def _with_one(x: Floats) -> Floats:
    return np.hstack([x, np.ones((len(x), 1))])


def boxed(cell: Cell) -> Cell:
    """The cell without what lies about its bounding box."""
    x, y, width, height = cv2.boundingRect(cell.mask)
    window = slice(y, y + height), slice(x, x + width)
    return Cell(cell.bgr[window], cell.mask[window], cell.um_per_px)


def filled(cell: Cell) -> Cell:
    """Nothing but the outline: the cell filled with its mean colour."""
    mean = np.rint(colour(cell))
    return Cell(as_image(np.where(cell.mask[:, :, None] > 0, mean, 0)), cell.mask, cell.um_per_px)


def grey(cell: Cell) -> Cell:
    """The cell without its colour."""
    plain = cv2.cvtColor(cell.bgr, cv2.COLOR_BGR2GRAY)
    return Cell(as_image(cv2.merge([plain] * 3)), cell.mask, cell.um_per_px)


def blurred(cell: Cell) -> Cell:
    """The cell without its texture: each pixel the mean of those about it that belong to the cell."""
    sigma = BLUR_UM / cell.um_per_px
    inside = (cell.mask > 0).astype(np.float32)
    total = cv2.GaussianBlur(cell.bgr * inside[:, :, None], (0, 0), sigma)
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), sigma), 1e-6)
    smooth = np.rint(total / weight[:, :, None]) * inside[:, :, None]
    return Cell(as_image(np.clip(smooth, 0, 255)), cell.mask, cell.um_per_px)


ALTERATIONS: dict[str, Callable[[Cell], Cell]] = {
    "as it is": lambda cell: cell,
    "0.8 times the size": lambda cell: rescaled(cell, 0.8),
    "1.25 times the size": lambda cell: rescaled(cell, 1.25),
    "grey": grey,
    "blurred": blurred,
    "silhouette": filled,
}
UNALTERED, MODEL = "as it is", "model"

Limits = tuple[float, float]


@dataclass(frozen=True)
class CueScore:
    """How well one cue, or the model, predicts the class of cells of a held-out part."""

    part: str
    cue: str
    auc: float | None
    auc_ci95: Limits | None
    balanced_accuracy: float | None
    balanced_accuracy_ci95: Limits | None


@dataclass(frozen=True)
class AlteredScore:
    """The model's figures on altered cells of a held-out part, and their fall against the unaltered ones."""

    part: str
    alteration: str
    accuracy: float
    accuracy_ci95: Limits | None
    auc: float | None
    auc_ci95: Limits | None
    fall: dict[str, float]
    """accuracy, weighted_f1 and auc: unaltered minus altered, percentage points."""
    fall_ci95: dict[str, Limits]
    """Paired over subjects."""
    flip_rate: float
    """Share of cells whose class changes, 0..1."""


@dataclass(frozen=True)
class ShortcutAudit:
    """The shortcuts of a run's data, and how far its model takes them."""

    run: str
    leaky: bool
    """True when the run was split by image: cells of one person stand on both sides."""
    cells: dict[str, int]
    subjects: dict[str, int]
    """By part."""
    cues: list[CueScore]
    altered: list[AlteredScore]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit_shortcuts(classifier: Classifier, data: Path, progress: Progress | None = None) -> ShortcutAudit:
    """Cues and altered cells on the held-out parts of the run's own data.

    Raises UsageError when ``data`` is not what the run was fitted to.
    """
    parts = recall(read_dataset(data, progress), classifier.split, classifier.split_spec)
    rules = fit_cues(parts["train"], progress)
    held = {name: parts[name] for name in HELD_OUT if name in parts}
    cues: list[CueScore] = []
    altered: list[AlteredScore] = []
    for name, cells in held.items():
        said, blasts = _measure(classifier, rules, cells, progress)
        cues += [_cue(classifier, name, cue, cells, p) for cue, p in {MODEL: blasts[UNALTERED], **said}.items()]
        altered += [_altered(classifier, name, each, cells, blasts) for each in ALTERATIONS]
    return ShortcutAudit(
        run=classifier.name,
        leaky=classifier.split.leaky,
        cells={name: len(cells) for name, cells in held.items()},
        subjects={name: len(set(owners(cells))) for name, cells in held.items()},
        cues=cues,
        altered=altered,
    )


def fit_cues(cells: Sequence[CellFile], progress: Progress | None = None) -> dict[str, Logistic]:
    """A logistic regression for each cue."""

    def one(file: CellFile) -> dict[str, list[float]]:
        cell = _read(file)
        return {name: cue(cell) for name, cue in CUES.items()}

    measured = in_threads(one, cells, progress)
    labels = [cell.label for cell in cells]
    return {name: fit_logistic([row[name] for row in measured], labels) for name in CUES}


def _read(cell: CellFile) -> Cell:
    return cell_on_black(read_image(cell.path), CNMC_UM_PER_PX)


def _measure(
    classifier: Classifier, rules: dict[str, Logistic], cells: Sequence[CellFile], progress: Progress | None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Blast probabilities (N,) by cue, and the model's by alteration."""

    def one(file: CellFile) -> tuple[list[list[float]], list[Image]]:
        cell = _read(file)
        box = boxed(cell)
        inputs = [network_input(alter(box), classifier.imaging) for alter in ALTERATIONS.values()]
        return [cue(cell) for cue in CUES.values()], inputs

    by_cue: dict[str, list[Floats]] = {name: [] for name in CUES}
    by_alteration: dict[str, list[Floats]] = {name: [] for name in ALTERATIONS}
    for start in range(0, len(cells), BATCH):
        batch = in_threads(one, cells[start : start + BATCH])
        for at, name in enumerate(CUES):
            by_cue[name].append(rules[name].predict([cues[at] for cues, _ in batch]))
        for at, name in enumerate(ALTERATIONS):
            images = np.stack([inputs[at] for _, inputs in batch])
            by_alteration[name].append(blast_probabilities(classifier.engine, images, classifier.temperature))
        if progress:
            progress(start + len(batch), len(cells))
    return _joined(by_cue), _joined(by_alteration)


def _joined(pieces: dict[str, list[Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate(rows) for name, rows in pieces.items()}


def _score(classifier: Classifier, cells: Sequence[CellFile], blast: Floats, threshold: float) -> Evaluation:
    labels = [c.label for c in cells]
    return score(labels, blast, owners(cells), threshold=threshold, leaky=classifier.split.leaky)


def _cue(classifier: Classifier, part: str, cue: str, cells: Sequence[CellFile], blast: Floats) -> CueScore:
    threshold = classifier.thresholds.blast if cue == MODEL else 0.5
    found = _score(classifier, cells, blast, threshold)
    return CueScore(
        part, cue, found.auc, found.ci95.get("auc"), found.balanced_accuracy, found.ci95.get("balanced_accuracy")
    )


def _altered(
    classifier: Classifier, part: str, alteration: str, cells: Sequence[CellFile], blasts: dict[str, Floats]
) -> AlteredScore:
    found = _score(classifier, cells, blasts[alteration], classifier.thresholds.blast)
    labels = [c.label for c in cells]
    against = agree(blasts[UNALTERED], blasts[alteration], labels, owners(cells), classifier.thresholds)
    return AlteredScore(
        part=part,
        alteration=alteration,
        accuracy=found.accuracy,
        accuracy_ci95=found.ci95.get("accuracy"),
        auc=found.auc,
        auc_ci95=found.ci95.get("auc"),
        fall=against.drop,
        fall_ci95=against.drop_ci95,
        flip_rate=against.flip_rate,
    )


def draw_chart(path: Path, audit: ShortcutAudit) -> None:
    """A PNG: AUC of the model and of each cue, and the model's accuracy on altered cells, by part."""
    from bloodedge_train.figures.drawing import draw

    rows = max(len(CUES) + 1, len(ALTERATIONS))
    draw(path, (10, 1.5 + 0.17 * rows * (1 + len(audit.cells))), lambda figure: _chart(figure, audit))


def _chart(figure: Any, audit: ShortcutAudit) -> None:
    left, right = figure.subplots(1, 2)
    left.axvline(0.5, color="#999999", linewidth=1, linestyle=":")
    _dots(left, audit, [MODEL, *CUES], {(c.part, c.cue): (c.auc, c.auc_ci95) for c in audit.cues})
    left.set(xlabel="AUC", title="What alone predicts the class")
    found = {(a.part, a.alteration): (a.accuracy, a.accuracy_ci95) for a in audit.altered}
    _dots(right, audit, list(ALTERATIONS), found)
    right.set(xlabel="accuracy", title="The model on altered cells")
    handles, names = left.get_legend_handles_labels()
    seen = " (leaky: split by image)" if audit.leaky else ": people never seen"
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"{audit.run}{seen}", fontsize=11)


def _dots(axes: Any, audit: ShortcutAudit, names: list[str], found: dict[tuple[str, str], Any]) -> None:
    """A dot with its interval for each name and part, the first name on top."""
    from bloodedge_train.figures.drawing import PART_COLOURS

    for number, (part, cells) in enumerate(audit.cells.items()):
        shift = 0.16 * (2 * number - len(audit.cells) + 1)
        label = f"{part}: {cells:,} cells of {audit.subjects[part]} people"
        for place, name in enumerate(names):
            value, limits = found[part, name]
            if limits is not None:
                axes.plot(limits, [place + shift] * 2, color=PART_COLOURS[part], linewidth=1.5, alpha=0.5)
            if value is not None:
                axes.plot(value, place + shift, "o", color=PART_COLOURS[part], label="" if place else label)
                axes.annotate(
                    f"{value:.2f}",
                    (1.02, place + shift),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    color=PART_COLOURS[part],
                    fontsize=9,
                )
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", color="#eeeeee")
