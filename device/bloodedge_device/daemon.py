"""The daemon: takes frames until the camera ends or it is told to stop, and stores what each one shows."""

import logging
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from time import monotonic
from types import FrameType

from bloodedge.bundle import Bundle
from bloodedge.engine import Engine, installed, load_artifact
from bloodedge.errors import BloodedgeError
from bloodedge.golden import GoldenResult, check_golden
from bloodedge.host import hardware_name
from bloodedge.imaging import Image
from bloodedge.manifest import Artifact, Manifest
from bloodedge_device.camera import Camera, newest_frames, open_camera
from bloodedge_device.finder import find_cells
from bloodedge_device.gate import check
from bloodedge_device.host import keep_freed_memory
from bloodedge_device.pipeline import Check, Find, Found, Pipeline
from bloodedge_device.recorder import Recorder
from bloodedge_device.scale import SlideScale
from bloodedge_device.settings import DeviceSettings, bundle_path
from bloodedge_device.slide import SlideStatistics, read_statistics
from bloodedge_device.store import RunInfo, Store, open_for_reading

log = logging.getLogger("bloodedge.device")


@dataclass(frozen=True)
class Loaded:
    """A bundle's network, proven on this machine."""

    manifest: Manifest
    artifact: Artifact
    why: str
    """Why this engine was taken."""
    engine: Engine
    golden: GoldenResult


def choose_artifact(settings: DeviceSettings, manifest: Manifest) -> tuple[Artifact, str]:
    """(artifact, why it was taken): the one that the settings name, else by what the machine is.

    OpenVINO's int8 is the fast one on x86 and runs mostly as float on ARM, where LiteRT's is. Raises UsageError when
    the bundle has no such artifact.
    """
    if settings.engine != "auto":
        return manifest.artifact(settings.engine, settings.precision), "the settings say so"
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    bundled = {artifact.engine for artifact in manifest.artifacts if artifact.precision == settings.precision}
    if not x86:
        why = f"this machine is {platform.machine()}"
    elif "openvino" not in bundled:
        why = f"the bundle has no OpenVINO {settings.precision} model"
    elif not installed("openvino"):
        why = "OpenVINO is not installed"
    else:
        return manifest.artifact("openvino", settings.precision), "this machine is x86 and OpenVINO is installed"
    return manifest.artifact("litert", settings.precision), why


def load(settings: DeviceSettings) -> Loaded:
    """The bundle's network, loaded, warmed and self-tested; raises BloodedgeError when it is not to be trusted."""
    with Bundle(bundle_path(settings)) as bundle:
        artifact, why = choose_artifact(settings, bundle.manifest)
        bundle.verify()
        engine = load_artifact(bundle, artifact, settings.threads)
        golden = check_golden(bundle, artifact, engine)
    if not golden.passed:
        raise BloodedgeError(
            f'Bundle "{bundle.manifest.name}" failed its self-test on this machine: {golden.flips} of {golden.inputs}'
            f" golden cells changed class (largest probability difference {golden.max_probability_difference:.3f});"
            " convert it again, or choose another engine in the settings."
        )
    return Loaded(bundle.manifest, artifact, why, engine, golden)


def run_device(settings: DeviceSettings, frames: int | None = None, began_s: float | None = None) -> SlideStatistics:
    """Run until the camera ends, ``frames`` frames were processed, or SIGTERM or SIGINT comes; gives the counts.

    began_s: when the process began, on the monotonic clock (default: now). Raises KeyboardInterrupt after a SIGINT,
    once the frame in hand is stored.
    """
    began_s = monotonic() if began_s is None else began_s
    keep_freed_memory()
    with _stop_signals() as signals:
        loaded = load(settings)
        camera = open_camera(settings.camera)
        with closing(Store(settings.state)) as store:
            slide = _run_slide(settings, loaded, camera, store, signals.stop, frames, began_s)
        with open_for_reading(settings.state) as database:
            statistics = read_statistics(database, slide)
    if signals.interrupted:
        raise KeyboardInterrupt
    return statistics


