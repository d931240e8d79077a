"""Latency of one network input at a time, measured the same way on the GPU host and on the board.

``python -m bloodedge.bench.latency bundle BUNDLE ENGINE PRECISION THREADS`` is one turn of ``bloodedge bench``: an
artifact in a fresh process. ``... network ENGINE SHAPE THREADS FILE...`` does so for a network that no bundle holds;
SHAPE is that of its input, as 64x64x3.
Engines that share a process slow each other down: the threads of the one that has just answered keep spinning on the
cores that the next one needs (LiteRT int8 beside three others, 2 cores, p10: 1.2 ms, not 0.96).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.bench.official_tools import TOOLS, official_p50_ms, why_no_tool
from bloodedge.bundle import Bundle
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.manifest import Artifact, EngineName, Precision
from bloodedge.config import Strict
from bloodedge.console import Progress
from bloodedge.decision.thresholds import require_probabilities
from bloodedge.engine import Engine, load_artifact, load_bytes, require
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.machine import cpu_flags, cpu_temperature_c, hardware_name
from bloodedge.text import utf8_environment

WARM_UP = 5
CALLS = 60
"""Calls timed in a turn: as many as the official tools are asked for."""

FAILED = 3
"""Exit code of a turn whose last line on stdout is a sentence for people; Python's own failures exit with 1."""

Item = TypeVar("Item")


def percentiles(times_ms: list[float]) -> LatencyMs:
    """p50, p95 and p99 of measured latencies in milliseconds."""
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return LatencyMs(p50=float(p50), p95=float(p95), p99=float(p99))


def measure_latency(engine: Engine, image: NDArray[np.uint8], repeats: int = 60) -> LatencyMs:
    """Latency of ``engine.predict`` on ``image``, one network input, over ``repeats`` calls after a warm-up."""
    return percentiles(interleaved({"engine": engine}, image, repeats)["engine"])


def in_turns(items: Sequence[Item], rounds: int) -> Iterator[Item]:
    """Each of ``items`` once a round, so that a slow spell of the machine hits them all.

    The order turns round every other round, so that none always follows the same one.
    """
    for number in range(rounds):
        yield from reversed(items) if number % 2 else items


def interleaved(engines: dict[str, Engine], image: NDArray[np.uint8], rounds: int) -> dict[str, list[float]]:
    """Latencies in milliseconds per engine, ``rounds`` of each, taken in turns; image: one network input."""
    batch = image[np.newaxis]
    for engine in engines.values():
        for _ in range(WARM_UP):
            engine.predict(batch)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for name in in_turns(sorted(engines), rounds):
        start = perf_counter()
        engines[name].predict(batch)
        times[name].append((perf_counter() - start) * 1000)
    return times


class Turn(Strict):
    """What one artifact did in one fresh process."""

    runtime: str
    first_ms: float
    rss_mb: float | None
    times_ms: list[float]


class Official(Strict):
    """The same file measured by its runtime's own tool, in turns with ours."""

    tool: str
    p50_ms: float
    """Median over the rounds of the medians that the tool gives."""
    ratio: float
    """Ours over theirs: the median over the rounds of our p50 over the tool's."""


