"""Checkpoints to resume a run from; each epoch's is whole or not there."""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from bloodedge.config import FileName, Strict
from bloodedge.errors import BloodedgeError
from bloodedge.files import folder_beside, write_text
from bloodedge_train.recipe import Recipe


class Request(Strict):
    """The options of a run; a resumed run must have the same."""

    model: str
    recipe: Recipe
    weights: FileName
    folds: int | None
    fold: int | None
    seed: int
    data_fingerprint: str

    removed: ClassVar = {"teachers": []}


class FitState(Strict):
    """The progress of a fit, apart from the network and its optimiser."""

    epochs_done: int = 0
    learning_rate: float
    best: float | None = None
    """Best value of the monitor, larger being better (minus the loss for "loss")."""
    best_epoch: int = 0
    stagnant: int = 0
    """Epochs since the best one."""
    since_reduced: int = 0
    """Epochs since the best one or the last reduction of the learning rate."""
    history: list[dict[str, float]] = Field(default_factory=list)


WEIGHTS, OPTIMISER, BEST, AVERAGE = "weights.npz", "optimiser.npz", "best.npz", "average.npz"


class Checkpoints:
    """The checkpoint folder of a run: the newest epoch, and the best epoch's weights."""

    def __init__(self, run: Path) -> None:
        """Nothing is read or written yet."""
        self.folder = run / "checkpoint"

    @property
    def _request(self) -> Path:
        return self.folder / "request.json"

    def begin(self, request: Request) -> None:
        """Record what is being trained."""
        write_text(self._request, request.model_dump_json(indent=2))

    def request(self) -> Request | None:
        """What this folder was begun with; None when it was not."""
        if not self._request.is_file():
            return None
        try:
            return Request.model_validate_json(self._request.read_bytes())
        except ValidationError as error:
            raise BloodedgeError(f"{self._request} is damaged; train into a new --out folder.") from error

    def epochs(self) -> list[Path]:
        """The stored epochs' folders, oldest first."""
        return sorted(p for p in self.folder.glob("epoch_*") if p.is_dir())

    def save(self, network: Any, optimiser: Any, state: FitState, averaged: int) -> None:
        """Store an epoch; older ones are removed once it is whole.

        ``averaged``: how many epochs, this one included, the mean of the weights spans; none from 0 down.
        """
        older = self.epochs()
        weights = network.get_weights()
        with folder_beside(self.folder / f"epoch_{state.epochs_done:04d}") as folder:
            np.savez(folder / WEIGHTS, *weights)
            np.savez(folder / OPTIMISER, *(np.asarray(v) for v in optimiser.variables))
            if state.stagnant == 0:
                shutil.copy2(folder / WEIGHTS, folder / BEST)
            else:
                shutil.copy2(older[-1] / BEST, folder / BEST)
            if averaged > 0:
                _save_average(weights, older[-1] / AVERAGE if averaged > 1 else None, averaged, folder / AVERAGE)
            (folder / "state.json").write_text(state.model_dump_json(indent=2), encoding="utf-8")
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def state(self) -> FitState | None:
        """How far the newest epoch had come; None when no epoch was finished."""
        epochs = self.epochs()
        if not epochs:
            return None
        with _damage_reported(epochs[-1]):
            return FitState.model_validate_json((epochs[-1] / "state.json").read_bytes())

    def restore(self, network: Any, optimiser: Any) -> None:
        """Give a network and its built optimiser what they held after the newest epoch."""
        newest = self.epochs()[-1]
        with _damage_reported(newest):
            network.set_weights(_load_arrays(newest / WEIGHTS))
            for variable, value in zip(optimiser.variables, _load_arrays(newest / OPTIMISER), strict=True):
                variable.assign(value)

    def load_kept(self, network: Any, which: Literal["best", "average"]) -> None:
        """Give ``network`` the weights of the best epoch, or the mean over epochs where there is one."""
        newest = self.epochs()[-1]
        average = newest / AVERAGE
        with _damage_reported(newest):
            network.set_weights(_load_arrays(average if which == "average" and average.is_file() else newest / BEST))

    def remove(self) -> None:
        """Delete the checkpoints of a finished run; other files in the folder stay."""
        for path in (*self.epochs(), *self.folder.glob(".epoch_*.partial"), *self.folder.glob(".epoch_*.old")):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self._request, *self.folder.glob(".request.*.partial.json")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there
            self.folder.rmdir()


@contextmanager
def _damage_reported(epoch: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BloodedgeError(f"{epoch} is damaged; train into a new --out folder.") from error


def _save_average(weights: list[NDArray[Any]], before: Path | None, count: int, target: Path) -> None:
    """Store the mean of ``count`` epochs' weights: the mean so far, in ``before``, moved by this epoch's ``weights``.

    Batch norms' statistics are averaged with the rest; their own momentum makes them means of many batches already.
    """
    if before is not None:
        mean = _load_arrays(before)
        weights = [m + (w - m) / count if w.dtype.kind == "f" else w for m, w in zip(mean, weights, strict=True)]
    np.savez(target, *weights)


def _load_arrays(path: Path) -> list[NDArray[Any]]:
    """What ``np.savez`` stored in order; unlike HDF5 it fails with a plain OSError when the disk is full."""
    with np.load(path) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
