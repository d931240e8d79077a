"""The server's own figures, in Prometheus' text format."""

from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from bloodedge_fleet.boards.archive import Outcome
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.boards.overview import ORDER, Board

__all__ = ["CONTENT_TYPE", "Figures"]

BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
OUTCOMES = ("stored", "repeated", "refused")
ROLLOUT_STATES = ("running", "done", "halted")


class Figures:
    """Counts since the server's start; safe to use from several threads."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        text = "Boards' messages by outcome."
        self._messages = Counter("bloodedge_fleet_messages", text, ["outcome"], registry=registry)
        text = "From a report's sending, by the board's clock, to its storing."
        self._lag = Histogram("bloodedge_fleet_lag_seconds", text, buckets=BUCKETS_S, registry=registry)
        self.note(Outcome())

    def note(self, outcome: Outcome) -> None:
        """Count a stored batch."""
        for name in OUTCOMES:
            self._messages.labels(name).inc(getattr(outcome, name))
        for lag_s in outcome.lags_s:
            self._lag.observe(max(0.0, lag_s))

    def exposition(self, boards: Iterable[Board], rollouts: Mapping[str, int], listener: Listener) -> bytes:
        """The answer to a scrape, of type CONTENT_TYPE; boards are gone through once; rollouts: their number by state.

        A registry's own gauges are not used: for very many boards they take several times as long to fill.
        """
        registry = CollectorRegistry()
        registry.register(_Families([*_of_server(listener), *_of_boards(boards), _of_rollouts(rollouts)]))
        return generate_latest(self._registry) + generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _gauge(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bloodedge_fleet_{name}", text, labels=[label])


def _of_server(listener: Listener) -> Iterator[GaugeMetricFamily]:
    values = {
        "broker_connected": ("1 when connected to the broker.", listener.broker.connected),
        "database_answers": ("1 when what comes is stored.", not listener.worker.state),
        "messages_waiting": ("Delivered by the broker and not stored yet.", listener.worker.waiting),
    }
    for name, (text, value) in values.items():
        yield GaugeMetricFamily(f"bloodedge_fleet_{name}", text, float(value))


def _of_boards(boards: Iterable[Board]) -> list[GaugeMetricFamily]:
    age = _gauge("report_age_seconds", "Since a board's newest report.", "board")
    missing = _gauge("reports_missing", "Reports that never arrived.", "board")
    ratio = _gauge("latency_ratio", "A board's median inference over the float model's.", "board")
    uncertain = _gauge("uncertain_share", "Of a board's cells, 0..1.", "board")
    drifted = _gauge("drifted_aspects", "Of a board's newest slide.", "board")
    states = Counts[str]()
    for board in boards:
        report = board.report
        states[board.state] += 1
        values = (
            (age, board.age_s),
            (missing, board.missing),
            (ratio, board.times_baseline),
            (uncertain, None if report is None else report.uncertain_share),
            (drifted, None if report is None or report.drifted is None else len(report.drifted.aspects)),
        )
        for family, value in values:
            if value is not None:
                family.add_metric([board.name], value)
    by_state = _gauge("boards", "Boards by state.", "state")
    for state in ORDER:
        by_state.add_metric([state], states[state])
    return [by_state, age, missing, ratio, uncertain, drifted]


def _of_rollouts(rollouts: Mapping[str, int]) -> GaugeMetricFamily:
    family = _gauge("rollouts", "Roll-outs by state.", "state")
    for state in ROLLOUT_STATES:
        family.add_metric([state], rollouts.get(state, 0))
    return family
