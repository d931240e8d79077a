"""A board's part of a root file system: files, links, a block of config.txt and words of cmdline.txt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bloodedge.errors import UsageError
from bloodedge_device.provision.boards import firmware_folder
from bloodedge_device.settings.board_profiles import read_profile, settings_text

UNITS = Path("etc/systemd/system")

RPI_SWAP, DPHYS_SWAPFILE = "etc/rpi/swap.conf", "etc/dphys-swapfile"
"""Raspberry Pi OS's settings of swap: since trixie, and before."""

ENABLED = {
    "bloodedge-device.service": "multi-user.target",
    "bloodedge-first-boot.service": "multi-user.target",
    "bloodedge-backup.timer": "timers.target",
    "bloodedge-doctor.timer": "timers.target",
    "bloodedge-retention.timer": "timers.target",
    "var-lib-bloodedge.mount": "local-fs.target",
}
"""Units that start at boot, with their targets, as in their [Install] sections."""


@dataclass(frozen=True)
class Piece:
    """One path's content."""

    kind: Literal["file", "link", "block", "words"]
    text: str
    """The file's text, the link's target, the block's lines (for every model of board: [all]) or the words."""


def board_files(board: str, root: Path, read_only: bool) -> dict[str, Piece]:
    """Pieces by their path relative to the root."""
    source = firmware_folder()
    pieces = _files(source / "root")
    if read_only:
        pieces |= _files(source / "read-only-root")
    pieces |= _swap(source / "swap", root)
    pieces["etc/bloodedge/device.toml"] = Piece("file", _settings(board))
    pieces[f"{UNITS}/bloodedge-device.service.d/50-board.conf"] = Piece("file", _memory(board))
    for unit, target in ENABLED.items():
        if f"{UNITS}/{unit}" in pieces:
            pieces[f"{UNITS}/{target}.wants/{unit}"] = Piece("link", f"/{UNITS}/{unit}")
    if board.startswith("raspberry-pi"):
        folder = boot_folder(root)
        words = _words((source / "boot/pi.cmdline.txt").read_text(encoding="utf-8"))
        pieces[f"{folder}/config.txt"] = Piece(
            "block", f"[all]\n{(source / 'boot/pi.config.txt').read_text(encoding='utf-8')}"
        )
        pieces[f"{folder}/cmdline.txt"] = Piece("words", " ".join(words))
    return pieces


def boot_folder(root: Path) -> str:
    """The folder of the firmware's settings below the root; UsageError where it is missing."""
    for folder in ("boot/firmware", "boot"):
        if (root / folder / "config.txt").is_file() and (root / folder / "cmdline.txt").is_file():
            return folder
    raise UsageError(f"{root} has no boot partition with config.txt and cmdline.txt; mount it at boot/firmware.")


def _files(folder: Path) -> dict[str, Piece]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): Piece("file", path.read_text(encoding="utf-8")) for path in paths}


def _swap(source: Path, root: Path) -> dict[str, Piece]:
    """Compressed swap in memory, by the means that the system has, and no swap on the card."""
    pieces = _files(source / ("rpi-swap" if (root / RPI_SWAP).exists() else "zram"))
    if (root / DPHYS_SWAPFILE).exists():
        pieces[str(UNITS / "dphys-swapfile.service")] = Piece("link", "/dev/null")
    return pieces


def _words(text: str) -> list[str]:
    return [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]


def _settings(board: str) -> str:
    head, _, settings = settings_text(board).partition("\n")
    return f'{head}\nstate = "/var/lib/bloodedge"\n{settings.rstrip()}\n\n[trust]\nkeys = "/etc/bloodedge/trust"\n'


def _memory(board: str) -> str:
    profile = read_profile(board).board
    return (
        f"# {profile.title}: {profile.ram_mb} MB of memory; the daemon is slowed, then ended, before the board swaps.\n"
        f"[Service]\nMemoryHigh={profile.memory_max_mb * 3 // 4}M\nMemoryMax={profile.memory_max_mb}M\n"
    )
