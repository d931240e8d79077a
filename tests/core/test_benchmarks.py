"""The commands that the figures name can be given."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name not in {"training.py", "broker.py"})
SCRIPTS += [f"{path.parent.name}/{path.name}" for path in sorted(BENCHMARKS.glob("*/run.py"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_how_it_is_called(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{name}" in done.stdout
