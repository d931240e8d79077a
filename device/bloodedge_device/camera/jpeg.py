"""Decoding JPEG frames of cameras, videos and streams, refusing damaged ones."""

import re

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from bloodedge.imaging.reading import MOST_PIXELS

JPEG_FORMATS = {"MJPG", "mjpg", "JPEG", "jpeg"}
"""Pixel formats by the names of V4L2 and FFmpeg."""

MOST_FILLING = 64
"""Many USB cameras put some bytes between a picture's last row and its end marker; more are rows that went astray."""

FILLING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
"""libjpeg's warning of them."""


def pixel_format(capture: cv2.VideoCapture) -> str:
    """The four characters of a camera's or video's format, without trailing blanks."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return code.to_bytes(4, "little").decode("latin-1").strip()


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """A JPEG's pixels, uint8 (H, W, 3) BGR, a grey one's (H, W); None when libjpeg misses a part of it.

    Bytes after the end are left alone. OpenCV and FFmpeg fill what is missing with grey, or with the frame before, and
    say nothing. Damage that leaves the bytes readable, such as a single wrong bit, cannot be told from a picture.
    """
    try:
        height, width, colours = simplejpeg.decode_jpeg_header(data)[:3]
        if height * width > MOST_PIXELS:
            return None
        grey = colours == "Gray"
        pixels = _decode(data, "GRAY" if grey else "BGR")
    except ValueError:
        return None
    return pixels[:, :, 0] if grey else pixels


def _decode(data: bytes, colours: str) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        filling = FILLING.search(str(error))
        if filling is None or int(filling[1]) > MOST_FILLING:
            raise
        pixels = simplejpeg.decode_jpeg(data, colours, strict=False)
    return pixels
