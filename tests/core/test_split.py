"""No person is in two parts of an honest split; a leaky one says so."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloodedge.data.dataset import CellFile, Dataset, merge_subjects
from bloodedge.data.fitted_pictures import FittedPictures, held_out
from bloodedge.data.perceptual_hash import HASH_BYTES
from bloodedge.data.split import Fold, SplitSpec, recall, split
from bloodedge.errors import UsageError


def cell(subject: str, label: int, number: int, picture: str = "") -> CellFile:
    folder = ("hem", "all")[label]
    name = f"{folder}/UID_{subject}_{number}_1_{folder}.png" if subject else f"{folder}/cell{number}.png"
    content = hashlib.sha256((picture or name).encode()).hexdigest()
    return CellFile(content, content, 500, 100.0, bytes(HASH_BYTES), None, name, Path(name), label, subject, "")


def dataset(healthy: int = 6, patients: int = 6, cells: int = 8, *, pairs: bool = False) -> Dataset:
    """Subjects H1.. and 1.. of ``cells`` cells each; with ``pairs``, 1 and 2, 3 and 4 and H1 and H2 share a picture."""
    people = [(f"H{n + 1}", 0) for n in range(healthy)] + [(str(n + 1), 1) for n in range(patients)]
    groups = {subject: subject for subject, _ in people}
    files = [cell(subject, label, n) for subject, label in people for n in range(cells)]
    if pairs:
        for first, second, label in (("1", "2", 1), ("3", "4", 1), ("H1", "H2", 0)):
            files += [cell(s, label, 99, picture=f"of {first} and {second}") for s in (first, second)]
            groups |= dict.fromkeys((first, second), f"{first}+{second}")
    return Dataset(Path("data"), tuple(sorted(files, key=lambda c: c.name)), {}, False, groups)


def sides(data: Dataset, parts: dict[str, list[CellFile]]) -> dict[str, set[str]]:
    return {name: {data.group(c) for c in part} for name, part in parts.items()}


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), healthy=st.integers(4, 9), patients=st.integers(5, 12))
def test_no_group_stands_on_two_sides_and_every_picture_counts_once(seed: int, healthy: int, patients: int) -> None:
    data = dataset(healthy, patients, pairs=True)
    parts, record = split(data, SplitSpec(), seed=seed)
    groups = sides(data, parts)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == len(set(data.groups.values()))
    names = [c.name for part in parts.values() for c in part]
    assert sorted(names) == [c.name for c in data.unique]
    assert len({c.pixels_digest for part in parts.values() for c in part}) == len(names)
    assert all({c.label for c in part} == {0, 1} for part in parts.values())
    assert not record.leaky
    assert {name: set(part.groups) for name, part in record.parts.items()} == groups


def test_the_parts_have_about_the_wanted_shares() -> None:
    data = dataset(30, 30)
    parts, _ = split(data, SplitSpec(validation=0.2, test=0.3), seed=1)
    shares = {name: len(part) / len(data.cells) for name, part in parts.items()}
    assert shares == pytest.approx({"train": 0.5, "validation": 0.2, "test": 0.3}, abs=0.05)


def test_the_seed_decides() -> None:
    data = dataset(12, 12)
    first, again, other = (split(data, SplitSpec(), seed=s) for s in (3, 3, 4))
    assert first == again
    assert sides(data, first[0]) != sides(data, other[0])


def test_shift_subjects_stand_apart_with_everyone_they_share_a_picture_with() -> None:
    data = dataset(pairs=True)
    spec = SplitSpec(shift_subjects=("2", "H1", "not there"))
    parts, record = split(data, spec, seed=0)
    assert {c.subject for c in parts["shift"]} == {"1", "2", "H1", "H2"}
    assert record.parts["shift"].groups == ["1+2", "H1+H2"]
    for name in ("train", "validation", "test"):
        assert not {"1", "2", "H1", "H2"} & {c.subject for c in parts[name]}


@pytest.mark.slow
@pytest.mark.parametrize(("people", "count"), [(12, 4), (5, 5)])
def test_folds_partition_the_groups(people: int, count: int) -> None:
    data = dataset(people, people)
    seen: list[str] = []
    for number in range(count):
        parts, record = split(data, SplitSpec(), seed=0, fold=Fold(count, number))
        groups = sides(data, parts)
        assert not groups["test"] & (groups["train"] | groups["validation"])
        assert not groups["train"] & groups["validation"]
        assert (record.folds, record.fold) == (count, number)
        seen += groups["test"]
    assert sorted(seen) == sorted(set(data.groups.values()))


def test_each_person_can_be_a_fold_of_their_own() -> None:
    data = dataset(12, 12, cells=2)
    parts, _ = split(data, SplitSpec(), seed=1, fold=Fold(12, 3))
    assert {c.label for c in parts["test"]} == {0, 1}
    assert len({c.subject for c in parts["test"]}) == 2


def test_a_split_by_image_is_labelled_leaky_and_still_counts_each_picture_once() -> None:
    data = dataset(pairs=True)
    parts, record = split(data, SplitSpec(kind="image"), seed=0)
    assert record.leaky
    assert sorted(c.name for part in parts.values() for c in part) == [c.name for c in data.unique]
    assert {c.subject for c in parts["train"]} & {c.subject for c in parts["test"]}


def test_image_folds_partition_the_pictures() -> None:
    data = dataset()
    tests = [split(data, SplitSpec(kind="image"), seed=0, fold=Fold(4, n))[0]["test"] for n in range(4)]
    assert sorted(c.name for part in tests for c in part) == [c.name for c in data.unique]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (dataset(healthy=0), "holds no hem cells"),
        (dataset(patients=0), "holds no all cells"),
        (dataset(healthy=1, patients=1), "Only 1 independent group of subjects with hem cells, but 3"),
        (dataset(healthy=6, patients=2), "Only 2 independent groups of subjects with all cells, but 3"),
        (dataset(healthy=3, patients=3, pairs=False, cells=0), "holds no"),
    ],
)
def test_too_few_classes_or_people_are_one_sentence_with_a_remedy(data: Dataset, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        split(data, SplitSpec(), seed=0)
    assert "\n" not in str(caught.value)


def test_one_subject_with_cells_of_both_classes_is_not_enough() -> None:
    files = [cell("7", label, n) for label in (0, 1) for n in range(20)]
    data = Dataset(Path("data"), tuple(files), {}, False, {"7": "7"})
    with pytest.raises(UsageError, match="Only 1 independent group"):
        split(data, SplitSpec(), seed=0)


def test_more_folds_than_people_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"Only 6 independent groups .* but 9 are needed"):
        split(dataset(), SplitSpec(), seed=0, fold=Fold(9, 0))


def test_cells_of_unnamed_people_cannot_be_split_honestly() -> None:
    data = dataset()
    data = replace(data, cells=(*data.cells, cell("", 1, 5)))
    with pytest.raises(UsageError, match=r"all/cell5.png has no subject in its name.*--split image"):
        split(data, SplitSpec(), seed=0)
    parts, record = split(data, SplitSpec(kind="image"), seed=0)
    assert record.leaky
    assert any(c.subject == "" for part in parts.values() for c in part)


def test_too_few_cells_for_a_split_by_image_are_one_sentence() -> None:
    with pytest.raises(UsageError, match="too few cells"):
        split(dataset(1, 1, 2), SplitSpec(kind="image"), seed=0)


@pytest.mark.parametrize(
    "shares", [{"test": 0.9, "validation": 0.4}, {"test": -0.1}, {"validation": -0.1}, {"test": 0}]
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    from bloodedge.config import validate

    with pytest.raises(UsageError, match=r"validation|test"):
        validate(SplitSpec, shares, "Recipe")


@pytest.mark.parametrize("kind", ["group", "image"])
@pytest.mark.parametrize("fold", [None, Fold(3, 1)])
def test_a_runs_parts_come_back(kind, fold: Fold | None) -> None:
    data, spec = dataset(9, 9, pairs=True), SplitSpec(shift_subjects=("5",))
    parts, record = split(data, spec.model_copy(update={"kind": kind}), seed=8, fold=fold)
    assert recall(data, record, spec) == parts


def as_one(data: Dataset, *names: str) -> Dataset:
    """The data once it is known that these subjects are one person."""
    return replace(data, groups=merge_subjects(data.cells, [names]), same_person=(names,))


def test_parts_come_back_once_two_subjects_of_them_are_known_to_be_one_person() -> None:
    data, spec = dataset(), SplitSpec()
    parts, record = split(data, spec, seed=0)
    fitted, held = parts["train"][0].subject, parts["test"][0].subject
    known = as_one(data, fitted, held)
    assert recall(known, record, spec) == parts
    none, told = FittedPictures.of({}), list[str]()
    kept = held_out(known, parts, none, told.append)
    assert kept["test"] == [c for c in parts["test"] if c.subject != held]
    assert told == [f"left out {held} of the test part: the same person was seen in training under another name"]
    assert held_out(data, parts, none)["test"] == parts["test"]


def test_a_recipe_may_trust_the_names() -> None:
    data = as_one(dataset(), "1", "2")
    _, together = split(data, SplitSpec(), seed=0)
    _, apart = split(data, SplitSpec(known_people=False), seed=0)
    assert "1+2" in {group for part in together.parts.values() for group in part.groups}
    assert {"1", "2"} <= {group for part in apart.parts.values() for group in part.groups}


@pytest.mark.parametrize("kind", ["group", "image"])
def test_other_data_are_refused(kind) -> None:
    data, spec = dataset(), SplitSpec()
    _, record = split(data, spec.model_copy(update={"kind": kind}), seed=0)
    for other in (dataset(cells=9), dataset(healthy=7), replace(data, cells=data.cells[1:])):
        if kind == "group" and len(other.groups) > len(data.groups):
            continue  # people who were not there then are simply in no part
        with pytest.raises(UsageError, match="is not the data this run was fitted to"):
            recall(other, record, spec)


def test_without_a_validation_share_the_test_part_validates_too_by_image_only() -> None:
    spec = SplitSpec(kind="image", validation=0, test=0.3)
    parts, record = split(dataset(), spec, seed=0)
    assert parts["validation"] == parts["test"]
    assert not {c.name for c in parts["train"]} & {c.name for c in parts["test"]}
    assert recall(dataset(), record, spec) == parts


@pytest.mark.parametrize("fold", [None, Fold(3, 1)])
def test_without_a_validation_share_groups_only_train_or_test(fold: Fold | None) -> None:
    spec = SplitSpec(validation=0, test=0.3)
    parts, record = split(dataset(), spec, seed=0, fold=fold)
    assert set(parts) == {"train", "test"}
    assert not set(record.parts["train"].groups) & set(record.parts["test"].groups)
    assert sum(map(len, parts.values())) == len(dataset().unique)
    assert recall(dataset(), record, spec) == parts
