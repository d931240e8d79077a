"""A hot board is spared: fewer frames, then none, until it has cooled."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from bloodedge.errors import UsageError
from bloodedge_device.daemon import monitor
from bloodedge_device.health import Level
from bloodedge_device.settings import read_settings
from bloodedge_device.system.sd_notify import Notifier
from bloodedge_device.system.thermal import Pace, pace_at
from bloodedge_device.web.client import ask
from support import fakes
from support.web_fakes import FakeDaemon

DEVICE = """
import runpy, sys
from pathlib import Path
from functools import partial
from bloodedge_device.daemon import loop, monitor
from bloodedge_device.timings import Timings
loop.run_device = partial(loop.run_device, timings=Timings(services_every_s=0.1))
thermometer = Path(sys.argv[1])
monitor.cpu_temperature_c = lambda: float(thermometer.read_text())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("limits", "temperatures", "paces"),
    [
        ((70.0, 80.0), [69.9, 70.0, 66.0, 65.1, 65.0, 69.9], [0, 1, 1, 1, 0, 0]),
        ((70.0, 80.0), [85.0, 75.1, 75.0, 65.1, 65.0], [2, 2, 1, 1, 0]),
        ((None, 80.0), [79.9, 80.0, 75.1, 75.0], [0, 2, 2, 0]),
        ((70.0, None), [150.0], [1]),
        ((None, None), [150.0], [0]),
        ((70.0, 80.0), [85.0, None], [2, 0]),
    ],
)
def test_a_limit_counts_until_the_processor_is_five_degrees_below_it(
    limits: tuple[float | None, float | None], temperatures: list[float | None], paces: list[int]
) -> None:
    pace = Pace.FULL
    seen = [pace := pace_at(temperature, *limits, pace) for temperature in temperatures]
    assert seen == paces


def test_a_board_that_stops_before_it_slows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text("[watch]\nslow_at_c = 80\nstop_at_c = 70\n")
    with pytest.raises(UsageError, match=r"watch\.slow_at_c must be below watch\.stop_at_c"):
        read_settings(path)


@pytest.fixture
def thermometer(tmp_path: Path, state: Path) -> Iterator[Callable[[float], None]]:
    """Sets the temperature of a board on which the daemon runs, its limits 70 and 80 °C."""
    path = tmp_path / "temperature"

    def set_to(temperature_c: float) -> None:
        path.with_suffix(".new").write_text(str(temperature_c))
        path.with_suffix(".new").replace(path)

    set_to(50)
    limits = {"BLOODEDGE_DEVICE__WATCH__SLOW_AT_C": "70", "BLOODEDGE_DEVICE__WATCH__STOP_AT_C": "80"}
    rate = {"BLOODEDGE_DEVICE__CAMERA__RATE": "20", "BLOODEDGE_DEVICE__WEB__ENABLED": "false"}
    command = [sys.executable, "-c", DEVICE, str(path), fakes.DEVICE[1], "run", "--state", str(state)]
    with subprocess.Popen(command, env={**os.environ, **limits, **rate}, stderr=subprocess.PIPE) as process:
        yield set_to
        process.kill()


def status(state: Path) -> dict[str, Any]:
    try:
        return ask(state, "GET", "/api/v1/status")
    except UsageError:  # it is not up yet
        return {}


def wait_for(state: Path, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = monotonic() + 30
    while not ((found := status(state)) and condition(found)):
        assert monotonic() < end, found
        sleep(0.05)
    return found


def heat(level: str) -> Callable[[dict[str, Any]], bool]:
    return lambda found: bool(found["health"].get("heat", {}).get("level") == level)


@pytest.mark.slow
def test_a_board_that_is_too_hot_looks_at_no_frame_until_it_has_cooled(
    thermometer: Callable[[float], None], state: Path
) -> None:
    wait_for(state, lambda found: found["frame"] is not None and heat("ok")(found))
    thermometer(81)
    hot = wait_for(state, heat("failed"))
    assert hot["health"]["heat"]["sentence"] == (
        "The processor is at 81 °C: no frame is processed until it has cooled to 75 °C; cool the board."
    )
    began = ask(state, "POST", "/api/v1/slides", {"label": "A-17"})["slide"]  # the page still works
    seen = status(state)["slide"]["frames_seen"]
    sleep(1)  # 20 frames' time
    assert status(state)["slide"]["frames_seen"] - seen <= 1
    thermometer(76)
    wait_for(state, lambda found: " 76 °C" in found["health"]["heat"]["sentence"] and heat("failed")(found))
    thermometer(74)
    warm = wait_for(state, heat("warning"))
    assert "fewer frames are processed until it has cooled to 65 °C" in warm["health"]["heat"]["sentence"]
    wait_for(state, lambda found: found["slide"]["id"] == began and found["slide"]["frames_seen"] > seen + 2)
    thermometer(60)
    wait_for(state, heat("ok"))


def test_the_pace_follows_the_temperature(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = FakeDaemon(state)
    settings = daemon.settings.model_copy(
        update={"watch": daemon.settings.watch.model_copy(update={"slow_at_c": 70.0, "stop_at_c": 80.0})}
    )
    daemon.state.settings = settings
    watch = monitor.Monitor(daemon.state, Notifier({}))
    seen = []
    for temperature in (81.0, 76.0, 74.0, 60.0):
        monkeypatch.setattr(monitor, "cpu_temperature_c", lambda temperature=temperature: temperature)
        watch.check_heat()
        seen.append((daemon.state.pace, daemon.state.snapshot().conditions["heat"].level))
    assert seen == [
        (Pace.STOPPED, Level.FAILED),
        (Pace.STOPPED, Level.FAILED),
        (Pace.SLOW, Level.WARNING),
        (Pace.FULL, Level.OK),
    ]
    daemon.store.close()
