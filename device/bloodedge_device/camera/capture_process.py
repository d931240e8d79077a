"""The daemon's side of the capture process: its start, its messages and its end."""

import json
import socket
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from time import monotonic
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.frames import Capture, SourceFile
from bloodedge_device.settings.sections import CameraSettings


class CaptureEndedError(BloodedgeError):
    """The capture process ended or hangs, and does not say why."""


class SlotFrame:
    """A frame in a slot of the shared memory; a bad one leaves its slot empty."""

    def __init__(self, capture: Capture, message: dict[str, Any]) -> None:
        self.capture = capture
        self.slot: int = message["slot"]
        self.problem: str | None = message.get("problem")
        self.shape: tuple[int, ...] = tuple(message.get("shape", ()))
        self.dtype: str = message.get("dtype", "")
        self.um_per_px: float | None = message.get("um_per_px")


class CaptureProcess:
    """One capture process; a thread of its own receives its messages."""

    def __init__(
        self, settings: CameraSettings, memory: int, begin: int, done: list[SourceFile], *, pass_over: bool = False
    ) -> None:
        """begin, done, pass_over: see ``open_camera``."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bloodedge_device.camera.capture", str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a person's Ctrl-C is for the daemon, which then ends this process
            )
        self.pid = self._process.pid
        self.name, self.live, self.ending = "", False, ""
        self._wire = ours
        self._opened = self._ended = False
        self._problem: BloodedgeError | None = None
        self._frames: deque[SlotFrame] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._received_s = monotonic()
        order = {
            "settings": settings.model_dump(mode="json"),
            "begin": begin,
            "done": [asdict(file) for file in done],
            "pass_over": pass_over,
        }
        with suppress(OSError):  # it has ended already, which the receiving thread notices
            ours.sendall(json.dumps(order).encode() + b"\n")
        threading.Thread(target=self._receive, name="capture", daemon=True).start()

    def _receive(self) -> None:
        with self._wire.makefile("rb") as lines, suppress(OSError, ValueError):
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    self._received_s = monotonic()
                    self._handle(message)
                    self._changed.notify_all()
        with self._changed:
            if not self._ended and self._problem is None:
                self._problem = CaptureEndedError("The camera's process ended.")
            self._changed.notify_all()

    def _handle(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "opened":
                self.name, self.live, self._opened = message["name"], message["live"], True
            case "frame":
                self._put(message)
            case "ended":
                self.ending, self._ended = message["ending"], True
            case "failed":
                kind = UsageError if message["usage"] else BloodedgeError
                self._problem = kind(message["sentence"])

    def _put(self, message: dict[str, Any]) -> None:
        fields = message["capture"]
        file = fields["file"] and SourceFile(**fields["file"])
        truth = fields["truth"] and tuple(fields["truth"])
        captured_at = datetime.fromisoformat(fields["captured_at"])
        capture = Capture(**{**fields, "captured_at": captured_at, "file": file, "truth": truth})
        if self.live:
            while self._frames:
                old = self._frames.popleft()
                self._dropped += 1
                self.free(old.slot)
        self._frames.append(SlotFrame(capture, message))

    def wait_opened(self, stop: threading.Event, timeout_s: float) -> None:
        """Wait until the camera is open or ``stop`` is set; raises BloodedgeError when it does not open."""
        end_s = monotonic() + timeout_s
        with self._changed:
            while not self._opened and not stop.is_set():
                if self._problem is not None:
                    raise self._problem
                if monotonic() > end_s:
                    raise BloodedgeError(f"The camera did not open within {timeout_s:.0f} s; check its cable.")
                self._changed.wait(0.1)

    def take(self, stop: threading.Event, timeout_s: float) -> tuple[SlotFrame | None, int]:
        """(the next frame, how many a live camera dropped before it); None at the end, or once ``stop`` is set.

        Raises BloodedgeError when the camera failed or hangs.
        """
        with self._changed:
            while not self._frames and not self._ended and not stop.is_set():
                if self._problem is not None:
                    raise self._problem
                if self.silent_s > timeout_s:
                    raise CaptureEndedError(
                        f"The camera gave no sign of life for {timeout_s:g} s and was stopped; check its cable."
                    )
                self._changed.wait(0.1)
            if stop.is_set() or not self._frames:
                return None, 0
            dropped, self._dropped = self._dropped, 0
            return self._frames.popleft(), dropped

    @property
    def silent_s(self) -> float:
        """Seconds since the last message."""
        return monotonic() - self._received_s

    def free(self, slot: int) -> None:
        """Return a slot to the process."""
        with suppress(OSError):
            self._wire.sendall(json.dumps({"free": slot}).encode() + b"\n")

    def kill(self) -> None:
        """Kill the process and wait until it is gone and writes nothing more."""
        self._process.kill()
        self._process.wait()
        self._hang_up()

    def close(self) -> None:
        """Let the process end by itself, so that the driver releases the camera; kill it if it does not."""
        self._hang_up()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)
        self._wire.close()
