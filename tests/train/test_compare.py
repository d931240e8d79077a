"""Networks stand beside each other and the paper's, splits are not mixed up, and folds become one row."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.manifest import Agreement, Artifact, Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import DataRecord, FittedRecord, PartRecord, RunMetrics, RunRecord, SplitRecord
from bloodedge.cli import cli
from bloodedge.decision.thresholds import Thresholds
from bloodedge.errors import UsageError
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import ImagingSpec
from bloodedge_train.compare import pages
from bloodedge_train.compare.charts import all_charts
from bloodedge_train.compare.comparison import Comparison, compare
from bloodedge_train.compare.paper import read_paper
from bloodedge_train.compare.tables import all_tables
from bloodedge_train.compare.theme import DARK, LIGHT
from bloodedge_train.recipe import Recipe
from bloodedge_train.zoo import ZOO

LATENCY = LatencyMs(p50=1.5, p95=2, p99=3)


def scored(subjects: list[str], wrong: int, cells: int = 10) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Of each subject's cells, ``wrong`` are called wrongly; subjects beginning with H are healthy."""
    rows = [
        {"subject": s, "label": int(not s.startswith("H")), "right": number >= wrong}
        for s in subjects
        for number in range(cells)
    ]
    blast = np.array([0.9 if row["label"] == row["right"] else 0.2 for row in rows])
    return score([r["label"] for r in rows], blast, [r["subject"] for r in rows]), [
        {**row, "blast": p} for row, p in zip(rows, blast, strict=True)
    ]


def make_run(  # a run has many sides
    folder: Path,
    *,
    model: str = "edgenet",
    kind: str = "group",
    wrong: int = 1,
    cells: int = 10,
    subjects: tuple[str, ...] = ("1", "2", "H1", "H2"),
    folds: int | None = None,
    fold: int | None = None,
    data: str = "f" * 64,
    digest: str = "0",
    keep_predictions: bool = True,
    parameters: int = 500_000,
    macs: int | None = 90_000_000,
    fitted: bool = True,
    everybody: bool = False,
) -> Path:
    evaluation, rows = scored(list(subjects), wrong, cells)
    evaluation = evaluation.model_copy(update={"leaky": kind == "image"})
    part = PartRecord(cells=evaluation.cells, groups=list(subjects), subjects=list(subjects), digest=digest)
    own, named = ("train", "folds") if everybody else ("test", "test")
    split = {"kind": kind, "seed": 0, "folds": folds, "fold": fold, "parts": {own: part}}
    record = RunRecord(
        name=folder.name,
        created="2026-01-01T00:00:00+00:00",
        bloodedge="0.1.0",
        model=model,
        parameters=parameters,
        macs=macs,
        labels=["normal", "blast"],
        weights="none",
        recipe=Recipe(name="paper").model_dump(),
        imaging=ImagingSpec(size_px=64),
        seed=0,
        data=DataRecord(root="data", fingerprint=data, cells=80, subjects=8),
        split=SplitRecord.model_validate(split),
        fitted=FittedRecord(file="fitted.npz", pictures=80) if fitted else None,
        temperature=1.0,
        thresholds=Thresholds(),
        backend="tensorflow",
        hardware="a test",
        versions={},
        history=[{"epoch": e, "loss": 1 / e, "val_loss": 1.2 / e, "val_auc": 1 - 0.3 / e} for e in (1.0, 2.0, 3.0)],
        best_epoch=3,
    )
    metrics = RunMetrics(
        parts={named: evaluation}, ece_before_temperature=0.1, latency_ms=LATENCY, hardware="a GPU of the test"
    )
    write_record(folder / "metrics.json", metrics)
    write_record(folder / "run.json", record)
    if keep_predictions:
        with (folder / "predictions.csv").open("w", newline="") as lines:
            out = csv.writer(lines)
            out.writerow(["part", "cell", "subject", "label", "blast_uncalibrated", "blast"])
            out.writerows([named, i, r["subject"], r["label"], r["blast"], r["blast"]] for i, r in enumerate(rows))
    return folder


