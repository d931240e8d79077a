"""Rounds a network's weights to int8's steps so that the layers' outputs change least.

Rounded one by one to the nearest step, a layer's weights shift its outputs by the sum of all errors times inputs, and
inputs behind a ReLU are positive and rise and fall together. So weights are rounded one after another, and the error of
each is made up for by those still to come, which least squares over calibration cells tells (Frantar et al., "GPTQ:
accurate post-training quantization for generative pre-trained transformers", ICLR 2023). Each output channel keeps its
largest weight, from which engines derive the step: they find the same steps again and every weight on one of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import EngineName
from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.network.program import LINEAR, Call, Program, trace

BATCH = 16
POSITIONS = 128
"""Places of a feature map at which a layer's inputs are looked at, drawn anew for every batch of images."""
MOST_INPUTS = 2304
"""Layers with more inputs to an output are rounded to the nearest step: many small errors cancel by themselves."""
BLOCK = 128
"""Inputs after which errors are passed on to all the others at once."""
DAMPING = 0.01
"""Added to each input's mean square, relative to their mean: what the calibration cells do not tell."""

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """How many steps an engine's int8 weights take from 0 to the largest of their output channel."""

    first: float
    """In the layers that read the picture."""
    others: float


STEPS: dict[EngineName, Steps] = {
    "litert": Steps(127, 127),
    "openvino": Steps(63.5, 127),  # NNCF's remedy against overflow in layers with inputs up to 255
    "onnx": Steps(64, 64),  # ONNX Runtime's, in all layers
}


class Kernel:
    """A layer's weights as a matrix for each group of channels, and what is known of its inputs."""

    def __init__(self, variable: Any, groups: int, *, depthwise: bool, first: bool) -> None:
        self.variable, self.groups, self.first = variable, groups, first
        self.before = np.asarray(variable)
        self.depthwise = depthwise
        self.squares: Floats | None = None

    @property
    def matrix(self) -> Floats:
        """(groups, outputs of a group, inputs of an output)."""
        kernel = self.before.astype(np.float64)
        if self.depthwise:
            taps, (channels, outputs) = kernel.reshape(-1, *kernel.shape[2:]), kernel.shape[2:]
            return np.asarray(taps.transpose(1, 2, 0).reshape(channels, outputs, -1))
        flat = kernel.reshape(-1, kernel.shape[-1]).T
        return np.asarray(flat.reshape(self.groups, -1, flat.shape[1]))

    def assign(self, matrix: Floats) -> None:
        """Write a matrix back into the layer."""
        shape = self.before.shape
        if self.depthwise:
            kernel = matrix.transpose(2, 0, 1).reshape(shape)
        else:
            kernel = matrix.reshape(-1, matrix.shape[2]).T.reshape(shape)
        self.variable.assign(kernel.astype(np.float32))

    def see(self, inputs: NDArray[np.float32]) -> None:
        """Add inputs (n, taps, channels) of outputs to the mean products, (groups, inputs, inputs)."""
        count, taps, channels = inputs.shape
        grouped = inputs.reshape(count, taps, self.groups, channels // self.groups).transpose(2, 0, 1, 3)
        rows = np.ascontiguousarray(grouped).reshape(self.groups, count, -1)
        squares = np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64) / count
        self.squares = squares if self.squares is None else self.squares + squares


class Rounding:
    """A network's kernels with what its inputs on calibration cells are like.

    model: a Keras functional network. images: network inputs uint8 (N, *input_shape) RGB, some of which are used.
    """

    def __init__(self, model: Any, images: Images) -> None:
        self.program = trace(model)
        self.kernels: dict[int, list[Kernel]] = {}
        for call in self.program.calls:
            if call.kind in LINEAR and id(call.layer) not in self.kernels:
                self.kernels[id(call.layer)] = _kernels(call, first=_reads_picture(self.program, call))
        self._look(spread(images))

    def apply(self, engine: EngineName) -> None:
        """Round the weights in place, to the steps of an engine."""
        steps = STEPS[engine]
        for kernel in self._all():
            matrix, count = kernel.matrix, steps.first if kernel.first else steps.others
            squares = kernel.squares
            kernel.assign(nearest(matrix, count) if squares is None else round_together(matrix, squares, count))

    def undo(self) -> None:
        """Put the weights back."""
        for kernel in self._all():
            kernel.variable.assign(kernel.before)

    def _all(self) -> list[Kernel]:
        return [kernel for kernels in self.kernels.values() for kernel in kernels]

    def _look(self, images: Images) -> None:
        rng = np.random.default_rng(0)

        def see(kernel: Kernel, call: Call, inputs: Any) -> None:
            if kernel.matrix.shape[2] <= MOST_INPUTS:
                kernel.see(_patches(call, kernel, np.asarray(inputs), rng))

        def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
            kernels = self.kernels.get(id(call.layer), [])
            if kernels:
                see(kernels[0], call, arguments[0])
            if len(kernels) > 1:
                see(kernels[1], call, _between(call.layer, arguments[0]))
            return call.layer(*arguments, **options)

        for start in range(0, len(images), BATCH):
            self.program.run(images[start : start + BATCH], apply)


