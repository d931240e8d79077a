"""Weights rounded together lie on the steps that engines find, and outputs change less than by rounding each alone."""

import keras
import numpy as np
import pytest
from keras import layers

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")

from bloodedge_convert.network.rounding import STEPS, Rounding, nearest, round_together

SIZE = 24


def correlated(rng, groups, inputs, count=600):
    """Inputs (groups, count, inputs) as behind a ReLU: positive, rising and falling together."""
    common = rng.uniform(0.5, 3.0, (groups, count, 1))
    return common * rng.uniform(0.2, 1.0, (groups, 1, inputs)) + 0.1 * rng.uniform(size=(groups, count, inputs))


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 8, 200), (6, 1, 9), (3, 4, 18)])
@pytest.mark.parametrize("steps", [127, 63.5, 64])
def test_outputs_change_less_than_by_rounding_to_the_nearest(groups, outputs, inputs, steps):
    rng = np.random.default_rng(0)
    x, weights = correlated(rng, groups, inputs), rng.normal(size=(groups, outputs, inputs))
    squares = np.einsum("gni,gnj->gij", x, x) / x.shape[1]
    found, alone = round_together(weights, squares, steps), nearest(weights, steps)
    largest = np.abs(weights).max(axis=2, keepdims=True)
    np.testing.assert_array_equal(np.abs(found).max(axis=2, keepdims=True), largest)
    on_step = found / (largest / steps)
    off = np.abs(on_step - np.round(on_step))
    assert np.where(np.abs(found) == largest, 0, off).max() < 1e-9
    errors = [np.square(np.einsum("gni,goi->gno", x, one - weights)).mean() for one in (found, alone)]
    assert errors[0] < errors[1] / 2


def test_a_dead_channel_stays_dead():
    weights, squares = np.zeros((1, 2, 4)), np.zeros((1, 4, 4))
    weights[0, 1] = [1, -0.3, 0.2, 0.001]
    found = round_together(weights, squares, 127)
    assert (found[0, 0] == 0).all()
    np.testing.assert_allclose(found[0, 1], np.round(weights[0, 1] * 127) / 127)


@pytest.fixture(scope="module")
def network():
    """A layer of each kind that has weights."""
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.Conv2D(16, 3, groups=4, dilation_rate=2, activation="relu", name="grouped")(x)
    x = layers.SeparableConv2D(12, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="logits")(x))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    cells = np.zeros((40, SIZE, SIZE, 3), np.uint8)
    cells[:, 4:-4, 4:-4] = rng.integers(60, 220, (40, 1, 1, 3)) + rng.integers(-40, 30, (40, SIZE - 8, SIZE - 8, 3))
    return cells


def kernels(network):
    return {weight.path: np.asarray(weight) for weight in network.trainable_weights if "kernel" in weight.path}


@pytest.mark.parametrize("engine", ["litert", "openvino", "onnx"])
def test_every_kernel_of_a_network_lies_on_the_engines_steps(network, images, engine):
    before = kernels(network)
    rounding = Rounding(network, images)
    rounding.apply(engine)
    after = kernels(network)
    rounding.undo()
    assert all(np.array_equal(before[path], kernel) for path, kernel in kernels(network).items())
    assert len(after) == 6
    for path, kernel in after.items():
        axes = (0, 1) if "depthwise" in path else tuple(range(kernel.ndim - 1))
        largest = np.abs(kernel).max(axis=axes, keepdims=True)
        np.testing.assert_array_equal(largest, np.abs(before[path]).max(axis=axes, keepdims=True))
        steps = STEPS[engine].first if "stem" in path else STEPS[engine].others
        on_step = kernel / (largest / steps)
        off = np.where(np.abs(kernel) == largest, 0, np.abs(on_step - np.round(on_step)))
        assert off.max() < 1e-3, path  # float32
        assert not np.array_equal(kernel, before[path])


def test_what_a_kernel_reads_is_what_keras_convolves(network, images):
    rounding = Rounding(network, images)
    for name in ("stem", "depthwise", "grouped"):
        layer = network.get_layer(name)
        (kernel,) = rounding.kernels[id(layer)]
        inputs = keras.Model(network.input, layer.input)(images, training=False)
        ours = np.einsum("goi,gij,goj->go", kernel.matrix, kernel.squares, kernel.matrix).ravel()
        activation, layer.activation = layer.activation, keras.activations.linear
        sums = np.asarray(layer(inputs)) - np.asarray(layer.bias)
        layer.activation = activation
        expected = np.square(sums).mean(axis=(0, 1, 2))
        batches = -(-len(images) // 16)
        np.testing.assert_allclose(ours / batches, expected, rtol=0.35)
