"""Networks are brought into a form that the engines are fast at, and say the same."""

import json

import numpy as np
import pytest

keras = pytest.importorskip(
    "keras", reason="Keras is not installed (pip install -e '.[train]')"
)  # which the rewrites import

from keras import layers  # noqa: E402

from bloodedge_convert.network import rewrite as rewrite_module  # noqa: E402
from bloodedge_convert.network.rewrite import PlainNorm, rewrite  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 24, 20, 3), np.uint8)
ROUNDING = 1e-5


def network(body, shape=IMAGES.shape[1:]):
    """A classifier of images of ``shape`` with ``body`` between its first and last layers."""
    keras.utils.set_random_seed(0)
    image = keras.Input(shape, dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(body(x))
    return keras.Model(image, layers.Dense(2, activation="softmax", name="probabilities")(x))


def random_weights(model) -> None:
    """Gains, offsets and biases that are not those that layers begin with."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.LayerNormalization | layers.DepthwiseConv2D | layers.Conv2D | layers.Dense):
            layer.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in layer.get_weights()])


def rewritten(body, engine: str):
    """(the network's outputs, the rewritten network's, what was done)."""
    model = network(body)
    random_weights(model)
    changed, done = rewrite(model, engine, IMAGES)
    return np.asarray(model(IMAGES)), np.asarray(changed(IMAGES)), done


def block(x):
    """A block of ConvNeXt, and the layer normalisation and convolution between its stages."""
    channels = x.shape[-1]
    y = layers.Conv2D(channels, 7, padding="same", groups=channels, name="depthwise")(x)
    y = layers.LayerNormalization(epsilon=1e-6, name="norm")(y)
    y = layers.Activation("gelu", name="gelu")(layers.Dense(4 * channels, name="expand")(y))
    x = layers.Add(name="add")([x, layers.Dense(channels, name="project")(y)])
    return layers.Conv2D(16, 2, 2, name="halve")(layers.LayerNormalization(epsilon=1e-6, name="norm_2")(x))


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_a_convnext_block_keeps_its_outputs(engine):
    before, after, done = rewritten(block, engine)
    assert len(done) == 2
    assert all(row.kept and row.engine == engine for row in done)
    np.testing.assert_allclose(after, before, atol=ROUNDING)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 9), (9, 3), (5, 11), (1, 26)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_large_depthwise_convolution_keeps_its_outputs(height, width, padding):
    def body(x):
        if width > 20 and padding == "valid":
            x = layers.ZeroPadding2D((0, 4))(x)
        return layers.DepthwiseConv2D((height, width), padding=padding, activation="relu")(x)

    before, after, done = rewritten(body, "litert")
    # 25 taps are XNNPACK's most: a row of 26 cannot be split into rows.
    assert [row.layers for row in done] == ([1] if width <= 25 else [])
    np.testing.assert_allclose(after, before, atol=ROUNDING)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_kernel_larger_than_the_map_keeps_its_outputs(side):
    def body(x):
        x = layers.Resizing(side, side)(x)
        return layers.DepthwiseConv2D(7, padding="same")(x)

    before, after, done = rewritten(body, "litert")
    assert len(done) == 1
    np.testing.assert_allclose(after, before, atol=ROUNDING)


@pytest.mark.parametrize(
    ("pool", "strides", "padding", "replaced"),
    [
        (2, 2, "valid", 1),
        (3, 1, "valid", 1),
        (2, 2, "same", 1),  # 24 x 20: no window reaches over the border
        (3, 1, "same", 0),  # at the border the mean is over fewer pixels
        (3, 2, "same", 0),
        ((2, 3), (2, 3), "same", 0),  # 20 is not a multiple of 3
    ],
)
def test_an_average_pool_becomes_a_convolution_only_where_the_mean_is_always_over_the_same_pixels(
    pool, strides, padding, replaced
):
    before, after, done = rewritten(layers.AveragePooling2D(pool, strides, padding), "litert")
    assert [row.layers for row in done] == [1] * replaced
    np.testing.assert_allclose(after, before, atol=ROUNDING)


def test_a_gain_stays_where_another_layer_sees_it_too():
    def body(x):
        x = layers.LayerNormalization(name="norm")(x)
        return layers.Add()([x, layers.Dense(8, name="dense")(x)])

    before, after, done = rewritten(body, "litert")
    assert [row.layers for row in done] == [1]
    np.testing.assert_allclose(after, before, atol=ROUNDING)


def test_an_offset_stays_where_zeros_are_padded_to_it():
    def body(x):
        return layers.Conv2D(8, 3, padding="same")(layers.LayerNormalization()(x))

    before, after, _ = rewritten(body, "litert")
    np.testing.assert_allclose(after, before, atol=ROUNDING)


def test_the_network_that_was_given_stays_as_it_was():
    model = network(block)
    random_weights(model)
    before = np.asarray(model(IMAGES))
    rewrite(model, "litert", IMAGES)
    np.testing.assert_array_equal(np.asarray(model(IMAGES)), before)


def test_layers_inside_a_nested_network_are_found():
    def body(x):
        inner = keras.Input(x.shape[1:])
        return keras.Model(inner, layers.AveragePooling2D(2)(inner), name="features")(x)

    before, after, done = rewritten(body, "litert")
    assert len(done) == 1
    np.testing.assert_allclose(after, before, atol=ROUNDING)


def test_layers_around_one_with_several_outputs_are_found():
    def body(x):
        left, right = keras.ops.split(x, 2, axis=-1)  # as VGG's preprocessing splits its channels
        return layers.AveragePooling2D(2)(keras.ops.concatenate([right, left], axis=-1))

    before, after, done = rewritten(body, "litert")
    assert len(done) == 1
    np.testing.assert_allclose(after, before, atol=ROUNDING)


def test_a_network_without_slow_layers_is_left_alone():
    model = network(lambda x: layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(x))))
    assert rewrite(model, "litert", IMAGES) == (model, [])
    assert rewrite(model, "onnx", IMAGES) == (model, [])


def test_a_rewrite_that_changes_the_outputs_is_left_out(monkeypatch):
    monkeypatch.setattr(PlainNorm, "call", lambda _, inputs: inputs)
    model = network(block)
    random_weights(model)
    changed, done = rewrite(model, "litert", IMAGES)
    assert {row.name.split()[0]: row.kept for row in done} == {"layer": False, "large": True}
    assert next(row for row in done if not row.kept).max_difference > rewrite_module.TOLERANCE
    np.testing.assert_allclose(np.asarray(changed(IMAGES)), np.asarray(model(IMAGES)), atol=ROUNDING)


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """(LiteRT float32, int8) of a network with all that int8 finds hard: pools, ReLU after a shared sum, ConvNeXt."""
    for package in ("tensorflow", "ai_edge_litert"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[convert]')")
    from bloodedge_convert.litert.write import calibrate, quantise, to_litert
    from bloodedge_convert.network.export import export_graphs, saved_model_for

    def body(x):
        x = layers.AveragePooling2D(3, 1, "same")(layers.AveragePooling2D(2)(x))
        y = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(x)])
        y = layers.Add()([y, layers.Conv2D(8, 3, padding="same")(layers.ReLU()(y))])
        return block(y)

    square = np.random.default_rng(2).integers(0, 256, (6, 24, 24, 3), np.uint8)
    model = network(body, square.shape[1:])
    random_weights(model)
    folder = tmp_path_factory.mktemp("int8")
    export_graphs(model, square, ["litert"], folder)
    assert len(json.loads((folder / "rewrites.json").read_text())) == 3
    source = saved_model_for("litert", folder)
    plain = to_litert(source, "float32")
    return model, square, plain, quantise(calibrate(source, plain, square, lambda *_: None))


@pytest.mark.slow
def test_int8_is_one_partition(int8):
    from bloodedge.engine.litert import load_interpreter

    names = [op["op_name"] for op in load_interpreter(int8[3], threads=1)[0]._get_ops_details()]
    assert names.count("DELEGATE") == 1
    # The pool over the border, GELU and the normalisations run in float32, inside the one partition.
    assert names.count("AVERAGE_POOL_2D") == names.count("GELU") == names.count("RELU") == 1
    assert "RSQRT" in names


@pytest.mark.slow
def test_int8_and_float32_say_what_keras_says(int8):
    from bloodedge.engine.litert import LiteRTEngine

    model, images, *files = int8
    reference = np.asarray(model(images))
    for file, most in zip(files, (1e-5, 0.06), strict=True):
        assert np.abs(LiteRTEngine(file, 1).predict(images) - reference).max() < most
