"""``bloodedge train`` from a folder of cells to a run folder, whatever happens in between."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import bloodedge_train.fitting.fit as fitting
from bloodedge import RESEARCH_USE
from bloodedge.bundle.run_record import read_metrics, read_run
from bloodedge.cli import main
from bloodedge.data.fitted_pictures import read_fitted_of_run
from bloodedge.evaluation.classifier import open_run
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.held_out import choose_cells
from bloodedge.evaluation.scoring import score

WriteCells = Callable[[Path, Iterable[str]], Path]

RECIPE = """
[imaging]
size_px = 32
um_per_px = 0.6
[split]
validation = 0.2
test = 0.2
[network]
dropout = 0.3
[augment]
light = 0.1
mixup = 0.2
[fit]
epochs = 4
batch = 16
learning_rate = 3e-3
keep = "average"
sampling = "subject_balanced"
"""

KILLED = """
import os, signal, sys
import cv2
from bloodedge.cli import main
import bloodedge_train.fitting.feed as feed
whole = feed.Feed.__getitem__

def get(self, number):
    if self.seed[1] == 2 and number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, number)

feed.Feed.__getitem__ = get
main(sys.argv[1:])
"""


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def asked(rendered_data: Path, recipe: Path) -> list[str]:
    return [str(rendered_data), "--model", "edgenet", "--recipe", str(recipe), "--seed", "3"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, asked: list[str]) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert run(*asked, "--out", out) == 0
    return out


def weights(out: Path) -> list[bytes]:
    return [w.tobytes() for w in keras.models.load_model(out / "model.keras", compile=False).get_weights()]


def test_a_run_folder_holds_all_that_a_run_must_tell(unbroken: Path, rendered_data: Path) -> None:
    names = {p.name for p in unbroken.iterdir()}
    records = {"run.json", "metrics.json", "MODEL_CARD.md", "predictions.csv", "fitted.npz"}
    assert names == {"model.keras", "figures"} | records
    pictures = {p.name for p in (unbroken / "figures").iterdir()}
    assert {"learning_curves.png", "roc.png", "reliability.png", "confusion_test.png", "subjects_test.png"} <= pictures
    record, metrics = read_run(unbroken), read_metrics(unbroken)
    assert record.model == "edgenet"
    assert record.imaging.size_px == 32
    assert len(record.history) == 4
    assert record.data.rendered
    assert record.data.cells == 144
    assert not record.split.leaky
    parts = [set(part.subjects) for part in record.split.parts.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12
    cells, *_ = choose_cells(Ensemble.of([open_run(unbroken)]), _read(rendered_data), "auto")
    assert metrics.parts["test"].cells == len(cells)
    assert set(metrics.parts["test"].per_subject) == set(record.split.parts["test"].subjects)


def test_a_runs_thresholds_were_chosen_on_its_validation_people(unbroken: Path) -> None:
    record = read_run(unbroken)
    point = record.operating_point
    assert point is not None
    assert (point.goal, point.target, point.cells) == ("even errors", None, record.split.parts["validation"].cells)
    assert f"blast from {record.thresholds.blast:g} on" in (unbroken / "MODEL_CARD.md").read_text()


def test_a_run_folder_knows_the_pictures_it_was_fitted_to(unbroken: Path, rendered_data: Path) -> None:
    record, cells = read_run(unbroken), _read(rendered_data).unique
    fitted = read_fitted_of_run(unbroken, record)
    assert fitted is not None
    assert record.fitted is not None
    people = {s for part in ("train", "validation") for s in record.split.parts[part].subjects}
    same, _ = fitted.copies(cells)
    assert same == {cell.name for cell in cells if cell.subject in people}
    assert record.fitted.pictures == len(fitted) == len(same)


def _read(folder: Path) -> Any:
    from bloodedge.data.dataset import read_dataset

    return read_dataset(folder)


def test_the_card_carries_the_notice_and_every_subject(unbroken: Path) -> None:
    card = (unbroken / "MODEL_CARD.md").read_text()
    assert RESEARCH_USE in card
    for subject in [*"123456", *(f"H{n}" for n in range(1, 7))]:
        assert subject in card
    assert "leaky" not in card.lower()


def test_evaluate_gives_the_runs_own_figures_again_as_json(
    unbroken: Path, rendered_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", str(unbroken), str(rendered_data), "--json", "-"])
    assert exit_.value.code == 0
    told = json.loads(capsys.readouterr().out)
    promised = (
        "cells subjects accuracy weighted_f1 macro_f1 balanced_accuracy sensitivity specificity auc ece ci95 "
        "per_subject confusion latency_ms"
    )
    assert set(promised.split()) <= set(told)
    assert set(told["latency_ms"]) == {"p50", "p95", "p99"}
    test = read_metrics(unbroken).parts["test"]
    assert told["confusion"] == test.confusion
    assert told["auc"] == pytest.approx(test.auc, abs=1e-9)


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, asked: list[str], unbroken: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, "train", *asked, "--out", str(out)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in (out / "checkpoint").glob("epoch_*")] == ["epoch_0002"]
    assert not (out / "run.json").exists()
    assert run(*asked, "--out", out, "--resume") == 0
    assert weights(out) == weights(unbroken)
    assert read_metrics(out).parts == read_metrics(unbroken).parts
    assert not (out / "checkpoint").exists()


@pytest.mark.slow
def test_a_full_disk_and_ctrl_c_lose_no_epoch(
    tmp_path: Path,
    asked: list[str],
    unbroken: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    arguments = [*asked, "--out", str(out)]
    save, watch = np.savez, fitting.watch

    def full(path: Path, *arrays: Any) -> None:
        if "epoch_0002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, *arrays)

    def told(code: int) -> str:
        text = capfd.readouterr().err
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if line.startswith("bloodedge: ")]
        assert len(lines) == 1, code
        return lines[0]

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        assert run(*arguments) == 1
    assert "the disk is full; free some space and run the command again" in told(1)
    assert [p.name for p in (out / "checkpoint").glob("*epoch*")] == ["epoch_0001"]

    assert run(*arguments) == 2
    assert "holds an unfinished run; continue it with --resume or choose another --out" in told(2)
    assert run(*arguments, "--resume", "--epochs", "7") == 2
    assert "was begun with another recipe; resume it as it was begun" in told(2)

    # A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(model: Any, samples: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return watch(model, samples)

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "watch", interrupted)
        assert run(*arguments, "--resume") == 130
    signal.signal(signal.SIGINT, before)
    assert "Continue by repeating the command with --resume" in told(130)

    assert run(*arguments, "--resume") == 0
    assert weights(out) == weights(unbroken)


@pytest.mark.parametrize("mine", ["model.keras", "fitted.npz", "figures/roc.png", "checkpoint/epoch_0003/weights.h5"])
def test_a_users_files_in_the_folder_are_neither_replaced_nor_removed(
    asked: list[str], tmp_path: Path, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine" / mine
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert run(*asked, "--out", tmp_path / "mine") == 2
    assert "which this command did not make; choose another folder with --out" in capsys.readouterr().err
    assert [p for p in (tmp_path / "mine").rglob("*") if p.is_file()] == [path]


def test_a_finished_run_is_never_written_over(
    unbroken: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in unbroken.rglob("*")}
    for more in ([], ["--resume"]):
        assert run(*asked, "--out", unbroken, *more) == 2
        assert "holds a finished run; choose another folder with --out" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in unbroken.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "edgnet"], 'Did you mean "edgenet"?'),
        (["--model", "edgenet", "--recipe", "honst"], 'Did you mean "honest"?'),
        (["--model", "edgenet", "--folds", "3"], "--folds K and --fold I go together"),
        (["--model", "edgenet", "--folds", "3", "--fold", "3"], "with I from 0 to K - 1"),
        (["--model", "edgenet", "--resume"], "holds no unfinished run to resume"),
        (["--model", "edgenet"], "is not a folder; give the folder that holds"),
    ],
)
def test_wrong_wishes_are_told_before_anything_is_computed(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "nowhere", *arguments, "--out", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([f"all/UID_{n}_1_1_all.png" for n in range(4)], "holds no hem cells; both classes"),
        (["all/UID_1_1_1_all.png", "hem/UID_1_2_1_hem.png"], "Only 1 independent group"),
    ],
)
def test_data_that_cannot_be_split_are_told(
    names: list[str], words: str, tmp_path: Path, write_cells: WriteCells, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_cells(tmp_path / "data", names), "--model", "edgenet", "--out", tmp_path / "run") == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_a_file_is_one_sentence(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(*asked, "--out", tmp_path / "file") == 1
    assert "choose another name" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_takes_the_back_end_that_is_installed(unbroken: Path, rendered_data: Path) -> None:
    """A GPU host has Keras with JAX; Keras' own default, TensorFlow, is not there."""
    pytest.importorskip("jax", reason="JAX is not installed (pip install -e '.[train]')")
    hidden = """
import sys
from importlib.machinery import PathFinder
whole = PathFinder.find_spec
def find_spec(name, *rest):
    return None if name.partition(".")[0] == "tensorflow" else whole(name, *rest)
PathFinder.find_spec = find_spec
from bloodedge.cli import main
main(sys.argv[1:])
"""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-c", hidden, "evaluate", str(unbroken), str(rendered_data), "--json", "-"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout)["confusion"] == read_metrics(unbroken).parts["test"].confusion


@pytest.mark.slow
def test_the_last_line_of_the_fit_gives_the_cards_validation_auc_and_says_whose_it_is(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(*asked, "--epochs", "2", "--out", out) == 0
    auc = read_metrics(out).parts["validation"].auc
    said = " ".join(capsys.readouterr().err.split())
    assert f"Kept: the weights of epoch 2, the last one. Its validation AUC is {auc:.4f}, as on the model card" in said


def test_a_network_that_calls_one_class_only_is_called_so_at_the_end(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = read_metrics(unbroken)
    people = ["1", "2", "H1", "H2"]
    parts = {
        "validation": score([1, 1, 0, 0], np.array([0.2, 0.3, 0.1, 0.2]), people),
        "test": score([1, 1, 0, 0], np.array([0.9, 0.3, 0.1, 0.2]), people),
    }
    monkeypatch.setattr("bloodedge_train.run.train", lambda *_: metrics.model_copy(update={"parts": parts}))
    assert run("data", "--model", "edgenet", "--out", tmp_path / "one") == 0
    said = capsys.readouterr().out
    assert "one called none of the 4 validation cells blast." in said
    assert "test cells" not in said
