"""The commands that the figures name can be given."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# What has no command of its own is imported by others: called, it says nothing.
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text())
SCRIPTS += [f"{path.parent.name}/{path.name}" for path in sorted(BENCHMARKS.glob("*/run.py"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_how_it_is_called(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{name}" in done.stdout
