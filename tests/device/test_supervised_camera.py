import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from queue import Queue
from time import monotonic, sleep

import cv2
import numpy as np
import pytest

from bloodedge.errors import UsageError
from bloodedge_device.camera import capture
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.frames import BadFrame, Capture, Frame
from bloodedge_device.health import Level
from bloodedge_device.settings.sections import CameraSettings

FRAMES = 12


def picture(level: int) -> np.ndarray:
    """A frame of which each row differs from the next, so that a torn one is seen."""
    return (np.arange(48)[:, None, None] + np.full((48, 64, 3), level)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture(10 * index))
    return folder


def replay(folder: Path, **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"kind": "replay", "source": str(folder), **more})


Open = Callable[[CameraSettings], SupervisedCamera]


@pytest.fixture
def open_() -> Iterator[Open]:
    """Opens cameras that are closed at the end."""
    opened = []

    def open_one(settings: CameraSettings) -> SupervisedCamera:
        opened.append(SupervisedCamera(settings))
        return opened[-1]

    yield open_one
    for camera in opened:
        camera.close()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, within_s: float) -> None:
    end = monotonic() + within_s
    while is_running(pid):
        assert monotonic() < end, "the capture process goes on"
        sleep(0.02)


def test_every_frame_of_a_folder_comes_once_with_its_pixels_and_then_the_end(folder: Path, open_: Open) -> None:
    (folder / "005.png").write_bytes(b"broken")
    taken = []
    for frame in open_(replay(folder, um_per_px=0.08)).frames(threading.Event()):
        taken.append((frame.capture.index, frame.capture.source))
        if isinstance(frame, BadFrame):
            assert frame.capture.index == 5
            assert "005.png" in frame.problem
        else:
            assert np.array_equal(frame.bgr, picture(10 * frame.capture.index))
            assert frame.um_per_px == 0.08
    assert taken == [(index, f"{index:03d}.png") for index in range(FRAMES)]


def test_a_frame_cannot_be_written_to(folder: Path, open_: Open) -> None:
    frame = next(open_(replay(folder)).frames(threading.Event()))
    assert isinstance(frame, Frame)
    assert not frame.bgr.flags.writeable


def test_a_killed_capture_process_loses_and_doubles_no_frame_and_is_back_within_two_seconds(
    folder: Path, open_: Open
) -> None:
    camera = open_(replay(folder, rate=50))
    seen, back_s, killed, killed_s = [], [], 0, None
    for frame in camera.frames(threading.Event()):
        if killed_s is not None and camera.pid != killed:
            back_s.append(monotonic() - killed_s)
            killed_s = None
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.bgr, picture(10 * frame.capture.index))
        seen.append(frame.capture.index)
        if frame.capture.index in (1, 6):
            killed, killed_s = camera.pid, monotonic()
            os.kill(killed, signal.SIGKILL)
            wait_until_gone(killed, 2)
    assert seen == list(range(FRAMES))
    assert camera.restarts == 2
    assert min(back_s) < 2


def test_a_process_that_hangs_is_killed_and_replaced(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, timeout_s=0.5, rate=50))
    seen, hung = [], 0
    for frame in camera.frames(threading.Event()):
        seen.append(frame.capture.index)
        if frame.capture.index == 3:
            hung = camera.pid
            os.kill(hung, signal.SIGSTOP)
    assert seen == list(range(FRAMES))
    assert camera.restarts == 1
    assert not is_running(hung)


def test_a_camera_slower_than_its_timeout_is_not_taken_for_one_that_hangs(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, timeout_s=0.5, rate=1.2))
    assert [f.capture.index for f in islice(camera.frames(threading.Event()), 3)] == [0, 1, 2]
    assert camera.restarts == 0


def test_a_pipeline_slower_than_the_timeout_is_no_fault_of_the_camera(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, timeout_s=0.5))
    frames = camera.frames(threading.Event())
    next(frames)
    sleep(0.8)
    assert [f.capture.index for f in frames] == list(range(1, FRAMES))
    assert camera.restarts == 0


def test_a_slow_taker_of_a_live_camera_gets_the_newest_and_every_dropped_frame_is_counted(
    folder: Path, open_: Open
) -> None:
    camera = open_(replay(folder, realtime=True, loop=True, rate=200))
    taken = 0
    numbers = []
    for frame in islice(camera.frames(threading.Event()), 8):
        assert isinstance(frame, Frame)
        taken += 1 + frame.capture.dropped_before
        assert frame.capture.index == taken - 1  # given + dropped = captured, at every frame
        assert np.array_equal(frame.bgr, picture(10 * (frame.capture.index % FRAMES)))
        numbers.append(frame.capture.index)
        sleep(0.1)
    assert numbers[-1] > 7 * 0.1 * 200 / 4  # far more were captured than given, also where the machine is busy
    assert camera.live


