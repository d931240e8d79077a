"""Channels are brought to like ranges: the network says the same, and loses less to int8."""

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")

from keras import layers  # noqa: E402

from bloodedge.data.dataset import inputs, read_dataset  # noqa: E402
from bloodedge.engine import load_bytes  # noqa: E402
from bloodedge_convert.cells.calibration_set import full_range  # noqa: E402
from bloodedge_convert.litert.write import calibrate, quantise, to_litert  # noqa: E402
from bloodedge_convert.network.equalise import LARGEST, SMALLEST, Seen, Weights, choose_factors, equalise  # noqa: E402
from bloodedge_convert.network.export import export_saved_model  # noqa: E402
from bloodedge_convert.network.fake_quantised import FakeQuantised  # noqa: E402
from bloodedge_convert.network.program import trace  # noqa: E402
from bloodedge_train.recipe import NetworkSpec  # noqa: E402
from bloodedge_train.zoo import build  # noqa: E402

from .conftest import IMAGING, fit  # noqa: E402

ROUNDING = 1e-5
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 3, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)


def network(body, size_px: int = 24):
    """A classifier with ``body`` between its scaling and its pool."""
    keras.utils.set_random_seed(0)
    image = keras.Input((size_px, size_px, 3), dtype="uint8", name="image")
    x = layers.GlobalAveragePooling2D()(body(layers.Rescaling(1 / 127.5, offset=-1.0)(image)))
    return keras.Model(image, layers.Dense(2, activation="softmax", name="probabilities")(layers.Dropout(0.2)(x)))


