"""A picture that a network was fitted to is known again, under whatever name it comes."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.data.dataset import CellFile, Dataset, read_dataset
from bloodedge.data.fitted_pictures import FittedPictures
from bloodedge.data.perceptual_hash import HASH_BYTES, alike, cell_hash
from bloodedge.errors import BloodedgeError
from bloodedge.imaging import cell_on_black, read_image


def encoded_anew(cells: list[CellFile], folder: Path, suffix: str, setting: list[int]) -> Dataset:
    for number, cell in enumerate(cells):
        name = Path(cell.name).parent.name
        (folder / name).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(
            str(folder / name / f"UID_N{number}_1_1_{name}{suffix}"), cv2.imread(str(cell.path)), setting
        )
    return read_dataset(folder)


def test_a_fitted_picture_is_known_under_another_name(rendered_data: Path, tmp_path: Path) -> None:
    cells = read_dataset(rendered_data).unique
    fitted = FittedPictures.of({"train": cells[:100], "validation": cells[100:120], "test": cells[120:]})
    assert len(fitted) == 120
    copies = encoded_anew(cells, tmp_path, ".png", [])
    numbers = {copies.cells[n].name: int(copies.cells[n].subject[1:]) for n in range(len(cells))}
    same, alike_ = fitted.copies(copies.cells)
    assert {numbers[name] for name in same} == set(range(120))
    assert not alike_


def test_a_fitted_picture_is_known_after_it_was_encoded_anew(rendered_data: Path, tmp_path: Path) -> None:
    cells = read_dataset(rendered_data).unique
    fitted = FittedPictures.of({"train": cells[:100]})
    copies = encoded_anew(cells, tmp_path, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 90])
    same, alike_ = fitted.copies(copies.cells)
    assert not same
    numbers = {int(cell.subject[1:]) for cell in copies.cells if cell.name in alike_}
    assert len(numbers) >= 95
    assert numbers <= set(range(100))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.copyMakeBorder(image, 9, 40, 70, 3, cv2.BORDER_CONSTANT),
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    ],
)
def test_moved_and_scaled_cells_are_alike(change: Callable[[np.ndarray], np.ndarray], rendered_data: Path) -> None:
    cells = read_dataset(rendered_data).unique[::12]
    hashes = np.frombuffer(b"".join(cell.look for cell in cells), np.uint8).reshape(-1, HASH_BYTES)
    moved = [cell_hash(cell_on_black(change(read_image(cell.path)))) for cell in cells]
    for number, row in enumerate(moved):
        assert alike(hashes, np.frombuffer(row, np.uint8)[None]).nonzero()[0].tolist() == [number]


@pytest.mark.slow
def test_on_real_cells_copies_are_found_and_other_peoples_are_not(real_cnmc: Dataset, tmp_path: Path) -> None:
    """Of another person's cells, those that C-NMC holds twice are found too: benchmarks/likeness.py counts them."""
    cells = real_cnmc.unique
    ours = [cell for cell in cells if cell.subject in {"11", "H24"}][:200]
    fitted = FittedPictures.of({"train": ours})
    whose = {real_cnmc.group(cell) for cell in ours}
    others = [cell for cell in cells if real_cnmc.group(cell) not in whose]
    same, alike_ = fitted.copies(others)
    assert not same
    assert len(alike_) <= len(others) * 0.005
    for suffix, setting in ((".jpg", cv2.IMWRITE_JPEG_QUALITY), (".webp", cv2.IMWRITE_WEBP_QUALITY)):
        copies = encoded_anew(ours, tmp_path / suffix[1:], suffix, [setting, 75])
        found = fitted.copies(copies.cells)
        assert len(found[0] | found[1]) >= 0.95 * len(ours)


def test_they_are_stored_in_few_bytes_and_read_again(rendered_data: Path) -> None:
    cells = read_dataset(rendered_data).unique
    fitted = FittedPictures.of({"train": cells})
    packed = fitted.pack()
    assert packed == FittedPictures.of({"validation": cells[::-1]}).pack()
    assert len(packed) < 40 * len(cells) + 1000
    again = FittedPictures.unpack(packed, "a file")
    assert again.copies(cells) == ({cell.name for cell in cells}, set())


@pytest.mark.parametrize("harm", ["cut", "empty", "other"])
def test_a_damaged_file_is_one_sentence(harm: str, rendered_data: Path) -> None:
    packed = FittedPictures.of({"train": read_dataset(rendered_data).unique}).pack()
    data = {"cut": packed[: len(packed) // 2], "empty": b"", "other": b"\x93NUMPY" + bytes(100)}[harm]
    with pytest.raises(BloodedgeError, match=r"fitted\.npz is damaged; copy it again"):
        FittedPictures.unpack(data, "fitted.npz")


def test_nothing_fitted_is_like_nothing() -> None:
    nothing = FittedPictures.of({})
    assert nothing.copies([]) == (set(), set())
    assert FittedPictures.unpack(nothing.pack(), "a file").copies([]) == (set(), set())
