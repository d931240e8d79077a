"""Progress of a training run in the terminal (on stderr; stdout is for results)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bloodedge.console import progress, say, steps
from bloodedge_train.recipe import Recipe
from bloodedge_train.watcher import Watcher

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import BatchDone, EpochDone


def watcher() -> Watcher:
    """Progress with the time left, and a line for each epoch."""
    return Watcher(step=progress, fitting=_fitting, say=say)


@contextmanager
def _fitting(recipe: Recipe, epochs_done: int) -> "Iterator[tuple[BatchDone, EpochDone]]":
    epochs = recipe.fit.epochs
    with steps() as report:
        report("Fitting", epochs_done, epochs)

        def batch_done(epoch: int, done: int, batches: int) -> None:
            report("Fitting", epoch * batches + done, epochs * batches)

        def epoch_done(epoch: int, row: dict[str, float]) -> None:
            say(epoch_line(epoch, row))

        yield batch_done, epoch_done


def epoch_line(epoch: int, row: dict[str, float]) -> str:
    """One epoch, numbered from 0, in 80 columns."""
    return (
        f"epoch {epoch + 1:3d}: loss {row['loss']:.4f}; validation loss {row['val_loss']:.4f}, "
        f"accuracy {row['val_accuracy']:.3f}, AUC {row['val_auc']:.4f}"
    )
