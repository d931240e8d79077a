"""Runs what goes on beside the frames: the page, the broker, the fleet's reports and updates, and the watches."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Self

from bloodedge.errors import BloodedgeError, system_sentence
from bloodedge.machine import hardware_name
from bloodedge_device.daemon.monitor import Monitor
from bloodedge_device.daemon.slide_counter import SlideCounter
from bloodedge_device.daemon.slot_watch import SlotWatch
from bloodedge_device.health import Level
from bloodedge_device.web.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from bloodedge_device.daemon.reload import Switcher
    from bloodedge_device.daemon.slides import Slides
    from bloodedge_device.daemon.state import DaemonState
    from bloodedge_device.system.sd_notify import Notifier

log = logging.getLogger("bloodedge.device")


class Services:
    """Starts the services, and watches the board in a thread of its own; ``with`` ends them."""

    def __init__(self, state: DaemonState, slides: Slides, switcher: Switcher, notifier: Notifier) -> None:
        self._state, self._slides, self._switcher = state, slides, switcher
        self._monitor = Monitor(state, notifier)
        self._slots = SlotWatch(state, switcher)
        self.page = ""
        """The page's address; empty without one."""
        self._failures: dict[str, str] = {}
        """What went wrong in the latest round, by what was checked."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="services", daemon=True)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        """Open the page and connect to the broker; UsageError when the page cannot be opened."""
        from bloodedge_device.web.server import WebServer

        state = self._state
        web = WebServer(desk_of(state, self._slides), state.settings.web, state.settings.state)
        web.start()
        self._running.callback(web.stop)
        self.page = web.url
        if state.settings.mqtt.host is not None:
            self._publish()
        counter = SlideCounter(state.store, state.timings.seldom_every_s)
        counter.start()
        self._running.callback(counter.stop)
        self._running.callback(self._check, "the slots", self._slots.close)
        self._thread.start()
        self._running.callback(self._thread.join)
        self._running.callback(self._stop.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _publish(self) -> None:
        from bloodedge_device.outputs.fleet_report import Reporter
        from bloodedge_device.outputs.home_assistant import discovery, status_payload
        from bloodedge_device.outputs.mqtt.publisher import MqttPublisher

        state, mqtt = self._state, self._state.settings.mqtt
        page = None if state.settings.web.is_local else self.page or None
        updater = None
        if state.settings.update.from_fleet:
            from bloodedge_device.bundles.install import install
            from bloodedge_device.bundles.slot_record import read_record
            from bloodedge_device.outputs.bundle_updater import BundleUpdater

            updater = BundleUpdater(
                state.settings.state,
                mqtt.ca,
                lambda path: install(state.settings, path).what.title,
                lambda: read_record(state.settings.state),
                state.timings,
            )
        state.publisher = MqttPublisher(
            mqtt,
            state.store,
            lambda: discovery(mqtt, hardware_name(), state.loaded.manifest.title, page),
            lambda: status_payload(state.snapshot()),
            None if updater is None else updater.request,
            state.timings,
        )
        reporter = Reporter(
            state.store,
            mqtt,
            state.snapshot,
            lambda: None if updater is None else updater.state,
            state.wake_publisher,
        )
        state.publisher.start()
        self._running.callback(state.publisher.stop, state.timings.parting_s)
        if updater is not None:
            updater.start()
            self._running.callback(updater.stop)
        reporter.start()
        self._running.callback(reporter.stop)

    def _watch(self) -> None:
        seldom_at_s = 0.0
        while True:
            self._check("the heat", self._monitor.check_heat)
            self._check("the signs of life", self._monitor.check_often)
            self._check("revoked keys", self._slots.check_revocation)
            self._check("the slots", self._slots.look)
            if monotonic() >= seldom_at_s:
                seldom_at_s = monotonic() + self._state.timings.seldom_every_s
                self._check("the disk and the clock", self._monitor.check_seldom)
            self._switcher.remind()
            if self._stop.wait(self._state.timings.services_every_s):
                return

    def _check(self, what: str, step: Callable[[], None]) -> None:
        """Look after something; a failure goes into the health, and stops neither another step nor the next round."""
        try:
            step()
        except Exception as error:
            fault = None if isinstance(error, BloodedgeError) else error
            sentence = str(error) if fault is None else _failure_sentence(what, fault)
            if self._failures.get(what) != sentence:
                log.warning("%s", sentence, exc_info=fault)
            self._failures[what] = sentence
        else:
            self._failures.pop(what, None)
        failure = next(iter(self._failures.values()), "")
        level = Level.FAILED if failure else Level.OK
        self._state.health.report("housekeeping", level, failure or "All services run.")


def _failure_sentence(what: str, error: Exception) -> str:
    """A sentence about an unexpected error."""
    known = system_sentence(error) if isinstance(error, OSError) else None
    return known or f"Checking {what} failed ({error!r}) and is tried again; report what the log says about it."


def desk_of(state: DaemonState, slides: Slides) -> Desk:
    """What the page asks of the daemon."""
    return Desk(state.live, state.store, state.snapshot, slides.start, slides.end, slides.label)
