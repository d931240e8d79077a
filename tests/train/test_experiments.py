"""The networks' experiments: their runs are asked for as `bloodedge train` takes them, and their records name them."""

import argparse
import json

import experiments
import pytest

from bloodedge_train.cli.train import train
from bloodedge_train.recipe import load_recipe
from bloodedge_train.zoo import ZOO
from support import ROOT

OPTIONS = argparse.Namespace(recipe=None, models=list(ZOO), splits=["image", "group"], weights_folder=None)
RECORDS = {"zoo_small": ("zoo", "small"), "leak": ("leak", None), "cnmc_honest": ("cnmc", "honest")}


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS)
def test_train_takes_the_options_of_every_run(experiment: str) -> None:
    options = argparse.Namespace(**(vars(OPTIONS) | {"recipe": "honest" if experiment == "cnmc" else None}))
    runs = experiments.EXPERIMENTS[experiment](options)
    assert len(runs) > 1
    for run in runs.values():
        assert train.make_context("train", ["data", *run]).params["recipe_name"] in experiments.recipes([run])


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_s_command_asks_for_the_runs_in_it(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, recipe = RECORDS[record]
    kept = json.loads((ROOT / "benchmarks" / "results" / f"{record}.json").read_text())
    words = kept["command"].removeprefix("python ").split()
    monkeypatch.setattr("sys.argv", words)
    options = experiments.parse()
    assert (options.experiment, options.recipe) == (experiment, recipe)
    options.weights_folder = None
    runs = experiments.EXPERIMENTS[experiment](options)
    rows = [row for row in kept["rows"] if row.get("weights", "none") == "none"]
    assert len(runs) == sum(len(row["runs"]) for row in rows)
    names = {load_recipe(name).name for name in experiments.recipes(list(runs.values()))}
    assert names == set(kept["recipes"])
