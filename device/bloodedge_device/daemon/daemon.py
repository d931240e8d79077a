"""The daemon: takes frames until the camera ends or it is told to stop, and stores what each one shows."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from bloodedge.decision.thresholds import Reason
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import Image
from bloodedge.text import is_one_line, shown
from bloodedge_device.bundles.loading import Loaded, active_digest, load
from bloodedge_device.bundles.revocation import heed_revocation
from bloodedge_device.bundles.start import load_counted, started
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.daemon.live import Live
from bloodedge_device.daemon.model_faults import ModelFaults
from bloodedge_device.daemon.recorder import Recorder
from bloodedge_device.daemon.run_start import store_run, store_slide
from bloodedge_device.daemon.services import Housekeeper
from bloodedge_device.finder import Found, find_cells
from bloodedge_device.finder.frame_gate import check
from bloodedge_device.finder.slide_scale import SlideScale
from bloodedge_device.frames import BadFrame, Frame, FrameResult, SourceFile
from bloodedge_device.health import Health, Level
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.pipeline import Check, Find, Pipeline
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.cell_identity import SlideCells
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.slide.review import REVIEW_LABELS, SAMPLINGS
from bloodedge_device.slide.tally import Totals
from bloodedge_device.snapshot.snapshot import Rate, metrics_of, status_of
from bloodedge_device.snapshot.status import Status
from bloodedge_device.store import Store, open_for_reading
from bloodedge_device.store.run_summary import RunSummary, read_summary
from bloodedge_device.store.watched import read_watched
from bloodedge_device.system.process import keep_freed_memory, keep_to_cores
from bloodedge_device.system.sd_notify import Notifier
from bloodedge_device.system.signals import Signals, signals_heard
from bloodedge_device.system.thermal import Pace

if TYPE_CHECKING:
    from bloodedge_device.outputs.mqtt import MqttPublisher

log = logging.getLogger("bloodedge.device")

LONGEST_LABEL = 200

COOLING_LOOK_S = 0.5
"""Between two looks at whether a board that was too hot has cooled."""

PATIENCE_S = 5.0
"""How long a person waits for the frame in hand."""

NEEDS_RESTART = ("cores", "state", "store", "web", "mqtt")
"""Settings that a reload leaves as they are."""

NEW_NETWORK = ("bundle", "engine", "precision", "threads", "openvino_device", "trust")
"""Settings whose change loads a network anew."""

RELOAD = "reload"
"""Who does what a reload brings, in the audit log."""

AS_THE_FILE = "The settings in force are those of the file."


def run_device(
    settings: DeviceSettings,
    frames: int | None = None,
    began_s: float | None = None,
    reread: Callable[[], DeviceSettings] | None = None,
    show_page: Callable[[str], None] | None = None,
) -> RunSummary:
    """Run until the camera ends, ``frames`` frames were processed, or SIGTERM or SIGINT comes; gives the counts.

    began_s: when the process began, on the monotonic clock (default: now). reread: gives the settings anew after a
    SIGHUP. show_page: is given the page's address once it is served. After a SIGINT the current frame is still stored.
    """
    began_s = monotonic() if began_s is None else began_s
    keep_freed_memory()
    with signals_heard() as signals:
        health = Health()
        with closing(_camera(settings, health)) as camera:
            keep_to_cores(settings.cores)
            with started(settings) as loaded:
                if not settings.camera.is_hardware:  # a folder that is not there, or a video that cannot be read
                    camera.wait_until_open(signals.interrupt)
                with closing(Store(settings.state, settings.store, settings.mqtt.most_waiting)) as store:
                    daemon = Daemon(settings, loaded, camera, store, health, began_s)
                    with closing(daemon):
                        daemon.run(signals, frames, reread or (lambda: settings), show_page)
                    first, ending = daemon.first_slide, daemon.camera.ending
        with open_for_reading(settings.state) as database:
            return read_summary(database, first, ending, interrupted=signals.interrupted)


@dataclass(frozen=True)
class Switch:
    """What to go on with after the frame in hand."""

    settings: DeviceSettings
    loaded: Loaded
    instead_of: DeviceSettings
    """Those in force when it was wished for; where they changed meanwhile, the network is looked for anew."""
    actor: str


class Daemon:
    """One camera, one network, one slide at a time; what its page and its publishers ask for, see Desk."""

    def __init__(
        self,
        settings: DeviceSettings,
        loaded: Loaded,
        camera: SupervisedCamera,
        store: Store,
        health: Health,
        began_s: float,
    ) -> None:
        self.settings, self.loaded, self.camera, self.store, self.health = settings, loaded, camera, store, health
        self.state = store.state
        self.live = Live()
        self.rate = Rate()
        self.totals = Totals()
        self.faults = ModelFaults()
        """Of the network in force."""
        self.pace = Pace.FULL
        self.publisher: MqttPublisher | None = None
        self._finished_stages: dict[str, LatencyHistogram] = {}
        self._earlier_restarts = 0
        self.started = datetime.now(UTC) - timedelta(seconds=monotonic() - began_s)
        self.notifier = Notifier()
        self.slide: CurrentSlide | None = None
        self.first_slide = self.last_slide = 0
        self.ready_s = 0.0
        self._began_s = began_s
        self._run = 0
        self._looking = threading.RLock()
        self.in_hand_since_s: float | None = None
        """When the frame was taken that is looked at now, on the monotonic clock; None between two."""
        self.unreadable_in_a_row = 0
        """Frames that could not be read, up to the newest."""
        self._pipeline: Pipeline | None = None
        """Of the current slide, or between slides, when frames are shown and not stored."""
        self._renew_camera = False
        self.loading = threading.Lock()
        """Held by who loads a network to go on with: a reload, or the slots' watch."""
        self._next: Switch | None = None
        self._next_waits = False
        """Whether the disk had no room for the run that is to begin next."""
        self._refusal: BloodedgeError | None = None
        self._interrupt = threading.Event()
        self.recorder: Recorder | None = None

    def run(
        self,
        signals: Signals,
        limit: int | None,
        reread: Callable[[], DeviceSettings],
        show_page: Callable[[str], None] | None = None,
    ) -> None:
        """Serve until told to stop, the camera ends, or ``limit`` frames were processed."""
        self._interrupt = signals.interrupt
        publish = self.settings.mqtt.host is not None
        with ExitStack() as stack:
            housekeeper = Housekeeper(self)
            recorder = Recorder(
                self.store,
                self._began_s,
                self.health,
                publish=publish,
                stored=housekeeper.wake,
                anew=self._begin_anew,
                ending=lambda: signals.stop,
            )
            self.recorder = stack.enter_context(recorder)
            self._begin_run()
            stack.enter_context(housekeeper)
            self._begin_slide(shown(self.settings.slide.label), "daemon")
            stack.callback(self._finish)  # before the publisher ends, so that the slide's figures still go out
            self._announce(housekeeper.page)
            if show_page is not None:
                show_page(housekeeper.page)
            self.notifier.ready()
            left = limit
            while True:
                left = self._look(signals, left)
                woken = signals.interrupt.is_set()  # else the camera has ended
                signals.interrupt.clear()  # before what it was set for is looked at, or a new wish would be lost
                if self._refusal is not None:
                    raise self._refusal
                wished = signals.reload or self._renew_camera or (self._next is not None and not self._next_waits)
                if signals.stop or left == 0 or not (woken or wished):
                    break
                self._between_looks(signals, reread)
            self.notifier.stopping()

    def _between_looks(self, signals: Signals, reread: Callable[[], DeviceSettings]) -> None:
        reload = signals.reload
        if reload:
            signals.reload = False
            self._reload(reread)
        if self._next is not None:
            self._go_on_with(self._next)
        if reload:
            self.notifier.ready()
        if self._renew_camera:
            self._open_camera_again()

    def close(self) -> None:
        """Let go of a camera that was opened since the start."""
        self.camera.close()

    def _look(self, signals: Signals, limit: int | None) -> int | None:
        """Process frames until something else is to be done; gives how many of ``limit`` are left."""
        if limit == 0:
            return 0
        self._let_cool(0.0)
        for frame in self.camera.frames(signals.interrupt):
            self.in_hand_since_s = began_s = monotonic()
            with self._looking:
                self._process(frame)
            self.in_hand_since_s = None
            if limit is not None:
                limit -= 1
            if limit == 0 or signals.interrupt.is_set():
                break
            self._let_cool(monotonic() - began_s)
        return limit

    def _let_cool(self, worked_s: float) -> None:
        """Rest while the board is hot, see Pace; the frame in hand took ``worked_s`` seconds."""
        if self.pace is Pace.SLOW:
            self._interrupt.wait(worked_s)
        while self.pace is Pace.STOPPED and not self._interrupt.wait(COOLING_LOOK_S):
            self.notifier.watchdog()

    def _process(self, frame: Frame | BadFrame) -> None:
        if self._pipeline is None:
            self._pipeline = self._new_pipeline()
        result = self._pipeline.process(frame)
        self._count_faults(result)
        self.unreadable_in_a_row = self.unreadable_in_a_row + 1 if result.reason is Reason.BAD_FRAME else 0
        if self.slide is not None and self.recorder is not None:
            self.slide.tally.add(result)
            self.totals.add(result)
            self.recorder.put(self.slide, result)
            if (file := frame.capture.file) is not None:
                self.camera.done[file.path] = file
        self._show(frame, result)

    def _count_faults(self, result: FrameResult) -> None:
        before = self.faults.faults
        self.faults.add(result)
        if self.faults.faults != before:
            level, sentence = self.faults.condition()
            if self.health.tell("model", level, sentence):
                log.warning("%s", sentence)

    def _show(self, frame: Frame | BadFrame, result: FrameResult) -> None:
        self.rate.note()
        self.live.put(None if isinstance(frame, BadFrame) else frame.bgr, result)
        self.notifier.watchdog()

    def _new_pipeline(self) -> Pipeline:
        settings, loaded = self.settings, self.loaded
        return Pipeline(
            loaded.engine,
            loaded.manifest,
            gate_of(settings),
            finder_of(settings),
            known_only=settings.domain.known_only,
            recogniser=SlideCells() if settings.slide.overlap else None,
        )

    def _begin_run(self) -> None:
        self.ready_s = self.ready_s or monotonic() - self._began_s
        self._run = self.store.at_once(partial(self._store_run, self.settings, self.loaded))

    def _store_run(self, settings: DeviceSettings, loaded: Loaded) -> int:
        name = self.camera.name if settings.camera == self.settings.camera else ""
        return store_run(self.store, settings, loaded, name or settings.camera.kind, self.ready_s)

    def _begin_slide(self, label: str, actor: str) -> int:
        number = self.store.at_once(partial(store_slide, self.store, self._run, label, actor))
        self._lay(CurrentSlide(number, label, self.loaded.artifact.rates), actor)
        return number

    def _lay(self, slide: CurrentSlide | None, actor: str) -> None:
        """Put another slide in work, or none; the one before ends in the store after its last frame."""
        self._close_pipeline()
        if slide is not None:
            self._pipeline = self._new_pipeline()
            slide.times = self._pipeline.times
            self.last_slide = slide.id
            self.first_slide = self.first_slide or slide.id
        before, self.slide = self.slide, slide
        if before is not None and self.recorder is not None:
            self._finished_stages = _together(self._finished_stages, before.times.histograms)
            self.recorder.end(before, actor)

    def _close_pipeline(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _begin_anew(self, stored: CurrentSlide) -> None:
        """A new database was begun in place of a damaged one: run and slides go on in it; in the recorder's thread.

        stored: the slide whose frames are being stored, which may have ended meanwhile.
        """
        self._begin_run()
        in_work = self.slide
        self.first_slide = 0
        for slide in (stored,) if in_work is None or in_work is stored else (stored, in_work):
            slide.id = self.last_slide = self.store.begin_slide(self._run, slide.label)
            self.first_slide = self.first_slide or slide.id

    def _finish(self) -> None:
        with self._looking:
            if self.slide is not None:
                self.end_slide("daemon")
        self._close_pipeline()

    def _announce(self, page: str) -> None:
        loaded, golden = self.loaded, self.loaded.golden
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
        elif self.settings.trust.unsigned:
            log.warning("Bundles are run unsigned, whoever made them: the settings say so ([trust] unsigned).")
        log.info("Engine %s because %s.", artifact.engine, loaded.why)
        log.info(
            "Self-test: %d of %d golden cells changed class, largest probability difference %.3f.",
            golden.flips,
            golden.inputs,
            golden.max_probability_difference,
        )
        camera = self.camera.name or f"{self.settings.camera.kind}, not open yet"
        log.info("Camera: %s. Slide %d. READY after %.2f s.", camera, self.last_slide, self.ready_s)
        if page:
            log.info("Page: %s", page)

    def _reload(self, reread: Callable[[], DeviceSettings]) -> None:
        """Read the settings anew; what is wrong with them is told, and the old ones stay in force."""
        self.notifier.reloading()
        if self._next is not None and self._next.actor == RELOAD:
            self._forget_next()  # the file has changed again since
        try:
            with self.loading:
                self._apply(reread())
        except BloodedgeError as error:
            sentence = f"A reload was refused, and the old settings stay in force: {error}"
            log.warning("%s", sentence)
            self.health.tell("settings", Level.WARNING, sentence)

    def _apply(self, new: DeviceSettings) -> None:
        old = self.settings
        for name in NEEDS_RESTART:
            if getattr(new, name) != getattr(old, name):
                log.warning("%s was changed; that takes a restart.", name)
        if new.update.from_fleet != old.update.from_fleet:
            log.warning("update.from_fleet was changed; that takes a restart.")
        new = new.model_copy(update={name: getattr(old, name) for name in NEEDS_RESTART})
        if self.loaded.slot is not None:
            heed_revocation(new, self.loaded)
        switched = active_digest(new) != self.loaded.sha256
        if new == old and not switched:
            self.health.tell("settings", Level.OK, AS_THE_FILE)
            log.info("Reloaded: nothing has changed.")
            return
        network = switched or any(getattr(new, name) != getattr(old, name) for name in NEW_NETWORK)
        loaded = load_counted(new) if switched else load(new) if network else self.loaded
        self._next = Switch(new, loaded, old, RELOAD)

    @property
    def has_next(self) -> bool:
        """Whether a network waits to take over between two frames."""
        return self._next is not None

    def take_over(self, settings: DeviceSettings, loaded: Loaded) -> None:
        """Go on with another network after the frame in hand; from any thread."""
        self._next = Switch(settings, loaded, settings, "daemon")
        self._interrupt.set()

    def remind(self) -> None:
        """See whether there is room now for a run that was to begin; from any thread."""
        if self._next_waits:
            self._interrupt.set()

    def refuse(self, error: BloodedgeError) -> None:
        """End after the frame in hand: what runs is to run no longer, and nothing takes its place; from any thread."""
        self._refusal = error
        self._interrupt.set()

    def _go_on_with(self, to: Switch) -> None:
        """Begin a new run, and go on with the slide in work in a new one; where that cannot be stored, all waits."""
        if to.instead_of is self.settings:
            with self._looking:
                label = self._label_after(to.settings)
                try:
                    run, slide = self.store.at_once(partial(self._store_switch, to, label))
                except BloodedgeError as error:
                    self._let_next_wait(error)
                    return
                self._switch(to, run, None if label is None else (slide, label))
        self._forget_next()  # only now, or the slots' watch would find the old network running and load anew

    def _label_after(self, new: DeviceSettings) -> str | None:
        """Of the slide that follows the one in work; None where none is."""
        if self.slide is None:
            return None
        return new.slide.label if new.slide != self.settings.slide else self.slide.label

    def _store_switch(self, to: Switch, label: str | None) -> tuple[int, int]:
        """(the new run, its slide; 0 without a label)."""
        self.store.end_run(self._run)
        run = self._store_run(to.settings, to.loaded)
        return run, 0 if label is None else store_slide(self.store, run, label, to.actor)

    def _switch(self, to: Switch, run: int, slide: tuple[int, str] | None) -> None:
        old = self.settings
        if to.loaded is not self.loaded:
            self.faults = ModelFaults()  # first, or the slots' watch would hold the old network's against the new one
        self.loaded = to.loaded  # before the settings: who sees the new ones sees the network that goes with them
        self.settings = to.settings
        self._run = run
        if to.settings.camera != old.camera:
            self._open_camera_again()
        self._lay(None if slide is None else CurrentSlide(*slide, to.loaded.artifact.rates), to.actor)
        if to.actor == RELOAD:
            self.health.tell("settings", Level.OK, AS_THE_FILE)
            log.info("Reloaded: a new run has begun.")
        else:
            manifest = to.loaded.manifest
            log.info("Slot %s runs: %s %d.", to.loaded.slot or "none", manifest.name, manifest.serial)

    def _let_next_wait(self, error: BloodedgeError) -> None:
        self._next_waits = True
        sentence = f"Settings and bundle stay as they are until a new run can be stored. {error}"
        if self.health.tell("run", Level.FAILED, sentence):
            log.warning("%s", sentence)

    def _forget_next(self) -> None:
        self._next = None
        if self._next_waits:
            self._next_waits = False
            self.health.tell("run", Level.OK, "No run waits to be stored.")

    def _open_camera_again(self) -> None:
        number = self.camera.given if self._renew_camera else 0
        self._renew_camera = False
        self._earlier_restarts += self.camera.restarts
        self.camera.close()
        self.camera = _camera(self.settings, self.health, number, self.camera.done)

    @property
    def stages(self) -> dict[str, LatencyHistogram]:
        """How long each stage took, over all slides since the start."""
        now = {} if self.slide is None else self.slide.times.histograms
        return _together(self._finished_stages, now)

    @property
    def camera_restarts(self) -> int:
        """How often the camera had to be started again since the start."""
        return self._earlier_restarts + self.camera.restarts

    @property
    def broker_connected(self) -> bool | None:
        """None where no broker is set."""
        return None if self.publisher is None else self.publisher.state.connected

    def status(self) -> Status:
        """See Desk."""
        return status_of(self)

    def metrics(self) -> bytes:
        """See Desk."""
        return metrics_of(self)

    def start_slide(self, label: str, actor: str) -> int:
        """See Desk."""
        label = _clean(label)
        with self._between_frames():
            number = self._begin_slide(label, actor)
            camera = self.settings.camera
            # Light is measured when a slide begins, then held; files that were shown between slides come again.
            if camera.kind in {"v4l2", "picamera"} or camera.watch:
                self._renew_camera = True
                self._interrupt.set()
        log.info("Slide %d began.", number)
        return number

    def end_slide(self, actor: str) -> int | None:
        """See Desk."""
        with self._between_frames():
            slide = self.slide
            self._lay(None, actor)
            return None if slide is None else slide.id

    @contextmanager
    def _between_frames(self) -> Iterator[None]:
        """Wait for the frame in hand; BloodedgeError when it takes too long, as it does while the disk is full."""
        if not self._looking.acquire(timeout=PATIENCE_S):
            raise BloodedgeError(
                "The frame in hand cannot be finished now, for one because the disk is full; free some space, then"
                " do it again."
            )
        try:
            yield
        finally:
            self._looking.release()

    def label_slide(self, slide: int, label: str, actor: str) -> None:
        """See Desk."""
        label = _clean(label)
        self.store.label_slide(slide, label, actor)
        if self.slide is not None and self.slide.id == slide:
            self.slide.label = label

    def review(self, cell: int, label: str, sampling: str, actor: str) -> None:
        """See Desk."""
        for value, known in ((label, REVIEW_LABELS), (sampling, SAMPLINGS)):
            if value not in known:
                raise UsageError(f'"{value}" is not one of {", ".join(known)}.')
        self.store.review(cell, label, sampling, actor)

    def note(self, actor: str, action: str, detail: dict[str, object]) -> None:
        """See Desk."""
        self.store.note(actor, action, detail)


def _camera(
    settings: DeviceSettings, health: Health, number: int = 0, done: Mapping[str, SourceFile] | None = None
) -> SupervisedCamera:
    """The settings' camera; done: a watched folder's files that were taken since the start."""
    folder = settings.camera.source if settings.camera.watch else None
    stored = {} if folder is None else read_watched(settings.state, Path(folder))
    return SupervisedCamera(settings.camera, partial(health.tell, "camera"), number, {**stored, **(done or {})})


def _together(
    some: Mapping[str, LatencyHistogram], more: Mapping[str, LatencyHistogram]
) -> dict[str, LatencyHistogram]:
    """Histograms by stage, those of one stage added."""
    return {**some, **{stage: one.plus(some[stage]) if stage in some else one for stage, one in more.items()}}


def _clean(label: str) -> str:
    """A slide's label as it may be stored; UsageError when it is too long or not one line."""
    label = label.strip()
    if len(label) > LONGEST_LABEL or not is_one_line(label):
        raise UsageError(
            f"A slide's label is one line of at most {LONGEST_LABEL} characters; leave out controls and marks that"
            " turn the direction of writing."
        )
    return label


def gate_of(settings: DeviceSettings) -> Check:
    """The frame gate with the settings' parameters."""
    return partial(check, parameters=settings.gate)


def finder_of(settings: DeviceSettings) -> Find:
    """The cell finder for one slide, with the settings' parameters."""
    scale = SlideScale(settings.finder)

    def find(bgr: Image, um_per_px: float | None) -> Found:
        return find_cells(bgr, um_per_px or scale.of(bgr), settings.finder)

    return find
