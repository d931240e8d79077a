import os
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
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.camera.jpeg import decode_jpeg
from bloodedge_device.camera.open import open_camera
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.settings import DeviceSettings, with_options
from bloodedge_device.settings.sections import CameraSettings
from support.films import cut, film, gap, zeros
from support.rtsp_camera import RtspCamera


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


def test_names_that_are_not_utf8_are_text_and_the_right_file_is_opened(folder: Path) -> None:
    odd = folder / os.fsdecode(b"Pr\xe4parat.png")
    (folder / "b.png").rename(odd)
    (frame,) = frames_of(kind="replay", source=str(odd))
    assert (frame.capture.source, int(frame.bgr[0, 0, 0])) == (r"Pr\xe4parat.png", 20)
    odd.write_bytes(b"")
    (bad,) = frames_of(kind="replay", source=str(odd))
    assert isinstance(bad, BadFrame)
    assert r"Pr\xe4parat.png is empty" in bad.problem.encode().decode()


def test_a_video_whose_name_is_not_utf8_is_replayed(tmp_path: Path) -> None:
    plain, odd = tmp_path / "film.avi", tmp_path / os.fsdecode(b"Pr\xe4parat.avi")
    writer = cv2.VideoWriter(str(plain), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for level in (40, 80, 120):
        writer.write(picture(level))
    writer.release()
    plain.rename(odd)
    camera = open_camera(CameraSettings(kind="replay", source=str(odd)))
    assert camera.name == r"replay of Pr\xe4parat.avi"
    assert len(list(camera.frames(threading.Event()))) == 3


def test_a_folder_in_a_loop_begins_again(folder: Path) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=str(folder), loop=True))
    names = [f.capture.source for f in islice(camera.frames(threading.Event()), 5)]
    assert names == ["a.PNG", "b.png", "c.bmp", "a.PNG", "b.png"]


def test_broken_float_and_grey_images_are_bad_frames_and_the_rest_is_replayed(folder: Path) -> None:
    (folder / "d_truncated.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "e_empty.jpg").write_bytes(b"")
    cv2.imwrite(str(folder / "f_deep.tif"), picture(9).astype(np.float32))
    cv2.imwrite(str(folder / "g_grey.png"), picture(9)[:, :, 0])
    cv2.imwrite(str(folder / "h_fine.png"), picture(9))
    frames = frames_of(kind="replay", source=str(folder))
    problems = {f.capture.source: f.problem for f in frames if isinstance(f, BadFrame)}
    assert "truncated" in problems["d_truncated.png"]
    assert "empty" in problems["e_empty.jpg"]
    assert "32 bits" in problems["f_deep.tif"]
    assert "grey" in problems["g_grey.png"]
    assert len(problems) == 4
    assert frames[-1].capture.source == "h_fine.png"
    assert isinstance(frames[-1], Frame)


def test_an_image_of_16_bits_is_replayed_in_8(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), picture(90).astype(np.uint16) * 257)
    (frame,) = frames_of(kind="replay", source=str(tmp_path))
    assert isinstance(frame, Frame)
    assert np.array_equal(frame.bgr, picture(90))


def test_a_stack_of_pictures_is_refused_by_their_count_instead_of_its_first_taken(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "stack.tif"), [picture(level) for level in (9, 99)])
    (frame,) = frames_of(kind="replay", source=str(tmp_path))
    assert isinstance(frame, BadFrame)
    assert "holds 2 pictures; save each as a file of its own" in frame.problem


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="has no image"):
        open_camera(CameraSettings(kind="replay", source=str(tmp_path)))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_camera(CameraSettings(kind="replay", source=str(tmp_path / "nothing")))


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(UsageError, match="cannot be read as a video"):
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


def damaged(frames: list[Frame | BadFrame]) -> list[int]:
    return [f.capture.index for f in frames if isinstance(f, BadFrame)]


