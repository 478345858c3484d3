"""What the conformance tests share: two ways of waiting, and two ways to write to a milter."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _both_modes(waiting: str) -> None:
    """Each row holds with a thread per connection and in the pool."""


@pytest.fixture(params=["whole", "bytes"])
def feed(request: pytest.FixtureRequest) -> str:
    """How a dialogue is written: each packet in one write, or byte by byte."""
    return str(request.param)
