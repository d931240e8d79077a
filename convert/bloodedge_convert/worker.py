"""The converters themselves, in a process of their own: ``python -m bloodedge_convert.worker JOB``.

TensorFlow is loaded here and nowhere else: the calling process may have Keras on another back end, keeps its memory,
and keeps its terminal free of the converters' thousands of log lines.

JOB is a folder with ``job.json`` (see bloodedge_convert.job), ``calibration.npy`` and ``inputs.npy``, both uint8
(N, H, W, 3) RGB. The artifacts and ``reference.npy``, the float model's softmax outputs float32 (N, classes), are
written into it. Progress goes to stdout, one JSON list [what, done, total] a line; a failure that has a sentence for
people goes there as {"error": sentence}.
"""

import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge.engine.openvino import import_openvino
from bloodedge.errors import BloodedgeError
from bloodedge.manifest import EngineName
from bloodedge_convert import bias, bias_openvino
from bloodedge_convert.job import FINE_TUNING, REWRITES, TUNING, Job, Kind, file_names

Images = NDArray[np.uint8]
Report = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

ONNX_OPSET = 18
TUNED = "tuned"
"""Folder of the fine-tuned graphs, that int8 is made from."""
WITHOUT_INT8_KERNEL = {
    "ABS",
    "AVERAGE_POOL_2D",
    "DIV",
    "EXP",
    "GELU",
    "HARD_SWISH",
    "MAXIMUM",
    "MINIMUM",
    "PRELU",
    "RELU",
    "RELU6",
    "RSQRT",
    "SQRT",
    "SQUARED_DIFFERENCE",
}
"""Operators that XNNPACK has in float32 only (ai-edge-litert 2.3), by their names in LiteRT's schema.

A ReLU is here only where it stands alone: after a convolution or a sum it is part of that.
"""


def export_saved_model(model: Any, size_px: int, folder: Path) -> None:
    """One SavedModel that all converters start from.

    Its batch is static: a dynamic one leaves SHAPE and RESHAPE chains that break int8 graphs into many partitions.
    """
    import keras

    spec = keras.InputSpec(shape=(1, size_px, size_px, 3), dtype="uint8", name="image")
    model.export(folder, format="tf_saved_model", verbose=False, input_signature=[spec])


def export_graphs(model: Any, size_px: int, calibration: Images, engines: Iterable[EngineName], folder: Path) -> None:
    """A SavedModel of the network in the form that each engine is fastest at, and a list of what was done for that.

    calibration: images on which the forms' outputs are compared.
    """
    from bloodedge_convert.rewrite import rewrite

    done = []
    for engine in engines:
        rewritten, rows = rewrite(model, engine, calibration)
        done += rows
        if rewritten is not model:
            export_saved_model(rewritten, size_px, folder / f"saved_model_{engine}")
    export_saved_model(model, size_px, folder / "saved_model")
    (folder / REWRITES).write_text(json.dumps([row.model_dump() for row in done]))


def saved_model_for(engine: str, folder: Path) -> Path:
    """What the converter to an engine starts from."""
    own = folder / f"saved_model_{engine}"
    return own if own.is_dir() else folder / "saved_model"


def to_litert(saved_model: Path, precision: str, calibration: Images, report: Report) -> bytes:
    """A ``.tflite`` file: float32, float16 weights, or int8 with uint8 in and uint8 out.

    calibration: network inputs, used for int8 only.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        images = _counted(calibration, "litert", report)
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8
        converter._experimental_calibrate_only = True
        return _quantised(bytes(converter.convert()))
    return bytes(converter.convert())


def _quantised(calibrated: bytes) -> bytes:
    """The int8 form of a network that carries its calibrated ranges, a few layers kept in float32.

    It is what the converter itself does next, but for the layers to keep, which only its debugger takes: left in int8,
    the layers of ``WITHOUT_INT8_KERNEL`` run one by one on slow kernels and cut the network into pieces around them.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    return bytes(
        mlir_quantize(
            calibrated,
            input_data_type=tf.uint8,
            output_data_type=tf.uint8,
            denylisted_ops=sorted(WITHOUT_INT8_KERNEL),
            denylisted_nodes=_marked(calibrated),
        )
    )


def _marked(model: bytes) -> list[str]:
    """Names of the tensors in the parts of a network that stay in float32."""
    from bloodedge_convert.rewrite import FLOAT_MARK

    network, _ = load_interpreter(model, threads=1, keep_tensors=True)
    return [details["name"] for details in network.get_tensor_details() if FLOAT_MARK in details["name"]]


def _counted(calibration: Images, engine: str, report: Report) -> Iterator[Images]:
    """The calibration images one by one, each reported."""
    for number, image in enumerate(calibration, 1):
        yield image
        report(f"Calibrating: {engine} int8", number, len(calibration))


def _correcting(engine: str, report: Report) -> Callable[[int, int], None]:
    return lambda done, total: report(f"Correcting biases: {engine} int8", done, total)


