"""docs/examples.md and the programs say the same; each program explains itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from examples_support import ROOT, load

PROGRAMS = ["sample.py", *sorted(path.name for path in (ROOT / "examples").glob("*.py"))]
TEXT = (ROOT / "docs" / "examples.md").read_text("utf-8")


def source(program: str) -> str:
    """Return a program's text."""
    path = ROOT / program if program == "sample.py" else ROOT / "examples" / program
    return path.read_text("utf-8")


def test_each_has_its_section() -> None:
    """Each program is described once, and nothing else is."""
    assert PROGRAMS == sorted(
        re.findall(r"^## (\w+\.py)$", TEXT, re.M), key=lambda name: (name != "sample.py", name)
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_ports(program: str) -> None:
    """The port that is documented is the default, and what the program's own text has."""
    section = TEXT.partition(f"## {program}\n")[2].partition("\n## ")[0]
    (port,) = re.findall(r"Port (\d+)\.", section)
    assert {port} == set(re.findall(r"inet:(\d+)@127\.0\.0\.1", source(program)))


def test_ports_differ() -> None:
    """All can run at the same time."""
    ports = re.findall(r"^Port (\d+)\.", TEXT, re.M)
    assert len(PROGRAMS) == len(set(ports))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program: str, capsys: Any) -> None:
    """--help ends with 0 and names --socket and --timeout."""
    if program == "auth_results.py":
        pytest.importorskip("dkim", reason='no dkimpy: pip install "pymilter-cffi[examples]"')
        pytest.importorskip("spf", reason='no pyspf: pip install "pymilter-cffi[examples]"')
    with pytest.raises(SystemExit) as caught:
        load(program[:-3]).main(["--help"])
    assert 0 == caught.value.code
    shown = capsys.readouterr().out
    assert {"--socket", "--timeout"} <= set(re.findall(r"--[a-z-]+", shown))
