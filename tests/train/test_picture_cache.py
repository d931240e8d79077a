"""What was read of a data folder's pictures is kept, and never believed of a file that is another now."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import pytest

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.data import pictures
from bloodedge.data.dataset import Dataset, read_dataset
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_train.heads.cache import PictureCache

WriteCells = Callable[[Path, Iterable[str]], Path]


@pytest.fixture
def data(tmp_path: Path, write_cells: WriteCells) -> Path:
    root = write_cells(tmp_path / "data", [f"all/UID_1_{n}_1_all.png" for n in range(3)] + ["hem/UID_H1_1_1_hem.png"])
    (root / "hem" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    names: list[str] = []
    read = pictures.read_image

    def reading(path: Path) -> Any:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(pictures, "read_image", reading)
    return names


def reading(data: Path, folder: Path, said: list[str] | None = None) -> Dataset:
    return read_dataset(data, store=PictureCache(folder, (said if said is not None else []).append))


def test_a_picture_is_decoded_once_and_a_fault_is_found_each_time(
    data: Path, tmp_path: Path, opened: list[str]
) -> None:
    first = reading(data, tmp_path / "cache")
    assert len(opened) == 5
    assert first == read_dataset(data)
    opened.clear()
    assert reading(data, tmp_path / "cache") == first
    assert opened == ["broken.png"]
    assert list(first.unreadable) == ["hem/broken.png"]


def test_a_cell_that_the_finder_cut_out_is_kept_with_its_field_s_light(tmp_path: Path, opened: list[str]) -> None:
    field = render_field(0, FieldSpec(um_per_px=0.12, white_cells=(1, 1)))
    for label in ("all", "hem"):
        (tmp_path / "cells" / label).mkdir(parents=True)
    x, y, width, height = field.cells[0].box
    crop = field.bgr[max(0, y - 40) : y + height + 40, max(0, x - 40) : x + width + 40]
    cv2.imwrite(str(tmp_path / "cells" / "all" / "one.png"), crop)

    def again() -> Dataset:
        store = PictureCache(tmp_path / "cache", [].append)
        return read_dataset(tmp_path / "cells", store=store, layout=DataLayout(um_per_px=0.12))

    first = again()
    opened.clear()
    assert again() == first
    assert not opened
    (cell,) = first.cells
    assert cell.cut is not None
    assert cell.cut.light is not None


def test_another_picture_in_its_place_is_read_even_of_the_same_size_and_time(
    data: Path, tmp_path: Path, opened: list[str]
) -> None:
    reading(data, tmp_path / "cache")
    changed = data / "all" / "UID_1_0_1_all.png"
    stat, content = changed.stat(), bytearray(changed.read_bytes())
    other = (data / "all" / "UID_1_1_1_all.png").read_bytes()
    changed.write_bytes(other + bytes(max(0, len(content) - len(other))))
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    opened.clear()
    assert reading(data, tmp_path / "cache") == read_dataset(data)
    assert opened[:2] == [changed.name, "broken.png"]


@pytest.mark.parametrize("change", ["touched", "repaired", "removed", "added"])
def test_only_what_changed_is_read(change: str, data: Path, tmp_path: Path, opened: list[str]) -> None:
    reading(data, tmp_path / "cache")
    cell, broken = data / "all" / "UID_1_0_1_all.png", data / "hem" / "broken.png"
    if change == "touched":
        os.utime(cell)
    elif change == "repaired":
        broken.write_bytes(cell.read_bytes())
    elif change == "removed":
        cell.unlink()
    else:
        (data / "all" / "another.png").write_bytes(cell.read_bytes())
    opened.clear()
    found = reading(data, tmp_path / "cache")
    read = {"touched": {cell.name}, "repaired": set(), "removed": set(), "added": {"another.png"}}[change]
    assert set(opened) == read | {broken.name}
    assert found == read_dataset(data)


@pytest.mark.parametrize("damage", ["no zip", "cut", "another array"])
def test_a_damaged_file_is_one_sentence_and_the_pictures_are_read_again(
    damage: str, data: Path, tmp_path: Path, opened: list[str]
) -> None:
    cache, said = tmp_path / "cache", list[str]()
    first = reading(data, cache, said)
    (path,) = cache.glob("*.npz")
    whole = path.read_bytes()
    path.write_bytes({"no zip": b"no zip", "cut": whole[: len(whole) // 2]}.get(damage, whole))
    if damage == "another array":
        path.write_bytes(whole.replace(b"stamps", b"stampz"))
    opened.clear()
    assert reading(data, cache, said) == first
    assert len(opened) == 5
    assert said == [f"{path} is damaged; its digests of pictures are computed again."]
    assert reading(data, cache, said) == first
    assert len(said) == 1


def test_names_that_are_not_utf_8_are_known_again(data: Path, tmp_path: Path, opened: list[str]) -> None:
    strange = os.fsdecode(b"\xe9.png")
    (data / "all" / strange).write_bytes((data / "all" / "UID_1_0_1_all.png").read_bytes())
    first = reading(data, tmp_path / "cache")
    opened.clear()
    assert reading(data, tmp_path / "cache") == first
    assert opened == ["broken.png"]
