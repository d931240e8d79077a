"""Writing a bundle: its manifest, its files, their digests."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from bloodedge import __version__
from bloodedge.bundle import MANIFEST, Bundle, zip_folder
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.manifest import Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import RunMetrics, judged_part
from bloodedge.decision.reference_people import Reference
from bloodedge.decision.slide_verdict import PeopleScores
from bloodedge.engine.golden import GOLDEN_CELLS
from bloodedge.files import sha256, write_beside, write_text
from bloodedge.machine import hardware_name, versions
from bloodedge_convert.cells.calibration_set import cells_digest
from bloodedge_convert.cells.run_cells import Cells
from bloodedge_convert.judge.measure import Candidate, Judge

RECORDED = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "openvino", "nncf", "tf2onnx", "onnxruntime")
"""Packages whose versions the manifest records."""


def make_manifest(
    name: str,
    judge: Judge,
    metrics: RunMetrics,
    cells: Cells,
    reference: Reference | None,
    scores: PeopleScores | None,
    shipped: list[Candidate],
    left_out: dict[str, str],
    caveats: list[str],
) -> Manifest:
    """The manifest of a bundle of ``shipped``, still without its files' digests.

    left_out: artifacts that are not in the bundle, such as "litert/int8", and the reason in a sentence.
    """
    record, now = judge.record, datetime.now(UTC)
    imaging = record.imaging
    return Manifest(
        serial=int(now.timestamp()),
        name=name,
        labels=record.labels,
        input=InputSpec(height=imaging.size_px, width=imaging.size_px, views=len(imaging.views)),
        imaging=imaging,
        temperature=record.temperature,
        thresholds=record.thresholds,
        operating_point=record.operating_point,
        domain=cells.domain,
        reference=reference,
        people_scores=scores,
        artifacts=[candidate.artifact() for candidate in shipped],
        left_out=left_out,
        caveats=caveats,
        baseline=Baseline(
            hardware=metrics.hardware,
            backend=record.backend,
            latency_ms=metrics.latency_ms,
            evaluation=metrics.parts[judged_part(metrics.parts)],
        ),
        golden=Golden(
            inputs=GOLDEN_CELLS,
            max_flips={str(c.kind): c.golden.clear_flips for c in shipped},
            max_probability_difference={str(c.kind): c.golden.max_probability_difference for c in shipped},
        ),
        fitted=cells.fitted.record(),
        features=record.features,
        provenance=Provenance(
            run=record.name,
            model=record.model,
            parameters=record.parameters,
            recipe=without_paths(record.recipe),
            weights=without_paths(record.weights),
            data_fingerprint=record.data.fingerprint,
            rendered=record.data.rendered,
            data_layout=record.data.layout,
            split=record.split,
            calibration_cells=len(cells.calibration.cells),
            calibration_digest=cells_digest(cells.calibration.cells),
            converted=now.isoformat(timespec="seconds"),
            hardware=f"{hardware_name()}, {judge.threads} threads",
            versions={"bloodedge": __version__, **versions(RECORDED)},
        ),
        files={},
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


def write_bundle(
    out: Path, layout: Path, manifest: Manifest, shipped: list[Candidate], contents: dict[str, str | bytes]
) -> Manifest:
    """Lay the bundle out in the folder ``layout`` and zip it to ``out``; the manifest with the digests of its files.

    The artifacts are moved there. contents: all other files by name.
    """
    artifacts = layout / "artifacts"
    artifacts.mkdir(parents=True)
    for path in (path for candidate in shipped for path in candidate.files):
        path.rename(artifacts / path.name)
    for name, content in contents.items():
        if isinstance(content, str):
            write_text(layout / name, content)
        else:
            (layout / name).write_bytes(content)
    names = sorted(path.relative_to(layout).as_posix() for path in layout.rglob("*") if path.is_file())
    manifest = manifest.model_copy(update={"files": {name: sha256(layout / name) for name in names}})
    write_record(layout / MANIFEST, manifest)
    write_beside(out, partial(_zip_and_verify, layout))
    return manifest


def _zip_and_verify(layout: Path, target: Path) -> None:
    zip_folder(layout, target)
    with Bundle(target) as bundle:
        bundle.verify()
