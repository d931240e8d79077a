"""The page: who may look, what it shows, and that it can be read on a phone."""

import base64
import re
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from starlette.testclient import TestClient

from bloodedge_fleet.boards.archive import Archive, Outcome, Received
from bloodedge_fleet.boards.listening import Broker, Listener
from bloodedge_fleet.database import migrate, open_database
from bloodedge_fleet.figures import Figures
from bloodedge_fleet.rollouts.record import begin, halt
from bloodedge_fleet.web.access import new_token, require_token
from bloodedge_fleet.web.app import Site, make_app

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import offered, report, until
from test_archive import sent
from test_rollouts import AT_ONCE, RELEASED

CHROMIUM = Path("/usr/bin/chromium")
LOCAL = "http://127.0.0.1"
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
    return TestClient(make_app(site, None, "127.0.0.1"), base_url=LOCAL)


def test_the_boards_are_shown_with_what_is_wrong_and_the_baseline(client: TestClient) -> None:
    page = client.get("/").text
    names = re.findall(r'href="/boards/([^"]+)"', page)
    assert names == ["pi-2", "pi-3", "quiet", "pi-1"]  # the worst first
    assert "No camera &lt;script&gt;" in page
    assert HOSTILE not in page
    assert "\N{MULTIPLICATION SIGN} 3.0" in page
    assert "2 missing" in page
    assert "89.0" in page  # the int8 model on held-out cells
    assert "Not connected to the broker" in page


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
    assert client.get("/healthz").status_code == 503
    site.listener._connected = True
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
    other = TestClient(make_app(site, require_token("0.0.0.0", state), "0.0.0.0"), base_url="http://lab.example")
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
    server = uvicorn.Server(uvicorn.Config(make_app(site, None, "127.0.0.1"), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"{LOCAL}:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium: apt install chromium")
def test_every_page_fits_a_phone_and_the_browser_has_no_complaint(address: str) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
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
