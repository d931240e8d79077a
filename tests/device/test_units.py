"""The systemd units in firmware_configs, by systemd's own judgement."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "firmware_configs" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
MOST_EXPOSED = 2.5

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)


def analyse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are, but for a program that every machine has in the place of one that only a board has."""
    for path in UNITS.iterdir():
        if path.suffix in {".service", ".timer"}:
            text = path.read_text().replace("/usr/bin/bloodedge", "/bin/true")
            (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_with_any_unit(installed: Path) -> None:
    units = [str(path) for path in sorted(installed.iterdir())]
    assert len(units) >= 5
    done = analyse("verify", "--man=no", "--recursive-errors=no", *units)
    said = [line for line in done.stderr.splitlines() if "bloodedge" in line]
    assert (done.returncode, said) == (0, [])


def test_systemd_would_find_a_mistake(installed: Path) -> None:
    unit = installed / "bloodedge-device.service"
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    assert "KilMode" in analyse("verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_exposes_little(service: str) -> None:
    done = analyse("security", "--offline=true", str(UNITS / service))
    exposure = re.search(rf"exposure level for {re.escape(service)}: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


def test_the_daemon_is_killed_by_the_watchdog_alone_and_restarted_unless_its_settings_are_wrong() -> None:
    text = (UNITS / "bloodedge-device.service").read_text()
    for line in ("Type=notify", "KillMode=mixed", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert f"\n{line}\n" in text
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_daemons_user_is_made_in_a_fresh_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    rules = UNITS / "bloodedge.sysusers.conf"
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
