"""Whether an ARM64 board gives what this x86-64 machine gives: the same inputs to the byte, the same int8 results.

    python benchmarks/arm64/run.py [BUNDLE|MODEL.tflite ...] [--cells 8] [--frames 3] [--cpu cortex-a72 ...]

The device package and LiteRT's aarch64 wheel run under user-mode emulation, in a Debian fetched through this machine's
apt (or from BLOODEDGE_DEBIAN_MIRROR) and kept in --cache. Equal to the byte must be: images decoded, network inputs,
what the frame gate measures, cells found and what is measured on them, what the kind network reads and says, the output
of every layer of every int8 network, and what `bloodedge device run` stores. Probabilities, and what the simulated
microscope draws, must be within a bound (see compare.py). The
default bundle is models/cells.bundle; int8 networks of every architecture come from random_networks.py. Writes
results/arm64.json and exits 1 when anything differs; where the board cannot be had it says why, and exits 0.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from board import REPO, SUITE, Board, UnavailableError, set_up
from compare import Row, compare
from work import RENDERED_UM_PER_PX, rendered_frame, save

from bloodedge.bundle import Bundle
from bloodedge.engine.litert import load_interpreter
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import sha256, write_json
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import render_cell

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "arm64.json"
RELEASED = REPO / "models" / "cells.bundle"
CPUS = {
    "cortex-a72": "Raspberry Pi 4: no int8 dot product",
    "cortex-a76": "Raspberry Pi 5: int8 dot product",
    "max": "all that the emulator has: int8 matrix product, SVE, SME",
}
"""XNNPACK takes other int8 kernels for each."""


def main() -> int:
    options = parse()
    began = perf_counter()
    try:
        board = set_up(options.cache)
        set_up_s = perf_counter() - began
        with tempfile.TemporaryDirectory(prefix="bloodedge-arm64-") as folder:
            result = measure(board, options, Path(folder))
    except UnavailableError as error:
        print(f"Skipped: {error}.")
        return 0
    except BloodedgeError as error:
        print(f"arm64: {error}", file=sys.stderr)
        return error.exit_code
    write_json(options.out, {**result, "set_up_s": round(set_up_s, 1)})
    held = all(row["holds"] for run in result["runs"] for row in run["checks"])
    print(f"{'All holds' if held else 'NOT the same'}, in {perf_counter() - began:.0f} s: {options.out}")
    return 0 if held else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", type=Path, default=[RELEASED], help="bundles and .tflite files")
    parser.add_argument("--cells", type=int, default=8, help="rendered cells, and as many real ones of each kind")
    parser.add_argument("--frames", type=int, default=3, help="likewise")
    parser.add_argument("--cpu", nargs="+", choices=CPUS, default=list(CPUS))
    parser.add_argument("--data", type=Path, default=os.environ.get("BLOODEDGE_DATA", REPO.parent / "shared" / "data"))
    parser.add_argument("--no-device", action="store_true", help="leave `bloodedge device run` out")
    parser.add_argument("--cache", type=Path, default=REPO / ".cache" / "arm64")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def measure(board: Board, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything on this machine, then on each emulated one, and what differs."""
    job = make_job(options, folder)
    bundles = [] if options.no_device else [path for path in options.networks if path.suffix == ".bundle"]
    frames = folder / "rendered frames"
    here = folder / "x86_64"
    host_s = both([sys.executable], dict(os.environ), folder, here, bundles, frames)
    runs = []
    for cpu in options.cpu:
        out = folder / cpu
        board_s = both(board.python(cpu), board.environment, folder, out, bundles, frames)
        rows = compare(here, out)
        show(cpu, rows)
        runs.append(
            {
                "emulated": cpu,
                "about": CPUS[cpu],
                **json.loads((out / "machine.json").read_text()),
                "seconds": round(board_s, 1),
                "checks": [row.to_json() for row in rows],
            }
        )
    return {
        "command": "python benchmarks/arm64/run.py "
        + " ".join(a if a[0] == "-" else Path(a).name for a in sys.argv[1:]),
        "host": json.loads((here / "machine.json").read_text()),
        "host_seconds": round(host_s, 1),
        "emulator": f"{board.emulator}, root: Debian {SUITE} arm64",
        "networks": [
            {"name": m["name"], "input_px": m["imaging"]["size_px"], "sha256": sha256(Path(m["file"]))}
            for m in job["models"]
        ],
        "runs": runs,
    }


