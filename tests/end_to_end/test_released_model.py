"""The bundle that comes with bloodedge: small, whole, runnable by both engines, and told the truth about."""

from pathlib import Path

import numpy as np
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.bundle import Bundle
from bloodedge.data.dataset import Dataset, inputs
from bloodedge.engine import load_artifact
from bloodedge.engine.golden import check_golden
from bloodedge.errors import UsageError
from bloodedge.evaluation.classifier import blast_probabilities, open_bundle
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.evaluate import evaluate
from bloodedge.metrics import auc

RELEASED = Path(__file__).resolve().parents[2] / "models" / "cells.bundle"


def test_it_is_small_enough_for_any_board() -> None:
    assert RELEASED.stat().st_size <= 16 * 2**20


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


def test_it_was_judged_on_people_whom_its_judges_were_not_fitted_to() -> None:
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest
    fitted = set(manifest.provenance.split.parts["train"].subjects)
    for artifact in manifest.artifacts:
        assert set(artifact.evaluation.per_subject) <= fitted
        assert artifact.evaluation.subjects > 40
        assert artifact.rates is not None
        assert artifact.rates.known
    assert manifest.people_scores is not None


@pytest.mark.slow
def test_its_int8_models_say_of_real_cells_what_its_float_model_says(real_cnmc: Dataset) -> None:
    cells = real_cnmc.unique[::40]
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest
        images = inputs(cells, manifest.imaging)
        blasts = {
            (artifact.engine, artifact.precision): blast_probabilities(
                load_artifact(bundle, artifact, 1), images, manifest.temperature
            )
            for artifact in manifest.artifacts
        }
    threshold = manifest.thresholds.blast
    for engine in ("litert", "openvino"):
        ours, theirs = blasts[engine, "int8"], blasts[engine, "float16"]
        flips = np.mean((ours >= threshold) != (theirs >= threshold))
        assert flips <= 0.04  # at most 1.5 % of many; of 196 a few more by chance
        assert np.abs(ours - theirs).mean() <= 0.03
    area = auc([cell.label for cell in cells], blasts["litert", "int8"])
    assert area is not None
    assert area > 0.85  # it was fitted to them


@pytest.mark.slow
def test_pictures_that_it_was_fitted_to_judge_nothing(real_cnmc: Dataset) -> None:
    released = Ensemble.of([open_bundle(RELEASED, "litert", "int8", 2)])
    with pytest.raises(UsageError, match="fitted"):
        evaluate(released, real_cnmc.root)
