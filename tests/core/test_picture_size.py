"""Small files that state huge pictures, and what is no file at all."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError
from bloodedge.files import read_regular
from bloodedge.imaging import read_image
from bloodedge.imaging.picture_size import stated_sizes

SUFFIXES = ("bmp", "jpg", "png", "tif", "webp")


def encoded(suffix: str, width: int = 40, height: int = 23) -> bytes:
    return cv2.imencode(f".{suffix}", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_stated_size_is_the_one_that_opencv_decodes(suffix: str) -> None:
    assert stated_sizes(encoded(suffix)) == [(40, 23)]


@pytest.mark.parametrize("lossless", [False, True])
def test_both_kinds_of_webp_state_their_size(lossless: bool) -> None:
    quality = [cv2.IMWRITE_WEBP_QUALITY, 101 if lossless else 80]
    data = cv2.imencode(".webp", np.full((23, 40, 3), 90, np.uint8), quality)[1].tobytes()
    assert stated_sizes(data) == [(40, 23)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_in_its_head_states_nothing(suffix: str) -> None:
    whole = encoded(suffix)
    for length in range(30):
        assert stated_sizes(whole[:length]) in ([], [(40, 23)])


def bomb(width: int, height: int) -> bytes:
    """A PNG that is a thousandth of its picture's size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_huge_picture_in_a_small_file_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(15000, 15000))
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(BloodedgeError, match=r"15000x15000 pixels; .* at most 33,554,432 pixels"):
        read_image(path)


def test_opencv_itself_decodes_no_huge_picture(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(15000, 15000))
    code = "import bloodedge, cv2, sys; cv2.imread(sys.argv[1])"
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "CV_IO_MAX_IMAGE_PIXELS" in ran.stderr


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(BloodedgeError, match="no regular file"):
            read_image(tmp_path / name)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(OSError, match="too large"):
        read_regular(tmp_path / "large", 10)
