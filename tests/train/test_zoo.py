"""Every network of the zoo takes camera bytes and gives probabilities, at its published size."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bloodedge.engine.keras import load_model
from bloodedge.errors import UsageError
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build, check_model, regnet

SIDE = 80
CLASSES = 1000

Build = Callable[[str], Any]

TRAINABLE = {
    "resnetrs50": 35_691_912,  # timm: 35.69 M
    "regnetx016": 9_190_136,  # torchvision
    "convnext_tiny": 28_589_128,  # torchvision
    "efficientnetb0": 5_288_548,  # torchvision
    "efficientnet_lite0": 4_652_008,  # timm: 4.65 M
    "efficientnet_lite1": 5_416_680,  # timm: 5.42 M
    "efficientnet_lite2": 6_092_072,  # timm: 6.09 M
    "mobilenetv2": 3_504_872,  # torchvision
}
"""Published parameters with 1000 classes where statistics of batch norms are not counted."""

TOTAL = {
    "resnetrs50": 35_745_288,  # Keras 2's applications
    "regnetx016": 9_233_640,  # Keras 2's applications
    "efficientnetb0": 5_330_571 - 7,  # keras.applications, whose normalisation of the image counts 7
    "inceptionv3": 23_851_784,  # keras.applications
    "xception": 22_910_480,  # keras.applications
    "mobilenetv2": 3_538_984,  # keras.applications
}
"""Published parameters with 1000 classes where they are counted."""

FEATURES = {
    "vgg19": 20_024_384,  # keras.applications without its top
    "alexnet": 2_469_696,  # torchvision's ``features``
}
"""Published parameters before the fully connected layers, which are the zoo's own."""


@pytest.fixture(scope="module")
def built() -> Build:
    """Networks with 1000 classes, each built once."""
    return cache(lambda name: build(name, SIDE, NetworkSpec(dropout=0.3), classes=CLASSES))


@pytest.mark.parametrize("name", ZOO)
def test_every_network_takes_bytes_and_gives_probabilities(name: str, built: Build) -> None:
    model = built(name)
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    assert (model.input.dtype, model.input.name) == ("uint8", "image")
    assert model.input_shape == (None, SIDE, SIDE, 3)
    assert len(model.get_layer("features").output.shape) == 4
    probabilities = np.asarray(model(images))
    assert probabilities.shape == (2, CLASSES)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_network_learns_the_published_number_of_parameters(name: str, built: Build) -> None:
    assert sum(int(np.prod(weight.shape)) for weight in built(name).trainable_weights) == TRAINABLE[name]


@pytest.mark.parametrize("name", TOTAL)
def test_a_network_has_the_published_number_of_parameters(name: str, built: Build) -> None:
    assert built(name).count_params() == TOTAL[name]


@pytest.mark.parametrize("name", FEATURES)
def test_features_have_the_published_number_of_parameters(name: str, built: Build) -> None:
    assert built(name).get_layer("features").count_params() == FEATURES[name]


def test_edgenet_is_small_and_has_only_fused_layers(built: Build) -> None:
    features = built("edgenet").get_layer("features")
    assert features.count_params() < 1_000_000
    fused = {"InputLayer", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "ReLU", "Add"}
    assert {type(layer).__name__ for layer in features.layers} <= fused


def test_the_head_is_what_the_recipe_says() -> None:
    model = build("edgenet", 32, NetworkSpec(units=16, dropout=0.4, l1=0.01, l2=0.02))
    assert [layer.name for layer in model.layers[-4:]] == ["pool", "hidden", "dropout", "probabilities"]
    assert model.get_layer("hidden").units == 16
    assert model.get_layer("dropout").rate == 0.4
    penalty = sum(float(loss) for loss in model.losses)
    kernels = [np.asarray(model.get_layer(name).kernel) for name in ("hidden", "probabilities")]
    assert penalty == pytest.approx(sum(0.01 * np.abs(k).sum() + 0.02 * (k**2).sum() for k in kernels), rel=1e-4)


