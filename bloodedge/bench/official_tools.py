"""The runtimes' own latency tools, to compare ours with: LiteRT's and OpenVINO's."""

import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Artifact
from bloodedge.engine import EXTRA
from bloodedge.errors import BloodedgeError, disk_errors
from bloodedge.installation import install_hint

TOOLS = {"litert": "litert-benchmark", "openvino": "benchmark_app"}

MEDIAN = re.compile(r"(?:median\)|Median):\s+([\d.]+) (ms|us)")
"""Both print it; what they write as JSON is rounded to 0.01 ms, 3 % of a small network's time."""


def why_no_tool(engine: str) -> str | None:
    """Why an engine cannot be compared with an official tool here; None if it can."""
    if engine not in TOOLS:
        return f"The package of {engine} comes without a latency tool."
    if not _program(engine).is_file():
        return f"{TOOLS[engine]} is not installed; {install_hint(EXTRA[engine])}"
    return None


def official_p50_ms(bundle: Path, artifact: Artifact, threads: int) -> float:
    """Median latency in ms over 60 runs of one of the bundle's artifacts, by its runtime's own tool.

    Raises BloodedgeError when the tool fails or prints no median.
    """
    with (
        Bundle(bundle) as opened,
        disk_errors("the model for the official tool"),
        tempfile.TemporaryDirectory() as place,
    ):
        names = [artifact.file, *([artifact.weights_file] if artifact.weights_file else [])]
        files = [Path(place) / Path(name).name for name in names]
        for name, file in zip(names, files, strict=True):
            file.write_bytes(opened.read(name))
        command = _command(artifact.engine, files[0], threads)
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    found = MEDIAN.search(done.stdout)
    if done.returncode or not found:
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BloodedgeError(
            f"{TOOLS[artifact.engine]} failed on {artifact.file} of {bundle} ({last_line}); "
            "leave out --against-official, or install another version of it."
        )
    return float(found[1]) / (1000 if found[2] == "us" else 1)


def _program(engine: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / TOOLS[engine]


def _command(engine: str, file: Path, threads: int) -> list[str]:
    program, model, number = str(_program(engine)), str(file), str(threads)
    if engine == "litert":
        return [program, "--model", model, "--num_threads", number, "--num_runs", "60", "--warmup_runs", "5"]
    alone = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nireq", "1", "-nstreams", "1", "-nthreads", number]
    return [program, "-m", model, *alone, "-niter", "60", "-infer_precision", "f32"]
