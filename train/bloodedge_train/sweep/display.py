"""How a sweep shows itself in the terminal: a bar and a line for each trial on stderr, the table on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bloodedge.console import console, progress, say, steps
from bloodedge_train.sweep.results import Table, auc_shown, shown
from bloodedge_train.sweep.search import SweepWatcher
from bloodedge_train.sweep.trial import TrialRecord

ROWS = 10


def watcher() -> SweepWatcher:
    """Progress bars with the time left, and a line for each trial that has ended."""
    return SweepWatcher(step=progress, trials=_trials)


@contextmanager
def _trials(count: int) -> Iterator[Callable[[TrialRecord], None]]:
    ends: list[TrialRecord] = []
    with steps() as report:
        report("Trials", 0, count)

        def ended(record: TrialRecord) -> None:
            ends.append(record)
            report("Trials", len(ends), count)
            say(line(record))

        yield ended


def line(record: TrialRecord) -> str:
    """How one trial ended."""
    values = ", ".join(f"{key} {shown(value)}" for key, value in record.trial.values.items())
    what = f"{record.trial.id} ({values})" if values else record.trial.id
    if record.state == "failed":
        return f"{what}: failed: {record.mistake}"
    best = max(row["val_auc"] for row in record.history)
    epochs = f"{len(record.history)} epoch" + "s" * (len(record.history) > 1)
    return f"{what}: {record.state} after {epochs}, validation AUC up to {best:.4f} ({record.seconds:.0f} s)"


def show_table(table: Table, name: str) -> None:
    """The best settings."""
    from rich.table import Table as Lines

    beside = [key for key in ("test_auc", "test_weighted_f1") if any(key in row.beside for row in table.rows)]
    lines = Lines(
        "",
        "model",
        *table.varied,
        "finished",
        "validation AUC",
        *(key.replace("_", " ") for key in beside),
        title=f"{name}: settings by validation AUC; test figures chose nothing",
        title_justify="left",
    )
    for number, row in enumerate(table.rows[:ROWS], 1):
        cells = [str(number), row.model, *(shown(row.values[key]) for key in table.varied)]
        cells += [f"{row.finished} of {row.trials}", auc_shown(row)]
        lines.add_row(*cells, *(f"{row.beside[key]:.3f}" if key in row.beside else "-" for key in beside))
    console().print(lines)
