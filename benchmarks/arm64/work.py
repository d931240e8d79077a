"""What a board and its host both do, with the device package's own code: ``python work.py JOB OUT``.

JOB is a folder with ``job.json``: paths of cells cut out onto black and of full-field frames, each kind by where it is
from, and int8 networks. Every result is an array of a file OUT/CHECK/OF.npz, so that two machines' can be compared.
"""

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.engine import load_bytes
from bloodedge.engine.litert import load_interpreter
from bloodedge.finder import find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.imaging import CNMC_UM_PER_PX, ImagingSpec, cell_on_black, network_input, read_image
from bloodedge.machine import hardware_name, versions
from bloodedge.simulation import FieldSpec, SubjectStyle, render_cell, render_field
from bloodedge_device.kinds import KindInput, default_kinds

SPECS = {
    "physical": ImagingSpec(size_px=96, um_per_px=0.2),
    "canonical, levelled": ImagingSpec(size_px=80, views=("canonical",), light="levelled"),
    "canonical, equalised": ImagingSpec(size_px=160, views=("canonical",), light="equalised"),
    "both views": ImagingSpec(size_px=96, um_per_px=0.2, views=("physical", "canonical"), light="levelled"),
    "gaussian": ImagingSpec(size_px=64, um_per_px=0.3, denoise="gaussian"),
    "median": ImagingSpec(size_px=96, um_per_px=0.15, denoise="median"),
    "wavelet, levelled": ImagingSpec(size_px=64, um_per_px=0.3, denoise="wavelet", light="levelled"),
}
"""Every choice that an imaging spec has, at least once."""
RENDERED_UM_PER_PX = 0.15
THREADS = 2

Arrays = dict[str, NDArray[Any]]


def rendered_frame(seed: int) -> NDArray[np.uint8]:
    """A frame of the simulated microscope, as ``bloodedge device run`` has it."""
    return render_field(seed, FieldSpec(style=SubjectStyle.of(0), um_per_px=RENDERED_UM_PER_PX)).bgr


def decoded(files: Sequence[str]) -> Arrays:
    """Each image file as the device reads it."""
    return {Path(file).name: read_image(Path(file)) for file in files}


def inputs(files: Sequence[str], spec: ImagingSpec) -> NDArray[np.uint8]:
    """Network inputs uint8 (N, *spec.input_shape), RGB, of cells cut out onto black."""
    return np.stack([network_input(cell_on_black(read_image(Path(file))), spec) for file in files])


def found(files: Sequence[str], um_per_px: float | None) -> tuple[Arrays, Arrays]:
    """(boxes, masks and inputs of the white cells in each frame, what the gate and the finder measure on it)."""
    shapes: Arrays = {}
    measures: Arrays = {}
    for file in files:
        frame, name = read_image(Path(file)), Path(file).name
        result = find_cells(frame, um_per_px)
        shapes[f"{name} boxes"] = np.array([cell.box for cell in result.cells], np.int64).reshape(-1, 4)
        shapes |= {f"{name} mask {number}": cell.mask for number, cell in enumerate(result.cells)}
        rows = [
            (c.area_px, c.nucleus_px, c.completeness, c.nuclear_density, c.focus, result.um_per_px)
            for c in result.cells
        ]
        gate = check(frame)
        measures[f"{name} gate"] = np.array([gate.focus, gate.isotropy, gate.brightness, gate.saturated], np.float64)
        measures[name] = np.array(rows, np.float64).reshape(-1, 6)
        for number, cell in enumerate(result.cells):
            spec = ImagingSpec(size_px=96, um_per_px=2 * CNMC_UM_PER_PX)
            shapes[f"{name} input {number}"] = network_input(cell.crop(frame, um_per_px or RENDERED_UM_PER_PX), spec)
            kind_input = KindInput.of(cell, result.um_per_px).image()
            shapes[f"{name} kind input {number}"] = kind_input
            shapes[f"{name} kind codes {number}"] = default_kinds().codes(kind_input)
    return shapes, measures


def probabilities(model: Path, images: NDArray[np.uint8]) -> Arrays:
    """The network's outputs as the device gets them."""
    return {"probabilities": load_bytes("litert", model.read_bytes(), None, THREADS).predict(images)}


def tensors(model: Path, image: NDArray[np.uint8]) -> Arrays:
    """Every output of a network by name; for one whose inner tensors were made outputs, what each layer gives.

    A layer that int8 cannot do well stays in float (layer normalisation); its last bits are the processor's own.
    """
    network, _ = load_interpreter(model.read_bytes(), THREADS)
    network.set_tensor(network.get_input_details()[0]["index"], image[np.newaxis])
    network.invoke()
    return {f"{d['index']} {d['name']}": network.get_tensor(d["index"]) for d in network.get_output_details()}


def save(out: Path, check: str, of: str, arrays: Arrays) -> None:
    """One check's arrays."""
    (out / check).mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {name.replace("/", "|"): array for name, array in arrays.items()}
    np.savez(out / check / f"{of}.npz", **named)


def machine() -> dict[str, Any]:
    """What this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("Features")), [])
    packages = ("ai-edge-litert", "numpy", "opencv-python-headless", "pydantic")
    found = {"machine": platform.machine(), "cpu": hardware_name(), "versions": versions(packages)}
    return found | ({"features": flags} if flags else {})


def work(folder: Path, out: Path) -> None:
    """Do the job that ``folder`` holds."""
    job = json.loads((folder / "job.json").read_text())
    out.mkdir(parents=True)
    (out / "machine.json").write_text(json.dumps(machine()))
    drawn = {f"cell {seed}": render_cell(("normal", "blast")[seed % 2], seed).bgr for seed in range(2)}
    save(out, "simulation", "rendered", {**drawn, "frame": rendered_frame(0)})
    for of, files in (job["cells"] | job["frames"]).items():
        save(out, "decoding", of, decoded(files))
    for of, files in job["cells"].items():
        save(out, "imaging", of, {name: inputs(files, spec) for name, spec in SPECS.items()})
    for of, files in job["frames"].items():
        shapes, measures = found(files, RENDERED_UM_PER_PX if of.startswith("rendered") else None)
        save(out, "finder", of, shapes)
        save(out, "finder measures", of, measures)
    for model in job["models"]:
        images = inputs([file for files in job["cells"].values() for file in files], ImagingSpec(**model["imaging"]))
        save(out, "int8 probabilities", model["name"], probabilities(Path(model["file"]), images))
        layers = tensors(Path(model["opened"]), images[-1])
        whole = {name: array for name, array in layers.items() if np.issubdtype(array.dtype, np.integer)}
        save(out, "int8 tensors", model["name"], whole)
        if len(whole) < len(layers):
            rest = {name: array for name, array in layers.items() if name not in whole}
            save(out, "float tensors", model["name"], rest)


if __name__ == "__main__":
    cv2.setNumThreads(THREADS)
    work(Path(sys.argv[1]), Path(sys.argv[2]))
