"""Fixtures: the two sides of a comparison, each running for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

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
def ours_in() -> Iterator[Callable[[str], sidebyside.Side]]:
    """The package under test in either way of waiting, "thread" or "pool"."""
    sides: dict[str, sidebyside.Side] = {}

    def side(waiting: str) -> sidebyside.Side:
        if waiting not in sides:
            sides[waiting] = sidebyside.our_side(waiting)
        return sides[waiting]

    yield side
    for each in sides.values():
        each.stop()


@pytest.fixture(scope="module")
def ours(waiting: str, ours_in: Callable[[str], sidebyside.Side]) -> sidebyside.Side:
    """The package under test, in each way of waiting."""
    return ours_in(waiting)
