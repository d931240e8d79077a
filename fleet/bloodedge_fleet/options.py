"""What the fleet's commands take, checked before anything starts."""

import math
from typing import Any

import click

from bloodedge.errors import UsageError
from bloodedge.text import is_one_line

LONGEST_S = 30 * 24 * 3600.0
"""Of every span in seconds: 30 days."""

LONGEST_DAYS = 36_500.0
"""A hundred years, for whoever wants to keep everything."""

MOST_FAILED = 1_000_000
"""More than any roll-out has boards: such a one is never halted by failures."""


class Number(click.FloatRange):
    """A number within limits. Click's own takes "nan", which is within any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; click's own error where it is none of the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def require_words(**words: str | None) -> None:
    """UsageError when what is sent to the broker as text is none."""
    for option, word in words.items():
        if word is not None and not is_one_line(word):
            raise UsageError(f"--{option} has controls, or marks that turn the direction of writing; leave them out.")
