"""The machine that the daemon runs on, and the process that it is."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic


def keep_freed_memory() -> None:
    """Have glibc keep freed image buffers: giving each back and faulting it in anew costs milliseconds a frame."""
    trim_threshold, mmap_threshold, largest = -1, -3, 2**28
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, largest)
        libc.mallopt(trim_threshold, largest)


def process_began_s() -> float:
    """When this process began, on the monotonic clock; now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return monotonic() - (clock_gettime(CLOCK_BOOTTIME) - began_s)
    except (OSError, ValueError, IndexError):
        return monotonic()
