"""``bloodedge explain``: the heat is where the network's evidence is, on every network and back end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import DataRecord, RunRecord, SplitRecord
from bloodedge.cli import main
from bloodedge.decision.thresholds import LABELS, Thresholds
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import Cell, ImagingSpec
from bloodedge.simulation import render_field
from bloodedge_train.explain.evidence import explained, look, ring, share
from bloodedge_train.explain.grad_cam import Network, cut, grad_cam
from bloodedge_train.explain.pictures import draw
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build
from bloodedge_train.zoo.layers import gather_views, spread_views

SIDE = 64
SPEC = ImagingSpec(size_px=SIDE, um_per_px=0.066)


def record(spec: ImagingSpec) -> RunRecord:
    return RunRecord(
        name="tiny",
        created="",
        bloodedge="",
        model="edgenet",
        parameters=0,
        labels=list(LABELS),
        weights="none",
        recipe={},
        imaging=spec,
        seed=0,
        data=DataRecord(root="", fingerprint="", cells=0, subjects=0),
        split=SplitRecord(kind="group", seed=0, parts={}),
        temperature=1.0,
        thresholds=Thresholds(),
        backend="",
        hardware="",
        versions={},
        history=[],
        best_epoch=1,
    )


def small(units: int = 0, views: int = 1) -> Any:
    """Laid out as the zoo lays a network out, but alive with random weights and quick to compile."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inner = keras.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="first")(inner)
    left = layers.Conv2D(6, 3, padding="same", activation="relu", name="left")(first)
    last = layers.Conv2D(8, 3, strides=4, activation="relu", name="last")(layers.Add(name="sum")([first, left]))
    image = keras.Input((SIDE, SIDE, 3) if views == 1 else (views, SIDE, SIDE, 3), dtype="uint8", name="image")
    features = keras.Model(inner, last, name="features")
    x = features(layers.Rescaling(1 / 255, dtype="float32", name="scale")(spread_views(image)))
    x = gather_views(layers.GlobalAveragePooling2D(name="pool")(x), views)
    if units:
        x = layers.Dense(units, activation="relu", name="hidden")(x)
    output = layers.Dense(2, activation="softmax", name="probabilities")
    model = keras.Model(image, output(layers.Dropout(0.5, name="dropout")(x)))
    rng = np.random.default_rng(0)
    output.set_weights([rng.normal(0, 2, w.shape) for w in output.get_weights()])
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Any:
    return small()


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    network.save(folder / "model.keras")
    write_record(folder / "run.json", record(SPEC))
    return folder


def feature_maps(model: Any, images: np.ndarray) -> np.ndarray:
    """The features' output, got at without what is tested."""
    return np.asarray(keras.Model(model.input, model.get_layer("pool").input)(images))


