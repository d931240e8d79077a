"""The networks: one file per family.

Every network takes uint8 RGB ``(N, H, W, 3)``, or several views of each cell ``(N, V, H, W, 3)``, and gives float32
softmax probabilities ``(N, classes)``; scaling to what the family expects lies inside the graph.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bloodedge.errors import UsageError, did_you_mean
from bloodedge_train.zoo.depths import layers_at
from bloodedge_train.zoo.layers import gather_views, spread_views
from bloodedge_train.zoo.several import depths_of, side_by_side
from bloodedge_train.zoo.weights import Published, download, load

if TYPE_CHECKING:
    from bloodedge_train.recipe import NetworkSpec

SMALLEST_PX = 32
"""Five halvings leave one pixel."""


class Family(Protocol):
    """A family's module."""

    PUBLISHED: Published | None
    """The file of ImageNet features; None if none was published that loads here."""

    def scale(self, image: Any) -> Any:
        """The symbolic image (N, H, W, 3) RGB, 0..255, scaled to what ``features`` expects, float32."""
        ...

    def features(self, size_px: int, *scaling: float) -> Any:
        """A Keras model named "features" from the scaled image to its last feature map (N, h, w, c)."""
        ...


@dataclass(frozen=True)
class Entry:
    """One row of the zoo; ``smallest_px``: the smallest image side that does not vanish before the last layer."""

    module: str
    paper: str
    smallest_px: int = SMALLEST_PX
    scaling: tuple[float, ...] = ()
    """Further arguments of the family's ``features``, for its larger members."""


_LITE = "Tan and Le, EfficientNet, ICML 2019; Lite, 2020"
ZOO = {
    "resnetrs50": Entry("resnetrs", "Bello et al., Revisiting ResNets, NeurIPS 2021"),
    "regnetx016": Entry("regnet", "Radosavovic et al., Designing network design spaces, CVPR 2020"),
    "alexnet": Entry("alexnet", "Krizhevsky, One weird trick, 2014", smallest_px=63),
    "convnext_tiny": Entry("convnext", "Liu et al., A ConvNet for the 2020s, CVPR 2022"),
    "efficientnetb0": Entry("efficientnet", "Tan and Le, EfficientNet, ICML 2019"),
    "inceptionv3": Entry("inceptionv3", "Szegedy et al., Rethinking Inception, CVPR 2016", smallest_px=75),
    "xception": Entry("xception", "Chollet, Xception, CVPR 2017", smallest_px=71),
    "vgg19": Entry("vgg19", "Simonyan and Zisserman, VGG, ICLR 2015"),
    "mobilenetv2": Entry("mobilenetv2", "Sandler et al., MobileNetV2, CVPR 2018"),
    "efficientnet_lite0": Entry("efficientnet_lite", _LITE),
    "efficientnet_lite1": Entry("efficientnet_lite", _LITE, scaling=(1.0, 1.1)),
    "efficientnet_lite2": Entry("efficientnet_lite", _LITE, scaling=(1.1, 1.2)),
    "edgenet": Entry("edgenet", "after Howard et al., MobileNets, 2017; ReLU only"),
}


def names_of(model: str) -> tuple[str, ...]:
    """The networks of "NAME", or of "NAME+NAME" for several side by side.

    Raises UsageError when the zoo lacks one of them, or one is named twice.
    """
    names = tuple(model.split("+"))
    for name in names:
        if name not in ZOO:
            raise UsageError(f'There is no model "{name}".{did_you_mean(name, ZOO)} Models: {", ".join(ZOO)}.')
        if names.count(name) > 1:
            raise UsageError(f"{model} has {name} more than once; name each network once.")
    return names


def check_model(model: str) -> None:
    """Raise UsageError when the zoo has no such network, or it is several."""
    if len(names_of(model)) > 1:
        raise UsageError(f"{model} is several networks, which need a recipe with a head, such as head.")


