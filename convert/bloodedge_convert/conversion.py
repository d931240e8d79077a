"""From a run folder to a bundle: convert, judge on held-out cells, and write all of it or nothing."""

import importlib.util
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle import zip_folder
from bloodedge.bundle.manifest import Artifact, EngineName, Manifest
from bloodedge.bundle.run_record import RunRecord, read_metrics, read_run
from bloodedge.data.fitted_pictures import FITTED_FILE
from bloodedge.decision.thresholds import calibrated
from bloodedge.engine import require
from bloodedge.engine.golden import GOLDEN_CELLS, pack_golden
from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.files import read_text, write_beside, write_text
from bloodedge.installation import install_hint
from bloodedge.machine import default_threads
from bloodedge.simulation import golden_inputs
from bloodedge_convert import bundle_writer
from bloodedge_convert.bundle_card import card
from bloodedge_convert.int8_methods import LADDER, Attempt, climb, told
from bloodedge_convert.job import TRIAL, TUNING, Job, Kind, Method, Report, file_names, run_again, run_converters
from bloodedge_convert.judge.gate import Judged, Limits, admit, complaint, enforce, tiny
from bloodedge_convert.judge.measure import GoldenSet, Judge, Measured, Sample, Timed, latencies
from bloodedge_convert.litert.layer_noise import layer_noise, worst_layers
from bloodedge_convert.report import HTML, JSON, examine
from bloodedge_convert.report.page import page
from bloodedge_convert.run_cells import Cells, Part, read_cells

ENGINES: tuple[EngineName, ...] = ("litert", "openvino", "onnx")
NEEDS = {"litert": ("tensorflow",), "openvino": ("tensorflow", "nncf"), "onnx": ("tensorflow", "tf2onnx")}
"""Packages that make an engine's artifacts, beside the engine's own."""


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    int8: bool = True
    float16: bool = False
    dynamic: bool = False
    """LiteRT with weights in int8 and activations in float32."""
    engines: tuple[EngineName, ...] = ENGINES
    onnx_int8: bool = False
    """ONNX is there to check the float conversion and gets int8 only when that is asked for by itself."""
    limits: Limits = field(default_factory=Limits)
    calibration_cells: int = 300
    only_int8: bool = False
    """Leave the float artifacts out of the bundle once they have been judged."""
    keep_slow: bool = False
    """Keep an int8 artifact that is slower here than float32 of the same engine."""
    method: Method | None = None
    """Of int8; None begins with "minmax" and climbs bloodedge_convert.int8_methods where that loses too much."""
    qat: bool = False
    """Whether fine-tuning, the last and slowest method, may be tried."""

    @property
    def kinds(self) -> list[Kind]:
        """The artifacts to make."""
        asked: list[Kind] = []
        for engine in self.engines:
            asked.append(Kind(engine=engine, precision="float32"))
            if engine != "onnx" and self.float16:
                asked.append(Kind(engine=engine, precision="float16"))
            if engine == "litert" and self.dynamic:
                asked.append(Kind(engine=engine, precision="dynamic"))
            if self.int8 and (engine != "onnx" or self.onnx_int8):
                asked.append(Kind(engine=engine, precision="int8"))
        return asked

    def methods(self, engine: EngineName) -> list[Method]:
        """What may be tried for an engine's int8 after the first attempt."""
        if self.method is not None:
            return []
        return [method for method in LADDER[engine] if self.qat or method != "qat"]


@dataclass(frozen=True)
class Converted:
    """A written bundle."""

    path: Path
    manifest: Manifest
    cells: int
    subjects: int
    """Held out."""
    attempts: list[Attempt]
    """At int8, where the first way lost too much."""
    limits: Limits
    notes: list[str]
    """What else is to be known of the figures, the manifest's caveats among it."""


