"""A frame has the same cells and the same figures whichever instructions the processor has."""

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
from bloodedge.finder.frame_gate import check
for path in sys.argv[1:]:
    frame = cv2.imread(path)
    print(check(frame))
    for cell in find_cells(frame).cells:
        print(cell.box, cell.focus, cell.completeness, hashlib.sha256(cell.mask.tobytes()).hexdigest())
"""


OLD = {
    "OPENBLAS_CORETYPE": "Prescott",
    "OPENCV_CPU_DISABLE": "SSE4_1,SSE4_2,AVX,AVX2,AVX512_SKX",
    "OPENCV_IPP": "disabled",
}
"""What a processor of 2004 has."""


def found(frames: list[Path], **processor: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in OLD} | processor
    command = [sys.executable, "-c", FIND, *map(str, frames)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64",
    reason="OpenCV's extensions of x86-64 are switched off by name; ARM has its own test",
)
def test_an_old_processor_finds_the_same_cells(real_data: Path) -> None:
    frames = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::12]
    own = found(frames)
    assert len(own) >= 3 * len(frames) // 2
    assert found(frames, **OLD) == own