def make_job(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """``job.json`` for work.py, and the files that it names."""
    cells, frames = folder / "rendered cells", folder / "rendered frames"
    for seed in range(options.cells):
        write(cells / f"{seed}.png", render_cell(("normal", "blast")[seed % 2], seed).bgr)
    for seed in range(options.frames):
        write(frames / f"{seed}.png", rendered_frame(seed))
    real = {"real cells": ("cnmc", "*.webp"), "real cells, as distributed": ("cnmc_bmp", "*.bmp")}
    job = {
        "cells": {"rendered": files(cells, "*.png")} | some(options.data, real, options.cells),
        "frames": {"rendered frames": files(frames, "*.png")}
        | some(options.data, {"real frames": ("bccd", "*.jpg")}, options.frames),
        "models": [model(path, folder / "models") for path in options.networks],
    }
    (folder / "job.json").write_text(json.dumps(job))
    return job


def write(path: Path, image: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(map(str, folder.rglob(pattern)))


def some(data: Path, kinds: dict[str, tuple[str, str]], count: int) -> dict[str, list[str]]:
    """``count`` files of each kind that is there, evenly spread."""
    found = {of: files(data / name, pattern) for of, (name, pattern) in kinds.items()}
    return {of: all_[:: max(1, len(all_) // count)][:count] for of, all_ in found.items() if all_}


def model(path: Path, folder: Path) -> dict[str, Any]:
    """A bundle's LiteRT int8 network, or a ``.tflite`` file, for work.py: as it is, and opened."""
    if path.suffix == ".tflite":
        if not path.is_file():
            raise UsageError(f"{path} does not exist; make networks with: python benchmarks/arm64/random_networks.py")
        name, data, spec = path.stem, path.read_bytes(), imaging_of(path.read_bytes())
    else:
        with Bundle(path) as bundle:
            artifact = bundle.manifest.artifact("litert", "int8")
            name, data, spec = bundle.manifest.provenance.model, bundle.read(artifact.file), bundle.manifest.imaging
    place = folder / f"{path.name}"
    place.mkdir(parents=True)
    (place / "model.tflite").write_bytes(data)
    (place / "opened.tflite").write_bytes(opened(data))
    return {
        "name": f"{name} ({path.name})" if path.suffix == ".bundle" else name,
        "file": str(place / "model.tflite"),
        "opened": str(place / "opened.tflite"),
        "imaging": spec.model_dump(mode="json"),
    }


def imaging_of(data: bytes) -> ImagingSpec:
    """A spec that gives inputs of the shape that a network takes."""
    _, *views, side, _, _ = load_interpreter(data, 1)[0].get_input_details()[0]["shape"].tolist()
    return ImagingSpec(size_px=side, views=("physical", "canonical") if views else ("physical",))


def opened(data: bytes) -> bytes:
    """The network with the output of every layer made an output: two classes' probabilities would hide much."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    network = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    (graph,) = network.subgraphs
    graph.outputs = sorted({int(index) for operator in graph.operators for index in operator.outputs})
    network.signatureDefs = None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(network.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def both(
    python: Sequence[str], environment: dict[str, str], folder: Path, out: Path, bundles: Sequence[Path], frames: Path
) -> float:
    """Do the job with a machine's Python, then run the device with each bundle; the seconds that took."""
    began = perf_counter()
    environment = {**environment, "OPENCV_LOG_LEVEL": "ERROR"}
    call([*python, str(HERE / "work.py"), str(folder), str(out)], environment)
    for bundle in bundles:
        device_run(python, environment, bundle.resolve(), frames, out)
    return perf_counter() - began


def call(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise BloodedgeError(f"{' '.join(command[-6:])} failed with exit code {done.returncode}:\n  {said}")


def device_run(python: Sequence[str], environment: dict[str, str], bundle: Path, frames: Path, out: Path) -> None:
    """``bloodedge device run`` (self-test and all) on the rendered frames, and its report; what it stored is saved."""
    state = out / f"state {bundle.stem}"
    config = out / "device.toml"
    camera = f'[camera]\nkind = "replay"\nsource = {json.dumps(str(frames))}\num_per_px = {RENDERED_UM_PER_PX}\n'
    config.write_text(f'engine = "litert"\nbundle = {json.dumps(str(bundle))}\ntrust.unsigned = true\n{camera}')
    device = [*python, "-c", AS_ITSELF, str(launcher(python, out)), "device"]
    call([*device, "run", "--config", str(config), "--state", str(state), "--no-page"], environment)
    call([*device, "report", "--state", str(state), "--html", str(out / "report.html")], environment)
    rows, measures = stored(state)
    crops = {path.name: np.frombuffer(path.read_bytes(), np.uint8) for path in sorted((state / "crops").rglob("*.png"))}
    save(out, "device run", bundle.name, {"rows": rows, **crops})
    save(out, "device measures", bundle.name, {"measures": measures})
    shutil.rmtree(state)


AS_ITSELF = "import sys; sys.executable = sys.argv[1]; from bloodedge.cli import main; main(sys.argv[2:])"
"""The device starts its capture process with Python's own path, which on an emulated board must name the emulator."""


def launcher(python: Sequence[str], folder: Path) -> Path:
    """A program that is this ``python``, emulator and all."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    script.chmod(0o755)
    return script


def stored(state: Path) -> tuple[Any, Any]:
    """(what the database says of each frame and cell, as text; the floating-point part)."""
    exact = "frames.number, frames.reason, x, y, cells.width, cells.height, label, cells.reason"
    measured = "blast_probability, area_um2, focus, brightness, um_per_px"
    query = "SELECT {} FROM frames LEFT JOIN cells ON cells.frame = frames.id ORDER BY frames.id, cells.id"
    with closing(sqlite3.connect(state / "device.sqlite")) as database:
        rows = [json.dumps(row) for row in database.execute(query.format(exact))]
        return np.array(rows), np.array(database.execute(query.format(measured)).fetchall(), np.float64)


def show(cpu: str, rows: Sequence[Row]) -> None:
    print(f"\n{cpu} ({CPUS[cpu]}) against {platform.machine()}")
    for row in rows:
        verdict = (
            "equal"
            if row.equal
            else f"{row.differing} of {row.arrays} arrays differ, by up to {row.largest_difference}"
        )
        mark = "" if row.holds else f"  <-- FAILS, first {row.first_differing}"
        print(f"  {row.check:20} {row.of:42} {row.values:>10} values  {verdict}{mark}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
