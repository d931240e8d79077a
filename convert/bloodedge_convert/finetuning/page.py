"""What fine-tuning did, as one HTML page and as a section of the model card."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.manifest import Manifest
from bloodedge.decision.thresholds import LABELS
from bloodedge.imaging import first_view
from bloodedge.report import data_uri, render
from bloodedge_convert.finetuning.cells import BenchCells
from bloodedge_convert.finetuning.fit import Source
from bloodedge_convert.finetuning.judge import Judged

HEADING = "## Fine-tuned to a bench"
FIGURES = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "sensitivity": "blasts called right",
           "specificity": "normal cells called right"}  # fmt: skip
MOST_PICTURES = 48


def table(before: Evaluation, after: Evaluation) -> list[tuple[str, str, str]]:
    """Rows of (figure, before, after)."""
    return [(words, before.text(name), after.text(name)) for name, words in FIGURES.items()]


def card_lines(manifest: Manifest, notes: Sequence[str]) -> list[str]:
    """The card's section."""
    record = manifest.finetuned
    assert record is not None
    rows = [
        f"| {where}: {name} | {old} | {new} |"
        for where, pair in (
            ("this bench", (record.before, record.after)),
            ("the release's people", (record.release_before, record.release_after)),
        )
        for name, old, new in table(*pair)
    ]
    sentence = (
        f"The head of {record.from_name} {record.from_serial} was fitted to {record.cells} reviewed cells of "
        f"{record.slides} slides ({record.blasts} blasts) and to the release's own cells. Each slide and each person "
        "was held back once. Figures above this section are of the release."
    )
    return [
        HEADING,
        "",
        sentence,
        "",
        "| figure | before | after |",
        "| --- | --- | --- |",
        *rows,
        *(line for note in notes for line in ("", note)),
    ]


def page(
    old: Manifest,
    new: Manifest,
    judged: Judged,
    bench: Source,
    cells: BenchCells,
    shares: tuple[float, float],
    notes: Sequence[str],
) -> str:
    """The page; shares: of the bench's cells inside the domain, before and after."""
    before, after = (values >= 0 for values in (bench.log_odds, judged.log_odds(bench)))
    return render(
        "bloodedge_convert.finetuning",
        "finetune.html",
        old=old,
        new=new,
        record=new.finetuned,
        notes=notes,
        here=table(judged.before, judged.after),
        there=table(judged.release_before, judged.release_after),
        forgotten=f"{max(judged.forgotten, 0.0):.1f}",
        accepted=[f"{100 * share:.0f} %" for share in shares],
        slides=_slides(judged),
        mended=_pictures(cells, after, (before != after) & (after == (bench.labels == 1))),
        spoilt=_pictures(cells, after, (before != after) & (after != (bench.labels == 1))),
        against=_pictures(cells, after, (before == after) & (after != (bench.labels == 1))),
    )


def _slides(judged: Judged) -> list[tuple[str, int, str, str]]:
    return [
        (name, one.cells, f"{100 * judged.before.per_subject[name].accuracy:.0f} %", f"{100 * one.accuracy:.0f} %")
        for name, one in judged.after.per_subject.items()
    ]


def _pictures(
    cells: BenchCells, called: NDArray[np.bool_], chosen: NDArray[np.bool_]
) -> tuple[int, list[dict[str, str]]]:
    """How many were chosen, and the first of them as pictures."""
    found = []
    for index in np.flatnonzero(chosen)[:MOST_PICTURES]:
        rgb = np.ascontiguousarray(first_view(cells.images[index])[:, :, ::-1])
        _, data = cv2.imencode(".jpg", rgb)
        found.append(
            {
                "uri": data_uri(data.tobytes(), "image/jpeg"),
                "text": f"called {LABELS[int(called[index])]}, you answered {LABELS[int(cells.labels[index])]}",
                "slide": str(cells.slides[index]),
            }
        )
    return int(chosen.sum()), found
