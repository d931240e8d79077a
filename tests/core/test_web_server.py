"""The web server under clients that only take up connections."""

import gc
import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bloodedge import web_server, web_socket
from bloodedge.web_socket import listen, server_tls
from support.needs import required
from support.waiting import until

pytest.importorskip("uvicorn", reason="the page's server is not installed (pip install -e '.[device]')")

MOST = 8
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 32 * 2**20


async def small_and_large(scope: Any, _receive: Any, send: Any) -> None:
    """Answers with two bytes, or with more than any buffer holds."""
    body = b"x" * LARGE if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server in a thread of its own."""
    server = web_server.make_server(small_and_large, {}, lambda *_: small_and_large, tls, MOST)
    with listen("127.0.0.1", 0, ("host", "port")) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            assert until(lambda: server.started)
            yield port
        finally:
            server.should_exit = True
            thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answers(port: int) -> bool:
    with suppress(OSError), connect(port) as client:
        client.sendall(GET % b"/")
        return client.recv(100).startswith(b"HTTP/1.1 200")
    return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_idle_connections_take_few_descriptors_and_shut_nobody_out() -> None:
    with serving() as port, ExitStack() as stack:
        before = descriptors()
        mine = [stack.enter_context(connect(port)) for _ in range(100)]
        assert answers(port)
        assert until(lambda: descriptors() - before - len(mine) <= MOST + web_socket.SPARE)
        assert sum(map(is_closed, mine)) >= 100 - MOST - web_socket.SPARE


def test_who_reads_nothing_of_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "SILENT_S", 0.1)
    with serving() as port:
        before = descriptors()
        stalled, closing = connect(port), connect(port)
        assert until(lambda: descriptors() == before + 4)
        stalled.sendall(GET % b"/large")
        closing.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"/large")
        assert until(lambda: descriptors() == before + 2, 30)
        stalled.close()
        closing.close()


def test_a_slow_reader_gets_all_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "SILENT_S", 0.2)
    with serving() as port, connect(port) as client:
        client.sendall(GET % b"/large")
        got = 0
        while got < LARGE:
            part = client.recv(2**18)
            assert part
            got += len(part)


def test_closed_connections_leave_no_memory_behind_that_must_be_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a search for cycles, which comes the later the more a program holds."""
    monkeypatch.setattr(web_server, "SILENT_S", 0.1)
    gc.collect()
    gc.disable()
    try:
        with serving() as port, connect(port) as stalled:
            stalled.sendall(GET % b"/large")
            for number in range(20):
                with connect(port) as client:
                    if number % 2:
                        client.sendall(GET % b"/")
                        client.recv(100)
            assert until(
                lambda: not any(isinstance(one, web_server.LimitedProtocol) for one in gc.get_objects()), 30
            )  # uvicorn keeps a closed one for its 5 s of keep-alive
    finally:
        gc.enable()


def test_tls_handshakes_that_never_begin_are_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web_server, "SILENT_S", 0.2)
    command = f"{required('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    tls = server_tls(tmp_path / "certificate.pem", tmp_path / "key.pem", ("certificate", "key"))
    with serving(tls) as port, ExitStack() as stack:
        mine = [stack.enter_context(connect(port)) for _ in range(5)]
        assert until(lambda: all(map(is_closed, mine)), 30)


def test_the_last_descriptors_are_never_a_connection_s(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as port:
        assert answers(port)
        monkeypatch.setattr(web_socket, "KEPT_FREE", soft - 5)
        assert not answers(port)
        monkeypatch.undo()
        assert answers(port)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_idle_connections_give_way_where_descriptors_are_the_fewest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as port, ExitStack() as stack:
        before = descriptors()
        mine = [stack.enter_context(connect(port)) for _ in range(MOST)]
        assert until(lambda: descriptors() == before + 2 * MOST, 30)  # the server has accepted all of them
        last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        while (filling := os.dup(0)) < last:  # no descriptor below the last one is free
            stack.callback(os.close, filling)
        os.close(filling)
        monkeypatch.setattr(web_socket, "_descriptors", lambda: last + web_socket.KEPT_FREE)
        assert until(lambda: answers(port), 30)
        assert any(map(is_closed, mine))


def test_without_a_descriptor_it_says_so_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = socket.socket.accept

    def starved(_: socket.socket) -> Any:
        raise OSError(24, "Too many open files")

    with serving() as port:
        monkeypatch.setattr(socket.socket, "accept", starved)
        with connect(port):
            assert until(lambda: caplog.records)
            monkeypatch.setattr(socket.socket, "accept", accept)
            assert until(lambda: answers(port))
    assert len(caplog.records) < 5
