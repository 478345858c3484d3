"""The examples of docs/testing.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from testkit_support import kit

__all__ = ["kit"]  # a fixture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


@pytest.mark.ours
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, one after the other, in the part that is about pymilter's kit."""
    monkeypatch.chdir(tmp_path)
    part = PAGE.read_text("utf-8").partition("## Suites written for pymilter\n")[2]
    blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    assert 4 == len(blocks)
    scope: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(block, scope)
