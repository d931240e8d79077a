"""Prometheus' rules and Grafana's dashboards ask for what the daemon really tells."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bloodedge.decision.thresholds import Reason
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.outputs.prometheus import exposition
from support.needs import needs
from support.snapshots import make_snapshot, make_totals

CONFIGS = Path(__file__).resolve().parents[2] / "firmware_configs"
RULES = CONFIGS / "prometheus" / "bloodedge.rules.yml"
DASHBOARD = CONFIGS / "grafana" / "boards.json"
DASHBOARDS = sorted(DASHBOARD.parent.glob("*.json"))
NAME = re.compile(r"bloodedge_\w+")


def told() -> set[str]:
    """Every name that a scrape may show."""
    times = LatencyHistogram()
    times.add(1.0)
    counts = {"a": 1}
    snapshot = make_snapshot(
        totals=make_totals(counts, counts, counts),
        finished_times={"find": times},
        last_frame_age_s=1.0,
        broker_connected=True,
        temperature_c=1.0,
        clock_synchronised=True,
    )
    families = text_string_to_metric_families(exposition(snapshot).decode())
    return {sample.name for family in families for sample in family.samples}


def expressions() -> Iterator[str]:
    lines = RULES.read_text().splitlines()
    yield from (line for line in lines if not line.lstrip().startswith(("#", "scrape_configs", "- name", "summary")))
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_metric_that_rules_and_dashboards_query_exists() -> None:
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(asked) > 10
    assert asked <= told()


@needs("promtool")
@pytest.mark.parametrize("words", [("check", "rules", RULES.name), ("test", "rules", "bloodedge.rules.test.yml")])
def test_promtool_finds_the_rules_right(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_promtool_can_read_what_a_dashboard_s_panels_ask(dashboard: Path, tmp_path: Path) -> None:
    targets = [one for panel in json.loads(dashboard.read_text())["panels"] for one in panel["targets"]]
    asked = [one["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h") for one in targets]
    assert len(asked) > 10
    for texts, code in ((asked, 0), (["rate(bloodedge_frames_total[5m]"], 1)):
        rules = [{"record": "asked", "expr": text, "labels": {"number": str(n)}} for n, text in enumerate(texts)]
        (tmp_path / "asked.yml").write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
        command = ["promtool", "check", "rules", "--lint=none", "asked.yml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_each_alert_is_seen_firing_in_the_rules_own_tests() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    seen = set(re.findall(r'alertname="(\w+)"', RULES.with_name("bloodedge.rules.test.yml").read_text()))
    assert alerts == seen


def test_outcomes_that_the_rules_name_are_ones_that_the_gate_gives() -> None:
    (names,) = re.findall(r'outcome=~"([^"]+)"', RULES.read_text())
    assert set(names.split("|")) <= set(Reason)


def test_dashboards_have_names_of_their_own() -> None:
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 2


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_s_panels_have_numbers_of_their_own(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers) > 10
    assert "For Research Use Only" in dashboard["description"]
