"""The daemon at one moment; page, MQTT, Home Assistant, Prometheus and the fleet's report each render it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bloodedge.decision.slide_verdict import SlideVerdict
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.health import Condition
from bloodedge_device.latency import LatencyHistogram, summed
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.differential import Differential
from bloodedge_device.slide.share import SlideShare
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.slide.tally import Totals
from bloodedge_device.snapshot.live import Picture


@dataclass(frozen=True)
class SlideSnapshot:
    """The current slide."""

    id: int
    label: str
    started: datetime
    counts: SlideStatistics
    share: SlideShare
    verdict: SlideVerdict | None
    """None where the bundle holds no held-out people's scores."""
    differential: Differential | None
    """None where no kind was told."""
    times: Mapping[str, LatencyHistogram]
    """How long each stage took on this slide."""


@dataclass(frozen=True)
class Snapshot:
    """What the daemon is doing; counts are since its start."""

    settings: DeviceSettings
    loaded: Loaded
    """The bundle that classifies."""
    started: datetime
    ready_s: float
    """From the process' start to ready."""
    alive: bool
    """A frame was classified recently, or a watched folder holds no new one."""
    ready: bool
    """The network is loaded and proven, the camera open, the store writable."""
    camera: str
    camera_restarts: int
    picture: Picture | None
    """The newest frame kept."""
    picture_age_s: float
    frames_per_second: float
    last_frame_age_s: float | None
    """Since the newest processed frame."""
    slide: SlideSnapshot | None
    """None between slides."""
    last_slide: int
    """Id of the slide begun last."""
    conditions: Mapping[str, Condition]
    """How each part is, worst first."""
    totals: Totals
    finished_times: Mapping[str, LatencyHistogram]
    """How long each stage took on slides that have ended."""
    crops_lost: int
    messages_waiting: int
    messages_lost: int
    broker_connected: bool | None
    """None where no broker is set."""
    disk_free_bytes: int
    temperature_c: float | None
    """The processor's temperature."""
    clock_synchronised: bool | None

    @property
    def times(self) -> dict[str, LatencyHistogram]:
        """How long each stage took since the start; histograms that no longer change."""
        return summed(self.finished_times, {} if self.slide is None else self.slide.times)
