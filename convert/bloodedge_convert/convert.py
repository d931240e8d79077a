"""From a run folder to a bundle: convert, judge on held-out cells, and write all of it or nothing."""

import importlib.util
import os
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge import __version__
from bloodedge.bundle import MANIFEST, zip_folder
from bloodedge.dataset import CellFile, Progress, inputs, read_dataset
from bloodedge.engine import require
from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.evaluate import default_threads
from bloodedge.files import sha256, write_beside
from bloodedge.golden import GOLDEN_CELLS, pack_golden
from bloodedge.host import hardware_name, versions
from bloodedge.manifest import (
    Artifact,
    Baseline,
    EngineName,
    Golden,
    InputSpec,
    LatencyMs,
    Manifest,
    Provenance,
    RunMetrics,
    RunRecord,
    read_metrics,
    read_run,
    write_record,
)
from bloodedge.simulation import golden_inputs
from bloodedge.split import SplitSpec, recall
from bloodedge_convert.calibration import cells_digest, choose_cells, full_range
from bloodedge_convert.card import card
from bloodedge_convert.gate import Judged, Limits, enforce, tiny
from bloodedge_convert.job import TUNING, Job, Kind, Report, file_names, run_converters
from bloodedge_convert.layers import layer_noise, worst_layers
from bloodedge_convert.measure import HeldOut, Measured, latencies, measure
from bloodedge_convert.report import HTML, JSON, ConversionReport, examine
from bloodedge_convert.report.page import page

ENGINES: tuple[EngineName, ...] = ("litert", "openvino", "onnx")
NEEDS = {"litert": ("tensorflow",), "openvino": ("tensorflow", "nncf"), "onnx": ("tensorflow", "tf2onnx")}
"""Packages that make an engine's artifacts, beside the engine's own."""
RECORDED = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "openvino", "nncf", "tf2onnx", "onnxruntime")


TUNING_CELLS = 2000
"""Of the training part, for fine-tuning."""


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    int8: bool = True
    float16: bool = False
    engines: tuple[EngineName, ...] = ENGINES
    limits: Limits = field(default_factory=Limits)
    calibration_cells: int = 300
    only_int8: bool = False
    """Leave the float artifacts out of the bundle once they have been judged."""
    keep_slow: bool = False
    """Keep an int8 artifact that is no faster here than float32 of the same engine."""
    fine_tuning_steps: int = 0
    """Of fake quantisation before int8 is made (bloodedge_convert.finetune); 0 leaves it out."""

    @property
    def kinds(self) -> list[Kind]:
        """The artifacts to make; ONNX is a cross-check of the float conversion and comes in float32 only."""
        wanted = [Kind(engine=engine, precision="float32") for engine in self.engines]
        for engine in self.engines:
            if engine != "onnx" and self.float16:
                wanted.append(Kind(engine=engine, precision="float16"))
            if engine != "onnx" and self.int8:
                wanted.append(Kind(engine=engine, precision="int8"))
        return sorted(wanted, key=lambda kind: self.engines.index(kind.engine))


@dataclass(frozen=True)
class Converted:
    """A written bundle."""

    path: Path
    manifest: Manifest
    cells: int
    subjects: int
    """Held out."""
    note: str | None
    """A caveat about the held-out part, where it is small."""


@dataclass(frozen=True)
class Cells:
    """The run's cells that conversion needs, as network inputs uint8 (N, H, W, 3) RGB."""

    calibration: list[CellFile]
    calibration_images: NDArray[np.uint8]
    tuning_images: NDArray[np.uint8]
    """For fine-tuning; none where it was not asked for."""
    test: list[CellFile]
    test_images: NDArray[np.uint8]


