"""A snapshot in Prometheus' text format."""

import json
import math
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from bloodedge import __version__
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge_device.latency import BINS, RATIO, SHORTEST_MS, LatencyHistogram
from bloodedge_device.snapshot.snapshot import Snapshot

__all__ = ["CONTENT_TYPE", "exposition"]

EVERY = 35
"""1.02 to the 35th is 2.000: each bucket ends at twice the one before, at an edge of the histogram's own bins."""

ENDS = range(7 * EVERY, 28 * EVERY + 1, EVERY)
"""Fine bins below which a bucket counts: from 0.13 ms to 270 s."""


def exposition(snapshot: Snapshot) -> bytes:
    """The text that a scrape gets, to be sent as CONTENT_TYPE."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield _info(self._snapshot)
        yield from _counters(self._snapshot)
        yield from _gauges(self._snapshot)
        yield _baseline(self._snapshot.loaded.manifest.baseline.latency_ms)
        yield _stages(self._snapshot.times)


def _info(snapshot: Snapshot) -> Metric:
    manifest, artifact = snapshot.loaded.manifest, snapshot.loaded.artifact
    labels = {
        "version": __version__,
        "bundle": manifest.name,
        "serial": str(manifest.serial),
        "engine": artifact.engine,
        "precision": artifact.precision,
    }
    return InfoMetricFamily("bloodedge", "What runs. For Research Use Only.", labels)


def _counters(snapshot: Snapshot) -> Iterator[Metric]:
    totals = snapshot.totals
    by_label = (
        ("bloodedge_frames", "Frames by outcome: cells, or the reason why there are none.", "outcome", totals.frames),
        ("bloodedge_cells", "White cells by what they were called.", "label", totals.cells),
        ("bloodedge_cells_uncertain", "White cells called uncertain, by reason.", "reason", totals.uncertain),
        ("bloodedge_cells_by_kind", "White cells whose kind was told, by kind.", "kind", totals.kinds),
    )
    for name, text, label, counts in by_label:
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in counts.items():
            family.add_metric([value], count)
        yield family
    alone = {
        "bloodedge_frames_dropped": ("Frames replaced by a newer one before they were processed.", totals.dropped),
        "bloodedge_crops_lost": ("Images of cells not kept because the disk was full.", snapshot.crops_lost),
        "bloodedge_camera_restarts": ("Times that the camera was started again.", snapshot.camera_restarts),
    }
    for name, (text, count) in alone.items():
        yield CounterMetricFamily(name, text, count)


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    values = {
        "bloodedge_ready_seconds": ("From the process' start to ready.", snapshot.ready_s),
        "bloodedge_outbox_messages": ("Messages waiting for the broker.", snapshot.messages_waiting),
        "bloodedge_mqtt_connected": ("1 when connected to the broker.", snapshot.broker_connected),
        "bloodedge_last_frame_age_seconds": ("Since the newest processed frame.", snapshot.last_frame_age_s),
        "bloodedge_disk_free_bytes": ("Free on the results' disk.", snapshot.disk_free_bytes),
        "bloodedge_temperature_celsius": ("Of the processor.", snapshot.temperature_c),
        "bloodedge_clock_synchronised": ("1 when the clock is held to a time source.", snapshot.clock_synchronised),
        "bloodedge_golden_flips": ("Self-test cells that changed class at this start.", snapshot.loaded.golden.flips),
    }
    for name, (text, value) in values.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, float(value))


def _baseline(latency: LatencyMs) -> Metric:
    text = "The float model's inference for one cell on the baseline's hardware, by quantile."
    family = GaugeMetricFamily("bloodedge_baseline_inference_seconds", text, labels=["quantile"])
    for quantile, value_ms in (("0.5", latency.p50), ("0.95", latency.p95), ("0.99", latency.p99)):
        family.add_metric([quantile], value_ms / 1000)
    return family


def _stages(stages: Mapping[str, LatencyHistogram]) -> Metric:
    text = "Time by stage. The sum takes each latency at the middle of its 2 % bin, so it is at most 1 % off."
    family = HistogramMetricFamily("bloodedge_stage_seconds", text, labels=["stage"])
    for stage, histogram in stages.items():
        family.add_metric([stage], *_buckets(histogram))
    return family


def _buckets(histogram: LatencyHistogram) -> tuple[list[tuple[str, float]], float]:
    """(upper edge in seconds and the count below it, for each bucket; the sum in seconds)."""
    counts = [0] * BINS
    for index, count in json.loads(histogram.to_json()).items():
        counts[int(index)] = count
    buckets = [(f"{_edge_s(end):.6g}", float(sum(counts[:end]))) for end in ENDS]
    total_s = sum(count * _edge_s(index + 0.5) for index, count in enumerate(counts) if count)
    return [*buckets, ("+Inf", float(sum(counts)))], total_s


def _edge_s(index: float) -> float:
    """Where a fine bin begins, in seconds."""
    return SHORTEST_MS * math.pow(RATIO, index) / 1000
