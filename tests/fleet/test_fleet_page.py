"""The page: who may look, what it shows, and that it can be read on a phone."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from starlette.testclient import TestClient

from bloodedge.web_access import new_token
from bloodedge_fleet.boards.archive import Archive, Outcome, Received
from bloodedge_fleet.boards.broker import Broker
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.boards.overview import read_boards
from bloodedge_fleet.database import migrate, open_database, reading
from bloodedge_fleet.metrics import Figures
from bloodedge_fleet.rollouts.controller import RolloutController
from bloodedge_fleet.rollouts.store import begin, halt, read_rollouts
from bloodedge_fleet.web.access import require_token
from bloodedge_fleet.web.app import Site, make_app
from support.fleet_fakes import AT_ONCE, RELEASED, offered, report, sent
from support.needs import needs, required
from support.waiting import until

LOCAL = "http://127.0.0.1"
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
PAGES = ("/", "/boards/pi-1", "/boards/quiet", "/rollouts", "/nothing")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def engine(state: Path) -> Iterator[Engine]:
    """SQLite: what is tested here is behind the database."""
    made = open_database(None, state)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def site(engine: Engine, state: Path) -> Site:
    """Four boards in different states, a day of reports of one of them, and two roll-outs."""
    archive = Archive(engine)
    now = datetime.now(UTC)
    day = [report(n, sent_at=now - timedelta(hours=24 - n)) for n in range(1, 25)]
    drift = {"slide": 4, "cells": 210, "aspects": ["The stain of these cells is unlike the reference people's."]}
    wrong = {"camera": {"level": "failed", "sentence": f"No camera {HOSTILE}; plug it in."}}
    archive.store(sent("pi-1", *day, report(25, reviewed={"called": 120, "right": 108}, drifted=drift)))
    archive.store(sent("pi-2", report(1), report(4, health=wrong, bundle_rendered=True)))
    archive.store([*sent("pi-3", report(1)), Received("pi-3", "availability", b"offline")])
    archive.store([Received("quiet", "availability", b"online"), Received("odd", "report", b"{}")])
    digest = offered(engine, state, RELEASED)
    halt(engine, begin(engine, digest, ["pi-1", "pi-2"], **AT_ONCE).name, "pi-2: The key is revoked.")
    begin(engine, digest, ["pi-1", "pi-3"], **AT_ONCE)
    figures = Figures()
    figures.note(Outcome(stored=3, repeated=1, refused=2, lags_s=[0.1, 0.3, 7.0]))
    listener = Listener(Broker("127.0.0.1", 1), archive)
    return Site(engine, state, listener, figures, timedelta(minutes=3))


@pytest.fixture
def client(site: Site) -> TestClient:
    """Somebody on this machine."""
    return TestClient(make_app(site, "127.0.0.1"), base_url=LOCAL)


def test_the_boards_are_shown_with_what_is_wrong_and_the_baseline(client: TestClient) -> None:
    page = client.get("/").text
    names = re.findall(r'href="/boards/([^"]+)"', page)
    assert names == ["pi-2", "pi-3", "quiet", "pi-1"]  # the worst first
    assert "Page 1" not in page
    assert "No camera &lt;script&gt;" in page
    assert HOSTILE not in page
    assert "\N{MULTIPLICATION SIGN} 3.0" in page
    assert "2 missing" in page
    assert "89.0" in page  # the int8 model on held-out cells
    assert "Not connected to the broker" in page


def test_very_many_boards_are_shown_in_pages_the_worst_on_the_first(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodedge_fleet.boards.overview.BOARDS_A_PAGE", 3)
    first, second = client.get("/").text, client.get("/?page=2").text
    assert re.findall(r'href="/boards/([^"]+)"', first) == ["pi-2", "pi-3", "quiet"]
    assert re.findall(r'href="/boards/([^"]+)"', second) == ["pi-1"]
    assert re.findall(r'href="/\?page=(\d)"', first + second) == ["2", "1"]
    for page in (first, second):
        assert "<h1>4 boards</h1>" in page
    assert client.get("/?page=99").text.count("Page 2 of 2") == 1
    assert client.get("/?page=0").status_code == 404


def test_a_board_is_the_same_among_others_and_alone(site: Site) -> None:
    with reading(site.engine) as connection:
        together = read_boards(connection, site.silent, NOW)
        alone = [read_boards(connection, site.silent, NOW, [board.name]) for board in together]
    assert alone == [[board] for board in together]
    assert {board.name: board.missing for board in together}["pi-2"] == 2


def test_a_board_has_a_page_of_its_own(client: TestClient) -> None:
    page = client.get("/boards/pi-1").text
    assert "Inference, ms" in page
    assert "<polyline" in page
    assert "The stain of these cells is unlike" in page
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert all(shown in words for shown in ("Hardware Raspberry Pi 5", "bloodedge 1.0", "cells 7"))
    assert "83.3" in page  # Wilson's interval of 108 of 120
    assert "drawn cells" in client.get("/boards/pi-2").text
    assert "has not reported yet" in client.get("/boards/quiet").text
    assert client.get("/boards/none").status_code == 404


def test_rollouts_are_shown_with_the_reason_they_halted_for(client: TestClient) -> None:
    page = client.get("/rollouts").text
    assert "pi-2: The key is revoked." in page
    assert re.search(r"Stage \d of \d: \d of 2 boards asked", " ".join(re.sub(r"<[^>]+>", " ", page).split()))
    assert page.index("running") < page.index("halted")  # the newest first


def test_a_board_that_says_it_is_not_well_is_not_ok(client: TestClient, site: Site) -> None:
    archive = Archive(site.engine)
    archive.store(sent("dead", report(1, alive=False)))
    archive.store(sent("adrift", report(1, clock_synchronised=False)))
    page = words_of(client.get("/").text)
    assert "dead warning It has processed no frame lately; check its camera." in page
    assert "adrift warning Its clock is not synchronised with a time source: times may be wrong." in page
    assert "Frames since the start 10, 0 dropped; none lately" in words_of(client.get("/boards/dead").text)
    assert "Clock not synchronised: times may be wrong" in words_of(client.get("/boards/adrift").text)


def test_a_clock_far_ahead_is_told_and_spoils_no_chart(client: TestClient, site: Site) -> None:
    now = datetime.now(UTC)
    before = words_of(client.get("/boards/pi-1").text)
    Archive(site.engine).store(sent("pi-1", report(26, sent_at=now + timedelta(days=400, minutes=1))))
    page = words_of(client.get("/boards/pi-1").text)
    assert "warning Its clock is 400 days ahead of this server's; check which of them is wrong." in page
    (ends,) = set(re.findall(ENDS, page))
    assert {ends} == set(re.findall(ENDS, before))
    assert ends[1] == f"{now.replace(minute=0):%d %b, %H:%M}"


ENDS = r"0 (\d\d \w{3}, \d\d:00) (\d\d \w{3}, \d\d:00)"
"""Of a chart: its first and its last hour, after the scale's zero."""


