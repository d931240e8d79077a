"""A bundle's manifest, a network and a finder that need no runtime; as a program, ``bloodedge device`` with them."""

import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs, SubjectScore
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.manifest import Agreement, Artifact, Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import SplitRecord
from bloodedge.cli import main
from bloodedge.decision.domain import Domain, describe
from bloodedge.decision.error_rates import Outcomes, Rates
from bloodedge.decision.kinds import OTHER, Kind, KindCall
from bloodedge.decision.thresholds import Reason, Thresholds
from bloodedge.engine.golden import GoldenResult
from bloodedge.files import sha256, write_bytes
from bloodedge.finder import Found, FoundCell, Rejected
from bloodedge.finder.frame_gate import GateResult
from bloodedge.imaging import Cell, Image, ImagingSpec
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.frames import Capture, CellResult, Frame, FrameResult
from bloodedge_device.kinds import KindInput
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.store import RunInfo

DEVICE = [sys.executable, str(Path(__file__))]
"""``bloodedge device`` with the fakes, as a command."""


def evaluation(accuracy: float, leaky: bool = False) -> Evaluation:
    interval = (accuracy - 0.06, accuracy + 0.04)
    return Evaluation(
        cells=1234,
        subjects=11,
        accuracy=accuracy,
        weighted_f1=accuracy - 0.003,
        macro_f1=accuracy - 0.01,
        balanced_accuracy=accuracy - 0.012,
        sensitivity=accuracy + 0.02,
        specificity=accuracy - 0.05,
        auc=0.951,
        ece=0.03,
        ci95={"accuracy": interval, "weighted_f1": interval, "auc": (0.921, 0.972)},
        per_subject={"A1": SubjectScore(label="blast", cells=1000, accuracy=accuracy)},
        confusion=[[400, 60], [50, 724]],
        leaky=leaky,
    )


RATES = Rates(
    data="twelve people of each class",
    blast={f"A{n}": Outcomes(blast=52 + n % 4, normal=2, refused=5) for n in range(12)},
    normal={f"H{n}": Outcomes(blast=3 + n % 3, normal=46, refused=9) for n in range(12)},
)


def make_manifest(rendered: bool = False, leaky: bool = False) -> Manifest:
    agreement = Agreement(
        cells=1234,
        flips=7,
        flip_rate=7 / 1234,
        max_probability_difference=0.081,
        drop={"accuracy": 0.16, "weighted_f1": 0.17, "auc": -0.02},
        drop_ci95={"accuracy": (-0.1, 0.4), "weighted_f1": (-0.1, 0.4), "auc": (-0.1, 0.1)},
    )
    artifacts = [
        Artifact(
            engine=engine,
            precision="int8",
            file=f"artifacts/{engine}.bin",
            sha256="0" * 64,
            size_bytes=2_700_000,
            evaluation=evaluation(0.892, leaky),
            agreement=agreement,
            rates=RATES,
        )
        for engine in ("litert", "openvino")
    ]
    return Manifest(
        serial=1_790_000_000,
        name="mobilenetv2",
        labels=["normal", "blast"],
        input=InputSpec(height=160, width=160),
        imaging=ImagingSpec(),
        temperature=1.3,
        thresholds=Thresholds(),
        artifacts=artifacts,
        baseline=Baseline(
            hardware="NVIDIA Test GPU",
            backend="jax",
            latency_ms=LatencyMs(p50=3.1, p95=3.4, p99=4.2),
            evaluation=evaluation(0.894, leaky),
        ),
        golden=Golden(inputs=64, max_flips={"litert/int8": 1}, max_probability_difference={"litert/int8": 0.08}),
        provenance=Provenance(
            run="run",
            model="mobilenetv2",
            parameters=2_260_546,
            recipe={},
            weights="imagenet",
            data_fingerprint="ab" * 32,
            rendered=rendered,
            split=SplitRecord(kind="image" if leaky else "group", seed=0, parts={}),
            calibration_cells=300,
            calibration_digest="cd" * 32,
            converted="2026-11-20",
            hardware="a GPU host",
            versions={},
        ),
        files={},
    )


