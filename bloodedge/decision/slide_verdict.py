"""Whether a slide's cells look like patients' slides or like healthy people's, from held-out people's scores.

Each cell's calibrated blast probability falls into one of three bins (BINS). A person's counts are a draw of a
Dirichlet-multinomial distribution, one for patients and one for healthy people: its mean and how much people differ are
fitted to held-out people, with a weak prior. The likelihood ratio of a slide's counts says how many times as like
patients' slides as healthy people's it is. People, not cells, are the unit: as cells are added the ratio levels off.

The ratio's logarithm is scaled by what makes it right on people who were left out one at a time, and it is never larger
than the number of healthy people seen, nor smaller than one by the number of patients: so few cannot show more.
Other forms (two, five and eight bins, bins by quantile, and the mean score with Student's t) were compared by the
log loss of people left out: docs/decisions.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, Field

from bloodedge.config import Strict

HEADING = "## What it says of slides of people it has not seen"
BINS = ("low", "middle", "high")
EDGES = (1 / 3, 2 / 3)
"""Blast probabilities at which the bins meet."""
FEWEST_PEOPLE = 6
"""Of each class; fewer can never show a ratio of SURE."""
FEWEST_CELLS = 5
MOST_CELLS = 200
"""More count as so many: by then one person's shares are known far better than people are alike."""
SURE = 5.0
"""A slide is called from this ratio on, or from one by it down."""
UNLIKELY = 1e-3
"""Concentrations with a smaller part of the largest weight are left out."""
LONE_CELLS = 6.0
"""Of a person: from about as many on, more cells say little more about the mean over people."""
SIZES = np.geomspace(1, 200, 10)
"""Concentrations of the Dirichlet distributions that are weighed against each other; a small one: people differ."""
SCALES = np.linspace(0.2, 1, 33)
USUAL_SCALE = 0.6
"""What out-of-fold scores of 47 people of C-NMC ask for, about. Off it by a factor of e, a scale costs one unit of one
person's log loss, so that few people do not claim too much."""
SLIDES_OF = (20, 50, 200)
"""Cells of the resampled slides of held-out people by which verdicts are judged."""
SLIDES = 40
"""Resampled slides of each person and size."""
AHEAD = (10, 20, 50, 100)
"""Further cells after which a verdict is foreseen."""
FORESEEN = 100
"""Continuations of a slide that are drawn."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Answer = Literal["like patients", "like healthy people", "cannot tell"]
HEADLINES: dict[Answer, str] = {
    "like patients": "like patients' slides",
    "like healthy people": "like healthy people's slides",
    "cannot tell": "cannot tell",
}


class ScoreCounts(Strict):
    """Cells by calibrated blast probability."""

    low: int = Field(default=0, ge=0)
    """Below 1/3."""
    middle: int = Field(default=0, ge=0)
    high: int = Field(default=0, ge=0)
    """From 2/3 on."""

    @property
    def cells(self) -> int:
        """All of them."""
        return self.low + self.middle + self.high

    @property
    def row(self) -> tuple[int, int, int]:
        """The counts in the order of BINS."""
        return self.low, self.middle, self.high


def score_bin(blast_probability: float) -> str:
    """Which of BINS a calibrated blast probability falls into."""
    return BINS[sum(blast_probability >= edge for edge in EDGES)]


def count_scores(blast: ArrayLike) -> ScoreCounts:
    """The counts of calibrated blast probabilities (N,)."""
    counts = np.bincount(np.searchsorted(EDGES, np.asarray(blast, np.float64), "right"), minlength=len(BINS))
    return ScoreCounts(**dict(zip(BINS, counts.tolist(), strict=True)))


class SlideCalls(Strict):
    """What becomes of held-out people's slides of so many cells, each person left out of the fit: shares, 0..1.

    Patients and healthy people weigh the same.
    """

    cells: int
    right: float
    wrong: float
    not_called: float


class PeopleScores(Strict):
    """Scores of people that the network was not fitted to, by person, and how far verdicts from them are right."""

    data: str
    """Which cells these are."""
    patients: dict[str, ScoreCounts]
    healthy: dict[str, ScoreCounts]
    scale: float = Field(gt=0, le=1)
    """Of the ratio's logarithm."""
    calls: list[SlideCalls]

    @property
    def model(self) -> "SlideModel":
        """The fitted distributions; one object for equal scores, by which verdicts are kept."""
        patients, healthy = (tuple(c.row for c in people.values()) for people in (self.patients, self.healthy))
        return _fitted(patients, healthy, self.scale)


