"""Which layers of an int8 LiteRT network cost most: its tensors beside those of the float32 network.

``_get_ops_details`` is not public, but the interpreter has no public way to list its layers.
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter

IMAGES = 8


def worst_layers(float_model: bytes, int8_model: bytes, images: NDArray[np.uint8], count: int = 3) -> list[str]:
    """Names of the layers that add most noise, largest first, as "name (+noise %)".

    Noise is the root mean square of int8 minus float over that of float, for each tensor that both networks have under
    the same name; what a layer adds is its noise less that of its noisiest input. images: network inputs uint8
    (N, H, W, 3), of which the first few are used.
    """
    networks = [load_interpreter(model, threads=1, keep_tensors=True)[0] for model in (float_model, int8_model)]
    power: dict[str, float] = defaultdict(float)
    error: dict[str, float] = defaultdict(float)
    for image in images[:IMAGES]:
        values, others = (_tensors(network, image) for network in networks)
        for name in values.keys() & others.keys():
            if values[name].shape == others[name].shape:
                error[name] += float(np.square(others[name] - values[name]).mean())
                power[name] += float(np.square(values[name]).mean())
    noise = {name: math.sqrt(error[name] / power[name]) for name in power if power[name] > 0}
    added = _added(networks[1], noise)
    worst = sorted(added, key=lambda name: -added[name])[:count]
    return [f"{_short(name)} (+{100 * added[name]:.0f} %)" for name in worst]


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
            if name in noise:
                added[name] = noise[name] - before
    return added


def _short(name: str) -> str:
    """The layer in a tensor's name: ``net_1/block_1_add_1/Add;...`` is made by ``block_1_add_1``."""
    parts = name.partition(";")[0].split("/")
    return parts[-2] if len(parts) > 1 else parts[0]
