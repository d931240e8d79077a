"""How a training run shows itself in the terminal (on stderr; stdout is for results)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bloodedge.console import console, progress
from bloodedge_train.recipe import Recipe
from bloodedge_train.run import Watcher

if TYPE_CHECKING:
    from bloodedge_train.fit import BatchDone, EpochDone


def watcher() -> Watcher:
    """Progress bars with the time left, and a line for each epoch."""
    return Watcher(step=progress, fitting=_fitting, say=console(stderr=True).print)


@contextmanager
def _fitting(recipe: Recipe, epochs_done: int) -> "Iterator[tuple[BatchDone, EpochDone]]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    epochs = recipe.fit.epochs
    with Progress(*columns, console=console(stderr=True), transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("Fitting", total=float(epochs), completed=epochs_done)

        def batch_done(epoch: int, done: int, batches: int) -> None:
            bar.update(task, completed=epoch + done / batches, description=f"Fitting: epoch {epoch + 1} of {epochs}")

        def epoch_done(epoch: int, row: dict[str, float]) -> None:
            bar.console.print(
                f"epoch {epoch + 1:3d}  loss {row['loss']:.4f}  validation: loss {row['val_loss']:.4f}  "
                f"accuracy {row['val_accuracy']:.3f}  AUC {row['val_auc']:.4f}  ({row['images_per_s']:.0f} images/s)"
            )

        yield batch_done, epoch_done