def outside_of_all(manifest: Manifest) -> Manifest:
    """A manifest whose domain holds nothing that a camera could show."""
    figures = len(describe(np.zeros((160, 160, 3), np.uint8)))
    apart = np.eye(figures).tolist()
    nowhere = Domain(mean=(1e6,) * figures, deviation=(1.0,) * figures, whitening=apart, limit=1.0, cells=600)
    return manifest.model_copy(update={"domain": nowhere})


def write_bundle(folder: Path) -> Path:
    """A bundle folder whose digests are right and whose models are not models."""
    manifest, golden = make_manifest(), io.BytesIO()
    inputs = np.zeros((manifest.golden.inputs, *manifest.input.shape), np.uint8)
    np.savez_compressed(golden, inputs=inputs, probabilities=np.full((len(inputs), 2), 0.5, np.float32))
    contents = {
        "artifacts/litert.bin": b"litert",
        "artifacts/openvino.bin": b"openvino",
        "golden.npz": golden.getvalue(),
    }
    for name, data in contents.items():
        write_bytes(folder / name, data)
    digests = {name: sha256(folder / name) for name in contents}
    write_record(folder / "manifest.json", manifest.model_copy(update={"files": digests}))
    return folder


class FakeEngine:
    """Says blast in proportion to an input's brightness."""

    name, runtime = "litert", "ai-edge-litert 0.0"

    def predict(self, images: np.ndarray) -> np.ndarray:
        blast = images.reshape(len(images), -1).mean(axis=1) / 255
        return np.stack([1 - blast, blast], axis=1).astype(np.float32)


@dataclass(frozen=True)
class FakeCell:
    box: tuple[int, int, int, int]
    touches_border: bool = False
    area_um2: float = 100.0
    light: tuple[int, int, int] = (226, 222, 232)

    @property
    def mask(self) -> Image:
        return np.full((self.box[3], self.box[2]), 255, np.uint8)

    @property
    def outline(self) -> list[list[int]]:
        x, y, width, height = self.box
        return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]

    @property
    def density(self) -> Image:
        return np.zeros((self.box[3], self.box[2], 3), np.uint8)

    def crop(self, frame: np.ndarray, um_per_px: float) -> Cell:
        x, y, width, height = self.box
        return Cell(frame[y : y + height, x : x + width], self.mask, um_per_px)


def check(bgr: Image) -> GateResult:
    """Rejects frames darker than 10."""
    return GateResult(Reason.TOO_DARK if bgr.mean() < 10 else None, 30.0, 128.0, 0.0, 1.0)


def find_cells(bgr: Image, _: float | None) -> Found:
    """One cell in the middle and one cut by the border of every frame brighter than 20, and a platelet."""
    if bgr.mean() < 20:
        return Found((), (), 0.1)
    cells = FakeCell((40, 30, 60, 60)), FakeCell((0, 0, 20, 30), touches_border=True)
    return Found(cast("tuple[FoundCell, ...]", cells), (Rejected((100, 100, 5, 5), Reason.TOO_SMALL),), 0.1)


def lymphocytes(cells: Sequence[KindInput]) -> list[KindCall]:
    """All are."""
    return [KindCall(Kind.LYMPHOCYTE, 0.9, asked=True) for _ in cells]


def frame(index: int = 0, level: int = 128, dropped_before: int = 0) -> Frame:
    bgr = np.full((120, 160, 3), level, np.uint8)
    return Frame(Capture(index, datetime.now(UTC), 0.0, 0.001, f"{index}.png", dropped_before), bgr, 0.1)


