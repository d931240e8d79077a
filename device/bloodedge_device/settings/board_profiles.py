"""Profiles of boards: settings that suit each, in firmware_configs/boards."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bloodedge.config import Strict, read_toml, to_toml, validate
from bloodedge.errors import UsageError, did_you_mean
from bloodedge_device.settings import DeviceSettings

_HERE = Path(__file__)
FOLDERS = tuple(root / "firmware_configs" / "boards" for root in (_HERE.parents[1], _HERE.parents[3]))
"""Inside an installation, and in a checkout."""


class Board(Strict):
    """What a board is."""

    title: str
    architecture: Literal["aarch64", "x86_64"]
    """As platform.machine() has it."""
    known_by: tuple[str, ...] = ()
    """Texts in /proc/device-tree/model or the DMI product name; none for a generic one."""
    ram_mb: int = Field(ge=256)
    """Least memory of the models that are sold."""
    memory_max_mb: int = Field(ge=256)
    """For the daemon: MemoryMax of its unit."""


class Profile(Strict):
    """A board and the daemon's settings for it; both must be right for the file to be read."""

    board: Board
    device: DeviceSettings


def names() -> list[str]:
    """The boards there are profiles of."""
    return sorted(path.stem for folder in FOLDERS for path in folder.glob("*.toml"))


def read_profile(name: str) -> Profile:
    """A board's profile; UsageError when there is none of that name."""
    return validate(Profile, _table(name), f"The profile of {name}")


def settings_text(name: str) -> str:
    """A settings file for a board: what its profile says and nothing else."""
    profile, table = read_profile(name), _table(name)["device"]
    head = f"# {profile.board.title}; every other setting: bloodedge device config --reference\n"
    return head + to_toml(table)


def _table(name: str) -> dict[str, Any]:
    for folder in FOLDERS:
        if (path := folder / f"{name}.toml").is_file():
            return read_toml(path)
    raise UsageError(f'There is no board "{name}".{did_you_mean(name, names())} Boards: {", ".join(names())}.')
