"""What belongs to another user is told apart from what is damaged, and neither read nor written by halves."""

import grp
import json
import os
import shutil
import stat
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge_device.bundles.start import counted_start
from bloodedge_device.provision.undo_record import RECORD
from bloodedge_device.settings import DeviceSettings
from support.nobody import NOBODY, Nobody

MODEL = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
AARCH64 = 183
DAEMON = NOBODY - 1
"""A user without a name."""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(str(stop.value.code)), said.out + said.err

    return run


@pytest.fixture
def theirs(nobody: Nobody) -> Nobody:
    """Settings that a user may read, of results that the user may not."""
    (nobody.folder / "theirs.toml").write_text('state = "closed"\n')
    (nobody.folder / "own.toml").write_text('state = "own/state"\n')
    return nobody


@pytest.mark.parametrize(
    "command", [("install", "closed/new.bundle"), ("run", "--frames", "1", "--bundle", "closed/new.bundle")]
)
def test_a_bundle_in_another_users_folder_says_how_it_can_be_read(theirs: Nobody, command: tuple[str, ...]) -> None:
    shutil.copy(MODEL, theirs.closed / "new.bundle")
    code, said = theirs.run("device", *command, "--config", "own.toml")
    assert code == 2
    assert "new.bundle cannot be read (Permission denied); copy it to where this user may read it, or run" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_command_given_within_a_folder_that_its_user_may_not_enter_works_all_the_same(theirs: Nobody) -> None:
    """As ``sudo -u bloodedge`` in a person's home: OpenVINO looks round in the working folder, and ends the process."""
    settings = theirs.folder / "openvino.toml"
    settings.write_text(f'engine = "openvino"\nbundle = "{MODEL}"\nstate = "own/state"\n[web]\nenabled = false\n')
    command = ("device", "run", "--config", settings, "--camera", "simulated", "--frames", "1")
    code, said = theirs.run(*command, within=theirs.closed)
    assert (code, said.startswith("1 frames (")) == (0, True), said


def test_a_certificate_that_the_daemon_may_not_read_is_told_with_its_cure(theirs: Nobody) -> None:
    """As copied by root from certificates.sh, whose files are 0600."""
    (theirs.folder / "ca.pem").write_text("")
    (theirs.folder / "ca.pem").chmod(0o600)
    (theirs.folder / "tls.toml").write_text('state = "own/state"\n[mqtt]\nhost = "b"\ntls = true\nca = "ca.pem"\n')
    code, said = theirs.run("device", "config", "--check", "--config", "tls.toml")
    assert code == 2
    group = grp.getgrgid(NOBODY).gr_name
    assert "ca.pem cannot be read by nobody; allow it:" in said
    assert f"sudo chgrp {group} ca.pem, then sudo chmod g+r ca.pem" in said


def test_who_is_not_the_daemon_s_user_is_not_told_to_take_its_key_away(theirs: Nobody) -> None:
    (theirs.folder / "b.key").write_text("")
    (theirs.folder / "b.key").chmod(0o640)
    (theirs.folder / "state").mkdir()
    os.chown(theirs.folder / "state", DAEMON, DAEMON)
    (theirs.folder / "tls.toml").write_text(
        'state = "state"\n[mqtt]\nhost = "b"\ntls = true\ncertificate = "tls.toml"\nkey = "b.key"\n'
    )
    said = theirs.run("device", "config", "--check", "--config", "tls.toml")[1]
    assert "b.key cannot be read by nobody, and state is another user's" in said
    assert f"run the command as its owner (sudo -u '#{DAEMON}' bloodedge ...)" in said
    assert "chgrp" not in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "--frames", "1"], "closed belongs to root, who has to do this"),
        (["slots"], "cannot be read (Permission denied); run the command as root (sudo bloodedge ...)"),
        (["rollback"], "closed belongs to root, who has to do this"),
        (["install", str(MODEL)], "closed belongs to root, who has to do this"),
    ],
)
def test_another_users_results_name_who_may_use_them(theirs: Nobody, command: list[str], words: str) -> None:
    code, said = theirs.run("device", *command, "--config", "theirs.toml")
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["audit"], ["backup", "own/results.zip"], ["slide", "show"], ["slide", "end"], ["token"]]
)
def test_results_in_a_closed_folder_name_the_command_for_their_owner(theirs: Nobody, command: list[str]) -> None:
    code, said = theirs.run("device", *command, "--state", "closed/state")
    assert code == 2
    words = (
        f"closed/state cannot be read by this user; run the command as root (sudo bloodedge device {command[0]} ...)"
    )
    assert words in said
    assert said.count("\n") == 1
    assert not list(theirs.own.iterdir())


