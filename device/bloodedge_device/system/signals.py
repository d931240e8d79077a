"""Signals that stop the daemon or reload its settings."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Signals:
    """State that the signal handlers set."""

    interrupt: threading.Event
    """Set when something is to be done before the next frame."""
    stop: bool = False
    reload: bool = False
    interrupted: bool = False


@contextmanager
def signals_heard() -> Iterator[Signals]:
    """SIGTERM and the first SIGINT stop the daemon, a second SIGINT kills it; SIGHUP reloads the settings."""
    signals = Signals(threading.Event())

    def ask_to_stop(number: int, _: FrameType | None) -> None:
        signals.stop = True
        signals.interrupt.set()
        if number == signal.SIGINT:
            signals.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def ask_to_reload(_number: int, _frame: FrameType | None) -> None:
        signals.reload = True
        signals.interrupt.set()

    catchable = threading.current_thread() is threading.main_thread()
    handlers = {signal.SIGTERM: ask_to_stop, signal.SIGINT: ask_to_stop, signal.SIGHUP: ask_to_reload}
    before = {number: signal.signal(number, handlers[number]) for number in handlers} if catchable else {}
    try:
        yield signals
    finally:
        signals.interrupt.set()
        for number, handler in before.items():
            signal.signal(number, handler)
