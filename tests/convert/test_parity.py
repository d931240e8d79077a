"""Every architecture of the zoo says the same in every engine; weights are random, its classes pulled apart."""

import numpy as np
import pytest

pytest.importorskip("nncf", reason="nncf is not installed (pip install -e '.[convert]')")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (pip install -e '.[convert]')")

import keras

from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec, View
from bloodedge.simulation import golden_inputs
from bloodedge_convert.cells.calibration_set import full_range
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.checks import check, ports
from bloodedge_convert.litert.write import calibrate, quantise, to_litert
from bloodedge_convert.network.export import export_graphs, saved_model_for
from bloodedge_convert.onnx.write import to_onnx
from bloodedge_convert.openvino import write as openvino
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build

QUICKEST = "alexnet"
OTHERS = [name for name in ZOO if name not in {QUICKEST, "efficientnet_lite1", "efficientnet_lite2"}]
"""Lite1 and Lite2 are Lite0 with other numbers."""
SIZE = 80
CELLS = 8
SPREAD = 2.0
"""Deviation of the log odds between cells: probabilities from about 0.02 to 0.98."""
FLOAT32 = 2e-3
"""Largest distance of a probability: a layer that is missing or wrong moves it by tenths, and what engines round
otherwise in InceptionV3's 94 random layers by 1e-3. These are not as forgiving as fitted ones: of int8 only the form is
looked at here, its answers are compared on fitted networks."""


BOTH: tuple[View, ...] = ("physical", "canonical")


def cells(views: tuple[View, ...]):
    return full_range(golden_inputs(ImagingSpec(size_px=SIZE, views=views), CELLS))


def quiet(*_: object) -> None:
    """No progress display."""


def network(name: str, images):
    """Random and seeded; batch norms hold the images' statistics, and no branch comes to nothing as before training."""
    keras.utils.set_random_seed(0)
    model = build(name, SIZE, NetworkSpec(), views=1 if images.ndim == 4 else images.shape[1])
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


@pytest.mark.parametrize(
    ("name", "views"),
    [
        *(pytest.param(name, BOTH[:1], marks=pytest.mark.slow) for name in OTHERS),
        (QUICKEST, BOTH[:1]),
        ("edgenet", BOTH),
    ],
)
def test_every_engine_says_what_keras_says(name, views, tmp_path):
    images = cells(views)
    model = network(name, images)
    wanted = np.asarray(model(images))[:, 1]
    assert wanted.std() > 0.15
    engines = ("litert", "openvino", "onnx")
    export_graphs(model, images, engines, tmp_path)
    source = {engine: saved_model_for(engine, tmp_path) for engine in engines}

    def distance(engine: str, *files: bytes) -> float:
        found = load_bytes(engine, files[0], files[1] if len(files) > 1 else None, 2).predict(images)[:, 1]
        return float(np.abs(found - wanted).max())

    def intermediate(network) -> list[bytes]:
        openvino.save(network, tmp_path / "model.xml")
        return [(tmp_path / name).read_bytes() for name in ("model.xml", "model.bin")]

    plain = openvino.read(source["openvino"])
    litert = to_litert(source["litert"], "float32")
    assert distance("litert", litert) < FLOAT32
    assert distance("openvino", *intermediate(plain)) < FLOAT32
    assert distance("onnx", to_onnx(source["onnx"])) < FLOAT32
    quantised = {
        "litert": [quantise(calibrate(source["litert"], litert, images, quiet))],
        "openvino": intermediate(openvino.quantise(plain, images, "minmax", quiet)),
    }
    for kind, files in quantised.items():
        int8 = Kind(engine=kind, precision="int8")
        size, parameters = sum(map(len, files)), model.count_params()
        check(
            int8,
            ports(int8, *files, *[None][: 2 - len(files)]),
            size,
            shape=images.shape[1:],
            classes=2,
            parameters=parameters,
        )
        assert size < 0.4 * 4 * parameters + 600_000
        assert np.isfinite(distance(kind, *files))
