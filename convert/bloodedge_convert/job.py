"""What the converters are asked to do, and the process that does it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.manifest import EngineName, Precision

Report = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

TAIL_LINES = 12
REWRITES, FINE_TUNING = "rewrites.json", "fine_tuning.json"
TUNING = "tuning.npy"
"""Network inputs to fine-tune on, uint8 (N, H, W, 3) RGB."""


class Kind(Strict):
    """One artifact to make."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine}/{self.precision}"


class Job(Strict):
    """``job.json``."""

    run: str
    size_px: int
    kinds: list[Kind]
    fine_tuning_steps: int = 0
    seed: int = 0
    """Of the order in which fine-tuning sees its cells."""


class Rewrite(Strict):
    """One kind of layer that was brought into a form that the engine is faster at; see bloodedge_convert.rewrite."""

    engine: EngineName
    name: str
    layers: int
    max_difference: float
    """Largest difference of a probability from the float model's, on calibration cells."""
    kept: bool
    """False where the difference was too large, and the layers were left as they were."""


def rewrites(folder: Path) -> list[Rewrite]:
    """What the converters did to the network before converting it for LiteRT; nothing where they kept no record."""
    path = folder / REWRITES
    return [Rewrite.model_validate(row) for row in json.loads(path.read_bytes())] if path.is_file() else []


class FineTuning(Strict):
    """What fine-tuning with fake quantisation brought; see bloodedge_convert.finetune."""

    steps: int
    before: float
    """Mean distance of the rounded network's blast probability from the float model's, on calibration cells."""
    after: float
    """No smaller where nothing was gained and the weights are as they were."""


def fine_tuning(folder: Path) -> FineTuning | None:
    """What fine-tuning brought, where it was asked for."""
    path = folder / FINE_TUNING
    return FineTuning.model_validate_json(path.read_bytes()) if path.is_file() else None


def file_names(kind: Kind) -> list[str]:
    """An artifact's files, the model first."""
    suffixes = {"litert": [".tflite"], "openvino": [".xml", ".bin"], "onnx": [".onnx"]}[kind.engine]
    return [f"model_{kind.precision}{suffix}" for suffix in suffixes]


def run_converters(
    folder: Path, job: Job, calibration: NDArray[np.uint8], inputs: NDArray[np.uint8], report: Report
) -> NDArray[np.float32]:
    """Make the job's artifacts in ``folder``; the float model's softmax outputs float32 (N, classes) for ``inputs``.

    calibration, inputs: uint8 (N, H, W, 3) RGB. Raises BloodedgeError, with the end of the converters' log, on failure.
    """
    (folder / "job.json").write_text(job.model_dump_json())
    np.save(folder / "calibration.npy", calibration)
    np.save(folder / "inputs.npy", inputs)
    with tempfile.TemporaryFile() as log:
        _run(folder, log, report)
    return np.asarray(np.load(folder / "reference.npy"), np.float32)


def _run(folder: Path, log: BinaryIO, report: Report) -> None:
    settings = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "bloodedge_convert.worker", str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if isinstance(message, dict):
                    raise BloodedgeError(message["error"])
                report(*message)
            code = process.wait()
        finally:
            process.kill()
    if code:
        raise BloodedgeError(_failure(code, log))


def _failure(code: int, log: BinaryIO) -> str:
    if code < 0:
        return f"The converters were stopped by signal {-code} (9: often for lack of memory); free some and retry."
    log.seek(0)
    lines: Sequence[str] = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return "\n  ".join(["The converters failed; the end of their log says why:", *lines[-TAIL_LINES:]])
