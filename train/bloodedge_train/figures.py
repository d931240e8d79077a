"""The pictures of a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision import LABELS
from bloodedge.files import write_beside
from bloodedge.manifest import Evaluation, RunMetrics, RunRecord
from bloodedge.metrics import ECE_BINS
from bloodedge.split import Parts

if TYPE_CHECKING:
    from bloodedge_train.fit import Samples

Floats = NDArray[np.float64]
BLAST, NORMAL, GREY = "#b5457e", "#2f7fb8", "#808080"
"""Distinguishable with any kind of colour vision (checked by lightness: 45 and 50 against hue)."""
PART_COLOURS = {"validation": GREY, "test": "#1a1a1a", "shift": "#d9822b"}


def draw_all(
    folder: Path,
    record: RunRecord,
    metrics: RunMetrics,
    parts: Parts,
    samples: dict[str, "Samples"],
    blasts: dict[str, Floats],
) -> None:
    """Write every figure of a run as PNG. ``blasts``: calibrated blast probabilities (N,) by part."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    draw(folder / "learning_curves.png", (9, 3.4), lambda figure: _learning(figure, record))
    draw(folder / "roc.png", (4.6, 4.4), lambda figure: _roc(figure, metrics, samples, blasts))
    draw(folder / "reliability.png", (4.6, 4.4), lambda figure: _reliability(figure, metrics, samples, blasts))
    for name, evaluation in metrics.parts.items():
        draw(folder / f"confusion_{name}.png", (4, 3.6), lambda f, e=evaluation, n=name: _confusion(f, e, n))  # type: ignore[misc]
        height = 1.2 + 0.26 * len(evaluation.per_subject)
        draw(folder / f"subjects_{name}.png", (6, height), lambda f, e=evaluation, n=name: _subjects(f, e, n))  # type: ignore[misc]
        if name != "validation":
            cells = [c.subject or c.name for c in parts[name]]
            draw(
                folder / f"montage_{name}.png",
                (9, 5.2),
                lambda f, n=name, c=cells: _montage(f, samples[n], blasts[n], c, n),  # type: ignore[misc]
            )


def draw(path: Path, inches: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Write one figure, painted by ``paint(figure)``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    paint(figure)

    def write(temporary: Path) -> None:
        figure.savefig(temporary)

    write_beside(path, write)


def _learning(figure: Any, record: RunRecord) -> None:
    epochs = [row["epoch"] for row in record.history]
    loss, area = figure.subplots(1, 2)
    loss.plot(epochs, [row["loss"] for row in record.history], color=GREY, label="training")
    loss.plot(epochs, [row["val_loss"] for row in record.history], color="#1a1a1a", label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    loss.legend(frameon=False)
    area.plot(epochs, [row["val_auc"] for row in record.history], color="#1a1a1a")
    area.set(xlabel="epoch", ylabel="validation AUC")
    for axes in (loss, area):
        axes.axvline(record.best_epoch, color=BLAST, linewidth=1, linestyle="--")
    figure.suptitle(f"{record.name}: best epoch {record.best_epoch}", fontsize=11)


def _roc(figure: Any, metrics: RunMetrics, samples: dict[str, "Samples"], blasts: dict[str, Floats]) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for name, blast in blasts.items():
        labels = samples[name].labels[np.argsort(-blast, kind="stable")]
        if len(set(labels.tolist())) < 2:
            continue
        caught = np.concatenate([[0], np.cumsum(labels) / labels.sum()])
        alarms = np.concatenate([[0], np.cumsum(1 - labels) / (1 - labels).sum()])
        axes.plot(alarms, caught, color=PART_COLOURS[name], label=f"{name}: AUC {metrics.parts[name].auc:.3f}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity for blasts", aspect="equal", title="ROC")
    axes.legend(frameon=False, loc="lower right")


def _reliability(figure: Any, metrics: RunMetrics, samples: dict[str, "Samples"], blasts: dict[str, Floats]) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for name, blast in blasts.items():
        bins = np.clip((blast * ECE_BINS).astype(int), 0, ECE_BINS - 1)
        counts = np.bincount(bins, minlength=ECE_BINS)
        shown = counts >= 5
        said = np.bincount(bins, blast, ECE_BINS)[shown] / counts[shown]
        true = np.bincount(bins, samples[name].labels, ECE_BINS)[shown] / counts[shown]
        label = f"{name}: ECE {metrics.parts[name].ece:.3f}"
        axes.plot(said, true, "o-", color=PART_COLOURS[name], markersize=4, label=label)
    axes.set(xlabel="said probability of blast", ylabel="share of blasts", aspect="equal", title="Reliability")
    axes.legend(frameon=False, loc="upper left")


def _confusion(figure: Any, evaluation: Evaluation, name: str) -> None:
    axes = figure.subplots()
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Purples", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks([0, 1], LABELS)
    axes.set_yticks([0, 1], LABELS, rotation=90, va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="said", ylabel="true", title=f"{name}: weighted F1 {evaluation.weighted_f1:.3f}")


def _subjects(figure: Any, evaluation: Evaluation, name: str) -> None:
    axes = figure.subplots()
    rows = list(evaluation.per_subject.items())[::-1]
    colours = [BLAST if row.label == "blast" else NORMAL for _, row in rows]
    axes.barh([subject for subject, _ in rows], [row.accuracy for _, row in rows], color=colours, height=0.7)
    for place, (_, row) in enumerate(rows):
        axes.text(1.01, place, f"{row.cells} cells", va="center", fontsize=8, color=GREY)
    axes.axvline(0.5, color="#999999", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="accuracy", title=f"{name}: by subject (pink: patients, blue: healthy)")


def _montage(figure: Any, samples: "Samples", blast: Floats, subjects: list[str], name: str) -> None:
    """The surest right and the surest wrong calls of each class."""
    rows = []
    for label in (1, 0):
        sure = blast if label else 1 - blast
        of_class = np.flatnonzero(samples.labels == label)
        ordered = of_class[np.argsort(-sure[of_class])]
        wrong = ordered[::-1][:8]
        rows.append((f"{LABELS[label]}, right", ordered[:8]))
        rows.append((f"{LABELS[label]}, least right", wrong))
    grid = figure.subplots(4, 8, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for line, (title, chosen) in zip(grid, rows, strict=True):
        for axes, cell in zip(line, chosen, strict=False):
            axes.imshow(samples.images[cell])
            axes.set_title(f"{subjects[cell]}: {blast[cell]:.2f}", fontsize=7, pad=2)
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, rotation=90, ha="center", va="center", fontsize=8)
    figure.suptitle(f"{name}: said probability of blast", fontsize=11)
