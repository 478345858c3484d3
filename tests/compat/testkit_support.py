"""What the tests of `Milter.test` and `Milter.testctx` share: a filter that tells what it got."""

from __future__ import annotations

import io
from typing import Any

import pytest

import Milter
import milter
from Milter.test import TestBase

# The import has set it for the whole process, where other tests go by the real one.
Milter.NOREPLY = milter.NOREPLY

MESSAGE = b"""\
Received: from a
Received: from b
Subject: hello
\tworld
From: "A B" <a@example.com>

line 1

line 3
"""

HEADERS = [
    ("Received", "from a"),
    ("Received", "from b"),
    ("Subject", "hello\n\tworld"),
    ("From", '"A B" <a@example.com>'),
]

BODY = b"line 1\n\nline 3\n"

#: The callbacks of that message, from a sender s@x to r@x.
STEPS: list[tuple[Any, ...]] = [
    ("envfrom", "<s@x>"),
    ("envrcpt", "<r@x>"),
    ("data",),
    *(("header", *header) for header in HEADERS),
    ("eoh",),
    ("body", BODY),
    ("eom",),
]


def message(data: bytes = MESSAGE) -> io.BytesIO:
    """Return a message as a file."""
    return io.BytesIO(data)


class Seen(Milter.Base):
    """Writes its callbacks down; what they return can be set, and what eom does."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.verdicts: dict[str, Any] = {}
        self.todo: Any = None

    def step(self, name: str, *args: Any) -> Any:
        self.calls.append((name, *args))
        return self.verdicts.get(name, Milter.CONTINUE)

    def connect(self, hostname: str, family: int, hostaddr: Any) -> Any:
        return self.step("connect", hostname, family, hostaddr)

    def hello(self, hostname: str) -> Any:
        return self.step("hello", hostname)

    def envfrom(self, f: Any, *s: Any) -> Any:
        return self.step("envfrom", f, *s)

    def envrcpt(self, to: Any, *s: Any) -> Any:
        return self.step("envrcpt", to, *s)

    def data(self) -> Any:
        return self.step("data")

    def header(self, field: str, value: Any) -> Any:
        return self.step("header", field, value)

    def eoh(self) -> Any:
        return self.step("eoh")

    def body(self, blk: bytes) -> Any:
        return self.step("body", blk)

    def eom(self) -> Any:
        if self.todo is not None:
            self.todo(self)
        return self.step("eom")

    def abort(self) -> Any:
        return self.step("abort")

    def close(self) -> Any:
        return self.step("close")


@pytest.fixture(autouse=True)
def kit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have NOREPLY as the import of Milter.test leaves it, and the factory put back after."""
    monkeypatch.setattr(Milter, "NOREPLY", Milter.CONTINUE)
    monkeypatch.setattr(Milter, "factory", Milter.Milter)


__all__ = ["BODY", "HEADERS", "MESSAGE", "STEPS", "Seen", "TestBase", "kit", "message"]
