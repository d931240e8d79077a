"""What a slide as a whole looks like is said everywhere alike, and not at all where the bundle cannot know."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bloodedge.decision.slide_verdict import PeopleScores, ScoreCounts, people_scores
from bloodedge.decision.thresholds import Reason
from bloodedge_device.outputs.home_assistant import status_payload
from bloodedge_device.outputs.messages import slide_message
from bloodedge_device.report.page import page
from bloodedge_device.report.reading import NO_VERDICT, read_report
from bloodedge_device.report.terminal import show
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store import Store, open_for_reading
from bloodedge_device.store.statistics import read_statistics
from bloodedge_device.web.export import export
from support import fakes, web_fakes
from support.web_fakes import client_of

ILL = [0.9, 0.95, 0.5, 0.99]


@pytest.fixture(scope="module")
def scores() -> PeopleScores:
    people = [f"P{n}" for n in range(20) for _ in range(20)]
    blast = [0.9 if (n < 10) == (cell > n % 5) else 0.1 for n in range(20) for cell in range(20)]
    found = people_scores(blast, [int(n < 200) for n in range(400)], people, "made-up people")
    assert found is not None
    return found


@pytest.fixture
def knows(scores: PeopleScores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles hold people's scores from here on."""
    manifest = fakes.make_manifest().model_copy(update={"people_scores": scores})
    monkeypatch.setattr(fakes, "make_manifest", lambda **_: manifest)


def stored(state: Path, frames: int = 6) -> None:
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(slide, [fakes.result(index, ILL) for index in range(frames)], keep_crops=False)
    store.close()


def test_called_cells_and_those_in_the_band_count_and_others_do_not(state: Path) -> None:
    result = fakes.result(0, [0.2, 0.5, 0.9, 0.95, 0.97])
    outside = replace(result.cells[3], label="uncertain", reason=Reason.OUT_OF_DOMAIN)
    unseen = replace(result.cells[4], label="uncertain", reason=Reason.CUT_BY_BORDER, blast_probability=None)
    again = replace(result.cells[2], repeated=True)
    result = replace(result, cells=[*result.cells[:3], outside, unseen, again])
    slide = CurrentSlide(1, "")
    slide.tally.add(result)
    assert slide.tally.statistics().scores == ScoreCounts(low=1, middle=1, high=1)
    store = Store(state)
    number = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(number, [result], keep_crops=False)
    store.close()
    with open_for_reading(state) as database:
        assert read_statistics(database, number).scores == ScoreCounts(low=1, middle=1, high=1)


@pytest.mark.usefixtures("knows")
def test_report_files_and_terminal_give_the_verdict(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(state)
    report = read_report(state)
    assert report.verdict is not None
    assert report.verdict.figures.answer == "like patients"
    said = report.verdict.sentences[0]
    assert said.startswith("Its 24 cells are ")
    text = page(report)
    assert "As a whole: like patients&#39; slides" in text
    assert "Likelihood ratio of patients" in text
    told = json.loads(export(state, report.slide, "json")[0])
    assert told["verdict"] == report.verdict.figures.model_dump()
    assert said in told["verdict_sentence"]
    assert export(state, report.slide, "pdf")[0].startswith(b"%PDF")
    show(report)
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("knows")
def test_few_cells_cannot_tell(state: Path) -> None:
    stored(state, frames=1)
    report = read_report(state)
    assert report.verdict is not None
    assert report.verdict.headline == "cannot tell"
    assert "this one has 4" in page(report)


def test_an_older_bundle_has_no_verdict_and_the_report_says_so_once(state: Path) -> None:
    stored(state)
    report = read_report(state)
    assert report.verdict is None
    assert page(report).count("The slide as a whole is not judged") == 1
    assert report.verdict_sentence == NO_VERDICT
    assert report.to_json()["verdict"] is None


@pytest.fixture
def daemon(knows: None, state: Path) -> Iterator[web_fakes.FakeDaemon]:  # noqa: ARG001
    daemon = web_fakes.FakeDaemon(state)
    daemon.desk.start_slide("one", "page")
    for _ in range(6):
        daemon.see(ILL)
    yield daemon
    daemon.store.close()


def test_page_api_and_messages_give_the_same_verdict(daemon: web_fakes.FakeDaemon) -> None:
    client = client_of(daemon)
    status = client.get("/api/v1/status").json()["slide"]
    assert status["verdict"]["answer"] == "like patients"
    assert status["verdict"]["cells"] == 24
    assert status["verdict_headline"] == "like patients' slides"
    listed = client.get("/api/v1/slides").json()["slides"][0]
    for address in ("/", f"/slides/{listed['id']}"):
        text = client.get(address).text
        assert "As a whole: like patients&#39; slides" in text
        assert "Likelihood ratio of patients" in text
    slide = daemon.state.slide
    assert slide is not None
    told = json.loads(slide_message(slide, ended=False).payload)
    assert told["verdict"] == status["verdict"]
    assert told["verdict_sentences"] == status["verdict_sentences"]
    assert status_payload(daemon.desk.snapshot())["verdict"] == "like patients' slides"


def test_a_page_of_an_older_bundle_says_nothing_of_the_whole(state: Path) -> None:
    daemon = web_fakes.busy_daemon(state)
    assert "As a whole" not in client_of(daemon).get("/").text
    assert client_of(daemon).get("/api/v1/status").json()["slide"]["verdict"] is None
    daemon.store.close()
