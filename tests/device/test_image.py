"""Recipes for cards: cloud-init's own check of the user data, and what the layers for rpi-image-gen hold."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bloodedge.cli import cli
from bloodedge_device.settings.board_profiles import names
from support.needs import needs

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (pip install pyyaml)")

IMAGE = Path(__file__).resolve().parents[2] / "firmware_configs" / "image"
USER_DATA = IMAGE / "user-data"
LAYER = IMAGE / "layer" / "bloodedge.yaml"


def hooks() -> list[str]:
    """Every shell command of the layer, and of the first boot."""
    layer = yaml.safe_load(LAYER.read_text())["mmdebstrap"]
    commands = [word for one in yaml.safe_load(USER_DATA.read_text())["runcmd"] for word in one if " " in word]
    return [*layer["customize-hooks"], *layer["cleanup-hooks"], *commands]


@needs("cloud-init")
def test_cloud_init_takes_the_user_data() -> None:
    done = subprocess.run(["cloud-init", "schema", "-c", USER_DATA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_shell_command_can_be_read() -> None:
    found = hooks()
    assert len(found) > 5
    for text in found:
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_the_commands_they_give_are_those_of_the_program() -> None:
    said = [" ".join(one) for one in yaml.safe_load(USER_DATA.read_text())["runcmd"]] + hooks()
    commands = {found for text in said for found in re.findall(r"bloodedge ((?:device provision|keys trust)) ", text)}
    assert commands == {"device provision", "keys trust"}
    for command in commands:
        assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0


def settings_of_layer() -> dict[str, str]:
    head = LAYER.read_text().partition("# METAEND")[0]
    return dict(re.findall(r"^# (X-Env-[A-Za-z_-]+): (.*)$", head, re.MULTILINE))


def test_the_layer_s_board_has_a_profile_and_the_images_take_the_layer() -> None:
    settings = settings_of_layer()
    assert settings["X-Env-Var-board"] in names()
    for path in (IMAGE / "config").glob("*.yaml"):
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        assert config["layer"]["app"] == settings["X-Env-Layer-Name"]
        assert config["bloodedge"]["board"] in names()
