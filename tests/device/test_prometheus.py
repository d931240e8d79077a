"""What a scrape gets, read back by Prometheus' own parser."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bloodedge import __version__
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.outputs.prometheus import exposition
from bloodedge_device.snapshot.snapshot import Snapshot
from support import fakes
from support.snapshots import make_snapshot, make_totals


def snapshot() -> Snapshot:
    find = LatencyHistogram()
    for latency_ms in (0.05, 10.0, 10.0, 40.0, 500_000.0):
        find.add(latency_ms)
    loaded = fakes.make_loaded()
    latency = {"latency_ms": LatencyMs(p50=3.0, p95=4.0, p99=5.0)}
    baseline = loaded.manifest.baseline.model_copy(update=latency)
    manifest = loaded.manifest.model_copy(update={"name": 'a "quoted" name', "serial": 3, "baseline": baseline})
    return make_snapshot(
        loaded=replace(loaded, manifest=manifest),
        totals=make_totals(
            {"cells": 8, "out_of_focus": 2}, {"blast": 3, "normal": 40, "uncertain": 5}, {"abstain_band": 5}, dropped=4
        ),
        camera_restarts=1,
        messages_waiting=17,
        broker_connected=False,
        last_frame_age_s=0.2,
        temperature_c=61.5,
        clock_synchronised=True,
        finished_times={"find": find, "gate": LatencyHistogram()},
    )


def samples(what: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition(what).decode())
        for sample in family.samples
    }


def value(what: Snapshot, name: str, **labels: str) -> float | None:
    return samples(what).get((name, frozenset(labels.items())))


def test_counts_are_counters_and_states_are_gauges() -> None:
    families = {f.name: f.type for f in text_string_to_metric_families(exposition(snapshot()).decode())}
    assert families["bloodedge_frames"] == "counter"
    assert families["bloodedge_stage_seconds"] == "histogram"
    assert families["bloodedge_disk_free_bytes"] == "gauge"
    assert value(snapshot(), "bloodedge_frames_total", outcome="out_of_focus") == 2
    assert value(snapshot(), "bloodedge_cells_total", label="blast") == 3
    assert value(snapshot(), "bloodedge_camera_restarts_total") == 1
    assert value(snapshot(), "bloodedge_mqtt_connected") == 0
    assert value(snapshot(), "bloodedge_baseline_inference_seconds", quantile="0.95") == pytest.approx(0.004)
    labels = {
        "bundle": 'a "quoted" name',
        "serial": "3",
        "engine": "litert",
        "precision": "int8",
        "version": __version__,
    }
    assert value(snapshot(), "bloodedge_info", **labels) == 1


def test_stages_are_histograms_that_count_what_was_added() -> None:
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples(snapshot()).items()
        if name == "bloodedge_stage_seconds_bucket" and dict(labels)["stage"] == "find"
    }
    # of 0.05, 10, 10, 40 ms and 500 s
    assert min(buckets.items()) == (pytest.approx(128e-6, rel=0.01), 1)
    assert max(count for end, count in buckets.items() if end < 0.0099) == 1
    assert max(count for end, count in buckets.items() if end < 0.0392) == 3
    assert max(count for end, count in buckets.items() if end < 400) == 4
    assert buckets[float("inf")] == 5
    assert sorted(buckets.values()) == [count for _, count in sorted(buckets.items())]
    assert value(snapshot(), "bloodedge_stage_seconds_count", stage="find") == 5
    assert value(snapshot(), "bloodedge_stage_seconds_sum", stage="find") == pytest.approx(500.06005, rel=0.01)
    assert value(snapshot(), "bloodedge_stage_seconds_count", stage="gate") == 0


def test_unknown_values_are_left_out() -> None:
    unknown = replace(
        snapshot(), broker_connected=None, temperature_c=None, last_frame_age_s=None, clock_synchronised=None
    )
    for name in ("mqtt_connected", "temperature_celsius", "last_frame_age_seconds", "clock_synchronised"):
        assert value(unknown, f"bloodedge_{name}") is None
        assert value(snapshot(), f"bloodedge_{name}") is not None
