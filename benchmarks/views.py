"""What it costs that the network sees each cell at two scales: int8 time and imaging time, against one view.

    python benchmarks/views.py [--model mobilenetv2] [--size-px 160] [--rounds 15] [--threads 1 2]

The network has random weights and is converted as ``bloodedge convert --int8`` does. Each turn is a fresh process that
times one cell at a time; networks of one view and of both take turns, so that a slow spell of the machine hits both. A
turn's time is the tenth percentile of its calls, because other programs interrupt longer calls more often. Ratios are
medians over the rounds. Imaging is timed on rendered cells as a field's camera shows them, in turns as well. Writes
results/views.json.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
from revision import revision

from bloodedge.bench.latency import in_turns, run_network_turn
from bloodedge.files import write_json
from bloodedge.imaging import Cell, ImagingSpec, View, network_input
from bloodedge.imaging.filming import in_a_field
from bloodedge.machine import hardware_name, versions
from bloodedge.simulation import golden_inputs, render_cell
from bloodedge_convert.job import Job, Kind, file_names, run_converters

RESULTS = Path(__file__).parent / "results" / "views.json"
ENGINES = ("litert", "openvino")
KINDS = [Kind(engine=engine, precision=precision) for engine in ENGINES for precision in ("float32", "int8")]
CALIBRATION_CELLS = 16
VIEWS: dict[str, tuple[View, ...]] = {
    "physical": ("physical",),
    "canonical": ("canonical",),
    "both": ("physical", "canonical"),
}
CELLS, PASSES = 40, 5
"""Cells imaged, and how often in a round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--size-px", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    specs = {name: ImagingSpec(size_px=options.size_px, um_per_px=0.132, views=views) for name, views in VIEWS.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in ("canonical", "both")}
        for name, folder in folders.items():
            convert(options.model, specs[name], folder)
        inference = timed(folders, specs, options.threads, options.rounds)
    result = {
        "command": "python " + " ".join(["benchmarks/views.py", *sys.argv[1:]]),
        "commit": revision(),
        "machine": hardware_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(("ai-edge-litert", "openvino", "opencv-python-headless")),
        "model": options.model,
        "size_px": options.size_px,
        "rounds": options.rounds,
        "inference": inference,
        "imaging": imaged(specs, options.rounds),
    }
    write_json(RESULTS, result)
    for row in inference:
        print(row)
    print(result["imaging"])


def convert(model: str, spec: ImagingSpec, folder: Path) -> None:
    """The int8 networks of a random network that takes the spec's inputs, in ``folder``."""
    import keras

    from bloodedge_train.recipe import NetworkSpec
    from bloodedge_train.zoo import build

    keras.utils.set_random_seed(0)
    images, run = golden_inputs(spec, CALIBRATION_CELLS), folder / "run"
    run.mkdir(parents=True)
    build(model, spec.size_px, NetworkSpec(), views=len(spec.views)).save(run / "model.keras")
    job = Job(run=str(run), kinds=KINDS, engines=list(ENGINES), int8_engines=list(ENGINES))
    run_converters(folder, job, images, images, lambda *_: None)


def timed(
    folders: dict[str, Path], specs: dict[str, ImagingSpec], threads: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """A row for each engine and number of threads."""
    turns = [(name, engine, number) for number in threads for engine in ENGINES for name in folders]
    times: dict[tuple[str, str, int], list[float]] = {turn: [] for turn in turns}
    for name, engine, number in in_turns(turns, rounds):
        files = [folders[name] / file for file in file_names(Kind(engine=engine, precision="int8"))]
        turn = run_network_turn(files, engine, specs[name].input_shape, number)
        times[name, engine, number].append(float(np.percentile(turn.times_ms, 10)))
    return [
        {
            "engine": engine,
            "threads": number,
            **compared(times["canonical", engine, number], times["both", engine, number]),
        }
        for number in threads
        for engine in ENGINES
    ]


def compared(one: Sequence[float], both: Sequence[float]) -> dict[str, Any]:
    """Medians over the rounds, in milliseconds, and the median and quartiles of the rounds' ratios."""
    ratios = np.divide(both, one)
    low, ratio, high = np.percentile(ratios, (25, 50, 75))
    return {
        "one_ms": round(median(one), 4),
        "both_ms": round(median(both), 4),
        "ratio": round(float(ratio), 3),
        "quartiles": [round(float(low), 3), round(float(high), 3)],
    }


def imaged(specs: dict[str, ImagingSpec], rounds: int) -> dict[str, Any]:
    """Time of one cell's imaging: both views against the slower of the two alone."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    cells = [in_a_field(render_cell(("normal", "blast")[seed % 2], seed), rng) for seed in range(CELLS)]
    times: dict[str, list[float]] = {name: [] for name in specs}
    for name in in_turns(list(specs), rounds + 1):
        times[name].append(_each_ms(cells, specs[name]))
    kept = {name: values[1:] for name, values in times.items()}  # the first round warms up
    slower = max(("physical", "canonical"), key=lambda name: median(kept[name]))
    alone = {f"{name}_ms": round(median(kept[name]), 4) for name in ("physical", "canonical")}
    return alone | compared(kept[slower], kept["both"])


def _each_ms(cells: Sequence[Cell], spec: ImagingSpec) -> float:
    """The mean over the cells of each one's quickest pass, in milliseconds."""
    quickest = []
    for cell in cells:
        starts = [perf_counter()]
        for _ in range(PASSES):
            network_input(cell, spec)
            starts.append(perf_counter())
        quickest.append(float(np.diff(starts).min()))
    return 1000 * sum(quickest) / len(quickest)


if __name__ == "__main__":
    main()
