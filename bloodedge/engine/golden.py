"""The self-test of a bundle: rendered cells with the float model's outputs, run again on the machine at hand."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import Artifact
from bloodedge.decision.thresholds import calibrated, require_probabilities
from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError

if TYPE_CHECKING:
    from bloodedge.bundle import Bundle

GOLDEN_CELLS = 32
ROUNDING = 0.02
"""Another processor rounds differently: a probability may move by this much beyond what was seen at conversion, and a
cell whose float probability is this near the threshold may change class. An int8 probability comes in steps of 1/256;
kernels that round half-way cases the other way move it by a few."""


@dataclass(frozen=True)
class GoldenResult:
    """What the self-test found."""

    inputs: int
    flips: int
    """Cells whose class differs from the float model's."""
    max_probability_difference: float
    """Largest difference between calibrated blast probabilities, 0..1."""
    passed: bool
    """Whether both stay within what was seen at conversion, rounding allowed for."""


def pack_golden(inputs: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> bytes:
    """``golden.npz``: network inputs uint8 (N, *ImagingSpec.input_shape), RGB, with the float model's softmax outputs.

    probabilities: float32 (N, classes).
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=inputs, probabilities=probabilities)
    return buffer.getvalue()


def unpack_golden(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The inputs and the outputs that ``pack_golden`` packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return stored["inputs"], stored["probabilities"]


@dataclass(frozen=True)
class Comparison:
    """An artifact's calibrated blast probabilities against the float model's on the golden inputs."""

    flips: int
    clear_flips: int
    """Flips of cells whose float probability is not within ROUNDING of the threshold."""
    max_probability_difference: float


def compare(
    engine: Engine,
    inputs: NDArray[np.uint8],
    reference: NDArray[np.float32],
    temperature: float,
    threshold: float,
) -> Comparison:
    """Run network ``inputs`` uint8 and compare with the float model's softmax outputs (N, classes).

    Raises BloodedgeError when either gave no probabilities for one of them.
    """
    outputs = engine.predict(inputs)
    require_probabilities(reference, "On the self-test's cells the float model")
    require_probabilities(outputs, f"On the self-test's cells the {engine.name} network")
    float_blast, blast = (calibrated(p, temperature)[:, 1] for p in (reference, outputs))
    flipped = (blast >= threshold) != (float_blast >= threshold)
    clear = np.abs(float_blast - threshold) > ROUNDING
    return Comparison(int(flipped.sum()), int((flipped & clear).sum()), float(np.abs(blast - float_blast).max()))


def check_golden(bundle: "Bundle", artifact: Artifact, engine: Engine) -> GoldenResult:
    """Run the golden inputs through ``engine`` and compare with the bounds measured at conversion.

    Raises BloodedgeError when the golden file was changed, the manifest has no bounds for the artifact, or the network
    gives no probabilities.
    """
    golden = bundle.manifest.golden
    key = f"{artifact.engine}/{artifact.precision}"
    allowed = golden.max_probability_difference.get(key)
    if allowed is None or key not in golden.max_flips:
        raise BloodedgeError(f"{bundle.path} has no self-test bounds for {key}; convert the run again.")
    inputs, reference = unpack_golden(bundle.read(golden.file))
    manifest = bundle.manifest
    found = compare(engine, inputs, reference, manifest.temperature, manifest.thresholds.blast)
    difference = found.max_probability_difference
    passed = found.clear_flips <= golden.max_flips[key] and difference <= allowed + ROUNDING
    return GoldenResult(len(inputs), found.flips, difference, passed)
