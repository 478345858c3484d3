"""A mail server in front of filters: whole messages, and what derived classes rest on.

What Postfix does is in wire spec 2.7; what it was seen to do (3.7.11) is said where that is silent.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from mta_support import PATIENCE, C, Simple, options, packet

from Milter import mta
from Milter._mailserverasync import AsyncMailServer

ONE, TWO, THREE = "<c@d.example>", "<e@f.example>", "<g@h.example>"
NOBODY = [mta.RejectedRecipient("x@y.example")]
GO_AWAY = packet("y", b"421 4.7.0 Go away\0")
WANTS_REJECTED = options(protocol=0x800)  # RCPT_REJ (wire spec 2.4)

WAYS = pytest.mark.parametrize("way", ["connection", "server", "asyncio"])


def message(*recipients: str) -> mta.Message:
    """A message without a body."""
    return mta.Message.from_bytes(b"Subject: hi\n\n", "<a@b.example>", recipients or (ONE,))


def send(way: str, spec: str, sent: mta.Message, **kind: Any) -> mta.Result:
    """Sends a message as Postfix, in one of three ways."""
    if way == "connection":
        with mta.connect(spec, timeouts=mta.Timeouts.all(PATIENCE)) as session:
            return session.send(sent, **kind)
    if way == "server":
        return mta.MailServer(spec).send(sent, **kind)
    return asyncio.run(AsyncMailServer(spec).send(sent, **kind))


def addresses(result: mta.Result) -> list[str]:
    """The recipients that are left."""
    return [recipient.address for recipient in result.message.recipients]


def told(simple: Simple) -> str:
    """The letters that the filter got, without macros and ends."""
    return "".join(simple.letters).replace("D", "").rstrip("AQ")


# -- whole messages ------------------------------------------------------------------------------


@WAYS
def test_the_same_play(tmp_path: Path, way: str) -> None:
    """One filter is told the same, and the same comes of it, in all three ways (2.7)."""
    refusal = packet("y", b"550 5.1.1 Who?\0")
    replies = {"R": [C, refusal], "E": packet("h", b"X-New\0yes\0") + packet("q", b"why\0") + C}
    with Simple(tmp_path / "s", replies) as simple:
        result = send(way, simple.spec, message(ONE, TWO), macros={"{auth_authen}": "bob"})
    envelope = [
        b"H",
        b"M{auth_authen}\0bob\0{mail_addr}\0a@b.example\0{mail_host}\0b.example\0"
        b"{mail_mailer}\0smtp\0",
        b"R{rcpt_addr}\0c@d.example\0{rcpt_host}\0d.example\0{rcpt_mailer}\0smtp\0",
        b"Ri\x004A5B6C0001\0{rcpt_addr}\0e@f.example\0{rcpt_host}\0f.example\0{rcpt_mailer}\0smtp\0",
    ]
    content = [letter + b"i\x004A5B6C0001\0" for letter in (b"T", b"L", b"N", b"E")]
    macros = [each[1:] for each in simple.packets if each[:1] == b"D"]
    assert macros[0].startswith(b"Cj\0mta.example.org\0{daemon_name}\0mta.example.org\0")
    assert [*envelope, *content] == macros[1:]
    assert "OCHMRRTLNE" == told(simple)
    assert (mta.Outcome.ACCEPTED, "250 2.0.0 Ok: queued as 4A5B6C0001", "why") == (
        result.outcome,
        result.reply,
        result.quarantine,
    )
    assert [ONE] == addresses(result)
    assert [TWO] == [step.argument for step in result.refused]
    assert [b"yes"] == result.message.get_all("X-New")
    names = ["connect", "helo", "mail", "rcpt", "rcpt", "data", "header", "eoh", "eom"]
    assert names == [step.name for step in result.steps]


@WAYS
def test_refused_sender_leaves_the_recipients(tmp_path: Path, way: str) -> None:
    """Only those that a filter refused are missing in the message afterwards."""
    with Simple(tmp_path / "s", {"M": packet("r")}) as simple:
        result = send(way, simple.spec, message(ONE, TWO))
    assert (mta.Outcome.REJECTED, [ONE, TWO]) == (result.outcome, addresses(result))


@WAYS
def test_nothing_after_421(tmp_path: Path, way: str) -> None:
    """After a 421 no recipient is told any more, and the session is over (4.5)."""
    with Simple(tmp_path / "s", {"O": WANTS_REJECTED, "R": [C, GO_AWAY]}) as simple:
        result = send(way, simple.spec, message(ONE, TWO, THREE), rejected=NOBODY)
    assert "OCHMRR" == told(simple)
    assert (mta.Outcome.TEMPFAILED, "421 4.7.0 Go away") == (result.outcome, result.reply)
    assert result.session_over
    assert [ONE, THREE] == addresses(result)


@WAYS
@pytest.mark.parametrize("letter", "ad")
def test_final_verdict_on_a_rejected_recipient(tmp_path: Path, way: str, letter: str) -> None:
    """It keeps the filter out of the message, which passes (DISCARD, too: seen with Postfix)."""
    replies = {"O": WANTS_REJECTED, "R": [C, packet(letter)]}
    with Simple(tmp_path / "s", replies) as simple:
        result = send(way, simple.spec, message(), rejected=NOBODY)
    assert "OCHMRR" == told(simple)
    assert (mta.Outcome.ACCEPTED, [ONE]) == (result.outcome, addresses(result))


def test_sendmail_discards_at_a_rejected_recipient(tmp_path: Path) -> None:
    """Unlike Postfix, Sendmail 8.17.1.9 discards the message; the filter hears of it at DATA."""
    replies = {"O": WANTS_REJECTED, "R": [C, packet("d")]}
    with Simple(tmp_path / "s", replies) as simple:
        server = mta.MailServer(simple.spec, profile="sendmail")
        result = server.send(message(), rejected=NOBODY)
    assert mta.Outcome.DISCARDED is result.outcome
    assert ["O", "C", "H", "M", "R", "R", "A", "Q"] == [x for x in simple.letters if x != "D"]


def test_discard_before_a_rejected_recipient(tmp_path: Path) -> None:
    """A message that was discarded before stays so."""
    with Simple(tmp_path / "s", {"O": WANTS_REJECTED, "R": packet("d")}) as simple:
        result = mta.MailServer(simple.spec).send(message(), rejected=NOBODY)
    assert mta.Outcome.DISCARDED is result.outcome


@pytest.mark.parametrize(
    ("sent", "given", "text"),
    [
        (mta.Message.from_bytes(b"Subject: hi\n\n", "<a@b>"), {}, "without recipients"),
        (message("<c\0@d>"), {}, "NUL"),
        (message(), {"helo": "\0"}, "NUL"),
        (message(), {"macros": {"i": "\0"}}, "NUL"),
        (message(), {"client": mta.SmtpClient("\0")}, "NUL"),
        (message(), {"rejected": [mta.RejectedRecipient("\0")]}, "NUL"),
    ],
)
@pytest.mark.parametrize("way", ["server", "asyncio"])
def test_what_cannot_be_sent(
    tmp_path: Path, way: str, sent: mta.Message, given: dict[str, Any], text: str
) -> None:
    """It is found before the filter hears anything."""
    with Simple(tmp_path / "s") as simple:
        with pytest.raises(ValueError, match=text):
            send(way, simple.spec, sent, **given)
        assert 0 == simple.connections


def test_what_cannot_be_sent_in_a_session(tmp_path: Path) -> None:
    """Nor is the session in the middle of a message then."""
    with Simple(tmp_path / "s") as simple, mta.MailServer(simple.spec).session() as session:
        bad = message()
        bad.headers.append(mta.Header(b" ", b"x"))
        with pytest.raises(ValueError, match="without a name"):
            session.send(bad)
        assert mta.Outcome.ACCEPTED is session.send(message()).outcome
    assert "OCHMRTLNE" == told(simple)


def test_no_message_after_the_end(tmp_path: Path) -> None:
    """A session that a filter has ended, or QUIT, takes no message."""
    with Simple(tmp_path / "s", {"M": GO_AWAY}) as simple:
        with mta.MailServer(simple.spec).session() as session:
            assert session.send(message()).session_over
            with pytest.raises(mta.StateError, match="over"):
                session.send(message())
        with mta.MailServer(simple.spec).session() as session:
            session.quit()
            with pytest.raises(mta.StateError, match="over"):
                session.send(message())


# -- what derived classes rest on ----------------------------------------------------------------


def test_open_says_how_a_filter_is_reached(tmp_path: Path) -> None:
    """A server that reaches its filters in another way uses no address."""
    with Simple(tmp_path / "real") as simple:

        class Server(mta.MailServer):
            asked: list[tuple[int, float]] = []

            def open(self, number: int, timeout: float) -> socket.socket:
                self.asked.append((number, timeout))
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(tmp_path / "real"))
                return sock

        nowhere = mta.Filter("unix:/nonexistent/s", timeouts=mta.Timeouts.all(PATIENCE))
        result = Server(nowhere).send(message())
    assert [(0, PATIENCE)] == Server.asked
    assert (mta.Outcome.ACCEPTED, ()) == (result.outcome, result.errors)
    assert "OCHMRTLNE" == told(simple)


def test_every_command_goes_through_play(tmp_path: Path) -> None:
    """A session that does more in play() does it at each command, and at both ends."""
    with Simple(tmp_path / "s") as simple:

        class Session(mta.SmtpSession):
            count = 0

            def play(self, script: Any) -> Any:
                self.count += 1
                return super().play(script)

        with Session(mta.MailServer(simple.spec), helo="") as session:
            assert 1 == session.count
            session.helo("h")
            session.unknown("FOO")
            session.mail("<a@b>")
            session.reset()
            session.mail("<a@b>")
            session.rcpt(ONE)
            session.data()
            session.content(message())
            session.send(message())
            assert 10 == session.count
        assert 11 == session.count


def test_a_session_tells_its_steps(tmp_path: Path) -> None:
    """on_step of a connection gets what was played step by step, but the negotiation."""
    steps: list[mta.Step] = []
    with Simple(tmp_path / "s", {"O": options(protocol=0x2), "M": packet("r")}) as simple:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "s"))
        with mta.Session(
            sock, timeouts=mta.Timeouts.all(PATIENCE), on_step=steps.append
        ) as session:
            session.negotiate()
            session.connect()
            session.helo()
            session.mail("<a@b>")
    assert "OCM" == told(simple)
    assert [("connect", "continue"), ("helo", "not sent"), ("mail", "reject")] == [
        (step.name, step.verdict.kind.value) for step in steps
    ]


# -- filters that are left while the session goes on ---------------------------------------------


class Stays(Simple):
    """After QUIT it closes only when it may."""

    def __init__(self, path: Any, replies: dict[str, Any]) -> None:
        self.may_close = threading.Event()
        super().__init__(path, replies)

    def _serve(self, file: Any) -> None:
        super()._serve(file)
        if self.letters[-1:] == ["Q"]:
            self.may_close.wait(PATIENCE)


def errors(
    way: str, *filters: mta.Filter, then: Callable[[], object] = lambda: None
) -> tuple[list[Any], list[Any]]:
    """The errors that a session of Sendmail's has while it is open, and those at its end."""
    if way == "blocking":
        server = mta.MailServer(*filters, profile="sendmail")
        with server.session() as session:
            assert (None, None) == (session.greeting, session.mail("<a@b.example>"))
            meanwhile = list(session.errors)
            then()
        return meanwhile, list(session.errors)

    async def play() -> tuple[list[Any], list[Any]]:
        async with AsyncMailServer(*filters, profile="sendmail").session() as session:
            assert (None, None) == (session.greeting, await session.mail("<a@b.example>"))
            meanwhile = list(session.errors)
            then()
        return meanwhile, list(session.errors)

    return asyncio.run(play())


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
@pytest.mark.parametrize(("letter", "reply"), [("C", "a"), ("H", "a"), ("M", "s")])
def test_the_session_waits_for_no_filter_to_close(
    tmp_path: Path, way: str, letter: str, reply: str
) -> None:
    """What Sendmail says QUIT to while the session goes on holds nothing up."""
    with Stays(tmp_path / "s", {letter: packet(reply)}) as simple:
        one = mta.Filter(simple.spec, timeouts=mta.Timeouts.all(PATIENCE / 2))
        assert ([], []) == errors(way, one, then=simple.may_close.set)
        assert f"{letter}Q" == "".join(simple.letters)[-2:]
        assert 1 == simple.letters.count("Q")


def test_a_filter_that_does_not_close(tmp_path: Path) -> None:
    """It is waited for where the session ends, and named then."""

    class Times(mta.Timeouts):
        def of(self, step: str) -> float:
            return PATIENCE  # only that it closes has to be soon

    accept = {"C": packet("a")}
    with Simple(tmp_path / "s") as first, Stays(tmp_path / "t", accept) as second:
        two = mta.Filter(second.spec, timeouts=Times.all(1))
        meanwhile, after = errors("blocking", mta.Filter(first.spec), two)
        second.may_close.set()
        assert [] == meanwhile
        assert [(mta.FilterTimeout, 1)] == [(type(error), error.filter) for error in after]
        assert "did not close within 1 s of QUIT" in str(after[0])


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
def test_a_filter_that_leaves_by_itself(tmp_path: Path, way: str) -> None:
    """One that accepts the whole session and closes at once has done nothing wrong."""

    class Leaves(Simple):
        def _serve(self, file: Any) -> None:
            for reply in (options(), b"", packet("a")):  # the offer, macros, CONNECT
                file.read(int.from_bytes(file.read(4), "big"))
                file.write(reply)

    with Leaves(tmp_path / "s") as simple:
        assert ([], []) == errors(way, mta.Filter(simple.spec))
