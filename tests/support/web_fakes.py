"""A daemon's page over a real store, with drawn frames."""

import os
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from starlette.testclient import TestClient

from bloodedge.decision.kinds import KindCall
from bloodedge.decision.thresholds import Reason
from bloodedge_device.daemon.services import desk_of
from bloodedge_device.daemon.slides import Slides
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.frames import BadFrame, CellResult, Frame, FrameResult
from bloodedge_device.health import Health, Level
from bloodedge_device.latency import StageTimes
from bloodedge_device.pipeline import Searched
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store import Store
from bloodedge_device.store.outbox import Draft
from bloodedge_device.system.signals import Signals
from bloodedge_device.timings import TIMINGS, Timings
from bloodedge_device.web.access import Access
from bloodedge_device.web.app import make_app
from support import fakes

SIZE = (800, 600)
LIGHT = (226, 222, 232)
SHARP, BLURRED = 0.6, 0.15


def drawn(index: int, probabilities: list[float], repeated: bool = False) -> tuple[np.ndarray, FrameResult]:
    """A stained field with as many cells as probabilities, and what the pipeline would say of it."""
    rng = np.random.default_rng(index)
    width, height = SIZE
    field = np.full((height, width, 3), (226, 222, 232), np.uint8)
    for x, y in rng.integers(0, (width, height), (90, 2)):
        cv2.circle(field, (int(x), int(y)), 26, (178, 168, 222), -1, cv2.LINE_AA)
        cv2.circle(field, (int(x), int(y)), 9, (205, 200, 232), -1, cv2.LINE_AA)
    cells = []
    for number, probability in enumerate(probabilities):
        x, y = 110 + 190 * (number % 4), 150 + 230 * (number // 4)
        radius = int(44 + 18 * probability)
        cv2.circle(field, (x, y), radius, (205, 160, 176), -1, cv2.LINE_AA)
        cv2.circle(field, (x - 4, y + 3), int(radius * (0.62 + 0.25 * probability)), (140, 52, 92), -1, cv2.LINE_AA)
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = [[round(x + radius * np.cos(a)), round(y + radius * np.sin(a))] for a in angles]
        box = (x - radius, y - radius, 2 * radius, 2 * radius)
        label = "uncertain" if 0.35 < probability < 0.65 else "blast" if probability >= 0.5 else "normal"
        reason = Reason.ABSTAIN_BAND if label == "uncertain" else None
        around = field[max(0, y - 80) : y + 80, max(0, x - 80) : x + 80].copy()
        mask = np.zeros(around.shape[:2], np.uint8)
        cv2.circle(mask, (min(x, 80), min(y, 80)), radius, 255, -1)
        cells.append(
            CellResult(
                box, label, probability, reason, 90.0 + 20 * number, around, outline, None, None, repeated, mask, LIGHT
            )
        )
    reason = None if cells else Reason.NO_CELL
    capture = fakes.frame(index).capture
    return field, FrameResult(capture, SIZE, None, reason, SHARP, 201.0, cells, Counter({Reason.TOO_SMALL: 2}), 0.1)


class GivenPipeline:
    """What the pipeline says of each frame is known before."""

    def __init__(self, results: "deque[FrameResult]") -> None:
        self._results = results
        self.times = StageTimes()

    def search(self, frame: Frame | BadFrame) -> Searched:
        return Searched(frame)

    def classify(self, _: Searched) -> FrameResult:
        for stage, seconds in (("find", 0.046), ("inference", 0.0052), ("frame", 0.088)):
            self.times.add(stage, seconds)
        return self._results.popleft()

    def close(self) -> None:
        """No thread beside."""


class PromptRecorder:
    """Stores each frame before the next one comes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, slide: CurrentSlide, result: FrameResult) -> None:
        self._store.put_frames(slide.id, [result], keep_crops=True)

    def end(self, slide: CurrentSlide, actor: str) -> Event:
        messages: Sequence[Draft] = ()
        self._store.end_slide(slide.id, slide.times, messages, actor)
        stored = Event()
        stored.set()
        return stored


class FakeDaemon:
    """The daemon without its loop, camera and network; state, slides, store and desk are the real ones."""

    def __init__(self, folder: Path, web: WebSettings | None = None, timings: Timings = TIMINGS) -> None:
        self.settings = DeviceSettings(state=folder, web=web or WebSettings())
        self.store = Store(folder)
        camera: Any = SimpleNamespace(name="replay of 3 images in frames", restarts=0, awaits_files=False, done={})
        self.state = DaemonState(self.settings, fakes.make_loaded(), camera, self.store, Health(), monotonic(), timings)
        self.state.health.report("camera", Level.OK, "Frames come in.")
        self.state.health.report("clock", Level.WARNING, "The clock is not synchronised.")
        self._results: deque[FrameResult] = deque()
        pipeline: Any = GivenPipeline
        self.slides = Slides(self.state, Signals(Event()), lambda *_: pipeline(self._results))
        recorder: Any = PromptRecorder(self.store)
        self.slides.recorder = recorder
        self.slides.begin_run()
        self.desk = desk_of(self.state, self.slides)
        self._index = 0

    def show(self, **changes: object) -> None:
        """Have the snapshots say something else."""
        snapshot = self.desk.snapshot
        self.desk = replace(self.desk, snapshot=lambda: replace(snapshot(), **changes))  # type: ignore[arg-type]

    @property
    def slide(self) -> int | None:
        """The current slide's id."""
        return None if self.state.slide is None else self.state.slide.id

    def see(
        self,
        probabilities: list[float],
        repeated: bool = False,
        reason: Reason | None = None,
        kinds: Sequence[KindCall | None] = (),
    ) -> None:
        """A frame goes through the pipeline; kinds: told of its cells."""
        self._index += 1
        field, result = drawn(self._index, probabilities, repeated)
        if reason is not None:
            result = FrameResult(result.capture, SIZE, None, reason, BLURRED, 201.0, [], Counter(), 0.1)
        if kinds:
            result = fakes.of_kinds(result, kinds)
        self._results.append(result)
        self.state.live.jpeg(0)  # somebody watches, so every frame is kept
        self.slides.process(Frame(result.capture, field, 0.1))
        self.slides.settle()


PROBABILITIES = ([0.95, 0.9, 0.1, 0.5], [0.8, 0.2, 0.05], [0.97, 0.15, 0.1, 0.12, 0.45], [0.1], [0.88, 0.3])


def busy_daemon(folder: Path, web: WebSettings | None = None) -> FakeDaemon:
    """A daemon with a slide under the microscope, 15 cells on it."""
    daemon = FakeDaemon(folder, web)
    daemon.desk.start_slide("Specimen 12", "page")
    for probabilities in PROBABILITIES:
        daemon.see(probabilities)
    return daemon


KINDS = (
    (fakes.LYMPHOCYTE, fakes.LYMPHOCYTE, fakes.MONOCYTE, fakes.SEGMENTED),
    (fakes.MAYBE_MONONUCLEAR, fakes.BAND, fakes.SEGMENTED),
    (fakes.LYMPHOCYTE, fakes.EOSINOPHIL, fakes.SEGMENTED, fakes.ERYTHROBLAST, fakes.LYMPHOCYTE),
    (fakes.SEGMENTED,),
    (fakes.LYMPHOCYTE, fakes.SEGMENTED),
)
"""Kinds of the cells of PROBABILITIES: those of a mixed smear."""


def mixed_daemon(folder: Path, web: WebSettings | None = None) -> FakeDaemon:
    """A daemon with a mixed smear under the microscope, 15 cells of it seen."""
    daemon = FakeDaemon(folder, web)
    daemon.desk.start_slide("Smear 7", "page")
    for probabilities, kinds in zip(PROBABILITIES, KINDS, strict=True):
        daemon.see(probabilities, kinds=kinds)
    return daemon


def access_of(daemon: FakeDaemon, **more: Any) -> Access:
    """The rules of the daemon's settings, as if it listened on their port."""
    return Access(daemon.settings.web, daemon.settings.state, daemon.settings.web.port, **more)


def client_of(
    daemon: FakeDaemon, access: Access | None = None, host: str = "127.0.0.1:8765", **more: Any
) -> TestClient:
    """A browser or program at the page; ``access`` None: as the settings say."""
    app = make_app(daemon.desk, access or access_of(daemon))
    scheme = "https" if daemon.settings.web.certificate else "http"
    return TestClient(app, base_url=f"{scheme}://{host}", follow_redirects=False, **more)


def csrf_of(client: TestClient, path: str = "/") -> str:
    """What the forms of a page carry."""
    text: str = client.get(path).text
    return text.split('name="csrf" value="')[1].split('"', maxsplit=1)[0]


def serve(state: Path, port: int = 0) -> None:
    """As a program for looking at: serve a daemon with a mixed smear until interrupted."""
    import time

    from bloodedge_device.web.server import WebServer

    daemon = mixed_daemon(state, WebSettings(port=port))
    server = WebServer(daemon.desk, daemon.settings.web, state)
    server.start()
    print(server.url, os.getpid(), flush=True)
    while True:
        time.sleep(0.5)
        daemon.see(PROBABILITIES[int(time.time()) % 5], kinds=KINDS[int(time.time()) % 5])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
