"""Scores of a run's held-out people, from its own predictions."""

import csv
from pathlib import Path

from bloodedge.bundle.run_record import RunRecord
from bloodedge.decision.slide_verdict import PeopleScores, people_scores

HELD_OUT = ("test", "shift", "inner")
"""Parts of ``predictions.csv`` whose cells were called by a network that was fitted to none of their people."""


def run_scores(run: Path, record: RunRecord) -> PeopleScores | None:
    """The scores by which a slide as a whole is judged; None for a leaky split or too few people held out."""
    path = run / "predictions.csv"
    if record.split.leaky or not path.is_file():
        return None
    with path.open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["subject"]]
    parts = ("folds",) if record.cross_validation else HELD_OUT
    rows = [row for row in rows if row["part"] in parts]
    groups = [group for part in record.split.parts.values() for group in part.groups]
    person = {subject: group for group in groups for subject in group.split("+")}
    return people_scores(
        [float(row["blast"]) for row in rows],
        [int(row["label"]) for row in rows],
        [person.get(row["subject"], row["subject"]) for row in rows],
        "the run's own cells of people whom its network was not fitted to",
    )