@pytest.mark.parametrize("label", [0, 1])
def test_on_a_linear_head_the_map_is_class_activation_mapping(network: Any, images: np.ndarray, label: int) -> None:
    """Zhou et al., CVPR 2016: output weights times feature maps; Grad-CAM's is its mean, hence the number of places."""
    maps = feature_maps(network, images)
    kernel, _ = network.get_layer("probabilities").get_weights()
    closed_form = np.maximum(maps @ (kernel[:, label] - kernel[:, 1 - label]), 0)
    assert closed_form.max() > 0
    found, logits = grad_cam(cut(network), images, label)
    places = maps.shape[1] * maps.shape[2]
    assert np.allclose(found * places, closed_form, rtol=1e-4, atol=1e-5 * closed_form.max())
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(exponent / exponent.sum(axis=1, keepdims=True), np.asarray(network(images)), atol=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_each_view_is_mapped_by_its_own_part_of_the_head(images: np.ndarray, label: int) -> None:
    model = small(views=2)
    two = np.stack([images, images[::-1, ::-1]], axis=1)
    maps = feature_maps(model, two).reshape(3, 2, *model.get_layer("features").output.shape[1:])
    kernel, _ = model.get_layer("probabilities").get_weights()
    slopes = (kernel[:, label] - kernel[:, 1 - label]).reshape(2, -1)
    closed_form = np.maximum(np.einsum("nvhwc,vc->nvhw", maps, slopes), 0)
    found, logits = grad_cam(cut(model), two, label)
    places = maps.shape[2] * maps.shape[3]
    assert closed_form.max() > 0
    assert np.allclose(found * places, closed_form, rtol=1e-4, atol=1e-5 * closed_form.max())
    assert np.array_equal(logits.argmax(axis=1), np.asarray(model(two)).argmax(axis=1))
    inner, again = grad_cam(cut(model, "sum"), two, label)
    assert inner.shape == (3, 2, SIDE // 2, SIDE // 2)
    assert np.allclose(again, logits, atol=1e-4)


def test_a_head_on_several_depths_is_mapped_at_the_lowest(images: np.ndarray) -> None:
    layers = keras.layers
    inner = keras.Input((SIDE, SIDE, 3))
    low = layers.Conv2D(6, 3, strides=2, activation="relu", name="low")(inner)
    features = keras.Model(inner, [low, layers.Conv2D(8, 3, strides=2, name="high")(low)], name="features")
    image = keras.Input((2, SIDE, SIDE, 3), dtype="uint8", name="image")
    maps = features(layers.Rescaling(1 / 255, dtype="float32", name="scale")(spread_views(image)))
    dense = [layers.Dense(2, name=f"logits_{number}") for number in (1, 2)]
    pooled = [gather_views(layers.GlobalAveragePooling2D()(each), 2) for each in maps]
    total = layers.Add()([layer(each) for layer, each in zip(dense, pooled, strict=True)])
    model = keras.Model(image, layers.Softmax(name="probabilities")(total))
    two = np.stack([images, images[::-1]], axis=1)
    network = cut(model)
    assert network.layer == "low"
    _, logits = grad_cam(network, two, 1)
    exponent = np.exp(logits)
    assert np.allclose(exponent / exponent.sum(axis=1, keepdims=True), np.asarray(model(two)), atol=1e-5)
    dense[1].set_weights([0 * weight for weight in dense[1].get_weights()])
    found, _ = grad_cam(cut(model), two, 1)
    kernel = dense[0].get_weights()[0]
    values = np.asarray(keras.Model(inner, low)(two.reshape(-1, SIDE, SIDE, 3) / 255)).reshape(3, 2, 31, 31, 6)
    closed_form = np.maximum(np.einsum("nvhwc,vc->nvhw", values, (kernel[:, 1] - kernel[:, 0]).reshape(2, 6)), 0)
    assert closed_form.max() > 0
    assert np.allclose(found * 31 * 31, closed_form, rtol=1e-3, atol=1e-4 * closed_form.max())


def test_behind_a_fully_connected_layer_the_weights_are_the_logits_slopes(images: np.ndarray) -> None:
    """The chain rule by hand: the log-odds' slope by a pooled feature runs through the hidden units that are on."""
    model = small(units=16)
    maps = feature_maps(model, images)
    (hidden, bias), (output, _) = (model.get_layer(name).get_weights() for name in ("hidden", "probabilities"))
    on = maps.mean(axis=(1, 2)) @ hidden + bias > 0
    assert 0 < on.mean() < 1
    slopes = (on * (output[:, 1] - output[:, 0])) @ hidden.T
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, slopes), 0)
    found, _ = grad_cam(cut(model), images, 1)
    assert expected.max() > 0
    assert np.allclose(found * maps.shape[1] * maps.shape[2], expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("name", ZOO)
def test_every_network_can_be_cut(name: str) -> None:
    model = build(name, 80, NetworkSpec(units=8))
    parts = cut(model)
    assert parts.trunk.output.shape == parts.head.input.shape == model.get_layer("features").output.shape
    assert parts.head.output.shape == (None, 2)


@pytest.mark.parametrize("layer", ["first", "sum"])
def test_an_inner_layer_can_be_mapped_and_the_answer_stays_the_same(
    network: Any, images: np.ndarray, layer: str
) -> None:
    found, logits = grad_cam(cut(network, layer), images, 1)
    assert found.shape[1:] == (SIDE // 2, SIDE // 2)
    assert np.allclose(logits, grad_cam(cut(network), images, 1)[1], atol=1e-4)


def test_a_layer_that_the_network_leads_past_is_told(network: Any) -> None:
    with pytest.raises(UsageError, match='leads past the layer "left"'):
        cut(network, "left")


JAX = """
import sys
import numpy as np
from pathlib import Path
from bloodedge.engine.keras import load_model
from bloodedge_train.explain.grad_cam import cut, grad_cam
model = load_model(Path(sys.argv[1]))
import keras
assert keras.backend.backend() == "jax"
images = np.load(sys.argv[2])
np.save(sys.argv[3], grad_cam(cut(model, sys.argv[4]), images, 1)[0])
"""


@pytest.mark.slow
def test_jax_and_tensorflow_draw_the_same_map(tiny_run: Path, network: Any, images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install -e '.[train]')")
    inner = "first"
    np.save(tmp_path / "images.npy", images)
    command = [
        sys.executable,
        "-c",
        JAX,
        str(tiny_run),
        str(tmp_path / "images.npy"),
        str(tmp_path / "maps.npy"),
        inner,
    ]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    ours, _ = grad_cam(cut(network, inner), images, 1)
    theirs = np.load(tmp_path / "maps.npy")
    assert ours.max() > 0
    assert np.abs(ours - theirs).max() < 1e-3 * ours.max()


def looker(*, at_black: bool) -> Network:
    """A network whose evidence for a blast is light, or, ``at_black``, darkness."""
    image = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    light = keras.layers.Rescaling(1 / 255, dtype="float32")(image)
    scaled = keras.layers.Rescaling(-1.0, 1.0)(light) if at_black else light
    inner = keras.Input((SIDE, SIDE, 3))
    eye = keras.layers.Conv2D(1, 1, kernel_initializer=keras.initializers.Constant(1 / 3), use_bias=False)
    features = keras.Model(inner, keras.layers.AveragePooling2D(4)(eye(inner)), name="features")
    pooled = keras.layers.GlobalAveragePooling2D()(features(scaled))
    output = keras.layers.Dense(2, activation="softmax")
    model = keras.Model(image, output(pooled))
    output.set_weights([np.array([[0.0, 1.0]]), np.array([-1.0, 0.0])])  # always a blast
    return cut(model)


def disc(value: int = 200) -> Cell:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, (32, 32), 20, 255, cv2.FILLED)
    grey = np.where(mask > 0, value, 0).astype(np.uint8)
    return Cell(np.dstack([grey] * 3), mask, SPEC.um_per_px)


def test_the_shares_tell_a_network_that_looks_at_the_cell_from_one_that_looks_beside_it() -> None:
    told = record(SPEC)
    (on,) = look(looker(at_black=False), told, [disc(60)])
    (beside,) = look(looker(at_black=True), told, [disc(60)])
    filled = np.pi * 20**2 / SIDE**2
    for found in (on, beside):
        assert np.mean(found.mask > 0) == pytest.approx(filled, rel=0.05)
        assert found.label == 1
    at_cell, at_black = share(on.heat, on.mask), share(beside.heat, beside.mask)
    assert at_cell is not None
    assert at_black is not None
    assert at_cell > 0.9
    assert at_black < filled


def test_two_views_are_both_drawn_and_shared_out_together(tmp_path: Path) -> None:
    told = record(SPEC.model_copy(update={"views": ("physical", "canonical"), "area_fraction": 0.8}))
    model = small(views=2)
    (found,) = look(cut(model), told, [disc()])
    assert found.image.shape == (2, SIDE, SIDE, 3)
    assert [np.mean(mask > 0) for mask in found.mask] == pytest.approx([np.pi * 20**2 / SIDE**2, 0.8], rel=0.06)
    row = explained(found, told, Path("cell.png"), tmp_path / "cell.png")
    inside = sum(float(heat[mask > 0].sum()) for heat, mask in zip(found.heat, found.mask, strict=True))
    assert row.on_cell == pytest.approx(inside / float(found.heat.sum()))
    (alone,) = look(cut(small()), record(SPEC), [disc()])
    picture, one = draw(found, row), draw(alone, row)
    assert picture.shape[1] == one.shape[1]
    assert picture.shape[0] - one.shape[0] > 290  # a second row of panels
    assert picture[-400:-150].any()


def test_nothing_to_show_is_no_share() -> None:
    assert share(np.zeros((4, 4), np.float32), np.full((4, 4), 255, np.uint8)) is None


def test_the_ring_lies_an_eighth_of_the_radius_to_either_side_of_the_outline() -> None:
    mask = np.zeros((201, 201), np.uint8)
    cv2.circle(mask, (100, 100), 80, 255, cv2.FILLED)
    from_centre = np.hypot(*(np.indices(mask.shape) - 100))
    lit = from_centre[ring(mask) > 0]
    assert lit.min() == pytest.approx(70, abs=2)
    assert lit.max() == pytest.approx(90, abs=2)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Three cells, two of one name, and a file that is none."""
    for number, name in enumerate(("a/one.png", "a/two.png", "b/one.png")):
        path = tmp_path / "cells" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), disc(100 + 40 * number).bgr)
    (tmp_path / "cells" / "a" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "cells"


def test_a_folder_gives_a_picture_of_each_cell_a_montage_and_figures(
    tiny_run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    assert run(tiny_run, cells, "--out", out, "--montage", sheet, "--class", "blast", "--json", "-") == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "torn.png" in told.err
    assert sorted(p.name for p in out.iterdir()) == ["one.png", "one_2.png", "two.png"]
    assert [Path(each["image"]).name for each in found] == ["one.png", "two.png", "one.png"]
    for each in found:
        assert each["explained"] == "blast"
        assert each["said"] in {"blast", "normal", "uncertain"}
        assert each["cell_share"] == pytest.approx(np.pi * 20**2 / SIDE**2, rel=0.05)
        assert each["on_cell"] is None or 0 <= each["on_cell"] <= 1
    picture = cv2.imread(found[0]["picture"])
    assert picture is not None
    tiled = cv2.imread(str(sheet))
    assert tiled is not None
    assert tiled.shape[:2] == (2 * picture.shape[0], 2 * picture.shape[1])


def test_pictures_go_into_the_run_when_no_folder_is_named(tiny_run: Path, cells: Path) -> None:
    assert run(tiny_run, cells / "a" / "two.png") == 0
    assert (tiny_run / "explained" / "two.png").is_file()


@pytest.mark.parametrize(
    ("images", "more", "code", "words"),
    [
        (["nowhere.png"], [], 2, "nowhere.png does not exist; give the image of a cell, or a folder of them."),
        (["empty"], [], 2, "empty holds no images"),
        (["cells/a/torn.png"], [], 1, "torn.png: The picture is truncated or not an image; copy it again"),
        (["field.png"], [], 1, "cells of a whole field are found with: bloodedge find IMAGE"),
        (["torn"], [], 1, "None of the 2 images can be used; the first:"),
        (["cells"], ["--layer", "no_such"], 2, 'The network has no feature map "no_such".'),
        (["cells"], ["--montage", "sheet.jpg"], 2, "must end in .png"),
    ],
)
def test_wrong_wishes_are_one_sentence(
    images: list[str],
    more: list[str],
    code: int,
    words: str,
    tiny_run: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cv2.imwrite(str(tmp_path / "field.png"), render_field(0).bgr)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "torn" / name).write_bytes(b"")
    assert run(tiny_run, *(tmp_path / name for name in images), "--out", tmp_path / "out", *more) == code
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert len([line for line in told.splitlines() if line.startswith("bloodedge: ")]) == 1
    assert cells.is_dir()
    assert not (tmp_path / "out").exists()


def test_pictures_never_take_the_place_of_the_images(
    tiny_run: Path, cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (cells / "a" / "two.png").read_bytes()
    assert run(tiny_run, cells / "a" / "two.png", "--out", cells / "a") == 2
    assert "holds the images themselves, which could be overwritten" in capsys.readouterr().err
    assert (cells / "a" / "two.png").read_bytes() == before


def test_a_folder_that_is_no_run_is_told(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, cells) == 2
    assert "is not a finished run folder (no run.json); make one with: bloodedge train" in capsys.readouterr().err


def test_a_network_that_gives_no_probabilities_is_not_explained() -> None:
    model = small()
    head = model.layers[-1]
    head.set_weights([np.full_like(weight, np.nan) for weight in head.get_weights()])
    with pytest.raises(BloodedgeError, match="The run's network gave no probabilities"):
        look(cut(model), record(SPEC), [disc()])
