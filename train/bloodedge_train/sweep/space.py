"""The space of a sweep: a TOML file of recipe keys and their values."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError
from bloodedge_train.recipe import Recipe, load_recipe, toml_file
from bloodedge_train.sweep.recipe_keys import Draw, drawn, read_table, tried
from bloodedge_train.zoo import check_model, names_of


def _checked(check: Callable[[str], object], model: str) -> str:
    try:
        check(model)
    except UsageError as error:
        raise PydanticCustomError("model", "{sentence}", {"sentence": str(error)}) from error
    return model


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
    models: list[Annotated[str, AfterValidator(partial(_checked, names_of))]] = Field(min_length=1)
    weights: str = "none"
    """Starting weights, as of ``bloodedge train --weights``."""
    folds: int | None = Field(default=None, ge=2, le=50)
    """Each setting is tried on every fold; without folds on one split."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    """Of the split and of every draw; a setting is tried with each."""
    trials: int | None = Field(default=None, ge=1, le=10000)
    """Draws from ``sample``; every draw is tried with each point of the grid."""
    grid: Annotated[dict[str, list[Any]], PlainValidator(lambda table: read_table(table, tried))] = Field(
        default_factory=dict
    )
    sample: Annotated[dict[str, Draw], PlainValidator(lambda table: read_table(table, drawn))] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Space":
        twice = sorted(self.grid.keys() & self.sample.keys())
        if twice:
            raise ValueError(f"{twice[0]} is in both [grid] and [sample]; leave it in one")
        if self.recipe.head is None:
            for model in self.models:
                _checked(check_model, model)
        if bool(self.sample) != (self.trials is not None):
            raise ValueError("[sample] and trials = N go together: N draws are made from it")
        return self


def load_space(name_or_path: str) -> Space:
    """A packaged space by name, or one from a TOML file; raises UsageError listing every mistake in it."""
    path = toml_file(name_or_path, "space")
    values = read_toml(path)
    recipe = values.get("recipe")
    if isinstance(recipe, str) and recipe.endswith(".toml"):
        values["recipe"] = str(path.parent / recipe)
    return validate(Space, values, f"Space {name_or_path}")
