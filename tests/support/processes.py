"""Programs that run beside a test, and waiting for what they do."""

import socket
from collections.abc import Callable
from time import monotonic, sleep


def until(condition: Callable[[], object], within_s: float = 15.0) -> bool:
    """Whether a condition came true in time."""
    give_up_s = monotonic() + within_s
    while not condition():
        if monotonic() > give_up_s:
            return False
        sleep(0.02)
    return True


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
