"""Settings for each supported board, from firmware_configs/boards."""

from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError, did_you_mean
from bloodedge_device.settings.model import DeviceSettings

_HERE = Path(__file__)
FOLDERS = tuple(root / "firmware_configs" / "boards" for root in (_HERE.parents[1], _HERE.parents[3]))
"""Inside an installation, and in a checkout."""


class Board(Strict):
    """A board's hardware."""

    title: str
    architecture: Literal["aarch64", "x86_64"]
    """As platform.machine() gives it."""
    known_by: tuple[str, ...] = ()
    """Parts of /proc/device-tree/model or the DMI product name that identify it; empty for a generic board."""
    ram_mb: int = Field(ge=256)
    """Memory of the smallest model that is sold, MB."""
    memory_max_mb: int = Field(ge=256)
    """MemoryMax of the daemon's unit, MB."""


class Profile(Strict):
    """A board and the daemon's settings for it."""

    board: Board
    device: DeviceSettings


def names() -> list[str]:
    """Names of the supported boards."""
    return sorted(path.stem for folder in FOLDERS for path in folder.glob("*.toml"))


def read_profile(name: str) -> Profile:
    """A board's profile; UsageError for an unknown name."""
    return validate(Profile, _table(name), f"The profile of {name}")


def settings_text(name: str) -> str:
    """A board's settings file: its profile's settings only."""
    profile, table = read_profile(name), _table(name)["device"]
    head = f"# {profile.board.title}; every other setting: bloodedge device config --reference\n"
    return head + tomli_w.dumps(table)


def _table(name: str) -> dict[str, Any]:
    for folder in FOLDERS:
        if (path := folder / f"{name}.toml").is_file():
            return read_toml(path)
    raise UsageError(f'There is no board "{name}".{did_you_mean(name, names())} Boards: {", ".join(names())}.')
