"""Messages from files, directories, mailboxes and standard input."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple, Optional

from Milter._cli.output import Failure
from Milter._message import bracketed, from_wire
from Milter.mta import Message, Recipient


class Source(NamedTuple):
    """A message as it was found."""

    name: str
    """For the user: a path, with ``:N`` behind it for the n-th message of a mailbox."""
    data: bytes
    several: bool
    """There are others from where it comes."""


def sources(paths: list[str]) -> Iterator[Source]:
    """Finds the messages that paths name, in order.

    Args:
        paths: files with a message; mailboxes (mbox), known by their first line, which begins with
            ``From ``; directories, for all files in them (of a maildir: in ``new`` and ``cur``) but
            those whose names begin with a dot; and ``-`` for standard input, a message or mailbox.

    Raises:
        Failure: one cannot be read, or a directory has no files in it.
    """
    for path in paths:
        if path == "-":
            if sys.stdin is None:
                raise Failure("standard input is closed")
            yield from _split("-", sys.stdin.buffer.read(), False)
        elif os.path.isdir(path):
            files = _files(path)
            if not files:
                raise Failure(f"{path}: no messages in this directory")
            for file in files:
                yield from _split(file, _read(file), True)
        else:
            yield from _split(path, _read(path), False)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None


def _files(path: str) -> list[str]:
    """The files of a directory or a maildir, sorted by name."""
    maildir = all(os.path.isdir(os.path.join(path, part)) for part in ("new", "cur"))
    found: list[str] = []
    for place in [os.path.join(path, part) for part in ("new", "cur")] if maildir else [path]:
        try:
            names = sorted(os.listdir(place))
        except OSError as error:
            raise Failure(f"{place}: {error.strerror}") from None
        files = [os.path.join(place, name) for name in names if not name.startswith(".")]
        found += [file for file in files if os.path.isfile(file)]
    return found


# A line of a mailbox that begins a message: after an empty line or at the beginning.
_FROM_LINE = re.compile(rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From [^\n]*(?:\n|\Z)")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def _split(name: str, data: bytes, several: bool) -> Iterator[Source]:
    if not data.startswith(b"From "):
        yield Source(name, data, several)
        return
    marks = list(_FROM_LINE.finditer(data))
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(data)
        message = data[mark.end() : end]
        # The empty line that ends it is the mailbox's.
        for blank in (b"\r\n\r\n", b"\n\n"):
            if message.endswith(blank):
                message = message[: -(len(blank) // 2)]
                break
        # A line of the message that would look like a new one's was quoted when it was stored.
        message = _QUOTED.sub(rb"\1", message)
        title = f"{name}:{number + 1}" if len(marks) > 1 else name
        yield Source(title, message, several or len(marks) > 1)


def _addresses(message: Message, *names: str) -> list[Recipient]:
    """The addresses in these headers."""
    from email.utils import getaddresses  # not needed by who gives an envelope

    values = [from_wire(value) for name in names for value in message.get_all(name)]
    return [Recipient(bracketed(address)) for _, address in getaddresses(values) if address]


def parse(
    source: Source,
    sender: Optional[Recipient],
    recipients: Optional[list[Recipient]],
    lenient: bool,
) -> Message:
    """Reads a message and gives it an envelope.

    Args:
        source: the message.
        sender: with parameters; None: the first address in From, else the null sender.
        recipients: None: all addresses in To and Cc.
        lenient: a line among the headers that is no header ends them, as at a mail server.

    Raises:
        Failure: it is empty, or has such a line, or no recipients.
    """
    if not source.data.strip():
        raise Failure(f"{source.name}: empty")
    message = Message.from_bytes(source.data)
    if not lenient:
        _check_headers(source, message)
    if sender is None:
        sender = next(iter(_addresses(message, "From")), Recipient("<>"))
    message.sender = sender.address
    message.sender_params = list(sender.params)
    message.recipients = recipients or _addresses(message, "To", "Cc")
    if not message.recipients:
        raise Failure(f"{source.name}: no recipients: give --to, the headers To and Cc name nobody")
    return message


def _check_headers(source: Source, message: Message) -> None:
    """Raises Failure for a line among the headers that is none."""
    number = sum(1 + header.value.count(b"\n") for header in message.headers)
    lines = source.data.split(b"\n", number + 1)
    line = lines[number].rstrip(b"\r") if number < len(lines) else b""
    if line:
        raise Failure(f"{source.name}, line {number + 1}: no header: {line[:60]!r}")
