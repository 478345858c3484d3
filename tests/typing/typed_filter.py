"""A filter with types in every line, for mypy --strict to read from outside the package."""

from __future__ import annotations

import io
import sys
from typing import Optional

import Milter
import mime
from Milter import greylist, testctx
from Milter.cache import AddrCache
from Milter.config import MilterConfigParser
from Milter.dns import DNSError, Session
from Milter.dsn import create_msg, send_dsn
from Milter.dynip import is_dynip
from Milter.greysql import Greylist
from Milter.plock import PLock
from Milter.policy import MTAPolicy
from Milter.test import TestBase
from Milter.utils import iniplist, parse_addr, parse_header, parseaddr


class Settings:
    """What MTAPolicy asks for."""

    access_file = "/etc/mail/access.db"
    access_file_nulls = False


config = MilterConfigParser({"listen": "unix:/run/filter"})
lists: list[str] = config.getlist("milter", "internal")
by_domain: dict[str, list[str]] = config.getaddrset("milter", "users")
known = AddrCache(renew=3, fname="known")


@Milter.rejected_recipients
class Filter(Milter.Base):
    """Every callback, most decorators, every action."""

    def __init__(self) -> None:
        self.id: int = Milter.uniqueID()
        self.copy: Optional[io.BytesIO] = None
        self.greylist = greylist.open("sqlite:///var/lib/filter/grey.db", grey_time=5)

    @Milter.noreply
    def connect(self, hostname: str, family: int, hostaddr: object) -> int:
        """Callbacks keep their own signature under a decorator."""
        if isinstance(hostaddr, tuple) and iniplist(str(hostaddr[0]), lists):
            return Milter.ACCEPT
        dynamic: bool = is_dynip(hostname, None)
        return Milter.CONTINUE if not dynamic else Milter.TEMPFAIL

    def hello(self, hostname: str) -> int:
        """Reply with a text."""
        if not parse_addr(hostname):
            self.setreply("550", "5.7.1", "no", "name")
            return Milter.REJECT
        return Milter.CONTINUE

    @Milter.symlist("{auth_authen}", "i")
    def envfrom(self, sender: str, *params: str) -> int:
        """Macros are text or None."""
        user: Optional[str] = self.getsymval("{auth_authen}")
        self.user = user
        self.copy = io.BytesIO()
        self.params = Milter.dictfromlist(list(params))
        return Milter.CONTINUE

    def envrcpt(self, to: str, *params: str) -> int:
        """A greylist."""
        try:
            passed: int = self.greylist.check("192.0.2.1", "a@b", to)
        except greylist.StoreError:
            return Milter.CONTINUE
        return Milter.CONTINUE if passed else Milter.TEMPFAIL

    def data(self) -> int:
        """A policy of the access map."""
        with MTAPolicy("bob@example.com", Settings) as policy:
            found: Optional[str] = policy.getPolicy("smtp-auth")
        return Milter.REJECT if found == "REJECT" else Milter.CONTINUE

    @Milter.decode("bytes")
    def header(self, field: str, value: bytes) -> int:
        """Headers as bytes."""
        if self.copy is not None:
            self.copy.write(field.encode() + b": " + value + b"\n")
        name, address = parseaddr(parse_header(value.decode("latin-1")))
        known[address] = name
        return Milter.CONTINUE

    @Milter.nocallback
    def unknown(self, cmd: str) -> int:
        """Never called."""
        return Milter.CONTINUE

    def body(self, chunk: bytes) -> int:
        """Bytes."""
        if self.copy is not None:
            self.copy.write(chunk)
        return Milter.CONTINUE

    def eom(self) -> int:
        """The MIME module and every action."""
        assert self.copy is not None
        self.copy.seek(0)
        message: mime.MimeMessage = mime.message_from_file(self.copy)
        if mime.defang(message, scan_zip=True):
            self.replacebody(message.as_bytes())
        for name, value in message.getnames():
            print(name, value)
        self.addheader("X-Filter", "seen")
        self.chgheader("Subject", 1, None)
        self.addrcpt("<a@b>")
        self.addrcpt("<a@b>", "NOTIFY=NEVER")
        self.delrcpt("<a@b>")
        self.chgfrom("<a@b>")
        self.quarantine("odd")
        self.progress()
        return Milter.ACCEPT

    def close(self) -> int:
        """The end."""
        self.copy = None
        return Milter.CONTINUE


class Tested(TestBase, Filter):
    """How filters are put under test."""

    def __init__(self) -> None:
        TestBase.__init__(self)
        Filter.__init__(self)


def look_up(domain: str) -> list[object]:
    """Ask the DNS."""
    session = Session()
    try:
        return list(session.dns(domain, "MX"))
    except DNSError:
        return []


def notify() -> object:
    """Send a delivery status notification."""
    message = create_msg(Settings(), ["a@b"], None, "Subject: no\n\nno")
    with_lock = PLock("file")
    with_lock.lock().write(str(message))
    with_lock.commit()
    Greylist("grey.db").check("192.0.2.1", "a@b", "c@d")
    return send_dsn("a@b", "mx.example.com")


def main() -> int:
    """Run it."""
    Milter.factory = Filter
    Milter.set_flags(Milter.CHGBODY | Milter.ADDHDRS)
    Milter.set_exception_policy(Milter.TEMPFAIL)
    ctx = testctx.TestCtx()
    ctx._connect(ip="192.0.2.1")
    Milter.runmilter("typed", "inet:8893@127.0.0.1", timeout=600, threads=8)
    return 0


if __name__ == "__main__":
    sys.exit(main())
