"""``bloodedge sweep``: what a space may hold, who is ranked first, and real trials on two nodes with a kill between."""

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.bundle.run_record import read_metrics, read_run
from bloodedge.cli import main
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_train.recipe import packaged
from bloodedge_train.sweep import cluster, ranking, results, space
from bloodedge_train.sweep import trial as worker
from bloodedge_train.sweep.plan import Plan, Trial, trials
from bloodedge_train.sweep.trial import PLAN, TrialRecord, read_trial, run_folder, write_trial

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install -e '.[sweep]')"
)

RECIPE = """
[imaging]
size_px = 32
um_per_px = 0.6
[split]
validation = 0.2
test = 0.2
[augment]
light = 0.1
[fit]
epochs = 2
batch = 16
stop_after = 100
"""


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", *map(str, arguments)])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where space files stand beside the recipe that they name."""
    made = tmp_path_factory.mktemp("spaces")
    (made / "tiny.toml").write_text(RECIPE)
    return made


def written(folder: Path, text: str, name: str = "space.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def plan(folder: Path, text: str) -> Plan:
    read = space.load_space(str(written(folder, text)))
    return Plan(
        name="sweep",
        data=str(folder),
        fingerprint="",
        recipe=read.recipe,
        weights="none",
        folds=read.folds,
        trials=trials(read),
    )


@pytest.mark.parametrize("name", packaged("space"))
def test_every_packaged_space_gives_recipes_that_hold(name: str) -> None:
    read = space.load_space(name)
    made = Plan(
        name=name,
        data="",
        fingerprint="",
        recipe=read.recipe,
        weights=read.weights,
        folds=read.folds,
        trials=trials(read),
    )
    assert {made.recipe_of(trial).split.kind for trial in made.trials} == {"group"}
    assert len({trial.id for trial in made.trials}) == len(made.trials)


def test_the_papers_space_is_its_grid_times_models_times_folds() -> None:
    tried = trials(space.load_space("paper"))
    assert len(tried) == 3 * 3 * 8 * 5
    assert {trial.values["fit.learning_rate"] for trial in tried} == {0.01, 0.001, 0.0001}
    assert {trial.values["fit.batch"] for trial in tried} == {16, 40, 64}
    assert {trial.fold for trial in tried[:72]} == {0}


def test_every_mistake_of_a_space_is_told_at_once(folder: Path) -> None:
    wrong = """
recipe = "tini.toml"
models = ["edgnet"]
fold = 5
[grid]
"fit.lerning_rate" = [0.1]
fit.batch = [16, "many", -4]
[sample]
"augment.scale" = {uniform = [0.1, 4]}
"augment.blur" = {uniform = [2, 1]}
"augment.light" = {normal = [2, 1]}
"""
    with pytest.raises(UsageError) as told:
        space.load_space(str(written(folder, wrong)))
    text = str(told.value)
    assert "has 9 mistakes" in text
    for words in (
        "tini.toml does not exist",
        'Did you mean "edgenet"?',
        'fold: unknown key. Did you mean "folds"?',
        'grid.fit.lerning_rate: no recipe has this key. Did you mean "fit.learning_rate"?',
        "grid.fit.batch.1: Input should be a valid integer",
        "grid.fit.batch.2: Input should be greater than or equal to 2",
        "sample.augment.scale.uniform.1: Input should be less than or equal to 1",
        "sample.augment.blur: the lower limit comes first",
        "sample.augment.light.normal",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[sample]\n"augment.blur" = {uniform = [0, 1]}', "[sample] and trials = N go together"),
        ("trials = 3", "[sample] and trials = N go together"),
        (
            'trials = 3\n[grid]\n"augment.blur" = [0]\n[sample]\n"augment.blur" = {uniform = [0, 1]}',
            "augment.blur is in both",
        ),
    ],
)
def test_parts_of_a_space_that_do_not_go_together_are_told(text: str, words: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="mistake") as told:
        space.load_space(str(written(folder, f'recipe = "tiny.toml"\nmodels = ["edgenet"]\n{text}')))
    assert words in str(told.value)


SAMPLED = """
recipe = "tiny.toml"
models = ["edgenet"]
trials = 40
seeds = [3]
[sample]
"fit.learning_rate" = {loguniform = [1e-4, 1e-2]}
"fit.batch" = {uniform = [8, 64]}
"fit.optimiser" = {choice = ["adam", "sgd"]}
"""


