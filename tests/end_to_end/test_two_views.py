"""A network that sees each cell at two scales goes the whole way: recipe, run, bundle, device."""

import json
from pathlib import Path

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
from support.commands import apart, here

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]

RECIPE = """
[imaging]
size_px = 64
um_per_px = 0.33
views = ["physical", "canonical"]
light = "levelled"
[split]
validation = 0.25
test = 0.25
[augment]
scale = 0.1
mixup = 0.2
blur = 0.5
[fit]
epochs = 8
batch = 16
learning_rate = 2e-3
batch_norm_momentum = 0.5
"""
WIDE = [
    *("--allow-worthless", "--keep-slow", "--calibration-cells", "48"),
    *("--max-drop", "100", "--max-balanced-drop", "100", "--max-auc-drop", "100", "--max-flips", "100"),
    *("--max-probability-error", "1"),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, rendered_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("views")
    (folder / "both.toml").write_text(RECIPE)
    here("train", rendered_data, "--model", "edgenet", "--recipe", folder / "both.toml", "--out", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def images(fitted: Path, rendered_data: Path) -> Images:
    return inputs(read_dataset(rendered_data).unique[::9], read_run(fitted).imaging)


@pytest.fixture(scope="module")
def said(fitted: Path, images: Images) -> tuple[Outputs, Outputs]:
    """What the run says of the images, and of them with their views in the other order."""
    engine = KerasEngine(fitted)
    return engine.predict(images), engine.predict(images[:, ::-1])


@pytest.fixture(scope="module")
def bundle(fitted: Path) -> Path:
    pytest.importorskip("nncf", reason="nncf is not installed (pip install -e '.[convert]')")
    path = fitted.parent / "both.bundle"
    here("convert", fitted, "--int8", *WIDE, "-o", path)
    return path


def test_a_run_of_two_views_is_scored_compared_and_explained(fitted: Path, rendered_data: Path, tmp_path: Path) -> None:
    record = read_run(fitted)
    assert record.imaging.views == ("physical", "canonical")
    card = (fitted / "MODEL_CARD.md").read_text()
    assert "uint8 RGB, 2 views of 64x64 px, every cell at 0.330 µm per pixel (physical) and every cell filling" in card
    assert len(list((fitted / "figures").glob("*.png"))) >= 4
    for turns in ("1", "8"):
        here(
            "evaluate", fitted, rendered_data, "--views", turns, "--rescale", "0.9", "--json", tmp_path / "figures.json"
        )
        assert json.loads((tmp_path / "figures.json").read_text())["cells"] > 20
    cell = next((rendered_data / "fold_0" / "all").iterdir())
    here("explain", fitted, cell, "--out", tmp_path / "explained", "--layer", "block6_pointwise_relu")
    assert len(list((tmp_path / "explained").glob("*.png"))) == 1
    here("shortcuts", fitted, rendered_data, "--json", tmp_path / "shortcuts.json")
    here("compare", fitted, "--out", tmp_path / "comparison")
    assert "2 x 64 px" in (tmp_path / "comparison" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("engine", "precision", "most"),
    [
        ("litert", "float32", 1e-4),
        ("openvino", "float32", 1e-4),
        ("onnx", "float32", 1e-4),
        ("litert", "int8", 0.1),
        ("openvino", "int8", 0.1),
    ],
)
def test_every_engine_says_what_the_run_says(
    engine: str, precision: str, most: float, bundle: Path, images: Images, said: tuple[Outputs, Outputs]
) -> None:
    with Bundle(bundle) as opened:
        assert opened.manifest.input.views == 2
        artifact = opened.manifest.artifact(engine, precision)
        loaded = load_artifact(opened, artifact, threads=1)
        assert check_golden(opened, artifact, loaded).passed
    wanted, swapped = said
    assert np.abs(loaded.predict(images) - wanted).max() < most
    assert np.abs(loaded.predict(images[:, ::-1]) - swapped).max() < most
    assert np.abs(wanted - swapped).max() > 0.01


def test_int8_litert_is_one_partition(bundle: Path) -> None:
    with Bundle(bundle) as opened:
        network, _ = load_interpreter(opened.read("artifacts/model_int8.tflite"), threads=1)
    names = [details["op_name"] for details in network._get_ops_details()]
    assert names.count("DELEGATE") == 1


def test_the_bundle_is_timed_and_runs_on_the_device(bundle: Path, tmp_path: Path) -> None:
    here("bench", bundle, "--rounds", "1", "--threads", "1", "--against-official", "--json", tmp_path / "bench.json")
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {(row["engine"], row["precision"]) for row in rows} >= {("litert", "int8"), ("openvino", "int8")}
    assert all(row["official"] for row in rows if row["engine"] in {"litert", "openvino"})
    for engine in ("litert", "openvino"):
        settings = tmp_path / f"{engine}.toml"
        settings.write_text(f'engine = "{engine}"\n[trust]\nunsigned = true\n')
        state = ("--state", tmp_path / engine)
        apart("device", "run", "--config", settings, "--bundle", bundle, "--frames", "6", *state, "--no-page")
        report = json.loads(apart("device", "report", *state, "--json", "-"))
        assert report["run"]["engine"] == engine
        assert report["golden"]["passed"]
        assert (report["frames"]["processed"], report["frames"]["rejected"]) == (6, 0)
        assert report["cells"]["normal"] + report["cells"]["blast"] > 0