def _run_slide(
    settings: DeviceSettings,
    loaded: Loaded,
    camera: Camera,
    store: Store,
    stop: threading.Event,
    limit: int | None,
    began_s: float,
) -> int:
    """One slide from begin to end; gives its id. A store that fails leaves it without an end, as a power cut does."""
    pipeline = Pipeline(
        loaded.engine,
        loaded.manifest,
        gate_of(settings),
        finder_of(settings),
        stain=settings.stain.normalise,
        known_only=settings.domain.known_only,
    )
    info = run_info(settings, loaded, camera.name, monotonic() - began_s)
    run = store.begin_run(info)
    slide = store.begin_slide(run, settings.slide.label)
    _announce(info, slide)
    source = newest_frames(camera, stop) if camera.live else camera.frames(stop)
    with Recorder(store, slide, pipeline.times, settings.store.crops, began_s) as recorder:
        for frame in islice(source, limit):
            recorder.put(pipeline.process(frame))
            if stop.is_set():
                break
    store.end_slide(slide, pipeline.times)
    store.end_run(run)
    return slide


def gate_of(settings: DeviceSettings) -> Check:
    """The frame gate with the settings' parameters."""
    return partial(check, parameters=settings.gate)


def finder_of(settings: DeviceSettings) -> Find:
    """The cell finder for one slide, with the settings' parameters."""
    scale = SlideScale(settings.finder)

    def find(bgr: Image, um_per_px: float | None) -> Found:
        return find_cells(bgr, um_per_px or scale.of(bgr), settings.finder)

    return find


def run_info(settings: DeviceSettings, loaded: Loaded, camera: str, ready_s: float) -> RunInfo:
    """What the store keeps of a run; ready_s: seconds from the process' start to ready."""
    return RunInfo(
        started=datetime.now(UTC) - timedelta(seconds=ready_s),
        ready_ms=ready_s * 1000,
        bundle_name=loaded.manifest.name,
        bundle_serial=loaded.manifest.serial,
        engine=loaded.artifact.engine,
        engine_reason=loaded.why,
        runtime=loaded.engine.runtime,
        precision=loaded.artifact.precision,
        threads=settings.threads,
        hardware=hardware_name(),
        camera=camera,
        golden=asdict(loaded.golden),
        manifest=_as_used(settings, loaded.manifest).model_dump_json(),
    )


def _as_used(settings: DeviceSettings, manifest: Manifest) -> Manifest:
    """The manifest, without the domain where the settings leave it aside."""
    return manifest if settings.domain.known_only else manifest.model_copy(update={"domain": None})


def _announce(run: RunInfo, slide: int) -> None:
    log.info(
        "Bundle %s (serial %d), %s %s: %s.", run.bundle_name, run.bundle_serial, run.engine, run.precision, run.runtime
    )
    log.info("Engine %s because %s.", run.engine, run.engine_reason)
    log.info(
        "Self-test: %d of %d golden cells changed class, largest probability difference %.3f.",
        run.golden["flips"],
        run.golden["inputs"],
        run.golden["max_probability_difference"],
    )
    log.info("Camera: %s. Slide %d. READY after %.2f s.", run.camera, slide, run.ready_ms / 1000)


@dataclass
class _Signals:
    """What the signal handlers set."""

    stop: threading.Event
    interrupted: bool = False


@contextmanager
def _stop_signals() -> Iterator[_Signals]:
    """SIGTERM and the first SIGINT set ``stop`` instead of ending the process; a second SIGINT ends it at once."""
    signals = _Signals(threading.Event())

    def ask_to_stop(number: int, _: FrameType | None) -> None:
        signals.stop.set()
        if number == signal.SIGINT:
            signals.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

    catchable = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if catchable else ()
    before = {number: signal.signal(number, ask_to_stop) for number in numbers}
    try:
        yield signals
    finally:
        signals.stop.set()  # ends a live camera's thread
        for number, handler in before.items():
            signal.signal(number, handler)
