"""The Debian package of the board's program, with all that it needs inside: no compiler and no network on the board.

    python firmware_configs/debian/build.py [--arch amd64|arm64] [--out DIR] [--wheels DIR] [--openvino]

For Debian 12 and Raspberry Pi OS 12 (bookworm, Python 3.11). /opt/bloodedge is a virtual environment that also sees the
system's packages, for picamera2 comes from apt. The package brings the program alone: a board's settings, units and
boot options are written by `bloodedge device provision`, which an upgrade runs again and a removal undoes. Beside the
package, and inside it, lies a bill of materials (CycloneDX 1.6). The same sources and wheels give the same bytes.
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
from importlib.metadata import distributions
from pathlib import Path

from bill import write_bill

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
NAME = "bloodedge-device"
HOME = "opt/bloodedge"
SITE = f"{HOME}/lib/python3.11/site-packages"
PYTHON = "/usr/bin/python3.11"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = range(17, 37)
"""Bookworm has 2.36."""

CONTROL = """Package: {name}
Version: {version}
Architecture: {arch}
Maintainer: bloodedge
Installed-Size: {kib}
Depends: python3.11, libstdc++6, libgomp1
Recommends: {recommends}
Section: science
Priority: optional
Description: leukaemia-cell classifier beside the microscope (research use only)
 Takes frames from a camera, finds white cells, classifies them with an int8
 network, and stores and publishes what it saw. After installing:
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
 Each package's own licence lies in its .dist-info folder; sbom.cdx.json in this
 folder names them all.
"""
ENTRY = f"#!/{HOME}/bin/python3\nimport sys\n\nfrom bloodedge.cli import main\n\nsys.exit(main())\n"
VENV = "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\n"


def main() -> None:
    """Build it and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=MACHINES, default="amd64")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--wheels", type=Path, help="take wheels from this folder and ask no index")
    parser.add_argument("--openvino", action="store_true", help="with OpenVINO, which boards with x86 processors want")
    parser.add_argument("--version", help="another version than the code's, such as 0.1.0+lab1")
    options = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        sys.exit("build.py: the package is for Python 3.11 and is compiled by it; run this with python3.11.")
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_time())
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        fill(root, options.arch, options.wheels, openvino=options.openvino)
        version = options.version or version_of(root)
        print(pack(root, options.out, options.arch, version))


def commit_time() -> str:
    """Seconds since 1970 of the newest commit; 0 outside a checkout."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "0"


def fill(root: Path, arch: str, wheels: Path | None, *, openvino: bool) -> None:
    """Everything but what Debian wants to know about it."""
    site = root / SITE
    install(site, arch, wheels, ["device", *(["openvino"] if openvino else [])])
    shutil.rmtree(site / "bin", ignore_errors=True)
    forget_origin(site)
    compileall.compile_dir(  # what does not compile is a wheel's template of Python
        site, stripdir=root, prependdir="/", quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    binaries = root / HOME / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python3").symlink_to(PYTHON)
    (binaries / "python3.11").symlink_to("python3")
    write(binaries / "bloodedge", ENTRY, 0o755)
    write(root / HOME / "pyvenv.cfg", VENV)
    command = root / "usr/bin/bloodedge"
    command.parent.mkdir(parents=True)
    command.symlink_to(f"/{HOME}/bin/bloodedge")


def install(site: Path, arch: str, wheels: Path | None, extras: list[str]) -> None:
    """This project's wheel and all that it needs, for another machine if need be."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as name:
        run([*pip, "wheel", "--no-deps", "--wheel-dir", name, str(REPO)])
        (wheel,) = Path(name).glob("*.whl")
        platforms = [f"manylinux_2_{minor}_{MACHINES[arch]}" for minor in GLIBC]
        platforms += [f"manylinux2014_{MACHINES[arch]}", f"linux_{MACHINES[arch]}"]
        target = [word for platform in platforms for word in ("--platform", platform)]
        target += ["--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:"]
        source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
        what = f"{wheel}[{','.join(extras)}]"
        constraints = ["--constraint", str(REPO / "constraints.txt")]
        run([*pip, "install", "--no-compile", "--target", str(site), *target, *source, *constraints, what])


def forget_origin(site: Path) -> None:
    """Remove pip's note of where the project's wheel lay, a path of this machine and of this moment."""
    (note,) = site.glob("bloodedge-*.dist-info/direct_url.json")
    record = note.with_name("RECORD")
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if note.name not in line))
    note.unlink()


def version_of(root: Path) -> str:
    """The project's own, as it was installed."""
    return next(one.version for one in distributions(path=[str(root / SITE)]) if one.name == "bloodedge")


def pack(root: Path, out: Path, arch: str, version: str) -> Path:
    """The package's file."""
    package = out / f"{NAME}_{version}_{arch}.deb"
    documents = root / "usr/share/doc" / NAME
    bill = documents / "sbom.cdx.json"
    write_bill(root / SITE, bill, NAME, version, int(os.environ["SOURCE_DATE_EPOCH"]))
    write(documents / "copyright", COPYRIGHT.format(site=SITE))
    news = f"{NAME} ({version}) bookworm; urgency=medium\n\n  * See the project's history.\n\n -- bloodedge\n"
    (documents / "changelog.gz").write_bytes(gzip.compress(news.encode(), mtime=0))
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    kib = sum(path.stat().st_size for path in files) // 1024
    recommends = "python3-picamera2, systemd-zram-generator" if arch == "arm64" else "systemd-zram-generator"
    control = root / "DEBIAN"
    values = {"name": NAME, "version": version, "arch": arch, "kib": kib, "recommends": recommends}
    write(control / "control", CONTROL.format(**values))
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
    """Run a command, and end with a sentence when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, check=False)
    if done.returncode:
        sys.exit(f"build.py: {command[0]} failed, see above.")


if __name__ == "__main__":
    main()
