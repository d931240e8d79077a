"""``bloodedge train --recipe`` with a head: from a folder of cells to a run folder."""

import csv
import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
import pytest

from bloodedge.bundle.run_record import read_metrics, read_run
from bloodedge.cli import main
from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.data.split import recall
from bloodedge.data.training_features import TrainingFeatures
from bloodedge.decision.thresholds import calibrated
from bloodedge.engine.keras import load_model
from bloodedge_train.recipe import Recipe, load_recipe

WriteCells = Callable[[Path, Iterable[str]], Path]

RECIPE = """
[imaging]
size_px = 48
um_per_px = 0.4
views = ["physical", "canonical"]
[split]
validation = 0
test = 0.25
[head]
depths = [0.5, 1.0]
int8_noise = 10
camera_noise = 0.3
bench_noise = 3.0
penalties = [0.1, 1.0]
inner_folds = 3
"""
FILES = {
    "model.keras",
    "run.json",
    "metrics.json",
    "predictions.csv",
    "figures",
    "MODEL_CARD.md",
    "features.npz",
    "fitted.npz",
}


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    (folder / "tiny.toml").write_text(RECIPE)
    keras.utils.set_random_seed(4)
    importlib.import_module("bloodedge_train.zoo.edgenet").features(48).save_weights(folder / "edgenet.weights.h5")
    return folder


@pytest.fixture(scope="module")
def asked(folder: Path, rendered_data: Path) -> list[str]:
    named = ["--recipe", str(folder / "tiny.toml"), "--weights", str(folder / "edgenet.weights.h5")]
    return [str(rendered_data), "--model", "edgenet", *named, "--cache", str(folder / "cache")]


@pytest.fixture(scope="module")
def finished(folder: Path, asked: list[str]) -> Path:
    assert run(*asked, "--out", folder / "run") == 0
    return folder / "run"


