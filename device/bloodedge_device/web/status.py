"""A snapshot as the page and the API show it."""

from datetime import datetime

from pydantic import BaseModel, Field

from bloodedge import RESEARCH_USE, __version__
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.decision.kinds import OTHER
from bloodedge_device.frames import CellResult
from bloodedge_device.latency import STAGES
from bloodedge_device.report.reading import warnings_of
from bloodedge_device.slide.differential import Differential
from bloodedge_device.snapshot.snapshot import SlideSnapshot, Snapshot
from bloodedge_device.store.rows import CalledCell, ShareRow


class CellStatus(CalledCell):
    """One cell of the newest frame."""

    outline: list[list[int]]
    """The cell's border as a polygon [[x, y], ...] in pixels of the frame"""

    @classmethod
    def of(cls, cell: CellResult) -> "CellStatus":
        """A cell as the pipeline gives it."""
        call = cell.kind
        told = {} if call is None else {"kind_probability": call.probability, "stage": call.stage}
        return cls.model_validate({**vars(cell), **told, "kind": call and call.kind})


class FrameStatus(BaseModel):
    """The newest frame that went through the pipeline."""

    number: int = Field(description="Counts the frames since the daemon's start; names the image /live/NUMBER.jpg")
    captured_at: datetime
    age_s: float
    width: int | None
    height: int | None
    um_per_px: float | None
    reason: str | None = Field(description="Why the frame was rejected, or no_cell")
    detail: str | None
    focus: float | None
    focus_needed: float = Field(description="Frames with less focus are rejected")
    brightness: float | None = Field(description="Of the empty field, 0..255")
    cells: list[CellStatus]


class SlideStatus(ShareRow):
    """The current slide. Cells seen in several frames count once."""

    id: int
    label: str
    started: datetime
    frames_seen: int
    frames_dropped: int
    frames_rejected: dict[str, int]
    frames_without_cells: int
    cells_total: int
    blasts: int
    normals: int
    uncertain: int
    uncertain_reasons: dict[str, int]
    repeated: int = Field(description="Views of cells that had been seen before")
    other: int = Field(description="Of which blast or normal is not asked")
    differential: Differential | None = Field(description="null where no kind was told")
    half_width: float = Field(description="The corrected share is to be known within this, either way")
    enough: bool = Field(description="It is")
    cells_needed: int | None = Field(
        description="Further called cells until then, about; null when more cells would not help"
    )


class StageStatus(BaseModel):
    """How long one stage takes on this slide."""

    per: str = Field(description="frame, cell or batch")
    count: int
    latency_ms: LatencyMs


class ConditionStatus(BaseModel):
    """How one part of the daemon is."""

    level: str = Field(description="ok, warning or failed")
    sentence: str
    since: datetime


class BundleStatus(BaseModel):
    """The bundle that classifies."""

    name: str
    serial: int
    engine: str
    precision: str
    runtime: str
    slot: str | None = Field(
        default=None, description="a or b; null where the settings name the bundle or it came with the installation"
    )
    rendered: bool = Field(description="Fitted to drawn cells: its figures say nothing about blood")
    golden: str = Field(description="The self-test on this machine")
    baseline_hardware: str
    baseline_latency_ms: LatencyMs
    warnings: list[str] = Field(description="To be read before any figure of this bundle is believed")


class Status(BaseModel):
    """The daemon at this moment."""

    research_use: str
    version: str
    board: str
    started: datetime
    alive: bool = Field(description="A frame was processed recently")
    ready: bool = Field(description="The network is loaded and proven, the camera open, the store writable")
    camera: str
    frames_per_second: float = Field(description="Through the pipeline, over the last seconds")
    clock_synchronised: bool | None
    bundle: BundleStatus
    frame: FrameStatus | None
    slide: SlideStatus | None = Field(description="null between slides: frames are shown and not stored")
    stages: dict[str, StageStatus]
    health: dict[str, ConditionStatus] = Field(description="Worst first")
    waiting_messages: int = Field(description="Results that the MQTT broker has not acknowledged")


def status_of(snapshot: Snapshot) -> Status:
    """Everything that the page and the API show."""
    slide = snapshot.slide
    own = {
        "research_use": RESEARCH_USE,
        "version": __version__,
        "board": snapshot.settings.mqtt.board,
        "bundle": _bundle(snapshot),
        "frame": _frame(snapshot),
        "slide": None if slide is None else _slide(slide, snapshot.settings.slide.half_width),
        "stages": {} if slide is None else _stages(slide),
        "health": {
            part: {**vars(condition), "level": condition.level.name.lower()}
            for part, condition in snapshot.conditions.items()
        },
        "waiting_messages": snapshot.messages_waiting,
    }
    return Status.model_validate({**vars(snapshot), **own})


def _bundle(snapshot: Snapshot) -> BundleStatus:
    loaded = snapshot.loaded
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


def _frame(snapshot: Snapshot) -> FrameStatus | None:
    if snapshot.picture is None:
        return None
    result = snapshot.picture.result
    width, height = result.size or (None, None)
    own = {
        "number": snapshot.picture.number,
        "captured_at": result.capture.captured_at,
        "age_s": snapshot.picture_age_s,
        "width": width,
        "height": height,
        "detail": result.problem,
        "focus_needed": snapshot.settings.gate.focus,
        "cells": [CellStatus.of(cell) for cell in result.cells],
    }
    return FrameStatus.model_validate({**vars(result), **own})


def _slide(slide: SlideSnapshot, half_width: float) -> SlideStatus:
    counts, share = slide.counts, slide.share
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
        other=counts.cells[OTHER],
        differential=slide.differential,
        uncertain_reasons=counts.uncertain,
        repeated=counts.repeated,
        half_width=half_width,
        enough=share.enough(half_width),
        cells_needed=share.cells_needed(half_width),
        **SlideStatus.values(share, slide.verdict),
    )


def _stages(slide: SlideSnapshot) -> dict[str, StageStatus]:
    return {
        stage: StageStatus(per=per, count=histogram.count, latency_ms=histogram.summary())
        for stage, per in STAGES.items()
        if (histogram := slide.times[stage]).count
    }
