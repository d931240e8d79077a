"""A hint's command is one that works for this copy: no package index has bloodedge."""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bloodedge import installation
from bloodedge.installation import install_hint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation.sys, "executable", "/opt/env/bin/python")
    monkeypatch.setattr(installation.shutil, "which", lambda _: "/opt/env/bin/pip")
    monkeypatch.setattr(installation, "DPKG", tmp_path)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that an installed copy lies in."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(installation, "ROOT", folder)
    return folder


def noted(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    """What pip noted of where it had the package from; None: nothing."""

    class Distribution:
        def read_text(self, _name: str) -> str | None:
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Distribution())


def test_a_checkout_is_installed_again_in_its_folder() -> None:
    assert install_hint("convert") == f"install it with: cd {ROOT} && pip install -e '.[convert]'"


def test_another_pip_on_the_path_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.shutil, "which", lambda _: "/usr/bin/pip")
    assert "&& /opt/env/bin/python -m pip install -e" in install_hint("convert")


@pytest.mark.usefixtures("site")
def test_a_wheels_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "bloodedge-0.1.0-py3-none-any.whl"
    noted(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    assert install_hint("train") == (
        "install it with: pip install 'FOLDER/bloodedge-0.1.0-py3-none-any.whl[train]'"  # it is gone
    )
    wheel.parent.mkdir()
    wheel.touch()
    assert install_hint("train") == f"install it with: pip install '{wheel}[train]'"


@pytest.mark.usefixtures("site")
def test_a_folder_or_repository_that_pip_had_it_from_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted(monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {}})
    assert install_hint("fleet") == f"install it with: cd {tmp_path} && pip install '.[fleet]'"
    noted(monkeypatch, {"url": "https://me:token@git.example/bloodedge.git", "vcs_info": {"vcs": "git"}})
    assert install_hint("fleet").endswith("pip install 'bloodedge[fleet] @ git+https://***@git.example/bloodedge.git'")


@pytest.mark.usefixtures("site")
def test_where_pip_noted_nothing_the_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    noted(monkeypatch, None)
    assert install_hint("sweep") == "install it with: pip install '.[sweep]', in a copy of bloodedge's source"


def test_the_debian_package_names_apt_and_what_it_does_not_hold(site: Path, tmp_path: Path) -> None:
    (tmp_path / "bloodedge-device.list").write_text(f"/.\n{site}\n{site}/bloodedge\n")
    assert install_hint("device") == (
        "reinstall the package with: sudo apt install --reinstall ./bloodedge-device_VERSION_ARCH.deb"
    )
    assert "the Debian package does not include it" in install_hint("convert")


def test_no_hint_asks_a_package_index_for_bloodedge() -> None:
    """Every file of every package."""
    asks = re.compile(r"pip install [^\n]*['\"]?bloodedge\[")
    folders = ("bloodedge", "train", "convert", "device", "fleet", "firmware_configs", "benchmarks", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "README.md", *(ROOT / "firmware_configs").rglob("*.md"), ROOT / "run"]
    mine = {Path(__file__), Path(installation.__file__)}
    assert [path.name for path in files if path not in mine and asks.search(path.read_text())] == []
