"""Filters for the tests of Milter.testing; as a program: python testing_filters.py SOCKET."""

from __future__ import annotations

import sys
from typing import Any

import Milter


class Guard(Milter.Base):
    """Refuses senders and recipients named bad, drops spam, and says who was logged in."""

    def envfrom(self, sender: str, *params: str) -> int:
        self.events = ["envfrom"]
        if sender.startswith("<bad@"):
            self.setreply("550", "5.7.1", "go away")
            return Milter.REJECT
        if sender == "<later@example.net>":
            self.setreply("451", "4.7.1", "not now", "but later")
            return Milter.TEMPFAIL
        self.user = self.getsymval("{auth_authen}")
        return Milter.CONTINUE

    def envrcpt(self, recipient: str, *params: str) -> int:
        return Milter.REJECT if recipient.startswith("<bad@") else Milter.CONTINUE

    def header(self, name: str, value: str) -> int:
        return Milter.DISCARD if (name, value) == ("Subject", "spam") else Milter.CONTINUE

    def eom(self) -> int:
        self.addheader("X-User", self.user or "nobody")
        self.chgheader("Subject", 1, "[seen] test")
        self.replacebody(b"good\r\nbye\r\n")
        self.addrcpt("<copy@example.com>")
        self.chgfrom("<bounces@example.org>")
        self.quarantine("to be looked at")
        return Milter.ACCEPT

    def close(self) -> int:
        self.events.append("close")
        return Milter.CONTINUE


class Quiet(Milter.Base):
    """Lets everything pass."""


class Broken(Milter.Base):
    """Has a mistake in a callback, which the recipient's name says."""

    def envrcpt(self, recipient: str, *params: str) -> int:
        if "rcpt" in recipient:
            raise LookupError("no such table")
        self.name = recipient
        return Milter.CONTINUE

    def eom(self) -> Any:
        return {}["key"] if "eom" in self.name else Milter.CONTINUE

    def close(self) -> int:
        if "close" in getattr(self, "name", ""):
            raise LookupError("nothing to close")
        return Milter.CONTINUE


if __name__ == "__main__":
    if sys.argv[1] == "fail":
        print("bad configuration")
        sys.exit(3)
    print("listening on", sys.argv[1], flush=True)
    Milter.factory = Guard
    Milter.runmilter("guard", sys.argv[1], 60)
