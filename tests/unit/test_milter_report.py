"""The pytest plugin of tests/plugins: a skip in CI fails the run, unless it is expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"

RUNS = "def test_runs():\n    pass\n"
SKIPS = "import pytest\ndef test_skips():\n    pytest.skip('no such program: install it')\n"
EXPECTED = "import pytest\ndef test_skips():\n    pytest.skip('not here: another system')\n"
MODULE = "import pytest\npytest.skip('no such module', allow_module_level=True)\n"
FAILS = "def test_fails():\n    assert 1 == 2\n"


def run(directory: Path, ci: str | None, *sources: str) -> tuple[int, str]:
    """Run pytest with the plugin on these test files; return its status and what it printed."""
    for number, source in enumerate(sources):
        (directory / f"test_{number}.py").write_text(source, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment["PYTHONPATH"] = str(PLUGINS)
    if ci is not None:
        environment["CI"] = ci
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(directory),
         "-p", "milter_report", "-p", "no:cacheprovider", str(directory)],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("ci", "sources", "status"),
    [
        (None, [RUNS, SKIPS], 0),
        ("false", [RUNS, SKIPS], 0),
        ("true", [RUNS], 0),
        ("true", [RUNS, SKIPS], 1),
        ("1", [RUNS, SKIPS], 1),
        ("true", [RUNS, EXPECTED], 0),
        ("true", [RUNS, MODULE], 1),
        ("true", [FAILS, EXPECTED], 1),
        (None, [FAILS], 1),
    ],
)
def test_status(tmp_path: Path, ci: str | None, sources: list[str], status: int) -> None:
    """The run's exit status is that of its tests, and 1 for an unexpected skip in CI."""
    result, output = run(tmp_path, ci, *sources)
    assert status == result, output


def test_the_skip_is_named(tmp_path: Path) -> None:
    """The output names the skipped test that failed the run, and its reason, once."""
    _, output = run(tmp_path, "true", RUNS, SKIPS)
    lines = [line for line in output.splitlines() if line.startswith("unexpected skip in CI")]
    assert ["unexpected skip in CI: test_1.py::test_skips: no such program: install it"] == lines


def test_header_names_the_versions(tmp_path: Path) -> None:
    """The report header says what the tests run against, present or absent."""
    _, output = run(tmp_path, None, RUNS)
    for what in ("Python", "engine", "Postfix", "Sendmail", "libmilter package",
                 "pymilter (oracle)", "OpenDKIM miltertest"):  # fmt: skip
        assert 1 == sum(line.startswith(f"{what}: ") for line in output.splitlines()), output
