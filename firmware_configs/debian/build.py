"""Build the Debian package of the board's program with all its dependencies: a board needs no compiler or network.

    python firmware_configs/debian/build.py [--suite trixie|bookworm] [--arch amd64|arm64] [--out DIR] [--wheels DIR]
        [--openvino]

For Debian and Raspberry Pi OS 13 (trixie, Python 3.13) or 12 (bookworm, Python 3.11). /opt/bloodedge is a virtual
environment that also sees the system's packages, because picamera2 comes from apt. The package contains the program
only: `bloodedge device provision` writes a board's settings, units and boot options; an upgrade runs it again and a
removal undoes it. A bill of materials (CycloneDX 1.6) is inside the package and beside it. Any Python from 3.11 on
builds the package; it contains bytecode if that is the suite's Python, else the board compiles it. The same sources and
wheels (and, with bytecode, the same Python) give the same bytes.
"""

import argparse
import compileall
import gzip
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from bill import write_bill
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
NAME = "bloodedge-device"
HOME = "opt/bloodedge"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Suite:
    """A release of Debian."""

    name: str
    number: int
    python: str
    glibc_minor: int
    """Minor version of glibc 2."""
    gcc: int
    """Version of GCC whose libstdc++ and libgomp it has."""

    @property
    def site(self) -> str:
        """Folder of the Python packages, below the root."""
        return f"{HOME}/lib/python{self.python}/site-packages"

    @property
    def runs_here(self) -> bool:
        """Whether this Python is the suite's, so that its bytecode fits."""
        return self.python == f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def depends(self) -> str:
        """The field of the package's control file."""
        libraries = f"libc6 (>= 2.{self.glibc_minor}), libstdc++6 (>= {self.gcc}), libgomp1 (>= {self.gcc})"
        return f"python{self.python}, {libraries}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("trixie", 13, "3.13", glibc_minor=41, gcc=14),
        Suite("bookworm", 12, "3.11", glibc_minor=36, gcc=12),
    )
}

CONTROL = """Package: {name}
Version: {version}
Architecture: {arch}
Maintainer: bloodedge
Installed-Size: {kib}
Depends: {depends}
Recommends: {recommends}
Section: science
Priority: optional
Description: leukaemia-cell classifier beside the microscope (research use only)
 Takes frames from a camera, finds white cells, classifies them with an int8
 network, stores and publishes the results. After installing:
 bloodedge device provision --board auto
"""
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: bloodedge

Files: *
Copyright: the authors of bloodedge
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.

