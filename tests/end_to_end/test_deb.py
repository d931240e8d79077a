"""The Debian package on a real Debian: installed, run without a network, upgraded, removed and purged.

On Debian 13; BLOODEDGE_DEB_SUITE=bookworm has the same done on Debian 12.
"""

import json
import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import deb
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support.needs import needs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making a Debian root needs root"),
    needs("mmdebstrap"),
]
SUITE = os.environ.get("BLOODEDGE_DEB_SUITE", "trixie")
BOARD = "generic-x86-64"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    return deb.build(tmp_path_factory.mktemp("package"), "--suite", SUITE)


def test_the_bill_names_all_that_is_inside(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    text = (tmp_path / "usr/share/doc/bloodedge-device/sbom.cdx.json").read_text()
    assert text == package.with_suffix(".cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    named = {(one["name"], one["version"]) for one in json.loads(text)["components"]}
    site = deb.Root(tmp_path).site
    inside = {(one.name, one.version) for one in distributions(path=[str(site)])}
    assert named == inside
    assert len(inside) > 15
    for name in ("bloodedge_device/models", "bloodedge_device/firmware_configs/root", "bloodedge_fleet"):
        assert (site / name).is_dir()
    assert not list(tmp_path.rglob("direct_url.json"))  # a path of the machine that built it
    assert not any(path.stat().st_mode & 0o022 for path in tmp_path.rglob("*") if not path.is_symlink())


def test_a_life_on_a_board(package: Path, tmp_path: Path) -> None:
    try:
        root = deb.make_root(tmp_path / "root", SUITE, package)
    except deb.RootError as error:
        pytest.skip(str(error))
    checks = deb.life(root, package, deb.newer(package, tmp_path / "newer"), BOARD)
    assert [what for what, held in checks.items() if not held] == []
    assert len(checks) > 12
