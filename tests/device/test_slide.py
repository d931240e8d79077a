from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bloodedge.decision.thresholds import Reason
from bloodedge_device.frames import FrameResult
from bloodedge_device.latency import StageTimes
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.slide.tally import Tally, Totals
from bloodedge_device.store import Store, open_for_reading, queries
from bloodedge_device.store.statistics import read_statistics
from support import fakes


def statistics(state: Path, slide: int) -> SlideStatistics:
    with open_for_reading(state) as database:
        return read_statistics(database, slide)


@pytest.fixture
def slide(state: Path) -> int:
    store = Store(state)
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    store.put_frames(store.begin_slide(run, "another"), [fakes.result(0, [0.9, 0.9])], keep_crops=False)
    slide = store.begin_slide(run, "this")
    for index in range(10):
        store.put_frames(slide, [fakes.result(index, [0.9], dropped_before=index % 2)], keep_crops=False)
    store.put_frames(slide, [fakes.result(10, [0.1, 0.5, 0.4])], keep_crops=False)
    store.put_frames(slide, [fakes.result(11, [])], keep_crops=False)
    store.put_frames(slide, [fakes.bad_frame(12)], keep_crops=False)
    store.end_slide(slide, StageTimes())
    store.close()
    return slide


def test_frames_and_cells_of_this_slide_alone_are_counted(state: Path, slide: int) -> None:
    counts = statistics(state, slide)
    assert counts.frames_seen == 13 + 5
    assert counts.frames_dropped == 5
    assert counts.frames_without_cells == 1
    assert counts.frames_rejected == {"bad_frame": 1}
    assert counts.cells == {"normal": 1, "blast": 10, "uncertain": 2, "other": 0}
    assert counts.uncertain == {"abstain_band": 2}
    assert counts.not_cells == {"too_small": 24}


def test_the_blast_share_is_of_called_cells_with_wilsons_interval(state: Path, slide: int) -> None:
    counts = statistics(state, slide)
    assert counts.blast_share == pytest.approx(10 / 11)
    # by statsmodels' proportion_confint, method "wilson"
    assert counts.blast_ci95 == pytest.approx((0.6226, 0.9838), abs=5e-4)
    assert counts.uncertain_share == pytest.approx(2 / 13)


KINDS = (
    None, fakes.SEGMENTED, fakes.BAND, fakes.EOSINOPHIL, fakes.ERYTHROBLAST, fakes.LYMPHOCYTE, fakes.LYMPHOCYTE,
    fakes.MONOCYTE, fakes.MAYBE_MONONUCLEAR,
)  # fmt: skip
REASONS = (Reason.OUT_OF_FOCUS, Reason.TOO_DARK, Reason.BAD_FRAME)


def random_results(seed: int, frames: int) -> list[FrameResult]:
    """Frames as a slide gives them: some rejected, some empty, cells seen again, now and then better than before."""
    rng = np.random.default_rng(seed)
    known, results = 0, []
    for index in range(frames):
        kind = rng.integers(10)
        result = fakes.result(index, [] if kind < 2 else rng.random(rng.integers(1, 6)).tolist(), int(rng.integers(3)))
        if kind == 0:
            result = replace(result, reason=rng.choice(np.array(REASONS, object)), rejected=Counter())
        cells = []
        for cell in result.cells:
            new = not known or rng.random() < 0.5
            number = known if new else int(rng.integers(known))
            known += new
            sighting = replace(cell, number=number, repeated=not new and rng.random() < 0.5)
            sighting = sighting if rng.random() < 0.9 else replace(cell, number=None)
            cells.append(sighting)
        drawn = (int(rng.integers(4)), int(rng.integers(4)))
        capture = replace(result.capture, truth=drawn)
        recalls = bool(cells) and rng.random() < 0.05
        result = replace(result, capture=capture, cells=cells, recalls=recalls)
        results.append(fakes.of_kinds(result, [KINDS[i] for i in rng.integers(len(KINDS), size=len(cells))]))
    return results


