"""The capture process: opens one camera and writes its frames into memory that it shares with the daemon.

Run as ``python -m bloodedge_device.camera.capture SOCKET MEMORY`` with two inherited file descriptors. A driver that
hangs or crashes takes this process with it, and nothing else. Lines of JSON go both ways: what was captured, and which
slots of the memory are free again.
"""

import json
import logging
import mmap
import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from time import sleep
from typing import Any, BinaryIO

import numpy as np

from bloodedge.config import validate
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.redact import redacted
from bloodedge_device.camera.open import open_camera
from bloodedge_device.frames import BadFrame, Capture, Frame, SourceFile
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.system.process import use_every_core

SLOTS = 4
"""One in the pipeline, one waiting for it, one being filled, and one spare."""

SLOT_BYTES = 96 * 2**20
"""Room for a frame of 32 megapixels; unused pages cost no memory."""

SIGN_OF_LIFE_S = 0.2
"""Well below the shortest timeout that the settings allow."""

PARTING_S = 1.0
"""A driver gets so long to release the camera once the daemon is gone."""


def main() -> None:
    """Capture until the camera ends or the daemon hangs up."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    use_every_core()
    wire, memory = socket.socket(fileno=int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), SLOTS * SLOT_BYTES)
    incoming = wire.makefile("rb")
    order = json.loads(incoming.readline())
    sender = _Sender(wire.makefile("wb", buffering=0))
    free: Queue[int] = Queue()
    for slot in range(SLOTS):
        free.put(slot)
    stop = _Pulse(sender)
    threading.Thread(target=_listen, args=(incoming, free, stop), daemon=True).start()
    try:
        settings = validate(CameraSettings, order["settings"], "The camera's table")
        camera = open_camera(settings, order["begin"], [SourceFile(**file) for file in order["done"]])
        sender.send({"kind": "opened", "name": camera.name, "live": camera.live})
        for frame in camera.frames(stop):
            _give(frame, memory, free, stop, sender)
        if settings.is_hardware and not stop.is_set():
            sender.fail(f"{camera.name} ended; check that it is on.")
        else:
            sender.send({"kind": "ended", "ending": camera.ending})
    except BloodedgeError as error:
        sender.fail(str(error), usage=isinstance(error, UsageError))
    except Exception as error:  # whatever a driver raises is reported, and the daemon tries again
        sender.fail(f"The camera failed: {error!r}.")


@dataclass
class _Sender:
    """Lines to the daemon; ends the process once the daemon is gone."""

    lines: socket.SocketIO

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.lines.write(json.dumps(message).encode() + b"\n")
        except OSError:
            os._exit(0)

    def fail(self, sentence: str, *, usage: bool = False) -> None:
        """Report what is wrong; usage: the settings can never work."""
        self.send({"kind": "failed", "usage": usage, "sentence": redacted(sentence)})


class _Pulse(threading.Event):
    """An event that cameras wait on between frames, which tells the daemon that they are alive."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__()
        self._sender = sender

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as Event does; sends signs of life meanwhile."""
        left_s = float("inf") if timeout is None else timeout
        while left_s > SIGN_OF_LIFE_S:
            if super().wait(SIGN_OF_LIFE_S):
                return True
            self._sender.send({"kind": "alive"})
            left_s -= SIGN_OF_LIFE_S
        return super().wait(left_s)


def _listen(lines: BinaryIO, free: Queue[int], stop: _Pulse) -> None:
    """Receive freed slots; when the daemon hangs up, end, by force if the driver does not answer."""
    with suppress(OSError, ValueError):  # a killed daemon resets the connection, perhaps in mid-line
        while line := lines.readline():
            free.put(json.loads(line)["free"])
    stop.set()
    sleep(PARTING_S)
    os._exit(0)


def _give(frame: Frame | BadFrame, memory: mmap.mmap, free: Queue[int], stop: _Pulse, sender: _Sender) -> None:
    message: dict[str, Any] = {"kind": "frame", "capture": _fields(frame.capture)}
    if isinstance(frame, BadFrame):
        sender.send({**message, "problem": redacted(frame.problem)})
        return
    if frame.bgr.nbytes > SLOT_BYTES:
        sender.send({**message, "problem": f"The frame has {frame.bgr.size // 3:,} pixels; the limit is 33 million."})
        return
    while True:
        try:
            slot = free.get(timeout=SIGN_OF_LIFE_S)
            break
        except Empty:
            if stop.is_set():
                return
            sender.send({"kind": "alive"})
    bgr = np.ascontiguousarray(frame.bgr)
    target = np.frombuffer(memory, bgr.dtype, bgr.size, slot * SLOT_BYTES).reshape(bgr.shape)
    np.copyto(target, bgr)
    scale = {"um_per_px": frame.um_per_px, "shape": bgr.shape, "dtype": bgr.dtype.str}
    sender.send({**message, **scale, "slot": slot})


def _fields(capture: Capture) -> dict[str, Any]:
    return {**asdict(capture), "captured_at": capture.captured_at.isoformat()}


if __name__ == "__main__":
    main()
