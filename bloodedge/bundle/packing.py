"""Packing files into a bundle's zip."""

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path


def zip_folder(folder: Path, target: Path) -> None:
    """Pack ``folder``'s files into the zip ``target``; see zip_files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    zip_files({path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, target)


def zip_files(files: Mapping[str, bytes], target: Path) -> None:
    """Pack files by name into the zip ``target``, sorted and with fixed dates: equal bundles are equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
