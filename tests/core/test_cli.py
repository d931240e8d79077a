"""The command line: exit codes, hints, and help for everything."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import bloodedge.cli as module
from bloodedge import RESEARCH_USE, __version__
from bloodedge.cli import COMMANDS, cli, main
from bloodedge.errors import BloodedgeError, StoppedError, UsageError


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    return int(exit_.value.code or 0)


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, (*path, name))


def test_every_command_of_the_work_is_there() -> None:
    names = {" ".join(path) for path, _ in walk(cli)}
    wanted = {"data audit", "train", "convert", "evaluate", "find", "device run", "device report", "demo"}
    assert wanted <= names


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(path, command, id=" ".join(path) or "bloodedge") for path, command in walk(cli)]
)
def test_every_command_and_every_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts}"
        else:
            for word in (parameter.metavar or "").strip("[].").split("|"):
                assert word in command.help


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(command, id=" ".join(path) or "bloodedge")
        for path, command in walk(cli)
        if isinstance(command, click.Group)
    ],
)
def test_the_list_of_commands_is_whole_on_a_terminal_of_80_columns(group: click.Group) -> None:
    context = click.Context(group, terminal_width=80)
    listed = group.get_help(context).partition("Commands:")[2]
    for name in group.list_commands(context):
        assert f"\n  {name} " in listed
    assert "..." not in listed


def test_the_table_of_commands_names_commands_that_exist() -> None:
    for name, (place, text) in COMMANDS.items():
        assert place.count(":") == 1, name
        assert text.endswith(".")


def test_help_states_the_research_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert RESEARCH_USE in " ".join(capsys.readouterr().out.split())


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


def test_a_misspelt_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evalute") == 2
    assert 'no command "evalute". Did you mean "evaluate"?' in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["data", "audit"], ["data", "audit", ".", "--jsn", "x"], ["train", "."]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BloodedgeError("The disk is full."), 1, "bloodedge: The disk is full."),
        (UsageError("No such folder."), 2, "bloodedge: No such folder."),
        (StoppedError("Go on with --resume."), 130, "bloodedge: Go on with --resume."),
        (KeyboardInterrupt(), 130, "bloodedge: interrupted; what was finished is kept."),
    ],
)
def test_each_ending_has_its_exit_code_and_one_line_on_stderr(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(module.LazyGroup, "get_command", lambda *_: failing)
    assert run("data") == code
    told = capsys.readouterr()
    assert told.err.strip() == words
    assert told.out == ""


def test_a_stage_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(module.COMMANDS, "train", ("a_missing_package.cli:train", "Fit."))
    assert run("train", "--help") == 2
    assert '"bloodedge train" needs a_missing_package, which is not installed' in capsys.readouterr().err


def test_a_reader_that_stops_reading_brings_no_traceback(rendered_data: Path) -> None:
    command = [sys.executable, "-m", "bloodedge", "data", "audit", str(rendered_data), "--json", "-"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait() in {1, 128 + signal.SIGPIPE, -signal.SIGPIPE}
    assert "Traceback" not in told
    assert "Exception ignored" not in told


def test_a_command_that_misses_a_package_says_which_and_gives_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sqlalchemy.py").write_text("raise ModuleNotFoundError('no', name='sqlalchemy.dialects')")
    done = subprocess.run(
        [sys.executable, "-m", "bloodedge", "fleet", "boards"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bloodedge: this command needs sqlalchemy, which is not installed; install it with: ")
    assert done.stderr.endswith(" install -e '.[fleet]'\n")
