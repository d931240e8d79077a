"""The board's reports: every so often through the outbox, with what has happened since the one before."""

import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bloodedge.errors import UsageError
from bloodedge.fleet_messages import BoardReport, read_message
from bloodedge_device.daemon.loop import run_device
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.outputs import fleet_report as module
from bloodedge_device.outputs.fleet_report import Reporter
from bloodedge_device.settings import DeviceSettings, read_settings
from bloodedge_device.settings.sections import CameraSettings, MqttSettings, WebSettings
from bloodedge_device.store import Store, open_for_reading, queries
from support.mqtt import Broker, Listener
from support.needs import needs
from support.snapshots import make_snapshot
from support.waiting import until

needs_broker = needs("mosquitto")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.stop(signal.SIGKILL)


def settings_of(state: Path, port: int, **more: Any) -> DeviceSettings:
    return DeviceSettings(
        state=state,
        engine="litert",
        camera=CameraSettings(rate=8, loop=True),
        web=WebSettings(enabled=False),
        mqtt=MqttSettings(host="127.0.0.1", port=port, board="pi", discovery="", report_s=1, **more),
    )


def reports(listener: Listener) -> list[BoardReport]:
    return [read_message(BoardReport, payload) for payload in listener.payloads("bloodedge/pi/report")]


@pytest.mark.slow
@needs_broker
def test_a_daemon_reports_once_a_second_and_goes_on_counting_after_a_restart(state: Path, broker: Broker) -> None:
    listener = Listener(broker.port)
    run_device(settings_of(state, broker.port), frames=44)
    assert until(lambda: len(reports(listener)) >= 4)
    first = reports(listener)
    run_device(settings_of(state, broker.port), frames=28)
    assert until(lambda: len(reports(listener)) >= len(first) + 2)
    both = reports(listener)
    listener.stop()
    assert [one.sequence for one in first] == list(range(1, len(first) + 1))
    gaps = [(b.sent_at - a.sent_at).total_seconds() for a, b in pairwise(first)]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1.0, abs=0.5)
    again = [one for one in both if one.boot != first[0].boot]
    assert [one.sequence for one in again][:2] == [1, 2]
    last = first[-1]
    assert last.alive
    assert last.bundle.state == "shipped"
    assert last.bundle.golden_inputs > 0
    assert 0 < last.bundle.baseline.accuracy <= 1
    assert "camera" in last.health
    assert last.frames > first[0].frames > 0
    assert sum(last.cells.values()) > 0
    assert last.latency["find"].latency_ms.p50 > 0
    counted = sum(one.latency["find"].count for one in first)
    assert last.frames - 2 <= counted <= last.frames + 2  # each frame once: what was new since the report before


@pytest.mark.slow
@needs_broker
def test_the_uptime_does_not_depend_on_a_clock_that_the_network_sets(
    state: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SetMeanwhile(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=400)

    listener = Listener(broker.port)
    monkeypatch.setattr(module, "datetime", SetMeanwhile)
    run_device(settings_of(state, broker.port), frames=28)
    assert until(lambda: len(reports(listener)) >= 2)
    told = reports(listener)
    listener.stop()
    assert 0 < told[0].uptime_s < told[1].uptime_s < 60


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    with closing(Store(state, most_waiting=100)) as made:
        yield made


def test_reports_leave_the_outbox_to_the_results_when_it_fills(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = Reporter(store, MqttSettings(most_waiting=100), make_snapshot, lambda: None, lambda: None)
    made = SimpleNamespace(sequence=1, model_dump_json=lambda: "{}")
    monkeypatch.setattr(reporter, "make", lambda *_: made)
    for _ in range(80):
        reporter._report()
    assert len(store) == 51


def test_a_report_that_cannot_be_made_is_logged_once_and_tried_again(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = threading.Event()
    reporter = Reporter(store, MqttSettings(report_s=1), make_snapshot, lambda: None, posted.set)
    tries = []

    def make(*_: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError("the figures are not there")
        return SimpleNamespace(sequence=1, model_dump_json=lambda: "{}")

    monkeypatch.setattr(reporter, "make", make)
    reporter.start()
    assert posted.wait(15)
    reporter.stop()
    assert caplog.text.count("the figures are not there") == 1


def test_latencies_are_those_since_the_report_before() -> None:
    before = LatencyHistogram()
    for _ in range(10):
        before.add(1.0)
    now = before.plus(LatencyHistogram())
    now.add(100.0)
    since = now.since(before)
    assert since.count == 1
    assert since.percentile(50) == pytest.approx(100.0, rel=0.02)
    assert before.since(now).count == 0


def test_reviewed_cells_are_those_drawn_at_random_that_the_bundle_called(state: Path) -> None:
    from bloodedge_device.slide.review import Review
    from support import web_fakes

    daemon = web_fakes.busy_daemon(state, WebSettings(port=0))
    try:
        with open_for_reading(state) as database:
            name, serial = database.execute("SELECT bundle_name, bundle_serial FROM runs").fetchone()
            cells = [(row["id"], row["label"]) for row in database.execute("SELECT id, label FROM cells ORDER BY id")]
        assert queries.agreement(state, name, serial) == (0, 0)
        called = [cell for cell in cells if cell[1] != "uncertain"]
        (one, label), (two, other) = called[0], called[1]
        wrong = {"blast": "normal", "normal": "blast"}
        daemon.store.review(one, Review.of(wrong[label]), "random", "me")
        daemon.store.review(one, Review.of(label), "random", "me")  # the latest answer counts
        daemon.store.review(two, Review.of(wrong[other]), "random", "me")
        daemon.store.review(called[2][0], Review.of(called[2][1]), "gallery", "me")
        daemon.store.review(called[3][0], Review.of("unsure"), "random", "me")
        assert queries.agreement(state, name, serial) == (2, 1)
        assert queries.agreement(state, name, serial + 1) == (0, 0)
    finally:
        daemon.store.close()


@pytest.mark.parametrize("value", ["0.5", "-1", "4000"])
def test_too_frequent_reports_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(f"[mqtt]\nreport_s = {value}\n")
    with pytest.raises(UsageError, match="report_s"):
        read_settings(path)
