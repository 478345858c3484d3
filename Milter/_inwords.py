"""What was said to a filter and what became of a message, in lines of words and as a diff.

Owns these words, for Milter._cli.show, which colours and prints them, and Milter._testreport, which
shows them where an assertion fails. All lines are free of control characters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

from Milter._dialogue import Outcome, Result, Step
from Milter._message import Message, bracketed, from_wire, shown

_WIDTH: Final = 100  # characters of what a step was about, before it is cut
_INDENT: Final = " " * 9  # as wide as the name of a step

# Lines of a body that differ, up to which difflib, whose time grows with their square, is asked.
_LINES: Final = 2000


def count(number: int, thing: str) -> str:
    """Returns ``1 thing`` or ``2 things``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def step_lines(step: Step, title: str = "") -> list[str]:
    """Returns a step and its answer: a line with the verdict, and what goes with it below.

    Args:
        step: it.
        title: says whose it was, where there are several filters; the other lines stand below.
    """
    about = step.argument if len(step.argument) <= _WIDTH else step.argument[: _WIDTH - 3] + "..."
    below = []
    if step.verdict.raw:
        below += [shown(line) for line in from_wire(step.verdict.raw).split("\r\n")]
    if step.answer.progress:
        below.append(f"said {count(step.answer.progress, 'time')} that it is still at work")
    below += [str(change) for change in step.answer.modifications]
    first = f"{title}{step.name:<9}{step.verdict.kind.value:<10} {about}".rstrip()
    return [first, *(f"{' ' * len(title)}{_INDENT}{line}" for line in below)]


def outcome_lines(result: Result) -> list[str]:
    """Returns what became of a message, and what the client is told."""
    words = result.outcome.value
    if result.outcome is Outcome.ACCEPTED:
        if result.modifications:
            words += f", with {count(len(result.modifications), 'change')}"
        if result.refused:
            words += f", but not for {count(len(result.refused), 'recipient')}"
        if result.quarantine is not None:
            words += f", and quarantined: {shown(result.quarantine)}"
    first, *more = result.reply.split("\r\n")
    return [f"{words}: {shown(first)}", *(f"{_INDENT}{shown(line)}" for line in more)]


# -- the message ---------------------------------------------------------------------------------


def envelope_lines(message: Message) -> list[str]:
    """Returns the envelope, as SMTP has it."""
    lines = [" ".join([f"MAIL FROM:{bracketed(message.sender)}", *message.sender_params])]
    for recipient in message.recipients:
        lines.append(" ".join([f"RCPT TO:{bracketed(recipient.address)}", *recipient.params]))
    return [shown(line) for line in lines]


def diff(before: Message, after: Message) -> list[str]:
    """Returns the lines of a unified diff of envelope and headers, and of the body; [] for none.

    Text that is no UTF-8, and control characters, are written out.
    """
    lines = [*_changed(_head(before), _head(after), "envelope and headers")]
    lines += _changed(_body(before), _body(after), "body")
    return lines


def _head(message: Message) -> list[str]:
    """The envelope and the headers, each line of a folded one by itself."""
    lines = [*envelope_lines(message), ""]
    for header in message.headers:
        lines += [_plain(line) for line in from_wire(header.name + b":" + header.value).split("\n")]
    return lines


def _plain(line: str) -> str:
    """A line with its tabs, and what a terminal could obey written out."""
    return "\t".join(shown(part) for part in line.split("\t"))


def _body(message: Message) -> list[str]:
    lines = from_wire(message.body).split("\r\n")
    if lines[-1] == "":
        del lines[-1]
    elif lines != [""]:
        lines[-1] += "  (without a line end)"
    return [_plain(line) for line in lines]


def _changed(before: list[str], after: list[str], what: str) -> Iterator[str]:
    """The lines of a diff, without its titles."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    gone, come = len(before) - start - end, len(after) - start - end
    if gone + come > _LINES:
        yield f"@@ {what}: {count(gone, 'line')} replaced by {come}"
        return
    for number, line in enumerate(difflib.unified_diff(before, after, lineterm="")):
        if number < 2:
            continue
        yield re.sub(r"^@@ .* @@$", f"@@ {what}", line)
