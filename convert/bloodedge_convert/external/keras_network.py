"""A Keras network of another program within this project's frame: uint8 RGB in, probabilities of two classes out."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from bloodedge.bundle.other_formats import model_kind
from bloodedge.engine.keras import load_keras
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_convert.external.spec import ModelSpec, source_kind

SCALING = {"Rescaling", "Normalization"}
"""Layers by which a network scales its own input."""


def load_network(path: Path) -> Any:
    """The network in a .keras or .h5 file; raises BloodedgeError when Keras cannot read it."""
    if source_kind(path) != "keras":
        raise UsageError(
            f"{path} is {model_kind(path)}, of which no bundle is made yet; give the .keras or .h5 file of the network."
        )
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    load_keras()
    import keras

    try:
        network = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, ImportError) as error:
        raise BloodedgeError(
            f"{path} cannot be loaded by Keras {keras.__version__} ({str(error).splitlines()[0]}); save the whole "
            "model with model.save(), without layers of your own."
        ) from error
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise UsageError(
            f"{path} has {len(network.inputs)} inputs and {len(network.outputs)} outputs; one each is read."
        )
    return network


def scales_itself(network: Any) -> bool:
    """Whether one of the first layers scales the picture."""
    first = [type(layer).__name__ for layer in network._flatten_layers(include_self=False)][:6]
    return bool(SCALING & set(first))


def framed(network: Any, spec: ModelSpec) -> Any:
    """The network with what the spec says before and after it; raises UsageError where they do not fit."""
    from keras import Input, Model, layers

    side = spec.imaging.size_px
    shape = (side, side, 3) if spec.layout == "NHWC" else (3, side, side)
    takes, gives = tuple(network.input_shape[1:]), tuple(network.output_shape[1:])
    if any(own not in (None, ours) for own, ours in zip(takes, shape, strict=False)) or len(takes) != 3:
        raise UsageError(f"The network takes {takes}, but the spec says {shape}; correct imaging.size_px and layout.")
    if int(np.prod([side or 1 for side in gives])) != len(spec.labels):
        raise UsageError(f"The network gives {gives}, but the spec has {len(spec.labels)} labels; name one for each.")
    image = Input((side, side, 3), dtype="uint8", name="image")
    turned = spec.channels == "BGR"
    scale, offset = (
        value[::-1] if turned and isinstance(value, tuple) else value for value in (spec.scale, spec.offset)
    )
    x = layers.Rescaling(scale, offset=offset, name="scale")(image)
    if turned:
        swap = np.eye(3, dtype=np.float32)[::-1]
        x = _fixed(layers.Conv2D(3, 1, use_bias=False, name="to_bgr"), swap[None, None])(x)
    if spec.layout == "NCHW":
        x = layers.Permute((3, 1, 2))(x)
    x = layers.Flatten()(network(x))
    if spec.output == "logits":
        x = layers.Activation("sigmoid" if len(spec.labels) == 1 else "softmax")(x)
    matrix, bias = spec.to_classes()
    if not np.array_equal(matrix, np.eye(2)):
        x = _fixed(layers.Dense(2, name="probabilities"), matrix, bias)(x)
    return Model(image, x)


def _fixed(layer: Any, *weights: Any) -> Any:
    """A layer with given weights that are not fitted."""
    layer.build((None, None, None, weights[0].shape[-2]) if weights[0].ndim == 4 else (None, weights[0].shape[0]))
    layer.set_weights(list(weights))
    layer.trainable = False
    return layer
