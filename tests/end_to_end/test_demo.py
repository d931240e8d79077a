"""The demo, as a newcomer types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from bloodedge import RESEARCH_USE
from bloodedge.demo import WIDER_GATE, run_demo
from bloodedge.errors import UsageError


def test_the_demo_ends_with_a_report_of_a_device_that_classified_cells(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bloodedge", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = Path(done.stdout.splitlines()[-1])
    page = report.read_text()
    assert RESEARCH_USE in page
    assert "drawn by the simulated microscope" in page
    assert WIDER_GATE in done.stdout
    said = "The gate was set wider than usual: an artifact might lose 3 points of weighted F1 (usual: 0.5)"
    assert said in done.stdout
    assert said in page
    assert "60 frames (0 dropped, 0 rejected)" in done.stdout


def test_a_folder_with_the_users_own_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis\.txt, which no demo made"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "cells").is_dir()
