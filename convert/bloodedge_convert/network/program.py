"""A Keras network as a flat list of layer calls, which can be run with layers replaced."""

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LINEAR = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"}
"""Layers with weights."""


@dataclass(frozen=True)
class Call:
    """One layer applied once. Tensors are numbered in the order in which they are made; the network's input is 0."""

    layer: Any
    arguments: Any
    """The layer's arguments, each symbolic tensor replaced by a ``Slot``."""
    options: Mapping[str, Any]
    output: int
    """Number of its output; the first number for a layer with several outputs."""

    @property
    def kind(self) -> str:
        """The layer's class."""
        return type(self.layer).__name__

    @property
    def inputs(self) -> list[int]:
        """Numbers of its input tensors."""
        import keras

        return [leaf.number for leaf in keras.tree.flatten(self.arguments) if isinstance(leaf, Slot)]


@dataclass(frozen=True)
class Slot:
    """Stands for a tensor."""

    number: int


@dataclass(frozen=True)
class Program:
    """Calls in an order in which they can be made."""

    calls: list[Call]
    output: int

    def consumers(self) -> dict[int, list[Call]]:
        """The calls that take each tensor; nothing takes the network's output."""
        found: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            for number in call.inputs:
                found[number].append(call)
        return found

    def run(self, image: Any, apply: Callable[[Call, list[Any], dict[str, Any]], Any]) -> Any:
        """The output for ``image``; ``apply`` makes one call with its actual tensors."""
        import keras

        values = {0: image}
        left = Counter(number for call in self.calls for number in call.inputs)

        def filled(leaf: Any) -> Any:
            return values[leaf.number] if isinstance(leaf, Slot) else leaf

        for call in self.calls:
            arguments = keras.tree.map_structure(filled, call.arguments)
            results = apply(call, arguments, dict(call.options))
            values.update(enumerate(keras.tree.flatten(results), call.output))
            for number in call.inputs:
                left[number] -= 1
                if not left[number]:
                    del values[number]
        return values[self.output]


def trace(model: Any) -> Program:
    """The calls of a Keras functional network with one input and one output, which shares its layers."""
    import keras

    numbers: dict[int, int] = {}
    kept: list[Any] = []  # a tensor's identity is its address only while it is alive
    calls: list[Call] = []
    made: dict[int, list[Any]] = {}

    def number(tensor: Any) -> Any:
        return Slot(numbers[id(tensor)]) if isinstance(tensor, keras.KerasTensor) else tensor

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = applied(layer, *arguments, **options)
        made[id(layer)] = keras.tree.flatten(output)
        return output

    def applied(layer: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return functools.reduce(lambda tensor, inner: call(inner, tensor), layer.layers, arguments[0])
        if isinstance(layer, keras.Model):
            return opened(layer, arguments[0])
        output = layer(*arguments, **options)
        slots = keras.tree.map_structure(number, list(arguments))
        first, tensors = len(numbers), keras.tree.flatten(output)
        numbers.update((id(tensor), first + offset) for offset, tensor in enumerate(tensors))
        kept.extend(tensors)
        fixed = {name: value for name, value in options.items() if name not in {"training", "mask"}}
        calls.append(Call(layer, slots, fixed, first))
        return output

    def opened(network: Any, tensor: Any) -> Any:
        keras.models.clone_model(network, input_tensors=tensor, clone_function=lambda layer: layer, call_function=call)
        given = [tensor._keras_history for tensor in network.outputs]
        found = [made[id(history.operation)][history.tensor_index] for history in given]
        return found if len(found) > 1 else found[0]

    image = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="image")
    numbers[id(image)] = 0
    output = opened(model, image)
    return Program(calls, numbers[id(output)])
