"""On a provisioned board the daemon's own settings are everybody's, unless others are named."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bloodedge.cli import main
from bloodedge_device.settings import default_state, home_state, read_settings
from bloodedge_device.settings import read as module
from support.nobody import NOBODY, Nobody, interpreter, run_as_nobody

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of a board whose results lie in the folder "results"."""
    path = tmp_path / "etc" / "device.toml"
    path.parent.mkdir()
    path.write_text(f'state = "{tmp_path / "results"}"\nthreads = 3\n')
    monkeypatch.setattr(module, "BOARD_SETTINGS", path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["device", *map(str, arguments)])
        said = capsys.readouterr()
        return int(str(stop.value.code)), said.out + said.err

    return run


@pytest.mark.usefixtures("board")
def test_the_board_s_file_is_read_where_nothing_else_was_named(tmp_path: Path) -> None:
    assert read_settings(None).threads == 3
    assert default_state() == read_settings(None).state == tmp_path / "results"


def test_another_file_or_folder_stands_in_its_place(board: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("threads = 4\n")
    assert read_settings(other).threads == 4
    assert read_settings(None, tmp_path).threads == 2
    board.write_text("mistake")
    assert (read_settings(None, tmp_path).state, read_settings(None, tmp_path).threads) == (tmp_path, 2)


def test_without_a_board_s_file_there_are_the_defaults_and_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BOARD_SETTINGS", tmp_path / "device.toml")
    assert read_settings(None).threads == 2
    assert default_state() == home_state()


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("report",), "results holds no results yet"),
        (("audit",), "results holds no results yet"),
        (("backup", "x.zip"), "results holds no results yet"),
        (("slide", "show"), "No daemon runs on"),
        (("token",), "results does not exist"),
    ],
)
def test_bare_commands_look_where_the_daemon_keeps_its_results(run: Run, command: tuple[str, ...], words: str) -> None:
    code, said = run(*command)
    assert code == 2
    assert words in said
    assert str(read_settings(None).state) in said


@pytest.mark.usefixtures("board")
def test_a_bare_rollback_goes_back_on_the_board_s_own_slots(run: Run, tmp_path: Path) -> None:
    slots = tmp_path / "results" / "slots"
    slots.mkdir(parents=True)
    slot = {
        "name": "lymph",
        "serial": 7,
        "sha256": "0" * 64,
        "installed_at": "2026-01-01T00:00:00Z",
        "state": "good",
    }
    (slots / "slots.json").write_text(json.dumps({"active": "a", "slots": {"a": slot}}))
    assert "lymph 7" in run("slots")[1]
    code, said = run("rollback")
    assert code == 0
    assert "Rolled back to the bundle that came with the installation." in said
    assert run("slots", "--state", tmp_path / "elsewhere")[1].count("empty") == 2


def test_the_doctor_looks_at_the_board_s_own_settings(board: Path, run: Run) -> None:
    board.write_text('camera = { kind = "replay", source = "no.mp4" }\n')
    assert f"{board.parent}/no.mp4 does not exist" in run("doctor", "--json", "-")[1]


def test_a_run_by_hand_says_which_file_it_took(board: Path, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    board.write_text('bundle = "no.bundle"\n')
    with caplog.at_level(logging.INFO, "bloodedge.device"):
        code, said = run("run", "--frames", "1")
    assert code == 2
    assert f"Settings: {board}." in said
    assert f"{board.parent}/no.bundle does not exist" in said


def test_a_mistake_in_the_board_s_file_names_it(board: Path, run: Run) -> None:
    board.write_text("thread = 3\n")
    code, said = run("slots")
    assert code == 2
    assert f"{board} has 1 mistake" in said


def as_nobody_on(board: Path, nobody: Nobody, *arguments: str) -> str:
    code = f"import bloodedge_device.settings.read as s, pathlib; s.BOARD_SETTINGS = pathlib.Path({str(board)!r})"
    call = f"import bloodedge.cli; bloodedge.cli.main({['device', *arguments]!r})"
    done = run_as_nobody([*interpreter(), "-c", f"{code}; {call}"], nobody.folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_another_user_is_told_to_run_the_command_as_the_daemon_s_user(nobody: Nobody) -> None:
    results, board = nobody.folder / "results", nobody.folder / "device.toml"
    results.mkdir(mode=0o700)
    os.chown(results, NOBODY - 1, NOBODY - 1)
    board.write_text('state = "results"\n')
    owner = f"sudo -u '#{NOBODY - 1}' bloodedge device"
    for command in (("audit",), ("backup", "x.zip"), ("slide", "show"), ("token",)):
        assert f"({owner} {command[0]} ...)" in as_nobody_on(board, nobody, *command)
    for command in (("run",), ("rollback",)):
        assert f"put sudo -u '#{NOBODY - 1}' before the command" in as_nobody_on(board, nobody, *command)
    board.chmod(0o600)
    assert "device.toml cannot be read (Permission denied); run the command as root" in as_nobody_on(
        board, nobody, "slots"
    )


@pytest.mark.parametrize("command", ["report", "run", "install", "rollback", "slots", "doctor", "audit", "token"])
def test_the_help_names_the_board_s_file(command: str, run: Run) -> None:
    assert "/etc/bloodedge/device.toml" in "".join(run(command, "--help")[1].split())
