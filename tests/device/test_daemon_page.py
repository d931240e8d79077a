"""The running daemon as a person at its command line and its page meets it; network and finder are stand-ins."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from programs import free_port

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.timings import Timings
from bloodedge_device.web.client import ask
from support import fakes
from support.web_fakes import FakeDaemon


@pytest.fixture
def running(state: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A daemon over the simulated microscope, its page open."""
    port = free_port()
    settings = {"BLOODEDGE_DEVICE__WEB__PORT": str(port), "BLOODEDGE_DEVICE__CAMERA__RATE": "20"}
    with fakes.start(state, **settings) as process:
        end = monotonic() + 30
        while not is_alive(port):
            assert monotonic() < end and process.poll() is None, "the daemon did not come up"  # noqa: PT018
            sleep(0.05)
        yield process, port
        process.kill()


def is_alive(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPError):
        return False


def end_first_slide(state: Path) -> None:
    """End it and wait for its last frames, which are on their way to the disk."""
    ask(state, "POST", "/api/v1/slides/current/end")
    end_s = monotonic() + 10
    while ask(state, "GET", "/api/v1/slides")["slides"][-1]["finished"] is None:
        assert monotonic() < end_s
        sleep(0.05)


def test_slides_are_begun_labelled_and_ended_from_the_command_line(
    running: tuple[subprocess.Popen[str], int], state: Path
) -> None:
    began = ask(state, "POST", "/api/v1/slides", {"label": "A-17"})["slide"]
    assert began == 2
    assert ask(state, "GET", "/api/v1/status")["slide"]["label"] == "A-17"
    ask(state, "PATCH", f"/api/v1/slides/{began}", {"label": "A-18"})
    assert ask(state, "GET", "/api/v1/status")["slide"]["label"] == "A-18"
    assert ask(state, "POST", "/api/v1/slides/current/end")["slide"] == began
    assert ask(state, "GET", "/api/v1/status")["slide"] is None
    process, _ = running
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.usefixtures("running")
def test_frames_between_slides_are_shown_and_not_stored(state: Path) -> None:
    end_first_slide(state)
    stored = ask(state, "GET", "/api/v1/slides/1")["frames"]["processed"]
    shown = ask(state, "GET", "/api/v1/status?after=0&wait_s=10")["frame"]["number"]
    later = ask(state, "GET", f"/api/v1/status?after={shown + 3}&wait_s=10")["frame"]["number"]
    assert later > shown
    assert ask(state, "GET", "/api/v1/slides/1")["frames"]["processed"] == stored


def test_metrics_count_what_the_api_counts(running: tuple[subprocess.Popen[str], int], state: Path) -> None:
    _, port = running
    end_first_slide(state)
    counted = ask(state, "GET", "/api/v1/slides/1")["cells"]["total"]
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert sum(float(line.split()[-1]) for line in lines if line.startswith("bloodedge_cells_total{")) == counted


def test_a_port_that_is_taken_is_reported_in_one_sentence(state: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        daemon = fakes.start(state, BLOODEDGE_DEVICE__WEB__PORT=str(taken.getsockname()[1]))
        told = daemon.communicate(timeout=60)[1]
    assert daemon.returncode == 2
    assert "is in use" in told
    assert "Traceback" not in told


def test_without_a_daemon_the_command_line_says_how_to_start_one(state: Path) -> None:
    with pytest.raises(UsageError, match="bloodedge device run"):
        ask(state, "GET", "/api/v1/status")


def test_the_api_describes_itself(running: tuple[subprocess.Popen[str], int]) -> None:
    _, port = running
    with urlopen(f"http://127.0.0.1:{port}/api/v1/openapi.json") as answer:
        assert json.load(answer)["openapi"].startswith("3.1")


def test_nobody_waits_without_end_for_a_frame_that_a_full_disk_holds_up(state: Path) -> None:
    daemon = FakeDaemon(state, timings=Timings(frame_wait_s=0.1))
    holds, done = threading.Event(), threading.Event()

    def pipeline() -> None:
        with daemon.slides.changing:
            holds.set()
            done.wait(10)

    thread = threading.Thread(target=pipeline)
    thread.start()
    holds.wait(10)
    for ask_for in (lambda: daemon.desk.start_slide("A-17", "page"), lambda: daemon.desk.end_slide("page")):
        with pytest.raises(BloodedgeError, match="Free some space, then do it again"):
            ask_for()
    done.set()
    thread.join()
    assert daemon.desk.end_slide("page") is None
    daemon.store.close()
