"""A bundle that the fleet asks for: fetched whole and trusted, or refused with a sentence."""

import errno
import http.server
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from bloodedge.errors import UsageError
from bloodedge.files import sha256
from bloodedge_device.bundles import install as installing
from bloodedge_device.bundles.install import TryOut, install
from bloodedge_device.bundles.slot_record import Record, install_lock, read_record
from bloodedge_device.bundles.switch import mark_bad, mark_good, roll_back
from bloodedge_device.bundles.trial import Trial
from bloodedge_device.outputs import bundle_updater, download
from bloodedge_device.outputs.bundle_updater import DOWNLOAD, FILE, PARTING_S, BundleUpdater
from bloodedge_device.settings import DeviceSettings, read_settings
from bloodedge_device.timings import Timings
from support.needs import required
from support.slot_bundles import Laboratory, tried
from support.waiting import until

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """A web server that answers as it is told to, and counts."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = lambda request: request.send_error(404)
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}/bundles/x"

    def gives(self, data: bytes, length: int | None = None) -> None:
        """Answer with these bytes, saying that there are so many."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("content-length", str(len(data) if length is None else length))
            request.end_headers()
            request.wfile.write(data)

        self.answer = answer

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


class Board:
    """The updater, with the real installer but for the trial in a process of its own."""

    def __init__(self, lab: Laboratory, ca: Path | None = None) -> None:
        self.lab, self.settings = lab, lab.settings()
        self.trial: TryOut = tried
        self.updater = BundleUpdater(lab.state, ca, self._install, self.record, Timings(download_retry_s=(0.05,)))
        self.updater.start()

    def _install(self, path: Path) -> str:
        return install(self.settings, path, trial=self.trial).what.title

    def record(self) -> Record:
        return read_record(self.lab.state)

    def want(self, server: Server, bundle: Path, **changes: Any) -> None:
        message = {
            "rollout": "r1",
            "name": "lymph",
            "serial": 1,
            "sha256": sha256(bundle),
            "size_bytes": bundle.stat().st_size,
            "url": server.url,
        }
        self.updater.request(json.dumps(message | changes).encode())

    @property
    def state(self) -> tuple[str, str]:
        """(state, sentence) as the next report tells it."""
        told = self.updater.state
        return ("", "") if told is None else (told.state, told.sentence)

    def comes_to(self, state: str) -> str:
        """Wait for a state; gives its sentence."""
        assert until(lambda: self.state[0] == state), self.state
        return self.state[1]


@pytest.fixture
def board(lab: Laboratory) -> Iterator[Board]:
    made = Board(lab)
    yield made
    made.updater.stop()
    assert not (lab.state / DOWNLOAD).exists()


