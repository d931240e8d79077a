"""What the daemon adds to finding and classifying a cell, how soon it starts, and how much memory it takes.

    python benchmarks/device_loop.py NAME.bundle [--frames FOLDER] [--um-per-px X] [--engine litert|openvino]

Overhead: the same decoded frames go in turns through find + imaging + bare invoke, through the pipeline (gate, the
same, recognition of cells seen before, kinds, domain, decision), and through the daemon itself (the pipeline, the
next frame searched while one is classified, rows durably stored, the last row's sync waited for), in one process, the
order turned round every round: without images of cells, with them, and with them, a Mosquitto broker and a visitor of
the page, a program that requests what the page requests for. Start-up and memory are those of `bloodedge device run`
as a process of its own with the page open, with LiteRT.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import count as count_up
from pathlib import Path
from queue import Queue
from statistics import median
from threading import Event, Thread
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
from programs import Broker, Program, bloodedge, free_port
from revision import revision

from bloodedge.bundle import Bundle
from bloodedge.files import write_json
from bloodedge.imaging import network_input
from bloodedge.machine import hardware_name
from bloodedge_device.bundles.loading import Loaded, load
from bloodedge_device.camera.open import open_camera
from bloodedge_device.daemon.loop import Daemon
from bloodedge_device.daemon.pipelines import finder_of, gate_of, pipeline_of
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.frames import Frame
from bloodedge_device.health import Health
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store import Store
from bloodedge_device.system.process import keep_freed_memory
from bloodedge_device.system.signals import Signals

RESULTS = Path(__file__).parent / "results" / "device_loop.json"


def main() -> None:
    options = parse()
    camera = {"kind": "replay", "source": options.frames, "um_per_px": options.um_per_px} if options.frames else {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".device_loop.") as folder:
        results: dict[str, Any] = {
            "command": "python benchmarks/device_loop.py "
            + " ".join(Path(a).name if Path(a).exists() else a for a in sys.argv[1:]),
            "commit": revision(),
            "cpu": hardware_name(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
            "bundle": Bundle(options.bundle).manifest.name,
            "frames_from": Path(options.frames).name if options.frames else "simulated microscope",
            "start": start_up(options, Path(folder)),
            "overhead": [],
        }
        for crops, served in ((False, False), (True, False), (True, True)):
            settings = DeviceSettings.model_validate(
                {
                    "bundle": options.bundle,
                    "engine": options.engine,
                    "state": Path(folder) / f"{crops}-{served}",
                    "camera": camera,
                    "trust": {"unsigned": True},
                    "store": {"crops": crops},
                    "web": {"enabled": served, "port": free_port()},
                }
            )
            with Broker(Path(folder)) if served else nullcontext(None) as broker:
                if broker is not None:
                    settings = settings.model_copy(update={"mqtt": MqttSettings(host="127.0.0.1", port=broker.port)})
                results["overhead"].append(overhead(settings, options.count, options.rounds))
    print(json.dumps(results, indent=2))
    write_json(RESULTS, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", help="a folder of frames (default: the simulated microscope)")
    parser.add_argument("--um-per-px", type=float, help="scale of those frames")
    parser.add_argument("--engine", default="litert", choices=["litert", "openvino"])
    parser.add_argument("--count", type=int, default=40, help="frames with cells to measure with")
    parser.add_argument("--rounds", type=int, default=25)
    return parser.parse_args()


class GivenFrames:
    """A camera that gives the frames it is handed."""

    name, live, restarts = "given frames", False, 0

    def __init__(self) -> None:
        self.waiting: Queue[Frame | None] = Queue()

    def frames(self, _: Event) -> Iterator[Frame]:
        """Those handed over, until None is."""
        while (frame := self.waiting.get()) is not None:
            yield frame

    def close(self) -> None:
        """Nothing is open."""


def overhead(settings: DeviceSettings, count: int, rounds: int) -> dict[str, object]:
    """Medians over the rounds: of what all frames take, divided by their cells, and of the two passes' ratio."""
    keep_freed_memory()  # as the daemon does, and to the good of both sides
    loaded = load(settings)
    find = finder_of(settings)

    def bare(frame: Frame) -> int:
        found = find(frame.bgr, frame.um_per_px)
        whole = [cell for cell in found.cells if not cell.touches_border]
        for cell in whole:
            image = network_input(cell.crop(frame.bgr, found.um_per_px), loaded.manifest.imaging)
            loaded.engine.predict(image[np.newaxis])
        return len(whole)

    frames = frames_with_cells(settings, bare, count)
    numbers = count_up()

    def bare_pass() -> None:
        for frame, _ in frames:
            bare(frame)

    with running(settings, loaded) as (daemon, camera), visitor(settings):

        def loop_pass() -> None:
            expected = daemon.slides.recorder.stored_frames + len(frames)
            for frame, _ in frames:
                capture = replace(frame.capture, monotonic_s=monotonic(), index=next(numbers))
                camera.waiting.put(replace(frame, capture=capture))
            while daemon.slides.recorder.stored_frames < expected:
                sleep(0.003)

        pipeline = pipeline_of(settings, loaded)

        def pipeline_pass() -> None:
            for frame, _ in frames:
                pipeline.process(frame)

        bare_ms, pipeline_ms, loop_ms = interleaved((bare_pass, pipeline_pass, loop_pass), rounds)
        pipeline.close()
    cells = sum(n for _, n in frames)
    return {
        "engine": loaded.artifact.engine,
        "runtime": loaded.engine.runtime,
        "crops_kept": settings.store.crops,
        "broker_and_page": settings.web.enabled,
        "frames": len(frames),
        "cells": cells,
        "bare_ms_per_cell": round(median(bare_ms) / cells, 3),
        "pipeline_ms_per_cell": round(median(pipeline_ms) / cells, 3),
        "loop_ms_per_cell": round(median(loop_ms) / cells, 3),
        "pipeline_overhead_percent": percent_over(pipeline_ms, bare_ms),
        "overhead_percent": percent_over(loop_ms, bare_ms),
        "daemon_over_pipeline_percent": percent_over(loop_ms, pipeline_ms),
    }


