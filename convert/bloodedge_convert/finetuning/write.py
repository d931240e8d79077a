"""The new bundle: the old one with another head, and with what follows from it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle import MANIFEST, REPORT, Bundle, zip_files
from bloodedge.bundle.json_records import record_bytes
from bloodedge.bundle.manifest import Artifact, FinetuneRecord, Manifest
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures
from bloodedge.data.training_features import FEATURES_FILE, TrainingFeatures
from bloodedge.decision.domain import Domain
from bloodedge.decision.error_rates import Rates, count_outcomes
from bloodedge.decision.slide_verdict import people_scores
from bloodedge.decision.thresholds import decide
from bloodedge.engine import Engine, load_bytes
from bloodedge.engine.golden import compare, pack_golden, unpack_golden
from bloodedge.evaluation.scoring import agree, score
from bloodedge.files import write_beside
from bloodedge.logistic.rule import Linear, Rule
from bloodedge.logistic.solver import sigmoid
from bloodedge.machine import default_threads
from bloodedge_convert.finetuning.bench_limits import moved
from bloodedge_convert.finetuning.cells import BenchCells
from bloodedge_convert.finetuning.fit import Source
from bloodedge_convert.finetuning.judge import DATA, Judged, called, line
from bloodedge_convert.finetuning.networks import FLOAT, Network

RELEASE_DATA = "the release's own cells, each called by a head that was fitted to none of its person"
FLIPS = 3.0
"""Percent of the cells whose class int8 may change, beyond what chance gives so few cells."""
ERROR = 0.05
"""Mean difference of the probability that int8 may cause on the bench's cells."""

Floats = NDArray[np.float64]


