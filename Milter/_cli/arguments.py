"""Arguments that more than one command takes, and how their text is read."""

from __future__ import annotations

import argparse
import re
from typing import Callable

from Milter._conversation import address_family
from Milter._message import bracketed
from Milter.mta import LOCALHOST, Recipient, SmtpClient


def address(text: str) -> Recipient:
    """``ADDRESS [PARAMETER...]``, the address with or without angle brackets."""
    text = text.strip()
    if text.startswith("<") and ">" in text:
        path, _, rest = text.rpartition(">")
        return Recipient(f"{path}>", tuple(rest.split()))
    path, *params = text.split() or [""]
    return Recipient(bracketed(path), tuple(params))


def client(text: str) -> SmtpClient:
    """``NAME``, ``ADDRESS``, ``NAME[ADDRESS]`` or ``NAME[ADDRESS]:PORT``, as Postfix logs them."""
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]+)\](?::([0-9]+))?", text)
    try:
        if match is None:
            if "[" in text or "]" in text or not text:
                raise ValueError("not NAME[ADDRESS]:PORT")
            try:
                address_family(text)
            except ValueError:
                return SmtpClient(text, LOCALHOST.address)
            return SmtpClient(f"[{text}]", text)
        name, literal, port = match.groups()
        known = None if literal.lower() == "unknown" else literal
        address_family(known)
        if int(port or 0) > 65535:
            raise ValueError("not a port")
        return SmtpClient(name or f"[{literal}]", known, int(port or 0))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def macro(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; the braces around a longer name may be left out."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if len(name) > 1 and not name.startswith("{"):
        name = f"{{{name}}}"
    return name, value


def seconds(text: str) -> float:
    """A time to wait."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    # Not above what the operating system's timers take; a NaN is not above 0.
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return number


def port(text: str) -> int:
    """A TCP port."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def mode(text: str) -> int:
    """Permission bits in octal."""
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} are no permission bits, such as 660")
    return bits


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def within(first: int, last: int) -> Callable[[str], int]:
    """Returns what reads a whole number that is not below *first* nor above *last*."""

    def read(text: str) -> int:
        # The length, because Python refuses to read the very longest.
        if text.isascii() and text.isdigit() and len(text) < 20 and first <= int(text) <= last:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {first} to {last}")

    return read


def add_capture_port(parser: argparse._ActionsContainer) -> None:
    """Adds ``--port``; for Milter._replay.open_source()."""
    parser.add_argument(
        "--port",
        type=port,
        metavar="PORT",
        help="the filter's port in a capture (default: connections that begin as milter's do)",
    )


def add_colour(parser: argparse._ActionsContainer) -> None:
    """Adds ``--color``; for Milter._cli.output.use_colours()."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colours, with the library rich: auto is on a terminal, unless NO_COLOR is set "
        "(default: auto)",
    )
