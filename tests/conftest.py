"""Fixtures that several rooms share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by BLOODEDGE_DATA (default: ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("BLOODEDGE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cnmc").is_dir():
        pytest.skip(f"no real data at {folder} (set BLOODEDGE_DATA to a folder that holds cnmc/, bccd/ and chula/)")
    return folder
