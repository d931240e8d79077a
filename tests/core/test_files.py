"""A file is the old one or the whole new one."""

import errno
import hashlib
import json
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError
from bloodedge.files import folder_beside, sha256, write_beside, write_json, write_text


def full_disk(path: Path) -> None:
    path.write_text("half of it")
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("old")
    with pytest.raises(BloodedgeError, match="disk is full"):
        write_beside(file, full_disk)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("old")

    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_beside(file, interrupted)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "µ")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "µ".encode()


def test_a_folder_in_the_place_of_the_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError, match="choose another name"):
        write_text(tmp_path, "text")
    (tmp_path / "file").touch()
    with pytest.raises(BloodedgeError, match="choose another name"):
        write_text(tmp_path / "file" / "inside.txt", "text")


def test_json_that_no_other_program_could_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "x.json", {"auc": None})
    assert json.loads((tmp_path / "x.json").read_text()) == {"auc": None}


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "epoch_0001"
    with folder_beside(final) as folder:
        (folder / "model").write_text("first")
    with pytest.raises(BloodedgeError, match="disk is full"), folder_beside(final) as folder:
        full_disk(folder / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["epoch_0001"]
    assert (final / "model").read_text() == "first"
    with folder_beside(final) as folder:
        (folder / "other").write_text("second")
    assert [p.name for p in final.iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["epoch_0001"]


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(file) == hashlib.sha256(b"abc").hexdigest()
