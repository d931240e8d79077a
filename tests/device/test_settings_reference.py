"""The settings file that comes with the project is the models' own words."""

import tomllib
from pathlib import Path

import pytest

from bloodedge.cli import main
from bloodedge_device.settings import DeviceSettings, read_settings
from bloodedge_device.settings.example_file import reference

EXAMPLE = Path(__file__).resolve().parents[2] / "firmware_configs" / "device.example.toml"


def test_the_example_is_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["device", "config", "--reference"])
    assert capsys.readouterr().out == EXAMPLE.read_text()


def test_the_example_changes_nothing() -> None:
    ours = read_settings(EXAMPLE).model_dump(exclude={"state"})
    assert ours == DeviceSettings().model_dump(exclude={"state"})


def test_every_setting_is_named_and_explained() -> None:
    lines = reference().splitlines()
    for table, info in DeviceSettings.model_fields.items():
        fields = getattr(info.annotation, "model_fields", None)
        for name in [table] if fields is None else fields:
            (place,) = [n for n, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} = ")][:1]
            assert lines[place - 1].startswith("#"), f"{name} is not explained"


def test_what_is_on_by_default_stands_there_as_toml() -> None:
    tables = tomllib.loads(reference())
    assert tables["camera"]["timeout_s"] == 5.0
    assert "source" not in tables["camera"]
