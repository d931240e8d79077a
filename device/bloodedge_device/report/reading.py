"""The data of a report on one slide, read from the store alone."""

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.json_records import parse_record
from bloodedge.bundle.manifest import Artifact, Manifest
from bloodedge.decision.slide_verdict import SlideVerdict
from bloodedge.decision.thresholds import WHY_UNCERTAIN, Reason
from bloodedge.errors import UsageError, quoted
from bloodedge.redact import redacted
from bloodedge.report import milliseconds
from bloodedge_device.latency import STAGES
from bloodedge_device.slide.differential import Differential
from bloodedge_device.slide.domain_check import OUTSIDE_SHARE
from bloodedge_device.slide.kind_review import KindAgreement, ReviewedKind, counts_after_review, kind_agreement
from bloodedge_device.slide.share import SlideShare
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store import DATABASE, open_for_reading
from bloodedge_device.store.galleries import GALLERIES, Gallery, read_gallery
from bloodedge_device.store.slide_counts import SlideCounts, read_counts
from bloodedge_device.store.statistics import DifferentialTerms, read_latency, read_reviewed_kinds, read_terms

NO_VERDICT = (
    "The slide as a whole is not judged: this bundle holds no scores of people whom it has not seen. bloodedge rates"
    " adds them."
)


@dataclass(frozen=True)
class StageLatency:
    """One stage's latency on this slide."""

    stage: str
    per: str
    """frame, cell or batch."""
    count: int
    latency_ms: LatencyMs


@dataclass(frozen=True)
class ShownCell:
    """A cell of the gallery."""

    frame: int
    """The frame's number on its slide."""
    source: str
    """The frame's file name; empty where it has none."""
    label: str
    reason: str
    """Why it is uncertain, a phrase; empty for a called cell."""
    blast_probability: float | None
    """Calibrated; None where it means nothing, because the cell is outside the domain."""
    area_um2: float
    crop: Path


@dataclass(frozen=True)
class DeviceReport:
    """One slide and its run."""

    slide: int
    label: str
    started: datetime
    finished: datetime | None
    """None for the current slide, and after a power cut."""
    run: dict[str, Any]
    """The row of ``runs`` without its JSON columns."""
    manifest: Manifest
    golden: dict[str, Any]
    statistics: SlideStatistics
    stages: list[StageLatency]
    probabilities: list[int]
    """Cells inside the domain by calibrated blast probability, PROBABILITY_BINS equal bins over 0..1."""
    most_blast_like: list[ShownCell]
    """Called cells."""
    most_uncertain: list[ShownCell]
    """Cells inside the domain."""
    refused: list[ShownCell]
    """The latest cells outside the domain."""
    terms: DifferentialTerms
    kinds: list[ReviewedKind]
    """Cells whose kind the device or a person told."""

    @property
    def artifact(self) -> Artifact:
        """The artifact that ran."""
        return self.manifest.artifact(self.run["engine"], self.run["precision"])

    @property
    def name(self) -> str:
        """The slide's label, or its number."""
        return self.label or f"Slide {self.slide}"

    @property
    def share(self) -> SlideShare:
        """The slide's share of blasts."""
        return self.statistics.share(self.artifact.rates)

    @property
    def differential(self) -> Differential | None:
        """The differential count as the device told it; None where it told no kind."""
        return self.statistics.differential(self.terms.kind_rates, self.share, self.terms.target)

    @property
    def reviewed_differential(self) -> Differential | None:
        """The same after a person's reviews, which are not corrected; None without any."""
        if not any(cell.person for cell in self.kinds):
            return None
        return Differential.of(counts_after_review(self.kinds), None, None, self.terms.target)

    @property
    def kind_agreement(self) -> list[KindAgreement]:
        """How often a person's kinds are the device's, for each sampling with such reviews."""
        return kind_agreement(self.kinds)

    @property
    def verdict(self) -> SlideVerdict | None:
        """What the slide as a whole looks like; None where the bundle holds no held-out people's scores."""
        return self.statistics.verdict(self.manifest.people_scores)

    @property
    def verdict_sentence(self) -> str:
        """The verdict in one paragraph, or why there is none."""
        return self.verdict.sentence if self.verdict else NO_VERDICT

    @property
    def warnings(self) -> list[str]:
        """Sentences to read before any figure of this slide."""
        return warnings_of(self.manifest, self.statistics)

    def stage(self, name: str) -> StageLatency | None:
        """A stage's latency; None when it never ran."""
        return next((stage for stage in self.stages if stage.stage == name), None)

    def to_json(self) -> dict[str, Any]:
        """The report for programs; shares are 0..1 unless a key says per cent."""
        counts, artifact, provenance = self.statistics, self.artifact, self.manifest.provenance
        called = counts.blast_share
        return {
            "research_use": RESEARCH_USE,
            "warnings": self.warnings,
            "slide": {
                "id": self.slide,
                "label": self.label,
                "started": self.started.isoformat(),
                "finished": self.finished and self.finished.isoformat(),
            },
            "run": self.run,
            "bundle": {
                "name": self.manifest.name,
                "serial": self.manifest.serial,
                "model": provenance.model,
                "rendered": provenance.rendered,
                "leaky": self.manifest.baseline.evaluation.leaky or provenance.split.leaky,
            },
            "frames": {
                "seen": counts.frames_seen,
                "processed": counts.frames_processed,
                "dropped": counts.frames_dropped,
                "without_cells": counts.frames_without_cells,
                "rejected": sum(counts.frames_rejected.values()),
                "rejected_reasons": counts.frames_rejected,
            },
            "cells": {
                "total": counts.cells_total,
                **counts.cells,
                "uncertain_share": counts.uncertain_share,
                "uncertain_reasons": counts.uncertain,
                "not_cells_reasons": counts.not_cells,
                "probability_histogram": self.probabilities,
            },
            "differential": self.differential and self.differential.model_dump(),
            "reviewed_differential": self.reviewed_differential and self.reviewed_differential.model_dump(),
            "kind_agreement": [agreement.figures for agreement in self.kind_agreement],
            "blast_share": self.share.figures.model_dump(),
            "share_sentences": self.share.sentences,
            "verdict": self.verdict and self.verdict.figures.model_dump(),
            "verdict_sentence": self.verdict_sentence,
            "blast_percent": None if called is None else 100 * called,
            "blast_percent_ci95": [100 * bound for bound in counts.blast_ci95],
            "latency_ms": {s.stage: {"per": s.per, "count": s.count, **s.latency_ms.model_dump()} for s in self.stages},
            "baseline": self.manifest.baseline.model_dump(mode="json"),
            "artifact": artifact.model_dump(
                mode="json", include={"engine", "precision", "size_bytes", "evaluation", "agreement"}
            ),
            "golden": self.golden,
        }


