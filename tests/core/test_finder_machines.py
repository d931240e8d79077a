"""A frame has the same cells whichever way the machine's linear algebra adds up."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FIND = """
import hashlib, sys
import cv2
from bloodedge.finder import find_cells
for path in sys.argv[1:]:
    for cell in find_cells(cv2.imread(path)).cells:
        print(cell.box, hashlib.sha256(cell.mask.tobytes()).hexdigest())
"""


def found(frames: list[Path], kernels: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": kernels} if kernels else {}
    command = [sys.executable, "-c", FIND, *map(str, frames)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenBLAS's kernels of other processors are chosen by name")
def test_other_kernels_find_the_same_cells(real_data: Path) -> None:
    frames = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::12]
    own = found(frames, None)
    assert len(own) >= len(frames) // 2
    assert found(frames, "Prescott") == own == found(frames, "Nehalem")
