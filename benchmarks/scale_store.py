"""Fills a device's store with made-up results, many cells on many slides, for ``scale.py``.

The tables are the store's own. Their rows are drawn in SQL from a fixed seed, and cells share one image, so that a
million cells are made in seconds and take little disk.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from bloodedge.bundle import Bundle
from bloodedge.decision.domain import describe
from bloodedge.simulation import golden_inputs
from bloodedge_device.latency import StageTimes
from bloodedge_device.store import DATABASE, RunInfo, Store, audit_log
from bloodedge_device.store.database import CROPS
from bloodedge_device.store.frame_rows import FRAMES_A_FOLDER, forget_crops

CELLS_A_FRAME = 4
CELLS_A_SLIDE = 2000
"""Of all slides but one."""
LARGEST_SHARE, LARGEST = 0.1, 100_000
"""The newest slide holds this share of all cells, at most so many."""
REVIEWS_A_SLIDE = 20
IMAGES_AT_ONCE = 500
"""As many as the store deletes at once."""
POOL = 512
"""Different cells that were described; rows share them."""
SHARED = "shared"
"""Name of a folder's image, to which its cells' images are links."""
BEGAN = datetime(2026, 1, 5, 8, tzinfo=UTC)
STAGES_S = {"gate": 0.004, "find": 0.05, "imaging": 0.001, "inference": 0.006, "store": 0.01, "frame": 0.09}


@dataclass(frozen=True)
class Filled:
    """What a store holds."""

    cells: int
    slides: int
    typical: int
    """Id of a slide with CELLS_A_SLIDE cells."""
    largest: int
    """Id of the newest slide."""
    largest_cells: int
    reviews: int
    counted_s: float
    """How long it took to count all slides once, as the daemon does beside its work after an upgrade."""


def fill(state: Path, bundle: Path, cells: int) -> Filled:
    """Make a state folder with so many cells; the settings that its slides ran with are the bundle's own."""
    largest = round(min(LARGEST_SHARE * cells, LARGEST))
    others = (cells - largest) // CELLS_A_SLIDE
    sizes = [CELLS_A_SLIDE] * others + [cells - others * CELLS_A_SLIDE]
    store = Store(state)
    run = store.begin_run(_run(bundle))
    store.close()
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA foreign_keys = OFF")
        _draw_pool(database, bundle)
        database.execute("BEGIN")
        for slide, size in enumerate(sizes, start=1):
            _put_slide(database, run, slide, size)
        reviews = _review(database, len(sizes))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sized = (sum(sizes), len(sizes), max(1, len(sizes) // 2), len(sizes), sizes[-1], reviews)
    filled = Filled(*sized, counted_s=_keep_counts(state))
    _put_images(state, {filled.typical, filled.largest})
    return filled


def _keep_counts(state: Path) -> float:
    """Keep the counts of all slides, as the daemon does within half a minute of a slide's end; seconds."""
    began_s = perf_counter()
    with closing(Store(state)) as store:
        store.keep_counts()
    return round(perf_counter() - began_s, 1)


def forget_ms(state: Path, slide: int, times: int) -> float:
    """Median time in which the names of IMAGES_AT_ONCE deleted images leave the rows, as on a full disk."""
    took_ms = []
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as database:
        query = "SELECT crop FROM cells JOIN frames ON frames.id = cells.frame WHERE slide = ? LIMIT ?"
        names = [name for (name,) in database.execute(query, (slide, IMAGES_AT_ONCE))]
        for _ in range(times):
            database.execute("BEGIN")
            began_s = perf_counter()
            forget_crops(database, names)
            took_ms.append(1000 * (perf_counter() - began_s))
            database.execute("ROLLBACK")
    return round(median(took_ms), 1)


def _run(bundle: Path) -> RunInfo:
    manifest = Bundle(bundle).manifest
    artifact = manifest.artifacts[0]
    return RunInfo(
        started=BEGAN,
        ready_ms=900.0,
        bundle_name=manifest.name,
        bundle_serial=manifest.serial,
        engine=artifact.engine,
        engine_reason="made up",
        runtime="made up",
        precision=artifact.precision,
        threads=1,
        hardware="a board that is made up",
        camera="a camera that is made up",
        golden={"inputs": 32, "flips": 0, "max_probability_difference": 0.01, "passed": True},
        manifest=manifest.model_dump_json(),
        clock_synchronised=True,
        differential_cells=200,
    )


def _draw_pool(database: sqlite3.Connection, bundle: Path) -> None:
    """Described cells, and their calls, in a table of this connection."""
    rng = np.random.default_rng(0)
    manifest = Bundle(bundle).manifest
    inputs = golden_inputs(manifest.imaging, POOL)
    kinds = ("lymphocyte", "lymphocyte", "lymphocyte", "monocyte", "neutrophil", "neutrophil", "eosinophil", "unknown")
    database.execute(
        "CREATE TEMP TABLE pool (id INTEGER PRIMARY KEY, label TEXT, probability REAL, reason TEXT, area REAL,"
        " figures BLOB, kind TEXT, kind_probability REAL, stage TEXT)"
    )
    low, high = manifest.thresholds.uncertain_low, manifest.thresholds.uncertain_high
    for number, image in enumerate(inputs):
        kind = str(rng.choice(kinds))
        probability = float(rng.beta(0.6, 0.9))
        label, reason = ("blast" if probability >= manifest.thresholds.blast else "normal"), None
        if low < probability < high:
            label, reason = "uncertain", "abstain_band"
        elif rng.random() < 0.05:
            label, reason = "uncertain", "out_of_domain"
        mononuclear = kind in {"lymphocyte", "monocyte", "unknown"}
        figures = describe(image).astype(np.float32).tobytes()
        database.execute(
            "INSERT INTO pool VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                label if mononuclear else "other",
                probability if mononuclear else None,
                reason if mononuclear else None,
                float(rng.normal(110, 20)),
                figures if mononuclear else None,
                kind,
                float(rng.uniform(0.5, 1)),
                "segmented" if kind == "neutrophil" else None,
            ),
        )


def _put_slide(database: sqlite3.Connection, run: int, slide: int, cells: int) -> None:
    began = BEGAN + timedelta(minutes=20 * slide)
    ended = began + timedelta(minutes=15)
    database.execute(
        "INSERT INTO slides VALUES (?, ?, ?, ?, ?)",
        (slide, run, f"specimen {slide}", began.isoformat(), ended.isoformat()),
    )
    first = (database.execute("SELECT max(id) FROM frames").fetchone()[0] or 0) + 1
    frames = -(-cells // CELLS_A_FRAME)
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :many)"
    values = {"first": first, "slide": slide, "at": began.isoformat()}
    database.execute(
        f"INSERT INTO frames (id, slide, number, captured_at, source, dropped_before, width, height, um_per_px, focus,"  # noqa: S608  # own words
        f" brightness) {numbers} SELECT :first + n, :slide, n, :at, '', 0, 1280, 960, 0.1, 0.6, 200.0 FROM numbers",
        values | {"many": frames},
    )
    database.execute(
        f"INSERT INTO rejected {numbers} SELECT :first + n, 'too_small', 2 FROM numbers",  # noqa: S608
        {"first": first, "many": frames},
    )
    # multiplying by a prime that does not divide POOL spreads the pool over frames without a pattern of one frame
    database.execute(
        f"INSERT INTO cells (frame, x, y, width, height, label, blast_probability, reason, area_um2, crop, number,"  # noqa: S608
        f" repeated, figures, kind, kind_probability, stage, light) {numbers}"
        " SELECT :first + n / :a_frame, 200 * (n % :a_frame), 300, 90, 90, label, probability, reason, area,"
        " printf('%d/%04d/%07d-%03d.png', :slide, n / :a_frame / :folder, n / :a_frame, n % :a_frame), n,"
        " n % 10 = 9, figures, kind, kind_probability, stage, '226,222,232'"
        " FROM numbers JOIN pool ON pool.id = (n * 8191 + :slide) % :pool",
        values | {"many": cells, "a_frame": CELLS_A_FRAME, "folder": FRAMES_A_FOLDER, "pool": POOL},
    )
    times = StageTimes()
    for stage, seconds in STAGES_S.items():
        for _ in range(20):
            times.add(stage, seconds)
    database.executemany(
        "INSERT INTO latency VALUES (?, ?, ?)",
        [(slide, stage, found.to_json()) for stage, found in times.histograms.items() if found.count],
    )


def _review(database: sqlite3.Connection, slides: int) -> int:
    """A person's reviews of REVIEWS_A_SLIDE random cells of each slide, with their entries in the audit log."""
    for slide in range(1, slides + 1):
        for number in range(REVIEWS_A_SLIDE):
            at = BEGAN + timedelta(minutes=20 * slide, seconds=number)
            for cell in _one_cell(database, slide, number):
                values = (cell, "blast" if number % 3 == 0 else "normal", at.isoformat())
                database.execute(
                    "INSERT INTO reviews (cell, label, sampling, reviewer, reviewed_at)"
                    " VALUES (?, ?, 'random', 'page', ?)",
                    values,
                )
                audit_log.append(database, at, "page", "review", {"cell": cell, "label": values[1]})
    return int(database.execute("SELECT count(*) FROM reviews").fetchone()[0])


def _one_cell(database: sqlite3.Connection, slide: int, number: int) -> Iterator[int]:
    """The first cell of the slide's n-th frame, each seventh."""
    first = database.execute("SELECT min(id) FROM frames WHERE slide = ?", (slide,)).fetchone()[0]
    query = "SELECT min(cells.id) FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.id = ? AND slide = ?"
    found = database.execute(query, (first + 7 * number, slide)).fetchone()[0]
    if found is not None:
        yield int(found)


def _put_images(state: Path, slides: set[int]) -> None:
    """The same image under the names of all cells of these slides."""
    cell = np.full((160, 160, 4), 200, np.uint8)
    cv2.circle(cell, (80, 80), 45, (140, 52, 92, 255), -1)
    png = cv2.imencode(".png", cell)[1].tobytes()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        query = "SELECT crop FROM cells JOIN frames ON frames.id = cells.frame WHERE slide = ?"
        names = [name for slide in slides for (name,) in database.execute(query, (slide,))]
    for folder in {(state / CROPS / name).parent for name in names}:
        folder.mkdir(parents=True)
        (folder / SHARED).write_bytes(png)
    for name in names:  # a link each: a file system allows too few links to one file for all
        path = state / CROPS / name
        path.hardlink_to(path.parent / SHARED)
