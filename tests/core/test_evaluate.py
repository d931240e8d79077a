"""Scores are made of cells never seen, the same way for every network."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.cli import main
from bloodedge.data.dataset import digest, read_dataset
from bloodedge.data.fitted_pictures import FittedPictures, held_out
from bloodedge.data.listing import subject_pattern
from bloodedge.data.split import SplitSpec, recall, split
from bloodedge.decision.thresholds import Thresholds
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.evaluation.classifier import Classifier, blast_probabilities
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.evaluate import evaluate
from bloodedge.evaluation.held_out import choose_cells
from bloodedge.evaluation.scoring import agree, score
from bloodedge.imaging import ImagingSpec, cell_on_black
from bloodedge.simulation import render_field

WriteCells = Callable[[Path, Iterable[str]], Path]


class RedEngine:
    """Says blast with a probability that is the share of red in the picture."""

    name = "red"
    runtime = "by hand"

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        red = images[..., 0].mean((1, 2)) / np.maximum(images.mean((1, 2)).sum(1), 1)
        return np.stack([1 - red, red], 1).astype(np.float32)


@cache
def classifier(data: Path, kind="group") -> Classifier:
    dataset, spec = read_dataset(data), SplitSpec(shift_subjects=("6",))
    _, record = split(dataset, spec.model_copy(update={"kind": kind}), seed=0)
    thresholds = Thresholds(blast=0.3, uncertain_low=0.3, uncertain_high=0.3)
    return Classifier("red", RedEngine(), ImagingSpec(size_px=32), 1.0, thresholds, record, spec, dataset.fingerprint)


def alone(classifier: Classifier) -> Ensemble:
    return Ensemble.of([classifier])


def test_of_the_runs_own_data_the_test_part_is_scored(rendered_data: Path) -> None:
    red, dataset = classifier(rendered_data), read_dataset(rendered_data)
    cells, which, _ = choose_cells(alone(red), dataset, "auto")
    assert {c.subject for c in cells} == set(red.split.parts["test"].subjects)
    assert which == "the test part"
    for part in ("train", "validation", "shift"):
        assert {c.subject for c in choose_cells(alone(red), dataset, part)[0]} == set(red.split.parts[part].subjects)
    assert len(choose_cells(alone(red), dataset, "all")[0]) == 144


def test_of_other_data_people_seen_in_training_are_left_out(
    rendered_data: Path, tmp_path: Path, write_cells: WriteCells
) -> None:
    red = classifier(rendered_data)
    seen = {s for part in ("train", "validation") for s in red.split.parts[part].subjects}
    one = min(s for s in seen if s.startswith("H"))
    names = [f"hem/UID_{s}_1_1_hem.png" for s in (one.lower(), "H77")]
    other = read_dataset(write_cells(tmp_path, [*names, "all/UID_88_1_1_all.png"]))
    cells, which, _ = choose_cells(alone(red), other, "auto")
    assert [c.subject for c in cells] == ["88", "H77"]
    assert "not seen in training" in which
    only_seen = replace(other, cells=tuple(c for c in other.cells if c.subject == one))
    with pytest.raises(UsageError, match=r"Every subject in .* was seen in training"):
        choose_cells(alone(red), only_seen, "auto")


def test_a_part_that_the_run_does_not_have_is_told_with_those_it_has(rendered_data: Path) -> None:
    red = classifier(rendered_data)
    bare = replace(red, split=red.split.model_copy(update={"parts": {"test": red.split.parts["test"]}}))
    with pytest.raises(UsageError, match="has no shift part; it has: test"):
        choose_cells(alone(bare), read_dataset(rendered_data), "shift")


def test_a_part_of_other_data_is_refused(rendered_data: Path, tmp_path: Path, write_cells: WriteCells) -> None:
    other = read_dataset(write_cells(tmp_path, ["all/UID_1_1_1_all.png", "hem/UID_H1_1_1_hem.png"]))
    with pytest.raises(UsageError, match="is not the data this run was fitted to"):
        choose_cells(alone(classifier(rendered_data)), other, "test")


def test_an_evaluation_holds_every_figure_with_its_interval(rendered_data: Path) -> None:
    red = classifier(rendered_data)
    figures = evaluate(alone(red), rendered_data, "all").evaluation
    assert (figures.cells, figures.subjects) == (144, 12)
    assert sum(map(sum, figures.confusion)) == 144
    assert set(figures.per_subject) == {*"123456", *(f"H{n}" for n in range(1, 7))}
    assert all(row.label == ("normal" if name[0] == "H" else "blast") for name, row in figures.per_subject.items())
    named = "accuracy weighted_f1 macro_f1 balanced_accuracy precision sensitivity specificity f1 auc pr_auc brier"
    assert set(figures.ci95) == {*named.split(), "mean_subject_accuracy", "ece", "ece_before"}
    for name, (low, high) in figures.ci95.items():
        if not name.startswith("ece"):  # never below zero, so resampling can only raise a small one
            assert low <= getattr(figures, name) <= high
    assert figures.latency_ms is not None
    assert figures.latency_ms.p50 <= figures.latency_ms.p95 <= figures.latency_ms.p99
    assert figures.leaky  # "all" holds the cells that it was fitted to


def test_figures_of_a_split_by_image_are_labelled_leaky(rendered_data: Path) -> None:
    assert evaluate(alone(classifier(rendered_data, "image")), rendered_data)[0].leaky
    assert not evaluate(alone(classifier(rendered_data)), rendered_data)[0].leaky


def test_the_shift_part_of_a_split_by_image_is_not_leaky(rendered_data: Path) -> None:
    """Its people were kept apart, whatever was done with the others."""
    red = classifier(rendered_data, "image")
    assert not evaluate(alone(red), rendered_data, "shift")[0].leaky
    assert evaluate(alone(red), rendered_data, "validation")[0].leaky
    assert evaluate(alone(red), rendered_data, "all")[0].leaky


def test_every_cell_of_people_never_seen_is_not_leaky(
    rendered_data: Path, tmp_path: Path, write_cells: WriteCells
) -> None:
    new = write_cells(tmp_path, ["hem/UID_H77_1_1_hem.png", "all/UID_88_1_1_all.png"])
    assert not evaluate(alone(classifier(rendered_data)), new, "all")[0].leaky


def test_people_who_share_a_picture_with_one_seen_in_training_are_left_out(
    rendered_data: Path, tmp_path: Path, write_cells: WriteCells
) -> None:
    red = classifier(rendered_data)
    seen = min(s for s in red.split.parts["train"].subjects if s.startswith("H"))
    names = [f"hem/UID_{s}_1_1_hem.png" for s in (seen, "H77", "H78")]
    root = write_cells(tmp_path, [*names, "hem/UID_H77_2_1_hem.png", "all/UID_88_1_1_all.png"])
    shutil.copy(root / names[0], root / names[1])  # H77 may be the very person seen
    assert [c.subject for c in choose_cells(alone(red), read_dataset(root), "auto")[0]] == ["88", "H78"]


def test_a_part_of_data_whose_files_were_changed_is_refused(rendered_data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(rendered_data, changed)
    picture = next(changed.rglob("*_all.*"))
    image = cv2.imread(str(picture))
    image[image > 100] += 1
    cv2.imwrite(str(picture), image)
    with pytest.raises(UsageError, match=r"its files differ\), so it has no test part") as caught:
        choose_cells(alone(classifier(rendered_data)), read_dataset(changed), "test")
    assert "\n" not in str(caught.value)


def test_the_worst_subject_is_named() -> None:
    figures = score([1, 1, 1, 0, 0, 0], np.array([0.9, 0.8, 0.2, 0.1, 0.6, 0.3]), ["1", "1", "10", "H2", "H2", "H2"])
    assert figures.worst_subject == "10"
    assert figures.mean_subject_accuracy == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_figures_stored_before_there_were_more_of_them_can_be_read() -> None:
    figures = score([1, 0], np.array([0.9, 0.2]), ["1", "H2"], uncalibrated=np.array([0.99, 0.01]))
    later = {"precision", "f1", "pr_auc", "brier", "ece_before", "mean_subject_accuracy"}
    old = Evaluation.model_validate(figures.model_dump(exclude=later))
    assert all(getattr(old, name) is None for name in later)
    assert old.worst_subject == figures.worst_subject


def test_scores_count_the_people_and_their_cells() -> None:
    labels, blast = [1, 1, 1, 0, 0, 0], np.array([0.9, 0.8, 0.2, 0.1, 0.6, 0.3])
    figures = score(labels, blast, ["1", "1", "10", "H2", "H2", "H2"])
    assert figures.confusion == [[2, 1], [1, 2]]
    assert {n: (r.label, r.cells) for n, r in figures.per_subject.items()} == {
        "1": ("blast", 2),
        "10": ("blast", 1),
        "H2": ("normal", 3),
    }
    assert figures.per_subject["H2"].accuracy == pytest.approx(2 / 3)
    assert figures.auc == pytest.approx(roc_auc_score(labels, blast))
    assert "specificity" not in figures.ci95  # all normal cells are one person's: nothing is known of other people


def test_one_class_alone_leaves_figures_out_instead_of_inventing_them() -> None:
    figures = score([1, 1], np.array([0.9, 0.2]), ["1", "2"])
    assert figures.auc is None
    assert figures.specificity is None
    assert figures.model_dump_json()


def test_agreement_counts_flips_drops_and_the_largest_difference() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    reference = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4])
    blast = np.array([0.9, 0.8, 0.7, 0.45, 0.1, 0.2, 0.55, 0.4])
    agreement = agree(reference, blast, labels, ["1", "1", "2", "2", "H1", "H1", "H2", "H2"], Thresholds())
    assert (agreement.cells, agreement.flips, agreement.flip_rate) == (8, 2, 0.25)
    assert agreement.max_probability_difference == pytest.approx(0.25)
    assert agreement.drop["accuracy"] == pytest.approx(25)
    assert agreement.drop["weighted_f1"] == pytest.approx(
        100 * (1 - f1_score(labels, blast >= 0.5, average="weighted"))
    )
    assert agreement.drop["auc"] == pytest.approx(100 * (1 - roc_auc_score(labels, blast)))
    low, high = agreement.drop_ci95["accuracy"]
    assert low <= 25 <= high
    same = agree(reference, reference, labels, ["1"] * 4 + ["H1"] * 4, Thresholds())
    assert (same.flips, same.max_probability_difference, set(same.drop.values())) == (0, 0, {0.0})


def test_a_threshold_of_its_own_decides_what_a_flip_is() -> None:
    thresholds = Thresholds(blast=0.3, uncertain_low=0.2, uncertain_high=0.4)
    agreement = agree(np.array([0.9, 0.35]), np.array([0.4, 0.25]), [1, 0], ["1", "H1"], thresholds)
    assert agreement.flips == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "data"], "not a finished run folder"),
        (["nowhere", "data", "--precision", "int8"], "convert it: bloodedge convert"),
    ],
)
def test_a_folder_that_is_no_run_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", str(tmp_path / arguments[0]), *arguments[1:]])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


FAULTS = {"no numbers": [np.nan, np.nan], "infinite": [-np.inf, np.inf], "out of range": [-1, 2], "sum": [0.9, 0.9]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_gives_no_probabilities_gets_no_figures(rendered_data: Path, tmp_path: Path, fault) -> None:
    class Faulty(RedEngine):
        def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            outputs = super().predict(images)
            outputs[:2] = FAULTS[fault]
            return outputs

    faulty, table = replace(classifier(rendered_data), engine=Faulty()), tmp_path / "predictions.csv"
    with pytest.raises(BloodedgeError, match=r"red gave no probabilities for 2 of \d+ cells"):
        evaluate(alone(faulty), rendered_data, predictions=table)
    assert not table.exists()
    with pytest.raises(BloodedgeError, match="The red network gave no probabilities"):
        blast_probabilities(Faulty(), np.ones((4, 32, 32, 3), np.uint8), 1.0)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -0.5, 1.5])
def test_a_cell_without_a_probability_is_in_no_figure(fault: float) -> None:
    blast = np.array([0.9, fault, 0.2, 0.1])
    with pytest.raises(BloodedgeError, match="1 of 4 cells have no probability"):
        score([1, 1, 0, 0], blast, ["1", "1", "H1", "H1"])
    with pytest.raises(BloodedgeError, match="1 of 4 cells have no probability"):
        agree(np.array([0.9, 0.8, 0.2, 0.1]), blast, [1, 1, 0, 0], ["1", "1", "H1", "H1"], Thresholds())


def fitted_classifier(data: Path, kind="group") -> Classifier:
    """As made by today's bloodedge: it carries its training pictures."""
    red, dataset = classifier(data, kind), read_dataset(data)
    return replace(red, fitted=FittedPictures.of(recall(dataset, red.split, red.split_spec)))


