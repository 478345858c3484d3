"""What `Milter.dsn` says to servers, and what it stands from them; beyond API spec 3.4."""

from __future__ import annotations

import email
import time
from typing import Any

import pytest

from harness.smtp_server import Inbox, Reluctant, Scripted, aiosmtpd, certificate
from Milter import dsn
from Milter.dsn import create_msg, send_dsn


class Exchangers:
    """A session that knows one domain's mail exchangers."""

    def __init__(self, *found: tuple[int, str]) -> None:
        self.found = list(found)

    def dns(self, name: str, kind: str) -> list[tuple[int, str]]:
        return self.found


def send(port: int, msg: Any = None, to: str = "bob@x.example", **kwargs: Any) -> Any:
    """Send to somebody whose server is at *port*; without *msg*, verify."""
    kwargs.setdefault("timeout", 30)
    kwargs.setdefault("session", Exchangers((0, "127.0.0.1")))
    return send_dsn(to, "mail.me", msg, port=port, **kwargs)


# -- what is said ----------------------------------------------------------------------------------


def test_dialogue_of_a_verification() -> None:
    """MAIL, RCPT and QUIT, and no DATA (API spec 3.4)."""
    with Scripted() as server:
        assert send(server.port) is None
    assert [
        b"ehlo mail.me",
        b"helo mail.me",
        b"mail from:<>",
        b"rcpt to:<bob@x.example>",
        b"quit",
    ] == [line.lower() for line in server.commands]


def test_empty_message_verifies() -> None:
    """No message is any that is false: so says pymilter, seen by running it."""
    for msg in ("", b"", email.message_from_string("")):
        with Scripted() as server:
            assert send(server.port, msg) is None
        assert b"DATA" not in [line.upper() for line in server.commands]


def test_mail_must_be_250() -> None:
    """A verification goes on after 250 only; 251 to MAIL is an answer, not a yes."""
    with Scripted({"MAIL": b"251 hm"}) as server:
        assert (251, b"hm") == send(server.port)
    assert not [line for line in server.commands if line.upper().startswith(b"RCPT")]


@pytest.mark.parametrize(
    "msg",
    [
        "A: b\n\nx\n.y\rz\r\n",
        b"A: b\n\nx\n.y\rz\r\n",
        email.message_from_string("A: b\n\nx\n.y\rz\r\n"),
    ],
)
def test_line_ends(msg: Any) -> None:
    """Every line ends in CRLF (RFC 5321 section 2.3.8), and dots are stuffed (4.5.2)."""
    with Scripted() as server:
        assert send(server.port, msg) is None
    begin = server.lines.index(b"A: b\r\n")
    assert [b"A: b\r\n", b"\r\n", b"x\r\n", b"..y\r\n", b"z\r\n", b".\r\n"] == server.lines[
        begin : begin + 6
    ]


def test_notification_that_is_not_ascii() -> None:
    """What `create_msg` makes of a template with other characters can be sent; as UTF-8."""

    class Values:
        def __init__(self) -> None:
            self.sender = "bob@x.example"
            self.receiver = "mail.me"

    msg = create_msg(Values(), template="Subject: a\n\ncaf\xe9\n")
    with Scripted() as server:
        assert send(server.port, msg) is None
    assert b"caf\xc3\xa9\r\n" in server.lines


def test_quoted_local_part() -> None:
    """A blank in quotes is part of an address (RFC 5321 section 4.1.2)."""
    with Scripted() as server:
        assert send(server.port, to='"a b"@x.example') is None
    assert b'rcpt to:<"a b"@x.example>' in [line.lower() for line in server.commands]


def test_no_second_command_in_an_address() -> None:
    """Line ends and other control characters in an address never reach a server."""
    with Scripted() as server:
        for address in ("b\r\nRSET\r\n@x.example", "b@x.example\r\nRSET", "b\0@x.example"):
            with pytest.raises(ValueError, match="not an address"):
                send(server.port, to=address)
        send(server.port, ourfrom="a@b>\r\nRSET")
    assert b"RSET" not in [line.upper() for line in server.commands]


def test_sender_refused_twice() -> None:
    """The second refusal is the result; what lies between is RSET."""
    with Scripted({"MAIL": [b"553 no bounce", b"550 no postmaster"]}) as server:
        assert (550, b"no postmaster") == send(server.port, "A: b\n\nx\n")


def test_sender_refused_and_hung_up() -> None:
    """A server that hangs up on the refused: the refusal is still what it said."""
    with Scripted({"MAIL": b"553 no bounce", "RSET": b""}) as server:
        assert (553, b"no bounce") == send(server.port, "A: b\n\nx\n")


@pytest.mark.parametrize("code", [b"421 busy", b"451 later", b"550 no"])
@pytest.mark.parametrize("verb", ["DATA", "."])
def test_data_refused(verb: str, code: bytes) -> None:
    """A refusal of the message, before or after it, temporary or not, is the result."""
    with Scripted({verb: code}) as server:
        assert (int(code[:3]), code[4:]) == send(server.port, "A: b\n\nx\n")


