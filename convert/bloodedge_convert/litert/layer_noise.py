"""The noise that each layer of an int8 LiteRT network adds, against the float32 network.

``_get_ops_details`` is not public; the interpreter has no public way to list its layers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.job import Kind, file_names
from bloodedge_convert.litert.activations import watch

IMAGES = 8


class LayerNoise(Strict):
    """How far a layer's int8 output is from its float32 output."""

    name: str
    noise: float
    """Root mean square of int8 minus float, divided by the standard deviation of float between cells: what all cells
    share, such as black surroundings, carries no signal."""
    added: float
    """The noise less that of the layer's noisiest input."""

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise ratio in decibels."""
        return -20 * math.log10(max(self.noise, 1e-6))


def layer_noise(float_model: bytes, int8_model: bytes, images: NDArray[np.uint8]) -> list[LayerNoise]:
    """Every layer that both networks have, in order of computation.

    images: network inputs uint8 (N, H, W, 3), of which the first few are used.
    """
    networks = [load_interpreter(model, threads=1, keep_tensors=True)[0] for model in (float_model, int8_model)]
    plain, int8 = (_activations(network) for network in networks)
    shared = [name for name in plain if name in int8 and np.array_equal(plain[name]["shape"], int8[name]["shape"])]
    watched = [watch(float_model, [plain[name]["index"] for name in shared])]
    watched.append(watch(int8_model, [int8[name]["index"] for name in shared]))
    errors, signals = dict.fromkeys(shared, 0.0), {name: Spread() for name in shared}
    for image in images[:IMAGES]:
        for name, *values in zip(shared, *(look(image) for look in watched), strict=True):
            wanted, found = _real(values[0], plain[name]), _real(values[1], int8[name])
            errors[name] += float(np.square(found - wanted).mean())
            signals[name].add(wanted)
    signal = {name: spread.sum_of_squares for name, spread in signals.items()}
    noise = {name: math.sqrt(errors[name] / signal[name]) for name in shared if signal[name] > 0}
    added = _added(networks[1], noise)
    return [LayerNoise(name=short(name), noise=noise[name], added=added[name]) for name in added]


def int8_noise(folder: Path, images: NDArray[np.uint8]) -> list[LayerNoise]:
    """``layer_noise`` of the LiteRT artifacts in ``folder``; nothing where int8 or float32 was not made."""
    plain, int8 = (folder / file_names(Kind(engine="litert", precision=p))[0] for p in ("float32", "int8"))
    both = plain.is_file() and int8.is_file()
    return layer_noise(plain.read_bytes(), int8.read_bytes(), images) if both else []


def worst_layers(layers: Sequence[LayerNoise], count: int = 3) -> list[str]:
    """The layers that add most noise, largest first, as "name (+noise %)"."""
    worst = sorted(layers, key=lambda layer: -layer.added)[:count]
    return [f"{layer.name} (+{100 * layer.added:.0f} %)" for layer in worst]


class Spread:
    """The variance of a tensor between images, image by image (Welford, Technometrics 4, 1962)."""

    def __init__(self) -> None:
        self._images, self._mean, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add one image's values."""
        self._images += 1
        away = values - self._mean
        self._mean = self._mean + away / self._images
        self._squares = self._squares + away * (values - self._mean)

    @property
    def sum_of_squares(self) -> float:
        """Squared distances from the mean over the images, averaged over the tensor's values."""
        return float(self._squares.mean())


def _activations(network: Any) -> dict[str, Any]:
    made = {int(index) for op in network._get_ops_details() for index in op["outputs"]}
    return {d["name"]: d for d in network.get_tensor_details() if d["index"] in made}


def _real(values: NDArray[Any], tensor: Any) -> NDArray[np.float64]:
    """An activation's values in the network's own units."""
    scale, zero = tensor["quantization"]
    raw = values.astype(np.float64)
    return (raw - zero) * scale if scale else raw


def _added(network: Any, noise: dict[str, float]) -> dict[str, float]:
    names = {d["index"]: d["name"] for d in network.get_tensor_details()}
    added, carried = {}, dict(noise)
    for op in network._get_ops_details():
        before = max((carried.get(names.get(int(i), ""), 0.0) for i in op["inputs"]), default=0.0)
        for name in (names.get(int(i), "") for i in op["outputs"]):
            if name in noise and "/" in name and op["op_name"] != "MEAN":  # adds none: it only sums up what cells share
                added[name] = noise[name] - before
            carried.setdefault(name, before)  # of what only rescales or widens
    return added


def short(name: str) -> str:
    """The layer in a tensor's name: ``net_1/conv_bn_1/batchnorm/add_1;...`` is made by ``conv_bn_1``."""
    parts = [part for part in name.partition(";")[0].split("/") if part != "batchnorm"]
    return parts[-2] if len(parts) > 1 else parts[0]
