import socket
import threading
from collections.abc import Iterator
from datetime import UTC
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera import BadFrame, Frame, open_camera
from bloodedge_device.settings import CameraSettings


def frames_of(**settings: object) -> list[Frame | BadFrame]:
    return list(open_camera(CameraSettings.model_validate(settings)).frames(threading.Event()))


def picture(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in (("b.png", 20), ("a.PNG", 10), ("c.bmp", 30)):
        cv2.imwrite(str(tmp_path / name), picture(level))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_replayed_whole_in_the_order_of_its_names(folder: Path) -> None:
    frames = frames_of(kind="replay", source=str(folder), um_per_px=0.08)
    assert [(f.capture.index, f.capture.source, int(f.bgr[0, 0, 0])) for f in frames] == [
        (0, "a.PNG", 10),
        (1, "b.png", 20),
        (2, "c.bmp", 30),
    ]
    assert all(f.um_per_px == 0.08 and f.capture.captured_at.tzinfo is UTC for f in frames)


def test_a_single_image_is_a_folder_of_one(folder: Path) -> None:
    assert [f.capture.source for f in frames_of(kind="replay", source=str(folder / "b.png"))] == ["b.png"]


def test_a_folder_in_a_loop_begins_again(folder: Path) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=str(folder), loop=True))
    names = [f.capture.source for f in islice(camera.frames(threading.Event()), 5)]
    assert names == ["a.PNG", "b.png", "c.bmp", "a.PNG", "b.png"]


def test_broken_16_bit_and_grey_images_are_bad_frames_and_the_rest_is_replayed(folder: Path) -> None:
    (folder / "d_truncated.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "e_empty.jpg").write_bytes(b"")
    cv2.imwrite(str(folder / "f_deep.png"), picture(9).astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "g_grey.png"), picture(9)[:, :, 0])
    cv2.imwrite(str(folder / "h_fine.png"), picture(9))
    frames = frames_of(kind="replay", source=str(folder))
    problems = {f.capture.source: f.problem for f in frames if isinstance(f, BadFrame)}
    assert "truncated" in problems["d_truncated.png"]
    assert "empty" in problems["e_empty.jpg"]
    assert "16 bits" in problems["f_deep.png"]
    assert "grey" in problems["g_grey.png"]
    assert len(problems) == 4
    assert frames[-1].capture.source == "h_fine.png"
    assert isinstance(frames[-1], Frame)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="holds no image"):
        open_camera(CameraSettings(kind="replay", source=str(tmp_path)))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_camera(CameraSettings(kind="replay", source=str(tmp_path / "nothing")))


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(UsageError, match="not a video"):
        open_camera(CameraSettings(kind="replay", source=str(tmp_path / "film.mp4")))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for level in range(0, 100, 10):
        writer.write(picture(level))
    writer.release()
    return path


def test_every_frame_of_a_video_is_replayed(video: Path) -> None:
    levels = [float(f.bgr.mean()) for f in frames_of(kind="replay", source=str(video))]
    assert levels == pytest.approx(range(0, 100, 10), abs=3)


def test_a_video_in_a_loop_begins_again(video: Path) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=str(video), loop=True))
    assert len(list(islice(camera.frames(threading.Event()), 25))) == 25


class _Mjpeg(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        data = cv2.imencode(".jpg", picture(77))[1].tobytes()
        for _ in range(40):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            self.wfile.write(head + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://operator:secret@127.0.0.1:{server.server_port}/stream?token=secret"
    server.shutdown()


def test_a_network_stream_is_live_and_its_password_is_not_shown(stream: str) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=stream))
    assert camera.live
    assert "secret" not in camera.name
    frame = next(iter(camera.frames(threading.Event())))
    assert float(frame.bgr.mean()) == pytest.approx(77, abs=3)


def test_a_stream_that_does_not_answer_may_yet_be_switched_on() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/stream"
        with pytest.raises(BloodedgeError, match="does not answer") as error:
            open_camera(CameraSettings(kind="replay", source=address))
    assert not isinstance(error.value, UsageError)
    assert "percent-encoded" not in str(error.value)
    with pytest.raises(BloodedgeError, match="Or write special characters of its user and password percent-encoded"):
        open_camera(CameraSettings(kind="replay", source=address.replace("http://", "http://operator:p@ss@")))


def test_the_simulated_microscope_shows_the_same_fields_again() -> None:
    first, again, other = (
        next(iter(open_camera(CameraSettings(seed=seed)).frames(threading.Event()))).bgr for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_replay_can_go_on_where_it_was_left(folder: Path, video: Path) -> None:
    begun = open_camera(CameraSettings(kind="replay", source=str(folder)), begin=2)
    assert [f.capture.index for f in begun.frames(threading.Event())] == [2]
    film = list(open_camera(CameraSettings(kind="replay", source=str(video)), begin=7).frames(threading.Event()))
    assert [f.capture.index for f in film] == [7, 8, 9]
    assert [float(f.bgr.mean()) for f in film] == pytest.approx([70, 80, 90], abs=3)


def test_a_simulated_specimen_goes_on_with_the_same_field() -> None:
    whole = list(islice(open_camera(CameraSettings(seed=3)).frames(threading.Event()), 2))
    (rest,) = islice(open_camera(CameraSettings(seed=3), begin=1).frames(threading.Event()), 1)
    assert rest.capture.index == 1
    assert np.array_equal(rest.bgr, whole[1].bgr)


def test_a_rate_holds_the_camera_back(folder: Path) -> None:
    start = monotonic()
    frames_of(kind="replay", source=str(folder), rate=20)
    assert monotonic() - start >= 2 / 20
