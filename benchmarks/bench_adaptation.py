"""Fine-tuning to a bench: people whom the model never saw, on microscopes unlike any that it was fitted to.

Eight people of C-NMC are left out of a run, which is put into the released bundle's networks (they have the same
features). Each of six benches shows them under a stain, light, focus and scale of its own: their cells are pasted into
fields of two microscopes, and found and cut out by the finder. A person is a slide. Cells of four slides are reviewed,
the other four judge: balanced accuracy, AUC, and the share inside the domain, before and after, against the same cells
fed directly. Once more with a fifth of the answers wrong.

    python benchmarks/bench_adaptation.py --data ../shared/data --work WORK --prepare
    bloodedge train WORK/others --model efficientnet_lite2 --weights efficientnet_lite2.weights.h5 --recipe cells \
        --all-people --out WORK/run
    python benchmarks/bench_adaptation.py --data ../shared/data --work WORK

Writes results/bench_adaptation.json, or what --json names. OPENBLAS_NUM_THREADS=1 makes it quicker on few cores.
"""

import argparse
import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from field import DYES
from finder import matched, without_white_cells
from finder_sources import BCCD_UM_PER_PX, CHULA_WHITE_CELLS, bccd_frames, chula_frames
from numpy.typing import NDArray
from revision import revision

from bloodedge.bundle import MANIFEST, Bundle, zip_files
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.json_records import record_bytes
from bloodedge.bundle.manifest import Manifest
from bloodedge.bundle.run_record import read_run
from bloodedge.data.dataset import CellFile, inputs, read_dataset
from bloodedge.data.exported_cells import CSV
from bloodedge.data.training_features import FEATURES_FILE, TrainingFeatures, training_features
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_json
from bloodedge.finder import find_cells
from bloodedge.imaging import Image, as_image, read_image
from bloodedge.imaging.cell import cell_on_black
from bloodedge.logistic.basis import int8_noise, int8_steps
from bloodedge.metrics import auc
from bloodedge.simulation import paste_cells
from bloodedge_convert.finetuning.bench_limits import accepted, with_bench
from bloodedge_convert.finetuning.cells import BenchCells, read_cells
from bloodedge_convert.finetuning.fit import INT8_STRENGTH, Source, Space
from bloodedge_convert.finetuning.judge import decide, doubts, judge, line
from bloodedge_convert.finetuning.networks import Network, open_features, open_networks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench_adaptation.json"
PATIENTS, HEALTHY = ("26", "30", "34", "68"), ("H12", "H15", "H19", "H40")
REVIEWED = ((0, 1), (2, 3))
"""Of either, by turns, whose slides are reviewed."""
SIZES = (50, 100, 200)
BENCHES = 6
CELLS_PER_FIELD, CELLS_PER_SLIDE = 3, 60
CHULA_UM_PER_PX = 0.193
"""As its red cells measure."""
EXPORTED = "file", "class", "subject", "um_per_px", "light_blue", "light_green", "light_red"
"""Columns of exported cells that are read."""
WRONG = 0.2
FORGETTING = 2.0

Floats = NDArray[np.float64]
Microscope = list[tuple[Image, float]]


@dataclass(frozen=True)
class Look:
    """How a bench shows a slide."""

    densities: Floats
    """(3, 3), from the right, of BGR optical densities."""
    gains: Floats
    """(3,), of the light."""
    defocus_um: float
    zoom: float
    noise: float
    """Standard deviation, in levels."""

    def show(self, bgr: Image, um_per_px: float) -> Image:
        """A field as this slide would look."""
        light = np.percentile(bgr.reshape(-1, 3)[::7], 95, axis=0)
        density = -np.log10((bgr.astype(np.float64) + 1) / (light + 1)) @ self.densities
        lit = np.clip((light * self.gains + 1) * 10**-density - 1, 0, 255)
        blurred: Any = cv2.GaussianBlur(lit, (0, 0), max(self.defocus_um / um_per_px, 0.1))
        kind = cv2.INTER_CUBIC if self.zoom > 1 else cv2.INTER_AREA
        seen: Any = cv2.resize(blurred, None, fx=self.zoom, fy=self.zoom, interpolation=kind)
        return as_image(np.clip(np.rint(seen + np.random.default_rng(0).normal(0, self.noise, seen.shape)), 0, 255))