def renamed(data: Path, subjects: Iterable[str], folder: Path, suffix: str = "") -> dict[str, str]:
    """Copies of people's pictures under other people's names, encoded anew where a suffix is given: new name to old."""
    names = {}
    for number, subject in enumerate(sorted(subjects)):
        for cell in (c for c in read_dataset(data).unique if c.subject == subject):
            label = Path(cell.name).parent.name
            name = Path(label) / f"UID_N{number}_{len(names)}_1_{label}{suffix or cell.path.suffix}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if suffix:
                assert cv2.imwrite(str(folder / name), cv2.imread(str(cell.path)), [cv2.IMWRITE_WEBP_QUALITY, 90])
            else:
                shutil.copy(cell.path, folder / name)
            names[name.as_posix()] = cell.name
    return names


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".webp"])
def test_training_pictures_under_other_peoples_names_are_left_out(
    suffix: str, rendered_data: Path, tmp_path: Path
) -> None:
    red = fitted_classifier(rendered_data)
    parts = red.split.parts
    seen = {*parts["train"].subjects, *parts["validation"].subjects}
    names = renamed(rendered_data, seen | set(parts["test"].subjects), tmp_path, suffix)
    tests = {name for name, old in names.items() if Path(old).name.split("_")[1] in parts["test"].subjects}
    cells, _, left_out = choose_cells(alone(red), read_dataset(tmp_path), "auto")
    assert {c.name for c in cells} == tests
    assert left_out.keys() == names.keys() - tests
    words = "shows the same cell" if suffix else "the same picture was used in training"
    assert any(words in reason for reason in left_out.values())
    assert not evaluate(alone(red), tmp_path).evaluation.leaky
    assert evaluate(alone(red), tmp_path, "all").evaluation.leaky


