"""The condition of each part of the daemon, a sentence each, for the page, the log and programs."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from bloodedge.redact import redacted


class Level(IntEnum):
    """How well a part works."""

    OK = 0
    WARNING = 1
    FAILED = 2


@dataclass(frozen=True)
class Condition:
    """One part's condition."""

    level: Level
    sentence: str
    """The condition and, where something is wrong, what to do."""
    since: datetime
    """UTC."""


class Health:
    """Conditions of parts by their names; safe to use from several threads."""

    def __init__(self) -> None:
        self._conditions: dict[str, Condition] = {}
        self._lock = threading.Lock()

    def report(self, part: str, level: Level, sentence: str) -> bool:
        """Set a part's condition, addresses in the sentence redacted; returns whether its level changed."""
        with self._lock:
            before = self._conditions.get(part)
            changed = before is None or before.level is not level
            since = datetime.now(UTC) if changed or before is None else before.since
            self._conditions[part] = Condition(level, redacted(sentence), since)
            return changed

    def conditions(self) -> dict[str, Condition]:
        """All parts, worst first."""
        with self._lock:
            return dict(sorted(self._conditions.items(), key=lambda item: -item[1].level))

    def level_of(self, part: str) -> Level:
        """A part's level; OK where it has told nothing yet."""
        with self._lock:
            condition = self._conditions.get(part)
        return Level.OK if condition is None else condition.level

    @property
    def level(self) -> Level:
        """The worst level of any part."""
        return max((condition.level for condition in self.conditions().values()), default=Level.OK)
