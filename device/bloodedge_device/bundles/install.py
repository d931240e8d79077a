"""Installing a bundle into the idle slot: verify, copy, verify the copy, try it out on this board, switch."""

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
from bloodedge_device.bundles.loading import check_slot, choose_artifact, is_bundle_fault, slot_of_file, verify_signer
from bloodedge_device.bundles.released import came_with_installation
from bloodedge_device.bundles.slot_record import (
    SHIPPED,
    Record,
    Slot,
    SlotName,
    TemporaryError,
    change,
    install_lock,
    read_record,
    record_lock,
    slot_file,
    slots_folder,
    write_record,
)
from bloodedge_device.bundles.start import repair
from bloodedge_device.bundles.switch import last_run, switched, why_refused
from bloodedge_device.bundles.trial import Trial, try_out
from bloodedge_device.settings import DeviceSettings

TryOut = Callable[[DeviceSettings, Path], Trial]

ROOM_MB = 16
"""Left free on the disk beside the copy."""


@dataclass(frozen=True)
class Installed:
    """The result of an install."""

    slot: SlotName
    what: Slot
    trial: Trial | None
    """None where the bundle was active already."""


def install(settings: DeviceSettings, path: Path, *, allow_older: bool = False, trial: TryOut = try_out) -> Installed:
    """Put a bundle into the idle slot and make it active, on probation; the other slot stays as it was.

    Where the active slot's file is damaged, the bundle goes there. The active bundle again changes nothing. Raises
    UsageError or BloodedgeError when the bundle cannot be trusted, is older than one that was good, does not suit this
    board or fails its trial: then only the history changes.
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
        except (DiskError, TemporaryError):  # not the bundle's fault
            raise
        except BloodedgeError as error:
            title, why = bundle.manifest.title, str(error)
            with suppress(BloodedgeError):  # a full disk
                change(state, lambda record: record.with_event("refused", title, None, why))
            raise


def _sweep(state: Path) -> None:
    """Remove what an interrupted install left behind."""
    with record_lock(state), disk_errors("the slots' folder"):
        for path in slots_folder(state).glob(".*.partial.*"):
            path.unlink(missing_ok=True)


def _is_active(settings: DeviceSettings, record: Record, bundle: Bundle) -> bool:
    """Whether the active slot holds the same manifest, which has every file's SHA-256, with the same signature."""
    if record.active is None or why_refused(settings, record.active, record.slots[record.active]):
        return False
    try:
        with Bundle(slot_file(settings.state, record.active)) as active:
            return active.manifest_bytes == bundle.manifest_bytes and active.signature() == bundle.signature()
    except BloodedgeError:
        return False


def _target(settings: DeviceSettings, record: Record) -> SlotName:
    """The idle slot; the active one where its file is damaged, as the other may hold the last good bundle."""
    if record.active is None:
        return record.idle
    try:
        check_slot(slot_file(settings.state, record.active), record.slots[record.active])
    except BloodedgeError as error:
        return record.active if is_bundle_fault(error) else record.idle
    return record.idle


@dataclass(frozen=True)
class _Plan:
    """Where a bundle goes, and the record that this was decided from."""

    settings: DeviceSettings
    record: Record
    target: SlotName
    path: Path
    allow_older: bool

    def check_record(self, record: Record, name: str, serial: int) -> None:
        """Raise BloodedgeError if the record, as it is by now, rules out a bundle of this name and serial."""
        slot = record.running
        if slot is not None and slot.state == "on probation" and record.active != self.target:
            raise TemporaryError(
                f"{slot.title} is on probation until it has run long enough; wait, or go back first with:"
                " bloodedge device rollback"
            )
        if (record.active, _digest(record)) != (self.record.active, _digest(self.record)):
            raise TemporaryError(
                f"{SHIPPED if record.running is None else record.running.title} took over during the trial of"
                f" {self.path}, so nothing was installed; install it again."
            )
        highest = record.highest.get(name, serial)
        if serial < highest and not self.allow_older:
            raise BloodedgeError(
                f"{self.path} is {name} {serial}, older than {name} {highest}, which was good here; install a newer"
                " one, or add --allow-older."
            )


def _digest(record: Record) -> str:
    return "" if record.running is None else record.running.sha256


def _carry_out(plan: _Plan, trial: TryOut) -> Installed:
    settings, state, path, name = plan.settings, plan.settings.state, plan.path, plan.target
    with Bundle(path) as bundle:
        _check_not_shipped(settings, bundle)
        verify_signer(settings, bundle)
        artifact, _ = choose_artifact(settings, bundle.manifest)
        require(artifact.engine)
    _check_room(state, path)
    file = slot_file(state, name)
    with disk_errors(file.name), temporary_beside(file) as copy:
        _copy(path, copy)
        with _as_given(path, copy):
            slot = slot_of_file(settings, copy)  # the original may be exchanged after the check, the copy cannot
            plan.check_record(plan.record, slot.name, slot.serial)
            result = trial(settings, copy)
        slot = slot.model_copy(update={"after_run": last_run(state)})
        with record_lock(state):  # from here on nothing else may switch, or the last good bundle could be overwritten
            record = read_record(state)
            plan.check_record(record, slot.name, slot.serial)
            put_in_place(copy, file)
            record = switched(record, name, slot)
            write_record(state, record)
    return Installed(name, record.slots[name], result)


def _check_not_shipped(settings: DeviceSettings, bundle: Bundle) -> None:
    """UsageError with a hint for an unsigned bundle that came with the installation, or a copy of one."""
    if settings.trust.unsigned or bundle.signature() is not None or not came_with_installation(bundle):
        return
    raise UsageError(
        f"{bundle.path} came with the installation and needs no install: it runs where no slot is active; go back to"
        " it with: bloodedge device rollback (twice, if the other slot's bundle was good)"
    )


@contextmanager
def _as_given(path: Path, copy: Path) -> Iterator[None]:
    """Errors name the bundle as given, not its copy."""
    try:
        yield
    except BloodedgeError as error:
        error.args = (str(error).replace(as_text(copy), as_text(path)),)
        raise


def _check_room(state: Path, path: Path) -> None:
    size = path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*"))
    missing_mb = (size - shutil.disk_usage(slots_folder(state)).free) / 2**20 + ROOM_MB
    if missing_mb > 0:
        raise DiskError(f"The disk of {state} has {missing_mb:.0f} MB too little free space; free some.")


def _copy(path: Path, copy: Path) -> None:
    if path.is_file():
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError as error:
            raise UsageError(f"{path} is gone; check its name.") from error
        return
    with Bundle(path) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        signature = bundle.signature()
        files[MANIFEST] = bundle.manifest_bytes
    if signature is not None:
        files[SIGNATURE] = signature
    zip_files(files, copy)
