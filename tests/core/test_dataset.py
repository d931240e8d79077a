"""Reading folders of cells: layouts, people, pictures that stand twice, and files that cannot be used."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.data import known_people
from bloodedge.data.dataset import CellFile, Dataset, inputs, natural, read_dataset
from bloodedge.data.perceptual_hash import hash_rows
from bloodedge.errors import UsageError
from bloodedge.imaging import CNMC_UM_PER_PX, ImagingSpec, cell_on_black, network_input, read_image

WriteCells = Callable[[Path, Iterable[str]], Path]
Draw = Callable[[int], NDArray[np.uint8]]


def test_the_official_layout_is_read(tmp_path: Path, write_cells: WriteCells) -> None:
    names = ["C-NMC/fold_0/all/UID_11_1_1_all.bmp", "C-NMC/fold_0/hem/UID_H3_1_1_hem.bmp"]
    data = read_dataset(write_cells(tmp_path, [*names, "C-NMC/fold_1/all/UID_12_1_1_all.bmp"]))
    told = [(c.subject, c.label, c.fold) for c in data.cells]
    assert told == [("11", 1, "fold_0"), ("H3", 0, "fold_0"), ("12", 1, "fold_1")]
    assert data.groups == {"11": "11", "12": "12", "H3": "H3"}
    assert not data.unreadable
    assert not data.rendered


def test_plain_folders_mixed_formats_and_any_case_are_read(tmp_path: Path, write_cells: WriteCells) -> None:
    names = ["ALL/uid_h3_1_1_ALL.PNG", "Hem/UID_H3_2_1_hem.webp", "hem/UID_h4_1_1_HEM.Jpg", "all/UID_5_1_1_all.bmp"]
    data = read_dataset(write_cells(tmp_path, names))
    assert {c.name: c.subject for c in data.cells} == dict(zip(names, ["H3", "H3", "H4", "5"], strict=True))
    assert Counter(c.label for c in data.cells) == {1: 2, 0: 2}
    assert {c.fold for c in data.cells} == {""}


def test_files_elsewhere_and_of_other_kinds_are_no_cells(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["all/UID_1_1_1_all.png", "figures/plot.png", "all/.hidden.png"])
    (root / "all" / "notes.txt").write_text("x")
    data = read_dataset(root)
    assert [c.name for c in data.cells] == ["all/UID_1_1_1_all.png"]
    assert not data.unreadable


def test_a_cell_whose_name_says_nothing_is_kept_as_its_own_group(tmp_path: Path, write_cells: WriteCells) -> None:
    data = read_dataset(write_cells(tmp_path, ["all/a.png", "all/b.png"]))
    assert [c.subject for c in data.cells] == ["", ""]
    assert len({data.group(c) for c in data.cells}) == 2


def test_identical_pictures_merge_their_subjects_transitively(
    tmp_path: Path, write_cells: WriteCells, draw: Draw
) -> None:
    subjects = ["1", "2", "3", "10"]
    root = write_cells(tmp_path, [f"fold_0/all/UID_{s}_9_9_all.bmp" for s in subjects])
    places = {7: ["fold_0/all/UID_1_1_1_all.bmp", "fold_1/all/UID_2_1_1_all.bmp"]}  # the same bytes
    places[8] = ["fold_0/all/UID_2_2_1_all.png", "fold_2/all/UID_3_2_1_all.bmp"]  # the same pixels, encoded differently
    for seed, names in places.items():
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), draw(seed))
    data = read_dataset(root)
    assert data.groups == {"1": "1+2+3", "2": "1+2+3", "3": "1+2+3", "10": "10"}
    assert sorted([c.name for c in same] for same in data.duplicates) == sorted(places.values())
    assert len(data.cells) == 8
    assert len(data.unique) == 6


def drawn_as_known(monkeypatch: pytest.MonkeyPatch, cells: Iterable[CellFile]) -> None:
    """Let these cells be the ones by which a copy of C-NMC is recognised."""
    rows = {c.subject: hash_rows(o.look for o in cells if o.subject == c.subject) for c in cells}
    monkeypatch.setattr(known_people, "_known_cells", lambda: rows)


def test_a_partial_copy_of_cnmc_groups_the_people_of_several_names(
    tmp_path: Path, write_cells: WriteCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"fold_0/all/UID_{s}_{n}_1_all.png" for s in (20, 43, 44, 5) for n in range(3)]
    names += [f"fold_0/hem/UID_H{s}_{n}_1_hem.png" for s in (14, 24) for n in range(3)]
    root = write_cells(tmp_path, names)
    data = read_dataset(root)
    assert set(data.groups) == {"20", "43", "44", "5", "H14", "H24"} == set(data.groups.values())
    assert not data.same_person
    drawn_as_known(monkeypatch, [c for c in data.cells if c.subject in {"43", "H14"}])
    data = read_dataset(root)
    assert data.same_person == (("43", "44"), ("H14", "H24"))
    assert set(data.groups.values()) == {"20", "5", "43+44", "H14+H24"}
    assert set(data.by_pictures_alone().groups.values()) == set(data.groups)


def test_another_laboratorys_subjects_of_the_same_names_stay_apart(
    tmp_path: Path, write_cells: WriteCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"fold_0/all/UID_{s}_{n}_1_all.png" for s in (20, 21, 30) for n in range(3)]
    data = read_dataset(write_cells(tmp_path, names))
    known = [replace(c, subject="21") for c in data.cells if c.subject == "30"]  # cells of C-NMC, of another name here
    drawn_as_known(monkeypatch, known)
    assert set(read_dataset(tmp_path).groups.values()) == {"20", "21", "30"}


@pytest.mark.slow
def test_a_few_real_cells_encoded_otherwise_are_recognised(real_cnmc: Dataset, tmp_path: Path) -> None:
    chosen = [c for c in real_cnmc.unique if c.subject in {"43", "44", "H14", "H24", "5"}][::12]
    for cell in chosen:
        target = tmp_path / cell.path.parent.name / f"{cell.path.stem}.jpg"
        target.parent.mkdir(exist_ok=True)
        picture = cv2.resize(read_image(cell.path), (225, 225), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert set(read_dataset(tmp_path).groups.values()) == {"43+44", "H14+H24", "5"}


def test_a_picture_under_both_classes_is_left_out(tmp_path: Path, write_cells: WriteCells, draw: Draw) -> None:
    root = write_cells(tmp_path, ["all/UID_1_1_1_all.png", "hem/UID_H1_1_1_hem.png"])
    for name in ("all/UID_1_2_1_all.png", "hem/UID_H1_2_1_hem.png"):
        cv2.imwrite(str(root / name), draw(3))
    data = read_dataset(root)
    assert [c.name for c in data.unique] == ["all/UID_1_1_1_all.png", "hem/UID_H1_1_1_hem.png"]
    assert len(data.duplicates) == 1


def test_unusable_files_are_named_with_what_is_wrong_and_the_rest_is_read(
    tmp_path: Path, write_cells: WriteCells, draw: Draw
) -> None:
    root = write_cells(tmp_path, [f"all/UID_1_{n}_1_all.png" for n in range(4)])
    whole = (root / "all/UID_1_0_1_all.png").read_bytes()
    (root / "all/UID_2_1_1_all.png").write_bytes(whole[: len(whole) // 2])
    (root / "all/UID_2_2_1_all.png").touch()
    cv2.imwrite(str(root / "all/UID_2_3_1_all.png"), cv2.resize(draw(1), (8, 8)))
    cv2.imwrite(str(root / "all/UID_2_4_1_all.png"), draw(1)[:, :, 0])
    cv2.imwrite(str(root / "all/UID_2_5_1_all.png"), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(root / "all/UID_H2_6_1_hem.png"), draw(2))
    data = read_dataset(root)
    assert len(data.cells) == 4
    told = {name.split("_")[2]: reason for name, reason in data.unreadable.items()}
    expected = ["truncated", "is empty", "8x8 pixels", "grey", "no cell"]
    for number, words in enumerate([*expected, "its name says hem; move or rename it"], start=1):
        assert words in told[str(number)]
    assert all("\n" not in reason for reason in told.values())


def test_crops_of_differing_sizes_are_read(tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "hem").mkdir()
    crops = [draw(number)[:cut, 64 - cut :] for number, cut in enumerate((64, 63, 61, 60))]
    for number, crop in enumerate(crops):
        cv2.imwrite(str(tmp_path / f"hem/UID_H1_{number}_1_hem.png"), crop)
    data = read_dataset(tmp_path)
    digests = [hashlib.sha256(str(crop.shape).encode() + crop.tobytes()).hexdigest() for crop in crops]
    assert [cell.pixels_digest for cell in data.cells] == digests
    assert not data.unreadable


def test_pictures_of_other_kinds_are_named(tmp_path: Path, write_cells: WriteCells) -> None:
    root = write_cells(tmp_path, ["hem/UID_H1_1_1_hem.png"])
    (root / "hem" / "UID_H1_2_1_hem.gif").write_bytes(b"GIF89a")
    (root / "hem" / "notes.txt").write_text("no picture")
    assert read_dataset(root).unreadable == {
        "hem/UID_H1_2_1_hem.gif": "The picture is a GIF file, which is not read; save it as PNG or TIFF."
    }


def test_tiff_and_sixteen_bits_are_read_like_any_other(tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "hem").mkdir()
    cv2.imwrite(str(tmp_path / "hem/UID_H1_1_1_hem.tif"), draw(1))
    cv2.imwrite(str(tmp_path / "hem/UID_H1_2_1_hem.TIFF"), draw(1).astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "hem/UID_H1_3_1_hem.png"), draw(1))
    data = read_dataset(tmp_path)
    assert len(data.cells) == 3
    assert len(data.unique) == 1


@pytest.mark.parametrize(("make", "words"), [(False, "is not a folder"), (True, "holds no cell images")])
def test_a_missing_or_empty_folder_is_wrong_usage(tmp_path: Path, make: bool, words: str) -> None:
    folder = tmp_path / "data"
    if make:
        (folder / "all").mkdir(parents=True)
    with pytest.raises(UsageError, match=words):
        read_dataset(folder)


def test_a_folder_of_broken_images_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "UID_1_1_1_all.png").write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"None of the 1 images .* first, all/UID_1_1_1_all.png: .*trunc"):
        read_dataset(tmp_path)


def test_the_fingerprint_follows_names_and_contents_only(tmp_path: Path, write_cells: WriteCells, draw: Draw) -> None:
    names = ["all/UID_1_1_1_all.png", "hem/UID_H1_1_1_hem.png"]
    here, there = (read_dataset(write_cells(tmp_path / place, names)) for place in ("here", "there"))
    assert here.fingerprint == there.fingerprint
    cv2.imwrite(str(tmp_path / "there" / names[0]), draw(99))
    assert read_dataset(tmp_path / "there").fingerprint != here.fingerprint


def test_inputs_come_in_order_and_progress_is_told(tmp_path: Path, write_cells: WriteCells) -> None:
    data = read_dataset(write_cells(tmp_path, [f"all/UID_1_{n}_1_all.png" for n in range(9)]))
    spec, told = ImagingSpec(size_px=64), []
    images = inputs(data.cells, spec, lambda done, total: told.append((done, total)))
    assert (images.dtype, images.shape) == (np.uint8, (9, 64, 64, 3))
    for image, cell in zip(images, data.cells, strict=True):
        assert np.array_equal(image, network_input(cell_on_black(read_image(cell.path), CNMC_UM_PER_PX), spec))
    assert told == [(n, 9) for n in range(1, 10)]
    assert inputs([], spec).shape == (0, 64, 64, 3)


def test_names_sort_as_people_count() -> None:
    assert sorted(["H10", "H2", "10", "9", "", "H2b"], key=natural) == ["", "9", "10", "H2", "H2b", "H10"]


def test_the_real_data_set_is_counted_right(real_cnmc: Dataset) -> None:
    """Files counted by their folders, duplicates and groups with MD5 and a union by hand."""
    data = real_cnmc
    files = [p for p in data.root.rglob("*") if p.suffix == ".webp"]
    by_content: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_content[hashlib.md5(path.read_bytes()).hexdigest()].append(path)
    repeated = [same for same in by_content.values() if len(same) > 1]
    links = [{p.name.split("_")[1].upper() for p in same} for same in repeated]
    merged: list[set[str]] = []
    for link in links:
        touching = [group for group in merged if group & link]
        merged = [group for group in merged if not group & link] + [link.union(*touching)]
    folders = Counter(path.parent.name for path in files)
    assert Counter(c.label for c in data.cells) == {1: folders["all"], 0: folders["hem"]}
    assert not data.unreadable
    assert repeated
    ours = sorted(sorted(c.path for c in same) for same in data.duplicates)
    assert ours == sorted(sorted(same) for same in repeated)
    groups: dict[str, set[str]] = defaultdict(set)
    for subject, group in data.by_pictures_alone().groups.items():
        groups[group].add(subject)
    ours = [members for members in groups.values() if len(members) > 1]
    assert sorted(map(sorted, ours)) == sorted(sorted(group) for group in merged if len(group) > 1)