class Row(Strict):
    """One artifact on this machine; times are of one network input, in milliseconds."""

    bundle: str
    engine: EngineName
    precision: Precision
    runtime: str
    threads: int
    first_ms: float
    """From an opened bundle to the first answer in a fresh process: the file read and its digest checked, the runtime
    imported, the network loaded and run once. Python's own start is not in it. Median over the rounds."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    rss_mb: float | None
    """The largest resident memory, in MiB, of a process that does nothing but load and run this artifact, until its
    first answer. Python with numpy and OpenCV is in it, as in anything that runs a bundle. None off Linux."""
    size_bytes: int
    cpu_flags: list[str]
    """Instruction sets of this processor that int8 kernels are chosen by."""
    temperature: float | None
    """The processor's in °C, the highest seen after one of the artifact's turns; None where no sensor was found.
    A Raspberry Pi slows itself down from 80 °C on (its documentation)."""
    official: Official | None = None


class Bench(Strict):
    """What ``bloodedge bench`` found."""

    machine: str
    rounds: int
    calls: int = CALLS
    """Calls timed in each round, after the first one and a warm-up."""
    rows: list[Row]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Artifacts ("NAME.bundle/litert/int8") that cannot run here and what to do about it."""
    no_tool: dict[str, str] = Field(default_factory=dict)
    """Engines that could not be compared with an official tool, and why."""

    def speed_up(self, row: Row) -> float | None:
        """How many times as fast as the same bundle's float32 on the same engine and threads ``row`` is, by p50."""
        for other in self.rows:
            same = (other.bundle, other.engine, other.threads) == (row.bundle, row.engine, row.threads)
            if same and other.precision == "float32" and row.precision != "float32":
                return other.p50_ms / row.p50_ms
        return None


@dataclass(frozen=True)
class Contender:
    """An artifact with its number of threads, and its measurements so far."""

    bundle: Path
    artifact: Artifact
    threads: int
    turns: list[Turn] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    official_ms: list[float] = field(default_factory=list)

    def take_turn(self) -> None:
        """Our turn, in a fresh process."""
        self.turns.append(run_turn(self.bundle, self.artifact.engine, self.artifact.precision, self.threads))
        temperature = cpu_temperature_c()
        if temperature is not None:
            self.temperatures.append(temperature)

    def take_official_turn(self) -> None:
        """The official tool's."""
        self.official_ms.append(official_p50_ms(self.bundle, self.artifact, self.threads))

    def row(self) -> Row:
        """The figures of all turns."""
        p50, p90, p99 = np.percentile([time for turn in self.turns for time in turn.times_ms], [50, 90, 99])
        return Row(
            bundle=str(self.bundle),
            engine=self.artifact.engine,
            precision=self.artifact.precision,
            runtime=self.turns[0].runtime,
            threads=self.threads,
            first_ms=median(turn.first_ms for turn in self.turns),
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            rss_mb=max((turn.rss_mb for turn in self.turns if turn.rss_mb is not None), default=None),
            size_bytes=self.artifact.size_bytes,
            cpu_flags=cpu_flags(),
            temperature=max(self.temperatures, default=None),
            official=self._official(),
        )

    def _official(self) -> Official | None:
        if not self.official_ms:
            return None
        pairs = zip(self.turns, self.official_ms, strict=True)
        ratio = median(median(turn.times_ms) / official_ms for turn, official_ms in pairs)
        return Official(tool=TOOLS[self.artifact.engine], p50_ms=median(self.official_ms), ratio=ratio)


def bench(
    bundles: Sequence[Path], threads: Sequence[int], rounds: int, progress: Progress, *, against_official: bool = False
) -> Bench:
    """Every artifact of ``bundles`` whose runtime is installed, in ``rounds`` rounds, each turn in a fresh process.

    Raises UsageError when none of them can run here.
    """
    contenders, left_out = _contenders(bundles, threads)
    if not contenders:
        raise UsageError(" ".join(dict.fromkeys(left_out.values())))
    engines = dict.fromkeys(contender.artifact.engine for contender in contenders) if against_official else {}
    no_tool = {engine: reason for engine in engines if (reason := why_no_tool(engine))}
    steps: list[Callable[[], None]] = []
    for contender in contenders:
        steps.append(contender.take_turn)
        if contender.artifact.engine in engines.keys() - no_tool.keys():
            steps.append(contender.take_official_turn)
    for done, step in enumerate(in_turns(steps, rounds)):
        progress(done, rounds * len(steps))
        step()
    rows = [contender.row() for contender in contenders]
    return Bench(machine=hardware_name(), rounds=rounds, rows=rows, left_out=left_out, no_tool=no_tool)


