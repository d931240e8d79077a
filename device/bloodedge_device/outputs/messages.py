"""What is published: the cells of each frame, the figures of each slide."""

import json
from typing import Any

from bloodedge import RESEARCH_USE
from bloodedge_device.frames import FrameResult
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store.outbox import Draft


def frame_message(slide: CurrentSlide, result: FrameResult) -> Draft:
    """``frames``: what one frame with cells showed; recalls: see FrameResult."""
    cells = [
        {
            "box": cell.box,
            "label": cell.label,
            "blast_probability": None if cell.blast_probability is None else round(cell.blast_probability, 4),
            "reason": cell.reason,
            "area_um2": round(cell.area_um2, 2),
            "number": cell.number,
            "repeated": cell.repeated,
            "kind": cell.kind and cell.kind.kind,
            "kind_probability": cell.kind and round(cell.kind.probability, 4),
            "stage": cell.kind and cell.kind.stage,
        }
        for cell in result.cells
    ]
    return _draft(
        "frames",
        {
            "slide": slide.id,
            "label": slide.label,
            "frame": result.capture.index,
            "captured_at": result.capture.captured_at.isoformat(),
            "cells": cells,
            "recalls": result.recalls,
        },
    )


def slide_message(slide: CurrentSlide, *, ended: bool) -> Draft:
    """``slides/ID``, kept by the broker: a slide's figures."""
    counts = slide.tally.statistics()
    share = counts.share(slide.rates)
    verdict = counts.verdict(slide.people_scores)
    clustered = counts.clustered.clustered_ci95
    differential = counts.differential(slide.kind_rates, share, slide.target)
    return _draft(
        f"slides/{slide.id}",
        {
            "slide": slide.id,
            "label": slide.label,
            "started": slide.started.isoformat(),
            "ended": ended,
            "frames": counts.frames_seen,
            "cells": counts.cells,
            "uncertain_reasons": counts.uncertain,
            "blast_share": counts.blast_share,
            "blast_ci95": counts.blast_ci95,
            "blast_ci95_clustered": clustered,
            "corrected_share": share.figures.model_dump(),
            "share_sentences": share.sentences,
            "verdict": verdict and verdict.figures.model_dump(),
            "verdict_sentences": verdict.sentences if verdict else [],
            "differential": differential and differential.model_dump(),
            "research_use": RESEARCH_USE,
        },
        retain=True,
    )


def _draft(topic: str, content: dict[str, Any], *, retain: bool = False) -> Draft:
    return Draft(topic, json.dumps(content, allow_nan=False).encode(), retain)
