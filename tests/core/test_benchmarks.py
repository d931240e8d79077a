"""The commands that the figures name can be given."""

import subprocess
import sys
from pathlib import Path

import programs
import pytest

from support import ROOT

BENCHMARKS = ROOT / "benchmarks"
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


@pytest.fixture
def _no_program_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "SYSTEM", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["benchmarks/fleet.py"])


@pytest.mark.usefixtures("_no_program_at_all")
def test_a_program_that_is_missing_is_told_with_its_package() -> None:
    with pytest.raises(SystemExit) as ended:
        programs.program("pgrep")
    assert ended.value.code == "fleet.py: pgrep is not installed; install it with: apt install procps"


@pytest.mark.usefixtures("_no_program_at_all")
def test_a_benchmark_without_its_broker_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="mosquitto is not installed; install it with: apt install mosquitto"):
        programs.Broker(tmp_path)
