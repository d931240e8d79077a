"""Messages under way on one connection."""


class Window:
    """Which messages were sent, and up to which one all were acknowledged."""

    def __init__(self, after: int) -> None:
        self.sent = after
        """The highest id sent."""
        self.done = after
        """Every message sent with an id of at most this was acknowledged."""
        self._acknowledged: dict[int, bool] = {}
        self._ids: dict[int, int] = {}

    def __len__(self) -> int:
        """Messages sent and not done; one that is never acknowledged keeps those after it in the window."""
        return len(self._acknowledged)

    @property
    def unanswered(self) -> bool:
        """Whether the broker owes an answer to any."""
        return bool(self._ids)

    def add(self, packet: int, message: int) -> None:
        """A message's id was sent under a packet identifier."""
        self._ids[packet] = self.sent = message
        self._acknowledged[message] = False

    def skip(self, message: int) -> None:
        """A message was not sent and never will be."""
        self.sent = message
        self._acknowledged[message] = True
        self._advance()

    def answer(self, packet: int, taken: bool) -> int | None:
        """Note the broker's answer; gives the message's id, None for a packet that is not from the outbox."""
        message = self._ids.pop(packet, None)
        if message is None:
            return None
        self._acknowledged[message] = taken
        self._advance()
        return message

    def _advance(self) -> None:
        while self._acknowledged and (first := next(iter(self._acknowledged.items())))[1]:
            self.done = first[0]
            del self._acknowledged[self.done]
