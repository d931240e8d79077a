"""The machine that the daemon runs on, and the process that it is."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

from bloodedge.errors import UsageError


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


def keep_to_cores(cores: Sequence[int]) -> None:
    """Bind this process, with the threads that it has and will have, to processor cores; none: leave it as it is.

    Raises UsageError for a core that this process may not use.
    """
    if not cores:
        return
    there = os.sched_getaffinity(0)
    if missing := sorted(set(cores) - there):
        known = ", ".join(map(str, sorted(there)))
        raise UsageError(f"cores: there is no core {missing[0]} for this process (there are: {known}); correct it.")
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)


def use_every_core() -> None:
    """Take back what a parent process was bound to (its kernel still keeps it to those of its cgroup)."""
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def process_began_s() -> float:
    """When this process began, on the monotonic clock; now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return monotonic() - (clock_gettime(CLOCK_BOOTTIME) - began_s)
    except (OSError, ValueError, IndexError):
        return monotonic()