def convert(run: Path, out: Path, options: Options, data: Path | None, *, force: bool, report: Report) -> Converted:
    """Convert ``run`` into the bundle ``out``; nothing is written unless every artifact passes the gate.

    ``data`` is where the run's data lie now, if not where they lay. Raises UsageError when ``out`` exists (without
    ``force``), the run or its data are not there, or a package is missing; BloodedgeError when a conversion fails, is
    broken, or loses more than ``options.limits``.
    """
    _check_target(out, force=force)
    if options.only_int8 and not any(kind.precision == "int8" for kind in options.kinds):
        raise UsageError("--only-int8 would leave nothing in the bundle; add --int8 and an engine that has it.")
    _check_packages(options)
    record, metrics = read_run(run), read_metrics(run)
    cells = _read_cells(record, data, options, report)
    with disk_errors("the conversion"), tempfile.TemporaryDirectory(prefix="bloodedge-convert-") as temporary:
        folder = Path(temporary)
        held_out = _run_converters(folder, run, record, options, cells, report)
        measured = [measure(kind, folder, record, held_out, default_threads(), report) for kind in options.kinds]
        _gate(measured, options.limits, folder, cells.calibration_images)
        times = latencies(measured, cells.test_images[0], report)
        left_out = why_left_out([one.kind for one in measured], times, options)
        shipped = [one for one in measured if str(one.kind) not in left_out]
        if not shipped:
            raise BloodedgeError(f"No bundle was written, for nothing is left to put in it: {_told(left_out)}")
        artifacts = {str(one.kind): one.artifact(times[str(one.kind)]) for one in measured}
        kept = [artifact for kind, artifact in artifacts.items() if kind not in left_out]
        manifest = _manifest(out.stem, record, metrics, kept, left_out, _golden(shipped, held_out), cells)
        subjects = len(set(held_out.subjects))
        note = tiny(len(cells.test), subjects)
        report("Writing the report", 0, 1)
        told = examine(
            folder,
            manifest,
            list(artifacts.values()),
            subjects,
            options.limits,
            cells.calibration_images,
            default_threads(),
            note,
        )
        report("Writing the report", 1, 1)
        run_card = run / "MODEL_CARD.md"
        text = card(run_card.read_text() if run_card.is_file() else "", manifest, note)
        golden = pack_golden(held_out.golden, held_out.golden_reference)
        manifest = _write(folder, out, manifest, shipped, golden, text, told)
    return Converted(out, manifest, len(cells.test), subjects, note)


def _run_converters(
    folder: Path, run: Path, record: RunRecord, options: Options, cells: Cells, report: Report
) -> HeldOut:
    """Make the artifacts in ``folder``; the held-out and golden cells with the float model's outputs for them."""
    golden = golden_inputs(record.imaging, GOLDEN_CELLS, 0)
    job = Job(
        run=str(run.resolve()),
        size_px=record.imaging.size_px,
        kinds=options.kinds,
        fine_tuning_steps=options.fine_tuning_steps,
        seed=record.seed,
    )
    np.save(folder / TUNING, cells.tuning_images)
    images = np.concatenate([cells.test_images, golden])
    reference = run_converters(folder, job, cells.calibration_images, images, report)
    return HeldOut(
        images=cells.test_images,
        labels=[cell.label for cell in cells.test],
        subjects=[cell.subject or cell.name for cell in cells.test],
        reference=reference[: len(cells.test)],
        golden=golden,
        golden_reference=reference[len(cells.test) :],
    )


def _golden(measured: list[Measured], held_out: HeldOut) -> Golden:
    return Golden(
        inputs=len(held_out.golden),
        max_flips={str(one.kind): one.golden.clear_flips for one in measured},
        max_probability_difference={str(one.kind): one.golden.max_probability_difference for one in measured},
    )


def _check_target(out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file for the bundle, such as {out.stem}.bundle.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; choose another name, or replace it with --force.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{out} cannot be written: {there} is not a folder this user may write to; choose another.")


def _check_packages(options: Options) -> None:
    for engine in options.engines:
        require(engine)
        for package in NEEDS[engine]:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"Converting for {engine} needs {package}, which is not installed here; "
                    "install it with: pip install 'bloodedge[convert]'"
                )


def _read_cells(record: RunRecord, data: Path | None, options: Options, report: Report) -> Cells:
    root = data or Path(record.data.root)
    if not root.is_dir() and data is None:
        raise UsageError(f"The run's data are no longer at {root}; give the folder: bloodedge convert RUN DATA ...")
    dataset = read_dataset(root, _part(report, "Reading cells"))
    if dataset.fingerprint != record.data.fingerprint:
        raise UsageError(f"{root} is not what the run was fitted to (its images differ); give that folder.")
    parts = recall(dataset, record.split, SplitSpec.model_validate(record.recipe.get("split", {})))
    chosen = choose_cells(parts["train"], options.calibration_cells, record.seed)
    tuning = choose_cells(parts["train"], TUNING_CELLS if options.fine_tuning_steps else 0, record.seed)
    return Cells(
        calibration=chosen,
        calibration_images=full_range(inputs(chosen, record.imaging, _part(report, "Calibration cells"))),
        tuning_images=inputs(tuning, record.imaging, _part(report, "Cells to fine-tune on")),
        test=parts["test"],
        test_images=inputs(parts["test"], record.imaging, _part(report, "Held-out cells")),
    )


