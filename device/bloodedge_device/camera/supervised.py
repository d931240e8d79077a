"""A camera in a process of its own: killed when it hangs, started again when it fails, its frames in shared memory."""

import json
import logging
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from time import monotonic
from typing import Any

import numpy as np

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera.capture import SLOT_BYTES, SLOTS
from bloodedge_device.frames import BadFrame, Capture, Frame, SourceFile
from bloodedge_device.health import Level
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")

Tell = Callable[[Level, str], object]
"""Called when the camera's state changes."""


class SupervisedCamera:
    """The camera that the settings name, kept alive; follows the Camera protocol."""

    def __init__(
        self,
        settings: CameraSettings,
        tell: Tell | None = None,
        number: int = 0,
        done: dict[str, SourceFile] | None = None,
        timings: Timings = TIMINGS,
    ) -> None:
        """Start the capture process, its first frame to be ``number``; ``wait_until_open`` says how it went.

        done: by its path each of a watched folder's files that is not to be taken again; whoever takes a frame adds to
        it.
        """
        self.done = {} if done is None else done
        self.name, self.live, self.ending = "", settings.is_hardware, ""
        self.restarts = 0
        self._settings, self._tell = settings, tell or (lambda _level, _sentence: None)
        self._timings = timings
        self._memory_file = _shared_memory()
        self._memory = mmap.mmap(self._memory_file, SLOTS * SLOT_BYTES)
        self.given = number
        """The next frame's number."""
        self._failures = 0
        self._ever_opened = self._closed = self._awaits = False
        self._child = self._start()

    def _start(self) -> "_Child":
        return _Child(self._settings, self._memory_file, self.given, list(self.done.values()))

    def wait_until_open(self, stop: threading.Event) -> None:
        """Wait until the camera is open, trying again and again where it may yet be plugged in.

        Raises UsageError when its settings can never work.
        """
        while not stop.is_set():
            problem = self._child.wait_opened(stop, self._settings.timeout_s + self._timings.camera_opening_s)
            if problem is None:
                self.name, self.live = self._child.name, self._child.live
                self._ever_opened = True
                self._tell(Level.OK, self.name)
                return
            self._fail(problem, stop)

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames until the source ends or ``stop`` is set; a live camera gives its newest, counting those dropped.

        A frame's pixels lie in shared memory and are valid until the next one is asked for. Numbers go on where the
        camera had to be started again.
        """
        if not self._ever_opened:
            self.wait_until_open(stop)
        while not stop.is_set():
            self._awaits = True
            taken, dropped, problem = self._child.take(stop, self._settings.timeout_s)
            self._awaits = False
            if problem is not None:
                self._fail(problem, stop)
                self.wait_until_open(stop)
                continue
            if taken is None:
                self.ending = self._child.ending
                return
            self._failures = 0
            frame = self._view(taken) if isinstance(taken, _Slotted) else taken
            capture = taken.capture
            index = capture.index if not self.live else self.given + dropped
            self.given = index + 1
            try:
                yield replace(frame, capture=replace(capture, index=index, dropped_before=dropped))
            finally:  # also where the taker leaves off here
                if isinstance(taken, _Slotted):
                    self._child.free(taken.slot)

    def _view(self, slotted: "_Slotted") -> Frame:
        count = int(np.prod(slotted.shape))
        flat = np.frombuffer(self._memory, np.dtype(slotted.dtype), count, slotted.slot * SLOT_BYTES)
        flat.flags.writeable = False
        return Frame(slotted.capture, flat.reshape(slotted.shape), slotted.um_per_px)

    def _fail(self, problem: BloodedgeError, stop: threading.Event) -> None:
        """Kill what is left of the process and start another after a wait; raises what will never work."""
        self._child.kill()
        if isinstance(problem, UsageError) and not self._ever_opened:
            raise problem
        waits_s = self._timings.camera_back_off_s
        wait_s = waits_s[min(self._failures, len(waits_s) - 1)]
        if not self._failures:
            log.warning("Camera: %s Trying again until it answers.", problem)
        self._tell(Level.FAILED, str(problem))
        self._failures += 1
        self.restarts += 1
        if not stop.wait(wait_s):
            self._child = self._start()

    @property
    def awaits_files(self) -> bool:
        """Whether a watched folder holds nothing new, and its capture process lives."""
        return self._settings.watch and self._awaits and self._child.silent_s < self._settings.timeout_s

    @property
    def pid(self) -> int:
        """The capture process."""
        return self._child.pid

    def close(self) -> None:
        """End the capture process; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._child.close()
        with suppress(BufferError):  # a frame that somebody still holds keeps the memory until it is let go
            self._memory.close()
        os.close(self._memory_file)


