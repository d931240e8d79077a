"""``bloodedge sweep``."""

from pathlib import Path
from typing import Any

import click

from bloodedge.cli.options import PATH, data_options
from bloodedge.errors import StoppedError


@click.command()
@click.argument("data", metavar="DATA", type=PATH)
@click.option(
    "--space", "space_name", required=True, metavar="NAME|FILE.toml", help="What to try: packaged, or a file."
)
@data_options
@click.option("--out", type=PATH, metavar="FOLDER", help="Sweep folder (default: runs/sweep-NAME).")
@click.option("--resume", is_flag=True, help="Continue an interrupted sweep; failed trials are tried again.")
@click.option(
    "--prune/--no-prune",
    default=True,
    show_default=True,
    help="Stop trials early that fall behind on validation (ASHA).",
)
@click.option(
    "--address",
    metavar="auto|HOST:PORT|ray://HOST:PORT",
    help="Join a Ray cluster, whose machines all see DATA and the sweep folder at the same paths; by default Ray is "
    "started on this machine.",
)
@click.option(
    "--cpus-per-trial",
    "cpus",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of one machine.",
)
@click.option(
    "--gpus-per-trial",
    "gpus",
    type=click.FloatRange(0),
    help="Of one machine; a fraction shares a GPU (default: 1 if there is one).",
)
def sweep(space_name: str, out: Path | None, **options: Any) -> None:
    """Train on DATA with every setting of a space, and rank them by validation AUC.

    Each trial is an ordinary run (see: bloodedge train) in FOLDER/trials. The test part chooses nothing.
    """
    from bloodedge_train.sweep.progress import show_table
    from bloodedge_train.sweep.search import SweepOptions
    from bloodedge_train.sweep.search import sweep as run_sweep
    from bloodedge_train.sweep.space import load_space

    space = load_space(space_name)
    target = out or Path("runs") / f"sweep-{Path(space_name).stem}"
    try:
        table = run_sweep(SweepOptions(space=space, out=target, **options))
    except KeyboardInterrupt as error:
        if not (target / "sweep.json").is_file():
            raise
        raise StoppedError(
            f"Interrupted; finished trials are kept in {target}. Continue by repeating the command with --resume."
        ) from error
    show_table(table, target.name)
    click.echo(f"Sweep folder: {target}")
