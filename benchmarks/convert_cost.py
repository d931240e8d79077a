"""What converting a large network costs: seconds and memory of ``bloodedge convert --int8`` for a ResNet-RS-50.

    python benchmarks/convert_cost.py [--model resnetrs50] [--size-px 224] [--calibration-cells 300]

Weights are random, cells rendered; the bundle is thrown away. All three engines, as by default. Writes
results/convert_cost.json. The memory is that of the command and its children together (proportional set size).
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from int8_zoo import convert

from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import DataRecord, RunMetrics, RunRecord
from bloodedge.data.dataset import Dataset, inputs, read_dataset
from bloodedge.data.split import SplitSpec, split
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.scoring import score
from bloodedge.files import write_json
from bloodedge.imaging import ImagingSpec
from bloodedge.machine import hardware_name, versions
from bloodedge.simulation import write_dataset

RESULTS = Path(__file__).parent / "results" / "convert_cost.json"
SPLIT = SplitSpec(validation=0.1, test=0.1)
SUBJECTS, CELLS = 20, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnetrs50")
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--calibration-cells", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "cells", subjects=SUBJECTS, cells_per_subject=CELLS, seed=0)
        dataset = read_dataset(folder / "cells")
        random_run(folder / "run", options.model, options.size_px, dataset)
        asked = ("--calibration-cells", str(options.calibration_cells), "--engine", "onnx")
        cost = convert(folder / "run", None, folder / "run.bundle", *asked)
    result = {
        "command": f"python benchmarks/convert_cost.py --model {options.model} --size-px {options.size_px}"
        f" --calibration-cells {options.calibration_cells}",
        "machine": hardware_name(),
        "cores": os.cpu_count(),
        "versions": versions(("tensorflow", "tensorflow-cpu", "keras", "openvino", "nncf", "tf2onnx")),
        **cost,
    }
    write_json(RESULTS, result)
    print(cost)


def random_run(folder: Path, name: str, size_px: int, dataset: Dataset) -> None:
    """A run folder as ``bloodedge train`` leaves it, of a network that was not trained."""
    import keras

    from bloodedge_train.recipe import NetworkSpec
    from bloodedge_train.zoo import build

    keras.utils.set_random_seed(0)
    imaging = ImagingSpec(size_px=size_px)
    model = build(name, size_px, NetworkSpec())
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("/beta"):  # as after training: biases of 0 would leave conversion nothing to correct
            weight.assign(rng.normal(0, 0.1, weight.shape))
    folder.mkdir()
    model.save(folder / "model.keras")
    parts, record = split(dataset, SPLIT, seed=0)
    test = parts["test"]
    blast: Any = model.predict(inputs(test, imaging), verbose=0)[:, 1].astype("float64")
    evaluation = score([cell.label for cell in test], blast, [cell.subject for cell in test])
    write_record(
        folder / "run.json",
        RunRecord(
            name="random",
            created="2026-01-01T00:00:00+00:00",
            bloodedge="0",
            model=name,
            parameters=model.count_params(),
            labels=["normal", "blast"],
            weights="none",
            recipe={"split": SPLIT.model_dump(mode="json")},
            imaging=imaging,
            seed=0,
            data=DataRecord(
                root=str(dataset.root),
                fingerprint=dataset.fingerprint,
                cells=len(dataset.cells),
                subjects=len(dataset.groups),
                rendered=True,
            ),
            split=record,
            temperature=1.0,
            thresholds=Thresholds(),
            backend="keras",
            hardware=hardware_name(),
            versions={},
            history=[],
            best_epoch=0,
        ),
    )
    latency = LatencyMs(p50=0, p95=0, p99=0)
    write_record(
        folder / "metrics.json",
        RunMetrics(parts={"test": evaluation}, ece_before_temperature=0, latency_ms=latency, hardware=hardware_name()),
    )


if __name__ == "__main__":
    main()
