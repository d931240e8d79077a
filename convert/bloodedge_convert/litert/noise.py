"""What each layer of an int8 LiteRT network costs: its tensors beside those of the float32 network.

``_get_ops_details`` is not public, but the interpreter has no public way to list its layers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.engine.litert import load_interpreter

IMAGES = 8


class LayerNoise(Strict):
    """How far a layer's int8 output is from its float32 output."""

    name: str
    noise: float
    """Root mean square of int8 minus float, over the standard deviation of float between cells: what all cells share
    (their black surroundings above all) carries no signal."""
    added: float
    """The noise less that of the layer's noisiest input."""

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise ratio in decibels."""
        return -20 * math.log10(max(self.noise, 1e-6))


def layer_noise(float_model: bytes, int8_model: bytes, images: NDArray[np.uint8]) -> list[LayerNoise]:
    """Every layer that both networks have, in the order in which they are computed.

    images: network inputs uint8 (N, H, W, 3), of which the first few are used.
    """
    networks = [load_interpreter(model, threads=1, keep_tensors=True)[0] for model in (float_model, int8_model)]
    values, others = ([_tensors(network, image) for image in images[:IMAGES]] for network in networks)
    noise = {}
    for name in values[0].keys() & others[0].keys():
        ours, theirs = (np.stack([tensors[name] for tensors in side]) for side in (values, others))
        spread = ours.std(axis=0).max()
        if ours.shape == theirs.shape and spread > 0:
            noise[name] = math.sqrt(np.square(theirs - ours).mean() / ours.var(axis=0).mean())
    added = _added(networks[1], noise)
    return [LayerNoise(name=short(name), noise=noise[name], added=added[name]) for name in added]


def worst_layers(layers: Sequence[LayerNoise], count: int = 3) -> list[str]:
    """The layers that add most noise, largest first, as "name (+noise %)"."""
    worst = sorted(layers, key=lambda layer: -layer.added)[:count]
    return [f"{layer.name} (+{100 * layer.added:.0f} %)" for layer in worst]


def _tensors(network: Any, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Every activation, as real values, by name."""
    network.set_tensor(network.get_input_details()[0]["index"], image[np.newaxis])
    network.invoke()
    values = {}
    for index, details in _activations(network).items():
        scale, zero = details["quantization"]
        raw = network.get_tensor(index).astype(np.float64)
        values[details["name"]] = (raw - zero) * scale if scale else raw
    return values


def _activations(network: Any) -> dict[int, Any]:
    made = {int(index) for op in network._get_ops_details() for index in op["outputs"]}
    return {d["index"]: d for d in network.get_tensor_details() if d["index"] in made}


def _added(network: Any, noise: dict[str, float]) -> dict[str, float]:
    names = {d["index"]: d["name"] for d in network.get_tensor_details()}
    added = {}
    for op in network._get_ops_details():
        before = max((noise.get(names.get(int(i), ""), 0.0) for i in op["inputs"]), default=0.0)
        for name in (names.get(int(i), "") for i in op["outputs"]):
            if name in noise and "/" in name:
                added[name] = noise[name] - before
    return added


def short(name: str) -> str:
    """The layer in a tensor's name: ``net_1/conv_bn_1/batchnorm/add_1;...`` is made by ``conv_bn_1``."""
    parts = [part for part in name.partition(";")[0].split("/") if part != "batchnorm"]
    return parts[-2] if len(parts) > 1 else parts[0]
