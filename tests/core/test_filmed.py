"""What a slide is held against comes from people that the network was not fitted to, seen by cameras."""

from collections import Counter

import numpy as np
import pytest

from bloodedge.data.dataset import CellFile, read_dataset
from bloodedge.decision.domain import FIGURES, Domain
from bloodedge.decision.reference_people import FEWEST_CELLS, FEWEST_PEOPLE
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.filmed import MOST_CELLS, Filmed, film
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import write_dataset

SPEC = ImagingSpec(size_px=64)
UNIT = tuple(tuple(float(i == j) for j in range(FIGURES)) for i in range(FIGURES))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[CellFile]:
    folder = tmp_path_factory.mktemp("people") / "data"
    write_dataset(folder, subjects=FEWEST_PEOPLE + 1, cells_per_subject=FEWEST_CELLS, seed=3)
    return list(read_dataset(folder).cells)


def filmed(cells: list[CellFile]) -> Filmed:
    """Patients held out, healthy people validated."""
    return film([cell for cell in cells if cell.label], [cell for cell in cells if not cell.label], SPEC, seed=0)


@pytest.fixture(scope="module")
def shown(cells: list[CellFile]) -> Filmed:
    return filmed(cells)


@pytest.mark.slow
def test_every_person_s_cells_are_in_the_reference(shown: Filmed) -> None:
    reference = shown.reference(np.linspace(0.05, 0.95, len(shown.cells)))
    assert reference is not None
    assert (reference.people, reference.cells) == (FEWEST_PEOPLE + 1, len(shown.cells))
    areas = reference.aspects["area_um2"].quantiles
    assert 30 < areas[0] < areas[50] < areas[100] < 500  # white cells are 8 to 20 µm across
    confidence = reference.aspects["confidence"].quantiles
    assert confidence[0] >= 0.5
    assert confidence[100] == pytest.approx(0.95, abs=1e-3)


def test_too_few_people_make_no_reference(cells: list[CellFile]) -> None:
    first = sorted({cell.subject for cell in cells})[: FEWEST_PEOPLE - 1]
    few = filmed([cell for cell in cells if cell.subject in first])
    assert few.reference(np.full(len(few.cells), 0.9)) is None


def test_the_rates_are_those_of_held_out_people_and_count_what_the_device_would_refuse(shown: Filmed) -> None:
    doubtful = np.arange(len(shown.cells)) % 10 == 0
    rates = shown.rates(np.where(doubtful, 0.5, 0.9), None, Thresholds(), "drawn cells")
    assert rates is not None
    assert rates.data == "drawn cells"
    assert not rates.normal  # these people validated: they chose
    assert rates.blast.keys() == {cell.subject for cell in shown.cells if cell.label}
    total = Counter[str]()
    for outcomes in rates.blast.values():
        total.update(outcomes.model_dump())
        assert outcomes.called + outcomes.refused == FEWEST_CELLS
    refused = int(doubtful[: shown.held_out].sum())
    assert total == {"blast": shown.held_out - refused, "normal": 0, "refused": refused}


def test_scores_are_of_held_out_people_and_of_cells_inside_the_domain(cells: list[CellFile]) -> None:
    held_out = film(cells, [], SPEC, seed=0)
    blast = np.array([0.9 if cell.label else 0.1 for cell in held_out.cells])
    assert held_out.scores(blast, None, lambda cell: cell.subject, "drawn") is None  # three people a class
    found = held_out.scores(blast, None, lambda cell: f"{cell.subject}-{hash(cell.name) % 3}", "drawn")
    assert found is not None
    assert sum(counts.high for counts in found.patients.values()) == sum(cell.label for cell in held_out.cells)
    assert {counts.high for counts in found.healthy.values()} == {0}
    nowhere = Domain(mean=(1e6,) * FIGURES, deviation=(1.0,) * FIGURES, whitening=UNIT, limit=1.0, cells=600)
    assert held_out.scores(blast, nowhere, lambda cell: cell.name, "drawn") is None


def test_of_a_person_with_many_cells_some_are_filmed(cells: list[CellFile]) -> None:
    one = [cell for cell in cells if cell.subject == "1"]
    assert len(film(one * 2, [], SPEC, seed=0).cells) == MOST_CELLS
