"""The server of ``bloodedge fleet serve``, put together from its parts."""

import fcntl
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from sqlalchemy import Engine

from bloodedge.errors import UsageError, disk_errors
from bloodedge.web_server import make_server
from bloodedge.web_socket import listen, server_tls, url_of
from bloodedge_fleet.addresses import is_everywhere
from bloodedge_fleet.boards.archive import Archive, remove_old_reports
from bloodedge_fleet.boards.broker import Broker
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.database import DatabaseError, migrate
from bloodedge_fleet.database.kept_file import KeptFile
from bloodedge_fleet.metrics import Figures
from bloodedge_fleet.rollouts.controller import RolloutController
from bloodedge_fleet.state_dir import require_readable
from bloodedge_fleet.web.access import HEADERS, refusal, require_token
from bloodedge_fleet.web.app import Site, make_app

log = logging.getLogger("bloodedge.fleet")

LOCK = "serve.lock"
DATABASE_WAIT_S = 60.0
TIDY_EVERY_S = 3600.0
CHECK_EVERY_S = 1.0
"""Between two looks at whether the database's file is in its place."""
CONNECTIONS = 200
"""To the page at the same time; boards fetch bundles over them."""


@dataclass(frozen=True)
class Page:
    """Where the page and the bundles are served."""

    host: str
    port: int
    url: str | None = None
    """Where boards reach it; default: the address it listens on."""
    certificate: Path | None = None
    key: Path | None = None


def serve(engine: Engine, state: Path, broker: Broker, page: Page, *, silent: timedelta, keep: timedelta) -> None:
    """Serve until SIGTERM or SIGINT; UsageError or BloodedgeError where the server cannot start."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    require_readable(page.certificate, page.key)
    tls = server_tls(page.certificate, page.key, ("--page-certificate", "--page-key"))
    with _lock(state), listen(page.host, page.port, ("--listen", "--listen")) as listening:
        needs_token = require_token(page.host, state)
        url = page.url or _own_url(page, listening)
        _migrate(engine, stop)
        figures = Figures()
        kept = KeptFile(engine) if engine.dialect.name == "sqlite" else None
        archive = Archive(engine)
        listener = Listener(broker, archive)
        controller = RolloutController(engine, listener.publish, listener.is_current, url, silent)
        app = make_app(Site(engine, state, listener, figures, silent, kept), page.host, needs_token=needs_token)
        web = make_server(app, HEADERS, refusal, tls, CONNECTIONS)
        thread = threading.Thread(target=web.run, args=([listening],), name="web", daemon=True)
        listener.start(figures.note, controller.send_again)
        controller.start()
        thread.start()
        _log_address(page, listening)
        _look_after(engine, keep, kept, stop)
        log.info("Stopping; delivered messages are stored first.")
        web.should_exit = True
        controller.stop()
        listener.stop()
        thread.join(5)


def _look_after(engine: Engine, keep: timedelta, kept: KeptFile | None, stop: threading.Event) -> None:
    """Remove old reports now and then, and keep the database's file in its place, until told to stop."""
    tidy_at_s = 0.0
    while not stop.is_set():
        if kept is not None:
            kept.check()
        if monotonic() >= tidy_at_s:
            _tidy(engine, keep)
            tidy_at_s = monotonic() + TIDY_EVERY_S
        stop.wait(CHECK_EVERY_S)


def _tidy(engine: Engine, keep: timedelta) -> None:
    try:
        remove_old_reports(engine, datetime.now(UTC) - keep)
    except DatabaseError as error:
        log.warning("Old reports could not be removed; it is tried again later. %s", error)


@contextmanager
def _lock(state: Path) -> Iterator[None]:
    with disk_errors("the server's folder"):
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"A fleet server is running in {state}; stop it, or give another --state.") from error
        yield


def _own_url(page: Page, listening: socket.socket) -> str:
    """The server's URL where no --url was given; UsageError where it listens on all addresses of the machine."""
    if is_everywhere(listening.getsockname()[0]):
        raise UsageError(f"Boards cannot reach {page.host}; give --url, such as https://HOST:8770.")
    return url_of(page.host, listening, tls=page.certificate is not None)


def _log_address(page: Page, listening: socket.socket) -> None:
    log.info("Page: %s", url_of(page.host, listening, tls=page.certificate is not None))
    if page.url is None and ip_address(listening.getsockname()[0]).is_loopback:
        log.warning("Boards on other machines cannot fetch bundles there; to let them, give --listen and --url.")


def _migrate(engine: Engine, stop: threading.Event) -> None:
    """Bring the tables up to date; waits for a database that starts at the same time as this server."""
    deadline_s = monotonic() + DATABASE_WAIT_S
    while True:
        try:
            migrate(engine)
        except DatabaseError as error:
            if monotonic() > deadline_s or stop.is_set():
                raise
            log.warning("%s The server tries again.", error)
            stop.wait(2)
        else:
            return
