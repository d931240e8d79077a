"""What a slide will be held against comes from people that the network was not fitted to, seen by cameras."""

from types import SimpleNamespace

import numpy as np
import pytest

from bloodedge.dataset import CellFile, read_dataset
from bloodedge.imaging import ImagingSpec
from bloodedge.reference import FEWEST_CELLS, FEWEST_PEOPLE
from bloodedge.simulation import write_dataset
from bloodedge_convert.reference import unseen_people

RECORD = SimpleNamespace(imaging=ImagingSpec(size_px=64), seed=0, temperature=1.0)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[CellFile]:
    folder = tmp_path_factory.mktemp("people") / "data"
    write_dataset(folder, subjects=FEWEST_PEOPLE + 1, cells_per_subject=FEWEST_CELLS, seed=3)
    return list(read_dataset(folder).cells)


def outputs(cells: list[CellFile]) -> np.ndarray:
    blast = np.linspace(0.05, 0.95, len(cells), dtype=np.float32)
    return np.stack([1 - blast, blast], axis=1)


def test_every_person_s_cells_are_in_the_reference(cells: list[CellFile]) -> None:
    reference = unseen_people(cells, outputs(cells), RECORD, None)
    assert reference is not None
    assert (reference.people, reference.cells) == (FEWEST_PEOPLE + 1, len(cells))
    areas = reference.aspects["area_um2"].quantiles
    assert 30 < areas[0] < areas[50] < areas[100] < 500  # white cells are 8 to 20 µm across
    confidence = reference.aspects["confidence"].quantiles
    assert confidence[0] >= 0.5
    assert confidence[100] == pytest.approx(0.95, abs=1e-3)


def test_too_few_people_make_no_reference(cells: list[CellFile]) -> None:
    first = sorted({cell.subject for cell in cells})[: FEWEST_PEOPLE - 1]
    few = [cell for cell in cells if cell.subject in first]
    assert unseen_people(few, outputs(few), RECORD, None) is None
