from dataclasses import dataclass, replace
from time import monotonic
from types import SimpleNamespace

import numpy as np
import pytest

from bloodedge.decision.domain import Domain, describe
from bloodedge.decision.thresholds import Reason, calibrated, decide
from bloodedge.finder.frame_gate import GateResult
from bloodedge.imaging import network_input
from bloodedge_device.frames import BadFrame, Capture
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.slide.domain_check import REMEMBERED
from bloodedge_device.slide.overlap import Sighting
from support import fakes


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(fakes.FakeEngine(), fakes.make_manifest(), fakes.check, fakes.find_cells)


def test_a_cell_gets_what_imaging_network_and_decision_say_of_it(pipeline: Pipeline) -> None:
    frame, manifest = fakes.frame(level=240), fakes.make_manifest()
    whole, _ = pipeline.process(frame).cells
    image = network_input(fakes.FakeCell(whole.box).crop(frame.bgr, frame.um_per_px), manifest.imaging)
    probability = calibrated(fakes.FakeEngine().predict(image[None]), manifest.temperature)[0, 1]
    assert whole.blast_probability == pytest.approx(probability)
    assert (whole.label, whole.reason) == decide(probability, manifest.thresholds)


def test_a_cell_unlike_the_training_cells_is_uncertain_unless_told_otherwise() -> None:
    frame, manifest = fakes.frame(level=240), fakes.outside_of_all(fakes.make_manifest())
    parts = fakes.FakeEngine(), manifest, fakes.check, fakes.find_cells
    unlike, _ = Pipeline(*parts).process(frame).cells
    assert (unlike.label, unlike.reason) == ("uncertain", Reason.OUT_OF_DOMAIN)
    taken, _ = Pipeline(*parts, known_only=False).process(frame).cells
    assert (taken.label, taken.reason) == ("normal", None)
    assert taken.blast_probability == unlike.blast_probability


def around(image: np.ndarray) -> Domain:
    """A domain that holds what looks like this network input, and nothing else."""
    middle = describe(image)
    apart = np.eye(len(middle)).tolist()
    return Domain(mean=tuple(middle), deviation=(1.0,) * len(middle), whitening=apart, limit=1e-3, cells=600)


def test_on_a_slide_of_another_kind_even_a_cell_that_resembles_the_training_cells_is_uncertain() -> None:
    usual, strange = fakes.frame(level=240), fakes.frame(level=120)
    manifest = fakes.make_manifest()
    box = fakes.find_cells(usual.bgr, 0.1).cells[0].box
    known = network_input(fakes.FakeCell(box).crop(usual.bgr, usual.um_per_px), manifest.imaging)
    manifest = manifest.model_copy(update={"domain": around(known)})
    pipeline = Pipeline(fakes.FakeEngine(), manifest, fakes.check, fakes.find_cells)
    assert pipeline.process(usual).cells[0].reason is None
    results = [pipeline.process(strange) for _ in range(20)]
    assert {result.cells[0].reason for result in results} == {Reason.OUT_OF_DOMAIN}
    assert sum(result.recalls for result in results) == 1  # the first usual cell's class, too, stands no longer
    assert pipeline.process(usual).cells[0].reason is Reason.OUT_OF_DOMAIN
    for _ in range(REMEMBERED):
        last = pipeline.process(usual)
    assert last.cells[0].reason is None


@dataclass(frozen=True)
class Identity:
    number: int
    repeated: bool


class Map:
    """Says that a frame's first cell is new and its second seen before; keeps how bright the located frames were."""

    def __init__(self) -> None:
        self.located: list[float] = []

    def locate(self, bgr: np.ndarray) -> None:
        self.located.append(float(bgr.mean()))

    def identify(self, um_per_px: float, sightings: list[Sighting]) -> SimpleNamespace:
        assert um_per_px == 0.1
        assert [(sighting.centre_px, sighting.cut) for sighting in sightings] == [((70, 60), False), ((10, 15), True)]
        return SimpleNamespace(seen=[Identity(4, repeated=False), Identity(9, repeated=True)])


