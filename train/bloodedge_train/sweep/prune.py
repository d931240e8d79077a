"""Callbacks of Ray Tune while trials run: whether a trial continues, and that it ended."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from bloodedge_train.sweep.plan import Plan, Trial
from bloodedge_train.sweep.trial import EPOCH, MISTAKE, WATCHED, TrialRecord, read_trial, run_folder, write_trial

KEEP_HALF = 2
"""Of a fold's trials at a rung the better half continues, and half of these at twice the epochs. ASHA's usual third or
quarter would often drop the setting that is best over all folds because of one fold."""


def first_rung(epochs: int) -> int:
    """The epoch of the first decision: before a quarter of a run, warm-up and luck matter more than the setting."""
    return max(1, epochs // 4)


class Pruner(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al., "A system for massively parallel hyperparameter tuning", 2020).

    Each fold and seed has a halving of its own: people differ between folds more than settings do.
    """

    def __init__(self, plan: Plan, before: Sequence[TrialRecord]) -> None:
        """``before``: trials of an earlier session; their epochs count as if just reported."""
        super().__init__()
        self.trials = {trial.id: trial for trial in plan.trials}
        self.epochs = max(plan.recipe_of(trial).fit.epochs for trial in plan.trials)
        self.halvings: dict[tuple[int | None, int], Any] = {}
        for record in before:
            stand_in = SimpleNamespace(trial_id=record.trial.id, config={"trial": record.trial.id})
            self._halving(stand_in).on_trial_add(None, stand_in)
            for row in record.history:
                result = {EPOCH: int(row["epoch"]), WATCHED: row["val_auc"]}
                self._halving(stand_in).on_trial_result(None, stand_in, result)

    def _halving(self, trial: Any) -> Any:
        planned: Trial = self.trials[trial.config["trial"]]
        key = (planned.fold, planned.seed)
        if key not in self.halvings:
            self.halvings[key] = ASHAScheduler(
                time_attr=EPOCH,
                metric=WATCHED,
                mode="max",
                max_t=self.epochs,
                grace_period=first_rung(self.epochs),
                reduction_factor=KEEP_HALF,
                stop_last_trials=False,  # a trial that reached its last epoch has yet to be scored
            )
        return self.halvings[key]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray's hook for a new trial."""
        self._halving(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's hook after a report: CONTINUE or STOP."""
        return str(self._halving(trial).on_trial_result(tune_controller, trial, result))


class Endings(Callback):  # type: ignore[misc]
    """Records the end of trials that could not do it themselves: they were pruned, or their process died."""

    def __init__(self, out: Path, plan: Plan) -> None:
        """``out``: the sweep's folder."""
        self.out = out
        self.trials = {trial.id: trial for trial in plan.trials}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Ray's hook for a trial that ended, or was stopped."""
        mistake = (trial.last_result or {}).get(MISTAKE, "")
        if self._end(trial, mistake) and not mistake:  # checkpoints are large and no longer needed
            shutil.rmtree(run_folder(self.out, self.trials[trial.config["trial"]]), ignore_errors=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Ray's hook for a trial whose process died after its last restart."""
        self._end(
            trial, "its process was killed, most often because memory ran out; give trials more with --cpus-per-trial."
        )

    def _end(self, trial: Any, mistake: str) -> bool:
        """Record a trial as failed or, without a mistake, as pruned; False if it had recorded its own end."""
        planned = self.trials[trial.config["trial"]]
        record = read_trial(self.out, planned) or TrialRecord(trial=planned)
        if record.state != "running":
            return False
        end = {"state": "failed", "mistake": mistake} if mistake else {"state": "pruned"}
        write_trial(self.out, record.model_copy(update=end))
        return True
