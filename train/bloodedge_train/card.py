"""The model card of a run: Mitchell et al., "Model cards for model reporting", FAT* 2019."""

from bloodedge import RESEARCH_USE
from bloodedge.manifest import Evaluation, RunMetrics, RunRecord
from bloodedge_train.zoo import ZOO

PARTS = {
    "validation": "Validation (chose the epoch and the temperature)",
    "test": "Test (held out)",
    "shift": "Shift set (held out: people unlike those in training)",
}


def model_card(record: RunRecord, metrics: RunMetrics) -> str:
    """Markdown."""
    sections = [_head(record), _data(record)]
    sections += [_part(PARTS[name], evaluation) for name, evaluation in metrics.parts.items()]
    sections.append(_limits(record, metrics))
    return "\n\n".join(sections) + "\n"


def _head(record: RunRecord) -> str:
    return f"""# {record.name}

**{RESEARCH_USE}**

Says of one segmented white cell whether it looks like a leukaemic blast (ALL) or a normal cell.

| | |
|---|---|
| network | {record.model} ({ZOO[record.model].paper}), \
{record.parameters:,} parameters, starting weights: {record.weights} |
| input | uint8 RGB {record.imaging.size_px}x{record.imaging.size_px}, {record.imaging.um_per_px:.3f} µm per pixel, \
scale {record.imaging.scale}, light {record.imaging.light.replace("_", " ")}, background black |
| output | softmax over {", ".join(record.labels)}; temperature {record.temperature:.3f} |
| recipe | {record.recipe["name"]}, seed {record.seed}, best epoch {record.best_epoch} of {len(record.history)} |
| trained | {record.created} on {record.hardware} (Keras {record.versions.get("keras", "?")}, {record.backend}) |"""


def _data(record: RunRecord) -> str:
    kind = (
        "**by image: leaky**, cells of one person stand on both sides"
        if record.split.leaky
        else "by group: no person (nor people who share a picture) stands on two sides"
    )
    rows = "\n".join(
        f"| {name} | {part.cells:,} | {len(part.subjects)} | {', '.join(part.subjects)} |"
        for name, part in record.split.parts.items()
    )
    source = "drawn by the simulated microscope; no real cell" if record.data.rendered else "images of stained cells"
    return f"""## Data

{record.data.cells:,} cells of {record.data.subjects} subjects ({source}), split {kind}. Fingerprint \
`{record.data.fingerprint[:16]}`.

| part | cells | subjects | who |
|---|---|---|---|
{rows}"""


def _part(title: str, evaluation: Evaluation) -> str:
    rows = []
    for name in (
        "weighted_f1",
        "macro_f1",
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "auc",
        "ece",
    ):
        value = getattr(evaluation, name)
        limits = evaluation.ci95.get(name)
        shown = "-" if value is None else f"{value:.3f}"
        rows.append(
            f"| {name.replace('_', ' ')} | {shown} | {f'{limits[0]:.3f} .. {limits[1]:.3f}' if limits else '-'} |"
        )
    people = [
        f"| {name} | {row.label} | {row.cells} | {row.accuracy:.3f} |" for name, row in evaluation.per_subject.items()
    ]
    leaky = "\n\n**Leaky: cells of these people were seen in training.**" if evaluation.leaky else ""
    return f"""## {title}{leaky}

{evaluation.cells:,} cells of {evaluation.subjects} subjects; intervals are 95 %, bootstrapped over subjects.

| figure | value | interval |
|---|---|---|
{chr(10).join(rows)}

| subject | true class | cells | accuracy |
|---|---|---|---|
{chr(10).join(people)}"""


def _limits(record: RunRecord, metrics: RunMetrics) -> str:
    worst = [
        f"{PARTS[name].split(' (')[0].lower()}: {min(e.per_subject.items(), key=lambda row: row[1].accuracy)[0]} "
        f"({min(row.accuracy for row in e.per_subject.values()):.3f})"
        for name, e in metrics.parts.items()
    ]
    domain = (
        "It has seen drawn cells only and says nothing about real ones."
        if record.data.rendered
        else "It has seen cells from one laboratory, stain and microscope; elsewhere its figures must be measured anew."
    )
    return f"""## Limits

- {domain}
- It answers for every cell it is shown, white cells of other kinds included; only cells like those above mean anything.
- Worst subject of each part: {"; ".join(worst)}.
- Expected calibration error on validation before the temperature: {metrics.ece_before_temperature:.3f}.
- Latency of one cell where it was trained: p50 {metrics.latency_ms.p50:.2f} ms, p95 {metrics.latency_ms.p95:.2f} ms \
({metrics.hardware})."""