def test_data_of_training_pictures_alone_are_refused_by_count(rendered_data: Path, tmp_path: Path) -> None:
    red = fitted_classifier(rendered_data)
    names = renamed(rendered_data, red.split.parts["train"].subjects, tmp_path)
    with pytest.raises(UsageError, match=rf"\({len(names)} of {len(names)} pictures are training pictures\)"):
        evaluate(alone(red), tmp_path)


def test_other_cells_of_a_person_whose_training_pictures_came_along_are_left_out(
    rendered_data: Path, tmp_path: Path, write_cells: WriteCells
) -> None:
    """Whoever the pictures are of was seen in training, by whatever name."""
    red = fitted_classifier(rendered_data)
    subject = next(s for s in red.split.parts["train"].subjects if s.startswith("H"))
    renamed(rendered_data, [subject], tmp_path)
    write_cells(tmp_path, ["hem/UID_N0_900_1_hem.png", "hem/UID_H77_1_1_hem.png", "all/UID_88_1_1_all.png"])
    cells, _, left_out = choose_cells(alone(red), read_dataset(tmp_path), "auto")
    assert [c.subject for c in cells] == ["88", "H77"]
    assert left_out["hem/UID_N0_900_1_hem.png"] == "subject N0 was seen in training"


def test_a_test_part_loses_the_cells_that_training_pictures_show(rendered_data: Path, tmp_path: Path) -> None:
    """The data set itself may hold a cell twice, encoded otherwise and under another name, as C-NMC does."""
    data = tmp_path / "data"
    shutil.copytree(rendered_data, data)
    red = classifier(rendered_data)
    train, test = (min(s for s in red.split.parts[part].subjects if s.startswith("H")) for part in ("train", "test"))
    source = next(c for c in read_dataset(data).unique if c.subject == train)
    copy = source.path.parent / f"UID_{test}_900_1_hem.webp"
    assert cv2.imwrite(str(copy), cv2.imread(str(source.path)), [cv2.IMWRITE_WEBP_QUALITY, 90])
    dataset = read_dataset(data)
    parts = {name: [c for c in dataset.unique if c.subject in part.subjects] for name, part in red.split.parts.items()}
    records = {
        name: part.model_copy(update={"digest": digest(c.name for c in parts[name])})
        for name, part in red.split.parts.items()
    }
    record = red.split.model_copy(update={"parts": records})
    both = replace(red, split=record, fingerprint=dataset.fingerprint, fitted=FittedPictures.of(parts))
    cells, which, left_out = choose_cells(alone(both), dataset, "auto")
    assert which == "the test part"
    assert [Path(name).name for name in left_out] == [copy.name]
    assert len(cells) == len(parts["test"]) - 1
    told: list[str] = []
    assert held_out(dataset, parts, FittedPictures.of(parts), told.append)["test"] == cells
    assert "left out 1 of" in told[0]
    assert copy.name in told[0]