def test_a_report_on_a_closed_folder_is_one_sentence(theirs: Nobody) -> None:
    code, said = theirs.run("device", "report", "--state", "closed/state")
    assert code == 1
    assert "run the command as root (sudo bloodedge ...)" in said
    assert said.count("\n") == 1


def test_the_doctor_says_whose_the_results_are(theirs: Nobody) -> None:
    code, said = theirs.run("device", "doctor", "--config", "theirs.toml", "--json", "-")
    findings = {finding["name"]: finding for finding in json.JSONDecoder().raw_decode(said)[0]["findings"]}
    assert code == 1
    for name, command in (("permissions", "bloodedge device doctor ..."), ("database", "bloodedge ...")):
        assert findings[name]["level"] == "failed"
        assert "closed" in findings[name]["sentence"]
        assert findings[name]["cure"] == f"Run the command as root (sudo {command})."
    assert "broke off" not in said


def test_unreadable_keys_are_told_apart_from_damaged_ones(theirs: Nobody) -> None:
    (theirs.folder / "keys.toml").write_text('state = "own/state"\n[trust]\nkeys = "keys"\n')
    (theirs.folder / "keys").mkdir(mode=0o700)
    bundle = theirs.own / "my.bundle"
    shutil.unpack_archive(MODEL, bundle, "zip")
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text + "\n")  # as nothing that came with the installation
    code, said = theirs.run("device", "install", "own/my.bundle", "--config", "keys.toml")
    assert code == 2
    assert "keys cannot be read (Permission denied), so no key can be trusted; run the command as root" in said
    assert "backup" not in said


@pytest.fixture
def board(nobody: Nobody) -> Nobody:
    """A mounted card, root's as they are."""
    root = nobody.folder / "card"
    for folder in ("etc", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/dpkg").write_bytes(b"\x7fELF" + bytes(14) + AARCH64.to_bytes(2, "little"))
    return nobody


PROVISION = ("device", "provision", "--board", "generic-arm64", "--root")


@pytest.mark.parametrize("more", [(), ("--yes",)])
def test_provisioning_without_rights_asks_nothing_and_says_sudo(board: Nobody, more: tuple[str, ...]) -> None:
    code, said = board.run(*PROVISION, "card", *more)
    assert (code, said) == (2, "bloodedge: Provisioning card needs root; run it again with sudo.\n")


def test_a_difference_may_be_looked_at_without_rights(board: Nobody) -> None:
    code, said = board.run(*PROVISION, "card", "--dry-run")
    assert code == 0
    assert said.endswith("Nothing was written.\n")


def test_a_card_in_a_closed_folder_is_one_sentence(board: Nobody) -> None:
    (board.closed / "card").mkdir()
    code, said = board.run(*PROVISION, "closed/card")
    assert (code, said) == (2, "bloodedge: Provisioning closed/card needs root; run it again with sudo.\n")


def test_a_card_of_ones_own_is_provisioned_without_root(board: Nobody) -> None:
    for path in (board.folder / "card", *(board.folder / "card").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert board.run(*PROVISION, "card", "--yes")[0] == 0


@pytest.mark.parametrize("more", [("--dry-run",), ("--undo",)])
def test_a_record_that_only_root_may_read_is_not_called_damaged(board: Nobody, run: Run, more: tuple[str, ...]) -> None:
    assert run(*PROVISION, board.folder / "card", "--yes")[0] == 0
    assert stat.S_IMODE((board.folder / "card" / RECORD).stat().st_mode) == 0o600
    code, said = board.run(*PROVISION, "card", *more)
    assert (code, said) == (2, "bloodedge: Provisioning card needs root; run it again with sudo.\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_root_makes_no_token_in_another_users_results(state: Path, run: Run) -> None:
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)
    code, said = run("device", "token", "--state", state)
    assert code == 2
    assert "belongs to nobody, who has to do this: put sudo -u nobody before the command" in said
    assert not list(state.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_root_does_not_run_on_another_users_results(state: Path) -> None:
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)
    with pytest.raises(UsageError, match="sudo -u nobody"), counted_start(DeviceSettings(state=state)):
        pass


def test_a_mistyped_folder_gets_no_token_and_is_not_made(state: Path, run: Run) -> None:
    code, said = run("device", "token", "--state", state)
    assert code == 2
    assert "state does not exist; check its name" in said
    assert not state.exists()


def test_a_desktop_s_own_results_get_a_token_before_the_first_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run("device", "token")[0] == 0
    assert (tmp_path / "bloodedge" / "token.json").is_file()
