"""ONNX files: what Keras says in float32, nearly that in int8, on any processor, and without much memory."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

for package in ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[convert]')")

import keras  # noqa: E402
import onnx  # noqa: E402
from keras import layers  # noqa: E402
from onnx import TensorProto, numpy_helper  # noqa: E402

from bloodedge.data.dataset import inputs, read_dataset  # noqa: E402
from bloodedge.engine import load_bytes  # noqa: E402
from bloodedge.imaging import ImagingSpec  # noqa: E402
from bloodedge_convert.network.export import export_saved_model  # noqa: E402
from bloodedge_convert.onnx import write  # noqa: E402
from bloodedge_convert.onnx.ranges import find_ranges, watch  # noqa: E402
from bloodedge_convert.onnx.write import to_int8, to_onnx  # noqa: E402

from .conftest import features, fit, network  # noqa: E402

SIZE = 64
CALIBRATED = 80
ROUNDING = 1e-5
INT8 = 0.35
"""Of the mean distance that a constant answer would have; a layer that is missing or has the wrong scale is as good as
a constant. So small a network has few channels over which errors of rounding cancel."""
METHODS = ("minmax", "percentile", "entropy", "mse")


def quiet(*_: object) -> None:
    """No progress display."""


def gated(size_px: int):
    """What the zoo has besides: a grouped convolution, swish, GELU, a gate that multiplies, pools."""
    image = keras.Input((size_px, size_px, 3))
    x = layers.Conv2D(16, 4, 4)(image)
    y = layers.Activation("silu")(
        layers.BatchNormalization(momentum=0.8)(layers.Conv2D(16, 3, padding="same", groups=4)(x))
    )
    gate = layers.Conv2D(16, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    x = layers.MaxPooling2D(2)(layers.Add()([x, layers.Multiply()([y, gate])]))
    return keras.Model(image, layers.Activation("gelu")(layers.DepthwiseConv2D(7, padding="same")(x)), name="features")


@pytest.fixture(scope="module")
def images(rendered_cells):
    """Rendered cells (120, 64, 64, 3) and their labels."""
    cells = read_dataset(rendered_cells).cells[::2]
    return inputs(cells, ImagingSpec(size_px=SIZE, um_per_px=0.33)), [cell.label for cell in cells]


@pytest.fixture(scope="module")
def fitted(images):
    """A fitted network."""
    keras.utils.set_random_seed(2)
    model = network(features(SIZE), SIZE)
    fit(model, *images)
    return model


@pytest.fixture(scope="module")
def plain(fitted, tmp_path_factory):
    """Its float32 file."""
    return converted(fitted, tmp_path_factory.mktemp("exported"))


def converted(model, folder: Path) -> bytes:
    export_saved_model(model, folder)
    return to_onnx(folder)


def blasts(model: bytes, images) -> np.ndarray:
    return load_bytes("onnx", model, None, 2).predict(images)[:, 1]


def operators(model: bytes, kind: str) -> list:
    return [node for node in onnx.load_model_from_string(model).graph.node if node.op_type == kind]


def test_a_float32_file_says_what_keras_says(fitted, plain, images):
    wanted = np.asarray(fitted(images[0]))[:, 1]
    assert wanted.std() > 0.1
    assert np.abs(blasts(plain, images[0]) - wanted).max() <= ROUNDING


def test_every_kind_of_layer_is_converted(images, tmp_path):
    keras.utils.set_random_seed(4)
    model = network(gated(SIZE), SIZE)
    fit(model, images[0][::4], images[1][::4])
    wanted = np.asarray(model(images[0]))[:, 1]
    model_file = converted(model, tmp_path)
    assert wanted.std() > 0.01
    assert np.abs(blasts(model_file, images[0]) - wanted).max() <= ROUNDING
    assert {node.domain for node in onnx.load_model_from_string(model_file).graph.node} == {""}
    int8 = blasts(to_int8(model_file, images[0], "minmax", quiet), images[0])
    assert np.abs(int8 - wanted).mean() < INT8 * np.abs(wanted - np.median(wanted)).mean()


def test_batch_norms_are_in_the_convolutions(plain):
    assert len(operators(plain, "Conv")) == 4
    assert not operators(plain, "BatchNormalization")
    assert len(operators(plain, "Mul")) == 1  # the picture's scaling
    assert len(operators(plain, "Add")) == 2  # its offset, and the residual sum


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_is_valid_and_takes_one_camera_image(plain, images, precision):
    model = plain if precision == "float32" else to_int8(plain, images[0][:2], "minmax", quiet)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.load_model_from_string(model).graph
    (image,), (output,) = [
        [
            (port.type.tensor_type.elem_type, [axis.dim_value for axis in port.type.tensor_type.shape.dim])
            for port in side
        ]
        for side in (graph.input, graph.output)
    ]
    assert image == (TensorProto.UINT8, [1, SIZE, SIZE, 3])
    assert output == (TensorProto.FLOAT, [1, 2])


@pytest.mark.parametrize("method", METHODS)
def test_int8_comes_near_the_float_network(plain, images, method):
    wanted = blasts(plain, images[0])
    found = blasts(to_int8(plain, images[0][:CALIBRATED], method, quiet), images[0])
    assert np.abs(found - wanted).mean() < INT8 * np.abs(wanted - np.median(wanted)).mean()


def test_each_convolution_runs_on_rounded_values(plain, images):
    graph = onnx.load_model_from_string(to_int8(plain, images[0][:8], "minmax", quiet)).graph
    made = {output: node for node in graph.node for output in node.output}
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        values, weights, bias = (made[name] for name in node.input)
        assert {values.op_type, weights.op_type, bias.op_type} == {"DequantizeLinear"}
        assert {user.op_type for user in graph.node if node.output[0] in user.input} == {"QuantizeLinear"}
        kernel, scales = (constants[name] for name in weights.input[:2])
        assert kernel.dtype == np.int8
        assert len(scales) == len(kernel)  # one for each output channel
        assert 32 < np.abs(kernel.astype(int)).max() <= 64  # two products with uint8 fit in 16 bits


def test_ranges_are_those_of_the_cells(fitted, plain, images):
    first = operators(plain, "Clip")[0].output[0]
    cells = images[0][:20]
    low, high = find_ranges(plain, cells, "minmax", quiet)[first]
    body = fitted.get_layer("features")
    relu = keras.Model(body.input, next(layer for layer in body.layers if isinstance(layer, layers.ReLU)).output)
    assert low == 0
    assert high == pytest.approx(float(np.asarray(relu(cells / 127.5 - 1)).max()), abs=ROUNDING)
    assert find_ranges(plain, cells, "percentile", quiet)[first][1] < high


def test_biases_make_up_for_rounded_weights(images, tmp_path, monkeypatch):
    keras.utils.set_random_seed(5)
    cells, image = images[0][:64], keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)  # each byte is one of the 256 values: what is lost is lost by the weights
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 5, bias_initializer="ones")(x))
    file = converted(keras.Model(image, layers.Dense(2, activation="softmax")(x)), tmp_path)
    outputs = operators(file, "Conv")[0].output

    def means(model: bytes) -> np.ndarray:
        run = watch(model, outputs)
        return np.mean([value.mean(axis=(2, 3)) for image in cells for _, value in run(image)], axis=0)

    corrected = to_int8(file, cells, "minmax", quiet)
    monkeypatch.setattr(write, "correct_biases", lambda *_: None)
    left = to_int8(file, cells, "minmax", quiet)
    assert np.abs(means(corrected) - means(file)).max() < 0.1 * np.abs(means(left) - means(file)).max()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_every_calibration_image_is_reported_once(plain, images, method):
    steps = []
    to_int8(plain, images[0][:7], method, lambda *step: steps.append(step))
    whats = dict.fromkeys(what for what, _, _ in steps)
    assert len(whats) == (2 if method == "minmax" else 3)
    assert steps == [(what, done, 7) for what in whats for done in range(1, 8)]


def test_nothing_is_printed_or_left_behind(fitted, images, tmp_path, monkeypatch, capfd):
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    to_int8(converted(fitted, tmp_path / "exported"), images[0][:4], "entropy", quiet)
    assert not list(here.iterdir())
    assert not list(temporary.iterdir())
    assert not capfd.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="the peak of memory is read from Linux' /proc")
def test_memory_is_a_few_times_the_weights(tmp_path):
    image = keras.Input((8, 8, 3))
    x = image
    for _ in range(6):
        x = layers.BatchNormalization()(layers.Conv2D(512, 3, padding="same", use_bias=False)(x))
    model = network(keras.Model(image, x, name="features"), 8)
    export_saved_model(model, tmp_path)

    def memory(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    to_onnx(tmp_path)
    assert memory("VmHWM") - before < 8 * 4 * model.count_params()
