"""What int8 gives each architecture of the zoo: latency against float32, and what runs outside the fast kernels.

    python benchmarks/int8_zoo.py [MODEL...] [--size-px 96] [--rounds 40] [--images 8]

Weights are random and seeded, batch norms hold the statistics of the calibration images, which are smooth noise:
latency and the layers that run are those of a trained network, the differences of its outputs are not. "plain" is int8
as TensorFlow's converter makes it from the network as it is, "int8" as bloodedge convert does; the artifacts of one
engine are timed in turns. Results go to results/int8_zoo.json model by model, and models named there at the same size
are not measured again unless they are named on the command line.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.bench import interleaved
from bloodedge.engine import Engine
from bloodedge.engine.litert import LiteRTEngine, load_interpreter
from bloodedge.engine.openvino import OpenVINOEngine
from bloodedge.files import write_json
from bloodedge.host import hardware_name, versions
from bloodedge_convert.calibration import full_range
from bloodedge_convert.worker import export_graphs, saved_model_for, to_litert, to_openvino
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build

RESULTS = Path(__file__).parent / "results" / "int8_zoo.json"
THREADS = (1, 2)
Files = dict[str, list[bytes]]
"""An engine's artifacts by name: the model, and its weights where they are a file of their own."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="*", choices=[[], *ZOO], metavar="MODEL")
    arguments.add_argument("--size-px", type=int, default=96)
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--images", type=int, default=8)
    options = arguments.parse_args()
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rows = result.get("models", {}) if result.get("size_px") == options.size_px else {}
    for name in options.models or [name for name in ZOO if name not in rows]:
        rows[name] = measure(name, options.size_px, options.images, options.rounds)
        write_json(
            RESULTS,
            {
                "command": f"python benchmarks/int8_zoo.py --size-px {options.size_px} --rounds {options.rounds}",
                "machine": hardware_name(),
                "versions": versions(("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "openvino", "nncf")),
                "size_px": options.size_px,
                "speed_up_geometric_mean": summary(rows),
                "models": {model: rows[model] for model in ZOO if model in rows},
            },
        )
        print(name, {engine: rows[name][engine]["speed_up"] for engine in ("litert", "openvino")}, flush=True)


def summary(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Geometric mean over the models of float32 time over int8 time, by engine and threads."""
    return {
        engine: {
            str(threads): round(geometric_mean([row[engine]["speed_up"][str(threads)] for row in rows.values()]), 2)
            for threads in THREADS
        }
        for engine in ("litert", "openvino")
    }


def measure(name: str, size_px: int, count: int, rounds: int) -> dict[str, Any]:
    images = noise(count, size_px)
    model = network(name, size_px, images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        litert, openvino = artifacts(model, size_px, images, folder)
        rewrites = json.loads((folder / "rewrites.json").read_text())
    result = {
        "rewrites": rewrites,
        "litert": timed(litert, images, rounds),
        "openvino": timed(openvino, images, rounds),
    }
    result["litert"]["graph"] = {kind: graph(*files) for kind, files in litert.items()}
    return result


def noise(count: int, size_px: int) -> NDArray[np.uint8]:
    """Smooth noise, uint8 (count, size_px, size_px, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return full_range(np.stack([cv2.resize(one, (size_px, size_px), interpolation=cv2.INTER_CUBIC) for one in coarse]))


def network(name: str, size_px: int, images: NDArray[np.uint8]) -> Any:
    """The network with random weights and no branch that comes to nothing, as in a trained one."""
    import keras

    keras.utils.set_random_seed(0)
    model = build(name, size_px, NetworkSpec())
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif type(layer).__name__ == "LayerScale":  # 1e-6 before training
            layer.gamma.assign(rng.uniform(0.1, 0.5, layer.gamma.shape))
    model(images, training=True)
    return model


def artifacts(model: Any, size_px: int, images: NDArray[np.uint8], folder: Path) -> tuple[Files, Files]:
    """LiteRT's and OpenVINO's. Biases are not corrected: it takes minutes and changes neither layers nor latency."""
    export_graphs(model, size_px, images, ("litert", "openvino"), folder)
    source = saved_model_for("litert", folder)
    litert = {kind: [to_litert(source, kind, images, quiet)] for kind in ("float32", "int8")}
    litert["plain"] = [plain(folder / "saved_model", images)]
    openvino = {}
    for kind in ("float32", "int8"):
        target = folder / f"{kind}.xml"
        to_openvino(saved_model_for("openvino", folder), kind, images, target, quiet, correct=False)
        openvino[kind] = [target.read_bytes(), target.with_suffix(".bin").read_bytes()]
    return litert, openvino


def quiet(what: str, done: int, total: int) -> None:
    """No progress display."""


def plain(saved_model: Path, images: NDArray[np.uint8]) -> bytes:
    """An int8 ``.tflite`` as TensorFlow's documentation says to make it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    return bytes(converter.convert())


def timed(files: Files, images: NDArray[np.uint8], rounds: int) -> dict[str, Any]:
    """Median latency by artifact and threads, and the largest difference of a probability from float32's."""
    latency: dict[str, dict[str, float]] = {kind: {} for kind in files}
    speed_up = {}
    outputs = {}
    for threads in THREADS:
        engines = {kind: load(parts, threads) for kind, parts in files.items()}
        times = interleaved(engines, images[0], rounds)
        for kind in files:
            latency[kind][str(threads)] = round(median(times[kind]), 3)
        speed_up[str(threads)] = round(float(median(np.divide(times["float32"], times["int8"]))), 2)
        outputs = {kind: engine.predict(images) for kind, engine in engines.items()}
    differences = {kind: float(np.abs(outputs[kind] - outputs["float32"]).max()) for kind in files if kind != "float32"}
    return {"p50_ms": latency, "speed_up": speed_up, "max_probability_difference": differences}


def load(parts: list[bytes], threads: int) -> Engine:
    return LiteRTEngine(parts[0], threads) if len(parts) == 1 else OpenVINOEngine(parts[0], parts[1], threads)


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
