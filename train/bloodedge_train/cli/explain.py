"""``bloodedge explain`` and ``bloodedge shortcuts``: what a network looks at, and which cues would do as well."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.cli.options import PATH, json_option
from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge_train.explain.evidence import Explained
    from bloodedge_train.explain.shortcuts import ShortcutAudit


CLASSES = ("normal", "blast")


@click.command()
@click.argument("run", metavar="RUN", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, metavar="FOLDER", help="For the pictures (default: RUN/explained).")
@click.option("--montage", type=PATH, metavar="FILE.png", help="All the pictures on one sheet.")
@click.option(
    "--class", "label", type=click.Choice(CLASSES), help="Map the evidence for it (default: the likelier class)."
)
@click.option(
    "--layer",
    metavar="NAME",
    help="Map this layer of the features (default: their last); NETWORK/LAYER for networks side by side.",
)
@json_option("findings")
def explain(
    run: Path,
    images: tuple[Path, ...],
    out: Path | None,
    montage: Path | None,
    label: str | None,
    layer: str | None,
    json_target: str | None,
) -> None:
    """Show where in each IMAGE the network of the run folder RUN finds its evidence (Grad-CAM).

    Each IMAGE is one cell cut out onto black, as in C-NMC, or a folder of them. A picture of each shows the cell, the
    evidence on it and over the whole frame, with the shares on the cell and on its border.
    """
    from bloodedge.console import emit, progress, say
    from bloodedge_train.explain.explain import explain as run_explanation

    if montage and montage.suffix.lower() != ".png":
        raise UsageError(f"--montage {montage} must end in .png.")
    target = out or run / "explained"
    chosen = None if label is None else CLASSES.index(label)
    with progress("Explaining cells") as update:
        found = run_explanation(run, images, target, say, update, sheet=montage, layer=layer, label=chosen)
    written = f"Pictures: {target}" + (f", montage: {montage}" if montage else "")
    emit([asdict(each) for each in found], json_target, lambda: _show_explained(found, written))


def _show_explained(found: "list[Explained]", written: str) -> None:
    from bloodedge.tables import print_table

    rows = []
    for each in found:
        shares = ((each.on_cell, each.cell_share), (each.on_border, each.border_share))
        shown = ["-" if share is None else f"{share:.0%} ({even:.0%})" for share, even in shares]
        rows.append((Path(each.image).name, each.said, f"{each.blast:.3f}", each.explained, *shown))
    columns = ("image", "called", "blast", "evidence for", "on the cell (even)", "on its border (even)")
    print_table(columns, rows, left={"image", "called", "evidence for"})
    click.echo(written)


@click.command()
@click.argument("run", metavar="RUN", type=PATH)
@click.argument("data", metavar="DATA", type=PATH)
@click.option("--chart", type=PATH, metavar="FILE.png", help="Default: RUN/figures/shortcuts.png.")
@json_option("audit")
def shortcuts(run: Path, data: Path, chart: Path | None, json_target: str | None) -> None:
    """Audit shortcuts: cues outside the cell's inside that predict the class in DATA, and which of them RUN relies on.

    DATA is the folder that RUN was fitted to. Cell area, brightness, mean colour, silhouette and what surrounds the
    cell are fitted on the training part and scored, beside the network, on people never seen; the network also on
    cells made smaller, larger, grey, blurred, and filled with their mean colour.
    """
    from bloodedge.console import emit, progress
    from bloodedge.evaluation.classifier import open_run
    from bloodedge_train.explain.shortcuts import audit_shortcuts
    from bloodedge_train.explain.shortcuts_chart import draw_chart

    target = chart or run / "figures" / "shortcuts.png"
    if target.suffix.lower() != ".png":
        raise UsageError(f"--chart {target} must end in .png.")
    classifier = open_run(run)
    with progress("Looking for shortcuts") as update:
        audit = audit_shortcuts(classifier, data, update)
    draw_chart(target, audit)
    emit(asdict(audit), json_target, lambda: _show_shortcuts(audit, target))


def _show_shortcuts(audit: "ShortcutAudit", chart: Path) -> None:
    from rich.text import Text

    from bloodedge.console import console
    from bloodedge.tables import figure_cells, print_table

    for part, cells in audit.cells.items():
        people = f"{part} part, {cells} cells of {audit.subjects[part]} people"
        title = Text(f"{people}: what alone predicts the class", "italic")
        if audit.leaky:
            title.append(" (leaky: cells of these people were seen in training)", "bold red")
        cues = [
            (
                cue.cue,
                *figure_cells(cue.auc, cue.auc_ci95),
                *figure_cells(cue.balanced_accuracy, cue.balanced_accuracy_ci95),
            )
            for cue in audit.cues
            if cue.part == part
        ]
        print_table(("cue", "AUC", "95 % interval", "balanced accuracy", "95 % interval"), cues, title=title)
        falls = []
        for row in (a for a in audit.altered if a.part == part):
            auc, fall = figure_cells(row.auc)[0], figure_cells(row.fall.get("auc"), digits=1)[0]
            lost = figure_cells(row.fall["accuracy"], row.fall_ci95.get("accuracy"), digits=1)
            falls.append((row.alteration, f"{row.accuracy:.3f}", auc, *lost, fall, f"{row.flip_rate:.1%}"))
        columns = ("cells", "accuracy", "AUC", "accuracy falls by", "95 % interval", "AUC falls by", "flips")
        print_table(columns, falls, title=f"{people}: the model on altered cells")
    console().print(
        "Intervals are bootstrapped over people; falls are in percentage points. Background: what is seen once the "
        "cell is blacked out; haze: what compression leaves below the level that counts as black. The network sees "
        "neither: imaging blackens all but the cell."
    )
    click.echo(f"Chart: {chart}")
