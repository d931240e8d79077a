"""Which board this is, and where the system files for boards lie."""

import platform
import re
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge_device.settings.board_profiles import names, read_profile

FOLDERS = (Path(__file__).parents[1] / "firmware_configs", Path(__file__).parents[3] / "firmware_configs")
"""Where system files lie: in an installed package, and in a checkout."""

DEBIAN = {"aarch64": "arm64", "x86_64": "amd64"}
"""The kernel's names of architectures, and Debian's."""

SAYS_ITSELF = ("proc/device-tree/model", "sys/class/dmi/id/product_name", "proc/cpuinfo")
"""Boards of one processor bear any maker's name: the processor's counts as well."""

PI = "Raspberry Pi"
"""Its kernel has to be told to limit memory, which no generic profile does."""


def firmware_folder() -> Path:
    """Where the system files lie; raises UsageError where this installation has none."""
    for folder in FOLDERS:
        if (folder / "root").is_dir():
            return folder
    raise UsageError("This installation holds no system files for boards; install bloodedge anew.")


def recognise(root: Path = Path("/"), machine: str | None = None) -> str:
    """The name of the board that runs the live root; raises UsageError when none fits."""
    kernel = machine or platform.machine()
    said = "\n".join(_text(root / path) for path in SAYS_ITSELF)
    boards = {name: board for name in names() if (board := read_profile(name).board).architecture == kernel}
    for name, board in boards.items():
        if any(re.search(rf"\b{re.escape(text)}\b", said) for text in board.known_by):
            return name
    if PI in said:
        ours = ", ".join(name for name in boards if name.startswith("raspberry-pi"))
        raise UsageError(f"There is no profile of this {PI}; name the one most like it with --board: {ours}.")
    for name, board in boards.items():
        if not board.known_by:
            return name
    raise UsageError(f"No board profile fits a {kernel} processor; bloodedge runs on 64-bit Arm and x86.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
