"""``bloodedge rates``: how often a bundle errs and refuses, measured again."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.cli.options import PATH, check_goal, data_options, goal_options
from bloodedge.errors import UsageError

if TYPE_CHECKING:
    from bloodedge.bundle.data_layout import DataLayout


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("data", type=PATH)
@click.option("-o", "--out", metavar="NAME.bundle", required=True, type=PATH, help="The copy to write.")
@data_options
@click.option("--leave-out", metavar="SUBJECT", multiple=True, help="Leave out this subject. Repeatable.")
@goal_options
@click.option("--threads", type=click.IntRange(1, 256), help="Threads of the engines (default: all cores).")
@click.option("--force", is_flag=True, help="Replace NAME.bundle if it exists.")
def rates(
    bundle: Path,
    data: Path,
    out: Path,
    layout: "DataLayout",
    leave_out: tuple[str, ...],
    sensitivity: float | None,
    specificity: float | None,
    threads: int | None,
    *,
    force: bool,
) -> None:
    """Measure how often BUNDLE errs and refuses on people in DATA whom it has not seen.

    A slide's share of blasts is corrected by these rates: measure them on people of your own laboratory. The copy
    holds the same networks and is not signed. With --sensitivity or --specificity it calls cells by thresholds that
    reach it on these people.
    """
    from bloodedge.console import progress
    from bloodedge.evaluation.rates import measure_rates
    from bloodedge.machine import default_threads

    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file, such as {out.stem}.bundle.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; choose another name, or replace it with --force.")
    check_goal(sensitivity, specificity)
    subjects = {subject.upper() for subject in leave_out}
    with progress("Reading cells") as update:
        manifest = measure_rates(
            bundle,
            data,
            out,
            threads or default_threads(),
            layout=layout,
            leave_out=subjects,
            sensitivity=sensitivity,
            specificity=specificity,
            progress=update,
        )
    if sensitivity is not None or specificity is not None:
        assert manifest.operating_point is not None
        click.echo(f"Thresholds: {manifest.thresholds.describe()}. {manifest.operating_point.describe()}")
    for artifact in manifest.artifacts:
        click.echo(f"{artifact.engine} {artifact.precision}:")
        assert artifact.rates is not None
        for true, people in (("blasts", artifact.rates.blast), ("normal cells", artifact.rates.normal)):
            blast, normal, refused = (sum(getattr(one, key) for one in people.values()) for key in
                                      ("blast", "normal", "refused"))  # fmt: skip
            click.echo(
                f"  {true} of {len(people)} people: {blast} called blast, {normal} called normal, {refused} refused"
            )
    if (scores := manifest.people_scores) is not None:
        click.echo(
            f"slides of {len(scores.patients)} patients and {len(scores.healthy)} healthy people, each left out:"
        )
        for calls in scores.calls:
            click.echo(
                f"  {calls.cells} cells: {100 * calls.right:.0f} % called right, {100 * calls.wrong:.0f} % wrong,"
                f" {100 * calls.not_called:.0f} % not called"
            )
    click.echo(f"Bundle: {out} (serial {manifest.serial})")
