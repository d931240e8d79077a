"""Who may ask for what, over TCP and over the Unix socket."""

import datetime as dt
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from bloodedge import web_server
from bloodedge.errors import UsageError
from bloodedge.web_access import TOKEN, RefusedError, Throttle, TokenCheck, check_token, new_token
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.web import request_checks
from bloodedge_device.web.access import Access, Sessions
from bloodedge_device.web.client import SOCKET, ask
from bloodedge_device.web.server import WebServer
from support import web_fakes
from support.needs import required
from support.web_fakes import FakeDaemon, access_of, client_of, csrf_of

LAN = WebSettings(host="0.0.0.0", names=("scope.lab.example",))
HOST = "scope.lab.example"


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state)
    yield daemon
    daemon.store.close()


@pytest.fixture
def token(state: Path) -> str:
    return new_token(state)


@pytest.fixture
def lan(state: Path) -> Iterator[FakeDaemon]:
    """A daemon that other machines may ask."""
    daemon = web_fakes.busy_daemon(state, LAN)
    yield daemon
    daemon.store.close()


def signed_in(lan: FakeDaemon, token: str, access: Access | None = None) -> TestClient:
    client = client_of(lan, access, HOST)
    assert client.post("/login", data={"token": token}).status_code == 303
    return client


# Names


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST:8765"])
def test_a_local_page_answers_to_this_machines_names(daemon: FakeDaemon, host: str) -> None:
    assert client_of(daemon).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost", "localhost:80", "127.0.0.1.evil.example:8765", "",
             "192.168.1.5:8765", "localhost:8765:8765", "[::1", "localhost:٨", "user@localhost:8765"],
)  # fmt: skip
def test_a_page_elsewhere_cannot_lead_a_browser_here_under_another_name(daemon: FakeDaemon, host: str) -> None:
    assert client_of(daemon).get("/", headers={"host": host.encode()}).status_code == 421


