"""What is in the two slots, which one runs, and what happened to them: one small file and its copy, replaced whole."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError, disk_errors, unreadable
from bloodedge.files import require_own, write_text
from bloodedge.text import as_text

FOLDER = "slots"
RECORD = "slots.json"
COPY = "slots.copy.json"
"""Written after the record: it is the same, or older by what a power cut or a full disk kept from it."""
DAMAGED = "slots.damaged.json"
BEGUN_ANEW = "the daemon's next start, or bloodedge device install, begins anew from its copy or the slots"
"""What is done about a damaged record."""
LONGEST_HISTORY = 100

SlotName = Literal["a", "b"]
SLOTS: tuple[SlotName, SlotName] = ("a", "b")
Action = Literal["installed", "refused", "good", "went back", "kept", "rolled back", "began anew"]
SHIPPED = "the bundle that came with the installation"


class Slot(Strict):
    """A bundle in a slot."""

    name: str
    """The bundle's, as serial."""
    serial: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the slot's file."""
    signer: str = ""
    """Name and id of the key that signed it; empty where the settings ask for none."""
    installed_at: AwareDatetime
    state: Literal["on probation", "good", "failed"]
    why: str = ""
    """Why it failed."""
    starts: int = 0
    """Starts in a row that ended in no good order, the one under way among them; once good, a minute of running ends
    the row."""
    healthy_s: float = 0.0
    """How long it ran in good health on probation."""
    after_run: int = 0
    """The last run in the database before this bundle was switched to."""

    @property
    def title(self) -> str:
        """The bundle as people call it."""
        return f"{self.name} {self.serial}"


class Event(Strict):
    """Something that happened to the slots."""

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
    """The highest serial that was ever good, by the bundle's name."""
    events: int = 0
    """How many there were."""
    history: tuple[Event, ...] = ()
    """The latest, oldest first."""

    @property
    def running(self) -> Slot | None:
        """What is in the active slot; None for the bundle that came with the installation."""
        return None if self.active is None else self.slots.get(self.active)

    @property
    def idle(self) -> SlotName:
        """The slot that a new bundle goes to."""
        return "b" if self.active == "a" else "a"

    def changed(self, slot: SlotName, **values: object) -> "Record":
        """With other values of a slot."""
        values = {name: as_text(value) if isinstance(value, str) else value for name, value in values.items()}
        return self.model_copy(update={"slots": {**self.slots, slot: self.slots[slot].model_copy(update=values)}})

    def noted(self, action: Action, bundle: str, slot: SlotName | None = None, why: str = "") -> "Record":
        """With one event more."""
        number = self.events + 1
        event = Event(number=number, at=now(), action=action, bundle=bundle, slot=slot, why=as_text(why))
        return self.model_copy(update={"events": number, "history": (*self.history, event)[-LONGEST_HISTORY:]})


class NotNow(BloodedgeError):  # noqa: N818  # as people say it
    """What was asked for is not done for something that passes; it says nothing of the bundle."""


class DamagedRecord(BloodedgeError):  # noqa: N818  # as people say it
    """The record is not as it was written; see repairing."""


def slots_folder(state: Path) -> Path:
    """Where the slots of a state folder are."""
    return state / FOLDER


def slot_file(state: Path, slot: SlotName) -> Path:
    """A slot's bundle."""
    return slots_folder(state) / f"{slot}.bundle"


def read_record(state: Path) -> Record:
    """The record, an empty one where there is none; DamagedRecord when it cannot be understood or was lost.

    UsageError for a user who may not read it.
    """
    path = slots_folder(state) / RECORD
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if read_copy(state) is None:
            return Record()
        raise DamagedRecord(f"{path} is gone; {BEGUN_ANEW}.") from error
    except OSError as error:
        kind = UsageError if isinstance(error, PermissionError) else BloodedgeError
        raise kind(unreadable(path, error)) from error
    except ValidationError as error:
        raise DamagedRecord(f"{path} is damaged; {BEGUN_ANEW}.") from error
    if not _is_whole(record):
        raise DamagedRecord(f"{path} names a slot that it does not describe; {BEGUN_ANEW}.")
    return record


def read_copy(state: Path) -> Record | None:
    """The record's copy; None where there is none to be understood."""
    try:
        record = Record.model_validate_json((slots_folder(state) / COPY).read_bytes())
    except (OSError, ValidationError):
        return None
    return record if _is_whole(record) else None


def _is_whole(record: Record) -> bool:
    return record.active is None or record.active in record.slots


def change(state: Path, how: Callable[[Record], Record]) -> Record:
    """Read, change and replace the record, with no other process in between; gives the new one."""
    with record_lock(state):
        before = read_record(state)
        after = how(before)
        if after != before:
            write_record(state, after)
        return after


def write_record(state: Path, record: Record) -> None:
    """Replace the record, whole or not at all, and then its copy; the caller holds the lock."""
    write_text(slots_folder(state) / RECORD, _as_json(record))
    keep_copy(state, record)


def keep_copy(state: Path, record: Record) -> None:
    """Have the copy be that of the record on the disk; a full disk leaves it as it was. The caller holds the lock."""
    if (read_copy(state) or Record()) != record:
        with suppress(BloodedgeError, OSError):
            write_text(slots_folder(state) / COPY, _as_json(record))


def _as_json(record: Record) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


@contextmanager
def record_lock(state: Path) -> Iterator[None]:
    """Wait until no other process changes the record, for it takes a moment only."""
    with _lock(state, "record.lock", fcntl.LOCK_EX):
        yield


@contextmanager
def install_lock(state: Path) -> Iterator[None]:
    """Be the only one who changes the slots' files; NotNow when somebody else is at it.

    UsageError where the state folder is another user's, also for root: that user's daemon could no longer write there.
    """
    require_own(state)
    try:
        with _lock(state, "install.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise NotNow(f"Another bundle is being installed in {state}; wait until that has ended.") from error


@contextmanager
def _lock(state: Path, name: str, how: int) -> Iterator[None]:
    folder = slots_folder(state)
    with disk_errors("the slots' lock"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / name).open("a")
    with handle:
        fcntl.flock(handle, how)
        yield


def now() -> datetime:
    """The time, to the second; UTC."""
    return datetime.now(UTC).replace(microsecond=0)