def test_a_film_goes_on_after_frames_that_did_not_arrive_whole(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", 9, {2: zeros, 4: cut, 7: gap})
    camera = open_camera(CameraSettings(kind="replay", source=str(path)))
    frames = list(camera.frames(threading.Event()))
    assert [f.capture.index for f in frames] == list(range(9))
    assert damaged(frames) == [2, 4, 7]
    assert all("damaged" in f.problem for f in frames if isinstance(f, BadFrame))
    assert camera.ending == "All 9 announced frames came."
    whole = list(open_camera(CameraSettings(kind="replay", source=str(film(path, 9)))).frames(threading.Event()))
    for frame, as_it_was in zip(frames, whole, strict=True):
        if isinstance(frame, Frame):
            assert isinstance(as_it_was, Frame)
            assert np.array_equal(frame.bgr, as_it_was.bgr)


def test_a_film_that_ends_early_says_how_many_frames_came(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    camera = open_camera(CameraSettings(kind="replay", source=str(path)))
    came = len(list(camera.frames(threading.Event())))
    assert 4 <= came <= 8
    assert camera.ending.startswith(f"Only {came} of the 12 announced frames came")


def test_a_film_of_another_codec_goes_on_after_a_frame_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 25, (64, 48))
    for level in range(0, 100, 5):
        writer.write(picture(level))
    writer.release()
    data = bytearray(path.read_bytes())
    at = data.index(b"00dc", data.index(b"movi"))
    for _ in range(6):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    data[at + 8 : at + 8 + size] = b"\xff" * size
    path.write_bytes(data)
    camera = open_camera(CameraSettings(kind="replay", source=str(path)))
    frames = list(camera.frames(threading.Event()))
    assert damaged(frames) == [6]
    assert len(frames) == 20
    assert camera.ending == "All 20 announced frames came."


def test_interlaced_frames_are_rejected_for_what_they_are(tmp_path: Path) -> None:
    def interlace(frame: bytes) -> bytes:
        fields = 2 * cv2.imencode(".jpg", np.full((120, 320, 3), 77, np.uint8))[1].tobytes()
        return fields + bytes(len(frame) - len(fields))

    path = film(tmp_path / "film.avi", 4, dict.fromkeys(range(4), interlace))
    frames = frames_of(kind="replay", source=str(path))
    assert damaged(frames) == [0, 1, 2, 3]
    assert all("interlaced" in f.problem for f in frames if isinstance(f, BadFrame))


def test_a_jpeg_with_bytes_that_some_cameras_put_before_its_end_is_whole() -> None:
    data = cv2.imencode(".jpg", picture(77))[1].tobytes()
    for filled in (data + bytes(65), data[:-2] + b"\x11" * 40 + data[-2:]):
        pixels = decode_jpeg(filled)
        assert pixels is not None
        assert np.array_equal(pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert decode_jpeg(data[:-2]) is None
    assert decode_jpeg(data[: len(data) // 2] + data) is None  # the end of one was lost, and the next follows
    grey = decode_jpeg(cv2.imencode(".jpg", picture(77)[:, :, 0])[1].tobytes())
    assert grey is not None
    assert grey.ndim == 2


class _Mjpeg(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        whole = cv2.imencode(".jpg", picture(77))[1].tobytes()
        for number in range(40):
            data = whole if number % 3 else whole[: len(whole) // 2]
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


def test_a_network_stream_is_live_its_damaged_frames_are_found_and_its_password_is_not_shown(stream: str) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=stream))
    assert camera.live
    assert "secret" not in camera.name
    frames = list(islice(camera.frames(threading.Event()), 12))
    assert damaged(frames) == [0, 3, 6, 9]
    assert all(float(f.bgr.mean()) == pytest.approx(77, abs=3) for f in frames if isinstance(f, Frame))


def served(data: bytes) -> int:
    """The port of a server that sends ``data`` to whoever comes, and then hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


@pytest.mark.parametrize("scheme", ["tcp", "TCP"])
def test_jpegs_over_tcp_are_a_stream(scheme: str) -> None:
    port = served(cv2.imencode(".jpg", picture(77))[1].tobytes() * 20)
    camera = open_camera(CameraSettings(kind="replay", source=f"{scheme}://127.0.0.1:{port}"))
    assert camera.live
    frames = list(camera.frames(threading.Event()))
    assert [float(f.bgr.mean()) for f in frames if isinstance(f, Frame)] == pytest.approx([77] * 20, abs=3)


@pytest.mark.parametrize("scheme", ["rtsp", "RTSP"])
def test_damaged_jpegs_of_an_rtsp_camera_are_found(scheme: str) -> None:
    field = render_field(3, FieldSpec(width=320, height=240)).bgr
    whole = cv2.imencode(".jpg", field)[1].tobytes()
    camera = RtspCamera([whole, whole, whole[: len(whole) // 2]], (320, 240))
    try:
        opened = open_camera(CameraSettings(kind="replay", source=f"{scheme}://{camera.address}"))
        frames = list(islice(opened.frames(threading.Event()), 9))
    finally:
        camera.close()
    assert damaged(frames) == [2, 5, 8]
    decoded = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    assert all(np.array_equal(f.bgr, decoded) for f in frames if isinstance(f, Frame))


def test_a_scheme_in_capitals_is_the_same_stream(stream: str) -> None:
    camera = open_camera(CameraSettings(kind="replay", source=stream.replace("http", "HTTP")))
    assert len(list(islice(camera.frames(threading.Event()), 5))) == 5


def test_a_transport_stream_over_udp_is_read(tmp_path: Path) -> None:
    path = tmp_path / "film.ts"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for _ in range(50):
        writer.write(picture(77))
    writer.release()
    data = path.read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.is_set():
                for at in range(0, len(data), 7 * 188):
                    sender.sendto(data[at : at + 7 * 188], ("127.0.0.1", port))
                    ended.wait(0.002)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        camera = open_camera(CameraSettings(kind="replay", source=f"udp://127.0.0.1:{port}"))
        assert len(list(islice(camera.frames(threading.Event()), 5))) == 5
    finally:
        ended.set()
        sending.join()


@pytest.mark.parametrize(("scheme", "first"), [("rtsp", b"OPTIONS"), ("RTSP", b"OPTIONS"), ("rtsps", b"\x16\x03")])
def test_rtsp_is_spoken_plainly_or_within_tls(scheme: str, first: bytes) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with server.accept()[0] as connection:
                heard.extend(connection.recv(64))

        listening = threading.Thread(target=listen)
        listening.start()
        with pytest.raises(BloodedgeError, match="does not answer"):
            open_camera(CameraSettings(kind="replay", source=f"{scheme}://127.0.0.1:{server.getsockname()[1]}/1"))
        listening.join()
    assert heard.startswith(first)  # 22, 3: a TLS handshake (RFC 8446, 5.1)


def test_an_address_of_an_unknown_kind_is_no_path() -> None:
    with pytest.raises(UsageError, match=r"Streams at ftp:// cannot be read; .*rtsps://"):
        with_options(DeviceSettings(), camera="ftp://microscope/film.avi")


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


def test_a_mixed_specimen_has_cells_of_other_kinds_which_are_neither_blasts_nor_normal() -> None:
    cameras = [open_camera(CameraSettings(mixed=mixed)) for mixed in (False, True)]
    drawn = [[sum(f.capture.truth or ()) for f in islice(c.frames(threading.Event()), 8)] for c in cameras]
    assert sum(drawn[1]) < sum(drawn[0])
    assert "mixed" in cameras[1].name
