"""The daemon at one moment: whoever renders it says the same."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bloodedge.decision.thresholds import Reason
from bloodedge_device.health import Level
from bloodedge_device.latency import STAGES
from bloodedge_device.outputs.fleet_report import Reporter
from bloodedge_device.outputs.home_assistant import status_payload
from bloodedge_device.outputs.prometheus import exposition
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.web.status import status_of
from support.web_fakes import FakeDaemon, busy_daemon


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = busy_daemon(state)
    with closing(daemon.store):
        yield daemon


def test_page_broker_prometheus_and_fleet_say_the_same_of_one_moment(daemon: FakeDaemon) -> None:
    daemon.see([], reason=Reason.OUT_OF_FOCUS)
    daemon.state.health.report("camera", Level.FAILED, "The camera was unplugged.")
    snapshot = daemon.state.snapshot()
    page, broker = status_of(snapshot), status_payload(snapshot)
    reporter = Reporter(daemon.store, MqttSettings(), daemon.state.snapshot, lambda: None, lambda: None)
    report = reporter.make(snapshot, snapshot.times)
    families = text_string_to_metric_families(exposition(snapshot).decode())
    metrics = {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}

    assert page.slide is not None
    slide = page.slide
    cells = {"blast": slide.blasts, "normal": slide.normals, "uncertain": slide.uncertain, "other": slide.other}
    assert cells == report.cells == {"blast": 5, "normal": 8, "uncertain": 2, "other": 0}
    assert {label: metrics["bloodedge_cells_total", label] for label in cells} == cells
    assert (broker["cells_called"], broker["cells_uncertain"]) == (13, 2)
    assert page.slide.frames_seen == report.frames == 6
    assert page.slide.frames_rejected == {"out_of_focus": 1}
    assert metrics["bloodedge_frames_total", "out_of_focus"] == 1
    assert page.stages["find"].count == report.latency["find"].count == 6
    assert metrics["bloodedge_stage_seconds_count", "find"] == 6
    assert broker["blast_percent"] == pytest.approx(100 * (page.slide.corrected_share.corrected or 0), abs=0.01)
    assert broker["slide"] == page.slide.label == "Specimen 12"
    assert (page.bundle.name, page.bundle.serial) == (report.bundle.name, report.bundle.serial)
    assert broker["problem"] == page.health["camera"].sentence == report.health["camera"].sentence
    assert page.alive is report.alive is True


def test_a_snapshot_stays_as_it_was(daemon: FakeDaemon) -> None:
    snapshot = daemon.state.snapshot()
    before = (dict(snapshot.totals.cells), snapshot.slide and snapshot.slide.counts.cells_total)
    daemon.see([0.9, 0.1])
    assert (dict(snapshot.totals.cells), snapshot.slide and snapshot.slide.counts.cells_total) == before
    with pytest.raises(FrozenInstanceError):
        snapshot.alive = False  # type: ignore[misc]


def test_times_are_summed_over_slides_and_begin_anew_with_each(daemon: FakeDaemon) -> None:
    daemon.desk.start_slide("Second", "page")
    daemon.see([0.9])
    snapshot = daemon.state.snapshot()
    assert snapshot.slide is not None
    assert (snapshot.slide.times["find"].count, snapshot.times["find"].count) == (1, 6)
    daemon.desk.end_slide("page")
    ended = daemon.state.snapshot()
    assert ended.slide is None
    assert ended.times["find"].count == 6
    assert set(ended.times) == set(STAGES)


def test_frames_between_slides_are_seen_and_counted_nowhere(daemon: FakeDaemon) -> None:
    daemon.desk.end_slide("page")
    before = daemon.state.snapshot()
    daemon.see([0.9, 0.8])
    after = daemon.state.snapshot()
    assert (before.picture and before.picture.number, after.picture and after.picture.number) == (5, 6)
    assert after.totals.cells == before.totals.cells
