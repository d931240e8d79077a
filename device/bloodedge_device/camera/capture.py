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

BAD_IN_A_ROW = 10
"""So many bad frames of a source without end come as they come; each further one in a row waits, longer and longer."""

BAD_WAITS_S = (0.25, 0.5, 1.0, 2.0)

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
        done = [SourceFile(**file) for file in order["done"]]
        camera = open_camera(settings, order["begin"], done, pass_over=order["pass_over"])
        sender.send({"kind": "opened", "name": camera.name, "live": camera.live})
        endless, bad = camera.live or settings.loop, 0
        for frame in camera.frames(stop):
            bad = bad + 1 if isinstance(frame, BadFrame) else 0
            if endless and bad > BAD_IN_A_ROW:
                stop.wait(BAD_WAITS_S[min(bad - BAD_IN_A_ROW, len(BAD_WAITS_S)) - 1])
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
    """Hand a frame over in a free slot; a bad one takes a slot too, so that the daemon is not swamped by them."""
    message: dict[str, Any] = {"kind": "frame", "capture": _fields(frame.capture)}
    if isinstance(frame, Frame) and frame.bgr.nbytes > SLOT_BYTES:
        problem = f"The frame has {frame.bgr.size // 3:,} pixels; the limit is 33 million."
        frame = BadFrame(frame.capture, problem)
    slot = _free_slot(free, stop, sender)
    if slot is None:
        return
    if isinstance(frame, BadFrame):
        sender.send({**message, "slot": slot, "problem": redacted(frame.problem)})
        return
    bgr = np.ascontiguousarray(frame.bgr)
    target = np.frombuffer(memory, bgr.dtype, bgr.size, slot * SLOT_BYTES).reshape(bgr.shape)
    np.copyto(target, bgr)
    scale = {"um_per_px": frame.um_per_px, "shape": bgr.shape, "dtype": bgr.dtype.str}
    sender.send({**message, **scale, "slot": slot})


def _free_slot(free: Queue[int], stop: _Pulse, sender: _Sender) -> int | None:
    """A slot, once there is a free one; None when the source is to stop."""
    while True:
        try:
            return free.get(timeout=SIGN_OF_LIFE_S)
        except Empty:
            if stop.is_set():
                return None
            sender.send({"kind": "alive"})


def _fields(capture: Capture) -> dict[str, Any]:
    return {**asdict(capture), "captured_at": capture.captured_at.isoformat()}


if __name__ == "__main__":
    main()
