"""Tables of recipe keys in a space file, each value checked as the recipe would check it."""

import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from bloodedge.config import Strict
from bloodedge.errors import did_you_mean
from bloodedge_train.recipe import Recipe

REPLACED = {
    "imaging.scale": 'Older versions had it; imaging.views takes its place, each value a list as ["canonical"].'
}
"""Keys of older versions that recipes still read, and what a space says instead."""


class Draw(Strict):
    """The distribution of a sampled value; exactly one of these."""

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
        """If the recipe allows these values, it allows all that can be drawn."""
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


def read_table(table: Any, read: Callable[[str, Any], Any]) -> dict[str, Any]:
    """A table of recipe keys, each value read by ``read``; raises one pydantic error that holds every mistake."""
    if not isinstance(table, dict):
        raise PydanticCustomError("table", "this is a table of recipe keys")
    found: dict[str, Any] = {}
    mistakes: list[InitErrorDetails] = []

    def mistake(place: tuple[str | int, ...], value: Any, sentence: str) -> None:
        error = PydanticCustomError("space", "{sentence}", {"sentence": sentence})
        mistakes.append(InitErrorDetails(type=error, loc=place, input=value))

    for key, value in _flat(table).items():
        if key not in recipe_keys():
            hint = did_you_mean(key, recipe_keys()).strip() or "A key is a section and a name, as fit.batch is."
            mistake((key,), value, f"no recipe has this key. {REPLACED.get(key, hint)}")
            continue
        try:
            found[key] = read(key, value)
        except ValidationError as error:
            for detail in error.errors():
                mistake((key, *detail["loc"]), detail["input"], detail["msg"])
    if mistakes:
        raise ValidationError.from_exception_data("space", mistakes)
    return found


def tried(key: str, values: Any) -> Any:
    """A grid's list of values."""
    kind: Any = Annotated[list[_kind(key)], Field(min_length=1)]  # type: ignore[misc]
    TypeAdapter(kind).validate_python(values)
    return values


def drawn(key: str, value: Any) -> Draw:
    """A sample's draw."""
    draw = Draw.model_validate(value)
    extremes = draw.extremes if draw.choice else [whole(key, extreme) for extreme in draw.extremes]
    kind: Any = dict[str, list[_kind(key)]]  # type: ignore[misc]
    TypeAdapter(kind).validate_python(dict.fromkeys(draw.model_fields_set, extremes))
    return draw


def _kind(key: str) -> Any:
    """What a recipe takes for ``key``."""
    field = recipe_keys()[key]
    return Annotated[field.annotation, field]


def whole(key: str, value: Any) -> Any:
    """A drawn number, rounded if the recipe takes whole numbers."""
    kind = recipe_keys()[key].annotation
    return round(value) if int in {kind, *get_args(kind)} and isinstance(value, float) else value
