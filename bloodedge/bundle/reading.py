"""Opening a bundle (a folder or its zip); only files with the manifest's SHA-256 are given out."""

import hashlib
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from bloodedge.bundle.consistency import require_consistent
from bloodedge.bundle.json_records import parse_record
from bloodedge.bundle.manifest import Manifest
from bloodedge.bundle.other_formats import model_kind, not_a_bundle
from bloodedge.errors import BloodedgeError, UsageError, as_owner, quoted
from bloodedge.files import file_mode

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
REPORT = "report.html"
"""The conversion's report; the manifest names all other files."""

LARGEST_FILE = 512 * 2**20
LARGEST_BUNDLE = 2 * LARGEST_FILE
LARGEST_RECORD = 16 * 2**20
"""Largest manifest or signature, in bytes."""

MOST_FILES = 200
LARGEST_DIRECTORY = 2**18
"""Of a zip, in bytes: zipfile reads it whole before anything in it can be counted."""

END = struct.Struct("<4s4H2LH")
"""End of central directory record, APPNOTE.TXT 4.3.16: the last three are its size, its offset, a comment's length."""

UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, RuntimeError)
"""What zipfile raises for bytes that are no zip; NotImplementedError is a RuntimeError."""


class Bundle:
    """An opened bundle; ``read`` gives a file's bytes after checking its SHA-256. Nothing is unpacked to disk."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; raises UsageError when it is no bundle and BloodedgeError when its manifest is damaged."""
        self.path = path
        self._zip = _opened(path)
        try:
            if self._zip is not None:
                _check_entries(path, self._zip.infolist())
            self.manifest_bytes = self._raw(MANIFEST, LARGEST_RECORD)
            """The manifest as stored: the bytes that a signature covers."""
            self.manifest = parse_record(Manifest, self.manifest_bytes, f"{path}: {MANIFEST}")
            for name in self.manifest.files:
                _check_name(path, name)
        except BaseException:
            self.close()
            raise

    def _raw(self, name: str, largest: int = LARGEST_FILE) -> bytes:
        try:
            size = self._inside(name).stat().st_size if self._zip is None else self._zip.getinfo(name).file_size
            if size > largest:
                raise BloodedgeError(
                    f"{self.path}: {name} is too large to be a model; copy or convert the bundle again."
                )
            return self._inside(name).read_bytes() if self._zip is None else self._unpacked(self._zip, name, size)
        except PermissionError as error:
            raise UsageError(_not_permitted(self.path, error)) from error
        except (KeyError, FileNotFoundError, NotADirectoryError) as error:
            if name == MANIFEST:
                plain = f"{self.path} is not a bundle (no {MANIFEST}); make one with: bloodedge convert"
                raise UsageError(not_a_bundle(self.path) if model_kind(self.path) else plain) from error
            raise BloodedgeError(f"{self.path}: {name} is missing; copy or convert the bundle again.") from error
        except UNREADABLE as error:
            raise BloodedgeError(f"{self.path}: {name} cannot be read; copy or convert the bundle again.") from error

    @staticmethod
    def _unpacked(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
        """An entry's bytes, at most one more than it declares; ``ZipFile.read`` would inflate a zip bomb whole."""
        with archive.open(name) as stream:
            return stream.read(size + 1)

    def _inside(self, name: str) -> Path:
        """A file of a bundle that is a folder; BloodedgeError for a link, a device or a pipe."""
        path = self.path / name
        if any((self.path / part).is_symlink() for part in [name, *map(str, PurePosixPath(name).parents)][:-1]):
            raise BloodedgeError(f"{self.path}: {name} is a link; put the file itself there.")
        if path.exists() and not path.is_file():
            raise BloodedgeError(f"{self.path}: {name} is not a plain file; copy or convert the bundle again.")
        return path

    def signature(self) -> bytes | None:
        """Bytes of ``signature.json``; None if the bundle is not signed."""
        signed = (self.path / SIGNATURE).exists() if self._zip is None else SIGNATURE in self._zip.namelist()
        return self._raw(SIGNATURE, LARGEST_RECORD) if signed else None

    def unlisted(self) -> list[str]:
        """Names of files that the manifest does not list."""
        if self._zip is None:
            names = {
                path.relative_to(self.path).as_posix()
                for path in self.path.rglob("*")
                if path.is_symlink() or not path.is_dir()
            }
        else:
            names = set(self._zip.namelist())
        return sorted(names - set(self.manifest.files) - {MANIFEST, SIGNATURE})

    def read(self, name: str) -> bytes:
        """Bytes of a file; raises BloodedgeError when it is missing or was changed after conversion."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BloodedgeError(f"{self.path}: the manifest does not list {name}; copy or convert the bundle again.")
        data = self._raw(name)
        if hashlib.sha256(data).hexdigest() != expected:
            raise BloodedgeError(
                f"{self.path}: {name} was changed after conversion (its SHA-256 is not the manifest's);"
                " copy or convert the bundle again."
            )
        return data

    def verify(self) -> None:
        """Check every file's digest and that they fit together; raises BloodedgeError at the first fault."""
        for name in self.manifest.files:
            self.read(name)
        require_consistent(self.manifest, self.path, self.read)

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


def _opened(path: Path) -> zipfile.ZipFile | None:
    """The zip, None for a folder; raises as Bundle does."""
    try:
        mode = file_mode(path)
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path} does not exist; make a bundle with: bloodedge convert RUN --int8 -o {quoted(path)}"
            )
        return _zip(path)
    except PermissionError as error:
        raise UsageError(_not_permitted(path, error)) from error


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        _check_end(path)
        return zipfile.ZipFile(path)
    except PermissionError:
        raise
    except UNREADABLE as error:
        if not _has_zip_in_it(path):
            raise UsageError(not_a_bundle(path)) from error
        raise BloodedgeError(f"{path} is damaged (not a readable zip); copy or convert it again.") from error