def test_draws_lie_where_they_should_and_come_again(folder: Path) -> None:
    made = plan(folder, SAMPLED)
    recipes = [made.recipe_of(trial).fit for trial in made.trials]
    assert len(recipes) == 40
    assert all(1e-4 <= fit.learning_rate <= 1e-2 for fit in recipes)
    assert 12 <= sum(fit.learning_rate < 1e-3 for fit in recipes) <= 28  # half of them, by the logarithm
    assert all(8 <= fit.batch <= 64 for fit in recipes)
    assert {fit.optimiser for fit in recipes} == {"adam", "sgd"}
    assert plan(folder, SAMPLED) == made


FOUR = """
recipe = "tiny.toml"
models = ["edgenet", "mobilenetv2"]
folds = 2
[grid]
"fit.learning_rate" = [0.01, 0.001]
"""


def row(epoch: int, auc: float) -> dict[str, float]:
    return {"epoch": epoch, "val_auc": auc}


def put(out: Path, trial: Trial, aucs: list[float], state: Any, mistake: str = "") -> None:
    history = [row(n, auc) for n, auc in enumerate(aucs, 1)]
    write_trial(out, TrialRecord(trial=trial, state=state, history=history, mistake=mistake, node="a"))


@pytest.fixture
def ended(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Plan]:
    """A sweep of four settings on two folds: two finished, one pruned on one fold, one failed on both."""
    made = plan(folder, FOUR)
    (tmp_path / PLAN).write_text(made.model_dump_json())
    figures = {}
    for trial in made.trials:
        fast = trial.values["fit.learning_rate"] == 0.01
        if trial.model == "mobilenetv2" and fast:
            put(tmp_path, trial, [], "failed", "The loss was no longer a number in epoch 1.")
        elif trial.model == "mobilenetv2" and trial.fold == 1:
            put(tmp_path, trial, [0.99, 0.4], "pruned")
        else:
            put(tmp_path, trial, [0.5, 0.6], "finished")
            # The setting with the better validation figures has the worse test figures.
            value = {True: 0.7, False: 0.8}[fast] + 0.1 * (trial.fold or 0)
            figures[trial.id] = value, 1.5 - value
    monkeypatch.setattr(ranking, "read_metrics", lambda run: metrics(*figures[run.name]))
    return tmp_path, made


def metrics(validation: float, test: float) -> Any:
    def part(value: float) -> Any:
        return SimpleNamespace(auc=value, weighted_f1=value, accuracy=value)

    return SimpleNamespace(parts={"validation": part(validation), "test": part(test)})


def test_validation_ranks_and_the_test_part_only_stands_beside_it(ended: tuple[Path, Plan]) -> None:
    out, made = ended
    table = results.write(out, made)
    ranked = [(r.model, r.values["fit.learning_rate"], r.finished) for r in table.rows]
    assert ranked == [("edgenet", 0.001, 2), ("edgenet", 0.01, 2), ("mobilenetv2", 0.001, 1), ("mobilenetv2", 0.01, 0)]
    best, second, pruned, failed = table.rows
    assert best.validation_auc == pytest.approx((0.8 + 0.9) / 2)
    assert best.spread == pytest.approx(0.1 / 2**0.5)  # of two values, half their distance times the root of two
    assert best.beside["test_auc"] < second.beside["test_auc"]
    assert pruned.validation_auc == pytest.approx((0.8 + 0.99) / 2)  # its best epoch, and no reason to stand first
    assert failed.validation_auc is None


