"""When plain int8 loses too much, other ways are tried in turn, and the held-out cells are spared until one is fit."""

import numpy as np
import pytest

from bloodedge.bundle import Bundle
from bloodedge.bundle.run_record import read_run
from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.data.split import recall
from bloodedge.engine import load_bytes
from bloodedge.simulation import golden_inputs
from bloodedge_convert.cli import METHODS
from bloodedge_convert.conversion import Options
from bloodedge_convert.int8_methods import DESCRIPTIONS, FURTHER_METHODS, attempt_line, describe, try_methods
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.gate import Limits
from bloodedge_convert.judge.measure import GoldenSet, Judge, Sample

from .conftest import IMAGING, SPLIT

INT8 = Kind(engine="litert", precision="int8")
LIMITS = Limits(max_drop=2, max_flips=2)


@pytest.fixture(scope="module")
def files(conversion):
    """A sound int8 network, and one whose every answer is off."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")
    from bloodedge_convert.litert.bias import _bias_arrays, _layers

    with Bundle(conversion.converted.path) as bundle:
        whole, sound = (bundle.read(f"artifacts/model_{p}.tflite") for p in ("float32", "int8"))
    ruined = bytearray(sound)
    biases = _bias_arrays(ruined)
    for layer in _layers(whole, sound):
        biases[layer.bias] += np.rint(0.6 / layer.bias_scales).astype(np.int32)
    return {"float32": whole, "sound": sound, "ruined": bytes(ruined)}


@pytest.fixture
def scene(run, rendered_cells, files, tmp_path):
    """(judge, the file of the int8 network)."""
    record = read_run(run)
    parts = recall(read_dataset(rendered_cells), record.split, SPLIT)

    def sample(part):
        images = inputs(parts[part], IMAGING)
        # The float model's part is played by the sound network itself, so that it is never over a limit.
        said = load_bytes("litert", files["sound"], None, 1).predict(images)
        return Sample(part, images, [c.label for c in parts[part]], [c.subject for c in parts[part]], said)

    golden = golden_inputs(IMAGING, 4, 0)
    said = load_bytes("litert", files["sound"], None, 1).predict(golden)
    judge = Judge(tmp_path, record, sample("test"), sample("validation"), GoldenSet(golden, said), 1, lambda *_: None)
    return judge, judge.files(INT8)[0]


def test_the_first_way_that_is_within_the_limits_is_taken(scene, files):
    judge, target = scene
    target.write_bytes(files["ruined"])
    first = judge.measure(INT8, "minmax")
    asked = []

    def make(method, smallest):
        asked.append((method, smallest))
        target.write_bytes(files["sound" if method == "mse" else "ruined"])

    measured, attempts = try_methods(first, LIMITS, FURTHER_METHODS["litert"], make, judge)
    assert [attempt.method for attempt in attempts] == ["minmax", "percentile", "mse"]
    assert measured.method == "mse"
    assert measured.agreement.flips == 0
    assert [attempt.complaint is None for attempt in attempts] == [False, False, True]
    assert attempts[1].held_out is None  # not fit on the validation part, so not looked at
    assert attempts[2].distance < 1e-6 < attempts[0].distance
    assert [smallest for _, smallest in asked] == [attempts[0].distance] * 2
    assert "taken" in attempt_line(attempts[2])
    assert "over a limit" in attempt_line(attempts[1])


def test_when_nothing_helps_all_is_told(scene, files):
    judge, target = scene
    target.write_bytes(files["ruined"])
    first = judge.measure(INT8, "minmax")
    measured, attempts = try_methods(first, LIMITS, ("percentile", "mixed"), lambda *_: None, judge)
    assert measured is first
    assert [attempt.held_out is not None for attempt in attempts] == [True, False, False]
    said = describe(attempts)
    assert "minmax, percentile and mixed were tried" in said
    assert f"{100 * attempts[0].trial.flip_rate:.2f} %" in said


def test_fine_tuning_is_only_tried_where_it_was_allowed():
    assert "qat" not in Options().methods("litert")
    assert Options(qat=True).methods("openvino")[-1] == "qat"
    assert Options(method="mse", qat=True).methods("litert") == []


def test_every_method_has_its_name_on_the_command_line_and_its_words():
    assert set(METHODS) == {"auto", *DESCRIPTIONS}
    assert {method for methods in FURTHER_METHODS.values() for method in methods} | {"minmax"} == set(DESCRIPTIONS)
