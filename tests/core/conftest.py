"""Fixtures of the core's tests."""

from collections.abc import Iterator

import pytest

from support.nobody import Nobody, nobody_s_place


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    """A user who owns nothing."""
    with nobody_s_place() as place:
        yield place
