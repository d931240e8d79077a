"""A bundle into the idle slot: verified, copied, verified again, tried out on this board, and only then switched to."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bloodedge.bundle import MANIFEST, SIGNATURE, Bundle, zip_files
from bloodedge.engine import require
from bloodedge.errors import BloodedgeError, DiskError, UsageError, disk_errors
from bloodedge.files import put_in_place, temporary_beside
from bloodedge.text import as_text
from bloodedge_device.bundles.loading import check_slot, choose_artifact, described, is_verdict, vouched_for
from bloodedge_device.bundles.released import came_with_installation
from bloodedge_device.bundles.repair import repair
from bloodedge_device.bundles.slot_record import (
    SHIPPED,
    NotNow,
    Record,
    Slot,
    SlotName,
    change,
    install_lock,
    read_record,
    record_lock,
    slot_file,
    slots_folder,
    write_record,
)
from bloodedge_device.bundles.switch import last_run, switched, why_refused
from bloodedge_device.bundles.trial import Trial, try_out
from bloodedge_device.settings import DeviceSettings

TryOut = Callable[[DeviceSettings, Path], Trial]

ROOM_MB = 16
"""Left on the disk beside the copy."""


@dataclass(frozen=True)
class Installed:
    """What came of an install."""

    slot: SlotName
    what: Slot
    trial: Trial | None
    """None where the bundle was the active one already."""


def install(settings: DeviceSettings, path: Path, *, allow_older: bool = False, trial: TryOut = try_out) -> Installed:
    """Put a bundle into the idle slot and make it the active one, on probation; the other slot stays as it was.

    Where the active slot's file is damaged it goes there, and the same bundle again stays what it was.
    Raises UsageError or BloodedgeError when it is not to be trusted, older than one that was good, not for this board,
    or fails its trial: then nothing has changed but the history.
    """
    state = settings.state
    with install_lock(state):
        repair(settings)
        _sweep(state)
        record = read_record(state)
        with Bundle(path) as bundle:
            if record.active is not None and _is_active(settings, record, bundle):
                return Installed(record.active, record.slots[record.active], None)
        plan = _Plan(settings, record, _target(settings, record), path, allow_older)
        try:
            plan.check_record(record, bundle.manifest.name, bundle.manifest.serial)
            return _carry_out(plan, trial)
        except (DiskError, NotNow):  # says nothing of the bundle
            raise
        except BloodedgeError as error:
            _note_refusal(state, bundle, str(error))
            raise


def _note_refusal(state: Path, bundle: Bundle, why: str) -> None:
    title = f"{bundle.manifest.name} {bundle.manifest.serial}"
    with suppress(BloodedgeError):  # a full disk, which the refusal tells of
        change(state, lambda record: record.noted("refused", title, None, why))


def _sweep(state: Path) -> None:
    """Remove what an install that was cut off left behind."""
    with record_lock(state), disk_errors("the slots' folder"):
        for path in slots_folder(state).glob(".*.partial.*"):
            path.unlink(missing_ok=True)


def _is_active(settings: DeviceSettings, record: Record, bundle: Bundle) -> bool:
    """Whether the active slot holds the same manifest, which has every file's digest, with the same signature."""
    if record.active is None or why_refused(settings, record.active, record.slots[record.active]):
        return False
    try:
        with Bundle(slot_file(settings.state, record.active)) as active:
            return active.manifest_bytes == bundle.manifest_bytes and active.signature() == bundle.signature()
    except BloodedgeError:
        return False


def _target(settings: DeviceSettings, record: Record) -> SlotName:
    """The slot that does not run; the active one where its file is damaged, for the other may be the last good one."""
    if record.active is None:
        return record.idle
    try:
        check_slot(slot_file(settings.state, record.active), record.slots[record.active])
    except BloodedgeError as error:
        return record.active if is_verdict(error) else record.idle
    return record.idle


