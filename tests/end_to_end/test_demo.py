"""The demo, as a newcomer types it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bloodedge import RESEARCH_USE
from bloodedge.bundle.run_record import read_run
from bloodedge.cli import demo
from bloodedge.cli.demo import WIDER_GATE, run_demo
from bloodedge.errors import BloodedgeError, UsageError


@pytest.mark.slow
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
    assert Path(read_run(tmp_path / "demo" / "run").data.root) == tmp_path / "demo" / "cells"
    everything = "".join(path.read_text() for path in (tmp_path / "demo" / "run").glob("*.[jm][sd]*"))
    assert ".partial" not in everything  # a folder that is gone


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """In place of a demo's steps, which take minutes; called with what the next demo's files hold."""
    content = ["first"]

    def make(work: Path, _out: Path) -> None:
        for name in ("run/model.keras", "keys/demo.key", "cells/1.png", "demo.bundle", "report.html"):
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text(content[0])

    monkeypatch.setattr(demo, "_make", make)
    return lambda text: content.__setitem__(0, text)


def test_a_second_demo_takes_the_place_of_the_first(tmp_path: Path, quick: Callable[[str], None]) -> None:
    run_demo(tmp_path / "demo")
    for name in ("device.sqlite-shm", "device.sqlite-wal"):  # of a look at its report
        (tmp_path / "demo" / "keys" / name).touch()
    quick("second")
    run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "run" / "model.keras").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_earlier_demo_is_there_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first folder's files while the second demo works, and after it failed."""
    out, seen = tmp_path / "demo", []

    def fail(_work: Path, _out: Path) -> None:
        seen.append((out / "keys" / "demo.key").read_text())
        raise BloodedgeError("The demo stopped.")

    monkeypatch.setattr(demo, "_make", lambda work, _: _write(work / "keys" / "demo.key"))
    run_demo(out)
    monkeypatch.setattr(demo, "_make", fail)
    with pytest.raises(BloodedgeError):
        run_demo(out)
    assert seen == ["mine"] == [(out / "keys" / "demo.key").read_text()]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mine", ["cells/mine.png", "run/model.keras", "keys/lab.key", "demo.bundle"])
def test_a_users_own_files_under_the_demos_names_are_replaced_only_with_force(tmp_path: Path, mine: str) -> None:
    _write(tmp_path / "mine" / mine)
    with pytest.raises(UsageError, match=f"holds {mine}, which no demo made or which was changed since.*--force"):
        run_demo(tmp_path / "mine")
    assert (tmp_path / "mine" / mine).read_text() == "mine"
    run_demo(tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "report.html").read_text() == "first"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mine", ["state/device.sqlite", "run/model.keras"])
def test_what_was_added_to_or_changed_in_a_demos_folder_is_the_users(tmp_path: Path, mine: str) -> None:
    run_demo(tmp_path / "demo")
    _write(tmp_path / "demo" / mine)
    with pytest.raises(UsageError, match=f"holds {mine}"):
        run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / mine).read_text() == "mine"


def test_files_that_come_while_the_demo_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    monkeypatch.setattr(demo, "_make", lambda _work, _out: _write(out / "run" / "model.keras"))
    with pytest.raises(UsageError, match=r"holds run/model\.keras"):
        run_demo(out)
    assert (out / "run" / "model.keras").read_text() == "mine"


def test_a_folder_with_the_users_own_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UsageError, match=r"holds thesis\.txt, which no demo made"):
            run_demo(tmp_path, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "cells").is_dir()
