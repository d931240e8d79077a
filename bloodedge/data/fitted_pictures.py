"""Which pictures a network was fitted to, as digests in the run folder and the bundle."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from bloodedge.bundle.run_record import FittedRecord, RunRecord
from bloodedge.data.dataset import CellFile, Dataset, natural
from bloodedge.data.perceptual_hash import HASH_BYTES, Bytes, alike, hash_rows
from bloodedge.errors import BloodedgeError

if TYPE_CHECKING:
    from bloodedge.bundle import Bundle

FITTED_FILE = "fitted.npz"
FITTED_PARTS = ("train", "validation")
"""Validation cells count: they chose the epoch and the temperature."""
DIGEST_BYTES = 8
"""Of the SHA-256 of a picture's decoded pixels; two of a million pictures agree by chance once in 37 million times."""


SEEN_AS_ANOTHER = "the same person was seen in training under another name"


@dataclass(frozen=True)
class FittedPictures:
    """The pictures of the fitted parts; DIGEST_BYTES + HASH_BYTES bytes each."""

    digests: Bytes
    """uint8 (N, DIGEST_BYTES)."""
    hashes: Bytes
    """uint8 (N, HASH_BYTES); see ``bloodedge.data.perceptual_hash``."""

    @classmethod
    def of(cls, parts: dict[str, list[CellFile]]) -> Self:
        """The pictures of a split's fitted parts, in the order of their digests."""
        cells = [cell for name in FITTED_PARTS for cell in parts.get(name, ())]
        cells = sorted({cell.pixels_digest: cell for cell in cells}.values(), key=lambda cell: cell.pixels_digest)
        return cls(_digests(cells), hash_rows(cell.look for cell in cells))

    def pack(self) -> bytes:
        """``fitted.npz``."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, digests=self.digests, hashes=self.hashes)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, data: bytes, source: str) -> Self:
        """What ``pack`` made; raises BloodedgeError when it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                digests, hashes = stored["digests"], stored["hashes"]
        except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
            raise BloodedgeError(f"{source} is damaged; copy it again, or convert or train again.") from error
        shapes = (len(hashes), DIGEST_BYTES), (len(hashes), HASH_BYTES)
        if (digests.shape, hashes.shape) != shapes or {digests.dtype, hashes.dtype} != {np.dtype(np.uint8)}:
            raise BloodedgeError(f"{source} is damaged; copy it again, or convert or train again.")
        return cls(digests, hashes)

    def __len__(self) -> int:
        return len(self.digests)

    def record(self) -> FittedRecord:
        """What ``run.json`` and a bundle's manifest say of them."""
        return FittedRecord(file=FITTED_FILE, pictures=len(self))

    def copies(self, cells: Sequence[CellFile]) -> tuple[set[str], set[str]]:
        """Names of the cells with the pixels of a fitted picture, and of others that show the same cell."""
        known = {row.tobytes() for row in self.digests}
        same = {cell.name for cell, row in zip(cells, _digests(cells), strict=True) if row.tobytes() in known}
        found = alike(hash_rows(cell.look for cell in cells), self.hashes)
        like = {cell.name for cell, yes in zip(cells, found, strict=True) if yes}
        return same, like - same


def _digests(cells: Sequence[CellFile]) -> Bytes:
    rows = b"".join(bytes.fromhex(cell.pixels_digest)[:DIGEST_BYTES] for cell in cells)
    return np.frombuffer(rows, np.uint8).reshape(-1, DIGEST_BYTES)


def held_out(
    dataset: Dataset,
    parts: dict[str, list[CellFile]],
    fitted: FittedPictures,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, list[CellFile]]:
    """A split's parts without held-out cells of people, and pictures of cells, that are in the fitted parts too.

    People are in both where an older run was split before it was known that two subjects are one person. ``say`` gets
    a line with what was left out.
    """
    kept = dict(parts)
    seen = {dataset.group(cell) for name in FITTED_PARTS for cell in parts.get(name, ())}
    for name in parts.keys() - set(FITTED_PARTS):
        known = {cell.subject for cell in parts[name] if dataset.group(cell) in seen}
        if known:
            say(f"left out {', '.join(sorted(known, key=natural))} of the {name} part: {SEEN_AS_ANOTHER}")
        others = [cell for cell in parts[name] if cell.subject not in known]
        same, like = fitted.copies(others)
        kept[name] = [cell for cell in others if cell.name not in same | like]
        if same or like:
            say(
                f"left out {len(same | like)} of {len(parts[name])} {name} cells because training pictures show the "
                f"same cells: {', '.join(sorted(same | like))}"
            )
    return kept


def read_fitted_of_run(run: Path, record: RunRecord) -> FittedPictures | None:
    """A run folder's; None for an older run without them. Raises BloodedgeError when damaged."""
    if record.fitted is None:
        return None
    path = run / record.fitted.file
    try:
        return FittedPictures.unpack(path.read_bytes(), str(path))
    except OSError as error:
        raise BloodedgeError(f"{path} cannot be read ({error.strerror}); copy the run folder again.") from error


def read_fitted_of_bundle(bundle: "Bundle") -> FittedPictures | None:
    """A bundle's; None for an older bundle without them. Raises BloodedgeError when damaged."""
    record = bundle.manifest.fitted
    if record is None:
        return None
    return FittedPictures.unpack(bundle.read(record.file), f"{bundle.path}: {record.file}")
