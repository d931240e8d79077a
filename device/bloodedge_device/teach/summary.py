"""What was reviewed on this bench so far, and what it teaches."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bloodedge_device.export.answers import Answer, Said, settle
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.store import open_for_reading
from bloodedge_device.teach.learning import Point, TaughtCell, learning_curve, missing, verdict

MOST_CELLS = 5000
"""Latest reviewed cells that are looked at."""
LEAST_REVIEWED = 20
"""Random cells of a bundle before its agreement is shown."""


@dataclass(frozen=True)
class SlideReviews:
    """A slide's reviewed cells."""

    slide: int
    label: str
    classes: Counter[str]
    random: int

    @property
    def cells(self) -> int:
        """All of them."""
        return self.classes.total()


@dataclass(frozen=True)
class BundleAgreement:
    """How often reviewers agree with a bundle, on random cells that both called."""

    bundle: str
    share: ClusteredShare


@dataclass(frozen=True)
class Teaching:
    """What the page shows."""

    slides: tuple[SlideReviews, ...]
    contradictory: int
    missing: tuple[str, ...]
    """What must be reviewed before anything can be said; empty where enough was."""
    curve: tuple[Point, ...]
    verdict: str
    earlier: int
    """Reviewed cells that an earlier bundle judged; they teach, and are not in the curve."""
    agreement: tuple[BundleAgreement, ...]

    @property
    def reviewed(self) -> int:
        """Reviewed cells whose answers agree."""
        return sum(slide.cells for slide in self.slides)


def teaching(state: Path, bundle: tuple[str, int]) -> Teaching:
    """What was reviewed, of the latest MOST_CELLS; bundle: name and serial of the one that runs."""
    rows = _reviewed(state)
    said = {row["cell"]: settle(answers) for row, answers in rows}
    cells = [row for row, _ in rows if not said[row["cell"]].problem]
    present = [row for row in cells if (row["bundle_name"], row["bundle_serial"]) == bundle]
    taught = [cell for row in present if (cell := _taught(row, said[row["cell"]])) is not None]
    lacking = missing(taught)
    curve = [] if lacking else learning_curve(taught)
    return Teaching(
        slides=_by_slide(cells, said),
        contradictory=sum(one.contradictory for one in said.values()),
        missing=tuple(lacking),
        curve=tuple(curve),
        verdict=verdict(curve) if curve else "",
        earlier=len(cells) - len(present),
        agreement=_agreement(cells, said),
    )


def _reviewed(state: Path) -> list[tuple[dict[str, Any], list[Answer]]]:
    """The latest reviewed cells with their answers, oldest first."""
    query = (
        "SELECT cells.id AS cell, frames.slide, slides.label AS slide_label, cells.label AS model_label,"
        " blast_probability, figures, bundle_name, bundle_serial, reviews.label, reviews.kind, reviews.stage, sampling,"
        " reviewer FROM reviews JOIN cells ON cells.id = reviews.cell JOIN frames ON frames.id = cells.frame"
        " JOIN slides ON slides.id = frames.slide JOIN runs ON runs.id = slides.run"
        " WHERE cells.id IN (SELECT cell FROM reviews GROUP BY cell ORDER BY max(id) DESC LIMIT ?) ORDER BY reviews.id"
    )
    rows: dict[int, dict[str, Any]] = {}
    answers: defaultdict[int, list[Answer]] = defaultdict(list)
    with open_for_reading(state) as database:
        for row in database.execute(query, (MOST_CELLS,)):
            rows[row["cell"]] = dict(row)
            answers[row["cell"]].append(
                Answer(row["label"], row["kind"], row["stage"], row["sampling"], row["reviewer"])
            )
    return [(row, answers[cell]) for cell, row in rows.items()]


def _taught(row: dict[str, Any], said: Said) -> TaughtCell | None:
    """None for a cell that has no class, or that the network did not judge."""
    if said.label not in {"blast", "normal"} or row["blast_probability"] is None or row["figures"] is None:
        return None
    figures = tuple(map(float, np.frombuffer(row["figures"], np.float32)))
    return TaughtCell(row["slide"], said.label == "blast", said.sampling == "random", row["blast_probability"], figures)


def _by_slide(cells: list[dict[str, Any]], said: dict[int, Said]) -> tuple[SlideReviews, ...]:
    slides: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in cells:
        slides[row["slide"]].append(row)
    return tuple(
        SlideReviews(
            slide,
            rows[0]["slide_label"],
            Counter(said[row["cell"]].label for row in rows),
            sum(said[row["cell"]].sampling == "random" for row in rows),
        )
        for slide, rows in sorted(slides.items(), reverse=True)
    )


def _agreement(cells: list[dict[str, Any]], said: dict[int, Said]) -> tuple[BundleAgreement, ...]:
    """By bundle, the newest first; slides are clusters."""
    right: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    whole: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for row in cells:
        one, bundle = said[row["cell"]], (row["bundle_name"], row["bundle_serial"])
        if one.sampling == "random" and {one.label, row["model_label"]} <= {"blast", "normal"}:
            whole[bundle][row["slide"]] += 1
            right[bundle][row["slide"]] += one.label == row["model_label"]
    return tuple(
        BundleAgreement(
            f"{name} {serial}",
            ClusteredShare([right[name, serial][slide] for slide in slides], [slides[slide] for slide in slides]),
        )
        for (name, serial), slides in sorted(whole.items(), key=lambda item: -max(item[1]))
        if slides.total() >= LEAST_REVIEWED
    )
