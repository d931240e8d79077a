"""Routes through the converters that give a broken file without a word: what they make is refused here."""

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")

from bloodedge.bundle.run_record import read_run
from bloodedge.engine.keras import load_model
from bloodedge.engine.openvino import import_openvino
from bloodedge.errors import BloodedgeError
from bloodedge_convert.job import Kind, file_names
from bloodedge_convert.judge.gate import Limits
from bloodedge_convert.judge.measure import GoldenSet, Judge, Sample
from bloodedge_convert.litert.write import to_litert
from bloodedge_convert.network.export import export_saved_model
from bloodedge_convert.openvino.write import read, save

from .conftest import IMAGING

LITERT, OPENVINO = (Kind(engine=engine, precision="float32") for engine in ("litert", "openvino"))
IMAGES = np.random.default_rng(0).integers(0, 256, (12, IMAGING.size_px, IMAGING.size_px, 3), np.uint8)


@pytest.fixture(scope="module")
def model(run):
    return load_model(run)


@pytest.fixture
def judge(run, model, tmp_path):
    """Over artifacts in ``tmp_path``, on noise."""
    outputs = np.asarray(model(IMAGES))
    sample = Sample("Noise", IMAGES, [0, 1] * 6, [f"S{i // 3}" for i in range(12)], outputs)
    return Judge(tmp_path, read_run(run), sample, sample, GoldenSet(IMAGES, outputs), 1, lambda *_: None)


def refusal(judge: Judge, kind: Kind) -> str:
    with pytest.raises(BloodedgeError, match=f"{kind.engine} float32 conversion is broken") as failure:
        judge.load(kind)
    return str(failure.value)


def test_a_sound_route_is_let_through(model, judge, tmp_path):
    export_saved_model(model, tmp_path / "saved")
    (tmp_path / file_names(LITERT)[0]).write_bytes(to_litert(tmp_path / "saved", "float32"))
    save(read(tmp_path / "saved"), tmp_path / file_names(OPENVINO)[0])
    for kind in (LITERT, OPENVINO):
        # The network may call all noise one class; that is no fault of the route.
        assert judge.measure(kind, "minmax").complaint(Limits(allow_worthless=True)) is None


def test_variables_that_were_not_initialised(model, judge, tmp_path):
    """What from_concrete_functions makes of a Keras 3 network, its variables left outside."""
    import tensorflow as tf

    shape = (1, IMAGING.size_px, IMAGING.size_px, 3)
    function = tf.function(lambda image: model(image, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.uint8)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    (tmp_path / file_names(LITERT)[0]).write_bytes(converter.convert())
    with pytest.raises(BloodedgeError, match=r"its outputs are no probabilities"):
        judge.measure(LITERT, "minmax")


def test_more_outputs_than_one(model, judge, tmp_path):
    """As Keras' own export to OpenVINO gives: inner tensors come out as well."""
    export_saved_model(model, tmp_path / "saved")
    network = read(tmp_path / "saved")
    inner = next(op for op in network.get_ordered_ops() if op.get_type_name() == "Convolution")
    network.add_outputs([inner.output(0)])
    save(network, tmp_path / file_names(OPENVINO)[0])
    assert "2 outputs" in refusal(judge, OPENVINO)


@pytest.mark.parametrize("kind", [LITERT, OPENVINO], ids=str)
def test_a_dynamic_batch(kind, model, judge, tmp_path):
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    if kind == LITERT:
        (tmp_path / file_names(kind)[0]).write_bytes(to_litert(tmp_path / "saved", "float32"))
    else:
        save(read(tmp_path / "saved"), tmp_path / file_names(kind)[0])
    assert "batch is not static" in refusal(judge, kind)


def test_channels_before_rows(model, judge, tmp_path):
    """As routes by way of PyTorch or ONNX tools give."""
    openvino = import_openvino()
    export_saved_model(model, tmp_path / "saved")
    processed = openvino.preprocess.PrePostProcessor(read(tmp_path / "saved"))
    processed.input().tensor().set_layout(openvino.Layout("NCHW"))
    processed.input().model().set_layout(openvino.Layout("NHWC"))
    save(processed.build(), tmp_path / file_names(OPENVINO)[0])
    assert f"(1, 3, {IMAGING.size_px}, {IMAGING.size_px})" in refusal(judge, OPENVINO)


@pytest.mark.parametrize("kind", [LITERT, OPENVINO], ids=str)
def test_colours_in_the_wrong_order(kind, model, judge, tmp_path):
    """A file of the right form that takes blue for red: only its answers betray it."""
    import keras

    image = keras.Input((IMAGING.size_px, IMAGING.size_px, 3), dtype="uint8", name="image")
    swapped = keras.Model(image, model(image[..., ::-1]))
    export_saved_model(swapped, tmp_path / "saved")
    if kind == LITERT:
        (tmp_path / file_names(kind)[0]).write_bytes(to_litert(tmp_path / "saved", "float32"))
    else:
        save(read(tmp_path / "saved"), tmp_path / file_names(kind)[0])
    said = judge.measure(kind, "minmax").complaint(Limits(max_drop=100, max_flips=100))
    assert said is not None
    assert "moved a probability" in said
