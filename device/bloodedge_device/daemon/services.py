"""What goes on beside the frames: the page, the broker, the disk, the clock, the heat, the service manager."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Self

from bloodedge import __version__
from bloodedge.errors import BloodedgeError, system_sentence
from bloodedge.machine import cpu_temperature_c, hardware_name
from bloodedge_device.bundles.slot_watch import SlotWatch
from bloodedge_device.health import Level
from bloodedge_device.snapshot.snapshot import awaits_files, broker_status, is_alive
from bloodedge_device.store import DiskFullError
from bloodedge_device.system.clock import ClockWatch, clock_synchronised
from bloodedge_device.system.process import give_freed_memory_back
from bloodedge_device.system.thermal import COOLED_BY_C, Pace, pace_at, read_throttling

if TYPE_CHECKING:
    from bloodedge_device.daemon.daemon import Daemon
    from bloodedge_device.outputs.bundle_updater import WantedWorker
    from bloodedge_device.outputs.fleet_report import Reporter
    from bloodedge_device.outputs.home_assistant import DeviceDescription
    from bloodedge_device.web.server import WebServer

log = logging.getLogger("bloodedge.device")

EVERY_S = 2.0
SELDOM_S = 30.0
"""Between two looks at the disk, the clock and the heat."""

HOT_C = 80.0
"""Raspberry Pis slow down from here on (Raspberry Pi documentation, frequency management)."""

UNREADABLE_IN_A_ROW = 10
"""So many frames without one that can be read are more than a disturbance."""

PARTING_S = 3.0
"""For messages that wait when the daemon ends; what remains is sent at its next start."""


class Housekeeper:
    """Starts what the daemon serves and looks after it in a thread of its own; ``with`` ends it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self._clock = ClockWatch()
        self._began_s = monotonic()
        self._web: WebServer | None = None
        self._slots = SlotWatch(daemon)
        self._reporter: Reporter | None = None
        self._wanted: WantedWorker | None = None
        self._wrong: dict[str, str] = {}
        """What went wrong in the latest round, by what was looked after."""
        self._thread = threading.Thread(target=self._look_after, name="housekeeping", daemon=True)

    def __enter__(self) -> Self:
        """Open the page and connect to the broker; UsageError when the page cannot be opened."""
        daemon = self._daemon
        from bloodedge_device.web.server import WebServer

        self._web = WebServer(daemon, daemon.settings.web, daemon.state)
        self._web.start()
        if daemon.settings.mqtt.host is not None:
            self._publish()
        self._thread.start()
        return self

    def _publish(self) -> None:
        from bloodedge_device.outputs.fleet_report import Reporter
        from bloodedge_device.outputs.mqtt import MqttPublisher

        daemon = self._daemon
        settings = daemon.settings
        if settings.update.from_fleet:
            self._wanted = self._worker()
            self._wanted.start()
        wanted = self._wanted
        daemon.publisher = MqttPublisher(
            settings.mqtt,
            daemon.store,
            self._describe,
            partial(broker_status, daemon),
            None if wanted is None else wanted.want,
        )
        daemon.publisher.start()
        self._reporter = Reporter(daemon, lambda: None if wanted is None else wanted.state, self.wake)
        self._reporter.start()

    def _worker(self) -> WantedWorker:
        from bloodedge_device.bundles.install import install
        from bloodedge_device.bundles.slot_record import read_record
        from bloodedge_device.outputs.bundle_updater import WantedWorker

        daemon = self._daemon
        return WantedWorker(
            daemon.state,
            daemon.settings.mqtt.ca,
            lambda path: install(daemon.settings, path).what.title,
            lambda: read_record(daemon.state),
        )

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._reporter is not None:
            self._reporter.stop()
        if self._wanted is not None:
            self._wanted.stop()
        self._take("the slots", self._slots.close)
        if self._daemon.publisher is not None:
            self._daemon.publisher.stop(PARTING_S)
        if self._web is not None:
            self._web.stop()

    @property
    def page(self) -> str:
        """The page's address; empty without one."""
        return "" if self._web is None else self._web.url

    def wake(self) -> None:
        """Results were stored."""
        if self._daemon.publisher is not None:
            self._daemon.publisher.wake()

    def _describe(self) -> DeviceDescription:
        from bloodedge_device.outputs.home_assistant import DeviceDescription

        manifest = self._daemon.loaded.manifest
        page = None if self._daemon.settings.web.is_local else self.page or None
        return DeviceDescription(hardware_name(), __version__, f"{manifest.name} {manifest.serial}", page)

    def _look_after(self) -> None:
        seldom_at_s = 0.0
        while True:
            self._take("the heat", self._spare_the_board)
            self._take("the signs of life", self._often)
            self._take("revoked keys", self._slots.heed_revocation)
            self._take("the slots", self._slots.look)
            if monotonic() >= seldom_at_s:
                seldom_at_s = monotonic() + SELDOM_S
                self._take("the disk and the clock", self._seldom)
            self._daemon.remind()
            if self._stop.wait(EVERY_S):
                return

    def _take(self, what: str, step: Callable[[], None]) -> None:
        """Look after something; what goes wrong is told, and keeps neither another step nor the next round away."""
        try:
            step()
        except Exception as error:
            fault = None if isinstance(error, BloodedgeError) else error
            sentence = str(error) if fault is None else _fault_in(what, fault)
            if self._wrong.get(what) != sentence:
                log.warning("%s", sentence, exc_info=fault)
            self._wrong[what] = sentence
        else:
            self._wrong.pop(what, None)
        wrong = next(iter(self._wrong.values()), "")
        level = Level.FAILED if wrong else Level.OK
        self._daemon.health.tell("housekeeping", level, wrong or "What goes on beside the frames is in order.")

    def _spare_the_board(self) -> None:
        daemon, watch, temperature = self._daemon, self._daemon.settings.watch, cpu_temperature_c()
        before, now = daemon.pace, pace_at(temperature, watch.slow_at_c, watch.stop_at_c, daemon.pace)
        daemon.pace = now
        if now is Pace.FULL:
            if before is not now:
                self._tell_heat()
            return
        limit_c = watch.stop_at_c if now is Pace.STOPPED else watch.slow_at_c
        assert limit_c is not None
        sentence = (
            f"The processor is at {temperature:.0f} °C: {'no frame is' if now is Pace.STOPPED else 'fewer frames are'}"
            f" looked at until it has cooled to {limit_c - COOLED_BY_C:g} °C; cool the board."
        )
        daemon.health.tell("heat", Level.FAILED if now is Pace.STOPPED else Level.WARNING, sentence)
        if before is not now:
            log.warning("%s", sentence)

    def _often(self) -> None:
        daemon = self._daemon
        tell = daemon.health.tell
        if daemon.publisher is not None:
            state = daemon.publisher.state
            lost = f" {daemon.store.messages_lost} messages were given up." if daemon.store.messages_lost else ""
            tell("broker", Level.OK if state.connected and not lost else Level.WARNING, f"{state.sentence}{lost}")
        if awaits_files(daemon):
            tell("frames", Level.OK, "The next image of the watched folder is awaited.")
            daemon.notifier.watchdog()
        elif is_alive(daemon) and daemon.unreadable_in_a_row >= UNREADABLE_IN_A_ROW:
            sentence = (
                f"None of the last {daemon.unreadable_in_a_row} frames could be read; check the camera's connection."
            )
            tell("frames", Level.FAILED, sentence)
        elif is_alive(daemon):
            tell("frames", Level.OK, f"{daemon.rate.per_second:.1f} frames a second are classified.")
        elif daemon.pace is Pace.STOPPED:
            tell("frames", Level.WARNING, "No frame is looked at until the processor has cooled.")
        elif monotonic() - self._began_s < daemon.settings.watch.alive_s:
            tell("frames", Level.OK, "The first frame is awaited.")
        elif tell("frames", Level.FAILED, f"No frame was classified for {daemon.settings.watch.alive_s:g} s."):
            log.warning("No frame was classified for %g s.", daemon.settings.watch.alive_s)
        if "model" in daemon.health.conditions():
            tell("model", *daemon.faults.condition())
        jump_s = self._clock.jumped()
        if jump_s is not None:
            log.warning("The clock was set by %+.0f s; durations are not touched by it.", jump_s)
            daemon.store.note_clock_set(jump_s)
        slide = "no slide" if daemon.slide is None else f"slide {daemon.slide.id}"
        daemon.notifier.status(f"{daemon.rate.per_second:.1f} frames/s, {slide}, camera {daemon.camera.name}")

    def _seldom(self) -> None:
        tell = self._daemon.health.tell
        if clock_synchronised() is False:
            tell("clock", Level.WARNING, "The clock is not held to a time source: times may be wrong.")
        else:
            tell("clock", Level.OK, "The clock is right as far as the system knows.")
        if self._daemon.pace is Pace.FULL:
            self._tell_heat()
        self._tidy()
        give_freed_memory_back()

    def _tell_heat(self) -> None:
        tell, watch = self._daemon.health.tell, self._daemon.settings.watch
        temperature, throttling = cpu_temperature_c(), read_throttling()
        if throttling is not None and throttling.now:
            tell("heat", Level.WARNING, f"{throttling.now[0][0].upper()}{throttling.now[0][1:]}; cool the board.")
        elif temperature is not None and temperature >= HOT_C:
            tell("heat", Level.WARNING, f"The processor is at {temperature:.0f} °C; cool the board.")
        elif temperature is not None:
            tell("heat", Level.OK, f"The processor is at {temperature:.0f} °C.")
        elif watch.slow_at_c is not None or watch.stop_at_c is not None:
            tell("heat", Level.WARNING, "The system tells no temperature: watch.slow_at_c and stop_at_c do nothing.")

    def _tidy(self) -> None:
        with suppress(DiskFullError):
            store = self._daemon.store
            if expired := store.expire(clock_held=clock_synchronised()):
                log.info("%d images of cells past store.keep_days were removed; results are kept.", expired)
                store.note("daemon", "images expired", {"images": expired})
            if removed := store.tidy():
                log.warning("%d oldest images of cells were removed to keep the disk free; results are kept.", removed)
                store.note("daemon", "images removed", {"images": removed})


def _fault_in(what: str, error: Exception) -> str:
    """A sentence on what nobody foresaw."""
    told = system_sentence(error) if isinstance(error, OSError) else None
    return told or f"Looking after {what} failed ({error!r}) and is tried again; report what the log says of it."
