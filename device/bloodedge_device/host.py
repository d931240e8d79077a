"""The machine that the daemon runs on, and the process that it is."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic


def keep_freed_memory() -> None:
    """Have glibc keep freed image buffers: giving each back and faulting it in anew costs milliseconds a frame.

    And keep them in few places, so that what one thread freed is there for the others (mallopt(3)).
    """
    trim_threshold, mmap_threshold, arenas, largest = -1, -3, -8, 2**28
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, largest)
        libc.mallopt(trim_threshold, largest)
        libc.mallopt(arenas, 2)


def give_freed_memory_back() -> None:
    """Have glibc give the system what lies unused between what is used (malloc_trim(3)): over days that adds up."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def process_began_s() -> float:
    """When this process began, on the monotonic clock; now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return monotonic() - (clock_gettime(CLOCK_BOOTTIME) - began_s)
    except (OSError, ValueError, IndexError):
        return monotonic()
