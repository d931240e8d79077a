"""The network that ships, with real weights, on real cells: its int8 form keeps to int8's rules.

The head is a direction in feature space along which cells differ, so that only what conversion does to the features is
at stake, and no training.
"""

import numpy as np
import pytest

from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge_convert.cells.calibration_set import full_range
from bloodedge_convert.job import Job, Kind, run_converters

from .conftest import network

pytestmark = pytest.mark.slow

SIZE = 96
WEIGHTS = "weights/mobilenet_v2_1.0_224_notop.weights.h5"


@pytest.fixture(scope="module")
def cells(real_data, tmp_path_factory):
    """Network inputs of a few real cells, (120, 96, 96, 3)."""
    folder = tmp_path_factory.mktemp("few")
    for label in ("all", "hem"):
        (folder / label).mkdir()
        for path in sorted((real_data / "cnmc").rglob(f"UID_*_{label}.webp"))[::40][:60]:
            (folder / label / path.name).symlink_to(path)
    return inputs(read_dataset(folder).cells, ImagingSpec(size_px=SIZE, um_per_px=0.22))


@pytest.fixture(scope="module")
def artifacts(real_data, cells, tmp_path_factory):
    """(folder of LiteRT float32 and int8, the float model's outputs for ``cells``)."""
    weights = real_data / WEIGHTS
    if not weights.is_file():
        pytest.skip(f"no {WEIGHTS} in the real data")
    keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")
    keras.utils.set_random_seed(0)
    body = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None)
    body.load_weights(weights)
    folder = tmp_path_factory.mktemp("mobilenetv2")
    model = network(body, SIZE)
    pooled = keras.Model(model.inputs, model.get_layer("pool").output).predict(cells, verbose=0)
    centred = pooled - pooled.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][1]
    direction /= (centred @ direction).std()
    offset = pooled.mean(axis=0) @ direction
    model.layers[-1].set_weights([np.stack([-direction, direction], axis=1), np.array([offset, -offset])])
    model.save(folder / "model.keras")
    kinds = [Kind(engine="litert", precision=precision) for precision in ("float32", "int8")]
    job = Job(run=str(folder), kinds=kinds, engines=["litert", "openvino", "onnx"], int8_engines=["litert"])
    return folder, run_converters(folder, job, full_range(cells[::2]), cells, lambda *_: None)


def test_int8_is_one_partition_of_fused_layers(artifacts):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=(artifacts[0] / "model_int8.tflite").read_bytes())
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    # Table 2 of the paper: 17 blocks, each with a depthwise convolution, 10 with a shortcut; one sum scales bytes.
    assert (names.count("DEPTHWISE_CONV_2D"), names.count("CONV_2D"), names.count("ADD")) == (17, 35, 11)
    assert not {"RELU6", "RELU", "SUB", "RSQRT"} & set(names)
    assert names.count("DEQUANTIZE") == 1  # before the logits
    interpreter.allocate_tensors()
    assert sum("DELEGATE" in op["op_name"].upper() for op in interpreter._get_ops_details()) == 1


def test_float_litert_is_keras_to_rounding(artifacts, cells):
    folder, reference = artifacts
    engine = load_bytes("litert", (folder / "model_float32.tflite").read_bytes(), None, threads=2)
    assert np.abs(engine.predict(cells) - reference).max() < 1e-4


def test_int8_follows_the_float_network_on_cells_it_was_not_calibrated_on(artifacts, cells):
    folder, reference = artifacts
    engine = load_bytes("litert", (folder / "model_int8.tflite").read_bytes(), None, threads=2)
    ours, theirs = engine.predict(cells[1::2])[:, 1], reference[1::2, 1]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    # Without bias correction the mean moves by more than the cells differ among themselves.
    assert abs(ours.mean() - theirs.mean()) < 0.3 * theirs.std()


def test_int8_is_a_quarter_of_the_size(artifacts):
    sizes = {p: (artifacts[0] / f"model_{p}.tflite").stat().st_size for p in ("float32", "int8")}
    assert sizes["int8"] < 0.32 * sizes["float32"]
