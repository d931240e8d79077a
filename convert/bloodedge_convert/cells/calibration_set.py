"""The calibration set: the cells on which int8 ranges are measured."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.dataset import CellFile, digest

SPREAD = 64


def choose_cells(train: Sequence[CellFile], count: int, seed: int) -> list[CellFile]:
    """``count`` training cells, half of each class, and within a class as evenly from all subjects as possible.

    Where one class has too few, the other fills up; all cells are taken when there are no more than ``count``. Their
    order is random, so that the first few cells are a fair sample too.
    """
    rng = np.random.default_rng(seed)
    queues = [_in_turns([c for c in train if c.label == label], rng) for label in (0, 1)]
    shares = [min(len(queues[0]), count // 2), min(len(queues[1]), count - count // 2)]
    shares = [min(len(queues[i]), count - shares[1 - i]) for i in (0, 1)]
    chosen = [cell for queue, share in zip(queues, shares, strict=True) for cell in queue[:share]]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def _in_turns(cells: Sequence[CellFile], rng: np.random.Generator) -> list[CellFile]:
    """The cells shuffled so that every subject has given k cells before any gives k + 1."""
    by_subject: dict[str, list[CellFile]] = defaultdict(list)
    for index in rng.permutation(len(cells)):
        by_subject[cells[index].subject].append(cells[index])
    rounds = max(map(len, by_subject.values()), default=0)
    return [queue[turn] for turn in range(rounds) for queue in by_subject.values() if turn < len(queue)]


def cells_digest(cells: Sequence[CellFile]) -> str:
    """SHA-256 over the names and contents of the calibration cells, whatever their order."""
    return digest(f"{c.name} {c.bytes_digest}" for c in cells)


def full_range(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The calibration images uint8 (N, H, W, 3), one of them with its brightest values raised to 255.

    Calibration sets the input's int8 range. With 0 (the black around a cell) and 255 in it, every camera byte keeps its
    own step and nothing is clipped.
    """
    images = images.copy()
    brightest = images[int(images.reshape(len(images), -1).max(axis=1).argmax())]
    brightest[brightest == brightest.max()] = 255
    return images


def spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SPREAD of the calibration images (N, H, W, 3), evenly spread; all where there are fewer."""
    return images[:: max(1, len(images) // SPREAD)][:SPREAD]