def scores_lines(scores: PeopleScores) -> list[str]:
    """A model card's section on the scores: what becomes of slides of people left out, and each person's counts."""
    rows = [
        f"| {person} | {what} | {counts.low} | {counts.middle} | {counts.high} |"
        for what, people in (("patient", scores.patients), ("healthy", scores.healthy))
        for person, counts in people.items()
    ]
    calls = [
        f"| {c.cells} | {100 * c.right:.0f} % | {100 * c.wrong:.0f} % | {100 * c.not_called:.0f} % |"
        for c in scores.calls
    ]
    people = f"{len(scores.patients)} patients and {len(scores.healthy)} healthy people"
    what = (
        f"Slides are compared with {people} ({scores.data}) and called when {SURE:g} times as like the ones' slides as"
        " the others'. With each of these people left out of the comparison in turn, slides of so many cells, drawn"
        " from their own, are called:"
    )
    return [
        HEADING,
        "",
        what,
        "",
        "| cells | right | wrong | not called |",
        "| --- | --- | --- | --- |",
        *calls,
        "",
        "Cells by blast probability (low: below 1/3; high: from 2/3 on):",
        "",
        "| person | who | low | middle | high |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def people_scores(blast: ArrayLike, labels: ArrayLike, people: Sequence[str], data: str) -> PeopleScores | None:
    """The scores of held-out people; None with fewer than FEWEST_PEOPLE patients or healthy people.

    blast: (N,) calibrated blast probabilities of cells that the network was not fitted to; labels: (N,), 1 for a blast;
    people: whose each cell is: whoever has a blast is a patient; data: what the cells are.
    """
    p, y, names = np.asarray(blast, np.float64), np.asarray(labels), np.asarray(people, str)
    counts = {str(name): count_scores(p[names == name]) for name in np.unique(names)}
    is_patient = {name: bool(y[names == name].any()) for name in counts}
    patients, healthy = ({n: c for n, c in counts.items() if is_patient[n] == patient} for patient in (True, False))
    if min(len(patients), len(healthy)) < FEWEST_PEOPLE:
        return None
    rows, ill = (
        np.concatenate([_table(patients), _table(healthy)]),
        np.repeat([True, False], [len(patients), len(healthy)]),
    )
    models = [_without(rows, ill, index) for index in range(len(rows))]
    scale = _fitted_scale(np.array([model.log_ratio(row) for model, row in zip(models, rows, strict=True)]), ill)
    calls = [_calls(models, rows, ill, scale, cells) for cells in SLIDES_OF]
    return PeopleScores(data=data, patients=patients, healthy=healthy, scale=scale, calls=calls)


def _table(people: dict[str, ScoreCounts]) -> Floats:
    return np.array([counts.row for counts in people.values()], np.float64)


def _without(rows: Floats, ill: NDArray[np.bool_], index: int) -> "SlideModel":
    others = np.arange(len(rows)) != index
    return SlideModel.fit(rows[others & ill], rows[others & ~ill], 1.0)


def _fitted_scale(log_ratios: Floats, ill: NDArray[np.bool_]) -> float:
    """The scale that makes the ratios likeliest for the people left out; both classes weigh the same."""
    sign = np.where(ill, 1, -1)
    weight = np.where(ill, 1 / ill.sum(), 1 / (~ill).sum())
    losses = [float(weight @ np.logaddexp(0, -sign * scale * log_ratios)) / 2 for scale in SCALES]
    unusual = np.log(SCALES / USUAL_SCALE) ** 2 / len(ill)
    return float(SCALES[int(np.argmin(losses + unusual))])


def _calls(models: "list[SlideModel]", rows: Floats, ill: NDArray[np.bool_], scale: float, cells: int) -> SlideCalls:
    rng = np.random.default_rng(cells)
    shares = np.zeros((len(rows), 2))
    for index, (model, row) in enumerate(zip(models, rows, strict=True)):
        drawn = rng.multinomial(cells, row / row.sum(), SLIDES)
        ratios = np.exp(model.scaled(scale).capped_log_ratios(drawn))
        patient, healthy = float((ratios >= SURE).mean()), float((ratios <= 1 / SURE).mean())
        shares[index] = (patient, healthy) if ill[index] else (healthy, patient)
    right, wrong = ((shares[ill].mean(axis=0) + shares[~ill].mean(axis=0)) / 2).tolist()
    return SlideCalls(cells=cells, right=right, wrong=wrong, not_called=1 - right - wrong)


@dataclass(frozen=True, eq=False)
class People:
    """The scores of one class of people: a mixture of Dirichlet distributions that differ in concentration."""

    mean: Floats
    """(3,): the mean share of each bin."""
    sizes: Floats
    """(S,): concentrations, of SIZES those that are likely."""
    weights: Floats
    """(S,): of each."""
    people: int

    @classmethod
    def fit(cls, rows: Floats) -> "People":
        """To the counts (people, 3) of people; a flat prior on the root of the inverse concentration."""
        counts = _capped(rows[rows.sum(axis=1) > 0])
        cells = counts.sum(axis=1)
        weight = cells / (cells + LONE_CELLS)
        mean = (weight @ (counts / cells[:, np.newaxis]) + 1 / counts.shape[1]) / (weight.sum() + 1)
        even = cls(mean, SIZES, np.ones(len(SIZES)), len(counts))
        likelihood = even.table(counts).sum(axis=0) - np.log(SIZES) / 2
        weights = np.exp(likelihood - likelihood.max())
        likely = weights > UNLIKELY
        return cls(mean, SIZES[likely], weights[likely] / weights[likely].sum(), len(counts))

    def log_likelihoods(self, counts: Floats) -> Floats:
        """(N,) of N slides' counts (N, 3), up to what depends on the counts alone."""
        table = self.table(_capped(counts))
        largest = table.max(axis=1)
        return np.asarray(largest + np.log(np.exp(table - largest[:, np.newaxis]).sum(axis=1)), np.float64)

    def continued(self, counts: Floats, cells: int, draws: int, rng: np.random.Generator) -> Floats:
        """Counts (draws, 3) of the next cells of a slide with ``counts`` (3,), if it is of this class."""
        likelihood = self.table(_capped(counts[np.newaxis]))[0]
        chance = np.exp(likelihood - likelihood.max())
        sizes = self.sizes[rng.choice(len(self.sizes), draws, p=chance / chance.sum())]
        gamma = rng.standard_gamma(self.mean * sizes[:, np.newaxis] + counts) + 1e-12
        return np.asarray(rng.multinomial(cells, gamma / gamma.sum(axis=1, keepdims=True)), np.float64)

    def table(self, counts: Ints) -> Floats:
        """(N, S): logarithms of each size's weight times its likelihood for capped counts (N, 3)."""
        bins, whole = self._rising
        each = bins[:, np.arange(counts.shape[1]), counts].sum(axis=2) - whole[:, counts.sum(axis=1)]
        return np.asarray(each.T + np.log(self.weights), np.float64)

    @cached_property
    def _rising(self) -> tuple[Floats, Floats]:
        """The factors of the likelihood by count: (S, 3, counts) of each bin, (S, counts) of all cells."""
        return _log_rising(self.mean * self.sizes[:, np.newaxis]), _log_rising(self.sizes)


def _capped(counts: Floats) -> Ints:
    """Counts (N, 3) with about MOST_CELLS cells where there are more, in the same proportions."""
    cells = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.rint(counts * np.minimum(1, MOST_CELLS / np.maximum(cells, 1))), np.int64)


