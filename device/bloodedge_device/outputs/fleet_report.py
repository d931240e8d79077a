"""What the board reports on itself, through the outbox: each report arrives once, also after the broker was away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from bloodedge import __version__
from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import (
    REPORT,
    BaselineFigures,
    BoardReport,
    Condition,
    Drifted,
    Latency,
    Percentiles,
    Reviewed,
    RunningBundle,
    WantedState,
)
from bloodedge.machine import cpu_temperature_c, hardware_name
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.snapshot.snapshot import is_alive
from bloodedge_device.store.crops import free_bytes
from bloodedge_device.store.outbox import Draft
from bloodedge_device.system.clock import clock_synchronised

if TYPE_CHECKING:
    from bloodedge_device.daemon.daemon import Daemon

log = logging.getLogger("bloodedge.device")

REVIEWED_EVERY_S = 60.0
DRIFT_EVERY_S = 300.0
"""How often the database is asked for what takes it a while."""

FULL = 0.5
"""While more than this share of the outbox is taken, results have it for themselves and reports are left out."""


class Reporter:
    """Puts a report into the outbox every ``mqtt.report_s`` seconds, in a thread of its own; ``stop`` ends it."""

    def __init__(self, daemon: Daemon, wanted: Callable[[], WantedState | None], posted: Callable[[], None]) -> None:
        """Wanted: what became of the bundle that was asked for; ``posted`` is called after each report."""
        self._daemon, self._wanted, self._posted = daemon, wanted, posted
        self._boot, self._sequence, self._began_s = uuid4().hex, 0, monotonic()
        self._stages: dict[str, LatencyHistogram] = {}
        self._reviewed: Reviewed | None = None
        self._drifted: Drifted | None = None
        self._reviewed_at_s = self._drifted_at_s = -DRIFT_EVERY_S
        self._failed = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        """Begin, where reports are asked for; the first goes out after ``report_s``."""
        if self._daemon.settings.mqtt.report_s:
            self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        every_s = self._daemon.settings.mqtt.report_s
        at_s = monotonic() + every_s
        while not self._stopping.wait(max(0.0, at_s - monotonic())):
            at_s = max(at_s + every_s, monotonic())
            try:
                self._report()
                self._failed = ""
            except Exception as error:  # a disk in trouble is told by who stores results; reports never end the daemon
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.warning("A report could not be made, and is tried again: %s", error)

    def _report(self) -> None:
        store = self._daemon.store
        if len(store) > FULL * self._daemon.settings.mqtt.most_waiting:
            return
        stages = {stage: one.plus(LatencyHistogram()) for stage, one in self._daemon.stages.items()}  # as it is now
        report = self.make(stages)
        store.post([Draft(REPORT, report.model_dump_json().encode())])
        self._sequence, self._stages = report.sequence, stages
        self._posted()

    def make(self, stages: dict[str, LatencyHistogram]) -> BoardReport:
        """The next report; stages: how long each took since the start."""
        daemon, totals = self._daemon, self._daemon.totals
        self._ask_database()
        conditions = daemon.health.conditions()
        return BoardReport(
            boot=self._boot,
            sequence=self._sequence + 1,
            sent_at=datetime.now(UTC),
            clock_synchronised=clock_synchronised(),
            uptime_s=monotonic() - self._began_s,
            version=__version__,
            hardware=hardware_name()[:200],
            alive=is_alive(daemon),
            bundle=running_bundle(daemon),
            health={
                part: Condition(level=_LEVELS[one.level], sentence=one.sentence[:500])
                for part, one in conditions.items()
            },
            frames=sum(totals.frames.values()),
            frames_dropped=totals.dropped,
            cells=dict(totals.cells),
            latency=self._latency(stages),
            reviewed=self._reviewed,
            drifted=self._drifted,
            temperature_c=cpu_temperature_c(),
            disk_free_bytes=free_bytes(daemon.state),
            messages_waiting=len(daemon.store),
            messages_lost=daemon.store.messages_lost,
            wanted=self._wanted(),
        )

    def _latency(self, stages: dict[str, LatencyHistogram]) -> dict[str, Latency]:
        new = {stage: now.since(self._stages.get(stage, LatencyHistogram())) for stage, now in stages.items()}
        return {
            stage: Latency(count=one.count, latency_ms=Percentiles.of(one.summary()))
            for stage, one in new.items()
            if one.count
        }

    def _ask_database(self) -> None:
        from bloodedge_device.store import queries

        daemon, now_s = self._daemon, monotonic()
        manifest = daemon.loaded.manifest
        if now_s - self._reviewed_at_s >= REVIEWED_EVERY_S:
            self._reviewed_at_s = now_s
            called, right = queries.agreement(daemon.state, manifest.name, manifest.serial)
            self._reviewed = Reviewed(called=called, right=right)
        if now_s - self._drifted_at_s >= DRIFT_EVERY_S:
            self._drifted_at_s = now_s
            slide = daemon.last_slide
            found = [one for one in queries.drift_of(daemon.state, slide) or () if one.drifted is not None]
            sentences = [one.sentence[:500] for one in found if one.drifted]
            self._drifted = Drifted(slide=slide, cells=found[0].cells, aspects=sentences) if found else None


_LEVELS: tuple[Literal["ok"], Literal["warning"], Literal["failed"]] = ("ok", "warning", "failed")
"""By Level."""


def running_bundle(daemon: Daemon) -> RunningBundle:
    """What classifies, and the figures it is held against."""
    loaded = daemon.loaded
    manifest, baseline = loaded.manifest, loaded.manifest.baseline
    return RunningBundle(
        name=manifest.name,
        serial=manifest.serial,
        sha256=loaded.sha256 or None,
        state=_state(daemon),
        engine=loaded.artifact.engine,
        precision=loaded.artifact.precision,
        rendered=manifest.provenance.rendered,
        golden_flips=loaded.golden.flips,
        golden_inputs=loaded.golden.inputs,
        baseline=BaselineFigures(
            hardware=baseline.hardware[:200],
            latency_ms=Percentiles.of(baseline.latency_ms),
            accuracy=baseline.evaluation.accuracy,
            artifact_accuracy=loaded.artifact.evaluation.accuracy,
        ),
    )


def _state(daemon: Daemon) -> Literal["shipped", "from settings", "on probation", "good"]:
    loaded = daemon.loaded
    if loaded.slot is None:
        return "shipped" if daemon.settings.bundle is None else "from settings"
    try:
        slot = read_record(daemon.state).slots.get(loaded.slot)
    except BloodedgeError:  # a damaged record, which the slots' watch repairs
        slot = None
    return "good" if slot is not None and slot.sha256 == loaded.sha256 and slot.state == "good" else "on probation"