def test_a_classifier_that_does_not_know_its_pictures_says_so(rendered_data: Path) -> None:
    assert (
        "without digests of its training pictures" in evaluate(alone(classifier(rendered_data)), rendered_data).notes[0]
    )
    notes = evaluate(alone(fitted_classifier(rendered_data)), rendered_data).notes
    assert not [note for note in notes if "training pictures" in note]


@pytest.fixture
def unnamed(tmp_path: Path, write_cells: WriteCells) -> Path:
    """Forty cells of four people whose files are named by another rule."""
    names = [f"{kind}/patient{n % 2}{kind}-{n}.png" for kind in ("all", "hem") for n in range(20)]
    return write_cells(tmp_path / "unnamed", names)


def test_cells_of_nobody_known_give_figures_without_intervals(unnamed: Path, rendered_data: Path) -> None:
    figures, _, _, notes = evaluate(alone(fitted_classifier(rendered_data)), unnamed)
    assert (figures.cells, figures.ci95) == (40, {})
    assert list(figures.per_subject) == ["unnamed"]
    assert "40 of 40 cells have no subject in their name" in notes[0]
    assert "--one-person" in notes[0]


def test_a_rule_says_whose_cells_are(unnamed: Path, rendered_data: Path) -> None:
    rule = DataLayout(subject="(patient[0-9]+[a-z]+)-")
    figures, _, _, notes = evaluate(alone(fitted_classifier(rendered_data)), unnamed, layout=rule)
    assert set(figures.per_subject) == {"PATIENT0ALL", "PATIENT1ALL", "PATIENT0HEM", "PATIENT1HEM"}
    assert "accuracy" in figures.ci95
    assert not notes
    for wrong, words in (("(", "is no regular expression"), ("patient", "needs a group in brackets")):
        with pytest.raises(UsageError, match=words):
            subject_pattern(wrong)


