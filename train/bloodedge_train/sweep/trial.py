"""One trial in a Ray worker: an ordinary run that records each epoch and asks Ray whether to continue."""

import datetime as dt
import fcntl
import os
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from bloodedge.bundle.json_records import write_record
from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_text
from bloodedge.text import as_path
from bloodedge_train.fitting.checkpoint import Checkpoints
from bloodedge_train.recipe import Recipe
from bloodedge_train.run import train
from bloodedge_train.run_folder import TrainOptions
from bloodedge_train.sweep.plan import Plan, Trial
from bloodedge_train.watcher import Watcher

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import BatchDone, EpochDone

PLAN = "sweep.json"
LOCKS, TRIALS = "locks", "trials"
EPOCH, WATCHED, MISTAKE = "epoch", "validation_auc", "mistake"
"""What a trial reports to Ray."""
State = Literal["running", "finished", "pruned", "failed"]
Report = Callable[[dict[str, Any]], None]


class TrialRecord(Strict):
    """``trials/ID.json``: a trial's progress or result."""

    trial: Trial
    state: State = "running"
    node: str = ""
    """Ray's id of the node that it ran on."""
    host: str = ""
    begun: str = ""
    seconds: float = 0.0
    """Seconds of work, over all its starts."""
    history: list[dict[str, float]] = Field(default_factory=list)
    """The epochs' rows, as in ``run.json``."""
    mistake: str = ""
    """Why it failed, in one sentence."""


def read_plan(out: Path) -> Plan | None:
    """The plan of a sweep's folder; None when there is none."""
    path = out / PLAN
    if not path.is_file():
        return None
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BloodedgeError(f"{path} is damaged; sweep into a new --out folder.") from error


def run_folder(out: Path, trial: Trial) -> Path:
    """A trial's run folder."""
    return out / TRIALS / trial.id


def _record_path(out: Path, trial: Trial) -> Path:
    return out / TRIALS / f"{trial.id}.json"


def read_trial(out: Path, trial: Trial) -> TrialRecord | None:
    """A trial's record; None if it never started."""
    path = _record_path(out, trial)
    if not path.is_file():
        return None
    try:
        record = TrialRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BloodedgeError(f"{path} is damaged; delete it and resume the sweep.") from error
    if record.state != "finished" and (run_folder(out, trial) / "run.json").is_file():
        return record.model_copy(update={"state": "finished", "mistake": ""})  # killed between the two files
    return record


def write_trial(out: Path, record: TrialRecord) -> None:
    """Store a trial's record."""
    write_record(_record_path(out, record.trial), record)


def run_trial(config: dict[str, Any]) -> None:
    """Ray's worker. config: out (the sweep's folder), trial (its id), cpus and gpus (what it was given)."""
    import ray
    from ray import tune

    _take_no_more_than(config["cpus"], config["gpus"])
    out = Path(config["out"])
    plan = read_plan(out)
    if plan is None or not as_path(plan.data).is_dir():
        missing = out if plan is None else plan.data
        tune.report({MISTAKE: f"{missing} does not exist on {platform.node()}; put DATA and --out on a shared disk."})
        return
    trial = next(t for t in plan.trials if t.id == config["trial"])
    carry_out(plan, trial, out, tune.report, ray.get_runtime_context().get_node_id())


def _take_no_more_than(cpus: float, gpus: float) -> None:
    """Limit the back end, which otherwise takes the whole machine, to the trial's share."""
    threads = str(max(1, round(cpus)))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", threads)
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif gpus < 1:
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * gpus:.2f}")


def carry_out(plan: Plan, trial: Trial, out: Path, report: Report, node: str) -> None:
    """Train the trial from its start or its last checkpoint; errors are recorded and never raised."""
    with _alone(out, trial):
        notes = _Notes(out, trial, report, node)
        try:
            if notes.record.state != "finished":
                train(_options(plan, trial, out), notes.watcher(plan.recipe_of(trial).fit.epochs))
        except BloodedgeError as error:
            notes.end("failed", str(error))
        except Exception as error:  # the other trials continue; the traceback is kept
            place = run_folder(out, trial) / "error.txt"
            write_text(place, traceback.format_exc())
            first = (str(error).splitlines() or [""])[0][:160]
            notes.end("failed", f"{type(error).__name__}: {first}; the traceback is in {place}.")
        else:
            notes.end("finished")


@contextmanager
def _alone(out: Path, trial: Trial) -> Iterator[None]:
    """Wait until a worker of a killed sweep has ended; its lock ends with its process."""
    path = out / LOCKS / trial.id
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _options(plan: Plan, trial: Trial, out: Path) -> TrainOptions:
    run = run_folder(out, trial)
    return TrainOptions(
        data=as_path(plan.data),
        layout=plan.layout,
        model=trial.model,
        recipe=plan.recipe_of(trial),
        weights=plan.weights,
        fold=plan.fold_of(trial),
        seed=trial.seed,
        out=run,
        resume=Checkpoints(run).request() is not None,
    )


class _Notes:
    """Keeps a trial's record up to date and reports to Ray, which may end the process inside ``report``."""

    def __init__(self, out: Path, trial: Trial, report: Report, node: str) -> None:
        self.out, self.report = out, report
        self.record = read_trial(out, trial) or TrialRecord(trial=trial)
        self.start = perf_counter() - self.record.seconds
        if self.record.state == "finished":
            self._keep()
        else:
            begun = self.record.begun or dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            self._keep(state="running", mistake="", node=node, host=platform.node(), begun=begun)

    def _keep(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_trial(self.out, self.record)

    def watcher(self, epochs: int) -> Watcher:
        """Reports to the record and to Ray only."""

        @contextmanager
        def fitting(recipe: Recipe, epochs_done: int) -> "Iterator[tuple[BatchDone, EpochDone]]":  # noqa: ARG001
            history = self.record.history[:epochs_done]  # a kill may fall between a checkpoint and this record

            def epoch_done(epoch: int, row: dict[str, float]) -> None:
                history.append(row)
                self._keep(history=history, seconds=perf_counter() - self.start)
                if epoch + 1 < epochs:  # after the last one nothing is left to save
                    self.report({EPOCH: epoch + 1, WATCHED: row["val_auc"]})

            yield lambda _epoch, _done, _batches: None, epoch_done

        return Watcher(step=lambda _: nullcontext(lambda _done, _total: None), fitting=fitting, say=lambda _: None)

    def end(self, state: State, mistake: str = "") -> None:
        """Record how the trial ended."""
        if self.record.state != "finished":
            self._keep(state=state, mistake=mistake, seconds=perf_counter() - self.start)
        best = max((row["val_auc"] for row in self.record.history), default=None)
        self.report({MISTAKE: mistake} | ({} if best is None else {WATCHED: best}))
