"""The daemon's loop: it takes frames until the camera ends or it is told to stop."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from time import monotonic

from bloodedge.text import shown
from bloodedge_device.bundles.start import counted_start
from bloodedge_device.daemon.reload import Switcher
from bloodedge_device.daemon.services import Services
from bloodedge_device.daemon.slides import Slides
from bloodedge_device.daemon.state import DaemonState, supervised_camera
from bloodedge_device.health import Health
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import Store, open_for_reading
from bloodedge_device.store.run_summary import RunSummary, read_summary
from bloodedge_device.system.process import keep_freed_memory, keep_to_cores, private_files
from bloodedge_device.system.sd_notify import Notifier
from bloodedge_device.system.signals import Signals, signals_heard
from bloodedge_device.system.thermal import Pace
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")


def run_device(
    settings: DeviceSettings,
    frames: int | None = None,
    began_s: float | None = None,
    reread: Callable[[], DeviceSettings] | None = None,
    show_page: Callable[[str], None] | None = None,
    timings: Timings = TIMINGS,
) -> RunSummary:
    """Run until the camera ends, ``frames`` frames were processed, or SIGTERM or SIGINT comes; gives the counts.

    began_s: when the process began, on the monotonic clock (default: now). reread: gives the settings anew after a
    SIGHUP. show_page: is given the page's address once it is served. After a SIGINT the current frame is still stored.
    """
    began_s = monotonic() if began_s is None else began_s
    keep_freed_memory()
    with private_files(), signals_heard() as signals:
        health = Health()
        with closing(supervised_camera(settings, health, timings=timings)) as camera:
            keep_to_cores(settings.cores)
            with counted_start(settings) as loaded:
                if not settings.camera.is_hardware:  # a folder that is not there, or a video that cannot be read
                    camera.wait_until_open(signals.interrupt)
                with closing(Store(settings.state, settings.store, settings.mqtt.most_waiting)) as store:
                    state = DaemonState(settings, loaded, camera, store, health, began_s, timings)
                    with closing(state):
                        Daemon(state, signals).run(frames, reread or (lambda: settings), show_page)
                    first, ending = state.first_slide, state.camera.ending
        with open_for_reading(settings.state) as database:
            return read_summary(database, first, ending, interrupted=signals.interrupted)


class Daemon:
    """The loop over frames, and its parts: slides, switches, and the services beside."""

    def __init__(self, state: DaemonState, signals: Signals) -> None:
        self.state, self._signals = state, signals
        self._notifier = Notifier()
        self.slides = Slides(state, signals)
        self.switcher = Switcher(state, self.slides, signals.interrupt)
        self._services = Services(state, self.slides, self.switcher, self._notifier)

    def run(
        self, limit: int | None, reread: Callable[[], DeviceSettings], show_page: Callable[[str], None] | None = None
    ) -> None:
        """Serve until told to stop, the camera ends, or ``limit`` frames were processed."""
        with ExitStack() as stack:
            stack.enter_context(self.slides.recorder)
            self.slides.begin_run()
            stack.enter_context(self._services)
            self.slides.begin(shown(self.state.settings.slide.label), "daemon")
            stack.callback(self.slides.finish)  # before the publisher ends, so that the slide's figures still go out
            _announce(self.state, self._services.page)
            if show_page is not None:
                show_page(self._services.page)
            self._notifier.ready()
            self._process_until_stopped(limit, reread)
            self._notifier.stopping()

    def _process_until_stopped(self, limit: int | None, reread: Callable[[], DeviceSettings]) -> None:
        try:
            self._process_all(limit, reread)
        finally:
            self._signals.left.set()

    def _process_all(self, limit: int | None, reread: Callable[[], DeviceSettings]) -> None:
        signals, switcher = self._signals, self.switcher
        left = limit
        while True:
            left = self._process_frames(left)
            interrupted = signals.interrupt.is_set()  # else the camera has ended
            signals.interrupt.clear()  # before looking at what it was set for, or a new request would be lost
            switcher.raise_refusal()
            due = interrupted or signals.reload or switcher.is_due or self.state.renew_camera
            if signals.stop or left == 0 or not due:
                return
            self._between_frames(reread)

    def _process_frames(self, limit: int | None) -> int | None:
        """Process frames until interrupted or the camera ends; gives how many of ``limit`` are left."""
        if limit == 0:
            return 0
        state, interrupt = self.state, self._signals.interrupt
        self._let_cool(0.0)
        for frame in state.camera.frames(interrupt):
            began_s = monotonic()
            self.slides.process(frame)
            self._notifier.watchdog()
            if limit is not None:
                limit -= 1
            if limit == 0 or interrupt.is_set():
                break
            if state.pace is not Pace.FULL:
                self.slides.settle()
                self._let_cool(monotonic() - began_s)
        self.slides.settle()
        return limit

    def _let_cool(self, worked_s: float) -> None:
        """Rest while the board is hot, see Pace; the last frame took ``worked_s`` seconds."""
        state, interrupt = self.state, self._signals.interrupt
        if state.pace is Pace.SLOW:
            interrupt.wait(worked_s)
        while state.pace is Pace.STOPPED and not interrupt.wait(state.timings.cooling_check_s):
            self._notifier.watchdog()

    def _between_frames(self, reread: Callable[[], DeviceSettings]) -> None:
        reload = self._signals.reload
        if reload:
            self._signals.reload = False
            self._notifier.reloading()
            self.switcher.reload(reread)
        self.switcher.switch()
        if reload:
            self._notifier.ready()
        if self.state.renew_camera:
            self.state.open_camera_again()


def _announce(state: DaemonState, page: str) -> None:
    loaded, golden = state.loaded, state.loaded.golden
    manifest, artifact = loaded.manifest, loaded.artifact
    log.info(
        "Bundle %s (serial %d), %s %s: %s.",
        manifest.name,
        manifest.serial,
        artifact.engine,
        artifact.precision,
        loaded.engine.runtime,
    )
    if loaded.signer is not None:
        log.info("Signed by %s on %s.", loaded.signer.name, f"{loaded.signer.signed_at:%Y-%m-%d}")
    elif state.settings.trust.unsigned:
        log.warning("The settings accept unsigned bundles ([trust] unsigned): nobody vouches for them.")
    log.info("Engine %s because %s.", artifact.engine, loaded.why)
    log.info(
        "Self-test: %d of %d golden cells changed class, largest probability difference %.3f.",
        golden.flips,
        golden.inputs,
        golden.max_probability_difference,
    )
    camera = state.camera.name or f"{state.settings.camera.kind}, not open yet"
    log.info("Camera: %s. Slide %d. READY after %.2f s.", camera, state.last_slide, state.ready_s)
    if page:
        log.info("Page: %s", page)
