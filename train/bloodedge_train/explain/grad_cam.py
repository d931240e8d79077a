"""Where a network looks: Grad-CAM (Selvaraju et al., ICCV 2017) of cells cut out onto black, as pictures and as shares.

The map is that of the log-odds of a class, log p / (1 - p), which two logits' difference gives without rounding. On a
network whose feature map is pooled straight into the output layer it equals CAM (Zhou et al., CVPR 2016). A map is no
sharper than the layer's few places (5x5 of 160 px after a stride of 32), and each of them sees beyond itself: some
evidence next to a cell is the cell's own.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunRecord, read_run
from bloodedge.console import Progress
from bloodedge.data.dataset import natural
from bloodedge.decision.thresholds import LABELS, calibrated, decide, require_probabilities
from bloodedge.engine.keras import load_model
from bloodedge.errors import BloodedgeError, UsageError, did_you_mean
from bloodedge.files import require_apart, write_bytes
from bloodedge.imaging import Cell, Image, ImagingSpec, as_image, cell_on_black, network_input, read_image
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES
from bloodedge.text import as_text

Floats = NDArray[np.float32]

FEATURES = "features"
"""The nested network whose output is the last feature map."""
BATCH = 16
RING = 1 / 8
"""The border ring reaches this share of the cell's radius to either side of its outline."""
MONTAGE_CELLS = 60


@dataclass(frozen=True)
class Network:
    """A classifier cut in two at a feature map."""

    trunk: Any
    """uint8 images (N, H, W, 3) to feature maps (N, h, w, c)."""
    head: Any
    """Feature maps to logits (N, 2)."""
    layer: str


@dataclass(frozen=True)
class Look:
    """What the network saw of one cell and where it looked."""

    image: Image
    """The network's input, optical densities as the light that they let through: uint8 (size, size, 3) RGB."""
    mask: Image
    """Where the cell lies in it: uint8 (size, size), 255 on the cell."""
    heat: Floats
    """Evidence for ``label``: float32 (size, size), 0 and up."""
    label: int
    blast: float
    """Calibrated probability."""


@dataclass(frozen=True)
class Explained:
    """What was found for one image."""

    image: str
    picture: str
    said: str
    """blast, normal or uncertain."""
    blast: float
    """Calibrated probability."""
    explained: str
    """The class whose evidence was mapped."""
    on_cell: float | None
    """Share of the evidence inside the cell, 0..1; None when nothing speaks for the class."""
    cell_share: float
    """Share of the frame that the cell fills: what evidence spread evenly would give."""
    on_border: float | None
    """Share of the evidence on the ring about the cell's outline."""
    border_share: float


def cut(model: Any, layer: str | None = None) -> Network:
    """Cut a zoo's network at the output of a layer inside its features (default: their last feature map).

    Raises UsageError when there is no such layer, or when it is not one that the whole network passes through.
    """
    import keras

    names = [each.name for each in model.layers]
    if FEATURES not in names:
        raise UsageError(f'The network has no layers named "{FEATURES}"; train it again with: bloodedge train')
    place = names.index(FEATURES)
    head = model.layers[place + 1 :]
    if layer in {None, FEATURES}:
        trunk = keras.Model(model.input, head[0].input)
        return Network(trunk, _chain(trunk.output.shape[1:], [*head[:-1], _linear(head[-1])]), FEATURES)
    lower, upper = _parted(model.layers[place], str(layer))
    trunk = keras.Model(model.input, lower(model.layers[place - 1].output))
    return Network(trunk, _chain(trunk.output.shape[1:], [upper, *head[:-1], _linear(head[-1])]), str(layer))


def _parted(features: Any, layer: str) -> tuple[Any, Any]:
    """The features as two networks, up to ``layer`` and after it."""
    import keras

    maps = [each.name for each in features.layers[1:] if len(each.output.shape) == 4]
    if layer not in maps:
        raise UsageError(
            f'The network has no feature map "{layer}".{did_you_mean(layer, maps)} '
            f"The last ones are: {', '.join(maps[:-6:-1])}."
        )
    middle = features.get_layer(layer).output
    try:
        return keras.Model(features.input, middle), keras.Model(middle, features.output)
    except ValueError as error:  # another path leads past it
        raise UsageError(
            f'Part of the network leads past the layer "{layer}"; choose one where a block ends, '
            "such as an addition or the activation after it."
        ) from error


def _chain(shape: tuple[int, ...], layers: Sequence[Any]) -> Any:
    import keras

    start = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(start, x)


def _linear(output: Any) -> Any:
    """The output layer without its softmax."""
    linear = type(output).from_config({**output.get_config(), "activation": "linear"})
    linear.build(output.input.shape)
    linear.set_weights(output.get_weights())
    return linear


