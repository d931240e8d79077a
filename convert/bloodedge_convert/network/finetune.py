"""Fine-tuning with fake quantisation ("--qat"): the float network learns weights that survive int8.

The target is the float network's own output, so no label is needed and nothing new is learnt about cells. The fitted
weights go back into the Keras network, batch norms unfolded again, and take the usual way through conversion.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bloodedge_convert.cells.calibration_set import SPREAD, spread
from bloodedge_convert.job import FineTuning
from bloodedge_convert.network.fake_quantised import BATCH, FakeQuantised, Floats, Images

RATE = 1e-5
"""Highest learning rate of Adam, reached after a tenth of the steps."""
LOOKS = 6
"""How often the calibration cells are measured; the weights with the least loss by rounding there are kept."""
CLEAR = 2.0
"""Standard errors by which fitted weights must be better. Any change of the weights draws all rounding errors anew;
without this margin the luckiest draw would be kept, which is no better on other cells."""
CORRECTED_ON = 32
"""Calibration images over which a layer's mean outputs are compared."""

Progress = Callable[[int, int], None]


def finetune(model: Any, images: Images, calibration: Images, steps: int, seed: int, report: Progress) -> FineTuning:
    """Fit the weights of ``model`` (Keras, functional, softmax output) in place; kept only if they clearly gain.

    images, calibration: network inputs uint8 (N, H, W, 3) RGB to learn on, and to measure the activations' ranges on.
    """
    import keras
    import tensorflow as tf

    network = FakeQuantised(model)
    rounded = tf.function(network.__call__, reduce_retracing=True)
    reference = _probabilities(lambda cells: model(cells, training=False), calibration)

    def distances() -> Floats:
        """Distance of each calibration cell's blast probability (N,) if the network were converted now."""
        network.observe(calibration)
        network.correct(spread(calibration)[:: SPREAD // CORRECTED_ON])
        return np.asarray(np.abs(_probabilities(rounded, calibration) - reference)[:, 1])

    rising = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - rising, warmup_target=RATE, warmup_steps=rising)
    optimiser, variables = keras.optimizers.Adam(rate), network.variables
    optimiser.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(cells: Any) -> None:
        target = model(cells, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.kl_divergence(target, network.corrected(cells)))
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    before = distances()
    rng, best, kept = np.random.default_rng(seed), before, None
    for number in range(1, steps + 1):
        step(_augmented(images[rng.integers(0, len(images), BATCH)], rng))
        report(number, steps)
        if number % max(1, steps // LOOKS) == 0:
            now = distances()
            if is_nearer(now, before) and now.mean() < best.mean():
                best, kept = now, [np.asarray(variable) for variable in variables]
    if kept is not None:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        network.put_back()
    return FineTuning(steps=steps, before=float(before.mean()), after=float(best.mean()))


def is_nearer(now: Floats, before: Floats) -> bool:
    """Whether distances (N,) have shrunk by more than chance."""
    gain = before - now
    return bool(gain.mean() > CLEAR * gain.std() / math.sqrt(len(gain)))


def _augmented(images: Images, rng: np.random.Generator) -> Images:
    """Each cell in one of its eight mirrorings and quarter turns."""
    turned = [np.rot90(image, int(rng.integers(4)), (-3, -2))[..., :: int(rng.choice((1, -1))), :] for image in images]
    return np.ascontiguousarray(np.stack(turned))


def _probabilities(network: Callable[[Any], Any], images: Images) -> Floats:
    parts = [np.asarray(network(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)
