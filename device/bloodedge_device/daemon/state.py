"""What is in force now: the daemon's thread writes it; the page, the publishers and the watches read it."""

import logging
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from bloodedge.decision.thresholds import Reason
from bloodedge.machine import cpu_temperature_c
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.daemon.model_faults import ModelFaults
from bloodedge_device.daemon.rate import Rate
from bloodedge_device.frames import BadFrame, Frame, FrameResult, SourceFile
from bloodedge_device.health import Health, Level
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.slide.tally import Totals
from bloodedge_device.snapshot.live import Live
from bloodedge_device.snapshot.snapshot import SlideSnapshot, Snapshot
from bloodedge_device.store import Store
from bloodedge_device.store.crops import free_bytes
from bloodedge_device.store.watched import read_watched
from bloodedge_device.system.clock import clock_synchronised
from bloodedge_device.system.thermal import Pace
from bloodedge_device.timings import TIMINGS, Timings

if TYPE_CHECKING:
    from bloodedge_device.outputs.mqtt.publisher import MqttPublisher

log = logging.getLogger("bloodedge.device")


class DaemonState:
    """Settings, bundle, camera and slide in force, and what was counted since the start."""

    def __init__(
        self,
        settings: DeviceSettings,
        loaded: Loaded,
        camera: SupervisedCamera,
        store: Store,
        health: Health,
        began_s: float,
        timings: Timings = TIMINGS,
    ) -> None:
        """began_s: when the process began, on the monotonic clock."""
        self.settings, self.loaded, self.camera, self.store, self.health = settings, loaded, camera, store, health
        self.began_s, self.timings = began_s, timings
        self.started = datetime.now(UTC) - timedelta(seconds=monotonic() - began_s)
        self.ready_s = 0.0
        """From the process' start to ready; 0 before."""
        self.slide: CurrentSlide | None = None
        self.first_slide = self.last_slide = 0
        self.live, self.rate, self.totals = Live(), Rate(), Totals()
        self.faults = ModelFaults()
        """Faults of the network in use."""
        self.finished_times: Mapping[str, LatencyHistogram] = {}
        """How long each stage took on slides that have ended."""
        self.pace = Pace.FULL
        self.in_work: deque[float] = deque()
        """When each frame in work was taken, on the monotonic clock, the oldest first."""
        self.unreadable_in_a_row = 0
        """Frames that could not be read, up to the newest."""
        self.renew_camera = False
        """Whether the camera is to be opened anew before the next frame."""
        self.publisher: MqttPublisher | None = None
        self._earlier_restarts = 0

    def count(self, result: FrameResult) -> None:
        """Count what a frame says about the network and the camera."""
        before = self.faults.faults
        self.faults.add(result)
        if self.faults.faults != before:
            level, sentence = self.faults.condition()
            if self.health.report("model", level, sentence):
                log.warning("%s", sentence)
        self.unreadable_in_a_row = self.unreadable_in_a_row + 1 if result.reason is Reason.BAD_FRAME else 0

    def show(self, frame: Frame | BadFrame, result: FrameResult) -> None:
        """Let people see a processed frame."""
        if result.reason is not Reason.BAD_FRAME:
            self.rate.note()
        self.live.put(None if isinstance(frame, BadFrame) else frame.bgr, result)

    def wake_publisher(self) -> None:
        """Messages are in the outbox; from any thread."""
        if self.publisher is not None:
            self.publisher.wake()

    def open_camera_again(self) -> None:
        """Close the camera, and open that of the settings in force."""
        number = self.camera.given if self.renew_camera else 0
        self.renew_camera = False
        self._earlier_restarts += self.camera.restarts
        self.camera.close()
        self.camera = supervised_camera(self.settings, self.health, number, self.camera.done, self.timings)

    def close(self) -> None:
        """Close the camera, whichever is open now."""
        self.camera.close()

    @property
    def frame_since_s(self) -> float | None:
        """When the oldest frame in work was taken, on the monotonic clock; None between two."""
        try:
            return self.in_work[0]
        except IndexError:
            return None

    @property
    def awaits_files(self) -> bool:
        """Whether a watched folder holds no new image, and all that came are looked at."""
        return self.settings.camera.watch and self.camera.awaits_files and not self.in_work

    @property
    def is_alive(self) -> bool:
        """Whether a frame was processed recently, or a watched folder holds no new one, or did until this one."""
        age_s, since_s, alive_s = self.rate.age_s, self.frame_since_s, self.settings.watch.alive_s
        is_first = self.settings.camera.watch and since_s is not None and monotonic() - since_s <= alive_s
        return self.awaits_files or is_first or (age_s is not None and age_s <= alive_s)

    @property
    def is_stuck(self) -> bool:
        """Whether one frame takes so long that the network, the finder or the disk hangs."""
        since_s = self.frame_since_s
        return since_s is not None and monotonic() - since_s > self.settings.watch.alive_s

    @property
    def is_ready(self) -> bool:
        """Whether the network is loaded, the camera open, and results are stored."""
        stores = self.store.is_in_place and self.health.level_of("store") < Level.FAILED
        return self.ready_s > 0 and self.camera.name != "" and stores and not self.is_stuck

    def snapshot(self) -> Snapshot:
        """Everything at this moment, in a few milliseconds; from any thread."""
        picture, slide, store = self.live.latest(), self.slide, self.store
        return Snapshot(
            settings=self.settings,
            loaded=self.loaded,
            started=self.started,
            ready_s=self.ready_s,
            alive=self.is_alive,
            ready=self.is_ready,
            camera=self.camera.name or self.settings.camera.kind,
            camera_restarts=self._earlier_restarts + self.camera.restarts,
            picture=picture,
            picture_age_s=0.0 if picture is None else monotonic() - picture.kept_s,
            frames_per_second=self.rate.per_second,
            last_frame_age_s=self.rate.age_s,
            slide=None if slide is None else _slide_snapshot(slide),
            last_slide=self.last_slide,
            conditions=self.health.conditions(),
            totals=deepcopy(self.totals),
            finished_times=self.finished_times,
            crops_lost=store.crops_lost,
            messages_waiting=len(store),
            messages_lost=store.messages_lost,
            broker_connected=None if self.publisher is None else self.publisher.connected,
            disk_free_bytes=free_bytes(store.state),
            temperature_c=cpu_temperature_c(),
            clock_synchronised=clock_synchronised(),
        )


def _slide_snapshot(slide: CurrentSlide) -> SlideSnapshot:
    counts = slide.tally.statistics()
    share = counts.share(slide.rates)
    verdict = counts.verdict(slide.people_scores)
    differential = counts.differential(slide.kind_rates, share, slide.target)
    times = slide.times.histograms
    return SlideSnapshot(slide.id, slide.label, slide.started, counts, share, verdict, differential, times)


def supervised_camera(
    settings: DeviceSettings,
    health: Health,
    number: int = 0,
    done: Mapping[str, SourceFile] | None = None,
    timings: Timings = TIMINGS,
) -> SupervisedCamera:
    """The settings' camera; number: of its first frame; done: a watched folder's files taken since the start."""
    folder = settings.camera.source if settings.camera.watch else None
    stored = {} if folder is None else read_watched(settings.state, Path(folder))
    taken = {**stored, **(done or {})}
    return SupervisedCamera(settings.camera, partial(health.report, "camera"), number, taken, timings)
