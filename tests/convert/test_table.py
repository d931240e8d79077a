"""What convert prints at its end, in the narrowest terminal."""

from pathlib import Path

import pytest
from rich.console import Console

import bloodedge.console
from bloodedge import tables
from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Artifact
from bloodedge_convert.cli import show
from bloodedge_convert.conversion import Converted
from bloodedge_convert.judge.gate import Limits

RELEASED = Path(__file__).parents[2] / "models" / "cells.bundle"


def worst(artifact: Artifact) -> Artifact:
    """The artifact with the widest figures that there can be."""
    agreement = artifact.agreement
    drop = {**agreement.drop, "weighted_f1": -12.34}
    update = {"flips": agreement.cells, "flip_rate": 1.0, "drop": drop, "max_probability_difference": 0.0005123}
    return artifact.model_copy(update={"agreement": agreement.model_copy(update=update)})


@pytest.mark.parametrize("width", [80, 110, 200])
def test_each_artifact_is_one_line_with_whole_intervals(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest
    artifacts = [worst(one) for one in manifest.artifacts]
    out = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: PTH123, SIM115
    for module in (bloodedge.console, tables):
        monkeypatch.setattr(module, "console", lambda: out)
    loss = manifest.model_copy(update={"artifacts": artifacts})
    show(Converted(Path("cells.bundle"), loss, 1000, 9, [], Limits(), []))
    lines = out.export_text().splitlines()
    for artifact in artifacts:
        figures, lost, _ = (line for line in lines if line.startswith(f"{artifact.engine} {artifact.precision}"))
        for name in ("weighted_f1", "auc"):
            low, high = artifact.evaluation.ci95[name]
            assert f"{getattr(artifact.evaluation, name):.3f} [{low:.3f}, {high:.3f}]" in figures
        assert "-12.34" in lost
        assert f"{artifact.agreement.cells} (100.00 %)" in lost
        assert lost.rstrip().endswith("0.0005")
