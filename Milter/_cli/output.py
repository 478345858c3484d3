"""What every command prints with, and how it ends."""

from __future__ import annotations

import sys
from typing import Final

ACCEPTED: Final = 0
REFUSED: Final = 1
FAILED: Final = 2


class Failure(Exception):
    """What the user gets to read, in one line; the exit status is 2."""


def put(data: bytes) -> None:
    """Writes to standard output at once, so that a slow filter can be watched."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """Prints a line, whatever characters the terminal knows."""
    put(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace") + b"\n")


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
