import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.cli.provision import provision_command
from bloodedge_device.provision.undo_record import RECORD
from bloodedge_device.settings.board_profiles import names, read_profile
from support.cards import AARCH64, ADDED, CMDLINE, CONFIG, X86_64, contents, make_architecture, make_card, pi, provision
from support.needs import needs

FAULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "provision_faults.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_card(tmp_path / "card")


def test_the_difference_is_shown_and_without_a_yes_nothing_is_written(root: Path) -> None:
    before = contents(root)

    shown, asked = pi(root, "--dry-run"), pi(root)

    assert "+dtparam=watchdog=on" in shown.output
    assert "+++ b/etc/systemd/system/bloodedge-device.service" in shown.output
    assert isinstance(asked.exception, UsageError)
    assert "nothing was written; add --yes" in str(asked.exception)
    assert contents(root) == before


def test_a_no_is_an_answer_and_writes_nothing(root: Path) -> None:
    before = contents(root)
    asked = CliRunner().invoke(provision_command, ["--root", str(root), "--board", "raspberry-pi-5"], input="n\n")
    assert asked.exit_code == 0
    assert asked.output.endswith("Nothing was written.\n")
    assert contents(root) == before


def test_an_interrupted_question_is_told_as_such(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    with pytest.raises(click.Abort):
        provision_command.main(["--root", str(root), "--board", "raspberry-pi-5"], standalone_mode=False)


def test_a_second_run_finds_nothing_to_do(root: Path) -> None:
    assert pi(root, "--yes").exit_code == 0
    written = contents(root)

    assert pi(root, "--yes").output == "Nothing to do.\n"
    assert contents(root) == written


def test_undo_restores_every_byte(root: Path) -> None:
    (root / "boot/firmware/config.txt").chmod(0o600)
    before = contents(root)
    pi(root, "--yes")
    assert contents(root) != before

    assert provision(root, "--undo", "--yes").exit_code == 0

    assert contents(root) == before
    assert (root / "boot/firmware/config.txt").stat().st_mode & 0o777 == 0o600


def test_the_kernel_s_command_stays_one_line_and_config_keeps_what_it_said(root: Path) -> None:
    pi(root, "--yes")

    assert (root / "boot/firmware/cmdline.txt").read_text() == f"{CMDLINE.strip()} {ADDED}\n"
    assert (root / "boot/firmware/config.txt").read_text().startswith(f"{CONFIG}# bloodedge: begin\n[all]\n")


def test_the_services_start_by_themselves(root: Path) -> None:
    pi(root, "--yes")

    link = root / "etc/systemd/system/multi-user.target.wants/bloodedge-device.service"
    assert str(link.readlink()) == "/etc/systemd/system/bloodedge-device.service"


@pytest.mark.parametrize("board", names())
def test_the_daemons_memory_is_limited_to_what_its_board_can_spare(root: Path, board: str) -> None:
    profile = read_profile(board).board
    machine = {"aarch64": AARCH64, "x86_64": X86_64}[profile.architecture]
    make_architecture(root, machine)

    assert provision(root, "--board", board, "--yes").exit_code == 0

    limits = (root / "etc/systemd/system/bloodedge-device.service.d/50-board.conf").read_text().splitlines()
    assert f"MemoryMax={profile.memory_max_mb}M" in limits


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users of a root file system")
def test_a_mounted_card_gets_the_daemons_user_and_folders(root: Path) -> None:
    for name in ("passwd", "group", "shadow", "gshadow"):
        (root / "etc" / name).write_text("")

    done = pi(root, "--yes")

    assert "the card lacks the program" in done.output
    (line,) = (line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("bloodedge:"))
    stored = (root / "var/lib/bloodedge").stat()
    assert (stored.st_uid, stored.st_mode & 0o777) == (int(line.split(":")[2]), 0o700)
    assert (root / "etc/bloodedge/trust").is_dir()
    (root / "usr/bin/bloodedge").symlink_to("/opt/bloodedge/bin/bloodedge")
    provision(root, "--undo", "--yes")
    assert "lacks" not in pi(root, "--yes").output


def test_another_board_takes_the_place_of_the_first_and_undo_still_leads_back(root: Path) -> None:
    before = contents(root)
    pi(root, "--yes")

    assert provision(root, "--board", "generic-arm64", "--yes").exit_code == 0
    assert (root / "boot/firmware/config.txt").read_text() == CONFIG
    provision(root, "--undo", "--yes")

    assert contents(root) == before


@pytest.mark.parametrize("read_only", [True, False])
def test_the_recorded_board_is_provisioned_as_it_was(root: Path, read_only: bool) -> None:
    pi(root, "--yes", *(["--read-only-root"] if read_only else []))
    before = contents(root)

    assert "Nothing to do" in provision(root, "--board", "recorded").output
    unit = root / "etc/systemd/system/bloodedge-doctor.timer"
    unit.unlink()
    provision(root, "--board", "recorded", "--yes")
    assert before.keys() ^ contents(root).keys() == {"etc/systemd/system/bloodedge-doctor.timer"}


@pytest.mark.parametrize(
    ("board", "sentence"),
    [
        ("rasberry-pi-5", 'Did you mean "raspberry-pi-5"'),
        ("intel-n100", "is a system for arm64, but the board needs amd64"),
        ("auto", "name it with --board"),
        ("recorded", "was never provisioned"),
    ],
)
def test_a_wrong_board_is_told_in_a_sentence(root: Path, board: str, sentence: str) -> None:
    assert sentence in str(provision(root, "--board", board).exception)


def test_a_folder_that_is_no_root_is_refused(tmp_path: Path) -> None:
    assert "is not a root file system" in str(pi(tmp_path).exception)


def test_nothing_written_is_nothing_to_undo(root: Path) -> None:
    assert "nothing to undo" in str(provision(root, "--undo").exception)


def test_a_damaged_record_is_called_damaged(root: Path) -> None:
    pi(root, "--yes")
    (root / RECORD).write_text("{")
    refused = provision(root, "--undo")
    assert isinstance(refused.exception, BloodedgeError)
    assert "is damaged; restore it from a backup, or remove it to start again" in str(refused.exception)


@pytest.mark.slow
@needs("strace")
def test_a_power_cut_at_any_write_can_be_finished_and_undone(tmp_path: Path) -> None:
    command = [sys.executable, str(FAULTS), "--every", "5", "--out", str(tmp_path / "faults.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "faults.json").read_text())
    assert result["kill_points"] >= 20
    assert result["failures"] == []
