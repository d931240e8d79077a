"""A slide as files that other programs read."""

import csv
import io
import itertools
import json
import re
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.decision.domain import FIGURES
from bloodedge.decision.reference_people import ASPECTS, AspectReference, Reference
from bloodedge_device.slide.review import Review
from bloodedge_device.store import queries
from bloodedge_device.web import export
from support import web_fakes
from support.needs import needs
from support.web_fakes import FakeDaemon, client_of

needs_poppler = needs("pdftotext")


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state)
    yield daemon
    daemon.store.close()


def rows(daemon: FakeDaemon) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export.cells_csv(daemon.desk.state, 1))))


def test_the_csv_holds_every_cell_with_its_frame_and_review(daemon: FakeDaemon) -> None:
    daemon.desk.review(2, Review.of("not_a_cell"), "random", "page")
    daemon.see([0.9], repeated=True)
    given = rows(daemon)
    assert [row["label"] for row in given[:4]] == ["blast", "blast", "normal", "uncertain"]
    assert len(given) == 16
    first = given[0]
    assert (first["frame"], first["source"], first["blast_probability"]) == ("1", "1.png", "0.9500")
    assert [given[0]["review"], given[1]["review"]] == ["", "not_a_cell"]
    assert given[3]["reason"] == "abstain_band"
    assert [given[0]["repeated"], given[15]["repeated"]] == ["0", "1"]
    assert (first["x"], first["width"]) == (str(110 - 61), "122")  # drawn at 110 with a radius of 44 + 18 x 0.95


@pytest.mark.parametrize("source", ["=1+1.png", "+cmd.png", "-2.png", "@SUM(A1).png"])
def test_no_file_name_becomes_a_formula_in_a_spreadsheet(daemon: FakeDaemon, source: str) -> None:
    daemon.store._database.execute("UPDATE frames SET source = ?", (source,))
    assert {row["source"] for row in rows(daemon)} == {f"'{source}"}


def test_text_with_commas_and_quotes_comes_back_whole(daemon: FakeDaemon) -> None:
    daemon.store._database.execute("UPDATE frames SET source = ?", ('a,"b"\nc.png',))
    assert {row["source"] for row in rows(daemon)} == {'a,"b"\nc.png'}


@needs_poppler
def test_the_pdf_has_the_figures_intervals_and_warnings_and_says_research_use_on_every_page(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.store._database.execute("UPDATE slides SET label = 'Präparat <12> & œ'")
    daemon.desk.end_slide("page")
    path = tmp_path / "slide.pdf"
    path.write_bytes(export.export(daemon.desk.state, 1, "pdf")[0])
    text = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True).stdout
    pages = text.split("\f")[:-1]
    assert 1 <= len(pages) <= 2
    assert all(RESEARCH_USE in page for page in pages)
    plain = re.sub(r"\s+", " ", text)
    assert "Präparat <12> & œ" in plain
    assert re.search(r"Blasts: \d+\.\d %", plain)
    assert "corrected for errors and refusals" in plain
    assert "Of 13 called cells, 38.5 % were called blasts" in plain  # 5 of 13
    assert "This bundle does not check whether cells are like its training cells" in plain
    assert "0.892 [0.832, 0.932]" in plain  # the manifest's held-out accuracy
    images = subprocess.run(["pdfimages", "-list", path], capture_output=True, text=True, check=True).stdout
    assert images.count(" image ") == 12


@needs_poppler
def test_a_slide_without_cells_has_a_pdf_too(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.desk.start_slide("Empty", "page")
    path = tmp_path / "slide.pdf"
    path.write_bytes(export.export(daemon.desk.state, 2, "pdf")[0])
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    assert "No cell was called" in text


@pytest.mark.parametrize("kind", ["csv", "json", "html", "pdf"])
def test_a_download_is_a_file_with_a_name_and_is_noted(daemon: FakeDaemon, kind: str) -> None:
    answer = client_of(daemon).get(f"/slides/1/export.{kind}")
    assert answer.headers["content-type"] == export.KINDS[kind]
    assert answer.headers["content-disposition"] == f'attachment; filename="slide-1.{kind}"'
    entry = daemon.store._database.execute(
        "SELECT actor, action, detail FROM audit ORDER BY id DESC LIMIT 1"
    ).fetchone()
    assert (entry["actor"], entry["action"], json.loads(entry["detail"])) == (
        "page",
        "export",
        {"slide": 1, "format": kind},
    )


@pytest.mark.parametrize("kind", ["exe", "CSV", "csv%00", ".."])
def test_there_are_no_other_kinds_of_file(daemon: FakeDaemon, kind: str) -> None:
    assert client_of(daemon).get(f"/slides/1/export.{kind}").status_code == 404


def test_the_json_is_the_report_for_programs(daemon: FakeDaemon) -> None:
    given = json.loads(export.export(daemon.desk.state, 1, "json")[0])
    assert given["research_use"] == RESEARCH_USE
    assert (given["cells"]["blast"], given["cells"]["normal"]) == (5, 8)


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8 no picture", None])
def test_a_slide_whose_images_are_damaged_or_gone_has_a_report_and_a_pdf(
    daemon: FakeDaemon, damage: bytes | None
) -> None:
    for path in (daemon.desk.state / "crops").rglob("*.*"):
        path.unlink() if damage is None else path.write_bytes(damage)
    assert export.export(daemon.desk.state, 1, "pdf")[0].startswith(b"%PDF")
    assert client_of(daemon).get("/slides/1/report").status_code == 200


CELLS = 20_000


@pytest.fixture
def crowded(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon with a slide of very many cells."""
    figures = np.zeros(FIGURES, np.float32).tobytes()
    database = daemon.store._database
    database.execute("BEGIN")
    frame = database.execute("SELECT max(id) FROM frames").fetchone()[0]
    columns = [row["name"] for row in database.execute("PRAGMA table_info(cells)") if row["name"] != "id"]
    like = dict(database.execute("SELECT * FROM cells WHERE frame = ? LIMIT 1", (frame,)).fetchone())
    values = tuple((like | {"figures": figures, "repeated": 0, "crop": None})[name] for name in columns)
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO cells ({', '.join(columns)}) VALUES ({marks})"
    database.executemany(statement, itertools.repeat(values, CELLS))
    aspect = AspectReference(quantiles=tuple(np.linspace(0, 1, 101)), limit=0.1)
    reference = Reference(aspects=dict.fromkeys(ASPECTS, aspect), people=20, cells=9000)
    manifest = daemon.state.loaded.manifest.model_copy(update={"reference": reference})
    database.execute("UPDATE runs SET manifest = ?", (manifest.model_dump_json(),))
    database.execute("COMMIT")
    return daemon


def test_a_slide_of_very_many_cells_takes_little_memory(crowded: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PART", 500)
    monkeypatch.setattr(queries, "MOST_DRAWN", 500)
    state = crowded.desk.state
    tracemalloc.start()
    try:
        found = queries.drift_of(state, 1)
        rows = sum(part.count("\r\n") for part in export.csv_parts(state, 1))
        drawn = queries.review_order(state, 1, "random")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    listed = queries.find_slide(state, 1)
    assert found is not None
    assert found[0].cells == CELLS
    assert rows == 1 + CELLS + 15
    assert len(drawn) <= 500
    assert listed is not None
    assert listed.cells == CELLS + 15
    assert peak < 4_000_000
