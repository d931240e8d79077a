"""``bloodedge predict``: the kind and class of the cells in any pictures."""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.errors import BloodedgeError, UsageError

if TYPE_CHECKING:
    from bloodedge.bundle.manifest import EngineName, Precision
    from bloodedge_device.predict.predictor import Add, CellPrediction, Prediction, Predictor

ENGINES = ("litert", "openvino", "onnx")
PRECISIONS = ("float32", "float16", "dynamic", "int8")
SHOWN_ROWS = 500
"""Cells in the terminal's table."""
SHOWN_PROBLEMS = 20
FORMS = ("json", "csv", "geojson", "gallery")


@click.command()
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--um-per-px",
    type=click.FloatRange(0.01, 2),
    metavar="X",
    help="Micrometres per pixel of every picture; default: C-NMC's 0.066 for cells on black, else measured from red"
    " cells.",
)
@click.option("--engine", type=click.Choice(ENGINES), default="litert", show_default=True, help="Inference engine.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True, help="Of the artifact.")
@click.option("--json", metavar="FILE|-", help="Write pictures and cells as JSON to a file, or to stdout for -.")
@click.option("--csv", metavar="FILE|-", help="Write a row for each cell.")
@click.option("--geojson", metavar="FILE|-", help="Write the cells' outlines for QuPath, in pixels.")
@click.option("--gallery", metavar="FILE.html", help="Write a page of pictures and cells, for a person to judge.")
def predict(
    bundle: Path,
    paths: tuple[Path, ...],
    um_per_px: float | None,
    engine: "EngineName",
    precision: "Precision",
    **targets: str | None,
) -> None:
    """Say of the cells in pictures what kind they are, and ask BUNDLE whether they are blasts.

    PATH is a picture, a video, or a folder of them, searched to its end. A cell cut out onto black is judged as it is;
    in every other picture cells are found first. Pages of TIFF files and frames of videos are pictures of their own.

    A cell that the picture's border cuts is uncertain, unless it lies in the middle of a crop: of a picture less than
    50 µm across, or one in which no other cell is found.

    Pictures that cannot be read are named and passed over; the exit code is 1 if none can be read.
    """
    from bloodedge.console import progress
    from bloodedge_device.predict.outputs import output_file
    from bloodedge_device.predict.pictures import batches, picture_files

    files = picture_files(paths)
    wanted = {form: target for form in FORMS if (target := targets[form])}
    _check_targets(wanted, files)
    predictor = _open(bundle, engine, precision, um_per_px)
    summary = _Summary()
    with ExitStack() as stack:
        stack.callback(predictor.close)
        outputs: list[Add] = [stack.enter_context(output_file(form, target)) for form, target in wanted.items()]
        update = stack.enter_context(progress("Looking at pictures"))
        for done, pictures in batches(files, measure=um_per_px is None):
            for prediction in predictor.predict(pictures):
                for add in (*outputs, summary.add):
                    add(prediction)
            update(done, len(files))
    summary.show_problems()
    if "-" not in wanted.values():
        summary.show(table=not wanted)
    if not summary.read:
        sys.exit(BloodedgeError.exit_code)


def _check_targets(wanted: dict[str, str], files: list[Path]) -> None:
    """Raise UsageError where an output would take the place of a picture or of another output."""
    page = wanted.get("gallery")
    if page and Path(page).suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--gallery {page} must end in .html, so that no picture is overwritten.")
    names = [target if target == "-" else str(Path(target).resolve()) for target in wanted.values()]
    if len(set(names)) < len(names):
        raise UsageError(f"Two outputs go to {next(name for name in names if names.count(name) > 1)}; name two files.")
    pictures = {str(path.resolve()) for path in files}
    if taken := next((name for name in names if name in pictures), None):
        raise UsageError(f"{taken} is one of the pictures and would be overwritten; choose another file.")


def _open(bundle: Path, engine: "EngineName", precision: "Precision", um_per_px: float | None) -> "Predictor":
    from bloodedge.bundle import Bundle
    from bloodedge.engine import load_artifact
    from bloodedge.machine import default_threads
    from bloodedge_device.kinds import default_kinds
    from bloodedge_device.predict.predictor import Predictor

    with Bundle(bundle) as opened:
        manifest = opened.manifest
        loaded = load_artifact(opened, manifest.artifact(engine, precision), default_threads())
    return Predictor(loaded, manifest, default_kinds(), um_per_px)


class _Summary:
    """What the terminal shows of a run."""

    def __init__(self) -> None:
        self.read = 0
        """Pictures that could be read."""
        self._problems: list[str] = []
        self._rows: list[tuple[str, ...]] = []
        self._kinds: Counter[str] = Counter()
        self._decisions: Counter[str] = Counter()
        self._without = 0

    def add(self, prediction: "Prediction") -> None:
        """Count one picture."""
        if prediction.picture.problem is not None:
            self._problems.append(prediction.picture.problem)
            return
        self.read += 1
        self._without += not prediction.cells
        for cell in prediction.cells:
            self._kinds[_kind(cell)] += 1
            self._decisions[cell.decision] += 1
            if len(self._rows) < SHOWN_ROWS:
                self._rows.append((prediction.picture.name, *_row(cell)))

    def show_problems(self) -> None:
        """Name the pictures that could not be read, on stderr."""
        from bloodedge.redact import redacted

        for problem in self._problems:
            click.echo(f"bloodedge: {redacted(problem)}", err=True)

    def show(self, *, table: bool) -> None:
        """The counts, below the table of cells where it is wanted."""
        from bloodedge.console import console
        from bloodedge.tables import print_table
        from bloodedge.text import as_text

        cells = self._kinds.total()
        if table and self._rows:
            rows = [(as_text(name), *others) for name, *others in self._rows]
            columns = ("picture", "kind", "sure", "decision", "blast", "reason")
            print_table(columns, rows, left={"picture", "kind", "decision", "reason"}, sentences={"picture", "reason"})
            if cells > len(rows):
                console().print(f"The first {len(rows)} of {cells} cells; --csv FILE has them all.")
            console().print()
        pictures = f"{self.read} pictures, {self._without} of them without a cell"
        console().print(f"[bold]{cells}[/] cells in {pictures}.")
        for name, counts in (("Kinds", self._kinds), ("Decisions", self._decisions)):
            if counts:
                console().print(f"{name}: " + ", ".join(f"{n} {word}" for word, n in counts.most_common()))


def _kind(cell: "CellPrediction") -> str:
    return "no kind" if cell.kind is None else cell.kind.kind.words


def _row(cell: "CellPrediction") -> tuple[str, ...]:
    from bloodedge.decision.thresholds import WHY_UNCERTAIN

    kind, blast = cell.kind, cell.blast_probability
    name = _kind(cell) if kind is None or kind.stage is None else f"{kind.stage} {_kind(cell)}"
    sure = "" if kind is None else f"{kind.probability:.2f}"
    reason = "" if cell.reason is None else WHY_UNCERTAIN.get(cell.reason, cell.reason.replace("_", " "))
    return name, sure, cell.decision, "" if blast is None else f"{blast:.2f}", reason