def looks(bench: int, slides: int) -> Iterator[Look]:
    """The looks of a bench's slides: its own stain, light, focus and scale, and a little of each slide's."""
    rng = np.random.default_rng(1000 + bench)
    dyes = np.vstack([DYES, np.cross(*DYES)])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    turn, strength = 0.2 * rng.uniform(-1, 1, (2, 3)), np.exp(0.3 * rng.uniform(-1, 1, 2))
    light, defocus = 1 + 0.15 * rng.uniform(-1, 1, 3), rng.uniform(0.05, 0.2)
    zoom = rng.uniform(0.55, 1) if bench % 2 == 0 else rng.uniform(1.2, 1.6)
    noise = rng.uniform(0.5, 3)
    for _ in range(slides):
        turned = dyes.copy()
        turned[:2] += turn + 0.03 * rng.uniform(-1, 1, (2, 3))
        turned[:2] *= (strength * np.exp(0.06 * rng.uniform(-1, 1, 2)))[:, np.newaxis]
        gains = light * (1 + 0.03 * rng.uniform(-1, 1, 3))
        yield Look((np.linalg.inv(dyes) @ turned)[::-1, ::-1], gains, defocus * rng.uniform(0.8, 1.2), zoom, noise)


def microscopes(data: Path) -> list[Microscope]:
    """Fields without white cells, with their micrometres per pixel."""
    chula = [frame.bgr for frame in chula_frames(data / "chula") if frame.name not in CHULA_WHITE_CELLS][:12]
    bccd = [(without_white_cells(frame), BCCD_UM_PER_PX) for frame in bccd_frames(data / "bccd")[::24][:12]]
    return [bccd, [(bgr, CHULA_UM_PER_PX) for bgr in chula]]


def make_bench(bench: int, cells: list[CellFile], microscope: Microscope, out: Path) -> None:
    """Write the cells that the bench's finder finds as a device exports them, and which each is."""
    people, um_per_px = sorted({cell.subject for cell in cells}), microscope[0][1]
    rows, sources = [], []
    for person, look in zip(people, looks(bench, len(people)), strict=True):
        own = [cell for cell in cells if cell.subject == person]
        for start in range(0, len(own), CELLS_PER_FIELD):
            group = own[start : start + CELLS_PER_FIELD]
            background = microscope[(start * 7 + bench) % len(microscope)][0]
            crops = [(cell_on_black(read_image(c.path)), "blast" if c.label else "normal") for c in group]
            field = paste_cells(background, crops, um_per_px, seed=start)
            if len(field.cells) < len(group):
                continue
            shown = look.show(field.bgr, um_per_px)
            found = find_cells(shown, um_per_px / look.zoom)
            true = [_zoomed(cell.box, look.zoom) for cell in field.cells]
            for number, index in matched(true, [cell.box for cell in found.cells]):
                if not found.cells[index].touches_border:
                    crop, light = found.cells[index].crop(shown, um_per_px / look.zoom), found.cells[index].light
                    label, name = "blast" if group[number].label else "normal", f"{person}-{start}-{number}"
                    file = f"{label}/lymphocyte/{name}.png"
                    (out / file).parent.mkdir(parents=True, exist_ok=True)
                    picture = cv2.bitwise_and(crop.bgr, crop.bgr, mask=crop.mask)
                    cv2.imwrite(str(out / file), np.dstack([picture, crop.mask]))
                    rows.append((file, label, person, crop.um_per_px, *light))
                    sources.append((name, group[number].name))
    with (out / CSV).open("w", newline="") as table:
        csv.writer(table).writerows([EXPORTED, *rows])
    with (out / "sources.csv").open("w", newline="") as table:
        csv.writer(table).writerows(sources)


def _zoomed(box: tuple[int, int, int, int], zoom: float) -> tuple[int, int, int, int]:
    x, y, width, height = (round(value * zoom) for value in box)
    return x, y, width, height


