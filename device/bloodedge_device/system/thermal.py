"""Whether heat or a weak power supply slows the CPU, and how the daemon cools it.

The CPU's temperature is ``bloodedge.machine.cpu_temperature_c``.
"""

import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

PI_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
X86_COUNTS = "devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"

PI_BITS = {
    0: "the supply voltage is too low",
    1: "the CPU's frequency is capped",
    2: "the CPU is throttled",
    3: "the CPU is at its soft temperature limit",
}
"""Raspberry Pi documentation, vcgencmd get_throttled; 16 bits further up: it happened since the start."""


COOLED_BY_C = 5.0
"""The CPU must cool so far below a limit before the pace changes back."""


class Pace(IntEnum):
    """How fast the daemon works."""

    FULL = 0
    SLOW = 1
    """It rests after each frame for as long as the frame took."""
    STOPPED = 2
    """It processes no frame."""


def pace_at(temperature_c: float | None, slow_at_c: float | None, stop_at_c: float | None, before: Pace) -> Pace:
    """The pace for a temperature in °C, after the pace ``before``; FULL where there is no limit or no sensor."""
    if temperature_c is None:
        return Pace.FULL
    for limit_c, pace in ((stop_at_c, Pace.STOPPED), (slow_at_c, Pace.SLOW)):
        if limit_c is None:
            continue
        if temperature_c >= limit_c or (before >= pace and temperature_c > limit_c - COOLED_BY_C):
            return pace
    return Pace.FULL


@dataclass(frozen=True)
class Throttling:
    """What slows the CPU."""

    now: tuple[str, ...]
    """Clauses without a full stop."""
    since_start: tuple[str, ...]
    """What slowed it since the system's start; on x86 it may still."""


def read_throttling(sys: Path = Path("/sys"), vcgencmd: str = "vcgencmd") -> Throttling | None:
    """What a Raspberry Pi's firmware or an x86 CPU reports; None on other machines."""
    bits = _pi_bits(sys, vcgencmd)
    return _x86(sys) if bits is None else decode_pi(bits)


def decode_pi(bits: int) -> Throttling:
    """The meaning of a Raspberry Pi's get_throttled bits."""
    now = tuple(text for bit, text in PI_BITS.items() if bits >> bit & 1)
    past = tuple(text for bit, text in PI_BITS.items() if bits >> (bit + 16) & 1 and not bits >> bit & 1)
    return Throttling(now, past)


def _pi_bits(sys: Path, vcgencmd: str) -> int | None:
    try:
        return int((sys / PI_FIRMWARE).read_text(), 16)
    except (OSError, ValueError):
        pass
    try:
        answer = subprocess.run([vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=2, check=True)
        return int(answer.stdout.partition("=")[2], 16)  # throttled=0x50005
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _x86(sys: Path) -> Throttling | None:
    counts = [int(path.read_text()) for path in sys.glob(X86_COUNTS)]
    if not counts:
        return None
    most = max(counts)
    return Throttling((), (f"a core was slowed {most} times because it was hot",) if most else ())
