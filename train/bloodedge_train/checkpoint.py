"""What a run needs to go on after any interruption, each epoch's whole or not there."""

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.files import folder_beside, write_text
from bloodedge_train.recipe import Recipe


class Request(Strict):
    """What was asked for; a resumed run must ask for the same."""

    model: str
    recipe: Recipe
    weights: str
    split: str
    folds: int | None
    fold: int | None
    seed: int
    data_fingerprint: str


class FitState(Strict):
    """How far fitting has come, apart from the network and its optimiser."""

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


BEST, AVERAGE = "best.weights.h5", "average.weights.h5"


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

    def _epochs(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("epoch_*") if p.is_dir())

    def save(self, model: Any, state: FitState, averaged: int) -> None:
        """Store an epoch; older ones are removed once it is whole.

        ``averaged``: how many epochs, this one included, the mean of the weights spans; none from 0 down.
        """
        older = self._epochs()
        with folder_beside(self.folder / f"epoch_{state.epochs_done:04d}") as folder:
            model.save(folder / "model.keras")
            if state.stagnant == 0:
                model.save_weights(folder / BEST)
            else:
                shutil.copy2(older[-1] / BEST, folder / BEST)
            if averaged > 0:
                _save_average(model, older[-1] / AVERAGE if averaged > 1 else None, averaged, folder / AVERAGE)
            (folder / "state.json").write_text(state.model_dump_json(indent=2))
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def load(self) -> tuple[Any, FitState] | None:
        """The newest epoch's compiled model and state; None when no epoch was finished."""
        import keras

        epochs = self._epochs()
        if not epochs:
            return None
        try:
            state = FitState.model_validate_json((epochs[-1] / "state.json").read_bytes())
            return keras.models.load_model(epochs[-1] / "model.keras"), state
        except (ValueError, OSError) as error:
            raise BloodedgeError(f"{epochs[-1]} is damaged; train into a new --out folder.") from error

    def load_kept(self, model: Any, which: Literal["best", "average"]) -> None:
        """Give ``model`` the weights of the best epoch, or the mean over epochs where there is one."""
        newest = self._epochs()[-1]
        average = newest / AVERAGE
        model.load_weights(average if which == "average" and average.is_file() else newest / BEST)

    def remove(self) -> None:
        """The run is finished: what it was resumed from is of no more use."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _save_average(model: Any, before: Path | None, count: int, target: Path) -> None:
    """Store the mean of ``count`` epochs' weights: the mean so far, in ``before``, moved by this epoch's ``model``.

    Batch norms' statistics are averaged with the rest; their own momentum makes them means of many batches already.
    """
    current = model.get_weights()
    if before is not None:
        model.load_weights(before)
        mean = model.get_weights()
        model.set_weights(
            [m + (c - m) / count if c.dtype.kind == "f" else c for m, c in zip(mean, current, strict=True)]
        )
    model.save_weights(target)
    model.set_weights(current)
