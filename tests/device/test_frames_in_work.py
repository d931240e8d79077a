"""The cells of one frame are classified while the next one is searched; slides change between frames all the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_device.frames import BadFrame, Frame, FrameResult
from bloodedge_device.latency import StageTimes
from bloodedge_device.pipeline import Searched
from support import fakes
from support.slot_bundles import HURRIED
from support.waiting import until
from support.web_fakes import FakeDaemon


class Held:
    """A pipeline that classifies no frame before it is told to."""

    def __init__(self) -> None:
        self.times = StageTimes()
        self.searched: list[int] = []
        self.classified: list[tuple[int, float]] = []
        self.go_on = Event()

    def search(self, frame: Frame | BadFrame) -> Searched:
        self.searched.append(frame.capture.index)
        return Searched(frame)

    def classify(self, searched: Searched) -> FrameResult:
        assert self.go_on.wait(10)
        assert isinstance(searched.frame, Frame)
        if searched.frame.capture.index == 13:
            raise BloodedgeError("The network is broken.")
        self.classified.append((searched.frame.capture.index, float(searched.frame.bgr.mean())))
        return replace(FrameResult(searched.frame.capture), size=(160, 120))

    def close(self) -> None:
        """No thread beside."""


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def daemon(tmp_path: Path, held: Held) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path, timings=replace(HURRIED, frame_wait_s=1.0))
    daemon.slides._new_pipeline = lambda *_: held  # type: ignore[assignment, return-value]
    daemon.slides.begin("", "daemon")
    yield daemon
    held.go_on.set()
    daemon.slides.finish()
    daemon.store.close()


def rows(daemon: FakeDaemon) -> list[tuple[Any, ...]]:
    return daemon.store.at_once(lambda: list(daemon.store._database.execute("SELECT slide FROM frames ORDER BY id")))


def test_a_frame_is_searched_while_the_one_before_it_is_classified(daemon: FakeDaemon, held: Held) -> None:
    daemon.slides.process(fakes.frame(1))
    second = Thread(target=daemon.slides.process, args=(fakes.frame(2),))
    second.start()
    assert until(lambda: held.searched == [1, 2])
    assert held.classified == []
    assert len(daemon.state.in_work) == 2
    held.go_on.set()
    second.join()
    daemon.slides.settle()
    assert [index for index, _ in held.classified] == [1, 2]
    assert not daemon.state.in_work


def test_a_frame_is_classified_by_its_own_pixels_though_the_camera_writes_the_next_over_them(
    daemon: FakeDaemon, held: Held
) -> None:
    memory = np.full((120, 160, 3), 40, np.uint8)
    daemon.slides.process(replace(fakes.frame(1), bgr=memory))
    memory[:] = 200
    held.go_on.set()
    daemon.slides.settle()
    assert held.classified == [(1, 40.0)]


def test_the_frame_in_work_belongs_to_the_slide_that_was_under_the_microscope(daemon: FakeDaemon, held: Held) -> None:
    first = daemon.slide
    daemon.slides.process(fakes.frame(1))
    starter = Thread(target=daemon.slides.start, args=("next", "somebody"))
    starter.start()
    starter.join(0.1)
    assert daemon.slide == first
    held.go_on.set()
    starter.join()
    daemon.slides.process(fakes.frame(2))
    daemon.slides.settle()
    assert first is not None
    assert [number for (number,) in rows(daemon)] == [first, first + 1]


def test_a_slide_cannot_be_changed_while_a_frame_hangs(daemon: FakeDaemon, held: Held) -> None:
    daemon.slides.process(fakes.frame(1))
    with pytest.raises(BloodedgeError, match="current frame cannot be stored"):
        daemon.slides.start("next", "somebody")
    held.go_on.set()
    daemon.slides.settle()
    daemon.slides.start("next", "somebody")


def test_what_goes_wrong_with_a_frame_is_raised_in_the_daemons_thread(daemon: FakeDaemon, held: Held) -> None:
    held.go_on.set()
    daemon.slides.process(fakes.frame(13))
    with pytest.raises(BloodedgeError, match="network is broken"):
        daemon.slides.settle()
