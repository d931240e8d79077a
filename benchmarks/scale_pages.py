"""What a page costs the process that answers it: latency and memory; for ``scale.py`` and ``scale_fleet.py``."""

from pathlib import Path
from statistics import median
from time import perf_counter
from urllib.request import urlopen

from soak import resident_mib


def ask(page: str, path: str, pid: int, times: int) -> dict[str, float]:
    """Median latency of an address over ``times`` requests after a first one, and how far it made the process grow."""
    before_mib = resident_mib(pid)
    forget_peak(pid)
    took_ms, size = [], 0
    for _ in range(times + 1):
        began_s = perf_counter()
        with urlopen(page + path, timeout=600) as reply:  # noqa: S310  # this machine's own page
            size = len(reply.read())
        took_ms.append(1000 * (perf_counter() - began_s))
    return {
        "latency_ms": round(median(took_ms[1:]), 1),
        "most_ms": round(max(took_ms[1:]), 1),
        "first_ms": round(took_ms[0], 1),
        "bytes": size,
        "grew_mib": round(peak_mib(pid) - before_mib, 1),
    }


def forget_peak(pid: int) -> None:
    """Begin to note the process's peak anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The process's largest resident memory since then."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
