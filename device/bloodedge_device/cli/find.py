"""``bloodedge find``: white cells in full-field frames as a table, as JSON, and outlined in the frames."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.text import as_text

if TYPE_CHECKING:
    from bloodedge.decision.kinds import KindCall
    from bloodedge.finder import Found
    from bloodedge.imaging import Image
    from bloodedge_device.gallery import ShownFrame


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--um-per-px",
    type=click.FloatRange(0.01, 2),
    metavar="X",
    help="Micrometres per pixel; default: measured from each frame's red cells.",
)
@click.option("--json", "json_target", metavar="FILE|-", help="Write the cells as JSON to a file, or to stdout for -.")
@click.option(
    "--outlines",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write each frame with its cells outlined into FOLDER.",
)
@click.option(
    "--gallery",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a page to judge the finder by: frames, cells with their kinds, masks and rejected objects.",
)
def find(
    images: tuple[Path, ...],
    um_per_px: float | None,
    json_target: str | None,
    outlines: Path | None,
    gallery: Path | None,
) -> None:
    """Find white cells in full-field frames of a stained smear.

    IMAGE is an image file, or a folder of images; every page of a TIFF file is a frame. Unreadable images are named and
    skipped.
    """
    from bloodedge.console import emit_json, progress
    from bloodedge.files import require_apart
    from bloodedge.imaging import read_images
    from bloodedge.redact import redacted

    found: dict[Path, Found] = {}
    shown: list[ShownFrame] | None = [] if gallery else None
    failures: list[str] = []
    if gallery and gallery.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--gallery {gallery} must end in .html, so that no picture is overwritten.")
    files = _files(images)
    if outlines:
        require_apart(outlines, files, "--outlines")
    with progress("Finding cells") as update:
        for done, path in enumerate(files, 1):
            try:
                pages = read_images(path)
                for number, frame in enumerate(pages, 1):
                    name = path if len(pages) == 1 else path.with_name(f"{path.stem}-page{number}{path.suffix}")
                    found[name] = _find_in(name, frame, um_per_px, _picture_path(name, outlines, found), shown)
            except BloodedgeError as error:
                failures.append(redacted(str(error)))
            update(done, len(files))
    _show_failures(failures)
    if gallery and shown:
        from bloodedge_device.gallery import write_gallery

        write_gallery(shown, failures, gallery)
    if json_target and found:
        emit_json([to_json(path, result) for path, result in found.items()], json_target)
    if json_target != "-" and found:
        _show(found)
    if failures:
        sys.exit((BloodedgeError if any(path.exists() for path in files) else UsageError).exit_code)


def to_json(path: Path, found: "Found") -> dict[str, Any]:
    """A frame's cells for programs; lengths in the frame's pixels, boxes [x, y, width, height]."""
    cells = [
        {
            "box": list(cell.box),
            "area_px": cell.area_px,
            "area_um2": round(cell.area_um2, 2),
            "touches_border": cell.touches_border,
            "completeness": round(cell.completeness, 4),
            "nucleus_px": cell.nucleus_px,
            "nuclear_density": round(cell.nuclear_density, 4),
            "focus": round(cell.focus, 4),
            "outline": cell.outline,
        }
        for cell in found.cells
    ]
    rejected = [{"box": list(other.box), "reason": other.reason.value} for other in found.rejected]
    return {"image": as_text(path), "cells": cells, "rejected": rejected, "um_per_px": round(found.um_per_px, 5)}


def _files(images: Iterable[Path]) -> list[Path]:
    """The image files, folders replaced by their images, each once. Raises UsageError for an empty folder."""
    from bloodedge.imaging.picture_files import IMAGE_SUFFIXES, is_image

    files: dict[Path, None] = {}
    for path in images:
        if not path.is_dir():
            files[path] = None
            continue
        inside = sorted(filter(is_image, path.iterdir()))
        if not inside:
            raise UsageError(f"{path} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give a folder of images.")
        files.update(dict.fromkeys(inside))
    return list(files)


SHOWN_FAILURES = 5


def _show_failures(failures: list[str]) -> None:
    """Name the first unreadable images, and count the others."""
    for failure in failures[:SHOWN_FAILURES]:
        click.echo(f"bloodedge: {failure}", err=True)
    if len(failures) > SHOWN_FAILURES:
        click.echo(f"bloodedge: {len(failures) - SHOWN_FAILURES} more images cannot be read.", err=True)


def _find_in(
    path: Path, frame: "Image", um_per_px: float | None, picture: Path | None, shown: "list[ShownFrame] | None"
) -> "Found":
    """One frame's cells; picture: file for its outlines; shown: the gallery's frames, or None."""
    import cv2

    from bloodedge.files import write_bytes
    from bloodedge.finder import find_cells
    from bloodedge.finder.picture import outlined

    found = find_cells(frame, um_per_px)
    if picture:
        write_bytes(picture, cv2.imencode(".png", outlined(frame, found))[1].tobytes())
    if shown is not None:
        from bloodedge_device.gallery import shown_frame

        shown.append(shown_frame(path, frame, found, _kinds_of(found), scale_given=um_per_px is not None))
    return found


def _kinds_of(found: "Found") -> "list[KindCall | None]":
    """The kind of each cell; None where the frame's border cuts it."""
    from bloodedge_device.kinds import KindInput, default_kinds

    inputs = [KindInput.of(cell, found.um_per_px) for cell in found.cells if not cell.touches_border]
    calls = iter(default_kinds()(inputs))
    return [None if cell.touches_border else next(calls) for cell in found.cells]


def _picture_path(path: Path, folder: Path | None, before: Iterable[Path]) -> Path | None:
    """File for a frame's picture; frames of one name from several folders get numbers."""
    if folder is None:
        return None
    same = sum(other.stem == path.stem for other in before)
    return folder / (f"{path.stem}-{same + 1}.png" if same else f"{path.stem}.png")


def _show(found: "dict[Path, Found]") -> None:
    from bloodedge.console import console
    from bloodedge.tables import print_table

    rows = []
    for path, result in found.items():
        areas = ", ".join(f"{cell.area_um2:.0f}" for cell in result.cells)
        cut = sum(cell.touches_border for cell in result.cells)
        reasons = Counter(other.reason.value.replace("_", " ") for other in result.rejected)
        refused = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        scale = f"{result.um_per_px:.3f}"
        rows.append((as_text(path.name), str(len(result.cells) or ""), str(cut or ""), areas, refused, scale))
    columns = ("frame", "white cells", "cut by the border", "area µm²", "rejected", "µm per px")
    texts = {"area µm²", "rejected"}
    print_table(columns, rows, left={"frame", *texts}, sentences=texts)
    cells = sum(len(result.cells) for result in found.values())
    console().print(f"[bold]{cells}[/] white cells in [bold]{len(found)}[/] frames.")
