"""Settings files: every mistake at once, each with its key's path and a hint."""

from pathlib import Path

import pytest
from pydantic import Field

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError


class Inner(Strict):
    rate: float = Field(default=1.0, gt=0)
    label: str = ""


class Outer(Strict):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_good_values_become_a_frozen_model() -> None:
    settings = validate(Outer, {"name": "x", "inner": {"rate": 2}}, "settings.toml")
    assert settings.inner.rate == 2
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "y"


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    with pytest.raises(UsageError) as caught:
        validate(Outer, {"inner": {"rate": -1, "lable": "x"}, "colour": 1}, "settings.toml")
    head, *lines = str(caught.value).split("\n  ")
    assert head == "settings.toml has 4 mistakes:"
    assert sorted(line.split(":")[0] for line in lines) == ["colour", "inner.lable", "inner.rate", "name"]
    text = str(caught.value)
    assert 'inner.lable: unknown key. Did you mean "label"?' in text
    assert "colour: unknown key. Known keys: inner, maybe, name." in text
    assert "name: this key is missing; add it." in text
    assert "it is -1" in text


def test_a_key_inside_an_optional_table_gets_a_hint_too() -> None:
    with pytest.raises(UsageError, match=r'maybe\.rat: unknown key. Did you mean "rate"'):
        validate(Outer, {"name": "x", "maybe": {"rat": 1}}, "settings.toml")


def test_a_missing_file_a_folder_and_broken_toml_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; check its name"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("a = 1\nb = \n")
    with pytest.raises(UsageError, match=r"not valid TOML.*line 2"):
        read_toml(broken)
    broken.write_bytes(b"a = '\xff'")
    with pytest.raises(UsageError, match="not UTF-8 text"):
        read_toml(broken)
