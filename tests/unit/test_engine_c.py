"""The engine's own tests, in C: built and run by milter_c/test/Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "milter_c" / "test"

# How long the fuzz target runs; what it finds in a longer time it finds from the same inputs on.
FUZZ_SECONDS = os.environ.get("MILTER_FUZZ_SECONDS", "3")


def make(*arguments: str) -> str:
    """Runs make in the folder of the C tests; returns what it printed, or fails with it."""
    for program in ("make", "gcc"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} to build the C tests with")
    # A make around us would have its own targets and job server in the environment.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "-C", str(FOLDER), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"make {' '.join(arguments)}\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.mark.slow
def test_c_tests() -> None:
    """Every C test passes in every build: sanitizers of gcc and clang, and without asserts."""
    printed = make("--no-print-directory")
    last = printed.splitlines()[-1]
    match = re.fullmatch(r"(\d+) passed, (\d+) failed", last)
    assert match is not None, printed
    assert int(match.group(1)) > 0
    assert "0" == match.group(2)


@pytest.mark.slow
def test_c_fuzz() -> None:
    """Whatever bytes an MTA sends, and whatever a filter answers, the fuzz target's rules hold."""
    printed = make("--no-print-directory", "fuzz", f"SECONDS={FUZZ_SECONDS}")
    match = re.search(r"^(\d+) inputs, each played in five ways: nothing broken$", printed, re.M)
    assert match is not None, printed
    assert int(match.group(1)) > 0
