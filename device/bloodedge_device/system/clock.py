"""Whether the wall clock can be trusted: a board without a battery-backed clock starts in the past."""

import ctypes
import time
from collections.abc import Callable

JUMP_S = 2.0
"""Steered clocks drift at most 0.5 ms a second (adjtimex(2)): more than this between two looks was set, not steered."""

_TIME_ERROR = 5
_STA_UNSYNC = 0x40


class _Timex(ctypes.Structure):
    """``struct timex`` of <sys/timex.h>."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "seconds", "microseconds")),
        *((name, ctypes.c_long) for name in ("tick", "ppsfreq", "jitter")),
        ("shift", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("stabil", "jitcnt", "calcnt", "errcnt", "stbcnt")),
        ("tai", ctypes.c_int),
        ("padding", ctypes.c_int * 16),
    )


def clock_synchronised() -> bool | None:
    """Whether the clock is synchronised, by adjtimex(2); None where the system does not report it."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else in_step(state, timex.status)


def in_step(state: int, status: int) -> bool:
    """The same from adjtimex(2)'s return value and status bits."""
    return state != _TIME_ERROR and not status & _STA_UNSYNC


def since_boot_s() -> float:
    """Seconds since the system started, sleep included; this clock cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Notices that the wall clock was set."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = since_boot_s) -> None:
        self._wall, self._steady = wall, steady
        self._offset_s = wall() - steady()
        self.set_by_s = 0.0
        """How far the wall clock was set forward (negative: back) since the start, as far as ``jumped`` noticed."""

    def jumped(self) -> float | None:
        """Seconds that the wall clock was set forward (negative: back) since the last call; None when it was not."""
        before, self._offset_s = self._offset_s, self._wall() - self._steady()
        jump = self._offset_s - before
        if abs(jump) <= JUMP_S:
            return None
        self.set_by_s += jump
        return jump