def percent_over(some: list[float], others: list[float]) -> float:
    """Median over the rounds of how much longer the one pass took than the other."""
    return round(100 * (median(a / b for a, b in zip(some, others, strict=True)) - 1), 1)


def frames_with_cells(
    settings: DeviceSettings, whole_cells: Callable[[Frame], int], count: int
) -> list[tuple[Frame, int]]:
    """The first ``count`` frames that the gate lets through and that hold whole cells, and how many they hold."""
    check, found = gate_of(settings), []
    for frame in open_camera(settings.camera).frames(Event()):
        if isinstance(frame, Frame) and check(frame.bgr).reason is None and (cells := whole_cells(frame)):
            found.append((frame, cells))
        if len(found) == count:
            break
    return found


@contextmanager
def running(settings: DeviceSettings, loaded: Loaded) -> Iterator[tuple[Daemon, GivenFrames]]:
    """A daemon in threads of this process, waiting for frames."""
    camera: Any = GivenFrames()
    with closing(Store(settings.state, settings.store)) as store:
        daemon = Daemon(DaemonState(settings, loaded, camera, store, Health(), monotonic()), Signals(Event()))
        thread = Thread(target=daemon.run, args=(None, lambda: settings))
        thread.start()
        while daemon.state.slide is None:
            sleep(0.01)
        sleep(1)  # until the page is open
        yield daemon, camera
        camera.waiting.put(None)
        thread.join()


VISITOR = """
import json, sys
from time import sleep
from urllib.error import HTTPError
from urllib.request import urlopen
after = 0
while True:
    with urlopen(f"{sys.argv[1]}/api/v1/status?after={after}&wait_s=10") as answer:
        frame = json.load(answer)["frame"]
    if frame:
        after = frame["number"]
        try:
            urlopen(f"{sys.argv[1]}/live/{after}.jpg").read()
        except HTTPError as error:  # newer ones have taken its place
            assert error.code == 404
    sleep(0.2)
"""


@contextmanager
def visitor(settings: DeviceSettings) -> Iterator[None]:
    """Somebody at the page, if there is one."""
    if not settings.web.enabled:
        yield
        return
    page = f"http://127.0.0.1:{settings.web.port}"
    with Program([sys.executable, "-c", VISITOR, page], settings.state / "visitor.log") as somebody:
        yield
        assert somebody.running, "the page was not there"


def interleaved(passes: tuple[Callable[[], object], ...], rounds: int) -> list[list[float]]:
    """Milliseconds of each pass, by pass and round."""
    times: list[list[float]] = [[] for _ in passes]
    for number in range(rounds):
        order = range(len(passes)) if number % 2 else reversed(range(len(passes)))
        for which in order:
            start = perf_counter()
            passes[which]()
            times[which].append((perf_counter() - start) * 1000)
    return times


def start_up(options: argparse.Namespace, folder: Path, repeats: int = 7) -> dict[str, object]:
    """Seconds from process start to the first stored cell, and resident memory, of the command itself."""
    config = folder / "device.toml"
    config.write_text('engine = "litert"\ntrust.unsigned = true\n[web]\nport = 0\n')
    command = bloodedge("device", "run", "--config", config, "--frames", 40, "--bundle", options.bundle.resolve())
    command += ["--camera", str(Path(options.frames).resolve())] if options.frames else []
    first_s, peak_mib = [], []
    for number in range(repeats):
        daemon = Program([*command, "--state", str(folder / f"start-{number}")], folder / f"start-{number}.log")
        peak = 0.0
        while daemon.running:
            peak = max(peak, high_water_mib(daemon.process.pid))
            sleep(0.01)
        (line,) = [text for text in daemon.output.splitlines() if text.startswith("First cell stored")]
        first_s.append(float(line.split()[3]))
        peak_mib.append(peak)
    return {
        "engine": "litert",
        "repeats": repeats,
        "first_cell_stored_s": {"median": median(first_s), "worst": max(first_s)},
        "peak_resident_mib": {"median": round(median(peak_mib), 1), "worst": round(max(peak_mib), 1)},
    }


def high_water_mib(pid: int) -> float:
    """The most memory that a process has had resident so far; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0


if __name__ == "__main__":
    main()
