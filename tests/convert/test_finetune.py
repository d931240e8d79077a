"""Fine-tuning with fake quantisation: the same network until it is rounded, and closer to int8 than float is."""

import numpy as np
import pytest

from bloodedge.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge_convert.calibration import full_range
from bloodedge_convert.finetune import FakeQuantised, finetune
from bloodedge_convert.program import trace
from bloodedge_convert.worker import export_saved_model, to_litert

from .conftest import features, fit, network

keras = pytest.importorskip("keras", reason="Keras is not installed (pip install 'bloodedge[train]')")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install 'bloodedge[convert]')")

SIZE = 64


def separable(size_px: int):
    """What the zoo has besides: a separable convolution, an opened Sequential, a gate that multiplies, a pool."""
    from keras import Input, Model, Sequential, layers

    image = Input((size_px, size_px, 3))
    stem = Sequential([Input((size_px, size_px, 3)), layers.Conv2D(8, 4, 4, activation="relu", name="patches")])
    x = stem(image)
    y = layers.BatchNormalization(momentum=0.8)(layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    x = layers.Activation("relu")(layers.Add()([x, layers.Multiply()([y, gate])]))
    return Model(image, layers.MaxPooling2D(2)(x), name="features")


@pytest.fixture(scope="module")
def images(rendered_cells):
    """Rendered cells (120, 64, 64, 3) and their labels."""
    cells = read_dataset(rendered_cells).cells[::2]
    return inputs(cells, ImagingSpec(size_px=SIZE, um_per_px=0.33)), [cell.label for cell in cells]


@pytest.fixture(scope="module", params=[features, separable], ids=["depthwise", "separable"])
def fitted(request, images):
    """A fitted network."""
    keras.utils.set_random_seed(3)
    model = network(request.param(SIZE), SIZE)
    fit(model, *images)
    return model


def copy_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def test_the_opened_network_says_the_same(fitted, images):
    program = trace(fitted)
    opened = program.run(images[0][:8], lambda call, arguments, options: call.layer(*arguments, **options))
    np.testing.assert_allclose(opened, fitted.predict(images[0][:8], verbose=0), atol=1e-6)


def test_weights_put_back_unfitted_change_nothing(fitted, images):
    twin = copy_of(fitted)
    FakeQuantised(twin).put_back()
    before, after = (model.predict(images[0], verbose=0) for model in (fitted, twin))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_a_dead_channel_keeps_its_kernel(images):
    model = network(features(SIZE), SIZE)
    norm = next(x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization))
    norm.gamma.assign(np.r_[0.0, np.ones(len(norm.gamma.numpy()) - 1)])
    kernel = next(x for x in model._flatten_layers() if isinstance(x, keras.layers.Conv2D)).kernel.numpy()
    finetune(model, images[0], images[0][:20], steps=16, seed=0, report=lambda *_: None)
    fitted = next(x for x in model._flatten_layers() if isinstance(x, keras.layers.Conv2D)).kernel.numpy()
    np.testing.assert_array_equal(fitted[..., 0], kernel[..., 0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_rounding_is_foreseen_as_litert_does_it(fitted, images, tmp_path):
    export_saved_model(fitted, SIZE, tmp_path / "saved")
    calibration = full_range(images[0])
    model = to_litert(tmp_path / "saved", "int8", calibration, lambda *_: None)  # its biases not corrected
    said = load_bytes("litert", model, None, 1).predict(images[0])[:, 1]
    rounded = FakeQuantised(fitted)
    rounded.observe(calibration)
    foreseen = np.asarray(rounded(images[0]))[:, 1]
    plain = fitted.predict(images[0], verbose=0)[:, 1]
    off = np.abs(plain - said).mean()
    assert np.abs(foreseen - said).mean() < max(off / 2, 2 / 256)  # int8 probabilities come in steps of 1/256


def test_finetuning_brings_the_rounded_network_closer_to_the_float_one(images):
    keras.utils.set_random_seed(3)
    model = network(features(SIZE), SIZE)
    fit(model, *images)
    seen: list[int] = []
    tuned = finetune(model, images[0], images[0][:60], steps=200, seed=0, report=lambda done, _: seen.append(done))
    assert tuned.after < 0.9 * tuned.before
    assert seen == list(range(1, 201))
