"""Fixtures of the device's tests."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bloodedge_device.system.logs import DeviceHandler


@pytest.fixture(autouse=True)
def _no_log_outlives_its_test() -> Iterator[None]:
    """Let go of the handler that a command put in place: its stream ends with the test."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, DeviceHandler)]:
        root.removeHandler(handler)
        handler.close_stream()


@pytest.fixture(autouse=True)
def _not_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine that is one: no test reads its settings, nor shall it write to its results."""
    monkeypatch.setattr("bloodedge_device.settings.read.BOARD_SETTINGS", Path("/nowhere/device.toml"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An empty place for a state folder."""
    return tmp_path / "state"
