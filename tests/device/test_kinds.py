"""The network that tells kinds: what it is given, what it says, and what is asked of a cell then."""

import numpy as np
import pytest

from bloodedge.decision.kinds import ASKED, Kind
from bloodedge.finder import find_cells
from bloodedge.imaging import Cell
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.kinds import OUTPUTS, SIDE, UM_PER_PX, KindInput, call_of, default_kinds


def probabilities(**certain: float) -> np.ndarray:
    """Of the outputs named, with underscores for spaces; the others share the rest."""
    named = {name.replace(" ", "_"): number for number, name in enumerate(OUTPUTS)}
    found = np.full(len(OUTPUTS), (1 - sum(certain.values())) / (len(OUTPUTS) - len(certain)))
    for name, value in certain.items():
        found[named[name]] = value
    return found


def test_a_likely_kind_is_named_with_its_probability() -> None:
    call = call_of(probabilities(eosinophil=0.97))
    assert (call.kind, call.asked, call.stage) == (Kind.EOSINOPHIL, False, None)
    assert call.probability == pytest.approx(0.97)


def test_a_neutrophil_is_as_likely_as_its_stages_together() -> None:
    call = call_of(probabilities(band_neutrophil=0.5, segmented_neutrophil=0.47))
    assert (call.kind, call.stage) == (Kind.NEUTROPHIL, "band")
    assert call.probability == pytest.approx(0.97)


@pytest.mark.parametrize("kind", sorted(ASKED))
def test_mononuclear_cells_are_asked(kind: Kind) -> None:
    assert call_of(probabilities(**{kind: 0.98})).asked


def test_what_may_be_mononuclear_is_unknown_and_asked_for_no_blast_may_be_lost() -> None:
    call = call_of(probabilities(basophil=0.85, lymphocyte=0.1))
    assert (call.kind, call.asked) == (Kind.UNKNOWN, True)


def test_what_is_nothing_for_sure_and_not_mononuclear_is_unknown_and_not_asked() -> None:
    call = call_of(probabilities(eosinophil=0.5, basophil=0.495))
    assert (call.kind, call.asked) == (Kind.UNKNOWN, False)


def test_the_input_shows_the_cell_alone_in_the_middle_on_white() -> None:
    density = np.full((40, 60, 3), 64, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:45] = 255
    image = KindInput(density, mask, UM_PER_PX).image()
    assert image.shape == (SIDE, SIDE, 3)
    inside = image[:, :, 1] < 200
    assert inside.sum() == 20 * 30
    assert np.unique(image[inside]).tolist() == [26]
    assert (image[~inside] == 255).all()
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() - (SIDE - 1) / 2) <= 1
    assert abs(columns.mean() - (SIDE - 1) / 2) <= 1


def test_a_cell_that_is_larger_than_the_input_is_shrunk_into_it() -> None:
    shown = KindInput(np.full((500, 300, 3), 64, np.uint8), np.full((500, 300), 255, np.uint8), 0.2).image()
    assert (shown[:, SIDE // 2] < 200).all()


def test_a_cell_cut_out_onto_black_loses_its_dark_rim() -> None:
    bgr = np.zeros((100, 100, 3), np.uint8)
    bgr[20:80, 20:80] = 20
    bgr[22:78, 22:78] = 150
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 255
    shown = KindInput.cut_out(Cell(bgr, mask, 0.066)).image()
    assert shown.min() > 100


def test_drawn_neutrophils_are_told_from_drawn_lymphocytes() -> None:
    told: dict[Kind, list[Kind]] = {Kind.NEUTROPHIL: [], Kind.LYMPHOCYTE: []}
    for seed in range(12):
        field = render_field(seed, FieldSpec(other_kinds={Kind.NEUTROPHIL: 0.5}, white_cells=(3, 3)))
        found = [cell for cell in find_cells(field.bgr, field.um_per_px).cells if not cell.touches_border]
        calls = default_kinds()([KindInput.of(cell, field.um_per_px) for cell in found])
        for cell, call in zip(found, calls, strict=True):
            drawn = min(field.cells, key=lambda one, box=cell.box: np.abs(np.subtract(one.box, box)).sum())
            told[drawn.kind].append(call.kind)
    assert min(map(len, told.values())) >= 4
    assert told[Kind.NEUTROPHIL].count(Kind.NEUTROPHIL) >= 0.8 * len(told[Kind.NEUTROPHIL])
    assert Kind.NEUTROPHIL not in told[Kind.LYMPHOCYTE]