def prepare(data: Path, work: Path) -> None:
    """Sort C-NMC into WORK/held and WORK/others, as links, and make the benches."""
    for path in (data / "cnmc").rglob("UID_*"):
        person = path.stem.split("_")[1].upper()
        folder = "held" if person in PATIENTS + HEALTHY else "others"
        link = work / folder / path.relative_to(data / "cnmc")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    rng, cells = np.random.default_rng(0), []
    unique = read_dataset(work / "held").unique
    for person in PATIENTS + HEALTHY:
        own = [cell for cell in unique if cell.subject == person]
        cells += [own[index] for index in sorted(rng.permutation(len(own))[:CELLS_PER_SLIDE])]
    known = microscopes(data)
    for bench in range(BENCHES):
        make_bench(bench, cells, known[bench % 2], work / f"bench{bench}")
        print(f"bench {bench}", flush=True)


def base_bundle(run: Path, released: Path, out: Path) -> None:
    """The released bundle with the head, thresholds, people and features of a run on the same features."""
    record = read_run(run)
    kept = TrainingFeatures.unpack((run / FEATURES_FILE).read_bytes(), str(run))
    with Bundle(released) as bundle:
        manifest, files = bundle.manifest, {name: bundle.read(name) for name in bundle.manifest.files}
        for network in open_networks(bundle, training_features(bundle)):
            names = filter(None, (network.artifact.file, network.artifact.weights_file))
            files |= dict(zip(names, network.replaced(kept.rule, kept.widths), strict=True))
    files[FEATURES_FILE] = kept.pack()
    update = {
        "features": kept.record(),
        "temperature": record.temperature,
        "thresholds": record.thresholds,
        "operating_point": record.operating_point,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    files[MANIFEST] = record_bytes(manifest.model_copy(update=update))
    zip_files(files, out)


@dataclass(frozen=True)
class Bench:
    """All cells of a bench, as the networks see them."""

    cells: BenchCells
    source: Source
    direct: Floats
    """Log-odds (N,) of the same cells fed directly."""
    rounded: NDArray[np.float32]
    """(N, D), features by an int8 network."""


def look_at(work: Path, number: int, networks: list[Network], kept: TrainingFeatures, manifest: Manifest) -> Bench:
    """Every cell's features."""
    folder, at = work / f"bench{number}", line(manifest)
    cells = read_cells(folder, DataLayout(), manifest.imaging, lambda *_: None)
    int8 = next(one for one in networks if one.artifact.precision == "int8")
    exact, rounded = (one.features(cells.images, lambda *_: None) for one in (networks[0], int8))
    with (folder / "sources.csv").open(newline="") as table:
        sources = dict(csv.reader(table))
    held = {cell.name: cell for cell in read_dataset(work / "held").cells}
    originals = inputs([held[sources[file.path.stem]] for file in cells.files], manifest.imaging)
    direct = kept.rule.log_odds(networks[0].features(originals, lambda *_: None)) - at
    return Bench(cells, Source.of_bench(exact, kept.rule, at, cells.labels, cells.slides), direct, rounded)


def adapt(
    bench: Bench, chosen: NDArray[np.bool_], wrong: NDArray[np.bool_], kept: TrainingFeatures, manifest: Manifest
) -> dict[str, Any]:
    """Fine-tune on some cells, some of their answers wrong, and judge on the slides that none of them is of."""
    start = perf_counter()
    some = bench.source.some(chosen)
    answered = replace(some, labels=some.labels ^ wrong[chosen])
    noise = int8_noise(some.features, bench.rounded[chosen], INT8_STRENGTH)
    steps = int8_steps(kept.values, kept.widths.tolist())
    space = Space(Source.of_release(kept, line(manifest)), answered, noise, steps)
    judged = judge(space, manifest, FORGETTING)
    reviewed = bench.cells.some(chosen)
    domain = with_bench(manifest.domain, reviewed, judged.folds)
    try:
        judged = decide(judged, space, manifest, accepted(manifest.domain, domain, reviewed), FORGETTING)
        refused = ""
    except BloodedgeError as error:
        refused = "forgets" if "loses" in str(error) else "not better"
    others = ~np.isin(bench.source.groups, np.unique(some.groups))
    test, after = bench.source.some(others), judged.new.change.log_odds(bench.source.some(others))
    figures = bench.cells.figures
    assert manifest.domain is not None
    assert domain is not None
    used = after if not refused else test.log_odds
    return {
        "cells": len(some.labels),
        "refused": refused,
        "warned": doubts(judged),
        "before": _figures(test.log_odds, test.labels),
        "after": _figures(after, test.labels),
        "used": _figures(used, test.labels),
        "direct": _figures(bench.direct[others], test.labels),
        "accepted_before": float((manifest.domain.distances(figures[others]) <= manifest.domain.limit).mean()),
        "accepted_after": float((domain.distances(figures[others]) <= domain.limit).mean()),
        "release_before": [judged.release_before.auc, judged.release_before.balanced_accuracy],
        "release_after": [judged.release_after.auc, judged.release_after.balanced_accuracy],
        "seconds": round(perf_counter() - start, 1),
    }


def _figures(log_odds: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    said = log_odds >= 0
    right = [float((said == label)[labels == label].mean()) for label in (0, 1)]
    return {"balanced_accuracy": sum(right) / 2, "auc": auc(labels, log_odds) or 0.5}


def mean_and_worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over benches and choices of slides."""
    found: dict[str, Any] = {"refused": sum(bool(row["refused"]) for row in rows), "of": len(rows)}
    for when in ("before", "after", "used", "direct"):
        for name in ("balanced_accuracy", "auc"):
            values = [row[when][name] for row in rows]
            found[f"{name}_{when}"] = {"mean": float(np.mean(values)), "worst": float(np.min(values))}
    for name in ("accepted_before", "accepted_after", "seconds"):
        found[name] = float(np.mean([row[name] for row in rows]))
    gains = [row["used"]["balanced_accuracy"] - row["before"]["balanced_accuracy"] for row in rows]
    found["gain_points"] = {"mean": 100 * float(np.mean(gains)), "worst": 100 * float(np.min(gains))}
    lost = [[100 * (b - a) for b, a in zip(r["release_before"], r["release_after"], strict=True)] for r in rows]
    found["release_lost_points"] = {"auc": float(np.mean(lost, axis=0)[0]), "worst": float(np.max(lost))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with bccd/, chula/ and cnmc/")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made on the way")
    parser.add_argument("--prepare", action="store_true", help="make the folders, and end")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "cells.bundle")
    parser.add_argument("--json", type=Path, default=RESULTS, help="the record to write")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.data, options.work)
        return
    base = options.work / "base.bundle"
    base_bundle(options.work / "run", options.bundle, base)
    rows: dict[str, list[dict[str, Any]]] = {}
    with Bundle(base) as bundle:
        kept, manifest = open_features(bundle), bundle.manifest
        networks = open_networks(bundle, kept)
        for number in range(BENCHES):
            bench, rng = look_at(options.work, number, networks, kept, manifest), np.random.default_rng(number)
            for first, second in REVIEWED:
                slides = [people[index] for people in (PATIENTS, HEALTHY) for index in (first, second)]
                order = {slide: rng.permutation(np.flatnonzero(bench.source.groups == slide)) for slide in slides}
                for size, share in [*((size, 0.0) for size in SIZES), (100, WRONG)]:
                    chosen = np.zeros(len(bench.source.labels), bool)
                    chosen[np.concatenate([own[: size // len(slides)] for own in order.values()])] = True
                    wrong = rng.random(len(chosen)) < share
                    name = f"{size} cells" + (", a fifth answered wrongly" if share else "")
                    row = {"bench": number, "slides": slides, **adapt(bench, chosen, wrong, kept, manifest)}
                    rows.setdefault(name, []).append(row)
                    print(name, row, flush=True)
    summary = {name: mean_and_worst(found) for name, found in rows.items()}
    command = "python benchmarks/bench_adaptation.py --data DATA --work WORK"
    write_json(options.json, {"command": command, "revision": revision(), "summary": summary, "benches": rows})


if __name__ == "__main__":
    main()
