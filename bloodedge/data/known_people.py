"""People of C-NMC 2019 who occur under several subject names.

A copy of the data set that lacks some files also lacks the identical pictures that would show it, so the names are
listed here. A folder counts as C-NMC when some of its pictures show the cells of CELLS_FILE under the same subject
names, whatever their format and size: another laboratory's subjects 20 and 21 stay two people.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from bloodedge.data.perceptual_hash import Bytes, alike, hash_rows

SAME_PERSON = (
    ("1", "15", "16", "17", "20", "21"),
    ("43", "44"),
    ("51", "75", "78"),
    ("H2", "H4", "H5", "H6", "H7"),
    ("H3", "H10"),
    ("H14", "H24"),
)
"""20 and 21, 51 with 75 and 78, H2 with H4, H5 and H6, and H3 and H10 share identical files in the official data set.
The others share cells that were photographed twice (``benchmarks/known_people.py``)."""
CELLS_FILE = Path(__file__).with_name("known_people.npz")
"""Perceptual hashes of at most 64 cells of each subject of SAME_PERSON; ``benchmarks/known_people.py`` writes it."""
FEWEST_ALIKE = 3
"""All of C-NMC's cells under one another's names showed a cell of CELLS_FILE once in two such shuffles."""


class Hashed(Protocol):
    """A cell with its subject and its perceptual hash, as ``bloodedge.data.dataset.CellFile`` is."""

    @property
    def subject(self) -> str:
        """Upper case; empty if it is not known."""

    @property
    def look(self) -> bytes:
        """Its perceptual hash."""


def known_people(cells: Sequence[Hashed]) -> list[tuple[str, ...]]:
    """The subjects among ``cells`` who are one person each, for a copy of C-NMC; empty for other data."""
    present = {cell.subject for cell in cells}
    found = [tuple(name for name in names if name in present) for names in SAME_PERSON]
    found = [names for names in found if len(names) > 1]
    return found if found and _is_cnmc(cells) else []


def _is_cnmc(cells: Sequence[Hashed]) -> bool:
    looks: dict[str, list[bytes]] = defaultdict(list)
    for cell in cells:
        looks[cell.subject].append(cell.look)
    found = [alike(hash_rows(looks[name]), rows) for name, rows in _known_cells().items()]
    return sum(map(np.count_nonzero, found)) >= FEWEST_ALIKE


@cache
def _known_cells() -> dict[str, Bytes]:
    """Subject to the hashes of some of its cells."""
    with np.load(CELLS_FILE, allow_pickle=False) as stored:
        subjects, rows = stored["subjects"], stored["hashes"]
    return {str(name): rows[subjects == name] for name in np.unique(subjects)}