Files: {site}/*
Copyright: the authors of each package
License: other
 Each package's own licence is in its .dist-info folder; sbom.cdx.json in this
 folder names them all.
"""
ENTRY = f"#!/{HOME}/bin/python3\nimport sys\n\nfrom bloodedge.cli import main\n\nsys.exit(main())\n"
VENV = "home = /usr/bin\ninclude-system-site-packages = true\nversion = {python}\n"


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="trixie")
    parser.add_argument("--arch", choices=MACHINES, default="amd64")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--wheels", type=Path, help="take wheels from this folder only")
    parser.add_argument("--openvino", action="store_true", help="with OpenVINO, for boards with x86 processors")
    parser.add_argument("--version", help="version of the package, such as 0.1.0+lab1; default: the code's")
    options = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        sys.exit("build.py: dpkg-deb is missing; install the package dpkg.")
    suite = SUITES[options.suite]
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_time())
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        fill(root, suite, options.arch, options.wheels, openvino=options.openvino)
        version = f"{options.version or version_of(root / suite.site)}+deb{suite.number}"
        print(pack(root, suite, options.out, options.arch, version))


def commit_time() -> str:
    """Seconds since 1970 of the newest commit; 0 outside a checkout."""
    if shutil.which("git") is None:
        return "0"
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "0"


def fill(root: Path, suite: Suite, arch: str, wheels: Path | None, *, openvino: bool) -> None:
    """Fill the package's root, without Debian's control files."""
    site = root / suite.site
    install(site, suite, arch, wheels, ["device", *(["openvino"] if openvino else [])])
    shutil.rmtree(site / "bin", ignore_errors=True)
    forget_origin(site)
    if suite.runs_here:
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        # Files that do not compile are templates in wheels.
        compileall.compile_dir(site, stripdir=root, prependdir="/", quiet=2, invalidation_mode=unchecked)
    binaries = root / HOME / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python3").symlink_to(f"/usr/bin/python{suite.python}")
    (binaries / f"python{suite.python}").symlink_to("python3")
    write(binaries / "bloodedge", ENTRY, 0o755)
    write(root / HOME / "pyvenv.cfg", VENV.format(python=suite.python))
    command = root / "usr/bin/bloodedge"
    command.parent.mkdir(parents=True)
    command.symlink_to(f"/{HOME}/bin/bloodedge")


def install(site: Path, suite: Suite, arch: str, wheels: Path | None, extras: list[str]) -> None:
    """Install this project's wheel and its dependencies, for the suite's Python and the target's machine."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as name:
        run([*pip, "wheel", "--no-deps", "--wheel-dir", name, str(REPO)])
        (wheel,) = Path(name).glob("*.whl")
        platforms = [f"manylinux_2_{minor}_{MACHINES[arch]}" for minor in range(17, suite.glibc_minor + 1)]
        platforms += [f"manylinux2014_{MACHINES[arch]}", f"linux_{MACHINES[arch]}"]
        target = [word for platform in platforms for word in ("--platform", platform)]
        target += ["--python-version", suite.python, "--implementation", "cp", "--only-binary", ":all:"]
        source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
        what = f"{wheel}[{','.join(extras)}]"
        constraints = ["--constraint", str(REPO / "constraints.txt")]
        run([*pip, "install", "--no-compile", "--target", str(site), *target, *source, *constraints, what])
    if missing := lacking(site, suite.python, MACHINES[arch]):
        sys.exit(f"build.py: the package lacks {', '.join(missing)}; run this with Python {suite.python}.")


def lacking(site: Path, python: str, machine: str) -> list[str]:
    """Missing dependencies of a folder's distributions on a Python: pip evaluates conditions for its own Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine}
    installed = list(distributions(path=[str(site)]))
    names = {canonicalize_name(package.name) for package in installed}
    stated = [Requirement(text) for package in installed for text in package.requires or ()]
    needed = [need for need in stated if need.marker is None or need.marker.evaluate({**environment, "extra": ""})]
    return sorted({need.name for need in needed if canonicalize_name(need.name) not in names})


def forget_origin(site: Path) -> None:
    """Remove pip's record of the wheel's path on this machine."""
    (note,) = site.glob("bloodedge-*.dist-info/direct_url.json")
    record = note.with_name("RECORD")
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if note.name not in line))
    note.unlink()


def version_of(site: Path) -> str:
    """The installed project's version."""
    return next(package.version for package in distributions(path=[str(site)]) if package.name == "bloodedge")


def pack(root: Path, suite: Suite, out: Path, arch: str, version: str) -> Path:
    """Build the package's file; returns its path."""
    package = out / f"{NAME}_{version}_{arch}.deb"
    documents = root / "usr/share/doc" / NAME
    bill = documents / "sbom.cdx.json"
    write_bill(root / suite.site, bill, NAME, version, int(os.environ["SOURCE_DATE_EPOCH"]))
    write(documents / "copyright", COPYRIGHT.format(site=suite.site))
    news = f"{NAME} ({version}) {suite.name}; urgency=medium\n\n  * See the project's history.\n\n -- bloodedge\n"
    (documents / "changelog.gz").write_bytes(gzip.compress(news.encode(), mtime=0))
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    kib = sum(path.stat().st_size for path in files) // 1024
    recommends = "python3-picamera2, systemd-zram-generator" if arch == "arm64" else "systemd-zram-generator"
    control = root / "DEBIAN"
    values = {"name": NAME, "version": version, "arch": arch, "kib": kib, "recommends": recommends}
    write(control / "control", CONTROL.format(depends=suite.depends, **values))
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)  # noqa: S324  # Debian's format
    write(control / "md5sums", sums)
    for script in ("postinst", "prerm", "postrm"):
        write(control / script, (HERE / script).read_text(), 0o755)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--build", str(root), str(package)], quiet=True)
    shutil.copy(bill, package.with_suffix(".cdx.json"))
    return package


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file with these permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def run(command: list[str], *, quiet: bool = False) -> None:
    """Run a command; exit with a sentence when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, check=False)
    if done.returncode:
        sys.exit(f"build.py: {command[0]} failed, see above.")


if __name__ == "__main__":
    main()
