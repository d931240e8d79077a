"""The Debian package on a real Debian: installed, run without a network, upgraded, removed and purged."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import deb

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian root needs root"),
    pytest.mark.skipif(
        shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed (apt install mmdebstrap)"
    ),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the package is built by Python 3.11"),
]
SITE = "opt/bloodedge/lib/python3.11/site-packages"
UNIT = "etc/systemd/system/bloodedge-device.service"
SETTINGS = "etc/bloodedge/device.toml"
BOARD = "generic-x86-64"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    return deb.build(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean Debian; the tests of this file change it one after the other."""
    folder = tmp_path_factory.mktemp("debian") / "root"
    try:
        deb.make_root(folder)
    except RuntimeError as error:
        pytest.skip(str(error))
    return folder


def newer(package: Path, folder: Path) -> Path:
    """The package again, of a later version, with one line more in a unit."""
    subprocess.run(["dpkg-deb", "-R", package, folder], check=True)
    control = folder / "DEBIAN" / "control"
    text = control.read_text()
    version = next(line for line in text.splitlines() if line.startswith("Version: "))
    control.write_text(text.replace(version, "Version: 99"))
    unit = folder / SITE / "bloodedge_device/firmware_configs/root" / UNIT
    unit.write_text(unit.read_text() + "# version 99\n")
    made = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "-Znone", "--build", folder, made], check=True, capture_output=True)
    return made


def test_the_bill_names_all_that_is_inside(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    text = (tmp_path / "usr/share/doc/bloodedge-device/sbom.cdx.json").read_text()
    assert text == package.with_suffix(".cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    named = {(one["name"], one["version"]) for one in json.loads(text)["components"]}
    inside = {(one.name, one.version) for one in distributions(path=[str(tmp_path / SITE)])}
    assert named == inside
    assert len(inside) > 15
    for name in ("bloodedge_device/models", "bloodedge_device/firmware_configs/root", "bloodedge_fleet"):
        assert (tmp_path / SITE / name).is_dir()
    assert not list(tmp_path.rglob("direct_url.json"))  # a path of the machine that built it
    assert not any(path.stat().st_mode & 0o022 for path in tmp_path.rglob("*") if not path.is_symlink())


def test_a_life_on_a_board(package: Path, root: Path, tmp_path: Path) -> None:
    done = deb.install(root, package)
    assert done.returncode == 0, done.stderr
    assert "bloodedge device provision --board auto" in done.stdout

    # It classifies, with no network.
    ran = deb.run_inside(root, "bloodedge", "device", "run", "--state", "/srv/state", "--no-page", "--frames", "8")
    assert ran.returncode == 0, ran.stderr
    with closing(sqlite3.connect(root / "srv/state/device.sqlite")) as database:
        (classified,) = database.execute("SELECT count(*) FROM cells WHERE blast_probability IS NOT NULL").fetchone()
    assert classified > 0

    # It is made a board, and somebody changes its settings by hand.
    done = deb.run_inside(root, "bloodedge", "device", "provision", "--board", BOARD, "--yes")
    assert done.returncode == 0, done.stderr
    assert (root / UNIT).is_file()
    by_hand = (root / SETTINGS).read_text() + "# by hand\n"
    (root / SETTINGS).write_text(by_hand)
    key = root / "etc/bloodedge/trust/lab.pub"
    key.parent.mkdir()
    key.write_text("a key")
    results = root / "var/lib/bloodedge/device.sqlite"
    results.parent.mkdir(parents=True)
    results.write_text("results")

    # An upgrade brings the units up to date and leaves the rest.
    done = deb.install(root, newer(package, tmp_path / "newer"))
    assert done.returncode == 0, done.stderr
    assert (root / UNIT).read_text().endswith("# version 99\n")
    assert (root / SETTINGS).read_text() == by_hand

    # A removal leaves what is a person's.
    done = deb.run_inside(root, "dpkg", "-r", "bloodedge-device")
    assert done.returncode == 0, done.stderr
    assert "not empty" not in done.stderr
    assert not (root / "opt/bloodedge").exists()
    assert not os.path.lexists(root / "usr/bin/bloodedge")
    assert not (root / UNIT).exists()
    assert (root / SETTINGS).read_text() == by_hand
    assert key.exists()

    # A purge leaves the results alone, and says so.
    done = deb.run_inside(root, "dpkg", "-P", "bloodedge-device")
    assert done.returncode == 0, done.stderr
    assert "results are kept in /var/lib/bloodedge" in done.stdout
    assert not (root / "etc/bloodedge").exists()
    assert results.read_text() == "results"
