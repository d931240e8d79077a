"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bloodedge_device.kinds import KindsOf

BOARD_HELP = "a board's /etc/bloodedge/device.toml"

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"Settings (TOML; default, unless --state is given: {BOARD_HELP}).",
)
state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=f"Folder of the results (default: the settings', also of {BOARD_HELP}, else ~/.local/state/bloodedge).",
)


def released_kinds() -> "KindsOf | None":
    """The kind network that came with the installation; None where there is none."""
    from bloodedge_device.kinds import default_kinds

    try:
        return default_kinds()
    except FileNotFoundError:
        return None
