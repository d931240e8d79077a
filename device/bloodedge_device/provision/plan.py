"""Comparing a root with what it shall hold, and changing it: what a person changed by hand is kept and told."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from bloodedge.errors import UsageError, disk_errors
from bloodedge.files import file_mode, fsync_folder, write_bytes
from bloodedge_device.boards import read_profile
from bloodedge_device.provision.boards import DEBIAN
from bloodedge_device.provision.content import (
    Piece,
    wanted,
    with_block,
    with_words,
    without_block,
    without_words,
)
from bloodedge_device.provision.record import (
    RECORD,
    Entry,
    Record,
    needs_root,
    packed,
    read_record,
    unpacked,
    write_record,
)

LINK = b"link:"

PROGRAMS = ("usr/bin/dpkg", "usr/bin/bash", "usr/bin/dash", "usr/bin/ls")
ELF = {183: "arm64", 62: "amd64", 40: "armhf", 3: "i386", 243: "riscv64"}
"""e_machine of an ELF file (elf.h), and Debian's name."""

BESIDE = ".bloodedge-new"


@dataclass(frozen=True)
class Change:
    """One path of the root: from what, to what; None: not there."""

    path: str
    old: bytes | None
    new: bytes | None
    entry: Entry | None
    """What the record says afterwards."""


@dataclass(frozen=True)
class Plan:
    """What is to be done to a root."""

    root: Path
    board: str
    changes: tuple[Change, ...]
    kept: dict[str, bytes | None]
    """Paths changed by hand, and what would have been there."""
    record: Record
    """The record afterwards."""

    @property
    def is_empty(self) -> bool:
        """Whether the root holds all of it."""
        return not self.changes and not self.beside and (read_record(self.root) or self.record) == self.record

    @property
    def beside(self) -> dict[str, bytes | None]:
        """What is to lie beside the paths changed by hand and does not yet; None: nothing is."""
        wanted = {
            f"{path}{BESIDE}": None if content is None or content.startswith(LINK) else content
            for path, content in self.kept.items()
        }
        return {path: content for path, content in wanted.items() if _read(self.root, path) != content}

    def diff(self) -> Iterator[str]:
        """Lines of a unified diff."""
        for change in self.changes:
            old, new = _shown(change.old), _shown(change.new)
            before = f"a/{change.path}" if change.old is not None else "/dev/null"
            after = f"b/{change.path}" if change.new is not None else "/dev/null"
            yield from unified_diff(old, new, before, after, lineterm="")


def check_root(root: Path, architecture: str | None) -> None:
    """Raises UsageError for what is no root file system, or one of another architecture."""
    if not all(stat.S_ISDIR(file_mode(root / name)) for name in ("etc", "usr")):
        raise UsageError(f"{root} is no root file system: etc and usr are missing; give the folder it is mounted at.")
    found = _architecture(root)
    if architecture and found and found != architecture:
        raise UsageError(f"{root} is a system for {found}, and the board needs {architecture}; choose the other image.")


def provisioning(root: Path, board: str, read_only: bool) -> Plan:
    """What it takes to make the root this board's; raises UsageError, BloodedgeError."""
    check_root(root, DEBIAN[read_profile(board).board.architecture])
    before = read_record(root)
    entries = dict(before.entries) if before else {}
    pieces = wanted(board, root, read_only)
    changes: list[Change] = []
    kept: dict[str, bytes | None] = {}
    for path, piece in pieces.items():
        now = _read(root, path)
        entry = entries.get(path)
        new = _content(piece, now)
        if now == new:
            continue
        if _is_foreign(piece.kind, now, entry):
            kept[path] = new
            continue
        original = unpacked(entry.before) if entry else now
        mode = entry.mode if entry else _mode(root, path)
        written = Entry(written=packed(new) or "", before=packed(original), mode=mode, kind=piece.kind)
        changes.append(Change(path, now, new, written))
    gone = {path: entry for path, entry in entries.items() if path not in pieces}
    _restore(root, gone, changes, kept)
    return _plan(root, board, changes, kept, entries)


def recorded(root: Path) -> tuple[str, bool]:
    """(board that the root was provisioned for, whether with a read-only root); UsageError when it never was."""
    record = read_record(root)
    if record is None:
        raise UsageError(f"{root} was never provisioned; name the board with --board.")
    own = wanted(record.board, root, read_only=True).keys() - wanted(record.board, root, read_only=False).keys()
    return record.board, any(path in record.entries for path in own)


def undoing(root: Path) -> Plan:
    """What it takes to have the root as it was; raises UsageError when nothing was written."""
    check_root(root, None)
    before = read_record(root)
    if before is None:
        raise UsageError(f"Nothing was written into {root}: there is nothing to undo.")
    changes: list[Change] = []
    kept: dict[str, bytes | None] = {}
    _restore(root, before.entries, changes, kept)
    return _plan(root, before.board, changes, kept, dict(before.entries))


def check_rights(plan: Plan) -> None:
    """Raise UsageError, before anything is asked or written, for a user who may not write all of it."""
    if os.geteuid() == 0:
        return
    for path in (*(change.path for change in plan.changes), *plan.beside, RECORD):
        folder = next(folder for folder in _place(plan.root, path).absolute().parents if folder.is_dir())
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise needs_root(plan.root)


