"""Milter.smtp: smtplib at one end, a filter that follows a script at the other.

Replies are those of wire spec 2.7 and of the scripts; packets by hand.
"""

# ruff: noqa: SIM117 - filter, server and client in one line would be more than fits into it

from __future__ import annotations

import contextlib
import copy
import mailbox
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import aiosmtpd.controller
import pytest
import trustme
from aiosmtpd.smtp import AuthResult
from mta_support import PATIENCE, C, OnlyAt, Simple, options, packet

from Milter import mta
from Milter._smtpclient import client_of
from Milter.smtp import Controller, Maildir, Mbox, MilterHandler, handled

MAIL = b"From: a\r\nSubject: hi\r\n\r\nhello\r\n"


class Keeper:
    """An application that notes what it is given."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], Any]] = []
        self.options: list[tuple[list[str], list[str]]] = []
        self.about: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        self.options.append((list(envelope.mail_options), list(envelope.rcpt_options)))
        self.about.append(handled(envelope))
        return "250 2.0.0 kept"


@contextlib.contextmanager
def serving(handler: Any, make: type[Any] = Controller, **kind: Any) -> Iterator[int]:
    """A server in a thread of its own; gives its port."""
    kind.setdefault("server_hostname", "mx.example.com")
    kind.setdefault("ready_timeout", PATIENCE)
    controller = make(handler, hostname="127.0.0.1", port=0, **kind)

    def port() -> int:
        found: int = controller.server.sockets[0].getsockname()[1]
        return found

    def connect(address: tuple[str, int], _: float) -> socket.socket:
        return socket.create_connection((address[0], port()), PATIENCE)

    with pytest.MonkeyPatch.context() as patch:
        # aiosmtpd's own connection goes after a second, before it is greeted if need be; and where
        # the system has chosen the port, only our Controller knows which.
        patch.setattr(aiosmtpd.controller, "create_connection", connect)
        controller.start()
    try:
        yield port()
    finally:
        controller.stop()


@contextlib.contextmanager
def client(port: int) -> Iterator[smtplib.SMTP]:
    """An SMTP client that has not said anything yet, and goes without a word."""
    smtp = smtplib.SMTP(local_hostname="client.example.org", timeout=PATIENCE)
    smtp._host = "127.0.0.1"  # type: ignore[attr-defined]  # starttls() wants it
    try:
        smtp.greeting = smtp.connect("127.0.0.1", port)  # type: ignore[attr-defined]
        yield smtp
    finally:
        smtp.close()


def eventually(holds: Callable[[], bool]) -> None:
    """Waits for something that another thread or process does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@contextlib.contextmanager
def filter_at(path: Path, **replies: Any) -> Iterator[Simple]:
    """A scripted filter; forgets nothing."""
    with Simple(path, replies) as simple:
        yield simple


def letters(simple: Simple) -> str:
    """What it was told, but for macros and the connection that aiosmtpd opens by itself."""
    told = "".join(simple.letters).replace("D", "")
    first, quit_, rest = told.partition("Q")
    assert "OC" == first.rstrip("A"), "aiosmtpd's own connection"
    return rest if quit_ else ""


def whole(simple: Simple) -> str:
    """The same, once it was told QUIT: the client's is answered before."""
    eventually(lambda: letters(simple).endswith("Q"))
    return letters(simple)


def said(answer: tuple[int, bytes]) -> tuple[int, str]:
    """A reply with its text as such."""
    return answer[0], answer[1].decode()


# -- verdicts ------------------------------------------------------------------------------------

REJECTED = (550, "5.7.1 Command rejected")
LATER = (451, "4.7.1 Service unavailable - try again later")
WORDS = packet("y", b"550-5.1.1 no\r\n550 5.1.1 never\0")
SAID = (550, "5.1.1 no\n5.1.1 never")
VERDICTS = {"reject": (packet("r"), REJECTED), "tempfail": (packet("t"), LATER)}
VERDICTS["own words"] = (WORDS, SAID)


