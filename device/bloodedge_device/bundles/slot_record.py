"""The slots' record: what is in the two slots, which one runs, and their history. One small file and its copy."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError, disk_errors, unreadable
from bloodedge.files import make_private_folder, require_own, write_text
from bloodedge.text import as_text

FOLDER = "slots"
RECORD = "slots.json"
COPY = "slots.copy.json"
"""Written after the record. After a power cut or on a full disk it may be one change older."""
DAMAGED = "slots.damaged.json"
BEGUN_ANEW = "the daemon's next start, or bloodedge device install, makes it again from its copy or the slots"
LONGEST_HISTORY = 100

SlotName = Literal["a", "b"]
SLOTS: tuple[SlotName, SlotName] = ("a", "b")
Action = Literal["installed", "refused", "good", "went back", "kept", "rolled back", "began anew"]
SHIPPED = "the bundle that came with the installation"


class Slot(Strict):
    """A bundle in a slot."""

    name: str
    """The bundle's name."""
    serial: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the slot's file."""
    signer: str = ""
    """Name and id of the key that signed it; empty where the settings accept unsigned bundles."""
    installed_at: AwareDatetime
    state: Literal["on probation", "good", "failed"]
    why: str = ""
    """Why it failed."""
    starts: int = 0
    """Crashed starts in a row, the current start included. For a good bundle, a minute of running resets it."""
    healthy_s: float = 0.0
    """Seconds that it ran in good health on probation."""
    after_run: int = 0
    """Id of the last run in the database before the switch to this bundle."""

    @property
    def title(self) -> str:
        """Name and serial."""
        return f"{self.name} {self.serial}"


class Event(Strict):
    """One entry of the history."""

    number: int
    at: AwareDatetime
    action: Action
    bundle: str
    slot: SlotName | None = None
    why: str = ""


class Record(Strict):
    """``slots.json``."""

    schema_version: Literal[1] = 1
    active: SlotName | None = None
    """None: the bundle that came with the installation."""
    slots: dict[SlotName, Slot] = Field(default_factory=dict)
    highest: dict[str, int] = Field(default_factory=dict)
    """By bundle name, the highest serial that was ever good here."""
    events: int = 0
    """How many there were, those that left the history too."""
    history: tuple[Event, ...] = ()
    """The latest, oldest first."""

    @model_validator(mode="after")
    def _describes_the_active_slot(self) -> Self:
        if self.active is not None and self.active not in self.slots:
            raise ValueError("it names a slot that it does not describe")
        return self

    @property
    def running(self) -> Slot | None:
        """The active slot; None: the bundle that came with the installation."""
        return None if self.active is None else self.slots.get(self.active)

    @property
    def idle(self) -> SlotName:
        """The slot that a new bundle goes to."""
        return "b" if self.active == "a" else "a"

    def changed(self, slot: SlotName, **values: object) -> "Record":
        """The record with changed values of a slot."""
        values = {name: as_text(value) if isinstance(value, str) else value for name, value in values.items()}
        return self.model_copy(update={"slots": {**self.slots, slot: self.slots[slot].model_copy(update=values)}})

    def with_event(self, action: Action, bundle: str, slot: SlotName | None = None, why: str = "") -> "Record":
        """The record with one more event in its history."""
        number = self.events + 1
        event = Event(number=number, at=now(), action=action, bundle=bundle, slot=slot, why=as_text(why))
        return self.model_copy(update={"events": number, "history": (*self.history, event)[-LONGEST_HISTORY:]})


class TemporaryError(BloodedgeError):
    """Something that may pass is in the way; it says nothing about the bundle."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DamagedRecordError(BloodedgeError):
    """The record is damaged or was lost; see ``repair``."""


def slots_folder(state: Path) -> Path:
    """The slots' folder."""
    return state / FOLDER


def slot_file(state: Path, slot: SlotName) -> Path:
    """A slot's bundle file."""
    return slots_folder(state) / f"{slot}.bundle"


def read_record(state: Path) -> Record:
    """The record; an empty one where there is none.

    Raises DamagedRecordError when it is damaged or was lost, and UsageError for a user who may not read it.
    """
    path = slots_folder(state) / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if read_copy(state) is None:
            return Record()
        raise DamagedRecordError(f"{path} is gone; {BEGUN_ANEW}.") from error
    except OSError as error:
        kind = UsageError if isinstance(error, PermissionError) else BloodedgeError
        raise kind(unreadable(path, error)) from error
    except ValidationError as error:
        raise DamagedRecordError(f"{path} is damaged; {BEGUN_ANEW}.") from error


def read_copy(state: Path) -> Record | None:
    """The record's copy; None where it is missing or damaged."""
    try:
        return Record.model_validate_json((slots_folder(state) / COPY).read_bytes())
    except (OSError, ValidationError):
        return None


def change(state: Path, how: Callable[[Record], Record]) -> Record:
    """Change the record under its lock; returns the new one."""
    with record_lock(state):
        before = read_record(state)
        after = how(before)
        if after != before:
            write_record(state, after)
        return after


def write_record(state: Path, record: Record) -> None:
    """Replace the record atomically, then its copy; the caller holds the lock."""
    write_text(slots_folder(state) / RECORD, _as_json(record))
    keep_copy(state, record)


def keep_copy(state: Path, record: Record) -> None:
    """Bring the copy up to date, if the disk has room. The caller holds the lock."""
    if (read_copy(state) or Record()) != record:
        with suppress(BloodedgeError, OSError):
            write_text(slots_folder(state) / COPY, _as_json(record))


def _as_json(record: Record) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


@contextmanager
def record_lock(state: Path) -> Iterator[None]:
    """Hold the record's lock; waits for other processes, which hold it for a moment only."""
    with _lock(state, "record.lock", fcntl.LOCK_EX):
        yield


@contextmanager
def install_lock(state: Path) -> Iterator[None]:
    """Hold the lock on the slots' files; TemporaryError when another process holds it.

    UsageError where the state folder is another user's, for root too: that user's daemon could no longer write there.
    """
    require_own(state)
    try:
        with _lock(state, "install.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise TemporaryError(f"Another bundle is being installed in {state}; wait until that has ended.") from error


@contextmanager
def _lock(state: Path, name: str, how: int) -> Iterator[None]:
    folder = slots_folder(state)
    with disk_errors("the slots' lock"):
        make_private_folder(folder)
        handle = (folder / name).open("a")
    with handle:
        fcntl.flock(handle, how)
        yield


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