def percentiles_text(latency: LatencyMs) -> str:
    """p50, p95 and p99 in milliseconds, without the unit."""
    return " / ".join(milliseconds(value) for value in (latency.p50, latency.p95, latency.p99))


def warnings_of(manifest: Manifest, counts: SlideStatistics | None) -> list[str]:
    """Sentences to read before any figure of a bundle, and of a slide that it classified."""
    found = list(manifest.caveats)
    if manifest.provenance.rendered:
        found.append(
            "This bundle was trained on cells drawn by the simulated microscope, not on people's cells: its figures"
            " show that the software works, and say nothing about blood."
        )
    elif manifest.domain is None:
        found.append(
            "This bundle does not check whether cells are like its training cells: it calls every white cell a blast or"
            " normal, granulocytes and other stains included. On another microscope, stain or specimen than that of the"
            " held-out figures, the share of blasts means nothing until it is measured."
        )
    faults = 0 if counts is None else counts.uncertain.get(Reason.MODEL_FAULT, 0)
    if counts is not None and faults:
        found.append(
            f"The network gave no probability for {faults} of {counts.cells_total} cells, which are uncertain (model"
            " fault). Do not trust it with the others either; install another bundle, or convert it again."
        )
    unlike = 0 if counts is None else counts.uncertain.get(Reason.OUT_OF_DOMAIN, 0)
    if counts is not None and unlike > OUTSIDE_SHARE * (judged := counts.called + unlike):
        found.append(
            f"{unlike} of {judged} cells are unlike the training cells: another microscope, stain or kind of cell. The"
            " share of blasts among the others, too, means nothing until it is measured here."
        )
    if manifest.baseline.evaluation.leaky or manifest.provenance.split.leaky:
        found.append(
            "The held-out figures are leaky: the data were split by image, so cells of one person were both trained and"
            " tested on, and the figures are too good."
        )
    return found


def read_report(state: Path, slide: int | None = None) -> DeviceReport:
    """The report on a slide (default: the latest) of a state folder; raises UsageError when there is no such slide."""
    with open_for_reading(state) as database:
        row = _slide_row(database, state, slide)
        run = dict(database.execute("SELECT * FROM runs WHERE id = ?", (row["run"],)).fetchone())
        run["camera"] = redacted(run["camera"])  # an earlier version may have stored it
        manifest = parse_record(Manifest, run.pop("manifest"), str(state / DATABASE))
        counts = read_counts(database, row["id"])
        return DeviceReport(
            slide=row["id"],
            label=row["label"],
            started=datetime.fromisoformat(row["started"]),
            finished=row["finished"] and datetime.fromisoformat(row["finished"]),
            golden=json.loads(run.pop("golden")),
            run=run,
            manifest=manifest,
            statistics=counts.statistics,
            stages=_stages(database, row["id"]),
            probabilities=counts.probabilities,
            **{name: _gallery(database, state, row["id"], name, counts) for name in GALLERIES},
            terms=read_terms(database, row["id"]),
            kinds=read_reviewed_kinds(database, row["id"], counts.statistics.kinds),
        )


def _slide_row(database: sqlite3.Connection, state: Path, slide: int | None) -> sqlite3.Row:
    first, last = database.execute("SELECT min(id), max(id) FROM slides").fetchone()
    if last is None:
        raise UsageError(f"{state} has no slide yet; make one with: bloodedge device run --state {quoted(state)}")
    number = last if slide is None else slide
    row: sqlite3.Row | None = database.execute("SELECT * FROM slides WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise UsageError(f"{state} has no slide {number}; it has {first} to {last}.")
    return row


def _stages(database: sqlite3.Connection, slide: int) -> list[StageLatency]:
    stored = read_latency(database, slide)
    return [
        StageLatency(stage, per, stored[stage].count, stored[stage].summary())
        for stage, per in STAGES.items()
        if stage in stored
    ]


def _gallery(
    database: sqlite3.Connection, state: Path, slide: int, name: Gallery, counts: SlideCounts
) -> list[ShownCell]:
    """The first cells of a gallery whose images still exist."""
    first = None if counts.galleries is None else counts.galleries[name]
    shown = [
        ShownCell(
            frame=row["frame_number"],
            source=row["source"],
            label=row["label"],
            reason=WHY_UNCERTAIN.get(row["reason"], "") if row["label"] == "uncertain" else "",
            blast_probability=None if row["reason"] == Reason.OUT_OF_DOMAIN else row["blast_probability"],
            area_um2=row["area_um2"],
            crop=state / "crops" / row["crop"],
        )
        for row in read_gallery(database, slide, name, first)
    ]
    return [cell for cell in shown if cell.crop.is_file()]
