"""How fast the artifacts are, and whether int8 gains anything by it."""

from dataclasses import dataclass
from statistics import median

from bloodedge.bench.latency import in_turns, percentiles, run_network_turn
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.measure import Judge

ROUNDS = 2
"""Turns of each artifact; in each, bloodedge.bench.latency times 60 calls."""
PAIRED_ROUNDS = 6
"""Turns of an int8 artifact and of the float32 artifact that it has to beat. The ratios of six pairs hold the median
ratio between the smallest and the largest in 31 of 32 cases (sign test), whatever else the machine does."""


@dataclass(frozen=True)
class Timed:
    """Latencies of one cell, in milliseconds, by round."""

    rounds: list[list[float]]

    @property
    def latency(self) -> LatencyMs:
        """Over all rounds."""
        return percentiles([time for times in self.rounds for time in times])

    def speed_up(self, other: "Timed") -> tuple[float, float, float]:
        """(median, smallest, largest) over the rounds of how many times as fast as ``other`` this is."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        ratios = [median(theirs) / median(ours) for ours, theirs in pairs]
        return median(ratios), min(ratios), max(ratios)


def latencies(judge: Judge, kinds: list[Kind], paired: list[Kind]) -> dict[str, Timed]:
    """Latency of one cell for each artifact, by its kind's name: in turns, each in a fresh process.

    paired: those of ``kinds`` that take PAIRED_ROUNDS turns; the others take ROUNDS.
    """
    later = [kind for kind in kinds if kind in paired]
    turns = [*in_turns(kinds, ROUNDS), *in_turns(later, PAIRED_ROUNDS - ROUNDS)]
    rounds: dict[str, list[list[float]]] = {str(kind): [] for kind in kinds}
    for done, kind in enumerate(turns, 1):
        turn = run_network_turn(judge.files(kind), kind.engine, judge.record.imaging.input_shape, judge.threads)
        rounds[str(kind)].append(turn.times_ms)
        judge.report("Latency of one cell", done, len(turns))
    return {name: Timed(own) for name, own in rounds.items()}


def in_pairs(kinds: list[Kind]) -> list[Kind]:
    """The int8 artifacts and the float32 artifacts that they have to beat."""
    engines = {kind.engine for kind in kinds if kind.precision == "int8"}
    return [kind for kind in kinds if kind.engine in engines and kind.precision in ("float32", "int8")]


def too_slow(kind: Kind, times: dict[str, Timed]) -> str | None:
    """Why an int8 artifact has no use; None where it has.

    It loses accuracy to be fast, so it has no use if it was slower than float32 of its engine in every round.
    """
    ratio, low, high = _speed_up(kind, times)
    if high >= 1:
        return None
    return (
        f"Slower than float32 on this machine in each of {len(times[str(kind)].rounds)} rounds in turns "
        f"({ratio:.2f} times as fast, {low:.2f} to {high:.2f}); --keep-slow would keep it."
    )


def undecided(kind: Kind, times: dict[str, Timed]) -> str | None:
    """A sentence on an int8 artifact that was faster than float32 in some rounds and slower in others."""
    ratio, low, high = _speed_up(kind, times)
    if not low <= 1 <= high:
        return None
    return (
        f"Whether {kind.engine} int8 is faster than float32 on this machine is undecided, so it is kept "
        f"({ratio:.2f} times as fast, {low:.2f} to {high:.2f} over {len(times[str(kind)].rounds)} rounds in turns)."
    )


def _speed_up(kind: Kind, times: dict[str, Timed]) -> tuple[float, float, float]:
    return times[str(kind)].speed_up(times[str(Kind(engine=kind.engine, precision="float32"))])
