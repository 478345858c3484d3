"""The pytest plugin of tests/plugins that runs tests in both ways of waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import F, running
from harness.packets import C, H

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"

SOURCE = """
import os
import pytest

def test_both(waiting):
    print("ran", "both", waiting, os.environ["MILTER_THREADS"])

def test_without():
    print("ran", "without", os.environ.get("MILTER_THREADS"))

@pytest.mark.one_mode("for a reason")
def test_one(waiting):
    print("ran", "one", waiting, os.environ["MILTER_THREADS"])

def test_both_again(waiting):
    print("ran", "again", waiting, os.environ["MILTER_THREADS"])
"""


def run(directory: Path, *options: str) -> tuple[int, list[str]]:
    """Run pytest with the plugin on SOURCE; return its status and what the tests printed."""
    (directory / "test_it.py").write_text(SOURCE, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "MILTER_THREADS"}
    environment["PYTHONPATH"] = str(PLUGINS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-c", os.devnull, "--rootdir", str(directory),
         "-p", "milter_modes", "-p", "no:cacheprovider", *options, str(directory)],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False, timeout=120,
    )  # fmt: skip
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return done.returncode, [line[line.index("ran ") + 4 :] for line in lines if "ran " in line]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            (),
            [
                "again pool 32",
                "again thread 0",
                "both pool 32",
                "both thread 0",
                "one thread 0",
                "without None",
            ],
        ),
        (
            ("--modes=thread",),
            ["again thread 0", "both thread 0", "one thread 0", "without None"],
        ),
        (("--modes=pool",), ["again pool 32", "both pool 32", "without None"]),
    ],
)
def test_modes(tmp_path: Path, options: tuple[str, ...], expected: list[str]) -> None:
    """What uses `waiting` runs in each mode that was asked for, what is for one mode in that one;
    what does not use it runs once and finds the environment as it was."""
    status, ran = run(tmp_path, *options)
    assert 0 == status
    assert expected == sorted(ran)


def test_no_such_mode(tmp_path: Path) -> None:
    """A mode that is none is refused, instead of nothing being tested."""
    assert (4, []) == run(tmp_path, "--modes=thread,polo")


def test_the_harness_follows(waiting: str) -> None:
    """A server of the harness runs in the mode that the test's id says."""
    with running(F()) as run:
        run.mta().play(C, H)
        pools = [line for line in run.messages(0) if "threads serve all connections" in line]
        assert (1 if waiting == "pool" else 0) == len(pools)