def _log_rising(values: Floats) -> Floats:
    """(..., MOST_CELLS + 9): logarithm of value (value + 1) ... (value + n - 1), for each n from 0."""
    steps = np.log(values[..., np.newaxis] + np.arange(MOST_CELLS + 8))
    return np.concatenate([np.zeros((*values.shape, 1)), np.cumsum(steps, axis=-1)], axis=-1)


@dataclass(frozen=True, eq=False)
class SlideModel:
    """The likelihood ratio of a slide's counts."""

    patients: People
    healthy: People
    scale: float

    @classmethod
    def fit(cls, patients: Floats, healthy: Floats, scale: float) -> "SlideModel":
        """To counts (people, 3) of either class."""
        return cls(People.fit(patients), People.fit(healthy), scale)

    def scaled(self, scale: float) -> "SlideModel":
        """The same with another scale."""
        return SlideModel(self.patients, self.healthy, scale)

    def log_ratio(self, counts: Floats) -> float:
        """Of one slide's counts (3,), scaled and not capped."""
        return float(self._log_ratios(counts[np.newaxis])[0])

    def capped_log_ratios(self, counts: ArrayLike) -> Floats:
        """(N,) of slides' counts (N, 3), scaled and capped."""
        most, least = math.log(self.healthy.people), -math.log(self.patients.people)
        return np.clip(self._log_ratios(np.asarray(counts, np.float64)), least, most)

    def _log_ratios(self, counts: Floats) -> Floats:
        return self.scale * (self.patients.log_likelihoods(counts) - self.healthy.log_likelihoods(counts))

    def settled_after(self, counts: Floats) -> int | None:
        """Of AHEAD, the fewest further cells with an even chance of a verdict; None where that is out of sight.

        The slide is taken for a patient's as often as the ratio makes it one, at even odds beforehand.
        """
        rng = np.random.default_rng(0)
        ratio = math.exp(float(self.capped_log_ratios(counts[np.newaxis])[0]))
        ill = round(FORESEEN * ratio / (1 + ratio))
        for cells in AHEAD:
            drawn = [
                people.continued(counts, cells, draws, rng)
                for people, draws in ((self.patients, ill), (self.healthy, FORESEEN - ill))
                if draws
            ]
            later = self.capped_log_ratios(counts + np.concatenate(drawn))
            if (np.abs(later) >= math.log(SURE)).mean() >= 0.5:
                return cells
        return None


