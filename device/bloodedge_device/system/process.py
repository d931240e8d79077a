"""The daemon's process: memory, processor cores, start time."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

from bloodedge.errors import UsageError


def keep_freed_memory() -> None:
    """Make glibc keep freed image buffers: returning and faulting them in again costs milliseconds a frame.

    They are kept in few arenas, so that other threads can use them too (mallopt(3)).
    """
    trim_threshold, mmap_threshold, arenas, largest = -1, -3, -8, 2**28
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, largest)
        libc.mallopt(trim_threshold, largest)
        libc.mallopt(arenas, 2)


def give_freed_memory_back() -> None:
    """Make glibc return unused memory to the system (malloc_trim(3)): fragments add up over days."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def private_files() -> Iterator[None]:
    """Files and folders that are made inside are this user's alone, as systemd's UMask=0077 has it."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def keep_to_cores(cores: Sequence[int]) -> None:
    """Bind this process with all its threads to processor cores; empty: no change.

    Raises UsageError for a core that this process may not use.
    """
    if not cores:
        return
    available = os.sched_getaffinity(0)
    if missing := sorted(set(cores) - available):
        names = ", ".join(map(str, sorted(available)))
        raise UsageError(f"cores: this process has no core {missing[0]}; choose from {names}.")
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)


def use_every_core() -> None:
    """Undo the binding that a parent process left; the kernel still applies the cgroup's."""
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def process_began_s() -> float:
    """Monotonic time of this process' start; now, where the system does not report it."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return monotonic() - (clock_gettime(CLOCK_BOOTTIME) - began_s)
    except (OSError, ValueError, IndexError):
        return monotonic()
