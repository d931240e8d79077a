"""``bloodedge train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bloodedge.cli.options import PATH, allow_unreadable_option, check_goal, data_options, goal_options
from bloodedge.errors import StoppedError, UsageError
from bloodedge_train.zoo import ZOO, check_model, names_of

if TYPE_CHECKING:
    from bloodedge.bundle.run_record import RunMetrics
    from bloodedge.data.split import Fold
    from bloodedge_train.recipe import Recipe

OUTER_FOLDS = 6
WORTHLESS = (
    "A network that gives one class only is useless: train for more epochs (--epochs), with another recipe, or on"
    " more people."
)


@click.command()
@click.argument("data", metavar="DATA", type=PATH)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    help=f"One of: {', '.join(ZOO)}; for a head also several, as in mobilenetv2+efficientnet_lite0.",
    shell_complete=lambda _context, _option, typed: _completed(typed),
)
@click.option(
    "--recipe",
    "recipe_name",
    default="honest",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="A packaged recipe, or your own TOML file.",
)
@click.option(
    "--weights",
    default="none",
    show_default=True,
    metavar="none|imagenet|PATH",
    help="Starting weights of the features: random, the published ImageNet file (downloaded), a local file, or a folder"
    " that holds NAME.weights.h5 of each network.",
)
@click.option(
    "--split",
    "kind",
    type=click.Choice(["group", "image"]),
    help="Instead of the recipe's. group: no person in two parts. image: the paper's way, labelled leaky.",
)
@click.option(
    "--folds", type=click.IntRange(2, 50), metavar="K", help="Cross-validation: deal the groups into K folds."
)
@click.option("--fold", type=click.IntRange(0, 49), metavar="I", help="Which fold (from 0) is the test part.")
@click.option(
    "--all-people",
    is_flag=True,
    help="Fit a head to everybody, for a release, and judge it over 6 (or --folds) folds of people.",
)
@click.option("--epochs", type=click.IntRange(1, 1000), metavar="N", help="Instead of the recipe's number.")
@goal_options
@click.option("--out", type=PATH, metavar="RUN", help="Run folder (default: runs/MODEL-RECIPE).")
@data_options
@allow_unreadable_option
@click.option(
    "--cache",
    type=PATH,
    metavar="DIR",
    help="Where a recipe with a head keeps features and digests of pictures for the next run "
    "(default: the user's cache folder).",
)
@click.option("--no-cache", is_flag=True, help="Keep neither, and use none.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split and of every draw.")
def train(
    model: str,
    recipe_name: str,
    kind: Literal["group", "image"] | None,
    folds: int | None,
    fold: int | None,
    all_people: bool,
    epochs: int | None,
    out: Path | None,
    cache: Path | None,
    no_cache: bool,
    **options: Any,
) -> None:
    """Fit a network to the cells in DATA and write a run folder: model, figures with intervals, pictures, card.

    DATA is laid out as C-NMC 2019 (see: bloodedge data audit --help). Thresholds are chosen on the validation part,
    for even errors of both classes unless --sensitivity or --specificity is given. Keras runs on the back end that
    KERAS_BACKEND names: jax, tensorflow or torch.
    """
    from bloodedge_train.heads.cache import default_folder
    from bloodedge_train.progress import watcher
    from bloodedge_train.recipe import load_recipe
    from bloodedge_train.run import train as run_training
    from bloodedge_train.run_folder import TrainOptions

    chosen = _fold(folds, fold, all_people=all_people)
    check_goal(options["sensitivity"], options["specificity"])
    names_of(model)
    if cache and no_cache:
        raise UsageError("--cache and --no-cache exclude each other; leave one out.")
    recipe = _changed(load_recipe(recipe_name), epochs, kind)
    if recipe.head is None:
        check_model(model)
    if all_people and (recipe.head is None or recipe.split.kind == "image"):
        raise UsageError("--all-people needs a recipe with a head, such as --recipe head, and a split by group.")
    target = out or Path("runs") / f"{model}-{recipe.name}"
    judged_over = (folds or OUTER_FOLDS) if all_people else None
    kept_in = None if no_cache else cache or default_folder()
    try:
        metrics = run_training(
            TrainOptions(
                model=model,
                recipe=recipe,
                fold=chosen,
                out=target,
                all_people=judged_over,
                cache=kept_in,
                **options,
            ),
            watcher(),
        )
    except KeyboardInterrupt as error:
        if not (target / "checkpoint").is_dir():
            raise
        raise StoppedError(
            f"Interrupted; finished epochs are kept in {target}. Continue by repeating the command with --resume."
        ) from error
    _show(metrics, target)


def _completed(typed: str) -> list[str]:
    """Names that go on from what is typed; networks named before a "+" are not offered again."""
    before, plus, last = typed.rpartition("+")
    return [before + plus + name for name in ZOO if name.startswith(last) and name not in before.split("+")]


def _show(metrics: "RunMetrics", target: Path) -> None:
    """The figures of people held out, and a warning where they are worth nothing."""
    from bloodedge.cli.evaluate import show_evaluation

    for name in ("folds", "test", "shift"):
        if name in metrics.parts:
            show_evaluation(metrics.parts[name], f"{target.name}: {name} part")
    for name, evaluation in metrics.parts.items():
        if (label := evaluation.never_called) is not None:
            click.secho(
                f"{target.name} called none of the {evaluation.cells} {name} cells {label}. {WORTHLESS}", bold=True
            )
    click.echo(f"Run folder: {target}")


def _fold(folds: int | None, fold: int | None, *, all_people: bool) -> "Fold | None":
    from bloodedge.data.split import Fold

    if all_people:
        if fold is not None:
            raise UsageError("--all-people holds nobody out for good; leave out --fold.")
        return None
    if (folds is None) != (fold is None) or (folds is not None and fold is not None and fold >= folds):
        raise UsageError("--folds K and --fold I go together, with I from 0 to K - 1.")
    return Fold(folds, fold) if folds is not None and fold is not None else None


def _changed(recipe: "Recipe", epochs: int | None, kind: Literal["group", "image"] | None) -> "Recipe":
    """The recipe with what the command line gives instead."""
    if epochs and recipe.head:
        raise UsageError(f"The recipe {recipe.name} fits a head, which has no epochs; leave out --epochs.")
    if epochs:
        recipe = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"epochs": epochs})})
    if kind:
        recipe = recipe.model_copy(update={"split": recipe.split.model_copy(update={"kind": kind})})
    return recipe
