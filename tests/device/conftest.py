"""Fixtures of the device's tests."""

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bloodedge_device.system.logs import DeviceHandler

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from nobody import Nobody, nobody_s_place


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """tests/device/fakes.py as a module: a manifest, a network and a finder that need no runtime."""
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("fakes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fakes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _no_log_outlives_its_test() -> Iterator[None]:
    """Let go of the handler that a command put in place: its stream ends with the test."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, DeviceHandler)]:
        root.removeHandler(handler)
        handler.let_go()


@pytest.fixture(autouse=True)
def _not_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine that is one: no test reads its settings, nor shall it write to its results."""
    monkeypatch.setattr("bloodedge_device.settings.BOARD_SETTINGS", Path("/nowhere/device.toml"))


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """A user who owns nothing."""
    with nobody_s_place() as place:
        yield place


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An empty place for a state folder."""
    return tmp_path / "state"