class VerdictFigures(BaseModel):
    """What a slide's cells as a whole look like. For Research Use Only."""

    answer: Answer = Field(description="like patients, like healthy people, or cannot tell")
    ratio: float | None = Field(
        description="How many times as like patients' slides as healthy people's; null for fewer than 5 cells"
    )
    cells: int = Field(description="Cells inside the domain with a probability, those in the abstain band included")
    patients: int = Field(description="Held-out patients that it was compared with")
    healthy: int = Field(description="Held-out healthy people that it was compared with")
    more_cells: int | None = Field(
        description="Further cells with an even chance of a verdict, where it cannot tell; null where more hardly help"
    )


@dataclass(frozen=True)
class SlideVerdict:
    """What a slide's cells as a whole look like."""

    figures: VerdictFigures

    @property
    def headline(self) -> str:
        """A few words."""
        return HEADLINES[self.figures.answer]

    @property
    def sentences(self) -> list[str]:
        """The ratio in words, whom it was compared with, and what more cells would do."""
        figures = self.figures
        if figures.ratio is None:
            return [f"A slide is compared with others from {FEWEST_CELLS} cells on; this one has {figures.cells}."]
        people = f"{figures.patients} patients and {figures.healthy} healthy people whom the network has not seen"
        said = [f"Its {figures.cells:,} cells are {_times(figures.ratio)} ({people})."]
        if figures.answer == "cannot tell":
            more = figures.more_cells
            ahead = f"About {more} more cells may settle it." if more else "More cells are unlikely to settle it."
            said.append(f"A slide is called from {SURE:g} times on, either way. {ahead}")
        return said

    @property
    def sentence(self) -> str:
        """All in one paragraph."""
        return " ".join([f"As a whole: {self.headline}.", *self.sentences])


def _times(ratio: float) -> str:
    """The ratio in words, with the larger side first."""
    larger = max(ratio, 1 / ratio)
    sides = ("patients' slides", "healthy people's slides")
    if larger < 1.1:
        return f"as like {sides[0]} as {sides[1]}"
    first, second = sides if ratio > 1 else sides[::-1]
    figure = f"{math.floor(10 * larger) / 10:.1f}" if larger < 10 else f"{larger:.0f}"
    return f"{figure} times as like {first} as {second}"


Rows = tuple[tuple[int, int, int], ...]
"""Each person's counts in the order of BINS."""


@lru_cache(maxsize=8)
def _fitted(patients: Rows, healthy: Rows, scale: float) -> SlideModel:
    return SlideModel.fit(np.array(patients, np.float64), np.array(healthy, np.float64), scale)


def slide_verdict(scores: PeopleScores | None, counts: ScoreCounts) -> SlideVerdict | None:
    """The verdict on a slide; None where the bundle holds no held-out people's scores."""
    return None if scores is None else _verdict(scores.model, counts.row)


@lru_cache(maxsize=1000)  # a page asks for the same verdict many times
def _verdict(model: SlideModel, row: tuple[int, int, int]) -> SlideVerdict:
    counts = np.array(row, np.float64)
    cells, answer, ratio, more = sum(row), "cannot tell", None, None
    if cells >= FEWEST_CELLS:
        ratio = math.exp(float(model.capped_log_ratios(counts[np.newaxis])[0]))
        answer = "like patients" if ratio >= SURE else "like healthy people" if ratio <= 1 / SURE else "cannot tell"
        more = model.settled_after(counts) if answer == "cannot tell" else None
    people = {"patients": model.patients.people, "healthy": model.healthy.people}
    figures = {"answer": answer, "ratio": ratio, "cells": cells, "more_cells": more}
    return SlideVerdict(VerdictFigures.model_validate(figures | people))
