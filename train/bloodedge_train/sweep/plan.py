"""A sweep's plan: its options and the trials that follow from its space."""

import itertools
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.config import Strict, validate
from bloodedge.data.split import Fold
from bloodedge_train.recipe import Recipe
from bloodedge_train.sweep.recipe_keys import whole
from bloodedge_train.sweep.space import Space


class Trial(Strict):
    """One run of a sweep."""

    id: str
    model: str
    values: dict[str, Any]
    """What is set in the recipe, by dotted key."""
    fold: int | None
    seed: int

    @property
    def setting(self) -> str:
        """Equal for trials that differ in fold and seed alone."""
        return repr((self.model, self.values))


class Plan(Strict):
    """``sweep.json``: a sweep's options and trials."""

    schema_version: Literal[1] = 1
    name: str
    data: str
    """The data folder's full path; on a cluster every machine must see it there."""
    layout: DataLayout = Field(default_factory=DataLayout)
    """How the data are laid out."""
    fingerprint: str
    recipe: Recipe
    weights: str
    folds: int | None
    trials: list[Trial]

    @property
    def varied(self) -> list[str]:
        """The recipe's keys that differ between trials."""
        first = self.trials[0].values
        return [key for key in first if any(trial.values[key] != first[key] for trial in self.trials)]

    @property
    def leaky(self) -> bool:
        """Whether cells of one person may be in training and in test; the same for all trials."""
        return self.recipe_of(self.trials[0]).split.kind == "image"

    def fold_of(self, trial: Trial) -> Fold | None:
        """The fold that is a trial's test part."""
        return None if self.folds is None or trial.fold is None else Fold(self.folds, trial.fold)

    def recipe_of(self, trial: Trial) -> Recipe:
        """The sweep's recipe with the trial's values; UsageError when these do not go together."""
        values = self.recipe.model_dump()
        for key, value in trial.values.items():
            *sections, name = key.split(".")
            table = values
            for section in sections:
                table = table[section]
            table[name] = value
        return validate(Recipe, values, f"The recipe of trial {trial.id}")


def trials(space: Space) -> list[Trial]:
    """Every trial, fold by fold, so that an unfinished sweep has tried all settings on the same folds.

    The same space gives the same list.
    """
    rng = np.random.default_rng(space.seeds[0])
    draws = [{key: whole(key, draw.value(rng)) for key, draw in space.sample.items()} for _ in range(space.trials or 1)]
    points = [dict(zip(space.grid, values, strict=True)) for values in itertools.product(*space.grid.values())]
    folds = [None] if space.folds is None else list(range(space.folds))
    found: list[Trial] = []
    for seed, fold, model, draw, point in itertools.product(space.seeds, folds, space.models, draws, points):
        name = f"{len(found):04d}-{model}" + ("" if fold is None else f"-fold{fold}")
        found.append(Trial(id=name, model=model, values=point | draw, fold=fold, seed=seed))
    return found
