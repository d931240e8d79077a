"""A quota that is used up: SQLite calls it a failed disk, and the disk's free space says nothing of it."""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from programs import Program, bloodedge, free_port, status_of, wait_until

from bloodedge_device.store.database import DATABASE, is_full, is_read_only
from support.needs import needs


def test_a_folder_that_can_be_written_is_neither_full_nor_read_only(tmp_path: Path) -> None:
    assert not is_full(tmp_path)
    assert not is_read_only(tmp_path)


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_quota_shows_wherever_the_system_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(122, os.strerror(122))  # EDQUOT

    monkeypatch.setattr(os, call, refuse)
    assert is_full(tmp_path)
    assert not is_read_only(tmp_path)


@contextmanager
def quota_used_up(daemon: Program, state: Path) -> Iterator[None]:
    """The system refuses what the daemon writes to its database, and new files in its folder, for want of quota."""
    refused = [f"--inject={call}:error=EDQUOT" for call in ("pwrite64", "openat")]
    paths = [word for path in (state / DATABASE, state / f"{DATABASE}-wal", state) for word in ("-P", str(path))]
    command = ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(daemon.process.pid), *refused, *paths]
    with subprocess.Popen(command) as tracer:
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)


@pytest.mark.slow
@needs("strace")
def test_while_the_quota_is_used_up_frames_wait_and_none_is_lost(tmp_path: Path) -> None:
    state, port, config = tmp_path / "state", free_port(), tmp_path / "device.toml"
    config.write_text(
        f'state = "{state}"\nengine = "litert"\n[camera]\nrate = 5\n[trust]\nunsigned = true\n[web]\nport = {port}\n'
    )

    def readiness() -> int:
        return status_of(port, "/readyz")

    def frames() -> list[int]:
        with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as database:
            return [number for (number,) in database.execute("SELECT number FROM frames ORDER BY id")]

    with Program(bloodedge("device", "run", "--config", config), tmp_path / "log") as daemon:
        wait_until(lambda: readiness() == 200 and len(frames()) > 5, 60, "the daemon does not start")
        with quota_used_up(daemon, state):
            wait_until(lambda: readiness() == 503, 30, "the daemon does not say that it stores nothing")
            before = len(frames())
        wait_until(lambda: readiness() == 200 and len(frames()) > before + 10, 60, "the daemon does not go on")
        daemon.stop()
        assert "the quota used up; free some space" in daemon.output
        assert frames() == list(range(len(frames())))
