"""Values of the fleet's options, checked before anything starts."""

import math
from typing import Any

import click

from bloodedge.errors import UsageError
from bloodedge.text import is_one_line

MAX_SPAN_S = 30 * 24 * 3600.0
"""Longest span in seconds: 30 days."""

MAX_DAYS = 36_500.0
"""A hundred years, to keep everything."""

MAX_FAILED = 1_000_000
"""More boards than any roll-out has: failures never halt it."""


class Number(click.FloatRange):
    """A number within limits; click's own type takes "nan"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; click's own error where it is outside the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def require_words(**words: str | None) -> None:
    """UsageError when a text for the broker holds characters that are not text."""
    for option, word in words.items():
        if word is not None and not is_one_line(word):
            raise UsageError(
                f"--{option} holds control characters, or marks that turn the direction of writing; omit them."
            )
