"""A training run: cells read and split, a network fitted, and its run folder written."""

import cv2

from bloodedge.bundle.run_record import RunMetrics, calibration_part
from bloodedge.data.dataset import CellFile, Dataset, check_readable, read_dataset
from bloodedge.data.fitted_pictures import FittedPictures, held_out
from bloodedge.data.scales import scale_cautions
from bloodedge.data.split import everybody, split
from bloodedge.decision.operating_point import FEWEST_PEOPLE, enough_people
from bloodedge.engine.keras import load_keras
from bloodedge.errors import UsageError
from bloodedge.files import require_free
from bloodedge_train.fitted import labels_of
from bloodedge_train.fitting.checkpoint import Checkpoints
from bloodedge_train.head_run import fit_to, open_features
from bloodedge_train.heads.cache import PictureCache
from bloodedge_train.recipe import check_split
from bloodedge_train.run_folder import MADE, RunCells, TrainOptions, write_run
from bloodedge_train.watcher import Watcher
from bloodedge_train.whole_network import fit_network

WHERE = {
    "validation": "Its validation AUC is {:.4f}, as on the model card; the lines above are of epochs.",
    "inner": "Its AUC on people held back in turn is {:.4f}.",
}


def train(options: TrainOptions, watcher: Watcher) -> RunMetrics:
    """Fit, calibrate and score a network; writes the run folder ``options.out``.

    Raises UsageError when the folder holds another run or the data cannot be split, BloodedgeError when fitting fails.
    """
    _check_folder(options)
    backbone = open_features(options, watcher) if options.recipe.head else None
    cv2.setNumThreads(1)  # instead, threads work on whole images
    with watcher.step("Reading cells") as progress:
        store = PictureCache(options.cache, watcher.say) if options.recipe.head and options.cache else None
        dataset = options.recipe.split.grouped(read_dataset(options.data, progress, options.layout, store))
    for name, reason in dataset.unreadable.items():
        watcher.say(f"left out {name}: {reason}")
    check_readable(dataset, allow=options.allow_unreadable)
    for where, count in dataset.passed_over.items():
        watcher.say(f"passed over {count} {where}")
    for caution in scale_cautions(dataset):
        watcher.say(caution)
    for names in dataset.same_person:
        watcher.say(f"subjects {', '.join(names)} are one person in C-NMC and stay in one part")
    cells = _prepare(options, dataset, watcher)
    fitted = fit_network(options, watcher, cells) if backbone is None else fit_to(backbone, options, watcher, cells)
    watcher.say("Scoring the network and drawing figures")
    metrics = write_run(options, cells, fitted)
    Checkpoints(options.out).remove()
    chosen = calibration_part(metrics.parts)
    auc = metrics.parts[chosen].auc
    if auc is not None:
        watcher.say(f"Kept: {fitted.kept}. {WHERE[chosen].format(auc)}")
    return metrics


def _check_folder(options: TrainOptions) -> None:
    if (options.out / "run.json").is_file():
        raise UsageError(f"{options.out} holds a finished run; choose another folder with --out.")
    begun = Checkpoints(options.out).request() is not None
    if begun and not options.resume:
        raise UsageError(f"{options.out} holds an unfinished run; continue it with --resume or choose another --out.")
    if options.resume and not begun:
        raise UsageError(f"{options.out} holds no unfinished run to resume; leave out --resume to begin one.")
    if not begun:
        epochs = [path.relative_to(options.out).as_posix() for path in Checkpoints(options.out).epochs()]
        require_free(options.out, [*MADE, *epochs])


def _prepare(options: TrainOptions, dataset: Dataset, watcher: Watcher) -> RunCells:
    """The split; held-out copies of training pictures are left out."""
    check_split(options.recipe)
    if options.all_people:
        parts, record = everybody(dataset, seed=options.seed)
    else:
        parts, record = split(dataset, options.recipe.split, seed=options.seed, fold=options.fold)
    if options.recipe.head:  # which holds people back itself, in turn
        parts.pop("validation", None)
        record.parts.pop("validation", None)
    fitted = FittedPictures.of(parts)
    if not record.leaky:
        parts = held_out(dataset, parts, fitted, watcher.say)
    _check_goal(options, dataset, parts["train" if options.recipe.head else "validation"])
    with watcher.step("Loading Keras"):
        load_keras()
    return RunCells(dataset, record, fitted, parts)


def _check_goal(options: TrainOptions, dataset: Dataset, cells: list[CellFile]) -> None:
    """Raise UsageError when the thresholds cannot be chosen for what was asked; cells: those that choose them."""
    if options.sensitivity is None and options.specificity is None:
        return
    if options.recipe.split.kind == "image":
        raise UsageError("--sensitivity and --specificity need held-out people; leave them out, or split by group.")
    if not enough_people(labels_of(cells), [dataset.group(cell) for cell in cells]):
        part = "training" if options.recipe.head else "validation"
        raise UsageError(
            f"--sensitivity and --specificity need {FEWEST_PEOPLE} or more people of each class in the {part} part;"
            " leave them out, or add people."
        )
