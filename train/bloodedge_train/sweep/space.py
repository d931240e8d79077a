"""What a sweep tries: a TOML file of recipe keys and their values, and the list of trials that follows from it."""

import itertools
import math
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from bloodedge.config import Strict, read_toml, validate
from bloodedge.data.split import Fold
from bloodedge.errors import UsageError, did_you_mean
from bloodedge_train.recipe import Recipe, load_recipe
from bloodedge_train.zoo import check_model


class Draw(Strict):
    """Where a sampled value comes from; exactly one of these."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    """Uniform in the logarithm, from above 0."""
    choice: list[Any] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_and_in_order(self) -> "Draw":
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("draw", "give exactly one of uniform, loguniform and choice")
        limits = self.uniform or self.loguniform
        if limits and not limits[0] < limits[1]:
            raise PydanticCustomError("draw", "the lower limit comes first")
        if self.loguniform and self.loguniform[0] <= 0:
            raise PydanticCustomError("draw", "both limits of loguniform lie above 0")
        return self

    @property
    def extremes(self) -> list[Any]:
        """Values that the recipe must allow for it to allow all that can be drawn."""
        return list(self.uniform or self.loguniform or self.choice or ())

    def value(self, rng: np.random.Generator) -> Any:
        """One draw."""
        if self.uniform:
            return float(rng.uniform(*self.uniform))
        if self.loguniform:
            return math.exp(rng.uniform(*np.log(self.loguniform)))
        choices = self.choice or []
        return choices[rng.integers(len(choices))]


@cache
def recipe_keys() -> dict[str, FieldInfo]:
    """Dotted key to field, for each choice that a recipe holds."""

    def below(model: type[Strict], prefix: str) -> dict[str, FieldInfo]:
        found: dict[str, FieldInfo] = {}
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Strict):
                found |= below(kind, f"{prefix}{name}.")
            elif prefix:  # a recipe's own name is no choice
                found[f"{prefix}{name}"] = field
        return found

    return below(Recipe, "")


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """TOML reads an unquoted ``fit.batch = ...`` as a table in a table; here both mean the key "fit.batch"."""
    sections = {key.partition(".")[0] for key in recipe_keys()}
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if key in sections and isinstance(value, dict):
            flat |= {f"{key}.{name}": below for name, below in value.items()}
        else:
            flat[key] = value
    return flat


Mistakes = list[InitErrorDetails]


def _mistake(place: tuple[str | int, ...], value: Any, sentence: str) -> InitErrorDetails:
    error = PydanticCustomError("space", "{sentence}", {"sentence": sentence})
    return InitErrorDetails(type=error, loc=place, input=value)


def _table(table: Any, read: Callable[[str, Any, Mistakes], Any]) -> dict[str, Any]:
    """A table of recipe keys, each value read by ``read``; raises one pydantic error that holds every mistake."""
    if not isinstance(table, dict):
        raise PydanticCustomError("table", "this is a table of recipe keys")
    found, mistakes = {}, Mistakes()
    for key, value in _flat(table).items():
        if key in recipe_keys():
            found[key] = read(key, value, mistakes)
        else:
            hint = did_you_mean(key, recipe_keys()) or " A key is a section and a name, as fit.batch is."
            mistakes.append(_mistake((key,), value, f"no recipe has this key.{hint}"))
    if mistakes:
        raise ValidationError.from_exception_data("space", mistakes)
    return found


def _tried(key: str, value: Any, mistakes: Mistakes) -> Any:
    """A grid's list of values."""
    if not isinstance(value, list) or not value:
        mistakes.append(_mistake((key,), value, "give a list of values"))
        return value
    for number, one in enumerate(value):
        _check(key, one, (key, number), mistakes)
    return value


def _drawn(key: str, value: Any, mistakes: Mistakes) -> Any:
    """A sample's draw."""
    try:
        draw = Draw.model_validate(value)
    except ValidationError as error:
        mistakes += [_mistake((key, *e["loc"]), e["input"], e["msg"]) for e in error.errors()]
        return value
    for one in draw.extremes:
        _check(key, one if draw.choice else _whole(key, one), (key, *draw.model_fields_set), mistakes)
    return draw


def _check(key: str, value: Any, place: tuple[str | int, ...], mistakes: Mistakes) -> None:
    """Note what a recipe would say against ``key = value``."""
    field = recipe_keys()[key]
    kind: Any = Annotated[field.annotation, field]
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        mistakes.append(_mistake(place, value, error.errors()[0]["msg"]))


