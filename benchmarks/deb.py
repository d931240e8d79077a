"""The Debian package on a clean root: time to the first classified frame without a network; its life on an ARM64 board.

    python benchmarks/deb.py [--suite trixie|bookworm] [--times 5] [--package FILE.deb] [--json results/deb.json]
    python benchmarks/deb.py --arch arm64 [--suite ...] [--package FILE.deb] [--json results/deb_arm64.json]

A root is made with mmdebstrap (what is essential, and what the package depends on); in a copy of it the package is
installed with dpkg and `bloodedge device run` started on the simulated microscope, in namespaces whose only network
interface is loopback. With --arch arm64 the root is a board's: its own dpkg, shell and Python run on QEMU under proot,
and what is recorded is what held in a life of the package, never a time. Needs root, mmdebstrap, and for arm64 proot.
"""

import argparse
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from bloodedge.files import write_json
from bloodedge.machine import hardware_name

REPO = Path(__file__).resolve().parents[1]
BUILD = REPO / "firmware_configs" / "debian" / "build.py"
MIRROR_VARIABLE = "BLOODEDGE_DEBIAN_MIRROR"
SUITES = ("trixie", "bookworm")
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
"""What is only unpacked has a bookworm's /usr still apart from its root."""
CPU = "cortex-a76"
"""The Raspberry Pi 5's; emulated."""
MOST_S = 60.0
WAIT_S = 900
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/srv", "LANG=C.UTF-8")
INSIDE = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
ip link set lo up 2>/dev/null || true
exec chroot "$@"
"""
"""In namespaces of its own: mounts, network, processes. Arguments: the root, the command."""
INSIDE_EMULATED = """
set -e
mount -t proc proc /proc
mount --bind "$1" "$1"
mount -t tmpfs tmpfs "$1/run"
ip link set lo up 2>/dev/null || true
root=$1 emulator=$2
shift 2
exec proot -q "$emulator" -r "$root" -b /proc -b /dev -w / "$@"
"""
"""The same where the kernel has no binfmt_misc: proot gives every program of the root to the emulator."""
SECOND_STAGE = """
export DEBIAN_FRONTEND=noninteractive
cd /var/cache/apt/archives
dpkg --install --force-depends base-passwd_*.deb base-files_*.deb
dpkg --install --force-depends *.deb
dpkg --configure --pending
rm *.deb
test -z "$(dpkg --audit)"
"""
"""Has the board's own dpkg install what was only unpacked."""
UNIT = "etc/systemd/system/bloodedge-device.service"
SETTINGS = "etc/bloodedge/device.toml"
WRONG = "raise ValueError('numpy.dtype size changed')\n"
DISTURBING = {"only_system": "", "numpy": WRONG, "simplejpeg": WRONG}
"""Python packages of the system: one as picamera2 is, others as they are beside it on bookworm."""
ORDERED = "the system's Python packages are seen, and the package's own come first"
ORDER = "import only_system, numpy; assert numpy.__file__.startswith('/opt/bloodedge/')"
JPEG = "import numpy, simplejpeg; simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(numpy.zeros((8, 8, 3), 'uint8')))"


class RootError(Exception):
    """A root could not be made, or a command failed in it; the message ends with what it said."""


@dataclass(frozen=True)
class Root:
    """A Debian root in a folder; of another architecture where there is an emulator to run it."""

    folder: Path
    emulator: Path | None = None

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command inside, with no network."""
        own = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "env", "-i", *ENVIRONMENT, "sh", "-c"]
        if self.emulator is None:
            return [*own, INSIDE, "sh", str(self.folder), *command]
        return [*own, INSIDE_EMULATED, "sh", str(self.folder), f"{self.emulator} -cpu {CPU}", *command]

    def run(self, *command: str) -> str:
        """Run a command inside and give what it said; RootError where it fails."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, check=False, timeout=WAIT_S)
        if done.returncode:
            raise RootError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout + done.stderr

    def runs(self, *command: str) -> bool:
        """Whether a command inside ends well."""
        try:
            self.run(*command)
        except RootError:
            return False
        return True

    def install(self, package: Path) -> str:
        """Have dpkg install a package inside."""
        shutil.copy(package, self.folder / "srv" / package.name)
        try:
            return self.run("dpkg", "-i", f"/srv/{package.name}")
        finally:
            (self.folder / "srv" / package.name).unlink()

    @property
    def site(self) -> Path:
        """Where the installed package keeps its Python packages."""
        return next((self.folder / "opt/bloodedge/lib").glob("python3.*")) / "site-packages"


