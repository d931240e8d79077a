"""The systemd units in firmware_configs, by systemd's own judgement."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bloodedge_device.provision.boards import firmware_folder
from support.needs import needs

MOST_EXPOSED = 2.5

pytestmark = needs("systemd-analyze")

SERVICES = sorted((firmware_folder() / "root/etc/systemd/system").glob("*.service"))


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with systemd's own units and programs of the names that ours start."""
    for folder in ("root", "read-only-root"):
        shutil.copytree(firmware_folder() / folder, tmp_path, dirs_exist_ok=True)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    for program in ("usr/bin/bloodedge", "bin/sh", "bin/kill"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/true\n")
        (tmp_path / program).chmod(0o755)
    return tmp_path


def test_systemd_finds_no_fault_in_any_unit(root: Path) -> None:
    ours = (root / "etc/systemd/system").iterdir()
    units = [path.name if path.is_file() else path.name.removesuffix(".d") for path in ours]

    answer = analyze("verify", "--man=no", "--root", str(root), *units)

    ours = [line for line in answer.stderr.splitlines() if any(unit in line for unit in units)]
    assert (ours, answer.returncode) == ([], 0), answer.stderr


def test_systemd_would_tell_of_a_setting_that_it_does_not_know(root: Path) -> None:
    unit = root / "etc/systemd/system/bloodedge-device.service"
    unit.write_text(unit.read_text() + "\n[Service]\nWatchdogSek=3\n")

    assert "WatchdogSek" in analyze("verify", "--man=no", "--root", str(root), unit.name).stderr


def test_the_daemon_is_confined_watched_and_started_again() -> None:
    text = (firmware_folder() / "root/etc/systemd/system/bloodedge-device.service").read_text()
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            said.setdefault(name, []).append(value)
    assert (said["User"], said["NoNewPrivileges"], said["ProtectSystem"]) == (["bloodedge"], ["yes"], ["strict"])
    assert (said["DevicePolicy"], said["CapabilityBoundingSet"]) == (["closed"], [""])
    assert {one.split()[0] for one in said["DeviceAllow"]} == {
        "char-video4linux", "char-media", "char-dma_heap", "char-drm"
    }  # fmt: skip
    assert said["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert (said["Type"], said["WatchdogSec"]) == (["notify"], ["120s"])
    assert (said["Restart"], said["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert said["RestartPreventExitStatus"] == ["2"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_exposes_little(service: Path) -> None:
    answer = analyze("security", "--offline=true", "--no-pager", str(service))
    exposure = re.search(rf"exposure level for {re.escape(service.name)}: ([0-9.]+)", answer.stdout)
    assert exposure is not None, answer.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


@needs("systemd-sysusers")
def test_the_daemons_user_is_made_in_a_fresh_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    rules = firmware_folder() / "root/etc/sysusers.d/bloodedge.conf"
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(rules)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in (tmp_path / "etc/passwd").read_text().splitlines() if one.startswith("bloodedge:")]
    assert line.endswith("/nologin")
    members = {
        one.split(":")[0] for one in (tmp_path / "etc/group").read_text().splitlines() if one.endswith("bloodedge")
    }
    assert {"video", "render"} <= members
