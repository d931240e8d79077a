"""Weights files arrive where they belong: the reference's networks, weight for weight, and none of another network."""

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build

PLAIN = NetworkSpec()

REFERENCES = {
    "resnetrs50": ("ResNetRS50", None),
    "regnetx016": ("RegNetX016", None),
    "convnext_tiny": ("ConvNeXtTiny", None),
    "efficientnetb0": ("EfficientNetB0", None),
    "inceptionv3": ("InceptionV3", "inception_v3"),
    "xception": ("Xception", "xception"),
    "vgg19": ("VGG19", "vgg19"),
    "mobilenetv2": ("MobileNetV2", "mobilenet_v2"),
}
"""Name in Keras 2's applications, and the module of its ``preprocess_input`` where the network has none inside."""


def family(name: str) -> Any:
    return importlib.import_module(f"bloodedge_train.zoo.{ZOO[name].module}")


def side(name: str) -> int:
    return max(64, ZOO[name].smallest_px)


def images(name: str) -> NDArray[np.uint8]:
    """Noise of two brightnesses, so that a network tells the pictures apart."""
    noise = np.random.default_rng(0).integers(0, 256, (2, side(name), side(name), 3))
    return np.asarray(noise * np.array([0.3, 1.0])[:, None, None, None], np.uint8)


def stir(model: Any) -> None:
    """Draw weights that carry the picture to the last layer, and move normalisations away from where they begin."""
    rng = np.random.default_rng(1)
    spreads = {"gamma": (1, 0.1), "beta": (0, 0.1), "moving_mean": (0, 0.2), "moving_variance": (1, 0.1)}

    def drawn(weight: Any, value: np.ndarray) -> np.ndarray:
        kind = weight.name.rpartition("/")[2].partition(":")[0]
        if kind.endswith("kernel"):
            inputs = value[..., 0].size if kind != "depthwise_kernel" else value[..., 0, 0].size
            return rng.normal(0, np.sqrt(2 / inputs), value.shape)
        if kind not in spreads:
            return value
        mean, spread = spreads[kind]
        stirred = rng.normal(mean, spread, value.shape)
        return np.abs(stirred) if mean else stirred

    model.set_weights([drawn(w, v) for w, v in zip(model.weights, model.get_weights(), strict=True)])


@pytest.fixture
def write_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Path, np.ndarray]]:
    """Writes a Keras 2 network's features as the published files are; gives the file and its last map of ``images``."""
    applications = pytest.importorskip("tf_keras.applications", reason="tf_keras, the reference, is not installed")

    def write(name: str) -> tuple[Path, np.ndarray]:
        kind, module = REFERENCES[name]
        shape = (side(name), side(name), 3)
        model = getattr(applications, kind)(weights=None, include_top=False, input_shape=shape)
        stir(model)
        file = tmp_path / f"{name}_notop.h5"
        if kind == "EfficientNetB0":
            model = published_efficientnet(model, file, monkeypatch)
        model.save_weights(file)
        pixels = images(name).astype(np.float32)
        if module:
            pixels = importlib.import_module(f"tf_keras.applications.{module}").preprocess_input(pixels)
        return file, np.asarray(model(pixels, training=False))

    return write


