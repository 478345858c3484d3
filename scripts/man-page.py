#!/usr/bin/env python3
"""Write docs/milterctl.1, the man page, from what the commands say of themselves.

    scripts/man-page.py            writes the page
    scripts/man-page.py --check    says whether it is out of date, and fails if so

It imports the package, so the engine must be built in place.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "milterctl.1"


def quoted(text: str) -> str:
    """A text as roff takes it literally, within a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def options(actions: list[argparse.Action]) -> Iterator[str]:
    """Each argument with what its help says."""
    for action in actions:
        help = (action.help or "").replace("%(default)s", str(action.default))
        words = action.metavar or (
            "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
        )
        value = "" if action.nargs == 0 else f" \\fI{quoted(str(words))}\\fR"
        names = [f"\\fB{quoted(name)}\\fR{value}" for name in action.option_strings]
        yield ".TP"
        yield ", ".join(names) or value.lstrip()
        yield quoted(help.replace("%%", "%") + ("" if help.endswith((".", "!")) else "."))


def prose(text: str) -> Iterator[str]:
    """Paragraphs, headings (lines of their own that end in a colon) and indented lines as is."""
    for block in re.split(r"\n\n+", text.strip("\n")):
        lines = block.split("\n")
        if re.fullmatch(r"[a-z][a-z ]*:", lines[0]):
            yield ".PP"
            yield f"\\fB{quoted(lines[0][:-1].capitalize())}\\fR"
            lines = lines[1:]
        if lines and lines[0].startswith(" "):
            yield from [".PP", ".nf"] if lines == block.split("\n") else [".nf"]
            yield from (quoted(line) for line in lines)
            yield ".fi"
        elif lines:
            yield ".PP"
            yield quoted(" ".join(lines))


def command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The section of a command."""
    yield f".SS {quoted(name)}"
    assert parser.usage is not None, f"{name} has no usage; argparse's own differs by version"
    yield f"\\fB{quoted(parser.usage % {'prog': parser.prog})}\\fR"
    yield ".PP"
    yield quoted(parser.description or "")
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        yield from options(actions)
    yield from prose(parser.epilog or "")


def page() -> str:
    """The whole page."""
    sys.path.insert(0, str(ROOT))
    from Milter import _cli

    whole = _cli.parser("milterctl")
    commands = _cli.parsers("milterctl")
    lines = [
        '.\\" Made by scripts/man-page.py from the commands in Milter/_cli.',
        '.TH MILTERCTL 1 "" "pymilter\\-cffi" "User Commands"',
        ".nh",
        ".ad l",
        ".SH NAME",
        "milterctl \\- " + quoted((whole.description or "").rstrip(".").lower()),
        ".SH SYNOPSIS",
        "\\fBmilterctl\\fR \\fICOMMAND\\fR ...",
        ".SH DESCRIPTION",
        "A milter is a filter that a mail server asks about each message.",
        "\\fBmilterctl\\fR serves such filters, plays mail to them and looks into them, whatever",
        "library or language they are written with.",
        "\\fBpython \\-m Milter\\fR is the same command.",
    ]
    for each in _cli.COMMANDS:
        lines += [".TP", f"\\fB{quoted(each.name)}\\fR", quoted(each.help) + "."]
    lines.append(".SH OPTIONS")
    lines += options(
        [
            action
            for action in whole._actions
            if action.option_strings and not isinstance(action, argparse._SubParsersAction)
        ]
    )
    lines.append(".SH COMMANDS")
    for name, parser in commands.items():
        lines += command(name, parser)
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        "\\fBNO_COLOR\\fR",
        "if set, output on a terminal has no colours.",
        ".TP",
        "\\fBMILTER_THREADS\\fR, \\fBMILTER_WORKERS\\fR",
        "how a filter is served that says nothing else.",
        ".SH SEE ALSO",
        "\\fBpostconf\\fR(5), \\fBsendmail\\fR(8)",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page; return 1 if it is out of date."""
    new = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new:
            print(f"{PAGE.relative_to(ROOT)} is out of date: run scripts/man-page.py")
            return 1
        return 0
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