def test_a_live_source_that_ends_has_given_or_dropped_every_frame(folder: Path, open_: Open) -> None:
    taken = []
    for frame in open_(replay(folder, realtime=True, rate=100)).frames(threading.Event()):
        taken.append(frame.capture)
        sleep(0.05)
    assert len(taken) + sum(one.dropped_before for one in taken) == FRAMES
    assert taken[-1].index == FRAMES - 1
    assert len(taken) < FRAMES


def test_leaving_off_again_and_again_does_not_use_the_camera_up(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, loop=True))
    numbers = []
    for _ in range(2 * capture.SLOTS):
        for frame in camera.frames(threading.Event()):
            numbers.append(frame.capture.index)
            break
    assert numbers == list(range(2 * capture.SLOTS))


def test_a_stop_ends_the_wait_for_a_frame_at_once_and_the_camera_can_be_gone_on_with(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, rate=1))
    stop = threading.Event()
    frames = camera.frames(stop)
    next(frames)
    threading.Timer(0.1, stop.set).start()
    start = monotonic()
    assert list(frames) == []
    assert monotonic() - start < 0.8
    assert next(camera.frames(threading.Event())).capture.index == 1


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path, open_: Open) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_(replay(tmp_path / "nothing")).wait_until_open(threading.Event())


def test_a_folder_without_images_is_refused_at_once(tmp_path: Path, open_: Open) -> None:
    with pytest.raises(UsageError, match="has no image"):
        next(open_(replay(tmp_path)).frames(threading.Event()))


