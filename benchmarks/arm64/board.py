"""An ARM64 board on an x86 host: Debian's aarch64 Python under user-mode emulation, with the device's aarch64 wheels.

Needs no root rights: Debian's packages are fetched with a private apt configuration and unpacked, never installed.
QEMU is Debian 13's (10.x): Debian 12's 7.2 crashes in LiteRT 2.2 and later. Latency under emulation means nothing.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bloodedge.errors import disk_errors

REPO = Path(__file__).resolve().parents[2]
MIRROR_VARIABLE = "BLOODEDGE_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE, PYTHON, GLIBC_MINOR = "trixie", "3.13", 41
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
"""Their dependencies come too; libstdc++ and libgomp are the wheels'."""
LIMIT_S = 240
"""A download that takes longer is given up."""

APT = """\
Dir::State "{0}/state";
Dir::State::status "{0}/status";
Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
"""


class UnavailableError(Exception):
    """The board cannot be had on this machine; the message is one sentence that says why."""


@dataclass(frozen=True)
class Board:
    """An unpacked board; ``folder`` holds ``emulator``, ``root`` (Debian) and ``wheels``."""

    folder: Path

    @property
    def emulator(self) -> str:
        """The emulator's name and version."""
        text = subprocess.run([self.folder / "emulator", "--version"], capture_output=True, text=True, check=True)
        return text.stdout.splitlines()[0]

    def python(self, cpu: str) -> list[str]:
        """The command that runs the board's Python on an emulated ``cpu``."""
        root = self.folder / "root"
        return [str(self.folder / "emulator"), "-cpu", cpu, "-L", str(root), str(root / f"usr/bin/python{PYTHON}")]

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with the board's wheels and this checkout's device package to import.

        Bytecode is kept in the board's folder: compiling it anew under emulation takes longer than most checks.
        """
        path = [self.folder / "wheels", REPO, REPO / "device"]
        python = {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        return {**os.environ, **python}


def set_up(cache: Path) -> Board:
    """The board, made below ``cache`` unless it is there from last time; UnavailableError where it cannot be had."""
    _check_host()
    packages = _requirements()
    recipe = [SUITE, PYTHON, *PACKAGES, *packages, (REPO / "constraints.txt").read_text(), Path(__file__).read_text()]
    final = cache / f"board-{hashlib.sha256(chr(10).join(recipe).encode()).hexdigest()[:12]}"
    if final.is_dir():
        return Board(final)
    print("Setting up the ARM64 board (once; downloads about 220 MB) ...", flush=True)
    with disk_errors("the ARM64 board"):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as temporary:
            made = Path(temporary) / "made"
            _unpack_debian(Path(temporary) / "apt", made, _mirror())
            _install_wheels(made / "wheels", packages)
            for outdated in cache.glob("board-*"):
                shutil.rmtree(outdated)
            made.rename(final)
    return Board(final)


def _check_host() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"the board is emulated on Linux x86-64 only, and this is {platform.platform()}")
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed, and Debian's packages are fetched with it")
    if not KEYRING.is_file():
        raise UnavailableError(f"{KEYRING} is missing (apt install debian-archive-keyring), nothing could be verified")


def _requirements() -> list[str]:
    """What ``bloodedge[device]`` asks for."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    return sorted(set(project["dependencies"]) | set(project["optional-dependencies"]["device"]))


def _mirror() -> str:
    """The Debian mirror that the environment names, or else the one this machine's apt uses."""
    if named := os.environ.get(MIRROR_VARIABLE):
        return named
    system = platform.freedesktop_os_release()
    if system.get("ID") == "debian":
        form = "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)"
        for line in _run(["apt-get", "indextargets", "--format", form], "apt's sources").splitlines():
            kind, release, component, address = line.split(" ", 3)
            if (kind, release, component) == ("Packages", system.get("VERSION_CODENAME"), "main"):
                return address
    raise UnavailableError(f"no Debian mirror is known here: set {MIRROR_VARIABLE} to one's address")


def _unpack_debian(apt: Path, made: Path, mirror: str) -> None:
    """``emulator`` and ``root`` in ``made``, from packages whose signatures apt has checked; ``apt`` is its scratch."""
    for name in ("state/lists/partial", "cache/archives/partial", "emulator"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    (apt / "apt.conf").write_text(APT.format(apt))
    config = {"APT_CONFIG": str(apt / "apt.conf")}
    _run(["apt-get", "-q", "update"], "Debian's package lists", config)
    _run(["apt-get", "-q", "download", "qemu-user:amd64"], "Debian's qemu-user", config, apt / "emulator")
    _run(["apt-get", "-qy", "install", "--download-only", *PACKAGES], "Debian's ARM64 packages", config)
    for package in (apt / "cache/archives").glob("*.deb"):
        _extract(package, made / "root")
    (made / "root/lib").symlink_to("usr/lib")
    (package,) = (apt / "emulator").glob("*.deb")
    _extract(package, apt / "emulator", "./usr/bin/qemu-aarch64")
    (apt / "emulator/usr/bin/qemu-aarch64").rename(made / "emulator")


def _extract(package: Path, target: Path, *members: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        done = subprocess.run(["tar", "-xC", target, *members], stdin=archive.stdout, check=False)
    if archive.returncode or done.returncode:
        raise UnavailableError(f"{package.name} could not be unpacked")


def _install_wheels(target: Path, packages: Sequence[str]) -> None:
    """The device's requirements as aarch64 wheels in ``target``, in the versions of constraints.txt."""
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
    command += ["--target", str(target), "--python-version", PYTHON, "--only-binary=:all:", "--no-compile"]
    command += [
        *platforms,
        "--platform=manylinux2014_aarch64",
        "--constraint",
        str(REPO / "constraints.txt"),
        *packages,
    ]
    _run(command, "the aarch64 wheels")


def _run(
    command: Sequence[str], what: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    """A command's stdout; UnavailableError with the end of what it said when it fails."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what} could not be had ({error})") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in said if line.startswith(("E:", "Err:", "ERROR"))), said[-1])
        raise UnavailableError(f"{what} could not be had ({first.strip().rstrip('.')})")
    return done.stdout