def convert(run: Path, out: Path, options: Options, data: Path | None, *, force: bool, report: Report) -> Converted:
    """Convert ``run`` into the bundle ``out``; nothing is written unless every artifact passes the gate.

    ``data`` is where the run's data lie now, if not where they lay. Raises UsageError when ``out`` exists (without
    ``force``), the run or its data are not there, or a package is missing; BloodedgeError when the float model is worth
    nothing, or a conversion fails, is broken, or loses more than ``options.limits``.
    """
    _check(out, options, force=force)
    record, metrics = read_run(run), read_metrics(run)
    validation = metrics.parts.get("validation")
    caveats = [] if validation is None else [admit(validation, metrics.parts["test"], options.limits)]
    tuning = options.qat or options.method == "qat"
    cells = read_cells(record, data, options.calibration_cells, tuning=tuning, report=report)
    threads = default_threads()
    with disk_errors("the conversion"), tempfile.TemporaryDirectory(prefix="bloodedge-convert-") as temporary:
        folder = Path(temporary)
        layout = folder / "bundle"
        job = _job(run, record, options)
        judge, trial, filmed = _run_converters(folder, job, record, cells, threads, report)
        if validation is None:  # a run of a version that did not keep these figures
            caveats.append(admit(judge.float_model(trial), judge.float_model(judge.held_out), options.limits))
        measured, attempts = _through_the_gate(job, judge, trial, options, cells)
        people = cells.filmed.reference(calibrated(filmed, record.temperature)[:, 1])
        manifest = bundle_writer.draft(out.stem, record, metrics, measured, cells, people, threads)
        caveats.append(options.limits.wider)
        manifest = manifest.model_copy(update={"caveats": [caveat for caveat in caveats if caveat is not None]})
        bundle_writer.gather(layout, measured)
        (layout / FITTED_FILE).write_bytes(cells.fitted.pack())
        manifest = bundle_writer.seal(layout, manifest)
        kinds = [one.kind for one in measured]
        times = latencies(layout, kinds, [] if options.keep_slow else in_pairs(kinds), threads, report)
        manifest = _timed(manifest, times)
        left_out = why_left_out(kinds, times, options)
        shipped = bundle_writer.without(manifest, left_out)
        if not shipped.artifacts:
            raise BloodedgeError(f"No bundle was written, for nothing is left to put in it: {_told(left_out)}")
        subjects = len(set(judge.held_out.subjects))
        small = tiny(len(cells.test.cells), subjects)
        notes = [*shipped.caveats, *([small] if small else []), *why_undecided(kinds, times, options)]
        report("Writing the report", 0, 1)
        examined = examine(
            folder,
            layout / "artifacts",
            shipped,
            manifest.artifacts,
            subjects,
            options.limits,
            attempts,
            cells.calibration.images,
            threads,
            notes,
        )
        report("Writing the report", 1, 1)
        run_card = run / "MODEL_CARD.md"
        bundle_writer.drop_files(layout, shipped.artifacts)
        own_card = read_text(run_card) if run_card.is_file() else ""
        write_text(layout / "MODEL_CARD.md", card(own_card, shipped, options.limits, notes))
        write_text(layout / JSON, examined.model_dump_json(indent=1))
        write_text(layout / HTML, page(examined))
        (layout / shipped.golden.file).write_bytes(pack_golden(judge.golden.images, judge.golden.reference))
        shipped = bundle_writer.seal(layout, shipped)
        write_beside(out, lambda target: zip_folder(layout, target))
    return Converted(out, shipped, len(cells.test.cells), subjects, attempts, options.limits, notes)


