from pathlib import Path
from types import ModuleType

import pytest

from bloodedge_device.histogram import StageTimes
from bloodedge_device.slide import SlideStatistics, read_statistics
from bloodedge_device.store import Store, open_for_reading


def statistics(state: Path, slide: int) -> SlideStatistics:
    with open_for_reading(state) as database:
        return read_statistics(database, slide)


@pytest.fixture
def slide(state: Path, fakes: ModuleType) -> int:
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
    assert counts.cells == {"normal": 1, "blast": 10, "uncertain": 2}
    assert counts.uncertain == {"abstain_band": 2}
    assert counts.not_cells == {"too_small": 24}


def test_the_blast_share_is_of_called_cells_with_wilsons_interval(state: Path, slide: int) -> None:
    counts = statistics(state, slide)
    assert counts.blast_share == pytest.approx(10 / 11)
    # by statsmodels' proportion_confint, method "wilson"
    assert counts.blast_ci95 == pytest.approx((0.6226, 0.9838), abs=5e-4)
    assert counts.uncertain_share == pytest.approx(2 / 13)


def test_a_slide_without_cells_has_no_share(state: Path, fakes: ModuleType) -> None:
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "empty")
    counts = statistics(state, slide)
    assert counts.blast_share is None
    assert "no cell was called" in counts.sentence()
    store.close()
