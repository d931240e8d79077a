"""The command line as a user who owns nothing meets it: only root can become that user, so elsewhere its tests skip."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

NOBODY = 65534


@dataclass
class Nobody:
    """A user in a folder of root's, where ``closed`` is root's alone and ``own`` is the user's."""

    folder: Path

    @property
    def closed(self) -> Path:
        return self.folder / "closed"

    @property
    def own(self) -> Path:
        return self.folder / "own"

    def run(self, *arguments: object, text: str | None = None, within: Path | None = None) -> tuple[int, str]:
        """A command's exit code and what it said, with ``text`` on its stdin, given ``within`` a folder."""
        done = run_as_nobody([*interpreter(), "-m", "bloodedge", *map(str, arguments)], within or self.folder, text)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        return done.returncode, said


def run_as_nobody(command: list[str], folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={"HOME": str(folder / "own"), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        input=text or "",
        capture_output=True,
        text=True,
        check=False,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )


@cache
def interpreter() -> tuple[str, ...]:
    """A Python that this user may run: not one in root's home; skips where there is none."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for name in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            if not run_as_nobody([name, "-c", "import bloodedge.cli, cryptography, cv2"], Path("/")).returncode:
                return (name, "-B")
        except OSError:
            continue
    pytest.skip("no Python that another user may run")


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """A user who owns nothing; the folder is not below pytest's own, which are root's alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    interpreter()
    folder = Path(tempfile.mkdtemp(prefix="bloodedge-nobody-"))
    try:
        folder.chmod(0o755)
        place = Nobody(folder)
        place.closed.mkdir(mode=0o700)
        place.own.mkdir()
        os.chown(place.own, NOBODY, NOBODY)
        yield place
    finally:
        shutil.rmtree(folder)
