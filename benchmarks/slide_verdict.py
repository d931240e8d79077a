"""Forms of the likelihood ratio by which a slide as a whole is judged, compared on held-out people.

    python benchmarks/slide_verdict.py --scores SCORES.csv

writes results/slide_verdict.json. SCORES.csv has a row for each cell under subject,label,blast: whose it is, 1 for a
patient's, and its blast probability by a network that was fitted to none of that person's cells, such as the "inner"
rows of a run's predictions.csv. Subjects who are one person in C-NMC count as one. Each person in turn is left out; the
others give the ratio of SLIDES slides of so many cells, drawn from the person's own. The figure is the log loss over
people, both classes weighing the same, after the ratio's logarithm is scaled as suits it best (0.693: chance).
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from revision import revision
from scipy import stats

from bloodedge.data.known_people import SAME_PERSON
from bloodedge.decision import slide_verdict
from bloodedge.decision.slide_verdict import SCALES, SLIDES_OF, SlideModel, people_scores
from bloodedge.files import write_json

RESULTS = Path(__file__).parent / "results" / "slide_verdict.json"
SLIDES = 30
MOST_LOGIT = 6.0

Floats = NDArray[np.float64]
Scores = list[Floats]
"""Blast probabilities of each person's cells."""
Ratio = Callable[[Floats], float]
"""The logarithm of the likelihood ratio of a slide's blast probabilities (N,)."""
Form = Callable[[Scores, Scores], Ratio]
"""Fits to patients' and healthy people's scores."""


def read(path: Path) -> tuple[Floats, NDArray[np.int64], list[str]]:
    """Blast probabilities, labels and people."""
    with path.open(newline="") as table:
        rows = list(csv.DictReader(table))
    one = {name: "+".join(names) for names in SAME_PERSON for name in names}
    people = [one.get(row["subject"], row["subject"]) for row in rows]
    return np.array([float(row["blast"]) for row in rows]), np.array([int(row["label"]) for row in rows]), people


def binned(edges: tuple[float, ...]) -> Form:
    """Dirichlet-multinomial distributions of the counts between ``edges``."""

    def fit(patients: Scores, healthy: Scores) -> Ratio:
        def counts(blast: Floats) -> Floats:
            return np.bincount(np.searchsorted(edges, blast, "right"), minlength=len(edges) + 1).astype(np.float64)

        ill, well = (np.array([counts(blast) for blast in people]) for people in (patients, healthy))
        model = SlideModel.fit(ill, well, 1.0)
        return lambda blast: model.log_ratio(counts(blast))

    return fit


def mean_score(patients: Scores, healthy: Scores) -> Ratio:
    """Student's t of the mean logit, people's means being normal and cells normal about them."""
    sides = [_normal([_logits(blast) for blast in people]) for people in (patients, healthy)]

    def ratio(blast: Floats) -> float:
        values = _logits(blast)
        logs = [
            stats.t.logpdf(values.mean(), people - 1, mean, np.sqrt(between * (1 + 1 / people) + within / len(values)))
            for mean, between, within, people in sides
        ]
        return float(logs[0] - logs[1])

    return ratio


def _logits(blast: Floats) -> Floats:
    return np.clip(np.log(blast / (1 - blast)), -MOST_LOGIT, MOST_LOGIT)


def _normal(people: Scores) -> tuple[float, float, float, int]:
    """Mean over people, variance between and within them, and their number, by likelihood."""
    means, cells = np.array([p.mean() for p in people]), np.array([len(p) for p in people])
    within = float(np.mean([p.var() for p in people if len(p) > 4]))
    found = []
    for between in np.geomspace(0.01, 16, 60):
        spread = between + within / cells
        mean = float((means / spread).sum() / (1 / spread).sum())
        likelihood = -0.5 * float((np.log(spread) + (means - mean) ** 2 / spread).sum() + np.log((1 / spread).sum()))
        found.append((likelihood, mean, float(between)))
    _, mean, between = max(found)
    return mean, between, within, len(people)


FORMS: dict[str, Form] = {f"{bins} bins": binned(tuple(np.arange(1, bins) / bins)) for bins in (2, 3, 4, 5, 8)} | {
    "mean score": mean_score
}


def judge(form: Form, scores: Scores, ill: NDArray[np.bool_], cells: int) -> dict[str, float]:
    """The log loss of a form on slides of so many cells, unscaled and at the best scale."""
    ratios = np.zeros((len(scores), SLIDES))
    for index in range(len(scores)):
        others = [number for number in range(len(scores)) if number != index]
        ratio = form([scores[n] for n in others if ill[n]], [scores[n] for n in others if not ill[n]])
        rng = np.random.default_rng(1000 * index + cells)
        ratios[index] = [ratio(rng.choice(scores[index], cells)) for _ in range(SLIDES)]
    sign = np.where(ill, 1, -1)[:, np.newaxis]

    def loss(scale: float) -> float:
        each = np.logaddexp(0, -sign * scale * ratios).mean(axis=1)
        return float(each[ill].mean() + each[~ill].mean()) / 2

    best = min(SCALES, key=loss)
    return {"log_loss_unscaled": round(loss(1.0), 4), "log_loss": round(loss(best), 4), "scale": round(float(best), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True)
    blast, labels, people = read(parser.parse_args().scores)
    names = np.unique(people)
    scores = [blast[np.array(people) == name] for name in names]
    ill = np.array([labels[np.array(people) == name].any() for name in names])
    forms = {}
    for name, form in FORMS.items():
        forms[name] = {str(cells): judge(form, scores, ill, cells) for cells in SLIDES_OF}
        print(name, forms[name], flush=True)
    found = people_scores(blast, labels, people, "out-of-fold scores")
    assert found is not None
    calls = [call.model_dump() for call in found.calls]
    print(calls)
    record = {"command": "python benchmarks/slide_verdict.py --scores SCORES.csv", "commit": revision()}
    counted = {"cells": len(blast), "patients": int(ill.sum()), "healthy": int((~ill).sum())}
    write_json(
        RESULTS, record | counted | {"sure": slide_verdict.SURE, "scale": found.scale, "forms": forms, "calls": calls}
    )


if __name__ == "__main__":
    main()
