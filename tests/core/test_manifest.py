"""Records are read strictly: a damaged or newer one is refused with a sentence that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.json_records import parse_record, write_record
from bloodedge.bundle.run_record import RunMetrics, SplitRecord, read_metrics, read_run
from bloodedge.errors import BloodedgeError, UsageError

RUN: dict[str, Any] = {
    "schema_version": 1,
    "name": "run",
    "created": "2026-01-01T00:00:00+00:00",
    "bloodedge": "0.1.0",
    "model": "edgenet",
    "parameters": 1,
    "labels": ["normal", "blast"],
    "weights": "none",
    "recipe": {},
    "imaging": {},
    "seed": 0,
    "data": {"root": "data", "fingerprint": "0", "cells": 1, "subjects": 1},
    "split": {"kind": "group", "seed": 0, "parts": {}},
    "temperature": 1.0,
    "thresholds": {},
    "backend": "tensorflow",
    "hardware": "a test",
    "versions": {},
    "history": [],
    "best_epoch": 0,
}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "run.json").write_text(json.dumps(RUN | changes))
    return folder


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = read_run(written(tmp_path))
    write_record(tmp_path / "run.json", record)
    assert read_run(tmp_path) == record
    assert record.split == SplitRecord(kind="group", seed=0, parts={})


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError, match="schema version 7, which this bloodedge does not know; upgrade"):
        read_run(written(tmp_path, schema_version=7))


def test_a_run_of_an_older_version_is_read_or_refused_with_what_to_do(tmp_path: Path) -> None:
    older = {"imaging": {"colour": "rgb", "stain": None}, "teachers": ["runs/teacher"]}
    assert read_run(written(tmp_path, **older)) == read_run(written(tmp_path))
    with pytest.raises(BloodedgeError, match='cannot be used: colour = "density" is not supported any more; train'):
        read_run(written(tmp_path, imaging={"colour": "density"}))


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"colour": 1}, "colour"), ({"temperature": "hot"}, "temperature"), ({"split": {"kind": "x"}}, r"split\.kind")],
)
def test_an_unknown_or_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(BloodedgeError, match=rf"run\.json is damaged \({where}: .*make it again") as caught:
        read_run(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    text = json.dumps(RUN)
    (tmp_path / "run.json").write_text(text[: len(text) // 2])
    with pytest.raises(BloodedgeError, match="is damaged"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BloodedgeError, match="is damaged"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json.*bloodedge train"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match=r"no metrics\.json"):
        read_metrics(tmp_path)


def test_metrics_of_no_part_can_be_stored() -> None:
    metrics = RunMetrics(
        parts={}, ece_before_temperature=0.1, latency_ms=LatencyMs(p50=1, p95=2, p99=3), hardware="a test"
    )
    assert parse_record(RunMetrics, metrics.model_dump_json(), "metrics.json") == metrics


def test_only_a_split_by_image_is_leaky() -> None:
    assert SplitRecord(kind="image", seed=0, parts={}).leaky
    assert not SplitRecord(kind="group", seed=0, parts={}).leaky
    with pytest.raises(ValidationError):
        SplitRecord(kind="cell", seed=0, parts={})
