"""An ARM64 board gives what this machine gives: the device package on an emulated one, held against this one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "arm64"
EXACT = {"decoding", "imaging", "finder", "finder measures", "int8 probabilities", "int8 tensors", "device run"}


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arm64_compare", BENCHMARK / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_released_bundle_gives_the_same_bytes_on_an_arm_board(tmp_path: Path) -> None:
    out = tmp_path / "arm64.json"
    command = [sys.executable, str(BENCHMARK / "run.py"), "--cells", "2", "--frames", "2", "--cpu", "cortex-a72"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    if done.returncode == 0 and not out.exists():
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(out.read_text())["runs"]
    assert run["machine"] == "aarch64"
    assert {row["check"] for row in run["checks"] if row["equal"]} >= EXACT
    (layers,) = (row for row in run["checks"] if row["check"] == "int8 tensors")
    assert layers["arrays"] > 50  # MobileNetV2 has 52 convolutions and a classifier (Sandler et al., 2018, table 2)


def test_where_no_board_can_be_had_the_reason_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK / "run.py"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "arm64.json")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "BLOODEDGE_DATA": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Skipped: ")
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "arm64.json").exists()


def test_one_byte_that_differs_is_found_and_named(compare: ModuleType) -> None:
    here = {"first": np.zeros((2, 3), np.uint8), "second": np.full(4, 7, np.int8)}
    there = {"first": here["first"].copy(), "second": np.array([7, 7, 8, 7], np.int8)}
    row = compare.row("int8 tensors", "a network", here, there)
    assert not row.holds
    assert (row.differing, row.first_differing) == (1, "second")
    assert row.largest_difference == 1
    assert compare.row("int8 tensors", "a network", here, dict(here)).holds


def test_measures_may_differ_by_rounding_and_by_no_more(compare: ModuleType) -> None:
    here = {"focus": np.array([0.5, np.nan])}
    assert compare.row("device measures", "a frame", here, {"focus": np.array([0.5 + 1e-6, np.nan])}).holds
    assert not compare.row("device measures", "a frame", here, {"focus": np.array([0.6, np.nan])}).holds
    assert not compare.row("device measures", "a frame", here, {"focus": np.array([0.5])}).holds
    assert not compare.row("device measures", "a frame", here, {}).holds