@pytest.mark.parametrize("make", [Controller, aiosmtpd.controller.Controller])
@pytest.mark.parametrize("step", list("MRTLNBE"))
@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_is_the_reply(tmp_path: Path, make: Any, step: str, verdict: str) -> None:
    """What a filter refuses, at which step ever, is refused with its reply, and not delivered."""
    packet_, expected = VERDICTS[verdict]
    app = Keeper()
    with filter_at(tmp_path / "s", **{step: packet_}) as simple:
        with serving(MilterHandler(simple.spec, app=app), make) as port, client(port) as smtp:
            assert 250 == smtp.ehlo()[0]
            answers = {"M": said(smtp.mail("a@example.org"))}
            if step != "M":
                answers["R"] = said(smtp.rcpt("b@example.com"))
            if step not in "MR":
                code, text = smtp.docmd("DATA")
                answers["T"] = (code, text.decode())
                if code == 354:
                    smtp.send(MAIL + b".\r\n")
                    answers["T" if step == "T" else "E"] = said(smtp.getreply())
    assert expected == answers["E" if step in "LNBE" else step]
    assert [] == app.mails


def test_a_filter_that_goes_on(tmp_path: Path) -> None:
    """The application gets what came, byte by byte, and its reply is the client's."""
    app = Keeper()
    content = b"From: a\r\nX-Fold: 1\r\n\t2\r\nno header\r\n..dot\r\n\r\n"
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org", ["BODY=8BITMIME"])
            smtp.rcpt("b@example.com")
            assert (250, "2.0.0 kept") == said(smtp.data(content))
            smtp.quit()
        assert whole(simple) == "OCHMRTLLNBEAAQ"
    assert [("a@example.org", ["b@example.com"], content)] == app.mails
    assert [(["BODY=8BITMIME"], [])] == app.options
    (about,) = app.about
    assert mta.Outcome.ACCEPTED is about.result.outcome
    assert "client.example.org" == about.helo
    assert ("localhost", "127.0.0.1") == (about.client.name, about.client.address)


def test_without_an_application(tmp_path: Path) -> None:
    """The reply is Postfix's, with the queue id that the filter was told."""
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            code, text = said(smtp.data(MAIL))
        assert 250 == code
        start, _, queue_id = text.rpartition(" ")
        assert "2.0.0 Ok: queued as" == start
        assert b"DEi\0" + queue_id.encode() + b"\0" in simple.packets


def test_the_message_is_changed_before_the_application_sees_it(tmp_path: Path) -> None:
    """Headers, body, sender and recipients are the filter's in the Envelope."""
    changes = (
        packet("h", b"X-Added\0yes\0")
        + packet("m", struct.pack("!I", 1) + b"Subject\0changed\0")
        + packet("i", struct.pack("!I", 0) + b"X-First\0top\0")
        + packet("e", b"<new@example.org>\0")
        + packet("+", b"<more@example.com>\0")
        + packet("-", b"<b@example.com>\0")
        + packet("b", b"new ")
        + packet("b", b"body\r\n")
        + packet("c")
    )
    app = Keeper()
    with filter_at(tmp_path / "s", E=changes) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com", "c@example.com"], MAIL)
    ((sender, recipients, content),) = app.mails
    assert "new@example.org" == sender
    assert ["c@example.com", "more@example.com"] == recipients
    assert isinstance(content, bytes)
    head, _, body = content.partition(b"\r\n\r\n")
    assert {b"From: a", b"Subject: changed", b"X-First: top", b"X-Added: yes"} == set(
        head.split(b"\r\n")
    )
    assert b"new body\r\n" == body


def test_text_stays_text(tmp_path: Path) -> None:
    """With decode_data the application gets a changed message as str, too."""
    app = Keeper()
    with filter_at(tmp_path / "s", E=packet("b", b"gr\xc3\xbcn\r\n") + C) as simple:
        handler = MilterHandler(simple.spec, app=app)
        with serving(handler, decode_data=True) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    assert ["From: a\r\nSubject: hi\r\n\r\ngr\xfcn\r\n"] == [content for _, _, content in app.mails]


@pytest.mark.parametrize("step", list("MRTLNBE"))
def test_discard(tmp_path: Path, step: str) -> None:
    """A discarded message is accepted as far as the client can tell, and delivered to nobody."""
    app = Keeper()
    with filter_at(tmp_path / "s", **{step: packet("d")}) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            assert {} == smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
            simple.replies[step] = C
            assert {} == smtp.sendmail("a@example.org", ["c@example.com"], MAIL)
    assert [["c@example.com"]] == [recipients for _, recipients, _ in app.mails]


