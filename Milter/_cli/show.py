"""What a filter did to a message, in words, as a diff, and as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from typing import Any, Final, Optional

from Milter._cli.output import count, put, say
from Milter._message import bracketed, from_wire, shown
from Milter.mta import (
    Message,
    MilterError,
    Modification,
    Options,
    Outcome,
    ProtocolError,
    Result,
    Step,
    Verdict,
    action_names,
    protocol_names,
)

_WIDTH: Final = 100  # characters of what a step was about, before it is cut

# Lines of a body that differ, up to which difflib, whose time grows with their square, is asked.
_LINES: Final = 2000

_STYLES: Final = {
    "accept": "green",
    "reject": "red",
    "tempfail": "yellow",
    "discard": "magenta",
    "not sent": "dim",
    "no reply": "dim",
    "accepted": "bold green",
    "rejected": "bold red",
    "tempfailed": "bold yellow",
    "discarded": "bold magenta",
    "+": "green",
    "-": "red",
    "@": "cyan",
}

# -- in words ------------------------------------------------------------------------------------


def say_options(options: Options, title: str = "") -> None:
    """Prints what was negotiated; *title* says with whom where there are several."""

    def names(words: list[str]) -> str:
        return "|".join(words) or "none"

    actions, protocol = action_names(options.actions), protocol_names(options.protocol)
    say(
        f"{title}negotiated version {options.version}, actions {names(actions)}, "
        f"protocol {names(protocol)}"
    )


def say_step(step: Step, title: str = "") -> None:
    """Prints a step and its answer; *title* says whose where there are several."""
    about = step.argument if len(step.argument) <= _WIDTH else step.argument[: _WIDTH - 3] + "..."
    kind = step.verdict.kind.value
    say(f"{title}{step.name:<9}{kind:<10} {about}".rstrip(), _STYLES.get(kind, ""))
    indent = " " * (len(title) + 9)
    if step.verdict.raw:
        for line in from_wire(step.verdict.raw).split("\r\n"):
            say(f"{indent}{shown(line)}")
    if step.answer.progress:
        say(f"{indent}said {count(step.answer.progress, 'time')} that it is still at work")
    for change in step.answer.modifications:
        say(f"{indent}{change}")


def say_outcome(result: Result) -> None:
    """Prints what became of a message, and what the client is told."""
    words = result.outcome.value
    if result.outcome is Outcome.ACCEPTED:
        if result.modifications:
            words += f", with {count(len(result.modifications), 'change')}"
        if result.refused:
            words += f", but not for {count(len(result.refused), 'recipient')}"
        if result.quarantine is not None:
            words += f", and quarantined: {shown(result.quarantine)}"
    lines = result.reply.split("\r\n")
    say(f"{words}: {shown(lines[0])}", _STYLES[result.outcome.value])
    for line in lines[1:]:
        say(f"{'':9}{shown(line)}")


# -- the message ---------------------------------------------------------------------------------


def _envelope(message: Message) -> list[str]:
    """The envelope, as SMTP has it."""
    lines = [" ".join([f"MAIL FROM:{bracketed(message.sender)}", *message.sender_params])]
    for recipient in message.recipients:
        lines.append(" ".join([f"RCPT TO:{bracketed(recipient.address)}", *recipient.params]))
    return [shown(line) for line in lines]


def say_message(message: Message) -> None:
    """Prints envelope and message, the message byte by byte."""
    say("")
    for line in _envelope(message):
        say(line)
    say("")
    data = message.as_bytes(b"\n")
    put(data if data.endswith(b"\n") else data + b"\n")


def _head(message: Message) -> list[str]:
    """The envelope and the headers, each line of a folded one by itself."""
    lines = [*_envelope(message), ""]
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


def diff(before: Message, after: Message) -> list[str]:
    """Returns the lines of a unified diff of envelope and headers, and of the body; [] for none.

    Text that is no UTF-8, and control characters, are written out.
    """
    lines = [*_changed(_head(before), _head(after), "envelope and headers")]
    lines += _changed(_body(before), _body(after), "body")
    return lines


def say_diff(before: Message, after: Message) -> None:
    """Prints the diff, if there is one, after an empty line."""
    lines = diff(before, after)
    if lines:
        say("")
    for line in lines:
        say(line, _STYLES.get(line[:1], ""))


# -- JSON ----------------------------------------------------------------------------------------
#
# Text from the wire that is no UTF-8 stands in it as lone surrogates, as Python's surrogateescape
# has them: "\udcff" for the byte FF.


def options_value(options: Options) -> dict[str, Any]:
    """What was negotiated."""
    return {
        "version": options.version,
        "actions": action_names(options.actions),
        "protocol": protocol_names(options.protocol),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    value: dict[str, Any] = {"verdict": verdict.kind.value}
    if verdict.raw:
        value["reply"] = from_wire(verdict.raw)
    return value


def _modification(change: Modification) -> dict[str, Any]:
    name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(change).__name__).lower()
    values = dataclasses.asdict(change)
    for key, value in values.items():
        if isinstance(value, bytes):
            values[key] = from_wire(value)
    return {"type": name, **values}


def _step(step: Step) -> dict[str, Any]:
    value = {
        "filter": step.filter,
        "step": step.name,
        "argument": step.argument,
        **_verdict(step.verdict),
    }
    if step.answer.progress:
        value["progress"] = step.answer.progress
    if step.answer.modifications:
        value["modifications"] = [_modification(change) for change in step.answer.modifications]
    return value


def error_value(error: MilterError) -> dict[str, Any]:
    """What a filter did wrong."""
    value: dict[str, Any] = {"type": type(error).__name__, "text": str(error)}
    if isinstance(error, ProtocolError):
        value["rule"] = error.rule
        number: Optional[int] = getattr(error, "packet", None)
        data: Optional[bytes] = getattr(error, "data", None)
        if number is not None:
            value["packet"] = number
        if data is not None:
            value["data"] = data.hex()
    return value


def result_value(before: Message, result: Result) -> dict[str, Any]:
    """What became of a message."""
    after = result.message
    return {
        "outcome": result.outcome.value,
        "reply": result.reply,
        **({} if result.quarantine is None else {"quarantine": result.quarantine}),
        "session_over": result.session_over,
        "steps": [_step(step) for step in result.steps],
        "refused": [step.argument for step in result.refused],
        "modifications": [_modification(change) for change in result.modifications],
        "envelope": {
            "from": bracketed(after.sender),
            "params": after.sender_params,
            "to": [
                {"address": bracketed(to.address), "params": list(to.params)}
                for to in after.recipients
            ],
        },
        "headers": [[from_wire(header.name), from_wire(header.value)] for header in after.headers],
        "body": from_wire(after.body),
        "diff": diff(before, after),
    }