@pytest.mark.parametrize("verb", ["banner", "HELO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("reply", [b"", b"nonsense", b"99 no code"])
def test_next_host_after_nonsense(verb: str, reply: bytes) -> None:
    """A server that hangs up or does not speak SMTP says nothing about the address."""
    with Scripted({verb: reply}) as server:
        assert (450, "No MX servers available") == send(server.port, "A: b\n\nx\n")


def test_smtputf8() -> None:
    """An address that is not ASCII goes to a server with SMTPUTF8, in UTF-8 (RFC 6531)."""
    inbox = Inbox()
    with aiosmtpd(inbox, enable_SMTPUTF8=True) as port:
        assert send(port, "A: b\n\nx\n", to="b\xf6b@x.example") is None
    assert ["b\xf6b@x.example"] == inbox.messages[0].rcpt_tos


def test_no_smtputf8() -> None:
    """Elsewhere it is refused for good (RFC 6531 section 3.2), without asking."""
    with Scripted() as server:
        code, _ = send(server.port, to="b\xf6b@x.example")
    assert 553 == code
    assert not [line for line in server.commands if line.upper().startswith(b"RCPT")]


# -- time and space --------------------------------------------------------------------------------


def test_dribble() -> None:
    """A byte now and then does not keep us beyond the total."""
    with Scripted(dribble=0.05) as server:
        assert (450, "No MX response within 0.016667 minutes") == send(server.port, timeout=1)


@pytest.mark.parametrize("verb", ["banner", "EHLO", "MAIL", "RCPT", "DATA", "."])
def test_silence(verb: str) -> None:
    """Nor does silence, wherever it begins."""
    with Scripted({verb: None}) as server:
        assert (450, "No MX response within 0.010000 minutes") == send(
            server.port, "A: b\n\nx\n", timeout=0.6
        )


def test_silence_after_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on the answer to QUIT, so it is not waited for until the time-out."""
    with Scripted({"QUIT": None}) as server:
        monkeypatch.setattr(dsn, "QUIT_TIMEOUT", 0.2)
        before = time.monotonic()
        assert send(server.port, timeout=3600) is None
        assert time.monotonic() - before < 600  # seconds, where it would be an hour


def test_endless_reply() -> None:
    """A reply whose lines never end is not collected for ever: after 64 KiB it is none."""
    lines = (b"250-" + b"x" * 400 + b"\r\n") * 100
    with Scripted({"HELO": lines + b"250 mx.example"}) as server:
        assert send(server.port, timeout=3600) is None  # long, and still one
    with Scripted({"HELO": 2 * lines + b"250 mx.example"}) as server:
        assert (450, "No MX servers available") == send(server.port, timeout=3600)


@pytest.mark.parametrize("encrypted", [False, True])
def test_nobody_takes_the_message(encrypted: bool) -> None:
    """A server that takes the message a little at a time does not keep us beyond the total."""
    context, _ = certificate("127.0.0.1")
    message = b"A: b\n\n" + 28_000 * (b"x" * 990 + b"\n")
    # On a busy machine time may run out before the message begins, which would test nothing.
    for timeout in (1.5, 12.0):
        with Reluctant(context if encrypted else None, len(message) / timeout / 4) as server:
            assert (450, f"No MX response within {timeout / 60:f} minutes") == send(
                server.port, message, timeout=timeout, require_tls=encrypted
            )
        if server.taken:
            break
    assert 0 < server.taken < len(message) // 2


# -- TLS -------------------------------------------------------------------------------------------


def test_starttls() -> None:
    """Where it is offered it is used, whatever the certificate (RFC 7435)."""
    context, _ = certificate("elsewhere.example")
    inbox = Inbox()
    with aiosmtpd(inbox, context) as port:
        assert send(port, "A: b\n\nx\n") is None
    assert [True] == inbox.encrypted


def test_required_without_offer() -> None:
    """TLS demanded and not there: nothing is said to that server but EHLO."""
    with Scripted({"EHLO": b"250 mx.example"}) as server:
        assert (450, "No MX servers available") == send(server.port, require_tls=True)
    assert [b"ehlo mail.me", b"quit"] == [line.lower() for line in server.commands]


@pytest.mark.parametrize(
    ("name", "result"),
    [("127.0.0.1", None), ("10.9.8.7", (450, "No MX servers available"))],
)
def test_demanded_verification(name: str, result: object) -> None:
    """With a context that verifies, and TLS required, the certificate must be the MX's."""
    server, client = certificate(name)
    inbox = Inbox()
    with aiosmtpd(inbox, server) as port:
        assert result == send(port, "A: b\n\nx\n", tls_context=client, require_tls=True)
    assert ([True] if result is None else []) == inbox.encrypted


def test_text_before_the_handshake() -> None:
    """What comes in the clear behind the answer to STARTTLS is not taken for an answer under TLS.

    RFC 3207 section 4.2, and CVE-2011-0411 for what happens else.
    """
    with Scripted(
        {
            "EHLO": b"250-mx.example\r\n250 STARTTLS",
            "STARTTLS": b"220 go\r\n250 mx.example\r\n250 ok\r\n250 ok",
        }
    ) as server:
        result = send(server.port, require_tls=True)
    assert (450, "No MX servers available") == result
