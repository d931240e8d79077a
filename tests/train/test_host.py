"""Several accelerators share each batch and end where one would."""

import json
import os
import subprocess
import sys

import pytest

TWO_DEVICES = """
import json, sys
import numpy as np
from bloodedge.engine.keras import load_keras
load_keras()
import keras
from bloodedge_train import hardware
from bloodedge_train.fitting.step import Step
from bloodedge_train.fitting.feed import Feed
from bloodedge_train.fitting.fit import _enter_phase
from bloodedge_train.recipe import AugmentSpec, FitSpec, Recipe
from bloodedge.imaging import ImagingSpec

devices = hardware.spread(8)
recipe = Recipe(imaging=ImagingSpec(size_px=32), augment=AugmentSpec(light=0.1, mixup=0.2),
                fit=FitSpec(batch=8, optimiser="sgd", learning_rate=0.01))
keras.utils.set_random_seed(0)
scaled = keras.Input((32, 32, 3))
features = keras.Model(scaled, keras.layers.Conv2D(4, 3, 2, activation="relu")(scaled), name="features")
image = keras.Input((32, 32, 3), dtype="uint8")
x = keras.layers.GlobalAveragePooling2D()(features(keras.layers.Rescaling(1 / 255)(image)))
network = keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))
labels = np.arange(32) % 2
images = np.random.default_rng(0).integers(0, 255, (32, 32, 32, 3), np.uint8)
step = Step(network, images, recipe)
_enter_phase(step, recipe.fit, 0)
loss = step.fit(Feed(labels, ["a"] * 32, recipe, seed=0, epoch=0), shuffle=False, verbose=0).history["loss"][0]
said = network.predict(images, batch_size=8, verbose=0)
print(json.dumps({"devices": devices, "loss": loss, "said": said.tolist()}))
"""


def fitted(devices: int) -> dict[str, object]:
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
def test_two_devices_end_where_one_does() -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install -e '.[train]')")
    one, two = fitted(1), fitted(2)
    assert (one["devices"], two["devices"]) == (1, 2)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    for ours, theirs in zip(two["said"], one["said"], strict=True):  # type: ignore[call-overload]
        assert ours == pytest.approx(theirs, abs=1e-4)
