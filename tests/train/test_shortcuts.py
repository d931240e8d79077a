"""``bloodedge shortcuts``: each cue predicts what it must, and each alteration takes away what it says."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import bloodedge.evaluation.classifier
from bloodedge.cli import main
from bloodedge.data.dataset import read_dataset
from bloodedge.data.split import SplitSpec, split
from bloodedge.decision.thresholds import Thresholds
from bloodedge.evaluation.classifier import Classifier
from bloodedge.imaging import CNMC_UM_PER_PX, Cell, ImagingSpec, cell_on_black
from bloodedge_train.explain.alterations import ALTERATIONS, blurred, filled, grey
from bloodedge_train.explain.cues import fit_logistic, haze, silhouette
from bloodedge_train.explain.shortcuts import audit_shortcuts

SIDE = 64
BLAST_PX, NORMAL_PX = (19, 20), (14, 15)
"""Radii. A network that calls a blast from 17 px on sees every cell as normal at 0.8 and as a blast at 1.25 times."""
SPLIT = SplitSpec(validation=0.2, test=0.3)


def disc(radius: int, seed: int) -> NDArray[np.uint8]:
    """A disc of noise on black, uint8 (SIDE, SIDE, 3) BGR."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, (32, 32), radius, 255, cv2.FILLED)
    return np.where(mask[:, :, None] > 0, rng.integers(60, 220, (SIDE, SIDE, 3)), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients and five healthy people of six cells; size tells the class, colour and light do not."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, subjects, radii in (("all", "12345", BLAST_PX), ("hem", ["H1", "H2", "H3", "H4", "H5"], NORMAL_PX)):
        for subject in subjects:
            for number in range(6):
                path = root / label / f"UID_{subject}_{number}_1_{label}.png"
                path.parent.mkdir(exist_ok=True)
                picture = disc(int(rng.integers(*radii, endpoint=True)), int(rng.integers(1 << 30)))
                assert cv2.imwrite(str(path), picture)
    return root


class SizeEngine:
    """Says blast of a cell that fills more of the frame than a disc of 17 px."""

    name, runtime = "keras", "by hand"

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        lit = (images.max(axis=3) > 0).sum(axis=(1, 2))
        blast = 1 / (1 + np.exp((np.pi * 17**2 - lit) / 40.0))
        return np.stack([1 - blast, blast], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def classifier(data: Path) -> Classifier:
    dataset = read_dataset(data)
    _, record = split(dataset, SPLIT, seed=0)
    return Classifier(
        name="by size",
        engine=SizeEngine(),
        imaging=ImagingSpec(size_px=SIDE, um_per_px=CNMC_UM_PER_PX),
        temperature=1.0,
        thresholds=Thresholds(),
        split=record,
        split_spec=SPLIT,
        fingerprint=dataset.fingerprint,
    )


def test_cues_tell_what_they_hold_and_the_background_tells_nothing(classifier: Classifier, data: Path) -> None:
    audit = audit_shortcuts(classifier, data)
    aucs = {cue.cue: cue.auc for cue in audit.cues if cue.part == "test"}
    assert aucs["model"] == aucs["area"] == aucs["silhouette"] == 1.0
    assert aucs["background"] == aucs["haze"] == 0.5
    assert audit.subjects["test"] == len(classifier.split.parts["test"].subjects)
    assert not audit.leaky


def test_a_network_that_goes_by_size_falls_with_size_and_with_nothing_else(classifier: Classifier, data: Path) -> None:
    audit = audit_shortcuts(classifier, data)
    rows = {row.alteration: row for row in audit.altered}
    assert set(rows) == set(ALTERATIONS)
    assert rows["as it is"].accuracy == 1.0
    cells = audit.cells["test"]
    blasts = sum(s[0] != "H" for s in classifier.split.parts["test"].subjects) * 6
    assert rows["0.8 times the size"].fall["accuracy"] == pytest.approx(100 * blasts / cells)
    assert rows["1.25 times the size"].fall["accuracy"] == pytest.approx(100 * (cells - blasts) / cells)
    for name in ("grey", "blurred", "silhouette"):
        assert rows[name].flip_rate == 0
        assert rows[name].fall["auc"] == 0


def test_a_haze_that_gives_the_class_away_is_found_though_the_background_looks_black(
    classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    for path in data.rglob("*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None
        if path.parent.name == "all":
            picture[:4] = 3
        target = tmp_path / path.relative_to(data)
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), picture)
    audit = audit_shortcuts(classifier, tmp_path)
    aucs = {cue.cue: cue.auc for cue in audit.cues if cue.part == "test"}
    assert (aucs["background"], aucs["haze"]) == (0.5, 1.0)


def test_on_real_cells_the_background_is_black(real_data: Path) -> None:
    """As distributed, C-NMC is black round the cell but for a trace at its rim."""
    crops = sorted((real_data / "cnmc_bmp").rglob("*.bmp"))
    assert crops
    for crop in crops:
        picture = cv2.imread(str(crop))
        assert picture is not None
        assert haze(cell_on_black(picture.astype(np.uint8)))[-1] < 0.01


@pytest.mark.parametrize(("axes", "eccentricity"), [((60, 60), 0.0), ((80, 40), np.sqrt(3) / 2)])
def test_the_silhouette_of_an_ellipse_is_the_text_books(axes: tuple[int, int], eccentricity: float) -> None:
    mask = np.zeros((240, 240), np.uint8)
    cv2.ellipse(mask, (120, 120), axes, 30, 0, 360, 255, cv2.FILLED)
    area, perimeter, roundness, solidity, smoothness, found, *hu = silhouette(Cell(np.dstack([mask] * 3), mask, 1.0))
    a, b = axes
    ramanujan = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    assert area == pytest.approx(np.pi * a * b, rel=0.03)
    assert perimeter == pytest.approx(ramanujan, rel=0.08)  # a chain of pixels is a little longer than the curve
    assert roundness == pytest.approx(4 * np.pi * np.pi * a * b / ramanujan**2, rel=0.15)
    assert solidity == pytest.approx(1, abs=0.02)
    assert smoothness == pytest.approx(1, abs=0.08)
    assert found == pytest.approx(eccentricity, abs=0.1)
    assert hu[0] == pytest.approx(np.log10((a / b + b / a) / (4 * np.pi)), abs=0.01)  # an ellipse's first moment


def test_the_logistic_regression_is_at_the_penalised_likelihoods_maximum() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.3).astype(int)
    cues = rng.normal(0, [1, 50, 0.01], (200, 3)) + labels[:, None] * [0.5, 40, 0.0]
    blast = fit_logistic(cues, labels).predict_proba(cues)[:, 1]
    x = np.column_stack([(cues - cues.mean(axis=0)) / cues.std(axis=0), np.ones(200)])
    weights = np.linalg.lstsq(x, np.log(blast / (1 - blast)), rcond=None)[0]
    assert np.allclose(1 / (1 + np.exp(-x @ weights)), blast, atol=1e-9)  # it is linear in the standardised cues
    balance = 200 / 2 / np.bincount(labels)[labels]  # both classes weigh the same
    slope = x.T @ (balance * (blast - labels)) + [*weights[:3], 0]  # half of the squared weights is the penalty
    assert np.abs(slope).max() < 1e-5


def test_cues_that_part_the_classes_wholly_or_never_vary_do_no_harm() -> None:
    labels = np.array([0, 0, 1, 1])
    found = fit_logistic([[0, 7], [1, 7], [10, 7], [11, 7]], labels).predict_proba([[0, 7], [11, 7]])[:, 1]
    assert found[0] < 0.5 < found[1]
    assert np.allclose(fit_logistic(np.zeros((4, 2)), labels).predict_proba(np.zeros((3, 2))), 0.5)


@pytest.fixture
def cell() -> Cell:
    return cell_on_black(disc(24, seed=1))


def inside(cell: Cell) -> NDArray[np.uint8]:
    return cell.bgr[cell.mask > 0]


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=list(ALTERATIONS))
def test_an_altered_cell_is_still_a_cell_on_black(alter: Callable[[Cell], Cell], cell: Cell) -> None:
    altered = alter(cell)
    assert altered.bgr.dtype == altered.mask.dtype == np.uint8
    assert set(np.unique(altered.mask)) == {0, 255}
    assert inside(altered).any()


