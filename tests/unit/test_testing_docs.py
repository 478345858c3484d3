"""The tutorial of docs/testing.md: its files, its commands, and what these print."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_support import ARGUMENTS

from Milter import strategies, testing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing.md"
TUTORIAL = PAGE.read_text("utf-8").partition("## Suites written for pymilter\n")[0]
BLOCKS = re.findall(r"^```(python|console)\n(.*?)^```$", TUTORIAL, re.DOTALL | re.MULTILINE)


def printed(command: str, directory: Path) -> str:
    """What a command prints, without durations and blanks at the ends of lines."""
    program, *args = shlex.split(command)
    module = ["-m", "pytest", *ARGUMENTS, "-p", "no:cacheprovider"] if program == "pytest" else []
    result = subprocess.run(
        [sys.executable, *module, *args],
        cwd=directory,
        env={
            # CI: where it is set, pytest's summary is another.
            **{name: value for name, value in os.environ.items() if name != "CI"},
            "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
            "COLUMNS": "80",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(directory),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    text = re.sub(r" in [0-9.]+s", " in 0.10s", result.stdout.decode())
    return re.sub(r" +$", "", text, flags=re.MULTILINE).rstrip() + "\n"


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    """Followed from the top, every command prints what the page says."""
    assert ["python", "python", "console", "python", "console"] == [kind for kind, _ in BLOCKS[:5]]
    # Whose machine is busy may need more than Hypothesis's 200 ms for an example.
    tmp_path.joinpath("conftest.py").write_text(
        "import hypothesis\n"
        "hypothesis.settings.register_profile('busy', deadline=None, suppress_health_check=\n"
        "    [hypothesis.HealthCheck.too_slow])\n"
        "hypothesis.settings.load_profile('busy')\n",
        "utf-8",
    )
    for kind, text in BLOCKS:
        first, _, rest = text.partition("\n")
        if kind == "python":
            tmp_path.joinpath(first[2:]).write_text(text, "utf-8")
        else:
            assert rest == printed(first[2:], tmp_path)


def test_names() -> None:
    """The page names every function, assertion and strategy that there is."""
    names = [name for name in vars(testing.Report) if name.startswith("assert_")]
    names += [name for name in testing.__all__ if inspect.isfunction(getattr(testing, name))]
    names += [name for name in strategies.__all__ if name != "Move"]
    names.remove("diff")
    assert [] == [name for name in names if not re.search(rf"\b{name}\b", TUTORIAL)]
