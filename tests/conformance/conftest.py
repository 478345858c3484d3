"""What the conformance tests share: the two ways to write to a milter."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["whole", "bytes"])
def feed(request: pytest.FixtureRequest) -> str:
    """How a dialogue is written: each packet in one write, or byte by byte."""
    return str(request.param)
