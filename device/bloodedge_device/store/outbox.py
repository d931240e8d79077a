"""Messages to others, kept on disk until the broker has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Draft:
    """A message on its way into the outbox; see Message."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True)
class Message:
    """One message of the outbox."""

    id: int
    """Grows with every message and is never reused."""
    topic: str
    """Below the board's topic, such as "frames" or "slides/3"."""
    payload: bytes
    """JSON."""
    retain: bool = False
    """Whether the broker keeps it for later subscribers."""


class Outbox(Protocol):
    """Messages on disk until they are delivered; used by the publisher's thread, its length by others too."""

    def waiting(self, after: int, limit: int) -> Sequence[Message]:
        """At most ``limit`` messages with ids above ``after``, ids ascending."""
        ...

    def delivered(self, up_to: int) -> None:
        """Delete messages with ids up to ``up_to``, which were acknowledged."""
        ...

    def __len__(self) -> int:
        """How many wait."""
        ...
