"""A bundle that was made to do harm is refused with a sentence, whatever it tries."""

import os
import stat
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from bloodedge.bundle import Bundle
from bloodedge.bundle.reading import LARGEST_FILE
from bloodedge.errors import BloodedgeError

MODEL = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"


@pytest.fixture
def entries() -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(MODEL) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def refused(path: Path) -> str:
    with pytest.raises(BloodedgeError) as refusal, Bundle(path) as bundle:
        bundle.verify()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def pack(path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return path


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a\\b", "C:evil", "a//b", "./a", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]], name: str
) -> None:
    path = pack(tmp_path / "x.bundle", [*entries, (zipfile.ZipInfo(name), b"evil")])
    assert "whose name points outside the bundle" in refused(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFBLK])
def test_anything_but_a_plain_file_is_refused(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]], kind: int
) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    assert "not a plain file" in refused(pack(tmp_path / "x.bundle", [*entries, (info, b"/etc/passwd")]))


@pytest.mark.parametrize("name", ["golden.npz", "GOLDEN.npz"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]], name: str
) -> None:
    assert "twice" in refused(pack(tmp_path / "x.bundle", [*entries, (zipfile.ZipInfo(name), b"other")]))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """65 MB that would be 64 GB: 64 entries of the most that deflate can do, 1,032 to 1."""
    path = tmp_path / "bomb.bundle"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("manifest.json", b"0" * (32 * 2**20))
    assert path.stat().st_size < 2**16
    assert "too large to be a model" in refused(path)


def test_a_bomb_that_says_it_is_small_is_not_inflated(tmp_path: Path) -> None:
    path = pack(tmp_path / "bomb.bundle", [(zipfile.ZipInfo("manifest.json"), b"0" * (64 * 2**20))])
    directory = path.read_bytes().index(b"PK\x01\x02")
    data = bytearray(path.read_bytes())
    data[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")  # APPNOTE.TXT 4.3.12: uncompressed size
    path.write_bytes(data)
    tracemalloc.start()
    try:
        assert "cannot be read" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["before", "after", "comment"])
def test_bytes_around_a_zip_are_refused(tmp_path: Path, where: str) -> None:
    """A zip reader overlooks them: a file that is a bundle to one program may be a script to another."""
    data, more = MODEL.read_bytes(), b"#!/bin/sh\n"
    comment = data[:-2] + len(more).to_bytes(2, "little") + more
    path = tmp_path / "x.bundle"
    path.write_bytes({"before": more + data, "after": data + more, "comment": comment}[where])
    assert "not a readable zip" in refused(path)


def test_a_zip64_directory_is_refused(tmp_path: Path) -> None:
    """Its locator (APPNOTE.TXT 4.3.15) would lead zipfile to a directory other than the one whose size was checked."""
    data = MODEL.read_bytes()
    body, end = data[:-22], bytearray(data[-22:])
    end[12:16] = (int.from_bytes(end[12:16], "little") + 20).to_bytes(4, "little")
    path = tmp_path / "x.bundle"
    path.write_bytes(body + b"PK\x06\x07" + bytes(16) + end)
    assert "not a readable zip" in refused(path)


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path: Path, entries) -> None:
    path = pack(tmp_path / "x.bundle", entries)
    data = bytearray(path.read_bytes())
    golden = next(len(content) for info, content in entries if info.filename == "golden.npz")
    size = golden.to_bytes(4, "little")
    assert data.count(size) == 2  # the local and the central header
    for lie, answer in ((golden - 1, "cannot be read"), (LARGEST_FILE + 1, "too large to be a model")):
        path.write_bytes(bytes(data).replace(size, lie.to_bytes(4, "little")))
        assert answer in refused(path)


def test_too_many_entries_are_refused(tmp_path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    many = [(zipfile.ZipInfo(f"{number}"), b"") for number in range(1000)]
    assert "too large to be a bundle" in refused(pack(tmp_path / "x.bundle", [*entries, *many]))


@pytest.mark.parametrize("part", ["flag", "method"])
def test_a_locked_or_oddly_packed_entry_is_refused(tmp_path: Path, entries, part: str) -> None:
    path = pack(tmp_path / "x.bundle", entries)
    data = bytearray(path.read_bytes())
    where = data.index(b"PK\x01\x02") + {"flag": 8, "method": 10}[part]  # APPNOTE.TXT 4.3.12
    data[where : where + 2] = {"flag": 1, "method": 14}[part].to_bytes(2, "little")
    path.write_bytes(data)
    assert "encrypted or compressed in an unsupported way" in refused(path)


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(MODEL) as archive:
        archive.extractall(tmp_path / "folder")
    golden = tmp_path / "folder" / "golden.npz"
    golden.rename(tmp_path / "golden.npz")
    golden.symlink_to(tmp_path / "golden.npz")
    assert "is a link" in refused(tmp_path / "folder")
    golden.unlink()
    (tmp_path / "golden.npz").rename(golden)
    (tmp_path / "folder" / "artifacts").rename(tmp_path / "elsewhere")
    (tmp_path / "folder" / "artifacts").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused(tmp_path / "folder")


def test_a_folders_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    with zipfile.ZipFile(MODEL) as archive:
        archive.extractall(tmp_path / "folder")
    (tmp_path / "folder" / "golden.npz").unlink()
    os.mkfifo(tmp_path / "folder" / "golden.npz")
    assert "golden.npz is not a plain file" in refused(tmp_path / "folder")


def test_a_wrong_checksum_is_found(tmp_path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    path = pack(tmp_path / "x.bundle", entries)
    data = path.read_bytes()
    crc = zlib.crc32(next(content for info, content in entries if info.filename == "golden.npz")).to_bytes(4, "little")
    path.write_bytes(data.replace(crc, b"\0\0\0\0"))
    assert "cannot be read" in refused(path)


def test_a_zip_with_entries_for_folders_is_told_how_to_be_packed(tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("artifacts/", b"")
        archive.writestr("manifest.json", b"{}")
    with pytest.raises(BloodedgeError, match=r"entries for folders.*zip -r -D"):
        Bundle(path)
