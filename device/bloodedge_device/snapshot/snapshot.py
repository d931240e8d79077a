"""What the daemon tells of itself, put together from its parts."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from bloodedge import RESEARCH_USE, __version__
from bloodedge.machine import cpu_temperature_c
from bloodedge_device.daemon.live import Picture
from bloodedge_device.latency import STAGES
from bloodedge_device.report.reading import warnings_of
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.snapshot.status import (
    BundleStatus,
    CellStatus,
    ConditionStatus,
    FrameStatus,
    SlideStatus,
    StageStatus,
    Status,
)
from bloodedge_device.store.crops import free_bytes
from bloodedge_device.system.clock import clock_synchronised

if TYPE_CHECKING:
    from bloodedge_device.daemon.daemon import Daemon
    from bloodedge_device.outputs.home_assistant import StatusPayload

RATE_OVER_S = 5.0


class Rate:
    """How often something happens, and when it last did."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2000)
        self._began_s = monotonic()

    def note(self) -> None:
        """It happened now."""
        self._times.append(monotonic())

    @property
    def per_second(self) -> float:
        """Over the last RATE_OVER_S seconds."""
        now = monotonic()
        recent = [moment for moment in list(self._times) if moment > now - RATE_OVER_S]
        whole = len(recent) == self._times.maxlen  # so often that fewer seconds fill the memory
        span = now - recent[0] if whole else min(RATE_OVER_S, now - self._began_s)
        return len(recent) / max(span, 1e-3)

    @property
    def age_s(self) -> float | None:
        """Seconds since it last happened; None before the first time."""
        times = self._times
        return monotonic() - times[-1] if times else None


def status_of(daemon: Daemon) -> Status:
    """Everything at this moment."""
    slide, settings = daemon.slide, daemon.settings
    picture = daemon.live.latest()
    conditions = daemon.health.conditions()
    return Status(
        research_use=RESEARCH_USE,
        version=__version__,
        board=settings.mqtt.board,
        started=daemon.started,
        alive=is_alive(daemon),
        ready=daemon.ready_s > 0 and daemon.camera.name != "",
        camera=daemon.camera.name or settings.camera.kind,
        frames_per_second=daemon.rate.per_second,
        clock_synchronised=clock_synchronised(),
        bundle=_bundle(daemon),
        frame=None if picture is None else _frame(picture, settings.gate.focus),
        slide=None if slide is None else _slide(slide, settings.slide.half_width),
        stages={} if slide is None else _stages(slide),
        health={
            part: ConditionStatus(level=one.level.name.lower(), sentence=one.sentence, since=one.since)
            for part, one in conditions.items()
        },
        waiting_messages=len(daemon.store),
    )


def is_alive(daemon: Daemon) -> bool:
    """Whether a frame went through the pipeline recently, or none is there to go through it."""
    if awaits_files(daemon):
        return True
    age_s = daemon.rate.age_s
    return age_s is not None and age_s <= daemon.settings.watch.alive_s


def awaits_files(daemon: Daemon) -> bool:
    """Whether a watched folder holds no new image."""
    return daemon.settings.camera.watch and daemon.camera.awaits_files


def _bundle(daemon: Daemon) -> BundleStatus:
    loaded = daemon.loaded
    manifest, golden = loaded.manifest, loaded.golden
    return BundleStatus(
        name=manifest.name,
        serial=manifest.serial,
        engine=loaded.artifact.engine,
        precision=loaded.artifact.precision,
        runtime=loaded.engine.runtime,
        slot=loaded.slot,
        rendered=manifest.provenance.rendered,
        golden=f"{golden.inputs - golden.flips} of {golden.inputs} golden cells keep the float model's class",
        baseline_hardware=manifest.baseline.hardware,
        baseline_latency_ms=manifest.baseline.latency_ms,
        warnings=warnings_of(manifest, None),
    )


