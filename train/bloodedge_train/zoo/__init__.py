"""The networks: one file per family, one row here per variant.

Every network takes uint8 RGB ``(N, H, W, 3)`` and gives float32 softmax probabilities ``(N, classes)``; scaling to what
the family expects lies inside the graph.
"""

import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bloodedge.errors import BloodedgeError, UsageError, did_you_mean


class Family(Protocol):
    """What a family's module offers."""

    def scale(self, image: Any) -> Any:
        """The symbolic uint8 image (N, H, W, 3), 0..255, scaled to what ``features`` expects, float32."""
        ...

    def features(self, variant: str, size_px: int, *, imagenet: bool) -> Any:
        """A Keras model from the scaled image to its last feature map (N, h, w, c)."""
        ...


@dataclass(frozen=True)
class Entry:
    """One row of the zoo."""

    module: str
    variant: str
    paper: str


ZOO = {
    "mobilenetv2": Entry("mobilenetv2", "1.0", "Sandler et al., MobileNetV2, CVPR 2018"),
    "resnetrs50": Entry("resnetrs", "50", "Bello et al., Revisiting ResNets, NeurIPS 2021"),
    "edgenet": Entry("edgenet", "small", "after Howard et al., MobileNets, 2017; ReLU only"),
}


def check_model(name: str) -> None:
    """Raise UsageError when the zoo has no such model."""
    if name not in ZOO:
        raise UsageError(f'There is no model "{name}".{did_you_mean(name, ZOO)} Models: {", ".join(ZOO)}.')


def build(name: str, size_px: int, *, classes: int = 2, dropout: float = 0.0, weights: str = "none") -> Any:
    """A Keras model with global average pooling, dropout and a softmax head on the family's features.

    ``weights``: "none" (random), "imagenet" (downloaded) or the path of a weights file of the features.
    Raises UsageError for an unknown model or a weights file of another network, BloodedgeError when it cannot be had.
    """
    import keras

    check_model(name)
    entry = ZOO[name]
    family: Family = importlib.import_module(f"bloodedge_train.zoo.{entry.module}")
    features = _features(name, family, entry, size_px, weights)
    image = keras.Input((size_px, size_px, 3), dtype="uint8", name="image")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features(family.scale(image)))
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    output = keras.layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(image, output, name=name)


def _features(name: str, family: Family, entry: Entry, size_px: int, weights: str) -> Any:
    if weights != "imagenet":
        features = family.features(entry.variant, size_px, imagenet=False)
        if weights != "none":
            _load(features, Path(weights), name)
        return features
    try:
        return family.features(entry.variant, size_px, imagenet=True)
    except BloodedgeError:
        raise
    except Exception as error:  # Keras' downloader raises a bare Exception
        raise BloodedgeError(
            f"The ImageNet weights of {name} could not be downloaded ({str(error).splitlines()[0][:120]}); "
            "fetch the file elsewhere and give its path with --weights."
        ) from error


def _load(features: Any, path: Path, name: str) -> None:
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give --weights none, imagenet, or the path of a weights file.")
    if path.suffix != ".h5":
        raise UsageError(f"{path} is not a weights file by its name; give one that ends in .h5.")
    try:
        with warnings.catch_warnings():
            # Keras 3.15 says it of every Functional network, of its table of operations, which holds no weights.
            warnings.filterwarnings("ignore", "Skipping nested container")
            features.load_weights(path)
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"{path} holds the weights of another network than {name} ({reason}); give the file made for {name}."
        ) from error
    except OSError as error:
        raise BloodedgeError(f"{path} is not a readable HDF5 weights file; copy or download it again.") from error
