"""Settings for all tests: where the harness is imported from, and how Hypothesis behaves."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# The harness is a package beside the test directories, not part of the distribution.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# Servers run in threads of this process, so a first example may be slow: no deadline per example.
hypothesis.settings.register_profile("here", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.fixture(autouse=True)
def _noreply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what importing Milter.test does to the whole process (API spec 3.12), for each test."""
    import Milter

    monkeypatch.setattr(Milter, "NOREPLY", 7)
