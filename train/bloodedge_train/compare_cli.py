"""``bloodedge compare``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from bloodedge_train.compare import Comparison
    from bloodedge_train.compare.tables import Table


@click.command()
@click.argument("paths", metavar="RUN|BUNDLE...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write compare.md, compare.html, compare.json and the charts as PNG.",
)
@click.option(
    "--json", "json_target", metavar="FILE|-", help="Write the comparison as JSON to a file, or to stdout for -."
)
@click.option(
    "--part",
    type=click.Choice(["test", "shift", "validation"]),
    default="test",
    show_default=True,
    help="Which part's figures. A bundle without its run has those of the test part only.",
)
@click.option(
    "--paper",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="The paper's figures, where the packaged file lacks them (begin with a copy of it).",
)
def compare(paths: tuple[Path, ...], out: Path | None, json_target: str | None, part: str, paper: Path | None) -> None:
    """Compare networks with each other and with the paper: figures, subjects, cost, latency.

    Each RUN is a finished run folder; the folds of one cross-validation become one row. A BUNDLE adds its converted
    networks to its run's row, or stands alone; their latencies are measured here, in turns.
    """
    if not paths:
        raise UsageError("Name the run folders and bundles to compare, for instance: bloodedge compare runs/*")
    from bloodedge.console import emit_json, progress
    from bloodedge_train.compare import compare as run_comparison

    with progress("Reading runs and timing networks"):
        comparison = run_comparison(paths, part=part, paper=paper)  # type: ignore[arg-type]
    if out:
        from bloodedge_train.compare.pages import write

        write(comparison, out)
    if json_target:
        emit_json(comparison.model_dump(), json_target)
    if json_target != "-":
        show(comparison)
        if out:
            click.echo(f"Written: {out / 'compare.html'}, compare.md, compare.json and the charts beside them.")


def show(comparison: "Comparison") -> None:
    """Print the comparison."""
    from rich.markup import escape

    from bloodedge.console import console
    from bloodedge_train.compare.tables import all_tables

    out = console()
    for warning in comparison.warnings:
        out.print(f"[bold yellow]Mind:[/] {escape(warning)}")
    for table in all_tables(comparison.rows):
        out.print(_laid_out(table))
        out.print(f"[dim]{escape(table.note)}[/]\n")
    out.print(f"[dim]{escape(comparison.paper_note)}[/]")


def _laid_out(table: "Table") -> "RichTable":
    from rich.markup import escape
    from rich.table import Table as RichTable

    laid = RichTable(title=table.title, title_justify="left", show_lines=bool(table.rows[0][0].notes))
    for number, column in enumerate(table.columns):
        laid.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        laid.add_row(*("\n".join([escape(c.main), *(f"[dim]{escape(n)}[/]" for n in c.notes if n)]) for c in row))
    return laid