def grad_cam(network: Network, images: NDArray[np.uint8], label: int | None = None) -> tuple[Floats, Floats]:
    """Maps float32 (N, h, w), 0 and up, and logits float32 (N, 2) of network inputs uint8 (N, H, W, 3) RGB.

    label: the class whose evidence is mapped, 0 or 1; by default each cell's likelier one.
    """
    maps = np.asarray(network.trunk.predict_on_batch(images), np.float32)
    logits = np.asarray(network.head.predict_on_batch(maps), np.float32)
    labels = logits.argmax(axis=1) if label is None else np.full(len(images), label)
    weights = _gradients(network.head, maps, np.where(labels == 1, 1, -1).astype(np.float32)).mean(axis=(1, 2))
    evidence = np.einsum("nhwc,nc->nhw", maps, weights)
    return np.maximum(evidence, 0), logits


def _gradients(head: Any, maps: Floats, signs: Floats) -> Floats:
    """The log-odds' gradient with respect to each feature map, (N, h, w, c), on the back end that Keras runs on.

    signs: (N,) 1 for the log-odds of a blast, -1 for those of a normal cell.
    """
    import keras

    start = keras.ops.convert_to_tensor(maps)

    def log_odds(logits: Any) -> Any:
        return keras.ops.sum((logits[:, 1] - logits[:, 0]) * signs)

    gradients: Any
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        weights = [v.value for v in head.trainable_variables], [v.value for v in head.non_trainable_variables]
        gradients = jax.jit(jax.grad(lambda x: log_odds(head.stateless_call(*weights, x, training=False)[0])))(start)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(start)
            total = log_odds(head(start, training=False))
        gradients = tape.gradient(total, start)
    else:
        import torch

        start.requires_grad_()
        signs = keras.ops.convert_to_tensor(signs)
        (gradients,) = torch.autograd.grad(log_odds(head(start, training=False)), start)
    return np.asarray(keras.ops.convert_to_numpy(gradients), np.float32)


def look(network: Network, record: RunRecord, cells: Sequence[Cell], label: int | None = None) -> list[Look]:
    """Grad-CAM of cells, brought to the size of the network's input; ``label`` as in ``grad_cam``."""
    spec = record.imaging
    images = np.stack([network_input(cell, spec) for cell in cells])
    maps, logits = grad_cam(network, images, label)
    labels = logits.argmax(axis=1) if label is None else [label] * len(cells)
    outputs = _softmax(logits)
    require_probabilities(outputs, "The run's network")
    blasts = calibrated(outputs, record.temperature)[:, 1]
    side = images.shape[1:3]
    return [
        Look(image, seen_mask(cell, spec), _enlarged(heat, side), int(which), float(blast))
        for cell, image, heat, which, blast in zip(cells, images, maps, labels, blasts, strict=True)
    ]


