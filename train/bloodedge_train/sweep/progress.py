"""A sweep in the terminal: a bar and a line for each trial on stderr, the table on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bloodedge.console import say, steps
from bloodedge.tables import print_table
from bloodedge_train.sweep.ranking import Table
from bloodedge_train.sweep.results import settings_table, shown
from bloodedge_train.sweep.trial import TrialRecord

ROWS = 10


@contextmanager
def trial_lines(count: int) -> Iterator[Callable[[TrialRecord], None]]:
    """A progress bar of this many trials; the callback is to be called for each that has ended, earlier ones too."""
    ends: list[TrialRecord] = []
    with steps() as report:
        report("Trials", 0, count)

        def ended(record: TrialRecord) -> None:
            ends.append(record)
            report("Trials", len(ends), count)
            say(line(record))

        yield ended


def line(record: TrialRecord) -> str:
    """One line on how a trial ended."""
    values = ", ".join(f"{key} {shown(value)}" for key, value in record.trial.values.items())
    what = f"{record.trial.id} ({values})" if values else record.trial.id
    if record.state == "failed":
        return f"{what}: failed: {record.mistake}"
    best = max(row["val_auc"] for row in record.history)
    epochs = f"{len(record.history)} epoch" + "s" * (len(record.history) > 1)
    return f"{what}: {record.state} after {epochs}, validation AUC up to {best:.4f} ({record.seconds:.0f} s)"


def show_table(table: Table, name: str) -> None:
    """The best settings."""
    columns, rows = settings_table(table, ("test_auc", "test_weighted_f1"))
    title = f"{name}: settings by validation AUC; test figures chose nothing"
    print_table(columns, rows[:ROWS], title=title, left=columns[:2])
