"""A bundle into the idle slot: verified, copied, verified again, tried out on this board, and only then switched to."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bloodedge.bundle import MANIFEST, SIGNATURE, Bundle, zip_files
from bloodedge.engine import require
from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.files import sha256, write_beside
from bloodedge_device.loading import choose_artifact, vouched_for
from bloodedge_device.settings import DeviceSettings, released
from bloodedge_device.slots.record import (
    Record,
    Slot,
    SlotName,
    change,
    install_lock,
    now,
    read_record,
    record_lock,
    slot_file,
    slots_folder,
)
from bloodedge_device.slots.switching import repair, switch_to
from bloodedge_device.slots.trial import Trial, try_out

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
        try:
            _check_probation(record)
            _check_serial(record, bundle, allow_older=allow_older)
            return _into(settings, record.idle, path, trial)
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
    if record.active is None or bundle.manifest.serial != record.slots[record.active].serial:
        return False
    try:
        with Bundle(slot_file(settings.state, record.active)) as active:
            return active.manifest_bytes == bundle.manifest_bytes and active.signature() == bundle.signature()
    except BloodedgeError:  # a slot that was damaged is installed anew
        return False


def _check_probation(record: Record) -> None:
    slot = record.running
    if slot is not None and slot.state == "on probation":
        raise BloodedgeError(
            f"{slot.title} is on probation, and the bundle before it is kept until that ends; wait, or go back first"
            " with: bloodedge device rollback"
        )


def _check_serial(record: Record, bundle: Bundle, *, allow_older: bool) -> None:
    name, serial = bundle.manifest.name, bundle.manifest.serial
    highest = record.highest.get(name, serial)
    if serial < highest and not allow_older:
        raise BloodedgeError(
            f"{bundle.path} is {name} {serial}, older than {name} {highest}, which was good here; install a newer one,"
            " or give --allow-older."
        )


def _into(settings: DeviceSettings, name: SlotName, path: Path, trial: TryOut) -> Installed:
    with Bundle(path) as bundle:
        _check_not_shipped(settings, bundle)
        vouched_for(settings, bundle)
        artifact, _ = choose_artifact(settings, bundle.manifest)
        require(artifact.engine)
    _check_room(settings.state, path)
    shown: list[tuple[Slot, Trial]] = []

    def copy_and_try(copy: Path) -> None:
        _copy(path, copy)
        with _as_given(path, copy):
            shown.append((_described(settings, copy), trial(settings, copy)))

    write_beside(slot_file(settings.state, name), copy_and_try)
    ((slot, result),) = shown
    record = switch_to(settings.state, name, slot)
    return Installed(name, record.slots[name], result)


def _check_not_shipped(settings: DeviceSettings, bundle: Bundle) -> None:
    """Say so where an unsigned bundle, which is not taken, came with the installation or is a copy of one that did."""
    if settings.trust.unsigned or bundle.signature() is not None:
        return
    for path in released():
        with suppress(BloodedgeError), Bundle(path) as ours:
            if ours.manifest_bytes == bundle.manifest_bytes:
                break
    else:
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
        error.args = (str(error).replace(str(copy), str(path)),)
        raise


def _check_room(state: Path, path: Path) -> None:
    size = path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*"))
    missing_mb = (size - shutil.disk_usage(slots_folder(state)).free) / 2**20 + ROOM_MB
    if missing_mb > 0:
        raise BloodedgeError(f"{missing_mb:.0f} MB are missing on the disk of {state}; free some space.")


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


def _described(settings: DeviceSettings, copy: Path) -> Slot:
    """What the copy holds, once it was verified like the bundle itself."""
    with Bundle(copy) as bundle:
        signer = vouched_for(settings, bundle)
        manifest = bundle.manifest
    return Slot(
        name=manifest.name,
        serial=manifest.serial,
        sha256=sha256(copy),
        signer="" if signer is None else f"{signer.name} ({signer.key_id})",
        installed_at=now(),
        state="on probation",
    )
