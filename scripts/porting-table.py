#!/usr/bin/env python3
"""Write the table at the end of docs/porting.md: every public name of pymilter and its state here.

    scripts/porting-table.py            writes the table
    scripts/porting-table.py --check    says what is out of date, and fails if so

The names come from scripts/pymilter-names.txt, which is written by hand and says how; nothing is
imported here. That the package has them all is checked by tests/unit/test_porting_table.py.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NAMES = ROOT / "scripts" / "pymilter-names.txt"
PAGE = ROOT / "docs" / "porting.md"
BEGIN = "<!-- made by scripts/porting-table.py from scripts/pymilter-names.txt: begin -->\n"
END = "<!-- end -->\n"

STATES = ("fixed", "changed", "more")
SAME = "as in pymilter"

_LINE = re.compile(
    r"(?P<indent>    )?(?P<class>class )?(?P<name>\.?\w+)"
    r"(?:(?P<signature>\(.*\))|(?: = (?P<value>.+)))?(?: < (?P<base>\w+))?"
)


class Module(NamedTuple):
    """A module of pymilter: its name, the section of the API spec, its title on the page."""

    name: str
    section: str
    title: str


class Name(NamedTuple):
    """A name in a module or in a class."""

    module: Module
    owner: str  # the class, or ""
    name: str  # begins with a dot if only objects have it
    is_class: bool
    signature: str  # with parentheses, or ""
    value: str  # a literal, or ""
    base: str  # a class's, or ""
    note: str  # what is different, or ""

    @property
    def shown(self) -> str:
        """The name as the page shows it."""
        dotted = f"{self.owner}.{self.name.lstrip('.')}" if self.owner else self.name
        value = "" if not self.value or self.owner else f" = {self.value}"
        return f"`{dotted}{self.signature.replace('...', '…')}{value}`"


def names(text: str | None = None) -> list[Name]:
    """Read the names; SystemExit for a line that is not understood."""
    if text is None:
        text = NAMES.read_text(encoding="utf-8")
    found: list[Name] = []
    module: Module | None = None
    owner = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("module "):
            module = Module(*(line[len("module ") :] + ", ").split(", ", 3)[:3])
            owner = ""
            continue
        left, _, note = line.partition("  | ")
        match = _LINE.fullmatch(left)
        if module is None or match is None or (match["indent"] and not owner):
            raise SystemExit(f"{NAMES.name}: line {number} is not understood: {line}")
        if note and note.partition(":")[0] not in STATES:
            raise SystemExit(
                f"{NAMES.name}: line {number}: the remark begins with none of {STATES}"
            )
        if not match["indent"]:
            owner = ""
        name = Name(
            module,
            owner,
            match["name"],
            bool(match["class"]),
            match["signature"] or "",
            match["value"] or "",
            match["base"] or "",
            note,
        )
        if name.value:
            ast.literal_eval(name.value)
        found.append(name)
        if name.is_class:
            owner = name.name
    return found


def table(module: Module, entries: list[Name]) -> Iterator[str]:
    """The lines of a module's table; what needs no words shares rows."""
    yield f"### {module.title or '`' + module.name + '`'}"
    yield ""
    yield f"API spec {module.section}."
    yield ""
    yield "| name | here |"
    yield "|---|---|"
    for (plain, _), group in groupby(entries, lambda each: (not each.note, each.owner)):
        together = list(group)
        for row in [together] if plain else [[each] for each in together]:
            yield f"| {', '.join(each.shown for each in row)} | {row[0].note or SAME} |"
    yield ""


def render(entries: list[Name]) -> str:
    """What stands between the marks on the page."""
    different = sum(bool(each.note) for each in entries)
    lines = [
        f"{len(entries)} names; {len(entries) - different} are {SAME}, {different} with a remark.",
        "*Fixed* is what is broken in pymilter, *changed* is different on purpose, *more* takes or",
        "gives more than there. `Milter` has all names of `milter`, too. Names that begin with an",
        "underscore are listed where filters, or their tests, reach for them.",
        "",
    ]
    for module, group in groupby(entries, lambda each: each.module):
        lines += table(module, list(group))
    return "\n".join(lines)


def page(text: str, entries: list[Name]) -> str:
    """The page with the table in its place."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE.relative_to(ROOT)}: no place for the table, which is {BEGIN}{END}")
    return head + begin + "\n" + render(entries) + end + tail


def main() -> int:
    """Write or check the page; return 1 if it is out of date."""
    old = PAGE.read_text(encoding="utf-8")
    new = page(old, names())
    if "--check" in sys.argv[1:]:
        if old != new:
            print(f"{PAGE.relative_to(ROOT)} is out of date: run scripts/porting-table.py")
            return 1
        return 0
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
