"""``bloodedge report``: the page that a conversion wrote into its bundle."""

import tempfile
import webbrowser
from pathlib import Path

import click

from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge.files import write_bytes


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write the page to a file; default: open it in the browser.",
)
def report(bundle: Path, out: Path | None) -> None:
    """Open the conversion report of BUNDLE: the network, its figures, and what int8 cost.

    For the report of a slide see: bloodedge device report.
    """
    from bloodedge.bundle import REPORT, Bundle

    if (bundle / "device.sqlite").is_file():
        raise UsageError(
            f"{bundle} holds a board's results; their report is: bloodedge device report --state {quoted(bundle)}"
        )
    with Bundle(bundle) as opened:
        if REPORT not in opened.manifest.files:
            raise BloodedgeError(f"{bundle} has no report (an older version made it); convert its run again.")
        page = opened.read(REPORT)
    if out is not None:
        write_bytes(out, page)
        click.echo(f"Report: {out}")
        return
    target = Path(tempfile.mkdtemp(prefix="bloodedge-report-")) / f"{bundle.stem}.html"
    write_bytes(target, page)
    if not webbrowser.open(target.as_uri()):
        raise BloodedgeError(f"No browser could be opened here; the report is {target}, or give a file with --out.")
    click.echo(f"Report: {target}")
