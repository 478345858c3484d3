"""What can be asked without a connection: api_probe.py under pymilter and under us."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from sidebyside import HERE, PATIENCE, Side

pytestmark = [pytest.mark.oracle, pytest.mark.one_mode("it serves nothing")]

#: Probes with another result on purpose: why, and ours. Theirs is what the oracle says.
DIFFERENT: dict[str, tuple[str, Any]] = {
    "decode_mask(1, [])": ("a bit without a name is one element (API spec 2.8)", "['0x1']"),
    "decode_mask(19, ['ADDHDRS'])": ("the same", "['ADDHDRS', '0x12']"),
    "decode_mask(511, ['ADDHDRS', 'SETSYMLIST'])": (
        "the same",
        "['ADDHDRS', 'SETSYMLIST', '0xfe']",
    ),
    "signature param2dict": ("theirs is named after a type", "[('items', 'required')]"),
}
#: Probes whose result is looked at by a test of its own, below.
APART = {"Milter names", "star import"}
#: Errors with the same type and another text. Nobody matches on how the interpreter words a call
#: with wrong arguments, and it words those of C functions and of Python functions differently.
WORDING = ("takes", "missing", "keyword argument", "has no attribute")


def probe(side: Side) -> dict[str, Any]:
    """Run the probes with a side's interpreter; return {name: result}."""
    done = subprocess.run(
        [str(side.python), str(HERE / "api_probe.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=side.environment,
        cwd=side.directory,
        timeout=10 * PATIENCE,
        check=True,
    )
    # Other lines are what a library printed.
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return {line["name"]: line["result"] for line in lines}


@pytest.fixture(scope="module")
def results(theirs: Side, ours: Side) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of both sides."""
    return probe(theirs), probe(ours)


def comparable(result: Any) -> Any:
    """Return a result without what need not be the same about an error's text."""
    if isinstance(result, dict):
        kind, text = result["raises"]
        if kind == "IndexError":
            return kind
        if kind in ("TypeError", "AttributeError") and any(word in text for word in WORDING):
            return kind
        if kind == "error":
            # Ours adds the reason after a colon.
            return kind, text.partition(":")[0]
    return result


def test_same_probes(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Both sides were asked the same, and a lot: no constant is missing on one of them."""
    theirs, ours = results
    assert list(theirs) == list(ours)
    assert len(theirs) > 600


def test_same_results(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Every probe but the listed ones has the same result."""
    theirs, ours = results
    assert {
        name: comparable(result)
        for name, result in theirs.items()
        if name not in DIFFERENT and name not in APART
    } == {
        name: comparable(result)
        for name, result in ours.items()
        if name not in DIFFERENT and name not in APART
    }


def test_deliberate_differences(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Every listed probe has the result that is listed, which is not pymilter's."""
    theirs, ours = results
    assert {name: result for name, (_, result) in DIFFERENT.items()} == {
        name: ours[name] for name in DIFFERENT
    }
    for name in DIFFERENT:
        assert theirs[name] != ours[name], name


def test_names(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The package has every name of pymilter's."""
    theirs, ours = results
    # A leftover of one of its loops, which no filter can have a use for.
    wanted = set(json.loads(theirs["Milter names"].replace("'", '"'))) - {"priv"}
    assert set() == wanted - set(json.loads(ours["Milter names"].replace("'", '"')))


def test_star_import(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """``from Milter import *`` fails there; ours brings what is documented, and not ``factory``."""
    theirs, ours = results
    assert "TypeError" == theirs["star import"]["raises"][0]
    names = set(json.loads(ours["star import"].replace("'", '"')))
    assert {"Base", "Milter", "noreply", "runmilter", "CONTINUE", "P_SKIP", "set_flags"} <= names
    assert set() == names & {"factory", "milter", "os", "thread"}
