"""A daemon's desk over a real store, with drawn frames, for tests of the page."""

import os
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from starlette.testclient import TestClient

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.decision.thresholds import Reason
from bloodedge.errors import UsageError
from bloodedge_device.daemon.live import Live
from bloodedge_device.frames import CellResult, FrameResult
from bloodedge_device.latency import StageTimes
from bloodedge_device.settings import DeviceSettings, WebSettings
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.share import SlideShare
from bloodedge_device.snapshot.status import (
    BundleStatus,
    CellStatus,
    ConditionStatus,
    FrameStatus,
    SlideStatus,
    StageStatus,
    Status,
)
from bloodedge_device.store import Store, open_for_reading
from bloodedge_device.web.access import Access
from bloodedge_device.web.app import make_app
from support import fakes

STARTED = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SIZE = (800, 600)
FOCUS_NEEDED = 20.0


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
        cells.append(
            CellResult(box, label, probability, reason, 90.0 + 20 * number, around, outline, None, None, repeated)
        )
    reason = None if cells else Reason.NO_CELL
    capture = fakes.frame(index).capture
    return field, FrameResult(capture, SIZE, None, reason, 31.0, 201.0, cells, Counter({Reason.TOO_SMALL: 2}), 0.1)


class FakeDesk:
    """The daemon without a camera: its store, live frames and slides are real."""

    def __init__(self, state: Path, web: WebSettings | None = None) -> None:
        self.live = Live()
        self.settings = DeviceSettings(state=state, web=web or WebSettings())
        self.state = state
        self.store = Store(state)
        self.run = self.store.begin_run(fakes.run_info(fakes.make_manifest()))
        self.slide: int | None = None
        self.label = ""
        self.alive = self.ready = True
        self.health = {
            "camera": ConditionStatus(level="ok", sentence="Frames come in.", since=STARTED),
            "clock": ConditionStatus(level="warning", sentence="The clock is not synchronised.", since=STARTED),
        }
        self._index = 0
        self._clusters: list[tuple[int, int]] = []

    def see(self, probabilities: list[float], repeated: bool = False, reason: Reason | None = None) -> None:
        """A frame goes through the pipeline."""
        self._index += 1
        field, result = drawn(self._index, probabilities, repeated)
        if reason is not None:
            result = FrameResult(result.capture, SIZE, None, reason, 8.0, 201.0, [], Counter(), 0.1)
        if self.slide is not None:
            self.store.put_frames(self.slide, [result], keep_crops=True)
            labels = [cell.label for cell in result.cells if not cell.repeated]
            self._clusters.append((labels.count("blast"), labels.count("blast") + labels.count("normal")))
        self.live.jpeg(0)  # somebody watches, so every frame is kept
        self.live.put(field, result)

    def _frame(self) -> FrameStatus | None:
        picture = self.live.latest()
        if picture is None:
            return None
        result = picture.result
        cells = [
            CellStatus(
                box=cell.box,
                outline=cell.outline,
                label=cell.label,
                blast_probability=cell.blast_probability,
                reason=cell.reason,
                area_um2=cell.area_um2,
                repeated=cell.repeated,
            )
            for cell in result.cells
        ]
        return FrameStatus(
            number=picture.number,
            captured_at=result.capture.captured_at,
            age_s=0.1,
            width=SIZE[0],
            height=SIZE[1],
            um_per_px=0.1,
            reason=result.reason,
            detail=result.problem,
            focus=result.focus,
            focus_needed=FOCUS_NEEDED,
            brightness=result.brightness,
            cells=cells,
        )

    def _slide(self) -> SlideStatus | None:
        if self.slide is None:
            return None
        share = ClusteredShare([part for part, _ in self._clusters], [whole for _, whole in self._clusters])
        corrected = SlideShare.of(share, fakes.RATES)
        with open_for_reading(self.state) as database:
            query = "SELECT cells.label FROM cells JOIN frames ON frames.id = cells.frame WHERE slide = ?"
            labels = [row[0] for row in database.execute(query, (self.slide,))]
        return SlideStatus(
            id=self.slide,
            label=self.label,
            started=STARTED,
            frames_seen=len(self._clusters),
            frames_dropped=3,
            frames_rejected={"out_of_focus": 2},
            frames_without_cells=1,
            cells_total=len(labels),
            blasts=share.successes,
            normals=share.trials - share.successes,
            uncertain=labels.count("uncertain"),
            uncertain_reasons={"abstain_band": labels.count("uncertain")},
            repeated=4,
            blast_share=share.share,
            blast_ci95=share.ci95,
            blast_ci95_clustered=share.clustered_ci95,
            corrected_share=corrected.figures,
            share_headline=corrected.headline,
            share_sentences=corrected.sentences,
            half_width=0.05,
            enough=corrected.enough(0.05),
            cells_needed=corrected.cells_needed(0.05),
        )

    def status(self) -> Status:
        baseline = LatencyMs(p50=3.1, p95=3.4, p99=4.2)
        latency = {"find": (46.0, 71.0, 90.0), "inference": (5.2, 6.1, 8.0), "frame": (88.0, 120.0, 161.0)}
        per = {"find": "frame", "inference": "cell", "frame": "frame"}
        return Status(
            research_use=RESEARCH_USE,
            version="0.1.0",
            board="Test Board 5",
            started=STARTED,
            alive=self.alive,
            ready=self.ready,
            camera="replay of 3 images in frames",
            frames_per_second=6.5,
            clock_synchronised=True,
            bundle=BundleStatus(
                name="mobilenetv2",
                serial=1_790_000_000,
                engine="litert",
                precision="int8",
                runtime="ai-edge-litert 0.0",
                rendered=False,
                golden="63 of 64 golden cells keep the float model's class",
                baseline_hardware="NVIDIA Test GPU",
                baseline_latency_ms=baseline,
                warnings=["These figures are of another microscope."],
            ),
            frame=self._frame(),
            slide=self._slide(),
            stages={
                name: StageStatus(per=per[name], count=40, latency_ms=LatencyMs(p50=p50, p95=p95, p99=p99))
                for name, (p50, p95, p99) in latency.items()
            },
            health=self.health,
            waiting_messages=0,
        )

    def metrics(self) -> bytes:
        return b"# TYPE bloodedge_cells_total counter\nbloodedge_cells_total 5\n"

    def start_slide(self, label: str, actor: str) -> int:
        self.end_slide(actor)
        self.slide, self.label, self._clusters = self.store.begin_slide(self.run, label), label, []
        self.store.note(actor, "slide started", {"slide": self.slide})
        return self.slide

    def end_slide(self, actor: str) -> int | None:
        ended, self.slide = self.slide, None
        if ended is not None:
            times = StageTimes()
            for _ in range(20):
                times.add("inference", 0.0052)
                times.add("find", 0.046)
            self.store.end_slide(ended, times, actor=actor)
        return ended

    def label_slide(self, slide: int, label: str, actor: str) -> None:
        if slide > 10**9:
            raise UsageError(f"There is no slide {slide}.")
        self.store._database.execute("UPDATE slides SET label = ? WHERE id = ?", (label, slide))
        self.label = label if slide == self.slide else self.label
        self.store.note(actor, "slide labelled", {"slide": slide, "label": label})

    def review(self, cell: int, label: str, sampling: str, actor: str) -> None:
        self.store.review(cell, label, sampling, actor)

    def note(self, actor: str, action: str, detail: dict[str, object]) -> None:
        self.store.note(actor, action, detail)


