"""The machine that a figure was measured on: its name, and the versions of what the figure depends on."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

INT8_FLAGS = (
    *("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "svei8mm"),
)
"""Instruction sets that int8 kernels are chosen by, as Linux names them: x86's, then ARM's."""

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""An earlier time than this comes from a clock that was never set."""

CPU_SENSORS = re.compile("cpu|x86_pkg_temp|coretemp|k10temp|zenpower|^soc", re.IGNORECASE)
"""How kernels name the processor's own sensor, among those of disks, batteries and radios."""


def hardware_name() -> str:
    """The board's or the processor's name."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of INT8_FLAGS that this processor has; empty if unknown."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    has = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [flag for flag in INT8_FLAGS if flag in has]


def cpu_temperature_c(sensors: Path = Path("/sys/class")) -> float | None:
    """The processor's temperature in °C, the highest of its sensors; None if it has none."""
    files = [(zone / "type", zone / "temp") for zone in sensors.glob("thermal/thermal_zone*")]
    files += [(reading.parent / "name", reading) for reading in sensors.glob("hwmon/hwmon*/temp*_input")]
    found = []
    for name, reading in files:
        try:
            if CPU_SENSORS.search(name.read_text()):
                found.append(int(reading.read_text()) / 1000)
        except (OSError, ValueError):  # a sensor that is switched off, or a zone without a name
            continue
    return max(found, default=None)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of ``packages`` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def default_threads() -> int:
    """Threads for an engine: all cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
