"""Which board this is, and where the system files for boards are."""

import platform
import re
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge_device.settings.board_profiles import FOLDERS, names, read_profile

DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}
"""Debian's names of architectures by the kernel's."""

IDENTIFYING = ("proc/device-tree/model", "sys/class/dmi/id/product_name", "proc/cpuinfo")
"""Files that identify a board; boards with one processor have many makers, so the processor's name counts too."""

PI = "Raspberry Pi"
"""Its kernel limits memory only with a boot option, which no generic profile sets."""


def firmware_folder() -> Path:
    """The folder of the system files; UsageError where this installation has none."""
    for boards in FOLDERS:
        if (boards.parent / "root").is_dir():
            return boards.parent
    raise UsageError("This installation has no system files for boards; install bloodedge again.")


def recognise(root: Path = Path("/"), machine: str | None = None) -> str:
    """The name of this board; raises UsageError when no profile fits."""
    kernel = machine or platform.machine()
    text = "\n".join(_text(root / path) for path in IDENTIFYING)
    boards = {name: board for name in names() if (board := read_profile(name).board).architecture == kernel}
    for name, board in boards.items():
        if any(re.search(rf"\b{re.escape(part)}\b", text) for part in board.known_by):
            return name
    if PI in text:
        ours = ", ".join(name for name in boards if name.startswith("raspberry-pi"))
        raise UsageError(f"There is no profile for this {PI}; give the most similar one with --board: {ours}.")
    for name, board in boards.items():
        if not board.known_by:
            return name
    raise UsageError(f"No board profile fits a {kernel} processor; bloodedge runs on 64-bit Arm and x86.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