def _check(out: Path, options: Options, *, force: bool) -> None:
    """Raise UsageError for what cannot be done, before anything is."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file for the bundle, such as {out.stem}.bundle.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; choose another name, or replace it with --force.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{out} cannot be written: {there} is not a folder this user may write to; choose another.")
    if options.only_int8 and not any(kind.precision == "int8" for kind in options.kinds):
        raise UsageError("--only-int8 would leave nothing in the bundle; add --int8 and an engine that has it.")
    for engine in options.engines:
        if options.int8 and options.method not in (None, "minmax", *LADDER[engine]):
            raise UsageError(f"{engine} int8 cannot be made by {options.method}; leave it out with --engine.")
        require(engine)
        for package in NEEDS[engine]:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"Converting for {engine} needs {package}, which is not installed here; {install_hint('convert')}"
                )


def _job(run: Path, record: RunRecord, options: Options) -> Job:
    return Job(
        run=str(run.resolve()),
        size_px=record.imaging.size_px,
        kinds=options.kinds,
        engines=list(options.engines),
        method=options.method or "minmax",
        seed=record.seed,
    )


def _run_converters(
    folder: Path, job: Job, record: RunRecord, cells: Cells, threads: int, report: Report
) -> tuple[Judge, Sample, NDArray[np.float32]]:
    """Make the artifacts in ``folder``.

    Gives who judges them, the cells that methods are chosen by, and the float model's outputs for the filmed cells.
    """
    golden = golden_inputs(record.imaging, GOLDEN_CELLS, 0)
    np.save(folder / TUNING, cells.tuning.images)
    np.save(folder / TRIAL, cells.trial.images)
    parts = (cells.test.images, golden, cells.trial.images, cells.filmed.images)
    reference = run_converters(folder, job, cells.calibration.images, np.concatenate(parts), report)
    outputs = np.split(reference, np.cumsum([len(part) for part in parts])[:-1])

    def sample(what: str, part: Part, index: int) -> Sample:
        return Sample(what, part.images, part.labels, part.subjects, outputs[index])

    held_out, trial = sample("Held-out cells", cells.test, 0), sample("Validation cells", cells.trial, 2)
    judge = Judge(folder, record, held_out, GoldenSet(golden, outputs[1]), threads, report, cells.filmed, cells.domain)
    return judge, trial, outputs[3]


def _through_the_gate(
    job: Job, judge: Judge, trial: Sample, options: Options, cells: Cells
) -> tuple[list[Measured], list[Attempt]]:
    """Every artifact, measured and within the limits, int8 by other methods where the first was not.

    Raises BloodedgeError when one is not to be had.
    """
    limits, measured, attempts = options.limits, [], []
    for kind in job.kinds:
        one = judge.measure(kind, job.method)
        methods = options.methods(kind.engine) if kind.precision == "int8" else []
        if methods and complaint(Judged.of(one), limits) is not None:

            def make(method: Method, smallest: float, kind: Kind = kind) -> None:
                changed = {"kinds": [kind], "method": method, "max_distance": smallest / 4}
                run_again(judge.folder, job.model_copy(update=changed), judge.report)

            one, tried = climb(one, limits, methods, make, judge, trial)
            attempts += tried
        measured.append(one)

    def where() -> str:
        by_engine = (told([one for one in attempts if one.kind.engine == engine]) for engine in options.engines)
        return "".join(by_engine) + _noisiest(judge.folder, cells)

    enforce([Judged.of(one) for one in measured], limits, where)
    return measured, attempts


def _noisiest(folder: Path, cells: Cells) -> str:
    """Where LiteRT int8 loses most, in a sentence; nothing where it was not made."""
    networks = [folder / file_names(Kind(engine="litert", precision=p))[0] for p in ("float32", "int8")]
    if not all(network.is_file() for network in networks):
        return ""
    names = worst_layers(layer_noise(networks[0].read_bytes(), networks[1].read_bytes(), cells.calibration.images))
    return f"In LiteRT int8 the layers that add most noise are {', '.join(names)}. "


def _timed(manifest: Manifest, times: dict[str, Timed]) -> Manifest:
    def timed(artifact: Artifact) -> Artifact:
        latency = times[f"{artifact.engine}/{artifact.precision}"].latency
        return artifact.model_copy(
            update={"evaluation": artifact.evaluation.model_copy(update={"latency_ms": latency})}
        )

    return manifest.model_copy(update={"artifacts": [timed(one) for one in manifest.artifacts]})


def in_pairs(kinds: list[Kind]) -> list[Kind]:
    """The int8 artifacts and the float32 ones that they have to beat."""
    engines = {kind.engine for kind in kinds if kind.precision == "int8"}
    return [kind for kind in kinds if kind.engine in engines and kind.precision in ("float32", "int8")]


def why_left_out(kinds: list[Kind], times: dict[str, Timed], options: Options) -> dict[str, str]:
    """What was asked for and does not go into the bundle, by kind, with the reason in a sentence.

    kinds: what was made; times: latencies on this machine by kind. An int8 artifact loses accuracy to be fast: one
    that was slower than the float32 artifact of its engine in every round has no use.
    """
    reasons = {}
    if options.float16 and "onnx" in options.engines:
        reasons["onnx/float16"] = "ONNX is a cross-check of the float conversion and has no float16."
    if options.int8 and "onnx" in options.engines and not options.onnx_int8:
        reasons["onnx/int8"] = "ONNX is a cross-check of the float conversion; --engine onnx would make int8 as well."
    for kind in kinds:
        if kind.precision == "int8" and not options.keep_slow:
            ratio, low, high = _speed_up(kind, times)
            if high < 1:
                reasons[str(kind)] = (
                    f"Slower than float32 on this machine in each of {len(times[str(kind)].rounds)} rounds in turns "
                    f"({ratio:.2f} times as fast, {low:.2f} to {high:.2f}); --keep-slow would keep it."
                )
        if kind.precision != "int8" and options.only_int8:
            reasons[str(kind)] = "Judged like the others, and left out by --only-int8."
    return reasons


def why_undecided(kinds: list[Kind], times: dict[str, Timed], options: Options) -> list[str]:
    """A sentence on each int8 artifact that was now faster and now slower than float32, and is kept."""
    sentences = []
    for kind in kinds:
        if kind.precision == "int8" and not options.keep_slow:
            ratio, low, high = _speed_up(kind, times)
            if low <= 1 <= high:
                rounds = len(times[str(kind)].rounds)
                sentences.append(
                    f"Whether {kind.engine} int8 is faster than float32 on this machine is undecided, so it is kept "
                    f"({ratio:.2f} times as fast, {low:.2f} to {high:.2f} over {rounds} rounds in turns)."
                )
    return sentences


def _speed_up(kind: Kind, times: dict[str, Timed]) -> tuple[float, float, float]:
    """Of an int8 artifact over float32 of its engine, as Timed.speed_up."""
    return times[str(kind)].speed_up(times[str(Kind(engine=kind.engine, precision="float32"))])


def _told(reasons: dict[str, str]) -> str:
    return " ".join(f"{kind.replace('/', ' ')}: {reason}" for kind, reason in reasons.items())
