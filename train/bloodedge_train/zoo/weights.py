"""Weights files of a network's features: published ones, and those written by Keras 2 or 3.

Keras' own loader pairs what it can and is hard to read when it cannot. Here file and network are compared first, layer
by layer, so that an error can name the first difference of another network's file; then every weight is set.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError

KERAS_STORE = "https://storage.googleapis.com/tensorflow/keras-applications/"

Stored = list[tuple[str, list[Any]]]
"""Layers that have weights, in order: name, and its HDF5 data sets (or its Keras variables)."""
NOTHING: tuple[str, list[Any]] = ("", [])


@dataclass(frozen=True)
class Published:
    """A file of ImageNet features; ``digest`` is its published MD5 or SHA-256, None where none was published."""

    url: str
    digest: str | None


def download(published: Published, name: str) -> Path:
    """The file's place in Keras' cache, fetched once, its digest checked; raises BloodedgeError when it cannot be."""
    import keras

    file = published.url.rpartition("/")[2]
    try:
        return Path(keras.utils.get_file(file, published.url, file_hash=published.digest, cache_subdir="models"))
    except Exception as error:  # Keras' downloader raises a bare Exception
        raise BloodedgeError(
            f"The ImageNet weights of {name} could not be downloaded ({' '.join(str(error).split())[:120]}); "
            "fetch the file elsewhere and give its path with --weights."
        ) from error


def load(features: Any, path: Path, name: str) -> None:
    """Set the weights of ``features`` (a Keras model) from a Keras 2 ``.h5`` or a Keras 3 ``.weights.h5`` file.

    Raises UsageError when there is no such file or it is another network's, BloodedgeError when it is broken.
    """
    import h5py

    if not path.is_file():
        raise UsageError(f"{path} does not exist; give --weights none, imagenet, or the path of a weights file.")
    if path.suffix != ".h5":
        raise UsageError(f"{path} is not a weights file by its name; give one that ends in .h5.")
    try:
        with h5py.File(path) as file:
            stored, wanted = _pair(file, features)
            difference = _first_difference(stored, wanted, name)
            if difference:
                raise UsageError(
                    f"{path} holds the weights of another network than {name} (its first difference is {difference}); "
                    f"give the file made for {name}."
                )
            for (_, values), (_, variables) in zip(stored, wanted, strict=True):
                for value, variable in zip(values, variables, strict=True):
                    variable.assign(value[()])
    except (OSError, KeyError) as error:
        raise BloodedgeError(f"{path} is not a readable HDF5 weights file; copy or download it again.") from error


def _pair(file: Any, features: Any) -> tuple[Stored, Stored]:
    """The file's layers and the network's, each as the file's format has them."""
    group = file.get("model_weights", file)  # a whole model that Keras 2 saved keeps its weights one level down
    if "layer_names" in group.attrs or "layer_names0" in group.attrs:
        return list(_of_keras2(group)), [(layer.name, _variables(layer)) for layer in features.layers if layer.weights]
    if "layers" not in group:
        raise KeyError("layers")
    return _of_keras3(group, wanted := list(_leaves(features, "layers"))), wanted


def _of_keras2(group: Any) -> Iterator[tuple[str, list[Any]]]:
    """Layers in order, with their names' list."""
    for name in _names(group, "layer_names"):
        weights = _names(group[name], "weight_names")
        # Normalisation of the image, which some of keras.applications keep among the weights, lies in a family's scale.
        if weights and not re.fullmatch(r"normalization(_\d+)?", name):
            yield name, [group[name][weight] for weight in weights]


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras 2 cuts into numbered parts when it is long."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        keys = (f"{attribute}{number}" for number in range(len(group.attrs)))
        parts = [group.attrs[key] for key in keys if key in group.attrs]
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]


def _of_keras3(group: Any, wanted: Stored) -> Stored:
    """The file's layers in the network's order (the file has none), then those that the network lacks."""
    stored: dict[str, list[Any]] = {}

    def visit(path: str, item: Any) -> None:
        layer = path.removesuffix("/vars")
        if layer != path and len(item) and not re.search(r"/(normalization(_\d+)?|seed_generator)$", layer):
            stored[layer] = [item[str(number)] for number in range(len(item))]

    group.visititems(visit)
    names = [name for name, _ in wanted]
    return [(name, stored.get(name, [])) for name in names] + [(n, v) for n, v in stored.items() if n not in names]


def _leaves(model: Any, prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Layers with their place in a Keras 3 file: class names in snake case, numbered per container."""
    seen: Counter[str] = Counter()
    for layer in model.layers:
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        place = f"{prefix}/{kind}_{seen[kind]}" if seen[kind] else f"{prefix}/{kind}"
        seen[kind] += 1
        if hasattr(layer, "layers"):
            yield from _leaves(layer, f"{place}/layers")
        elif layer.weights:
            yield place, _variables(layer)


def _variables(layer: Any) -> list[Any]:
    """In the order of both formats."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _first_difference(stored: Stored, wanted: Stored, name: str) -> str:
    """The first layer whose shapes differ, with both, or an empty string."""
    for theirs, ours in zip_longest(stored, wanted, fillvalue=NOTHING):
        had, needed = _shapes(theirs), _shapes(ours)
        if had != needed:
            layer = (ours[0] or theirs[0]).rpartition("/")[2]
            return f"{layer}: the file has {_spelt(had, needed)}, {name} wants {_spelt(needed, had)}"
    return ""


def _shapes(layer: tuple[str, list[Any]]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer[1]]


def _spelt(shapes: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> str:
    """The shape that differs first; or all of them when one side has more."""
    if not shapes:
        return "nothing"
    if len(shapes) != len(other):
        return " and ".join(map(str, shapes))
    return str(next(mine for mine, theirs in zip(shapes, other, strict=True) if mine != theirs))
