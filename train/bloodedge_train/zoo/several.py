"""Several networks side by side on one frame, as one network whose features are those of all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bloodedge.errors import UsageError

Scale = Callable[[Any], Any]
"""A family's ``scale``."""


def depths_of(name: str, names: Sequence[str], depths: Sequence[float | str]) -> list[float | str]:
    """Those of a recipe's depths that are of the network ``name``: shares, and its own layers.

    depths: shares, and layers as NETWORK/LAYER, or, where ``names`` is one network, as LAYER.
    Raises UsageError for a layer of none of the ``names``, and when nothing is left.
    """
    found: list[float | str] = []
    for depth in depths:
        network, slash, layer = depth.rpartition("/") if isinstance(depth, str) else ("", "", depth)
        if isinstance(depth, str) and network not in names and (slash or len(names) > 1):
            spelt = " or ".join(f"{one}/LAYER" for one in names)
            raise UsageError(f'head.depths: "{depth}" is of no network here; write it as {spelt}.')
        if network in {"", name}:
            found.append(layer)
    if not found:
        raise UsageError(f"head.depths names no layer of {name}; add {name}/LAYER, or leave {name} out of --model.")
    return found


def side_by_side(size_px: int, networks: Mapping[str, tuple[Scale, Any]]) -> Any:
    """A Keras model named "features" from the frame uint8 (N, size_px, size_px, 3) to the networks' outputs in turn.

    networks: by name, each one's scaling and a Keras model from the scaled frame, which must not be used after this.
    Their layers are called NETWORK_LAYER.
    """
    import keras

    shape = (size_px, size_px, 3)
    frame = keras.Input(shape, dtype="uint8", name="frame")
    outputs = []
    for name, (scale, network) in networks.items():
        own = keras.Input(shape, dtype="uint8")
        (scaled,) = _inlined(name, keras.Model(own, scale(own)), frame)
        outputs += _inlined(name, network, scaled)
    joined = keras.Model(frame, outputs, name="features")
    # A copy: the layers of the networks still hold the calls that they were part of before.
    copy = keras.models.clone_model(joined)
    copy.set_weights(joined.get_weights())
    return copy


def _inlined(name: str, network: Any, tensor: Any) -> list[Any]:
    """The network's outputs for a symbolic tensor, layer by layer, each layer called after the network."""
    import keras

    made: dict[str, list[Any]] = {}
    for operation in network.operations[1:]:
        operation.name = f"{name}_{operation.name}"

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = layer(*arguments, **options)
        made[layer.name] = keras.tree.flatten(output)
        return output

    keras.models.clone_model(network, input_tensors=tensor, clone_function=lambda layer: layer, call_function=call)
    given = [output._keras_history for output in network.outputs]
    return [made[history.operation.name][history.tensor_index] for history in given]