@pytest.mark.parametrize("known_at_once", [4000, 7])
@pytest.mark.parametrize("seed", range(6))
def test_what_the_daemon_tells_of_a_slide_in_work_is_what_its_rows_say(
    state: Path, monkeypatch: pytest.MonkeyPatch, seed: int, known_at_once: int
) -> None:
    monkeypatch.setattr("bloodedge_device.slide.tally.REVISABLE", known_at_once)
    monkeypatch.setattr("bloodedge_device.store.frame_rows.ROWS_KNOWN", known_at_once)
    for module in ("slide.tally", "store.frame_rows"):
        monkeypatch.setattr(f"bloodedge_device.{module}.REMEMBERED", 11)
    store, tally = Store(state), Tally()
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    results = random_results(seed, 120)
    for begin in range(0, 120, 8):
        for result in results[begin : begin + 8]:
            tally.add(result)
        store.put_frames(slide, results[begin : begin + 8], keep_crops=False)
        if begin % 40 == 0:
            assert tally.statistics() == statistics(state, slide)
    told = tally.statistics()
    assert told == statistics(state, slide)
    assert told.uncertain["out_of_domain"] > 5
    assert told.cells_total + told.repeated == sum(len(result.cells) for result in results)
    assert told.repeated > 50
    assert told.clustered.successes == told.cells["blast"]
    assert told.clustered.trials == told.called
    looked_at = [result.capture.truth for result in results if result.reason in (None, Reason.NO_CELL)]
    assert told.drawn == (sum(blasts for blasts, _ in looked_at), sum(normals for _, normals in looked_at))
    store.close()


def test_a_slide_that_turns_out_to_be_foreign_has_no_class_left(state: Path) -> None:
    store, tally = Store(state), Tally()
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    before, slide = store.begin_slide(run, ""), store.begin_slide(run, "")
    store.put_frames(before, [fakes.result(0, [0.9])], keep_crops=False)
    results = [fakes.result(index, [0.9, 0.1, 0.5]) for index in range(4)]
    for result in [*results, replace(fakes.result(4, [0.9]), recalls=True)]:
        tally.add(result)
        store.put_frames(slide, [result], keep_crops=False)
    assert tally.statistics() == statistics(state, slide)
    assert tally.statistics().cells == {"normal": 0, "blast": 0, "uncertain": 13, "other": 0}
    assert tally.statistics().uncertain == {"out_of_domain": 9, "abstain_band": 4}
    assert tally.statistics().blast_share is None
    assert statistics(state, before).cells["blast"] == 1
    store.close()


def test_cells_of_other_kinds_are_neither_called_nor_uncertain(state: Path) -> None:
    store, tally = Store(state), Tally()
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    kinds = [fakes.SEGMENTED, fakes.BAND, fakes.LYMPHOCYTE, fakes.LYMPHOCYTE, fakes.MAYBE_MONONUCLEAR, None]
    result = fakes.of_kinds(fakes.result(0, [0.9, 0.5, 0.9, 0.1, 0.5, 0.1]), kinds)
    tally.add(result)
    store.put_frames(slide, [result], keep_crops=False)
    counts = tally.statistics()
    assert counts == statistics(state, slide)
    assert counts.cells == {"normal": 2, "blast": 1, "uncertain": 1, "other": 2}
    assert (counts.called, counts.clustered.trials, counts.scores.cells) == (3, 3, 4)
    assert counts.uncertain_share == 1 / 4
    assert counts.kinds["neutrophil", "band", "other"] == 1
    assert "2 of other kinds" in counts.sentence(None)
    (called,) = queries.slides(state, slide + 1, 1)
    assert (called.cells, called.blasts, called.normals) == (6, 1, 2)
    told = queries.cells(state, slide, 0, 10)
    assert (told[1].label, told[1].kind, told[1].stage, told[1].kind_probability) == (
        "other",
        "neutrophil",
        "band",
        0.81,
    )
    assert told[5].kind is None
    store.close()


def test_a_better_view_takes_the_place_of_the_one_before() -> None:
    tally = Tally()
    for index, (probability, repeated) in enumerate([(0.1, False), (0.2, True), (0.9, False)]):
        result = fakes.result(index, [probability])
        tally.add(replace(result, cells=[replace(result.cells[0], number=0, repeated=repeated)]))
    counts = tally.statistics()
    assert counts.cells == {"normal": 0, "blast": 1, "uncertain": 0, "other": 0}
    assert counts.repeated == 2
    assert counts.clustered.clusters == 1


def test_totals_since_the_start_only_grow_and_count_each_cell_at_its_first_view() -> None:
    totals = Totals()
    for index, (probability, repeated) in enumerate([(0.1, False), (0.2, True), (0.5, False)]):
        result = fakes.result(index, [probability], dropped_before=2)
        totals.add(replace(result, cells=[replace(result.cells[0], number=index, repeated=repeated)]))
    totals.add(fakes.bad_frame(3))
    totals.add(fakes.result(4, []))
    assert totals.cells == {"normal": 1, "blast": 0, "uncertain": 1, "other": 0}
    assert totals.uncertain == {"abstain_band": 1}
    assert totals.frames == {"cells": 3, "bad_frame": 1, "no_cell": 1}
    assert totals.dropped == 6


def test_a_slide_without_cells_has_no_share(state: Path) -> None:
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "empty")
    counts = statistics(state, slide)
    assert counts.blast_share is None
    assert "No cell was called blast or normal, so the slide may hold any share of blasts." in counts.sentence(None)
    store.close()
