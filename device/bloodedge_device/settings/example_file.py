"""Every setting with its default and what it means, written out from the models themselves as a settings file."""

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bloodedge_device.settings import DeviceSettings, home_state

WIDTH = 120

HEAD = """\
Settings of `bloodedge device run --config FILE`: every one, with its default; leave out what you do not change.
Paths are relative to this file. An environment variable stands before the file: BLOODEDGE_DEVICE__CAMERA__RATE=5 for
rate in [camera]. This text: bloodedge device config --reference
"""


def reference() -> str:
    """The settings file that holds nothing but defaults, each explained."""
    lines = [*_comment(HEAD), ""]
    lines += _table(DeviceSettings)
    for name, info in DeviceSettings.model_fields.items():
        model = info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            lines += ["", f"[{name}]", *_comment(_summary(model)), *_table(model)]
    return "\n".join(lines) + "\n"


def _table(model: type[BaseModel]) -> Iterator[str]:
    meanings = _meanings(model)
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            continue
        yield from _comment(meanings.get(name, ""))
        yield _line(name, info)


def _line(name: str, info: FieldInfo) -> str:
    """A key with its default; what is no constant, and what is off by default, stands in a comment."""
    if info.default_factory is not None or info.default is None:
        return f"# {name} = {'...' if info.default is None else _of_this_machine(info)}"
    return f"{name} = {_value(info.default)}"


def _of_this_machine(info: FieldInfo) -> str:
    return '"~/.local/state/bloodedge"' if info.default_factory is home_state else '"(the host\'s name)"'


def _value(value: Any) -> str:
    if isinstance(value, Path | Enum):
        value = str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in textwrap.wrap(" ".join(text.replace("``", "").split()), WIDTH - 2)]


def _summary(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").partition("\n")[0]


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below fields in a model's source, by the field's name."""
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(model))).body
        if isinstance(node, ast.ClassDef)
    )
    found = {}
    for field, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
    return found