def test_cells_of_one_person_have_intervals_over_cells_and_say_so(unnamed: Path, rendered_data: Path) -> None:
    figures, _, _, notes = evaluate(
        alone(fitted_classifier(rendered_data)), unnamed, layout=DataLayout(one_person=True)
    )
    assert list(figures.per_subject) == ["ONE PERSON"]
    low, high = figures.ci95["auc"]
    assert low < figures.auc < high
    assert "do not hold for other people" in notes[0]


def test_one_person_of_each_class_gives_no_interval() -> None:
    figures = score([1, 1, 0, 0], np.array([0.9, 0.4, 0.2, 0.6]), ["1", "1", "H2", "H2"])
    assert figures.ci95 == {}


def test_what_cannot_be_read_is_counted_named_and_an_error_when_it_is_much(
    tmp_path: Path, rendered_data: Path, write_cells: WriteCells
) -> None:
    data = write_cells(tmp_path, [f"hem/UID_H7{n}_1_1_hem.png" for n in range(18)])
    for n in range(6):
        (data / "hem" / f"UID_H8{n}_1_1_hem.png").write_bytes(b"no picture")
    red = fitted_classifier(rendered_data)
    with pytest.raises(UsageError, match=r"6 of the 24 pictures .* first, hem/UID_H80.*--allow-unreadable"):
        evaluate(alone(red), data)
    figures, _, left_out, _ = evaluate(alone(red), data, allow_unreadable=True)
    assert figures.cells == 18
    assert sorted(left_out) == [f"hem/UID_H8{n}_1_1_hem.png" for n in range(6)]
    assert all("truncated or not an image" in reason for reason in left_out.values())


