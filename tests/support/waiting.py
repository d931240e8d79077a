"""Waiting for what another thread or process does."""

from collections.abc import Callable
from time import monotonic, sleep


def until(condition: Callable[[], object], within_s: float = 15.0) -> bool:
    """Whether a condition came true in time."""
    give_up_s = monotonic() + within_s
    while not condition():
        if monotonic() > give_up_s:
            return False
        sleep(0.02)
    return True
