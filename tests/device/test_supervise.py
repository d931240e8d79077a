"""The service manager's protocol over a real socket, the clock, the heat and the log."""

import io
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bloodedge.errors import UsageError
from bloodedge_device.system.clock import ClockWatch, clock_synchronised, in_step
from bloodedge_device.system.logs import DeviceHandler, configure_logging
from bloodedge_device.system.sd_notify import Notifier
from bloodedge_device.system.thermal import Throttling, decode_pi, read_throttling


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and its name."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        receiver.settimeout(2)
        yield receiver, name


def test_the_service_manager_hears_of_every_step(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("12 frames,\n3 cells")
    notifier.stopping()
    assert [receiver.recv(4096) for _ in range(3)] == [b"READY=1", b"STATUS=12 frames, 3 cells", b"STOPPING=1"]


def test_a_reload_carries_the_monotonic_time(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    before = time.monotonic_ns() // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second = receiver.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert before <= int(second.partition("=")[2]) <= time.monotonic_ns() // 1000


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0bloodedge-test-{os.getpid()}")
        receiver.settimeout(2)
        Notifier({"NOTIFY_SOCKET": f"@bloodedge-test-{os.getpid()}"}).ready()
        assert receiver.recv(64) == b"READY=1"


def test_signs_of_life_are_not_sent_more_than_twice_a_second(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for _ in range(100):
        notifier.watchdog()
    assert receiver.recv(64) == b"WATCHDOG=1"
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(64)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "relative"}])
def test_without_a_service_manager_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.watchdog()
    notifier.stopping()


def test_the_clock_is_in_step_only_when_the_kernel_says_so() -> None:
    # adjtimex(2): TIME_OK is 0, TIME_ERROR 5; STA_PLL 0x0001, STA_UNSYNC 0x0040
    assert in_step(0, 0x0001)
    assert not in_step(5, 0x0001)
    assert not in_step(0, 0x0041)
    assert clock_synchronised() in {True, False, None}


def test_a_clock_that_is_set_is_noticed_once_and_a_steered_one_never() -> None:
    wall, steady = [1000.0], [50.0]
    watch = ClockWatch(lambda: wall[0], lambda: steady[0])
    wall[0], steady[0] = 1010.5, 60.0
    assert watch.jumped() is None
    wall[0] += 3600
    assert watch.jumped() == pytest.approx(3600)
    assert watch.jumped() is None
    wall[0] -= 30
    assert watch.jumped() == pytest.approx(-30)


def test_a_pis_bits_mean_what_its_documentation_says(tmp_path: Path) -> None:
    # 0x50005 is the documentation's usual example: under-voltage and throttled, now and before
    low, capped = "the supply voltage is too low", "the CPU's frequency is capped"
    assert decode_pi(0x50005).now == (low, "the CPU is throttled")
    assert decode_pi(0x50000) == Throttling((), (low, "the CPU is throttled"))
    assert decode_pi(0x20000).since_start == (capped,)
    firmware = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    firmware.parent.mkdir(parents=True)
    firmware.write_text("1\n")
    assert read_throttling(tmp_path) == Throttling((low,), ())


def test_vcgencmd_is_asked_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    command = tmp_path / "vcgencmd"
    command.write_text("#!/bin/sh\necho throttled=0x80008\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    assert read_throttling(tmp_path, str(command)) == decode_pi(0x80008)


def test_an_x86_core_that_was_slowed_is_told(tmp_path: Path) -> None:
    for cpu, count in ((0, 0), (1, 7)):
        path = tmp_path / f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"
        path.parent.mkdir(parents=True)
        path.write_text(f"{count}\n")
    found = read_throttling(tmp_path, "no-such-command")
    assert found == Throttling((), ("a core was slowed 7 times because it was hot",))
    assert read_throttling(tmp_path / "none", "no-such-command") is None


@pytest.fixture
def clean_logging() -> Iterator[logging.Logger]:
    yield logging.getLogger("bloodedge.device")
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, DeviceHandler)]


def test_people_read_plain_lines(clean_logging: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging(stream, {})
    configure_logging(stream, {})
    clean_logging.info("%d frames.", 3)
    clean_logging.warning("The disk is full.")
    logging.getLogger("another.library").info("chatter")
    assert stream.getvalue() == "3 frames.\nWarning: The disk is full.\n"


def test_the_journal_gets_priorities_on_every_line(clean_logging: logging.Logger, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        configure_logging(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        clean_logging.info("started")
        clean_logging.error("two\nlines")
        stream.seek(0)
        assert stream.read() == "<6>started\n<3>two\n<3>lines\n"
        configure_logging(stream, {"JOURNAL_STREAM": "8:1"})
        clean_logging.info("elsewhere")
        assert (tmp_path / "journal").read_text().endswith(">lines\nelsewhere\n")


def test_what_is_said_while_stderr_is_silenced_is_in_the_log(clean_logging: logging.Logger, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as stream, Path(os.devnull).open("w") as nowhere:
        configure_logging(stream, {})
        os.dup2(nowhere.fileno(), stream.fileno())  # as an engine does with stderr while it loads a network
        clean_logging.warning("The disk is full.")
    assert (tmp_path / "journal").read_text() == "Warning: The disk is full.\n"


def test_programs_get_json(clean_logging: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging(stream, {"BLOODEDGE_LOG": "json"})
    try:
        int("broken")
    except ValueError:
        clean_logging.exception("It failed.")
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["message"]) == ("error", "It failed.")
    assert "ValueError: invalid literal" in entry["exception"]


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(UsageError, match="BLOODEDGE_LOG"):
        configure_logging(io.StringIO(), {"BLOODEDGE_LOG": "xml"})


HANGING = """
import ctypes, sys, time
from bloodedge_device.system import signals
signals.STUCK_S = 0.3
with signals.signals_heard():
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("hangs", flush=True)
    libc.pthread_mutex_lock(mutex)  # in native code, for ever, as a network may
"""


def test_a_daemon_that_hangs_in_native_code_is_ended_all_the_same() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    process.terminate()
    assert process.wait(10) == 1
