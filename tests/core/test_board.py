"""Messages between boards and the fleet's server: what is not right is one sentence, what is newer is passed over."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import LARGEST, BoardReport, Wanted, read_message

WANTED: dict[str, Any] = {
    "rollout": "r",
    "name": "cells",
    "serial": 7,
    "sha256": "a" * 64,
    "size_bytes": 10,
    "url": "https://fleet.example/bundles/a",
}
LATENCY = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
BASELINE: dict[str, Any] = {"hardware": "a GPU", "latency_ms": LATENCY, "accuracy": 0.9, "artifact_accuracy": 0.9}
REPORT: dict[str, Any] = {
    "boot": "0" * 32,
    "sequence": 1,
    "sent_at": datetime(2026, 5, 1, tzinfo=UTC).isoformat(),
    "clock_synchronised": None,
    "uptime_s": 1.0,
    "version": "1",
    "hardware": "a board",
    "alive": True,
    "bundle": {
        "name": "cells",
        "serial": 7,
        "sha256": None,
        "state": "shipped",
        "engine": "litert",
        "precision": "int8",
        "rendered": False,
        "golden_flips": 0,
        "golden_inputs": 32,
        "baseline": BASELINE,
    },
    "health": {},
    "frames": 0,
    "frames_dropped": 0,
    "cells": {},
    "latency": {},
    "disk_free_bytes": 1,
    "messages_waiting": 0,
    "messages_lost": 0,
}


def read(kind: Any, values: dict[str, Any]) -> Any:
    return read_message(kind, json.dumps(values).encode())


def test_a_message_survives_the_way_there() -> None:
    for kind, values in ((BoardReport, REPORT), (Wanted, WANTED)):
        message = read(kind, values)
        assert read_message(kind, message.model_dump_json().encode()) == message


def test_keys_of_a_newer_version_are_passed_over_and_its_schema_is_not() -> None:
    assert read(Wanted, WANTED | {"colour": "red"}) == read(Wanted, WANTED)
    with pytest.raises(BloodedgeError, match="schema version 2, which this bloodedge does not know; upgrade"):
        read(Wanted, WANTED | {"schema_version": 2})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "https://a b"}, "url"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"size_bytes": 2**40}, "size_bytes"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"rollout": ""}, "rollout"),
        ({"serial": -1}, "serial"),
    ],
)
def test_what_is_not_right_is_named(change: dict[str, Any], where: str) -> None:
    with pytest.raises(BloodedgeError, match=f"The message is no Wanted: {where}"):
        read(Wanted, WANTED | change)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"boot": "x"},
        {"sent_at": "2026-05-01T00:00:00"},  # without a time zone
        {"frames": 2**60},
        {"uptime_s": float("inf")},
        {"latency": {"inference": {"count": 1, "latency_ms": LATENCY | {"p50": float("nan")}}}},
        {"latency": {"inference": {"count": 1, "latency_ms": LATENCY | {"p50": float("inf")}}}},
        {"latency": {"inference": {"count": 1, "latency_ms": LATENCY | {"p50": 1e300}}}},  # the sum of two is infinite
        {"latency": {"inference": {"count": 1, "latency_ms": LATENCY | {"p95": -1.0}}}},
        {"bundle": REPORT["bundle"] | {"baseline": BASELINE | {"latency_ms": LATENCY | {"p99": float("inf")}}}},
        {"bundle": REPORT["bundle"] | {"name": "a\0b"}},
        {"hardware": "a\0b"},
        {"health": {"camera": {"level": "ok", "sentence": "a\0b"}}},
        {"health": {str(n): {"level": "ok", "sentence": ""} for n in range(33)}},
        {"health": {"camera": {"level": "splendid", "sentence": ""}}},
    ],
)
def test_reports_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BloodedgeError, match="The message is no BoardReport"):
        read(BoardReport, REPORT | change)


@pytest.mark.parametrize("change", [{"schema_version": "a\0b"}, {"health": {"a\0b": {"level": "ok", "sentence": 1}}}])
def test_no_sentence_repeats_what_postgresql_does_not_keep(change: dict[str, Any]) -> None:
    with pytest.raises(BloodedgeError) as told:
        read(BoardReport, REPORT | change)
    assert "\0" not in str(told.value)


def test_too_large_a_message_is_not_read() -> None:
    with pytest.raises(BloodedgeError, match=str(LARGEST)):
        read_message(Wanted, b"x" * (LARGEST + 1))


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_one_sentence(payload: bytes) -> None:
    with pytest.raises(BloodedgeError) as told:
        read_message(BoardReport, payload)
    assert len(str(told.value)) <= 500


def test_the_worst_part_and_the_uncertain_share_stand_for_the_board() -> None:
    parts = {"a": {"level": "ok", "sentence": ""}, "b": {"level": "warning", "sentence": "x"}}
    report = read(
        BoardReport, REPORT | {"health": parts, "cells": {"blast": 2, "normal": 1, "uncertain": 1, "other": 9}}
    )
    assert report.level == "warning"
    assert report.uncertain_share == 0.25
    empty = read(BoardReport, REPORT)
    assert (empty.level, empty.uncertain_share) == ("ok", None)
