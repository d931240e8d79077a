"""Opening a bundle (a folder or its zip) and trusting nothing in it that its manifest does not vouch for."""

import hashlib
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.manifest import Manifest, parse_record

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
LARGEST_FILE = 512 * 2**20


class Bundle:
    """An opened bundle; ``read`` gives a file's bytes once its digest was found right. Nothing is ever unpacked."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; raises UsageError when it is no bundle and BloodedgeError when its manifest is damaged."""
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise BloodedgeError(f"{path} is damaged (not a readable zip); copy or convert it again.") from error
        elif not path.is_dir():
            raise UsageError(f"{path} does not exist; make a bundle with: bloodedge convert RUN --int8 -o {path}")
        self.manifest = parse_record(Manifest, self._raw(MANIFEST), f"{path}: {MANIFEST}")

    def _raw(self, name: str) -> bytes:
        try:
            if self._zip is None:
                return (self.path / name).read_bytes()
            if self._zip.getinfo(name).file_size > LARGEST_FILE:
                raise BloodedgeError(f"{self.path}: {name} is larger than any model; copy or convert the bundle again.")
            return self._zip.read(name)
        except (KeyError, FileNotFoundError, NotADirectoryError) as error:
            if name == MANIFEST:
                raise UsageError(
                    f"{self.path} is not a bundle (no {MANIFEST}); make one with: bloodedge convert"
                ) from error
            raise BloodedgeError(f"{self.path}: {name} is missing; copy or convert the bundle again.") from error
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise BloodedgeError(f"{self.path}: {name} cannot be read; copy or convert the bundle again.") from error

    def read(self, name: str) -> bytes:
        """Bytes of a file; raises BloodedgeError when it is missing or was changed after conversion."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BloodedgeError(f"{self.path}: the manifest does not list {name}; copy or convert the bundle again.")
        data = self._raw(name)
        if hashlib.sha256(data).hexdigest() != expected:
            raise BloodedgeError(
                f"{self.path}: {name} was changed after conversion (wrong digest); copy or convert the bundle again."
            )
        return data

    def verify(self) -> None:
        """Check every file's digest; raises BloodedgeError at the first that differs."""
        for name in self.manifest.files:
            self.read(name)

    def close(self) -> None:
        """Close the zip, if it is one."""
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_bundle(path: Path) -> bool:
    """Whether ``path`` looks like a bundle rather than a run folder."""
    return path.is_file() or (path / MANIFEST).is_file()


def zip_folder(folder: Path, target: Path) -> None:
    """Pack ``folder``'s files into the zip ``target``, sorted and with fixed dates: equal bundles are equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
