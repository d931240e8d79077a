"""The shell completes commands, options and values, at once and without a word on stderr."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bloodedge.cli import COMMANDS

FRAMEWORKS = {"tensorflow", "keras", "jax", "torch", "openvino", "onnx", "onnxruntime", "ai_edge_litert", "matplotlib"}
PROGRAM = """
import atexit, json, os, sys
if sys.argv[1:] == ["without", "train"]:
    sys.modules["bloodedge_train.zoo"] = None
atexit.register(lambda: os.write(3, json.dumps(sorted(sys.modules)).encode()))
from bloodedge.cli import main
main([])
"""


def completed(line: str, *arguments: str) -> tuple[list[str], set[str]]:
    """What is offered for the last word of a line, and the packages that were loaded for it."""
    read, write = os.pipe()
    environment = {"_BLOODEDGE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" 3>&{write}', sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        pass_fds=[write],
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        loaded = json.load(pipe)
    assert done.stderr == ""
    return done.stdout.split(), {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bloodedge ", [f"plain,{name}" for name in COMMANDS]),
        ("bloodedge sh", ["plain,shortcuts"]),
        ("bloodedge --ver", ["plain,--version"]),
        ("bloodedge data a", ["plain,audit"]),
        ("bloodedge evaluate --weigh ", ["plain,mean", "plain,kappa"]),
        ("bloodedge train --epo", ["plain,--epochs"]),
        ("bloodedge train --model mob", ["plain,mobilenetv2"]),
        ("bloodedge data audit ", ["file,"]),
    ],
)
def test_words_are_completed_and_no_framework_is_loaded(line: str, offered: list[str]) -> None:
    found, loaded = completed(line)
    assert found == offered
    assert not FRAMEWORKS & loaded


def test_names_are_completed_without_importing_their_commands() -> None:
    _, loaded = completed("bloodedge ")
    assert not {"bloodedge_train", "bloodedge_convert", "bloodedge_device", "bloodedge_fleet"} & loaded


def test_a_stage_that_is_not_installed_completes_to_nothing_and_says_nothing() -> None:
    found, _ = completed("bloodedge train --epo", "without", "train")
    assert found == []


@pytest.mark.parametrize(
    ("shell", "ends"),
    [
        ("bash", "_bloodedge_completion_setup;"),
        ("zsh", "compdef _bloodedge_completion bloodedge"),
        ("fish", 'complete --no-files --command bloodedge --arguments "(_bloodedge_completion)";'),
    ],
)
def test_each_shells_script_is_printed_and_parses(shell: str, ends: str, tmp_path: Path) -> None:
    environment = {**os.environ, "_BLOODEDGE_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-m", "bloodedge"]
    script = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert ends in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "bloodedge"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bloodedge "$@"\n')
    program.chmod(0o755)
    typed = (
        'eval "$(_BLOODEDGE_COMPLETE=bash_source bloodedge)"; COMP_WORDS=(bloodedge ev); COMP_CWORD=1;'
        ' _bloodedge_completion bloodedge; echo "${COMPREPLY[@]}"; complete -p bloodedge'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", typed], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "evaluate"
    assert "_bloodedge_completion" in done.stdout.splitlines()[1]
