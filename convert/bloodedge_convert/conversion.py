"""From a run folder to a bundle: convert, judge on held-out cells, decide what ships, write all of it or nothing."""

import importlib.util
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bloodedge.bundle.manifest import EngineName, Manifest
from bloodedge.bundle.run_record import RunRecord, calibration_part, judged_part, read_metrics, read_run
from bloodedge.data.fitted_pictures import FITTED_FILE
from bloodedge.decision.reference_people import Reference
from bloodedge.decision.thresholds import calibrated
from bloodedge.engine import require
from bloodedge.engine.golden import GOLDEN_CELLS, pack_golden
from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.files import read_text
from bloodedge.installation import install_hint
from bloodedge.machine import default_threads
from bloodedge.simulation import golden_inputs
from bloodedge_convert.cells.run_cells import Cells, Part, read_cells
from bloodedge_convert.cells.run_scores import run_scores
from bloodedge_convert.int8_methods import FURTHER_METHODS, Attempt, describe, try_methods
from bloodedge_convert.job import FOLDS_REFERENCE, TRIAL, TUNING, Job, Kind, Method, Report, run_again, run_converters
from bloodedge_convert.judge.gate import Limits, admit, enforce, tiny
from bloodedge_convert.judge.measure import Candidate, GoldenSet, Judge, Sample
from bloodedge_convert.judge.speed import Timed, in_pairs, latencies, too_slow, undecided
from bloodedge_convert.litert.layer_noise import int8_noise, worst_layers
from bloodedge_convert.output.bundle_card import card
from bloodedge_convert.output.bundle_writer import make_manifest, write_bundle
from bloodedge_convert.output.report import HTML, JSON, make_report
from bloodedge_convert.output.report_page import page

ENGINES: tuple[EngineName, ...] = ("litert", "openvino", "onnx")
CROSSED = (
    "This network was fitted to everybody. Its figures are of networks that were made the same way without the person "
    "whose cell is judged, moved by what conversion changes in the same cell."
)
NEEDS = {"litert": ("tensorflow",), "openvino": ("tensorflow", "nncf"), "onnx": ("tensorflow", "tf2onnx")}
"""Packages that make an engine's artifacts, besides its own runtime."""


@dataclass(frozen=True)
class Options:
    """What the user asks for."""

    int8: bool = True
    float16: bool = False
    dynamic: bool = False
    """LiteRT with weights in int8 and activations in float32."""
    engines: tuple[EngineName, ...] = ENGINES
    onnx_int8: bool = False
    """Whether to make ONNX int8, which only an explicit --engine onnx asks for: ONNX checks the float conversion."""
    limits: Limits = field(default_factory=Limits)
    calibration_cells: int = 300
    only_int8: bool = False
    """Leave the float artifacts out of the bundle once they have been judged."""
    no_float32: bool = False
    """Leave only those of them out that store float32."""
    keep_slow: bool = False
    """Keep an int8 artifact that is slower here than float32 of the same engine."""
    method: Method | None = None
    """How int8 is made; None begins with "minmax" and tries the others of int8_methods where that loses too much."""
    qat: bool = False
    """Whether fine-tuning, the last and slowest method, may be tried."""

    @property
    def may_fine_tune(self) -> bool:
        """Whether cells to fine-tune on are needed."""
        return self.qat or self.method == "qat"

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

    @property
    def not_made(self) -> dict[str, str]:
        """Artifacts that the options name and that are not made, by kind, with the reason in a sentence."""
        reasons = {}
        if self.float16 and "onnx" in self.engines:
            reasons["onnx/float16"] = "ONNX is a cross-check of the float conversion and has no float16."
        if self.int8 and "onnx" in self.engines and not self.onnx_int8:
            reasons["onnx/int8"] = "ONNX is a cross-check of the float conversion; --engine onnx would add int8."
        return reasons

    def methods(self, engine: EngineName) -> list[Method]:
        """The methods that may be tried for an engine's int8 after the first attempt."""
        if self.method is not None:
            return []
        return [method for method in FURTHER_METHODS[engine] if self.qat or method != "qat"]


@dataclass(frozen=True)
class Converted:
    """A written bundle."""

    path: Path
    manifest: Manifest
    cells: int
    subjects: int
    """People whose cells were held out."""
    attempts: list[Attempt]
    """At int8, where the first method lost too much."""
    limits: Limits
    notes: list[str]
    """What else a reader of the figures should know; the manifest's caveats come first."""


