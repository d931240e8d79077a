"""The fleet's alerts ask for what its server tells, and its unit exposes little."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bloodedge_fleet.boards.archive import Archive
from bloodedge_fleet.boards.listening import Broker, Listener
from bloodedge_fleet.boards.overview import read_boards
from bloodedge_fleet.database import migrate, open_database, reading
from bloodedge_fleet.figures import Figures

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import report
from test_archive import sent

CONFIGS = Path(__file__).resolve().parents[2] / "firmware_configs"
RULES = CONFIGS / "prometheus" / "fleet.rules.yml"
TESTS = RULES.with_name("fleet.rules.test.yml")
UNIT = CONFIGS / "fleet" / "bloodedge-fleet.service"
MOST_EXPOSED = 2.5


def test_every_metric_asked_for_is_told(state: Path) -> None:
    engine = open_database(None, state)
    migrate(engine)
    archive = Archive(engine)
    archive.store(sent("pi", report(1, drifted={"slide": 1, "cells": 9, "aspects": []})))
    with reading(engine) as connection:
        boards = read_boards(connection, timedelta(minutes=3), datetime.now(UTC))
    text = Figures().exposition(boards, ["done"], Listener(Broker("127.0.0.1", 1), archive)).decode()
    told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    lines = [line for line in RULES.read_text().splitlines() if "summary" not in line and "job_name" not in line]
    asked = {name for line in lines for name in re.findall(r"bloodedge_\w+", line)}
    assert len(asked) > 5
    assert asked <= told
    engine.dispose()


def test_each_alert_is_seen_firing_in_the_rules_own_tests() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r'alertname="(\w+)"', TESTS.read_text()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("words", [("check", "rules", RULES.name), ("test", "rules", TESTS.name)])
def test_promtool_finds_the_rules_right(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)
def test_the_server_s_unit_exposes_little() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = re.search(r"exposure level.*?: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "usr/bin").mkdir()
    program = tmp_path / "usr/bin/bloodedge"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    shutil.copy(UNIT, tmp_path / "etc/systemd/system")
    (tmp_path / "etc/bloodedge-fleet.env").touch()
    command = ["systemd-analyze", "verify", "--man=no", "--root", tmp_path, UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr
