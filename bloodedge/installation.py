"""How this copy was installed, and the command that adds an extra to it: bloodedge is on no package index."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bloodedge.redact import redacted

DEBIAN = "bloodedge-device"
DEBIAN_HAS = ("device", "openvino")
"""Extras that the Debian package brings; all that a board needs."""
DPKG = Path("/var/lib/dpkg/info")
ROOT = Path(__file__).resolve().parents[1]
"""The checkout, or the site-packages that the package lies in."""


def install_hint(extra: str) -> str:
    """How to install a missing extra, as the end of a sentence after "...; "."""
    if _is_debian():
        if extra in DEBIAN_HAS:
            return f"reinstall the package with: sudo apt install --reinstall ./{DEBIAN}_VERSION_ARCH.deb"
        return (
            f"the Debian package does not include it; install it from a copy of bloodedge's source (python3 -m venv"
            f" .venv) with: .venv/bin/pip install '.[{extra}]'"
        )
    return f"install it with: {_command(extra)}"


def pip() -> str:
    """The pip of this Python, as a shell takes it."""
    found = shutil.which("pip")
    own = Path(sys.executable).parent
    return "pip" if found and Path(found).parent == own else f"{shlex.quote(sys.executable)} -m pip"


def _command(extra: str) -> str:
    if (ROOT / "pyproject.toml").is_file():
        return f"cd {shlex.quote(str(ROOT))} && {pip()} install -e '.[{extra}]'"
    origin = _origin()
    url = str(origin.get("url", ""))
    path = Path(unquote(urlsplit(url).path))
    if url.startswith("file:") and path.is_dir():
        return f"cd {shlex.quote(str(path))} && {pip()} install '.[{extra}]'"
    if url.startswith("file:"):
        where = path if path.is_file() else Path("FOLDER") / path.name
        return f"{pip()} install {shlex.quote(f'{where}[{extra}]')}"
    if url:
        vcs = origin.get("vcs_info")
        scheme = f"{vcs['vcs']}+" if isinstance(vcs, dict) else ""
        return f"{pip()} install {shlex.quote(f'bloodedge[{extra}] @ {scheme}{redacted(url)}')}"
    return f"{pip()} install '.[{extra}]', in a copy of bloodedge's source"


def _is_debian() -> bool:
    """Whether dpkg installed this copy."""
    try:
        return f"{ROOT}/bloodedge\n" in (DPKG / f"{DEBIAN}.list").read_text()
    except OSError:
        return False


def _origin() -> dict[str, object]:
    """Where pip installed the package from (PEP 610); empty if unknown."""
    import importlib.metadata

    try:
        text = importlib.metadata.distribution("bloodedge").read_text("direct_url.json")
        noted = json.loads(text or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
