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
    """Grows with every message, and is never used again."""
    topic: str
    """Below the board's own: "frames", "slides/3"."""
    payload: bytes
    """JSON."""
    retain: bool = False
    """Whether the broker keeps it for those who come later."""


class Outbox(Protocol):
    """Messages on disk until somebody has them; called from the publisher's thread and, for its length, from others."""

    def waiting(self, after: int, limit: int) -> Sequence[Message]:
        """At most ``limit`` messages with ids above ``after``, ids ascending."""
        ...

    def delivered(self, up_to: int) -> None:
        """Every message with an id of at most ``up_to`` was acknowledged and may go."""
        ...

    def __len__(self) -> int:
        """How many wait."""
        ...