def apply(plan: Plan) -> None:
    """Change the root; the record goes first, so that a cut half-way can be finished or undone."""
    write_record(plan.root, _union(plan))
    for change in plan.changes:
        _write(plan.root, change)
    for path, content in plan.beside.items():
        if content is None:
            _place(plan.root, path).unlink(missing_ok=True)
        else:
            write_bytes(_place(plan.root, path), content)
    _sweep(plan.root, {*_union(plan).entries, RECORD})
    write_record(plan.root, plan.record)


def _union(plan: Plan) -> Record:
    """The record that holds before and after: what is being restored or replaced stays listed until it is."""
    old = read_record(plan.root)
    entries = {**(old.entries if old else {}), **plan.record.entries}
    for change in plan.changes:
        if change.entry is not None:
            entries[change.path] = change.entry.model_copy(update={"earlier": packed(change.old)})
    return Record(board=plan.board, entries=entries)


def _sweep(root: Path, paths: Iterable[str]) -> None:
    """Remove what a run that was cut off left half-written beside the paths."""
    for place in (root / path for path in paths):
        for left in place.parent.glob(f".{glob.escape(place.stem)}.*.partial{glob.escape(place.suffix)}"):
            left.unlink()


def _plan(
    root: Path, board: str, changes: list[Change], kept: dict[str, bytes | None], entries: dict[str, Entry]
) -> Plan:
    for change in changes:
        if change.entry is None:
            entries.pop(change.path, None)
        else:
            entries[change.path] = change.entry
    entries = {path: entry.model_copy(update={"earlier": None}) for path, entry in entries.items()}
    return Plan(root, board, tuple(changes), kept, Record(board=board, entries=entries))


def _restore(root: Path, entries: dict[str, Entry], changes: list[Change], kept: dict[str, bytes | None]) -> None:
    for path, entry in entries.items():
        now, before = _read(root, path), unpacked(entry.before)
        if now in _ours(entry):
            changes.append(Change(path, now, before, None))
        elif entry.kind in {"block", "words"} and now is not None:
            changes.append(Change(path, now, _taken_out(entry, now), None))
        elif now is None:
            changes.append(Change(path, None, None, None))
        else:
            kept[path] = None


def _taken_out(entry: Entry, now: bytes) -> bytes:
    """A boot file that a person changed since, without what was added."""
    if entry.kind == "block":
        return without_block(now.decode()).encode()
    had = (unpacked(entry.before) or b"").decode().split()
    added = [word for word in (unpacked(entry.written) or b"").decode().split() if word not in had]
    return without_words(now.decode(), added).encode()


def _content(piece: Piece, now: bytes | None) -> bytes:
    if piece.kind == "link":
        return LINK + piece.text.encode()
    if piece.kind == "block":
        return with_block((now or b"").decode(), piece.text).encode()
    if piece.kind == "words":
        have = (now or b"").decode()
        return have.encode() if set(piece.text.split()) <= set(have.split()) else with_words(have, piece.text).encode()
    return piece.text.encode()


def _is_foreign(kind: str, now: bytes | None, entry: Entry | None) -> bool:
    """Whether a person, or another program, wrote what is there, or removed what was written."""
    if kind in {"block", "words"}:
        return False
    if entry is None:
        return now is not None
    return now not in _ours(entry)


def _ours(entry: Entry) -> set[bytes | None]:
    """What may lie at a path that no person has touched."""
    ours = {unpacked(entry.written), unpacked(entry.before)}
    return ours if entry.earlier is None else ours | {unpacked(entry.earlier)}


def _place(root: Path, path: str) -> Path:
    """The path below the root; raises UsageError where a link in it leads out."""
    place = root / path
    if not place.parent.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{place.parent} leads out of {root} by a link; mount the root with all its partitions.")
    return place


def _read(root: Path, path: str) -> bytes | None:
    place = _place(root, path)
    try:
        if place.is_symlink():
            return LINK + os.fsencode(place.readlink())
        return place.read_bytes() if place.exists() else None
    except PermissionError as error:
        raise needs_root(root) from error
    except OSError:
        with disk_errors(path):
            raise


def _mode(root: Path, path: str) -> int | None:
    place = _place(root, path)
    return stat.S_IMODE(place.lstat().st_mode) if place.is_file() and not place.is_symlink() else None


def _write(root: Path, change: Change) -> None:
    place = _place(root, change.path)
    mode = (change.entry.mode if change.entry else _mode(root, change.path)) or 0o644
    with disk_errors(change.path):
        if change.new is None:
            place.unlink(missing_ok=True)
            _remove_empty(root, place.parent)
        elif change.new.startswith(LINK):
            place.parent.mkdir(parents=True, exist_ok=True)
            target = os.fsdecode(change.new[len(LINK) :])
            temporary = place.with_name(f".{place.stem}.{os.getpid()}.partial{place.suffix}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(place)
            fsync_folder(place.parent)
        else:
            write_bytes(place, change.new, mode)


def _remove_empty(root: Path, folder: Path) -> None:
    """Folders that only held what was written: drop-ins, wants and our own."""
    while folder != root and folder.name.endswith((".wants", ".d", "bloodedge")) and folder.is_dir():
        if any(folder.iterdir()):
            return
        folder.rmdir()
        folder = folder.parent


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