class Writer:
    """Makes a bundle of a fine-tuned head, artifact by artifact."""

    def __init__(
        self,
        bundle: Bundle,
        kept: TrainingFeatures,
        cells: BenchCells,
        judged: Judged,
        bench: Source,
        domain: Domain | None,
    ) -> None:
        self.old, self.kept, self.cells, self.judged, self.bench = bundle.manifest, kept, cells, judged, bench
        self.files = {name: bundle.read(name) for name in bundle.manifest.files}
        self.domain = domain
        self.float_odds = judged.log_odds(bench)
        exact = judged.new.change.of(kept.rule, line(self.old))
        rounded = exact.any_bench.in_float16()
        lost = float((exact.any_bench.log_odds(bench.features) - rounded.log_odds(bench.features)).mean())
        own = exact.own_bench and replace(exact.own_bench, more=exact.own_bench.more.in_float16())
        self.rule = Rule(Linear(rounded.weights, rounded.bias + lost), own)
        self.golden_inputs, _ = unpack_golden(self.files[self.old.golden.file])
        self.golden: NDArray[np.float32] | None = None
        self.left_out: dict[str, str] = {}
        self.flips: dict[str, int] = {}
        self.differences: dict[str, float] = {}

    def artifact(self, network: Network, features: NDArray[np.float32]) -> Artifact | None:
        """Replace an artifact's head and measure it; features: (N, D) of the bench's cells by this network.

        The first network is a float one. None for one that changes too many cells, which is left out.
        """
        old = network.artifact
        shift = float((self.rule.log_odds(self.bench.features) - self.rule.log_odds(features)).mean())
        shifted = self.rule.changed(1.0, Linear(np.zeros(features.shape[1]), shift))
        made = network.replaced(shifted, self.kept.widths)
        names = [old.file, *([old.weights_file] if old.weights_file else [])]
        self.files |= dict(zip(names, made, strict=True))
        self._golden(
            network.name, load_bytes(old.engine, made[0], made[1] if len(made) > 1 else None, default_threads())
        )
        seen = Source.of_bench(features, self.kept.rule, line(self.old), self.bench.labels, self.bench.groups)
        odds = self.judged.log_odds(seen) + shift
        blast, expected = (called(values, self.old) for values in (odds, self.float_odds))
        people, thresholds = self.bench.groups.tolist(), self.judged.new.thresholds
        agreement = agree(expected, blast, self.bench.labels, people, thresholds)
        why = _complaint(network.name, agreement.flip_rate, agreement.mean_probability_difference or 0.0, len(blast))
        if why:
            self.left_out[network.name] = why
            for name in names:
                del self.files[name]
            return None
        evaluation = score(self.bench.labels, blast, people, threshold=thresholds.blast)
        return old.model_copy(
            update={
                "sha256": hashlib.sha256(made[0]).hexdigest(),
                "size_bytes": sum(map(len, made)),
                "evaluation": evaluation.model_copy(update={"latency_ms": old.evaluation.latency_ms}),
                "agreement": agreement,
                "rates": self._rates(blast),
            }
        )

    def _golden(self, name: str, engine: Engine) -> None:
        outputs = engine.predict(self.golden_inputs)
        if self.golden is None:
            self.golden = outputs
        thresholds = self.judged.new.thresholds
        found = compare(engine, self.golden_inputs, self.golden, self.old.temperature, thresholds.blast)
        self.flips[name], self.differences[name] = found.clear_flips, found.max_probability_difference

    def _rates(self, blast: Floats) -> Rates:
        """Of the bench's slides; of the release's people too where the bench has too few slides of either class."""
        thresholds = self.judged.new.thresholds
        inside = np.ones(len(blast), bool)
        if self.domain is not None:
            inside = self.domain.distances(self.cells.figures) <= self.domain.limit
        verdicts = [
            decide(float(p), thresholds)[0] if yes else "uncertain" for p, yes in zip(blast, inside, strict=True)
        ]
        ours = count_outcomes(self.bench.groups.tolist(), self.bench.labels.tolist(), verdicts, DATA)
        if ours.known:
            return ours
        release = called(self.judged.new.release, self.old)
        verdicts = [decide(float(p), thresholds)[0] for p in release]
        theirs = count_outcomes(self.kept.people.tolist(), self.kept.labels.tolist(), verdicts)
        return Rates(
            data=f"{DATA}, and {RELEASE_DATA}",
            blast={**theirs.blast, **ours.blast},
            normal={**theirs.normal, **ours.normal},
        )

    def manifest(self, name: str, artifacts: Sequence[Artifact], record: FinetuneRecord) -> Manifest:
        """The new bundle's manifest; its files are made with it, but for the report."""
        assert self.golden is not None
        old, judged = self.old, self.judged
        features = self._features()
        pictures = self._pictures()
        self.files |= {FEATURES_FILE: features.pack(), FITTED_FILE: pictures.pack()}
        self.files[old.golden.file] = pack_golden(self.golden_inputs, self.golden)
        bench, release = (called(values, old) for values in (self.float_odds, judged.new.release))
        people = [*self.kept.people.tolist(), *self.bench.groups.tolist()]
        labels = [*self.kept.labels.tolist(), *self.bench.labels.tolist()]
        update: dict[str, Any] = {
            "serial": max(int(datetime.now(UTC).timestamp()), old.serial + 1),
            "name": name,
            "thresholds": judged.new.thresholds,
            "operating_point": judged.new.point,
            "domain": self.domain,
            "reference": moved(old.reference, self.cells, bench),
            "people_scores": people_scores(
                np.concatenate([release, bench]), labels, people, f"{RELEASE_DATA}, and {DATA}"
            ),
            "artifacts": list(artifacts),
            "left_out": {**old.left_out, **self.left_out},
            "baseline": old.baseline.model_copy(update={"evaluation": judged.after}),
            "golden": old.golden.model_copy(
                update={
                    "max_flips": _of(self.flips, artifacts),
                    "max_probability_difference": _of(self.differences, artifacts),
                }
            ),
            "fitted": pictures.record(),
            "features": features.record(),
            "provenance": old.provenance.model_copy(update={"split": self._split()}),
            "finetuned": record,
        }
        return old.model_copy(update=update)

    def _features(self) -> TrainingFeatures:
        """The release's cells and the bench's, and the new head."""
        odds = np.concatenate([self.judged.new.release, self.float_odds]) + line(self.old)
        return TrainingFeatures.of(
            np.concatenate([self.kept.values, self.bench.features]),
            np.concatenate([self.kept.labels.astype(np.int64), self.bench.labels]),
            [*self.kept.people.tolist(), *self.bench.groups.tolist()],
            sigmoid(odds),
            self.rule,
            self.kept.widths.tolist(),
            0,
        )

    def _pictures(self) -> FittedPictures:
        ours = FittedPictures.of({"train": self.cells.files})
        if self.old.fitted is None:
            return ours
        theirs = FittedPictures.unpack(self.files[self.old.fitted.file], self.old.fitted.file)
        return FittedPictures(
            np.concatenate([theirs.digests, ours.digests]), np.concatenate([theirs.hashes, ours.hashes])
        )

    def _split(self) -> Any:
        split = self.old.provenance.split
        train = split.parts["train"]
        subjects = sorted({file.subject for file in self.cells.files if file.subject} - set(train.subjects))
        groups = sorted({str(group) for group in self.cells.slides} - set(train.groups)) if subjects else []
        grown = train.model_copy(update={"subjects": [*train.subjects, *subjects], "groups": [*train.groups, *groups]})
        return split.model_copy(update={"parts": {**split.parts, "train": grown}})

    def write(self, out: Path, manifest: Manifest, page: str, card: str) -> Manifest:
        """Write the bundle, whole or not at all."""
        contents = {name: data for name, data in self.files.items() if name != "report.json"}
        contents |= {REPORT: page.encode(), "MODEL_CARD.md": card.encode()}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
        manifest = manifest.model_copy(update={"files": digests})
        contents[MANIFEST] = record_bytes(manifest)
        write_beside(out, lambda target: zip_files(contents, target))
        return manifest


def _of(values: dict[str, Any], artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Those of artifacts that ship."""
    names = {f"{one.engine}/{one.precision}" for one in artifacts}
    return {name: value for name, value in values.items() if name in names}


def _complaint(name: str, flips: float, error: float, cells: int) -> str | None:
    """Why an artifact is too far from the float network on the bench's cells; None where it is near."""
    share = FLIPS / 100
    chance = 2 * float(np.sqrt(share * (1 - share) / cells))
    if name.endswith(FLOAT):
        share, chance = 0.005, 1 / cells
    if flips <= share + chance and error <= ERROR:
        return None
    return (
        f"On the bench's cells it changes the class of {100 * flips:.1f} % and the probability by {error:.3f} on "
        f"average (limits {100 * (share + chance):.1f} % and {ERROR:g})."
    )