def words_of(page: str) -> str:
    """What a page says, without its marks."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_running_rollout_says_which_board_holds_it_up_and_a_halted_one_waits_for_none(
    client: TestClient, site: Site
) -> None:
    RolloutController(site.engine, lambda *_: True, lambda: True, LOCAL, site.silent).check(datetime.now(UTC))
    with reading(site.engine) as connection:
        running, halted = (rollout.name for rollout, _ in read_rollouts(connection))
    page = words_of(client.get(f"/rollouts/{running}").text)
    assert re.search(r"pi-1 asked \d s pi-3 waiting \d s", page)
    Archive(site.engine).store([Received("pi-1", "availability", b"offline")])
    for path in ("/rollouts", f"/rollouts/{running}"):
        page = words_of(client.get(path).text)
        assert re.search(r"pi-1 asked \d s It has no connection to the broker\. pi-3 waiting \d s", page)
    assert "pi-1 not asked 0 s pi-2 not asked 0 s" in words_of(client.get(f"/rollouts/{halted}").text)
    assert client.get("/rollouts/other").status_code == 404


def test_the_newest_rollouts_are_shown_and_all_are_counted(client: TestClient, site: Site) -> None:
    with reading(site.engine) as connection:
        (running, digest), (first, _) = ((rollout.name, rollout.sha256) for rollout, _ in read_rollouts(connection))
    for _ in range(12):
        halt(site.engine, begin(site.engine, digest, ["pi-2", "quiet"], **AT_ONCE).name, "Halted by a person.")
    page = client.get("/rollouts").text
    assert page.count('<section class="rollout">') == 11  # the newest ten, and one that runs
    assert running in page
    assert first not in page
    assert "The newest 11 of 14" in words_of(page)
    assert page.count("/boards/") == 2  # an ended one has its boards on its own page
    families = {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}
    states = {sample.labels["state"]: sample.value for sample in families["bloodedge_fleet_rollouts"].samples}
    assert states == {"running": 1, "done": 0, "halted": 13}


def test_a_bundle_is_given_by_its_digest_and_nothing_else_is(client: TestClient, site: Site) -> None:
    (path,) = (site.state / "bundles").iterdir()
    answer = client.get(f"/bundles/{path.stem}")
    assert answer.content == RELEASED.read_bytes()
    for other in ("0" * 64, "..%2Ffleet.sqlite", "%2e%2e", path.name, path.stem.upper()):
        assert client.get(f"/bundles/{other}").status_code == 404


def test_figures_for_prometheus(client: TestClient) -> None:
    families = {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}
    states = {sample.labels["state"]: sample.value for sample in families["bloodedge_fleet_boards"].samples}
    assert states == {"failed": 1, "silent": 0, "offline": 1, "warning": 0, "new": 1, "ok": 1}
    told = {sample.labels["outcome"]: sample.value for sample in families["bloodedge_fleet_messages"].samples}
    assert told == {"stored": 3, "repeated": 1, "refused": 2}
    (count,) = [s.value for s in families["bloodedge_fleet_lag_seconds"].samples if s.name.endswith("_count")]
    assert count == 3
    missing = {s.labels["board"]: s.value for s in families["bloodedge_fleet_reports_missing"].samples}
    assert missing["pi-2"] == 2


def test_health_says_what_is_wrong_with_the_server(client: TestClient, site: Site) -> None:
    site.listener.broker.state = "The broker at 10.1.2.3 port 8883 does not answer (/etc/fleet/ca.pem)."
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["troubles"] == ["The broker does not answer; the page says more."]  # open to all: no address
    site.listener.broker.connected = True
    assert client.get("/healthz").json() == {"ok": True, "troubles": []}


def test_a_database_that_is_gone_is_a_sentence(client: TestClient, site: Site) -> None:
    site.engine.dispose()
    (site.state / "fleet.sqlite").rename(site.state / "away")
    answer = client.get("/")
    assert answer.status_code == 503
    assert "check its disk" in answer.text


def test_nothing_can_be_changed_over_the_page(client: TestClient) -> None:
    for path in (*PAGES, "/metrics", "/bundles/" + "0" * 64):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, path).status_code in {404, 405}


def test_others_need_the_token(site: Site, state: Path) -> None:
    token = new_token(state)
    assert (state / "token.json").stat().st_mode & 0o777 == 0o600
    assert token not in (state / "token.json").read_text()
    other = TestClient(
        make_app(site, "0.0.0.0", needs_token=require_token("0.0.0.0", state)), base_url="http://lab.example"
    )
    refused = other.get("/")
    assert refused.status_code == 401
    assert "access token" in refused.text
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert other.get("/", auth=("me", token)).status_code == 200
    assert other.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 200
    for wrong in ("Basic", "Basic !", f"Basic {base64.b64encode(b'me:other').decode()}", "Bearer ", "Digest x"):
        assert other.get("/", headers={"authorization": wrong}).status_code == 401
    assert other.get("/healthz").status_code == 503  # open, and not connected
    assert other.get("/static/page.css").status_code == 200
    guesses = [other.get("/metrics", headers={"authorization": f"Bearer {n}"}).status_code for n in range(7)]
    assert guesses[0] == 401
    assert guesses[-1] == 429
    assert other.get("/", auth=("me", token)).status_code == 200  # the token itself never waits once it was accepted


def test_the_token_of_an_earlier_version_still_opens_the_page(site: Site, state: Path) -> None:
    token = "t" * 43
    (state / "token.json").write_text(json.dumps({"sha256": hashlib.sha256(token.encode()).hexdigest()}))
    other = TestClient(make_app(site, "0.0.0.0", needs_token=require_token("0.0.0.0", state)), base_url=LOCAL)
    assert other.get("/", auth=("me", token)).status_code == 200
    assert other.get("/", auth=("me", token[1:])).status_code == 401
    renewed = new_token(state)
    assert other.get("/", auth=("me", renewed)).status_code == 200
    assert other.get("/", auth=("me", token)).status_code == 401


def test_another_site_s_name_for_this_machine_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": "localhost:8770"}).status_code == 200


def test_every_answer_carries_the_headers_that_keep_a_browser_safe(client: TestClient) -> None:
    for path in (*PAGES, "/healthz", "/static/page.css"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    """The page over HTTP."""
    server = uvicorn.Server(uvicorn.Config(make_app(site, "127.0.0.1"), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"{LOCAL}:{port}"
    server.should_exit = True
    thread.join(10)


@needs("chromium")
def test_every_page_fits_a_phone_and_the_browser_has_no_complaint(address: str) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=required("chromium"), args=["--no-sandbox"])
        for width in (400, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            for path in PAGES:
                page.goto(address + path)
                assert page.locator("h1").count() == 1
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        browser.close()
    assert [text for text in complaints if "404 (Not Found)" not in text] == []


LONG = ("W" * 60, "haematology-lab-2nd-floor-bench-0001")


@pytest.mark.slow
@needs("chromium")
def test_long_names_leave_the_state_in_sight_and_charts_can_be_read_on_a_phone(address: str, site: Site) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    for name in LONG:
        Archive(site.engine).store(sent(name, report(1, bundle_name="A bundle with a name of its own " * 3)))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=required("chromium"), args=["--no-sandbox"])
        for width, last in ((390, ".level"), (1280, "td:last-child")):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.goto(address)
            for box in page.locator(f".list tbody {last}").all():
                shown = box.bounding_box()
                assert shown["x"] + shown["width"] <= width, (width, last)
            page.goto(f"{address}/boards/pi-1")
            heights = page.evaluate(
                "[...document.querySelectorAll('.trend text, .trend span')].map(e => e.getBoundingClientRect().height)"
            )
            assert len(heights) == 10  # three of the scale and two hours, twice
            assert min(heights) >= 11, width
        browser.close()
