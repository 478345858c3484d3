"""Every test here runs in a directory that has a `test/` with the data, like pymilter's suite."""

from __future__ import annotations

from pathlib import Path

import legacy_data
import pytest

import Milter


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory; what the test helpers change in the package is put back after the test."""
    monkeypatch.setattr(Milter, "factory", Milter.factory)
    monkeypatch.setattr(Milter, "NOREPLY", Milter.NOREPLY)
    legacy_data.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path
