"""``bloodedge compare``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.cli.options import PATH, json_option
from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge_train.compare.comparison import Comparison
    from bloodedge_train.compare.tables import Cell, Table


@click.command()
@click.argument("paths", metavar="RUN|BUNDLE...", nargs=-1, type=PATH)
@click.option(
    "--out",
    type=PATH,
    metavar="FOLDER",
    help="Write compare.md, compare.html, compare.json and the charts as PNG.",
)
@json_option("comparison")
@click.option(
    "--part",
    type=click.Choice(["test", "shift", "validation"]),
    default="test",
    show_default=True,
    help="Which part's figures. A bundle without its run has those of the test part only; a run of --all-people shows "
    "its folds for it.",
)
@click.option(
    "--paper",
    type=PATH,
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
    from bloodedge.console import emit, progress
    from bloodedge_train.compare.comparison import compare as run_comparison

    with progress("Reading runs and timing networks"):
        comparison = run_comparison(paths, part=part, paper=paper)  # type: ignore[arg-type]
    if out:
        from bloodedge_train.compare.pages import write

        write(comparison, out)
    emit(comparison.model_dump(), json_target, lambda: _show(comparison, out))


def _show(comparison: "Comparison", out_folder: Path | None) -> None:
    from rich.markup import escape

    from bloodedge.console import console
    from bloodedge_train.compare.tables import all_tables

    out = console()
    for warning in comparison.warnings:
        out.print(f"[bold yellow]Mind:[/] {escape(warning)}")
    for table in all_tables(comparison.rows):
        _print(table)
    out.print(f"\n[dim]{escape(comparison.paper_note)}[/]")
    if out_folder:
        click.echo(f"Written: {out_folder / 'compare.html'}, compare.md, compare.json and the charts beside them.")


def _print(table: "Table") -> None:
    """A table of the comparison; lines below a figure are dim."""
    from rich.text import Text

    from bloodedge.console import console
    from bloodedge.tables import print_table

    def cell(parts: "Cell") -> Text:
        return Text("\n").join([Text(parts.main), *(Text(note, "dim") for note in parts.notes if note)])

    columns, rows, measured = table.columns, table.rows, ""
    if columns[-1] == "measured" and len({row[-1] for row in rows}) == 1:  # in the note it leaves room for figures
        measured = f"Measured {', '.join([rows[0][-1].main, *rows[0][-1].notes])}."
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    shown = [[cell(parts) for parts in row] for row in rows]
    print_table(columns, shown, title=table.title, spaced=bool(rows[0][0].notes))
    console().print(Text(f"{table.note} {measured}".rstrip(), "dim"))
