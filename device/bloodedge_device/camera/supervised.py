"""A camera in a process of its own: killed when it hangs, restarted when it fails, its frames in shared memory."""

import logging
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera.capture import SLOT_BYTES, SLOTS
from bloodedge_device.camera.capture_process import CaptureEndedError, CaptureProcess, SlotFrame
from bloodedge_device.frames import BadFrame, Frame, SourceFile
from bloodedge_device.health import Level
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")

ENDS_OVER_A_FRAME = 2
"""An image over which the capture process ended or hung so often is not read again."""

Report = Callable[[Level, str], object]
"""Called when the camera's state changes."""


class SupervisedCamera:
    """The camera that the settings name, kept alive; follows the Camera protocol."""

    def __init__(
        self,
        settings: CameraSettings,
        report: Report | None = None,
        number: int = 0,
        done: dict[str, SourceFile] | None = None,
        timings: Timings = TIMINGS,
    ) -> None:
        """Start the capture process, its first frame to be ``number``; ``wait_until_open`` says how it went.

        done: by path, the files of a watched folder that are not taken again; the caller adds those of its frames.
        """
        self.done = {} if done is None else done
        self.name, self.live, self.ending = "", settings.is_hardware, ""
        self.restarts = 0
        self._settings, self._report = settings, report or (lambda _level, _sentence: None)
        self._timings = timings
        self._memory_file = _shared_memory()
        self._memory = mmap.mmap(self._memory_file, SLOTS * SLOT_BYTES)
        self.given = number
        """The next frame's number."""
        self._failures = 0
        self._ends = 0
        """How often the process ended or hung before the next frame came."""
        self._ever_opened = self._closed = self._awaits = False
        self._child = self._start()

    def _start(self) -> CaptureProcess:
        done, pass_over = list(self.done.values()), self._ends >= ENDS_OVER_A_FRAME
        return CaptureProcess(self._settings, self._memory_file, self.given, done, pass_over=pass_over)

    def wait_until_open(self, stop: threading.Event) -> None:
        """Wait until the camera is open, restarting it as often as needed, or ``stop`` is set.

        Raises UsageError when its settings can never work.
        """
        while not stop.is_set():
            try:
                self._child.wait_opened(stop, self._settings.timeout_s + self._timings.camera_opening_s)
            except BloodedgeError as problem:
                self._fail(problem, stop)
                continue
            if not stop.is_set():
                self.name, self.live = self._child.name, self._child.live
                self._ever_opened = True
                self._report(Level.OK, self.name)
            return

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames until the source ends or ``stop`` is set; a live camera gives its newest, counting those dropped.

        A frame's pixels are in shared memory and valid until the next one is requested. Numbers continue after a
        restart of the camera.
        """
        if not self._ever_opened:
            self.wait_until_open(stop)
        while not stop.is_set():
            self._awaits = True
            try:
                taken, dropped = self._child.take(stop, self._settings.timeout_s)
            except BloodedgeError as problem:
                self._awaits = False
                self._fail(problem, stop)
                self.wait_until_open(stop)
                continue
            self._awaits = False
            if taken is None:
                self.ending = self._child.ending
                return
            self._failures = self._ends = 0
            frame = self._view(taken)
            capture = taken.capture
            index = capture.index if not self.live else self.given + dropped
            self.given = index + 1
            try:
                yield replace(frame, capture=replace(capture, index=index, dropped_before=dropped))
            finally:  # also where the caller stops here
                self._child.free(taken.slot)

    def _view(self, slotted: SlotFrame) -> Frame | BadFrame:
        if slotted.problem is not None:
            return BadFrame(slotted.capture, slotted.problem)
        count = int(np.prod(slotted.shape))
        flat = np.frombuffer(self._memory, np.dtype(slotted.dtype), count, slotted.slot * SLOT_BYTES)
        flat.flags.writeable = False
        return Frame(slotted.capture, flat.reshape(slotted.shape), slotted.um_per_px)

    def _fail(self, problem: BloodedgeError, stop: threading.Event) -> None:
        """Kill the process and start another after a wait; raises the problem when that cannot help."""
        self._child.kill()
        if isinstance(problem, UsageError) and not self._ever_opened:
            raise problem
        waits_s = self._timings.camera_back_off_s
        wait_s = waits_s[min(self._failures, len(waits_s) - 1)]
        if not self._failures:
            log.warning("Camera: %s Retrying until it answers.", problem)
        self._report(Level.FAILED, str(problem))
        self._failures += 1
        self._ends += isinstance(problem, CaptureEndedError)
        self.restarts += 1
        if not stop.wait(wait_s):
            self._child = self._start()

    @property
    def awaits_files(self) -> bool:
        """Whether a watched folder has no new image, and its capture process is alive."""
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
        with suppress(BufferError):  # a frame that is still in use keeps the memory
            self._memory.close()
        os.close(self._memory_file)


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
