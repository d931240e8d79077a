"""The pages, as a person gets them."""

import re
from asyncio import create_task, gather, to_thread, wait_for
from asyncio import run as asyncio_run
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from time import monotonic

import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import Response

from bloodedge import RESEARCH_USE
from bloodedge.decision.reference_people import ASPECTS, AspectReference, Reference
from bloodedge.decision.thresholds import Reason
from bloodedge_device.daemon.rate import Rate
from bloodedge_device.frames import BadFrame, FrameResult
from bloodedge_device.settings.sections import CameraSettings, WebSettings
from bloodedge_device.slide.review import Review
from bloodedge_device.store import queries
from bloodedge_device.web import api, worker_threads
from bloodedge_device.web.worker_threads import Work
from support import fakes, web_fakes
from support.web_fakes import FakeDaemon, client_of, csrf_of

PAGES = ("/", "/slides", "/slides/1", "/slides/1/report", "/review/1", "/review/1/result", "/health", "/nothing")


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state)
    yield daemon
    daemon.store.close()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_says_research_use_and_loads_nothing_from_elsewhere(daemon: FakeDaemon, path: str) -> None:
    text = client_of(daemon).get(path).text
    assert RESEARCH_USE in text
    assert '<html lang="en">' in text
    assert re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?:https?:)?//""", text) == []


def test_the_live_page_shows_the_corrected_share_first_and_that_of_called_cells_second(daemon: FakeDaemon) -> None:
    text = client_of(daemon).get("/").text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    slide = daemon.desk.snapshot().slide
    assert slide is not None
    corrected = f'<p class="figure">{100 * slide.share.figures.corrected:.1f} % <span>blasts</span>'
    called = "Of 13 called cells, 38.5 % were called blasts"  # 5 of 13
    figure = text.index(corrected)
    assert figure < text.index("corrected for errors and refusals", figure) < text.index(called)
    assert "more cells needed" in text


def test_each_cell_has_an_outline_and_a_shape_of_its_class(daemon: FakeDaemon) -> None:
    daemon.see([0.95, 0.1, 0.5])
    text = client_of(daemon).get("/live/view").text
    field = text.split('<div class="field">')[1].split("</div>")[0]
    assert [field.count(f'class="cell {label}"') for label in ("blast", "normal", "uncertain")] == [1, 1, 1]
    assert [field.count(shape) for shape in ("<path", "<circle", "<rect")] == [1, 1, 1]


def test_the_picture_and_the_outlines_are_of_the_same_frame(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    text = client.get("/live/view").text
    number = int(text.split('data-number="')[1].split('"')[0])
    assert f'src="/live/{number}.jpg"' in text
    assert client.get(f"/live/{number}.jpg").content[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        (Reason.OUT_OF_FOCUS, "turn the fine focus"),
        (Reason.TOO_DARK, "turn up the lamp"),
        (Reason.MOTION_BLUR, "hold the stage still"),
        (Reason.NO_CELL, "move the stage"),
    ],
)
def test_a_rejected_frame_says_what_to_do(daemon: FakeDaemon, reason: Reason, cure: str) -> None:
    daemon.see([], reason=reason)
    assert cure in client_of(daemon).get("/").text


def test_the_focus_is_shown_in_words_beside_the_focus_needed(daemon: FakeDaemon) -> None:
    daemon.see([], reason=Reason.OUT_OF_FOCUS)
    text = client_of(daemon).get("/").text
    assert "not sharp enough" in text
    assert "0.15, 0.38 needed" in text


def test_between_slides_the_page_says_that_nothing_is_stored(daemon: FakeDaemon) -> None:
    daemon.desk.end_slide("page")
    assert "Frames are shown and not stored." in client_of(daemon).get("/").text


def test_without_a_frame_the_page_says_which_camera_it_waits_for(state: Path) -> None:
    assert "No frame yet. The camera is replay of 3 images in frames." in client_of(FakeDaemon(state)).get("/").text