@dataclass(frozen=True)
class _Plan:
    """Where a bundle is to go, and on what that was decided."""

    settings: DeviceSettings
    record: Record
    """As it was when the target was chosen."""
    target: SlotName
    path: Path
    allow_older: bool

    def check_record(self, record: Record, name: str, serial: int) -> None:
        """Raise BloodedgeError where a record, as it is by now, does not let a bundle of this name and serial in."""
        self._check_probation(record)
        if (record.active, _digest(record)) != (self.record.active, _digest(self.record)):
            raise NotNow(
                f"{SHIPPED if record.running is None else record.running.title} came to run while {self.path} was tried"
                " out, so nothing was installed; install it again."
            )
        highest = record.highest.get(name, serial)
        if serial < highest and not self.allow_older:
            raise BloodedgeError(
                f"{self.path} is {name} {serial}, older than {name} {highest}, which was good here; install a newer"
                " one, or give --allow-older."
            )

    def _check_probation(self, record: Record) -> None:
        slot = record.running
        if slot is not None and slot.state == "on probation" and record.active != self.target:
            raise NotNow(
                f"{slot.title} is on probation, and the bundle before it is kept until that ends; wait, or go back"
                " first with: bloodedge device rollback"
            )


def _digest(record: Record) -> str:
    return "" if record.running is None else record.running.sha256


def _carry_out(plan: _Plan, trial: TryOut) -> Installed:
    settings, state, path, name = plan.settings, plan.settings.state, plan.path, plan.target
    with Bundle(path) as bundle:
        _check_not_shipped(settings, bundle)
        vouched_for(settings, bundle)
        artifact, _ = choose_artifact(settings, bundle.manifest)
        require(artifact.engine)
    _check_room(state, path)
    file = slot_file(state, name)
    with disk_errors(file.name), temporary_beside(file) as copy:
        _copy(path, copy)
        with _as_given(path, copy):
            slot = described(settings, copy)  # what may be exchanged after it was looked at is looked at in the copy
            plan.check_record(plan.record, slot.name, slot.serial)
            result = trial(settings, copy)
        slot = slot.model_copy(update={"after_run": last_run(state)})
        with record_lock(state):  # from here on nobody else changes what runs, or the last good one could be replaced
            record = read_record(state)
            plan.check_record(record, slot.name, slot.serial)
            put_in_place(copy, file)
            record = switched(record, name, slot)
            write_record(state, record)
    return Installed(name, record.slots[name], result)


def _check_not_shipped(settings: DeviceSettings, bundle: Bundle) -> None:
    """Say so where an unsigned bundle, which is not taken, came with the installation or is a copy of one that did."""
    if settings.trust.unsigned or bundle.signature() is not None:
        return
    if not came_with_installation(bundle):
        return
    raise UsageError(
        f"{bundle.path} came with the installation and runs without being installed, wherever no other bundle is"
        " active; go back to it with: bloodedge device rollback, and again where that leads to the other slot's bundle"
    )


@contextmanager
def _as_given(path: Path, copy: Path) -> Iterator[None]:
    """Name in errors the bundle that a person gave, not its copy."""
    try:
        yield
    except BloodedgeError as error:
        error.args = (str(error).replace(as_text(copy), as_text(path)),)
        raise


def _check_room(state: Path, path: Path) -> None:
    size = path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*"))
    missing_mb = (size - shutil.disk_usage(slots_folder(state)).free) / 2**20 + ROOM_MB
    if missing_mb > 0:
        raise DiskError(f"{missing_mb:.0f} MB are missing on the disk of {state}; free some space.")


def _copy(path: Path, copy: Path) -> None:
    if path.is_file():
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError as error:
            raise UsageError(f"{path} is gone; give it again.") from error
        return
    with Bundle(path) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        signature = bundle.signature()
        files[MANIFEST] = bundle.manifest_bytes
    if signature is not None:
        files[SIGNATURE] = signature
    zip_files(files, copy)
