"""Fixtures of the core's tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from nobody import Nobody, nobody_s_place


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """A user who owns nothing."""
    with nobody_s_place() as place:
        yield place
