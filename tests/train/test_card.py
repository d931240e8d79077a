"""The model card says what a reader must know before trusting a figure."""

import re
from typing import Any

import numpy as np
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.run_record import DataRecord, PartRecord, RunMetrics, RunRecord, SplitRecord
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import ImagingSpec
from bloodedge_train.recipe import Recipe
from bloodedge_train.run_card import model_card

PARTS = {"train": ["1", "H1"], "validation": ["2", "H2"], "test": ["3", "5", "H5", "H3"], "shift": ["68", "H40"]}


def evaluation(subjects: list[str], *, leaky: bool) -> Evaluation:
    labels = [int(not s.startswith("H")) for s in subjects for _ in range(4)]
    blast = np.array([0.9 if label else 0.2 for label in labels])
    blast[-1] = 0.8
    before = 0.5 + 0.2 * (blast - 0.5)
    return score(labels, blast, [s for s in subjects for _ in range(4)], leaky=leaky, uncalibrated=before)


def card(kind: str = "group", *, rendered: bool = False, one_class: bool = False, **changes: Any) -> str:
    parts = {name: PartRecord(cells=8, groups=who, subjects=who, digest="0") for name, who in PARTS.items()}
    record = RunRecord(
        name="a-run",
        created="2026-01-01T00:00:00+00:00",
        bloodedge="0.1.0",
        model="edgenet",
        parameters=123_456,
        labels=["normal", "blast"],
        weights="none",
        recipe=Recipe(name="honest").model_dump(),
        imaging=ImagingSpec(light="levelled"),
        seed=0,
        data=DataRecord(root="data", fingerprint="f" * 64, cells=32, subjects=8, rendered=rendered),
        split=SplitRecord.model_validate({"kind": kind, "seed": 0, "parts": parts}),
        temperature=1.25,
        thresholds=Thresholds(),
        backend="tensorflow",
        hardware="a test",
        versions={"keras": "3"},
        history=[],
        best_epoch=0,
    )
    record = record.model_copy(update=changes)
    scored = {name: evaluation(PARTS[name], leaky=kind == "image") for name in PARTS if name != "train"}
    if one_class:
        scored["test"] = score([1, 1, 0, 0], np.array([0.9, 0.9, 0.8, 0.8]), PARTS["test"])
    latency = LatencyMs(p50=1, p95=2, p99=3)
    return model_card(
        record, RunMetrics(parts=scored, ece_before_temperature=0.1, latency_ms=latency, hardware="a test")
    )


def test_the_notice_stands_near_the_top() -> None:
    assert RESEARCH_USE in card()[:200]


def test_every_subject_of_every_part_is_named_and_every_scored_one_has_its_row() -> None:
    text = card()
    for who in PARTS.values():
        assert f"| {', '.join(who)} |" in text
    for part in ("validation", "test", "shift"):
        for subject in PARTS[part]:
            assert re.search(rf"^\| {subject} \| (blast|normal) \| 4 \| ", text, re.MULTILINE)


@pytest.mark.parametrize(("kind", "leaky"), [("group", False), ("image", True)])
def test_a_split_by_image_is_called_leaky_wherever_its_figures_stand(kind: str, leaky: bool) -> None:
    text = card(kind)
    assert ("by image: leaky" in text) is leaky
    assert text.count("**Leaky: cells of these people were seen in training.**") == 3 * leaky
    assert ("no person (nor people who share a picture) is in two parts" in text) is not leaky


def test_the_worst_subject_and_what_was_never_seen_are_told() -> None:
    text = card()
    assert "test: H3 (0.750)" in text
    assert "shift set: H40 (0.750)" in text
    assert "cells of one laboratory" in text
    assert "It was fitted to simulated cells only; its figures say nothing about real ones." in card(rendered=True)


def test_figures_come_with_their_intervals() -> None:
    for name in ("weighted F1", "mean accuracy of a subject", r"average precision \(PR-AUC\)", "Brier score"):
        assert re.search(rf"^\| {name} \| [01]\.\d{{3}} \| [01]\.\d{{3}} \.\. [01]\.\d{{3}} \|$", card(), re.MULTILINE)


def test_the_calibration_error_stands_before_and_after_the_temperature() -> None:
    # Validation: seven of eight right, said with 0.9 or 0.8 (before: 0.58 and 0.56), each in a bin of its own.
    after = (abs(4 - 4 * 0.9) + abs(3 - 4 * 0.8)) / 8
    before = (abs(4 - 4 * 0.58) + abs(3 - 4 * 0.56)) / 8
    assert f"| expected calibration error, before the temperature | {before:.3f} |" in card()
    assert f"| expected calibration error, after it | {after:.3f} |" in card()


def test_the_cost_of_a_cell_is_told_where_it_is_known() -> None:
    assert "123,456 parameters, 12.3 million multiply-accumulates a cell" in card(macs=12_345_678)
    assert "multiply-accumulates" not in card()


def test_a_class_that_is_never_called_is_told() -> None:
    assert "- **None of the 4 cells of the test part was called normal.**\n" in card(one_class=True)
    assert "None of the" not in card()
