"""Two machines' results, array by array."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOUNDS = {"simulation": 2.0, "device measures": 1e-4, "float tensors": 1e-4}
"""Largest difference allowed where results are not promised to the byte; all else must be equal bytes."""


@dataclass(frozen=True)
class Row:
    """One check of one thing."""

    check: str
    of: str
    arrays: int
    values: int
    sha256: dict[str, str]
    """Of all arrays' names, types, shapes and bytes, by machine."""
    bound: float
    """Largest difference allowed; 0 asks for equal bytes."""
    equal: bool
    differing: int
    """Arrays that are not equal bytes."""
    first_differing: str | None
    """The first of them: of a network's layers, where it starts."""
    largest_difference: float | None
    """0 when equal, None when arrays' names, types or shapes differ."""

    @property
    def holds(self) -> bool:
        """Whether the results are as alike as they must be."""
        return self.equal or (self.largest_difference is not None and 0 < self.largest_difference <= self.bound)

    def to_json(self) -> dict[str, Any]:
        """For the results file."""
        return {**asdict(self), "holds": self.holds}


def compare(host: Path, board: Path) -> list[Row]:
    """One row for each file CHECK/OF.npz that either folder has."""
    names = {path.relative_to(side) for side in (host, board) for path in side.glob("*/*.npz")}
    return [row(name.parent.name, name.stem, _read(host / name), _read(board / name)) for name in sorted(names)]


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def row(check: str, of: str, host: dict[str, NDArray[Any]], board: dict[str, NDArray[Any]]) -> Row:
    """The row of one check's arrays on both machines."""
    names = list(host | board)
    digests = {"x86_64": digest(host), "aarch64": digest(board)}
    differing = [n for n in names if n not in host or n not in board or not _same(host[n], board[n])]
    values = sum(array.size for array in host.values())
    largest = largest_difference(host, board)
    first = differing[0] if differing else None
    bound = BOUNDS.get(check, 0.0)
    return Row(check, of, len(names), values, digests, bound, not differing, len(differing), first, largest)


def digest(arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of the arrays' names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def largest_difference(host: dict[str, NDArray[Any]], board: dict[str, NDArray[Any]]) -> float | None:
    """The largest absolute difference of any two values; None when the arrays cannot be laid beside each other."""
    largest = 0.0
    if host.keys() != board.keys():
        return None
    for name, one in host.items():
        other = board[name]
        if one.dtype != other.dtype or one.shape != other.shape:
            return None
        if one.dtype.kind not in "biuf":
            if not _same(one, other):
                return None
        elif one.size:
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
            apart[np.isnan(one) & np.isnan(other)] = 0
            if not np.isfinite(apart).all():
                return None
            largest = max(largest, float(apart.max()))
    return largest
