"""A perceptual hash of a cell: it finds copies that were re-encoded, scaled or given another background.

Thresholds and how often they err were measured on C-NMC's cells: see ``benchmarks/likeness.py``.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Cell

Bytes = NDArray[np.uint8]

SIDE_PX, FREQUENCIES = 32, 12
TEXTURE_BYTES, OUTLINE_BYTES = 18, 9
HASH_BYTES = TEXTURE_BYTES + OUTLINE_BYTES

MOST_BITS = 25
"""Of the texture's 143 bits, those in which two pictures of one cell may differ."""
MOST_OUTLINE = 16
"""Of 255, the most by which each byte of their outlines may differ."""

LIKE_SHARE = 0.05
"""Two groups with a larger share of cells that are alike, and more than one, count as one person; chance gives 0.005
(benchmarks/likeness.py)."""
AT_ONCE = 256
"""Cells compared with all others at once."""


def cell_hash(cell: Cell) -> bytes:
    """HASH_BYTES bytes that describe a cell's look, independent of its place and its surroundings.

    The first TEXTURE_BYTES are the signs of the low frequencies of its grey levels (Zauner, "Implementation and
    benchmarking of perceptual image hash functions", 2010), the others its bounding box's proportions and how much of
    each outer ninth of the box it fills.
    """
    x, y, width, height = cv2.boundingRect(cell.mask)
    mask = cell.mask[y : y + height, x : x + width]
    grey = cv2.cvtColor(cell.bgr[y : y + height, x : x + width], cv2.COLOR_BGR2GRAY).astype(np.float32)
    mean = cv2.mean(grey, mask)[0]
    grey[mask == 0] = mean
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) - mean
    signs = cv2.dct(small)[:FREQUENCIES, :FREQUENCIES].ravel()[1:] > 0
    ninths = cv2.resize(mask.astype(np.float32), (3, 3), interpolation=cv2.INTER_AREA).ravel()
    proportions = 128 + 128 * np.log2(width / height)
    outline = np.array([proportions, *ninths[:4], *ninths[5:]])
    return bytes(np.packbits(signs)) + bytes(np.rint(outline.clip(0, 255)).astype(np.uint8))


def hash_rows(hashes: Iterable[bytes]) -> Bytes:
    """What ``cell_hash`` gave for N cells, as uint8 (N, HASH_BYTES)."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def alike(hashes: Bytes, others: Bytes) -> NDArray[np.bool_]:
    """(N,): whether each of ``hashes`` uint8 (N, HASH_BYTES) is of a cell among ``others`` uint8 (M, HASH_BYTES)."""
    found = np.zeros(len(hashes), bool)
    found[alike_pairs(hashes, others)[:, 0]] = True
    return found


def alike_pairs(hashes: Bytes, others: Bytes) -> NDArray[np.int64]:
    """int64 (K, 2): indices of ``hashes`` (N, HASH_BYTES) and of ``others`` (M, HASH_BYTES) that are of one cell."""
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(hashes), AT_ONCE):
        some = hashes[start : start + AT_ONCE]
        rows, columns = np.nonzero(_bits_apart(some, others) <= MOST_BITS)
        apart = np.abs(some[rows, TEXTURE_BYTES:].astype(np.int16) - others[columns, TEXTURE_BYTES:])
        near = (apart <= MOST_OUTLINE).all(axis=1)
        pairs.append(np.stack([start + rows[near], columns[near]], axis=1))
    return np.concatenate(pairs)


def _bits_apart(hashes: Bytes, others: Bytes) -> NDArray[np.uint8]:
    """(N, M): bits in which the textures differ."""
    apart = np.zeros((len(hashes), len(others)), np.uint8)
    for ours, theirs in zip(_words(hashes), _words(others), strict=True):
        apart += np.bitwise_count(ours[:, None] ^ theirs)
    return apart


def _words(hashes: Bytes) -> NDArray[np.uint64]:
    """(3, N): the textures as 64-bit words."""
    padded = np.zeros((len(hashes), 24), np.uint8)
    padded[:, :TEXTURE_BYTES] = hashes[:, :TEXTURE_BYTES]
    return np.ascontiguousarray(padded.view(np.uint64).T)
