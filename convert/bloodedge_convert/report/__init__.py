"""The conversion report: what was done to a network, what it cost and what it gained, as data and as a page.

Both lie in the bundle (``report.json``, ``report.html``); ``page`` draws the second from the first.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.bundle import REPORT
from bloodedge.bundle.manifest import Artifact, EngineName, Manifest
from bloodedge.config import Strict
from bloodedge_convert.int8_methods import Attempt
from bloodedge_convert.job import MIXED, FineTuning, Kind, Rewrite, file_names, fine_tuning, rewrites
from bloodedge_convert.judge.gate import Limits
from bloodedge_convert.litert.layer_noise import LayerNoise, layer_noise
from bloodedge_convert.litert.mixed import Mixed
from bloodedge_convert.openvino.operators import OperatorTime, by_operator

JSON, HTML = "report.json", REPORT


class Verdict(Strict):
    """An artifact that was made and judged."""

    artifact: Artifact
    left_out: str | None
    """Why it is not in the bundle, None for one that is."""


class ConversionReport(Strict):
    """``report.json``."""

    manifest: Manifest
    """As in the bundle, but without the files' digests."""
    held_out_cells: int
    held_out_subjects: int
    limits: Limits
    verdicts: list[Verdict]
    rewrites: list[Rewrite]
    fine_tuning: FineTuning | None
    attempts: list[Attempt] = Field(default_factory=list)
    """At int8, by engine, where the first way was over a limit."""
    mixed: Mixed | None = None
    """Layers of LiteRT int8 that were tried in float32, where it came to that."""
    layers: list[LayerNoise]
    """Of LiteRT int8, in the order in which they are computed."""
    operators: dict[EngineName, list[OperatorTime]]
    """Time by operator of the int8 network, for engines that tell it."""
    notes: list[str]
    """Sentences that stand above the figures."""


def examine(
    work: Path,
    folder: Path,
    manifest: Manifest,
    artifacts: list[Artifact],
    subjects: int,
    limits: Limits,
    attempts: list[Attempt],
    images: NDArray[np.uint8],
    threads: int,
    notes: list[str],
) -> ConversionReport:
    """Look into the artifacts that lie in ``folder``, all of them judged; images: network inputs uint8 (N, H, W, 3).

    work: the folder that they were made in, with the converters' records.
    """
    left_out = manifest.left_out
    verdicts = [Verdict(artifact=a, left_out=left_out.get(f"{a.engine}/{a.precision}")) for a in artifacts]
    plain, int8 = (folder / file_names(Kind(engine="litert", precision=p))[0] for p in ("float32", "int8"))
    layers = layer_noise(plain.read_bytes(), int8.read_bytes(), images) if int8.is_file() else []
    return ConversionReport(
        manifest=manifest,
        held_out_cells=artifacts[0].agreement.cells,
        held_out_subjects=subjects,
        limits=limits,
        verdicts=verdicts,
        rewrites=rewrites(work),
        fine_tuning=fine_tuning(work),
        attempts=attempts,
        mixed=Mixed.model_validate_json(mixed.read_bytes()) if (mixed := work / MIXED).is_file() else None,
        layers=layers,
        operators={"openvino": times} if (times := by_operator(folder, images[0], threads)) else {},
        notes=notes,
    )