def make_bundle(folder: Path, run: Path) -> Path:
    """A bundle of the run that says it holds one int8 network, whose file is not there."""
    record = RunRecord.model_validate_json((run / "run.json").read_bytes())
    metrics = RunMetrics.model_validate_json((run / "metrics.json").read_bytes())
    (evaluation,) = metrics.parts.values()
    artifact = Artifact(
        engine="litert",
        precision="int8",
        file="artifacts/model_int8.tflite",
        sha256="0",
        size_bytes=750_000,
        evaluation=evaluation.model_copy(update={"latency_ms": LATENCY}),
        agreement=Agreement(cells=40, flips=1, flip_rate=0.025, max_probability_difference=0.1, drop={}, drop_ci95={}),
    )
    manifest = Manifest(
        serial=1,
        name=folder.name,
        labels=["normal", "blast"],
        input=InputSpec(height=64, width=64),
        imaging=record.imaging,
        temperature=1,
        thresholds=Thresholds(),
        artifacts=[artifact],
        baseline=Baseline(
            hardware=metrics.hardware, backend="jax", latency_ms=metrics.latency_ms, evaluation=evaluation
        ),
        golden=Golden(inputs=1, max_flips={}, max_probability_difference={}),
        provenance=Provenance(
            run=record.name,
            model=record.model,
            parameters=record.parameters,
            recipe=record.recipe,
            weights=record.weights,
            data_fingerprint=record.data.fingerprint,
            rendered=False,
            split=record.split,
            calibration_cells=1,
            calibration_digest="0",
            converted="2026-01-01T00:00:00+00:00",
            hardware="the converting machine",
            versions={},
        ),
        fitted=record.fitted,
        files={},
    )
    write_record(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def five_folds(folder: Path, *, keep_predictions: bool = True) -> list[Path]:
    """Fold k holds out patient k and healthy Hk, and calls k of ten cells of each wrongly."""
    return [
        make_run(
            folder / f"fold{k}",
            folds=5,
            fold=k,
            wrong=k,
            subjects=(str(k), f"H{k}"),
            keep_predictions=keep_predictions,
        )
        for k in range(5)
    ]


def test_precision_recall_and_f1_are_those_of_blasts(tmp_path: Path) -> None:
    subjects = ("1", "2", "3", "H1")  # 30 blasts, 10 normal cells; of each ten, two wrong
    row = compare([make_run(tmp_path / "run", wrong=2, subjects=subjects)]).rows[0]
    shown = {name: estimate.value for name, estimate in row.figures.items()}
    assert shown["accuracy"] == pytest.approx(0.8)
    assert shown["precision"] == pytest.approx(24 / 26)
    assert shown["recall"] == pytest.approx(24 / 30)
    assert shown["f1"] == pytest.approx(48 / 56)
    assert row.figures["accuracy"].low is not None


def test_records_stored_before_precision_and_f1_were_kept_still_show_them(run: Path) -> None:
    path = run / "metrics.json"
    stored = json.loads(path.read_text())
    for name in ("precision", "f1", "pr_auc", "brier", "ece_before", "mean_subject_accuracy"):
        stored["parts"]["test"].pop(name, None)
        stored["parts"]["test"]["ci95"].pop(name, None)
    path.write_text(json.dumps(stored))
    row = compare([run]).rows[0]
    assert row.figures["precision"].value == pytest.approx(0.9)
    assert row.figures["f1"].value == pytest.approx(0.9)
    assert row.figures["mean_subject_accuracy"].value == pytest.approx(0.9)


@pytest.mark.parametrize("keep_predictions", [True, False])
def test_folds_become_one_row_with_their_mean_and_all_cells_pooled(tmp_path: Path, *, keep_predictions: bool) -> None:
    (row,) = compare(five_folds(tmp_path, keep_predictions=keep_predictions)).rows
    assert row.folds == [0, 1, 2, 3, 4]
    accuracy = row.figures["accuracy"]
    assert accuracy.value == pytest.approx((1.0 + 0.9 + 0.8 + 0.7 + 0.6) / 5)
    assert (accuracy.low, accuracy.high) == (pytest.approx(0.6), pytest.approx(1.0))
    assert row.pooled is not None
    assert row.pooled["accuracy"].value == pytest.approx(0.8)
    assert row.pooled["weighted_f1"].value == pytest.approx(0.8)
    assert (row.pooled["auc"].value is not None) is keep_predictions
    assert (row.pooled["accuracy"].low is not None) is keep_predictions
    assert row.confusion == [[40, 10], [10, 40]]
    assert len(row.per_subject) == 10
    assert row.worst_subject in {"4", "H4"}


def test_a_run_fitted_to_everybody_stands_with_its_folds_and_is_called_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bloodedge_train.compare.latency.installed", lambda _: False)
    everybody = make_run(tmp_path / "release", wrong=2, subjects=("1", "2", "3", "H1"), everybody=True, digest="1")
    comparison = compare([everybody, make_bundle(tmp_path / "a.bundle", everybody), make_run(tmp_path / "run")])
    row, other = comparison.rows
    assert (row.part, row.split_label, other.part, other.split_label) == (
        "folds",
        "all people, by folds",
        "test",
        "by group",
    )
    assert row.figures["accuracy"].value == pytest.approx(0.8)
    assert len(row.converted) == 1
    assert row.scored_on != other.scored_on
    (warning,) = comparison.warnings
    assert "split by group were not all scored on the same test cells" in warning
    (alone,) = compare([tmp_path / "a.bundle"]).rows
    assert (alone.figures, alone.split_label, alone.scored_on) == (row.figures, row.split_label, row.scored_on)
    with pytest.raises(UsageError, match="release has no shift part and is left out"):
        compare([everybody], part="shift")


def test_a_missing_fold_is_said(tmp_path: Path) -> None:
    comparison = compare(five_folds(tmp_path)[:3])
    assert "only 3 of 5 folds" in comparison.warnings[0]


def test_the_papers_figures_stand_beside_ours_with_the_difference_in_points(tmp_path: Path) -> None:
    row = compare([make_run(tmp_path / "run", model="resnetrs50", kind="image")]).rows[0]
    assert row.paper["accuracy"].paper == 0.97
    assert row.paper["accuracy"].points == pytest.approx(90 - 97)
    assert row.paper["recall"].at_least
    assert "precision" not in row.paper


def test_only_figures_with_a_source_are_given_to_the_paper() -> None:
    paper = read_paper()
    known = {key: n for key, n in paper.networks.items() if n.known}
    assert set(known) == {"resnetrs50"}
    assert (known["resnetrs50"].accuracy, known["resnetrs50"].precision) == (0.97, None)


def test_every_network_of_the_paper_is_in_the_zoo() -> None:
    assert set(read_paper().networks) <= set(ZOO)
    assert len(read_paper().networks) == 8


def test_a_completed_copy_of_the_papers_figures_is_used_and_its_mistakes_are_named(run: Path, tmp_path: Path) -> None:
    text = 'title = "T"\nsource = "a reader"\ndata = "D"\nrecipe = "R"\n[networks.edgenet]\nname = "E"\n'
    path = tmp_path / "paper.toml"
    path.write_text(text + "precision = 0.85\n")
    assert compare([run], paper=path).rows[0].paper["precision"].points == pytest.approx(5)
    path.write_text(text + "precison = 85\nf1 = 93\n")
    with pytest.raises(UsageError, match=r'2 mistakes(.|\n)*precison: unknown key. Did you mean "precision"'):
        compare([run], paper=path)


def test_the_split_by_image_comes_first_and_is_called_leaky(tmp_path: Path) -> None:
    group = make_run(tmp_path / "group", model="vgg19", wrong=3)
    image = make_run(tmp_path / "image", model="vgg19", kind="image", wrong=0)
    first = make_run(tmp_path / "own", model="edgenet")
    rows = compare([first, group, image]).rows
    assert [(row.network, row.split_label) for row in rows] == [
        ("vgg19", "by image, leaky"),
        ("vgg19", "by group"),
        ("edgenet", "by group"),
    ]


def test_a_network_fitted_alike_by_image_and_by_group_gets_its_leak_drawn(tmp_path: Path) -> None:
    group = make_run(tmp_path / "group", wrong=3)
    image = make_run(tmp_path / "image", kind="image", wrong=0)
    assert "leak.png" in {chart.file for chart in all_charts(compare([group, image]).rows)}
    assert "leak.png" not in {chart.file for chart in all_charts(compare([group]).rows)}


def test_a_bundle_adds_its_int8_files_to_the_row_of_its_run(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bloodedge_train.compare.latency.installed", lambda _: False)
    bundle = make_bundle(tmp_path / "a.bundle", run)
    (row,) = compare([bundle, run]).rows
    (int8,) = row.converted
    assert int8.size_bytes == 750_000
    assert (int8.machine, int8.measured_now) == ("the converting machine", False)
    assert row.hardware == "a GPU of the test"
    assert row.histories
    (alone,) = compare([bundle]).rows
    assert alone.figures == row.figures


def test_the_same_run_given_twice_counts_once(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "copy"
    again.mkdir()
    for file in ("run.json", "metrics.json"):
        (again / file).write_bytes((run / file).read_bytes())
    comparison = compare([run, again])
    assert len(comparison.rows) == 1
    assert "is the same run as another" in comparison.warnings[0]


def test_runs_made_before_training_pictures_were_kept_are_named(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, fitted=name == "new") for name in ("new", "old")]
    (warning,) = [each for each in compare(runs).warnings if "copies of training pictures" in each]
    assert "The held-out pictures of old, made by an older bloodedge" in warning
    leaky = compare([make_run(tmp_path / "leaky", kind="image", fitted=False)])
    assert not [each for each in leaky.warnings if "copies of training pictures" in each]


def test_runs_on_other_data_are_warned_of_and_still_compared(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", data="0" * 64)
    comparison = compare([run, other])
    assert len(comparison.rows) == 2
    assert "fitted to different data" in comparison.warnings[0]


def test_rows_scored_on_other_cells_of_the_same_data_are_warned_of(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b"), make_run(tmp_path / "c", kind="image", digest="1")]
    assert not compare(runs).warnings
    other = make_run(tmp_path / "d", digest="2")
    assert "split by group were not all scored on the same test cells" in compare([*runs, other]).warnings[0]


def command(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


@pytest.mark.parametrize(
    ("paths", "part", "told"),
    [
        ([], "test", "Name the run folders and bundles"),
        (["nothing"], "test", "is neither a finished run folder .* nor a bundle"),
        (["file"], "test", "is neither a finished run folder .* nor a bundle"),
        (["run"], "shift", "There is nothing to compare: .*run has no shift part"),
    ],
)
@pytest.mark.usefixtures("run")
def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path, paths, part, told) -> None:
    (tmp_path / "file").write_text("text")
    result = command(*(tmp_path / path for path in paths), "--part", part)
    assert isinstance(result.exception, UsageError)
    assert re.search(told, str(result.exception))
    assert len(str(result.exception).splitlines()) == 1


@pytest.mark.slow
def test_out_writes_pages_data_and_charts_and_the_page_needs_no_other_file(tmp_path: Path) -> None:
    runs = [*five_folds(tmp_path), make_run(tmp_path / "image", kind="image", wrong=0)]
    out = tmp_path / "out"
    result = command(*runs, "--out", out)
    assert result.exit_code == 0, result.exception
    charts = {"figures.png", "leak.png", "confusion.png", "cost.png", "curves.png"}
    assert {path.name for path in out.iterdir()} == {"compare.md", "compare.html", "compare.json", *charts}
    page = (out / "compare.html").read_text()
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)
    assert "For Research Use Only" in page
    assert "leaky" in page
    text = (out / "compare.md").read_text()
    assert "For Research Use Only" in text
    assert set(re.findall(r"\]\((\w+\.png)\)", text)) == charts
    for line in text.splitlines():
        assert not line.startswith("|") or line.count("|") > 5
    assert len(json.loads((out / "compare.json").read_text())["rows"]) == 2
    assert command(*runs, "--out", out).exit_code == 0  # an earlier comparison is replaced
    (out / "compare.json").unlink()
    (out / "cost.png").write_text("mine")
    refused = command(*runs, "--out", out)
    assert isinstance(refused.exception, UsageError)
    assert "which this command did not make" in str(refused.exception)
    assert (out / "cost.png").read_text() == "mine"


def test_json_on_stdout_is_json_alone(run: Path) -> None:
    result = command(run, "--json", "-")
    assert json.loads(result.stdout)["rows"][0]["network"] == "edgenet"


def test_charts_differ_between_light_and_dark_and_are_drawn_for_a_single_row_without_macs(tmp_path: Path) -> None:
    row = make_run(tmp_path / "old", macs=None, keep_predictions=False)
    for chart in all_charts(compare([row]).rows):
        light, dark = chart.png(LIGHT), chart.png(DARK)
        assert light[:8] == dark[:8] == b"\x89PNG\r\n\x1a\n"
        assert light != dark


@pytest.mark.parametrize("probability", ["nan", "inf", "-0.1", "1.1"])
def test_predictions_that_are_no_probabilities_are_told(run: Path, probability: str) -> None:
    table = run / "predictions.csv"
    table.write_text(table.read_text().replace("0.9,0.9", f"0.9,{probability}", 1))
    with pytest.raises(UsageError, match=rf"predictions.csv is damaged \({probability} is no probability\)"):
        compare([run])


def tiles(comparison: Comparison) -> list[str]:
    """What is crowned."""
    return [what for what, _, _ in pages._tiles(comparison.rows)]


def test_the_best_is_named_where_all_were_scored_on_the_same_cells(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "poor", wrong=3), make_run(tmp_path / "good", wrong=1)])
    ((what, value, note),) = pages._tiles(comparison.rows)
    assert what == "Best weighted F1 by group"
    assert value.startswith("90.0")
    assert "edgenet (good)" in note
    assert not comparison.warnings


@pytest.mark.parametrize("changed", [{"data": "0" * 64}, {"digest": "1"}])
def test_none_is_called_the_best_across_different_test_data(tmp_path: Path, changed: dict[str, Any]) -> None:
    comparison = compare([make_run(tmp_path / "poor", wrong=3), make_run(tmp_path / "good", wrong=1, **changed)])
    assert tiles(comparison) == []
    assert "none is called the best" in comparison.warnings[0]
    out = tmp_path / "out"
    pages.write(comparison, out)
    assert "Best" not in (out / "compare.html").read_text() + (out / "compare.md").read_text()


def test_a_leak_is_drawn_of_one_data_set_only(tmp_path: Path) -> None:
    group = make_run(tmp_path / "group", wrong=3)
    image = make_run(tmp_path / "image", kind="image", wrong=0, data="0" * 64)
    assert "leak.png" not in {chart.file for chart in all_charts(compare([group, image]).rows)}


def test_none_is_called_the_fastest_of_networks_timed_on_several_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodedge_train.compare.latency.installed", lambda _: False)
    bundles = [make_bundle(tmp_path / f"{n}.bundle", make_run(tmp_path / n)) for n in ("a", "b")]
    assert "Fastest int8 network" in tiles(compare(bundles))
    manifest = bundles[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace("the converting machine", "another machine"))
    assert "Fastest int8 network" not in tiles(compare(bundles))


def test_rows_of_one_network_are_told_apart_in_every_table(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "first", parameters=500_000),
        make_run(tmp_path / "second", parameters=600_000),
        make_run(tmp_path / "here" / "third", parameters=700_000),
        make_run(tmp_path / "there" / "third", parameters=800_000, kind="image"),
        *five_folds(tmp_path / "folded"),
        make_run(tmp_path / "other", model="vgg19"),
    ]
    rows = compare(runs).rows
    assert sorted(row.label for row in rows if row.network == "edgenet") == sorted(
        ["first", "second", str(tmp_path / "here" / "third"), str(tmp_path / "there" / "third"), "fold0 to fold4"]
    )
    assert [row.label for row in rows if row.network == "vgg19"] == [""]
    for table in all_tables(rows):
        if table.columns[0] == "network":
            named = [(line[0].main, *line[0].notes) for line in table.rows]
            assert len(set(named)) == len(named), table.title
    assert "Folds of edgenet (fold0 to fold4), by group, 5 folds, recipe paper" in {t.title for t in all_tables(rows)}
    for chart in all_charts(rows):
        chart.png(LIGHT)


def test_a_network_that_calls_one_class_only_is_called_so(tmp_path: Path) -> None:
    healthy_and_ill = make_run(tmp_path / "usual")
    all_wrong = make_run(tmp_path / "normal_only", subjects=("1", "H1"))
    metrics = json.loads((all_wrong / "metrics.json").read_text())
    metrics["parts"]["test"]["confusion"] = [[10, 0], [10, 0]]
    (all_wrong / "metrics.json").write_text(json.dumps(metrics))
    warnings = compare([healthy_and_ill, all_wrong]).warnings
    assert [w for w in warnings if "worth nothing" in w] == [
        "edgenet (normal_only) (by group) calls no cell blast, so it is worth nothing."
    ]
