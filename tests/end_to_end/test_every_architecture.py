"""Each architecture is fitted to real cells, scored, explained, and stands in the comparison."""

import json
from collections import Counter
from pathlib import Path

import pytest

from bloodedge.bundle.run_record import read_metrics, read_run
from bloodedge.data.dataset import Dataset
from bloodedge_train.zoo import ZOO
from support.commands import here

pytestmark = pytest.mark.slow

RECIPE = """
[imaging]
size_px = 80
um_per_px = 0.264
views = ["canonical"]
light = "levelled"
[split]
validation = 0.25
test = 0.25
[network]
units = 8
l2 = 1e-4
[fit]
epochs = 1
batch = 8
epoch_cells = 16
sampling = "class_balanced"
"""
PEOPLE, CELLS = 5, 4
NETWORKS = [name for name in ZOO if name not in {"efficientnet_lite1", "efficientnet_lite2"}]
"""Those two are Lite0 with other numbers."""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, real_cnmc: Dataset) -> Path:
    """A few real cells of five patients and five healthy people, by links."""
    folder = tmp_path_factory.mktemp("few")
    taken: Counter[str] = Counter()
    people: dict[int, set[str]] = {0: set(), 1: set()}
    for cell in real_cnmc.unique:
        group = real_cnmc.group(cell)
        if group != cell.subject or (len(people[cell.label]) == PEOPLE and cell.subject not in people[cell.label]):
            continue
        people[cell.label].add(cell.subject)
        taken[cell.subject] += 1
        if taken[cell.subject] <= CELLS:
            link = folder / ("hem", "all")[cell.label] / cell.path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(cell.path.resolve())
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize("model", NETWORKS)
def test_it_trains_and_explains_itself_on_real_cells(model: str, few: Path, runs: Path) -> None:
    out = runs / model
    here("train", few, "--model", model, "--recipe", runs / "tiny.toml", "--out", out)
    record, metrics = read_run(out), read_metrics(out)
    assert record.model == model
    assert record.macs
    assert metrics.parts["test"].cells >= 2 * CELLS
    cell = next((few / "all").iterdir())
    here("explain", out, cell, "--out", out / "explained", "--json", out / "explained.json")
    assert len(list((out / "explained").glob("*.png"))) == 1
    assert json.loads((out / "explained.json").read_text())


def test_all_of_them_stand_in_the_comparison(few: Path, runs: Path) -> None:
    made = [runs / model for model in NETWORKS if (runs / model / "run.json").is_file()]
    assert len(made) == len(NETWORKS)
    here("compare", *made, "--out", runs / "comparison", "--json", runs / "comparison.json")
    told = json.loads((runs / "comparison.json").read_text())
    assert {row["network"] for row in told["rows"]} == set(NETWORKS)
    assert (runs / "comparison" / "compare.html").is_file()
    here("evaluate", *made[-2:], few, "--json", runs / "ensemble.json")
    assert json.loads((runs / "ensemble.json").read_text())["cells"] == read_metrics(made[0]).parts["test"].cells
