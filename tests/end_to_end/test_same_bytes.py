"""Training, calibration and the device give the network the same bytes for the same cell."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.manifest import Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import DataRecord, RunRecord
from bloodedge.data.dataset import Dataset, inputs, read_dataset
from bloodedge.data.split import SplitSpec, split
from bloodedge.decision.thresholds import Thresholds
from bloodedge.finder import Found, FoundCell, find_cells
from bloodedge.finder.frame_gate import GateResult
from bloodedge.finder.light import density_codes
from bloodedge.imaging import CNMC_UM_PER_PX, Cell, ImagingSpec, cell_on_black, network_input, read_image
from bloodedge.simulation import render_cell, render_field
from bloodedge_convert.cells.run_cells import read_cells
from bloodedge_device.frames import Capture, Frame
from bloodedge_device.kinds import KindInput
from bloodedge_device.pipeline import Pipeline

LABELS = ("normal", "blast")
SPECS = {
    "physical": ImagingSpec(size_px=96, um_per_px=0.2),
    "canonical, levelled": ImagingSpec(size_px=80, views=("canonical",), light="levelled"),
    "canonical, equalised": ImagingSpec(size_px=160, views=("canonical",), light="equalised"),
    "wavelet, levelled": ImagingSpec(size_px=64, um_per_px=0.3, denoise="wavelet", light="levelled"),
    "both views": ImagingSpec(size_px=64, um_per_px=0.3, views=("physical", "canonical"), light="levelled"),
    "median": ImagingSpec(size_px=96, um_per_px=0.15, denoise="median"),
}
SPLIT = SplitSpec(validation=0.2, test=0.3)


class Recorder:
    """An engine that keeps what it is given."""

    name = runtime = "recorder"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen += list(images)
        return np.full((len(images), 2), 0.5, np.float32)


def run_record(dataset: Dataset, spec: ImagingSpec, kind: Literal["group", "image"] = "group") -> RunRecord:
    _, record = split(dataset, SPLIT.model_copy(update={"kind": kind}), seed=0)
    return RunRecord(
        name="run",
        created="2026-01-01T00:00:00+00:00",
        bloodedge="0.1.0",
        model="edgenet",
        parameters=1,
        labels=list(LABELS),
        weights="none",
        recipe={"split": SPLIT.model_dump(mode="json")},
        imaging=spec,
        seed=0,
        data=DataRecord(root=str(dataset.root), fingerprint=dataset.fingerprint, cells=len(dataset.cells), subjects=12),
        split=record,
        temperature=1.0,
        thresholds=Thresholds(),
        backend="keras",
        hardware="a test",
        versions={},
        history=[],
        best_epoch=0,
    )


def manifest_of(run: RunRecord) -> Manifest:
    nothing = Evaluation(
        cells=0,
        subjects=0,
        accuracy=0,
        weighted_f1=0,
        macro_f1=0,
        balanced_accuracy=None,
        sensitivity=None,
        specificity=None,
        auc=None,
        ece=0,
        ci95={},
        per_subject={},
        confusion=[[0, 0], [0, 0]],
    )
    latency = LatencyMs(p50=1, p95=1, p99=1)
    provenance = Provenance(
        run=run.name,
        model=run.model,
        parameters=1,
        recipe=run.recipe,
        weights="none",
        data_fingerprint=run.data.fingerprint,
        rendered=True,
        split=run.split,
        calibration_cells=0,
        calibration_digest="",
        converted="",
        hardware="",
        versions={},
    )
    return Manifest(
        serial=0,
        name="run",
        labels=run.labels,
        input=InputSpec(height=run.imaging.size_px, width=run.imaging.size_px, views=len(run.imaging.views)),
        imaging=run.imaging,
        temperature=1.0,
        thresholds=run.thresholds,
        artifacts=[],
        baseline=Baseline(hardware="", backend="", latency_ms=latency, evaluation=nothing),
        golden=Golden(inputs=1, max_flips={}, max_probability_difference={}),
        provenance=provenance,
        files={},
    )


def on_the_device(cells: Sequence[Cell], manifest: Manifest) -> list[NDArray[np.uint8]]:
    """What the device's pipeline gives to its engine for cells that the finder found, each in a frame of its own."""
    engine = Recorder()
    stored = Manifest.model_validate_json(manifest.model_dump_json())  # as the device reads it
    for cell in cells:
        frame, found = in_a_frame(cell)

        def find(_bgr: NDArray[np.uint8], _um_per_px: float | None, found: Found = found) -> Found:
            return found

        sharp = GateResult(None, focus=1.0, brightness=225.0, saturated=0.0, isotropy=1.0)
        pipeline = Pipeline(engine, stored, lambda _bgr, sharp=sharp: sharp, find)
        pipeline.process(Frame(Capture.now(0, monotonic()), frame, cell.um_per_px))
    return engine.seen


