"""``bloodedge evaluate``: held-out figures of a run, a bundle, or several as an ensemble."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from bloodedge.cli.options import PATH, allow_unreadable_option, data_options, json_option
from bloodedge.errors import UsageError, quoted

if TYPE_CHECKING:
    from bloodedge.bundle.data_layout import DataLayout
    from bloodedge.bundle.evaluation_record import Evaluation
    from bloodedge.evaluation.classifier import Classifier

ENGINES = ("keras", "litert", "openvino", "onnx")
PRECISIONS = ("float32", "float16", "dynamic", "int8")
PARTS = ("auto", "train", "validation", "test", "shift", "all")
WEIGHTS = ("mean", "kappa")
TURNS = ("1", "8")


@click.command()
@click.argument("models", metavar="RUN|BUNDLE...", type=PATH, nargs=-1, required=True)
@click.argument("data", metavar="DATA", type=PATH)
@click.option("--engine", type=click.Choice(ENGINES), help="Default: keras for a run, litert for a bundle.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: float32 for a run, int8 for a bundle.")
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="auto",
    show_default=True,
    help="auto: the test part of the run's own data; of other data, every subject not seen in training.",
)
@click.option(
    "--weigh",
    type=click.Choice(WEIGHTS),
    default="mean",
    show_default=True,
    help="Weights of an ensemble: all equal, or each by Cohen's kappa on its own validation part.",
)
@click.option(
    "--rescale",
    type=click.FloatRange(0.5, 2),
    default=1.0,
    show_default=True,
    metavar="F",
    help="Resize each cell by F (0.5 to 2) first, to see how much its size matters.",
)
@click.option(
    "--views",
    "turns",
    type=click.Choice(TURNS),
    default="1",
    show_default=True,
    help="8: the mean over each cell's flips and quarter turns (not the scales of its imaging).",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Threads of the engine (default: all cores).")
@data_options
@click.option("--one-person", is_flag=True, help="All cells without a subject in their name are one person's.")
@allow_unreadable_option
@click.option(
    "--predictions",
    type=PATH,
    metavar="FILE.csv",
    help="Write each cell's probability of being a blast to a table.",
)
@json_option("figures")
def evaluate(
    models: tuple[Path, ...],
    data: Path,
    engine: str | None,
    precision: str | None,
    part: str,
    weigh: str,
    turns: str,
    threads: int | None,
    layout: "DataLayout",
    one_person: bool,
    json_target: str | None,
    **options: Any,
) -> None:
    """Score the run folder RUN, or the bundle BUNDLE, on cells of DATA that it never saw.

    Several are scored as an ensemble: the weighted mean of their calibrated probabilities. A blast (C-NMC's all) is the
    positive class. Intervals are 95 %, bootstrapped over subjects. Copies of training pictures are left out, whatever
    their names in DATA; --json lists what was left out.
    """
    from bloodedge.console import emit, progress
    from bloodedge.evaluation.ensemble import Ensemble
    from bloodedge.evaluation.evaluate import evaluate as run_evaluation

    if one_person and (layout.subject or layout.subject_column):
        raise UsageError("--one-person and a subject rule or column exclude each other; give one of them.")

    ensemble = Ensemble.of([_open(model, engine, precision, threads) for model in models], weigh)  # type: ignore[arg-type]
    with progress("Reading and scoring cells") as update:
        evaluation, which, left_out, notes = run_evaluation(
            ensemble,
            data,
            part,  # type: ignore[arg-type]
            update,
            turns=8 if turns == "8" else 1,
            layout=layout.model_copy(update={"one_person": one_person}),
            **options,
        )

    def show() -> None:
        show_evaluation(evaluation, f"{ensemble.name} on {which} of {data.name or data}")
        if evaluation.never_called is not None:
            click.secho(f"No cell was called {evaluation.never_called}: this network calls one class only.", bold=True)
        _show_left_out(left_out, notes)

    emit(evaluation.model_dump() | {"left_out": left_out, "notes": notes}, json_target, show)


NAMED = 3
"""Pictures listed in the terminal for each reason."""


def _show_left_out(left_out: dict[str, str], notes: list[str]) -> None:
    """Print what was not scored, by reason, and what limits the figures."""
    from rich.markup import escape

    from bloodedge.console import console, plain

    out = console()
    for note in notes:
        out.print(f"[bold yellow]Mind:[/] {escape(note)}", soft_wrap=True)
    if not left_out:
        return
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason.replace(name, "it"), []).append(name)
    out.print(f"[bold]Left out: {len(left_out)} pictures[/] (--json FILE names them all)")
    for reason, names in sorted(by_reason.items(), key=lambda row: -len(row[1])):
        some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        out.print(plain(f"  {len(names)}: {reason.rstrip('.')} ({some})"), soft_wrap=True)


def _open(model: Path, engine: str | None, precision: str | None, threads: int | None) -> "Classifier":
    from bloodedge.bundle import is_bundle
    from bloodedge.evaluation.classifier import open_bundle, open_run
    from bloodedge.machine import default_threads

    if is_bundle(model):
        if engine == "keras":
            raise UsageError("A bundle holds no Keras model; choose --engine litert, openvino or onnx.")
        return open_bundle(model, engine or "litert", precision or "int8", threads or default_threads())  # type: ignore[arg-type]
    if engine not in {None, "keras"} or precision not in {None, "float32"}:
        raise UsageError(
            f"{model} is a run folder, which holds a keras float32 model; convert it:"
            f" bloodedge convert {quoted(model)} --int8"
        )
    return open_run(model)


def show_evaluation(evaluation: "Evaluation", title: str) -> None:
    """The figures, the confusion matrix and the subjects as terminal tables."""
    from rich.text import Text

    from bloodedge.bundle.evaluation_record import Evaluation
    from bloodedge.console import console, plain
    from bloodedge.tables import figure_cells, print_table

    out, heading = console(), Text(title, "italic")
    if evaluation.leaky:
        heading.append(" (leaky: cells of these subjects were seen in training)", "bold red")
    rows = [
        (name.replace("_", " "), *figure_cells(getattr(evaluation, name), evaluation.ci95.get(name)))
        for name, field in Evaluation.model_fields.items()
        if float in {field.annotation, *get_args(field.annotation)}
    ]
    print_table(("figure", "value", "95 % interval"), rows, title=heading)
    (tn, fp), (fn, tp) = evaluation.confusion
    matrix = [("normal", str(tn), str(fp)), ("blast", str(fn), str(tp))]
    print_table(("true \\ called", "normal", "blast"), matrix, title="Cells by class")
    people = [(name, r.label, str(r.cells), f"{r.accuracy:.3f}") for name, r in evaluation.per_subject.items()]
    columns = ("subject", "true class", "cells", "accuracy")
    print_table(columns, people, title=f"{evaluation.subjects} subjects", left=columns[:2])
    worst = evaluation.worst_subject
    out.print(plain(f"Worst subject: {worst}, accuracy {evaluation.per_subject[worst].accuracy:.3f}"))
    if evaluation.latency_ms:
        latency = evaluation.latency_ms
        out.print(f"Latency of one cell: p50 {latency.p50:.2f} ms, p95 {latency.p95:.2f} ms, p99 {latency.p99:.2f} ms")
