"""``bloodedge convert``: a run folder becomes a bundle."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bloodedge.cli.options import PATH, data_options
from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge.bundle.data_layout import DataLayout
    from bloodedge_convert.conversion import Converted, Options
    from bloodedge_convert.job import Report

F = TypeVar("F", bound=Callable[..., Any])

ENGINES = ("litert", "openvino", "onnx")
METHODS = ("auto", "minmax", "mean", "percentile", "mse", "entropy", "equalised", "mixed", "qat")


def _limit(name: str, metavar: str, most: float, usual: float, text: str) -> Callable[[F], F]:
    """An option with a limit of the gate, 0..most."""
    kind = click.FloatRange(0, most)
    return click.option(name, metavar=metavar, type=kind, default=usual, show_default=True, help=text)


@click.command()
@click.argument("run", metavar="RUN|MODEL", type=PATH)
@click.argument("data", metavar="[DATA]", required=False, type=PATH)
@click.option("--spec", metavar="SPEC.toml", type=PATH, help="What the inputs and outputs of MODEL mean.")
@click.option("--suggest-spec", is_flag=True, help="Print a spec for MODEL, as far as its file tells one, and end.")
@data_options
@click.option("--int8", is_flag=True, help="Add full-integer int8 models (ONNX only with --engine onnx).")
@click.option("--float16", is_flag=True, help="Add models with weights stored as float16 (LiteRT and OpenVINO).")
@click.option("--only-int8", is_flag=True, help="Leave the float models out once judged: a small bundle for a board.")
@click.option("--no-float32", is_flag=True, help="Leave the float32 models out once judged; float16 halves their size.")
@click.option("--dynamic", is_flag=True, help="Add a LiteRT model with int8 weights and float32 activations.")
@click.option(
    "--int8-method",
    "method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="How int8 is made; auto tries them in this order until one passes.",
)
@click.option("--qat", is_flag=True, help="Let auto go on to fine-tuning with fake quantisation (minutes).")
@click.option("--keep-slow", is_flag=True, help="Keep int8 models that are slower here than float32.")
@click.option("--engine", "engines", type=click.Choice(ENGINES), multiple=True, help="Repeatable. [default: all three]")
@_limit("--max-drop", "PP", 100, 0.5, "Points of weighted F1 that an artifact may lose on held-out cells.")
@_limit("--max-flips", "PCT", 100, 1.5, "Percent of held-out cells whose class an artifact may change.")
@_limit("--max-auc-drop", "PP", 100, 0.5, "Points of AUC that an artifact may lose.")
@_limit("--max-balanced-drop", "PP", 100, 1.0, "Points of balanced accuracy that an artifact may lose.")
@_limit(
    "--max-probability-error",
    "P",
    1,
    0.03,
    "How far (0 to 1) an artifact's blast probabilities may be from the float model's on average.",
)
@click.option(
    "--allow-worthless",
    is_flag=True,
    help="Convert a model that calls one class only or may be no better than chance; the card says so.",
)
@click.option(
    "--calibration-cells",
    metavar="N",
    type=click.IntRange(8, 10000),
    default=300,
    show_default=True,
    help="Cells of training groups that int8 ranges are measured on.",
)
@click.option("--force", is_flag=True, help="Replace NAME.bundle if it exists.")
@click.option(
    "-o",
    "--out",
    metavar="NAME.bundle",
    type=PATH,
    help="The bundle to write, one zip file.",
)
def convert(
    run: Path,
    data: Path | None,
    out: Path | None,
    force: bool,
    engines: tuple[str, ...],
    method: str,
    spec: Path | None,
    suggest_spec: bool,
    layout: "DataLayout",
    **options: Any,
) -> None:
    """Turn the run folder RUN, or a network that was trained elsewhere, into a bundle, through the gate.

    A run whose float model calls one class only, or may be no better than chance on its validation part, is refused.
    Float32 models are always made; every model is compared with the float model on the run's held-out cells. An int8
    model over a limit is made again by other methods; if none of them passes, no bundle is written. DATA is the folder
    of the run's data, if they have moved since training; a run's data are read as they were for training.

    MODEL is a .keras or .h5 file, and needs a --spec and DATA of people whom it was not fitted to: some of them
    calibrate int8, others choose thresholds and judge it. The options of DATA are for MODEL alone.
    """
    from bloodedge.bundle.data_layout import DataLayout
    from bloodedge.console import steps
    from bloodedge_convert.conversion import Options
    from bloodedge_convert.conversion import convert as run_conversion
    from bloodedge_convert.external.spec import is_external
    from bloodedge_convert.judge.gate import Limits

    external = is_external(run)
    if suggest_spec:
        if not external:
            raise UsageError(f"{run} is no model of another program; --suggest-spec takes a .keras or .h5 file.")
        from bloodedge_convert.external.suggest import suggest_spec as suggested

        click.echo(suggested(run), nl=False)
        return
    if out is None:
        raise UsageError("Give the bundle to write with --out NAME.bundle.")
    if not external and (spec or layout != DataLayout()):
        raise UsageError(
            f"{run} is no model of another program, so it needs no --spec, and its data are read as for "
            "training; leave these options out."
        )
    limits = Limits(**{field.name: options.pop(field.name) for field in fields(Limits)})
    asked = Options(
        engines=tuple(dict.fromkeys(engines or ENGINES)),  # type: ignore[arg-type]  # click has checked the names
        onnx_int8="onnx" in engines,
        method=None if method == "auto" else method,  # type: ignore[arg-type]  # click has checked the name
        limits=limits,
        **options,
    )
    with steps() as report:
        if external:
            converted = _convert_external(run, data, out, spec, layout, asked, force=force, report=report)
        else:
            converted = run_conversion(run, out, asked, data, force=force, report=report)
    show(converted)


def _convert_external(
    model: Path,
    data: Path | None,
    out: Path,
    spec: Path | None,
    layout: "DataLayout",
    asked: "Options",
    *,
    force: bool,
    report: "Report",
) -> "Converted":
    import tempfile

    from bloodedge_convert.conversion import check_request, convert
    from bloodedge_convert.external.run import External, write_run
    from bloodedge_convert.external.spec import read_spec

    said = read_spec(model, spec)
    if data is None:
        raise UsageError(f"Give DATA to judge {model} by: people whom it was not fitted to.")
    check_request(out, asked, force=force)
    with tempfile.TemporaryDirectory(prefix="bloodedge-run-") as temporary:
        run = Path(temporary) / "run"
        external = External(model, said, data, layout, asked.limits.allow_worthless)
        write_run(external, run, report)
        return convert(run, out, asked, data, force=force, report=report)


def show(converted: "Converted") -> None:
    """The artifacts with their figures as terminal tables."""
    from rich.text import Text

    from bloodedge.console import console, plain
    from bloodedge.tables import print_table
    from bloodedge.text import as_text
    from bloodedge_convert.int8_methods import attempt_line
    from bloodedge_convert.output.bundle_card import FIGURES, GATE, SPEED, figure_rows, gate_rows, speed_rows

    manifest, out = converted.manifest, console()
    source = manifest.provenance
    title = Text(f"{converted.cells} held-out cells of {converted.subjects} subjects", "italic")
    if source.split.leaky:
        title.append(" (leaky: cells of these subjects were seen in training)", "bold red")
    lost_title = "Lost against the float model on the same cells, and what the gate allows"
    speed_title = f"One cell on {source.hardware}; speed-up over float32 of the same engine"
    print_table(FIGURES, figure_rows(manifest), title=title)
    print_table(GATE, gate_rows(manifest, converted.limits), title=lost_title)
    print_table(SPEED, speed_rows(manifest), title=speed_title)
    out.print()
    for attempt in converted.attempts:
        out.print(attempt_line(attempt), soft_wrap=True)
    for kind, reason in manifest.left_out.items():
        out.print(plain(f"Left out: {kind.replace('/', ' ')}. {reason}"), soft_wrap=True)
    for note in converted.notes:
        out.print(plain(note), style="bold", soft_wrap=True)
    out.print(f"int8 ranges were measured on {source.calibration_cells} cells of training groups.")
    out.print(plain(f"Bundle: {as_text(converted.path)} (serial {manifest.serial})"), style="bold", soft_wrap=True)