def test_a_head_without_a_fully_connected_layer_or_penalties_has_neither() -> None:
    model = build("edgenet", 32, NetworkSpec(units=0))
    assert [layer.name for layer in model.layers[-3:]] == ["pool", "dropout", "probabilities"]
    assert model.losses == []


@pytest.mark.parametrize("name", ["edgenet", "vgg19"])
def test_the_views_of_a_cell_go_through_one_network_and_side_by_side_into_the_head(name: str, tmp_path: Path) -> None:
    built = build(name, 32, NetworkSpec(), views=2)
    built.save(tmp_path / "model.keras")
    model = load_model(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32, 3)).astype(np.uint8)
    one = build(name, 32, NetworkSpec())
    assert model.get_layer("features").count_params() == one.get_layer("features").count_params()
    one.get_layer("features").set_weights(model.get_layer("features").get_weights())
    pooled = keras.Model(one.input, one.get_layer("pool").output)
    side_by_side = np.concatenate([pooled(images[:, view]) for view in (0, 1)], axis=1)
    seen = np.asarray(keras.Model(model.input, model.get_layer("dropout").input)(images))
    assert np.abs(seen - side_by_side).max() <= 1e-5 * np.abs(seen).max()
    assert np.abs(seen - side_by_side[::-1]).max() > 1e-3 * np.abs(seen).max()
    assert np.array_equal(np.asarray(built(images)), np.asarray(model(images)))


@pytest.fixture
def mixed() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("name", ["edgenet", "vgg19"])
def test_mixed_precision_keeps_bytes_and_probabilities_whole(name: str) -> None:
    model = build(name, 32, NetworkSpec(units=8))
    scaled = next(layer for layer in model.layers if layer.name == "scale")
    every_byte = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert len(np.unique(np.asarray(scaled(every_byte))[..., 0])) == 256
    assert model.get_layer("hidden").compute_dtype == "bfloat16"
    assert np.asarray(model(np.zeros((1, 32, 32, 3), np.uint8))).dtype == np.float32


@pytest.mark.parametrize(("name", "side"), [("inceptionv3", 75), ("xception", 71), ("alexnet", 63)])
def test_an_image_too_small_for_a_network_is_told(name: str, side: int) -> None:
    sentence = f"{name} needs images of at least {side} px; raise imaging.size_px."
    with pytest.raises(UsageError, match=sentence):
        build(name, side - 1, NetworkSpec())


def test_alexnets_smallest_image_leaves_one_value_per_channel() -> None:
    assert build("alexnet", 63, NetworkSpec()).get_layer("features").output_shape == (None, 1, 1, 256)


def test_regnets_grouped_convolutions_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow has no gradient of them on a CPU outside XLA, through which Keras therefore sends them."""
    monkeypatch.setattr(regnet, "DEPTHS", (1, 1))
    monkeypatch.setattr(regnet, "WIDTHS", (24, 48))
    model = build("regnetx016", 32, NetworkSpec())
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    kernel = model.get_layer("features").get_layer("stage2_block0_2_conv").kernel
    before = np.array(kernel)
    assert before.shape == (3, 3, 24, 48)  # two groups of 24
    loss = model.train_on_batch(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8), np.arange(4) % 2)
    assert np.isfinite(loss)
    assert not np.array_equal(before, np.asarray(kernel))


def test_a_network_with_layers_of_its_own_is_read_again_from_its_description(built: Build) -> None:
    model = built("convnext_tiny")
    again = keras.models.model_from_json(model.to_json())
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


@pytest.mark.slow
def test_networks_run_on_jax_as_they_are() -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install -e '.[train]')")
    code = """
import keras
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import build, regnet, vgg19
regnet.DEPTHS, regnet.WIDTHS = (1, 1), (24, 48)
print(keras.backend.backend(), build("regnetx016", 32, NetworkSpec(units=8)).output.dtype)
print(vgg19.scale(keras.Input((32, 32, 3), dtype="uint8")).dtype)
"""
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["jax", "float32", "float32"], done.stderr[-2000:]


def test_an_unknown_model_gets_a_hint() -> None:
    with pytest.raises(UsageError, match=r'no model "mobilnetv2"\. Did you mean "mobilenetv2"\? Models: '):
        check_model("mobilnetv2")