class _Mjpeg(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        data = cv2.imencode(".jpg", np.full((48, 64, 3), 77, np.uint8))[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        for _ in range(self.server.pictures):
            self.wfile.write(head + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


def serve(port: int, pictures: int) -> ThreadingHTTPServer:
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", port), _Mjpeg)
    server.pictures = pictures
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_stream_that_is_away_is_awaited_and_one_that_ends_is_called_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    told: Queue[tuple[Level, str]] = Queue()
    settings = CameraSettings(kind="replay", source=f"http://127.0.0.1:{port}/stream")
    with closing(SupervisedCamera(settings, lambda level, sentence: told.put((level, sentence)))) as camera:
        frames = camera.frames(threading.Event())
        threading.Thread(target=_serve_once_told, args=(told, port), daemon=True).start()
        captured = 0
        while captured < 90:  # more than one connection holds
            frame = next(frames)
            assert isinstance(frame, Frame)
            assert float(frame.bgr.mean()) == pytest.approx(77, abs=3)
            captured += 1 + frame.capture.dropped_before
            assert frame.capture.index == captured - 1
        assert camera.restarts >= 2


def _serve_once_told(told: "Queue[tuple[Level, str]]", port: int) -> None:
    level, sentence = told.get(timeout=20)
    assert level is Level.FAILED
    assert "does not answer" in sentence
    serve(port, 40)


def leftovers() -> set[Path]:
    """What a capture process might have left in memory or on the disk."""
    places = Path("/dev/shm"), Path(tempfile.gettempdir())
    return {path for place in places for path in place.iterdir() if path.name.startswith(("bloodedge", "psm_"))}


def test_closing_ends_the_capture_process_and_leaves_nothing_behind(
    folder: Path, open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "temporary"  # other processes put their files into the common folder meanwhile
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    before, files = leftovers(), len(list(Path("/proc/self/fd").iterdir()))
    camera = open_(replay(folder, loop=True))
    next(camera.frames(threading.Event()))
    camera.close()
    camera.close()
    wait_until_gone(camera.pid, 0.5)
    assert leftovers() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) == files


@pytest.mark.slow
def test_a_process_that_does_not_end_by_itself_is_killed(folder: Path, open_: Open) -> None:
    camera = open_(replay(folder, loop=True))
    next(camera.frames(threading.Event()))
    os.kill(camera.pid, signal.SIGSTOP)
    camera.close()
    assert not is_running(camera.pid)


PARENT = """
import sys, threading
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.settings.sections import CameraSettings
camera = SupervisedCamera(CameraSettings(kind="replay", source=sys.argv[1], loop=True, realtime=True, rate=500))
frames = camera.frames(threading.Event())
next(frames)
print(camera.pid, flush=True)
for _ in frames:
    pass
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_dies_takes_its_capture_process_with_it(folder: Path, end: signal.Signals) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    daemon.send_signal(end)
    daemon.communicate(timeout=10)
    wait_until_gone(pid, capture.PARTING_S + 2)


HANGING = """
import sys, time
from bloodedge_device.camera import capture
class Hanging:
    name, live = "hanging", True
    def frames(self, stop):
        time.sleep(60)
        yield
capture.open_camera = lambda settings, begin: Hanging()
capture.main()
"""


@pytest.mark.parametrize("unread", [False, True])
def test_a_driver_that_hangs_does_not_outlive_the_daemon(unread: bool) -> None:
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as memory:
        memory.truncate(capture.SLOTS * capture.SLOT_BYTES)
        descriptors = theirs.fileno(), memory.fileno()
        process = subprocess.Popen([sys.executable, "-c", HANGING, *map(str, descriptors)], pass_fds=descriptors)
    theirs.close()
    ours.sendall(json.dumps({"settings": {}, "begin": 0}).encode() + b"\n")
    assert ours.recv(1, socket.MSG_PEEK)  # it has opened its camera
    if not unread:
        ours.recv(4096)
    ours.close()  # as the kernel does for a daemon that was killed
    assert process.wait(timeout=capture.PARTING_S + 3) == 0


LIMITED = """
import resource
from bloodedge.errors import BloodedgeError
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.settings.sections import CameraSettings
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    SupervisedCamera(CameraSettings())
except BloodedgeError as error:
    print(error)
"""


def test_a_limit_that_leaves_no_memory_for_frames_is_told_in_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert "limit of file size" in done.stdout
    assert done.stderr == ""


class _Wire:
    """Keeps what a capture process tells the daemon."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []

    def write(self, line: bytes) -> None:
        self.told.append(json.loads(line))


def test_a_frame_that_is_too_large_is_a_bad_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "SLOT_BYTES", 48 * 64 * 3)
    wire, free = _Wire(), Queue[int]()
    sender = capture._Sender(wire)
    memory = mmap.mmap(-1, capture.SLOTS * capture.SLOT_BYTES)
    stop = capture._Pulse(sender)
    for bgr in (np.zeros((49, 64, 3), np.uint8), picture(5)):
        frame = Frame(Capture.now(0, monotonic()), bgr, None)
        free.put(0)
        capture._give(frame, memory, free, stop, sender)
    large, fits = wire.told
    assert "the limit is 33 million" in str(large["problem"])
    assert fits["slot"] == 0
    assert np.array_equal(np.frombuffer(memory, np.uint8, 48 * 64 * 3).reshape(48, 64, 3), picture(5))


# What never ends, and what ends the process


def test_pipes_and_devices_in_a_folder_of_images_are_passed_over(folder: Path, open_: Open) -> None:
    os.mkfifo(folder / "000a.png")
    (folder / "000b.png").symlink_to("/dev/zero")
    camera = open_(replay(folder))
    assert [frame.capture.source for frame in camera.frames(threading.Event())] == [f"{n:03d}.png" for n in range(12)]


def test_bad_frames_of_a_source_without_end_come_slowly(tmp_path: Path, open_: Open) -> None:
    (tmp_path / "gone.png").write_bytes(b"")
    camera, stop, came = open_(replay(tmp_path, loop=True)), threading.Event(), 0
    camera.wait_until_open(stop)
    end_s = monotonic() + 1.0
    for frame in camera.frames(stop):
        assert isinstance(frame, BadFrame)
        came += 1
        if monotonic() > end_s:
            break
    assert capture.BAD_IN_A_ROW < came <= capture.BAD_IN_A_ROW + 3


def test_bad_frames_are_held_back_like_others_while_the_daemon_is_busy(tmp_path: Path, open_: Open) -> None:
    for index in range(300):
        (tmp_path / f"{index:03d}.png").write_bytes(b"")
    camera = open_(replay(tmp_path))
    frames = camera.frames(threading.Event())
    first = next(frames)
    sleep(0.3)
    assert len(camera._child._frames) <= capture.SLOTS
    assert 1 + sum(1 for _ in frames) == 300
    assert isinstance(first, BadFrame)


def test_an_image_that_ends_the_capture_process_twice_is_passed_over(
    folder: Path, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal = folder.with_name("site")
    fatal.mkdir()
    (fatal / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def end(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('005.png'):\n"
        "        os._exit(9)\n"
        "sys.addaudithook(end)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fatal), *sys.path]))
    camera = open_(replay(folder))
    frames = list(camera.frames(threading.Event()))
    assert [isinstance(frame, BadFrame) for frame in frames] == [index == 5 for index in range(FRAMES)]
    assert [frame.capture.index for frame in frames] == list(range(FRAMES))
    assert "005.png was passed over" in frames[5].problem  # type: ignore[union-attr]
    assert camera.restarts == 2
