"""The board's reports to the fleet, through the outbox: each arrives once, also after the broker was away."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Literal
from uuid import uuid4

from bloodedge import __version__
from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import (
    REPORT,
    BaselineFigures,
    BoardReport,
    Drifted,
    Latency,
    Percentiles,
    Reviewed,
    RunningBundle,
    WantedState,
)
from bloodedge.machine import hardware_name
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.snapshot.snapshot import Snapshot
from bloodedge_device.store import Store
from bloodedge_device.store.outbox import Draft

log = logging.getLogger("bloodedge.device")

REVIEWED_EVERY_S = 60.0
DRIFT_EVERY_S = 300.0
"""How often the slower queries are made."""

FULL = 0.5
"""While the outbox is fuller than this share, the rest of it is for results, and no report is made."""


class Reporter:
    """Puts a report into the outbox every ``mqtt.report_s`` seconds, in a thread of its own; ``stop`` ends it."""

    def __init__(
        self,
        store: Store,
        settings: MqttSettings,
        snapshot: Callable[[], Snapshot],
        update: Callable[[], WantedState | None],
        posted: Callable[[], None],
    ) -> None:
        """Update: what became of the bundle that the fleet requested; ``posted`` is called after each report."""
        self._store, self._settings, self._snapshot = store, settings, snapshot
        self._update, self._posted = update, posted
        self._boot, self._sequence, self._began_s = uuid4().hex, 0, monotonic()
        self._times: dict[str, LatencyHistogram] = {}
        """How long each stage took, as of the latest report."""
        self._reviewed: Reviewed | None = None
        self._drifted: Drifted | None = None
        self._reviewed_at_s = self._drifted_at_s = -DRIFT_EVERY_S
        self._failed = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        """Begin, where reports are asked for; the first goes out after ``report_s``."""
        if self._settings.report_s:
            self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        every_s = self._settings.report_s
        at_s = monotonic() + every_s
        while not self._stopping.wait(max(0.0, at_s - monotonic())):
            at_s = max(at_s + every_s, monotonic())
            try:
                self._report()
                self._failed = ""
            except Exception as error:  # the recorder reports a disk in trouble; reports never end the daemon
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.warning("A report could not be made and is tried again: %s", error)

    def _report(self) -> None:
        if len(self._store) > FULL * self._settings.most_waiting:
            return
        snapshot = self._snapshot()
        times = snapshot.times
        report = self.make(snapshot, times)
        self._store.post([Draft(REPORT, report.model_dump_json().encode())])
        self._sequence, self._times = report.sequence, times
        self._posted()

    def make(self, snapshot: Snapshot, times: dict[str, LatencyHistogram]) -> BoardReport:
        """The next report; times: how long each stage took since the start."""
        self._query_store(snapshot)
        own = {
            "boot": self._boot,
            "sequence": self._sequence + 1,
            "sent_at": datetime.now(UTC),
            "uptime_s": monotonic() - self._began_s,
            "version": __version__,
            "hardware": hardware_name()[:200],
            "bundle": running_bundle(snapshot),
            "health": {
                part: {"level": condition.level.name.lower(), "sentence": condition.sentence[:500]}
                for part, condition in snapshot.conditions.items()
            },
            "frames": sum(snapshot.totals.frames.values()),
            "frames_dropped": snapshot.totals.dropped,
            "cells": dict(snapshot.totals.cells),
            "latency": self._latency(times),
            "reviewed": self._reviewed,
            "drifted": self._drifted,
            "wanted": self._update(),
        }
        return BoardReport.model_validate({**vars(snapshot), **own})

    def _latency(self, times: dict[str, LatencyHistogram]) -> dict[str, Latency]:
        new = {stage: now.since(self._times.get(stage, LatencyHistogram())) for stage, now in times.items()}
        return {
            stage: Latency(count=histogram.count, latency_ms=Percentiles.model_validate(histogram.summary()))
            for stage, histogram in new.items()
            if histogram.count
        }

    def _query_store(self, snapshot: Snapshot) -> None:
        from bloodedge_device.store import queries

        state, manifest, now_s = snapshot.settings.state, snapshot.loaded.manifest, monotonic()
        if now_s - self._reviewed_at_s >= REVIEWED_EVERY_S:
            self._reviewed_at_s = now_s
            called, right = queries.agreement(state, manifest.name, manifest.serial)
            self._reviewed = Reviewed(called=called, right=right)
        if now_s - self._drifted_at_s >= DRIFT_EVERY_S:
            self._drifted_at_s = now_s
            slide = snapshot.last_slide
            found = [aspect for aspect in queries.drift_of(state, slide) or () if aspect.drifted is not None]
            sentences = [aspect.sentence[:500] for aspect in found if aspect.drifted]
            self._drifted = Drifted(slide=slide, cells=found[0].cells, aspects=sentences) if found else None


def running_bundle(snapshot: Snapshot) -> RunningBundle:
    """The bundle that classifies, and the figures to compare it with."""
    loaded = snapshot.loaded
    manifest, baseline = loaded.manifest, loaded.manifest.baseline
    return RunningBundle(
        name=manifest.name,
        serial=manifest.serial,
        sha256=loaded.sha256 or None,
        state=_state(snapshot),
        engine=loaded.artifact.engine,
        precision=loaded.artifact.precision,
        rendered=manifest.provenance.rendered,
        golden_flips=loaded.golden.flips,
        golden_inputs=loaded.golden.inputs,
        baseline=BaselineFigures(
            hardware=baseline.hardware[:200],
            latency_ms=Percentiles.model_validate(baseline.latency_ms),
            accuracy=baseline.evaluation.accuracy,
            artifact_accuracy=loaded.artifact.evaluation.accuracy,
        ),
    )


def _state(snapshot: Snapshot) -> Literal["shipped", "from settings", "on probation", "good"]:
    loaded = snapshot.loaded
    if loaded.slot is None:
        return "shipped" if snapshot.settings.bundle is None else "from settings"
    try:
        slot = read_record(snapshot.settings.state).slots.get(loaded.slot)
    except BloodedgeError:  # a damaged record, which the slots' watch repairs
        slot = None
    return "good" if slot is not None and slot.sha256 == loaded.sha256 and slot.state == "good" else "on probation"
