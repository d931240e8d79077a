"""A run's own predictions of held-out people say how a slide as a whole is judged."""

from pathlib import Path

from bloodedge.bundle.run_record import PartRecord, RunRecord, SplitRecord
from bloodedge_convert.cells.run_scores import run_scores


def record(kind: str = "group") -> RunRecord:
    groups = ["1+2", *(str(n) for n in range(3, 8)), *(f"H{n}" for n in range(1, 7))]
    part = PartRecord(cells=1, groups=groups, subjects=[], digest="")
    return RunRecord.model_construct(split=SplitRecord(kind=kind, seed=0, parts={"train": part}))


def write(run: Path, part: str) -> None:
    rows = ["part,cell,subject,label,blast_uncalibrated,blast"]
    for label, people in ((1, [str(n) for n in range(1, 8)]), (0, [f"H{n}" for n in range(1, 7)])):
        rows += [f"{part},cell{n},{who},{label},0.5,{0.9 if label else 0.1}" for who in people for n in range(10)]
    rows += ["validation,cell,99,1,0.5,0.9"]
    (run / "predictions.csv").write_text("\n".join(rows))


def test_each_person_counts_once_whatever_their_names(tmp_path: Path) -> None:
    write(tmp_path, "inner")
    scores = run_scores(tmp_path, record())
    assert scores is not None
    assert scores.patients.keys() == {"1+2", "3", "4", "5", "6", "7"}
    assert scores.patients["1+2"].high == 20
    assert scores.healthy.keys() == {f"H{n}" for n in range(1, 7)}


def test_people_who_chose_something_and_leaky_splits_do_not_count(tmp_path: Path) -> None:
    assert run_scores(tmp_path, record()) is None
    write(tmp_path, "validation")
    assert run_scores(tmp_path, record()) is None
    write(tmp_path, "test")
    assert run_scores(tmp_path, record()) is not None
    assert run_scores(tmp_path, record("image")) is None