def unequal(model) -> None:
    """Random weights, statistics, gains and offsets, some of which differ a hundredfold from channel to channel."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            gains = [10 ** rng.uniform(-1, 1, layer.gamma.shape)] if layer.scale else []
            offsets = [0.5 * rng.normal(size=layer.beta.shape) * (gains[0] if gains else 1)] if layer.center else []
            mean, variance = layer.moving_mean.shape, layer.moving_variance.shape
            layer.set_weights([*gains, *offsets, rng.normal(size=mean), rng.uniform(0.5, 2, variance)])
        elif layer.weights and not isinstance(layer, keras.Model):
            layer.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in layer.get_weights()])


def say(model, images=IMAGES):
    return np.asarray(model(images, training=False))


def chain(x):
    """Everything that may stand in a pair; between its nine layers with weights and the classifier lie nine."""
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(x)
    x = layers.BatchNormalization(scale=False)(layers.MaxPooling2D(2)(x))  # after the ReLU
    x = layers.Activation("relu")(layers.Conv2D(12, 1)(x))
    x = layers.SeparableConv2D(12, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(center=False)(x)  # linear
    x = layers.Conv2D(16, 3, padding="same", groups=4, activation="relu")(x)
    x = layers.Dense(8, activation="relu")(layers.AveragePooling2D(2)(x))
    x = layers.ReLU(negative_slope=0.1)(layers.DepthwiseConv2D(3)(x))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    return layers.Conv2D(8, 1, activation="relu")(x)


def test_a_network_of_all_kinds_of_layers_keeps_its_outputs():
    model = network(chain)
    unequal(model)
    before, weights = say(model), model.get_weights()
    assert equalise(model, IMAGES) == 9
    assert not all(np.array_equal(new, old) for new, old in zip(model.get_weights(), weights, strict=True))
    np.testing.assert_allclose(say(model), before, atol=ROUNDING)
    assert before.std(axis=0).min() > 100 * ROUNDING  # the images are told apart


def residual(x):
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return layers.Add()([x, layers.Conv2D(8, 3, padding="same", activation="sigmoid")(x)])


def shared(x):
    again = layers.Conv2D(8, 3, padding="same", activation="relu")
    return again(layers.ReLU(6.0)(again(layers.Conv2D(8, 1, activation="tanh")(x))))


def shared_norm(x):
    norm = layers.BatchNormalization()
    for _ in range(2):
        x = layers.ReLU()(norm(layers.Conv2D(8, 3)(x)))
    return layers.Activation("gelu")(x)


def between(*body):
    def network_body(x):
        for layer in [layers.Conv2D(8, 3), *body, layers.Conv2D(8, 3, activation="swish")]:
            x = layer(x)
        return x

    return network_body


UNTOUCHED = {
    "two consumers": residual,
    "a layer called twice": shared,
    "a batch norm called twice": shared_norm,
    "ReLU6": between(layers.BatchNormalization(), layers.ReLU(6.0)),
    "ReLU6 by name": between(layers.Activation("relu6")),
    "swish": between(layers.Activation("swish")),
    "a raised threshold": between(layers.ReLU(threshold=0.5)),
    "layer normalisation": between(layers.LayerNormalization()),
}


@pytest.mark.parametrize("body", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_a_factor_would_not_pass_through_is_left_alone(body):
    model = network(body)
    unequal(model)
    weights = model.get_weights()
    assert equalise(model, IMAGES) == 0
    for new, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(new, old)


def separable_chain(size_px: int):
    """ReLU alone, batch norms and a depthwise convolution, as in EdgeNet."""

    def body(x):
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(layers.Conv2D(8, 3, 2, use_bias=False)(x)))
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(layers.DepthwiseConv2D(3, use_bias=False)(x)))
        return layers.ReLU()(layers.BatchNormalization(momentum=0.8)(layers.Conv2D(24, 3, 2, use_bias=False)(x)))

    return network(body, size_px)


def set_apart(model, spread: float) -> None:
    """Multiply each channel after a batch norm by a random factor in 1/spread..spread, and divide by it thereafter."""
    rng, order = np.random.default_rng(2), [call.layer for call in trace(model).calls]
    for number, norm in enumerate(order):
        if isinstance(norm, layers.BatchNormalization):
            after = next(layer for layer in order[number + 1 :] if hasattr(layer, "kernel"))
            factors = np.float32(spread ** rng.uniform(-1, 1, norm.gamma.shape))
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            after.kernel.assign(after.kernel / factors[:, np.newaxis])


@pytest.fixture(scope="module")
def cells(rendered_cells):
    """Rendered cells (80, 64, 64, 3) and their labels."""
    chosen = read_dataset(rendered_cells).cells[::3]
    return inputs(chosen, IMAGING), [cell.label for cell in chosen]


@pytest.fixture(scope="module")
def apart(cells):
    """A network fitted to the cells, its channels set apart by factors of up to 400."""
    model = separable_chain(IMAGING.size_px)
    fit(model, *cells)
    before = say(model, cells[0])
    set_apart(model, 20.0)
    np.testing.assert_allclose(say(model, cells[0]), before, atol=ROUNDING)
    return model


def copy_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def lost(model, images, folder) -> float:
    """Mean distance of LiteRT's int8 blast probability from the float network's."""
    export_saved_model(model, folder)
    int8 = quantise(calibrate(folder, to_litert(folder, "float32"), full_range(images), lambda *_: None))
    return float(np.abs(load_bytes("litert", int8, None, 1).predict(images) - say(model, images))[:, 1].mean())


def test_a_network_of_unequal_channels_loses_much_less_to_int8(apart, cells, tmp_path):
    twin = copy_of(apart)
    assert equalise(twin, full_range(cells[0])) == 3
    np.testing.assert_allclose(say(twin, cells[0]), say(apart, cells[0]), atol=ROUNDING)
    before, after = (lost(model, cells[0], tmp_path / name) for model, name in ((apart, "a"), (twin, "b")))
    assert after < before / 2


def before_depthwise(highs):
    """What a 3 x 3 depthwise convolution of equal weights takes after a ReLU, and those weights."""
    highs = np.asarray(highs, float)
    taken = Seen(np.zeros_like(highs), highs, highs**2 / 3)
    return taken, Weights(np.ones((1, len(highs), 1)), np.full((1, len(highs)), 9.0), 9)


def test_channels_get_one_range_where_weights_lose_nothing_by_it():
    factors = choose_factors(*before_depthwise([0.5, 1, 2, 8]))
    np.testing.assert_allclose([0.5, 1, 2, 8] / factors, np.full(4, 8 ** (1 / 4)))  # each has steps of its own


def test_factors_are_bounded():
    factors = choose_factors(*before_depthwise([1e-2, 1, 1e2]))
    np.testing.assert_allclose(factors, [SMALLEST, 1, LARGEST])


def test_channels_that_are_alike_are_left_alone():
    assert choose_factors(*before_depthwise([3, 3, 3])) is None


def test_a_dead_channel_is_left_alone(apart, cells):
    twin = copy_of(apart)
    norm, convolution = twin.layers[3], twin.layers[2]
    assert isinstance(norm, layers.BatchNormalization)
    norm.gamma.assign(np.r_[0.0, norm.gamma.numpy()[1:]])
    norm.beta.assign(np.r_[-1.0, norm.beta.numpy()[1:]])  # ReLU lets none of it through
    kernel, before = convolution.kernel.numpy(), say(twin, cells[0])
    assert equalise(twin, cells[0]) == 3
    np.testing.assert_array_equal(convolution.kernel.numpy()[..., 0], kernel[..., 0])
    assert not np.array_equal(convolution.kernel.numpy()[..., 1], kernel[..., 1])
    np.testing.assert_allclose(say(twin, cells[0]), before, atol=ROUNDING)


@pytest.mark.slow
def test_edgenet_keeps_its_outputs_and_is_rounded_with_less_loss(cells):
    images, labels = cells[0][:32], cells[1][:32]
    keras.utils.set_random_seed(0)
    model = build("edgenet", images.shape[1], NetworkSpec())
    fit(model, images, labels)
    set_apart(model, 4.0)
    before = say(model, images)
    losses = [rounded(model, images)]
    assert equalise(model, images) == 15  # the stem, 7 depthwise and 7 pointwise convolutions, each with the next layer
    np.testing.assert_allclose(say(model, images), before, atol=ROUNDING)
    losses.append(rounded(model, images))
    assert losses[1] < losses[0] / 2


def rounded(model, images) -> float:
    """Mean distance of the blast probability from the float network's with every tensor rounded to int8."""
    network = FakeQuantised(model)
    network.observe(images)
    return float(np.abs(np.asarray(network(images)) - say(model, images))[:, 1].mean())