def test_recipients_are_refused_one_by_one(tmp_path: Path) -> None:
    """A refused recipient gets the filter's reply; the others get the mail."""
    app = Keeper()
    refused = packet("y", b"550 5.1.1 who\0")
    with filter_at(tmp_path / "s", R=[refused, C, refused, C]) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            answer = smtp.sendmail("a@b.org", ["1@x.org", "2@x.org", "3@x.org", "4@x.org"], MAIL)
    assert {"1@x.org": (550, b"5.1.1 who"), "3@x.org": (550, b"5.1.1 who")} == answer
    assert [["2@x.org", "4@x.org"]] == [recipients for _, recipients, _ in app.mails]


@pytest.mark.parametrize("step", list("HMRTLNBE"))
@pytest.mark.parametrize("make", [Controller, aiosmtpd.controller.Controller])
def test_421_closes_the_connection(tmp_path: Path, make: Any, step: str) -> None:
    """With 421 the client is told so, and hears nothing more."""
    goes = packet("y", b"421 4.7.0 go away\0")
    with filter_at(tmp_path / "s", **{step: goes}) as simple:
        with serving(MilterHandler(simple.spec), make) as port, client(port) as smtp:
            assert smtp.sock is not None
            commands = b"EHLO x\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\n"
            file = smtp.sock.makefile("rb")
            replies = []
            with file:
                for line in [*commands.splitlines(True), MAIL + b".\r\n"]:
                    smtp.sock.sendall(line)
                    reply = file.readline()
                    while reply[3:4] == b"-":
                        reply = file.readline()
                    replies.append(reply)
                    if reply.startswith(b"421"):
                        break
                assert b"421 4.7.0 go away\r\n" == replies[-1]
                assert b"" == file.read()


@pytest.mark.parametrize("make", [Controller, aiosmtpd.controller.Controller])
def test_no_way_around_a_refused_data(tmp_path: Path, make: Any) -> None:
    """After a refusal at DATA the message is over: saying DATA again is no way past the filter."""
    app = Keeper()
    with filter_at(tmp_path / "s", T=[packet("r"), C]) as simple:
        with serving(MilterHandler(simple.spec, app=app), make) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            if smtp.docmd("DATA")[0] == 354:
                smtp.send(MAIL + b".\r\n")
                assert REJECTED == said(smtp.getreply())
            assert 503 == smtp.docmd("DATA")[0]
            assert 503 == smtp.rcpt("b@example.com")[0]
            smtp.sendmail("a@example.org", ["c@example.com"], MAIL)
    assert [["c@example.com"]] == [to for _, to, _ in app.mails]


@pytest.mark.parametrize("make", [Controller, aiosmtpd.controller.Controller])
def test_no_way_around_after_an_exception(tmp_path: Path, make: Any) -> None:
    """Where the application raised, aiosmtpd keeps the Envelope; no content comes unfiltered."""

    class Broken(Keeper):
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            await super().handle_DATA(server, session, envelope)
            if len(self.mails) == 1:
                raise KeyError("ours")
            return "250 ok"

        async def handle_exception(self, error: Exception) -> str:
            return f"451 {error!r}"

    app = Broken()
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=app), make) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            assert (451, "KeyError('ours')") == said(smtp.data(MAIL))
            code, _ = smtp.docmd("DATA")
            if code == 354:
                smtp.send(b"Subject: unseen\r\n\r\n.\r\n")
                code, _ = smtp.getreply()
            assert 503 == code
            smtp.rset()
            smtp.sendmail("a@example.org", ["c@example.com"], MAIL)
    assert [["b@example.com"], ["c@example.com"]] == [to for _, to, _ in app.mails]


@pytest.mark.parametrize("make", [Controller, aiosmtpd.controller.Controller])
@pytest.mark.parametrize("step", ["H", "M", "R", "E"])
def test_pipelined_commands_after_421(tmp_path: Path, make: Any, step: str) -> None:
    """What a client has sent behind a command that is answered 421 delivers nothing.

    Our Controller does not even answer it, as a closed connection does not.
    """
    app = Keeper()
    goes = packet("y", b"421 4.7.0 go away\0")
    message = b"MAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"
    with filter_at(tmp_path / "s", **{step: goes}) as simple:
        with serving(MilterHandler(simple.spec, app=app), make) as port, client(port) as smtp:
            assert smtp.sock is not None
            simple.replies[step] = [goes, C]
            smtp.sock.sendall(b"EHLO x\r\n" + message + b"FOO\r\nEHLO y\r\n" + message)
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := smtp.sock.recv(4096):
                    heard += piece
        _, found, rest = heard.partition(b"421 4.7.0 go away\r\n")
        assert found
        if make is Controller:
            assert b"" == rest
            assert "U" not in simple.letters
    assert [] == app.mails


