"""Reports how each part of the daemon is to its health: frames, broker, clock, heat and disk."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

from bloodedge.machine import EARLIEST, cpu_temperature_c
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.health import Level
from bloodedge_device.store import DiskFullError
from bloodedge_device.system.clock import ClockWatch, clock_synchronised
from bloodedge_device.system.process import give_freed_memory_back
from bloodedge_device.system.sd_notify import Notifier
from bloodedge_device.system.thermal import COOLED_BY_C, Pace, pace_at, read_throttling

log = logging.getLogger("bloodedge.device")

HOT_C = 80.0
"""Raspberry Pis slow down from here on (Raspberry Pi documentation, frequency management)."""

UNREADABLE_IN_A_ROW = 10
"""So many unreadable frames in a row are more than a disturbance."""


class Monitor:
    """Checks the parts in the services' thread; it also sets the pace that the heat allows."""

    def __init__(self, state: DaemonState, notifier: Notifier) -> None:
        self._state, self._notifier = state, notifier
        self._clock = ClockWatch()
        self._was_right = clock_synchronised() is not False and datetime.now(UTC) >= EARLIEST
        """Whether the clock could be trusted at the start."""
        self._began_s = monotonic()

    def check_heat(self) -> None:
        """Slow the daemon down, or stop its frames, while the processor is hotter than the settings allow."""
        state, watch, temperature = self._state, self._state.settings.watch, cpu_temperature_c()
        before, now = state.pace, pace_at(temperature, watch.slow_at_c, watch.stop_at_c, state.pace)
        state.pace = now
        if now is Pace.FULL:
            if before is not now:
                self._report_heat()
            return
        limit_c = watch.stop_at_c if now is Pace.STOPPED else watch.slow_at_c
        assert limit_c is not None
        sentence = (
            f"The processor is at {temperature:.0f} °C: {'no frame is' if now is Pace.STOPPED else 'fewer frames are'}"
            f" processed until it has cooled to {limit_c - COOLED_BY_C:g} °C; cool the board."
        )
        state.health.report("heat", Level.FAILED if now is Pace.STOPPED else Level.WARNING, sentence)
        if before is not now:
            log.warning("%s", sentence)

    def check_often(self) -> None:
        """Broker, frames, network and jumps of the clock; the line that the service manager shows."""
        state = self._state
        if state.publisher is not None:
            broker, lost = state.publisher, state.store.messages_lost
            level = Level.OK if broker.connected and not lost else Level.WARNING
            state.health.report("broker", level, broker.sentence + (f" {lost} messages were dropped." if lost else ""))
        self._check_frames()
        if "model" in state.health.conditions():
            state.health.report("model", *state.faults.condition())
        jump_s = self._clock.jumped()
        if jump_s is not None:
            log.warning("The clock was set by %+.0f s; durations are not affected.", jump_s)
            state.store.note_clock_set(jump_s)
        slide = "no slide" if state.slide is None else f"slide {state.slide.id}"
        self._notifier.status(f"{state.rate.per_second:.1f} frames/s, {slide}, camera {state.camera.name}")

    def _check_frames(self) -> None:
        state, report = self._state, self._state.health.report
        alive_s, unreadable = state.settings.watch.alive_s, state.unreadable_in_a_row
        if state.awaits_files:
            report("frames", Level.OK, "Waiting for the next image in the watched folder.")
            self._notifier.watchdog()
        elif state.is_stuck:
            sentence = f"One frame has taken more than {alive_s:g} s: the network hangs, or the disk is full."
            report("frames", Level.FAILED, sentence)
        elif unreadable >= UNREADABLE_IN_A_ROW:
            sentence = f"None of the last {unreadable} frames could be read; check the camera's connection."
            report("frames", Level.FAILED, sentence)
        elif state.is_alive:
            report("frames", Level.OK, f"{state.rate.per_second:.1f} frames per second are classified.")
        elif state.pace is Pace.STOPPED:
            report("frames", Level.WARNING, "No frame is processed until the processor has cooled.")
        elif monotonic() - self._began_s < alive_s:
            report("frames", Level.OK, "Waiting for the first frame.")
        elif report("frames", Level.FAILED, f"No frame was classified for {alive_s:g} s."):
            log.warning("No frame was classified for %g s.", alive_s)

    def check_seldom(self) -> None:
        """Clock, heat and disk; freed memory goes back to the system."""
        report = self._state.health.report
        if clock_synchronised() is False:
            report("clock", Level.WARNING, "The clock is not synchronised; times may be wrong.")
        else:
            report("clock", Level.OK, "The clock is synchronised, as far as the system knows.")
        if self._state.pace is Pace.FULL:
            self._report_heat()
        self._tidy()
        give_freed_memory_back()

    def _report_heat(self) -> None:
        report, watch = self._state.health.report, self._state.settings.watch
        temperature, throttling = cpu_temperature_c(), read_throttling()
        if throttling is not None and throttling.now:
            report("heat", Level.WARNING, f"{throttling.now[0][0].upper()}{throttling.now[0][1:]}; cool the board.")
        elif temperature is not None:
            hot = temperature >= HOT_C
            sentence = f"The processor is at {temperature:.0f} °C{'; cool the board' if hot else ''}."
            report("heat", Level.WARNING if hot else Level.OK, sentence)
        elif watch.slow_at_c is not None or watch.stop_at_c is not None:
            sentence = "No CPU temperature sensor was found: watch.slow_at_c and watch.stop_at_c have no effect."
            report("heat", Level.WARNING, sentence)

    def _tidy(self) -> None:
        store = self._state.store
        with suppress(DiskFullError):
            if expired := store.expire(self._time_for_retention(), clock_held=clock_synchronised()):
                log.info("%d images of cells past store.keep_days were removed; results are kept.", expired)
                store.note("daemon", "images expired", {"images": expired})
            if removed := store.tidy():
                log.warning("%d oldest images of cells were removed to keep the disk free; results are kept.", removed)
                store.note("daemon", "images removed", {"images": removed})

    def _time_for_retention(self) -> datetime:
        """Now, as a clock has it that was right at the start: set far forward since, it would cost every image."""
        return datetime.now(UTC) - timedelta(seconds=self._clock.set_by_s if self._was_right else 0)
