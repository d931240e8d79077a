"""Recipes: everything about a training run that is a choice, as data."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bloodedge.config import FileName, Strict, read_toml, validate
from bloodedge.data.split import SplitSpec
from bloodedge.errors import UsageError, did_you_mean
from bloodedge.imaging import ImagingSpec


class AugmentSpec(Strict):
    """Random changes to a training cell; each amplitude is one standard deviation unless it says otherwise."""

    rotate: bool = True
    """Any angle: a smear has no up."""
    flip: bool = True
    scale: float = Field(default=0.0, ge=0, le=1)
    """Of log size. Cell size is a shortcut in C-NMC (median blast 35k px, normal 24k px)."""
    shift: float = Field(default=0.0, ge=0, le=0.2)
    """Uniform, as a share of the frame."""
    light: float = Field(default=0.0, ge=0, le=1)
    """Spread of log intensity, all channels together: lamp and exposure."""
    stain: float = Field(default=0.0, ge=0, le=1)
    """Of log optical density, all channels together: stain strength (Beer-Lambert)."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Of log intensity and of log optical density, per channel: white balance and dye mix."""
    contrast: float = Field(default=0.0, ge=0, le=1)
    """Of log contrast, about the mean of each channel on the cell."""
    mixup: float = Field(default=0.0, ge=0, le=2)
    """Alpha of mixup (Zhang et al., ICLR 2018): pairs of cells and their targets blended; 0 is off."""
    blur: float = Field(default=0.0, ge=0, le=3)
    """Largest Gaussian sigma in pixels, uniform from 0: focus."""

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotate or self.flip or self.scale or self.shift)


Depth = Annotated[float, Field(gt=0, le=1)] | str
Penalty = Annotated[float, Field(gt=0, le=1000)]
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class NetworkSpec(Strict):
    """The head after the family's features."""

    units: int = Field(default=0, ge=0, le=8192)
    """Units of a fully connected ReLU layer before the output; 0 leaves it out."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    l1: float = Field(default=0.0, ge=0, le=1)
    l2: float = Field(default=0.0, ge=0, le=1)
    """Penalties on the weights of the fully connected and the output layer."""

    removed: ClassVar = {"stain": "none"}


class FitSpec(Strict):
    """The optimisation."""

    epochs: int = Field(default=20, ge=1, le=1000)
    batch: int = Field(default=64, ge=2, le=4096)
    epoch_cells: int | None = Field(default=None, ge=1)
    """Cells drawn per epoch; by default as many as the training part has."""
    optimiser: Literal["adamw", "adamax", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=5e-4, gt=0, le=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs in which only the head learns, before the pretrained layers do."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    sampling: Literal["natural", "class_balanced", "subject_balanced"] = "natural"
    """natural: every cell once an epoch. class_balanced: both classes equally often. subject_balanced: that, and within
    a class each group of subjects as the square root of its cells."""
    class_weight: bool = False
    """Weigh the loss by inverse class frequency (of what the sampling shows)."""
    costs: tuple[float, float] = (1.0, 1.0)
    """What a wrong normal cell and a wrong blast cost: further weights of the loss."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Of the layers' arithmetic while fitting on an accelerator (a CPU takes float32); the kept network is float32."""
    monitor: Literal["auc", "loss"] = "auc"
    """Validation figure that picks the best epoch, lowers the learning rate and stops early."""
    keep: Literal["best", "last", "average"] = "best"
    """Weights that the run ends with: the best epoch's, the last one's, or the mean over the second half of the epochs
    (Izmailov et al., "Averaging weights leads to wider optima", UAI 2018)."""
    stop_after: int = Field(default=8, ge=1)
    """Epochs without improvement before training stops."""
    schedule: Literal["plateau", "cosine"] = "plateau"
    """plateau: reduce the learning rate when the monitor stagnates; cosine: lower it to zero over all epochs."""
    reduce_after: int = Field(default=3, ge=1)
    """Epochs without improvement before the learning rate is reduced."""
    reduce_factor: float = Field(default=0.5, gt=0, lt=1)
    batch_norm_momentum: float = Field(default=0.95, gt=0, lt=1)
    """Keras' MobileNetV2 comes with 0.999, with which moving statistics never arrive in a few thousand steps."""