def test_no_two_messages_have_the_same_name(tmp_path: Path) -> None:
    """Queue ids are different, on one connection and on several."""
    seen: list[Any] = []
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, on_result=seen.append)) as port:
            for _ in range(2):
                with client(port) as smtp:
                    for _ in range(2):
                        smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    assert 4 == len({about.queue_id for about in seen})
    for about in seen:
        assert about.result.reply.endswith(f" {about.queue_id}")


# -- the client ----------------------------------------------------------------------------------


def test_the_greeting_refuses(tmp_path: Path) -> None:
    """A filter that rejects the client makes the greeting 554, and all that follows is refused."""
    with filter_at(tmp_path / "s", C=packet("r")) as simple:
        with serving(MilterHandler(simple.spec, hostname="mx.example.com")) as port:
            with client(port) as smtp:
                greeting = smtp.greeting  # type: ignore[attr-defined]
                assert (554, b"mx.example.com ESMTP not accepting connections") == greeting
                smtp.ehlo()
                assert REJECTED == said(smtp.mail("a@example.org"))


def test_the_greeting_closes(tmp_path: Path) -> None:
    """A filter that answers 421 to the client closes the connection with the greeting."""
    with filter_at(tmp_path / "s", C=packet("y", b"421 4.7.0 go away\0")) as simple:
        with serving(MilterHandler(simple.spec, hostname="mx")) as port, client(port) as smtp:
            greeting = smtp.greeting  # type: ignore[attr-defined]
            assert (421, b"mx Service unavailable - try again later") == greeting
            with pytest.raises(smtplib.SMTPServerDisconnected):
                smtp.ehlo()


def test_another_controller_finds_it_at_the_first_command(tmp_path: Path) -> None:
    """Under aiosmtpd's own Controller a verdict on the client holds from the first command on."""
    with Simple(tmp_path / "s", {"C": packet("r")}) as simple:
        handler = MilterHandler(simple.spec)
        with serving(handler, aiosmtpd.controller.Controller) as port, client(port) as smtp:
            assert 220 == smtp.greeting[0]  # type: ignore[attr-defined]
            assert 250 == smtp.ehlo()[0]
            assert REJECTED == said(smtp.mail("a@example.org"))


def test_unknown_commands(tmp_path: Path) -> None:
    """A filter hears of unknown commands and may answer them in its own words."""
    with filter_at(tmp_path / "s", U=[C, packet("y", b"500 5.5.1 what?\0")]) as simple:
        with serving(MilterHandler(simple.spec)) as port, client(port) as smtp:
            smtp.ehlo()
            assert 500 == smtp.docmd("FOO", "bar")[0]
            assert (500, "5.5.1 what?") == said(smtp.docmd("BAR"))
            assert 250 == smtp.noop()[0]
        assert b"UFOO\0" in simple.packets
        assert b"UBAR\0" in simple.packets


def test_a_client_that_vanishes(tmp_path: Path) -> None:
    """In the middle of a message the filter is told that it is given up, and to quit."""
    with filter_at(tmp_path / "s") as simple, serving(MilterHandler(simple.spec)) as port:
        with client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
        assert whole(simple).startswith("OCHMRA")


def test_a_server_that_stops(tmp_path: Path) -> None:
    """Stopping with a client inside a message leaves no connection open."""
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec)) as port:
            smtp = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
            smtp.ehlo()
            smtp.mail("a@example.org")
        smtp.close()
        eventually(lambda: letters(simple).endswith("Q"))


def test_messages_in_a_row_and_rset(tmp_path: Path) -> None:
    """Several messages, a reset and a second EHLO on one connection, as Postfix tells them."""
    app = Keeper()
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("lost@example.com")
            assert 250 == smtp.rset()[0]
            smtp.sendmail("a@example.org", ["1@example.com"], MAIL)
            smtp.ehlo()
            smtp.sendmail("a@example.org", ["2@example.com"], MAIL)
            smtp.quit()
        # The messages; what is given up between them is not told more than once for each.
        told = whole(simple).replace("A", "")
    assert "OCHMR" + "MRTLLNBE" + "H" + "MRTLLNBE" + "Q" == told
    assert [["1@example.com"], ["2@example.com"]] == [to for _, to, _ in app.mails]


