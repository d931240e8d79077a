"""A teacher must tell the same things apart, see what its student sees, and know nobody the student is scored on."""

from pathlib import Path
from typing import Any

import pytest

from bloodedge.bundle.run_record import read_run
from bloodedge.cli import main
from bloodedge.data.dataset import read_dataset
from bloodedge.data.fitted_pictures import FittedPictures

RECIPE = """
[imaging]
size_px = {size}
um_per_px = {um_per_px}
[split]
validation = 0.2
test = 0.2
[fit]
epochs = 1
batch = 32
"""


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *map(str, arguments)])
    return int(exit_.value.code or 0)


def recipe(folder: Path, size: int, um_per_px: float) -> Path:
    path = folder / f"{size}.toml"
    path.write_text(RECIPE.format(size=size, um_per_px=um_per_px))
    return path


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, rendered_data: Path) -> list[str]:
    chosen = recipe(tmp_path_factory.mktemp("recipe"), 32, 0.6)
    return [str(rendered_data), "--model", "edgenet", "--recipe", str(chosen)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, rendered_data: Path) -> Path:
    """One that sees the same cells in twice the pixels."""
    folder = tmp_path_factory.mktemp("teacher")
    finer = recipe(folder, 64, 0.3)
    assert run(rendered_data, "--model", "edgenet", "--recipe", finer, "--out", folder / "run") == 0
    return folder / "run"


def test_a_student_may_have_another_size_and_its_run_names_its_teachers(
    tmp_path: Path, asked: list[str], teacher: Path
) -> None:
    assert run(*asked, "--teacher", teacher, "--out", tmp_path / "run") == 0
    assert read_run(tmp_path / "run").teachers == [str(teacher)]
    assert str(teacher.name) in (tmp_path / "run" / "MODEL_CARD.md").read_text()


def altered(teacher: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    record = read_run(teacher)
    (folder / "run.json").write_text(record.model_copy(update=changes).model_dump_json())
    for name in ("model.keras", "fitted.npz"):
        (folder / name).symlink_to(teacher / name)
    return folder


def test_a_teacher_with_other_labels_is_refused(
    tmp_path: Path, asked: list[str], teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = altered(teacher, tmp_path / "teacher", labels=["cat", "dog"])
    assert run(*asked, "--teacher", other, "--out", tmp_path / "run") == 2
    assert "tells cat, dog apart, the student normal, blast" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"light": "levelled"}, "another light"), ({"um_per_px": 0.6}, "another field of view")],
)
def test_a_teacher_that_sees_something_else_is_refused(
    tmp_path: Path,
    asked: list[str],
    teacher: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: str,
) -> None:
    imaging = read_run(teacher).imaging.model_copy(update=changes)
    other = altered(teacher, tmp_path / "teacher", imaging=imaging)
    assert run(*asked, "--teacher", other, "--out", tmp_path / "run") == 2
    assert words in capsys.readouterr().err


def test_a_teacher_that_has_seen_the_students_test_people_is_refused(
    tmp_path: Path, asked: list[str], teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*asked, "--seed", "9", "--teacher", teacher, "--out", tmp_path / "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "for whom the student's figures are held out; use a teacher fitted on the same split" in told


def test_a_teacher_that_is_no_run_is_told(tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*asked, "--teacher", tmp_path, "--out", tmp_path / "run") == 2
    assert "is not a finished run folder" in capsys.readouterr().err


def test_a_teacher_fitted_to_held_out_pictures_of_people_by_other_names_is_refused(
    tmp_path: Path, asked: list[str], teacher: Path, rendered_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = read_dataset(rendered_data).unique
    other = altered(teacher, tmp_path / "teacher")
    fitted = FittedPictures.of({"train": cells})
    (other / "fitted.npz").unlink()
    (other / "fitted.npz").write_bytes(fitted.pack())
    assert run(*asked, "--teacher", other, "--out", tmp_path / "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    held = read_run(teacher).split.parts["test"].cells
    assert f"was fitted to {held} of the {held} pictures that are held out" in told
