"""Fixtures that several rooms share."""

import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

# One back end for the whole test process, chosen before Keras is first imported; conversion needs TensorFlow's.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.data.dataset import Dataset, read_dataset
from bloodedge.simulation import write_dataset
from support.nobody import nobody

__all__ = ["nobody"]

ROOT = Path(__file__).resolve().parent.parent

Drawn = Callable[[int], NDArray[np.uint8]]
WriteCells = Callable[[Path, Iterable[str]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need real data, so that ``-m real_data`` runs them alone."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by BLOODEDGE_DATA (default: ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("BLOODEDGE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cnmc").is_dir():
        pytest.skip(f"no real data at {folder} (set BLOODEDGE_DATA to a folder that holds cnmc/, bccd/ and chula/)")
    return folder


@pytest.fixture(scope="session")
def real_cnmc(real_data: Path) -> Dataset:
    """The real cells, read once."""
    return read_dataset(real_data / "cnmc")


@pytest.fixture(scope="session")
def rendered_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set in C-NMC's layout: 12 subjects (1..6, H1..H6) of 12 cells each. Not to be written to."""
    folder = tmp_path_factory.mktemp("rendered") / "data"
    write_dataset(folder, subjects=12, cells_per_subject=12, seed=5)
    return folder


def drawn_cell(seed: int) -> NDArray[np.uint8]:
    """A disc of noise on black, uint8 (64, 64, 3) BGR: the quickest thing that passes for a cell."""
    rng = np.random.default_rng(seed)
    disc = np.zeros((64, 64), np.uint8)
    cv2.circle(disc, (32, 32), int(rng.integers(10, 26)), 255, cv2.FILLED)
    return np.where(disc[:, :, None] > 0, rng.integers(40, 220, (64, 64, 3)), 0).astype(np.uint8)


@pytest.fixture(scope="session")
def draw() -> Drawn:
    return drawn_cell


@pytest.fixture(scope="session")
def write_cells() -> WriteCells:
    """Writes files of the given names into a folder, each with a picture of its own."""

    def write(root: Path, names: Iterable[str]) -> Path:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), drawn_cell(zlib.crc32(name.encode())))
        return root

    return write
