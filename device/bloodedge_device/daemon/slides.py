"""Starts, ends and labels slides between two frames; every frame goes through the current slide's pipeline.

The cells of one frame are classified while the next one is searched, in a thread beside the daemon's own: a board with
two cores uses both.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.machine import hardware_name
from bloodedge.text import is_one_line
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.daemon.model_faults import ModelFaults
from bloodedge_device.daemon.pipelines import pipeline_of
from bloodedge_device.daemon.recorder import Recorder
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.kinds.rates import default_rates
from bloodedge_device.latency import summed
from bloodedge_device.pipeline import Pipeline, Searched
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store import RunInfo
from bloodedge_device.system.clock import clock_synchronised
from bloodedge_device.system.signals import Signals

log = logging.getLogger("bloodedge.device")

LONGEST_LABEL = 200

_HELD_BACK = "The current frame cannot be stored; the disk may be full. Free some space, then do it again."


class Slides:
    """The current slide, its run and its pipeline; people start, end and label slides from any thread."""

    def __init__(
        self,
        state: DaemonState,
        signals: Signals,
        new_pipeline: Callable[[DeviceSettings, Loaded], Pipeline] = pipeline_of,
    ) -> None:
        """The recorder is to be entered before ``begin_run``."""
        self.state, self._signals = state, signals
        self._new_pipeline = new_pipeline
        self.recorder = Recorder(
            state.store,
            state.began_s,
            state.health,
            publish=state.settings.mqtt.host is not None,
            stored=state.wake_publisher,
            on_new_database=self._begin_again,
            ending=lambda: signals.stop,
            timings=state.timings,
        )
        self.changing = threading.RLock()
        """Held while a frame is searched, and by who changes the slide."""
        self._classifier = ThreadPoolExecutor(1, "classify")
        self._classified: Future[None] | None = None
        """Of the frame before the one that is searched."""
        self._ended = threading.Event()
        """Set once the slide that ended last is stored."""
        self._ended.set()
        self._run = 0
        self._pipeline: Pipeline | None = None
        """The current slide's; between slides that of frames which are shown and not stored."""

    def process(self, frame: Frame | BadFrame) -> None:
        """Search a frame, and have its cells classified while the next one is searched.

        Raises what went wrong with the frame before it.
        """
        state = self.state
        with self.changing:
            if self._pipeline is None:
                self._pipeline = self._new_pipeline(state.settings, state.loaded)
            state.in_work.append(monotonic())
            searched = self._pipeline.search(frame).kept()
            self.settle()
            if state.slide is not None and (file := frame.capture.file) is not None:
                state.camera.done[file.path] = file
            self._classified = self._classifier.submit(self._hand_on, self._pipeline, state.slide, searched)

    def settle(self) -> None:
        """Wait until every searched frame is handed on; raises what went wrong with it."""
        if self._classified is not None:
            self._classified.result()

    def _hand_on(self, pipeline: Pipeline, slide: CurrentSlide | None, searched: Searched) -> None:
        """Hand a frame's result to the recorder and the page."""
        state = self.state
        result = pipeline.classify(searched)
        state.count(result)
        if slide is not None:
            slide.tally.add(result)
            state.totals.add(result)
            self.recorder.put(slide, result)
        state.show(searched.frame, result)
        state.in_work.popleft()

    def begin_run(self) -> None:
        """Store a new run of the settings and the bundle in force."""
        state = self.state
        state.ready_s = state.ready_s or monotonic() - state.began_s
        self._run = state.store.at_once(partial(self._store_run, state.settings, state.loaded))

    def _store_run(self, settings: DeviceSettings, loaded: Loaded) -> int:
        """Store that a run begins, and note it in the audit log; gives its id."""
        state, manifest = self.state, loaded.manifest
        camera = state.camera.name if settings.camera == state.settings.camera else ""
        used = manifest if settings.domain.known_only else manifest.model_copy(update={"domain": None})
        kind_rates = default_rates()
        info = RunInfo(
            started=datetime.now(UTC) - timedelta(seconds=state.ready_s),
            ready_ms=state.ready_s * 1000,
            bundle_name=manifest.name,
            bundle_serial=manifest.serial,
            engine=loaded.artifact.engine,
            engine_reason=loaded.why,
            runtime=loaded.engine.runtime,
            precision=loaded.artifact.precision,
            threads=settings.threads,
            hardware=hardware_name(),
            camera=camera or settings.camera.kind,
            golden=asdict(loaded.golden),
            manifest=used.model_dump_json(),
            clock_synchronised=clock_synchronised(),
            kind_rates=kind_rates.model_dump_json() if kind_rates else None,
            differential_cells=settings.slide.differential_cells,
        )
        run = state.store.begin_run(info)
        bundle = {"bundle": manifest.name, "serial": manifest.serial, "engine": info.engine}
        if loaded.signer is not None:
            bundle["signed by"] = f"{loaded.signer.name} ({loaded.signer.key_id})"
        chosen = settings.model_dump(mode="json", exclude_defaults=True)
        state.store.note("daemon", "run began", {"run": run, **bundle, "settings": chosen})
        return run

    def _store_slide(self, run: int, label: str, actor: str) -> int:
        number = self.state.store.begin_slide(run, label)
        self.state.store.note(actor, "slide began", {"slide": number, "label": label})
        return number

    def begin(self, label: str, actor: str) -> int:
        """End the current slide, if any, and begin one; gives its id."""
        with self._between_frames():
            number = self.state.store.at_once(partial(self._store_slide, self._run, label, actor))
            self._change_to((number, label), actor)
        return number

    def start(self, label: str, actor: str) -> int:
        """As ``begin``, for a person or a program; UsageError for a label that is too long or not one line."""
        label = _clean(label)
        with self._between_frames():
            number, ended = self.begin(label, actor), self._ended
            camera = self.state.settings.camera
            # Light is measured when a slide begins, then held; files that were shown between slides come again.
            if camera.kind in {"v4l2", "picamera"} or camera.watch:
                self.state.renew_camera = True
                self._signals.interrupt.set()
        log.info("Slide %d began.", number)
        self._wait_until_stored(ended)
        return number

    def end(self, actor: str) -> int | None:
        """End the current slide; gives its id once all of it is stored, None when there was none."""
        with self._between_frames():
            slide = self.state.slide
            self._change_to(None, actor)
            ended = self._ended
        self._wait_until_stored(ended)
        return None if slide is None else slide.id

    def label(self, slide: int, label: str, actor: str) -> None:
        """Give a slide, current or ended, another label; UsageError when there is no such slide."""
        label = _clean(label)
        self.state.store.label_slide(slide, label, actor)
        if self.state.slide is not None and self.state.slide.id == slide:
            self.state.slide.label = label

    def finish(self) -> None:
        """End the current slide with the daemon."""
        with self.changing:
            self._classifier.shutdown()
            self._change_to(None, "daemon")

    def store_next(self, settings: DeviceSettings, loaded: Loaded, actor: str) -> tuple[int, tuple[int, str] | None]:
        """Store the end of this run and a new one, with the slide that follows the current one, if any.

        Gives (the run, (the slide's id, its label)); BloodedgeError, and nothing stored, when the disk has no room.
        """
        store, slide, now = self.state.store, self.state.slide, self.state.settings

        def steps() -> tuple[int, tuple[int, str] | None]:
            store.end_run(self._run)
            run = self._store_run(settings, loaded)
            if slide is None:
                return run, None
            label = settings.slide.label if settings.slide != now.slide else slide.label
            return run, (self._store_slide(run, label, actor), label)

        return store.at_once(steps)

    def switch(
        self, settings: DeviceSettings, loaded: Loaded, run: int, slide: tuple[int, str] | None, actor: str
    ) -> None:
        """Put other settings and another network in force, with what ``store_next`` gave."""
        state, camera = self.state, self.state.settings.camera
        if loaded is not state.loaded:
            state.faults = ModelFaults()  # first, or the slots' watch would blame the new network for the old one's
        state.loaded = loaded  # before the settings: who reads the new ones finds the network that goes with them
        state.settings = settings
        self._run = run
        if settings.camera != camera:
            state.open_camera_again()
        self._change_to(slide, actor)

    def _change_to(self, slide: tuple[int, str] | None, actor: str) -> None:
        """Make another slide the current one, or none; the one before ends in the store after its last frame."""
        state, before, pipeline = self.state, self.state.slide, self._pipeline
        if slide is None:
            self._pipeline = state.slide = None
        else:
            self._pipeline = self._new_pipeline(state.settings, state.loaded)
            loaded = state.loaded
            state.slide = CurrentSlide(
                *slide,
                loaded.artifact.rates,
                self._pipeline.times,
                people_scores=loaded.manifest.people_scores,
                kind_rates=default_rates(),
                target=state.settings.slide.differential_cells,
            )
            state.last_slide = slide[0]
            state.first_slide = state.first_slide or slide[0]
        if before is not None:
            state.finished_times = summed(state.finished_times, before.times.histograms)
        if pipeline is not None:
            pipeline.close()
        if before is not None:
            self._ended = self.recorder.end(before, actor)

    def _wait_until_stored(self, ended: threading.Event) -> None:
        """Who asks for an ended slide gets all of it, unless the disk takes too long."""
        ended.wait(self.state.timings.frame_wait_s)

    def _begin_again(self, stored: CurrentSlide) -> None:
        """Go on in a new database, begun in place of a damaged one; called in the recorder's thread.

        stored: the slide whose frames are being stored, which may have ended meanwhile.
        """
        self.begin_run()
        state, current = self.state, self.state.slide
        state.first_slide = 0
        for slide in (stored,) if current is None or current is stored else (stored, current):
            slide.id = state.last_slide = state.store.begin_slide(self._run, slide.label)
            state.first_slide = state.first_slide or slide.id

    @contextmanager
    def _between_frames(self) -> Iterator[None]:
        """Wait for the frames in work; BloodedgeError when they take too long, as they do while the disk is full."""
        until_s = monotonic() + self.state.timings.frame_wait_s
        if not self.changing.acquire(timeout=self.state.timings.frame_wait_s):
            raise BloodedgeError(_HELD_BACK)
        try:
            frames = [] if self._classified is None else [self._classified]
            if wait(frames, timeout=max(0.0, until_s - monotonic())).not_done:
                raise BloodedgeError(_HELD_BACK)
            yield
        finally:
            self.changing.release()


def _clean(label: str) -> str:
    """A slide's label as it may be stored; UsageError when it is too long or not one line."""
    label = label.strip()
    if len(label) > LONGEST_LABEL or not is_one_line(label):
        raise UsageError(
            f"A slide's label is one line of at most {LONGEST_LABEL} characters; leave out controls and marks that"
            " turn the direction of writing."
        )
    return label
