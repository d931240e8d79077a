"""Fine-tuning from beginning to end: bundle and cells in, a better bundle out, or a sentence that says why not."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from bloodedge.bundle import Bundle, is_bundle
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.manifest import FinetuneRecord, Manifest
from bloodedge.bundle.run_record import read_run
from bloodedge.console import Progress
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.evaluation.rates import CARD, with_section
from bloodedge.logistic.basis import int8_noise, int8_steps
from bloodedge.signing.signature import sign_bundle
from bloodedge_convert.finetuning.bench_limits import accepted, with_bench
from bloodedge_convert.finetuning.cells import read_cells, require_unseen
from bloodedge_convert.finetuning.fit import INT8_STRENGTH, Source, Space
from bloodedge_convert.finetuning.judge import Judged, decide, doubts, judge, line
from bloodedge_convert.finetuning.networks import FLOAT, open_features, open_networks
from bloodedge_convert.finetuning.page import card_lines, page
from bloodedge_convert.finetuning.write import Writer
from bloodedge_convert.job import Report


@dataclass(frozen=True)
class Finetuned:
    """A written bundle and what it was judged to be."""

    path: Path
    manifest: Manifest
    judged: Judged
    notes: list[str]


def finetune(
    data: Path,
    source: Path,
    out: Path,
    layout: DataLayout,
    *,
    key: Any = None,
    most_forgotten: float,
    report: Report,
) -> Finetuned:
    """Fit the head of ``source`` to the cells in ``data`` and write the bundle ``out``, signed with ``key`` if given.

    source: a bundle, or a run folder, which is converted first. Nothing is written unless the new model is better on
    slides held back and loses at most ``most_forgotten`` points on the release's own people. Raises UsageError for
    cells or a bundle that cannot be used.
    """
    cv2.setNumThreads(1)
    if is_bundle(source):
        return _finetune(data, source, out, layout, key, most_forgotten, report)
    if read_run(source).features is None:
        raise UsageError(
            f"{source} keeps no features of its training cells; fine-tuning begins with a run of a head that this "
            "version trained (bloodedge train --recipe cells, or head)."
        )
    with tempfile.TemporaryDirectory(prefix=".bloodedge-finetune-", dir=out.absolute().parent) as folder:
        from bloodedge_convert.conversion import Options, convert

        made = Path(folder) / f"{source.resolve().name}.bundle"
        options = Options(float16=True, no_float32=True, engines=("litert", "openvino"))
        convert(source, made, options, None, force=False, report=report)
        return _finetune(data, made, out, layout, key, most_forgotten, report)


def _finetune(
    data: Path, source: Path, out: Path, layout: DataLayout, key: Any, most_forgotten: float, report: Report
) -> Finetuned:
    with Bundle(source) as bundle:
        kept = open_features(bundle)
        networks = open_networks(bundle, kept)
        cells = read_cells(data, layout, bundle.manifest.imaging, report)
        require_unseen(bundle, kept, cells)
        seen = [one.features(cells.images, _step(report, f"Features by {one.name}")) for one in networks]
        at = line(bundle.manifest)
        bench = Source.of_bench(seen[0], kept.rule, at, cells.labels, cells.slides)
        report("Fitting the head", 0, 1)
        rounded = next((f for n, f in zip(networks, seen, strict=True) if n.artifact.precision not in FLOAT), None)
        noise = None if rounded is None else int8_noise(seen[0], rounded, INT8_STRENGTH)
        space = Space(Source.of_release(kept, at), bench, noise, int8_steps(kept.values, kept.widths.tolist()))
        judged = judge(space, bundle.manifest, most_forgotten)
        report("Fitting the head", 1, 1)
        domain = with_bench(bundle.manifest.domain, cells, judged.folds)
        shares = accepted(bundle.manifest.domain, domain, cells)
        judged = decide(judged, space, bundle.manifest, shares, most_forgotten)
        notes = [*doubts(judged), *cells.warnings]
        writer = Writer(bundle, kept, cells, judged, bench, domain)
        report("Writing the bundle", 0, 1)
        made_of = [writer.artifact(one, features) for one, features in zip(networks, seen, strict=True)]
        artifacts = [one for one in made_of if one is not None]
        if not artifacts:
            raise BloodedgeError(
                f"No bundle was written: no network is near enough. {' '.join(writer.left_out.values())}"
            )
        notes += [f"Left out: {name.replace('/', ' ')}. {why}" for name, why in writer.left_out.items()]
        order = [(one.engine, one.precision) for one in bundle.manifest.artifacts]
        artifacts.sort(key=lambda one: order.index((one.engine, one.precision)))
        record = _record(bundle.manifest, judged, cells.labels)
        manifest = writer.manifest(out.stem, artifacts, record)
        card = with_section(writer.files.get(CARD, b"").decode(), card_lines(manifest, notes))
        document = page(bundle.manifest, manifest, judged, bench, cells, shares, notes)
        with tempfile.TemporaryDirectory(prefix=".bloodedge-finetune-", dir=out.absolute().parent) as folder:
            made = Path(folder) / out.name
            manifest = writer.write(made, manifest, document, card)
            if key is not None:
                sign_bundle(made, key)
            made.replace(out)
        report("Writing the bundle", 1, 1)
    return Finetuned(out, manifest, judged, notes)


def _step(report: Report, what: str) -> Progress:
    return lambda done, total: report(what, done, total)


def _record(old: Manifest, judged: Judged, labels: Any) -> FinetuneRecord:
    return FinetuneRecord(
        from_name=old.name,
        from_serial=old.serial,
        cells=len(labels),
        blasts=int(labels.sum()),
        slides=judged.after.subjects,
        before=judged.before,
        after=judged.after,
        release_before=judged.release_before,
        release_after=judged.release_after,
    )
