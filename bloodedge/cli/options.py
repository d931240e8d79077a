"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

allow_unreadable_option = click.option(
    "--allow-unreadable", is_flag=True, help="Continue even if more than a tenth of the pictures cannot be used."
)


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--json``, whose value goes to ``console.emit``."""
    text = f"Write the {what} as JSON to a file, or to stdout for -."
    return click.option("--json", "json_target", metavar="FILE|-", help=text)
