"""``bloodedge explain``: a picture of each image and the shares of the evidence on its cell."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from bloodedge.bundle.run_record import read_run
from bloodedge.console import Progress
from bloodedge.data.dataset import natural
from bloodedge.engine.keras import load_model
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import require_apart
from bloodedge.imaging import Cell, Image, cell_on_black, read_image
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES
from bloodedge.text import as_text
from bloodedge_train.explain.evidence import Explained, explained, look
from bloodedge_train.explain.grad_cam import cut
from bloodedge_train.explain.pictures import draw, montage, write_png

BATCH = 16
MONTAGE_CELLS = 60


def image_paths(asked: Sequence[Path]) -> list[Path]:
    """The images asked for, folders searched; raises UsageError when one does not exist or a folder holds none."""
    found: list[Path] = []
    for path in asked:
        if path.is_dir():
            within = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
            if not within:
                raise UsageError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder.")
            found += sorted(within, key=lambda p: (p.parent.as_posix(), natural(p.name)))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path} does not exist; give the image of a cell, or a folder of them.")
    return list(dict.fromkeys(found))


def explain(
    run: Path,
    images: Sequence[Path],
    out: Path,
    say: Callable[[str], None],
    progress: Progress,
    *,
    sheet: Path | None = None,
    layer: str | None = None,
    label: int | None = None,
) -> list[Explained]:
    """Write a picture of each image into ``out``, and of all onto a sheet; ``say`` gets a line for each left out.

    layer, label: as in ``cut`` and ``grad_cam``.
    Raises UsageError when the run, an image or the layer does not exist, BloodedgeError when no image can be read.
    """
    record = read_run(run)
    paths = image_paths(images)
    require_apart(out, paths, "--out")
    cells = _readable(paths, say)
    first = next(cells)  # before Keras, which takes seconds to load
    cells = chain([first], cells)
    network = cut(load_model(run), layer)
    pictures = _picture_names(paths)
    results: list[Explained] = []
    tiles: list[Image] = []
    while batch := list(islice(cells, BATCH)):
        looks = look(network, record, [cell for _, cell in batch], label)
        for (path, _), found in zip(batch, looks, strict=True):
            picture = out / pictures[path]
            results.append(explained(found, record, path, picture))
            tiles.append(draw(found, results[-1]))
            write_png(picture, tiles[-1])
        tiles = tiles[:MONTAGE_CELLS] if sheet else []
        progress(len(results), len(paths))
    if sheet:
        write_png(sheet, montage(tiles))
        if len(results) > len(tiles):
            say(f"The montage shows the first {len(tiles)} of {len(results)} cells.")
    return results


def _readable(paths: Sequence[Path], say: Callable[[str], None]) -> Iterator[tuple[Path, Cell]]:
    """The cells that can be read; raises BloodedgeError when none can."""
    reasons = []
    for path in paths:
        try:
            yield path, cell_on_black(read_image(path))
        except BloodedgeError as error:
            reason = str(error).replace(as_text(path), "The picture")
            reasons.append(f"{path}: {reason}")
            if len(paths) > 1:
                say(f"left out {path}: {reason}")
    if len(reasons) == len(paths):
        which = "" if len(paths) == 1 else f"None of the {len(paths)} images can be used; the first: "
        raise BloodedgeError(which + reasons[0])


def _picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A PNG's name for each image; images of one name in several folders are numbered."""
    names: dict[Path, str] = {}
    counts: Counter[str] = Counter()
    for path in paths:
        counts[path.stem] += 1
        number = f"_{counts[path.stem]}" if counts[path.stem] > 1 else ""
        names[path] = f"{path.stem}{number}.png"
    return names
