"""Networks take camera bytes and give probabilities; ResNet-RS 50 is the reference's, weight for weight."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_train.zoo import ZOO, build, check_model, resnetrs

SIDE = 64


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise of three brightnesses, so that a network tells the pictures apart."""
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3))
    return (noise * np.array([0.2, 0.6, 1.0])[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize("name", ZOO)
def test_every_network_takes_bytes_and_gives_probabilities(name: str, images: np.ndarray) -> None:
    model = build(name, SIDE, dropout=0.3)
    assert model.input.dtype == "uint8"
    assert model.input_shape == (None, SIDE, SIDE, 3)
    assert model.get_layer("features") is not None
    probabilities = np.asarray(model(images))
    assert (probabilities.shape, probabilities.dtype) == ((3, 2), np.float32)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_mobilenetv2_has_the_published_number_of_parameters() -> None:
    assert build("mobilenetv2", 96, classes=1000).count_params() == 3_538_984  # keras.applications' table


@pytest.fixture(scope="module")
def reference() -> Any:
    """Keras 2's ResNetRS50 with 1000 classes, its batch norms away from where they begin."""
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.applications.ResNetRS50(weights=None, include_top=True, classes=1000, input_shape=(SIDE, SIDE, 3))
    rng = np.random.default_rng(1)
    shapes = {"gamma": (1, 0.1), "beta": (0, 0.1), "moving_mean": (0, 0.2), "moving_variance": (1, 0.1)}

    def drawn(weight: Any, value: np.ndarray) -> np.ndarray:
        for name, (mean, spread) in shapes.items():
            if weight.name.endswith(f"{name}:0"):
                return np.abs(rng.normal(mean, spread, value.shape)) if mean else rng.normal(0, spread, value.shape)
        return value

    model.set_weights([drawn(w, v) for w, v in zip(model.weights, model.get_weights(), strict=True)])
    return model


def test_resnetrs50_is_the_reference_weight_for_weight(reference: Any, images: np.ndarray) -> None:
    ours = build("resnetrs50", SIDE, classes=1000)
    assert ours.count_params() == reference.count_params() == 35_745_288
    ours.set_weights(reference.get_weights())
    theirs = np.asarray(reference(images.astype(np.float32), training=False))
    mine = np.asarray(ours(images))
    assert np.abs(mine - theirs).max() < 1e-4
    # A thousand probabilities are small, so their logarithms are held together too, which differ between pictures.
    assert np.abs(np.log(mine) - np.log(theirs)).max() < 1e-3
    assert np.ptp(np.log(theirs), axis=0).max() > 0.1


def test_a_published_weights_file_loads_in_layer_order(reference: Any, images: np.ndarray, tmp_path: Path) -> None:
    """The reference writes its features as the published files are; they must arrive where they belong."""
    import tf_keras

    last = reference.layers[-4].output
    assert tuple(last.shape) == (None, 2, 2, 2048)
    features = tf_keras.Model(reference.input, last)
    file = tmp_path / "resnet-rs-50-i160_notop.h5"
    features.save_weights(file)
    ours = build("resnetrs50", SIDE, weights=str(file))
    mine = np.asarray(ours.get_layer("features")(resnetrs.scale(images), training=False))
    theirs = np.asarray(features(images.astype(np.float32), training=False))
    assert np.abs(mine - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


def test_weights_of_another_network_are_refused_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "edgenet.weights.h5"
    build("edgenet", SIDE).get_layer("features").save_weights(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file that fits is loaded in silence
        build("edgenet", SIDE, weights=str(file))
    for name in ("mobilenetv2", "resnetrs50"):
        with pytest.raises(UsageError, match=f"holds the weights of another network than {name}") as caught:
            build(name, SIDE, weights=str(file))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["broken.weights.h5", "broken.h5"])
def test_a_broken_weights_file_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"not HDF5" * 100)
    with pytest.raises(BloodedgeError, match="is not a readable HDF5 weights file; copy or download it again"):
        build("edgenet", SIDE, weights=str(file))


def test_a_file_that_is_no_weights_file_by_name_is_told(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"not a weights file by its name; give one that ends in \.h5"):
        build("edgenet", SIDE, weights=str(file))


def test_a_missing_weights_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; give --weights none, imagenet, or the path"):
        build("edgenet", SIDE, weights=str(tmp_path / "none.h5"))


def test_edgenet_says_that_it_has_no_published_weights() -> None:
    with pytest.raises(UsageError, match="no ImageNet weights"):
        build("edgenet", SIDE, weights="imagenet")


def test_a_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure on the store: None -- [Errno -3] no name")  # noqa: TRY002  as Keras does

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(BloodedgeError, match=r"could not be downloaded \(URL fetch.*give its path"):
        build("resnetrs50", SIDE, weights="imagenet")


def test_an_unknown_model_gets_a_hint() -> None:
    with pytest.raises(UsageError, match=r'no model "mobilnetv2"\. Did you mean "mobilenetv2"\? Models: '):
        check_model("mobilnetv2")


def test_the_provided_mobilenet_weights_arrive(real_data: Path) -> None:
    import h5py

    path = real_data / "weights" / "mobilenet_v2_1.0_224_notop.weights.h5"
    model = build("mobilenetv2", 96, weights=str(path))
    kernel = model.get_layer("features").get_layer("Conv1").get_weights()[0]
    with h5py.File(path) as file:
        stored: list[np.ndarray] = []
        file.visititems(lambda _, x: stored.append(x[()]) if isinstance(x, h5py.Dataset) else None)
    assert any(x.shape == kernel.shape and np.array_equal(x, kernel) for x in stored)
