"""The database's tables, as a list of migrations: the n-th takes a database from version n-1 to n."""

APPLICATION_ID = 0x424C4544
""""BLED": tells bloodedge's databases from others."""

_RESULTS = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT,
    ready_ms REAL NOT NULL,
    bundle_name TEXT NOT NULL,
    bundle_serial INTEGER NOT NULL,
    engine TEXT NOT NULL,
    engine_reason TEXT NOT NULL,
    runtime TEXT NOT NULL,
    precision TEXT NOT NULL,
    threads INTEGER NOT NULL,
    hardware TEXT NOT NULL,
    camera TEXT NOT NULL,
    golden TEXT NOT NULL,    -- JSON: the self-test's figures on this machine
    manifest TEXT NOT NULL   -- JSON: the bundle's manifest, so that a report needs only this file
) STRICT;
CREATE TABLE slides (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    label TEXT NOT NULL,
    started TEXT NOT NULL,
    finished TEXT            -- NULL while it runs, and for ever after a power cut
) STRICT;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    slide INTEGER NOT NULL REFERENCES slides (id),
    number INTEGER NOT NULL,
    captured_at TEXT NOT NULL,
    source TEXT NOT NULL,
    dropped_before INTEGER NOT NULL,
    width INTEGER,
    height INTEGER,
    um_per_px REAL,
    reason TEXT,             -- why it was rejected, or no_cell; NULL when it holds cells
    detail TEXT,
    focus REAL,
    brightness REAL
) STRICT;
CREATE INDEX frames_of_slide ON frames (slide);
CREATE TABLE cells (
    id INTEGER PRIMARY KEY,
    frame INTEGER NOT NULL REFERENCES frames (id),
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    label TEXT NOT NULL,
    blast_probability REAL,
    reason TEXT,
    area_um2 REAL NOT NULL,
    crop TEXT                -- path below crops/
) STRICT;
CREATE INDEX cells_of_frame ON cells (frame);
CREATE TABLE rejected (      -- what the finder looked at in a frame and turned down
    frame INTEGER NOT NULL REFERENCES frames (id),
    reason TEXT NOT NULL,
    objects INTEGER NOT NULL,
    PRIMARY KEY (frame, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE latency (
    slide INTEGER NOT NULL REFERENCES slides (id),
    stage TEXT NOT NULL,
    histogram TEXT NOT NULL, -- JSON: see bloodedge_device.latency
    PRIMARY KEY (slide, stage)
) STRICT, WITHOUT ROWID;
"""

_SERVICE = """
ALTER TABLE runs ADD COLUMN clock_synchronised INTEGER;  -- 0: times of this run may be wrong; NULL: not known
ALTER TABLE cells ADD COLUMN number INTEGER;             -- which of the slide's cells it shows; NULL: not recognised
ALTER TABLE cells ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;  -- 1: another row of the same number counts
ALTER TABLE cells ADD COLUMN figures BLOB;               -- float32, see bloodedge.decision.domain.describe
CREATE TABLE reviews (       -- what a person says of a cell; the latest counts
    id INTEGER PRIMARY KEY,
    cell INTEGER NOT NULL REFERENCES cells (id),
    label TEXT NOT NULL,
    sampling TEXT NOT NULL,  -- how the cell came to be asked about: random, or gallery
    reviewer TEXT NOT NULL,
    reviewed_at TEXT NOT NULL
) STRICT;
CREATE INDEX reviews_of_cell ON reviews (cell);
CREATE TABLE outbox (        -- messages that the broker has not acknowledged
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    retain INTEGER NOT NULL
) STRICT;
CREATE TABLE audit (         -- each entry's digest covers the one before
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,    -- JSON
    digest TEXT NOT NULL
) STRICT;
"""

_WATCHED = """
CREATE TABLE watched (       -- files of watched folders whose frames are stored
    path BLOB PRIMARY KEY,   -- as the file system has it
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL     -- of the pixels; empty where they could not be read
) STRICT, WITHOUT ROWID;
"""

_DRAWN = """
ALTER TABLE frames ADD COLUMN drawn_blasts INTEGER;   -- that a simulated microscope drew; NULL: a real camera
ALTER TABLE frames ADD COLUMN drawn_normals INTEGER;
"""

_MODEL_FAULTS = """
UPDATE cells SET label = 'uncertain', reason = 'model_fault'  -- earlier versions called what is no probability normal
    WHERE label != 'uncertain' AND blast_probability IS NULL;
"""

_KINDS = """
ALTER TABLE runs ADD COLUMN kind_rates TEXT;         -- JSON: how often the kind network errs; NULL: not known
ALTER TABLE runs ADD COLUMN differential_cells INTEGER;  -- leucocytes to be counted
ALTER TABLE cells ADD COLUMN kind TEXT;              -- see bloodedge.decision.kinds; NULL: not told
ALTER TABLE cells ADD COLUMN kind_probability REAL;
ALTER TABLE cells ADD COLUMN stage TEXT;             -- band or segmented, of a neutrophil
ALTER TABLE reviews RENAME TO reviews_before;
CREATE TABLE reviews (       -- what a person says of a cell, its class, its kind or both; the latest counts
    id INTEGER PRIMARY KEY,
    cell INTEGER NOT NULL REFERENCES cells (id),
    label TEXT,              -- NULL: only the kind is said
    kind TEXT,               -- NULL: only the class is said
    stage TEXT,
    sampling TEXT NOT NULL,  -- how the cell came to be asked about: random, or gallery
    reviewer TEXT NOT NULL,
    reviewed_at TEXT NOT NULL
) STRICT;
INSERT INTO reviews (id, cell, label, sampling, reviewer, reviewed_at)
    SELECT id, cell, label, sampling, reviewer, reviewed_at FROM reviews_before;
DROP TABLE reviews_before;
CREATE INDEX reviews_of_cell ON reviews (cell);
"""

_LIGHT = """
ALTER TABLE cells ADD COLUMN light TEXT;             -- "226,222,232": the empty field at the cell, 0..255 BGR
"""

_SLIDE_COUNTS = """
CREATE TABLE slide_counts (  -- of slides that have ended; whatever changes what is counted empties it
    slide INTEGER PRIMARY KEY REFERENCES slides (id),
    counts TEXT NOT NULL     -- JSON: see bloodedge_device.store.slide_counts
) STRICT;
"""

ADDED: dict[int, dict[str, tuple[str, ...]]] = {
    6: {
        "runs": ("kind_rates", "differential_cells"),
        "cells": ("kind", "kind_probability", "stage"),
        "reviews": ("kind", "stage"),
    },
    7: {"cells": ("light",)},
}
"""Columns by the version that brought them; readers see NULL in them where a database is older."""

ADDED_TABLES: dict[int, dict[str, tuple[str, ...]]] = {8: {"slide_counts": ("slide", "counts")}}
"""Tables by the version that brought them, with their columns; readers see them empty where a database is older."""

MIGRATIONS = (_RESULTS, _SERVICE, _WATCHED, _DRAWN, _MODEL_FAULTS, _KINDS, _LIGHT, _SLIDE_COUNTS)
SCHEMA_VERSION = len(MIGRATIONS)

READABLE_SINCE = 2
"""Databases from this version on hold all that is shown of them."""

OUTBOX_SINCE = 2
"""The version that brought the table of messages."""
