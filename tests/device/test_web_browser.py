"""The page in a real browser."""

import threading
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import pytest

from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.slide.review import Review
from bloodedge_device.store import queries
from bloodedge_device.web.server import WebServer
from support import web_fakes
from support.needs import needs, required
from support.web_fakes import FakeDaemon

pytestmark = [needs("chromium"), pytest.mark.timeout(120)]
PAGES = ("/", "/slides", "/slides/1", "/slides/1/report", "/review/1", "/review/1/result", "/health", "/nothing")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=required("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state, WebSettings(port=0))
    yield daemon
    daemon.store.close()


@pytest.fixture
def url(daemon: FakeDaemon) -> Iterator[str]:
    server = WebServer(daemon.desk, daemon.settings.web, daemon.desk.state)
    server.start()
    yield server.url.rstrip("/")
    server.stop()


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[Any]:
    """Opens a page of the device; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in complaints if "404 (Not Found)" not in text] == []


def test_the_live_page_follows_the_frames_with_their_outlines(daemon: FakeDaemon, open_page: Any) -> None:
    page = open_page("/")
    assert page.locator(".cell").count() == 2
    before = page.locator(".answer-card .figure").inner_text()
    daemon.see([0.9, 0.1, 0.5, 0.95, 0.2])
    page.wait_for_selector(".cell >> nth=4", state="attached")
    shown = page.locator("[data-part=stage]")
    assert shown.get_attribute("data-number") == "6"
    image = shown.locator("img")
    assert image.get_attribute("src") == "/live/6.jpg"
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [800, 600]
    field, svg = image.bounding_box(), shown.locator(".field > svg").bounding_box()
    assert field == pytest.approx(svg)
    assert page.locator(".answer-card .figure").inner_text() != before
    assert "Of 17 called cells, 41.2" in page.locator(".answer-card").inner_text()  # 7 of 17


def test_the_figure_is_read_out_but_not_at_every_frame(daemon: FakeDaemon, open_page: Any) -> None:
    page = open_page("/")
    summary = page.locator("#summary")
    summary.evaluate(
        "node => { window.spoken = []; new MutationObserver(() => window.spoken.push(node.textContent))"
        ".observe(node, {childList: true}); }"
    )
    for _, probability in zip(range(4), cycle([0.9, 0.1]), strict=False):
        daemon.see([probability])
        page.wait_for_selector(f"[data-number='{daemon.desk.live.frames}']")
    assert summary.get_attribute("aria-live") == "polite"
    assert "corrected for errors and refusals" in summary.inner_text()
    assert page.evaluate("window.spoken.length") <= 1


def test_a_slide_is_started_by_keyboard_alone_while_frames_come(daemon: FakeDaemon, open_page: Any) -> None:
    page = open_page("/")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "new-label":
            break
    page.keyboard.type("By ")
    daemon.see([0.9])
    page.wait_for_selector("[data-number='6']")
    page.keyboard.type("keyboard")
    page.keyboard.press("Enter")
    page.wait_for_selector("#slide-title:has-text('By keyboard')")
    assert daemon.state.slide.label == "By keyboard"


def test_cells_are_reviewed_with_keys(daemon: FakeDaemon, open_page: Any) -> None:
    page = open_page("/review/1?sampling=random")
    order = queries.review_order(daemon.desk.state, 1, "random")
    for number, key in enumerate("1234", start=1):
        page.wait_for_selector(".keys:visible")
        page.keyboard.press(key)
        page.wait_for_selector(f".progress-label:has-text('{number} of 15')")
    answers = queries.answers(daemon.desk.state, 1, "random")
    assert [answers[cell] for cell in order[:4]] == ["blast", "normal", "not_a_cell", "unsure"]
    page.get_by_role("link", name="Answer again").click()
    page.wait_for_selector("text=You have seen the device")
    page.wait_for_selector(".keys:visible")
    page.keyboard.press("2")
    page.wait_for_selector(".before:has-text('normal')")
    assert queries.answers(daemon.desk.state, 1, "random")[order[3]] == "normal"


@pytest.mark.slow
def test_when_the_device_goes_away_the_page_says_so_and_comes_back(daemon: FakeDaemon, open_page: Any) -> None:
    page = open_page("/")
    page.route("**/live/view*", lambda route: route.fulfill(status=200, body="<p>", content_type="text/html"))
    daemon.see([0.9])
    page.wait_for_selector("#offline:visible")
    page.unroute("**/live/view*")
    daemon.see([0.9, 0.8, 0.7])
    page.wait_for_selector("#offline", state="hidden")
    page.wait_for_selector("[data-number='7']")


def test_the_page_works_without_javascript(open_page: Any) -> None:
    page = open_page("/", java_script_enabled=False)
    page.get_by_label("New slide").fill("No script")
    page.get_by_role("button", name="Start slide").click()
    assert page.get_by_role("heading", name="No script").is_visible()
    assert page.locator("meta[http-equiv=refresh]").count() == 1


@pytest.mark.parametrize("path", PAGES)
def test_every_page_fits_its_window_and_has_the_marks_that_readers_navigate_by(open_page: Any, path: str) -> None:
    page = open_page(path)
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("main").count() == 1
    assert page.locator("header").count() >= 1
    assert page.locator("img:not([alt])").count() == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), progress')].filter(i => !i.labels.length).length"
        " + [...document.querySelectorAll('button, a')].filter(b => !b.textContent.trim()).length"
    )
    assert unnamed == 0
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
    if (!text || element.closest("svg, progress, noscript, script, .skip") || !element.checkVisibility()) continue;
    const both = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
    found.push([(Math.max(...both) + .05) / (Math.min(...both) + .05), text]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(
    daemon: FakeDaemon, url: str, open_page: Any, tmp_path: Path, scheme: str
) -> None:
    daemon.desk.review(1, Review.of("blast"), "random", "page")
    page = open_page("/", color_scheme=scheme)
    for path in ("/", "/slides", "/slides/1", "/review/1?before=1", "/review/1/result", "/health", "/nothing"):
        page.goto(url + path)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 5
        assert [found for found in contrasts if found[0] < 4.5] == []  # WCAG 2.2, 1.4.3
    picture = tmp_path / "page.png"
    page.screenshot(path=picture)
    low, high = (0, 60) if scheme == "dark" else (200, 255)
    assert low <= cv2.imread(str(picture)).mean() <= high


@pytest.mark.slow
def test_two_browsers_watch_and_write_at_the_same_time(daemon: FakeDaemon, open_page: Any) -> None:
    first, second = open_page("/"), open_page("/")
    threading.Thread(target=daemon.see, args=([0.9, 0.1],)).start()
    for page in (first, second):
        page.wait_for_selector("[data-number='6']")
    second.get_by_label("New slide").fill("Second's")
    second.get_by_role("button", name="Start slide").click()
    first.wait_for_selector('#slide-title:has-text("Second\'s")')
    assert daemon.state.slide.label == "Second's"
