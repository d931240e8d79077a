"""Fine-tuning with fake quantisation: the same network until it is rounded, and closer to int8 than float is."""

import numpy as np
import pytest

from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge_convert.cells.calibration_set import full_range
from bloodedge_convert.litert.write import calibrate, quantise, to_litert
from bloodedge_convert.network import fake_quantised
from bloodedge_convert.network import finetune as module
from bloodedge_convert.network.export import export_saved_model
from bloodedge_convert.network.fake_quantised import FakeQuantised
from bloodedge_convert.network.finetune import finetune, is_nearer
from bloodedge_convert.network.program import trace

from .conftest import features, fit, network

keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")

SIZE = 64


def separable(size_px: int):
    """What the zoo has besides: split channels, an opened Sequential, a separable convolution, a gate, a pool."""
    from keras import Input, Model, Sequential, layers, ops

    image = Input((size_px, size_px, 3))
    red, green, blue = ops.split(image, 3, axis=-1)
    swapped = ops.concatenate([blue, green, red], axis=-1)
    stem = Sequential([Input((size_px, size_px, 3)), layers.Conv2D(8, 4, 4, activation="relu", name="patches")])
    x = stem(swapped)
    y = layers.BatchNormalization(momentum=0.8)(layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    x = layers.Activation("relu")(layers.Add()([x, layers.Multiply()([y, gate])]))
    return Model(image, layers.MaxPooling2D(2)(x), name="features")


@pytest.fixture(scope="module")
def images(rendered_cells):
    """Rendered cells (120, 64, 64, 3) and their labels."""
    cells = read_dataset(rendered_cells).cells[::2]
    return inputs(cells, ImagingSpec(size_px=SIZE, um_per_px=0.33)), [cell.label for cell in cells]


def fitted_network(body, images):
    keras.utils.set_random_seed(3)
    model = network(body(SIZE), SIZE)
    fit(model, *images)
    return model


@pytest.fixture(scope="module")
def depthwise(images):
    """A fitted network of depthwise convolutions."""
    return fitted_network(features, images)


@pytest.fixture(scope="module", params=["depthwise", "separable"])
def fitted(request, depthwise, images):
    """A fitted network."""
    return depthwise if request.param == "depthwise" else fitted_network(separable, images)


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
    export_saved_model(fitted, tmp_path / "saved")
    calibration = full_range(images[0])
    plain = to_litert(tmp_path / "saved", "float32")
    model = quantise(calibrate(tmp_path / "saved", plain, calibration, lambda *_: None))  # its biases not corrected
    said = load_bytes("litert", model, None, 1).predict(images[0])[:, 1]
    rounded = FakeQuantised(fitted)
    rounded.observe(calibration)
    foreseen = np.asarray(rounded(images[0]))[:, 1]
    plain = fitted.predict(images[0], verbose=0)[:, 1]
    off = np.abs(plain - said).mean()
    assert np.abs(foreseen - said).mean() < max(off / 2, 2 / 256)  # int8 probabilities come in steps of 1/256


def logits(probabilities):
    """Log-odds of two classes, mean over the images."""
    return float(np.diff(np.log(np.asarray(probabilities, np.float64)), axis=1).mean())


def test_corrected_biases_undo_what_rounding_shifts(fitted, images):
    some = images[0][:32]
    rounded, plain = FakeQuantised(fitted), logits(fitted.predict(some, verbose=0))
    rounded.observe(images[0])
    before = logits(rounded(some)) - plain
    rounded.correct(some)
    after = logits(rounded(some)) - plain
    assert abs(after) < 0.2 * abs(before)
    shifts = [folded.shift.numpy() for folded in rounded.folded.values()]
    rounded.correct(some)  # from the start again, not on top
    for folded, shift in zip(rounded.folded.values(), shifts, strict=True):
        np.testing.assert_array_equal(folded.shift.numpy(), shift)


def test_a_correction_is_not_put_back(fitted, images):
    twin = copy_of(fitted)
    rounded = FakeQuantised(twin)
    rounded.observe(images[0])
    rounded.correct(images[0][:32])
    rounded.put_back()
    before, after = (model.predict(images[0], verbose=0) for model in (fitted, twin))
    np.testing.assert_allclose(after, before, atol=1e-4)


def coarse(kernel):
    """Weights of 4 bits, which lose much that fitting can win back."""
    import tensorflow as tf

    largest = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=tuple(range(len(kernel.shape) - 1))))
    flat = tf.reshape(kernel, (-1, kernel.shape[-1]))
    options = {"num_bits": 4, "narrow_range": True}
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -largest, largest, **options)
    return tf.reshape(rounded, kernel.shape)


def test_finetuning_wins_back_more_than_corrected_biases_do(depthwise, images, monkeypatch):
    monkeypatch.setattr(fake_quantised, "_rounded_kernel", coarse)
    monkeypatch.setattr(module, "RATE", 1e-3)  # as far as coarse steps lie apart
    model = copy_of(depthwise)
    plain = model.predict(images[0], verbose=0)[:, 1]
    seen: list[int] = []
    tuned = finetune(model, images[0], images[0][:60], steps=150, seed=0, report=lambda done, _: seen.append(done))
    assert seen == list(range(1, 151))
    assert tuned.after < 0.7 * tuned.before
    again = FakeQuantised(model)  # the weights that were kept are those that were put back
    again.observe(images[0][:60])
    again.correct(images[0][:32])
    assert np.abs(np.asarray(again(images[0]))[:, 1] - plain).mean() < 0.8 * tuned.before


def test_a_gain_counts_where_it_is_more_than_chance():
    before = np.full(4, 0.1, np.float32)
    assert is_nearer(np.float32([0.06, 0.05, 0.07, 0.06]), before)
    assert not is_nearer(np.float32([0.0, 0.2, 0.0, 0.1]), before)  # 0.025 nearer, give or take 0.041
    assert not is_nearer(before, before)


def test_a_fit_that_brings_nothing_leaves_the_network_as_it_was(depthwise, images, monkeypatch):
    monkeypatch.setattr(module, "RATE", 1.0)  # far too high
    model = copy_of(depthwise)
    weights = model.get_weights()
    tuned = finetune(model, images[0], images[0][:60], steps=12, seed=0, report=lambda *_: None)
    assert tuned.after == tuned.before
    for new, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(new, old)
