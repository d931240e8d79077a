"""Attacks on a running daemon over loopback: each does its worst, and says how many tries that were."""

import random
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from programs import Program, bloodedge, free_port, status_of

WITHIN_S = 60.0
PAUSE_S = 2.0
LOCKED_S = 8.0
DATABASE = "device.sqlite"


class Target(Program):
    """A daemon and its state folder."""

    def __init__(self, folder: Path) -> None:
        self.state, self.port = folder / "state", free_port()
        config = folder / "device.toml"
        config.write_text(
            f'engine = "litert"\nstate = "{self.state}"\n[camera]\nrate = 2\n[web]\nport = {self.port}\n'
            "[store]\nkeep_free_mb = 1\nreserve_mb = 1\n"
        )
        super().__init__(bloodedge("device", "run", "--config", config), folder / "log")

    def status(self, path: str, headers: dict[str, str] | None = None) -> int:
        """The status of an answer; 0 without one."""
        return status_of(self.port, path, headers)

    def frames(self) -> list[int]:
        """Numbers of the stored frames, in their order."""
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{self.state / DATABASE}?mode=ro", uri=True)) as one,
        ):
            return [row[0] for row in one.execute("SELECT number FROM frames ORDER BY id")]
        return []

    @contextmanager
    def unnamed(self, images: list[Path]) -> Iterator[None]:
        """The images under other names meanwhile, as if they were deleted one by one."""

        def rename() -> None:
            for image in images:
                image.rename(image.with_suffix(".gone"))
                sleep(0.005)

        renaming = threading.Thread(target=rename)
        renaming.start()
        yield
        renaming.join()
        for image in images:
            image.with_suffix(".gone").rename(image)

    def await_work(self, within_s: float = WITHIN_S) -> float:
        """Seconds until it is ready and has stored a further frame; NaN where it does not come to that."""
        began_s, before = monotonic(), len(self.frames())
        while not (self.status("/readyz") == 200 and len(self.frames()) > before):
            if not self.running or monotonic() - began_s > within_s:
                return float("nan")
            sleep(0.1)
        return monotonic() - began_s


def connect(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), timeout=10)


def idle_connections(target: Target) -> int:
    """Connections that send nothing, or half a request."""
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(connect(target))
            if number % 2:
                with suppress(OSError):
                    client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        sleep(PAUSE_S)
        return 300


def stalled_readers(target: Target) -> int:
    """Clients that ask for a page and read nothing of it."""
    with ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(connect(target))
            with suppress(OSError):
                client.sendall(b"GET /slides/1/report HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % target.port)
        sleep(PAUSE_S)
        return 60


def malformed_requests(target: Target) -> int:
    """Bytes that are no request, and heads without an end."""
    chance = random.Random(0)
    for number in range(100):
        with suppress(OSError), connect(target) as client:
            client.sendall(chance.randbytes(200) + b"\n\n" if number % 2 else b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000)
            client.settimeout(0.5)
            client.recv(100)
    return 100


def other_sites(target: Target) -> int:
    """Requests that another site has a browser make; each must be refused."""
    kinds = [{"sec-fetch-site": site, "sec-fetch-mode": "navigate"} for site in ("cross-site", "same-site")]
    paths = ("/slides/1/export.pdf", "/slides/1/export.csv", "/metrics", "/api/v1/slides")
    answers = [target.status(path, kind) for kind in kinds for path in paths]
    assert set(answers) == {403}, answers
    return len(answers)


def deleted_database(target: Target) -> int:
    """The database and what SQLite keeps beside it are deleted."""
    for path in target.state.glob(f"{DATABASE}*"):
        path.unlink(missing_ok=True)
    return 1


def moved_database(target: Target) -> int:
    """The database is moved away."""
    (target.state / DATABASE).rename(target.state / "elsewhere")
    return 1


def locked_database(target: Target) -> int:
    """Another program keeps the database locked for longer than SQLite waits."""
    with closing(sqlite3.connect(target.state / DATABASE, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        sleep(LOCKED_S)
    return 1


def replaced_database(target: Target) -> int:
    """The database is deleted, and another file has its name."""
    deleted_database(target)
    (target.state / DATABASE).write_bytes(b"no database")
    return 1


def exports_and_deletions(target: Target) -> int:
    """Files of a slide are asked for while the images that go into them are deleted."""
    doomed = sorted((target.state / "crops").rglob("*.png"))[:-20:4]
    with target.unnamed(doomed):
        answers = [target.status(path) for path in ("/api/v1/cells.zip", "/slides/1/export.csv", "/slides/1/report")]
    assert 500 not in answers, answers
    return len(answers)


CLASSES: dict[str, Callable[[Target], int]] = {
    "idle connections": idle_connections,
    "stalled readers": stalled_readers,
    "malformed requests": malformed_requests,
    "other sites": other_sites,
    "deleted database": deleted_database,
    "moved database": moved_database,
    "replaced database": replaced_database,
    "locked database": locked_database,
    "exports and deletions": exports_and_deletions,
}
