"""Suites of filters, testkit_suites.py, under pymilter's test helpers and under ours."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from sidebyside import HERE, PATIENCE, Side

pytestmark = [pytest.mark.oracle, pytest.mark.one_mode("it serves nothing")]

#: What fails with pymilter's helpers and passes with ours (API spec 3.12, 3.13).
FIXED = {
    "ContextTestCase.test_fixed_hostaddr": "hostaddr is a tuple",
    "ContextTestCase.test_fixed_macro_in_header": "macros can be read in every callback",
    "ContextTestCase.test_fixed_macro_before_negotiation": "and outside",
    "ContextTestCase.test_fixed_default_opts": "the offer is copied",
    "ContextTestCase.test_fixed_skip": "SKIP from body goes on to eom",
    "ContextTestCase.test_fixed_noreply": "NOREPLY is CONTINUE",
    "ContextTestCase.test_fixed_quarantine": "quarantine works",
    "ContextTestCase.test_fixed_non_ascii_header": "a header may be any text",
    "MacroTestCase.test_fixed_mixin": "@symlist works with TestBase",
    "MacroTestCase.test_fixed_mixin_8bit": "so do headers that are not ASCII",
    "MacroTestCase.test_fixed_log": "log writes one line",
}


def outcomes(side: Side) -> dict[str, Any]:
    """Run the suites with a side's interpreter; return {name: result}."""
    done = subprocess.run(
        [str(side.python), "-W", "error::SyntaxWarning", str(HERE / "testkit_suites.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=side.environment,
        cwd=side.directory,
        timeout=10 * PATIENCE,
        check=False,
    )
    assert 0 == done.returncode, done.stderr.decode()
    # Other lines are what a library or a filter printed.
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b'{"name"')]
    return {line["name"]: line["result"] for line in lines}


@pytest.fixture(scope="module")
def results(theirs: Side, ours: Side) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of both sides."""
    return outcomes(theirs), outcomes(ours)


def test_same_tests(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Both sides ran the same."""
    theirs, ours = results
    assert list(theirs) == list(ours)
    assert 300 == sum(name.startswith("seed") for name in ours)
    assert len(ours) > 330


def test_suites_pass(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Every test of the suites passes with ours, and with theirs but for what is fixed."""
    theirs, ours = results
    suites = {name: result for name, result in ours.items() if not name.startswith("seed")}
    assert dict.fromkeys(suites, "ok") == suites
    assert set(FIXED) == {name for name in suites if theirs[name] != "ok"}


def test_same_records(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Whatever the filter does, its callbacks, results and recorded attributes are the same."""
    theirs, ours = results
    seeds = [name for name in ours if name.startswith("seed")]
    assert [] == [name for name in seeds if theirs[name] != ours[name]]
