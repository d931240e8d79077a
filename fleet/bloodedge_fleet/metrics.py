"""The server's own figures, in Prometheus' text format."""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

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

    def exposition(self, boards: Sequence[Board], rollouts: Mapping[str, int], listener: Listener) -> bytes:
        """The answer to a scrape, of type CONTENT_TYPE; rollouts: their number by state."""
        registry = CollectorRegistry()

        def gauge(name: str, text: str, value: float) -> None:
            Gauge(f"bloodedge_fleet_{name}", text, registry=registry).set(value)

        def gauges(name: str, text: str, label: str, values: Mapping[str, float | None]) -> None:
            family = Gauge(f"bloodedge_fleet_{name}", text, [label], registry=registry)
            for key, value in values.items():
                if value is not None:
                    family.labels(key).set(value)

        gauge("broker_connected", "1 when connected to the broker.", listener.broker.connected)
        gauge("database_answers", "1 when what comes is stored.", not listener.worker.state)
        gauge("messages_waiting", "Delivered by the broker and not stored yet.", listener.worker.waiting)
        states, reports = Counts(board.state for board in boards), {board.name: board.report for board in boards}
        gauges("boards", "Boards by state.", "state", {state: states[state] for state in ORDER})
        gauges("report_age_seconds", "Since a board's newest report.", "board", {b.name: b.age_s for b in boards})
        gauges("reports_missing", "Reports that never arrived.", "board", {b.name: b.missing for b in boards})
        text = "A board's median inference over the float model's."
        gauges("latency_ratio", text, "board", {b.name: b.times_baseline for b in boards})
        uncertain = {name: report.uncertain_share for name, report in reports.items() if report}
        gauges("uncertain_share", "Of a board's cells, 0..1.", "board", uncertain)
        drifted = {name: len(report.drifted.aspects) for name, report in reports.items() if report and report.drifted}
        gauges("drifted_aspects", "Of a board's newest slide.", "board", drifted)
        gauges("rollouts", "Roll-outs by state.", "state", {state: rollouts.get(state, 0) for state in ROLLOUT_STATES})
        return generate_latest(self._registry) + generate_latest(registry)
