"""What a filter did to a message, as commands print it: in words, as a diff, and as JSON.

The words are Milter._inwords'.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final, Optional

from Milter._cli.output import put, say
from Milter._inwords import diff, envelope_lines, outcome_lines, step_lines
from Milter._message import bracketed, from_wire
from Milter.mta import (
    Message,
    MilterError,
    Modification,
    Options,
    ProtocolError,
    Result,
    Step,
    Verdict,
    action_names,
    protocol_names,
)

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
    _say_below(step_lines(step, title), _STYLES.get(step.verdict.kind.value, ""))


def say_outcome(result: Result) -> None:
    """Prints what became of a message, and what the client is told."""
    _say_below(outcome_lines(result), _STYLES[result.outcome.value])


def _say_below(lines: list[str], style: str) -> None:
    """Prints lines, the first of them in colours."""
    for line in lines:
        say(line, style)
        style = ""


# -- the message ---------------------------------------------------------------------------------


def say_message(message: Message) -> None:
    """Prints envelope and message, the message byte by byte."""
    say("")
    for line in envelope_lines(message):
        say(line)
    say("")
    data = message.as_bytes(b"\n")
    put(data if data.endswith(b"\n") else data + b"\n")


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
