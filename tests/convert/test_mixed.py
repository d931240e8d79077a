"""The layers that int8 ruins are found, and then computed in float32."""

from typing import NamedTuple

import numpy as np
import pytest

for package in ("keras", "tensorflow", "ai_edge_litert"):
    pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[convert]')")

import keras  # noqa: E402
from keras import layers  # noqa: E402

from bloodedge.engine.litert import LiteRTEngine, load_interpreter  # noqa: E402
from bloodedge_convert.litert import mixed as module  # noqa: E402
from bloodedge_convert.litert.layer_noise import short  # noqa: E402
from bloodedge_convert.litert.mixed import Mixed, find_float_layers  # noqa: E402
from bloodedge_convert.litert.write import calibrate, quantise, to_litert  # noqa: E402
from bloodedge_convert.network.export import export_saved_model  # noqa: E402

from .conftest import spread_decisions  # noqa: E402

SIZE, IMAGES = 32, 32


class Found(NamedTuple):
    """A network with a layer that int8 ruins, and what was found."""

    plain: bytes
    calibrated: bytes
    trial: np.ndarray
    mixed: Mixed
    steps: list[tuple[str, int, int]]


def blobs(rng: np.random.Generator) -> np.ndarray:
    """Coloured blobs of various sizes on black, uint8 (IMAGES, SIZE, SIZE, 3)."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    blob = np.hypot(y, x) < rng.uniform(6, 15, (IMAGES, 1, 1))
    colour = rng.uniform(40, 250, (IMAGES, 1, 1, 3))
    return (blob[..., np.newaxis] * colour + rng.normal(0, 8, (IMAGES, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


def classifier() -> keras.Model:
    """Four convolutions and a decision."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    x = layers.Conv2D(16, 3, 2, padding="same", activation="relu", name="stem")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(16, 1, activation="relu", name="second")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="probabilities")(x))


def scaled_and_cancelled(model: keras.Model) -> list[str]:
    """One channel a thousand times the others, which the next layer takes back: no int8 step fits all channels.

    The rounding lies between the two layers, so both have to be in float32.
    """
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel * np.append(np.ones(15), 1000), bias])
    kernel, bias = model.get_layer("second").get_weights()
    kernel[:, :, 15] /= 1000
    model.get_layer("second").set_weights([kernel, bias])
    return ["first", "second"]


def one_heavy_weight(model: keras.Model) -> list[str]:
    """Weights a thousand times the others for a channel that is always 0: no int8 step fits all weights.

    What comes out is harmless, so the layer itself is enough.
    """
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 3], bias[3] = 0, -1
    model.get_layer("first").set_weights([kernel, bias])
    kernel, bias = model.get_layer("second").get_weights()
    kernel[:, :, 3] = 300
    model.get_layer("second").set_weights([kernel, bias])
    return ["second"]


@pytest.fixture(scope="module", params=[scaled_and_cancelled, one_heavy_weight])
def found(request, tmp_path_factory):
    """What is found in a ruined network, and the layers that should be."""
    rng = np.random.default_rng(0)
    images, trial = blobs(rng), blobs(rng)
    model = classifier()
    ruined = request.param(model)
    spread_decisions(model, trial)
    folder = tmp_path_factory.mktemp("mixed")
    export_saved_model(model, folder)
    plain = to_litert(folder, "float32")
    calibrated = calibrate(folder, plain, images, lambda *_: None)
    steps: list[tuple[str, int, int]] = []
    mixed = find_float_layers(calibrated, plain, images, trial, 0.01, lambda *step: steps.append(step))
    return Found(plain, calibrated, trial, mixed, steps), ruined


def layer(tensor: str) -> str:
    """The Keras layer that makes a tensor; the exported network's names end in its number of calls."""
    return short(tensor).removesuffix("_1")


def blast(model: bytes, images: np.ndarray) -> np.ndarray:
    return LiteRTEngine(model, 1).predict(images)[:, 1]


def test_the_ruined_layer_is_found_first_and_alone_suffices(found):
    result, ruined = found
    assert [layer(name) for name in result.mixed.layers] == ruined
    first, *others = result.mixed.sensitivities
    assert first.outputs == result.mixed.layers
    assert first.name == short(first.outputs[0])
    assert all(first.worth >= other.worth for other in others)


def test_the_network_is_cured(found):
    result, _ = found
    reference = blast(result.plain, result.trial)
    assert reference.std() > 0.2
    int8, mixed = (
        np.abs(blast(quantise(result.calibrated, names), result.trial) - reference).mean()
        for names in ([], result.mixed.layers)
    )
    assert int8 > 0.1
    assert mixed < int8 / 5
    assert result.mixed.distance_after < result.mixed.distance_before / 5


def test_what_was_found_is_computed_in_float32_and_the_rest_in_int8(found):
    result, ruined = found
    network, _ = load_interpreter(quantise(result.calibrated, result.mixed.layers), 1, keep_tensors=True)
    tensors = {details["index"]: details for details in network.get_tensor_details()}
    dtypes = {}
    for op in network._get_ops_details():
        if op["op_name"] in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            used = [tensors[int(index)]["dtype"] for index in (*op["inputs"], *op["outputs"])]
            dtypes[layer(tensors[int(op["outputs"][0])]["name"])] = used
    assert len(dtypes) == 5
    for name, used in dtypes.items():
        # input, weights, bias, output
        in_float = name in ruined or name == "probabilities"  # the logits always are
        assert used == ([np.float32] * 4 if in_float else [np.int8, np.int8, np.int32, np.int8])


def test_no_rounding_lies_between_neighbours_in_float32_and_the_network_stays_in_one_piece(found):
    result, _ = found
    plain, mixed = quantise(result.calibrated), quantise(result.calibrated, result.mixed.layers)
    names = [[op["op_name"] for op in load_interpreter(model, 1)[0]._get_ops_details()] for model in (plain, mixed)]
    assert [each.count("DELEGATE") for each in names] == [1, 1]
    assert names[1].count("DEQUANTIZE") == names[0].count("DEQUANTIZE") + 1
    assert names[1].count("QUANTIZE") == names[0].count("QUANTIZE") + 1


def test_each_layer_that_is_tried_is_reported(found):
    result, _ = found
    tried = len(result.mixed.sensitivities)
    assert tried == 5
    assert [step[1:] for step in result.steps] == [(number, tried) for number in range(1, tried + 1)]


def test_nothing_is_tried_where_int8_is_near_enough(found):
    result, _ = found
    mixed = find_float_layers(result.calibrated, result.plain, result.trial, result.trial, 1.0, lambda *_: None)
    assert mixed.layers == mixed.sensitivities == []
    assert mixed.distance_after == mixed.distance_before


def test_no_more_layers_than_allowed_are_left_in_float32(found, monkeypatch):
    result, ruined = found
    monkeypatch.setattr(module, "MOST_LAYERS", 1)
    mixed = find_float_layers(result.calibrated, result.plain, result.trial, result.trial, 0.0, lambda *_: None)
    assert len(mixed.layers) <= 1
    assert {layer(name) for name in mixed.layers} <= set(ruined)
