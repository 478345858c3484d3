"""Fixtures: the two sides of a comparison, each running for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sidebyside


@pytest.fixture(scope="session")
def theirs() -> Iterator[sidebyside.Side]:
    """pymilter on libmilter, from the environment that scripts/setup-oracle makes."""
    if not sidebyside.ORACLE_PYTHON.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    side = sidebyside.their_side()
    yield side
    side.stop()


@pytest.fixture(scope="session")
def ours() -> Iterator[sidebyside.Side]:
    """The package under test."""
    side = sidebyside.our_side()
    yield side
    side.stop()