def _between(layer: Any, inputs: Any) -> Any:
    """What lies between the two convolutions of a separable one."""
    from keras import ops

    kernel, dilation = layer.depthwise_kernel, layer.dilation_rate
    return ops.depthwise_conv(inputs, kernel, layer.strides, layer.padding, dilation_rate=dilation)


def nearest(matrix: Floats, steps: float) -> Floats:
    """Weights (..., inputs) each on its nearest step."""
    step = _step(matrix, steps)
    return np.asarray(np.rint(matrix / step) * step)


def round_together(matrix: Floats, squares: Floats, steps: float) -> Floats:
    """Weights (groups, outputs, inputs) on steps, with which outputs change least.

    squares: mean products of inputs (groups, inputs, inputs), up to a factor. An output's largest weight stays.
    """
    inputs, limit = matrix.shape[2], np.floor(steps)
    step = _step(matrix, steps)[..., 0]
    power = np.einsum("gii->gi", squares)
    damping = DAMPING * power.mean(axis=1) + np.finfo(np.float32).tiny
    order = np.argsort(-power.sum(axis=0), kind="stable")
    damped = squares[:, order][:, :, order] + damping[:, None, None] * np.eye(inputs)
    passed_on = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # errors, to the inputs after them
    left, found = matrix[..., order].copy(), np.empty_like(matrix)
    largest = np.abs(left).argmax(axis=2)
    kept = np.take_along_axis(left, largest[..., None], axis=2)[..., 0].copy()
    for start in range(0, inputs, BLOCK):
        block = slice(start, min(start + BLOCK, inputs))
        errors = np.empty((*matrix.shape[:2], block.stop - start))
        for at in range(start, block.stop):
            weight = np.clip(np.rint(left[..., at] / step), -limit, limit) * step
            weight = np.where(largest == at, np.rint(kept / step) * step, weight)
            found[..., at] = np.where(largest == at, kept, weight)
            error = (left[..., at] - weight) / passed_on[:, None, at, at]
            errors[..., at - start] = error
            left[..., at + 1 : block.stop] -= error[..., None] * passed_on[:, None, at, at + 1 : block.stop]
        left[..., block.stop :] -= np.matmul(errors, passed_on[:, block, block.stop :])
    return np.asarray(found[..., np.argsort(order)])


def _step(matrix: Floats, steps: float) -> Floats:
    largest = np.abs(matrix).max(axis=-1, keepdims=True)
    return np.asarray(np.where(largest > 0, largest, 1.0) / steps)


def _kernels(call: Call, *, first: bool) -> list[Kernel]:
    layer = call.layer
    if call.kind == "SeparableConv2D":
        depthwise = Kernel(layer.depthwise_kernel, layer.depthwise_kernel.shape[2], depthwise=True, first=first)
        return [depthwise, Kernel(layer.pointwise_kernel, 1, depthwise=False, first=False)]
    if call.kind == "DepthwiseConv2D":
        return [Kernel(layer.kernel, layer.kernel.shape[2], depthwise=True, first=first)]
    return [Kernel(layer.kernel, getattr(layer, "groups", 1), depthwise=False, first=first)]


def _reads_picture(program: Program, call: Call) -> bool:
    """Whether no other layer with weights lies before the call."""
    made = {one.output: one for one in program.calls}
    waiting, seen = list(call.inputs), set()
    while waiting:
        number = waiting.pop()
        before = max((start for start in made if start <= number), default=None)
        if before is None or before in seen:
            continue
        seen.add(before)
        if made[before].kind in LINEAR:
            return False
        waiting += made[before].inputs
    return True


def _patches(call: Call, kernel: Kernel, inputs: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What a kernel reads at some places of its input (N, H, W, C): (n, taps, C); (n, 1, C) for a dense layer."""
    if inputs.ndim < 4 or call.kind == "Dense":
        return inputs.reshape(-1, 1, inputs.shape[-1])
    layer = call.layer
    pointwise = kernel.variable is getattr(layer, "pointwise_kernel", None)
    size, strides, dilation = (
        ((1, 1), (1, 1), (1, 1)) if pointwise else (layer.kernel_size, layer.strides, layer.dilation_rate)
    )
    padding = [
        _padding(inputs.shape[1 + axis], size[axis], strides[axis], dilation[axis], layer.padding) for axis in (0, 1)
    ]
    padded = np.pad(inputs, ((0, 0), *padding, (0, 0)))
    reach = [dilation[axis] * (size[axis] - 1) for axis in (0, 1)]
    outputs = [(padded.shape[1 + axis] - 1 - reach[axis]) // strides[axis] + 1 for axis in (0, 1)]
    places = rng.permutation(outputs[0] * outputs[1])[:POSITIONS]
    rows, columns = places // outputs[1] * strides[0], places % outputs[1] * strides[1]
    taps = [
        padded[:, rows + dilation[0] * down, columns + dilation[1] * right]
        for down in range(size[0])
        for right in range(size[1])
    ]
    return np.stack(taps, axis=2).reshape(-1, len(taps), inputs.shape[-1])


def _padding(length: int, size: int, stride: int, dilation: int, kind: str) -> tuple[int, int]:
    if kind == "valid":
        return 0, 0
    total = max(0, (-(-length // stride) - 1) * stride + dilation * (size - 1) + 1 - length)
    return total // 2, total - total // 2
