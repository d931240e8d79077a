"""A snapshot as the page and the API show it."""

from datetime import datetime

from pydantic import BaseModel, Field

from bloodedge import RESEARCH_USE, __version__
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.decision.prevalence import ShareFigures
from bloodedge_device.frames import CellResult
from bloodedge_device.latency import STAGES
from bloodedge_device.report.reading import warnings_of
from bloodedge_device.snapshot.snapshot import SlideSnapshot, Snapshot


class CellStatus(BaseModel):
    """One cell of the newest frame."""

    box: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels of the frame")
    outline: list[list[int]] = Field(description="The cell's border as a polygon [[x, y], ...] in pixels of the frame")
    label: str = Field(description="blast, normal or uncertain")
    blast_probability: float | None = Field(description="Calibrated, 0..1; null when the cell was not classified")
    reason: str | None = Field(description="Why it is uncertain; model_fault: the network gave no probability")
    area_um2: float
    repeated: bool = Field(description="An earlier frame of the slide showed this cell, and it counts there")

    @classmethod
    def of(cls, cell: CellResult) -> "CellStatus":
        """One cell of a frame's result."""
        return cls.model_validate(cell, from_attributes=True)


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


class SlideStatus(BaseModel):
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
    blast_share: float | None = Field(description="Among called cells, as called, 0..1; see corrected_share")
    blast_ci95: tuple[float, float] = Field(description="Wilson's interval: as if cells were independent")
    blast_ci95_clustered: tuple[float, float] | None = Field(description="With cells of a frame resembling each other")
    corrected_share: ShareFigures
    share_headline: str = Field(description="The corrected share in a word or two")
    share_sentences: list[str] = Field(description="Sentences that explain it, the most important first")
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
    return Status(
        research_use=RESEARCH_USE,
        version=__version__,
        board=snapshot.settings.mqtt.board,
        started=snapshot.started,
        alive=snapshot.alive,
        ready=snapshot.ready,
        camera=snapshot.camera,
        frames_per_second=snapshot.frames_per_second,
        clock_synchronised=snapshot.clock_synchronised,
        bundle=_bundle(snapshot),
        frame=_frame(snapshot),
        slide=None if slide is None else _slide(slide, snapshot.settings.slide.half_width),
        stages={} if slide is None else _stages(slide),
        health={
            part: ConditionStatus(
                level=condition.level.name.lower(), sentence=condition.sentence, since=condition.since
            )
            for part, condition in snapshot.conditions.items()
        },
        waiting_messages=snapshot.messages_waiting,
    )


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
    return FrameStatus(
        number=snapshot.picture.number,
        captured_at=result.capture.captured_at,
        age_s=snapshot.picture_age_s,
        width=width,
        height=height,
        um_per_px=result.um_per_px,
        reason=result.reason,
        detail=result.problem,
        focus=result.focus,
        focus_needed=snapshot.settings.gate.focus,
        brightness=result.brightness,
        cells=[CellStatus.of(cell) for cell in result.cells],
    )


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


def _stages(slide: SlideSnapshot) -> dict[str, StageStatus]:
    return {
        stage: StageStatus(per=per, count=histogram.count, latency_ms=histogram.summary())
        for stage, per in STAGES.items()
        if (histogram := slide.times[stage]).count
    }
