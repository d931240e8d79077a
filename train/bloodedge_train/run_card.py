"""The model card of a run: Mitchell et al., "Model cards for model reporting", FAT* 2019."""

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.run_record import RunMetrics, RunRecord
from bloodedge.imaging.network_input import in_words
from bloodedge.tables import figure_cells
from bloodedge_train.zoo import ZOO, names_of

PARTS = {
    "validation": "Validation (chose the epoch, the temperature and the thresholds)",
    "inner": "People held back in turn (chose the penalty, the temperature and the thresholds)",
    "folds": "Cross-validation (each person held out once; penalty, temperature and thresholds chosen on the others)",
    "test": "Test (held out)",
    "shift": "Shift set (held out: people unlike those in training)",
}
FIGURES = {
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mean_subject_accuracy": "mean accuracy of a subject",
    "precision": "precision (blasts)",
    "sensitivity": "sensitivity (recall of blasts)",
    "specificity": "specificity",
    "f1": "F1 (blasts)",
    "auc": "AUC",
    "pr_auc": "average precision (PR-AUC)",
    "brier": "Brier score",
    "ece_before": "expected calibration error, before the temperature",
    "ece": "expected calibration error, after it",
}


def model_card(record: RunRecord, metrics: RunMetrics) -> str:
    """Markdown."""
    sections = [_head(record), _data(record)]
    if record.operating_point is not None:
        sections.append(f"## Thresholds\n\n{record.operating_point.describe()}")
    sections += [_part(PARTS[name], evaluation) for name, evaluation in metrics.parts.items()]
    sections.append(_limits(record, metrics))
    return "\n\n".join(sections) + "\n"


def _head(record: RunRecord) -> str:
    return f"""# {record.name}

**{RESEARCH_USE}**

Classifies one segmented white cell as a leukaemic blast (ALL) or a normal cell.

| | |
|---|---|
| network | {_network(record)}, \
{_size(record)}, starting weights: {record.weights} |
| input | uint8 RGB, {in_words(record.imaging.input_shape)}, {_look(record)} |
| output | softmax over {", ".join(record.labels)}; temperature {record.temperature:.3f} |
| thresholds | {record.thresholds.describe()} |
| recipe | {record.recipe["name"]}, seed {record.seed}, {_kept(record)} |
| trained | {record.created} on {record.hardware} (Keras {record.versions.get("keras", "?")}, {record.backend}) |"""


def _network(record: RunRecord) -> str:
    return " + ".join(f"{name} ({ZOO[name].paper})" for name in names_of(record.model))


def _kept(record: RunRecord) -> str:
    kept = record.history[record.best_epoch - 1 : record.best_epoch]
    if kept and "penalty" in kept[0]:
        return f"a logistic head with penalty {kept[0]['penalty']:g} on features that stayed as they were"
    return f"best epoch {record.best_epoch} of {len(record.history)}"


def _look(record: RunRecord) -> str:
    imaging = record.imaging
    light = imaging.light.replace("_", " ")
    scale = {
        "physical": f"every cell at {imaging.um_per_px:.3f} µm per pixel (physical)",
        "canonical": f"every cell filling {imaging.area_fraction:.0%} of the frame (canonical)",
    }
    views = " and ".join(scale[view] for view in imaging.views)
    rim = f"a rim of {imaging.trim_um:g} µm left out, " if imaging.trim_um else ""
    return f"{views}, light {light}, {rim}denoise {imaging.denoise}, intensity, 0 round the cell"


def _size(record: RunRecord) -> str:
    macs = "" if record.macs is None else f", {record.macs / 1e6:,.1f} million multiply-accumulates a cell"
    return f"{record.parameters:,} parameters{macs}"


def _data(record: RunRecord) -> str:
    kind = (
        "**by image: leaky**, cells of one person are in several parts"
        if record.split.leaky
        else "by group: no person (nor people who share a picture) is in two parts"
    )
    if record.cross_validation:
        folds = len(record.cross_validation.folds)
        kind = f"not at all: the network was fitted to everybody, and judged by {folds} others, each fitted to the rest"
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
    for name, title_of_row in FIGURES.items():
        value, interval = figure_cells(getattr(evaluation, name), evaluation.ci95.get(name))
        if value != "-":
            rows.append(f"| {title_of_row} | {value} | {interval} |")
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
        f"{PARTS[name].split(' (')[0].lower()}: {e.worst_subject} ({e.per_subject[e.worst_subject].accuracy:.3f})"
        for name, e in metrics.parts.items()
    ]
    domain = (
        "It was fitted to simulated cells only; its figures say nothing about real ones."
        if record.data.rendered
        else "It was fitted to cells of one laboratory, stain and microscope; measure its figures again elsewhere."
    )
    never = "".join(
        f"- **None of the {part.cells} cells of the {name} part was called {part.never_called}.**\n"
        for name, part in metrics.parts.items()
        if part.never_called is not None
    )
    return f"""## Limits

{never}- {domain}
- It answers for every cell it is shown, white cells of other kinds included; only cells like those above mean anything.
- Worst subject of each part: {"; ".join(worst)}.
- Latency of one cell where it was trained: p50 {metrics.latency_ms.p50:.2f} ms, p95 {metrics.latency_ms.p95:.2f} ms \
({metrics.hardware})."""
