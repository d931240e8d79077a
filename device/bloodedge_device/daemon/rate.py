"""How often something happens."""

from collections import deque
from time import monotonic

RATE_OVER_S = 5.0


class Rate:
    """How often something happens, and when it last did."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2000)
        self._began_s = monotonic()

    def note(self) -> None:
        """It happened now."""
        self._times.append(monotonic())

    @property
    def per_second(self) -> float:
        """Over the last RATE_OVER_S seconds."""
        now = monotonic()
        recent = [moment for moment in list(self._times) if moment > now - RATE_OVER_S]
        is_full = len(recent) == self._times.maxlen  # so often that fewer seconds fill the memory
        span = now - recent[0] if is_full else min(RATE_OVER_S, now - self._began_s)
        return len(recent) / max(span, 1e-3)

    @property
    def age_s(self) -> float | None:
        """Seconds since it last happened; None before the first time."""
        times = self._times
        return monotonic() - times[-1] if times else None
