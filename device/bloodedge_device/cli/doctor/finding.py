"""What a check gets and what it finds."""

from dataclasses import dataclass
from typing import Literal

from bloodedge_device.frames import Frame
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store.lock import is_running

Level = Literal["ok", "warning", "failed"]
Outcome = tuple[Level, str, str]
"""A check's level, a sentence about what is, and what to do; the last is empty when all is well."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    level: Level
    sentence: str
    """What is."""
    cure: str = ""
    """What to do; empty when all is well."""


class Examination:
    """The settings under examination, and what one check finds out for another."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.frame: Frame | None = None
        self.running = is_running(settings.state)


def ok(sentence: str) -> Outcome:
    """All is well."""
    return "ok", sentence, ""


def warning(sentence: str, cure: str) -> Outcome:
    """The daemon runs, but not as it should."""
    return "warning", sentence, cure


def failed(sentence: str, cure: str) -> Outcome:
    """The daemon cannot run."""
    return "failed", sentence, cure
