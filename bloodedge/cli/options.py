"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bloodedge.errors import UsageError

PATH = click.Path(path_type=Path)

allow_unreadable_option = click.option(
    "--allow-unreadable", is_flag=True, help="Continue even if more than a tenth of the pictures cannot be used."
)


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``--sensitivity`` and ``--specificity``; see ``check_goal``."""
    share = click.FloatRange(0, 1, min_open=True, max_open=True)
    what = "on people whom the network was not fitted to"
    for name, cells in (("specificity", "normal cells that are called normal"), ("sensitivity", "blasts called blast")):
        text = f"Choose the thresholds for this share of {cells}, {what}."
        command = click.option(f"--{name}", type=share, metavar="SHARE", help=text)(command)
    return command


def check_goal(sensitivity: float | None, specificity: float | None) -> None:
    """Raise UsageError when both are asked for."""
    if sensitivity is not None and specificity is not None:
        raise UsageError("Thresholds have one goal: give --sensitivity or --specificity, not both.")


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--json``, whose value goes to ``console.emit``."""
    text = f"Write the {what} as JSON to a file, or to stdout for -."
    return click.option("--json", "json_target", metavar="FILE|-", help=text)
