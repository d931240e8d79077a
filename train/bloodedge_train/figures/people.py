"""Accuracy subject by subject: who is called right, and who is not."""

from typing import Any

from bloodedge.bundle.evaluation_record import Evaluation, SubjectScore
from bloodedge_train.figures.drawing import BLACK, BLAST, GREY, NORMAL, PALE

MOST = 50
"""Bars that a picture holds; of more subjects, those called worst."""
COLOURS = {"blast": BLAST, "normal": NORMAL, "mixed": GREY}
NAMES = {"blast": "patient", "normal": "healthy", "mixed": "cells of both classes"}


def inches(evaluation: Evaluation) -> tuple[float, float]:
    """Width and height that the bars need."""
    return 6.4, 1.7 + 0.27 * len(shown(evaluation))


def shown(evaluation: Evaluation) -> list[tuple[str, SubjectScore]]:
    """Subjects from the worst to the best."""
    return sorted(evaluation.per_subject.items(), key=lambda row: (row[1].accuracy, -row[1].cells))[:MOST]


def paint(figure: Any, evaluation: Evaluation, name: str) -> None:
    """A bar for each subject, the best on top, the worst marked."""
    from matplotlib.patches import Patch

    axes = figure.subplots()
    rows = shown(evaluation)
    people = [subject for subject, _ in rows]
    axes.barh(people, [row.accuracy for _, row in rows], color=[COLOURS[row.label] for _, row in rows], height=0.7)
    for place, (subject, row) in enumerate(rows):
        worst = subject == evaluation.worst_subject
        text = f"{row.accuracy:.2f} of {row.cells:,} cell{'s' * (row.cells > 1)}{' (worst)' * worst}"
        style = {"color": BLACK, "weight": "bold"} if worst else {"color": GREY}
        axes.text(1.02, place, text, va="center", fontsize=8, **style)
    axes.axvline(0.5, color=BLACK, linewidth=1, linestyle=":")
    if evaluation.mean_subject_accuracy is not None:
        axes.axvline(evaluation.mean_subject_accuracy, color=BLACK, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), xlabel="accuracy")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_color(PALE)
    present = [label for label in COLOURS if any(row.label == label for _, row in rows)]
    handles = [Patch(color=COLOURS[label], label=NAMES[label]) for label in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(_title(evaluation, name, len(rows)), fontsize=11)


def _title(evaluation: Evaluation, name: str, bars: int) -> str:
    which = f"{name}: {evaluation.subjects} subjects"
    if bars < evaluation.subjects:
        which += f", the {bars} worst"
    mean = evaluation.mean_subject_accuracy
    return which if mean is None else f"{which}, mean accuracy {mean:.3f} (line)"
