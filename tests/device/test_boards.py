"""Profiles of boards are settings that the daemon takes."""

import tomllib
from pathlib import Path

import pytest

from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge_device.settings import board_profiles, read_settings

NAMED = ("raspberry-pi-5", "raspberry-pi-4", "raspberry-pi-zero-2w", "intel-n100", "generic-arm64", "generic-x86-64")


def test_there_is_a_profile_of_each_board() -> None:
    assert board_profiles.names() == sorted(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_a_profiles_settings_are_read_back_as_they_stand_in_it(name: str, tmp_path: Path) -> None:
    profile = board_profiles.read_profile(name)
    path = tmp_path / "device.toml"
    path.write_text(board_profiles.settings_text(name))
    settings = read_settings(path)
    assert settings.camera.model_dump() == profile.device.camera.model_dump()
    assert settings.watch == profile.device.watch
    assert settings.update.most_memory_mb == profile.board.memory_max_mb  # also at an install by hand
    assert settings.update.most_latency_ms is not None
    assert (settings.engine, settings.threads, settings.cores) == (
        profile.device.engine,
        profile.device.threads,
        profile.device.cores,
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_board_is_asked_for_no_more_than_it_has(name: str) -> None:
    profile = board_profiles.read_profile(name)
    assert profile.board.memory_max_mb < profile.board.ram_mb
    if profile.board.architecture == "aarch64":
        assert profile.device.engine == "litert"  # OpenVINO's int8 runs mostly as float there
    assert not profile.device.cores or len(profile.device.cores) >= profile.device.threads


def test_a_mistake_in_a_profile_is_told_with_its_keys_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = board_profiles.FOLDERS[1].joinpath("raspberry-pi-5.toml").read_text().replace("threads = 2", "treads = 2")
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setattr(board_profiles, "FOLDERS", (tmp_path,))
    with pytest.raises(UsageError, match=r"device\.treads: unknown key\. Did you mean"):
        board_profiles.read_profile("mine")


def test_the_command_writes_a_settings_file_or_names_the_boards(capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in (("raspberry-pi-5", 0), ("raspbery-pi-5", 2)):
        with pytest.raises(SystemExit) as stop:
            main(["device", "config", "--board", name])
        assert stop.value.code == code
    said = capsys.readouterr()
    assert tomllib.loads(said.out)["camera"] == {"kind": "picamera"}
    assert 'Did you mean "raspberry-pi-5"?' in said.err