def test_a_requested_bundle_is_installed_once(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    board.want(server, bundle)
    board.comes_to("installed")
    running = board.record().running
    assert running is not None
    assert (running.title, running.sha256) == ("lymph 1", sha256(bundle))
    board.want(server, bundle)
    board.want(server, bundle, url=server.url + "y")
    board.updater.stop()
    again = Board(lab)  # the daemon starts anew
    again.want(server, bundle)
    assert again.state == ("installed", "")
    again.updater.stop()
    assert server.asked == 1


def refusal(board: Board, server: Server, bundle: Path, **changes: Any) -> str:
    before = board.record()
    board.want(server, bundle, **changes)
    sentence = board.comes_to("refused")
    assert board.record().active == before.active
    return sentence


def test_an_unsigned_bundle_is_refused_whoever_asks_for_it(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1, signed=False)
    server.gives(bundle.read_bytes())
    assert "not signed" in refusal(board, server, bundle)


def test_other_bytes_than_those_asked_for_are_refused(board: Board, server: Server, lab: Laboratory) -> None:
    bundle, other = lab.bundle(1), lab.bundle(2)
    server.gives(other.read_bytes())
    assert "its SHA-256 does not match" in refusal(board, server, bundle, size_bytes=other.stat().st_size)


def test_more_bytes_than_announced_are_not_read(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes() + b"x" * 10_000_000)
    assert "sends more than" in refusal(board, server, bundle)


def test_a_redirect_is_not_followed(board: Board, server: Server, lab: Laboratory) -> None:
    def elsewhere(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("location", "http://127.0.0.1:1/")
        request.end_headers()

    server.answer = elsewhere
    assert "redirects elsewhere" in refusal(board, server, lab.bundle(1))


def test_an_older_serial_is_refused(board: Board, server: Server, lab: Laboratory) -> None:
    install(board.settings, lab.bundle(5), trial=tried)
    running = board.record().running
    assert running is not None
    mark_good(lab.state, running.sha256)
    older = lab.bundle(4)
    server.gives(older.read_bytes())
    assert "older than lymph 5" in refusal(board, server, older)


def test_what_is_no_wish_is_passed_over(board: Board, server: Server) -> None:
    for payload in (b"x", b"{}", b"[1]", b"\xff", b"x" * 100_000, b'{"url": "file:///etc/shadow"}'):
        board.updater.request(payload)
    assert board.state == ("", "")
    assert server.asked == 0


def test_a_download_that_breaks_off_starts_again(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    data = bundle.read_bytes()
    server.gives(data[:5000], length=len(data))
    board.want(server, bundle)
    assert until(lambda: "broke off before the end" in board.state[1]), board.state
    assert board.state[0] == "downloading"
    server.gives(data)
    board.comes_to("installed")


def test_a_server_that_is_away_is_asked_again(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    board.want(server, bundle, url="http://127.0.0.1:1/")
    assert until(lambda: "cannot be reached (Connection refused)" in board.state[1]), board.state
    board.want(server, bundle)
    assert until(lambda: "answers 404" in board.state[1]), board.state
    server.gives(bundle.read_bytes())
    board.comes_to("installed")


def test_a_withdrawn_request_ends_the_download(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    going = threading.Event()

    def slowly(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not going.wait(0.02):
            try:
                request.wfile.write(b"x" * 10)
            except OSError:
                going.set()

    server.answer = slowly
    board.want(server, bundle)
    assert until(lambda: server.asked == 1)
    board.updater.request(b"")
    assert going.wait(10)
    assert board.state == ("", "")
    assert board.record().active is None
    assert not (lab.state / FILE).exists()


def test_a_bundle_on_probation_is_not_overtaken(board: Board, server: Server, lab: Laboratory) -> None:
    install(board.settings, lab.bundle(1), trial=tried)
    newer = lab.bundle(2)
    server.gives(newer.read_bytes())
    board.want(server, newer)
    assert until(lambda: "lymph 1 is on probation here" in board.state[1]), board.state
    running = board.record().running
    assert running is not None
    mark_good(lab.state, running.sha256)
    board.comes_to("installed")


@pytest.mark.parametrize("how", ["by itself", "by hand"])
def test_a_bundle_that_proves_bad_is_reported_and_not_fetched_again(
    board: Board, server: Server, lab: Laboratory, how: str
) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    board.want(server, bundle)
    board.comes_to("installed")
    if how == "by itself":
        mark_bad(lab.state, sha256(bundle), "9 in 10 cells were uncertain")
    else:
        roll_back(board.settings)
    sentence = board.comes_to("went back")
    assert sentence == ("9 in 10 cells were uncertain" if how == "by itself" else "rolled back by hand")
    board.want(server, bundle, url=server.url + "y")
    assert board.state[0] == "went back"
    assert server.asked == 1
    board.want(server, bundle, rollout="r2")  # asked for anew by a person
    board.comes_to("installed")


def test_a_full_disk_is_waited_for(
    board: Board, server: Server, lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_updater, "SPARE_BYTES", 2**60)
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    board.want(server, bundle)
    assert until(lambda: "no room for the requested bundle" in board.state[1]), board.state
    monkeypatch.setattr(bundle_updater, "SPARE_BYTES", 0)
    board.comes_to("installed")


def test_a_disk_that_is_full_for_a_moment_is_no_refusal(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    (lab.state / DOWNLOAD).symlink_to("/dev/full")  # removed with the first, unfinished download
    board.want(server, bundle)
    board.comes_to("installed")
    assert server.asked == 2


@pytest.mark.parametrize("when", ["before the copy", "while it is tried out"])
def test_nor_is_one_that_is_full_during_the_install(
    when: str, board: Board, server: Server, lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_on_a_full_disk(_settings: DeviceSettings, path: Path) -> Trial:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    if when == "before the copy":
        monkeypatch.setattr(installing, "ROOM_MB", 2**40)
    else:
        board.trial = try_on_a_full_disk
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    board.want(server, bundle)
    told = "MB too little free space" if when == "before the copy" else "No space left on device"
    assert until(lambda: told in board.state[1]), board.state
    assert board.state[0] == "downloading"
    assert board.state[1].endswith("; it is tried again.")
    monkeypatch.setattr(installing, "ROOM_MB", 0)
    board.trial = tried
    board.comes_to("installed")
    assert [event.action for event in board.record().history] == ["installed"]  # nothing was said against the bundle


def test_another_install_is_waited_for(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    with install_lock(lab.state):
        board.want(server, bundle)
        assert until(lambda: "Another bundle is being installed" in board.state[1]), board.state
        assert board.state[0] == "downloading"
    board.comes_to("installed")


def test_trusted_keys_that_cannot_be_read_are_waited_for(board: Board, server: Server, lab: Laboratory) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    odd = board.settings.trusted_keys / "notes.pub"
    odd.write_text("no key")
    board.want(server, bundle)
    assert until(lambda: "notes.pub" in board.state[1]), board.state
    assert board.state[0] == "downloading"
    odd.unlink()
    board.comes_to("installed")


@pytest.mark.parametrize("url", ["http://[x/y", f"http://{'a' * 70}.example/y", "http:///y", "https://h:99999/y"])
def test_a_bad_address_is_refused_and_the_next_request_is_taken(
    board: Board, server: Server, lab: Laboratory, url: str
) -> None:
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    assert refusal(board, server, bundle, url=url) == f"{url} is not the address of a file; correct --url."
    board.want(server, bundle, rollout="r2")
    board.comes_to("installed")


def test_an_unexpected_error_is_reported_and_tried_again(board: Board, server: Server, lab: Laboratory) -> None:
    def broken(_settings: DeviceSettings, _path: Path) -> Trial:
        raise RuntimeError("?")

    board.trial = broken
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    board.want(server, bundle)
    assert until(lambda: "could not be installed (RuntimeError)" in board.state[1]), board.state
    board.trial = tried
    board.comes_to("installed")


@pytest.mark.parametrize("where", ["its head", "its body"])
def test_a_server_that_drips_keeps_nobody_waiting(board: Board, server: Server, lab: Laboratory, where: str) -> None:
    bundle, hung, let_go = lab.bundle(1), threading.Event(), threading.Event()

    def drips(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"X-Slow: " if where == "its head" else b"\r\nP"))
        hung.set()
        let_go.wait(60)

    server.answer = drips
    board.want(server, bundle)
    assert hung.wait(10)
    server.gives(bundle.read_bytes())
    began_s = monotonic()
    board.want(server, bundle, rollout="r2")
    board.comes_to("installed")
    server.answer = drips
    hung.clear()
    mark_good(lab.state, sha256(bundle))
    board.want(server, lab.bundle(2), rollout="r3")
    assert hung.wait(10)
    board.updater.stop()
    assert monotonic() - began_s < PARTING_S
    let_go.set()


def test_a_server_that_is_too_slow_is_given_up_for_the_time_being(
    board: Board, server: Server, lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def drips(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not let_go.wait(0.05):
            with suppress(OSError):
                request.wfile.write(b"X")

    monkeypatch.setattr(download, "ANSWER_WITHIN_S", 0.5)
    monkeypatch.setattr(download, "SLOWEST_BYTES_PER_S", 1e9)
    server.answer = drips
    bundle = lab.bundle(1)
    board.want(server, bundle)
    assert until(lambda: "too slowly" in board.state[1]), board.state
    monkeypatch.undo()
    server.gives(bundle.read_bytes())
    board.comes_to("installed")
    let_go.set()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for 127.0.0.1 by the script for the broker."""
    required("openssl")
    folder = tmp_path_factory.mktemp("authority")
    script = Path(__file__).resolve().parents[2] / "firmware_configs" / "broker" / "certificates.sh"
    for words in (("ca",), ("broker", "127.0.0.1")):
        subprocess.run(["sh", script, folder, *words], check=True, capture_output=True)
    return folder


def test_over_https_the_server_s_certificate_must_be_right(lab: Laboratory, authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "broker.pem", authority / "broker.key")
    server = Server(context)
    bundle = lab.bundle(1)
    server.gives(bundle.read_bytes())
    stranger = Board(lab)  # trusts the system's authorities only
    stranger.want(server, bundle)
    assert until(lambda: "its certificate is not trusted" in stranger.state[1]), stranger.state
    stranger.updater.stop()
    board = Board(lab, authority / "ca.pem")
    board.want(server, bundle)
    board.comes_to("installed")
    board.updater.stop()
    server.stop()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [("[trust]\nunsigned = true", "takes signed bundles only"), ('bundle = "x.bundle"', "installs bundles")],
)
def test_settings_that_would_take_anything_are_refused(tmp_path: Path, more: str, sentence: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(f"{more}\n[update]\nfrom_fleet = true\n")
    with pytest.raises(UsageError, match=sentence):
        read_settings(path)
    assert DeviceSettings().update.from_fleet is False