def in_a_frame(cell: Cell) -> tuple[NDArray[np.uint8], Found]:
    """A bright frame with the cell somewhere in it, and what the finder says of it."""
    height, width = cell.mask.shape
    frame = np.full((height + 60, width + 90, 3), 225, np.uint8)
    part = frame[25 : 25 + height, 40 : 40 + width]
    part[cell.mask > 0] = cell.bgr[cell.mask > 0]
    x, y, wide, high = cv2.boundingRect(cell.mask)
    one = FoundCell(
        box=(x + 40, y + 25, wide, high),
        mask=cell.mask[y : y + high, x : x + wide].copy(),
        nucleus=cell.mask[y : y + high, x : x + wide].copy(),
        density=part[y : y + high, x : x + wide],
        light=(225, 225, 225),
        nucleus_px=1,
        area_px=cell.area_px,
        area_um2=cell.area_um2,
        touches_border=False,
        completeness=1.0,
        nuclear_density=0.5,
        focus=1.0,
    )
    return frame, Found((one,), (), cell.um_per_px)


def on_conversion(run: RunRecord, count: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and network inputs of the cells that conversion calibrates with, before ``full_range`` touches one."""
    part = read_cells(run, None, count, tuning=False, report=lambda *_: None).calibration
    return [c.name for c in part.cells], part.images


def check(dataset: Dataset, spec: ImagingSpec) -> None:
    """Every cell of the training part, in all three stages."""
    run = run_record(dataset, spec)
    wanted = set(run.split.parts["train"].groups)
    train = [c for c in dataset.unique if dataset.group(c) in wanted]
    trained = dict(zip([c.name for c in train], inputs(train, spec), strict=True))
    names, calibrated = on_conversion(run, len(train))
    assert sorted(names) == sorted(trained)
    touched = [
        name for name, image in zip(names, calibrated, strict=True) if image.tobytes() != trained[name].tobytes()
    ]
    # One cell has its brightest values raised to 255 so that int8 covers the whole byte; nothing else differs.
    assert len(touched) <= 1
    for name in touched:
        image = calibrated[names.index(name)]
        assert np.array_equal(image[image < 255], trained[name][image < 255])
    some = train[:: max(1, len(train) // 12)]
    seen = on_the_device([cell_on_black(read_image(c.path), CNMC_UM_PER_PX) for c in some], manifest_of(run))
    for cell, image in zip(some, seen, strict=True):
        assert image.tobytes() == trained[cell.name].tobytes(), cell.name


@pytest.mark.parametrize("name", SPECS)
def test_rendered_cells_give_the_same_bytes_in_every_stage(name: str, rendered_data: Path) -> None:
    check(read_dataset(rendered_data), SPECS[name])


def test_a_cell_straight_from_the_renderer_gives_the_bytes_of_its_file(tmp_path: Path) -> None:
    """Segmented by its true mask in a frame or read back from a file cut out onto black: one and the same input."""
    folder = tmp_path / "all"
    folder.mkdir()
    cell = render_cell("blast", 11)
    cv2.imwrite(str(folder / "UID_1_1_1_all.png"), cell.bgr)
    dataset = read_dataset(tmp_path)
    own = cell_on_black(read_image(dataset.cells[0].path))
    assert np.array_equal(own.mask, cell.mask)
    frame, found = in_a_frame(cell)
    for spec in SPECS.values():
        image = network_input(found.cells[0].crop(frame, found.um_per_px), spec)
        assert image.tobytes() == inputs(dataset.cells, spec)[0].tobytes()


def test_the_kind_network_reads_of_a_stored_cell_what_it_read_in_the_frame() -> None:
    frame = render_field(3).bgr
    found = find_cells(frame, 0.1)
    assert len(found.cells) >= 2
    for cell in found.cells:
        stored = cell.crop(frame, found.um_per_px)
        again = KindInput(density_codes(stored.bgr, cell.light), stored.mask, stored.um_per_px)
        assert again.image().tobytes() == KindInput.of(cell, found.um_per_px).image().tobytes()


def test_real_cells_give_the_same_bytes_in_every_stage(real_data: Path) -> None:
    folder = real_data / "cnmc_bmp"
    if not folder.is_dir():
        pytest.skip(f"no untouched BMP cells at {folder}")
    dataset = read_dataset(folder)
    assert len(dataset.cells) == 24
    for spec in SPECS.values():
        images = inputs(dataset.cells, spec)
        cells = [cell_on_black(read_image(c.path), CNMC_UM_PER_PX) for c in dataset.cells]
        seen = on_the_device(cells, manifest_of(run_record(dataset, spec, "image")))
        assert [i.tobytes() for i in seen] == [i.tobytes() for i in images]