def _whole(key: str, value: Any) -> Any:
    """A drawn number, rounded where the recipe counts."""
    kind = recipe_keys()[key].annotation
    return round(value) if int in {kind, *get_args(kind)} and isinstance(value, float) else value


def _check_model(name: str) -> str:
    try:
        check_model(name)
    except UsageError as error:
        raise PydanticCustomError("model", "{sentence}", {"sentence": str(error)}) from error
    return name


def _recipe(name: Any) -> Recipe:
    if not isinstance(name, str):
        raise PydanticCustomError("recipe", "give a packaged recipe's name or the path of a .toml file")
    try:
        return load_recipe(name)
    except UsageError as error:
        raise PydanticCustomError("recipe", "{sentence}", {"sentence": str(error)}) from error


class Space(Strict):
    """A space file."""

    about: str = ""
    recipe: Annotated[Recipe, BeforeValidator(_recipe)]
    """Name of a packaged recipe, or a file's path as seen from the space's file."""
    models: list[Annotated[str, AfterValidator(_check_model)]] = Field(min_length=1)
    weights: str = "none"
    """Starting weights, as of ``bloodedge train --weights``."""
    folds: int | None = Field(default=None, ge=2, le=50)
    """Each setting is tried on every fold; without folds on one split."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    """Of the split and of every draw; a setting is tried with each."""
    trials: int | None = Field(default=None, ge=1, le=10000)
    """Draws from ``sample``; every draw is tried with each point of the grid."""
    grid: Annotated[dict[str, list[Any]], PlainValidator(lambda table: _table(table, _tried))] = Field(
        default_factory=dict
    )
    sample: Annotated[dict[str, Draw], PlainValidator(lambda table: _table(table, _drawn))] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Space":
        twice = sorted(self.grid.keys() & self.sample.keys())
        if twice:
            sentence = f"{twice[0]} stands in both [grid] and [sample]; leave it in one"
            raise PydanticCustomError("space", "{sentence}", {"sentence": sentence})
        if bool(self.sample) != (self.trials is not None):
            raise PydanticCustomError("space", "[sample] and trials = N go together: N draws are made from it")
        return self


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
        """What trials that differ in fold and seed alone have in common."""
        return repr((self.model, self.values))


class Plan(Strict):
    """``sweep.json``: all that was asked of a sweep."""

    schema_version: Literal[1] = 1
    name: str
    data: str
    """The data folder's full path; on a cluster every machine must see it there."""
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
        """Whether cells of one person may stand on both sides; the same for all trials."""
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


def packaged() -> list[str]:
    """Names of the spaces that come with bloodedge."""
    files = resources.files("bloodedge_train") / "spaces"
    return sorted(Path(f.name).stem for f in files.iterdir() if f.name.endswith(".toml"))


def load_space(name_or_path: str) -> Space:
    """A packaged space by name, or one from a TOML file; raises UsageError listing every mistake in it."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        values = read_toml(path)
        recipe = values.get("recipe")
        if isinstance(recipe, str) and recipe.endswith(".toml"):
            values["recipe"] = str(path.parent / recipe)
        return validate(Space, values, f"Space {name_or_path}")
    if name_or_path not in packaged():
        raise UsageError(
            f'There is no space "{name_or_path}".{did_you_mean(name_or_path, packaged())} '
            f"Spaces: {', '.join(packaged())}, or the path of a .toml file."
        )
    with resources.as_file(resources.files("bloodedge_train") / "spaces" / f"{name_or_path}.toml") as path:
        return validate(Space, read_toml(path), f"Space {name_or_path}")


def trials(space: Space) -> list[Trial]:
    """Every trial, fold by fold, so that an unfinished sweep has tried all settings on the same folds.

    The same space gives the same list.
    """
    rng = np.random.default_rng(space.seeds[0])
    draws = [
        {key: _whole(key, draw.value(rng)) for key, draw in space.sample.items()} for _ in range(space.trials or 1)
    ]
    points = [dict(zip(space.grid, values, strict=True)) for values in itertools.product(*space.grid.values())]
    folds = [None] if space.folds is None else list(range(space.folds))
    found: list[Trial] = []
    for seed, fold, model, draw, point in itertools.product(space.seeds, folds, space.models, draws, points):
        name = f"{len(found):04d}-{model}" + ("" if fold is None else f"-fold{fold}")
        found.append(Trial(id=name, model=model, values=point | draw, fold=fold, seed=seed))
    return found
