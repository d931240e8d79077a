"""The command line's requests to the daemon, over the Unix socket in the state folder."""

import json as json_module
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError, quoted

SOCKET = "control.sock"
TIMEOUT_S = 30.0


@contextmanager
def short_path(state: Path) -> Iterator[str]:
    """A path to the state folder's socket that fits into a socket's address (108 bytes), however deep the folder."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


class _Connection(HTTPConnection):
    def __init__(self, state: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._state = state

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._state) as path:
            self.sock.connect(path)


def ask(state: Path, method: str, path: str, json: object = None) -> dict[str, Any]:
    """The daemon's JSON answer; ``json`` is sent as the request's body unless it is None.

    Raises UsageError when no daemon runs on the state folder or it refuses the request, BloodedgeError when the request
    fails.
    """
    connection = _Connection(state)
    body = None if json is None else json_module.dumps(json).encode()
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        data = json_module.loads(answer.read())
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise UsageError(
            f"No daemon runs on {state}; start it with: bloodedge device run --state {quoted(state)}"
        ) from error
    except PermissionError as error:
        raise UsageError(f"The daemon on {state} belongs to another user; run this command as that user.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise BloodedgeError(f"The daemon on {state} did not answer; look at its journal.") from error
    finally:
        connection.close()
    if answer.status >= 500:
        raise BloodedgeError(data["error"])
    if answer.status >= 400:
        raise UsageError(data["error"])
    assert isinstance(data, dict)
    return data
