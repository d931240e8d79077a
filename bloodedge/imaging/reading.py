"""Picture files as 8-bit colour images."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError
from bloodedge.files import read_regular
from bloodedge.imaging.cell import Image, as_image
from bloodedge.imaging.picture_files import is_truncated, tiff_pages
from bloodedge.imaging.picture_size import stated_sizes

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 16, 16384
MOST_PIXELS = 2**25
"""In one picture: 32 megapixels, as the device's frames."""
MOST_PIXELS_TOGETHER = 4 * MOST_PIXELS
"""In all pictures of a file."""
MOST_BYTES = 320 * 2**20
"""Of a file: a largest picture with 16 bits and alpha, not compressed, has 256 MiB."""


def read_image(path: Path) -> Image:
    """A colour image file as uint8 (H, W, 3) BGR; see decode_image for what becomes of alpha and of 16 bits.

    Raises BloodedgeError when the file is missing, truncated, grey, of several pictures or of an impossible size.
    """
    return decode_image(_read(path), str(path))


def read_images(path: Path) -> list[Image]:
    """Every picture of a file, as read_image gives the one; a TIFF file may hold many. Raises as read_image."""
    return list(iterate_images(path))


def iterate_images(path: Path) -> Iterator[Image]:
    """As read_images, but one picture is decoded at a time. A fault is raised where it is met."""
    data, name = _read(path), str(path)
    pages = len(tiff_pages(data))
    if pages < 2:
        yield decode_image(data, name)
        return
    _check_file(data, name)
    encoded = np.frombuffer(data, np.uint8)
    for number in range(pages):
        _, decoded = cv2.imdecodemulti(encoded, cv2.IMREAD_UNCHANGED, range=(number, number + 1))
        if len(decoded) != 1:
            raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
        yield _decoded(decoded[0], f"{name}, page {number + 1}")


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_BYTES)
    except OSError as error:
        raise BloodedgeError(f"{path} cannot be read ({error.strerror}); check its name and permissions.") from error


def decode_image(data: bytes, name: str) -> Image:
    """Encoded image bytes as uint8 (H, W, 3) BGR; ``name`` is used in errors. Raises BloodedgeError as read_image.

    Transparent pixels become black. 16-bit values are divided by 257, so that 65535 becomes 255; where none is above
    4095, as cameras of 12 bits store them, by 16.
    """
    _check_file(data, name)
    pages = len(tiff_pages(data))
    if pages > 1:
        raise BloodedgeError(f"{name} holds {pages} pictures; save each as a file of its own.")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
    return _decoded(image, name)


def _check_file(data: bytes, name: str) -> None:
    """Raise BloodedgeError for files that OpenCV would silently misread."""
    if not data:
        raise BloodedgeError(f"{name} is empty; copy it again from its source.")
    if is_truncated(data):
        raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
    sizes = stated_sizes(data)
    for width, height in sizes:
        if width * height > MOST_PIXELS or max(width, height) > LARGEST_SIDE_PX:
            raise BloodedgeError(_size_sentence(name, width, height))
    if sum(width * height for width, height in sizes) > MOST_PIXELS_TOGETHER:
        raise BloodedgeError(f"{name} holds {len(sizes)} pictures that are too large together; save each as a file.")
    if any(tiff_pages(data)):
        raise BloodedgeError(f"{name} stores its colours as CIELAB; save it as RGB.")


HALF_OPAQUE = 128
TWELVE_BITS = 4095


def _decoded(image: NDArray[np.generic], name: str) -> Image:
    """OpenCV's picture as 8-bit colour, see decode_image; raises like colour_8bit."""
    if image.dtype == np.uint16:
        deep = np.asarray(image, np.uint16)
        image = as_image(deep // (16 if int(deep.max(initial=0)) <= TWELVE_BITS else 257))
    bgr = colour_8bit(image, name)
    if image.shape[2] == 4:
        bgr[as_image(image[:, :, 3]) < HALF_OPAQUE] = 0
    return bgr


def colour_8bit(image: NDArray[np.generic], name: str) -> Image:
    """``image`` checked to be an 8-bit colour picture, its alpha channel (if any) dropped; raises BloodedgeError."""
    if image.dtype != np.uint8:
        bits = image.dtype.itemsize * 8
        raise BloodedgeError(f"{name} has {bits} bits per channel; save it as an 8-bit colour image.")
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise BloodedgeError(f"{name} is a grey image; stained cells need colour, save it as 8-bit RGB.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE_PX or max(height, width) > LARGEST_SIDE_PX or height * width > MOST_PIXELS:
        raise BloodedgeError(_size_sentence(name, width, height))
    return as_image(np.ascontiguousarray(image[:, :, :3]))


def _size_sentence(name: str, width: int, height: int) -> str:
    return (
        f"{name} is {width}x{height} pixels; sides from {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} are supported, and at"
        f" most {MOST_PIXELS:,} pixels."
    )
