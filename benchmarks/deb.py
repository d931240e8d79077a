"""From the Debian package on a clean root to the first classified frame, without a network.

    python benchmarks/deb.py [--times 5] [--package FILE.deb] [--json benchmarks/results/deb.json]

A root is made with mmdebstrap (Debian 12, minbase, and what the package depends on); in a copy of it the package is
installed with dpkg and `bloodedge device run` started on the simulated microscope, both in a network namespace with no
interface but loopback. Needs root.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import monotonic

from bloodedge.files import write_json
from bloodedge.host import hardware_name

REPO = Path(__file__).resolve().parents[1]
BUILD = REPO / "firmware_configs" / "debian" / "build.py"
INCLUDE = "python3.11,libstdc++6,libgomp1"
MOST_S = 60.0
INSIDE = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
ip link set lo up 2>/dev/null || true
root=$1
shift
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv LANG=C.UTF-8 "$@"
"""
"""In namespaces of its own: mounts, network, processes."""


def build(out: Path, *more: str) -> Path:
    """The package's file, built from the checkout."""
    done = subprocess.run(
        [sys.executable, BUILD, "--out", out, *more], capture_output=True, text=True, check=False, cwd=REPO
    )
    if done.returncode:
        raise RuntimeError(f"the package could not be built: {(done.stderr or done.stdout).strip()[-500:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def make_root(folder: Path) -> None:
    """A clean Debian 12 with what the package depends on."""
    command = ["mmdebstrap", "--variant=minbase", f"--include={INCLUDE}", "--quiet", "bookworm", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no Debian root could be made: {done.stderr.strip()[-500:]}")


def inside(root: Path, *command: str) -> list[str]:
    """The command line that runs a command inside a root, with no network."""
    own = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    return [*own, "sh", "-c", INSIDE, "sh", str(root), *command]


def run_inside(root: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command inside a root and wait for it."""
    return subprocess.run(inside(root, *command), capture_output=True, text=True, check=False, timeout=300)


def install(root: Path, package: Path) -> "subprocess.CompletedProcess[str]":
    """Have dpkg install a package inside a root."""
    shutil.copy(package, root / "srv" / package.name)
    done = run_inside(root, "dpkg", "-i", f"/srv/{package.name}")
    (root / "srv" / package.name).unlink()
    return done


def first_frame_s(root: Path) -> float:
    """Seconds from starting the daemon inside a root to its first classified cell being stored."""
    command = inside(root, "bloodedge", "device", "run", "--state", "/srv/state", "--no-page")
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
    raise RuntimeError(f"no cell was stored: {''.join(said)[-500:]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--package", type=Path, help="an amd64 package; default: one is built, with OpenVINO")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        sys.exit("deb.py: needs root and mmdebstrap (apt install mmdebstrap).")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        package = options.package or build(folder, "--openvino")
        make_root(folder / "clean")
        turns = [measure(folder, package) for _ in range(options.times)]
        installed_mib = size_mib(folder / "turn" / "opt/bloodedge")
        whole = [installing + starting for installing, starting in turns]
        result = {
            "command": f"python benchmarks/deb.py --times {options.times}",
            "cpu": hardware_name(),
            "package": re.sub(r"^.*?_", "bloodedge-device_", package.name),
            "package_mib": round(package.stat().st_size / 2**20, 1),
            "installed_mib": installed_mib,
            "install_s": round(median(installing for installing, _ in turns), 2),
            "start_to_first_cell_s": round(median(starting for _, starting in turns), 2),
            "together_s": round(median(whole), 2),
            "together_most_s": round(max(whole), 2),
            "goal_s": MOST_S,
        }
    print("\n".join(f"{key}: {value}" for key, value in result.items()))
    if options.json is not None:
        write_json(options.json, result)
    sys.exit(0 if max(whole) < MOST_S else 1)


def measure(folder: Path, package: Path) -> tuple[float, float]:
    """(seconds for dpkg, seconds from the daemon's start to its first classified cell) in a fresh copy of the root."""
    turn = folder / "turn"
    shutil.rmtree(turn, ignore_errors=True)
    subprocess.run(["cp", "-a", folder / "clean", turn], check=True)
    os.sync()
    began = monotonic()
    done = install(turn, package)
    if done.returncode:
        raise RuntimeError(f"dpkg failed: {done.stderr.strip()[-500:]}")
    took_s = monotonic() - began
    return took_s, first_frame_s(turn)


def size_mib(folder: Path) -> float:
    """What a folder's files take."""
    return round(sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 2**20, 1)


if __name__ == "__main__":
    main()