def test_a_message_that_is_too_large(tmp_path: Path) -> None:
    """aiosmtpd refuses it without a hook; the next message is none the worse."""
    app = Keeper()
    with filter_at(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=app)
        with serving(handler, data_size_limit=100) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            assert 552 == smtp.data(MAIL + b"x" * 200)[0]
            smtp.mail("a@example.org")
            smtp.rcpt("c@example.com")
            assert 250 == smtp.data(MAIL)[0]
            smtp.quit()
        assert whole(simple).replace("A", "") == "OCHMRTMRTLLNBEQ"
    assert [["c@example.com"]] == [to for _, to, _ in app.mails]


# -- the application's own rules -----------------------------------------------------------------


class Rules(Keeper):
    """An application with rules of its own."""

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-X-OURS", responses[-1]]

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, mail_options: list[str]
    ) -> str:
        if address.startswith("bad"):
            return "550 5.1.8 not you"
        envelope.mail_from = address
        return "250 2.1.0 welcome"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, rcpt_options: list[str]
    ) -> str:
        if address.startswith("bad"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, address: str) -> str:
        return "252 perhaps"


def test_the_application_comes_first(tmp_path: Path) -> None:
    """What the application refuses the filter does not hear of; its replies and hooks are kept."""
    app = Rules()
    with filter_at(tmp_path / "s", R=[C, packet("r"), C]) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            assert b"X-OURS" in smtp.ehlo()[1]
            assert (252, "perhaps") == said(smtp.verify("someone"))
            assert (550, "5.1.8 not you") == said(smtp.mail("bad@example.org"))
            assert (250, "2.1.0 welcome") == said(smtp.mail("a@example.org"))
            assert (550, "5.1.1 no such user") == said(smtp.rcpt("bad@example.com"))
            assert (250, "2.1.5 fine") == said(smtp.rcpt("b@example.com"))
            assert REJECTED == said(smtp.rcpt("c@example.com"))
            assert 250 == smtp.data(MAIL)[0]
            smtp.quit()
        assert whole(simple) == "OCHMRRTLLNBEAAQ"
    assert [("a@example.org", ["b@example.com"])] == [mail[:2] for mail in app.mails]


def test_rejected_recipients_are_told_who_asked(tmp_path: Path) -> None:
    """A filter that negotiated for it hears of recipients that the application refuses, and why."""
    wants = options(protocol=0x800)  # SMFIP_RCPT_REJ
    with filter_at(tmp_path / "s", O=wants, R=packet("r")) as simple:
        with serving(MilterHandler(simple.spec, app=Rules())) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            assert (550, "5.1.1 no such user") == said(smtp.rcpt("bad@example.com"))
        place = simple.packets.index(b"R<bad@example.com>\0")
        macros = simple.packets[place - 1]
    assert b"{rcpt_mailer}\0error\0" in macros
    assert b"{rcpt_host}\x005.1.1\0" in macros
    assert b"{rcpt_addr}\0no such user\0" in macros


def test_the_old_kind_of_ehlo_hook(tmp_path: Path) -> None:
    """An application whose handle_EHLO has aiosmtpd's older arguments is served as well."""

    class Old(Keeper):
        async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str) -> str:
            session.host_name = hostname
            return "250 X-OLD"

    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=Old())) as port, client(port) as smtp:
            code, text = smtp.ehlo()
    assert 250 == code
    assert b"X-OLD" == text.splitlines()[-1]


# -- filters that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("accept", (250, "2.0.0 kept")),
        ("tempfail", LATER),
        ("reject", (550, "5.5.0 Service unavailable")),
    ],
)
def test_a_filter_that_is_not_there(tmp_path: Path, action: str, answer: tuple[int, str]) -> None:
    """The default action decides."""
    app = Keeper()
    handler = MilterHandler(f"unix:{tmp_path}/none", app=app, default_action=action)
    with serving(handler) as port, client(port) as smtp:
        smtp.ehlo()
        got = said(smtp.mail("a@example.org"))
        if action == "accept":
            smtp.rcpt("b@example.com")
            got = said(smtp.data(MAIL))
    assert answer == got


