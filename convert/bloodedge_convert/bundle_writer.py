"""Laying a bundle out: its manifest, its files, their digests."""

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from bloodedge import __version__
from bloodedge.bundle import MANIFEST
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.manifest import Artifact, Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import RunMetrics, RunRecord
from bloodedge.decision.reference_people import Reference
from bloodedge.engine.golden import GOLDEN_CELLS
from bloodedge.files import sha256
from bloodedge.machine import hardware_name, versions
from bloodedge_convert.calibration_set import cells_digest
from bloodedge_convert.judge.measure import Measured
from bloodedge_convert.run_cells import Cells

RECORDED = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "openvino", "nncf", "tf2onnx", "onnxruntime")
"""Packages whose versions a bundle tells."""


def draft(
    name: str,
    record: RunRecord,
    metrics: RunMetrics,
    measured: list[Measured],
    cells: Cells,
    reference: Reference | None,
    threads: int,
) -> Manifest:
    """The manifest of all artifacts that were made, before their latencies are known."""
    now = datetime.now(UTC)
    return Manifest(
        serial=int(now.timestamp()),
        name=name,
        labels=record.labels,
        input=InputSpec(height=record.imaging.size_px, width=record.imaging.size_px),
        imaging=record.imaging,
        temperature=record.temperature,
        thresholds=record.thresholds,
        domain=cells.domain,
        reference=reference,
        artifacts=[one.artifact() for one in measured],
        baseline=Baseline(
            hardware=metrics.hardware,
            backend=record.backend,
            latency_ms=metrics.latency_ms,
            evaluation=metrics.parts["test"],
        ),
        golden=Golden(
            inputs=GOLDEN_CELLS,
            max_flips={str(one.kind): one.golden.clear_flips for one in measured},
            max_probability_difference={str(one.kind): one.golden.max_probability_difference for one in measured},
        ),
        fitted=cells.fitted.record(),
        provenance=Provenance(
            run=record.name,
            model=record.model,
            parameters=record.parameters,
            recipe=without_paths(record.recipe),
            weights=without_paths(record.weights),
            data_fingerprint=record.data.fingerprint,
            rendered=record.data.rendered,
            split=record.split,
            calibration_cells=len(cells.calibration.cells),
            calibration_digest=cells_digest(cells.calibration.cells),
            converted=now.isoformat(timespec="seconds"),
            hardware=f"{hardware_name()}, {threads} threads",
            versions={"bloodedge": __version__, **versions(RECORDED)},
        ),
        files={},
    )


def without(manifest: Manifest, left_out: dict[str, str]) -> Manifest:
    """The manifest without the artifacts left out ("litert/int8": why), and with the reasons."""

    def kept(named: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in named.items() if name not in left_out}

    golden = manifest.golden
    return manifest.model_copy(
        update={
            "artifacts": [one for one in manifest.artifacts if f"{one.engine}/{one.precision}" not in left_out],
            "left_out": left_out,
            "golden": golden.model_copy(
                update={
                    "max_flips": kept(golden.max_flips),
                    "max_probability_difference": kept(golden.max_probability_difference),
                }
            ),
        }
    )


def without_paths(value: Any) -> Any:
    """``value`` with every absolute path in it, at any depth, cut to its last part: a bundle travels."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value


def gather(layout: Path, measured: Collection[Measured]) -> None:
    """Move the artifacts' files to their place in the bundle folder ``layout``."""
    (layout / "artifacts").mkdir(parents=True)
    for one in measured:
        for path in one.files:
            path.rename(layout / "artifacts" / path.name)


def drop_files(layout: Path, artifacts: Collection[Artifact]) -> None:
    """Remove the artifacts' files that none of ``artifacts`` names."""
    named = {name for one in artifacts for name in (one.file, one.weights_file)}
    for path in (layout / "artifacts").iterdir():
        if f"artifacts/{path.name}" not in named:
            path.unlink()


def seal(layout: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest`` with the digests of all that lies in ``layout``; a signature of it comes after."""
    paths = (path for path in layout.rglob("*") if path.is_file() and path != layout / MANIFEST)
    names = sorted(path.relative_to(layout).as_posix() for path in paths)
    manifest = manifest.model_copy(update={"files": {name: sha256(layout / name) for name in names}})
    write_record(layout / MANIFEST, manifest)
    return manifest