def test_the_tables_say_what_they_are(ended: tuple[Path, Plan]) -> None:
    out, made = ended
    results.write(out, made)
    text = (out / "results.md").read_text()
    assert RESEARCH_USE in text
    assert "8 trials of 4 settings on 2 folds: 5 finished, 1 pruned, 2 failed." in text
    assert "Test figures chose nothing" in text
    assert "| 1 | edgenet | 0.001 | 2 of 2 | 0.850 ± 0.071 |" in text
    assert "0001-mobilenetv2-fold0" not in text
    assert "mobilenetv2-fold0: The loss was no longer a number" in text
    assert "Leaky" not in text
    with (out / "results.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [r["trial"] for r in rows] == [t.id for t in made.trials]
    assert {r["state"] for r in rows} == {"finished", "pruned", "failed"}
    told = json.loads((out / "results.json").read_text())
    assert [len(told["settings"]), len(told["trials"]), told["leaky"]] == [4, 8, False]
    assert cv2.imread(str(out / "results.png")) is not None


def test_a_sweep_by_image_is_called_leaky(folder: Path, tmp_path: Path) -> None:
    made = plan(folder, f'{FOUR}"split.kind" = ["image"]')
    results.write(tmp_path, made)
    assert "**Leaky:" in (tmp_path / "results.md").read_text()


def stand_in(trial: Trial) -> Any:
    return SimpleNamespace(trial_id=trial.id, config={"trial": trial.id})


@needs_ray
def test_the_worse_half_of_a_fold_is_pruned_and_folds_are_not_compared(folder: Path) -> None:
    from bloodedge_train.sweep.prune import Pruner

    text = (
        'recipe = "tiny.toml"\nmodels = ["edgenet"]\nfolds = 2\n[grid]\n"fit.epochs" = [16]\n"fit.batch" = [8, 16, 24]'
    )
    made = plan(folder, text)
    easy, hard = ([t for t in made.trials if t.fold == fold] for fold in (0, 1))
    pruner = Pruner(made, [])

    def says(trial: Trial, epoch: int, auc: float) -> str:
        if epoch == 1:
            pruner.on_trial_add(None, stand_in(trial))
        return pruner.on_trial_result(None, stand_in(trial), {"epoch": epoch, "validation_auc": auc})

    assert [says(easy[0], epoch, 0.9) for epoch in (1, 2, 3, 4)] == ["CONTINUE"] * 4
    assert [says(easy[1], epoch, 0.8) for epoch in (1, 2, 3, 4)] == ["CONTINUE"] * 3 + ["STOP"]
    assert [says(hard[0], epoch, 0.6) for epoch in (1, 2, 3, 4)] == ["CONTINUE"] * 4
    assert says(easy[0], 16, 0.1) == "CONTINUE"  # trained to its end: scoring it is all that is left


@needs_ray
def test_a_resumed_sweep_prunes_by_what_earlier_trials_reached(folder: Path) -> None:
    from bloodedge_train.sweep.prune import Pruner

    text = 'recipe = "tiny.toml"\nmodels = ["edgenet"]\n[grid]\n"fit.epochs" = [16]\n"fit.batch" = [8, 16]'
    made = plan(folder, text)
    before = TrialRecord(trial=made.trials[0], state="finished", history=[row(n, 0.9) for n in range(1, 17)])
    pruner = Pruner(made, [before])
    later = stand_in(made.trials[1])
    pruner.on_trial_add(None, later)
    assert pruner.on_trial_result(None, later, {"epoch": 4, "validation_auc": 0.8}) == "STOP"


def test_a_trials_mistake_stays_its_own_and_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(folder, FOUR)
    mistakes = [BloodedgeError("The loss was no longer a number; lower it."), ValueError("shapes (3,)\nlong story")]
    for trial, mistake in zip(made.trials, mistakes, strict=False):

        def fail(*_: Any, mistake: Exception = mistake) -> None:
            raise mistake

        monkeypatch.setattr(worker, "train", fail)
        worker.carry_out(made, trial, tmp_path, lambda _: None, "node")
    first, second = (read_trial(tmp_path, trial) for trial in made.trials[:2])
    assert first is not None
    assert second is not None
    assert (first.state, first.mistake) == ("failed", "The loss was no longer a number; lower it.")
    assert second.mistake.startswith("ValueError: shapes (3,); the traceback is in ")
    assert "long story" in (run_folder(tmp_path, made.trials[1]) / "error.txt").read_text()


def test_ray_that_is_not_installed_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[sweep\]'"):
        cluster.require_ray()


@needs_ray
@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:9", 1, "No Ray cluster can be reached at 127.0.0.1:9 (Connection refused)"),
        ("ray://127.0.0.1:9", 1, "No Ray cluster can be reached at ray://127.0.0.1:9"),
        ("nowhere", 2, "--address nowhere is no address"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(
    address: str, code: int, words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(folder, FOUR)
    assert run(tmp_path, "--space", file, "--out", tmp_path / "out", "--address", address) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


@needs_ray
def test_something_else_that_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "JOIN_S", 2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BloodedgeError, match="is no Ray cluster, or refused the connection"):
            cluster.check(f"127.0.0.1:{other.getsockname()[1]}")


@needs_ray
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[grid]\n"split.kind" = ["image"]\n"split.validation" = [0.0]', "would choose by the test part"),
        ('[grid]\n"split.kind" = ["image", "group"]', "cannot be ranked together"),
        ('weights = "there.h5"', "weights: there.h5 does not exist"),
        ("folds = 20", "groups of subjects"),
    ],
)
def test_a_sweep_that_would_mislead_or_fail_everywhere_does_not_begin(
    text: str, words: str, folder: Path, tmp_path: Path, rendered_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(folder, f'recipe = "tiny.toml"\nmodels = ["edgenet"]\n{text}')
    assert run(rendered_data, "--space", file, "--out", tmp_path / "out") == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@needs_ray
def test_folders_are_not_mixed_up(
    ended: tuple[Path, Plan], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rendered_data: Path
) -> None:
    out, _ = ended
    file = written(folder, FOUR)
    assert run(rendered_data, "--space", file, "--out", out) == 2
    assert "holds a sweep; continue it with --resume" in capsys.readouterr().err
    assert run(rendered_data, "--space", file, "--out", tmp_path / "new", "--resume") == 2
    assert "holds no sweep to resume" in capsys.readouterr().err
    assert run(rendered_data, "--space", file, "--out", out, "--resume") == 2
    assert "was begun with another" in capsys.readouterr().err
    mine = tmp_path / "mine" / "ray" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert run(rendered_data, "--space", file, "--out", tmp_path / "mine") == 2
    assert "holds ray, which this command did not make" in capsys.readouterr().err
    assert mine.read_text() == "mine"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with one CPU each, on loopback."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[sweep]')")
    for name, value in cluster.QUIET.items():
        os.environ[name] = value
    from ray.cluster_utils import Cluster

    # Ray takes 127.0.0.1 for the machine's own address; the rest of the loopback network it leaves alone.
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    head = {**node, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(**node, node_ip_address="127.0.0.3")
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


SHORT_AND_LONG = """
recipe = "tiny.toml"
models = ["edgenet"]
[grid]
"fit.epochs" = [1, 12]
"""


@pytest.mark.slow
def test_trials_run_on_both_nodes_and_a_killed_sweep_goes_on(
    two_nodes: str, tmp_path: Path, folder: Path, rendered_data: Path
) -> None:
    out = tmp_path / "out"
    file = written(folder, SHORT_AND_LONG, "two.toml")
    command = [sys.executable, "-m", "bloodedge", "sweep", str(rendered_data), "--space", str(file), "--out", str(out)]
    command += ["--address", two_nodes, "--no-prune"]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert begun.stderr is not None
    told = ""
    while ": finished after 1 epoch," not in told:
        line = begun.stderr.readline()
        assert line, told
        told += line
    begun.send_signal(signal.SIGKILL)
    begun.communicate()
    [finished] = out.glob("trials/*/run.json")
    before = finished.stat().st_mtime_ns
    assert len({json.loads(path.read_text())["node"] for path in out.glob("trials/*.json")}) == 2

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "Traceback" not in told + resumed.stderr
    ends = [line.count("finished after") for line in resumed.stderr.splitlines() if "finished after" in line]
    assert ends == [1, 1]  # beside lines on the step in hand
    assert f"Sweep folder: {out}" in resumed.stdout
    assert finished.stat().st_mtime_ns == before
    with (out / "results.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["state"], r["epochs"]) for r in rows] == [("finished", "1"), ("finished", "12")]
    for r in rows:
        of_run = out / "trials" / r["trial"]
        assert len(read_run(of_run).history) == int(r["epochs"])
        assert float(r["test_auc"]) == pytest.approx(read_metrics(of_run).parts["test"].auc, abs=1e-4)
    left = {path.name for path in out.iterdir()}
    assert left == {PLAN, "trials", *(f"results.{suffix}" for suffix in ("csv", "json", "md", "png"))}
