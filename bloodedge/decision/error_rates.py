"""How often a classifier errs and refuses on each person, and what to expect of a new person.

People differ: the chances of a new person are drawn from beta distributions with one mode that are fitted to held-out
people (beta-binomial; flat prior on the mean and on the root of the inverse number of prior cells, Gelman et al.,
Bayesian Data Analysis, 3rd edition 2013, 5.3).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict

FEWEST_PEOPLE = 3
"""People of each class; fewer do not show how people differ."""
DRAWS = 2000
"""People drawn; a tail of TAIL then holds 50 of them."""

Floats = NDArray[np.float64]


class Outcomes(Strict):
    """How one person's cells of one true class were called; refused: uncertain or outside the domain."""

    blast: int = Field(ge=0)
    normal: int = Field(ge=0)
    refused: int = Field(ge=0)

    @property
    def called(self) -> int:
        """Cells that were called either."""
        return self.blast + self.normal

    @property
    def cells(self) -> int:
        """All cells, refused ones included."""
        return self.called + self.refused


class Rates(Strict):
    """Outcomes by person, for people that the network was not fitted to."""

    data: str = ""
    """Which cells were measured."""
    blast: dict[str, Outcomes]
    """What true blasts were called, by person."""
    normal: dict[str, Outcomes]
    """What true normal cells were called, by person."""

    @property
    def known(self) -> bool:
        """Whether both classes have at least FEWEST_PEOPLE people."""
        return min(_people(self.blast), _people(self.normal)) >= FEWEST_PEOPLE

    @property
    def people(self) -> int:
        """Number of people measured."""
        return len(self.blast.keys() | self.normal.keys())

    @property
    def new_person(self) -> "NewPerson":
        """The chances of a person not yet seen; one object for equal outcomes, by which estimates are kept."""
        blasts, normals = (
            tuple((person.blast, person.called, person.cells) for person in people.values())
            for people in (self.blast, self.normal)
        )
        return _new_person(blasts, normals)


def count_outcomes(people: Sequence[str], labels: Sequence[int], verdicts: Sequence[str], data: str = "") -> Rates:
    """The rates of N cells: each one's person, label (1 is a blast) and verdict (see ``decide``)."""
    counts: dict[tuple[int, str], Counter[str]] = {}
    for person, label, verdict in zip(people, labels, verdicts, strict=True):
        counts.setdefault((label, person), Counter())[verdict] += 1

    def of(true: int) -> dict[str, Outcomes]:
        return {
            person: Outcomes(blast=count["blast"], normal=count["normal"], refused=count["uncertain"])
            for (label, person), count in sorted(counts.items())
            if label == true
        }

    return Rates(data=data, blast=of(1), normal=of(0))


@dataclass(frozen=True, eq=False)
class NewPerson:
    """Chances of people not yet seen, float64 (DRAWS,) each, 0..1."""

    called_blasts: Floats
    """Chance that a blast is called at all."""
    called_normals: Floats
    sensitivity: Floats
    """Chance that a called blast is called a blast."""
    false_blasts: Floats
    """Chance that a called normal cell is called a blast."""


Counts = tuple[tuple[int, int, int], ...]
"""(called blasts, called, all) of each person's cells."""


@lru_cache(maxsize=8)
def _new_person(blasts: Counts, normals: Counts) -> NewPerson:
    rng = np.random.default_rng(0)
    return NewPerson(
        called_blasts=_drawn([called for _, called, _ in blasts], [cells for _, _, cells in blasts], rng),
        called_normals=_drawn([called for _, called, _ in normals], [cells for _, _, cells in normals], rng),
        sensitivity=_drawn([blast for blast, _, _ in blasts], [called for _, called, _ in blasts], rng),
        false_blasts=_drawn([blast for blast, _, _ in normals], [called for _, called, _ in normals], rng),
    )


def _people(outcomes: Mapping[str, Outcomes]) -> int:
    """People of whom at least one cell was called."""
    return sum(person.called > 0 for person in outcomes.values())


def _drawn(successes: Sequence[int], trials: Sequence[int], rng: np.random.Generator) -> Floats:
    """Chances (DRAWS,) of new people, given how often it happened to those seen; see this file's docstring."""
    means = 1 / (1 + np.exp(-np.linspace(-7, 7, 113)))
    sizes = np.geomspace(2, 20_000, 21)
    mean, size = (axis.ravel() for axis in np.meshgrid(means, sizes, indexing="ij"))
    one_mode = np.minimum(mean, 1 - mean) * size >= 1
    mean, size = mean[one_mode], size[one_mode]
    weight = np.log(mean * (1 - mean)) - np.log(size) / 2  # priors, by the grid's even steps of logit and logarithm
    for happened, tried in zip(successes, trials, strict=True):
        if tried:
            a, b = mean * size, (1 - mean) * size
            weight += _log_rising(a, happened) + _log_rising(b, tried - happened) - _log_rising(size, tried)
    chance = np.exp(weight - weight.max())
    chosen = rng.choice(len(chance), DRAWS, p=chance / chance.sum())
    drawn: Floats = rng.beta((mean * size)[chosen], ((1 - mean) * size)[chosen])
    return drawn


def _log_rising(values: Floats, count: int) -> Floats:
    """Logarithm of value (value + 1) ... (value + count - 1), for each value."""
    return _log_gamma(values + count) - _log_gamma(values)


def _log_gamma(values: Floats) -> Floats:
    """Stirling's series from 8 on, to which smaller values are raised; within 1e-9."""
    raised = values + 8
    steps = np.log(np.prod(values[:, None] + np.arange(8), axis=1))
    series = 1 / (12 * raised) - 1 / (360 * raised**3) + 1 / (1260 * raised**5)
    logarithm: Floats = (raised - 0.5) * np.log(raised) - raised + math.log(2 * math.pi) / 2 + series - steps
    return logarithm
