"""``bloodedge finetune``: a bundle's head is fitted to a bench's reviewed cells."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bloodedge.cli.options import PATH, data_options
from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge_convert.finetuning.run import Finetuned

FORGETTING = 2.0


@click.command()
@click.argument("data", metavar="CELLS", type=PATH)
@click.option(
    "--from", "source", metavar="BUNDLE|RUN", required=True, type=PATH, help="The bundle, or run folder, to begin with."
)
@click.option("-o", "--out", metavar="NAME.bundle", required=True, type=PATH, help="The bundle to write.")
@click.option("--key", metavar="FILE", type=PATH, help="Sign the bundle with this private key (bloodedge keys new).")
@click.option("--password-file", metavar="FILE", type=PATH, help="The key's password, in its first line.")
@click.option(
    "--accept-forgetting",
    "forgetting",
    metavar="POINTS",
    type=click.FloatRange(0, 100),
    default=FORGETTING,
    show_default=True,
    help="Points of AUC or balanced accuracy that the model may lose on the release's own people.",
)
@click.option("--force", is_flag=True, help="Replace NAME.bundle if it exists.")
@data_options
def finetune(
    data: Path,
    source: Path,
    out: Path,
    key: Path | None,
    password_file: Path | None,
    forgetting: float,
    force: bool,
    layout: Any,
) -> None:
    """Fit the head of a bundle to the reviewed cells in CELLS, and write another if it is better there.

    CELLS is a folder as bloodedge device export writes it, or any other that train reads; a run folder is converted
    first. The new model is judged on
    slides that it was not fitted to, and on the release's own people; its page, which bloodedge report opens, shows
    both and the cells that changed.
    """
    from bloodedge.cli.keys import key_in_use
    from bloodedge.console import steps
    from bloodedge_convert.finetuning.run import finetune as run

    if out.exists() and not (force and out.is_file()):
        raise UsageError(f"{out} exists; choose another name, or replace a bundle with --force.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.absolute().parent} is not a folder; make it, or write the bundle elsewhere.")
    private = key_in_use(key, password_file) if key else None
    with steps() as report:
        made = run(data, source, out, layout, key=private, most_forgotten=forgetting, report=report)
    show(made, signed=private is not None)


def show(made: "Finetuned", *, signed: bool) -> None:
    """Before and after as terminal tables."""
    from bloodedge.console import console, plain
    from bloodedge.tables import print_table
    from bloodedge.text import as_text
    from bloodedge_convert.finetuning.page import table

    judged, out = made.judged, console()
    columns = ("figure [95 %]", "before", "after")
    held = "" if judged.after.subjects == judged.after.cells else f" of its {judged.after.subjects} slides"
    here = f"{judged.after.cells} cells of this bench, each{held} held back once"
    there = f"{judged.release_after.cells} cells of the release, each of its people held back once"
    print_table(columns, table(judged.before, judged.after), title=here)
    print_table(columns, table(judged.release_before, judged.release_after), title=there)
    out.print()
    for note in made.notes:
        out.print(plain(note), style="bold", soft_wrap=True)
    name = as_text(made.path)
    state = "signed" if signed else "not signed; sign it with: bloodedge sign"
    out.print(plain(f"Bundle: {name} (serial {made.manifest.serial}, {state})"), style="bold", soft_wrap=True)
    out.print(plain(f"What changed: bloodedge report {name}"), soft_wrap=True)
