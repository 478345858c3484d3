"""Milter.smtp and applications as aiosmtpd has them: whose hook is called when, and with what."""

# ruff: noqa: SIM117 - filter, server and client in one line would be more than fits into it

from __future__ import annotations

import dataclasses
import mailbox
from pathlib import Path
from typing import Any, Optional

import aiosmtpd.controller
import aiosmtpd.handlers
import aiosmtpd.smtp
import pytest
from mta_support import C, packet
from test_smtp import MAIL, Keeper, client, filter_at, said, serving

from Milter.smtp import SMTP, Controller, MilterHandler, handled

ADDS = packet("h", b"X-Seen\0yes\0") + C
CHANGED = b"From: a\r\nSubject: hi\r\nX-Seen: yes\r\n\r\nhello\r\n"


@dataclasses.dataclass
class Mine(aiosmtpd.smtp.Envelope):
    """An Envelope that is equal to others and so has no hash."""

    tag: str = "mine"

    def __post_init__(self) -> None:
        super().__init__()


class WithMine(SMTP):
    """A server with Envelopes of its own, as aiosmtpd's manual has it."""

    def _create_envelope(self) -> Mine:
        return Mine()


def test_an_envelope_of_the_applications_own(tmp_path: Path) -> None:
    """Its class stays, and what the filters said of it is found, even where it has no hash."""
    seen: list[Any] = []

    class Tagged(Controller):
        def factory(self) -> SMTP:
            return WithMine(self.handler, **self.SMTP_kwargs)

    class App:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            seen.append((envelope.tag, envelope.content, handled(envelope), handled(Mine())))
            return "250 ok"

    with filter_at(tmp_path / "s", E=ADDS) as simple:
        with serving(MilterHandler(simple.spec, app=App()), Tagged) as port:
            with client(port) as smtp:
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    ((tag, content, about, other),) = seen
    assert ("mine", CHANGED, None) == (tag, content, other)
    assert MAIL == about.original_content


@pytest.mark.parametrize("decode", [False, True])
def test_the_original_content_is_the_filtered_one(tmp_path: Path, decode: bool) -> None:
    """aiosmtpd's Proxy takes original_content of mail it gets as text: no way past the filter."""
    behind = Keeper()
    with serving(behind, aiosmtpd.controller.Controller) as last:
        app = aiosmtpd.handlers.Proxy("127.0.0.1", last)
        with filter_at(tmp_path / "s", E=ADDS) as simple:
            handler = MilterHandler(simple.spec, app=app)
            with serving(handler, decode_data=decode) as port, client(port) as smtp:
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    ((sender, recipients, content),) = behind.mails
    assert ("a@example.org", ["b@example.com"]) == (sender, recipients)
    assert CHANGED == content.replace(b"X-Peer: 127.0.0.1\r\n", b"")


def test_aiosmtpds_mailbox(tmp_path: Path) -> None:
    """aiosmtpd's Mailbox keeps the message as the filter made it."""
    app = aiosmtpd.handlers.Mailbox(tmp_path / "mail")
    with filter_at(tmp_path / "s", E=packet("+", b"<more@example.com>\0") + ADDS) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    (mail,) = mailbox.Maildir(tmp_path / "mail", create=False)
    assert "yes" == mail["X-Seen"]
    assert "b@example.com, more@example.com" == mail["X-RcptTo"]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_process_message(tmp_path: Path, kind: str) -> None:
    """An application of the old kind, which aiosmtpd still calls, gets its mail, filtered."""
    seen: list[Any] = []

    class Old:
        def process_message(self, peer: Any, sender: str, to: list[str], data: bytes) -> None:
            seen.append((peer[0], sender, list(to), data))

    class OldAsync:
        async def process_message(self, peer: Any, sender: str, to: list[str], data: bytes) -> str:
            seen.append((peer[0], sender, list(to), data))
            return "250 2.0.0 old"

    app = Old() if kind == "function" else OldAsync()
    with filter_at(tmp_path / "s", E=ADDS) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            code, text = said(smtp.data(MAIL))
    assert [("127.0.0.1", "a@example.org", ["b@example.com"], CHANGED)] == seen
    assert 250 == code
    assert (text == "2.0.0 old") == (kind == "coroutine")


