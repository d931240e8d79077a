"""Options that several commands share."""

from pathlib import Path

import click

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
