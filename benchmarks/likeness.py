"""The perceptual hash of cells: how often it finds a copy, and how often it takes different cells for copies.

    python benchmarks/likeness.py --data DIR/cnmc

writes results/likeness.json. Copies are made of CELLS cells drawn at random. A cell that is like one of another group
of people is either a picture that the data set holds twice under two names (COPY_BITS or fewer of the texture's 143
bits differ) or a false alarm.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from revision import revision

from bloodedge.data.dataset import Dataset, read_dataset
from bloodedge.data.fitted_pictures import DIGEST_BYTES, FittedPictures
from bloodedge.data.perceptual_hash import (
    HASH_BYTES,
    MOST_BITS,
    MOST_OUTLINE,
    TEXTURE_BYTES,
    alike,
    cell_hash,
    hash_rows,
)
from bloodedge.data.pictures import in_threads
from bloodedge.files import write_json
from bloodedge.imaging import Image, as_image, cell_on_black, read_image

RESULTS = Path(__file__).parent / "results" / "likeness.json"
CELLS = 1000
COPY_BITS = 16


def encoded(suffix: str, setting: int, quality: int) -> Callable[[Image], Image]:
    """A picture after a lossy encoding."""

    def change(image: Image) -> Image:
        _, data = cv2.imencode(suffix, image, [setting, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        return as_image(decoded)

    return change


def scaled(factor: float) -> Callable[[Image], Image]:
    """A picture at another size."""
    return lambda image: as_image(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))


COPIES = {f"webp {q}": encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, q) for q in (95, 90, 75, 50)}
COPIES |= {f"jpeg {q}": encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, q) for q in (95, 90, 75, 50)}
COPIES |= {f"scaled by {factor:g}": scaled(factor) for factor in (0.5, 0.75)}


def recall(dataset: Dataset) -> dict[str, float]:
    """Share of copies found, by how they were made."""
    chosen = np.random.default_rng(0).choice(len(dataset.unique), CELLS, replace=False)
    files = [dataset.unique[number] for number in chosen]
    found = {}
    for name, change in COPIES.items():
        copies = in_threads(lambda file: cell_hash(cell_on_black(change(read_image(file.path)))), files)  # noqa: B023
        hits = [alike(hash_rows([copy]), hash_rows([file.look]))[0] for copy, file in zip(copies, files, strict=True)]
        found[name] = float(np.mean(hits))
        print(f"{name}: {found[name]:.3f} found")
    return found


def across_groups(dataset: Dataset) -> dict[str, int]:
    """Cells that are like a cell of another group of people."""
    cells = dataset.unique
    hashes, groups = hash_rows([cell.look for cell in cells]), np.array([dataset.group(cell) for cell in cells])
    found = copies = 0
    for group in np.unique(groups):
        ours, others = hashes[groups == group], hashes[groups != group]
        for row in ours[alike(ours, others)]:
            found += 1
            near = others[alike(others, row[None])]
            bits = np.bitwise_count(near[:, :TEXTURE_BYTES] ^ row[:TEXTURE_BYTES]).sum(axis=1)
            copies += int(bits.min() <= COPY_BITS)
    return {"cells": len(cells), "alike": found, "copies": copies, "false_alarms_at_most": found - copies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    dataset = read_dataset(parser.parse_args().data)
    across = across_groups(dataset)
    print(across)
    whole = FittedPictures.of({"train": dataset.unique})
    write_json(
        RESULTS,
        {
            "command": "python benchmarks/likeness.py --data DIR/cnmc",
            "commit": revision(),
            "most_bits": MOST_BITS,
            "most_outline": MOST_OUTLINE,
            "bytes_a_picture": DIGEST_BYTES + HASH_BYTES,
            "file_bytes": {"pictures": len(whole), "bytes": len(whole.pack())},
            "recall": recall(dataset),
            "other_groups": across | {"false_alarm_rate": across["false_alarms_at_most"] / across["cells"]},
        },
    )


if __name__ == "__main__":
    main()