def test_the_silhouette_has_the_cells_mean_colour_and_no_other(cell: Cell) -> None:
    altered = filled(cell)
    assert len(np.unique(inside(altered), axis=0)) == 1
    assert np.abs(inside(altered)[0] - inside(cell).mean(axis=0)).max() <= 0.5
    assert not altered.bgr[cell.mask == 0].any()


def test_a_grey_cell_keeps_its_luminance_and_loses_its_colour(cell: Cell) -> None:
    blue, green, red = inside(grey(cell)).T.astype(int)
    assert (blue == green).all()
    assert (green == red).all()
    rec601 = inside(cell) @ np.array([0.114, 0.587, 0.299])
    assert np.abs(green - rec601).max() <= 1


def test_blur_takes_the_texture_and_darkens_no_rim(cell: Cell) -> None:
    assert inside(blurred(cell)).std(axis=0).max() < 0.1 * inside(cell).std(axis=0).min()
    plain = filled(cell)
    assert np.abs(inside(blurred(plain)).astype(int) - inside(plain)).max() <= 1


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["shortcuts", *map(str, arguments)])
    return int(exit_.value.code or 0)


def test_the_command_gives_tables_json_and_a_chart(
    classifier: Classifier,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bloodedge.evaluation.classifier, "open_run", lambda _: classifier)
    assert run(tmp_path, data, "--json", tmp_path / "audit.json") == 0
    told = capsys.readouterr().out
    for name in ("model", "area", "brightness", "mean colour", "silhouette", "background", *ALTERATIONS):
        assert name in told
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert {"run", "leaky", "cells", "subjects", "cues", "altered"} <= set(audit)
    assert cv2.imread(str(tmp_path / "figures" / "shortcuts.png")) is not None


def test_wrong_wishes_are_one_sentence(
    classifier: Classifier,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path, data) == 2
    assert "is not a finished run folder" in capsys.readouterr().err
    monkeypatch.setattr(bloodedge.evaluation.classifier, "open_run", lambda _: classifier)
    assert run(tmp_path, data, "--chart", "chart.svg") == 2
    assert "must end in .png" in capsys.readouterr().err
    (tmp_path / "all").mkdir()
    assert cv2.imwrite(str(tmp_path / "all" / "UID_1_1_1_all.png"), disc(20, seed=0))
    assert run(tmp_path, tmp_path) == 2
    assert "is not the data this run was fitted to" in " ".join(capsys.readouterr().err.split())
