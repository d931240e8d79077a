"""The bundle that comes with bloodedge: small, whole, runnable by both engines, and told the truth about."""

from pathlib import Path

import pytest

from bloodedge import RESEARCH_USE
from bloodedge.bundle import Bundle
from bloodedge.data.dataset import Dataset
from bloodedge.engine import load_artifact
from bloodedge.engine.golden import check_golden
from bloodedge.evaluation.classifier import open_bundle
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.evaluate import evaluate

RELEASED = Path(__file__).resolve().parents[2] / "models" / "cells.bundle"


def test_it_is_small_enough_for_any_board() -> None:
    assert RELEASED.stat().st_size <= 6 * 2**20


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_its_int8_models_pass_their_self_test_here(engine: str) -> None:
    with Bundle(RELEASED) as bundle:
        artifact = bundle.manifest.artifact(engine, "int8")
        result = check_golden(bundle, artifact, load_artifact(bundle, artifact, 1))
    assert result.passed, result


def test_its_card_names_the_people_it_was_held_out_from_and_its_worst() -> None:
    with Bundle(RELEASED) as bundle:
        card = bundle.read("MODEL_CARD.md").decode()
        manifest = bundle.manifest
    assert RESEARCH_USE in card
    evaluation = manifest.baseline.evaluation
    for subject, row in evaluation.per_subject.items():
        assert f"| {subject} | {row.label} | {row.cells} |" in card
    assert evaluation.worst_subject in card


@pytest.mark.slow
def test_what_its_manifest_promises_holds_on_the_real_cells(real_cnmc: Dataset, tmp_path: Path) -> None:
    """The data set grows: of its cells, only those of the people that the model was made from.

    People of its test part whom it saw in training under another name, which was found out later, are left out.
    """
    with Bundle(RELEASED) as bundle:
        promised = bundle.manifest.artifact("litert", "int8").evaluation
        parts = bundle.manifest.provenance.split.parts
    people = {subject for part in parts.values() for group in part.groups for subject in group.split("+")}
    for cell in real_cnmc.cells:
        if cell.subject in people:
            link = tmp_path / cell.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(cell.path)
    measured = evaluate(Ensemble.of([open_bundle(RELEASED, "litert", "int8", 2)]), tmp_path, "test").evaluation
    seen = {real_cnmc.groups[subject] for name in ("train", "validation") for subject in parts[name].subjects}
    unseen = {subject for subject in promised.per_subject if real_cnmc.groups[subject] not in seen}
    assert measured.per_subject.keys() == unseen
    for subject in unseen:  # another processor rounds otherwise
        assert measured.per_subject[subject].accuracy == pytest.approx(promised.per_subject[subject].accuracy, abs=0.03)
    if unseen == promised.per_subject.keys():
        assert measured.weighted_f1 == pytest.approx(promised.weighted_f1, abs=0.005)
        assert measured.auc == pytest.approx(promised.auc, abs=0.005)
