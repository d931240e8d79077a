"""Whether a bundle's manifest agrees with itself and with the files that it lists.

A signature says who made a bundle, not that its parts fit: what does not would fail at the first cell.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bloodedge.bundle.manifest import Manifest
from bloodedge.errors import BloodedgeError
from bloodedge.imaging.network_input import in_words

LARGEST_GOLDEN = 256 * 2**20
"""Bytes of the unpacked self-test."""


def require_consistent(manifest: Manifest, path: Path, read: Callable[[str], bytes]) -> None:
    """Raise BloodedgeError where files of the manifest are missing, or the self-test is of another network.

    path: the bundle's; read: gives a file of it.
    """
    named = [name for artifact in manifest.artifacts for name in (artifact.file, artifact.weights_file) if name]
    for name in (*named, manifest.golden.file):
        if name not in manifest.files:
            raise BloodedgeError(f"{path}: the manifest does not list {name}; convert the run again.")
    shape = _golden_shape(read(manifest.golden.file), f"{path}: {manifest.golden.file}")
    expected = (manifest.golden.inputs, *manifest.input.shape)
    if shape != expected:
        raise BloodedgeError(
            f"{path}: the self-test has {shape[0] if shape else 0} inputs of {in_words(shape[1:])}, the manifest says"
            f" {expected[0]} of {in_words(expected[1:])}; convert the run again."
        )


def _golden_shape(data: bytes, name: str) -> tuple[int, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_GOLDEN:
                raise BloodedgeError(f"{name} is too large for a self-test; convert the run again.")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            inputs, probabilities = stored["inputs"], stored["probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BloodedgeError(f"{name} is no self-test; convert the run again.") from error
    sound = inputs.dtype == np.uint8 and inputs.ndim in {4, 5} and probabilities.shape == (len(inputs), 2)
    if not sound:
        raise BloodedgeError(f"{name} is no self-test of two classes; convert the run again.")
    return tuple(map(int, inputs.shape))
