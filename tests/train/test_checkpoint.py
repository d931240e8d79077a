"""A checkpoint is whole or not there, and damage is told, not loaded."""

import errno
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_train.fitting.checkpoint import Checkpoints, FitState, Request
from bloodedge_train.recipe import Recipe


def test_a_finished_run_removes_its_checkpoint_and_leaves_what_others_put_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for name in ("request.json", "epoch_0001/state.json", ".epoch_0002.77.partial/state.json", "mine.pt"):
        (checkpoints.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoints.folder / name).write_text("{}")
    checkpoints.remove()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["mine.pt"]
    (checkpoints.folder / "mine.pt").unlink()
    checkpoints.remove()
    assert not checkpoints.folder.exists()


def network(value: float) -> Any:
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.BatchNormalization()(image)))
    fill(model, value)
    return model


def optimiser(model: Any) -> Any:
    made = keras.optimizers.Adam()
    made.build(model.trainable_variables)
    return made


def took_up(checkpoints: Checkpoints, model: Any) -> FitState | None:
    """All that resuming reads."""
    begun = checkpoints.state()
    checkpoints.restore(model, optimiser(model))
    return begun


def fill(model: Any, value: float) -> None:
    model.set_weights([np.full_like(w, value) for w in model.get_weights()])


def state(done: int, stagnant: int = 0) -> FitState:
    return FitState(learning_rate=1e-3, epochs_done=done, stagnant=stagnant, best_epoch=done - stagnant)


def weights(model: Any) -> set[float]:
    return {float(v) for w in model.get_weights() for v in np.unique(w)}


REQUEST = Request(model="edgenet", recipe=Recipe(), weights="none", folds=None, fold=None, seed=0, data_fingerprint="0")


def test_what_was_asked_for_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.request() is None
    checkpoints.begin(REQUEST)
    assert checkpoints.request() == REQUEST
    assert checkpoints.state() is None
    (tmp_path / "checkpoint" / "request.json").write_text("{")
    with pytest.raises(BloodedgeError, match=r"request\.json is damaged; train into a new --out folder"):
        checkpoints.request()


def test_the_newest_epoch_is_kept_with_the_best_epochs_weights(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = network(1)
    for done, stagnant in ((1, 0), (2, 0), (3, 1)):
        fill(model, done)
        checkpoints.save(model, optimiser(model), state(done, stagnant), 0)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["epoch_0003"]
    assert checkpoints.state() == state(3, 1)
    other, theirs = network(0), optimiser(model)
    theirs.iterations.assign(9)
    checkpoints.restore(other, theirs)
    assert weights(other) == {3.0}
    assert int(theirs.iterations) == 0
    checkpoints.load_kept(model, "best")
    assert weights(model) == {2.0}
    checkpoints.load_kept(model, "average")  # no epoch was averaged: the best one it is
    assert weights(model) == {2.0}


def test_the_average_is_the_mean_over_the_epochs_it_spans(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = network(0)
    for done, averaged in ((1, 0), (2, 1), (3, 2), (4, 3)):
        fill(model, 10**done)
        checkpoints.save(model, optimiser(model), state(done), averaged)
        assert weights(model) == {10.0**done}
    checkpoints.load_kept(model, "average")
    assert [float(w.max()) for w in model.get_weights()] == pytest.approx([(100 + 1000 + 10000) / 3] * 6)


@pytest.mark.parametrize("fails", ["weights", "state"])
def test_a_full_disk_keeps_the_earlier_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    checkpoints, model = Checkpoints(tmp_path), network(1)
    checkpoints.save(model, optimiser(model), state(1), 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"weights": (np, "savez"), "state": (Path, "write_text")}[fails]
    with monkeypatch.context() as patched:
        patched.setattr(*target, full)
        with pytest.raises(BloodedgeError, match="epoch_0002: the disk is full"):
            checkpoints.save(model, optimiser(model), state(2), 2)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["epoch_0001"]
    assert checkpoints.state() == state(1)


def test_what_a_killed_process_left_half_written_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = network(1)
    checkpoints.save(model, optimiser(model), state(1), 0)
    half = checkpoints.folder / ".epoch_0002.123.partial"
    half.mkdir()
    (half / "weights.npz").write_bytes(b"half")
    assert checkpoints.state() == state(1)


@pytest.mark.parametrize("damage", ["cut", "emptied"])
@pytest.mark.parametrize("name", ["weights.npz", "optimiser.npz", "state.json"])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, name: str, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = network(1)
    checkpoints.save(model, optimiser(model), state(1), 0)
    file = checkpoints.folder / "epoch_0001" / name
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(BloodedgeError, match="epoch_0001 is damaged; train into a new --out folder"):
        took_up(checkpoints, model)


def test_a_damaged_best_epoch_is_told(tmp_path: Path) -> None:
    checkpoints, model = Checkpoints(tmp_path), network(1)
    checkpoints.save(model, optimiser(model), state(1), 0)
    file = checkpoints.folder / "epoch_0001" / "best.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BloodedgeError, match="epoch_0001 is damaged; train into a new --out folder"):
        checkpoints.load_kept(model, "best")


def test_a_finished_run_keeps_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    model = network(1)
    checkpoints.save(model, optimiser(model), state(1), 0)
    checkpoints.remove()
    assert not checkpoints.folder.exists()