def test_names_of_the_settings_are_this_machines(lan: FakeDaemon) -> None:
    client = client_of(lan)
    for host in (HOST, f"{HOST}:443", "192.168.1.5:8765", f"{socket.gethostname()}:8765"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200
    assert client.get("/healthz", headers={"host": "evil.example:8765"}).status_code == 421


# Writing


def writes(client: TestClient, **more: object) -> int:
    return client.post("/api/v1/slides", json={"label": "x"}, **more).status_code  # type: ignore[arg-type]


def test_a_write_needs_the_token_or_a_page_of_this_device(daemon: FakeDaemon, token: str) -> None:
    client = client_of(daemon)
    assert writes(client) == 403
    assert writes(client, headers={"x-csrf-token": csrf_of(client)}) == 201
    client.cookies.clear()
    assert writes(client, headers={"authorization": f"Bearer {token}"}) == 201
    assert writes(client, headers={"authorization": "Bearer wrong"}) == 401


def test_a_forms_token_is_of_no_use_in_another_browser(daemon: FakeDaemon) -> None:
    access = access_of(daemon)
    mine, other = client_of(daemon, access), client_of(daemon, access)
    other.get("/")
    assert writes(other, headers={"x-csrf-token": csrf_of(mine)}) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:8766"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_write_that_another_page_sends_is_refused_with_the_right_form_too(
    daemon: FakeDaemon, headers: dict[str, str]
) -> None:
    client = client_of(daemon)
    csrf = csrf_of(client)
    assert writes(client, headers={"x-csrf-token": csrf, **headers}) == 403
    assert daemon.slide == 1
    right = {"x-csrf-token": csrf, "origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
    assert writes(client, headers=right) == 201


def test_another_site_may_link_to_a_page_and_no_more(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    link, image = ({"sec-fetch-site": "cross-site", "sec-fetch-mode": mode} for mode in ("navigate", "no-cors"))
    assert client.get("/", headers=link).status_code == 200
    for path in ("/", "/live/1.jpg", "/slides/1/export.pdf"):
        assert client.get(path, headers=image).status_code == 403
    neighbour = {"sec-fetch-site": "same-site"}  # another port of this machine
    for headers in (link, {**link, **neighbour}, {**image, **neighbour}):
        for path in ("/slides/1/export.pdf", "/slides/1/report", "/api/v1/slides", "/metrics", "/live/1.jpg"):
            assert client.get(path, headers=headers).status_code == 403
    typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}
    assert client.get("/slides/1/export.csv", headers=typed).status_code == 200


def test_a_browser_that_does_not_say_which_site_asks_is_judged_by_where_it_comes_from(daemon: FakeDaemon) -> None:
    client, browser = client_of(daemon), {"user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    costly = ("/slides/1/export.csv", "/slides/1/report", "/live/1.jpg", "/metrics")
    for other in (
        {"referer": "http://elsewhere/"},
        {"origin": "null"},
        {"referer": "http://127.0.0.1:8766/slides/1"},
        {"referer": "http://127.0.0.1:8765.elsewhere/"},
        {},
    ):
        assert {client.get(path, headers=browser | other).status_code for path in costly} == {403}
        assert client.get("/slides/1", headers=browser | other).status_code == 200
    for own in ({"referer": "http://127.0.0.1:8765/slides/1"}, {"origin": "http://127.0.0.1:8765"}):
        assert client.get("/slides/1/export.csv", headers=browser | own).status_code == 200
    assert client.get("/slides/1/export.csv", headers={"user-agent": "curl/8.0"}).status_code == 200
    assert client.get("/favicon.ico", headers=browser).status_code == 200


def test_an_address_can_be_typed_where_the_login_is_a_cookie_that_other_sites_lack(lan: FakeDaemon, token: str) -> None:
    typed = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}  # without encryption, no browser says more
    assert signed_in(lan, token).get("/slides/1/export.csv", headers=typed).status_code == 200


def test_reading_changes_nothing(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    for path in ("/slides/end", "/slides/1/label", "/logout", "/api/v1/slides/current/end"):
        assert client.get(path).status_code == 405
    assert daemon.slide == 1


# Sign in


def test_the_page_is_not_opened_to_other_machines_without_a_token(state: Path) -> None:
    daemon = FakeDaemon(state, LAN)
    with pytest.raises(UsageError, match="bloodedge device token"):
        WebServer(daemon.desk, LAN, state).start()
    assert not (state / SOCKET).exists()


def test_other_machines_read_nothing_without_signing_in(lan: FakeDaemon, token: str) -> None:
    client = client_of(lan, host=HOST)
    for path in ("/", "/slides", "/slides/1", "/slides/1/export.csv", "/health", "/review/1"):
        assert client.get(path).headers["location"] == "/login"
    for path in ("/api/v1/status", "/api/v1/cells/1/crop", "/metrics", "/live/1.jpg", "/live/view"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/api/v1/status", headers={"authorization": f"Bearer {token}"}).status_code == 200
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/login", "/static/page.css")] == [200] * 4


def test_signing_in_opens_the_page_and_signing_out_closes_it(lan: FakeDaemon, token: str) -> None:
    client = signed_in(lan, token)
    csrf = csrf_of(client)
    assert client.post("/slides", data={"label": "Mine"}).status_code == 403
    assert client.post("/slides", data={"label": "Mine", "csrf": csrf}).status_code == 303
    cookies = dict(client.cookies)
    assert client.post("/logout", data={"csrf": csrf}).headers["location"] == "/login"
    client.cookies.update(cookies)
    assert client.get("/").headers["location"] == "/login"


def test_the_sessions_cookie_is_kept_from_scripts_and_other_sites(lan: FakeDaemon, token: str) -> None:
    set_cookie = client_of(lan, host=HOST).post("/login", data={"token": token}).headers["set-cookie"]
    assert all(part in set_cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"))
    assert "Secure" not in set_cookie
    lan.settings = lan.settings.model_copy(update={"web": LAN.model_copy(update={"certificate": Path("c.pem")})})
    set_cookie = client_of(lan, host=HOST).post("/login", data={"token": token}).headers["set-cookie"]
    assert set_cookie.startswith("__Host-")
    assert "Secure" in set_cookie


def test_a_session_that_nobody_signed_in_to_is_worth_nothing_to_other_machines(lan: FakeDaemon, token: str) -> None:
    assert token
    access = access_of(lan)
    cookie, _ = access.sessions.begin(signed_in=False)
    assert client_of(lan, access, HOST, cookies={access.cookie: cookie}).get("/").headers["location"] == "/login"


def test_a_session_ends_after_twelve_hours(lan: FakeDaemon, token: str) -> None:
    clock = Clock()
    client = signed_in(lan, token, access_of(lan, clock=clock))
    clock.now += 12 * 3600 - 1
    assert client.get("/").status_code == 200
    clock.now += 2
    assert client.get("/").headers["location"] == "/login"


def test_a_new_token_ends_sessions_and_the_old_token(lan: FakeDaemon, token: str) -> None:
    client = signed_in(lan, token)
    other = new_token(lan.desk.state)
    assert client.get("/").headers["location"] == "/login"
    client.cookies.clear()
    assert client.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/metrics", headers={"authorization": f"Bearer {other}"}).status_code == 200


def test_a_wrong_token_is_refused_and_noted(lan: FakeDaemon, token: str) -> None:
    assert token
    answer = client_of(lan, host=HOST).post("/login", data={"token": "guess"})
    assert answer.status_code == 401
    assert "This token is wrong" in answer.text
    assert "set-cookie" not in answer.headers
    ((action,),) = lan.store._database.execute("SELECT action FROM audit ORDER BY id DESC LIMIT 1").fetchall()
    assert action == "login refused"


def test_another_site_cannot_sign_a_browser_in(lan: FakeDaemon, token: str) -> None:
    client = client_of(lan, host=HOST)
    assert client.post("/login", data={"token": token}, headers={"origin": "http://evil.example"}).status_code == 403


def test_only_a_hash_of_the_token_is_kept_and_only_for_this_user(state: Path) -> None:
    token = new_token(state)
    assert len(token) >= 43  # 256 bits in base64
    assert stat.S_IMODE((state / TOKEN).stat().st_mode) == 0o600
    assert token not in (state / TOKEN).read_text()
    assert check_token(state, token)
    assert not check_token(state, token[:-1])
    assert not TokenCheck(state / "elsewhere").is_right("", "")


@pytest.mark.parametrize(
    "damage",
    ["", "{}", "[]", '{"salt": "zz", "scrypt": ""}', '{"salt": 1, "scrypt": 2}', '{"sha256": 1}', '{"sha256": ""}'],
)
def test_a_damaged_token_lets_nobody_in(state: Path, token: str, damage: str) -> None:
    (state / TOKEN).write_text(damage)
    tokens = TokenCheck(state)
    assert not tokens.is_right(token, "")
    assert not tokens.is_right("", "")


# Guessing


def test_guessing_is_slowed_down_more_and_more() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    waits = []
    for _ in range(9):
        wait = throttle.begin("10.0.0.1")
        waits.append(wait)
        clock.now += wait
        if wait:
            throttle.begin("10.0.0.1")
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8]
    assert throttle.begin("10.0.0.2") == 0


def test_the_longest_wait_is_a_quarter_of_an_hour() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    longest = 0.0
    for _ in range(40):
        wait = throttle.begin("10.0.0.1")
        longest = max(longest, wait)
        clock.now += wait
    assert longest == 900


def test_many_addresses_together_may_not_guess_faster() -> None:
    throttle = Throttle(Clock())
    assert sum(throttle.begin(f"10.0.{n // 250}.{n % 250}") == 0 for n in range(500)) == 30


def test_a_whole_ipv6_network_counts_as_one_address() -> None:
    throttle = Throttle(Clock())
    assert sum(throttle.begin(f"2001:db8:0:1::{n:x}") == 0 for n in range(20)) == 5
    assert throttle.begin("2001:db8:0:2::1") == 0


def test_the_right_token_clears_an_addresss_wrong_ones() -> None:
    throttle = Throttle(Clock())
    for _ in range(4):
        throttle.begin("10.0.0.1")
    throttle.succeeded("10.0.0.1")
    assert [throttle.begin("10.0.0.1") for _ in range(5)] == [0] * 5


def test_who_guesses_too_often_must_wait_and_learns_how_long(lan: FakeDaemon, token: str) -> None:
    client = client_of(lan, host=HOST)
    answers = [client.get("/metrics", headers={"authorization": f"Bearer {n}"}) for n in range(7)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert client.post("/login", data={"token": "guess"}).status_code == 429
    assert client.post("/login", data={"token": token}).status_code == 303  # and the right one is not kept waiting


def test_a_program_with_the_right_token_is_not_slowed_down_by_others(lan: FakeDaemon, token: str) -> None:
    access = access_of(lan)
    client = client_of(lan, access, HOST)
    right = {"authorization": f"Bearer {token}"}
    assert client.get("/metrics", headers=right).status_code == 200
    for n in range(50):
        access.tokens.throttle.begin(f"10.0.0.{n}")
    assert client.get("/metrics", headers=right).status_code == 200


def test_sessions_take_bounded_memory() -> None:
    sessions = Sessions(Clock())
    first, _ = sessions.begin(signed_in=False)
    for _ in range(500):
        sessions.begin(signed_in=False)
    assert sessions.find(first) is None


# Headers, sizes


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/nothing", "/static/page.css", "/healthz", "/live/1.jpg"])
def test_every_answer_carries_the_safe_headers(daemon: FakeDaemon, path: str) -> None:
    headers = client_of(daemon).get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")
    assert client_of(daemon).get("/", headers={"host": "evil.example"}).headers["x-content-type-options"] == "nosniff"


def test_a_request_beyond_64_kib_is_refused_whether_or_not_it_says_its_length(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    large = b"x" * (64 * 1024 + 1)
    assert client.post("/slides", content=large).status_code == 413
    assert client.post("/slides", content=iter([large[:40000], large[40000:]])).status_code == 413


# The real server


@pytest.fixture
def server(daemon: FakeDaemon) -> Iterator[WebServer]:
    server = WebServer(daemon.desk, WebSettings(port=0), daemon.desk.state)
    server.start()
    yield server
    server.stop()


def test_the_server_says_where_it_is_and_answers_there(server: WebServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    with urlopen(f"{server.url}healthz", timeout=20) as answer:
        assert answer.read() == b"alive\n"
        assert "uvicorn" not in str(answer.headers).lower()


def test_a_port_in_use_is_reported_at_the_start(server: WebServer, daemon: FakeDaemon, tmp_path: Path) -> None:
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=rf"Port {port} of 127\.0\.0\.1 is in use;"):
        WebServer(daemon.desk, WebSettings(port=port), tmp_path / "other").start()


def test_an_address_of_another_machine_is_reported_at_the_start(daemon: FakeDaemon, token: str) -> None:
    assert token
    with pytest.raises(UsageError, match=r"192\.0\.2\.1 is not an address of this machine"):
        WebServer(daemon.desk, WebSettings(host="192.0.2.1"), daemon.desk.state).start()


def test_the_command_line_needs_no_login_and_is_named_in_the_audit_log(server: WebServer, daemon: FakeDaemon) -> None:
    assert server.url
    assert ask(daemon.desk.state, "POST", "/api/v1/slides", {"label": "From here"}) == {"slide": 2}
    assert ask(daemon.desk.state, "GET", "/api/v1/status")["slide"]["label"] == "From here"
    ((actor,),) = daemon.store._database.execute("SELECT actor FROM audit ORDER BY id DESC LIMIT 1").fetchall()
    assert actor == "command line"
    with pytest.raises(UsageError, match="There is no slide 77"):
        ask(daemon.desk.state, "PATCH", "/api/v1/slides/77", {"label": "x"})


def test_only_this_user_may_open_the_command_lines_socket(server: WebServer, daemon: FakeDaemon) -> None:
    assert server.url
    found = (daemon.desk.state / SOCKET).stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_without_a_daemon_the_command_line_says_how_to_start_one(tmp_path: Path, daemon: FakeDaemon) -> None:
    for state in (tmp_path / "nowhere", daemon.desk.state):
        with pytest.raises(UsageError, match=r"No daemon runs on .*; start it with: bloodedge device run"):
            ask(state, "GET", "/api/v1/status")
    server = WebServer(daemon.desk, WebSettings(port=0), daemon.desk.state)
    server.start()
    server.stop()
    with pytest.raises(UsageError, match="No daemon runs on"):
        ask(daemon.desk.state, "GET", "/api/v1/status")


def test_without_the_page_the_command_line_is_still_served(daemon: FakeDaemon) -> None:
    server = WebServer(daemon.desk, WebSettings(enabled=False, host="0.0.0.0"), daemon.desk.state)
    server.start()
    try:
        assert server.url == ""
        assert ask(daemon.desk.state, "GET", "/api/v1/status")["alive"] is True
    finally:
        server.stop()


def test_a_state_folder_however_deep_has_its_socket(tmp_path: Path) -> None:
    daemon = FakeDaemon(tmp_path / ("deep" * 30) / "state")
    daemon.see([0.9])
    server = WebServer(daemon.desk, WebSettings(port=0), daemon.desk.state)
    server.start()
    try:
        assert ask(daemon.desk.state, "GET", "/api/v1/status")["alive"] is True
    finally:
        server.stop()


def test_a_browser_that_waits_for_a_frame_does_not_hold_up_the_end(server: WebServer, daemon: FakeDaemon) -> None:
    asked, wait_for_frame = threading.Event(), daemon.desk.live.wait

    def told(after: int, timeout_s: float) -> object:
        asked.set()
        return wait_for_frame(after, timeout_s)

    def wait() -> None:
        with suppress(OSError, HTTPException):
            urlopen(f"{server.url}api/v1/status?after=1000&wait_s=20", timeout=30).read()

    daemon.desk.live.wait = told  # type: ignore[assignment, method-assign]
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asked.wait(20)
    began = monotonic()
    server.stop()
    assert monotonic() - began < 5
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_connection_that_asks_for_nothing_is_closed(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "SILENT_S", 0.2)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    for start in (b"", b"GET / HTTP/1.1\r\nHost: "):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(start)
            assert connection.recv(100) == b""


def test_a_body_that_does_not_come_and_headers_that_do_not_end_are_given_up(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_checks, "BODY_S", 0.2)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    slow = f"POST /slides HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 10\r\n\r\nab"
    endless = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: {'x' * 40_000}"
    for request, status in ((slow, b"HTTP/1.1 408 "), (endless, b"HTTP/1.1 400 ")):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request.encode())
            assert connection.recv(100).startswith(status)


def raw_answer(server: WebServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of what comes back over a connection that the server then closes."""
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.replace(b"PORT", str(port).encode()))
        answer = HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        assert connection.recv(1) == b""
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize(
    "request_line", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", b"\x16\x03\x01\0\n\n"]
)
def test_a_malformed_request_is_answered_like_any_other(server: WebServer, request_line: bytes) -> None:
    status, headers, body = raw_answer(server, request_line)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert "is not HTTP/1.1" in json.loads(body)["error"]
    assert request_checks.HEADERS.items() <= headers.items()


def test_a_body_that_turns_malformed_ends_the_connection(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /slides HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, body = raw_answer(server, head + b"not a length\r\n")
    assert (status, "error" in json.loads(body)) == (400, True)
    assert not caplog.records


def test_when_too_many_ask_the_answer_says_when_to_try_again(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodedge_device.web.server.CONNECTIONS", 0)
    server = request.getfixturevalue("server")
    get = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
    status, headers, body = raw_answer(server, get % b"/api/v1/status")
    assert (status, headers["retry-after"]) == (503, "5")
    assert json.loads(body) == {"error": "Too many requests at the same time; try again in 5 s."}
    assert request_checks.HEADERS.items() <= headers.items()
    status, headers, body = raw_answer(server, get % b"/slides")
    assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert b"try again in 5 s." in body


def test_starting_loads_no_web_library_in_the_daemons_own_thread() -> None:
    code = "import sys, bloodedge_device.web.server; print({'uvicorn', 'starlette', 'anyio'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    required("openssl")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return certificate, key


def test_with_a_certificate_the_page_is_encrypted_and_old_versions_are_refused(
    daemon: FakeDaemon, certificate: tuple[Path, Path]
) -> None:
    settings = WebSettings(host="localhost", port=0, certificate=certificate[0], key=certificate[1])
    server = WebServer(daemon.desk, settings, daemon.desk.state)
    server.start()
    try:
        assert server.url.startswith("https://localhost:")
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        with urlopen(f"{server.url}api/v1/status", context=trusting, timeout=20) as answer:
            assert json.load(answer)["alive"] is True
        trusting.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the server that refuses
        trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"ALERT_PROTOCOL_VERSION|EOF occurred"):
            urlopen(f"{server.url}healthz", context=trusting, timeout=20)
    finally:
        server.stop()


def test_a_certificate_that_cannot_be_used_is_reported_at_the_start(daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text(f"not a certificate, {dt.date(2026, 1, 1)}")
    settings = WebSettings(port=0, certificate=tmp_path / "no.pem", key=tmp_path / "no.pem")
    with pytest.raises(UsageError, match="give a PEM certificate and the key that belongs to it"):
        WebServer(daemon.desk, settings, daemon.desk.state).start()


# What strangers write


def test_a_stranger_writes_one_line_of_the_audit_log_in_ten_minutes(lan: FakeDaemon, token: str) -> None:
    assert token
    clock = Clock()
    access = access_of(lan, clock=clock)
    client = client_of(lan, access, HOST)
    before = lan.store._database.execute("SELECT count(*) FROM audit").fetchone()[0]
    for number in range(200):
        clock.now += 1
        assert client.post("/login", data={"token": f"guess {number}"}).status_code in {401, 429}
    clock.now += 600
    client.post("/login", data={"token": "guess"})
    rows = lan.store._database.execute("SELECT action, detail FROM audit ORDER BY id").fetchall()[before:]
    assert [row["action"] for row in rows] == ["login refused"] * 2
    assert json.loads(rows[1]["detail"])["since the last entry"] == 200


def test_wrong_tokens_from_many_addresses_keep_the_right_one_out_of_nothing(state: Path, token: str) -> None:
    tokens = TokenCheck(state)
    for address in range(100):
        for _ in range(6):
            with suppress(RefusedError):
                assert not tokens.is_right("wrong", f"10.0.0.{address}")
    assert TokenCheck(state).is_right(token, "10.0.1.1")
    assert tokens.is_right(token, "10.0.0.1")
