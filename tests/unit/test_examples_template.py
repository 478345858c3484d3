"""The example template.py: what it learns at each step, its log, and the copy that it sends."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_support import Program, load, message

import Milter
from Milter import mta
from Milter.mta import AddRecipient

template = load("template")

ATTACHED = """\
Content-Type: multipart/mixed; boundary="x"

--x
Content-Type: text/plain

see the attachment
--x
Content-Type: application/pdf; name="plan.pdf"
Content-Disposition: attachment; filename="plan.pdf"

%PDF
--x--
"""


@pytest.fixture(scope="module")
def program(waiting: str) -> Iterator[Program]:
    """The program, with another address for the copies."""
    program = Program("template", "--spy", "<watch@example.net>")
    yield program
    program.stop()


def test_a_message(program: Program) -> None:
    """It passes, a copy goes to the spy, and the log tells of each step and of the attachment."""
    head, _, body = ATTACHED.partition("\n\n")
    result = program.send(
        message([("Subject", "plan"), tuple(head.split(": ", 1))], body),  # type: ignore[list-item]
        client=mta.SmtpClient("mail.example.org", "192.0.2.1", 25),
        macros={"{auth_authen}": "alice"},
    )
    assert mta.Outcome.ACCEPTED is result.outcome
    assert (AddRecipient("<watch@example.net>"),) == result.modifications
    program.wait_for("accepted, a copy goes to <watch@example.net>")
    for line in (
        "connect from 'mail.example.org' at ('192.0.2.1', 25)",
        "HELO 'mail.example.org'",
        "mail from '<alice@example.org>' {} user 'alice'",
        "rcpt to '<bob@example.com>'",
        "attachment application/pdf 'plan.pdf'",
    ):
        assert line in program.log()


def test_a_bad_helo(program: Program) -> None:
    """A name without a dot is refused, with two lines of text."""
    result = program.send(message(), helo="spamrelay")
    assert mta.Outcome.REJECTED is result.outcome
    assert (
        "550-5.7.1 That is no name of a mail server.\r\n550 5.7.1 Use your full one."
        == result.reply.replace("\n", "\r\n").replace("\r\r", "\r")
    )


def test_what_is_negotiated(program: Program) -> None:
    """Steps that never object are not answered, and data and unknown not asked for."""
    with program.connect() as session:
        # Headers, the connection, recipients, the end of headers and the body: NR_HDR, NR_CONN,
        # NR_RCPT, NR_EOH, NR_BODY; NODATA, NOUNKNOWN; SKIP (wire spec 1.5).
        assert 0x80 | 0x1000 | 0x8000 | 0x40000 | 0x80000 | 0x200 | 0x100 | 0x400 == (
            session.negotiate().protocol
        )


class Context:
    """What the filter asks of the library."""

    def __init__(self, **macros: str) -> None:
        self.macros = macros
        self.added: list[str] = []

    def setpriv(self, value: object) -> None:
        pass

    def getsymval(self, name: str) -> str | None:
        return self.macros.get(name.strip("{}"))

    def addrcpt(self, address: str, params: str | None) -> None:
        self.added.append(address)


@pytest.fixture
def instance() -> Any:
    """A filter object with a context."""
    filter_ = template.myMilter()
    filter_._setctx(Context(j="mx.example.com", auth_authen="bob"))
    return filter_


@pytest.mark.parametrize(
    ("family", "address", "learnt"),
    [
        (socket.AF_INET, ("192.0.2.1", 25), ("192.0.2.1", 25, None, None)),
        (socket.AF_INET6, ("2001:db8::1", 25, 7, 3), ("2001:db8::1", 25, 7, 3)),
        (socket.AF_UNIX, "/run/x", (None, None, None, None)),
        (0, None, (None, None, None, None)),
    ],
)
def test_the_client(instance: Any, family: int, address: Any, learnt: tuple[Any, ...]) -> None:
    """What the client's address consists of is taken apart, whatever kind it has."""
    instance.connect("client.example", family, address)
    assert learnt == (instance.IP, instance.port, instance.flow, instance.scope)
    assert ("client.example", "mx.example.com") == (instance.IPname, instance.receiver)


