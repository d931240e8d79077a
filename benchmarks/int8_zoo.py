"""What int8 costs and gains for each network: drop, flips, speed, size; and what converting costs.

    python benchmarks/int8_zoo.py RUN... [--data DIR/cnmc] [--rounds 3] [--calibration-cells 100] [--bundles FOLDER]

Each RUN (those of ``benchmarks/experiments.py zoo --recipe small``: runs/zoo_small/*) goes through ``bloodedge
convert --int8`` by its first method, calibration with corrected biases, and without limits: the figures say whether
the gate would have let it pass. It is timed by ``bloodedge bench``, each turn in a fresh process. "plain" is LiteRT
int8 as TensorFlow's documentation says to make it. Bundles are kept, with what making them took, and not made again;
everything is then timed, and results/int8_zoo.json written.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

import numpy as np

from bloodedge.bench.latency import bench, interleaved
from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Artifact
from bloodedge.bundle.run_record import read_run
from bloodedge.engine import Engine
from bloodedge.engine.litert import LiteRTEngine, load_interpreter
from bloodedge.files import write_json
from bloodedge.machine import hardware_name, versions
from bloodedge_convert.output.report import JSON

RESULTS = Path(__file__).parent / "results" / "int8_zoo.json"
THREADS = 2
ENGINES = ("litert", "openvino")
ASKED = (
    *(
        "--int8",
        "--int8-method",
        "minmax",
        "--keep-slow",
        "--allow-worthless",
        "--max-drop",
        "100",
        "--max-flips",
        "100",
    ),
    *("--max-auc-drop", "100", "--max-balanced-drop", "100", "--max-probability-error", "1"),
    *("--engine", "litert", "--engine", "openvino"),
)
PLAIN_CELLS, PLAIN_ROUNDS = 16, 40

PLAIN = """
import os, sys
os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
import numpy as np, tensorflow as tf
from pathlib import Path
from bloodedge.engine.keras import load_model
from bloodedge_convert.network.export import export_saved_model
run, folder = Path(sys.argv[1]), Path(sys.argv[2])
images = np.load(folder / "images.npy")
export_saved_model(load_model(run), folder / "saved")
converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.uint8
(folder / "plain.tflite").write_bytes(converter.convert())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, help="where the runs' cells lie, if they have moved")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calibration-cells", type=int, default=100)
    parser.add_argument("--bundles", type=Path, default=Path(".cache/int8_zoo"))
    options = parser.parse_args()
    options.bundles.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        make(run, options.data, options.bundles / f"{run.name}.bundle", options.calibration_cells)
    rows = {}
    for run in options.runs:
        rows[run.name] = measure(run, options.bundles / f"{run.name}.bundle", options.rounds)
        print(run.name, {engine: rows[run.name]["engines"][engine]["speed_up"] for engine in ENGINES}, flush=True)
    write_json(
        RESULTS,
        {
            "command": f"python benchmarks/int8_zoo.py {' '.join(map(str, options.runs))} --data DIR/cnmc"
            f" --rounds {options.rounds} --calibration-cells {options.calibration_cells}",
            "machine": hardware_name(),
            "threads": THREADS,
            "versions": versions(("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "openvino", "nncf")),
            "speed_up_geometric_mean": {
                engine: round(geometric_mean([row["engines"][engine]["speed_up"] for row in rows.values()]), 2)
                for engine in ENGINES
            },
            "runs": rows,
        },
    )


def make(run: Path, data: Path | None, bundle: Path, calibration_cells: int) -> None:
    """Convert a run unless its bundle is there; beside it what that took."""
    if bundle.is_file():
        return
    cost = convert(run, data, bundle, "--calibration-cells", str(calibration_cells))
    write_json(bundle.with_suffix(".json"), cost)
    print(run.name, cost, flush=True)


def measure(run: Path, bundle: Path, rounds: int) -> dict[str, Any]:
    """One run's row."""
    record, conversion = read_run(run), json.loads(bundle.with_suffix(".json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        found = bench([bundle], [THREADS], rounds, lambda _done, _total: None)
        with Bundle(bundle) as opened:
            report = json.loads(opened.read(JSON))
            artifacts: dict[tuple[str, str], Artifact] = {
                (one.engine, one.precision): one for one in opened.manifest.artifacts
            }
            ours = opened.read(artifacts["litert", "int8"].file)
        times: dict[tuple[str, str], float] = {(row.engine, row.precision): row.p50_ms for row in found.rows}
        engines = {
            engine: {
                "p50_ms": {precision: round(times[engine, precision], 3) for precision in ("float32", "int8")},
                "speed_up": round(times[engine, "float32"] / times[engine, "int8"], 2),
                "size_mb": {p: round(artifacts[engine, p].size_bytes / 1e6, 2) for p in ("float32", "int8")},
                "method": artifacts[engine, "int8"].method,
                "drop_points": artifacts[engine, "int8"].agreement.drop["weighted_f1"],
                "drop_ci95": artifacts[engine, "int8"].agreement.drop_ci95.get("weighted_f1"),
                "flip_rate": artifacts[engine, "int8"].agreement.flip_rate,
                "cells": artifacts[engine, "int8"].agreement.cells,
                "blasts_said": sum(int(row[1]) for row in artifacts[engine, "int8"].evaluation.confusion),
            }
            for engine in ENGINES
        }
        return {
            "model": record.model,
            "parameters": record.parameters,
            "size_px": record.imaging.size_px,
            "leaky": record.split.leaky,
            "conversion": conversion,
            "rewrites": report["rewrites"],
            "engines": engines,
            "graph": graph(ours),
            "plain": plain(run, record.imaging.input_shape, ours, Path(temporary)),
        }


def convert(run: Path, data: Path | None, bundle: Path, *options: str) -> dict[str, float]:
    """The seconds and the peak memory in MiB that the command and its children took."""
    where = [str(data)] if data else []
    command = [sys.executable, "-m", "bloodedge", "convert", str(run), *where, *ASKED, *options, "-o", str(bundle)]
    began = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        assert process.stderr is not None
        said = process.stderr.read()
        code = process.wait()
        memory.stop()
    if code:
        raise SystemExit(f"{run}: {said}")
    return {"seconds": round(perf_counter() - began), "peak_mb": round(memory.peak_mb)}


class Memory:
    """Watches the memory that a process and its children have for themselves or share (PSS), twice a second."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _watch(self, pid: int) -> None:
        while not self._stopped.wait(0.5):
            self.peak_mb = max(self.peak_mb, sum(pss_mb(one) for one in family(pid)))


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def pss_mb(pid: int) -> float:
    """Proportional set size in MiB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0.0


def plain(run: Path, shape: tuple[int, ...], ours: bytes, folder: Path) -> dict[str, Any]:
    """TensorFlow's own int8 of the network as it is: how many times as long it takes as ours, and its partitions."""
    images = np.random.default_rng(0).integers(0, 256, (PLAIN_CELLS, *shape), np.uint8)
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", PLAIN, str(run), str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
    theirs = (folder / "plain.tflite").read_bytes()
    engines: dict[str, Engine] = {"ours": LiteRTEngine(ours, THREADS), "theirs": LiteRTEngine(theirs, THREADS)}
    times = interleaved(engines, images[0], PLAIN_ROUNDS)
    return {"times_ours": round(float(median(np.divide(times["theirs"], times["ours"]))), 2), "graph": graph(theirs)}


def graph(model: bytes) -> dict[str, Any]:
    """XNNPACK partitions, and the operators that are in none of them: a delegate's are those between its ends."""
    operators = load_interpreter(model, threads=1)[0]._get_ops_details()
    partitions = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    layers = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    makers = {int(tensor): number for number, layer in enumerate(layers) for tensor in layer["outputs"]}
    inside: set[int] = set()
    for partition in partitions:
        ends = {int(tensor) for tensor in partition["inputs"]}
        found = [int(tensor) for tensor in partition["outputs"]]
        while found:
            maker = makers.get(found.pop())
            if maker is not None and maker not in inside:
                inside.add(maker)
                found += [int(tensor) for tensor in layers[maker]["inputs"] if int(tensor) not in ends]
    outside = Counter(layer["op_name"] for number, layer in enumerate(layers) if number not in inside)
    return {"partitions": len(partitions), "operators": len(layers), "outside": dict(outside)}


if __name__ == "__main__":
    main()
