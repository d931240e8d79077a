"""What the gate and the checks before it let through, on made-up artifacts."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bloodedge.bundle.manifest import Agreement
from bloodedge.decision.thresholds import Thresholds
from bloodedge.errors import BloodedgeError
from bloodedge.evaluation.scoring import agree, score
from bloodedge_convert.cells.calibration_set import full_range
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.checks import Port, Ports, check, check_answers
from bloodedge_convert.judge.gate import Limits, admit, complaint, enforce, tiny, worthless
from bloodedge_convert.output.bundle_writer import without_paths

GOOD = Ports([Port((1, 64, 64, 3), "uint8")], [Port((1, 2), "float32")])


def judged(
    precision: str = "int8",
    *,
    drop: float = 0.0,
    auc: float = 0.0,
    balanced: float = 0.0,
    mean: float | None = None,
    never: str | None = None,
    flips: int = 0,
    moved: float = 0.0,
    golden: float = 0.0,
):
    agreement = Agreement(
        cells=1000,
        flips=flips,
        flip_rate=flips / 1000,
        max_probability_difference=moved,
        mean_probability_difference=mean,
        never_called=never,
        drop={"weighted_f1": drop, "auc": auc, "balanced_accuracy": balanced},
        drop_ci95={},
    )
    return Kind(engine="litert", precision=precision), agreement, golden


@pytest.mark.parametrize(
    "passing",
    [
        judged(drop=0.5, auc=0.5, balanced=1.0, mean=0.03, flips=15, moved=0.4),
        judged(drop=-3.0),
        judged("float32", moved=2e-5, golden=2e-5),
        judged("float16", moved=0.01, flips=1),
    ],
)
def test_an_artifact_at_its_limits_passes(passing):
    assert complaint(*passing, Limits(0.5, 1.5)) is None


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (judged(drop=0.51), "lost 0.51 points of weighted F1"),
        (judged(flips=16), "changed the class of 1.60 % (16 of 1000 cells"),
        (judged("float32", moved=0.002), "moved a probability by 0.002"),
        (judged("float32", golden=0.3), "moved a probability by 0.3"),
        (judged(auc=0.51), "lost 0.51 points of AUC (limit 0.5)"),
        (judged(balanced=1.2), "lost 1.20 points of balanced accuracy (limit 1)"),
        (judged(mean=0.031), "moved the probabilities by 0.031 on average (limit 0.03)"),
        (judged(never="blast"), "calls no cell blast"),
    ],
)
def test_an_artifact_over_a_limit_is_named_with_its_figures(failing, words):
    said = complaint(*failing, Limits(0.5, 1.5))
    assert said is not None
    assert words in said
    assert f"litert {failing[0].precision}" in said


def test_an_artifact_without_a_ranking_is_refused_though_no_class_changes():
    """All cells are called normal before and after; int8 gives them all one probability."""
    labels, people = [0] * 40 + [1] * 40, [f"H{n % 4}" for n in range(40)] + [str(n % 4) for n in range(40)]
    reference = np.concatenate([np.linspace(0.1, 0.3, 40), np.linspace(0.15, 0.4, 40)])
    agreement = agree(reference, np.full(80, 0.2), labels, people, Thresholds())
    assert (agreement.flips, agreement.drop["weighted_f1"]) == (0, 0)
    assert agreement.drop["auc"] == pytest.approx(100 * (roc_auc_score(labels, reference) - 0.5))
    low, high = agreement.drop_ci95["auc"]
    assert low < agreement.drop["auc"] < high
    said = complaint(Kind(engine="litert", precision="int8"), agreement, 0.0, Limits()) or ""
    assert "points of AUC" in said
    assert "calls no cell blast" in said
    assert "moved the probabilities by" in said
    wide = Limits(max_auc_drop=100, max_probability_error=1, allow_worthless=True)
    assert complaint(Kind(engine="litert", precision="int8"), agreement, 0.0, wide) is None


def validation(blasts: list[float], normals: list[float]):
    """Figures of four patients and four healthy people, each with these probabilities of their cells."""
    blast = np.array(blasts * 4 + normals * 4)
    people = [str(n) for n in range(4) for _ in blasts] + [f"H{n}" for n in range(4) for _ in normals]
    return score([1] * 4 * len(blasts) + [0] * 4 * len(normals), blast, people)


GOOD_PART = validation([0.9, 0.8, 0.4], [0.1, 0.2, 0.6])


def test_a_float_model_that_tells_the_classes_apart_is_admitted_without_a_word():
    assert admit(GOOD_PART, GOOD_PART, Limits()) is None


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (validation([0.3, 0.4], [0.1, 0.2]), "it calls none of 16 validation cells of 8 subjects blast"),
        (validation([0.9, 0.8], [0.7, 0.6]), "it calls none of 16 validation cells of 8 subjects normal"),
        (
            validation([0.9, 0.2], [0.9, 0.2]),
            r"its AUC is 0.500 \[0.500, 0.500\] on 16 validation cells of 8 subjects and .*may be chance",
        ),
        (validation([0.9, 0.45, 0.44], [0.1, 0.2, 0.95]), r"its balanced accuracy is 0.500"),
    ],
)
def test_a_worthless_float_model_is_refused_unless_it_is_allowed_by_name(figures, words):
    with pytest.raises(BloodedgeError, match=rf"the float model is worth nothing: {words}.*--allow-worthless"):
        admit(figures, figures, Limits())
    caveat = admit(figures, figures, Limits(allow_worthless=True))
    assert caveat is not None
    assert re.search(words, caveat)
    assert "--allow-worthless" in caveat


def test_a_model_that_only_may_be_better_than_chance_is_refused():
    wide = GOOD_PART.model_copy(update={"ci95": {**GOOD_PART.ci95, "auc": (0.45, 0.99)}})
    assert "which may be chance" in (worthless(wide, wide) or "")


def test_few_validation_people_are_no_fault_of_a_model_that_others_prove():
    wide = GOOD_PART.model_copy(update={"ci95": {"auc": (0.24, 0.97), "balanced_accuracy": (0.46, 0.91)}})
    assert worthless(wide, GOOD_PART) is None
    assert worthless(GOOD_PART, wide) is None


def test_a_part_of_one_class_proves_nothing_against_a_model():
    blasts = score([1, 1], np.array([0.9, 0.8]), ["1", "2"])
    assert worthless(blasts, blasts) is None


def test_a_gate_set_wider_than_usual_says_what_it_lets_through():
    assert Limits().wider is None
    assert Limits(0.1, 0.1, 0.1).wider is None
    said = Limits(max_drop=3, max_flips=5).wider or ""
    assert "3 points of weighted F1 (usual: 0.5)" in said
    assert "5 % of the cells (usual: 1.5 %)" in said
    assert "AUC" not in said


def test_every_failing_artifact_is_named_at_once():
    made = (judged(drop=9), judged("float16", flips=50), judged())
    with pytest.raises(BloodedgeError) as failure:
        enforce((complaint(*one, Limits()) for one in made), lambda: "In layer X. ")
    assert "litert int8 lost 9.00" in str(failure.value)
    assert "litert float16 changed" in str(failure.value)
    assert "In layer X." in str(failure.value)


def test_where_the_loss_arises_is_not_asked_when_all_pass():
    enforce([complaint(*judged(), Limits())], lambda: pytest.fail("asked"))


def test_a_small_held_out_part_is_said_to_be_small():
    assert "50 cells of 8 subjects; one flip is 2.00 %" in (tiny(50, 8) or "")
    assert tiny(1000, 3) is not None
    assert tiny(1000, 12) is None


def verdict(ports: Ports, size_bytes: int = 40_000) -> None:
    check(
        Kind(engine="openvino", precision="float32"), ports, size_bytes, shape=(64, 64, 3), classes=2, parameters=10_000
    )


def test_a_faithful_conversion_is_not_refused():
    verdict(GOOD)


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        (Ports(GOOD.inputs, GOOD.outputs * 50), "50 outputs"),
        (Ports(GOOD.inputs * 2, GOOD.outputs), "2 inputs"),
        (Ports([Port((-1, 64, 64, 3), "uint8")], GOOD.outputs), "not static"),
        (Ports([Port((1, 64, 64, 3), "float32")], GOOD.outputs), "takes float32"),
        (Ports([Port((1, 3, 64, 64), "uint8")], GOOD.outputs), "takes uint8 (1, 3, 64, 64)"),
        (Ports(GOOD.inputs, [Port((1, 1000), "float32")]), "gives (1, 1000)"),
    ],
)
def test_a_broken_conversion_is_refused(ports, words):
    with pytest.raises(BloodedgeError, match="openvino float32 conversion is broken") as failure:
        verdict(ports)
    assert words in str(failure.value)


def test_a_file_without_its_variables_is_refused():
    with pytest.raises(BloodedgeError, match="not initialised"):
        verdict(GOOD, size_bytes=3_000)


def test_calibration_reaches_the_brightest_byte():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1, 2, 2] = (10, 200, 30)
    stretched = full_range(images)
    assert stretched.max() == 255
    assert stretched[1, 2, 2].tolist() == [10, 255, 30]
    assert images.max() == 200


def test_paths_are_cut_to_names_at_any_depth():
    recipe = {"weights": "/home/someone/w.h5", "fit": {"epochs": 3, "files": ["/a/b", "c/d"]}, "none": None}
    assert without_paths(recipe) == {"weights": "w.h5", "fit": {"epochs": 3, "files": ["b", "c/d"]}, "none": None}


@pytest.mark.parametrize("fault", [[np.nan, np.nan], [0.0, 0.0], [-1.0, 2.0], [np.inf, 0.0]])
def test_a_conversion_whose_outputs_are_no_probabilities_is_broken(fault):
    kind = Kind(engine="litert", precision="int8")
    check_answers(kind, np.full((3, 2), 0.5, np.float32))
    with pytest.raises(BloodedgeError, match="for 1 of 3 cells its outputs are no probabilities"):
        check_answers(kind, np.array([[0.5, 0.5], fault, [0.1, 0.9]], np.float32))