def _part(report: Report, what: str) -> Progress:
    return lambda done, total: report(what, done, total)


def _gate(measured: list[Measured], limits: Limits, folder: Path, images: NDArray[np.uint8]) -> None:
    judged = [Judged(one.kind, one.agreement, one.golden.max_probability_difference) for one in measured]

    def where() -> str:
        networks = [folder / file_names(Kind(engine="litert", precision=p))[0] for p in ("float32", "int8")]
        if not all(network.is_file() for network in networks):
            return ""
        names = worst_layers(layer_noise(networks[0].read_bytes(), networks[1].read_bytes(), images))
        return f"In LiteRT int8 the layers that add most noise are {', '.join(names)}. "

    enforce(judged, limits, where)


def why_left_out(kinds: list[Kind], times: dict[str, LatencyMs], options: Options) -> dict[str, str]:
    """What was asked for and does not go into the bundle, by kind, with the reason in a sentence.

    kinds: what was made; times: latencies on this machine by kind. An int8 artifact loses accuracy to be fast: one
    that is not faster than the float32 artifact of its engine has no use.
    """
    reasons = {}
    for precision, asked in (("float16", options.float16), ("int8", options.int8)):
        if asked and "onnx" in options.engines:
            reasons[f"onnx/{precision}"] = "ONNX is a cross-check of the float conversion and comes in float32 only."
    for kind in kinds:
        if kind.precision == "int8" and not options.keep_slow:
            ours, plain = times[str(kind)].p50, times[str(Kind(engine=kind.engine, precision="float32"))].p50
            if ours >= plain:
                reasons[str(kind)] = (
                    f"No faster than float32 on this machine ({ours:.2f} against {plain:.2f} ms); "
                    "--keep-slow would keep it."
                )
        if kind.precision != "int8" and options.only_int8:
            reasons[str(kind)] = "Judged like the others, and left out by --only-int8."
    return reasons


def _told(reasons: dict[str, str]) -> str:
    return " ".join(f"{kind.replace('/', ' ')}: {reason}" for kind, reason in reasons.items())


def _manifest(
    name: str,
    record: RunRecord,
    metrics: RunMetrics,
    artifacts: list[Artifact],
    left_out: dict[str, str],
    golden: Golden,
    cells: Cells,
) -> Manifest:
    now = datetime.now(UTC)
    return Manifest(
        serial=int(now.timestamp()),
        name=name,
        labels=record.labels,
        input=InputSpec(height=record.imaging.size_px, width=record.imaging.size_px),
        imaging=record.imaging,
        temperature=record.temperature,
        thresholds=record.thresholds,
        artifacts=artifacts,
        left_out=left_out,
        baseline=Baseline(
            hardware=metrics.hardware,
            backend=record.backend,
            latency_ms=metrics.latency_ms,
            evaluation=metrics.parts["test"],
        ),
        golden=golden,
        provenance=Provenance(
            run=record.name,
            model=record.model,
            parameters=record.parameters,
            recipe=without_paths(record.recipe),
            weights=without_paths(record.weights),
            data_fingerprint=record.data.fingerprint,
            rendered=record.data.rendered,
            split=record.split,
            calibration_cells=len(cells.calibration),
            calibration_digest=cells_digest(cells.calibration),
            converted=now.isoformat(timespec="seconds"),
            hardware=f"{hardware_name()}, {default_threads()} threads",
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


def _write(
    folder: Path,
    out: Path,
    manifest: Manifest,
    measured: list[Measured],
    golden: bytes,
    text: str,
    told: ConversionReport,
) -> Manifest:
    """Lay the bundle out beside the converters' files and store it as ``out``; the manifest with its files' digests.

    ``signature.json`` is not among them: it signs the manifest and comes after.
    """
    layout = folder / "bundle"
    (layout / "artifacts").mkdir(parents=True)
    for one in measured:
        for path in one.files:
            path.rename(layout / "artifacts" / path.name)
    (layout / manifest.golden.file).write_bytes(golden)
    (layout / "MODEL_CARD.md").write_text(text)
    (layout / JSON).write_text(told.model_dump_json(indent=1))
    (layout / HTML).write_text(page(told))
    names = sorted(path.relative_to(layout).as_posix() for path in layout.rglob("*") if path.is_file())
    manifest = manifest.model_copy(update={"files": {name: sha256(layout / name) for name in names}})
    write_record(layout / MANIFEST, manifest)
    write_beside(out, lambda temporary: zip_folder(layout, temporary))
    return manifest