def _has_zip_in_it(path: Path) -> bool:
    """Whether a file begins like a zip, ends nearly like one, or is empty."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(max(0, path.stat().st_size - 2**16))
        return start in {b"", b"PK"} or b"PK\x05\x06" in file.read()


def _not_permitted(path: Path, error: PermissionError) -> str:
    return (
        f"{path} cannot be read ({error.strerror}); copy it to where this user may read it, or"
        f" {as_owner(Path(error.filename or path))}."
    )


def _check_end(path: Path) -> None:
    """Check a zip before its directory is read: no bytes around it, no zip64, not too large a directory."""
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, length - END.size - 20))
        tail = file.read()
    locator, record = tail[: -END.size], tail[-END.size :]
    if len(record) < END.size:
        raise zipfile.BadZipFile
    mark, *_, size, offset, comment = END.unpack(record)
    whole = mark == b"PK\x05\x06" and comment == 0 and offset + size + END.size == length
    if not whole or locator.startswith(b"PK\x06\x07"):
        raise zipfile.BadZipFile
    if size > LARGEST_DIRECTORY or length > LARGEST_BUNDLE:
        raise BloodedgeError(f"{path} is too large to be a bundle; copy or convert it again.")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise BloodedgeError for a zip that is made to do harm."""
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > LARGEST_BUNDLE:
        raise BloodedgeError(f"{path} is too large to be a bundle; copy or convert it again.")
    names = set()
    for entry in entries:
        if entry.is_dir():
            raise BloodedgeError(
                f"{path} has entries for folders, which a bundle must not have; pack it again with: zip -r -D"
            )
        _check_name(path, entry.filename)
        if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG}:
            raise BloodedgeError(f"{path}: {entry.filename} is not a plain file; copy or convert the bundle again.")
        if entry.flag_bits & 1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BloodedgeError(
                f"{path}: {entry.filename} is encrypted or compressed in an unsupported way; convert the bundle again."
            )
        if entry.filename.lower() in names:
            raise BloodedgeError(f"{path} holds {entry.filename} twice; copy or convert the bundle again.")
        names.add(entry.filename.lower())


def _check_name(path: Path, name: str) -> None:
    """A file's name in a bundle stays below it, on every system."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not set(name) & set("\\:") and "/".join(parts) == name
    if not plain or not parts or name.startswith("/") or ".." in parts or "." in parts:
        raise BloodedgeError(
            f"{path} holds a file whose name points outside the bundle; get the bundle from somebody else."
        )