def test_whole_fields_among_the_cells_are_refused(tmp_path: Path, rendered_data: Path, write_cells: WriteCells) -> None:
    data = write_cells(tmp_path, [f"hem/UID_H7{n}_1_1_hem.png" for n in range(4)])
    cv2.imwrite(str(data / "hem" / "UID_H80_1_1_hem.png"), render_field(0).bgr)
    with pytest.raises(UsageError, match=r"1 of the 5 pictures .* bloodedge find IMAGE"):
        evaluate(alone(fitted_classifier(rendered_data)), data)


@pytest.mark.slow
def test_cells_on_white_or_transparent_give_the_figures_of_black(rendered_data: Path, tmp_path: Path) -> None:
    red = fitted_classifier(rendered_data)
    figures = []
    for kind in ("black", "white", "transparent"):
        for cell in read_dataset(rendered_data).unique:
            picture = cv2.imread(str(cell.path))
            mask = cell_on_black(picture).mask
            if kind == "white":
                picture[mask == 0] = 255
            elif kind == "transparent":
                picture = np.dstack([np.where(mask[:, :, None] > 0, picture, 130), mask])
            path = tmp_path / kind / Path(cell.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
        figures.append(evaluate(alone(red), tmp_path / kind, "all").evaluation.model_dump(exclude={"latency_ms"}))
    assert figures[1]["auc"] == pytest.approx(figures[0]["auc"], abs=0.002)
    assert figures[2] == figures[0]


def test_the_command_line_names_what_is_left_out(
    tmp_path: Path, rendered_data: Path, write_cells: WriteCells, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_cells(tmp_path, [f"hem/UID_H7{n}_1_1_hem.png" for n in range(18)])
    shutil.copy(data / "hem/UID_H70_1_1_hem.png", data / "hem/UID_H70_2_1_hem.png")
    (data / "hem/UID_H80_1_1_hem.png").touch()
    monkeypatch.setattr("bloodedge.cli.evaluate._open", lambda *_: fitted_classifier(rendered_data))
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "run", str(data), "--json", "-"])
    assert exit_.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"]["hem/UID_H70_2_1_hem.png"] == "it is the same picture as hem/UID_H70_1_1_hem.png"
    assert "is empty" in told["left_out"]["hem/UID_H80_1_1_hem.png"]
    with pytest.raises(SystemExit):
        main(["evaluate", "run", str(data)])
    shown = capsys.readouterr().out
    assert "Left out: 2 pictures" in shown
    assert "hem/UID_H80_1_1_hem.png" in shown


def test_the_command_says_when_a_class_is_never_called(
    rendered_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sure = Thresholds(blast=0.99, uncertain_low=0.99, uncertain_high=0.99)
    for thresholds, said in ((sure, True), (classifier(rendered_data).thresholds, False)):
        red = replace(classifier(rendered_data), thresholds=thresholds)
        monkeypatch.setattr("bloodedge.evaluation.classifier.open_run", lambda _, red=red: red)
        with pytest.raises(SystemExit):
            main(["evaluate", str(rendered_data), str(rendered_data)])
        assert ("No cell was called blast" in capsys.readouterr().out) is said
