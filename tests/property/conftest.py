"""What the property tests share: the two ways of waiting."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _both_modes(waiting: str) -> None:
    """What holds, holds with a thread per connection and in the pool."""
