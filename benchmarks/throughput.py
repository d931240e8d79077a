"""Training throughput with the real pipeline against the same step fed from memory.

    python benchmarks/throughput.py [--model mobilenetv2] [--cells 1024] [--rounds 5]

Cells are drawn by the simulated microscope (the cost of augmenting does not depend on what they show). Rounds of both
take turns; the ratio of their medians is the figure. Writes results/throughput.json.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bloodedge.engine.keras import load_keras
from bloodedge.files import write_json
from bloodedge.host import versions
from bloodedge.simulation import golden_inputs
from bloodedge_train import host
from bloodedge_train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "throughput.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    load_keras()
    import cv2

    cv2.setNumThreads(1)  # as in training
    from bloodedge_train import zoo
    from bloodedge_train.fit import prepare

    recipe = load_recipe("default")
    few = golden_inputs(recipe.imaging, 64)
    images = few[np.arange(arguments.cells) % len(few)]
    model = zoo.build(arguments.model, recipe.imaging.size_px, dropout=recipe.fit.dropout)
    prepare(model, recipe.fit)
    feeds = {"pipeline": feed(images, recipe, 0), "memory": Memory(feed(images, recipe, 0))}
    for one in feeds.values():
        images_per_s(model, one, recipe.fit.batch)
    rates: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(arguments.rounds):
        feeds["pipeline"] = feed(images, recipe, number + 1)
        for name in sorted(feeds, reverse=bool(number % 2)):
            rates[name].append(images_per_s(model, feeds[name], recipe.fit.batch))
            print(f"{name}: {rates[name][-1]:.1f} images/s", file=sys.stderr)
    result = {
        "command": "python " + " ".join(["benchmarks/throughput.py", *sys.argv[1:]]),
        "model": arguments.model,
        "hardware": host.accelerator(),
        "versions": versions(host.RECORDED),
        "images_per_s": rates,
        "ratio": median(rates["pipeline"]) / median(rates["memory"]),
    }
    write_json(RESULTS, result)
    print(f"pipeline / memory: {result['ratio']:.3f}")


def feed(images: Any, recipe: Any, epoch: int) -> Any:
    from bloodedge_train.feed import Feed

    labels = np.arange(len(images)) % 2
    groups = [str(n % 16) for n in range(len(images))]
    return Feed(images, labels, groups, recipe.fit, recipe.augment, seed=0, epoch=epoch)


def Memory(real: Any) -> Any:  # noqa: N802 (a class made where Keras is loaded)
    """The same batches, prepared beforehand and handed over as they are."""
    import keras

    class Ready(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.batches = [real[n] for n in range(len(real))]

        def __len__(self) -> int:
            return len(self.batches)

        def __getitem__(self, number: int) -> Any:
            return self.batches[number]

    return Ready()


def images_per_s(model: Any, one: Any, batch: int) -> float:
    start = perf_counter()
    model.fit(one, epochs=1, verbose=0)
    return len(one) * batch / (perf_counter() - start)


if __name__ == "__main__":
    main()
