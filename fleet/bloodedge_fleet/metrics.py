"""The server's own figures, in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from bloodedge_fleet.boards.archive import Outcome
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.boards.overview import ORDER, Board

__all__ = ["CONTENT_TYPE", "Figures"]

BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Figures:
    """Counts since the server's start; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        text = "From a report's sending, by the board's clock, to its storing."
        self._lag = Histogram("bloodedge_fleet_lag_seconds", text, buckets=BUCKETS_S, registry=self._registry)

    def note(self, outcome: Outcome) -> None:
        """Count a stored batch."""
        with self._lock:
            self._counts.update(stored=outcome.stored, repeated=outcome.repeated, refused=outcome.refused)
        for lag_s in outcome.lags_s:
            self._lag.observe(max(0.0, lag_s))

    def exposition(self, boards: Sequence[Board], rollouts: Mapping[str, int], listener: Listener) -> bytes:
        """The answer to a scrape, of type CONTENT_TYPE; rollouts: their number by state."""
        with self._lock:
            counts = dict(self._counts)
        registry = CollectorRegistry()
        registry.register(
            _Snapshot([*_server_metrics(counts, listener), *_board_metrics(boards), _rollout_metric(rollouts)])
        )
        return generate_latest(self._registry) + generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _server_metrics(counts: dict[str, int], listener: Listener) -> Iterator[Metric]:
    messages = CounterMetricFamily("bloodedge_fleet_messages", "Boards' messages by outcome.", labels=["outcome"])
    for outcome in ("stored", "repeated", "refused"):
        messages.add_metric([outcome], counts.get(outcome, 0))
    yield messages
    gauges = {
        "bloodedge_fleet_broker_connected": ("1 when connected to the broker.", listener.broker.connected),
        "bloodedge_fleet_database_answers": ("1 when what comes is stored.", not listener.worker.state),
        "bloodedge_fleet_messages_waiting": ("Delivered by the broker and not stored yet.", listener.worker.waiting),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, float(value))


def _board_metrics(boards: Sequence[Board]) -> Iterator[Metric]:
    states = GaugeMetricFamily("bloodedge_fleet_boards", "Boards by state.", labels=["state"])
    for state in ORDER:
        states.add_metric([state], sum(board.state == state for board in boards))
    yield states
    age = GaugeMetricFamily("bloodedge_fleet_report_age_seconds", "Since a board's newest report.", labels=["board"])
    missing = GaugeMetricFamily("bloodedge_fleet_reports_missing", "Reports that never arrived.", labels=["board"])
    against = GaugeMetricFamily(
        "bloodedge_fleet_latency_ratio", "A board's median inference over the float model's.", labels=["board"]
    )
    uncertain = GaugeMetricFamily("bloodedge_fleet_uncertain_share", "Of a board's cells, 0..1.", labels=["board"])
    drifted = GaugeMetricFamily("bloodedge_fleet_drifted_aspects", "Of a board's newest slide.", labels=["board"])
    for board in boards:
        report = board.report
        values = (
            (age, board.age_s),
            (missing, board.missing),
            (against, board.times_baseline),
            (uncertain, None if report is None else report.uncertain_share),
            (drifted, None if report is None or report.drifted is None else len(report.drifted.aspects)),
        )
        for family, value in values:
            if value is not None:
                family.add_metric([board.name], value)
    yield from (age, missing, against, uncertain, drifted)


def _rollout_metric(counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily("bloodedge_fleet_rollouts", "Roll-outs by state.", labels=["state"])
    for state in ("running", "done", "halted"):
        family.add_metric([state], counts.get(state, 0))
    return family
