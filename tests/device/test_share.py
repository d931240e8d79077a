"""What a person is told of a slide's share of blasts."""

import json
import math
from pathlib import Path

import pytest

from bloodedge.decision.error_rates import Outcomes, Rates
from bloodedge_device.camera.simulated import SimulatedCamera
from bloodedge_device.frames import Capture, Frame, FrameResult
from bloodedge_device.outputs.messages import slide_message
from bloodedge_device.report.page import page
from bloodedge_device.report.reading import read_report
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.share import SlideShare
from bloodedge_device.store import Store
from support import fakes


def people(count: int, blast: int, normal: int, refused: int) -> dict[str, Outcomes]:
    return {str(person): Outcomes(blast=blast, normal=normal, refused=refused) for person in range(count)}


GOOD = Rates(blast=people(40, 57, 1, 2), normal=people(40, 1, 57, 2))
POOR = Rates(
    blast={str(said): Outcomes(blast=said, normal=60 - said, refused=0) for said in (58, 40, 50, 30, 55, 45)},
    normal={str(said): Outcomes(blast=said, normal=60 - said, refused=9) for said in (5, 25, 35, 15, 40, 10)},
)
USELESS = Rates(blast=people(9, 58, 0, 2), normal=people(9, 58, 0, 2))


def slide(blasts: int, called: int, frames: int) -> ClusteredShare:
    """Cells spread evenly over frames."""
    part = [blasts // frames + (number < blasts % frames) for number in range(frames)]
    return ClusteredShare(part, [called // frames] * frames)


def test_a_good_classifier_and_many_cells_are_enough() -> None:
    told = SlideShare.of(slide(300, 1000, 100), GOOD)
    assert told.enough(0.05)
    assert told.cells_needed(0.05) == 0
    assert told.limit_sentence == ""
    assert told.headline.startswith(("29", "30"))


def test_a_good_classifier_and_few_cells_want_more_of_them() -> None:
    told = SlideShare.of(slide(30, 100, 50), GOOD)
    assert not told.enough(0.05)
    needed = told.cells_needed(0.05)
    assert needed is not None
    assert 100 < needed < 1000
    more = SlideShare.of(slide(30 * (100 + needed) // 100, 100 + needed, 50), GOOD)
    assert more.estimate.half_width == pytest.approx(0.05, abs=0.01)


def test_few_frames_are_never_enough() -> None:
    assert not SlideShare.of(slide(300, 1000, 5), GOOD).enough(0.2)


def test_a_poor_classifier_is_told_to_be_what_limits_and_asks_for_no_more_cells() -> None:
    told = SlideShare.of(slide(500, 1000, 100), POOR)
    assert told.cells_needed(0.05) is None
    assert told.figures.limited_by == "classifier"
    assert "This model cannot tell the share of blasts on this slide" in told.limit_sentence


def test_a_useless_classifier_cannot_tell() -> None:
    told = SlideShare.of(slide(950, 1000, 100), USELESS)
    assert told.headline == "cannot tell the share of blasts"
    assert "This model cannot tell the share of blasts on this slide" in told.sentence


def test_a_bundle_without_rates_corrects_nothing_and_says_why() -> None:
    told = SlideShare.of(slide(50, 100, 50), None)
    assert (told.headline, told.figures.corrected) == ("share of blasts not known", None)
    assert (told.figures.low, told.figures.high, told.cells_needed(0.05)) == (0, 1, None)
    assert "does not say how often it errs" in told.sentence
    assert "50.0" in told.called_sentence


def test_no_blasts_are_never_told_without_the_limit_that_the_count_allows() -> None:
    """1.8 % for none of 200, by Clopper and Pearson."""
    told = SlideShare.of(slide(0, 200, 200), GOOD)
    assert told.figures.corrected == 0
    assert told.figures.high > 0.0175
    assert "No blasts, or up to" in told.sentence


def test_nothing_called_is_no_figure() -> None:
    told = SlideShare.of(ClusteredShare([], []), GOOD)
    assert told.figures.limited_by == "nothing called"
    assert "may hold any share of blasts" in told.sentence
    assert told.cells_needed(0.05) is not None


def test_an_interval_is_told_once(state: Path) -> None:
    store = Store(state)
    number = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(number, [fakes.result(index, [0.9, 0.1, 0.9]) for index in range(12)], keep_crops=False)
    store.close()
    report = read_report(state)
    text = page(report)
    assert len(set(report.share.sentences)) == len(report.share.sentences) >= 2
    for sentence in report.share.sentences:
        assert text.count(sentence) == 1, sentence


def drawn(truth: tuple[int, int]) -> FrameResult:
    result = fakes.result(0, [0.9, 0.1])
    return FrameResult(**{**vars(result), "capture": Capture(**{**vars(result.capture), "truth": truth})})


def test_what_the_simulator_drew_stands_beside_the_share(state: Path) -> None:
    store = Store(state)
    number = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(number, [drawn((3, 1)), drawn((0, 4))], keep_crops=False)
    store.close()
    report = read_report(state)
    assert report.to_json()["blast_share"]["truth"] == 3 / 8
    said = "Drawn by the simulator: 37.5\N{NARROW NO-BREAK SPACE}% blasts (3 of 8)."
    assert said in page(report)
    assert said in report.statistics.sentence(fakes.RATES)


def test_the_simulated_camera_knows_what_it_draws_and_other_cameras_do_not() -> None:
    import threading

    stop = threading.Event()
    first: Frame = next(iter(SimulatedCamera(CameraSettings(kind="simulated", seed=3)).frames(stop)))
    assert first.capture.truth is not None
    assert 1 <= sum(first.capture.truth) <= 3  # white cells of a field
    assert fakes.frame().capture.truth is None


def test_the_broker_is_told_the_corrected_share_with_its_interval() -> None:
    in_work = CurrentSlide(1, "one", fakes.RATES)
    for index in range(12):
        in_work.tally.add(fakes.result(index, [0.9, 0.1, 0.9]))
    told = json.loads(slide_message(in_work, ended=False).payload)
    share = told["corrected_share"]
    assert share.keys() == {"called", "corrected", "low", "high", "limited_by", "truth"}
    assert share["called"] == told["blast_share"] == 2 / 3
    assert 0 <= share["low"] < share["corrected"] < share["high"] <= 1
    assert math.isfinite(share["high"])
