"""What the gate and the checks before it let through, on made-up artifacts."""

import numpy as np
import pytest

from bloodedge.errors import BloodedgeError
from bloodedge.manifest import Agreement
from bloodedge_convert.calibration import full_range
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.checks import Port, Ports, check, check_answers
from bloodedge_convert.judge.gate import Judged, Limits, complaint, enforce, tiny
from bloodedge_convert.pack import without_paths

GOOD = Ports([Port((1, 64, 64, 3), "uint8")], [Port((1, 2), "float32")])


def judged(precision: str = "int8", *, drop: float = 0.0, flips: int = 0, moved: float = 0.0, golden: float = 0.0):
    agreement = Agreement(
        cells=1000,
        flips=flips,
        flip_rate=flips / 1000,
        max_probability_difference=moved,
        drop={"weighted_f1": drop},
        drop_ci95={},
    )
    return Judged(Kind(engine="litert", precision=precision), agreement, golden)


@pytest.mark.parametrize(
    "passing",
    [
        judged(drop=0.5, flips=15, moved=0.4),
        judged(drop=-3.0),
        judged("float32", moved=2e-5, golden=2e-5),
        judged("float16", moved=0.01, flips=1),
    ],
)
def test_an_artifact_at_its_limits_passes(passing):
    assert complaint(passing, Limits(0.5, 1.5)) is None


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (judged(drop=0.51), "lost 0.51 points of weighted F1"),
        (judged(flips=16), "changed the class of 1.60 % (16 of 1000 cells"),
        (judged("float32", moved=0.002), "moved a probability by 0.002"),
        (judged("float32", golden=0.3), "moved a probability by 0.3"),
    ],
)
def test_an_artifact_over_a_limit_is_named_with_its_figures(failing, words):
    said = complaint(failing, Limits(0.5, 1.5))
    assert said is not None
    assert words in said
    assert f"litert {failing.kind.precision}" in said


def test_every_failing_artifact_is_named_at_once():
    with pytest.raises(BloodedgeError) as failure:
        enforce([judged(drop=9), judged("float16", flips=50), judged()], Limits(), lambda: "In layer X. ")
    assert "litert int8 lost 9.00" in str(failure.value)
    assert "litert float16 changed" in str(failure.value)
    assert "In layer X." in str(failure.value)


def test_where_the_loss_arises_is_not_asked_when_all_pass():
    enforce([judged()], Limits(), lambda: pytest.fail("asked"))


def test_a_small_held_out_part_is_said_to_be_small():
    assert "50 cells of 8 subjects; one flip is 2.00 %" in (tiny(50, 8) or "")
    assert tiny(1000, 3) is not None
    assert tiny(1000, 12) is None


def verdict(ports: Ports, size_bytes: int = 40_000) -> None:
    check(Kind(engine="openvino", precision="float32"), ports, size_bytes, size_px=64, classes=2, parameters=10_000)


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