def build(out: Path, *more: str) -> Path:
    """The package's file, built from the checkout."""
    done = subprocess.run(
        [sys.executable, BUILD, "--out", out, *more], capture_output=True, text=True, check=False, cwd=REPO
    )
    if done.returncode:
        raise RootError(f"the package could not be built: {(done.stderr or done.stdout).strip()[-500:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def make_root(folder: Path, suite: str, package: Path, emulator: Path | None = None) -> Root:
    """A clean Debian with what the package depends on."""
    said = subprocess.run(["dpkg-deb", "-f", package, "Depends"], capture_output=True, text=True, check=True).stdout
    names = ",".join(one.split()[0] for one in said.split(","))
    command = ["mmdebstrap", "--quiet", f"--include={names}"]
    if emulator is None:
        command += ["--variant=minbase"]
    else:
        command += ["--variant=extract", "--architectures=arm64", "--include=?essential", "--skip=cleanup"]
        command += [f"--hook-dir={MERGED}"]
    mirror = os.environ.get(MIRROR_VARIABLE)
    command += [suite, str(folder), *([mirror] if mirror else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RootError(f"no Debian root could be made: {done.stderr.strip()[-500:]}")
    root = Root(folder, emulator)
    if emulator is not None:
        root.run("sh", "-ec", SECOND_STAGE)
    return root


def newer(package: Path, folder: Path) -> Path:
    """The package again, as a later version: one unit and one module changed, one Python package gone, no bytecode."""
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    control = folder / "DEBIAN" / "control"
    control.write_text(re.sub("(?m)^Version: .*", "Version: 99", control.read_text()))
    site = Root(folder).site
    for bytecode in list(site.rglob("__pycache__")):
        shutil.rmtree(bytecode)
    shutil.rmtree(site / "bloodedge_fleet")
    for path, line in ((unit_source(site), "# version 99\n"), (site / "bloodedge/__init__.py", '__version__ = "99"\n')):
        path.write_text(path.read_text() + line)
    made = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "-Znone", "--build", folder, made], check=True, capture_output=True)
    return made


def unit_source(site: Path) -> Path:
    """Where the package keeps the daemon's unit until provisioning writes it."""
    return site / "bloodedge_device/firmware_configs/root" / UNIT


def life(root: Root, package: Path, later: Path, board: str) -> dict[str, bool]:
    """What held, by sentence, from a package's installing to its purge; the root has no bloodedge before and after."""
    return {
        **installed(root, package),
        **classified(root),
        **beside_the_system(root, package),
        **upgraded(root, later, board),
        **removed(root),
    }


def installed(root: Root, package: Path) -> dict[str, bool]:
    """After dpkg has run the package's scripts."""
    said = root.install(package)
    folders = {path.parent for path in root.site.rglob("*.py")}
    return {
        "installing says what comes next": "bloodedge device provision --board auto" in said,
        "bytecode lies beside the sources": all(any(folder.glob("__pycache__/*.pyc")) for folder in folders),
    }


def classified(root: Root) -> dict[str, bool]:
    """After eight frames of the simulated microscope."""
    root.run("bloodedge", "device", "run", "--state", "/srv/state", "--no-page", "--frames", "8")
    with closing(sqlite3.connect(root.folder / "srv/state/device.sqlite")) as database:
        (cells,) = database.execute("SELECT count(*) FROM cells WHERE blast_probability IS NOT NULL").fetchone()
    return {"it classifies cells without a network": cells > 0}


def beside_the_system(root: Root, package: Path) -> dict[str, bool]:
    """With Python packages of the system there, as picamera2 is on a Raspberry Pi."""
    system = root.folder / "usr/lib/python3/dist-packages"
    for name, text in DISTURBING.items():
        (system / name).mkdir(parents=True)
        (system / name / "__init__.py").write_text(text)
    checks = {ORDERED: root.runs("/opt/bloodedge/bin/python3", "-c", ORDER)}
    if "+deb12_arm64" in package.name:  # where picamera2's own simplejpeg is built for numpy 1
        checks["simplejpeg goes with its numpy"] = root.runs("/opt/bloodedge/bin/python3", "-c", JPEG)
    for name in DISTURBING:
        shutil.rmtree(system / name)
    return checks


def upgraded(root: Root, later: Path, board: str) -> dict[str, bool]:
    """After it was made a board, somebody changed its settings by hand, and a newer package came."""
    root.run("bloodedge", "device", "provision", "--board", board, "--yes")
    provisioned = (root.folder / UNIT).read_text() == unit_source(root.site).read_text()
    by_hand = (root.folder / SETTINGS).read_text() + "# by hand\n"
    (root.folder / SETTINGS).write_text(by_hand)
    root.install(later)
    return {
        "provisioning writes the unit": provisioned,
        "an upgrade brings the units up to date": (root.folder / UNIT).read_text().endswith("# version 99\n"),
        "an upgrade keeps settings changed by hand": (root.folder / SETTINGS).read_text() == by_hand,
        "the new sources run, not the old bytecode": "99" in root.run("bloodedge", "--version"),
        "an upgrade takes away what is no longer in it": not (root.site / "bloodedge_fleet").exists(),
    }


def removed(root: Root) -> dict[str, bool]:
    """After its removal and its purge, on a board that has settings, a key and results."""
    settings, key = root.folder / SETTINGS, root.folder / "etc/bloodedge/trust/lab.pub"
    results = root.folder / "var/lib/bloodedge/device.sqlite"
    by_hand = settings.read_text()
    for path in (key, results):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a person's")
    said = root.run("dpkg", "-r", "bloodedge-device")
    left = [path for path in ("opt/bloodedge", "usr/bin/bloodedge", UNIT) if os.path.lexists(root.folder / path)]
    kept = settings.read_text() == by_hand and key.exists()
    purged = root.run("dpkg", "-P", "bloodedge-device")
    return {
        "a removal leaves nothing of the program": not left and "not empty" not in said,
        "a removal leaves settings changed by hand, and keys": kept,
        "a purge takes settings and keys": not (root.folder / "etc/bloodedge").exists(),
        "a purge leaves the results, and says so": results.read_text() == "a person's" and "results are kept" in purged,
    }


def first_frame_s(root: Root) -> float:
    """Seconds from starting the daemon inside a root to its first classified cell being stored."""
    command = root.command("bloodedge", "device", "run", "--state", "/srv/state", "--no-page")
    began = monotonic()
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "First cell stored" in line:
                took_s = monotonic() - began
                process.kill()  # unshare itself heeds no SIGTERM; its child goes with it
                return took_s
    raise RootError(f"no cell was stored: {''.join(said)[-500:]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    parser.add_argument("--times", type=int, default=5, help="turns that are timed (amd64 only)")
    parser.add_argument("--package", type=Path, help="default: one is built; for amd64 with OpenVINO")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    tools = ["mmdebstrap", *(["proot"] if options.arch == "arm64" else [])]
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in tools):
        sys.exit(f"deb.py: needs root and {' and '.join(tools)} (apt install {' '.join(tools)}).")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            result = measure(folder, options)
        except RootError as error:
            sys.exit(f"deb.py: {error}")
    print("\n".join(f"{key}: {value}" for key, value in result.items()))
    if options.json is not None:
        write_json(options.json, result)
    sys.exit(0 if result["right"] else 1)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What is recorded of one package."""
    more = ["--suite", options.suite, "--arch", options.arch, *(["--openvino"] if options.arch == "amd64" else [])]
    package = options.package or build(folder, *more)
    size = {"package": package.name, "package_mib": round(package.stat().st_size / 2**20, 1)}
    return {**size, **(emulated if options.arch == "arm64" else timed)(folder, options, package)}


def timed(folder: Path, options: argparse.Namespace, package: Path) -> dict[str, Any]:
    """Seconds on this machine."""
    clean = make_root(folder / "clean", options.suite, package)
    turns = [turn(clean, Root(folder / "turn"), package) for _ in range(options.times)]
    whole = [installing + starting for installing, starting in turns]
    return {
        "command": f"python benchmarks/deb.py --suite {options.suite} --times {options.times}",
        "cpu": hardware_name(),
        "installed_mib": size_mib(folder / "turn" / "opt/bloodedge"),
        "install_s": round(median(installing for installing, _ in turns), 2),
        "start_to_first_cell_s": round(median(starting for _, starting in turns), 2),
        "together_s": round(median(whole), 2),
        "together_most_s": round(max(whole), 2),
        "goal_s": MOST_S,
        "right": max(whole) < MOST_S,
    }


def emulated(folder: Path, options: argparse.Namespace, package: Path) -> dict[str, Any]:
    """What held on a board; nothing of how long it took, for it is emulated."""
    sys.path.insert(0, str(REPO / "benchmarks" / "arm64"))
    from board import UnavailableError, set_up  # type: ignore[import-not-found]  # below arm64/

    try:
        board = set_up(REPO / ".cache" / "arm64")
    except UnavailableError as error:
        raise RootError(str(error)) from error
    root = make_root(folder / "root", options.suite, package, board.folder / "emulator")
    machine = root.run("/usr/bin/uname", "-m").strip()
    debian = (root.folder / "etc/debian_version").read_text().strip()
    checks = life(root, package, newer(package, folder / "newer"), "generic-arm64")
    return {
        "command": f"python benchmarks/deb.py --arch arm64 --suite {options.suite}",
        "board": f"Debian {debian}, {machine}",
        "emulator": f"{board.emulator}, {CPU}, under proot",
        "checks": checks,
        "not_run": ["systemd: no unit was started", "a camera", "times: an emulator's mean nothing"],
        "right": all(checks.values()),
    }


def turn(clean: Root, root: Root, package: Path) -> tuple[float, float]:
    """(seconds for dpkg, seconds from the daemon's start to its first classified cell) in a fresh copy of a root."""
    shutil.rmtree(root.folder, ignore_errors=True)
    subprocess.run(["cp", "-a", clean.folder, root.folder], check=True)
    os.sync()
    began = monotonic()
    root.install(package)
    took_s = monotonic() - began
    return took_s, first_frame_s(root)


def size_mib(folder: Path) -> float:
    """What a folder's files take."""
    return round(sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 2**20, 1)


if __name__ == "__main__":
    main()