class _Slotted:
    """A frame that lies in a slot of the shared memory."""

    def __init__(self, capture: Capture, message: dict[str, Any]) -> None:
        self.capture = capture
        self.slot: int = message["slot"]
        self.shape: tuple[int, ...] = tuple(message["shape"])
        self.dtype: str = message["dtype"]
        self.um_per_px: float | None = message["um_per_px"]


class _Child:
    """One capture process and what it has said so far, heard by a thread of its own."""

    def __init__(self, settings: CameraSettings, memory: int, begin: int, done: list[SourceFile]) -> None:
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
        self._frames: deque[_Slotted | BadFrame] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._heard_s = monotonic()
        order = {"settings": settings.model_dump(mode="json"), "begin": begin, "done": [asdict(file) for file in done]}
        with suppress(OSError):  # it has ended already; hearing nothing says so
            ours.sendall(json.dumps(order).encode() + b"\n")
        threading.Thread(target=self._hear, name="capture", daemon=True).start()

    def _hear(self) -> None:
        with self._wire.makefile("rb") as lines, suppress(OSError, ValueError):
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    self._heard_s = monotonic()
                    self._note(message)
                    self._changed.notify_all()
        with self._changed:
            if not self._ended and self._problem is None:
                self._problem = BloodedgeError("The camera's process ended.")
            self._changed.notify_all()

    def _note(self, message: dict[str, Any]) -> None:
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
        told = message["capture"]
        file = told["file"] and SourceFile(**told["file"])
        truth = told["truth"] and tuple(told["truth"])
        captured_at = datetime.fromisoformat(told["captured_at"])
        capture = Capture(**{**told, "captured_at": captured_at, "file": file, "truth": truth})
        frame = BadFrame(capture, message["problem"]) if "problem" in message else _Slotted(capture, message)
        if self.live:
            while self._frames:
                old = self._frames.popleft()
                self._dropped += 1
                if isinstance(old, _Slotted):
                    self.free(old.slot)
        self._frames.append(frame)

    def wait_opened(self, stop: threading.Event, timeout_s: float) -> BloodedgeError | None:
        """Wait for the camera to be open; what went wrong, if anything did."""
        end_s = monotonic() + timeout_s
        with self._changed:
            while not self._opened and self._problem is None and not stop.is_set():
                if monotonic() > end_s:
                    return BloodedgeError(f"The camera did not open within {timeout_s:.0f} s; check its cable.")
                self._changed.wait(0.1)
            return None if self._opened else self._problem

    def take(
        self, stop: threading.Event, timeout_s: float
    ) -> tuple[_Slotted | BadFrame | None, int, BloodedgeError | None]:
        """(the next frame or None at the end, how many a live camera dropped before it, what went wrong or None)."""
        with self._changed:
            while not self._frames and not stop.is_set():
                if self._ended:
                    return None, 0, None
                if self._problem is not None:
                    return None, 0, self._problem
                if self.silent_s > timeout_s:
                    return (
                        None,
                        0,
                        BloodedgeError(
                            f"The camera gave no sign of life for {timeout_s:g} s and was stopped; check its cable."
                        ),
                    )
                self._changed.wait(0.1)
            if stop.is_set():
                return None, 0, None
            dropped, self._dropped = self._dropped, 0
            return self._frames.popleft(), dropped, None

    @property
    def silent_s(self) -> float:
        """Seconds since the process was last heard."""
        return monotonic() - self._heard_s

    def free(self, slot: int) -> None:
        """Let the process fill a slot again."""
        with suppress(OSError):
            self._wire.sendall(json.dumps({"free": slot}).encode() + b"\n")

    def kill(self) -> None:
        """End the process at once, and wait until it is gone and writes nothing more."""
        self._process.kill()
        self._process.wait()
        self._hang_up()

    def close(self) -> None:
        """Let the process end by itself, so that the driver lets go of the camera; kill it where it does not."""
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


def _shared_memory() -> int:
    """A file descriptor of memory without a name, gone with the last process that holds it."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("bloodedge-frames")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    try:
        os.ftruncate(handle, SLOTS * SLOT_BYTES)
    except OSError as error:
        os.close(handle)
        raise BloodedgeError(
            f"There is no memory for the camera's frames ({error.strerror}); raise the process' limit of file size."
        ) from error
    return handle
