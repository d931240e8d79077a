"""What the operating system refuses is one sentence with a cure, whoever forgot to expect it."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

import bloodedge.cli as module
from bloodedge.bundle import zip_files
from bloodedge.cli import main
from bloodedge.errors import as_owner, system_sentence
from support.nobody import Nobody

MODEL = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"


def ending(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(module.LazyGroup, "get_command", lambda *_: failing)
    with pytest.raises(SystemExit) as stop:
        main(["data"])
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "permissions|run the command as"),
        (errno.EPERM, "permissions|run the command as"),
        (errno.ENOENT, "check its name"),
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "choose another folder"),
        (errno.EIO, "check the disk"),
        (errno.EBUSY, "remove the cause"),
    ],
)
def test_an_error_of_the_system_that_nobody_expected_names_the_path_the_reason_and_a_cure(
    number: int, cure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "results"
    assert ending(OSError(number, os.strerror(number), str(path)), monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"bloodedge: {path} cannot be used ({os.strerror(number)}); ")
    assert any(word in said for word in cure.split("|"))
    assert said.count("\n") == 1


def test_what_more_likely_is_a_fault_in_here_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system_sentence(OSError("said by a library")) is None
    assert system_sentence(OSError(errno.EBADF, "Bad file descriptor")) is None
    with pytest.raises(OSError, match="Bad file"):
        ending(OSError(errno.EBADF, "Bad file descriptor"), monkeypatch)
    with pytest.raises(ValueError, match="wrong"):
        ending(ValueError("wrong"), monkeypatch)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_has_no_room_is_one_sentence() -> None:
    command = [sys.executable, "-m", "bloodedge", "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "free some space" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_the_cure_names_the_owner_of_what_is_closed(tmp_path: Path) -> None:
    assert as_owner(tmp_path) == "change its permissions"
    for owner, words in ((65534, "sudo -u nobody bloodedge ..."), (54321, "sudo -u '#54321' bloodedge ...")):
        os.chown(tmp_path, owner, owner)
        assert words in as_owner(tmp_path / "not" / "there")


def test_proc_takes_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["keys", "new", "T", "-o", "/proc/nope"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("bloodedge: /proc/nope cannot be used")
    assert said.count("\n") == 1


def test_a_bundle_in_another_users_folder_is_not_called_damaged(nobody: Nobody) -> None:
    shutil.copy(MODEL, nobody.closed / "new.bundle")
    code, said = nobody.run("verify", "closed/new.bundle", "--trust", "trust")
    assert code == 2
    assert "closed/new.bundle cannot be read (Permission denied); copy it to where this user may read it, or" in said
    assert "run the command as root (sudo bloodedge ...)" in said
    assert said.count("\n") == 1


def test_a_file_of_a_bundle_that_is_a_folder_may_be_closed(nobody: Nobody) -> None:
    folder = nobody.folder / "folder.bundle"
    shutil.unpack_archive(MODEL, folder, "zip")
    (folder / "manifest.json").chmod(0o600)
    code, said = nobody.run("verify", "folder.bundle", "--trust", "trust")
    assert code == 2
    assert "copy it to where this user may read it" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "list", "--trust", "closed/trust"], "so no key can be trusted; run the command as root"),
        (["keys", "new", "Q", "-o", "closed/k"], "closed/k/Q.key cannot be used (Permission denied); run the command"),
        (["keys", "trust", "closed/lab.pub", "--trust", "own"], "cannot be read (Permission denied); run the command"),
        (["sign", "own", "--key", "closed/lab.key"], "cannot be read (Permission denied); run the command as root"),
        (["data", "audit", "closed/cells"], "run the command as root"),
    ],
)
def test_what_lies_in_another_users_folder_is_one_sentence(nobody: Nobody, arguments: list[str], words: str) -> None:
    code, said = nobody.run(*arguments)
    assert code in {1, 2}
    assert words in said
    assert said.strip().count("\n") == 0


def not_released(target: Path) -> None:
    """A bundle like a released one under another name."""
    with zipfile.ZipFile(MODEL) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["manifest.json"] = json.dumps({**json.loads(files["manifest.json"]), "name": "my own"}).encode()
    zip_files(files, target)


def test_a_closed_folder_of_keys_is_told_apart_from_an_empty_and_from_a_damaged_one(nobody: Nobody) -> None:
    trust = nobody.folder / "trust"
    trust.mkdir()
    trust.chmod(0o711)  # what lies there can be opened, and not listed
    not_released(nobody.own / "my.bundle")
    code, said = nobody.run("verify", "own/my.bundle", "--trust", "own/../trust")
    assert code == 2
    trust.chmod(0o755)
    (trust / "revoked.json").write_text('{"keys": {}}')
    (trust / "revoked.json").chmod(0o600)
    code, told = nobody.run("verify", "own/my.bundle", "--trust", "trust")
    assert code == 2
    assert "revoked.json cannot be read (Permission denied), so no key can be trusted; run the command as root" in told
    assert "backup" not in said + told


def test_a_path_that_click_refuses_says_who_may_read_it(nobody: Nobody) -> None:
    (nobody.folder / "lab.key").touch(mode=0o600)
    code, said = nobody.run("sign", "own", "--key", "lab.key")
    assert code == 2
    assert said.endswith("'lab.key' is not readable.\nRun the command as root (sudo bloodedge ...).\n")
