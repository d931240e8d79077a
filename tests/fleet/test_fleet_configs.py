"""The fleet's alerts and dashboard ask for what its server tells, and its unit exposes little."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime, timedelta
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from prometheus_client.parser import text_string_to_metric_families

from bloodedge_fleet.boards.archive import Archive
from bloodedge_fleet.boards.listener import Broker, Listener
from bloodedge_fleet.boards.overview import read_boards
from bloodedge_fleet.cli import serve_command
from bloodedge_fleet.database import migrate, open_database, reading
from bloodedge_fleet.metrics import Figures
from bloodedge_fleet.state_dir import SERVICE_STATE
from support.fleet_fakes import report, sent
from support.needs import needs

CONFIGS = Path(__file__).resolve().parents[2] / "firmware_configs"
RULES = CONFIGS / "prometheus" / "fleet.rules.yml"
TESTS = RULES.with_name("fleet.rules.test.yml")
UNIT = CONFIGS / "fleet" / "bloodedge-fleet.service"
MOSQUITTO = CONFIGS / "broker" / "mosquitto.conf"
MOST_EXPOSED = 2.5
REPORT_BYTES = 2700
"""Of a board with all its parts: three daemons sent 2,476, 2,620 and, with cells that had drifted, 2,898."""


def test_every_metric_that_rules_and_dashboards_query_exists(state: Path) -> None:
    engine = open_database(None, state)
    migrate(engine)
    archive = Archive(engine)
    archive.store(sent("pi", report(1, drifted={"slide": 1, "cells": 9, "aspects": []})))
    with reading(engine) as connection:
        boards = read_boards(connection, timedelta(minutes=3), datetime.now(UTC))
    text = Figures().exposition(boards, {"done": 1}, Listener(Broker("127.0.0.1", 1), archive)).decode()
    told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    lines = [line for line in RULES.read_text().splitlines() if "summary" not in line and "job_name" not in line]
    panels = json.loads((CONFIGS / "grafana" / "fleet.json").read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    for texts in (lines, shown):
        asked = {name for text in texts for name in re.findall(r"bloodedge_\w+", text)}
        assert len(asked) > 5
        assert asked <= told
    engine.dispose()


def test_each_alert_is_seen_firing_in_the_rules_own_tests() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r'alertname="(\w+)"', TESTS.read_text()))


@needs("promtool")
@pytest.mark.parametrize("words", [("check", "rules", RULES.name), ("test", "rules", TESTS.name)])
def test_promtool_finds_the_rules_right(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text", ["docs/fleet.md", "firmware_configs/README.md", "firmware_configs/broker/mosquitto.conf", RULES]
)
def test_how_long_the_broker_keeps_reports_is_told_as_it_is(text: str | Path) -> None:
    limits = dict(re.findall(r"^(max_queued_\w+) (\d+)$", MOSQUITTO.read_text(), re.MULTILINE))
    assert limits["max_queued_messages"] == "0"  # the bytes alone count
    hours = [int(limits["max_queued_bytes"]) // REPORT_BYTES // boards // 60 for boards in (200, 1000)]
    told = " ".join((CONFIGS.parent / text).read_text().replace("#", " ").split())
    assert re.search(rf"200 boards (for |after |in )?{hours[0]} hours|{hours[0]} hours of 200 boards", told)
    assert re.search(rf"1,000 (for |after |in ){hours[1]}\b|{hours[1]} of 1,000", told)


@needs("systemd-analyze")
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


@needs("systemd-analyze")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "usr/bin").mkdir()
    program = tmp_path / "usr/bin/bloodedge"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    shutil.copy(UNIT, tmp_path / "etc/systemd/system")
    shutil.copy(UNIT.with_suffix(".env"), tmp_path / "etc")
    for rules, folder in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
        (tmp_path / "etc" / folder).mkdir()
        shutil.copy(UNIT.with_suffix(f".{rules}"), tmp_path / "etc" / folder / "bloodedge-fleet.conf")
    command = ["systemd-analyze", "verify", "--man=no", "--root", tmp_path, UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
@needs("systemd-sysusers")
def test_certificates_that_were_copied_as_they_were_made_are_the_server_s_alone(tmp_path: Path) -> None:
    certificates = tmp_path / "etc/bloodedge-fleet"
    certificates.mkdir(parents=True)
    for name in ("ca.pem", "fleet.pem", "fleet.key", "page.pem", "page.key"):
        (certificates / name).touch(0o600)
    for tool, words in (("systemd-sysusers", []), ("systemd-tmpfiles", ["--create"])):
        rules = UNIT.with_suffix(tool.replace("systemd-", "."))
        done = subprocess.run([tool, *words, f"--root={tmp_path}", rules], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    lines = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    ((uid, gid, shell),) = [(int(line[2]), int(line[3]), line[6]) for line in lines if line[0] == "bloodedge-fleet"]
    assert shell.endswith("/nologin")
    for path in certificates.iterdir():
        told = path.stat()
        assert (told.st_uid, told.st_gid, told.st_mode & 0o777) == (0, gid, 0o640)
    told = (tmp_path / str(SERVICE_STATE).lstrip("/")).stat()
    assert (told.st_uid, told.st_gid, told.st_mode & 0o777) == (uid, gid, 0o700)


def test_the_unit_s_user_folder_and_options_belong_together() -> None:
    unit = UNIT.read_text()
    assert f"User={UNIT.stem}\n" in unit
    assert f"StateDirectory={SERVICE_STATE.name}\n" in unit
    assert f"EnvironmentFile=/etc/{UNIT.stem}.env\n" in unit
    (line,) = re.findall(r"^FLEET_OPTIONS=(.*)$", UNIT.with_suffix(".env").read_text(), re.MULTILINE)
    given = serve_command.make_context("serve", shlex.split(line)).params
    assert (given["listen"], given["url"]) == ("0.0.0.0:8770", "https://FLEET.EXAMPLE:8770")
    rules = UNIT.with_suffix(".tmpfiles").read_text()
    for name in ("ca", "certificate", "key", "page_certificate", "page_key"):
        assert f"z {given[name].parent}/* 0640 root {UNIT.stem}\n" in rules


BILL = CONFIGS / "debian" / "bill.py"


def bill(environment: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BILL, environment, target], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_server_installed_by_pip_can_have_a_bill_of_materials(tmp_path: Path) -> None:
    target = tmp_path / "fleet.cdx.json"
    assert bill(Path(sys.prefix), target).stderr == ""
    text = target.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    named = {(one["name"], one["version"]) for one in json.loads(text)["components"]}
    assert named == {(one.name, one.version) for one in distributions(path=[sysconfig.get_path("purelib")])}


def test_a_folder_without_bloodedge_has_none(tmp_path: Path) -> None:
    done = bill(tmp_path, tmp_path / "bill.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "bill.json").exists()
