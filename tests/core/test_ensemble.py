"""Several networks are scored as one, on cells that none of them has seen."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from bloodedge.bundle.run_record import SplitRecord
from bloodedge.cli import evaluate as evaluate_cli
from bloodedge.cli import main
from bloodedge.data.dataset import Dataset, inputs, read_dataset
from bloodedge.data.split import SplitSpec, split
from bloodedge.decision.thresholds import Thresholds, calibrated
from bloodedge.errors import UsageError
from bloodedge.evaluation.classifier import Classifier
from bloodedge.evaluation.ensemble import Ensemble, predict, rescaled
from bloodedge.evaluation.evaluate import evaluate
from bloodedge.evaluation.held_out import choose_cells
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import CNMC_UM_PER_PX, ImagingSpec, cell_on_black, network_input, read_image

WriteCells = Callable[[Path, Iterable[str]], Path]


class Share:
    """Says blast with a probability that is one channel's share of the picture's light."""

    name = "share"
    runtime = "by hand"

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.shapes: set[tuple[int, ...]] = set()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.shapes.add(images.shape[1:])
        share = images[..., self.channel].mean((1, 2)) / np.maximum(images.mean((1, 2)).sum(1), 1)
        return np.stack([1 - share, share], 1).astype(np.float32)


class Corner:
    """Says blast with a probability that is the brightness of the last view's upper edge."""

    name = "corner"
    runtime = "by hand"

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        first = images[..., 0, images.shape[-2] // 2, 0].reshape(len(images), -1)[:, -1] / 255
        return np.stack([1 - first, first], 1).astype(np.float32)


class Lit:
    """Says blast with a probability that is the share of the picture that the cell covers."""

    name = "lit"
    runtime = "by hand"

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        share = images.any(axis=3).mean((1, 2))
        return np.stack([1 - share, share], 1).astype(np.float32)


@cache
def shared_out(data: Path, kind, seed: int) -> tuple[Dataset, SplitRecord]:
    """The data set and its split by the default spec."""
    dataset = read_dataset(data)
    return dataset, split(dataset, SplitSpec(kind=kind), seed=seed)[1]


def member(data: Path, *, seed: int = 0, kind="group", engine=None, size_px: int = 32, **changes) -> Classifier:
    dataset, record = shared_out(data, kind, seed)
    values = {
        "name": f"run {seed}",
        "engine": engine or Share(0),
        "imaging": ImagingSpec(size_px=size_px),
        "temperature": 1.0,
        "thresholds": Thresholds(),
        "split": record,
        "split_spec": SplitSpec(),
        "fingerprint": dataset.fingerprint,
    }
    return Classifier(**(values | changes))


def validated(confusion: list[list[int]]):
    """The figures of a validation part with this confusion matrix."""
    (tn, fp), (fn, tp) = confusion
    labels = [0] * (tn + fp) + [1] * (fn + tp)
    said = [0] * tn + [1] * fp + [0] * fn + [1] * tp
    return score(labels, np.array(said, float), [str(n % 3) for n in range(len(said))])


def test_the_probability_is_the_mean_of_the_members_calibrated_ones(rendered_data: Path) -> None:
    red, blue = Share(0), Share(2)
    first = member(rendered_data, engine=red, size_px=32, temperature=0.5)
    second = member(rendered_data, engine=blue, size_px=48, temperature=2.0)
    cells = read_dataset(rendered_data).unique[:20]
    said = predict(Ensemble.of([first, second]), cells)
    alone = [calibrated(m.engine.predict(inputs(cells, m.imaging)), m.temperature)[:, 1] for m in (first, second)]
    assert said.blast == pytest.approx((alone[0] + alone[1]) / 2)
    assert (red.shapes, blue.shapes) == ({(32, 32, 3)}, {(48, 48, 3)})  # each sees its own inputs


def test_kappa_weighs_each_member_by_its_agreement_on_validation(rendered_data: Path) -> None:
    matrices = [[[30, 10], [5, 55]], [[20, 20], [20, 40]], [[5, 35], [40, 20]]]
    members = [member(rendered_data, validation=validated(m)) for m in matrices]
    kappas = []
    for (tn, fp), (fn, tp) in matrices:
        labels, said = [0] * (tn + fp) + [1] * (fn + tp), [0] * tn + [1] * fp + [0] * fn + [1] * tp
        assert confusion_matrix(labels, said).tolist() == [[tn, fp], [fn, tp]]
        kappas.append(cohen_kappa_score(labels, said))
    assert kappas[2] < 0
    wanted = np.array([kappas[0], kappas[1], 0]) / (kappas[0] + kappas[1])
    assert Ensemble.of(members, "kappa").weights == pytest.approx(wanted)
    assert Ensemble.of(members).weights == pytest.approx([1 / 3] * 3)


def test_members_no_better_than_chance_cannot_be_weighed_by_kappa(rendered_data: Path) -> None:
    poor = member(rendered_data, validation=validated([[10, 10], [10, 10]]))
    with pytest.raises(UsageError, match="No run is better than chance"):
        Ensemble.of([poor, poor], "kappa")
    with pytest.raises(UsageError, match="run 0 has no figures of a validation part"):
        Ensemble.of([member(rendered_data)], "kappa")


def test_members_with_other_labels_are_refused_with_both_named(rendered_data: Path) -> None:
    other = member(rendered_data, name="other", labels=("lymphocyte", "monocyte"))
    with pytest.raises(UsageError, match="run 0 has the labels normal, blast and other lymphocyte, monocyte"):
        Ensemble.of([member(rendered_data), other])


def test_runs_split_alike_are_scored_on_their_common_test_part(rendered_data: Path) -> None:
    both = Ensemble.of([member(rendered_data), member(rendered_data, engine=Share(2))])
    cells, which, _ = choose_cells(both, read_dataset(rendered_data), "auto")
    assert {c.subject for c in cells} == set(both.members[0].split.parts["test"].subjects)
    assert which == "the test part"


def test_runs_split_differently_are_scored_on_people_whom_none_has_seen(rendered_data: Path) -> None:
    members = [member(rendered_data, seed=seed) for seed in (2, 4)]  # their test parts have a subject in common
    both, dataset = Ensemble.of(members), read_dataset(rendered_data)
    seen = {s for m in both.members for p in ("train", "validation") for s in m.split.parts[p].subjects}
    everyone = {c.subject for c in dataset.unique}
    assert everyone - seen, "the two splits must share a test subject for this test to say something"
    assert {c.subject for c in choose_cells(both, dataset, "auto")[0]} == everyone - seen
    assert not evaluate(both, rendered_data)[0].leaky
    assert evaluate(both, rendered_data, "all")[0].leaky
    with pytest.raises(UsageError, match="split differently, so they have no test part in common"):
        choose_cells(both, dataset, "test")


def test_when_every_subject_was_seen_by_some_run_nothing_is_scored(rendered_data: Path) -> None:
    first = member(rendered_data)
    parts = first.split.parts
    turned = {"train": parts["test"], "validation": parts["validation"], "test": parts["train"]}
    second = replace(first, split=first.split.model_copy(update={"parts": turned}))
    with pytest.raises(UsageError, match="was seen in training by one of these runs"):
        choose_cells(Ensemble.of([first, second]), read_dataset(rendered_data), "auto")


def test_of_cells_without_a_name_only_those_in_no_training_part_are_scored(
    tmp_path: Path, write_cells: WriteCells
) -> None:
    names = [f"{kind}/{number}.png" for kind in ("all", "hem") for number in range(40)]
    data = write_cells(tmp_path, names)
    members = [member(data, kind="image", seed=seed) for seed in (0, 1)]
    dataset = read_dataset(data)
    tests = [{c.name for c in choose_cells(Ensemble.of([m]), dataset, "test")[0]} for m in members]
    assert {c.name for c in choose_cells(Ensemble.of(members), dataset, "auto")[0]} == tests[0] & tests[1]


def test_a_rescaled_cell_covers_as_much_more_and_keeps_its_colour(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    whole = cell_on_black(np.where(draw(1) > 0, 120, 0).astype(np.uint8), CNMC_UM_PER_PX)
    for factor in (0.5, 0.8, 1.25, 2):
        other = rescaled(whole, factor)
        assert other.area_px == pytest.approx(whole.area_px * factor**2, rel=0.05)
        assert other.um_per_px == whole.um_per_px
        assert set(other.bgr[other.mask > 0].ravel().tolist()) == {120}  # the rim is not mixed with the black round it
    assert rescaled(whole, 1) is whole


def test_rescaling_moves_what_follows_size_and_spares_what_does_not(rendered_data: Path) -> None:
    cells = read_dataset(rendered_data).unique[:10]
    physical = member(rendered_data, engine=Lit(), imaging=ImagingSpec(size_px=160))
    canonical = replace(physical, imaging=ImagingSpec(size_px=160, views=("canonical",)))
    for lit, growth in ((physical, 0.64), (canonical, 1)):
        alone = Ensemble.of([lit])
        before, after = predict(alone, cells).blast, predict(alone, cells, rescale=0.8).blast
        assert np.median(after / before) == pytest.approx(growth, rel=0.03)


def test_eight_turns_are_each_flip_and_quarter_turn_once(rendered_data: Path) -> None:
    corner = member(rendered_data, engine=Corner(), imaging=ImagingSpec(size_px=33))
    cells = read_dataset(rendered_data).unique[:5]
    images = inputs(cells, corner.imaging).astype(float) / 255
    middle = images.shape[1] // 2
    edges = np.stack([images[:, 0, middle], images[:, -1, middle], images[:, middle, 0], images[:, middle, -1]])[..., 0]
    assert predict(Ensemble.of([corner]), cells, turns=8).uncalibrated == pytest.approx(edges.mean(axis=0), abs=1e-6)
    assert predict(Ensemble.of([corner]), cells).uncalibrated == pytest.approx(edges[0], abs=1e-6)


def test_the_views_of_a_cell_are_turned_together(rendered_data: Path) -> None:
    both = ImagingSpec(size_px=33, views=("physical", "canonical"))
    cells = read_dataset(rendered_data).unique[:5]
    two, last = (
        member(rendered_data, engine=Corner(), imaging=spec)
        for spec in (both, both.model_copy(update={"views": both.views[1:]}))
    )
    found = predict(Ensemble.of([two]), cells, turns=8)
    assert found.example.shape == (2, 33, 33, 3)
    assert np.array_equal(found.blast, predict(Ensemble.of([last]), cells, turns=8).blast)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *arguments])
    return int(exit_.value.code or 0)


