"""Every architecture of the zoo says the same in every format; weights are random, its classes pulled apart."""

import numpy as np
import pytest

for package in ("tensorflow", "tf2onnx", "nncf", "openvino", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed (pip install 'bloodedge[convert]')")

import keras

from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import golden_inputs
from bloodedge_convert.calibration import full_range
from bloodedge_convert.litert.write import calibrate, quantise, to_litert
from bloodedge_convert.network.export import export_graphs, saved_model_for
from bloodedge_convert.onnx.write import to_onnx
from bloodedge_convert.openvino import write as openvino
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build

SIZE = 80
CELLS = 8
SPREAD = 2.0
"""Deviation of the log odds between cells: probabilities from about 0.02 to 0.98."""
FLOAT32, FLOAT16 = 1e-4, 0.03
INT8 = 0.35
"""Of the mean distance that a constant answer would have. Biases are not corrected here, and random layers are not as
forgiving as fitted ones; a layer that is missing or has the wrong scale is as good as a constant."""


@pytest.fixture(scope="module")
def images():
    return full_range(golden_inputs(ImagingSpec(size_px=SIZE), CELLS))


def quiet(*_: object) -> None:
    """No progress display."""


def network(name: str, images):
    """Random and seeded; batch norms hold the images' statistics, and no branch comes to nothing as before training."""
    keras.utils.set_random_seed(0)
    model = build(name, SIZE, NetworkSpec())
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, 0.3, np.float32))
    model(images, training=True)
    last = model.get_layer("probabilities")
    features = np.asarray(keras.Model(model.input, last.input)(images, training=False))
    kernel, bias = last.get_weights()
    odds = features @ (kernel[:, 1] - kernel[:, 0])
    scale = SPREAD / float(odds.std())
    last.set_weights([kernel * scale, np.array([0, -odds.mean() * scale], bias.dtype)])
    return model


@pytest.mark.parametrize("name", ZOO)
def test_every_format_says_what_keras_says(name, images, tmp_path):
    model = network(name, images)
    wanted = np.asarray(model(images))[:, 1]
    assert wanted.std() > 0.15
    engines = ("litert", "openvino", "onnx")
    export_graphs(model, SIZE, images, engines, tmp_path)
    source = {engine: saved_model_for(engine, tmp_path) for engine in engines}

    def distance(engine: str, *files: bytes) -> tuple[float, float]:
        found = load_bytes(engine, files[0], files[1] if len(files) > 1 else None, 2).predict(images)[:, 1]
        return float(np.abs(found - wanted).max()), float(np.abs(found - wanted).mean())

    def intermediate(float16: bool = False, int8: bool = False) -> list[bytes]:
        read = openvino.read(source["openvino"])
        target = tmp_path / "model.xml"
        openvino.save(openvino.quantise(read, images, "minmax", quiet) if int8 else read, target, float16=float16)
        return [target.read_bytes(), target.with_suffix(".bin").read_bytes()]

    assert distance("litert", to_litert(source["litert"], "float32"))[0] < FLOAT32
    assert distance("openvino", *intermediate())[0] < FLOAT32
    assert distance("onnx", to_onnx(source["onnx"]))[0] < FLOAT32
    assert distance("litert", to_litert(source["litert"], "float16"))[0] < FLOAT16
    assert distance("openvino", *intermediate(float16=True))[0] < FLOAT16
    constant = float(np.abs(wanted - np.median(wanted)).mean())
    for found in (
        distance("litert", to_litert(source["litert"], "dynamic")),
        distance("litert", quantise(calibrate(source["litert"], images, quiet))),
        distance("openvino", *intermediate(int8=True)),
    ):
        assert found[1] < INT8 * constant
