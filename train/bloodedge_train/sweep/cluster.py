"""Joining Ray: a cluster by its address, or a local one for the length of the sweep."""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.installation import install_hint

CONNECT_S, JOIN_S = 4, 14
"""Seconds to wait for a socket, and for Ray behind it; Ray itself waits two minutes for an address without a server."""
LOCAL_STORE_BYTES = 100 * 2**20
"""Trials read their cells from files; what passes through Ray's memory is small."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled here: finished trials are still tabulated
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "3600",
}

PROBE = """
import logging, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.FATAL)
"""


def require_ray() -> None:
    """Raise UsageError, naming the extra, where Ray Tune is not installed."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise UsageError(f"Ray Tune is not installed here; {install_hint('sweep')}")


def check(address: str | None) -> None:
    """Set Ray up to be quiet, and raise BloodedgeError unless it answers at ``address`` (see ``joined``).

    It is asked by a process that can be ended when it does not. UsageError where Ray Tune is not installed.
    """
    require_ray()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address is None:
        return
    place = address.removeprefix("ray://")
    cure = "start it (ray start --head) or correct --address."
    if address != "auto":
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f'--address {address} is no address; give "auto", HOST:PORT or ray://HOST:PORT.')
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            raise BloodedgeError(f"No Ray cluster can be reached at {address} ({reason}); {cure}") from error
    try:
        asked = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=JOIN_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BloodedgeError(f"The server at {address} is no Ray cluster, or refused the connection; {cure}") from error
    if asked.returncode:
        reason = _first_line(asked.stderr.strip().splitlines()[-1] if asked.stderr.strip() else "it ended at once")
        raise BloodedgeError(f"No Ray cluster can be joined at {address} ({reason}); {cure}")


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Ray, joined at ``address`` ("auto", "HOST:PORT" or "ray://HOST:PORT") or started here, and left at the end.

    Raises BloodedgeError when Ray does not start.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.FATAL}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    backend = os.environ.get("KERAS_BACKEND")
    if backend:
        options["runtime_env"] = {"env_vars": {"KERAS_BACKEND": backend}}
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:  # Ray's exceptions have no common base class
        raise BloodedgeError(f"Ray did not start ({_first_line(str(error))}); free memory and try again.") from error
    logging.getLogger("ray").setLevel(logging.FATAL)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler prints a stack
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0].rstrip(" .")[:200]


def share(cpus: float, gpus: float | None) -> dict[str, float]:
    """Resources of each trial, for ``with_resources``; one GPU by default if there is one.

    Raises UsageError when no machine of the cluster has as much: Ray would wait for one for ever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        raise UsageError(
            f"No machine has {cpus:g} CPUs and {gpus:g} GPUs for a trial; the largest has {largest.get('CPU', 0):g} "
            f"and {largest.get('GPU', 0):g}. Lower --cpus-per-trial or --gpus-per-trial."
        )
    return {"cpu": cpus, "gpu": gpus}
