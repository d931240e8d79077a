"""What to review next, whether enough was reviewed, and how reviewed cells leave the device."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import FinetuneRecord
from bloodedge.data.exported_cells import read_export
from bloodedge_device.bundles.probation import Figures, figures_of, why_failed
from bloodedge_device.bundles.slot_record import Slot
from bloodedge_device.settings import read_settings
from bloodedge_device.settings.sections import CameraSettings, TrustSettings, UpdateSettings
from bloodedge_device.slide.review import Review
from bloodedge_device.store import Store, queries
from bloodedge_device.teach.learning import TaughtCell, learning_curve, missing, verdict
from bloodedge_device.teach.queue import suggest
from bloodedge_device.teach.summary import teaching
from support import fakes, web_fakes
from support.web_fakes import FakeDaemon, client_of, csrf_of

RELEASED = Path(__file__).parents[2] / "models" / "cells.bundle"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(state)
    yield store
    store.close()


@pytest.fixture
def daemon(state: Path) -> Iterator[FakeDaemon]:
    daemon = web_fakes.busy_daemon(state)
    yield daemon
    daemon.store.close()


def add_slide(store: Store, probabilities: list[list[float]], serial: int = 1_790_000_000) -> int:
    info = replace(fakes.run_info(fakes.make_manifest()), bundle_serial=serial)
    slide = store.begin_slide(store.begin_run(info), "")
    for index, frame in enumerate(probabilities):
        seen = web_fakes.drawn(index, frame)[1]
        rng = np.random.default_rng(index)
        cells = [replace(cell, figures=rng.normal(size=41)) for cell in seen.cells]
        store.put_frames(slide, [replace(seen, cells=cells)], keep_crops=True)
    return slide


def answer_all(store: Store, most: int) -> list[tuple[int, str]]:
    """Answers what is suggested; returns (slide, sampling) of each."""
    asked = []
    while len(asked) < most and (cell := suggest(store.state)) is not None:
        store.review(cell.cell, Review.of("blast"), cell.sampling, "page")
        asked.append((cell.slide, cell.sampling))
    return asked


def test_slides_take_turns_and_one_cell_in_four_is_random(store: Store) -> None:
    for _ in range(3):
        add_slide(store, [[0.5, 0.45, 0.55, 0.5, 0.9, 0.1]] * 3)
    asked = answer_all(store, 24)
    assert Counter(slide for slide, _ in asked) == {1: 8, 2: 8, 3: 8}
    assert Counter(sampling for _, sampling in asked) == {"chosen": 18, "random": 6}


def test_uncertain_cells_are_chosen_nearest_the_line_first_and_say_why(store: Store) -> None:
    add_slide(store, [[0.9, 0.4, 0.52, 0.1]])
    first = suggest(store.state)
    assert first is not None
    store.review(first.cell, Review.of("blast"), first.sampling, "page")
    second = suggest(store.state)
    assert first.sampling == "random"
    assert second is not None
    assert (second.sampling, second.why) == ("chosen", "near the line between normal and blast")
    assert second.cell == (3 if first.cell != 3 else 2)


def test_random_cells_follow_the_slides_order_whatever_was_chosen_between(store: Store) -> None:
    add_slide(store, [[0.5, 0.45, 0.9, 0.1]] * 4)
    order = []
    for _ in range(60):
        cell = suggest(store.state)
        if cell is None:
            break
        if cell.sampling == "random":
            order.append(cell.cell)
        store.review(cell.cell, Review.of("normal"), cell.sampling, "page")
    assert order == queries.review_order(store.state, 1, "random")  # also those that were chosen before


def test_nothing_is_left_where_no_image_is_kept(store: Store) -> None:
    assert suggest(store.state) is None
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(slide, [fakes.result(0, [0.5])], keep_crops=False)
    assert suggest(store.state) is None


def bench(slides: int, cells: int, *, learnable: bool, seed: int = 0) -> list[TaughtCell]:
    """Cells whose device is right on 60 %, and whose first figure tells the class where they can be learnt."""
    rng = np.random.default_rng(seed)
    made = []
    for slide in range(slides):
        for _ in range(cells):
            blast = bool(rng.integers(2))
            figures = rng.normal(size=41)
            figures[0] += (4 if blast else -4) * learnable
            right = rng.random() < 0.6
            made.append(TaughtCell(slide, blast, True, 0.8 if blast == right else 0.2, tuple(figures)))
    return made


def test_the_curve_rises_where_reviews_teach_something_and_is_judged_on_slides_not_taught() -> None:
    points = learning_curve(bench(6, 20, learnable=True))
    assert points[0].cells == 0
    assert points[0].accuracy.share == pytest.approx(0.6, abs=0.1)
    assert points[-1].accuracy.share is not None
    assert points[-1].accuracy.share > 0.9
    assert [point.accuracy.trials for point in points] == [120] * len(points)
    assert points[-1].cells == 80  # two of the six slides are held out together


def test_a_slide_that_tells_its_own_class_teaches_nothing_about_others() -> None:
    rng = np.random.default_rng(1)
    cells = []
    for slide in range(8):  # each slide's look is its own, and its cells are of one class
        look = rng.normal(size=41) * 3
        cells += [
            TaughtCell(slide, slide % 2 == 0, True, 0.5, tuple(look + rng.normal(size=41) * 0.1)) for _ in range(12)
        ]
    last = learning_curve(cells)[-1].accuracy.share
    assert last is not None
    assert last < 0.9


def test_the_verdict_follows_the_curve() -> None:
    flat = learning_curve(bench(8, 100, learnable=True))
    assert "Fine-tune now" in verdict(flat)
    assert "teach this stand-in nothing" in verdict(learning_curve(bench(6, 20, learnable=False)))
    assert "still rises" in verdict([flat[0], *flat[1:2], replace(flat[-1], cells=2 * flat[1].cells)])


def test_what_is_missing_is_counted() -> None:
    few = bench(3, 5, learnable=True)
    lacking = missing(few)
    assert "35 more reviewed cells that are blast or normal (15 of 50)" in lacking
    assert "1 more slides that they come from (3 of 4)" in lacking
    assert missing(bench(5, 20, learnable=True)) == []


def test_cells_of_an_earlier_bundle_are_counted_apart_and_contradictions_left_out(store: Store) -> None:
    add_slide(store, [[0.9, 0.1]], serial=1)
    add_slide(store, [[0.9, 0.1, 0.5]], serial=2)
    for cell in (1, 2, 3, 4):
        store.review(cell, Review.of("blast"), "random", "page")
    store.review(4, Review.of("normal"), "chosen", "page")
    shown = teaching(store.state, (fakes.make_manifest().name, 2))
    assert (shown.reviewed, shown.earlier, shown.contradictory) == (3, 2, 1)
    assert [(slide.slide, slide.cells) for slide in shown.slides] == [(2, 1), (1, 2)]


def test_a_bundle_with_which_reviewers_agree_far_less_fails_its_probation() -> None:
    before, update = Figures(cells=500, reviewed=60, right=55), UpdateSettings()
    worse = why_failed(update, Figures(cells=10, reviewed=40, right=20), before)
    assert worse == "reviewers agree with it on 50% of 40 cells, where they did on 92% of 60 before"
    assert why_failed(update, Figures(cells=10, reviewed=40, right=34), before) == ""  # may be chance
    assert why_failed(update, Figures(cells=10, reviewed=20, right=2), before) == ""  # too few


def test_probation_counts_random_reviews_of_each_bundle_alone(store: Store) -> None:
    add_slide(store, [[0.9, 0.1, 0.5]], serial=1)
    add_slide(store, [[0.9, 0.1, 0.5]], serial=2)
    for cell, sampling in ((1, "random"), (2, "random"), (3, "random"), (4, "random"), (5, "chosen")):
        store.review(cell, Review.of("blast"), sampling, "page")  # type: ignore[arg-type]
    slot = Slot(
        name=fakes.make_manifest().name, serial=2, sha256="0" * 64, installed_at=datetime.now(UTC), state="good",
        after_run=1,
    )  # fmt: skip
    now, before = figures_of(store.state, slot)
    assert (now.reviewed, now.right) == (1, 1)
    assert (before.reviewed, before.right) == (2, 1)  # the uncertain cell was not called


def test_the_page_asks_about_a_cell_stores_the_answer_and_shows_the_devices(daemon: FakeDaemon) -> None:
    client = client_of(daemon)
    page = client.get("/teach/review")
    assert "What would help most" in page.text
    asked = re.search(r'action="/teach/review/(\d+)"', page.text)
    sampling = re.search(r'name="sampling" value="(\w+)"', page.text)
    assert asked
    assert sampling
    fields = {"csrf": csrf_of(client, "/teach/review"), "label": "blast", "sampling": sampling[1]}
    answered = client.post(f"/teach/review/{asked[1]}", data=fields, follow_redirects=True)
    assert "You said <b>blast</b>, the device" in answered.text
    (row,) = daemon.store._database.execute("SELECT cell, label, sampling FROM reviews").fetchall()
    assert tuple(row) == (int(asked[1]), "blast", sampling[1])
    overview = client.get("/teach")
    assert "49 more reviewed cells that are blast or normal" in overview.text or "50 more" in overview.text
    assert "bloodedge finetune CELLS --from BUNDLE" in overview.text


def taught_page(daemon: FakeDaemon, **changes: object) -> str:
    """The page's text while a bundle runs whose manifest is the released one's but for the changes."""
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest.model_copy(update=changes)
    daemon.show(loaded=replace(daemon.state.loaded, manifest=manifest))
    return unescape(client_of(daemon).get("/teach").text)


def beside_a_camera(daemon: FakeDaemon, **changes: object) -> None:
    camera = CameraSettings(kind="v4l2")
    daemon.show(settings=daemon.settings.model_copy(update={"camera": camera, **changes}))


def test_the_page_says_how_to_sign_a_bundle_unless_any_is_accepted(daemon: FakeDaemon) -> None:
    beside_a_camera(daemon)
    page = taught_page(daemon)
    assert f"bloodedge keys trust LAB.pub --trust {daemon.settings.trusted_keys}" in page
    assert f"bloodedge finetune CELLS --from {RELEASED} -o bench.bundle --key LAB.key" in page
    beside_a_camera(daemon, trust=TrustSettings(unsigned=True))
    page = taught_page(daemon)
    assert f"bloodedge finetune CELLS --from {RELEASED} -o bench.bundle<" in page
    assert "LAB" not in page


def test_the_page_installs_by_the_daemon_s_own_settings(daemon: FakeDaemon, tmp_path: Path) -> None:
    install = "bloodedge device install bench.bundle"
    assert f"{install} --state {daemon.desk.state}<" in taught_page(daemon)
    settings = tmp_path / "device.toml"
    settings.write_text("[web]\n")
    daemon.show(settings=read_settings(settings, daemon.desk.state))
    assert f"{install} --config {settings} --state {daemon.desk.state}<" in taught_page(daemon)


@pytest.mark.parametrize("is_here", [True, False])
def test_a_fine_tuned_bundle_is_taught_again_from_the_one_that_it_was_made_from(
    daemon: FakeDaemon, is_here: bool
) -> None:
    beside_a_camera(daemon)
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest
    figures = dict.fromkeys(("before", "after", "release_before", "release_after"), manifest.baseline.evaluation)
    serial = manifest.serial if is_here else 1
    made = FinetuneRecord(from_name="cells", from_serial=serial, cells=100, blasts=50, slides=4, **figures)
    page = taught_page(daemon, name="ours", finetuned=made)
    assert f"Begin again with cells {serial}, from which it was made, and all reviewed cells" in page
    assert f"--from {RELEASED if is_here else 'BUNDLE'} -o" in page


def test_a_bundle_that_cannot_be_fine_tuned_is_named_as_such(daemon: FakeDaemon) -> None:
    beside_a_camera(daemon)
    page = taught_page(daemon, features=None)
    assert "cannot be fine-tuned. Begin with one that can" in page
    assert "--from BUNDLE -o" in page
    assert "cannot be fine-tuned" not in taught_page(daemon)


@pytest.mark.parametrize("path", ["/teach/review?before=999", "/teach/review?cell=x"])
def test_a_cell_that_is_not_there_is_a_sentence(daemon: FakeDaemon, path: str) -> None:
    answer = client_of(daemon).get(path)
    assert answer.status_code == 404
    assert "There is no such cell" in answer.text


def test_reviewed_cells_leave_as_a_zip_that_train_reads(daemon: FakeDaemon, tmp_path: Path) -> None:
    client = client_of(daemon)
    assert client.get("/api/v1/cells.zip?reviewed=true").status_code == 400  # none is reviewed
    daemon.desk.review(1, Review.of("blast"), "random", "page")
    answer = client.get("/api/v1/cells.zip?reviewed=true")
    assert answer.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    (row,) = read_export(tmp_path)
    assert (row.cell, row.label) == (1, "blast")
    assert (tmp_path / row.file).is_file()
    assert (tmp_path / "README.txt").is_file()
    entry = daemon.store._database.execute("SELECT action, detail FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    assert tuple(entry) == ("export", '{"cells": 1, "format": "cells.zip"}')
    assert not [path for path in daemon.desk.state.iterdir() if path.name.startswith("tmp")]


def test_a_disk_without_room_for_the_zip_is_a_sentence(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloodedge_device.export.write.free_bytes", lambda _: 1_000_000)
    answer = client_of(daemon).get("/api/v1/cells.zip")
    assert answer.status_code == 503
    assert "no room for this export" in answer.json()["error"]
