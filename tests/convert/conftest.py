"""A small run folder on rendered cells, fitted in seconds, and its conversion."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import DataRecord, RunMetrics, RunRecord
from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.data.split import SplitSpec, split
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import write_dataset
from bloodedge_convert.conversion import Converted, Options, convert
from bloodedge_convert.judge.gate import Limits

IMAGING = ImagingSpec(size_px=64, um_per_px=0.33)
SPLIT = SplitSpec(validation=0.2, test=0.3)


def features(size_px: int):
    """A random network with what int8 finds hard: depthwise convolutions, ReLU6, batch norms, a residual sum."""
    from keras import Input, Model, layers

    image = Input((size_px, size_px, 3))
    x = layers.Conv2D(8, 3, 2, "same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(y))
    y = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(8, 1, use_bias=False)(y))
    x = layers.Add()([x, y])
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(layers.Conv2D(24, 3, 2, "same", use_bias=False)(x)))
    return Model(image, x, name="features")


def network(body, size_px: int):
    """The zoo's frame around ``body``: scaling inside the graph, global pool, softmax."""
    from keras import Input, Model, layers

    image = Input((size_px, size_px, 3), dtype="uint8", name="image")
    x = body(layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="pool")(x))
    return Model(image, layers.Dense(2, activation="softmax", name="probabilities")(x))


def fit(model, images, labels) -> None:
    """A few epochs, so that classes lie apart as in a trained network."""
    from keras import optimizers

    model.compile(optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    model.fit(images, np.asarray(labels), batch_size=16, epochs=15, verbose=0)


def spread_decisions(model, images) -> None:
    """Give the last layer weights by which the images' logits differ by a standard deviation of 2."""
    import keras

    pooled = np.asarray(keras.Model(model.input, model.get_layer("pool").output)(images), np.float64)
    _, spreads, directions = np.linalg.svd(pooled - pooled.mean(axis=0), full_matrices=False)
    direction = directions[0] * 2 * np.sqrt(len(images)) / spreads[0]
    weights = np.stack([np.zeros_like(direction), direction], axis=1)
    model.get_layer("probabilities").set_weights([weights, np.array([0, -pooled.mean(axis=0) @ direction])])


def save_run(folder: Path, model, data: Path, imaging: ImagingSpec, split_spec: SplitSpec) -> None:
    """A finished run folder fitted to the training part of ``data``."""
    dataset = read_dataset(data)
    parts, record = split(dataset, split_spec, seed=0)
    train, test = parts["train"], parts["test"]
    fit(model, inputs(train, imaging), [c.label for c in train])
    blast = model.predict(inputs(test, imaging), verbose=0)[:, 1].astype(np.float64)
    evaluation = score([c.label for c in test], blast, [c.subject for c in test])
    latency = LatencyMs(p50=1.0, p95=2.0, p99=3.0)
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    (folder / "MODEL_CARD.md").write_text("# A small network\n")
    run = RunRecord(
        name=folder.name,
        created="2026-01-01T00:00:00+00:00",
        bloodedge="0.1.0",
        model="tiny",
        parameters=model.count_params(),
        labels=["normal", "blast"],
        weights=str(folder / "start.weights.h5"),
        recipe={"split": split_spec.model_dump(mode="json"), "about": "none"},
        imaging=imaging,
        seed=0,
        data=DataRecord(
            root=str(data), fingerprint=dataset.fingerprint, cells=len(dataset.cells), subjects=len(dataset.groups)
        ),
        split=record,
        temperature=1.0,
        thresholds=Thresholds(),
        backend="keras",
        hardware="a test",
        versions={},
        history=[],
        best_epoch=0,
    )
    write_record(folder / "run.json", run)
    write_record(
        folder / "metrics.json",
        RunMetrics(parts={"test": evaluation}, ece_before_temperature=0.1, latency_ms=latency, hardware="a test"),
    )


@pytest.fixture(scope="session")
def rendered_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells") / "data"
    write_dataset(folder, subjects=16, cells_per_subject=15, seed=3)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, rendered_cells: Path) -> Path:
    keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_run(folder, network(features(IMAGING.size_px), IMAGING.size_px), rendered_cells, IMAGING, SPLIT)
    return folder


@dataclass(frozen=True)
class Conversion:
    """A conversion and the steps that it reported."""

    converted: Converted
    steps: list[tuple[str, int, int]]


@pytest.fixture(scope="session")
def conversion(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Conversion:
    for package in ("tensorflow", "nncf", "tf2onnx", "openvino", "ai_edge_litert", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install -e '.[convert]')")
    steps: list[tuple[str, int, int]] = []
    options = Options(
        float16=True, dynamic=True, onnx_int8=True, limits=Limits(5, 5, 5, 5, 0.1), calibration_cells=60, keep_slow=True
    )
    out = tmp_path_factory.mktemp("bundles") / "tiny.bundle"
    converted = convert(run, out, options, None, force=False, report=lambda *step: steps.append(step))
    return Conversion(converted, steps)