@pytest.mark.parametrize("command", ["HELO", "EHLO"])
def test_the_applications_name_for_the_client(tmp_path: Path, command: str) -> None:
    """What an application makes of the HELO name is the Session's; filters get what was said."""
    seen: list[Any] = []

    class App:
        async def handle_HELO(self, server: Any, session: Any, envelope: Any, name: str) -> str:
            session.host_name = name.upper()
            return "250 hello"

        async def handle_EHLO(
            self, server: Any, session: Any, envelope: Any, name: str, responses: list[str]
        ) -> list[str]:
            session.host_name = name.upper()
            return responses

        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            about = handled(envelope)
            assert about is not None
            seen.append((session.host_name, about.helo))
            return "250 ok"

    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=App())) as port, client(port) as smtp:
            assert 250 == smtp.docmd(command, "client.example.org")[0]
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            smtp.data(MAIL)
        assert b"Hclient.example.org\0" in simple.packets
    assert [("CLIENT.EXAMPLE.ORG", "client.example.org")] == seen


HOOKS = {
    "HELO": "HELO x",
    "EHLO": "EHLO x",
    "MAIL": "MAIL FROM:<a@example.org>",
    "RCPT": "RCPT TO:<b@example.com>",
    "RSET": "RSET",
    "QUIT": "QUIT",
    "AUTH": "AUTH PLAIN x",
    "VRFY": "VRFY x",
    "NOOP": "NOOP",
}


def without(hook: Optional[str]) -> Any:
    """An application all of whose hooks answer MISSING, and which notes them; *hook*: raises."""

    class App:
        asked: tuple[str, ...] = ()

    def make(name: str) -> Any:
        async def answer(self: Any, server: Any, session: Any, envelope: Any, *args: Any) -> Any:
            self.asked += (name,)
            if name == hook:
                raise KeyError("ours")
            return args[1] if name == "EHLO" else aiosmtpd.smtp.MISSING

        async def ehlo(
            self: Any, server: Any, session: Any, envelope: Any, name_: str, responses: Any
        ) -> Any:
            session.host_name = name_
            return await answer(self, server, session, envelope, name_, responses)

        return ehlo if name == "EHLO" else answer

    async def handle_exception(self: Any, error: Exception) -> str:
        return f"451 {error!r}"

    for name in [*HOOKS, "DATA"]:
        setattr(App, f"handle_{name}", make(name))
    setattr(App, "handle_exception", handle_exception)  # noqa: B010 - as the others
    return App()


def test_hooks_that_leave_it_to_aiosmtpd(tmp_path: Path) -> None:
    """Each hook is called once, in order, and MISSING is as if there were none."""
    app = without(None)
    with filter_at(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=app)
        with serving(handler, auth_require_tls=False) as port, client(port) as smtp:
            codes = [
                smtp.docmd(HOOKS[name])[0]
                for name in ("HELO", "EHLO", "NOOP", "VRFY", "AUTH", "MAIL", "RCPT", "RSET")
            ]
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            assert said(smtp.data(MAIL))[1].startswith("2.0.0 Ok: queued as ")
            smtp.quit()
    # RFC 4954 4: 501 for what is no BASE64; the login itself was left to aiosmtpd.
    assert [250, 250, 250, 252, 501, 250, 250, 250] == codes
    asked = ("HELO", "EHLO", "NOOP", "VRFY", "AUTH", "MAIL", "RCPT", "RSET")
    assert (*asked, "MAIL", "RCPT", "DATA", "QUIT") == app.asked


@pytest.mark.parametrize("hook", [*HOOKS, "DATA"])
def test_a_hook_that_raises(tmp_path: Path, hook: str) -> None:
    """The client gets what handle_exception says, and the connection goes on."""
    with filter_at(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=without(hook))
        with serving(handler, auth_require_tls=False) as port, client(port) as smtp:
            smtp.docmd("EHLO", "x")
            if hook in ("RCPT", "DATA"):
                smtp.mail("a@example.org")
            if hook == "DATA":
                smtp.rcpt("b@example.com")
                assert (451, "KeyError('ours')") == said(smtp.data(MAIL))
            else:
                assert (451, "KeyError('ours')") == said(smtp.docmd(HOOKS[hook]))
            assert 250 == smtp.docmd("HELP")[0]