def test_a_slide_is_started_labelled_and_ended_with_forms_alone(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    csrf = csrf_of(client)
    assert client.post("/slides", data={"csrf": csrf, "label": "Näxt <b>"}).headers["location"] == "/"
    assert "Näxt &lt;b&gt;" in client.get("/").text
    client.post("/slides/2/label", data={"csrf": csrf, "label": "Other", "back": "live"})
    assert client.post("/slides/end", data={"csrf": csrf}).headers["location"] == "/slides/2"
    assert daemon.slide is None
    rows = queries.slides(daemon.desk.state, 10, 10)
    assert [(row.label, row.finished is not None) for row in rows] == [("Other", True), ("Specimen 12", True)]


@pytest.mark.parametrize("label", ["x" * 201, "two\nlines", "nul\0"])
def test_a_label_that_cannot_be_is_refused_in_one_sentence(daemon: FakeDaemon, label: str) -> None:
    client = client_of(daemon)
    answer = client.post("/slides", data={"csrf": csrf_of(client), "label": label})
    assert answer.status_code == 400
    assert "at most 200 characters" in answer.text
    assert daemon.slide == 1


def test_the_history_lists_slides_newest_first_with_their_figures(daemon: FakeDaemon) -> None:
    daemon.desk.review(1, Review.of("blast"), "random", "page")
    daemon.desk.start_slide("Second", "page")
    text = client_of(daemon).get("/slides").text
    assert text.index("Second") < text.index("Specimen 12")
    assert '<span class="tag">current</span>' in text
    assert '<td class="number">15</td>' in text


def test_a_slide_cut_off_by_a_power_cut_is_called_so(daemon: FakeDaemon) -> None:
    daemon.state.slide = None
    assert "cut off" in client_of(daemon).get("/slides").text


def test_cells_seen_again_do_not_count_twice(daemon: FakeDaemon) -> None:
    daemon.see([0.9, 0.9], repeated=True)
    slide = queries.find_slide(daemon.desk.state, 1)
    assert slide is not None
    assert (slide.cells, slide.blasts, slide.normals) == (15, 5, 8)


def test_older_slides_are_one_link_away(daemon: FakeDaemon) -> None:
    for number in range(3):
        daemon.desk.start_slide(f"More {number}", "page")
    client = client_of(daemon)
    assert "/slides?before=3" in client.get("/slides?limit=2").text
    assert "Specimen 12" in client.get("/slides?before=3&limit=2").text


def test_the_whole_report_allows_only_its_own_style(daemon: FakeDaemon) -> None:
    answer = client_of(daemon).get("/slides/1/report")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy


def test_a_review_hides_the_devices_answer_until_the_person_has_answered(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    page = client.get("/review/1?sampling=random").text
    action = page.split('class="judge" method="post" action="')[1].split('"')[0]
    cell = int(action.rsplit("/", 1)[1])
    assert "is shown after you have answered" in page
    assert "the device" not in page
    answered = client.post(action, data={"csrf": csrf_of(client), "sampling": "random", "label": "unsure"})
    after = client.get(answered.headers["location"]).text
    found = queries.find_cell(daemon.desk.state, cell)
    assert found is not None
    assert "You said <b>unsure</b>, the device" in after
    assert f"{found[1].label}</span>" in after
    assert "1 of 15 cells reviewed" in after
    assert f"cell={cell}" in after  # to answer again


def test_the_latest_answer_counts(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    csrf = csrf_of(client)
    for label in ("blast", "normal"):
        client.post("/review/1/1", data={"csrf": csrf, "sampling": "random", "label": label})
    assert [cell.reviewed for cell in queries.reviewed_cells(daemon.desk.state, 1)] == ["normal"]
    assert "yours was <b>normal</b>" in client.get("/review/1?sampling=random&cell=1").text


def test_random_cells_keep_their_order_while_cells_are_added(daemon: FakeDaemon) -> None:
    before = queries.review_order(daemon.desk.state, 1, "random")
    daemon.see([0.9, 0.1])
    after = queries.review_order(daemon.desk.state, 1, "random")
    assert [cell for cell in after if cell in before] == before
    assert sorted(before) == list(range(1, 16))
    assert before != sorted(before)


def test_the_gallery_begins_with_the_most_blast_like_and_the_most_uncertain(daemon: FakeDaemon) -> None:
    first, second = (
        queries.find_cell(daemon.desk.state, cell) for cell in queries.review_order(daemon.desk.state, 1, "gallery")[:2]
    )
    assert first is not None
    assert second is not None
    assert (first[1].blast_probability, second[1].blast_probability) == (0.97, 0.5)


def test_a_review_offers_kinds_and_shows_the_answer_in_words(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    csrf = csrf_of(client)
    for cell, kind in ((1, "neutrophil.band"), (2, "monocyte"), (3, "immature_granulocyte")):
        client.post(f"/review/1/{cell}", data={"csrf": csrf, "sampling": "random", "kind": kind})
    page = client.get("/review/1?sampling=random&before=1").text
    assert "You said <b>band neutrophil</b>" in page
    assert "3 of 15 cells reviewed" in page
    told = [queries.find_cell(daemon.desk.state, cell)[1] for cell in (1, 2, 3)]
    assert [(cell.review, cell.review_kind, cell.review_stage) for cell in told] == [
        (None, "neutrophil", "band"),
        ("normal", "monocyte", None),
        (None, "immature_granulocyte", None),
    ]
    for wrong in ({}, {"kind": "unknown"}, {"label": "blast", "kind": "monocyte"}, {"label": "maybe"}):
        answer = client.post("/review/1/1", data={"csrf": csrf, "sampling": "random", **wrong})
        assert answer.status_code == 400


def test_figures_of_the_review_stand_beside_the_held_out_ones(daemon: FakeDaemon) -> None:
    for cell, label in ((1, "blast"), (2, "normal"), (3, "normal")):  # the device: blast, blast, normal
        daemon.desk.review(cell, Review.of(label), "random", "page")
    text = client_of(daemon).get("/review/1/result").text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "66.7 %" in text  # 2 of 3
    assert "89.4 %" in text  # the manifest's baseline
    assert "the figures are biased" in text


def test_another_slides_cell_cannot_be_reviewed_here(daemon: FakeDaemon) -> None:
    daemon.desk.start_slide("Second", "page")
    client = client_of(daemon)
    assert client.get("/review/2?cell=1").status_code == 404
    answer = client.post("/review/2/1", data={"csrf": csrf_of(client), "sampling": "random", "label": "blast"})
    assert answer.status_code == 404
    assert queries.reviewed_cells(daemon.desk.state, 1) == []


def test_the_health_page_shows_the_audit_log_and_that_it_is_whole(daemon: FakeDaemon) -> None:
    text = client_of(daemon).get("/health").text
    assert "The clock is not synchronised." in text
    assert "slide began" in text
    assert "Intact: no entry was changed or removed." in text


def test_a_slide_is_compared_with_the_reference_people_where_the_bundle_has_them(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    assert "reference people" not in client.get("/slides/1").text
    aspect = AspectReference(quantiles=tuple(np.linspace(0, 1, 101)), limit=0.1)
    reference = Reference(aspects=dict.fromkeys(ASPECTS, aspect), people=20, cells=9000)
    manifest = web_fakes.fakes.make_manifest().model_copy(update={"reference": reference})
    daemon.store._database.execute("UPDATE runs SET manifest = ?", (manifest.model_dump_json(),))
    for path in ("/slides/1", "/health"):
        assert "is not yet compared: 0 of at least 50 cells were classified." in client.get(path).text


def test_an_unreadable_frame_says_what_is_wrong_with_it(daemon: FakeDaemon) -> None:
    daemon.desk.live.put(None, web_fakes.fakes.bad_frame(9))
    assert "broken.png is truncated or not an image; copy it again from its source." in client_of(daemon).get("/").text


def test_the_health_page_reports_a_changed_audit_log(daemon: FakeDaemon) -> None:
    daemon.store._database.execute("UPDATE audit SET actor = 'somebody' WHERE id = 1")
    assert "Entry 1 was changed" in client_of(daemon).get("/health").text


def test_errors_are_one_sentence_on_a_page_and_in_json(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    assert "There is no slide 99; choose another." in client.get("/slides/99").text
    assert client.get("/api/v1/slides/99").json() == {"error": "There is no slide 99; choose another."}
    assert client.put("/slides", headers={"x-csrf-token": csrf_of(client)}).status_code == 405


def test_an_unexpected_error_is_a_sentence_too(daemon: FakeDaemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.desk = replace(daemon.desk, snapshot=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    client = client_of(daemon, raise_server_exceptions=False)
    answer = client.get("/api/v1/status")
    assert (answer.status_code, answer.json()) == (500, {"error": "The device failed; its journal says why."})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "ZeroDivisionError" in caplog.text


def test_a_local_page_does_not_ask_to_sign_in(daemon: FakeDaemon) -> None:
    assert daemon.settings.web == WebSettings()
    client = client_of(daemon)
    assert client.get("/login").headers["location"] == "/"
    assert "Sign out" not in client.get("/").text


def test_frames_that_cannot_be_read_are_not_counted_as_classified(daemon: FakeDaemon) -> None:
    before = daemon.state.rate.per_second
    assert before > 0
    for index in range(500):
        capture = fakes.frame(index).capture
        daemon._results.append(FrameResult(capture, problem="It is empty.", reason=Reason.BAD_FRAME))
        daemon.slides.process(BadFrame(capture, "It is empty."))
    daemon.slides.settle()
    assert daemon.state.rate.per_second <= before
    assert daemon.state.unreadable_in_a_row == 500


def test_probes_are_answered_while_every_thread_makes_a_report(daemon: FakeDaemon) -> None:
    made, going_on = Barrier(worker_threads.THREADS + 1), Event()

    def slow(_desk: object, _request: object) -> Response:
        made.wait(10)
        going_on.wait(10)
        return Response()

    async def ask() -> int:
        work = Work(daemon.desk)
        request = Request({"type": "http", "headers": []})
        busy = [create_task(work.endpoint(slow)(request)) for _ in range(worker_threads.THREADS)]
        await to_thread(made.wait, 10)
        try:
            return (await wait_for(work.endpoint(api.readyz, probe=True)(request), 5)).status_code
        finally:
            going_on.set()
            await gather(*busy)

    assert asyncio_run(ask()) == 200


def test_a_daemon_that_hangs_in_a_frame_or_lost_its_database_is_not_ready(daemon: FakeDaemon) -> None:
    state, client = daemon.state, client_of(daemon)
    assert client.get("/readyz").status_code == 200
    state.in_work.append(monotonic() - state.settings.watch.alive_s - 1)
    assert client.get("/readyz").status_code == 503
    state.in_work.clear()
    (daemon.desk.state / "device.sqlite").rename(daemon.desk.state / "elsewhere")
    assert client.get("/readyz").status_code == 503


def test_a_watched_folder_that_was_empty_is_not_called_dead_while_its_first_image_is_looked_at(
    daemon: FakeDaemon,
) -> None:
    state = daemon.state
    watched = CameraSettings(kind="replay", source=str(daemon.desk.state), watch=True)
    state.settings = state.settings.model_copy(update={"camera": watched})
    state.rate = Rate()  # no image came yet
    state.in_work.append(monotonic())
    assert state.is_alive
    state.in_work[0] = monotonic() - state.settings.watch.alive_s - 1
    assert not state.is_alive
