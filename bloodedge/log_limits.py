"""Limits on what a log takes: no lines that repeat without end, none without end, none forged by a name."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from bloodedge.text import as_text, shown

LINES, WITHIN_S = 30, 60.0
"""Most lines from one place in the code within so many seconds; the next line tells how many were left out."""

PLACES = 500
"""Places remembered."""

LONGEST = 4000
"""Characters of a message."""


@dataclass
class _Place:
    began_s: float
    lines: int = 0


class LogLimits(logging.Filter):
    """Lets LINES lines a minute of each place in the code through, cut to LONGEST characters."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Clock: monotonic seconds."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._places: OrderedDict[tuple[str, int], _Place] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; it may be cut, or get a note of those that were left out before it."""
        left_out = self._count((record.pathname, record.lineno))
        if left_out is None:
            return False
        record.args = _plain(record.args)
        message = record.getMessage()
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]} [{len(message) - LONGEST:,} more characters]"
        if left_out:
            message += f" [{left_out:,} more such lines were left out]"
        record.msg, record.args = message, None
        return True

    def _count(self, key: tuple[str, int]) -> int | None:
        """How many lines of a place were left out before this one; None for one that is left out."""
        now = self._clock()
        with self._lock:
            place = self._places.get(key)
            left_out = 0
            if place is None or now - place.began_s >= WITHIN_S:
                left_out = 0 if place is None else max(0, place.lines - LINES)
                place = self._places[key] = _Place(now)
                self._places.move_to_end(key)
                while len(self._places) > PLACES:
                    self._places.popitem(last=False)
            place.lines += 1
            return left_out if place.lines <= LINES else None


def _plain(arguments: Any) -> Any:
    """Arguments of a message as one line each, without control characters, which could forge further lines."""
    if isinstance(arguments, dict):
        return {key: _one_line(value) for key, value in arguments.items()}
    return tuple(map(_one_line, arguments)) if isinstance(arguments, tuple) else arguments


def _one_line(value: Any) -> Any:
    if isinstance(value, int | float) or value is None:
        return value
    text = str(value)
    if isinstance(value, Exception):  # its sentences may have lines of their own
        text = " ".join(line.strip() for line in text.splitlines())
    return shown(as_text(text))
