"""Tests on a board with its camera; they run only when asked for."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

OPEN = """
import sys
from bloodedge_device.camera.open import open_camera
from bloodedge_device.settings.sections import CameraSettings
open_camera(CameraSettings(kind=sys.argv[1], source=sys.argv[2]))
"""


@pytest.fixture(autouse=True, scope="session")
def _asked_for() -> None:
    if os.environ.get("BLOODEDGE_HARDWARE") != "1":
        pytest.skip("needs a board with its camera (set BLOODEDGE_HARDWARE=1; see tests/hardware/README.md)")


@pytest.fixture(scope="session")
def second_program() -> Callable[[str, str], str]:
    """Opens a camera, given its kind and source, in a process of its own; what that says on stderr."""

    def run(kind: str, source: str) -> str:
        command = [sys.executable, "-c", OPEN, kind, source]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr

    return run
