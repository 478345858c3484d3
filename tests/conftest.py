"""Settings for all tests: where the harness is imported from, and how Hypothesis behaves."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Callable

import hypothesis
import pytest

# The harness is a package beside the test directories, not part of the distribution.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# Nothing is timed: servers run in threads of this process, and other tests beside it, so an example
# and the making of its data may be slow.
hypothesis.settings.register_profile(
    "here",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("here"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.fixture(autouse=True)
def _noreply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what importing Milter.test does to the whole process (API spec 3.12), for each test."""
    import Milter

    monkeypatch.setattr(Milter, "NOREPLY", 7)


@pytest.fixture
def keep_port() -> Iterator[Callable[[str], int]]:
    """Give a TCP port of an address on which nobody listens, and which no other process is given as
    long as the test runs: sockets with SO_REUSEADDR may share it while one at most listens."""
    from harness.ports import reserved

    with contextlib.ExitStack() as kept:
        yield lambda host: kept.enter_context(reserved(host))
