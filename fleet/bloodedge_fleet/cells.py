"""Cells that several boards exported, as one data set."""

import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bloodedge.data.exported_cells import CSV, IMAGES, ExportedCell, csv_text, read_export
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import folder_beside

README = """Cells of several boards, put together by bloodedge fleet export. cells.csv holds a row a cell; what they are
says the README.txt of each board's export. Nothing here names a patient: slides and cells are numbers.
"""


def merge(target: Path, exports: Sequence[Path]) -> str:
    """Write the cells of several exports, folders or ZIP archives, as one; returns a sentence on what was written.

    A cell that is in several exports is taken from the last. Raises UsageError when ``target`` exists and is not empty,
    or one of them is no export; nothing is left then.
    """
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty folder; choose another name for the export.")
    cells: dict[str, ExportedCell] = {}
    again = 0
    with folder_beside(target) as folder:
        for export in exports:
            with _opened(export) as source:
                for cell in read_export(source):
                    name = Path(cell.file).name
                    if (before := cells.pop(name, None)) is not None:
                        (folder / before.file).unlink()
                        again += 1
                    _copy(source / cell.file, folder / cell.file, export)
                    _copy(source / IMAGES / name, folder / IMAGES / name, export)
                    cells[name] = cell
        (folder / CSV).write_text(csv_text(cells.values()), encoding="utf-8", newline="")
        (folder / "README.txt").write_text(README, encoding="utf-8")
    benches = Counter(cell.bench for cell in cells.values())
    twice = f" {again} of them came twice: the later export counts." if again else ""
    return f"{len(cells)} cells of {len(benches)} boards are in {target}.{twice}"


@contextmanager
def _opened(export: Path) -> Iterator[Path]:
    """An export's folder; a ZIP archive is unpacked for as long as it is used."""
    if export.is_dir():
        yield export
        return
    try:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(export) as archive:
            archive.extractall(folder)
            yield Path(folder)
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise UsageError(
            f"{export} is neither a folder nor a ZIP archive of exported cells; make one with: bloodedge device export"
        ) from error


def _copy(source: Path, target: Path, export: Path) -> None:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BloodedgeError(f"{export} lacks {source.name}, which its {CSV} names; export the cells again.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
