"""The machine that a figure was measured on: its name, and the versions of what the figure depends on."""

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path


def hardware_name() -> str:
    """The board's or the processor's name."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of ``packages`` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
