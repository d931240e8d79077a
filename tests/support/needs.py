"""Programs of the system that tests talk to and look with; a test that needs one skips where there is none.

python tests/support/needs.py   prints the packages to install, for Debian's apt
"""

import os
import shutil
from pathlib import Path

import pytest

PACKAGES = {
    "chromium": "chromium",
    "cloud-init": "cloud-init",
    "mmdebstrap": "mmdebstrap",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "openssl": "openssl",
    "pdftotext": "poppler-utils",
    "pgrep": "procps",
    "postgres": "postgresql",
    "promtool": "prometheus",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "systemd-sysusers": "systemd",
}
"""Debian's package by program."""


def program(name: str) -> str | None:
    """A program's path, also where it is not on this user's PATH; None where it is missing."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *map(str, servers)]
    return shutil.which(name, path=os.pathsep.join(places))


def missing(name: str) -> str:
    """Why a test without this program skips."""
    return f"{name} is not installed (apt install {PACKAGES[name]})"


def needs(name: str) -> pytest.MarkDecorator:
    """Marks a test that needs this program."""
    return pytest.mark.skipif(program(name) is None, reason=missing(name))


def required(name: str) -> str:
    """A program's path, for fixtures; skips the test where there is none."""
    found = program(name)
    if found is None:
        pytest.skip(missing(name))
    return found


if __name__ == "__main__":
    print(*sorted({package for name, package in PACKAGES.items() if program(name) is None}))