def test_a_filter_that_hangs(tmp_path: Path) -> None:
    """After its timeout a filter is gone on without, and the next message goes the same way."""
    app = Keeper()
    seen: list[Any] = []
    with filter_at(tmp_path / "s", M=b"") as simple:
        hanging = mta.Filter(simple.spec, "accept", OnlyAt("mail", 0.2))
        handler = MilterHandler(hanging, app=app, on_result=seen.append)
        with serving(handler) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
            smtp.sendmail("a@example.org", ["c@example.com"], MAIL)
    assert 2 == len(app.mails)
    errors = [type(error) for error in seen[0].result.errors]
    assert [mta.FilterTimeout] == errors


def test_what_filters_do_wrong_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each fault, with the filter's socket: nobody else may get to see it."""
    silent = mta.Filter(f"unix:{tmp_path}/none", "accept")
    with filter_at(tmp_path / "s", E=None) as simple:
        handler = MilterHandler(silent, mta.Filter(simple.spec, "accept"))
        with serving(handler) as port:
            caplog.clear()  # of aiosmtpd's own connection
            with client(port) as smtp:
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
                smtp.quit()
    told = [record.getMessage() for record in caplog.records if record.name == "Milter"]
    first, second = told
    assert first.startswith(f"filter unix:{tmp_path}/none: cannot connect to ")
    assert second.startswith(f"filter {simple.spec}: ")


@pytest.mark.parametrize("spec", ["", "inet:25@", "smtp:25@127.0.0.1"])
def test_a_spec_that_is_none(spec: str) -> None:
    """It is an error at once, not a filter that fails with every client."""
    with pytest.raises(ValueError, match="socket"):
        MilterHandler(spec)


def test_filters_in_a_row(tmp_path: Path) -> None:
    """The second filter sees what the first made of the message; the first refusal is the last."""
    app = Keeper()
    with filter_at(tmp_path / "1", E=packet("h", b"X-One\x001\0") + C) as one:
        with filter_at(tmp_path / "2", E=packet("h", b"X-Two\x002\0") + C) as two:
            with serving(MilterHandler(one.spec, two.spec, app=app)) as port:
                with client(port) as smtp:
                    smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
        assert b"LX-One\x001\0" in two.packets
    assert b"X-One: 1\r\nX-Two: 2\r\n\r\n" in app.mails[0][2]


# -- as the mail server that sends no mail ---

LIKE: dict[str, dict[str, Any]] = {
    "goes on": {},
    "a recipient refused": {"R": [packet("y", b"550 5.1.1 no\0"), C]},
    "all recipients refused": {"R": packet("t")},
    "the sender refused": {"M": packet("r")},
    "DATA refused": {"T": packet("t")},
    "a header refused": {"L": [C, packet("r")]},
    "accepted early": {"N": packet("a")},
    "discarded": {"R": packet("d")},
    "changed": {"E": packet("h", b"X\0y\0") + packet("+", b"<n@example.com>\0") + packet("a")},
    "quarantined": {"E": packet("q", b"why\0") + C},
    "fails": {"B": packet("h", b"X\0y\0")},
    "the client refused": {"C": packet("r")},
    "few steps": {"O": options(protocol=0x10 | 0x20 | 0x40 | 0x2)},
}


@pytest.mark.parametrize("case", LIKE)
@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_a_filter_cannot_tell_it_from_the_mail_server(
    tmp_path: Path, case: str, profile: str
) -> None:
    """It is told the same as by mta.MailServer, which real Postfix and Sendmail judge."""
    client_ = mta.SmtpClient("mail.example.org", "192.0.2.1", 2525)
    recipients = ["1@example.com", "2@example.com"]
    fresh = copy.deepcopy(LIKE[case])
    params = [f"SIZE={len(MAIL)}"]
    with Simple(tmp_path / "1", fresh) as first:
        envelope = "<a@example.org>", [f"<{address}>" for address in recipients], params
        message = mta.Message.from_bytes(MAIL, *envelope)
        with mta.MailServer(first.spec, profile=profile, strict=False) as server:
            result = server.send(message, client=client_, helo="client.example.org")
    fresh = copy.deepcopy(LIKE[case])
    seen: list[Any] = []
    with Simple(tmp_path / "2", fresh) as simple:
        handler = MilterHandler(
            simple.spec, profile=profile, client=lambda _: client_, on_result=seen.append
        )
        with serving(handler) as port:
            # aiosmtpd's own connection; Postfix takes no leave of a filter that refuses the client.
            last = "C" if case == "the client refused" and profile == "postfix" else "Q"
            eventually(lambda: simple.letters[-1:] == [last])
            begun = len(simple.packets)
            with client(port) as smtp:
                with contextlib.suppress(smtplib.SMTPException):
                    smtp.sendmail("a@example.org", recipients, MAIL)
                smtp.quit()
    # Only now, as the client's QUIT is answered before the filter has read all that it is told.
    assert first.packets == simple.packets[begun:]
    for about in seen:
        assert result.outcome is about.result.outcome
        assert result.modifications == about.result.modifications
        assert result.message == about.result.message
        assert result.reply == about.result.reply


