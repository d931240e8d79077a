"""A head recipe on people never seen: nested, repeated cross-validation over people, and a judge that no batch helps.

    python benchmarks/people.py --data DIR/cnmc --model efficientnet_lite2 --weights FILE --recipe cells

writes results/people_RECIPE.json. Each of SHUFFLES deals everybody into FOLDS folds of people; the other folds' people
alone choose penalty, temperature and thresholds of the head that judges a fold. Folds share the batches in which C-NMC
was taken, which flatters. So the batch-out judge fits to the small, dark healthy people (H1, H10 to H24) with half of
the patients and judges on the large, bright ones with the other half, and the reverse, for each of SHUFFLES deals of
the patients. People are groups of subjects who are one person.

    --scores FILE.csv    subject, label and blast probability of each cell in the first shuffle
    --montage FILE.png   the most wrongly called cells of the worst people
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from revision import revision

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.data.dataset import CellFile, Dataset, natural, read_dataset, read_input
from bloodedge.decision.thresholds import calibrated
from bloodedge.evaluation.scoring import score
from bloodedge.files import write_json, write_text
from bloodedge.metrics import auc
from bloodedge_train import progress
from bloodedge_train.figures.drawing import WRONG, draw
from bloodedge_train.fitted import Scored, labels_of
from bloodedge_train.head_run import judge_over_folds, known_features, open_features, outputs
from bloodedge_train.heads.cache import default_folder
from bloodedge_train.heads.logistic import Head, fit_head
from bloodedge_train.recipe import Recipe, load_recipe
from bloodedge_train.run_folder import TrainOptions, calibrate
from bloodedge_train.watcher import Watcher

RESULTS = Path(__file__).parent / "results"
SHUFFLES, FOLDS = 5, 6
DARK = {"H1", *(f"H{number}" for number in range(10, 25))}
"""Healthy subjects with small, dark cells; the other healthy ones' are large and bright."""
NEITHER = {"H3"}
"""H3 is H10 by name, with cells like neither side's."""
WORST, ACROSS = 5, 8
FIGURES = ("auc", "weighted_f1", "mean_subject_accuracy", "sensitivity", "specificity", "ece", "accuracy")

Features = NDArray[np.float32]
Floats = NDArray[np.float64]


