"""What the converters are asked to do, and the process that runs them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import EngineName, Precision
from bloodedge.config import FileName, Strict
from bloodedge.errors import BloodedgeError

Report = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

Method = Literal["minmax", "mean", "percentile", "mse", "entropy", "equalised", "mixed", "qat"]
"""How an int8 network is made; see bloodedge_convert.int8_methods."""

TAIL_LINES = 12
REWRITES, FINE_TUNING, MIXED = "rewrites.json", "fine_tuning.json", "mixed.json"
CALIBRATION, INPUTS, REFERENCE = "calibration.npy", "inputs.npy", "reference.npy"
FOLDS_REFERENCE = "folds_reference.npy"
"""Outputs (N, folds, 2) of the networks that judge a run which was fitted to everybody."""
TUNING, TRIAL = "tuning.npy", "trial.npy"
"""Network inputs uint8 (N, *ImagingSpec.input_shape), RGB, to fine-tune on, and to choose layers and methods by."""


class Kind(Strict):
    """One artifact to make."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine}/{self.precision}"


class Job(Strict):
    """``job.json``."""

    run: FileName
    folds: str | None = None
    """The run's file of the networks that judge it, where it was fitted to everybody."""
    kinds: list[Kind]
    engines: list[EngineName]
    """Engines that graphs are exported for, also for later jobs in the same folder."""
    int8_engines: list[EngineName]
    """Those of them for which int8 is made."""
    method: Method = "minmax"
    """For the int8 kinds."""
    fine_tuning_steps: int = 300
    """For the method "qat"."""
    seed: int = 0
    """For the order in which fine-tuning sees its cells."""
    max_distance: float = 0.0
    """For the method "mixed": layers go back to float32 until the mean distance of the blast probability from the float
    model's, on the trial cells, is at most this."""


class Rewrite(Strict):
    """One kind of layer that was brought into a form that is faster on the engine; see network.rewrite."""

    engine: EngineName
    name: str
    layers: int
    max_difference: float
    """Largest difference of a probability from the float model's, on calibration cells."""
    kept: bool
    """False where the difference was too large and the layers stayed as they were."""


def rewrites(folder: Path) -> list[Rewrite]:
    """How the network was changed before conversion; nothing where there is no record."""
    path = folder / REWRITES
    return [Rewrite.model_validate(row) for row in json.loads(path.read_bytes())] if path.is_file() else []


class FineTuning(Strict):
    """The result of fine-tuning with fake quantisation; see network.finetune."""

    steps: int
    before: float
    """Mean distance of the rounded network's blast probability from the float model's, on calibration cells."""
    after: float
    """Equal where nothing was gained and the weights stayed as they were."""


def fine_tuning(folder: Path) -> FineTuning | None:
    """The result of fine-tuning; None where there was none."""
    path = folder / FINE_TUNING
    return FineTuning.model_validate_json(path.read_bytes()) if path.is_file() else None


def file_names(kind: Kind) -> list[str]:
    """An artifact's files, the model first."""
    suffixes = {"litert": [".tflite"], "openvino": [".xml", ".bin"], "onnx": [".onnx"]}[kind.engine]
    return [f"model_{kind.precision}{suffix}" for suffix in suffixes]


def counted(images: NDArray[np.uint8], what: str, report: Report) -> Iterator[NDArray[np.uint8]]:
    """The images one by one, with a progress report after each."""
    for number, image in enumerate(images, 1):
        yield image
        report(what, number, len(images))


def run_converters(
    folder: Path, job: Job, calibration: NDArray[np.uint8], inputs: NDArray[np.uint8], report: Report
) -> NDArray[np.float32]:
    """Make the job's artifacts in ``folder``; the float model's softmax outputs float32 (N, classes) for ``inputs``.

    calibration, inputs: network inputs uint8. Raises BloodedgeError, with the end of the converters' log, on failure.
    """
    np.save(folder / CALIBRATION, calibration)
    np.save(folder / INPUTS, inputs)
    run_again(folder, job, report)
    return np.asarray(np.load(folder / REFERENCE), np.float32)


def run_again(folder: Path, job: Job, report: Report) -> None:
    """Make the artifacts of another job in an earlier job's ``folder``, from the same graphs and images."""
    for part in _parts(folder, job):
        (folder / "job.json").write_text(part.model_dump_json(), encoding="utf-8")
        with tempfile.TemporaryFile() as log:
            _run(folder, log, report)


def _parts(folder: Path, job: Job) -> Iterator[Job]:
    """One job for the graphs and one for each engine, so that no process holds the memory of two converters."""
    if not (folder / REFERENCE).is_file():
        yield job.model_copy(update={"kinds": []})
    for engine in dict.fromkeys(kind.engine for kind in job.kinds):
        yield job.model_copy(update={"kinds": [kind for kind in job.kinds if kind.engine == engine]})


def _run(folder: Path, log: BinaryIO, report: Report) -> None:
    settings = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "bloodedge_convert.worker", str(folder)]
    step = "starting"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if isinstance(message, dict):
                    raise BloodedgeError(message["error"])
                step = message[0]
                report(*message)
            code = process.wait()
        finally:
            process.kill()
    if code:
        raise BloodedgeError(_failure(code, step, log))


def _failure(code: int, step: str, log: BinaryIO) -> str:
    if code == -signal.SIGKILL:
        return f'The converters were killed at "{step}", most often for lack of memory; free some and retry.'
    if code < 0:
        return (
            f'The converters were stopped by signal {-code} at "{step}", because a runtime cannot handle this network; '
            "leave that engine or precision out, or train the run again."
        )
    log.seek(0)
    lines: Sequence[str] = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return "\n  ".join(["The converters failed; the end of their log says why:", *lines[-TAIL_LINES:]])