@pytest.fixture
def opened(rendered_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command opens classifiers made here instead of runs: "red" and "blue"."""
    engines = {"red": Share(0), "blue": Share(2)}
    monkeypatch.setattr(
        evaluate_cli,
        "_open",
        lambda path, *_: member(rendered_data, engine=engines[path.name], name=path.name),
    )


@pytest.mark.usefixtures("opened")
def test_the_command_scores_several_as_one_and_writes_each_cells_probability(
    rendered_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, figures = tmp_path / "cells.csv", tmp_path / "figures.json"
    asked = ["red", "blue", str(rendered_data), "--views", "8", "--rescale", "0.8"]
    assert run(*asked, "--predictions", str(table), "--json", str(figures)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "ensemble of 0.50 red, 0.50 blue on the test part, each cell 0.8 times as large, mean of 8 flips and turns"
        in shown
    )
    assert "Worst subject:" in shown
    rows = list(csv.DictReader(table.open()))
    told = json.loads(figures.read_text())
    assert len(rows) == told["cells"]
    said = [(int(row["label"]), int(float(row["blast"]) >= 0.5)) for row in rows]
    assert told["confusion"] == confusion_matrix(*zip(*said, strict=True), labels=[0, 1]).tolist()
    assert {row["subject"] for row in rows} == set(told["per_subject"])
    one = next(row for row in rows if row["subject"])
    cell = network_input(
        rescaled(cell_on_black(read_image(rendered_data / one["cell"]), CNMC_UM_PER_PX), 0.8), ImagingSpec(size_px=32)
    ).astype(float)
    share = cell.sum((0, 1)) / cell.sum()
    assert float(one["blast"]) == pytest.approx((share[0] + share[2]) / 2, abs=1e-5)


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rescale", "3"], "0.5<=x<=2"),
        (["--views", "4"], "'1', '8'"),
        (["--weigh", "kappa"], "red has no figures of a validation part"),
        (["--part", "shift"], "This run has no shift part"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    options: list[str], words: str, rendered_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("red", "blue", str(rendered_data), *options) == 2
    assert words in capsys.readouterr().err


def test_a_run_without_data_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a-run") == 2
    assert "Missing argument" in capsys.readouterr().err