class Judge:
    """A recipe's features of everybody's cells, and the heads that are fitted to some and judged on others."""

    def __init__(self, options: TrainOptions, dataset: Dataset, watcher: Watcher) -> None:
        self.options, self.dataset, self.recipe = options, dataset, options.recipe
        assert self.recipe.head is not None
        self.spec = self.recipe.head
        self.cells: list[CellFile] = dataset.unique
        self.labels = labels_of(self.cells)
        self.groups = np.array([dataset.group(cell) for cell in self.cells])
        self.backbone = open_features(options, watcher)
        self.known = known_features(self.backbone, options, watcher, self.cells, dataset.group)

    def over_folds(self, seed: int, watcher: Watcher) -> Floats:
        """Calibrated blast probabilities (N,), 0.5 at the threshold, each by a head fitted to none of its person."""
        options = replace(self.options, seed=seed)
        with watcher.step(f"Shuffle {seed + 1} of {SHUFFLES}") as advance:
            everybody = self._fit(np.ones(len(self.cells), bool), seed)
            inner = Scored(self.cells, outputs(everybody.inner))
            scored, _ = judge_over_folds(self.backbone, options, self.dataset, self.known, inner, advance)
        temperature, thresholds, _ = calibrate(options, self.dataset, "inner", {"inner": inner})
        blast = calibrated(scored.outputs, temperature)[:, 1]
        odds = blast / (1 - blast) * (1 - thresholds.blast) / thresholds.blast
        return np.asarray(odds / (1 + odds), np.float64)

    def across_batches(self, seed: int) -> dict[str, float]:
        """AUC of a head fitted to one side, on the other, by the side that it was fitted to."""
        side = self._sides(seed)
        found = {}
        for number, name in enumerate(("fitted to dark", "fitted to bright")):
            fit, judged = side == number, side == 1 - number
            head = self._fit(fit, seed)
            area = auc(self.labels[judged], head.blast_probability(self.known.features[judged]))
            assert area is not None
            found[name] = area
        return found

    def _fit(self, chosen: NDArray[np.bool_], seed: int) -> Head:
        features, groups = self.known.features[chosen], self.groups[chosen].tolist()
        return fit_head(features, self.labels[chosen], groups, self.spec, seed, self.known.bears)

    def _sides(self, seed: int) -> NDArray[np.int64]:
        """(N,) 0 for the dark side, 1 for the bright one, -1 for neither."""
        patients = np.unique(self.groups[self.labels == 1])
        half = set(np.random.default_rng(seed).permutation(patients)[: len(patients) // 2].tolist())
        sides = []
        for cell, group in zip(self.cells, self.groups, strict=True):
            healthy = -1 if cell.subject in NEITHER else int(cell.subject not in DARK)
            sides.append(int(group not in half) if cell.label else healthy)
        return np.array(sides)


def of_people(judge: Judge, blast: Floats) -> dict[str, Any]:
    """Figures with people as the unit: AUC of the mean score, and who has most cells called wrong."""
    people = sorted(set(judge.groups.tolist()), key=natural)
    of = [judge.groups == name for name in people]
    means = [float(blast[own].mean()) for own in of]
    ill = [bool(judge.labels[own].mean() >= 0.5) for own in of]
    right = {
        name: float(((blast[own] >= 0.5) == (judge.labels[own] == 1)).mean())
        for name, own in zip(people, of, strict=True)
    }
    mostly_wrong = [name for name in people if right[name] < 0.5]
    sick = {name for name, is_ill in zip(people, ill, strict=True) if is_ill}
    return {
        "auc_over_people": auc(ill, means),
        "healthy_called_blast": [name for name in mostly_wrong if name not in sick],
        "patients_called_normal": [name for name in mostly_wrong if name in sick],
        "accuracy_by_person": right,
    }


def summed_up(scored: Sequence[Evaluation], people: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the shuffles, and the mean ends of their 95 % intervals over people."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        values = [float(getattr(one, name)) for one in scored]
        limits = [one.ci95[name] for one in scored if name in one.ci95]
        found[name] = {
            "mean": float(np.mean(values)),
            "ci95": np.mean(limits, axis=0).tolist() if limits else None,
            "shuffles": values,
        }
    areas = [one["auc_over_people"] for one in people]
    wrong = [len(one["healthy_called_blast"]) for one in people]
    found["auc_over_people"] = {"mean": float(np.mean(areas)), "shuffles": areas}
    found["healthy_people_called_blast"] = {"mean": float(np.mean(wrong)), "shuffles": wrong}
    return found


def worst_people(judge: Judge, people: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The people with the lowest accuracy, over all shuffles."""
    names = people[0]["accuracy_by_person"]
    mean = {name: float(np.mean([one["accuracy_by_person"][name] for one in people])) for name in names}
    return [
        {
            "person": name,
            "class": "patient" if judge.labels[judge.groups == name].mean() >= 0.5 else "healthy",
            "cells": int((judge.groups == name).sum()),
            "accuracy": mean[name],
        }
        for name in sorted(mean, key=mean.__getitem__)[:WORST]
    ]


def draw_worst(path: Path, judge: Judge, blast: Floats, worst: Sequence[dict[str, Any]]) -> None:
    """The cells of each of the worst people that were called wrong most surely."""

    def paint(figure: Any) -> None:
        grid = figure.subplots(len(worst), ACROSS, squeeze=False)
        for line, row in zip(grid, worst, strict=True):
            own = np.flatnonzero(judge.groups == row["person"])
            sure = np.abs(blast[own] - judge.labels[own])
            for axes in line:
                axes.set_axis_off()
            for axes, cell in zip(line, own[np.argsort(-sure)][:ACROSS], strict=False):
                axes.imshow(read_input(judge.cells[cell], judge.recipe.imaging).reshape(-1, *_frame(judge.recipe))[0])
                axes.set_title(f"{blast[cell]:.2f}", fontsize=8, color=WRONG)
            title = f"{row['person']}\n{row['class']}, {row['cells']} cells\n{row['accuracy']:.0%} right"
            line[0].text(-0.1, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
        figure.suptitle("The worst people: cells called wrong most surely, with the probability of blast")

    draw(path, (11.0, 1.5 * len(worst) + 0.5), paint)


def _frame(recipe: Recipe) -> tuple[int, int, int]:
    return recipe.imaging.size_px, recipe.imaging.size_px, 3


def write_scores(path: Path, judge: Judge, blast: Floats) -> None:
    """A row for each cell."""
    rows = [f"{cell.subject},{cell.label},{p:.6f}" for cell, p in zip(judge.cells, blast, strict=True)]
    write_text(path, "\n".join(["subject,label,blast", *rows]) + "\n")


def head_options(about: str | None) -> argparse.ArgumentParser:
    """A parser of what ``asked`` reads; about: what ``--help`` says."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--recipe", default="cells")
    parser.add_argument("--cache", type=Path, default=default_folder())
    return parser


def asked(given: argparse.Namespace) -> TrainOptions:
    """What the options --data, --model, --weights, --recipe and --cache ask for."""
    return TrainOptions(
        data=given.data,
        model=given.model,
        recipe=load_recipe(given.recipe),
        weights=given.weights,
        fold=None,
        seed=0,
        out=Path(),
        resume=False,
        all_people=FOLDS,
        cache=given.cache,
    )


def main() -> None:
    parser = head_options(__doc__)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--montage", type=Path)
    given = parser.parse_args()
    options = asked(given)
    watcher = progress.watcher()
    with watcher.step("Reading cells") as advance:
        dataset = read_dataset(given.data, advance)
    judge = Judge(options, dataset, watcher)
    blasts = [judge.over_folds(seed, watcher) for seed in range(SHUFFLES)]
    scored = [score(judge.labels, blast, judge.groups.tolist()) for blast in blasts]
    people = [of_people(judge, blast) for blast in blasts]
    batches = [judge.across_batches(seed) for seed in range(SHUFFLES)]
    sides = {name: float(np.mean([one[name] for one in batches])) for name in batches[0]}
    worst = worst_people(judge, people)
    record = {
        "commit": revision(),
        "command": f"python benchmarks/people.py --data DIR/cnmc --model {given.model} --weights FILE"
        f" --recipe {options.recipe.name}",
        "model": given.model,
        "recipe": options.recipe.model_dump(mode="json"),
        "cells": len(judge.cells),
        "people": {
            "patients": len(set(judge.groups[judge.labels == 1].tolist())),
            "healthy": len(set(judge.groups[judge.labels == 0].tolist())),
            "subject_names": len({cell.subject for cell in judge.cells}),
        },
        "folds": summed_up(scored, people),
        "batch_out_auc": {**sides, "mean": float(np.mean(list(sides.values()))), "deals": batches},
        "healthy_called_blast": [one["healthy_called_blast"] for one in people],
        "worst": worst,
    }
    write_json(RESULTS / f"people_{options.recipe.name}.json", record)
    if given.scores:
        write_scores(given.scores, judge, blasts[0])
    if given.montage:
        draw_worst(given.montage, judge, blasts[0], worst)
    for name, row in record["folds"].items():
        print(f"{name}: {row['mean']:.4f}")
    print(f"batch-out AUC: {record['batch_out_auc']['mean']:.4f}", {k: round(v, 4) for k, v in sides.items()})
    print("worst:", worst)


if __name__ == "__main__":
    main()
