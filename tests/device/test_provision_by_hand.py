"""What persons, editors and other programs have done to a root is kept, and told."""

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.provision import content
from bloodedge_device.provision.undo_record import RECORD
from support.cards import ADDED, CMDLINE, CONFIG, contents, make_card, pi, provision


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_card(tmp_path / "card")


def boot_files(root: Path) -> tuple[Path, Path]:
    return root / "boot/firmware/config.txt", root / "boot/firmware/cmdline.txt"


def test_a_unit_changed_by_hand_is_kept_and_the_new_one_lies_beside_it(root: Path) -> None:
    pi(root, "--yes")
    unit = root / "etc/systemd/system/bloodedge-device.service"
    unit.write_text("[Service]\nExecStart=/bin/mine\n")

    answer = pi(root, "--yes")

    assert f"Kept, because it was changed by hand: {unit}" in answer.output
    assert unit.read_text() == "[Service]\nExecStart=/bin/mine\n"
    assert "Type=notify" in Path(f"{unit}.bloodedge-new").read_text()


def test_what_was_kept_is_told_each_time_and_written_beside_once(root: Path) -> None:
    pi(root, "--yes")
    unit = root / "etc/systemd/system/bloodedge-device.service"
    unit.write_text("[Service]\n")
    pi(root, "--yes")
    beside = Path(f"{unit}.bloodedge-new")
    written_ns = beside.stat().st_mtime_ns

    answer = pi(root, "--yes")

    assert f"Kept, because it was changed by hand: {unit}" in answer.output
    assert "Nothing to do." in answer.output
    assert beside.stat().st_mtime_ns == written_ns
    provision(root, "--undo", "--yes")
    assert not beside.exists()


def test_a_new_text_that_a_person_takes_over_is_the_board_s_again(root: Path) -> None:
    pi(root, "--yes")
    unit = root / "etc/systemd/system/bloodedge-device.service"
    unit.write_text("[Service]\n")
    pi(root, "--yes")
    beside = Path(f"{unit}.bloodedge-new")
    unit.write_bytes(beside.read_bytes())

    assert "by hand" not in pi(root, "--yes").output
    assert not beside.exists()
    provision(root, "--undo", "--yes")
    assert not unit.exists()


REMOVED = (
    "etc/systemd/system/timers.target.wants/bloodedge-backup.timer",  # systemctl disable
    "etc/udev/rules.d/70-bloodedge-camera.rules",
)


def test_what_a_person_removed_stays_away_until_all_is_undone(root: Path) -> None:
    pi(root, "--yes")
    paths = [root / path for path in REMOVED]
    for path in paths:
        path.unlink()

    for _ in range(2):
        answer = provision(root, "--board", "recorded", "--yes")
        for path in paths:
            assert f"Left out, because it was removed by hand: {path}" in answer.output
            assert not path.is_symlink()
            assert not path.exists()
    provision(root, "--undo", "--yes")
    pi(root, "--yes")
    assert all(path.is_symlink() or path.exists() for path in paths)


def test_a_read_only_root_that_was_given_up_does_not_come_back(root: Path) -> None:
    pi(root, "--yes", "--read-only-root")
    mount = root / "etc/systemd/system/var-lib-bloodedge.mount"
    mount.write_text(f"{mount.read_text()}Options=noatime\n")
    pi(root, "--yes")
    assert not (root / "etc/overlayroot.local.conf").exists()

    provision(root, "--board", "recorded", "--yes")

    assert not (root / "etc/overlayroot.local.conf").exists()


def test_after_an_undo_nothing_is_recorded_though_a_person_s_files_stay(root: Path) -> None:
    pi(root, "--yes")
    settings = root / "etc/bloodedge/device.toml"
    settings.write_text("# mine\n")

    answer = provision(root, "--undo", "--yes")

    assert f"Kept, because it was changed by hand: {settings}" in answer.output
    assert settings.read_text() == "# mine\n"
    assert not (root / RECORD).exists()
    assert "was never provisioned" in str(provision(root, "--board", "recorded").exception)


def test_undo_keeps_what_a_person_added_to_the_boot_files(root: Path) -> None:
    pi(root, "--yes")
    config, cmdline = boot_files(root)
    config.write_text(f"{config.read_text()}dtoverlay=imx477\n")
    cmdline.write_text(f"{cmdline.read_text().strip()} usbcore.quirks=1\n")

    provision(root, "--undo", "--yes")

    assert config.read_text() == f"{CONFIG}dtoverlay=imx477\n"
    assert cmdline.read_text() == f"{CMDLINE.strip()} usbcore.quirks=1\n"


