"""Where the server's commands find its files, and that nobody spoils them for the user who runs it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bloodedge.cli import cli
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_fleet import state_dir
from bloodedge_fleet.database import migrate, open_database

NOBODY = 65534


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server that runs as a service, and a home beside it."""
    folder = tmp_path / "service"
    folder.mkdir()
    engine = open_database(None, folder)
    migrate(engine)
    engine.dispose()
    monkeypatch.setattr(state_dir, "SERVICE_STATE", folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BLOODEDGE_FLEET_STATE", raising=False)
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["fleet", *words])


def test_commands_find_the_service_s_folder_and_a_person_s_own_where_there_is_none(
    service: Path, tmp_path: Path
) -> None:
    assert "No board has reported" in run("boards").output
    assert run("token").exit_code == 0
    assert (service / "token.json").is_file()
    assert not (tmp_path / "home").exists()
    service.rename(tmp_path / "gone")
    assert run("token").exit_code == 0
    assert (tmp_path / "home" / "bloodedge-fleet" / "token.json").is_file()


def test_a_state_that_is_given_stands_before_the_service_s(service: Path, tmp_path: Path) -> None:
    assert run("token", "--state", str(tmp_path / "other")).exit_code == 0
    assert not (service / "token.json").exists()
    assert (tmp_path / "other" / "token.json").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
@pytest.mark.parametrize(
    "words", ["token", "boards", "rollouts", "halt x", "forget x", "rollout x --unsigned", "serve --broker h:1"]
)
def test_root_leaves_nothing_in_the_service_s_folder_that_its_user_cannot_read(service: Path, words: str) -> None:
    os.chown(service, NOBODY, NOBODY)
    before = sorted(service.iterdir())
    done = run(*words.split())
    assert isinstance(done.exception, UsageError), done.output
    assert "put sudo -u nobody before the command" in str(done.exception)
    assert sorted(service.iterdir()) == before


def test_a_command_is_told_with_its_state_where_it_is_not_the_usual_one(service: Path, tmp_path: Path) -> None:
    assert state_dir.command("token", service) == "bloodedge fleet token"
    assert state_dir.command("token", tmp_path / "a b") == f"bloodedge fleet token --state '{tmp_path}/a b'"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_token_that_cannot_be_read_is_wrong_usage_which_systemd_does_not_try_again(
    service: Path, content: bytes
) -> None:
    (service / "token.json").write_bytes(content)
    done = run("serve", "--broker", "h:1", "--listen", "127.0.0.1:0")
    assert isinstance(done.exception, UsageError), done.output
    assert str(done.exception).endswith("make another token with: bloodedge fleet token")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=False).returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_told_with_its_cure(small_disk: Path) -> None:
    engine = open_database(None, small_disk)
    migrate(engine)
    engine.dispose()
    with suppress(OSError), (small_disk / "full").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    done = run("boards", "--state", str(small_disk))
    assert isinstance(done.exception, BloodedgeError), done.output
    assert "free some space" in str(done.exception)
