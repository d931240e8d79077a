"""Layers of a network at which its features can be taken, by their share of its depth or by name."""

from collections.abc import Sequence
from typing import Any

from bloodedge.errors import UsageError, did_you_mean

FEWEST_MERGES = 3
"""A network with fewer additions and concatenations is a chain, whose activations and poolings are taken instead."""
MERGES = ("Add", "Concatenate")
ACTIVATIONS = ("ReLU", "Activation")
ENDS_IN_A_CHAIN = (*ACTIVATIONS, "MaxPooling2D")


def layers_at(features: Any, depths: Sequence[float | str], model: str = "the network") -> list[str]:
    """Names of the layers of ``features`` (a Keras model with one path in and out) at ``depths``, from the lowest.

    depths: shares of the network's layers, above 0 and up to 1 (its last feature map), of which each is the nearest end
    of a block; or names of layers with a feature map (N, h, w, c). Raises UsageError for a name that ``model`` lacks.
    """
    order = {layer.name: number for number, layer in enumerate(features.operations)}
    ends = block_ends(features)
    named = {
        _checked(features, depth, model) if isinstance(depth, str) else _nearest(ends, depth, order, len(order) - 1)
        for depth in depths
    }
    return sorted(named, key=order.__getitem__)


def block_ends(features: Any) -> list[str]:
    """Names of the layers where a block ends: all that comes later is computed from that one feature map."""
    children = _children(features)
    cuts = [layer for layer in _cuts(features, children) if len(layer.output.shape) == 4]
    merged = _merged(cuts, children)
    ends = merged if len(merged) >= FEWEST_MERGES else [layer for layer in cuts if _kind(layer) in ENDS_IN_A_CHAIN]
    last = features.operations[-1]
    return [layer.name for layer in ends if layer is not last] + [last.name]


def _children(features: Any) -> dict[str, list[Any]]:
    """The layers that take each layer's output, by its name."""
    nodes = [node for depth in features._nodes_by_depth.values() for node in depth]
    found: dict[str, list[Any]] = {one.name: [] for one in features.operations}
    for node in nodes:
        for parent in node.parent_nodes:
            found[parent.operation.name].append(node.operation)
    return found


def _cuts(features: Any, children: dict[str, list[Any]]) -> list[Any]:
    """Layers, in order, past which no connection leads."""
    order = {layer.name: number for number, layer in enumerate(features.operations)}
    found, reach = [], 0
    for number, layer in enumerate(features.operations):
        if reach <= number and number:
            found.append(layer)
        reach = max([reach, *(order[child.name] for child in children[layer.name])])
    return found


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _merged(cuts: Sequence[Any], children: dict[str, list[Any]]) -> list[Any]:
    """The cuts where paths meet; where an activation follows, that is taken instead."""
    found = []
    for layer in cuts:
        if _kind(layer) in MERGES:
            after = children[layer.name]
            found.append(after[0] if [_kind(child) in ACTIVATIONS for child in after] == [True] else layer)
    return found


def _nearest(ends: Sequence[str], share: float, order: dict[str, int], last: int) -> str:
    return min(ends, key=lambda name: abs(order[name] - share * last))


def _checked(features: Any, name: str, model: str) -> str:
    maps = [layer.name for layer in features.operations[1:] if len(layer.output.shape) == 4]
    if name not in maps:
        raise UsageError(
            f'head.depths: {model} has no feature map "{name}".{did_you_mean(name, maps)} '
            f"Blocks end at: {', '.join(block_ends(features)[-6:])}."
        )
    return name