PROBABILITIES = ([0.95, 0.9, 0.1, 0.5], [0.8, 0.2, 0.05], [0.97, 0.15, 0.1, 0.12, 0.45], [0.1], [0.88, 0.3])


def busy_desk(state: Path, web: WebSettings | None = None) -> FakeDesk:
    """A desk with one slide in work, 15 cells on it."""
    desk = FakeDesk(state, web)
    desk.start_slide("Specimen 12", "page")
    for probabilities in PROBABILITIES:
        desk.see(probabilities)
    return desk


def access_of(desk: FakeDesk, **more: Any) -> Access:
    """The rules of the desk's settings, as if it listened on their port."""
    return Access(desk.settings.web, desk.state, desk.settings.web.port, **more)


def client_of(desk: FakeDesk, access: Access | None = None, host: str = "127.0.0.1:8765", **more: Any) -> TestClient:
    """A browser or program at the page; ``access`` None: as the settings say."""
    app = make_app(desk, access or access_of(desk))
    scheme = "https" if desk.settings.web.certificate else "http"
    return TestClient(app, base_url=f"{scheme}://{host}", follow_redirects=False, **more)


def csrf_of(client: TestClient, path: str = "/") -> str:
    """What the forms of a page carry."""
    text: str = client.get(path).text
    return text.split('name="csrf" value="')[1].split('"', maxsplit=1)[0]


def serve(state: Path, port: int = 0) -> None:
    """As a program for looking at: serve a busy desk until interrupted."""
    import time

    from bloodedge_device.web.server import WebServer

    desk = busy_desk(state, WebSettings(port=port))
    server = WebServer(desk, desk.settings.web, state)
    server.start()
    print(server.url, os.getpid(), flush=True)
    while True:
        time.sleep(0.5)
        desk.see(PROBABILITIES[int(time.time()) % 5])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
