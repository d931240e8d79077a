"""Results on stdout, everything else on stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

import bloodedge.console
from bloodedge.console import LINE_EVERY_S, SHORT_S, console, emit_json, progress, steps
from bloodedge.errors import BloodedgeError


def test_json_goes_alone_to_stdout_or_whole_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"µ": [1, None]}, "-")
    assert json.loads(capsys.readouterr().out) == {"µ": [1, None]}
    emit_json({"a": 1}, str(tmp_path / "new" / "a.json"))
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}
    assert capsys.readouterr().out == ""


def test_a_folder_as_json_target_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError, match="choose another name"):
        emit_json({}, str(tmp_path))


def test_progress_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Reading") as update:
        for done in range(1, 4):
            update(done, 3)
    assert capsys.readouterr().out == ""


def test_tables_stay_wide_enough_where_the_output_is_no_terminal() -> None:
    assert console().width == 110


def test_without_a_terminal_each_step_is_a_line_and_a_long_one_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(bloodedge.console, "monotonic", lambda: now_s)
    with steps() as report:
        for done in range(3):
            report("Reading cells", done, 3)
        report("Converting: litert int8", 0, 1)
        for done in range(0, 100, 10):
            now_s += LINE_EVERY_S / 3
            report("Held-out cells", done, 100)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "Reading cells",
        "Converting: litert int8",
        "Held-out cells",
        "Held-out cells: 30 of 100",
        "Held-out cells: 60 of 100",
        "Held-out cells: 90 of 100",
    ]


def test_a_step_that_tells_nothing_is_named_once_it_takes_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Done at once"):
        pass
    with progress("Loading Keras"):
        sleep(2 * SHORT_S)
    assert capsys.readouterr().err == "Loading Keras\n"


def _in_a_process(work: str, temporary: Path) -> "subprocess.CompletedProcess[str]":
    """A command whose native code and whose Python both write to stderr, then does ``work``."""
    code = (
        "import click, os, sys; from bloodedge import cli; from bloodedge.console import say;"
        "from bloodedge.errors import BloodedgeError\n"
        "def run():\n os.write(2, b'E0000 oneDNN complains'); say('epoch 1')\n" + f" {work}\n"
        "cli.cli.main = lambda **_: run()\n"
        "cli.main(['train'])"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_what_runtimes_print_stays_out_of_the_terminal(tmp_path: Path) -> None:
    done = _in_a_process("pass", tmp_path)
    assert (done.returncode, done.stderr) == (0, "epoch 1\n")
    done = _in_a_process("raise BloodedgeError('It is so.')", tmp_path)
    assert (done.returncode, done.stderr) == (1, "epoch 1\nbloodedge: It is so.\n")
    assert list(tmp_path.iterdir()) == []


def test_what_runtimes_print_is_shown_where_something_unforeseen_happens_and_kept_where_they_crash(
    tmp_path: Path,
) -> None:
    done = _in_a_process("raise RuntimeError('unforeseen')", tmp_path)
    assert done.returncode == 1
    assert "E0000 oneDNN complains" in done.stderr
    assert "RuntimeError: unforeseen" in done.stderr
    done = _in_a_process("os.abort()", tmp_path)
    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr
    (log,) = tmp_path.iterdir()
    assert "E0000 oneDNN complains" in log.read_text()
