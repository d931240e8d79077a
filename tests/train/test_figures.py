"""Every picture of a run is drawn, whatever the run was like, and shows what it says it shows."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.bundle.run_record import DataRecord, PartRecord, RunMetrics, RunRecord, SplitRecord
from bloodedge.data.dataset import CellFile
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import ImagingSpec
from bloodedge_train.figures import confusion, curves, draw_all, montage, penalties, people
from bloodedge_train.fitted import Scored
from bloodedge_train.recipe import Recipe

PARTS = ("validation", "test", "shift")


def record(epochs: int = 3, **imaging: Any) -> RunRecord:
    part = PartRecord(cells=8, groups=["1"], subjects=["1"], digest="0")
    row = {"learning_rate": 1e-3, "loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.8, "val_auc": 0.9}
    return RunRecord(
        name="a-run",
        created="2026-01-01T00:00:00+00:00",
        bloodedge="0.1.0",
        model="edgenet",
        parameters=1,
        labels=["normal", "blast"],
        weights="none",
        recipe=Recipe().model_dump(),
        imaging=ImagingSpec(size_px=32, **imaging),
        seed=0,
        data=DataRecord(root="data", fingerprint="f", cells=1, subjects=1),
        split=SplitRecord(kind="group", seed=0, parts=dict.fromkeys(("train", *PARTS), part)),
        temperature=1.5,
        thresholds=Thresholds(),
        backend="tensorflow",
        hardware="a test",
        versions={},
        history=[{"epoch": epoch + 1.0, **row} for epoch in range(epochs)],
        best_epoch=epochs,
    )


class Case:
    """Scored parts of a run: ``labels`` by default half blasts, of four subjects."""

    def __init__(self, labels: np.ndarray | None = None, subjects: list[str] | None = None) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.arange(40) % 2 if labels is None else labels
        count = len(self.labels)
        self.subjects = subjects or [f"{'H' * (1 - y)}{n % 4 // 2}" for n, y in enumerate(self.labels)]
        self.blast = np.clip(self.labels * 0.4 + rng.random(count) * 0.6, 0, 1)
        self.evaluation = score(self.labels, self.blast, self.subjects, uncalibrated=self.blast)

    def draw(self, folder: Path, run: RunRecord, names: tuple[str, ...] = PARTS) -> set[str]:
        picture = folder.with_name(f"{folder.name}.png")
        disc = cv2.circle(np.zeros((64, 64, 3), np.uint8), (32, 32), 20, (150, 60, 120), cv2.FILLED)
        cv2.imwrite(str(picture), disc)
        cells = [
            CellFile("", "", 1, 1.0, b"", None, f"{n}.png", picture, int(y), s, "")
            for n, (y, s) in enumerate(zip(self.labels, self.subjects, strict=True))
        ]
        metrics = RunMetrics(
            parts=dict.fromkeys(names, self.evaluation),
            ece_before_temperature=0.1,
            latency_ms=LatencyMs(p50=1, p95=2, p99=3),
            hardware="a test",
        )
        blasts = dict.fromkeys(names, self.blast)
        outputs = np.stack([1 - self.blast, self.blast], axis=1).astype(np.float32)
        draw_all(folder, run, metrics, dict.fromkeys(names, Scored(cells, outputs)), blasts, blasts)
        return {path.name for path in folder.iterdir()}


def test_a_head_shows_its_penalties_instead_of_epochs(tmp_path: Path) -> None:
    tried = [{"penalty": p, "val_loss": 0.5, "val_auc": 0.8, "val_accuracy": 0.7} for p in (0.1, 1.0, 10.0)]
    run = record().model_copy(update={"history": tried, "best_epoch": 2})
    names = Case().draw(tmp_path, run, ("inner", "test"))
    assert "penalties.png" in names
    assert not names & {"learning_curves.png", "montage_inner.png"}
    assert "penalty 1" in words(painted(penalties.paint, run))


def painted(paint: Any, *arguments: Any) -> Any:
    figure = Figure(figsize=(6, 6))
    paint(figure, *arguments)
    return figure


def words(figure: Any) -> str:
    """All that is written in a picture."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_every_picture_of_a_run_is_there_and_can_be_opened(tmp_path: Path) -> None:
    names = Case().draw(tmp_path, record())
    by_part = {f"{kind}_{part}.png" for kind in ("confusion", "subjects") for part in PARTS}
    whole = {"learning_curves.png", "roc.png", "precision_recall.png", "reliability.png"}
    assert names == by_part | whole | {"montage_test.png", "montage_shift.png"}
    for name in names:
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5, f"{name} is blank"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(np.ones(6, int), ["1"] * 6), id="blasts alone"),
        pytest.param(Case(np.arange(120) % 2, [f"fold_0/all/{n}.png" for n in range(120)]), id="unnamed cells"),
    ],
)
def test_odd_parts_are_drawn_too(case: Case, tmp_path: Path) -> None:
    assert "montage_test.png" in case.draw(tmp_path, record(epochs=1), ("validation", "test"))
    tallest = cv2.imread(str(tmp_path / "subjects_test.png"))
    assert tallest is not None
    assert tallest.shape[0] < 2000


def test_the_curves_are_those_of_scikit_learn() -> None:
    case = Case()
    blast = np.round(case.blast, 1)  # with ties
    found, alarms = curves.thresholds(case.labels, blast)
    false, true, _ = roc_curve(case.labels, blast, drop_intermediate=False)
    assert found / found[-1] == pytest.approx(true)
    assert alarms / alarms[-1] == pytest.approx(false)
    precision, recall, _ = precision_recall_curve(case.labels, blast)
    assert (found[1:] / (found[1:] + alarms[1:]))[::-1] == pytest.approx(precision[:-1])
    assert (found / found[-1])[::-1] == pytest.approx(recall)


def test_the_worst_subject_is_marked() -> None:
    case = Case()
    figure = painted(people.paint, case.evaluation, "test")
    marked = [line for line in words(figure).splitlines() if "(worst)" in line]
    worst = case.evaluation.per_subject[case.evaluation.worst_subject]
    assert marked == [f"{worst.accuracy:.2f} of {worst.cells} cells (worst)"]
    assert people.shown(case.evaluation)[0][0] == case.evaluation.worst_subject


def test_the_confusion_matrix_shows_counts_and_shares_and_the_leak() -> None:
    case = Case()
    (tn, fp), _ = case.evaluation.confusion
    text = words(painted(confusion.paint, case.evaluation.model_copy(update={"leaky": True}), "test"))
    assert f"{tn}\n{tn / (tn + fp):.1%}" in text
    assert "test (leaky)" in text


def test_the_montage_shows_the_surest_calls_of_each_kind() -> None:
    labels, blast = np.array([1, 1, 1, 0, 0, 0]), np.array([0.7, 0.9, 0.2, 0.1, 0.6, 0.8])
    rows = montage.choose(labels, blast, 0.5)
    assert [(row.label, row.right, row.cells.tolist(), row.count) for row in rows] == [
        (1, True, [1, 0], 2),
        (1, False, [2], 1),
        (0, True, [3], 1),
        (0, False, [5, 4], 2),
    ]
    images = np.zeros((6, 32, 32, 3), np.uint8)
    text = words(painted(montage.paint, images, ["1", "1", "1", "H1", "H1", "H1"], blast, rows, "test"))
    for title in ("1  0.90", "1  0.20", "H1  0.10", "H1  0.80"):
        assert title in text
