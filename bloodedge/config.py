"""Strict settings read from TOML: every mistake reported at once, each with its key's path."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from bloodedge.errors import UsageError, did_you_mean
from bloodedge.files import read_text
from bloodedge.redact import redacted_values
from bloodedge.text import as_text


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, infinity and NaN.

    A traceback through it shows no value, which may be secret.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True, allow_inf_nan=False
    )
    removed: ClassVar[dict[str, Any]] = {}
    """Keys of older versions that are ignored, each with the one value that never changed anything; ... for any."""

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, values: Any) -> Any:
        if not cls.removed or not isinstance(values, dict):
            return values
        for key, harmless in cls.removed.items():
            if harmless is not ... and values.get(key, harmless) != harmless:
                message = f'{key} = "{values[key]}" is not supported any more; train again without it'
                raise ValueError(message)
        return {key: value for key, value in values.items() if key not in cls.removed}


FileName = Annotated[str, AfterValidator(as_text)]
"""A file's or folder's name or path in a stored record; ``as_path`` gives the file."""

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; raises UsageError when it is missing or not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; check its name.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (see byte {error.start + 1}); save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}; correct that line.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its name and permissions.") from error


def validate(model: type[Model], values: Any, source: str, context: Any = None) -> Model:
    """``values`` as a ``model``; raises UsageError naming every wrong key of ``source`` in one message.

    context: for the model's validators.
    """
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        lines = [_sentence(model, detail) for detail in error.errors(include_url=False)]
        head = f"{source} has {len(lines)} mistake{'s' if len(lines) > 1 else ''}:"
        raise UsageError("\n  ".join([head, *lines])) from error


def _sentence(model: type[BaseModel], detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        hint = did_you_mean(str(detail["loc"][-1]), known)
        return f"{where}: unknown key.{hint or ' Known keys: ' + ', '.join(sorted(known)) + '.'}"
    if detail["type"] == "missing":
        return f"{where}: this key is missing; add it."
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    message = detail["msg"].replace("valid tuple", "valid list")  # as TOML and JSON have it
    return f"{where}: {message} (it is {redacted_values(detail['input'])!r})."


def _keys_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Keys that the model nested at ``path`` knows."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
    return list(model.model_fields)
