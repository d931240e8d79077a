"""What the conversion report says is what was measured, and a slow int8 network does not ship in silence."""

import re
from pathlib import Path

import numpy as np
import pytest

from bloodedge.bench.latency import Turn
from bloodedge.bundle import Bundle
from bloodedge.bundle.run_record import read_run
from bloodedge_convert.conversion import Options, decide
from bloodedge_convert.job import Kind
from bloodedge_convert.judge import speed
from bloodedge_convert.judge.measure import Judge, Sample
from bloodedge_convert.judge.speed import Timed, in_pairs
from bloodedge_convert.litert.layer_noise import LayerNoise, layer_noise
from bloodedge_convert.output.report import HTML, JSON, ConversionReport
from bloodedge_convert.output.report_page import page, ranking

from .conftest import IMAGING

PLAIN, INT8 = Kind(engine="litert", precision="float32"), Kind(engine="litert", precision="int8")


def times(plain: list[float], int8: list[float]) -> dict[str, Timed]:
    """Milliseconds of each round."""
    return {str(kind): Timed([[ms, ms] for ms in rounds]) for kind, rounds in ((PLAIN, plain), (INT8, int8))}


@pytest.fixture(scope="module")
def report(conversion):
    with Bundle(conversion.converted.path) as bundle:
        return ConversionReport.model_validate_json(bundle.read(JSON))


@pytest.fixture(scope="module")
def html(conversion):
    with Bundle(conversion.converted.path) as bundle:
        return bundle.read(HTML).decode()


KINDS, ASKED = [PLAIN, INT8], Options(engines=("litert",))
SLOW = times([40, 42, 80, 38, 40, 41], [50, 60, 90, 57, 50, 52])
"""Slower in every round, the one with a busy machine too."""


def test_int8_that_is_slower_in_every_round_is_left_out_with_the_range_of_its_speed():
    reasons, doubts = decide(KINDS, SLOW, ASKED)
    assert list(reasons) == ["litert/int8"]
    assert "in each of 6 rounds" in reasons["litert/int8"]
    assert "0.67 to 0.89" in reasons["litert/int8"]
    assert "--keep-slow" in reasons["litert/int8"]
    assert doubts == []


def test_int8_that_is_faster_stays_and_so_does_a_slow_one_that_was_asked_for():
    fast = times([2.0] * 6, [1.0, 1.1, 0.9, 1.0, 1.2, 1.0])
    assert decide(KINDS, fast, ASKED) == ({}, [])
    asked = Options(engines=("litert",), keep_slow=True)
    assert decide(KINDS, SLOW, asked) == ({}, [])


@pytest.mark.parametrize("busy", range(6))
def test_what_else_the_machine_does_in_one_round_leaves_no_int8_out(busy: int):
    """By the median of all times int8 would be the slower one."""
    int8 = [1.02] * 6
    int8[busy] = 0.5
    found = times([1.0] * 6, int8)
    assert found["litert/int8"].latency.p50 > found["litert/float32"].latency.p50
    reasons, (sentence,) = decide(KINDS, found, ASKED)
    assert reasons == {}
    assert "litert int8" in sentence
    assert "undecided" in sentence
    assert "0.98 to 2.00 over 6 rounds" in sentence


def test_int8_takes_turns_with_the_float32_that_it_has_to_beat(monkeypatch, run):
    nothing = Sample("", *[np.empty(0)] * 4)
    judge = Judge(Path("folder"), read_run(run), nothing, nothing, None, 1, lambda *_: None)
    float16 = Kind(engine="litert", precision="float16")
    order = []

    def turn(files, engine, shape, _threads):
        assert shape == (IMAGING.size_px, IMAGING.size_px, 3)
        order.append(f"{engine}/{files[0].stem.removeprefix('model_')}")
        return Turn(runtime="none", first_ms=1, rss_mb=None, times_ms=[1.0, 2.0])

    monkeypatch.setattr(speed, "run_network_turn", turn)
    kinds = [PLAIN, float16, INT8]
    found = speed.latencies(judge, kinds, in_pairs(kinds))
    assert {name: len(timed.rounds) for name, timed in found.items()} == {
        "litert/float32": 6,
        "litert/float16": 2,
        "litert/int8": 6,
    }
    paired = [kind for kind in order if kind != "litert/float16"]
    assert all({a, b} == {"litert/float32", "litert/int8"} for a, b in zip(paired[::2], paired[1::2], strict=True))


def test_every_artifact_is_in_the_report_with_the_manifest_s_figures(report, conversion):
    assert [v.artifact for v in report.verdicts] == conversion.converted.manifest.artifacts
    assert all(v.left_out is None for v in report.verdicts)
    assert report.held_out_cells == conversion.converted.cells


def test_a_network_beside_itself_has_no_noise(conversion, report):
    with Bundle(conversion.converted.path) as bundle:
        plain = bundle.read("artifacts/model_float32.tflite")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    layers = layer_noise(plain, plain, images)
    assert {layer.name for layer in layers} >= {layer.name for layer in report.layers}
    assert max(layer.noise for layer in layers) < 1e-6
    assert max(layer.noise for layer in report.layers) > 1e-3


def test_the_ranking_is_by_what_a_layer_adds_itself():
    layers = [LayerNoise(name=name, noise=noise, added=added) for name, noise, added in
              (("a", 0.1, 0.1), ("b", 0.5, 0.4), ("c", 0.55, 0.05), ("d", 0.2, -0.35))]  # fmt: skip
    assert [layer.name for layer in ranking(layers)] == ["b", "a", "c"]
    assert layers[0].sqnr_db == pytest.approx(20)


def test_time_is_told_by_operator(report):
    rows = report.operators["openvino"]
    assert "Convolution" in {row.operator for row in rows}
    assert rows == sorted(rows, key=lambda row: -row.ms)
    assert sum(row.ms for row in rows) > 0


def test_the_page_stands_alone_and_names_every_artifact_and_layer(html, report):
    assert not re.search(r"(src|href)=[\"']?http", html)
    for verdict in report.verdicts:
        assert f"{verdict.artifact.size_bytes / 1e6:.2f}" in html
        assert verdict.artifact.evaluation.text("auc") in html
    assert all(layer.name in html for layer in ranking(report.layers))
    assert report.manifest.provenance.calibration_digest[:16] in html


def test_a_left_out_artifact_is_said_on_the_page(report):
    slow = report.verdicts[1].model_copy(update={"left_out": "No faster than float32 <here>."})
    text = page(report.model_copy(update={"verdicts": [report.verdicts[0], slow, *report.verdicts[2:]]}))
    assert "No faster than float32 &lt;here&gt;." in text
