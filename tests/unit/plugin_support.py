"""Running pytest with our plugin inside a test."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest


def arguments() -> tuple[str, ...]:
    """What pytest must be told to load the plugin, where it is not installed."""
    points = entry_points()
    # Python 3.9 has a dict of groups there.
    group = (
        points.select(group="pytest11") if hasattr(points, "select") else points.get("pytest11", [])
    )
    return () if any(each.name == "milter" for each in group) else ("-p", "Milter.pytest_plugin")


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Runs the tests of pytester's directory with the plugin, which may be installed or not.

    In a process of its own: pytester would load modules anew that others hold on to.
    """
    path = os.pathsep.join([str(pytester.path), str(Path(__file__).resolve().parents[2])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        return pytester.runpytest_subprocess(*arguments(), "-p", "no:cacheprovider", *args)
