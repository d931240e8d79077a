"""Comparing a root with its target, provisioned or restored; what a person changed is kept and reported."""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge.files import file_mode
from bloodedge_device.provision.boards import DEBIAN
from bloodedge_device.provision.compare import Found, Hand, Target, provisioned, restored
from bloodedge_device.provision.content import UNITS, Piece, board_files
from bloodedge_device.provision.root_paths import LINK, mode, path_in, read
from bloodedge_device.provision.undo_record import VERSION, Entry, Record, read_record
from bloodedge_device.settings.board_profiles import read_profile

PROGRAMS = ("usr/bin/dpkg", "usr/bin/bash", "usr/bin/dash", "usr/bin/ls")
ELF = {183: "arm64", 62: "amd64", 40: "armhf", 3: "i386", 243: "riscv64"}
"""e_machine of an ELF file (elf.h), and Debian's name."""

BESIDE = ".bloodedge-new"


@dataclass(frozen=True)
class Change:
    """One path's old and new content; None: no file."""

    path: str
    old: bytes | None
    new: bytes | None
    entry: Entry | None
    """Its entry in the record afterwards."""


@dataclass(frozen=True)
class Plan:
    """All changes to a root."""

    root: Path
    changes: tuple[Change, ...]
    kept: dict[str, Hand]
    """Paths that a person changed or removed."""
    beside: dict[str, bytes | None]
    """Files to write beside those; None: to delete."""
    before: Record | None
    record: Record
    """The record afterwards, without the folders that will be made."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes and not self.beside and (self.before or self.record) == self.record

    def diff(self) -> Iterator[str]:
        """Lines of a unified diff."""
        for change in self.changes:
            old, new = _shown(change.old), _shown(change.new)
            before = f"a/{change.path}" if change.old is not None else "/dev/null"
            after = f"b/{change.path}" if change.new is not None else "/dev/null"
            yield from unified_diff(old, new, before, after, lineterm="")


def check_root(root: Path, architecture: str | None) -> None:
    """Raise UsageError unless this is a root file system of the architecture."""
    if not all(stat.S_ISDIR(file_mode(root / name)) for name in ("etc", "usr")):
        raise UsageError(
            f"{root} is not a root file system: etc and usr are missing; give the folder where it is mounted."
        )
    found = _architecture(root)
    if architecture and found and found != architecture:
        raise UsageError(f"{root} is a system for {found}, but the board needs {architecture}; choose another image.")


def provisioning(root: Path, board: str, read_only: bool) -> Plan:
    """The plan that provisions the root for a board; raises UsageError, BloodedgeError."""
    check_root(root, DEBIAN[read_profile(board).board.architecture])
    before = read_record(root)
    pieces = board_files(board, root, read_only)
    entries = before.entries if before else {}
    paths = [*pieces, *(path for path in entries if path not in pieces)]
    found = {path: Found(_read(root, path, pieces.get(path)), mode(root, path), entries.get(path)) for path in paths}
    targets = {
        path: provisioned(pieces[path], found[path]) if path in pieces else restored(found[path]) for path in paths
    }
    after = {path: target.entry for path, target in targets.items() if target.entry is not None}
    return _plan(root, found, targets, before, _record(board, before, after, read_only=read_only))


def recorded(root: Path) -> tuple[str, bool]:
    """(board that the root was provisioned for, whether with a read-only root); UsageError when it never was."""
    record = read_record(root)
    if record is None:
        raise UsageError(f"{root} was never provisioned; name the board with --board.")
    return record.board, _is_read_only(record, root)


def _is_read_only(record: Record, root: Path) -> bool:
    if record.read_only is not None:
        return record.read_only
    own = (
        board_files(record.board, root, read_only=True).keys() - board_files(record.board, root, read_only=False).keys()
    )
    return any(path in record.entries for path in own)


def undoing(root: Path) -> Plan:
    """The plan that restores the root; raises UsageError when nothing was written.

    What a person changed stays, and is no longer recorded.
    """
    check_root(root, None)
    before = read_record(root)
    if before is None:
        raise UsageError(f"There is nothing to undo: {root} was never provisioned.")
    found = {path: Found(_read(root, path), mode(root, path), entry) for path, entry in before.entries.items()}
    targets = {path: restored(file) for path, file in found.items()}
    gone = [Path(path) for path, target in targets.items() if target.content is None]
    for path in _enabled(root, [file.name for file in gone if file.parent == UNITS]) - found.keys():
        found[path], targets[path] = Found(_read(root, path), None, None), Target(None, None)
    return _plan(root, found, targets, before, _record(before.board, before, {}, read_only=False))


def _plan(
    root: Path, found: dict[str, Found], targets: dict[str, Target], before: Record | None, record: Record
) -> Plan:
    changes = tuple(
        Change(path, found[path].content, target.content, target.entry)
        for path, target in targets.items()
        if target.content != found[path].content
    )
    kept = {path: target.kept for path, target in targets.items() if target.kept is not None}
    beside = dict.fromkeys(before.beside if before else ()) | {path: target.beside for path, target in targets.items()}
    lying = tuple(sorted(path for path, content in beside.items() if content is not None))
    named = {f"{path}{BESIDE}": content for path, content in beside.items()}
    differing = {path: content for path, content in named.items() if _read(root, path) != content}
    return Plan(root, changes, kept, differing, before, record.model_copy(update={"beside": lying}))


def _record(board: str, before: Record | None, entries: dict[str, Entry], *, read_only: bool) -> Record:
    settled = {path: entry.model_copy(update={"in_change": False, "earlier": None}) for path, entry in entries.items()}
    folders = before.folders if before else ()
    return Record(version=VERSION, board=board, read_only=read_only, folders=folders, entries=settled)


def _enabled(root: Path, units: Iterable[str]) -> set[str]:
    """Links by which a person enabled one of the units."""
    folder = path_in(root, f"{UNITS}/x").parent
    links = [link for link in folder.glob("*.wants/*") if link.is_symlink() and link.name in set(units)]
    return {f"{UNITS}/{link.parent.name}/{link.name}" for link in links}


def _read(root: Path, path: str, piece: Piece | None = None) -> bytes | None:
    content = read(root, path)
    if piece is not None and piece.kind in {"block", "words"} and (content or b"").startswith(LINK):
        raise UsageError(f"{root / path} is a link; replace it by the file itself.")
    return content


def _architecture(root: Path) -> str | None:
    for program in PROGRAMS:
        path = root / program
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as handle:
                head = handle.read(20)
            if head[:4] == b"\x7fELF":
                return ELF.get(int.from_bytes(head[18:20], "little"), "another processor")
    return None


def _shown(content: bytes | None) -> list[str]:
    return [] if content is None else content.decode(errors="replace").splitlines()