def convert(run: Path, out: Path, options: Options, data: Path | None, *, force: bool, report: Report) -> Converted:
    """Convert ``run`` into the bundle ``out``; nothing is written unless every artifact passes the gate.

    data: the folder of the run's data, if they have moved. Raises UsageError when ``out`` exists (without ``force``),
    the run or its data are missing, or a package is missing; BloodedgeError when the float model is worth nothing, or a
    conversion fails, is broken, or loses more than ``options.limits``.
    """
    check_request(out, options, force=force)
    record, metrics, limits = read_run(run), read_metrics(run), options.limits
    validation = metrics.parts.get(calibration_part(metrics.parts))
    worthless = None if validation is None else admit(validation, metrics.parts[judged_part(metrics.parts)], limits)
    cells = read_cells(record, data, options.calibration_cells, tuning=options.may_fine_tune, report=report)
    with disk_errors("the conversion"), tempfile.TemporaryDirectory(prefix="bloodedge-convert-") as temporary:
        folder = Path(temporary)
        job = _job(run, record, options)
        judge, people = _run_converters(folder, job, record, cells, report)
        if validation is None:  # a run of an older version does not keep these figures
            worthless = admit(judge.float_model(judge.trial), judge.float_model(judge.held_out), limits)
        candidates, attempts = _judge_all(job, judge, options, cells)
        kinds = [candidate.kind for candidate in candidates]
        times = latencies(judge, kinds, paired=[] if options.keep_slow else in_pairs(kinds))
        candidates = [candidate.timed(times[str(candidate.kind)].latency) for candidate in candidates]
        left_out, doubts = decide(kinds, times, options)
        shipped = [candidate for candidate in candidates if str(candidate.kind) not in left_out]
        if not shipped:
            reasons = " ".join(f"{kind.replace('/', ' ')}: {reason}" for kind, reason in left_out.items())
            raise BloodedgeError(f"No bundle was written, because every artifact was left out. {reasons}")
        caveats = [caveat for caveat in (worthless, limits.wider) if caveat]
        manifest = make_manifest(
            out.stem, judge, metrics, cells, people, run_scores(run, record), shipped, left_out, caveats
        )
        subjects = len(set(judge.held_out.subjects))
        crossed = [CROSSED] if cells.folds else []
        notes = [*caveats, *crossed, *filter(None, [tiny(len(cells.test.cells), subjects)]), *doubts]
        report("Writing the report", 0, 1)
        examined = make_report(judge, manifest, candidates, limits, attempts, cells.calibration.images, notes)
        contents: dict[str, str | bytes] = {
            "MODEL_CARD.md": card(_run_card(run), manifest, limits, notes),
            JSON: examined.model_dump_json(indent=1),
            HTML: page(examined),
            FITTED_FILE: cells.fitted.pack(),
            manifest.golden.file: pack_golden(judge.golden.images, judge.golden.reference),
        }
        if record.features:
            contents[record.features.file] = (run / record.features.file).read_bytes()
        report("Writing the report", 1, 1)
        manifest = write_bundle(out, folder / "bundle", manifest, shipped, contents)
    return Converted(out, manifest, len(cells.test.cells), subjects, attempts, limits, notes)


