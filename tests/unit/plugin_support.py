"""Running pytest with our plugin inside a test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Loads the plugin, whether it is installed or not: not by its entry point, but by its name.
ARGUMENTS = ("-p", "no:milter", "-p", "Milter.pytest_plugin")


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Runs the tests of pytester's directory with the plugin, which may be installed or not.

    In a process of its own: pytester would load modules anew that others hold on to.
    """
    path = os.pathsep.join([str(pytester.path), str(Path(__file__).resolve().parents[2])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.delenv("CI", raising=False)  # where it is set, pytest's summary is another
        return pytester.runpytest_subprocess(*ARGUMENTS, "-p", "no:cacheprovider", *args)