def result(index: int, probabilities: list[float], dropped_before: int = 0) -> FrameResult:
    """A frame whose cells have these blast probabilities."""
    cells = []
    for number, p in enumerate(probabilities):
        crop = np.full((40, 40, 3), (180, 160, 190), np.uint8)
        cv2.circle(crop, (20, 20), 14, (150, int(80 + 60 * p), 120), -1)
        label = "uncertain" if 0.35 < p < 0.65 else "blast" if p >= 0.5 else "normal"
        reason = Reason.ABSTAIN_BAND if label == "uncertain" else None
        cells.append(CellResult((number * 5, 5, 40, 40), label, p, reason, 95.0 + number, crop))
    reason = None if cells else Reason.NO_CELL
    capture = frame(index, 128, dropped_before).capture
    return FrameResult(capture, (160, 120), None, reason, 30.0, 200.0, cells, Counter({Reason.TOO_SMALL: 2}), 0.1)


def of_kinds(told: FrameResult, calls: Sequence[KindCall | None]) -> FrameResult:
    """The frame with kinds told of its cells; *blast or normal?* is not asked of those of other kinds."""
    cells = []
    for cell, call in zip(told.cells, calls, strict=True):
        other = call is not None and not call.asked
        asked = replace(cell, label=OTHER, reason=None, blast_probability=None) if other else cell
        cells.append(replace(asked, kind=call))
    return replace(told, cells=cells)


SEGMENTED = KindCall(Kind.NEUTROPHIL, 0.97, False, "segmented")
BAND = KindCall(Kind.NEUTROPHIL, 0.81, False, "band")
EOSINOPHIL = KindCall(Kind.EOSINOPHIL, 0.99, False)
ERYTHROBLAST = KindCall(Kind.ERYTHROBLAST, 0.9, False)
LYMPHOCYTE = KindCall(Kind.LYMPHOCYTE, 0.95, True)
MONOCYTE = KindCall(Kind.MONOCYTE, 0.7, True)
MAYBE_MONONUCLEAR = KindCall(Kind.UNKNOWN, 0.5, True)


def bad_frame(index: int) -> FrameResult:
    problem = "broken.png is truncated or not an image; copy it again from its source."
    return FrameResult(
        Capture(index, datetime.now(UTC), 0.0, 0.001, "broken.png"), problem=problem, reason=Reason.BAD_FRAME
    )


def run_info(manifest: Manifest) -> RunInfo:
    return RunInfo(
        started=datetime.now(UTC),
        ready_ms=812.0,
        bundle_name=manifest.name,
        bundle_serial=manifest.serial,
        engine="litert",
        engine_reason="this machine is aarch64",
        runtime="ai-edge-litert 0.0",
        precision="int8",
        threads=2,
        hardware="Test Board 5",
        camera="replay of 3 images in frames",
        golden={"inputs": 64, "flips": 1, "max_probability_difference": 0.07, "passed": True},
        manifest=manifest.model_dump_json(),
    )


def make_pipeline() -> Pipeline:
    """One slide's pipeline, of fakes."""
    return Pipeline(FakeEngine(), make_manifest(), check, find_cells)


def make_loaded() -> Loaded:
    """The manifest's bundle, its network a fake one."""
    manifest = make_manifest()
    golden = GoldenResult(inputs=64, flips=1, max_probability_difference=0.07, passed=True)
    return Loaded(manifest, manifest.artifact("litert", "int8"), "a test says so", FakeEngine(), golden)


def use_fakes() -> None:
    """Make the daemon run without a bundle: a fake network and finder, and a gate that rejects dark frames."""
    from bloodedge_device.bundles import loading
    from bloodedge_device.daemon import pipelines

    loading.load_file = lambda *_: make_loaded()
    pipelines.gate_of = lambda settings: check  # noqa: ARG005
    pipelines.finder_of = lambda settings: find_cells  # noqa: ARG005
    pipelines.kinds = lambda: lymphocytes


def start(state: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """``bloodedge device run`` with the fakes, as a process of its own."""
    command = [*DEVICE, "run", "--state", str(state), *words]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    use_fakes()
    main(["device", *sys.argv[1:]])
