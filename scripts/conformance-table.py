#!/usr/bin/env python3
"""Write docs/conformance.md: which test covers which row of the wire spec's conformance table.

    scripts/conformance-table.py            writes the page
    scripts/conformance-table.py --check    says what is missing or out of date, and fails if so

The tests are parsed, not run, so this needs neither the engine nor pytest. A test names its rows
with `@pytest.mark.row(17, 20)`; `@pytest.mark.ours` says that the spec leaves a choice and that the
docstring states ours.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance.md"
ROWS = range(1, 193)
CLIENT_ROWS = range(193, 200)  # about our own MTA side, without levels; nobody has to name them

SECTIONS = {
    "8.1 Framing": range(1, 17),
    "8.2 Negotiation": range(17, 56),
    "8.3 Decoding of CONNECT, HELO, MAIL, RCPT, HEADER": range(56, 76),
    "8.4 Macros": range(76, 91),
    "8.5 State machine": range(91, 124),
    "8.6 Verdicts and replies": range(124, 156),
    "8.7 Modifications": range(156, 170),
    "8.8 API, sockets, process": range(170, 193),
    "8.9 The MTA-side client": CLIENT_ROWS,
}

# The level that the wire spec gives to each row; M where nothing is said here.
LEVELS = dict.fromkeys(ROWS, "M")
LEVELS.update(
    dict.fromkeys(
        [
            *(4, 5, 6, 50, 51, 54, 55, 65, 75, 104, 109, 110, 112, 113, 114, 117, 119, 120),
            *(130, 131, 135, 137, 138, 155, 169, 177, 184, 188, 189, 190),
        ],
        "I",
    )
)
LEVELS.update(dict.fromkeys([52, 92, 93, 94, 97, 98, 100, 101], "D/C"))
LEVELS.update(dict.fromkeys([8, 53, 63, 123, 168], "O"))
LEVELS.update(dict.fromkeys(CLIENT_ROWS, "-"))

HEAD = """\
# Conformance

Each row of the conformance table in the wire spec (its section 8), and the tests that cover it.
Levels:

- **M**: must match libmilter.
- **I**: libmilter has a fault here; the engine does the improved thing that the spec gives.
- **D/C**: libmilter drops the packet silently, and closing the connection is as good.
- **O**: optional, or different between builds of libmilter.

Where the spec leaves a choice, **ours** is what the test's description states.

This page is made by `scripts/conformance-table.py` from the tests' markers and docstrings.
"""


class Test(NamedTuple):
    """One test function: its file below tests/, its name, what its docstring says."""

    path: str
    name: str
    says: str
    ours: bool


def is_mark(node: ast.expr, name: str) -> bool:
    """Whether the expression is `pytest.mark.<name>`."""
    return isinstance(node, ast.Attribute) and ast.unparse(node) == f"pytest.mark.{name}"


def marked(function: ast.FunctionDef) -> tuple[set[int], bool]:
    """The rows named by the function's decorators, and whether one says that the choice is ours.

    Marks may stand anywhere in a decorator, so also on one parameter set.
    """
    rows: set[int] = set()
    ours = False
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and is_mark(node.func, "row"):
                rows.update(numbers(node))
            elif isinstance(node, ast.Attribute):
                ours = ours or is_mark(node, "ours")
    return rows, ours


def numbers(mark: ast.Call) -> Iterator[int]:
    """The numbers in `row(1, 2, *range(5, 9))`; ValueError for anything that is not a literal."""
    for argument in mark.args:
        if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Call):
            if ast.unparse(argument.value.func) != "range":
                raise ValueError(f"line {mark.lineno}: only numbers and *range() can be read")
            yield from range(*(ast.literal_eval(a) for a in argument.value.args))
        else:
            yield int(ast.literal_eval(argument))


def first_sentence(function: ast.FunctionDef, whole: bool) -> str:
    """The docstring's first paragraph, or all of it, as one line."""
    text = ast.get_docstring(function) or ""
    return " ".join((text if whole else text.partition("\n\n")[0]).split())


def collect(tests: Path = ROOT / "tests") -> dict[int, list[Test]]:
    """The tests of each row, in the order of files and of functions in them."""
    covered: dict[int, list[Test]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        where = path.relative_to(tests).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
                continue
            try:
                rows, ours = marked(node)
            except ValueError as problem:
                raise SystemExit(f"{where}: {problem}") from None
            for row in sorted(rows):
                test = Test(where, node.name, first_sentence(node, ours), ours)
                covered.setdefault(row, []).append(test)
    return covered


def problems(covered: dict[int, list[Test]]) -> list[str]:
    """What is wrong with the coverage: rows without a test, unknown rows, choices not stated."""
    found = [f"row {row} is covered by no test" for row in ROWS if row not in covered]
    for row, tests in sorted(covered.items()):
        if row not in LEVELS:
            found.append(f"{tests[0].path}::{tests[0].name} names row {row}, which is none")
        elif LEVELS[row] in ("D/C", "O") and not any(test.ours for test in tests):
            found.append(f"row {row} leaves a choice, and no test of it is marked `ours`")
        found += [f"{t.path}::{t.name} has no docstring" for t in tests if not t.says]
    return found


def render(covered: dict[int, list[Test]]) -> str:
    """The page."""
    done = sum(row in covered for row in ROWS)
    lines = [HEAD, f"Rows covered: {done} of {len(ROWS)}."]
    for title, rows in SECTIONS.items():
        lines += ["", f"## {title}", "", "| row | level | what holds | test |", "|---|---|---|---|"]
        for row in rows:
            for test in covered.get(row, []):
                says = test.says.replace("|", "\\|").replace("<", "&lt;")
                ours = "**Ours:** " if test.ours else ""
                where = f"`{test.path}::{test.name}`"
                lines.append(f"| {row} | {LEVELS[row]} | {ours}{says} | {where} |")
            if row not in covered:
                lines.append(f"| {row} | {LEVELS[row]} | | none |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page; the exit status."""
    covered = collect()
    found = problems(covered)
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render(covered):
            found.append(
                f"{PAGE.relative_to(ROOT)} is out of date: run scripts/conformance-table.py"
            )
    else:
        PAGE.write_text(render(covered), encoding="utf-8")
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
