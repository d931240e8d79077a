"""Changing a root as planned; after an interruption, the next run can finish or undo it."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bloodedge.errors import BloodedgeError, disk_errors
from bloodedge.files import fsync_folder, write_bytes
from bloodedge_device.provision.plan import Change, Plan
from bloodedge_device.provision.root_paths import LINK, mode, needs_root, path_in
from bloodedge_device.provision.undo_record import RECORD, Record, packed, write_record


def check_rights(plan: Plan) -> None:
    """Raise UsageError, before anything is asked or written, for a user who may not write all files."""
    if os.geteuid() == 0:
        return
    for path in (*(change.path for change in plan.changes), *plan.beside, RECORD):
        folder = next(folder for folder in path_in(plan.root, path).absolute().parents if folder.is_dir())
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise needs_root(plan.root)


def apply(plan: Plan) -> None:
    """Change the root: first the record, then deletions, which free space, then the other changes."""
    root, during = plan.root, _during(plan)
    try:
        write_record(root, during)
    except BloodedgeError:  # a full disk
        if any(change.entry is not None for change in plan.changes):
            raise
    for change in sorted(plan.changes, key=lambda change: change.new is not None):
        _write(root, change)
    for path, content in plan.beside.items():
        if content is None:
            path_in(root, path).unlink(missing_ok=True)
        else:
            write_bytes(path_in(root, path), content)
    _sweep(root, {*during.entries, RECORD})
    write_record(root, plan.record.model_copy(update={"folders": _folders_left(root, during.folders)}))


def _during(plan: Plan) -> Record:
    """The record during the change: it lists what is being restored or replaced until that is done."""
    entries = {**(plan.before.entries if plan.before else {}), **plan.record.entries}
    for change in plan.changes:
        entry = change.entry or entries.get(change.path)
        if entry is not None:
            earlier = None if change.old is None else packed(change.old)
            entries[change.path] = entry.model_copy(update={"in_change": True, "earlier": earlier})
    new = [change.path for change in plan.changes if change.new is not None]
    folders = dict.fromkeys([*plan.record.folders, *_missing_folders(plan.root, new)])
    return plan.record.model_copy(update={"entries": entries, "folders": tuple(folders)})


def _missing_folders(root: Path, paths: Iterable[str]) -> list[str]:
    folders = {str(folder) for path in paths for folder in Path(path).parents if str(folder) != "."}
    return sorted(folder for folder in folders if not path_in(root, f"{folder}/x").parent.is_dir())


def _folders_left(root: Path, folders: Iterable[str]) -> tuple[str, ...]:
    """Remove those of our folders that are empty; returns the others."""
    left = []
    for folder in sorted(folders, reverse=True):
        here = path_in(root, f"{folder}/x").parent
        if here.is_dir() and any(here.iterdir()):
            left.append(folder)
        elif here.is_dir():
            with disk_errors(folder):
                here.rmdir()
    return tuple(sorted(left))


def _sweep(root: Path, paths: Iterable[str]) -> None:
    """Remove half-written files that an interrupted run left beside the paths."""
    for found in (path_in(root, path) for path in paths):
        ours = re.compile(rf"\.{re.escape(found.stem)}\.\d+\.partial{re.escape(found.suffix)}")
        for left in found.parent.iterdir() if found.parent.is_dir() else ():
            if ours.fullmatch(left.name):
                left.unlink()


def _write(root: Path, change: Change) -> None:
    found = path_in(root, change.path)
    rights = (change.entry.mode if change.entry else mode(root, change.path)) or 0o644
    with disk_errors(change.path):
        if change.new is None:
            found.unlink(missing_ok=True)
        elif change.new.startswith(LINK):
            found.parent.mkdir(parents=True, exist_ok=True)
            target = os.fsdecode(change.new[len(LINK) :])
            temporary = found.with_name(f".{found.stem}.{os.getpid()}.partial{found.suffix}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(found)
            fsync_folder(found.parent)
        else:
            write_bytes(found, change.new, rights)
