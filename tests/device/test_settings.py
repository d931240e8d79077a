from pathlib import Path

import pytest
from click.testing import CliRunner

from bloodedge.errors import UsageError
from bloodedge_device.bundles.released import bundle_path
from bloodedge_device.cli.device import device
from bloodedge_device.settings import DeviceSettings, default_state, read_settings, with_options
from bloodedge_device.settings.sections import CameraSettings

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text)
    return path


def test_every_mistake_is_told_at_once_with_its_keys_path(tmp_path: Path) -> None:
    config = write(tmp_path, 'engin = "litert"\nthreads = 0\n[camera]\nrate = -1\nlop = true\n')
    with pytest.raises(UsageError) as error:
        read_settings(config)
    message = str(error.value)
    assert 'engin: unknown key. Did you mean "engine"?' in message
    assert 'camera.lop: unknown key. Did you mean "loop"?' in message
    assert "threads:" in message
    assert "camera.rate:" in message


def test_the_stain_section_of_older_files_is_ignored_unless_it_was_on(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, '[stain]\nnormalise = "auto"\n')) == read_settings(write(tmp_path, ""))
    with pytest.raises(UsageError, match=r"no longer brought to one stain; remove the section \[stain\]"):
        read_settings(write(tmp_path, '[stain]\nnormalise = "on"\n'))


def test_paths_in_the_file_are_relative_to_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, 'bundle = "a.bundle"\nstate = "results"\n[camera]\nkind = "replay"\nsource = "frames"\n')
    settings = read_settings(config)
    assert (settings.bundle, settings.state) == (tmp_path / "a.bundle", tmp_path / "results")
    assert settings.camera.source == str(tmp_path / "frames")


def test_a_streams_address_is_no_path(tmp_path: Path) -> None:
    config = write(tmp_path, '[camera]\nkind = "replay"\nsource = "rtsp://microscope/live"\n')
    assert read_settings(config).camera.source == "rtsp://microscope/live"


def test_a_replay_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="replay needs a source"):
        read_settings(write(tmp_path, '[camera]\nkind = "replay"\n'))


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__CAMERA__RATE", "2.5")
    monkeypatch.setenv("BLOODEDGE_DEVICE__STORE__CROPS", "false")
    monkeypatch.setenv("BLOODEDGE_DEVICE__SLIDE__LABEL", "smear 7")
    settings = read_settings(write(tmp_path, "threads = 3\n[camera]\nrate = 9\n"))
    assert (settings.camera.rate, settings.store.crops, settings.slide.label) == (2.5, False, "smear 7")
    assert settings.threads == 3
    assert read_settings(None).camera.rate == 2.5


def test_a_board_is_called_as_its_first_start_named_it_unless_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOODEDGE_BOARD", "board-0123456789ab")
    path = tmp_path / "device.toml"
    path.write_text("")
    assert read_settings(path).mqtt.board == "board-0123456789ab"
    path.write_text('[mqtt]\nboard = "bench-1"\n')
    assert read_settings(path).mqtt.board == "bench-1"


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__CAMERA__RAET", "5")
    with pytest.raises(UsageError, match="BLOODEDGE_DEVICE__CAMERA__RAET has 1 mistake") as error:
        read_settings(None)
    assert 'Did you mean "rate"?' in str(error.value)


def test_shown_settings_are_settings(tmp_path: Path) -> None:
    config = write(tmp_path, 'threads = 3\n[camera]\num_per_px = 0.08\n[slide]\nlabel = "a \\"b\\" \u00b5"\n')
    done = CliRunner().invoke(device, ["config", "--config", str(config)])
    assert done.exit_code == 0
    again = write(tmp_path, done.output)
    assert read_settings(again) == read_settings(config)


def test_check_says_what_is_not_there(tmp_path: Path) -> None:
    config = write(tmp_path, 'bundle = "no.bundle"\n[camera]\nkind = "replay"\nsource = "frames"\n')
    done = CliRunner().invoke(device, ["config", "--check", "--config", str(config)])
    assert isinstance(done.exception, UsageError)
    assert "bundle:" in str(done.exception)
    assert "camera.source:" in str(done.exception)
    (tmp_path / "no.bundle").mkdir()
    (tmp_path / "frames").mkdir()
    assert "are right" in CliRunner().invoke(device, ["config", "--check", "--config", str(config)]).output


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, 'bundle = "a.bundle"\nstate = "results"\n[camera]\num_per_px = 0.08\n')
    settings = read_settings(config, Path("elsewhere"))
    changed = with_options(settings, bundle=Path("b.bundle"), camera="film.mp4")
    assert changed.bundle == Path("b.bundle")
    assert settings.state == Path("elsewhere")
    assert (changed.camera.kind, changed.camera.source, changed.camera.um_per_px) == ("replay", "film.mp4", 0.08)
    assert with_options(changed, camera="simulated").camera.kind == "simulated"
    mixed = with_options(changed, camera="mixed").camera
    assert (mixed.kind, mixed.source, mixed.mixed) == ("simulated", None, True)


def test_results_go_where_the_desktop_keeps_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state() == tmp_path / "bloodedge"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state() == tmp_path / ".local" / "state" / "bloodedge"


@pytest.mark.parametrize(
    ("camera", "bundle"),
    [
        ({}, "simulated.bundle"),
        ({"kind": "replay", "source": "film.mp4"}, "cells.bundle"),
        ({"kind": "v4l2"}, "cells.bundle"),
        ({"kind": "picamera"}, "cells.bundle"),
    ],
)
def test_without_a_bundle_of_ones_own_drawn_cells_and_peoples_cells_each_have_theirs(
    camera: dict[str, str], bundle: str
) -> None:
    settings = DeviceSettings(camera=CameraSettings.model_validate(camera))
    assert bundle_path(settings) == ROOT / "models" / bundle
    assert bundle_path(settings).exists()


def test_without_any_bundle_one_sentence_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloodedge_device.bundles.released.MODEL_FOLDERS", ())
    with pytest.raises(UsageError, match="give it with --bundle"):
        bundle_path(read_settings(None))


def test_the_example_settings_are_read_and_name_every_setting() -> None:
    example = ROOT / "firmware_configs" / "device.example.toml"
    settings = read_settings(example)
    text = example.read_text()
    names = [*type(settings).model_fields, *type(settings.camera).model_fields]
    assert [name for name in names if name not in text] == []


def test_a_gpu_is_for_openvino_alone(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('engine = "litert"\nopenvino_device = "GPU"\n')
    with pytest.raises(UsageError, match='openvino_device = "GPU" needs engine = "openvino"'):
        read_settings(path)


@pytest.mark.parametrize("setting", ["[update]\nmost_latency_ms = inf", "[gate]\nfocus = nan", "[camera]\nrate = inf"])
def test_infinity_is_no_setting(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(setting)
    with pytest.raises(UsageError, match="finite"):
        read_settings(path)