def _frame(picture: Picture, focus_needed: float) -> FrameStatus:
    result = picture.result
    width, height = result.size or (None, None)
    return FrameStatus(
        number=picture.number,
        captured_at=result.capture.captured_at,
        age_s=monotonic() - picture.kept_s,
        width=width,
        height=height,
        um_per_px=result.um_per_px,
        reason=result.reason,
        detail=result.problem,
        focus=result.focus,
        focus_needed=focus_needed,
        brightness=result.brightness,
        cells=[
            CellStatus(
                box=cell.box,
                outline=cell.outline,
                label=cell.label,
                blast_probability=cell.blast_probability,
                reason=cell.reason,
                area_um2=cell.area_um2,
                repeated=cell.repeated,
            )
            for cell in result.cells
        ],
    )


def _slide(slide: CurrentSlide, half_width: float) -> SlideStatus:
    counts = slide.tally.statistics()
    share = counts.share(slide.rates)
    return SlideStatus(
        id=slide.id,
        label=slide.label,
        started=slide.started,
        frames_seen=counts.frames_seen,
        frames_dropped=counts.frames_dropped,
        frames_rejected=counts.frames_rejected,
        frames_without_cells=counts.frames_without_cells,
        cells_total=counts.cells_total,
        blasts=counts.cells["blast"],
        normals=counts.cells["normal"],
        uncertain=counts.cells["uncertain"],
        uncertain_reasons=counts.uncertain,
        repeated=counts.repeated,
        blast_share=counts.blast_share,
        blast_ci95=counts.blast_ci95,
        blast_ci95_clustered=counts.clustered.clustered_ci95,
        corrected_share=share.figures,
        share_headline=share.headline,
        share_sentences=share.sentences,
        half_width=half_width,
        enough=share.enough(half_width),
        cells_needed=share.cells_needed(half_width),
    )


def _stages(slide: CurrentSlide) -> dict[str, StageStatus]:
    return {
        stage: StageStatus(per=per, count=histogram.count, latency_ms=histogram.summary())
        for stage, per in STAGES.items()
        if (histogram := slide.times.histograms[stage]).count
    }


def broker_status(daemon: Daemon) -> StatusPayload:
    """The retained status message."""
    slide, picture = daemon.slide, daemon.live.latest()
    counts = None if slide is None else slide.tally.statistics()
    share = None if slide is None or counts is None else counts.share(slide.rates).estimate
    told = share is not None and share.corrected is not None
    conditions = daemon.health.conditions()
    wrong = [one.sentence for one in conditions.values() if one.level]
    camera = conditions.get("camera")
    return {
        "blast_percent": _percent(share.corrected) if share is not None else None,
        "blast_percent_low": _percent(share.low) if share is not None and told else None,
        "blast_percent_high": _percent(share.high) if share is not None and told else None,
        "blast_percent_called": _percent(share.called) if share is not None else None,
        "cells_called": 0 if counts is None else counts.called,
        "cells_uncertain": 0 if counts is None else counts.cells["uncertain"],
        "frames_per_second": round(daemon.rate.per_second, 2),
        "focus": None if picture is None or picture.result.focus is None else round(picture.result.focus, 3),
        "slide": "" if slide is None else slide.label or f"Slide {slide.id}",
        "camera": "" if camera is None else camera.sentence,
        "problem": wrong[0] if wrong else "",
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def metrics_of(daemon: Daemon) -> bytes:
    """Prometheus' text."""
    from bloodedge_device.outputs.prometheus import Snapshot, exposition

    loaded, totals = daemon.loaded, daemon.totals
    return exposition(
        Snapshot(
            version=__version__,
            bundle_name=loaded.manifest.name,
            bundle_serial=loaded.manifest.serial,
            engine=loaded.artifact.engine,
            precision=loaded.artifact.precision,
            ready_s=daemon.ready_s,
            frames=totals.frames,
            cells=totals.cells,
            uncertain=totals.uncertain,
            frames_dropped=totals.dropped,
            crops_lost=daemon.store.crops_lost,
            camera_restarts=daemon.camera_restarts,
            outbox_waiting=len(daemon.store),
            mqtt_connected=daemon.broker_connected,
            last_frame_age_s=daemon.rate.age_s,
            disk_free_bytes=free_bytes(daemon.state),
            temperature_c=cpu_temperature_c(),
            clock_synchronised=clock_synchronised(),
            golden_flips=loaded.golden.flips,
            baseline_ms=loaded.manifest.baseline.latency_ms,
            stages=daemon.stages,
        )
    )
