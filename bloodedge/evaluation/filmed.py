"""Cells of people that a network was not fitted to, as cameras would show them.

They give an artifact's rates of error and refusal, person by person, and the reference for drift.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile
from bloodedge.data.pictures import in_threads
from bloodedge.decision.domain import Domain, describe
from bloodedge.decision.error_rates import Rates, count_outcomes
from bloodedge.decision.reference_people import Reference, aspects_of, fit_reference
from bloodedge.decision.slide_verdict import PeopleScores, people_scores
from bloodedge.decision.thresholds import Thresholds, decide
from bloodedge.imaging import ImagingSpec, network_input
from bloodedge.imaging.filming import camera_scale, in_a_field

MOST_CELLS = 60
"""Cells of each person and class; more would add little about how people differ."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Filmed:
    """Filmed cells; each person's are seen by a camera of their own, as a slide's are."""

    cells: list[CellFile]
    """Held-out cells first."""
    held_out: int
    """Number of held-out cells, which the rates are measured on."""
    images: NDArray[np.uint8]
    """Network inputs (N, *ImagingSpec.input_shape), RGB."""
    figures: Floats
    """(N, 41), of bloodedge.decision.domain.describe."""
    areas_um2: list[float]

    def rates(self, blast: Floats, domain: Domain | None, thresholds: Thresholds, data: str) -> Rates | None:
        """The rates of an artifact, from its calibrated blast probabilities (N,), over held-out cells of known people.

        data: what the cells are. None if there are no such cells.
        """
        inside = self.inside(domain)
        known = [number for number, cell in enumerate(self.cells[: self.held_out]) if cell.subject]
        if not known:
            return None
        cells = [self.cells[number] for number in known]
        verdicts = [decide(float(blast[n]), thresholds)[0] if inside[n] else "uncertain" for n in known]
        return count_outcomes([cell.subject for cell in cells], [cell.label for cell in cells], verdicts, data)

    def scores(
        self, blast: Floats, domain: Domain | None, person: Callable[[CellFile], str], data: str
    ) -> PeopleScores | None:
        """The scores of the held-out people, from calibrated blast probabilities (N,); None if there are too few.

        person: whose a cell is; data: what the cells are. Cells outside the domain do not count.
        """
        inside = np.flatnonzero(self.inside(domain)[: self.held_out])
        cells = [self.cells[number] for number in inside]
        return people_scores(blast[inside], [c.label for c in cells], [person(c) for c in cells], data)

    def inside(self, domain: Domain | None) -> NDArray[np.bool_]:
        """(N,): whether each cell is inside the domain; all are without one."""
        if domain is None or not self.cells:
            return np.ones(len(self.cells), bool)
        return domain.distances(self.figures) <= domain.limit

    def reference(self, blast: Floats) -> Reference | None:
        """The reference for drift, with the network's calibrated blast probabilities (N,).

        None if there are too few people.
        """
        people = [cell.subject or cell.name for cell in self.cells]
        return fit_reference(aspects_of(self.figures, blast, self.areas_um2), people)


def film(
    held_out: Sequence[CellFile],
    others: Sequence[CellFile],
    spec: ImagingSpec,
    seed: int,
    progress: Progress | None = None,
) -> Filmed:
    """Film at most MOST_CELLS of each person and class; others: of people who chose something, such as a threshold."""
    rng = np.random.default_rng(seed)
    first, rest = _some_of_each(held_out, rng), _some_of_each(others, rng)
    cells = [*first, *rest]
    shown = in_threads(lambda cell: cell.read(), cells, progress)
    people = [cell.subject or cell.name for cell in cells]
    scales = {person: camera_scale(rng) for person in sorted(set(people))}
    images = [
        network_input(in_a_field(cell, rng, scales[person]), spec) for cell, person in zip(shown, people, strict=True)
    ]
    return Filmed(
        cells=cells,
        held_out=len(first),
        images=np.array(images, np.uint8).reshape(-1, *spec.input_shape),
        figures=np.array([describe(image) for image in images]),
        areas_um2=[np.count_nonzero(cell.mask) * cell.um_per_px**2 for cell in shown],
    )


def _some_of_each(cells: Sequence[CellFile], rng: np.random.Generator) -> list[CellFile]:
    taken = Counter[tuple[str, int]]()
    chosen = []
    for index in rng.permutation(len(cells)):
        cell = cells[index]
        key = cell.subject or cell.name, cell.label
        taken[key] += 1
        if taken[key] <= MOST_CELLS:
            chosen.append(cell)
    return chosen
