"""The conversion report as data: what was done to a network, what that cost and what it gained.

It lies in the bundle twice: as ``report.json``, and as ``report.html``, which ``report_page`` draws from it.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.bundle import REPORT
from bloodedge.bundle.manifest import Artifact, EngineName, Manifest
from bloodedge.config import Strict
from bloodedge_convert.int8_methods import Attempt
from bloodedge_convert.job import MIXED, FineTuning, Rewrite, fine_tuning, rewrites
from bloodedge_convert.judge.gate import Limits
from bloodedge_convert.judge.measure import Candidate, Judge
from bloodedge_convert.litert.layer_noise import LayerNoise, int8_noise
from bloodedge_convert.litert.mixed import Mixed
from bloodedge_convert.openvino.operators import OperatorTime, by_operator

JSON, HTML = "report.json", REPORT


class Verdict(Strict):
    """An artifact that was made, and whether it ships."""

    artifact: Artifact
    left_out: str | None
    """Why it is not in the bundle; None if it is."""


class ConversionReport(Strict):
    """``report.json``."""

    manifest: Manifest
    """The bundle's manifest without the files' digests."""
    held_out_cells: int
    held_out_subjects: int
    limits: Limits
    verdicts: list[Verdict]
    rewrites: list[Rewrite]
    fine_tuning: FineTuning | None
    attempts: list[Attempt] = Field(default_factory=list)
    """Attempts at int8, by engine, where plain calibration was over a limit."""
    mixed: Mixed | None = None
    """Layers of LiteRT int8 that were tried in float32; None where none were."""
    layers: list[LayerNoise]
    """Noise of LiteRT int8 by layer, in order of computation."""
    operators: dict[EngineName, list[OperatorTime]]
    """Time by operator of the int8 network, for engines that report it."""
    notes: list[str]
    """Sentences above the figures."""


def make_report(
    judge: Judge,
    manifest: Manifest,
    candidates: list[Candidate],
    limits: Limits,
    attempts: list[Attempt],
    calibration: NDArray[np.uint8],
    notes: list[str],
) -> ConversionReport:
    """The report on ``candidates``, shipped or not; their files and the converters' records lie in the judge's folder.

    calibration: network inputs uint8 (N, H, W, 3) RGB, on which the networks are examined.
    """
    folder = judge.folder
    operators = by_operator(folder, calibration[0], judge.threads)
    return ConversionReport(
        manifest=manifest,
        held_out_cells=len(judge.held_out.images),
        held_out_subjects=len(set(judge.held_out.subjects)),
        limits=limits,
        verdicts=[Verdict(artifact=c.artifact(), left_out=manifest.left_out.get(str(c.kind))) for c in candidates],
        rewrites=rewrites(folder),
        fine_tuning=fine_tuning(folder),
        attempts=attempts,
        mixed=Mixed.model_validate_json(mixed.read_bytes()) if (mixed := folder / MIXED).is_file() else None,
        layers=int8_noise(folder, calibration),
        operators={"openvino": operators} if operators else {},
        notes=notes,
    )