def check_request(out: Path, options: Options, *, force: bool) -> None:
    """Raise UsageError where the request cannot be met."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file for the bundle, such as {out.stem}.bundle.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; choose another name, or replace it with --force.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{out} cannot be written: {there} is not a folder this user may write to; choose another.")
    if options.only_int8 and not any(kind.precision == "int8" for kind in options.kinds):
        raise UsageError("--only-int8 would leave nothing in the bundle; add --int8 and an engine that has it.")
    if options.no_float32 and all(kind.precision == "float32" for kind in options.kinds):
        raise UsageError("--no-float32 would leave nothing in the bundle; add --int8 or --float16.")
    for engine in options.engines:
        if options.int8 and options.method not in (None, "minmax", *FURTHER_METHODS[engine]):
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
        folds=record.cross_validation and record.cross_validation.file,
        kinds=options.kinds,
        engines=list(options.engines),
        int8_engines=[kind.engine for kind in options.kinds if kind.precision == "int8"],
        method=options.method or "minmax",
        seed=record.seed,
    )


def _run_converters(
    folder: Path, job: Job, record: RunRecord, cells: Cells, report: Report
) -> tuple[Judge, Reference | None]:
    """Make the artifacts in ``folder``; returns their judge, and the reference that devices compare slides with."""
    golden = golden_inputs(record.imaging, GOLDEN_CELLS, 0)
    np.save(folder / TUNING, cells.tuning.images)
    np.save(folder / TRIAL, cells.trial.images)
    parts = (cells.test.images, golden, cells.trial.images, cells.filmed.images)
    folds = cells.folds
    reference = run_converters(folder, job, cells.calibration.images, np.concatenate(parts), report)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    outputs = np.split(reference, ends)
    judging = np.split(np.load(folder / FOLDS_REFERENCE), ends) if folds else []

    def sample(what: str, part: Part, index: int) -> Sample:
        """Cells of the parts by their number; judged by the networks that were not fitted to them where there are."""
        own = outputs[index]
        if not folds or index == 2:
            return Sample(what, part.images, part.labels, part.subjects, own)
        chosen = folds.choose(judging[index], part.cells)
        return Sample(what, part.images, part.labels, part.subjects, chosen, own)

    as_filmed = sample("Cells as filmed", Part(cells.filmed.cells, cells.filmed.images), 3)

    judge = Judge(
        folder=folder,
        record=record,
        held_out=sample("Held-out cells", cells.test, 0),
        trial=sample("Validation cells", cells.trial, 2),
        golden=GoldenSet(golden, outputs[1]),
        threads=default_threads(),
        report=report,
        filmed=cells.filmed,
        as_filmed=as_filmed,
        domain=cells.domain,
    )
    return judge, cells.filmed.reference(calibrated(as_filmed.reference, record.temperature)[:, 1])


def _judge_all(job: Job, judge: Judge, options: Options, cells: Cells) -> tuple[list[Candidate], list[Attempt]]:
    """Every artifact with its figures; int8 is made by other methods where the first was over a limit.

    Raises BloodedgeError when an artifact is over a limit by every method.
    """
    limits = options.limits
    candidates: list[Candidate] = []
    attempts: list[Attempt] = []
    for kind in job.kinds:
        candidate = judge.measure(kind, job.method)
        methods = options.methods(kind.engine) if kind.precision == "int8" else []
        if methods and candidate.complaint(limits) is not None:

            def make(method: Method, smallest: float, kind: Kind = kind) -> None:
                changed = {"kinds": [kind], "method": method, "max_distance": smallest / 4}
                run_again(judge.folder, job.model_copy(update=changed), judge.report)

            candidate, tried = try_methods(candidate, limits, methods, make, judge)
            attempts += tried
        candidates.append(candidate)

    def where() -> str:
        by_engine = (describe([one for one in attempts if one.kind.engine == engine]) for engine in options.engines)
        noise = int8_noise(judge.folder, cells.calibration.images)
        noisiest = f"In LiteRT int8 the layers that add most noise are {', '.join(worst_layers(noise))}. "
        return "".join(by_engine) + (noisiest if noise else "")

    enforce((candidate.complaint(limits) for candidate in candidates), where)
    return candidates, attempts


def decide(kinds: list[Kind], times: dict[str, Timed], options: Options) -> tuple[dict[str, str], list[str]]:
    """The artifacts that do not ship, by kind, with the reason in a sentence; and a sentence on each doubtful one.

    kinds: what was made; times: latencies on this machine, by kind.
    """
    left_out, doubts = options.not_made, []
    for kind in kinds:
        if kind.precision != "int8" and options.only_int8:
            left_out[str(kind)] = "Judged like the others, and left out by --only-int8."
        elif kind.precision == "float32" and options.no_float32:
            left_out[str(kind)] = "Judged like the others, and left out by --no-float32."
        if kind.precision == "int8" and not options.keep_slow:
            if reason := too_slow(kind, times):
                left_out[str(kind)] = reason
            if doubt := undecided(kind, times):
                doubts.append(doubt)
    return left_out, doubts


def _run_card(run: Path) -> str:
    path = run / "MODEL_CARD.md"
    return read_text(path) if path.is_file() else ""
