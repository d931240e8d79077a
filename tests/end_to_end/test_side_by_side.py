"""A head on two networks side by side goes the whole way: recipe, run, bundle, device."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.bundle import Bundle
from bloodedge.bundle.run_record import read_run
from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.engine import load_artifact
from bloodedge.engine.golden import check_golden
from bloodedge.engine.keras import KerasEngine
from bloodedge.engine.litert import load_interpreter
from bloodedge.imaging import ImagingSpec
from bloodedge_train import zoo
from support.commands import apart, here

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

MODEL = "edgenet+mobilenetv2"
SIZE = 64
RECIPE = f"""
[imaging]
size_px = {SIZE}
um_per_px = 0.33
[split]
validation = 0
test = 0.25
[head]
depths = [0.4, "mobilenetv2/block_6_expand_relu"]
penalties = [0.1, 1.0]
inner_folds = 3
"""
WIDE = [
    *("--allow-worthless", "--keep-slow", "--calibration-cells", "48"),
    *("--max-drop", "100", "--max-balanced-drop", "100", "--max-auc-drop", "100", "--max-flips", "100"),
    *("--max-probability-error", "1"),
]

pytestmark = pytest.mark.slow


def write_weights(path: Path, name: str, frames: np.ndarray) -> None:
    """Random weights with moving statistics of the frames: without them little comes through so many layers."""
    keras.utils.set_random_seed(3)
    features, image = zoo.features_of(name, SIZE), keras.Input((SIZE, SIZE, 3), dtype="uint8")
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    keras.Model(image, features(zoo.scale(name, image)))(frames, training=True)
    features.save_weights(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, rendered_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("several")
    frames = inputs(read_dataset(rendered_data).unique[::4], ImagingSpec(size_px=SIZE, um_per_px=0.33))
    for name in MODEL.split("+"):
        write_weights(folder / f"{name}.weights.h5", name, frames)
    (folder / "head.toml").write_text(RECIPE)
    named = ("--model", MODEL, "--weights", folder, "--recipe", folder / "head.toml")
    here("train", rendered_data, *named, "--no-cache", "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def images(fitted: Path, rendered_data: Path) -> Images:
    return inputs(read_dataset(rendered_data).unique[::9], read_run(fitted).imaging)


@pytest.fixture(scope="module")
def said(fitted: Path, images: Images) -> Outputs:
    """What the run says of the images."""
    return KerasEngine(fitted).predict(images)


@pytest.fixture(scope="module")
def bundle(fitted: Path) -> Path:
    pytest.importorskip("nncf", reason="nncf is not installed (pip install -e '.[convert]')")
    path = fitted.parent / "several.bundle"
    here("convert", fitted, "--int8", *WIDE, "-o", path)
    return path


def test_a_run_of_two_networks_is_scored_compared_and_explained(
    fitted: Path, rendered_data: Path, tmp_path: Path
) -> None:
    record = read_run(fitted)
    assert (record.model, record.weights) == (MODEL, fitted.parent.name)
    card = (fitted / "MODEL_CARD.md").read_text()
    assert "| network | edgenet (after Howard et al., MobileNets, 2017; ReLU only) + mobilenetv2 (Sandler" in card
    here("evaluate", fitted, rendered_data, "--json", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["auc"] > 0.6
    cell = next((rendered_data / "fold_0" / "all").iterdir())
    for layer in ([], ["--layer", "mobilenetv2/block_2_add"]):
        here("explain", fitted, cell, "--out", tmp_path / "explained", *layer)
    assert len(list((tmp_path / "explained").glob("*.png"))) == 1
    here("compare", fitted, "--out", tmp_path / "comparison")
    assert MODEL in (tmp_path / "comparison" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("engine", "precision", "most"),
    [
        ("litert", "float32", 1e-4),
        ("openvino", "float32", 1e-4),
        ("onnx", "float32", 1e-4),
        ("litert", "int8", 0.15),
        ("openvino", "int8", 0.15),
    ],
)
def test_every_engine_says_what_the_run_says(
    engine: str, precision: str, most: float, bundle: Path, images: Images, said: Outputs
) -> None:
    with Bundle(bundle) as opened:
        artifact = opened.manifest.artifact(engine, precision)
        loaded = load_artifact(opened, artifact, threads=1)
        assert check_golden(opened, artifact, loaded).passed
    assert np.ptp(said[:, 1]) > 0.5
    assert np.abs(loaded.predict(images) - said).max() < most


def test_int8_litert_is_one_partition(bundle: Path) -> None:
    with Bundle(bundle) as opened:
        network, _ = load_interpreter(opened.read("artifacts/model_int8.tflite"), threads=1)
    names = [details["op_name"] for details in network._get_ops_details()]
    assert names.count("DELEGATE") == 1


def test_the_bundle_runs_on_the_device(bundle: Path, tmp_path: Path) -> None:
    settings, state = tmp_path / "device.toml", ("--state", tmp_path / "state")
    settings.write_text('engine = "litert"\n[trust]\nunsigned = true\n')
    apart("device", "run", "--config", settings, "--bundle", bundle, "--frames", "6", *state, "--no-page")
    report = json.loads(apart("device", "report", *state, "--json", "-"))
    assert report["golden"]["passed"]
    assert report["cells"]["normal"] + report["cells"]["blast"] > 0