# -- SMTPUTF8, AUTH, TLS -------------------------------------------------------------------------


def test_smtputf8(tmp_path: Path) -> None:
    """Addresses reach the filter as UTF-8, and its reply the client that understands it."""
    refused = packet("y", "550 5.1.1 wer ist dörte?\0".encode())
    with filter_at(tmp_path / "s", R=refused) as simple:
        with serving(MilterHandler(simple.spec)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.command_encoding = "utf-8"
            assert 250 == smtp.mail("jürgen@example.org", ["SMTPUTF8"])[0]
            assert (550, "5.1.1 wer ist dörte?") == said(smtp.rcpt("dörte@example.com"))
            smtp.rset()
            smtp.mail("a@example.org")
            assert (550, "5.1.1 wer ist d?rte?") == said(smtp.rcpt("b@example.com"))
        assert "M<jürgen@example.org>\0SMTPUTF8\0".encode() in simple.packets
        assert "R<dörte@example.com>\0".encode() in simple.packets


@pytest.mark.parametrize("way", ["authenticator", "auth_callback"])
def test_auth_and_tls_macros(tmp_path: Path, way: str) -> None:
    """A filter is told of the cipher with HELO, and of the login with MAIL."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    theirs = ssl.create_default_context()
    authority.configure_trust(theirs)
    theirs.check_hostname = False

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.password == b"secret", auth_data=data)

    def check_old(mechanism: str, login: bytes, password: bytes) -> bool:
        return password == b"secret"

    checks: dict[str, Any] = {"authenticator": check, "auth_callback": check_old}

    with filter_at(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=Keeper())
        with serving(handler, tls_context=context, **{way: checks[way]}) as port:
            with client(port) as smtp:
                smtp.ehlo()
                smtp.starttls(context=theirs)
                smtp.ehlo()
                assert smtp.sock is not None
                cipher, _, bits = smtp.sock.cipher()  # type: ignore[attr-defined]
                smtp.user, smtp.password = "alice", "secret"
                smtp.auth("PLAIN", smtp.auth_plain)
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
                smtp.quit()
        macros = [each for each in simple.packets if each[:1] == b"D"]
    secured = [each for each in macros if each[:2] == b"DH"]
    assert b"{cipher}" not in b"".join(secured[:-1])
    assert f"{{cipher}}\0{cipher}\0{{cipher_bits}}\0{bits}\0".encode() in secured[-1]
    mail = next(each for each in macros if each[:2] == b"DM")
    assert b"{auth_type}\0PLAIN\0{auth_authen}\0alice\0" in mail


# -- quarantine, and where mail goes -------------------------------------------------------------

QUARANTINE = packet("q", b"looks\nodd\0") + C


def test_quarantine_without_a_place(tmp_path: Path) -> None:
    """A quarantined message that nobody can keep is neither delivered nor lost."""
    app = Keeper()
    with filter_at(tmp_path / "s", E=QUARANTINE) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            assert 451 == smtp.data(MAIL)[0]
    assert [] == app.mails


def test_maildir(tmp_path: Path) -> None:
    """Mail lands in the maildir with its trace, what is quarantined in a folder of it."""
    app = Maildir(tmp_path / "mail")
    with filter_at(tmp_path / "s", E=[C, QUARANTINE]) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com", "c@example.com"], MAIL)
            smtp.sendmail("<>", ["b@example.com"], MAIL)
    box = mailbox.Maildir(tmp_path / "mail", create=False)
    (mail,) = box
    assert "<a@example.org>" == mail["Return-Path"]
    assert ["b@example.com", "c@example.com"] == mail.get_all("Delivered-To")
    assert mail["Received"].startswith("from client.example.org (localhost [127.0.0.1])")
    assert "by mx.example.com with ESMTP id " in mail["Received"]
    assert ("hi", "hello\n") == (mail["Subject"], mail.get_payload())
    (odd,) = box.get_folder("quarantine")
    assert "looks odd" == odd["X-Quarantine"]
    assert "<>" == odd["Return-Path"]


def test_mbox(tmp_path: Path) -> None:
    """Mail lands in the mbox file."""
    with filter_at(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=Mbox(tmp_path / "mbox"))
        with serving(handler) as port, client(port) as smtp:
            smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
            smtp.sendmail("a@example.org", ["c@example.com"], MAIL + b"From me\r\n")
    box = mailbox.mbox(tmp_path / "mbox", create=False)
    try:
        assert ["b@example.com", "c@example.com"] == [mail["Delivered-To"] for mail in box]
        assert [">From me" in str(mail) for mail in box] == [False, True]
    finally:
        box.close()


@pytest.mark.parametrize("kind", [Maildir, Mbox])
def test_mail_that_cannot_be_kept(tmp_path: Path, kind: Any) -> None:
    """The client is told to try again later, not that its mail is wrong."""
    app = kind(tmp_path / "mail")
    if kind is Maildir:
        shutil.rmtree(tmp_path / "mail")
        (tmp_path / "mail").write_text("no directory")
    else:
        (tmp_path / "mail").unlink()
        (tmp_path / "mail").mkdir()
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            assert (451, "4.3.0 Message cannot be kept now") == said(smtp.data(MAIL))


def test_no_recipient_left(tmp_path: Path) -> None:
    """A message whose recipients a filter deleted is accepted, and nobody gets it."""
    app = Keeper()
    with filter_at(tmp_path / "s", E=packet("-", b"<b@example.com>\0") + C) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            assert {} == smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
    assert [] == app.mails


# -- bad input -----------------------------------------------------------------------------------


def test_nuls(tmp_path: Path) -> None:
    """A NUL in a command is a syntax error; one in a header does not reach the filter."""
    app = Keeper()
    with filter_at(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port, client(port) as smtp:
            assert 501 == smtp.docmd("EHLO a\0b")[0]
            smtp.ehlo()
            assert smtp.docmd("MAIL FROM:<a\0b@example.org>")[0] in (501, 553)
            smtp.mail("a@example.org")
            smtp.rcpt("b@example.com")
            content = b"Subject: a\0b\r\n\r\nx\0y\r\n"
            assert 250 == smtp.data(content)[0]
        assert b"LSubject\0ab\0" in simple.packets
        assert b"Bx\0y\r\n" in simple.packets
    assert [content] == [mail[2] for mail in app.mails]


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (("127.0.0.1", 25), mta.SmtpClient("localhost", "127.0.0.1", 25)),
        (("192.0.2.1", 1), mta.SmtpClient("[192.0.2.1]", "192.0.2.1", 1)),
        (("::ffff:192.0.2.1", 1, 0, 0), mta.SmtpClient("[192.0.2.1]", "192.0.2.1", 1)),
        (("2001:db8::1", 1, 0, 0), mta.SmtpClient("[2001:db8::1]", "2001:db8::1", 1)),
        (("fe80::1%eth0", 1, 0, 2), mta.SmtpClient("[fe80::1]", "fe80::1", 1)),
        (("::1", 1, 0, 0), mta.SmtpClient("localhost", "::1", 1)),
        ("", mta.SmtpClient("localhost", None)),
    ],
)
def test_who_a_client_is(peer: Any, expected: mta.SmtpClient) -> None:
    """By its address, without a look into the DNS."""

    class Session:
        proxy_data: Optional[Any] = None

    session: Any = Session()
    session.peer = peer
    assert expected == client_of(session)


def test_the_extra_is_named_where_it_is_missing() -> None:
    """Importing Milter.smtp needs no aiosmtpd; its Controller says what to install."""
    code = (
        "import sys; sys.modules['aiosmtpd'] = None\n"
        "import Milter.smtp; Milter.smtp.MilterHandler()\n"
        "assert 'mailbox' in sys.modules\n"
        "try: Milter.smtp.Controller\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "pymilter-cffi[smtp]"' in done.stdout