class HeadSpec(Strict):
    """A logistic head on features of a network that stays as it is."""

    depths: tuple[Depth, ...] = Field(default=(0.2, 0.4, 0.6, 0.8), min_length=1, max_length=8)
    """Where features are taken: shares of the network's depth (1 is its last feature map), or names of its layers. With
    networks side by side, shares are of each, and a layer is named NETWORK/LAYER."""
    people: Literal["even", "sqrt", "cells"] = "even"
    """What a group of subjects weighs within its class: as much as every other, as the square root of its cells, or as
    its cells."""
    int8_noise: float = Field(default=100.0, ge=0, le=10_000)
    """Weight of the variance that int8's activations add to the log-odds, relative to the penalty's. Without it a head
    rests on small differences of features that go together, which rounding blurs."""
    camera_noise: float = Field(default=0.0, ge=0, le=10_000)
    """Weight of the variance that cameras at the cells' own bench add: grain, coarser pixels, masks as a finder draws
    them."""
    bench_noise: float = Field(default=0.0, ge=0, le=10_000)
    """Above 0 the head holds a second rule, for cells of other benches, and a gate that tells which rule a cell is for.
    This is the weight, in the second, of the variance that other benches' dyes, light, lenses and cameras add: without
    it a head rests on colours that are the same in one laboratory alone."""
    penalties: tuple[Penalty, ...] = Field(default=PENALTIES, min_length=1, max_length=50)
    """Weights of half the squared coefficients beside the mean log loss, of standardised features; the one with the
    least loss on people held back is taken."""
    inner_folds: int = Field(default=5, ge=2, le=20)
    """How many times some of the people are held back to choose the penalty and the temperature."""


class Recipe(Strict):
    """A resolved recipe, as stored in the run."""

    name: FileName = "custom"
    about: str = ""
    imaging: ImagingSpec = ImagingSpec()
    split: SplitSpec = SplitSpec()
    network: NetworkSpec = NetworkSpec()
    augment: AugmentSpec = AugmentSpec()
    fit: FitSpec = FitSpec()
    head: HeadSpec | None = None
    """None: the whole network is fitted."""

    @model_validator(mode="after")
    def _parts_are_needed(self) -> Self:
        if self.head and self.split.validation:
            message = "split.validation: a head holds people back in turn instead; set it to 0"
            raise ValueError(message)
        return self

    removed: ClassVar = {"distil": ...}


def check_split(recipe: Recipe) -> None:
    """Raise UsageError for a recipe that fits a whole network and leaves it no validation part."""
    if recipe.split.kind == "group" and not recipe.split.validation and recipe.head is None:
        raise UsageError("A split by group needs a validation part; set split.validation in the recipe, such as 0.15.")


Kind = Literal["recipe", "space"]


def packaged(kind: Kind) -> list[str]:
    """Names of the recipes or spaces that come with bloodedge."""
    return sorted(path.stem for path in Path(__file__).with_name(f"{kind}s").glob("*.toml"))


def toml_file(name_or_path: str, kind: Kind) -> Path:
    """The file of a packaged recipe or space, or a .toml file by its path; raises UsageError for an unknown name."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return Path(name_or_path)
    names = packaged(kind)
    if name_or_path not in names:
        raise UsageError(
            f'There is no {kind} "{name_or_path}".{did_you_mean(name_or_path, names)} '
            f"{kind.capitalize()}s: {', '.join(names)}, or the path of a .toml file."
        )
    return Path(__file__).with_name(f"{kind}s") / f"{name_or_path}.toml"


def load_recipe(name_or_path: str) -> Recipe:
    """A packaged recipe by name, or one from a TOML file; raises UsageError listing every mistake in it."""
    path = toml_file(name_or_path, "recipe")
    return validate(Recipe, {"name": path.stem, **read_toml(path)}, f"Recipe {name_or_path}")