def published_efficientnet(model: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keras 2's network as its download makes it, the file holding ImageNet's mean and standard deviation."""
    from tf_keras import applications

    # The standard deviation stands where a variance should: github.com/tensorflow/tensorflow/issues/49930.
    model.get_layer(index=2).set_weights(
        [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)]
    )
    model.save_weights(file)
    utils = sys.modules["tf_keras.src.applications.efficientnet"].data_utils
    monkeypatch.setattr(utils, "get_file", lambda *_, **__: str(file))
    return applications.EfficientNetB0(weights="imagenet", include_top=False, input_shape=model.input_shape[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_a_file_of_the_reference_gives_the_references_output(
    name: str, write_reference: Callable[[str], tuple[Path, np.ndarray]]
) -> None:
    file, theirs = write_reference(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = build(name, side(name), PLAIN, weights=str(file))
    mine = np.asarray(model.get_layer("features")(family(name).scale(images(name)), training=False))
    assert mine.shape == theirs.shape
    assert np.abs(mine - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * np.abs(theirs).max()  # it tells the pictures apart


@pytest.mark.parametrize("kind", ["ConvNeXtTiny", "EfficientNetB0", "VGG19"])
def test_a_file_that_keras_3_wrote_arrives(kind: str, tmp_path: Path) -> None:
    name = next(ours for ours, (theirs, _) in REFERENCES.items() if theirs == kind)
    written = getattr(keras.applications, kind)(weights=None, include_top=False, input_shape=(64, 64, 3))
    file = tmp_path / "features.weights.h5"
    written.save_weights(file)
    ours = build(name, 64, PLAIN, weights=str(file)).get_layer("features").get_weights()
    theirs = [
        value
        for layer in written.layers
        if not isinstance(layer, keras.layers.Normalization)
        for value in layer.get_weights()
    ]
    assert len(ours) == len(theirs)
    assert all(np.array_equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_published_file_and_its_digest_are_the_reference_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for ImageNet weights, Keras must want to download the same file, checked the same way."""
    asked: list[tuple[str, str | None]] = []

    def get_file(fname: str, origin: str, file_hash: str | None = None, **_: Any) -> str:
        assert origin.endswith(fname)
        asked.append((origin, file_hash))
        raise FileNotFoundError("offline")

    kind, _ = REFERENCES[name]
    keras3 = hasattr(keras.applications, kind)
    applications = (
        keras.applications
        if keras3
        else pytest.importorskip("tf_keras.applications", reason="tf_keras, the reference, is not installed")
    )
    module = sys.modules[getattr(applications, kind).__module__]
    monkeypatch.setattr(module.file_utils if keras3 else module.data_utils, "get_file", get_file)
    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(FileNotFoundError):
        getattr(applications, kind)(include_top=False, input_shape=(96, 96, 3))
    with pytest.raises(BloodedgeError, match=r"could not be downloaded \(offline\)"):
        build(name, 96, PLAIN, weights="imagenet")
    assert asked[0] == (asked[1][0].replace("_1.0_224_", "_1.0_96_"), asked[1][1])


@pytest.mark.parametrize("name", ["alexnet", "efficientnet_lite0", "efficientnet_lite2", "edgenet"])
def test_a_network_without_published_weights_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no ImageNet weights to download; use --weights none or"):
        build(name, 64, PLAIN, weights="imagenet")


def test_a_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure on the store: None -- [Errno -3] no name")  # noqa: TRY002  as Keras does

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(BloodedgeError, match=r"could not be downloaded \(URL fetch.*give its path"):
        build("mobilenetv2", 96, PLAIN, weights="imagenet")


@pytest.fixture(scope="module")
def alexnet_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """AlexNet's weights as Keras 3 and as Keras 2 write them."""
    folder = tmp_path_factory.mktemp("alexnet")
    features = build("alexnet", 64, PLAIN).get_layer("features")
    features.save_weights(folder / "alexnet.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features.save(folder / "alexnet.h5")
    return [folder / "alexnet.weights.h5", folder / "alexnet.h5"]


@pytest.mark.parametrize("number", [0, 1])
def test_weights_of_another_network_are_refused_by_their_first_difference(
    alexnet_files: list[Path], number: int
) -> None:
    file = alexnet_files[number]
    build("alexnet", 64, PLAIN, weights=str(file))
    with pytest.raises(UsageError, match="holds the weights of another network than vgg19") as caught:
        build("vgg19", 64, PLAIN, weights=str(file))
    assert "the file has (11, 11, 3, 64), vgg19 wants (3, 3, 3, 64)" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"the file has \(11, 11, 3, 64\) and \(64,\), edgenet wants \(3, 3, 3, 16\)"):
        build("edgenet", 64, PLAIN, weights=str(file))


def test_a_file_with_more_layers_than_the_network_is_refused(alexnet_files: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "longer.weights.h5"
    with h5py.File(alexnet_files[0]) as source, h5py.File(file, "w") as copy:
        source.copy("layers", copy)
        copy["layers/dense/vars/0"] = np.zeros((256, 1000))
    with pytest.raises(UsageError, match=r"dense: the file has \(256, 1000\), alexnet wants nothing"):
        build("alexnet", 64, PLAIN, weights=str(file))


@pytest.mark.parametrize("name", ["broken.weights.h5", "broken.h5"])
def test_a_broken_weights_file_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"not HDF5" * 100)
    with pytest.raises(BloodedgeError, match="is not a readable HDF5 weights file; copy or download it again"):
        build("edgenet", 64, PLAIN, weights=str(file))


def test_a_truncated_weights_file_is_told(alexnet_files: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "half.weights.h5"
    content = alexnet_files[0].read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BloodedgeError, match="is not a readable HDF5 weights file; copy or download it again"):
        build("alexnet", 64, PLAIN, weights=str(file))


def test_an_hdf5_file_of_something_else_is_told(tmp_path: Path) -> None:
    file = tmp_path / "other.h5"
    with h5py.File(file, "w") as other:
        other["measurements"] = np.zeros(3)
    with pytest.raises(BloodedgeError, match="is not a readable HDF5 weights file"):
        build("edgenet", 64, PLAIN, weights=str(file))


def test_a_file_that_is_no_weights_file_by_name_is_told(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"not a weights file by its name; give one that ends in \.h5"):
        build("edgenet", 64, PLAIN, weights=str(file))


def test_a_missing_weights_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; give --weights none, imagenet, or the path"):
        build("edgenet", 64, PLAIN, weights=str(tmp_path / "none.h5"))


def test_the_provided_mobilenet_weights_arrive(real_data: Path) -> None:
    path = real_data / "weights" / "mobilenet_v2_1.0_224_notop.weights.h5"
    model = build("mobilenetv2", 96, PLAIN, weights=str(path))
    kernel = model.get_layer("features").get_layer("Conv1").get_weights()[0]
    with h5py.File(path) as file:
        assert np.array_equal(file["layers/conv2d/vars/0"][()], kernel)