def test_the_envelope(instance: Any) -> None:
    """The sender, its parameters and the user; then the recipients with theirs."""
    instance.envfrom("<a@example.org>", "SIZE=10", "BODY=8BITMIME", "SMTPUTF8")
    instance.envrcpt("<b@example.org>", "NOTIFY=NEVER")
    instance.envrcpt("<c@example.org>")
    assert "<a@example.org>" == instance.mailfrom
    assert {"SIZE": "10", "BODY": "8BITMIME"} == instance.mailparams
    assert "bob" == instance.user
    assert [("<b@example.org>", {"NOTIFY": "NEVER"}), ("<c@example.org>", {})] == (
        instance.recipients
    )


@pytest.mark.parametrize(
    ("sender", "line"),
    [
        ("<a@example.org>", b"From a@example.org "),
        ("<>", b"From MAILER-DAEMON "),
        ("<postmaster>", b"From postmaster "),
        ("<b\udcfc@x>", b"From b\xfc@x "),
    ],
)
def test_the_mailbox_line(instance: Any, sender: str, line: bytes) -> None:
    """The message is collected as in a mailbox file, byte for byte."""
    instance.envfrom(sender)
    instance.header("Subject", "gr\udcfcn")
    instance.eoh()
    instance.body(b"\xff\r\n")
    assert isinstance(instance.fp, io.BytesIO)
    first, _, rest = instance.fp.getvalue().partition(b"\n")
    assert first.startswith(line)
    assert b"Subject: gr\xfcn\n\n\xff\r\n" == rest


@pytest.mark.parametrize("end", ["eom", "abort"])
def test_messages_are_forgotten(instance: Any, end: str) -> None:
    """Nothing of one message is left for the next."""
    instance.envfrom("<a@example.org>", "SIZE=10")
    instance.envrcpt("<b@example.org>")
    getattr(instance, end)()
    assert (None, {}, None, [], None) == (
        instance.mailfrom, instance.mailparams, instance.user, instance.recipients, instance.fp
    )  # fmt: skip


def test_an_empty_message_passes(instance: Any) -> None:
    """A message without headers and body is accepted."""
    instance.envfrom("<a@example.org>")
    instance.eoh()
    assert Milter.ACCEPT == instance.eom()


def test_what_the_parser_fails_on_passes(instance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that the parser raises on is accepted all the same, and the copy sent."""

    def fail(*args: Any, **more: Any) -> None:
        raise IndexError("as some parsers of the standard library did")

    monkeypatch.setattr(template.email, "message_from_binary_file", fail)
    instance.envfrom("<a@example.org>")
    assert Milter.ACCEPT == instance.eom()
    assert ["<spy@example.com>"] == instance._ctx.added


@pytest.mark.one_mode("it is about another process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_log_ends_last(number: signal.Signals) -> None:
    """A signal to all processes, as service managers send it, does not end the log's first."""
    program = Program("template")
    try:
        program.wait_for("[1] close")  # see Program
        program.send(message())
        program.wait_for("[2] close")
        pid = program.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        assert children
        for child in children:
            os.kill(int(child), number)
        program.send(message())
        program.wait_for("[3] close")
    finally:
        program.stop()


def test_without_a_log(instance: Any) -> None:
    """Imported, it logs nowhere."""
    assert template.logq is None
    instance.log("nothing")


def test_one_context_ten_times() -> None:
    """One test context serves ten connections, one after the other (API spec 7)."""
    from Milter import testctx

    before = Milter.factory
    Milter.factory = template.myMilter
    try:
        context = testctx.TestCtx()
        context._setsymval("{auth_authen}", "batman")
        for _ in range(10):
            assert Milter.CONTINUE == context._connect("mail.example.org", "mail.example.org")
            result = context._feedFile(io.BytesIO(ATTACHED.encode()))
            assert Milter.ACCEPT == result
            assert not context._bodyreplaced
            assert "192.0.2" not in str(context.getpriv().IP)
            context._close()
        assert [("<spy@example.com>", None)] == context._addrcpt[-1:]
    finally:
        Milter.factory = before
