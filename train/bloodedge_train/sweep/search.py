"""A sweep from a data set and a space to a table: plan it, run it with Ray Tune, resume it after a kill."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.json_records import write_record
from bloodedge.console import progress
from bloodedge.data.dataset import Dataset, check_readable, read_dataset
from bloodedge.data.split import split
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import require_free
from bloodedge_train.sweep import cluster, results
from bloodedge_train.sweep.plan import Plan, Trial, trials
from bloodedge_train.sweep.progress import trial_lines
from bloodedge_train.sweep.ranking import Table
from bloodedge_train.sweep.space import Space
from bloodedge_train.sweep.trial import LOCKS, PLAN, TRIALS, read_plan, read_trial, run_trial, write_trial

POLL_S = 0.5
SCRATCH = "ray"
"""Ray Tune's own files, in the sweep's folder while it runs."""

TAKEN_UP_AGAIN = 2
"""Restarts of a trial whose process or machine died."""


@dataclass(frozen=True)
class SweepOptions:
    """The options of ``bloodedge sweep``."""

    data: Path
    layout: DataLayout
    space: Space
    out: Path
    resume: bool
    prune: bool
    address: str | None
    cpus: float
    gpus: float | None


def sweep(options: SweepOptions) -> Table:
    """Run every trial of the space; writes the sweep's folder ``options.out`` and returns its table.

    Raises UsageError when the folder holds another sweep or the data cannot be split, BloodedgeError when Ray cannot be
    had or no trial finished. Whatever ends it, the table of what is finished is written.
    """
    before = _check_folder(options)
    cluster.check(options.address)
    cv2.setNumThreads(1)  # instead, threads work on whole images
    with progress("Reading cells") as update:
        dataset = read_dataset(options.data, update, options.layout)
    check_readable(dataset, allow=False)
    plan = _plan(options, dataset)
    if before is not None and before != plan:
        changed = [n for n in Plan.model_fields if getattr(before, n) != getattr(plan, n)]
        raise UsageError(
            f"{options.out} was begun with another {' and another '.join(changed)}; resume it as it was begun, or "
            "choose another --out."
        )
    ended = {"finished", "pruned"}
    left = [t for t in plan.trials if (record := read_trial(options.out, t)) is None or record.state not in ended]
    if left:
        _search(options, plan, left)
    shutil.rmtree(options.out / LOCKS, ignore_errors=True)
    table = results.write(options.out, plan)
    if not any(record.state == "finished" for record in table.records):
        first = next(r for r in table.records if r.state == "failed")
        raise BloodedgeError(f"None of the {len(table.records)} trials finished; {first.trial.id}: {first.mistake}")
    return table


def _search(options: SweepOptions, plan: Plan, left: list[Trial]) -> None:
    """Run the trials ``left``; the table is written even after an interruption."""
    out = options.out
    with cluster.joined(options.address):
        resources = cluster.share(options.cpus, options.gpus)
        write_record(out / PLAN, plan)
        for trial in left:
            record = read_trial(out, trial)
            if record is not None:  # failures of an earlier session are tried again
                write_trial(out, record.model_copy(update={"state": "running", "mistake": ""}))
        try:
            with _reported(out, plan):
                _carry_out(options, plan, left, resources)
        finally:
            results.write(out, plan)


def _check_folder(options: SweepOptions) -> Plan | None:
    """The plan stored in the folder."""
    before = read_plan(options.out)
    if before is not None and not options.resume:
        raise UsageError(f"{options.out} holds a sweep; continue it with --resume or choose another --out.")
    if before is None and options.resume:
        raise UsageError(f"{options.out} holds no sweep to resume; leave out --resume to begin one.")
    if before is None:
        require_free(options.out, (LOCKS, SCRATCH, TRIALS, *results.FILES))
    return before


def _plan(options: SweepOptions, dataset: Dataset) -> Plan:
    """The plan; every recipe and every split is checked first, so that mistakes are reported at once."""
    space = options.space
    plan = Plan(
        name=options.out.name,
        data=str(options.data.resolve()),
        layout=dataset.layout,
        fingerprint=dataset.fingerprint,
        recipe=space.recipe,
        weights=_weights(space.weights),
        folds=space.folds,
        trials=trials(space),
    )
    asked = {}
    for trial in plan.trials:
        spec, fold = plan.recipe_of(trial).split, plan.fold_of(trial)
        asked[repr((spec, fold, trial.seed))] = spec, fold, trial.seed
    for spec, fold, seed in asked.values():
        if spec.validation == 0:
            raise UsageError(
                "Without a validation part a sweep would choose by the test part; set split.validation above 0."
            )
        split(dataset, spec, seed=seed, fold=fold)
    if len({spec.kind for spec, _, _ in asked.values()}) > 1:
        raise UsageError("Settings by image and by group cannot be ranked together; make a sweep for each split.kind.")
    return plan


def _weights(weights: str) -> str:
    """A weights file by its full path: workers run elsewhere."""
    if weights in {"none", "imagenet"}:
        return weights
    if not Path(weights).is_file():
        raise UsageError(f"weights: {weights} does not exist; give none, imagenet, or the path of a weights file.")
    return str(Path(weights).resolve())


def _carry_out(options: SweepOptions, plan: Plan, left: list[Trial], resources: dict[str, float]) -> None:
    """Run the trials ``left`` with Ray Tune."""
    from ray import tune

    from bloodedge_train.sweep.prune import Endings, Pruner

    out = options.out.resolve()
    names = [trial.id for trial in left]
    done = [r for t in plan.trials if t.id not in names and (r := read_trial(out, t)) is not None]
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, resources),
        param_space={
            "out": str(out),
            "cpus": resources["cpu"],
            "gpus": resources["gpu"],
            "trial": tune.grid_search(names),
        },
        tune_config=tune.TuneConfig(scheduler=Pruner(plan, done) if options.prune else None),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Endings(out, plan)],
            failure_config=tune.FailureConfig(max_failures=TAKEN_UP_AGAIN),
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _reported(out: Path, plan: Plan) -> Iterator[None]:
    """Report each trial when its record says that it ended; on a cluster only the records arrive here."""
    waiting = list(plan.trials)
    stop = threading.Event()
    with trial_lines(len(waiting)) as ended:

        def look() -> None:
            for trial in list(waiting):
                record = read_trial(out, trial)
                if record is not None and record.state != "running":
                    waiting.remove(trial)
                    ended(record)

        def watch() -> None:
            while not stop.wait(POLL_S):
                look()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            stop.set()
            watching.join()
            look()
