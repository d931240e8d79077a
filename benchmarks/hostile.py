"""Damaged bundles that must be refused, for benchmarks and tests."""

import zipfile
from pathlib import Path

from bloodedge.bundle import zip_files


def turn_a_bit(bundle: Path, ending: str = "") -> Path:
    """Turn over one bit in the middle of a bundle's largest file whose name ends so; gives the bundle."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = max((name for name in files if name.endswith(ending)), key=lambda name: len(files[name]))
    middle = len(files[name]) // 2
    files[name] = files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]
    zip_files(files, bundle)
    return bundle
