"""Writing selected cells as a folder: all of it, or nothing."""

import csv
import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from bloodedge import RESEARCH_USE, __version__
from bloodedge.console import Progress
from bloodedge.data.exported_cells import CSV, IMAGES, LEFT_OUT, ExportedCell, csv_text
from bloodedge.errors import BloodedgeError, UsageError, disk_errors
from bloodedge.files import file_bytes, folder_beside
from bloodedge.finder.light import DENSITY_CODES, density_codes
from bloodedge.imaging import Image, Light, as_image
from bloodedge_device.export import other_formats
from bloodedge_device.export.select import NO_IMAGE, LeftOut, Selection, StoredCell
from bloodedge_device.store.crops import free_bytes
from bloodedge_device.store.database import MEGABYTE

MOST_SHOWN = 5
"""Contradictions that the summary spells out."""

README = """{research}

{cells} white cells from a microscope, exported by bloodedge {version}.

cells.csv holds a row a cell. blast/, normal/, other/ (cells of which "blast or normal?" is not asked) and no_class/
(nobody said) hold each cell cut out, by its kind; images/ holds the same cells with their surroundings, in which other
cells may stand that have no row. left_out.csv says which cells were asked for and are not here, and why.

Nothing here names a patient: slides and cells are numbers, and there are no labels of slides, names of files, dates or
reviewers. A picture of a cell is still a person's: keep your laboratory's rules for sharing it.

Each slide counts as one person ("subject" in cells.csv). Where two slides are of one person, give both the same subject
there, or a model is judged on people whom it knows.

In "sampling", random means drawn at random from its slide. Cells that were chosen are the difficult ones: error rates
must not be taken from them.
"""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    cells: tuple[ExportedCell, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def sentences(self) -> list[str]:
        """What was written and what was not, a sentence each."""
        classes = Counter(cell.label.replace("_", " ") for cell in self.cells)
        slides = len({cell.slide for cell in self.cells})
        counted = ", ".join(f"{number} {label}" for label, number in classes.most_common())
        lines = [f"{_plural(len(self.cells), 'cell')} of {_plural(slides, 'slide')}: {counted}."]
        reasons = Counter("contradictory answers" if one.contradictory else one.reason for one in self.left_out)
        if reasons:
            why = "; ".join(f"{number}: {reason}" for reason, number in reasons.most_common())
            lines.append(f"Left out (named in {LEFT_OUT}): {why}.")
        contradictory = [one for one in self.left_out if one.contradictory]
        lines += [f"  Slide {one.slide}, cell {one.cell}: {one.reason}." for one in contradictory[:MOST_SHOWN]]
        if len(contradictory) > MOST_SHOWN:
            lines.append(f"  And {len(contradictory) - MOST_SHOWN} more.")
        lines.append("Nothing in it names a patient: no labels of slides, names of files, dates or reviewers.")
        return lines


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def check_free(target: Path) -> None:
    """UsageError where an export would be mixed with, or replace, something that is there."""
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty folder; choose another name for the export.")


def require_room(selection: Selection, state: Path, keep_free_mb: int) -> None:
    """BloodedgeError where writing an export beside the results would leave too little of the disk free."""
    needed = sum(2 * file_bytes(cell.image) for cell in selection.cells)
    if free_bytes(state) - needed < keep_free_mb * MEGABYTE:
        raise BloodedgeError(
            f"The device's disk has no room for this export (about {needed // MEGABYTE + 1} MB); choose fewer slides,"
            " or run bloodedge device export there, to another disk."
        )


def write_export(
    selection: Selection, target: Path, *, coco: bool = False, yolo: bool = False, progress: Progress | None = None
) -> Exported:
    """Write the selected cells to the new folder ``target``; a cell whose image is damaged or gone is left out.

    Raises UsageError when ``target`` exists and is not empty, BloodedgeError when the disk is full (nothing is left
    then), or no image could be read.
    """
    check_free(target)
    with folder_beside(target) as folder:

        def put(name: str, data: bytes) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        return _put_all(selection, put, coco=coco, yolo=yolo, progress=progress)


def write_zip(selection: Selection, file: IO[bytes]) -> Exported:
    """Write the selected cells as a ZIP archive; raises BloodedgeError as ``write_export``."""
    with disk_errors("the export"), zipfile.ZipFile(file, "w") as archive:  # pictures do not shrink further
        return _put_all(selection, archive.writestr)


def _put_all(
    selection: Selection,
    put: Callable[[str, bytes], None],
    *,
    coco: bool = False,
    yolo: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Put every file of an export, by its name."""
    cells: list[ExportedCell] = []
    masks: dict[str, Image] = {}
    left_out = list(selection.left_out)
    for number, stored in enumerate(selection.cells, 1):
        picture = _picture(stored.image)
        if picture is None:
            left_out.append(LeftOut(stored.row["cell"], stored.row["slide"], stored.row["frame"], NO_IMAGE))
        else:
            cell = _exported(selection.bench, stored, picture)
            _put_cell(put, cell, picture)
            cells.append(cell)
            if coco or yolo:
                masks[cell.file] = as_image(picture[:, :, 3])
        if progress is not None:
            progress(number, len(selection.cells))
    if not cells:
        raise BloodedgeError(f"No cell could be exported: {NO_IMAGE}.")
    texts = {
        CSV: csv_text(cells),
        LEFT_OUT: _left_out_csv(left_out),
        "README.txt": README.format(research=RESEARCH_USE, cells=len(cells), version=__version__),
        **({"coco.json": other_formats.coco(cells, masks)} if coco else {}),
        **(other_formats.yolo(cells, masks) if yolo else {}),
    }
    for name, text in texts.items():
        put(name, text.encode())
    return Exported(tuple(cells), tuple(left_out))


def _left_out_csv(left_out: list[LeftOut]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("cell", "slide", "frame", "reason"))
    writer.writerows((one.cell, one.slide, one.frame, one.reason) for one in left_out)
    return text.getvalue()


def _picture(path: Path) -> Image | None:
    """A stored image uint8 (h, w, 4), its mask as the fourth channel; None where it has none or is damaged."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None or image.ndim != 3 or image.shape[2] != 4 or not image[:, :, 3].any():
        return None
    return as_image(image)


def _put_cell(put: Callable[[str, bytes], None], cell: ExportedCell, picture: Image) -> None:
    """The cell cut out, and with its surroundings."""
    mask = as_image(picture[:, :, 3])
    cut = as_image(cv2.bitwise_and(picture, picture, mask=mask))
    for name, image in ((cell.file, cut), (f"{IMAGES}/{Path(cell.file).name}", picture[:, :, :3])):
        put(name, cv2.imencode(".png", image)[1].tobytes())


def _exported(bench: str, stored: StoredCell, picture: Image) -> ExportedCell:
    row, said = stored.row, stored.said
    light = _light(row["light"]) if row["light"] else None
    density = _density(picture, light) if light else None
    return ExportedCell(
        file=f"{said.label}/{said.kind}/{bench}-s{row['slide']}-c{row['cell']}.png",
        label=said.label,
        kind=said.kind,
        stage=said.stage,
        subject=f"{bench}-s{row['slide']}",
        bench=bench,
        slide=row["slide"],
        frame=row["frame"],
        cell=row["cell"],
        x=row["x"],
        y=row["y"],
        width=row["width"],
        height=row["height"],
        um_per_px=row["um_per_px"],
        light_blue=light and light[0],
        light_green=light and light[1],
        light_red=light and light[2],
        density_blue=density and density[0],
        density_green=density and density[1],
        density_red=density and density[2],
        sampling=said.sampling,
        model=row["bundle_name"],
        model_serial=row["bundle_serial"],
        model_label=row["label"],
        model_reason=row["reason"] or "",
        model_blast_probability=row["blast_probability"],
        model_kind=row["kind"] or "",
        model_kind_probability=row["kind_probability"],
    )


def _light(text: str) -> Light:
    """The empty field's levels, as stored."""
    blue, green, red = (int(level) for level in text.split(","))
    return blue, green, red


def _density(picture: Image, light: Light) -> tuple[float, float, float]:
    """Mean optical density inside the mask, BGR; picture: uint8 (h, w, 4)."""
    codes = density_codes(as_image(np.ascontiguousarray(picture[:, :, :3])), light)
    blue, green, red, _ = cv2.mean(codes, mask=as_image(picture[:, :, 3]))
    return round(blue / DENSITY_CODES, 4), round(green / DENSITY_CODES, 4), round(red / DENSITY_CODES, 4)
