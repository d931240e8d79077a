"""``bloodedge evaluate``: held-out figures of a run, a bundle, or several as an ensemble."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge.evaluate import Classifier
    from bloodedge.manifest import Evaluation

ENGINES = ("keras", "litert", "openvino", "onnx")
PRECISIONS = ("float32", "float16", "dynamic", "int8")
PARTS = ("auto", "train", "validation", "test", "shift", "all")
WEIGHTS = ("mean", "kappa")
VIEWS = ("1", "8")


@click.command()
@click.argument("models", metavar="RUN|BUNDLE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
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
    help="Of several: all alike, or each by Cohen's kappa on its own validation part.",
)
@click.option(
    "--rescale",
    type=click.FloatRange(0.5, 2),
    default=1.0,
    show_default=True,
    metavar="F",
    help="Resize each cell by F (0.5 to 2) first: how much does its size matter?",
)
@click.option(
    "--views",
    type=click.Choice(VIEWS),
    default="1",
    show_default=True,
    help="8: the mean over each cell's flips and quarter turns.",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Threads of the engine (default: all cores).")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Write each cell's probability of being a blast to a table.",
)
@click.option(
    "--json", "json_target", metavar="FILE|-", help="Write the figures as JSON to a file, or to stdout for -."
)
def evaluate(
    models: tuple[Path, ...],
    data: Path,
    engine: str | None,
    precision: str | None,
    part: str,
    weigh: str,
    rescale: float,
    views: str,
    threads: int | None,
    predictions: Path | None,
    json_target: str | None,
) -> None:
    """Score the run folder RUN, or the bundle BUNDLE, on cells of DATA that it never saw.

    Several are scored as one: an ensemble that says the weighted mean of their calibrated probabilities. A blast
    (C-NMC's all) is the positive class. Intervals are 95 %, bootstrapped over subjects.
    """
    from bloodedge.console import emit_json, progress
    from bloodedge.ensemble import Ensemble
    from bloodedge.evaluate import evaluate as run_evaluation

    ensemble = Ensemble.of([_open(model, engine, precision, threads) for model in models], weigh)  # type: ignore[arg-type]
    with progress("Reading cells") as update:
        evaluation, which = run_evaluation(
            ensemble,
            data,
            part,  # type: ignore[arg-type]
            update,
            rescale=rescale,
            views=8 if views == "8" else 1,
            predictions=predictions,
        )
    if json_target:
        emit_json(evaluation.model_dump(), json_target)
    if json_target != "-":
        show_evaluation(evaluation, f"{ensemble.name} on {which} of {data.name or data}")
        if evaluation.never_called is not None:
            click.secho(f"No cell was called {evaluation.never_called}: this network calls one class only.", bold=True)


def _open(model: Path, engine: str | None, precision: str | None, threads: int | None) -> "Classifier":
    from bloodedge.bundle import is_bundle
    from bloodedge.evaluate import default_threads, open_bundle, open_run

    if is_bundle(model):
        if engine == "keras":
            raise UsageError("A bundle holds no Keras model; choose --engine litert, openvino or onnx.")
        return open_bundle(model, engine or "litert", precision or "int8", threads or default_threads())  # type: ignore[arg-type]
    if engine not in {None, "keras"} or precision not in {None, "float32"}:
        raise UsageError(
            f"{model} is a run folder, which holds a keras float32 model; convert it: bloodedge convert {model} --int8"
        )
    return open_run(model)


def show_evaluation(evaluation: "Evaluation", title: str) -> None:
    """The figures, the confusion matrix and the subjects as terminal tables."""
    from rich.table import Table

    from bloodedge.console import console
    from bloodedge.manifest import Evaluation

    out = console()
    if evaluation.leaky:
        title += " [bold red](leaky: cells of these subjects were seen in training)[/]"
    table = Table("figure", "value", "95 % interval", title=title, title_justify="left")
    names = [
        name
        for name, field in Evaluation.model_fields.items()
        if float in {field.annotation, *get_args(field.annotation)}
    ]
    for name in names:
        value = getattr(evaluation, name)
        limits = evaluation.ci95.get(name)
        shown = "-" if value is None else f"{value:.3f}"
        table.add_row(name.replace("_", " "), shown, f"{limits[0]:.3f} .. {limits[1]:.3f}" if limits else "-")
    out.print(table)
    (tn, fp), (fn, tp) = evaluation.confusion
    matrix = Table("true \\ said", "normal", "blast")
    matrix.add_row("normal", str(tn), str(fp))
    matrix.add_row("blast", str(fn), str(tp))
    out.print(matrix)
    people = Table(
        "subject", "true class", "cells", "accuracy", title=f"{evaluation.subjects} subjects", title_justify="left"
    )
    for name, row in evaluation.per_subject.items():
        people.add_row(name, row.label, str(row.cells), f"{row.accuracy:.3f}")
    out.print(people)
    worst = evaluation.worst_subject
    out.print(f"Worst subject: {worst}, accuracy {evaluation.per_subject[worst].accuracy:.3f}")
    if evaluation.latency_ms:
        latency = evaluation.latency_ms
        out.print(f"Latency of one cell: p50 {latency.p50:.2f} ms, p95 {latency.p95:.2f} ms, p99 {latency.p99:.2f} ms")