def build(
    name: str, size_px: int, network: "NetworkSpec", *, views: int = 1, classes: int = 2, weights: str = "none"
) -> Any:
    """A Keras model: the image, scaled, the family's features, and the paper's head.

    With several ``views`` its input is (N, views, size_px, size_px, 3). The same weights give the features of each
    view; the head gets those of all views, pooled and side by side.

    ``weights``: "none" (random), "imagenet" (downloaded), or the path of a weights file of the features or of a folder
    with NAME.weights.h5. Raises UsageError for an unknown model, an image too small for it or a weights file of another
    network, BloodedgeError when the weights cannot be had.
    """
    import keras

    check_model(name)
    features = _features(name, size_px, weights)
    frame = (size_px, size_px, 3)
    image = keras.Input(frame if views == 1 else (views, *frame), dtype="uint8", name="image")
    maps = features(family(name).scale(spread_views(image)))
    pooled = gather_views(keras.layers.GlobalAveragePooling2D(name="pool")(maps), views)
    output = _head(pooled, network, classes)
    return keras.Model(image, output, name=name)


def _head(x: Any, network: "NetworkSpec", classes: int) -> Any:
    """A fully connected layer if ``network.units``, dropout, softmax."""
    import keras

    def penalty() -> Any:
        return keras.regularizers.L1L2(network.l1, network.l2) if network.l1 or network.l2 else None

    if network.units:
        x = keras.layers.Dense(network.units, activation="relu", kernel_regularizer=penalty(), name="hidden")(x)
    x = keras.layers.Dropout(network.dropout, name="dropout")(x)
    # float32 under any dtype policy: bfloat16 has 8 bits, too few for a probability or its logarithm.
    return keras.layers.Dense(
        classes, activation="softmax", kernel_regularizer=penalty(), dtype="float32", name="probabilities"
    )(x)


def family(name: str) -> Family:
    """The module of a model's family."""
    return cast("Family", importlib.import_module(f"bloodedge_train.zoo.{ZOO[name].module}"))


def features_of(name: str, size_px: int, weights: str = "none") -> Any:
    """A Keras model named "features" of one of the zoo's networks; raises as ``build``."""
    check_model(name)
    return _features(name, size_px, weights)


def scale(model: str, image: Any) -> Any:
    """The symbolic image as ``feature_maps`` wants it: scaled, or as it is where several networks scale it inside."""
    names = names_of(model)
    return image if len(names) > 1 else family(model).scale(image)


def feature_maps(model: str, size_px: int, depths: Sequence[float | str], weights: str) -> Any:
    """A Keras model named "features" from the image, as ``scale`` gives it, to feature maps at ``depths``.

    model: as in ``names_of``; the maps of several networks come one after another. depths: as in ``depths.layers_at``
    for each network; the layers of one of several are named NETWORK/LAYER. weights: as in ``build``, the file or folder
    of each. Raises as ``build``, and UsageError for an unknown depth.
    """
    names = names_of(model)
    if len(names) > 1 and Path(weights).is_file():
        raise UsageError(f"{weights} holds one network's weights; give the folder that holds {_files(names)}.")
    found = {name: _maps(name, size_px, depths_of(name, names, depths), weights) for name in names}
    if len(names) == 1:
        return found[model]
    return side_by_side(size_px, {name: (family(name).scale, maps) for name, maps in found.items()})


def _maps(name: str, size_px: int, depths: Sequence[float | str], weights: str) -> Any:
    """From the scaled image to the feature maps of one network."""
    import keras

    features = _features(name, size_px, weights)
    layers = layers_at(features, depths, name)
    nodes = [node for depth in features._nodes_by_depth.values() for node in depth]
    outputs = {node.operation.name: node.outputs[0] for node in nodes}
    return keras.Model(features.input, [outputs[layer] for layer in layers], name="features")


def _features(name: str, size_px: int, weights: str) -> Any:
    entry = ZOO[name]
    if size_px < entry.smallest_px:
        raise UsageError(f"{name} needs images of at least {entry.smallest_px} px; raise imaging.size_px.")
    file = None if weights == "none" else _weights_file(name, weights)
    features = family(name).features(size_px, *entry.scaling)
    if file is not None:
        load(features, file, name)
    return features


def _weights_file(name: str, weights: str) -> Path:
    """The file that "imagenet", a file's path, or that of a folder stands for."""
    if weights == "imagenet":
        published = family(name).PUBLISHED
        if published is None:
            raise UsageError(
                f"{name} has no ImageNet weights to download; use --weights none or the path of a file, or that of a "
                f"folder with {_files([name])}."
            )
        return download(published, name)
    path = Path(weights)
    if not path.is_dir():
        return path
    file = path / _files([name])
    if not file.is_file():
        raise UsageError(f"{path} lacks {file.name}; put the weights of {name} there under that name.")
    return file


def _files(names: Sequence[str]) -> str:
    return " and ".join(f"{name}.weights.h5" for name in names)
