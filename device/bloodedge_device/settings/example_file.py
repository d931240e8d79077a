"""The settings file that names every setting with its default and its meaning, made from the models.

Meanings are the strings below the fields. They are read here from the source, when asked for: pydantic's
``use_attribute_docstrings`` does the same at every import, 20 ms for these models.
"""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bloodedge_device.settings.model import DeviceSettings, home_state

WIDTH = 120

HEAD = """\
Settings of `bloodedge device run --config FILE`: all of them with their defaults; remove those that you do not change.
Relative paths start at this file's folder. Environment variables override the file: BLOODEDGE_DEVICE__CAMERA__RATE=5
for rate in [camera]. To print this text: bloodedge device config --reference
"""


def reference() -> str:
    """The settings file with every default, each setting explained."""
    lines = [*_comment(HEAD), "", *_table(DeviceSettings)]
    for name, info in DeviceSettings.model_fields.items():
        if (model := _model_of(info)) is not None:
            lines += ["", f"[{name}]", *_comment((inspect.getdoc(model) or "").partition("\n")[0]), *_table(model)]
    return "\n".join(lines) + "\n"


def _model_of(info: FieldInfo) -> type[BaseModel] | None:
    model = info.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _table(model: type[BaseModel]) -> Iterator[str]:
    meanings = _meanings(model)
    for name, info in model.model_fields.items():
        if _model_of(info) is None:
            yield from _comment(meanings.get(name, ""))
            yield _line(name, info)


def _line(name: str, info: FieldInfo) -> str:
    """A key with its default; in a comment where that depends on the machine or is none."""
    if info.default_factory is home_state:
        return f'# {name} = "~/.local/state/bloodedge"'
    if info.default_factory is not None:
        return f'# {name} = "(the host\'s name)"'
    if info.default is None:
        return f"# {name} = ..."
    return tomli_w.dumps({name: info.default}).strip()


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in textwrap.wrap(" ".join(text.replace("``", "").split()), WIDTH - 2)]


def _meanings(model: type[BaseModel]) -> dict[str, Any]:
    """The strings below the fields in a model's source, by the field's name."""
    (tree,) = (node for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, below in itertools.pairwise(tree.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                found[name] = text
    return found
