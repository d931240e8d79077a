"""Measuring a bundle's rates of error and refusal again, on more people or in another laboratory."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bloodedge.bundle import MANIFEST, Bundle, zip_files
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.json_records import record_bytes
from bloodedge.bundle.manifest import Artifact, Manifest
from bloodedge.console import Progress
from bloodedge.data.dataset import CNMC_LAYOUT, CellFile, Dataset
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures
from bloodedge.data.split import recall
from bloodedge.decision.error_rates import FEWEST_PEOPLE, Rates
from bloodedge.decision.operating_point import choose_thresholds
from bloodedge.decision.slide_verdict import scores_lines
from bloodedge.decision.thresholds import Thresholds
from bloodedge.engine.golden import compare, unpack_golden
from bloodedge.errors import UsageError
from bloodedge.evaluation.classifier import Classifier, blast_probabilities, open_bundle
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.filmed import Filmed, Floats, film
from bloodedge.evaluation.held_out import choose_cells
from bloodedge.evaluation.reading import read_for
from bloodedge.files import write_beside

CARD = "MODEL_CARD.md"
HEADING = "## What it says of people it has not seen"


def measure_rates(
    bundle: Path,
    data: Path,
    out: Path,
    threads: int,
    *,
    layout: DataLayout = CNMC_LAYOUT,
    leave_out: Collection[str] = (),
    sensitivity: float | None = None,
    specificity: float | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Copy ``bundle`` to ``out`` with the rates and the reference of the cells in ``data`` that it was not fitted to.

    layout: how ``data`` are laid out. leave_out: subjects to leave out, such as a training person under another name.
    With a sensitivity or specificity, 0..1, the thresholds are chosen for it on these people first. An older bundle
    gets the digests of its training pictures if ``data`` holds them. The copy is not signed. Raises UsageError for too
    few people.
    """
    with Bundle(bundle) as opened:
        manifest = opened.manifest
        files = {name: opened.read(name) for name in manifest.files}
    classifiers = [open_bundle(bundle, a.engine, a.precision, threads) for a in manifest.artifacts]
    dataset = read_for(classifiers[:1], data, layout, progress)
    cells = _held_out(classifiers[0], dataset, leave_out)
    filmed = film(cells, [], manifest.imaging, seed=0, progress=progress)
    name = f"cells of people not seen in training, of {data.name} ({dataset.fingerprint[:12]})"
    blast = blast_probabilities(classifiers[0].engine, filmed.images, manifest.temperature)
    before = manifest.thresholds
    if sensitivity is not None or specificity is not None:
        manifest = _with_goal(manifest, filmed, blast, name, sensitivity, specificity)
        manifest = _with_self_test(manifest, classifiers, files[manifest.golden.file])
    measured = [
        _measured(artifact, classifier, filmed, manifest, name)
        for artifact, classifier in zip(manifest.artifacts, classifiers, strict=True)
    ]
    _require_people(measured[0].rates, data)
    scores = filmed.scores(blast, manifest.domain, dataset.group, name)
    update: dict[str, object] = {
        "serial": int(datetime.now(UTC).timestamp()),
        "artifacts": measured,
        "reference": filmed.reference(blast) or manifest.reference,
        "people_scores": scores or manifest.people_scores,
    }
    pictures = _fitted(manifest, classifiers[0], dataset)
    if pictures is not None:
        files[FITTED_FILE] = pictures.pack()
        update["fitted"] = pictures.record()
    card = with_section(files.get(CARD, b"").decode(), thresholds_lines(before, manifest))
    card = with_section(card, rates_lines(measured[0]))
    files[CARD] = with_section(card, scores_lines(scores) if scores else []).encode()
    update["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = manifest.model_copy(update=update)
    files[MANIFEST] = record_bytes(manifest)
    write_beside(out, lambda target: zip_files(files, target))
    return manifest


def _held_out(classifier: Classifier, dataset: Dataset, leave_out: Collection[str]) -> list[CellFile]:
    unknown = sorted(set(leave_out) - set(dataset.groups))
    if unknown:
        raise UsageError(f"{dataset.root} has no subject {unknown[0]}; leave --leave-out {unknown[0]} out.")
    cells = choose_cells(Ensemble.of([classifier]), dataset, "auto").cells
    return [cell for cell in cells if cell.subject and cell.subject not in leave_out]


def _measured(artifact: Artifact, classifier: Classifier, filmed: Filmed, manifest: Manifest, data: str) -> Artifact:
    blast = blast_probabilities(classifier.engine, filmed.images, manifest.temperature)
    rates = filmed.rates(blast, manifest.domain, manifest.thresholds, data)
    return artifact.model_copy(update={"rates": rates})


def _with_goal(
    manifest: Manifest,
    filmed: Filmed,
    blast: Floats,
    data: str,
    sensitivity: float | None,
    specificity: float | None,
) -> Manifest:
    """The manifest with thresholds for a sensitivity or specificity on the filmed cells."""
    inside = filmed.inside(manifest.domain)
    cells = [cell for cell, yes in zip(filmed.cells, inside, strict=True) if yes]
    labels, people = [cell.label for cell in cells], [cell.subject for cell in cells]
    chosen = choose_thresholds(blast[inside], labels, people, data, sensitivity=sensitivity, specificity=specificity)
    if chosen is None:
        raise UsageError("The data hold too few people whom this bundle has not seen to choose thresholds on.")
    return manifest.model_copy(update={"thresholds": chosen[0], "operating_point": chosen[1]})


def _with_self_test(manifest: Manifest, classifiers: Sequence[Classifier], golden: bytes) -> Manifest:
    """The manifest with the flips that its artifacts show on the golden cells at its thresholds."""
    inputs, reference = unpack_golden(golden)
    flips = {
        f"{artifact.engine}/{artifact.precision}": compare(
            classifier.engine, inputs, reference, manifest.temperature, manifest.thresholds.blast
        ).clear_flips
        for artifact, classifier in zip(manifest.artifacts, classifiers, strict=True)
    }
    return manifest.model_copy(update={"golden": manifest.golden.model_copy(update={"max_flips": flips})})


def _require_people(rates: Rates | None, data: Path) -> None:
    if rates is None or not rates.known:
        raise UsageError(
            f"{data} holds too few people whom this bundle has not seen: rates need {FEWEST_PEOPLE} or more with blasts"
            f" and {FEWEST_PEOPLE} or more with normal cells, of whom some cells are called."
        )


def _fitted(manifest: Manifest, classifier: Classifier, dataset: Dataset) -> FittedPictures | None:
    """The pictures that an older bundle was fitted to, if it does not name them and the data hold them."""
    if manifest.fitted is not None:
        return None
    try:
        return FittedPictures.of(recall(dataset, classifier.split, classifier.split_spec))
    except UsageError:  # other data
        return None


def with_section(card: str, lines: Sequence[str]) -> str:
    """A model card with a section, whose first line is its heading, in place of an earlier one of that heading."""
    if not lines:
        return card
    head, found, rest = card.partition(lines[0] + "\n")
    after = rest[rest.index("\n## ") + 1 :] if found and "\n## " in rest else ""
    return "\n\n".join(part for part in (head.rstrip(), after.rstrip(), "\n".join(lines)) if part) + "\n"


def thresholds_lines(before: Thresholds, manifest: Manifest) -> list[str]:
    """A card's section on thresholds that were chosen anew; empty if they were not."""
    if manifest.thresholds == before or manifest.operating_point is None:
        return []
    return [
        "## Thresholds",
        "",
        f"{manifest.thresholds.describe().capitalize()}. {manifest.operating_point.describe()}",
        "",
        f"Figures of the test part were measured at other thresholds: {before.describe()}.",
    ]


def rates_lines(artifact: Artifact) -> list[str]:
    """A card's section on an artifact's rates, person by person; empty if they are not known."""
    rates = artifact.rates
    if rates is None:
        return []
    rows = [
        f"| {person} | {true} | {one.called + one.refused} | {one.blast} | {one.normal} | {one.refused} |"
        for true, people in (("blast", rates.blast), ("normal", rates.normal))
        for person, one in people.items()
    ]
    what = (
        f"{artifact.engine} {artifact.precision} on {rates.data}, {rates.people} people, as a camera would show their"
        " cells. A slide's share of blasts is corrected by these rates; refused are cells near the decision line and"
        " cells unlike the training cells."
    )
    return [
        HEADING,
        "",
        what,
        "",
        "| person | true class | cells | called blast | called normal | refused |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
