import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bloodedge import RESEARCH_USE
from bloodedge.decision.domain import Domain
from bloodedge.decision.thresholds import Reason
from bloodedge.errors import UsageError
from bloodedge.report import charts, data_uri
from bloodedge_device.latency import StageTimes
from bloodedge_device.report.page import page, write_page
from bloodedge_device.report.reading import read_report
from bloodedge_device.report.terminal import show
from bloodedge_device.store import Store
from support import fakes


def fill(state: Path, label: str = "smear 7", keep_crops: bool = True, **kind: bool) -> None:
    store, times = Store(state), StageTimes()
    run = store.begin_run(fakes.run_info(fakes.make_manifest(**kind)))
    slide = store.begin_slide(run, label)
    for index, probabilities in enumerate(([0.97, 0.1], [0.5], [], [0.8, 0.02])):
        store.put_frames(slide, [fakes.result(index, probabilities, dropped_before=index)], keep_crops)
        times.add("find", 0.020)
        times.add("inference", 0.0012)
    store.put_frames(slide, [fakes.bad_frame(4)], keep_crops)
    store.end_slide(slide, times)
    store.end_run(run)
    store.close()


def test_a_slide_during_which_the_clock_was_set_is_given_no_duration_of_decades(state: Path) -> None:
    fill(state)
    report = replace(read_report(state), started=datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
    text = Page(page(report)).text
    assert "01 January 1970, 00:01 UTC by a clock that was not set" in text
    assert not re.search(r"UTC, [\d.]+ h", text)


class Page(HTMLParser):
    """Collects what a page says and what it asks others for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags, self.images = "", [], [], 0
        self.feed(html)
        self.text = " ".join(self.text.split()).replace("\u202f", " ").replace("\xa0", " ")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.images += tag == "img"
        self.addresses += [v or "" for k, v in attributes if k in {"src", "href", "srcset", "action", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_programs_get_every_figure_of_the_slide(state: Path) -> None:
    fill(state)
    report = json.loads(json.dumps(read_report(state).to_json(), allow_nan=False))
    assert report["frames"] == {
        "seen": 11,
        "processed": 5,
        "dropped": 6,
        "without_cells": 1,
        "rejected": 1,
        "rejected_reasons": {"bad_frame": 1},
    }
    assert (report["cells"]["blast"], report["cells"]["normal"], report["cells"]["uncertain"]) == (2, 2, 1)
    assert report["blast_share"].keys() == {"called", "corrected", "low", "high", "limited_by", "truth"}
    share = report["blast_share"]
    assert (share["called"], share["limited_by"], share["truth"]) == (0.5, "cells", None)
    assert 0 <= share["low"] < share["corrected"] < 0.5 < share["high"] <= 1  # normal cells are called blasts oftener
    assert report["blast_percent"] == 50
    # by statsmodels' proportion_confint, method "wilson"
    assert report["blast_percent_ci95"] == pytest.approx([15.0, 85.0], abs=0.01)
    assert report["latency_ms"]["inference"]["p50"] == pytest.approx(1.2, rel=0.01)
    assert report["baseline"]["latency_ms"] == {"p50": 3.1, "p95": 3.4, "p99": 4.2}
    assert report["baseline"]["hardware"] == "NVIDIA Test GPU"
    assert (report["golden"]["flips"], report["golden"]["max_probability_difference"]) == (1, 0.07)
    assert report["artifact"]["evaluation"]["accuracy"] == 0.892
    assert report["research_use"] == RESEARCH_USE


def test_the_page_needs_nothing_from_anywhere_else(state: Path) -> None:
    fill(state)
    html = page(read_report(state))
    seen = Page(html)
    assert all(address.startswith("data:image/jpeg;base64,") for address in seen.addresses)
    assert not {"script", "link", "iframe"} & set(seen.tags)
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_page_says_what_matters(state: Path) -> None:
    fill(state)
    text = Page(page(read_report(state))).text
    for said in (
        "smear 7",
        RESEARCH_USE,
        "corrected for errors and refusals",
        "Of 4 called cells, 50.0 % were called blasts",
        "NVIDIA Test GPU",
        "0.892 [0.832, 0.932]",
        "0.894 [0.834, 0.934]",
        "7 of 1 234",
        "0.57 %",
        "1 of 64",
        "bad frame",
        "abstain band",
        "too near the line between normal and blast",
    ):
        assert said in text, said


def test_the_gallery_shows_the_most_blast_like_and_the_most_uncertain_cells_first(state: Path) -> None:
    fill(state)
    report = read_report(state)
    assert [cell.blast_probability for cell in report.most_blast_like][:2] == [0.97, 0.8]
    assert report.most_uncertain[0].blast_probability == 0.5
    assert all(cell.label != "uncertain" for cell in report.most_blast_like)
    assert Page(page(report)).images == len(report.most_blast_like) + len(report.most_uncertain) == 9


def test_a_slide_without_kept_images_has_no_gallery(state: Path) -> None:
    fill(state, keep_crops=False)
    seen = Page(page(read_report(state)))
    assert seen.images == 0
    assert "Cells worth a look" not in seen.text


def test_rendered_and_leaky_bundles_are_called_so_everywhere(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(state, rendered=True, leaky=True)
    report = read_report(state)
    show(report)
    table = " ".join(capsys.readouterr().out.split())
    for told in (Page(page(report)).text, table, " ".join(report.to_json()["warnings"])):
        assert "drawn by the simulated microscope" in told
        assert "leaky" in told


def test_a_bundle_of_real_cells_is_not_trusted_on_cells_of_another_kind(state: Path) -> None:
    fill(state)
    (warning,) = read_report(state).warnings
    assert "does not check" in warning
    assert warning in Page(page(read_report(state))).text


@pytest.mark.parametrize(("unlike", "warned"), [(0, False), (1, False), (3, True)])
def test_a_slide_of_cells_unlike_the_training_cells_is_called_so(state: Path, unlike: int, warned: bool) -> None:
    figures = 41
    domain = Domain(
        mean=(0.0,) * figures,
        deviation=(1.0,) * figures,
        whitening=tuple((0.0,) * figures for _ in range(figures)),
        limit=1.0,
        cells=600,
    )
    store = Store(state)
    manifest = fakes.make_manifest().model_copy(update={"domain": domain})
    slide = store.begin_slide(store.begin_run(fakes.run_info(manifest)), "")
    result = fakes.result(0, [0.9] * (5 + unlike))
    foreign = [replace(cell, label="uncertain", reason=Reason.OUT_OF_DOMAIN) for cell in result.cells[5:]]
    store.put_frames(slide, [replace(result, cells=[*result.cells[:5], *foreign])], keep_crops=False)
    store.close()
    warnings = read_report(state).warnings
    assert warnings == ([] if not warned else warnings[:1])
    assert ("3 of 8 cells are unlike" in " ".join(warnings)) is warned


def test_a_hostile_label_is_only_text(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = "<script>alert(1)</script>[bold]"
    fill(state, label=label)
    report = read_report(state)
    assert "script" not in Page(page(report)).tags
    show(report)
    assert label in capsys.readouterr().out


def test_the_terminal_shows_latency_beside_the_baselines(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(state)
    show(read_report(state))
    lines = capsys.readouterr().out.splitlines()
    (baseline,) = [line for line in lines if "NVIDIA Test GPU" in line]
    assert re.search(r"3\.10.*3\.40.*4\.20", baseline)
    assert any("inference" in line and "1.2" in line for line in lines)


def test_a_slide_that_saw_nothing_still_has_a_report(state: Path) -> None:
    store = Store(state)
    store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.close()
    report = read_report(state)
    assert "No cell was called blast or normal" in Page(page(report)).text
    assert "still running or interrupted" in page(report)
    assert report.to_json()["blast_percent"] is None
    show(report)


def test_a_slide_can_be_chosen_and_a_wrong_one_is_named(state: Path) -> None:
    fill(state, label="first")
    fill(state, label="second")
    assert (read_report(state).label, read_report(state, 1).label) == ("second", "first")
    with pytest.raises(UsageError, match="has no slide 9; it has 1 to 2"):
        read_report(state, 9)


def test_the_page_is_written_whole_or_not_at_all(state: Path, tmp_path: Path) -> None:
    fill(state)
    target = tmp_path / "reports" / "r.html"
    write_page(read_report(state), target)
    assert target.read_text().rstrip("\n").endswith("</html>")
    assert list(target.parent.iterdir()) == [target]


def test_every_chart_has_a_text_for_those_who_cannot_see_it() -> None:
    axis = charts.share_axis()
    bar = charts.share_bar([charts.Part("blast <1>", 3, "blast"), charts.Part("normal", 1, "normal")])
    assert 'aria-label="blast &lt;1&gt; 3, normal 1"' in bar
    assert 'x="75.000%"' in bar
    strip = charts.interval_strip(axis, 0.5, (0.25, 0.75), "device", "half")
    assert 'aria-label="half"' in strip
    assert 'x1="25.0%" x2="75.0%"' in strip


def test_an_axis_ends_on_whole_steps_and_a_value_beyond_it_stands_at_its_end() -> None:
    axis = charts.share_axis(0.832, 1.0)
    assert (axis.low, axis.high) == pytest.approx((0.8, 1.0))
    assert axis.at(0.5) == 0
    log = charts.log_axis([0.03, 40.0], "ms")
    assert [label for _, label in log.ticks] == ["0.01 ms", "0.1 ms", "1 ms", "10 ms", "100 ms"]
    assert log.at(1.0) == pytest.approx(50)


def test_bytes_become_an_address_that_a_page_can_show() -> None:
    assert data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"