def test_the_run_folder_is_like_any_other(finished: Path, rendered_data: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES
    record, metrics = read_run(finished), read_metrics(finished)
    assert set(record.split.parts) == {"train", "test"}
    assert set(metrics.parts) == {"inner", "test"}
    assert metrics.parts["inner"].cells == record.split.parts["train"].cells
    assert record.history[record.best_epoch - 1]["penalty"] in {0.1, 1.0}
    assert Recipe.model_validate(record.recipe).head is not None
    card = (finished / "MODEL_CARD.md").read_text()
    assert "People held back in turn (chose the penalty, the temperature and the thresholds)" in card
    assert "a logistic head with penalty" in card
    assert (finished / "figures" / "penalties.png").is_file()
    dataset = read_dataset(rendered_data)
    parts = recall(dataset, record.split, Recipe.model_validate(record.recipe).split)
    assert {cell.subject for cell in parts["test"]} == set(metrics.parts["test"].per_subject)


def test_the_kept_network_gives_the_predictions_that_were_scored(finished: Path, rendered_data: Path) -> None:
    record = read_run(finished)
    with (finished / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    cells = {cell.name: cell for cell in read_dataset(rendered_data).unique}
    images = inputs([cells[row["cell"]] for row in rows], record.imaging)
    outputs = load_model(finished).predict(images, verbose=0)
    assert outputs.shape == (len(rows), 2)
    np.testing.assert_allclose(outputs[:, 1], [float(row["blast_uncalibrated"]) for row in rows], atol=1e-4)
    blasts = calibrated(outputs, record.temperature)[:, 1]
    np.testing.assert_allclose(blasts, [float(row["blast"]) for row in rows], atol=1e-4)


@pytest.mark.slow
def test_evaluate_and_a_second_run_agree_with_the_first(
    finished: Path, folder: Path, asked: list[str], rendered_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(finished), str(rendered_data), "--json", "-"])
    found = json.loads(capsys.readouterr().out)
    test = read_metrics(finished).parts["test"]
    assert found["cells"] == test.cells
    assert found["accuracy"] == pytest.approx(test.accuracy)
    files = {path.name: path.read_bytes() for path in (folder / "cache").glob("*.npz")}
    assert len(files) == 5  # features: plain, with int8 activations, by cameras, at other benches; and the pictures
    assert run(*asked, "--out", folder / "again") == 0
    assert {path.name: path.read_bytes() for path in (folder / "cache").glob("*.npz")} == files
    assert read_metrics(folder / "again").parts == read_metrics(finished).parts


@pytest.mark.slow
@pytest.mark.usefixtures("finished")  # which filled the cache
def test_a_fold_has_the_same_figures_with_and_without_a_cache(folder: Path, asked: list[str]) -> None:
    fold = ["--folds", "3", "--fold", "1"]
    assert run(*asked, *fold, "--out", folder / "warm") == 0
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    assert run(*asked[:-2], "--no-cache", *fold, "--out", folder / "cold") == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == before
    warm, cold = folder / "warm", folder / "cold"
    assert (warm / "predictions.csv").read_bytes() == (cold / "predictions.csv").read_bytes()
    assert read_metrics(warm).parts == read_metrics(cold).parts
    record = read_run(cold)
    assert (record.split.folds, record.split.fold, set(record.split.parts)) == (3, 1, {"train", "test"})


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        (["--epochs", "3"], "fits a head, which has no epochs; leave out --epochs."),
        (["--resume"], "holds no unfinished run to resume"),
        (["--weights", "none"], "give them with --weights imagenet or --weights PATH."),
        (["--no-cache"], "--cache and --no-cache exclude each other"),
        (["--model", "efficientnet_lite0"], "holds the weights of another network than efficientnet_lite0"),
    ],
)
def test_what_a_head_cannot_do_is_one_sentence(
    added: list[str], sentence: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*asked, *added, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert sentence in " ".join(error.split())
    assert "Traceback" not in error


def test_a_class_with_one_person_to_train_on_is_refused(
    asked: list[str], tmp_path: Path, write_cells: WriteCells, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"all/UID_{person}_{n}_1_all.png" for person in (1, 2, 3) for n in range(3)]
    names += [f"hem/UID_H{person}_{n}_1_hem.png" for person in (1, 2) for n in range(3)]
    data = write_cells(tmp_path / "data", names)
    assert run(data, *asked[1:], "--out", tmp_path / "run") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Only 1 independent group of subjects to train on with hem cells" in error


@pytest.mark.slow
def test_a_person_with_cells_of_both_classes_is_named(
    asked: list[str], tmp_path: Path, write_cells: WriteCells, capsys: pytest.CaptureFixture[str]
) -> None:
    both = range(1, 9)
    names = [f"all/UID_{person}_{n}_1_all.png" for person in both for n in range(3)]
    names += [f"hem/UID_{person}_{n}_2_hem.png" for person in both for n in range(3)]
    data = write_cells(tmp_path / "data", names)
    assert run(data, *asked[1:], "--out", tmp_path / "run") == 0
    people = ", ".join(read_run(tmp_path / "run").split.parts["train"].subjects)
    assert f"{people} have cells of both classes; all are kept." in capsys.readouterr().err


def test_a_recipe_with_a_head_has_no_validation_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[head]\ndepths = [1.5]\n")
    assert run(tmp_path, "--model", "edgenet", "--recipe", path) == 2
    assert "head.depths" in capsys.readouterr().err
    path.write_text("[split]\nvalidation = 0.1\n[head]\n")
    assert run(tmp_path, "--model", "edgenet", "--recipe", path) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "split.validation: a head holds people back in turn instead; set it to 0" in error


def test_the_packaged_recipe_sees_both_scales_in_the_cells_own_light() -> None:
    recipe = load_recipe("head")
    assert recipe.head is not None
    assert set(recipe.imaging.views) == {"physical", "canonical"}
    assert recipe.imaging.light == "as_is"


@pytest.fixture(scope="module")
def everybody(folder: Path, asked: list[str]) -> Path:
    assert run(*asked, "--all-people", "--folds", "3", "--out", folder / "everybody") == 0
    return folder / "everybody"


@pytest.mark.slow
def test_a_run_fitted_to_everybody_is_judged_by_heads_that_were_not(everybody: Path, rendered_data: Path) -> None:
    assert {path.name for path in everybody.iterdir()} == FILES | {"folds.keras"}
    record, metrics = read_run(everybody), read_metrics(everybody)
    dataset = read_dataset(rendered_data)
    assert set(record.split.parts) == {"train"}
    assert record.split.parts["train"].cells == len(dataset.unique)
    assert set(metrics.parts) == {"inner", "folds"}
    assert record.cross_validation is not None
    folds = record.cross_validation.folds
    assert sorted(group for fold in folds for group in fold) == sorted(set(dataset.groups.values()))
    with (everybody / "predictions.csv").open(newline="") as file:
        rows = {row["cell"]: float(row["blast"]) for row in csv.DictReader(file) if row["part"] == "folds"}
    outputs = load_model(everybody, "folds.keras").predict(inputs(dataset.unique, record.imaging), verbose=0)
    assert outputs.shape == (len(dataset.unique), 3, 2)
    own = {group: number for number, fold in enumerate(folds) for group in fold}
    chosen = np.stack([one[own[dataset.group(cell)]] for one, cell in zip(outputs, dataset.unique, strict=True)])
    blasts = calibrated(chosen, record.temperature)[:, 1]
    np.testing.assert_allclose(blasts, [rows[cell.name] for cell in dataset.unique], atol=1e-4)
    assert metrics.parts["folds"].accuracy == pytest.approx(
        np.mean((blasts >= record.thresholds.blast) == [cell.label for cell in dataset.unique])
    )
    kept = TrainingFeatures.unpack((everybody / "features.npz").read_bytes(), "features.npz")
    assert record.features == kept.record()
    assert set(kept.people) == set(dataset.groups.values())
    card = (everybody / "MODEL_CARD.md").read_text()
    assert "the network was fitted to everybody, and judged by 3 others" in card
    assert "## Cross-validation (each person held out once" in card


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        (["--all-people", "--folds", "3", "--fold", "1"], "--all-people holds nobody out for good; leave out --fold."),
        (["--all-people", "--recipe", "demo"], "--all-people needs a recipe with a head, such as --recipe head"),
        (["--all-people", "--split", "image"], "--all-people needs a recipe with a head, such as --recipe head"),
    ],
)
def test_what_everybody_excludes(
    added: list[str], sentence: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*asked, *added, "--out", tmp_path / "run") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
