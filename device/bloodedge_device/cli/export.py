"""``bloodedge device export``: stored cells as a data set."""

from pathlib import Path

import click

from bloodedge_device.cli.options import state_option


@click.command("export")
@click.argument("target", metavar="CELLS", type=click.Path(path_type=Path))
@click.option("--reviewed", is_flag=True, help="Only cells that somebody reviewed.")
@click.option("--slides", metavar="A,B", default="", help="Only these slides: ids or labels (default: all).")
@click.option("--since", metavar="DATE", default="", help="Only cells captured from then on, such as 2026-11-30.")
@click.option("--coco", is_flag=True, help="Write COCO's coco.json too.")
@click.option("--yolo", is_flag=True, help="Write labels for Ultralytics YOLO too.")
@state_option
def export_command(
    target: Path, reviewed: bool, slides: str, since: str, coco: bool, yolo: bool, state: Path | None
) -> None:
    """Write stored cells as a data set that train reads.

    CELLS is a new folder: each cell's own pixels and mask in folders by class and kind, as reviewers said, and
    cells.csv with its slide, frame, scale, light and stain, and what the device had said. The daemon may run meanwhile.
    Nothing in it names a patient.
    """
    from bloodedge.console import progress
    from bloodedge.errors import quoted
    from bloodedge_device.export.select import Wanted, select
    from bloodedge_device.export.write import check_free, write_export
    from bloodedge_device.settings import default_state

    check_free(target)
    selection = select(state or default_state(), Wanted.of(reviewed=reviewed, slides=slides, since=since))
    with progress("Exporting cells") as update:
        exported = write_export(selection, target, coco=coco, yolo=yolo, progress=update)
    click.echo(f"{target}: {exported.sentences[0]}")
    click.echo("\n".join(exported.sentences[1:]))
    csv = quoted(target / "cells.csv")
    click.echo(f"Each slide counts as one person; where two slides are of one, give both the same subject in {csv}.")
