import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bloodedge_device.report.page import page
from bloodedge_device.report.reading import read_report
from bloodedge_device.report.terminal import show
from bloodedge_device.slide.review import Review
from bloodedge_device.store import queries
from bloodedge_device.store.rows import CellRow
from bloodedge_device.web.export import cells_csv, report_pdf
from support.web_fakes import FakeDaemon, busy_daemon, client_of, csrf_of, mixed_daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = mixed_daemon(tmp_path)
    yield daemon
    daemon.store.close()


@pytest.fixture
def client(daemon: FakeDaemon) -> TestClient:
    return client_of(daemon)


def plain(text: str) -> str:
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ")


def cell(daemon: FakeDaemon, number: int) -> CellRow:
    found = queries.find_cell(daemon.desk.state, number)
    assert found is not None
    return found[1]


def move(client: TestClient, kind: str, *cells: int) -> int:
    chosen = {f"cell.{number}": "on" for number in cells}
    answer = client.post("/slides/1/kinds", data={"csrf": csrf_of(client), "shown": "blast", "kind": kind, **chosen})
    return answer.status_code


def test_the_live_page_shows_the_differential_and_says_of_what_is_not_asked(client: TestClient) -> None:
    text = plain(client.get("/").text)
    assert "of 14 leucocytes" in text
    assert "1 band, 5 segmented" in text
    assert "14 of 200 leucocytes are counted; 186 more are needed." in text
    assert "Blast or normal? is not asked of 1 neutrophil." in text
    assert "<title>segmented neutrophil: blast or normal? is not asked of it</title>" in text
    assert "<title>lymphocyte: blast</title>" in text


def test_without_kinds_the_pages_are_as_they_were(tmp_path: Path) -> None:
    daemon = busy_daemon(tmp_path)
    client = client_of(daemon)
    assert re.search(r'data-part="differential"[^>]* hidden>', client.get("/").text)  # the live page replaces it
    assert "Differential" not in client.get("/slides/1").text
    assert "No cell of this slide has a kind" in client.get("/slides/1/kinds").text
    assert "Differential" not in page(read_report(tmp_path))
    daemon.store.close()


def test_cells_are_sorted_by_kind_with_the_least_sure_first(daemon: FakeDaemon, client: TestClient) -> None:
    text = client.get("/slides/1/kinds").text
    names = ["blast", "neutrophil", "lymphocyte", "monocyte", "eosinophil", "erythroblast"]
    assert re.findall(r"kinds\?kind=(\w+)", text) == names
    assert re.search(r'kind=blast" aria-current="page"', text)
    shown = re.findall(r'name="cell\.(\d+)"', client.get("/slides/1/kinds?kind=neutrophil").text)
    sure = [cell(daemon, int(number)).kind_probability or 0 for number in shown]
    assert len(shown) == 6
    assert sure == sorted(sure)
    assert sure[0] < sure[-1]


def test_a_person_reclassifies_chosen_cells_and_the_devices_answer_stays(
    daemon: FakeDaemon, client: TestClient
) -> None:
    assert move(client, "neutrophil.band", 1, 2) == 303
    assert move(client, "blast", 4) == 303
    assert move(client, "confirm", 3, 7) == 303
    told = [cell(daemon, number) for number in (1, 4, 3)]
    assert [(row.label, row.kind, row.review, row.review_kind, row.review_stage) for row in told] == [
        ("blast", "lymphocyte", None, "neutrophil", "band"),
        ("other", "neutrophil", "blast", None, None),
        ("normal", "monocyte", "normal", "monocyte", None),
    ]
    text = plain(client.get("/slides/1/kinds?kind=neutrophil").text)
    assert "you: <b>band neutrophil</b>" in text
    assert "device: blast" in text
    slide = plain(client.get("/slides/1").text)
    assert "after review" in slide
    report = read_report(daemon.desk.state)
    assert report.differential is not None
    assert report.reviewed_differential is not None
    assert report.differential.row("neutrophil").cells == 6
    assert report.reviewed_differential.row("neutrophil").cells == 7
    assert "2 of 5 that both named are named alike (40.0 %" in plain(client.get("/review/1/result").text)


def test_only_a_page_of_ours_and_cells_of_this_slide_are_reclassified(daemon: FakeDaemon, client: TestClient) -> None:
    data = {"csrf": "wrong", "shown": "blast", "kind": "blast", "cell.1": "on"}
    assert client.post("/slides/1/kinds", data=data).status_code == 403
    assert move(client, "blast", 999) == 404
    assert move(client, "heterophil", 1) == 400
    daemon.desk.start_slide("next", "page")
    answer = client.post("/slides/2/kinds", data={"csrf": csrf_of(client), "kind": "blast", "cell.1": "on"})
    assert answer.status_code == 404
    with sqlite3.connect(daemon.desk.state / "device.sqlite") as database:
        assert database.execute("SELECT count(*) FROM reviews").fetchone() == (0,)


def test_a_whole_page_of_cells_is_moved_at_once_and_pages_follow(daemon: FakeDaemon, client: TestClient) -> None:
    from support import fakes

    for _ in range(12):
        daemon.see([0.9] * 5, kinds=[fakes.LYMPHOCYTE] * 5)
    text = client.get("/slides/1/kinds").text
    cells = [int(number) for number in re.findall(r'name="cell\.(\d+)"', text)]
    assert len(cells) == 48
    assert "Page 1 of 2" in text
    assert move(client, "lymphocyte", *cells) == 303
    assert "Page 1 of" not in client.get("/slides/1/kinds?page=2").text
    for wrong in ("0", "x", "-1"):
        assert client.get(f"/slides/1/kinds?page={wrong}").status_code == 404


def test_report_terminal_csv_and_pdf_tell_the_differential(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.desk.review(4, Review.of(kind="eosinophil"), "random", "page")
    report = read_report(daemon.desk.state)
    text = plain(page(report))
    assert "14 of 200 leucocytes are counted" in text
    assert "Agreement on kinds: cells drawn at random" in text
    show(report)
    shown = plain(capsys.readouterr().out)
    assert report.differential is not None
    row = report.differential.row("neutrophil")
    assert row.corrected is not None
    assert re.search(rf"neutrophil +6 +42.9 % +{100 * row.corrected:.1f} % \[.*?\] +5", shown)
    assert "Neutrophils: 1 band, 5 segmented." in shown
    table = shown[shown.index("Differential") : shown.index("Neutrophils:")].splitlines()[:10]
    assert max(map(len, table)) <= 80
    lines = cells_csv(daemon.desk.state, 1).splitlines()
    assert lines[0].endswith("review,kind,kind_probability,stage,review_kind,review_stage")
    assert lines[4].endswith(",,neutrophil,0.9700,segmented,eosinophil,")
    assert report_pdf(report).startswith(b"%PDF")
