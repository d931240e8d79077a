"""Programs of the system that benchmarks need, and where Debian has them."""

import os
import shutil
import sys
from pathlib import Path

PACKAGES = {
    "mosquitto": "mosquitto",
    "strace": "strace",
    "pgrep": "procps",
    "mount": "mount",
}
SYSTEM = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Where the system's own programs are, which are not on every user's path."""


def program(name: str) -> str:
    """A program's path; ends the benchmark, with the package to install, where there is none."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM]))
    if found is None:
        sys.exit(f"{Path(sys.argv[0]).name}: {name} is not installed; install it with: apt install {PACKAGES[name]}")
    return found