def test_each_found_cell_is_told_apart_from_those_seen_before() -> None:
    slide_map = Map()
    parts = fakes.FakeEngine(), fakes.make_manifest(), fakes.check, fakes.find_cells
    pipeline = Pipeline(*parts, slide_map=slide_map)
    for level in (128, 5, 5, 200):
        result = pipeline.process(fakes.frame(level=level))
    assert [(cell.number, cell.repeated) for cell in result.cells] == [(4, False), (9, True)]
    assert slide_map.located == [128, 200]  # a frame that the gate rejects has no place on the slide
    alone = Pipeline(*parts).process(fakes.frame()).cells
    assert [(cell.number, cell.repeated) for cell in alone] == [(None, False), (None, False)]


def test_a_cell_cut_by_the_border_is_uncertain_and_not_classified(pipeline: Pipeline) -> None:
    _, cut = pipeline.process(fakes.frame()).cells
    assert (cut.label, cut.reason, cut.blast_probability) == ("uncertain", Reason.CUT_BY_BORDER, None)


def test_nothing_is_said_of_cells_in_a_frame_that_the_gate_rejects() -> None:
    def reject(bgr: np.ndarray) -> GateResult:
        return replace(fakes.check(bgr), reason=Reason.OUT_OF_FOCUS)

    pipeline = Pipeline(fakes.FakeEngine(), fakes.make_manifest(), reject, fakes.find_cells)
    result = pipeline.process(fakes.frame(level=128))
    assert (result.reason, result.cells, result.rejected) == (Reason.OUT_OF_FOCUS, [], {})


def test_rejected_frames_in_a_row_are_not_searched(pipeline: Pipeline) -> None:
    for level in (5, 5, 5, 128, 5):
        pipeline.process(fakes.frame(level=level))
    assert pipeline.times.histograms["gate"].count == 5
    assert pipeline.times.histograms["find"].count == 3  # not the second and third


def test_a_frame_without_cells_says_so(pipeline: Pipeline) -> None:
    assert pipeline.process(fakes.frame(level=15)).reason is Reason.NO_CELL


def test_an_unreadable_frame_is_a_bad_frame(pipeline: Pipeline) -> None:
    broken = BadFrame(Capture.now(7, monotonic()), "broken.png is truncated.")
    assert pipeline.process(broken).reason is Reason.BAD_FRAME


@pytest.mark.parametrize(
    "bgr",
    [
        np.zeros((480, 640), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((480, 640, 3), np.uint16),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_a_frame_of_another_kind_is_a_bad_frame(pipeline: Pipeline, bgr: np.ndarray) -> None:
    result = pipeline.process(replace(fakes.frame(), bgr=bgr))
    assert result.reason is Reason.BAD_FRAME
    assert result.problem


def test_transparency_is_dropped(pipeline: Pipeline) -> None:
    frame = fakes.frame()
    clear = np.dstack([frame.bgr, np.full(frame.bgr.shape[:2], 255, np.uint8)])
    labels = [[cell.label for cell in pipeline.process(one).cells] for one in (frame, replace(frame, bgr=clear))]
    assert labels[0] == labels[1]


def test_what_the_finder_turned_down_is_counted_by_reason(pipeline: Pipeline) -> None:
    assert pipeline.process(fakes.frame()).rejected == {Reason.TOO_SMALL: 1}


def test_a_crop_shows_the_cell_and_a_little_round_it_and_ends_at_the_frame(pipeline: Pipeline) -> None:
    whole, cut = pipeline.process(fakes.frame()).cells
    assert whole.crop.shape == (78, 78, 3)
    assert 0 < cut.crop.shape[0] <= 40


def test_every_stage_is_timed_once_a_frame_or_once_a_cell(pipeline: Pipeline) -> None:
    for index in range(3):
        pipeline.process(fakes.frame(index))
    counts = {stage: histogram.count for stage, histogram in pipeline.times.histograms.items()}
    assert counts["gate"] == counts["find"] == counts["imaging"] == counts["inference"] == counts["decision"] == 3


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_are_within_one_per_cent_of_the_exact_ones(percent: int) -> None:
    latencies_ms = [0.01 * 1.001**i for i in range(10_000)]
    histogram = LatencyHistogram()
    for latency in latencies_ms:
        histogram.add(latency)
    assert histogram.percentile(percent) == pytest.approx(latencies_ms[percent * 100 - 1], rel=0.0101)


def test_a_stored_histogram_comes_back_as_it_was() -> None:
    histogram = LatencyHistogram()
    for latency in (0.0, 1e-9, 3.2, 3.2, 1e12):
        histogram.add(latency)
    again = LatencyHistogram.from_json(histogram.to_json())
    assert (again.count, again.summary()) == (5, histogram.summary())
