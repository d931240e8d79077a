"""The interface for programs: what it gives, what it refuses, and that nothing makes it fail."""

import asyncio
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Scope

from bloodedge.errors import BloodedgeError
from bloodedge.web_access import new_token
from bloodedge_device.health import Level
from bloodedge_device.report.reading import read_report
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.store import queries
from bloodedge_device.web import worker_threads
from bloodedge_device.web.app import make_app
from support import web_fakes
from support.web_fakes import FakeDaemon, access_of, client_of


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state)
    yield daemon
    daemon.store.close()


@pytest.fixture
def bearer(state: Path) -> dict[str, str]:
    return {"authorization": f"Bearer {new_token(state)}"}


def test_the_status_is_the_desks(daemon: FakeDaemon) -> None:
    given = client_of(daemon).get("/api/v1/status").json()
    assert given["slide"]["blasts"] == 5
    assert given["slide"]["normals"] == 8
    assert given["research_use"] == "For Research Use Only. Not for use in diagnostic procedures."


def test_a_program_that_waits_gets_the_next_frame_when_it_comes(daemon: FakeDaemon) -> None:
    threading.Timer(0.3, daemon.see, [[0.9]]).start()
    began = monotonic()
    given = client_of(daemon).get("/api/v1/status?after=5&wait_s=20").json()
    assert given["frame"]["number"] == 6
    assert monotonic() - began < 10


def test_waiting_ends_when_the_time_is_over(daemon: FakeDaemon) -> None:
    began = monotonic()
    assert client_of(daemon).get("/api/v1/status?after=5&wait_s=0.2").json()["frame"]["number"] == 5
    assert 0.2 <= monotonic() - began < 5


def test_when_too_many_wait_others_are_answered_at_once(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_threads, "WAITING", 0)
    began = monotonic()
    assert client_of(daemon).get("/api/v1/status?after=5&wait_s=20").status_code == 200
    assert monotonic() - began < 5


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("after=-1", "after"),
        ("wait_s=21", "wait_s"),
        ("wait_s=nan", "wait_s"),
        ("afer=1", "afer"),
        ("after=1e99", "after"),
    ],
)
def test_a_wrong_query_is_refused_by_its_name(daemon: FakeDaemon, query: str, word: str) -> None:
    answer = client_of(daemon).get(f"/api/v1/status?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{word}: ")