def test_what_a_person_did_to_the_boot_files_outlives_an_upgrade_and_an_undo(root: Path) -> None:
    pi(root, "--yes")
    config, cmdline = boot_files(root)
    config.write_text(f"{config.read_text()}dtparam=spi=on\n")
    cmdline.write_text(f"{cmdline.read_text().replace(' quiet', '').strip()} usbcore.autosuspend=-1\n")

    for _ in range(2):
        answer = provision(root, "--board", "recorded", "--yes")
        assert f"Kept, because it was changed by hand: {cmdline}" in answer.output
        assert "quiet" not in cmdline.read_text()
    provision(root, "--undo", "--yes")
    assert config.read_text() == f"{CONFIG}dtparam=spi=on\n"
    assert cmdline.read_text() == f"{CMDLINE.strip()} usbcore.autosuspend=-1\n"


@pytest.mark.parametrize("undo", [False, True])
def test_a_block_that_a_person_changed_is_kept(root: Path, undo: bool) -> None:
    pi(root, "--yes")
    config, _ = boot_files(root)
    mine = config.read_text().replace("camera_auto_detect=1", "camera_auto_detect=0\ndtoverlay=imx296")
    assert "imx296" in mine
    config.write_text(mine)

    answer = provision(root, "--undo", "--yes") if undo else provision(root, "--board", "recorded", "--yes")

    assert f"Kept, because it was changed by hand: {config}" in answer.output
    assert config.read_text() == mine


def test_a_block_that_a_person_removed_stays_away(root: Path) -> None:
    pi(root, "--yes")
    config, _ = boot_files(root)
    config.write_text(CONFIG)

    answer = provision(root, "--board", "recorded", "--yes")

    assert f"Left out, because it was removed by hand: {config}" in answer.output
    assert config.read_text() == CONFIG


def test_what_an_older_version_wrote_is_replaced_where_it_stands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board_files = content.board_files

    def older(board: str, folder: Path, read_only: bool) -> dict[str, content.Piece]:
        pieces = board_files(board, folder, read_only)
        block, words = (pieces[f"boot/firmware/{name}"].text for name in ("config.txt", "cmdline.txt"))
        pieces["boot/firmware/config.txt"] = content.Piece("block", block.replace("dtparam=watchdog=on\n", ""))
        pieces["boot/firmware/cmdline.txt"] = content.Piece("words", words.replace("quiet", "loglevel=3"))
        return pieces

    with monkeypatch.context() as patch:
        patch.setattr("bloodedge_device.provision.plan.board_files", older)
        pi(root, "--yes")
    config, cmdline = boot_files(root)
    assert "dtparam=watchdog=on" not in config.read_text()
    config.write_text(f"{config.read_text()}gpu_mem=64\n")

    assert "by hand" not in pi(root, "--yes").output

    assert "dtparam=watchdog=on\n" in config.read_text()
    assert config.read_text().endswith("# bloodedge: end\ngpu_mem=64\n")
    assert config.read_text().count("# bloodedge: begin") == 1
    assert sorted(cmdline.read_text().split()) == sorted([*CMDLINE.split(), *ADDED.split()])
    provision(root, "--undo", "--yes")
    assert (config.read_text(), cmdline.read_text()) == (f"{CONFIG}gpu_mem=64\n", CMDLINE)


def test_boot_files_of_any_editor_stay_as_that_editor_left_them(root: Path) -> None:
    """Windows' ends of lines, a letter in Latin-1, a second line."""
    config, cmdline = boot_files(root)
    config.write_bytes(b"# Kam\xe9ra\r\ndtparam=audio=on\r\n")
    cmdline.write_bytes(b"root=/dev/sda2 rootwait\r\n# old: root=/dev/sda1 init=/bin/sh")
    before = contents(root)

    pi(root, "--yes")

    assert b"\r\n[all]\r\n" in config.read_bytes()
    assert config.read_bytes().count(b"\n") == config.read_bytes().count(b"\r\n")
    first, second = cmdline.read_bytes().split(b"\n")
    assert first == f"root=/dev/sda2 rootwait {ADDED}\r".encode()
    assert second == b"# old: root=/dev/sda1 init=/bin/sh"
    assert pi(root, "--yes").output == "Nothing to do.\n"
    provision(root, "--undo", "--yes")
    assert contents(root) == before