def _softmax(logits: Floats) -> Floats:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def _enlarged(heat: Floats, side: tuple[int, ...]) -> Floats:
    """Cubic: linear steps between the few values of a feature map show as a cross that is not there."""
    smooth = np.asarray(cv2.resize(heat, side[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    return np.maximum(smooth, 0)


def seen_mask(cell: Cell, spec: ImagingSpec) -> Image:
    """Where the cell lies in the network's input: uint8 (size_px, size_px), 255 on the cell."""
    white = Cell(as_image(cv2.merge([cell.mask] * 3)), cell.mask, cell.um_per_px)
    place = ImagingSpec(**spec.model_dump(include={"size_px", "um_per_px", "scale", "area_fraction"}))
    return as_image(np.where(network_input(white, place)[:, :, 0] > 127, 255, 0))


def ring(mask: Image) -> Image:
    """The band about the outline of a cell's mask: uint8 as ``mask``, 255 within RING of its radius."""
    reach = max(1, round(RING * float(np.sqrt(cv2.countNonZero(mask) / np.pi))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return as_image(cv2.subtract(cv2.dilate(mask, disc), cv2.erode(mask, disc)))


def share(heat: Floats, where: Image) -> float | None:
    """Share of ``heat`` (H, W) that lies where ``where`` (H, W) is not 0; None when there is no heat."""
    total = float(heat.sum())
    return float(heat[where > 0].sum()) / total if total > 0 else None


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


@dataclass(frozen=True)
class Request:
    """What ``bloodedge explain`` was asked."""

    run: Path
    images: Sequence[Path]
    out: Path
    montage: Path | None = None
    layer: str | None = None
    label: int | None = None
    """Map the evidence for this class, 0 or 1; by default for the likelier one."""


def explain(request: Request, say: Callable[[str], None], progress: Progress | None = None) -> list[Explained]:
    """Write a picture of each image into ``request.out``, and the montage; ``say`` is told what was left out.

    Raises UsageError when the run, an image or the layer does not exist, BloodedgeError when no image can be read.
    """
    record = read_run(request.run)
    paths = image_paths(request.images)
    require_apart(request.out, paths, "--out")
    cells = _readable(paths, say)
    first = next(cells)  # before Keras, which takes seconds to load
    cells = chain([first], cells)
    network = cut(load_model(request.run), request.layer)
    pictures = _picture_names(paths)
    results: list[Explained] = []
    tiles: list[Image] = []
    while batch := list(islice(cells, BATCH)):
        looks = look(network, record, [cell for _, cell in batch], request.label)
        for (path, _), found in zip(batch, looks, strict=True):
            picture = request.out / pictures[path]
            results.append(_explained(found, record, path, picture))
            tiles.append(draw(found, results[-1]))
            write_png(picture, tiles[-1])
        tiles = tiles[:MONTAGE_CELLS] if request.montage else []
        if progress:
            progress(len(results), len(paths))
    if request.montage:
        write_png(request.montage, montage(tiles))
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


def _explained(found: Look, record: RunRecord, path: Path, picture: Path) -> Explained:
    border = ring(found.mask)
    return Explained(
        image=as_text(path),
        picture=as_text(picture),
        said=decide(found.blast, record.thresholds)[0],
        blast=found.blast,
        explained=LABELS[found.label],
        on_cell=share(found.heat, found.mask),
        cell_share=float(np.mean(found.mask > 0)),
        on_border=share(found.heat, border),
        border_share=float(np.mean(border > 0)),
    )


PANEL, GAP, LINE = 300, 10, 24
"""Side of a panel, space about it and height of a line of text, px."""
WHITE, PALE = (255, 255, 255), (175, 175, 175)


def draw(found: Look, explained: Explained) -> Image:
    """The cell, the evidence on it and the evidence over the whole frame, with what was said: uint8 BGR."""
    cell, mask, heat = _panels(found)
    grey = cv2.cvtColor(cv2.cvtColor(cell, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    blended = cv2.addWeighted(grey, 0.45, heat, 0.75, 0)
    over = as_image(np.where(mask[:, :, None] > 0, blended, 0))
    outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for panel in (over, heat):
        cv2.drawContours(panel, outline, -1, WHITE, 1, cv2.LINE_AA)
    titles = "as the network sees it", f"evidence for {explained.explained}", "the same, whole frame"
    height = PANEL + 4 * LINE + GAP
    sheet = np.zeros((height, 3 * PANEL + 4 * GAP, 3), np.uint8)
    for number, (title, panel) in enumerate(zip(titles, (cell, over, heat), strict=True)):
        left = GAP + number * (PANEL + GAP)
        _write(sheet, title, left, LINE - 6, PALE)
        sheet[LINE + 4 : LINE + 4 + PANEL, left : left + PANEL] = panel
    below = LINE + PANEL
    _write(sheet, _told(explained), GAP, below + LINE + 4, WHITE, 0.62)
    _write(sheet, _shares(explained), GAP, below + 2 * LINE + 2, WHITE)
    _write(sheet, Path(explained.image).name, GAP, below + 3 * LINE, PALE)
    return sheet


def _panels(found: Look) -> tuple[Image, Image, Image]:
    """Cell (BGR), mask and coloured heat (BGR), each enlarged to a panel."""
    size = (PANEL, PANEL)
    cell = as_image(cv2.resize(cv2.cvtColor(found.image, cv2.COLOR_RGB2BGR), size, interpolation=cv2.INTER_CUBIC))
    smooth = cv2.resize(found.mask, size, interpolation=cv2.INTER_LINEAR)
    mask = as_image(np.where(smooth > 127, 255, 0))
    levels = 255 * found.heat / max(float(found.heat.max()), 1e-12)
    heat = cv2.applyColorMap(as_image(np.rint(levels)), cv2.COLORMAP_INFERNO)
    return cell, mask, as_image(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR))


def _told(explained: Explained) -> str:
    said = "uncertain, blast" if explained.said == "uncertain" else explained.said
    return f"{said} {1 - explained.blast if said == 'normal' else explained.blast:.2f}"


def _shares(explained: Explained) -> str:
    if explained.on_cell is None or explained.on_border is None:
        return f"nothing speaks for {explained.explained}"
    return (
        f"on the cell {explained.on_cell:.0%} of the evidence (it fills {explained.cell_share:.0%} of the frame), "
        f"on its border {explained.on_border:.0%} ({explained.border_share:.0%})"
    )


FONT = cv2.FONT_HERSHEY_SIMPLEX


def _write(sheet: Image, text: str, left: int, baseline: int, colour: tuple[int, int, int], size: float = 0.5) -> None:
    """Write a line, cut to fit the sheet."""
    room = sheet.shape[1] - left - GAP
    while cv2.getTextSize(text, FONT, size, 1)[0][0] > room:
        text = text.rstrip(".")[:-1] + "..."
    cv2.putText(sheet, text, (left, baseline), FONT, size, colour, 1, cv2.LINE_AA)


def montage(tiles: Sequence[Image]) -> Image:
    """The pictures of many cells side by side, two to a row where there are several: uint8 BGR."""
    columns = min(2, len(tiles))
    empty = [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    every = [*tiles, *empty]
    return as_image(np.vstack([np.hstack(every[at : at + columns]) for at in range(0, len(every), columns)]))


def write_png(path: Path, image: Image) -> None:
    """Store a picture, whole or not at all."""
    _, data = cv2.imencode(".png", image)
    write_bytes(path, data.tobytes())
