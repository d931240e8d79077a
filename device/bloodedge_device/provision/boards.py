"""Board profiles: what is known of a board, and the daemon's settings for it."""

import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError, did_you_mean
from bloodedge_device.settings import DeviceSettings

FOLDERS = (Path(__file__).parents[1] / "firmware_configs", Path(__file__).parents[3] / "firmware_configs")
"""Where boards and system files lie: in an installed package, and in a checkout."""

MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
"""Debian's names of architectures, and the kernel's."""


class Thermal(Strict):
    """Temperatures in degrees Celsius at which frames are slowed, and at which they stop."""

    slow_at_c: float
    stop_at_c: float
    source: str


class Board(Strict):
    """What is known of a board."""

    title: str
    architecture: Literal["arm64", "amd64"]
    recognised_from: Literal["device-tree", "cpu", "architecture", "chosen"]
    recognised_by: tuple[str, ...]
    ram_mb: int = Field(ge=256)
    memory_high_mb: int = Field(ge=128)
    memory_max_mb: int = Field(ge=128)
    latency: str
    boot: tuple[str, ...]
    thermal: Thermal


class Profile(Strict):
    """A file of ``firmware_configs/boards``."""

    board: Board
    device: dict[str, Any]
    """Settings as they stand in the daemon's settings file."""


def firmware_folder() -> Path:
    """Where the boards and system files lie; raises UsageError where this installation has none."""
    for folder in FOLDERS:
        if (folder / "boards").is_dir():
            return folder
    raise UsageError("This installation holds no board profiles; install bloodedge anew.")


def board_names() -> list[str]:
    """Every board's name."""
    return sorted(path.stem for path in (firmware_folder() / "boards").glob("*.toml"))


def read_board(name: str) -> Profile:
    """The profile of that name, its settings checked by the daemon's own schema; raises UsageError."""
    names = board_names()
    if name not in names:
        raise UsageError(
            f'There is no board "{name}";{did_you_mean(name, names)} choose one of: {", ".join(names)}, or auto.'
        )
    path = firmware_folder() / "boards" / f"{name}.toml"
    profile = validate(Profile, read_toml(path), path.name)
    validate(DeviceSettings, profile.device, path.name)
    return profile


def recognise(root: Path = Path("/"), machine: str | None = None) -> str:
    """The name of the board that runs the live root; raises UsageError when none fits."""
    kernel = machine or platform.machine()
    texts = {
        "device-tree": _text(root / "proc/device-tree/model"),
        "cpu": _text(root / "proc/cpuinfo"),
        "architecture": kernel,
    }
    boards = {name: read_board(name).board for name in board_names()}
    for source, text in texts.items():
        words = set(text.replace("\0", " ").split()) if source == "cpu" else set()
        for name, board in boards.items():
            if board.recognised_from != source or MACHINES[board.architecture] != kernel:
                continue
            if any(word in words if source == "cpu" else text.startswith(word) for word in board.recognised_by):
                return name
    raise UsageError(f"No board profile fits a {kernel} processor; 64-bit Arm and x86 are what bloodedge runs on.")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