def test_slides_and_their_cells_come_in_pages(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    (slide,) = client.get("/api/v1/slides").json()["slides"]
    assert (slide["label"], slide["cells"], slide["blasts"]) == ("Specimen 12", 15, 5)
    seen: list[int] = []
    while page := client.get(f"/api/v1/slides/1/cells?limit=4&after={seen[-1] if seen else 0}").json()["cells"]:
        seen += [cell["id"] for cell in page]
    assert seen == list(range(1, 16))


def test_a_slides_report_is_the_reports_json(daemon: FakeDaemon) -> None:
    assert (
        client_of(daemon).get("/api/v1/slides/1").json()["cells"]
        == read_report(daemon.desk.state, 1).to_json()["cells"]
    )


def test_a_program_starts_labels_reviews_and_ends(daemon: FakeDaemon, bearer: dict[str, str]) -> None:
    client = client_of(daemon, headers=bearer)
    assert client.post("/api/v1/slides", json={"label": "Робот"}).json() == {"slide": 2}
    joined = "نمی\u200cبینم 👩\u200d🔬"
    assert client.patch("/api/v1/slides/2", json={"label": joined}).json() == {"slide": 2}
    assert client.get("/api/v1/slides").json()["slides"][0]["label"] == joined
    assert client.patch("/api/v1/slides/2", json={"label": "R2"}).json() == {"slide": 2}
    answer = client.post("/api/v1/cells/1/review", json={"label": "normal", "sampling": "gallery"})
    assert (answer.status_code, answer.json()) == (201, {"cell": 1, "label": "normal", "kind": None, "stage": None})
    kind = {"kind": "neutrophil", "stage": "band", "sampling": "gallery"}
    answer = client.post("/api/v1/cells/2/review", json=kind)
    assert (answer.status_code, answer.json()) == (
        201,
        {"cell": 2, "label": None, "kind": "neutrophil", "stage": "band"},
    )
    cell = client.get("/api/v1/slides/1/cells?after=1&limit=1").json()["cells"][0]
    assert (cell["review"], cell["review_kind"], cell["review_stage"]) == (None, "neutrophil", "band")
    for wrong in ({}, {"kind": "monocyte", "stage": "band"}, {"kind": "heterophil"}):
        assert client.post("/api/v1/cells/2/review", json=wrong | {"sampling": "gallery"}).status_code == 400
    assert client.post("/api/v1/slides/current/end").json() == {"slide": 2}
    assert client.post("/api/v1/slides/current/end").status_code == 409
    slides = queries.slides(daemon.desk.state, 100, 100)
    assert [(slide.label, slide.reviewed) for slide in slides] == [("R2", 0), ("Specimen 12", 2)]
    actors = {row[0] for row in daemon.store._database.execute("SELECT actor FROM audit WHERE id > 2")}
    assert actors == {"api"}


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"label": 5}', b'{"label": "x", "more": 1}', b'{"label": "\\ud800"}', b"\xff\xfe",
     b'{"label": "a\\nb"}', b'{"label": "a\\u202eb"}', b'{"label": "' + b"x" * 201 + b'"}', b"[" * 30000],
)  # fmt: skip
def test_a_body_that_is_not_as_it_must_be_is_refused(daemon: FakeDaemon, bearer: dict[str, str], body: bytes) -> None:
    answer = client_of(daemon, headers=bearer).post("/api/v1/slides", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert daemon.slide == 1


def test_a_review_of_no_cell_is_not_found(daemon: FakeDaemon, bearer: dict[str, str]) -> None:
    answer = client_of(daemon, headers=bearer).post(
        "/api/v1/cells/999/review", json={"label": "blast", "sampling": "random"}
    )
    assert (answer.status_code, answer.json()["error"]) == (404, "There is no cell 999.")


def test_a_full_disk_is_reported_in_the_stores_own_sentence(daemon: FakeDaemon, bearer: dict[str, str]) -> None:
    def full(*_: object) -> int:
        raise BloodedgeError("Results cannot be stored: the disk is full; free some space.")

    daemon.desk = replace(daemon.desk, start_slide=full)
    answer = client_of(daemon, headers=bearer).post("/api/v1/slides", json={"label": ""})
    assert answer.status_code == 503
    assert answer.json()["error"].endswith("the disk is full; free some space.")


def test_a_cells_image_is_a_picture_of_it(daemon: FakeDaemon) -> None:
    answer = client_of(daemon).get("/api/v1/cells/1/crop")
    assert answer.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (160, 160, 3)


@pytest.mark.parametrize("path", ["../device.sqlite", "/etc/passwd", "1/../../device.sqlite", "1", "link.jpg"])
def test_no_file_outside_the_images_is_given_whatever_the_database_says(daemon: FakeDaemon, path: str) -> None:
    (daemon.desk.state / "crops" / "link.jpg").symlink_to("/etc/passwd")
    daemon.store._database.execute("UPDATE cells SET crop = ? WHERE id = 1", (path,))
    assert client_of(daemon).get("/api/v1/cells/1/crop").status_code == 404


def test_an_image_that_was_removed_to_make_room_is_not_found(daemon: FakeDaemon) -> None:
    for path in (daemon.desk.state / "crops").rglob("*.png"):
        path.unlink()
    answer = client_of(daemon).get("/api/v1/cells/1/crop")
    assert answer.status_code == 404
    assert "removed to make room" in answer.json()["error"]


def test_supervisors_get_a_status_code(daemon: FakeDaemon) -> None:
    assert [client_of(daemon).get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    daemon.show(alive=False)
    assert [client_of(daemon).get(path).status_code for path in ("/healthz", "/readyz")] == [503, 200]
    daemon.show(ready=False)
    assert client_of(daemon).get("/readyz").status_code == 503


def test_a_daemon_that_stores_nothing_is_not_ready(daemon: FakeDaemon) -> None:
    daemon.state.ready_s = 1.0

    def ready() -> int:
        return client_of(daemon).get("/readyz").status_code

    codes = [ready()]
    for level in (Level.FAILED, Level.WARNING):  # a full disk, and one that is nearly full
        daemon.state.health.report("store", level, "The disk is full: nothing more is stored.")
        codes.append(ready())
    assert codes == [200, 503, 200]


def test_prometheus_gets_its_own_type_of_text(daemon: FakeDaemon) -> None:
    answer = client_of(daemon).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    (cells,) = (family for family in text_string_to_metric_families(answer.text) if family.name == "bloodedge_cells")
    assert {one.labels["label"]: one.value for one in cells.samples} == {
        "blast": 5,
        "normal": 8,
        "uncertain": 2,
        "other": 0,
    }


def test_the_description_names_every_address_for_programs(daemon: FakeDaemon) -> None:
    described = client_of(daemon).get("/api/v1/openapi.json").json()
    app = client_of(daemon).app
    inner = app._app._app  # type: ignore[attr-defined]
    served = {
        (route.path.replace(":id", ""), method)
        for route in inner.routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith(("/api/", "/metrics", "/healthz", "/readyz"))
    }
    told = {
        (path, method.upper())
        for path, item in described["paths"].items()
        for method in item
        if method != "parameters" and not path.startswith("/live")
    }
    assert told == served


@pytest.mark.filterwarnings("ignore")
def test_every_answer_is_as_the_description_says(state: Path) -> None:
    import schemathesis
    from schemathesis import GenerationMode, checks

    daemon = web_fakes.busy_daemon(state, WebSettings(names=("testserver",)))
    daemon.show(alive=True)  # however long it takes
    bearer = {"authorization": f"Bearer {new_token(state)}"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", make_app(daemon.desk, access_of(daemon)))
    seen: set[int] = set()
    # allowed: bodies that happen to be right although one part was meant to be wrong, and ids that no slide has
    passed_over = [checks.ignored_auth, checks.unsupported_method, checks.positive_data_acceptance]

    def ask(case: schemathesis.Case) -> None:
        if "wait_s" in case.query:
            case.query["wait_s"] = 0
        answer = case.call(headers=bearer)
        seen.add(answer.status_code)
        assert answer.status_code < 500
        case.validate_response(answer, excluded_checks=passed_over)

    for found in schema.get_all_operations():
        kinds = [
            found.ok().as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        limits = settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        limits(given(case=strategies.one_of(kinds))(ask))()
    daemon.store.close()
    assert {200, 201, 400, 404} <= seen


PIECES = [
    "..",
    "%2e%2e",
    ".",
    "%2f",
    "%5c",
    "\\",
    "%00",
    "static",
    "page.css",
    "crops",
    "1",
    "live",
    "api",
    "v1",
    "slides",
    "cells",
    "crop",
    "device.sqlite",
    "token.json",
    "etc",
    "passwd",
    "%ff",
    "é",
    "~",
    ";",
    "label",
    "end",
    "current",
    "review",
    "export.csv",
    "export.exe",
    "99999999999999999999",
    "1.jpg",
    "-1",
    "0",
    "%",
    "",
    "9" * 5000,
    "x" * 3000,
]
WRITES = [
    "/slides",
    "/slides/end",
    "/slides/1/label",
    "/review/1/1",
    "/logout",
    "/login",
    "/api/v1/slides",
    "/api/v1/slides/1",
    "/api/v1/slides/current/end",
    "/api/v1/cells/1/review",
]
KEYS = ["after", "limit", "cell", "before", "sampling", "wait"]
METHODS = ["GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "X" * 50]
JSON_REVIEW = b'{"label":"blast","sampling":"random"}'
BODIES = [b"", b"{}", b'{"label":"x"}', JSON_REVIEW, b"\x00\xff" * 50, b"csrf=&label=x", b"%%%=%zz&&&", b"a=" * 500]
BODIES += [b"[" * 5000, b"x" * 70000]
HEADERS = [
    (b"cookie", b"bloodedge-8765=x"),
    (b"cookie", b";;;=\x00="),
    (b"cookie", b'bloodedge-8765="'),
    (b"host", b"evil.example"),
    (b"content-type", b"application/json"),
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"content-type", b"multipart/form-data"),
    (b"content-length", b"-5"),
    (b"content-length", b"9" * 30),
    (b"authorization", b"Bearer"),
    (b"authorization", b"Basic eDp4"),
    (b"authorization", b"Bearer \xff"),
    (b"x-csrf-token", b"\xe9"),
    (b"x-csrf-token", b""),
    (b"origin", b"null"),
    (b"sec-fetch-site", b"same-origin"),
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"x-forwarded-host", b"evil.example"),
]


def hostile(rng: random.Random) -> tuple[Scope, bytes]:
    """A request as the server hands it over, and its body."""
    path = rng.choice(WRITES) if rng.random() < 0.4 else "/" + "/".join(rng.choices(PIECES, k=rng.randint(0, 6)))
    query = "&".join(f"{key}={rng.choice(PIECES)}" for key in rng.choices(KEYS, k=2)) if rng.random() < 0.3 else ""
    host = [(b"host", b"127.0.0.1:8765")] if rng.random() < 0.9 else []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8765),
        "client": (f"10.0.0.{rng.randint(1, 250)}", 5000),
        "method": rng.choice(METHODS),
        "root_path": "",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*host, *rng.sample(HEADERS, rng.randint(0, 4))],
    }
    return scope, rng.choice(BODIES)


async def answer_to(app: ASGIApp, scope: Scope, body: bytes) -> tuple[int, bytes]:
    """Status and body of an application's answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_thousand_hostile_requests_break_nothing_write_nothing_and_read_no_other_file(daemon: FakeDaemon) -> None:
    new_token(daemon.desk.state)
    secrets = (b"SQLite format 3", b"root:", (daemon.desk.state / "token.json").read_bytes()[:40])
    app = make_app(daemon.desk, access_of(daemon))
    before = stored(daemon)
    rng = random.Random(2026)
    statuses: set[int] = set()

    async def ask_all() -> None:
        for _ in range(1000):
            scope, body = hostile(rng)
            status, answer = await answer_to(app, scope, body)
            statuses.add(status)
            assert status < 500, scope
            assert not any(secret in answer for secret in secrets), scope

    asyncio.run(ask_all())
    assert stored(daemon) == before
    assert statuses >= {200, 400, 401, 403, 404, 405, 413, 421, 429}


def stored(daemon: FakeDaemon) -> list[str]:
    """The whole database, but for entries of the audit log about exports, which reading makes."""
    return [line for line in daemon.store._database.iterdump() if "'export'" not in line]