def _contenders(bundles: Sequence[Path], threads: Sequence[int]) -> tuple[list[Contender], dict[str, str]]:
    """What can run here, and by "NAME.bundle/engine/precision" why the rest cannot."""
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for path in dict.fromkeys(bundles):
        with Bundle(path) as opened:
            artifacts = opened.manifest.artifacts
        for artifact in artifacts:
            try:
                require(artifact.engine)
            except UsageError as error:
                left_out[f"{path}/{artifact.engine}/{artifact.precision}"] = str(error)
            else:
                contenders += [Contender(path, artifact, number) for number in dict.fromkeys(threads)]
    return contenders, left_out


def run_turn(bundle: Path, engine: str, precision: str, threads: int) -> Turn:
    """One turn of a bundle's artifact in a fresh process.

    Raises BloodedgeError with the process's own sentence, or with how it died.
    """
    what = f"{bundle}: the process of {engine} {precision}"
    return _in_fresh_process(what, "bundle", bundle, engine, precision, threads)


def run_network_turn(files: Sequence[Path], engine: str, shape: Sequence[int], threads: int) -> Turn:
    """``run_turn`` for a network's own files, the model first; one network input has ``shape``."""
    sides = "x".join(map(str, shape))
    return _in_fresh_process(f"The process of {files[0].name}", "network", engine, sides, threads, *files)


def _in_fresh_process(what: str, *arguments: str | int | Path) -> Turn:
    command = [sys.executable, "-m", "bloodedge.bench.latency", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=utf8_environment(), check=False)
    if done.returncode == 0:
        return Turn.model_validate_json(done.stdout.splitlines()[-1])
    if done.returncode == FAILED and done.stdout:
        raise BloodedgeError(done.stdout.splitlines()[-1])
    last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise BloodedgeError(
        f"{what} ended with exit code {done.returncode} ({last_line}); "
        "free some memory, check that the runtime supports this processor, or convert the run again."
    )


def take_turn(bundle: Path, engine: str, precision: str, threads: int) -> Turn:
    """Load and time one artifact in this process, on noise: what an image shows does not matter.

    Raises BloodedgeError when it gives no probabilities: the latency of a broken network means nothing.
    """
    name = f"{bundle} ({engine} {precision})"
    with Bundle(bundle) as opened:
        artifact, shape = opened.manifest.artifact(engine, precision), opened.manifest.input.shape
        return _timed(lambda: load_artifact(opened, artifact, threads), shape, name)


def take_network_turn(engine: str, shape: Sequence[int], threads: int, files: Sequence[Path]) -> Turn:
    """``take_turn`` for a network's own files, the model first."""

    def load() -> Engine:
        model, *weights = (file.read_bytes() for file in files)
        return load_bytes(engine, model, weights[0] if weights else None, threads)

    return _timed(load, shape, files[0].name)


def _timed(load: Callable[[], Engine], shape: Sequence[int], name: str) -> Turn:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    start = perf_counter()
    loaded = load()
    outputs = loaded.predict(image[np.newaxis])
    first_ms = (perf_counter() - start) * 1000
    require_probabilities(outputs, name)
    rss_mb = peak_rss_mb()
    times = interleaved({"engine": loaded}, image, CALLS)["engine"]
    return Turn(runtime=loaded.runtime, first_ms=first_ms, rss_mb=rss_mb, times_ms=times)


def peak_rss_mb() -> float | None:
    """The peak resident memory of this process in MiB; None off Linux.

    Not from getrusage: there a process inherits the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def main() -> int:
    """Entry point of one turn: its result as JSON, or a sentence, is the last line on stdout."""
    kind, *arguments = sys.argv[1:]
    try:
        if kind == "bundle":
            bundle, engine, precision, threads = arguments
            turn = take_turn(Path(bundle), engine, precision, int(threads))
        else:
            engine, sides, threads, *files = arguments
            shape = [int(side) for side in sides.split("x")]
            turn = take_network_turn(engine, shape, int(threads), [Path(file) for file in files])
    except BloodedgeError as error:
        sys.stdout.write(f"{error}\n")
        return FAILED
    sys.stdout.write(turn.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
