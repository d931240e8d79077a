"""Signals that stop the daemon or reload its settings."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

log = logging.getLogger("bloodedge.device")

STUCK_S = 10.0
"""A daemon that was told to stop and does not leave its frame within so many seconds hangs in it."""


@dataclass
class Signals:
    """State that the signal handlers set."""

    interrupt: threading.Event
    """Set when something is to be done before the next frame."""
    stop: bool = False
    reload: bool = False
    interrupted: bool = False
    left: threading.Event = field(default_factory=threading.Event)
    """Set when no frame is processed any more."""


@contextmanager
def signals_heard() -> Iterator[Signals]:
    """SIGTERM and the first SIGINT stop the daemon, a second SIGINT kills it; SIGHUP reloads the settings.

    A daemon that does not leave its frame within STUCK_S is ended by force: Python runs no handler while a network
    hangs in its native code. What was handed to the recorder is stored by then.
    """
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
    if not catchable:
        yield signals
        signals.interrupt.set()
        return
    before = {number: signal.signal(number, handlers[number]) for number in handlers}
    heard, told = socket.socketpair()
    told.setblocking(False)
    told_before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_if_stuck, args=(heard, signals.left), name="signals", daemon=True).start()
    try:
        yield signals
    finally:
        signals.left.set()
        signals.interrupt.set()
        signal.set_wakeup_fd(told_before)
        told.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_if_stuck(heard: socket.socket, left: threading.Event) -> None:
    """Wait for a signal that stops the daemon; the interpreter writes its number before any handler runs."""
    with heard:
        while numbers := heard.recv(16):
            if not {signal.SIGTERM, signal.SIGINT}.isdisjoint(numbers):
                break
        else:
            return
    if not left.wait(STUCK_S):
        log.error("The daemon was told to stop and hangs in a frame; it is ended without its slide's end.")
        os._exit(1)