def test_an_editor_s_other_ends_of_lines_change_nothing_of_ours(root: Path) -> None:
    pi(root, "--yes")
    for path in boot_files(root):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert pi(root, "--yes").output == "Nothing to do.\n"
    provision(root, "--undo", "--yes")
    ends = [text.replace("\n", "\r\n").encode() for text in (CONFIG, CMDLINE)]
    assert [path.read_bytes() for path in boot_files(root)] == ends


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("boot/firmware/config.txt", 'config.txt has a line "# bloodedge: begin" and no line "# bloodedge: end"'),
        ("boot/firmware/cmdline.txt", "is a link; replace it by the file itself"),
        ("etc/sysctl.d/99-bloodedge.conf", "is not a file; move it away"),
        ("etc/tmpfiles.d/bloodedge.conf", "is not a file; move it away"),
        ("etc/udev", "is a circle of links"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_sentence_and_nothing_is(root: Path, path: str, sentence: str) -> None:
    odd = root / path
    odd.parent.mkdir(parents=True, exist_ok=True)
    match odd.name:
        case "config.txt":
            odd.write_text(f"{CONFIG}# bloodedge: begin\n[all]\n")
        case "cmdline.txt":
            odd.rename(odd.with_name("mine.txt"))
            odd.symlink_to("mine.txt")
        case "99-bloodedge.conf":
            os.mkfifo(odd)
        case "udev":
            odd.symlink_to("udev")
        case _:
            odd.mkdir()
    before = contents(root)

    refused = pi(root, "--yes")

    assert isinstance(refused.exception, UsageError)
    assert sentence in str(refused.exception)
    assert contents(root) == before


def test_a_link_leads_where_the_board_sees_it_lead_and_never_out_of_the_card(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "etc/systemd").symlink_to(outside)
    (root / "var").symlink_to(outside)
    before = contents(root)

    pi(root, "--yes")

    assert not list(outside.iterdir())
    seen = root.joinpath(*outside.parts[1:])
    assert "Type=notify" in (seen / "system/bloodedge-device.service").read_text()
    assert (seen / Path(RECORD).relative_to("var")).exists()
    assert pi(root, "--yes").output == "Nothing to do.\n"
    assert provision(root, "--undo", "--yes").exit_code == 0
    assert contents(root) == before


def test_undo_leaves_no_folder_that_was_made_and_takes_none_that_was_there(root: Path) -> None:
    for folder in ("etc/sysctl.d", "etc/udev/rules.d", "etc/bloodedge", "etc/systemd/system/sockets.target.wants"):
        (root / folder).mkdir(parents=True)
    (root / "etc/bloodedge/device.toml").write_text("# mine\n")
    before = sorted(root.rglob("*"))
    pi(root, "--yes")
    assert (root / "etc/bloodedge/device.toml.bloodedge-new").exists()
    wants = root / "etc/systemd/system/sockets.target.wants"
    (wants / "bloodedge-device.socket").symlink_to("/etc/systemd/system/bloodedge-device.socket")  # by a person

    provision(root, "--undo", "--yes")

    made_by_systemd = ("var", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/bloodedge/trust")
    left = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path not in before]
    assert [path for path in left if not path.startswith(made_by_systemd)] == []
    assert [path for path in before if not path.exists()] == []


@pytest.fixture
def small_root(root: Path, tmp_path: Path) -> Iterator[Path]:
    """A root on a small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    for folder in ("etc", "usr", "boot"):
        shutil.copytree(root / folder, disk / folder)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_stops_provisioning_in_a_sentence_and_can_be_undone(small_root: Path) -> None:
    before = contents(small_root)
    pi(small_root, "--yes")
    with (small_root / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    refused = pi(small_root, "--read-only-root", "--yes")
    assert isinstance(refused.exception, BloodedgeError)
    assert "the disk is full" in str(refused.exception)

    assert provision(small_root, "--undo", "--yes").exit_code == 0

    (small_root / "ballast").unlink()
    assert contents(small_root) == before


def test_a_record_of_the_first_version_is_understood(root: Path) -> None:
    before = contents(root)
    pi(root, "--yes")
    record = json.loads((root / RECORD).read_text())
    for name in ("version", "read_only", "folders"):
        del record[name]
    for entry in record["entries"].values():
        del entry["in_change"]
    for path in boot_files(root):
        record["entries"][str(path.relative_to(root))]["written"] = b64encode(path.read_bytes()).decode()
    (root / RECORD).write_text(json.dumps(record))

    assert "by hand" not in pi(root, "--yes").output
    provision(root, "--undo", "--yes")

    assert contents(root) == before
