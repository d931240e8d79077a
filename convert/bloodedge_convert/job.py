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
