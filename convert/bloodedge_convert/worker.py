"""The converters themselves, in a process of their own: ``python -m bloodedge_convert.worker JOB``.

Only this process loads TensorFlow. The calling process may have Keras on another back end; it keeps its memory, and its
terminal stays free of the converters' thousands of log lines.

JOB is a folder with ``job.json`` (see bloodedge_convert.job), ``calibration.npy`` and ``inputs.npy``, both uint8
(N, *ImagingSpec.input_shape), RGB. The artifacts and ``reference.npy``, the float model's softmax outputs float32
(N, classes), are written into it. Later jobs in the same folder use again what the first made there: the reference, the
graphs, LiteRT's calibrated network. Progress goes to stdout, one JSON list [what, done, total] a line; an error for
people goes there as {"error": sentence}.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import require_probabilities
from bloodedge.engine import load_bytes
from bloodedge.errors import BloodedgeError
from bloodedge.text import as_path
from bloodedge_convert.job import (
    CALIBRATION,
    FINE_TUNING,
    FOLDS_REFERENCE,
    INPUTS,
    MIXED,
    REFERENCE,
    TRIAL,
    TUNING,
    Job,
    Kind,
    Report,
    file_names,
)
from bloodedge_convert.judge.checks import check_answers
from bloodedge_convert.litert import write as litert
from bloodedge_convert.litert.bias import correct_biases
from bloodedge_convert.litert.ranges import with_ranges
from bloodedge_convert.network.export import export_graphs, rounded_model_for, saved_model_for
from bloodedge_convert.onnx import write as onnx
from bloodedge_convert.openvino import bias as openvino_bias
from bloodedge_convert.openvino import write as openvino

Images = NDArray[np.uint8]

PLAIN, CALIBRATED = "model_float32.tflite", "calibrated.tflite"


class Worker:
    """Does one job in its folder."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder, self.report = folder, report
        self.job = Job.model_validate_json((folder / "job.json").read_bytes())
        self.calibration: Images = np.load(folder / CALIBRATION)
        self.network = cache(self._load)

    def do(self) -> None:
        """Make the job's artifacts."""
        if not (self.folder / REFERENCE).is_file():
            self.write_reference()
            self.export(self.folder)
        graphs = self.graphs()
        for kind in self.job.kinds:
            with self.step(f"Converting: {kind.engine} {kind.precision}"):
                self.make(kind, graphs)
            with self.step(f"Trying: {kind.engine} {kind.precision}"):
                self.try_out(kind)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Report a step without parts."""
        self.report(what, 0, 1)
        yield
        self.report(what, 1, 1)

    def _load(self) -> Any:
        from bloodedge.engine.keras import KerasEngine

        with self.step("Loading the float model"):
            engine = KerasEngine(as_path(self.job.run))
            check_weights(engine.model)
        return engine

    def write_reference(self) -> None:
        """Write the float model's outputs."""
        from bloodedge.engine.keras import BATCH

        engine, inputs, parts = self.network(), np.load(self.folder / INPUTS), []
        for start in range(0, len(inputs), BATCH):
            parts.append(engine.predict(inputs[start : start + BATCH]))
            self.report("Float model on held-out cells", min(start + BATCH, len(inputs)), len(inputs))
        outputs = np.concatenate(parts)
        require_probabilities(outputs, "The float model")
        if self.job.folds:
            self.write_folds_reference(inputs)
        np.save(self.folder / REFERENCE, outputs)

    def write_folds_reference(self, inputs: Images) -> None:
        """Write the outputs of the networks that judge a run which was fitted to everybody."""
        from bloodedge.engine.keras import BATCH, KerasEngine

        engine, parts = KerasEngine(as_path(self.job.run), str(self.job.folds)), []
        for start in range(0, len(inputs), BATCH):
            parts.append(engine.predict(inputs[start : start + BATCH]))
            self.report("Judging networks", min(start + BATCH, len(inputs)), len(inputs))
        np.save(self.folder / FOLDS_REFERENCE, np.concatenate(parts))

    def export(self, folder: Path) -> None:
        """Write the graphs that the job's engines start from."""
        model = self.network().model
        with self.step("Exporting the graph"):
            export_graphs(model, self.calibration, self.job.engines, folder, self.job.int8_engines)

    def graphs(self) -> Path:
        """The folder of the graphs that int8 is made from; some methods change the network first."""
        changes = {"equalised": self.equalise, "qat": self.fine_tune}
        if self.job.method not in changes:
            return self.folder
        folder = self.folder / self.job.method
        if not folder.is_dir():
            changes[self.job.method]()
            folder.mkdir()
            self.export(folder)
        return folder

    def equalise(self) -> None:
        """Bring the channels of each layer to like ranges."""
        from bloodedge_convert.network.equalise import equalise

        equalise(self.network().model, self.calibration)

    def fine_tune(self) -> None:
        """Fit the network to rounding, and record the result."""
        from bloodedge_convert.network.finetune import finetune

        images, steps = np.load(self.folder / TUNING), self.job.fine_tuning_steps
        report = self.steps("Fine-tuning with fake quantisation")
        result = finetune(self.network().model, images, self.calibration, steps, self.job.seed, report)
        (self.folder / FINE_TUNING).write_text(result.model_dump_json(), encoding="utf-8")

    def make(self, kind: Kind, graphs: Path) -> None:
        """Write one artifact; ``graphs``: the folder that int8 starts from."""
        target = self.folder / file_names(kind)[0]
        if kind.precision == "int8":
            {"litert": self.litert_int8, "openvino": self.openvino_int8, "onnx": self.onnx_int8}[kind.engine](
                graphs, target
            )
        elif kind.engine == "openvino":
            model = openvino.read(saved_model_for(kind.engine, self.folder))
            openvino.save(model, target, float16=kind.precision == "float16")
        elif kind.engine == "onnx":
            target.write_bytes(onnx.to_onnx(saved_model_for(kind.engine, self.folder)))
        else:
            target.write_bytes(litert.to_litert(saved_model_for(kind.engine, self.folder), kind.precision))

    def litert_int8(self, graphs: Path, target: Path) -> None:
        """Write LiteRT's int8 artifact; its float32 and calibrated networks stay in ``graphs`` for later attempts."""
        method, images, report = self.job.method, self.calibration, self.report
        plain = cached(graphs / PLAIN, lambda: litert.to_litert(saved_model_for("litert", graphs), "float32"))
        rounded = rounded_model_for("litert", graphs)
        calibrated = cached(graphs / CALIBRATED, lambda: litert.calibrate(rounded, plain, images, report))
        float_layers: list[str] = []
        if method in {"percentile", "mse", "entropy"}:
            calibrated = with_ranges(calibrated, plain, images, method, report)
        if method == "mixed":
            from bloodedge_convert.litert.mixed import find_float_layers

            limit = self.job.max_distance
            found = find_float_layers(calibrated, plain, images, self.trial(), limit, report)
            float_layers = found.layers
            (self.folder / MIXED).write_text(found.model_dump_json(), encoding="utf-8")
        int8 = litert.quantise(calibrated, float_layers)
        target.write_bytes(correct_biases(plain, int8, images, self.steps("Correcting biases: litert int8")))

    def openvino_int8(self, graphs: Path, target: Path) -> None:
        """Write OpenVINO's int8 artifact."""
        model = openvino.read(saved_model_for("openvino", graphs))
        rounded = openvino.read_alike(rounded_model_for("openvino", graphs), model)
        if self.job.method == "mixed":
            int8 = openvino.quantise_mixed(rounded, self.calibration, self.trial(), self.job.max_distance, self.report)
        else:
            int8 = openvino.quantise(rounded, self.calibration, self.job.method, self.report)
        openvino_bias.correct_biases(model, int8, self.calibration, self.steps("Correcting biases: openvino int8"))
        openvino.save(int8, target)

    def onnx_int8(self, graphs: Path, target: Path) -> None:
        """Write ONNX Runtime's int8 artifact."""
        plain = cached(graphs / "model_float32.onnx", lambda: onnx.to_onnx(saved_model_for("onnx", graphs)))
        rounded = cached(graphs / "rounded.onnx", lambda: onnx.to_onnx(rounded_model_for("onnx", graphs)))
        target.write_bytes(onnx.to_int8(plain, self.calibration, self.job.method, self.report, rounded))

    def trial(self) -> Images:
        """Cells by which layers are chosen."""
        return np.asarray(np.load(self.folder / TRIAL))

    def steps(self, what: str) -> Callable[[int, int], None]:
        """A report of a step's (done, total)."""
        return lambda done, total: self.report(what, done, total)

    def try_out(self, kind: Kind) -> None:
        """Run one cell through a new artifact: a runtime that aborts ends this process and not the caller's."""
        model, *weights = ((self.folder / name).read_bytes() for name in file_names(kind))
        engine = load_bytes(kind.engine, model, weights[0] if weights else None, 1)
        check_answers(kind, engine.predict(self.calibration[:1]))


def check_weights(model: Any) -> None:
    """Raise BloodedgeError where a weight of the Keras network is NaN or infinite."""
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight)).all():
            raise BloodedgeError(f"The run's weights {weight.path} hold NaN or infinity; train it again.")


def cached(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's bytes, which ``make`` gives where it is missing."""
    if not path.is_file():
        path.write_bytes(make())
    return path.read_bytes()


def _channel() -> TextIO:
    """A stream to stdout for progress; from here on all other output of this process goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def main() -> int:
    """Entry point."""
    channel = _channel()

    def report(what: str, done: int, total: int) -> None:
        channel.write(json.dumps([what, done, total]) + "\n")

    try:
        Worker(Path(sys.argv[1]), report).do()
    except BloodedgeError as error:
        channel.write(json.dumps({"error": str(error)}) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
