"""The stain layer: dyes come apart, stay fixed or learn, and survive files and dtype policies without custom code."""

from pathlib import Path

import numpy as np
import pytest

from bloodedge.imaging import optical_density as dyes
from bloodedge_train import zoo
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import unmixing

keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")

SIZE = 32


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def model(kind: str):
    """The least that can be fitted behind the layer."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(unmixing.layer(kind)(image))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(x)))


def densities(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_densities_of_pure_dyes_become_concentrations() -> None:
    """0.9 of methylene blue, 0.6 of eosin, and both: codes are 170 to a density of 1."""
    amounts = np.array([[0.9, 0], [0, 0.6], [0.9, 0.6], [0, 0]])
    codes = 170 * amounts @ np.array([dyes.METHYLENE_BLUE, dyes.EOSIN])
    found = np.asarray(unmixing.layer("romanowsky")(np.rint(codes).astype(np.uint8)[None, None]))[0, 0]
    assert found[:, :2] == pytest.approx(170 * amounts, abs=1.5)  # bytes are rounded by up to 0.5 per channel
    assert found[:, 2] == pytest.approx(0, abs=1)
    assert found[3] == pytest.approx([0, 0, 0])


def test_bytes_and_floats_are_taken_alike() -> None:
    layer, images = unmixing.layer("learned"), densities(2)
    assert np.array_equal(np.asarray(layer(images)), np.asarray(layer(images.astype(np.float32))))


def test_learned_dyes_learn_and_romanowsky_stays() -> None:
    moved = {}
    for kind in ("romanowsky", "learned"):
        network = model(kind)
        network.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
        network.fit(densities(), np.arange(8.0)[:, None] % 2, epochs=2, verbose=0)
        kernel = network.get_layer("stain").get_weights()[0].reshape(3, 3)
        moved[kind] = np.abs(kernel - dyes.unmixing()).max()
    assert moved["romanowsky"] < 1e-6
    assert 1e-3 < moved["learned"] < 0.2


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["romanowsky", "learned"])
def test_a_saved_network_loads_without_custom_objects(kind: str, name: str, policy, tmp_path: Path) -> None:
    policy(name)
    network, images = model(kind), densities()
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict(images, verbose=0), network.predict(images, verbose=0))
    assert len(again.get_layer("stain").trainable_weights) == (kind == "learned")


def test_dyes_are_float32_under_mixed_precision(policy) -> None:
    """bfloat16 has 8 bits: differences of densities would drown."""
    policy("mixed_bfloat16")
    found = np.asarray(unmixing.layer("romanowsky")(densities(1)))
    assert found.dtype == np.float32
    assert found == pytest.approx(densities(1) @ dyes.unmixing(), abs=1e-3)


def test_it_costs_nine_numbers() -> None:
    """As in Duggal et al.: "only nine additional learnable parameters"."""
    sizes = {kind: zoo.build("edgenet", SIZE, NetworkSpec(stain=kind)).count_params() for kind in ("none", "learned")}
    assert sizes["learned"] - sizes["none"] == 9


def test_nuclei_are_dense_in_methylene_blue_on_real_cells(real_data: Path) -> None:
    """What is dark in a cell is its nucleus, which takes the blue dye; its pale cytoplasm does not."""
    from bloodedge.imaging import ImagingSpec, cell_on_black, network_input, read_image

    files = sorted((real_data / "cnmc").rglob("UID_*.webp"))[::700]
    assert files
    for path in files:
        cell = cell_on_black(read_image(path))
        codes = network_input(cell, ImagingSpec(size_px=96, um_per_px=0.22, colour="density"))
        inside = codes.all(axis=2)
        total = codes.sum(axis=2)[inside]
        blue = np.asarray(unmixing.layer("romanowsky")(codes[None]))[0, :, :, 0][inside]
        low, high = np.quantile(total, [0.2, 0.8])
        assert blue[total >= high].mean() > 1.2 * blue[total <= low].mean(), path.name
