"""Heads on people never seen, at their own bench and at others: what each part of the released head is worth there.

    python benchmarks/benches.py --data DIR/cnmc --model efficientnet_lite2 --weights FILE

writes results/benches.json. FOLDS folds of people; each fold's heads are fitted to the other people's cells as they are
and judged on the fold's: as they are, as cameras show them, as other benches do, each cell by one of its own, and as
benches do that differ by up to twice as much. No cell is shown as the fits saw it shown. The heads: the
own bench's rule alone, without and with noise of cameras, any bench's rule alone, and both with the gate between them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from people import FOLDS, Judge, asked, head_options
from revision import revision

from bloodedge.data.dataset import CellFile, read_dataset
from bloodedge.files import write_json
from bloodedge.imaging import Cell
from bloodedge.imaging.filming import at_another_bench, in_a_field
from bloodedge.logistic.rule import Rule
from bloodedge.logistic.solver import sigmoid
from bloodedge.metrics import auc
from bloodedge_train import progress
from bloodedge_train.head_run import OUTER
from bloodedge_train.heads.cache import FeatureCache
from bloodedge_train.heads.features import FeatureSpec, Way, features
from bloodedge_train.heads.logistic import Bears, Head, fit_head, inner_folds
from bloodedge_train.recipe import HeadSpec
from bloodedge_train.watcher import Watcher

RESULTS = Path(__file__).parent / "results"
EVERY = 3
"""The second of every three cells is judged; those that heads learn from by other ways are others."""
SEED, SEVERE = 1, 2.0
DEALS = 2
"""Deals of the patients by the batch-out judge."""

Floats = NDArray[np.float64]


def severe(cell: Cell, rng: np.random.Generator) -> Cell:
    """By a bench that differs by up to twice as much as those that heads are fitted for."""
    return at_another_bench(cell, rng, SEVERE)


WAYS = {
    "as they are": None,
    "by cameras": Way("camera, judged", in_a_field, SEED),
    "at other benches": Way("bench, judged", at_another_bench, SEED),
    "at very different benches": Way("severe, judged", severe, SEED),
}


def variants(spec: HeadSpec, bears: Bears) -> dict[str, tuple[HeadSpec, Bears]]:
    """The heads that are compared, but for any bench's rule alone, which is a part of the last."""
    own = replace(bears, benches=None)
    return {
        "own bench's rule": (spec, replace(own, cameras=None)),
        "own bench's rule, noise of cameras": (spec, own),
        "both rules and the gate": (spec, bears),
    }


def parts(head: Head) -> dict[str, Rule]:
    """The whole head, and where it has two rules the one for any bench."""
    if head.rule.own_bench is None:
        return {"": head.rule}
    return {"": head.rule, "any bench's rule": Rule(head.rule.any_bench)}


def judged(judge: Judge, watcher: Watcher, cache: FeatureCache) -> dict[str, Any]:
    """Figures of each head on each way of showing."""
    chosen = np.arange(len(judge.cells))[1::EVERY]
    cells: list[CellFile] = [judge.cells[n] for n in chosen]
    spec = FeatureSpec(judge.backbone, judge.recipe.imaging)
    shown = {}
    for title, show in WAYS.items():
        with watcher.step(f"Features {title}") as advance:
            shown[title] = features(cells, spec, cache, advance, show)
    folds = inner_folds(judge.labels, judge.groups.tolist(), FOLDS, OUTER)
    blasts: dict[str, dict[str, Floats]] = {}
    shares = {name: np.zeros(len(cells)) for name in WAYS}
    with watcher.step("Judging by folds") as advance:
        for fold in range(int(folds.max()) + 1):
            kept, out = folds != fold, (folds == fold)[chosen]
            for name, (head_spec, bears) in variants(judge.spec, judge.known.bears).items():
                groups = judge.groups[kept].tolist()
                head = fit_head(judge.known.features[kept], judge.labels[kept], groups, head_spec, 0, bears)
                for part, rule in parts(head).items():
                    for way, found in shown.items():
                        of = blasts.setdefault(part or name, {}).setdefault(way, np.zeros(len(cells)))
                        of[out] = sigmoid(rule.log_odds(found[out]))
                if head.rule.own_bench:
                    for way, found in shown.items():
                        shares[way][out] = sigmoid(head.rule.own_bench.gate.log_odds(found[out]))
            advance(fold + 1, int(folds.max()) + 1)
    labels, groups = judge.labels[chosen], judge.groups[chosen]
    rows: dict[str, dict[str, Any]] = {
        name: {way: _figures(labels, groups, p) for way, p in ways.items()} for name, ways in blasts.items()
    }
    with watcher.step("Across batches") as advance:
        for name, (head_spec, bears) in variants(judge.spec, judge.known.bears).items():
            judge.spec, judge.known = head_spec, replace(judge.known, bears=bears)
            rows[name]["batch_out_auc"] = float(
                np.mean([list(judge.across_batches(seed).values()) for seed in range(DEALS)])
            )
            advance(len(rows), len(rows))
    return {"cells": len(cells), "heads": rows, "own_bench": {way: float(p.mean()) for way, p in shares.items()}}


def _figures(labels: NDArray[np.int64], groups: NDArray[np.str_], blast: Floats) -> dict[str, float]:
    """AUC over cells, and the mean over people of each class of cells called right at 0.5."""
    people = {name: float(((blast > 0.5) == (labels == 1))[groups == name].mean()) for name in np.unique(groups)}
    ill = {name for name in people if labels[groups == name].mean() >= 0.5}
    found = auc(labels, blast)
    assert found is not None
    return {
        "auc": found,
        "patients_cells_right": float(np.mean([right for name, right in people.items() if name in ill])),
        "healthy_cells_right": float(np.mean([right for name, right in people.items() if name not in ill])),
    }


def main() -> None:
    given = head_options(__doc__).parse_args()
    options = asked(given)
    watcher = progress.watcher()
    with watcher.step("Reading cells") as advance:
        dataset = read_dataset(given.data, advance)
    found = judged(Judge(options, dataset, watcher), watcher, FeatureCache(given.cache))
    command = f"python benchmarks/benches.py --data DIR/cnmc --model {given.model} --weights FILE"
    write_json(RESULTS / "benches.json", {"commit": revision(), "command": command, **found})


if __name__ == "__main__":
    main()
