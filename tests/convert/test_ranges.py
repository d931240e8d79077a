"""Ranges chosen by how often values come: what published tables say, and a network that one rare value spoils."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

for package in ("keras", "tensorflow", "ai_edge_litert"):
    pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[convert]')")

import keras  # noqa: E402
from keras import layers  # noqa: E402
from tensorflow.lite.python import schema_py_generated as schema  # noqa: E402

from bloodedge.engine.litert import LiteRTEngine, load_interpreter  # noqa: E402
from bloodedge_convert.litert.ranges import with_ranges  # noqa: E402
from bloodedge_convert.litert.write import calibrate, quantise, to_litert  # noqa: E402
from bloodedge_convert.network.export import export_saved_model  # noqa: E402
from bloodedge_convert.range_search import SEARCHES, Histogram  # noqa: E402

from .conftest import spread_decisions  # noqa: E402

SIZE, IMAGES = 64, 64


def searched(method: str, values: np.ndarray) -> tuple[float, float]:
    """The range that a method chooses for ``values``, given in a few parts as by a few images."""
    values = values.astype(np.float32)
    histogram = Histogram(float(values.min()), float(values.max()))
    for part in np.array_split(values, 5):
        histogram.add(part[np.newaxis])
    return SEARCHES[method](*histogram.occupied())


def drawn(distribution: str, count: int = 2_000_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {"normal": rng.normal, "laplace": rng.laplace}[distribution](size=count)


@pytest.mark.parametrize(
    ("distribution", "both_sides", "one_side"),
    # alpha_gaus, alpha_laplace and the same "positive" for 8 bits, in the code of Banner et al. 2019 (ACIQ).
    [("normal", 3.92, 4.2), ("laplace", 9.89, 11.16)],
)
def test_least_squared_error_is_where_the_published_clipping_values_are(distribution, both_sides, one_side):
    values = drawn(distribution)
    low, high = searched("mse", values)
    assert (-low, high) == pytest.approx((both_sides, both_sides), rel=0.06)
    assert searched("mse", np.maximum(values, 0)) == pytest.approx((0, one_side), rel=0.06)


def test_percentile_keeps_its_share():
    values = drawn("laplace")
    low, high = searched("percentile", values)
    assert (low, high) == pytest.approx(np.quantile(values, [0.00005, 0.99995]), rel=0.01)


def test_entropy_keeps_an_even_distribution_and_cuts_off_what_is_far_from_the_rest():
    even = np.random.default_rng(0).uniform(-1, 1, 1_000_000)
    assert searched("entropy", even) == pytest.approx((-1, 1), abs=0.01)
    low, high = searched("entropy", np.append(drawn("normal"), np.full(20, 500.0)))
    assert low < -3.3  # a thousandth lies outside 3.3 standard deviations
    assert 3.3 < high < 50


@pytest.mark.parametrize("method", SEARCHES)
def test_zeros_do_not_count(method):
    values = drawn("normal", 100_000)
    assert searched(method, np.append(values, np.zeros(3_000_000))) == searched(method, values)


def test_surroundings_all_alike_do_not_count():
    values = np.random.default_rng(0).normal(size=(1, 24, 20, 4)).astype(np.float32)
    values[:, :, 12:] = [7, -7, 3, 0]
    histogram = Histogram(-7.0, 7.0)
    histogram.add(values)
    # The cell's 12 columns, and where its surroundings begin, which in the last channel are 0.
    assert histogram.values == 24 * (12 * 4 + 3)


@pytest.mark.parametrize("method", SEARCHES)
def test_a_constant_keeps_its_place(method):
    low, high = searched(method, np.full(50_000, 3.0))
    assert low <= 3 <= high
    assert high == pytest.approx(3)
    low, high = searched(method, np.full(50_000, -3.0))
    assert low == pytest.approx(-3)


class Files(NamedTuple):
    """A network and cells for it."""

    model: keras.Model
    plain: bytes
    calibrated: bytes
    images: np.ndarray
    """The first has one magenta pixel."""
    trial: np.ndarray
    """None has."""


def grey_cells(rng: np.random.Generator) -> np.ndarray:
    """Blobs of various brightness on black, nearly without colour."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    blob = np.hypot(y, x) < rng.uniform(12, 28, (IMAGES, 1, 1))
    light = blob * rng.uniform(60, 220, (IMAGES, 1, 1)) + rng.normal(0, 12, (IMAGES, SIZE, SIZE))
    return (light[..., np.newaxis] + rng.normal(0, 3, (IMAGES, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


def spoilt_by_magenta() -> keras.Model:
    """A network with an activation that a magenta pixel makes huge, a channel that is not looked at further on.

    Beside it what ranges are easily got wrong for: a residual sum, a pool, a concatenation, a constant, all zeros.
    """
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(16, 3, padding="same", name="branch")(x)
    x = layers.Add(name="sum")([layers.Conv2D(16, 3, padding="same", name="other")(x), y])
    x = layers.MaxPooling2D(2, name="halve")(x)
    x = layers.Concatenate(name="both")([x, layers.Conv2D(4, 1, name="beside")(x)])
    tenths = layers.Conv2D(
        20, 1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.1), name="tenths"
    )(x)
    zeros = layers.Conv2D(20, 1, kernel_initializer="zeros", name="zeros")(x)
    x = layers.Add(name="all")([layers.Conv2D(20, 1, activation="relu", name="last")(x), tenths, zeros])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(2, activation="softmax", name="probabilities")(x))
    kernel, bias = model.get_layer("stem").get_weights()
    kernel[..., 0] = 0
    kernel[1, 1, :, 0], bias[0] = [35, -70, 35], -40  # 100 for magenta
    model.get_layer("stem").set_weights([kernel, bias])
    for name in ("branch", "other"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, :, 0] = 0
        model.get_layer(name).set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng = np.random.default_rng(0)
    images, trial = grey_cells(rng), grey_cells(rng)
    images[:, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    images[0, SIZE // 2, SIZE // 2] = [255, 0, 255]
    model = spoilt_by_magenta()
    spread_decisions(model, trial)
    folder = tmp_path_factory.mktemp("ranges")
    export_saved_model(model, folder)
    plain = to_litert(folder, "float32")
    return Files(model, plain, calibrate(folder, plain, images, lambda *_: None), images, trial)


@pytest.fixture(scope="module")
def ranged(files):
    """The calibrated networks by method, with what was reported."""
    steps: list[tuple[str, int, int]] = []
    found = {
        m: with_ranges(files.calibrated, files.plain, files.images, m, lambda *s: steps.append(s)) for m in SEARCHES
    }
    return found, steps


def distance(int8: bytes, files: Files) -> float:
    """Mean distance of the blast probability from the float model's."""
    reference = np.asarray(files.model(files.trial))[:, 1]
    return float(np.abs(LiteRTEngine(int8, 1).predict(files.trial)[:, 1] - reference).mean())


def ranges_of(calibrated: bytes) -> dict[str, tuple[float, float]]:
    graph = schema.Model.GetRootAs(calibrated, 0).Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    with_range = [(t.Name().decode(), t.Quantization()) for t in tensors if t.Quantization() is not None]
    return {name: (float(q.Min(0)), float(q.Max(0))) for name, q in with_range if q.MinLength()}


@pytest.mark.slow
def test_the_decisions_are_spread(files):
    assert np.asarray(files.model(files.trial))[:, 1].std() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHES)
def test_one_rare_value_no_longer_spoils_the_network(files, ranged, method):
    spoilt = distance(quantise(files.calibrated), files)
    assert spoilt > 0.1
    assert distance(quantise(ranged[0][method]), files) < spoilt / 4


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHES)
def test_picture_and_probabilities_keep_their_ranges(files, ranged, method):
    before, after = ranges_of(files.calibrated), ranges_of(ranged[0][method])
    assert before.keys() == after.keys()
    assert any("stem" in name and before[name] != after[name] for name in before)
    # Bytes, these by 1 / 127.5, and less 1; the product is not also what the sum writes in its place.
    picture = [r for name, r in after.items() if "Cast" in name or "scale" in name]
    assert picture == [pytest.approx(r) for r in [(0, 255), (0, 2), (-1, 1)]]
    plain, ours = (load_interpreter(quantise(file), 1)[0] for file in (files.calibrated, ranged[0][method]))
    for ports in ("get_input_details", "get_output_details"):
        (theirs,), (mine,) = getattr(plain, ports)(), getattr(ours, ports)()
        assert mine["dtype"] == theirs["dtype"] == np.uint8
        assert mine["quantization"] == theirs["quantization"]


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHES)
def test_every_range_holds_zero_and_none_is_empty(files, ranged, method):
    changed = {n: r for n, r in ranges_of(ranged[0][method]).items() if r != ranges_of(files.calibrated)[n]}
    assert all(low <= 0 <= high and low < high for low, high in changed.values())
    network, _ = load_interpreter(quantise(ranged[0][method]), 1, keep_tensors=True)
    scales = [d["quantization_parameters"]["scales"] for d in network.get_tensor_details() if d["dtype"] == np.int8]
    assert scales
    assert all((scale > 0).all() for scale in scales)


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHES)
def test_a_branch_has_the_range_of_its_own_values(files, ranged, method):
    # The sum is computed in the place of one of its inputs, which TensorFlow records as that input's values.
    for layer in ("branch", "other"):
        values = np.asarray(keras.Model(files.model.input, files.model.get_layer(layer).output)(files.images))
        ((low, high),) = [r for n, r in ranges_of(ranged[0][method]).items() if f"/{layer}_1/" in n.partition(";")[0]]
        margin = 0.001 * np.ptp(values)
        assert values.min() - margin <= low
        assert high <= values.max() + margin


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHES)
def test_the_network_has_the_same_operators_in_as_few_partitions(files, ranged, method):
    plain, ours = (
        Counter(op["op_name"] for op in load_interpreter(quantise(file), 1)[0]._get_ops_details())
        for file in (files.calibrated, ranged[0][method])
    )
    assert ours == plain


@pytest.mark.slow
def test_each_image_is_reported(ranged):
    found, steps = ranged
    assert set(found) == set(SEARCHES)
    assert [step[1:] for step in steps] == [(n, IMAGES) for n in range(1, IMAGES + 1)] * len(SEARCHES)
    assert len({step[0] for step in steps}) == len(SEARCHES)
