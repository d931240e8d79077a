"""What the conversion report says is what was measured, and a slow int8 network does not ship in silence."""

import re

import numpy as np
import pytest

from bloodedge.bundle import Bundle
from bloodedge.manifest import LatencyMs
from bloodedge_convert.convert import Options, why_left_out
from bloodedge_convert.job import Kind
from bloodedge_convert.litert.noise import LayerNoise, layer_noise
from bloodedge_convert.report import HTML, JSON, ConversionReport
from bloodedge_convert.report.page import page, ranking

PLAIN, INT8 = Kind(engine="litert", precision="float32"), Kind(engine="litert", precision="int8")


def times(plain: float, int8: float) -> dict[str, LatencyMs]:
    return {str(kind): LatencyMs(p50=ms, p95=ms, p99=ms) for kind, ms in ((PLAIN, plain), (INT8, int8))}


@pytest.fixture(scope="module")
def report(conversion):
    with Bundle(conversion.converted.path) as bundle:
        return ConversionReport.model_validate_json(bundle.read(JSON))


@pytest.fixture(scope="module")
def html(conversion):
    with Bundle(conversion.converted.path) as bundle:
        return bundle.read(HTML).decode()


def test_int8_that_is_no_faster_is_left_out_with_both_times():
    reasons = why_left_out([PLAIN, INT8], times(39.5, 51.0), Options(engines=("litert",)))
    assert list(reasons) == ["litert/int8"]
    assert "51.00" in reasons["litert/int8"]
    assert "39.50" in reasons["litert/int8"]
    assert "--keep-slow" in reasons["litert/int8"]


def test_int8_that_is_faster_stays_and_so_does_a_slow_one_that_was_asked_for():
    assert why_left_out([PLAIN, INT8], times(2.0, 1.0), Options(engines=("litert",))) == {}
    assert why_left_out([PLAIN, INT8], times(1.0, 2.0), Options(engines=("litert",), keep_slow=True)) == {}


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
    assert all(layer.name in html for layer in ranking(report.layers))
    assert report.manifest.provenance.calibration_digest[:16] in html


def test_a_left_out_artifact_is_said_on_the_page(report):
    slow = report.verdicts[1].model_copy(update={"left_out": "No faster than float32 <here>."})
    text = page(report.model_copy(update={"verdicts": [report.verdicts[0], slow, *report.verdicts[2:]]}))
    assert "No faster than float32 &lt;here&gt;." in text