def to_openvino(
    saved_model: Path, precision: str, calibration: Images, target: Path, report: Report, *, correct: bool = True
) -> None:
    """``target`` (.xml) and its .bin: float32, weights stored as float16, or int8 by NNCF.

    calibration: network inputs, used for int8 only. With ``correct`` the biases of int8 are corrected.
    """
    openvino = import_openvino()
    model = openvino.convert_model(saved_model)
    if precision == "int8":
        import nncf

        # Mixed: activations after a linear bottleneck are signed and lopsided, which symmetric ranges waste.
        int8_model = nncf.quantize(
            model,
            nncf.Dataset([image[np.newaxis] for image in _counted(calibration, "openvino", report)]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
        if correct:
            bias_openvino.correct_biases(model, int8_model, calibration, _correcting("openvino", report))
        model = int8_model
    model.set_rt_info("", ["conversion_parameters", "input_model"])  # else the SavedModel's path on this machine
    openvino.save_model(model, target, compress_to_fp16=precision == "float16")


def to_onnx(saved_model: Path) -> bytes:
    """An ``.onnx`` file, float32."""
    import tf2onnx
    from tf2onnx import tf_loader

    graph, inputs, outputs = tf_loader.from_saved_model(str(saved_model), None, None)
    with _garbage_collected():
        model, _ = tf2onnx.convert.from_graph_def(
            graph, name="bloodedge", input_names=inputs, output_names=outputs, opset=ONNX_OPSET
        )
    return bytes(model.SerializeToString())


@contextmanager
def _garbage_collected() -> Iterator[None]:
    """Collect garbage twice a second: each of tf2onnx's passes leaves a copy of the network in a reference cycle.

    Python would collect them too late: converting ResNet-RS-50 (135 MB) took 12 GB without this and 5 GB with it.
    """
    done = threading.Event()

    def collect() -> None:
        while not done.wait(0.5):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def convert_one(folder: Path, kind: Kind, calibration: Images, report: Report) -> None:
    """Write one artifact into ``folder``."""
    what = f"Converting: {kind.engine} {kind.precision}"
    report(what, 0, 1)
    tuned = kind.precision == "int8" and (folder / TUNED).is_dir()
    saved_model = saved_model_for(kind.engine, folder / TUNED if tuned else folder)
    target = folder / file_names(kind)[0]
    if kind.engine == "openvino":
        to_openvino(saved_model, kind.precision, calibration, target, report, correct=not tuned)
    elif kind.engine == "onnx":
        target.write_bytes(to_onnx(saved_model))
    else:
        model = to_litert(saved_model, kind.precision, calibration, report)
        if kind.precision == "int8" and not tuned:
            float_model = (folder / file_names(Kind(engine="litert", precision="float32"))[0]).read_bytes()
            model = bias.correct_biases(float_model, model, calibration, _correcting("litert", report))
        target.write_bytes(model)
    report(what, 1, 1)


def fine_tune(model: Any, job: Job, calibration: Images, folder: Path, report: Report) -> None:
    """Fit the network to rounding and export what int8 is made from; what it brought is written down.

    Biases of int8 are then left as they were fitted: to move them again would undo it.
    """
    from bloodedge_convert.finetune import finetune

    def told(done: int, total: int) -> None:
        report("Fine-tuning with fake quantisation", done, total)

    done = finetune(model, np.load(folder / TUNING), calibration, job.fine_tuning_steps, job.seed, told)
    (folder / FINE_TUNING).write_text(done.model_dump_json())
    if done.after < done.before:
        (folder / TUNED).mkdir()
        engines = dict.fromkeys(kind.engine for kind in job.kinds if kind.precision == "int8")
        export_graphs(model, job.size_px, calibration, engines, folder / TUNED)


def work(folder: Path, report: Report) -> None:
    """Do the job that ``folder`` holds."""
    job = Job.model_validate_json((folder / "job.json").read_bytes())
    calibration, inputs = np.load(folder / "calibration.npy"), np.load(folder / "inputs.npy")
    report("Loading the float model", 0, 1)
    from bloodedge.engine.keras import BATCH, KerasEngine

    engine = KerasEngine(Path(job.run))
    report("Loading the float model", 1, 1)
    parts = []
    for start in range(0, len(inputs), BATCH):
        parts.append(engine.predict(inputs[start : start + BATCH]))
        report("Float model on held-out cells", min(start + BATCH, len(inputs)), len(inputs))
    np.save(folder / "reference.npy", np.concatenate(parts))
    report("Exporting the graph", 0, 1)
    engines = dict.fromkeys(kind.engine for kind in job.kinds)
    export_graphs(engine.model, job.size_px, calibration, engines, folder)
    report("Exporting the graph", 1, 1)
    if job.fine_tuning_steps:
        fine_tune(engine.model, job, calibration, folder, report)
    for kind in job.kinds:
        convert_one(folder, kind, calibration, report)


def _channel() -> TextIO:
    """A stream to stdout for progress alone: whatever else this process prints goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def main() -> int:
    """Entry point."""
    channel = _channel()

    def report(what: str, done: int, total: int) -> None:
        channel.write(json.dumps([what, done, total]) + "\n")

    try:
        work(Path(sys.argv[1]), report)
    except BloodedgeError as error:
        channel.write(json.dumps({"error": str(error)}) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
