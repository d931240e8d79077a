"""What `bloodedge finetune` says of cells and bundles that it cannot use."""

import hashlib
import shutil
import zlib
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.bundle import MANIFEST, Bundle, zip_files
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.json_records import record_bytes
from bloodedge.bundle.manifest import FinetuneRecord
from bloodedge.cli import main
from bloodedge.data.dataset import read_dataset
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec
from bloodedge_convert.finetuning.cells import BenchCells, read_cells

RELEASED = Path(__file__).parents[2] / "models" / "cells.bundle"


def draw(path: Path, seed: int, radius: int = 20) -> None:
    rng = np.random.default_rng(seed)
    picture = np.zeros((4 * radius, 4 * radius, 3), np.uint8)
    axes = round(radius * rng.uniform(0.85, 1.15)), round(radius * rng.uniform(0.85, 1.15))
    cv2.ellipse(picture, (2 * radius, 2 * radius), axes, rng.uniform(0, 180), 0, 360, (150, 60, 120), cv2.FILLED)
    grain = cv2.GaussianBlur(rng.normal(0, 60, picture.shape).astype(np.float32), (0, 0), radius / 6)
    shown = np.clip(picture + grain * 4, 15, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.where(picture > 0, shown, 0))


def bench(folder: Path, slides: dict[str, tuple[int, int]], radius: int = 20) -> Path:
    """A folder of drawn cells: slide to its numbers of blasts and of normal cells."""
    for slide, counts in slides.items():
        for label, count in zip(("all", "hem"), counts, strict=True):
            for number in range(count):
                seed = zlib.crc32(f"{slide} {label} {number}".encode())
                draw(folder / label / f"UID_{slide}_1_{number}_{label}.png", seed, radius)
    return folder


def read(folder: Path) -> BenchCells:
    return read_cells(folder, DataLayout(), ImagingSpec(size_px=64), lambda *_: None)


def test_slides_and_classes_are_read(tmp_path: Path) -> None:
    cells = read(bench(tmp_path, {"S1": (6, 5), "S2": (6, 5)}))
    assert cells.images.shape == (22, 64, 64, 3)
    assert sorted(set(cells.slides)) == ["S1", "S2"]
    assert cells.labels.sum() == 12
    assert any("scale" in warning for warning in cells.warnings)


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs 4 more normal cells and 3 more blast cells"):
        read(bench(tmp_path, {"S1": (3, 3), "S2": (4, 3)}))


def test_a_class_of_one_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"normal cells of another slide than S1, from which all 12 come"):
        read(bench(tmp_path, {"S1": (6, 12), "S2": (6, 0)}))


def test_answers_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = bench(tmp_path, {"S1": (8, 8), "S2": (8, 8)})
    for number in range(4):
        other = folder / "hem" / f"UID_S1_1_9{number}_hem.png"
        shutil.copy(folder / "all" / f"UID_S1_1_{number}_all.png", other)
    with pytest.raises(UsageError, match=r"8 of the 36 cells under .* were called both blast and normal"):
        read(folder)


def test_two_scales_are_refused(tmp_path: Path) -> None:
    bench(tmp_path, {"S1": (8, 8)})
    bench(tmp_path, {"S2": (8, 8)}, radius=60)
    with pytest.raises(UsageError, match=r"The cells of S2 are [23].\d times as wide as those of S1: two scales"):
        read(tmp_path)


def test_a_bundle_without_features_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = RELEASED.with_name("simulated.bundle")
    out = tmp_path / "ours.bundle"
    with pytest.raises(SystemExit) as exit_:
        main(["finetune", str(tmp_path), "--from", str(simulated), "-o", str(out)])
    assert exit_.value.code == 2
    assert "carries no features of its training cells" in capsys.readouterr().err
    assert not out.exists()


def fitted_to(out: Path, data: Path, *, is_finetuned: bool) -> Path:
    """The released bundle as if it was fitted to the cells in ``data``."""
    with Bundle(RELEASED) as bundle:
        manifest, files = bundle.manifest, {name: bundle.read(name) for name in bundle.manifest.files}
    fitted = FittedPictures.of({"train": read_dataset(data).cells})
    files[FITTED_FILE] = fitted.pack()
    figures = dict.fromkeys(("before", "after", "release_before", "release_after"), manifest.baseline.evaluation)
    made = FinetuneRecord(from_name="cells", from_serial=5, cells=22, blasts=12, slides=2, **figures)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    update = {"fitted": fitted.record(), "files": digests, "finetuned": made if is_finetuned else None}
    zip_files({**files, MANIFEST: record_bytes(manifest.model_copy(update=update))}, out)
    return out


@pytest.mark.parametrize(
    ("cells", "is_finetuned", "sentence"),
    [
        ({"S1": (6, 5), "S3": (6, 5)}, False, "was fitted to 11 of these 22 cells, * Take cells that it has not seen."),
        ({"S1": (6, 5), "S3": (6, 5)}, True, "11 of these 22 cells, * Begin with * cells (serial 5), and all reviewed"),
        ({"H9": (0, 11), "S3": (11, 0), "S4": (2, 2)}, True, "to 11 of these 26 cells, or to others of their slides"),
    ],
)
def test_cells_and_slides_that_a_bundle_was_fitted_to_judge_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: dict[str, tuple[int, int]], is_finetuned: bool,
    sentence: str,
) -> None:  # fmt: skip
    known = bench(tmp_path / "known", {"S1": (6, 5), "S2": (6, 5)})
    taught = fitted_to(tmp_path / "taught.bundle", known, is_finetuned=is_finetuned)
    out = tmp_path / "ours.bundle"
    with pytest.raises(SystemExit) as exit_:
        main(["finetune", str(bench(tmp_path / "cells", cells)), "--from", str(taught), "-o", str(out)])
    assert exit_.value.code == 2
    assert fnmatch(capsys.readouterr().err.replace("\n", " "), f"*{sentence}*")
    assert not out.exists()


def test_what_is_neither_bundle_nor_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as exit_:
        main(["finetune", str(tmp_path), "--from", str(tmp_path / "runs"), "-o", str(tmp_path / "ours.bundle")])
    assert exit_.value.code == 2
    assert "make one with: bloodedge train" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_bundle_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ours.bundle"
    out.write_bytes(b"mine")
    with pytest.raises(SystemExit) as exit_:
        main(["finetune", str(tmp_path), "--from", str(RELEASED), "-o", str(out)])
    assert exit_.value.code == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
