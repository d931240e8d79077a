"""Train the network that tells kinds of white cells, for release, and judge it on microscopes that it never saw.

    python benchmarks/kind_network.py --data ../shared/data --weights efficientnet_lite0.weights.h5 build/kinds

Fitted to PBC's kinds, to C-NMC's cells and drawn ones (of the lymphoid line), to red cells and torn cells, under far
wider stains than any microscope's: dyes turned and weakened, light, exposure, sharpness, scale and masks changed. A
fifth of PBC's pictures and of C-NMC's people is held out. No field or picture of another source is fitted. The released
network went on from its own weights twice (``--start``, 2,500 and 1,400 steps), as the variation grew.
"""

import argparse
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import cv2
import keras
import numpy as np
import tensorflow as tf
from finder_network import in_int8
from kind_examples import Example, cnmc_examples, pbc_examples, simulated_examples
from kind_variation import varied
from numpy.typing import NDArray

from bloodedge.files import write_bytes
from bloodedge.imaging import Image
from bloodedge_device.kinds import OUTPUTS, SIDE

Floats = NDArray[Any]

BATCH, STEPS, LEARNING_RATE = 32, 3000, 1e-3
SMOOTHING = 0.05
SHARES = dict.fromkeys(OUTPUTS, 1.0) | {
    "band neutrophil": 0.7,
    "segmented neutrophil": 0.8,
    "lymphocyte": 2.8,
    "immature_granulocyte": 1.2,
    "erythroblast": 0.7,
    "platelet": 0.5,
    "artefact": 0.6,
}
"""How often examples of each output are drawn."""


def batches(examples: Sequence[Example], seed: int) -> Iterator[tuple[Image, NDArray[np.int64]]]:
    """Without end: (inputs uint8 (BATCH, SIDE, SIDE, 3), outputs (BATCH,)); lymphocytes of both sources alike."""
    rng = np.random.default_rng(seed)
    groups: defaultdict[tuple[str, int], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.source, example.output].append(example)
    keys = list(groups)
    weights = np.array([SHARES[OUTPUTS[output]] / sum(o == output for _, o in keys) for _, output in keys])
    while True:
        drawn = [groups[keys[k]] for k in rng.choice(len(keys), BATCH, p=weights / weights.sum())]
        pairs = [varied(group[rng.integers(len(group))], rng) for group in drawn]
        yield np.stack([image for image, _ in pairs]), np.array([output for _, output in pairs])


def network(weights: Path) -> Any:
    """From the image uint8 (SIDE, SIDE, 3) RGB to log-odds of OUTPUTS."""
    from bloodedge_train.zoo import features_of, scale

    features = features_of("efficientnet_lite0", SIDE, str(weights))
    image = keras.Input((SIDE, SIDE, 3), dtype="float32")
    x = keras.layers.GlobalAveragePooling2D()(features(scale("efficientnet_lite0", image)))
    x = keras.layers.Dropout(0.3)(x)
    return keras.Model(image, keras.layers.Dense(len(OUTPUTS))(x))


def fit(model: Any, source: Iterator[tuple[Image, NDArray[np.int64]]], steps: int, checkpoint: Path) -> None:
    """Cross-entropy with smoothed labels; AdamW, warm-up and cosine decay; the weights' running mean is kept."""
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 10, steps, alpha=0.01, warmup_target=LEARNING_RATE, warmup_steps=150
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=2e-3)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.97

    @tf.function  # type: ignore[untyped-decorator]
    def step(images: Any, outputs: Any) -> Any:
        with tf.GradientTape() as tape:
            odds = model(tf.cast(images, tf.float32), training=True)
            truth = tf.one_hot(outputs, len(OUTPUTS)) * (1 - SMOOTHING) + SMOOTHING / len(OUTPUTS)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(truth, odds))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, tf.reduce_mean(tf.cast(tf.argmax(odds, -1) == outputs, tf.float32))

    ready: queue.Queue[tuple[Image, NDArray[np.int64]]] = queue.Queue(6)

    def feed() -> None:
        for _ in range(steps):
            ready.put(next(source))

    threading.Thread(target=feed, daemon=True).start()
    history = []
    for number in range(1, steps + 1):
        history.append([float(v) for v in step(*ready.get())])
        if number % 50 == 0:
            loss, right = np.mean(history[-50:], axis=0)
            print(f"step {number} of {steps}: loss {loss:.4f}, right {right:.3f}", flush=True)
        if number % 500 == 0:
            model.save_weights(checkpoint)


def quantised(model: Any, source: Iterator[tuple[Image, NDArray[np.int64]]]) -> bytes:
    """The network in int8, calibrated on varied cells; its input are the picture's levels, one step a level."""

    def calibration() -> Iterator[list[Floats]]:
        for _ in range(16):
            images = next(source)[0].astype(np.float32)
            images[:, 0, 0] = 0, 255, 255  # the whole range of levels
            yield from ([image[np.newaxis]] for image in images)

    return in_int8(model, [1, SIDE, SIDE, 3], calibration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder for the weights and network.tflite")
    parser.add_argument("--data", type=Path, required=True, help="folder with pbc and cnmc")
    parser.add_argument("--weights", type=Path, required=True, help="EfficientNet-Lite0's, of lite_weights.py")
    parser.add_argument("--start", type=Path, help="go on from these weights of the whole network")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keras.utils.set_random_seed(0)
    examples = [*cnmc_examples(options.data), *pbc_examples(options.data), *simulated_examples()]
    options.target.mkdir(parents=True, exist_ok=True)
    fitted = [example for example in examples if not example.held_out]
    model = network(options.weights)
    if options.start:
        model.load_weights(options.start)
    fit(model, batches(fitted, 0), options.steps, options.target / "kinds.weights.h5")
    model.save_weights(options.target / "kinds.weights.h5")
    write_bytes(options.target / "network.tflite", quantised(model, batches(fitted, 1)))


if __name__ == "__main__":
    main()
