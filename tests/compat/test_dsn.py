"""`Milter.dsn`: notifications and call-back verification (API spec 3.4), over real SMTP."""

from __future__ import annotations

import contextlib
import email
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import Milter
from harness.smtp_server import Inbox, Scripted, aiosmtpd, certificate
from Milter import dsn
from Milter.dns import DNSError
from Milter.dsn import create_msg, send_dsn


class Exchangers:
    """A session whose only knowledge is one list of mail exchangers."""

    def __init__(self, *found: tuple[int, str]) -> None:
        self.found = list(found)

    def dns(self, name: str, kind: str) -> list[tuple[int, str]]:
        """Answer any MX query."""
        assert ("example.test", "MX") == (name, kind)
        return self.found


HERE = (10, "127.0.0.1")


@pytest.fixture
def running() -> Iterator[Any]:
    """Give a function that starts a server with certain replies; all are ended."""
    with contextlib.ExitStack() as started:

        def start(hostname: str = "mx.test", tls: Any = None, **replies: str) -> tuple[Inbox, int]:
            handler = Inbox(**replies)
            return handler, started.enter_context(aiosmtpd(handler, tls, server_hostname=hostname))

        yield start


MESSAGE = "Subject: no\n\nnot delivered\n"


def send(port: int, msg: Any = MESSAGE, *exchangers: tuple[int, str], **kwargs: Any) -> Any:
    """Send to bob@example.test, whose MX is at *port*."""
    kwargs.setdefault("session", Exchangers(*(exchangers or [HERE])))
    kwargs.setdefault("timeout", 20)
    return send_dsn("bob@example.test", "mail.me", msg, port=port, **kwargs)


def test_sent(running: Any) -> None:
    """The message arrives, from the empty sender; the result is None."""
    handler, port = running()
    assert send(port) is None
    (envelope,) = handler.messages
    assert ("", ["bob@example.test"]) == (envelope.mail_from.strip("<>"), envelope.rcpt_tos)
    assert b"Subject: no\r\n\r\nnot delivered\r\n" == envelope.content


@pytest.mark.parametrize(
    ("msg", "content"),
    [
        (b"Subject: b\r\n\r\nx\r\n", b"Subject: b\r\n\r\nx\r\n"),
        (email.message_from_string("Subject: m\n\nx\n"), b"Subject: m\r\n\r\nx\r\n"),
        ("Subject: dots\n\n.\n..x\n", b"Subject: dots\r\n\r\n.\r\n..x\r\n"),
        ("Subject: u\n\ncaf\xe9\n", b"Subject: u\r\n\r\ncaf\xc3\xa9\r\n"),
    ],
)
def test_kinds_of_messages(running: Any, msg: Any, content: bytes) -> None:
    """Text, bytes and Message; dots at a line's beginning survive."""
    handler, port = running()
    assert send(port, msg) is None
    assert content == handler.messages[0].content


def test_ourfrom(running: Any) -> None:
    """Another sender."""
    handler, port = running()
    assert send(port, ourfrom="me@mail.me") is None
    assert "me@mail.me" == handler.messages[0].mail_from.strip("<>")


def test_refused_sender(running: Any) -> None:
    """A refused empty sender: once more as postmaster."""
    handler, port = running(mail="553 no bounces")
    assert send(port) is None
    assert "postmaster@mail.me" == handler.messages[0].mail_from.strip("<>")


@pytest.mark.parametrize(
    ("replies", "result"),
    [
        ({"every_mail": "553 no bounce"}, (553, b"no bounce")),
        ({"rcpt": "550 no"}, (550, b"no")),
        ({"rcpt": "450 later"}, (450, b"later")),
        ({"data": "554 bad words"}, (554, b"bad words")),
    ],
)
def test_refusals(running: Any, replies: dict[str, str], result: object) -> None:
    """What the server said, its text as bytes."""
    _, port = running(**replies)
    assert result == send(port)


# ---- call-back verification ----


@pytest.mark.parametrize(
    ("replies", "result"),
    [({"rcpt": "550 no"}, (550, b"no")), ({"mail": "553 no bounce"}, (553, b"no bounce"))],
)
def test_not_verified(running: Any, replies: dict[str, str], result: object) -> None:
    """The refusal; the sender is not tried another way."""
    handler, port = running(**replies)
    assert result == send(port, None)
    assert 1 == sum(line.startswith("MAIL") for line in handler.asked)


def test_251_is_good(running: Any) -> None:
    """A server that forwards takes the mail (RFC 5321 section 3.4)."""
    _, port = running(rcpt="251 will forward")
    assert send(port, None) is None


def test_250_it_must_be(running: Any) -> None:
    """252, which does not verify (RFC 5321 section 3.5.3), is no yes."""
    _, port = running(rcpt="252 who knows")
    assert (252, b"who knows") == send(port, None)


# ---- which host ----


def test_no_at() -> None:
    """An address without a domain is a ValueError, and so is one that would be two commands."""
    for address in ("bob", "", "bob@", "bob@x\r\nRCPT TO:<eve@y>", "bob@ x"):
        with pytest.raises(ValueError, match="not an address"):
            send_dsn(address, "mail.me", MESSAGE, session=Exchangers())


def test_dns_error() -> None:
    """The DNS does not answer: 450."""

    class Silent:
        def dns(self, name: str, kind: str) -> list[object]:
            raise DNSError("timed out")

    assert (450, "DNS Timeout: example.test MX") == send_dsn(
        "bob@example.test", "mail.me", session=Silent()
    )


def test_the_domain_itself(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an MX the domain is its own."""
    handler, port = running()
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(dsn.socket, "getaddrinfo", getaddrinfo)
    session = Exchangers()
    assert send(port, session=session) is None
    assert ["example.test"] == asked
    assert 1 == len(handler.messages)


def test_the_order_of_hosts(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best priority first, then the next one; the list is sorted in place."""
    handler, port = running()
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        if host == "dead.test":
            raise socket.gaierror(-2, "no such host")
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(dsn.socket, "getaddrinfo", getaddrinfo)
    session = Exchangers((30, "third.test"), (10, "dead.test"), (20, "second.test"))
    assert send(port, session=session) is None
    assert ["dead.test", "second.test"] == asked
    assert [(10, "dead.test"), (20, "second.test"), (30, "third.test")] == session.found
    assert 1 == len(handler.messages)


def test_null_mx() -> None:
    """A domain that says that it takes no mail (RFC 7505) is not called."""
    code, text = send(1, None, (0, ""))
    assert 556 == code
    assert "example.test" in text


def test_no_servers() -> None:
    """Nobody there, or nobody who greets: 450."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert (450, "No MX servers available") == send(port)
    with Scripted({"banner": b"554 go away"}) as server:
        assert (450, "No MX servers available") == send(server.port)


@pytest.mark.parametrize(
    "replies",
    [
        {"banner": b"\r\n"},
        {"EHLO": b"500 no", "HELO": b"500 no"},
        {"MAIL": b""},
        {"MAIL": b"nonsense"},
        {"banner": b"220 " + b"x" * 100_000},
    ],
)
def test_broken_servers(replies: dict[str, bytes]) -> None:
    """A server that hangs up or talks nonsense is passed over, in a verification, too."""
    with Scripted(replies) as server:
        assert (450, "No MX servers available") == send(server.port, None)
        assert server.connections


def test_no_hostname() -> None:
    """A HELO answered by nothing but a code: 553."""
    with Scripted({"EHLO": b"250"}) as server:
        assert (553, "MX for example.test has no hostname in banner: 127.0.0.1") == send(
            server.port
        )


def test_our_own_name(running: Any) -> None:
    """A server that says it is us: 553 (under pymilter never noticed on Python 3)."""
    _, port = running(hostname="mail.me")
    assert (553, "Fraudulent MX for example.test: 127.0.0.1") == send(port)


def test_helo() -> None:
    """A server that does not know EHLO gets HELO."""
    with Scripted({"EHLO": b"502 what", "RCPT": b"550 no"}) as server:
        assert (550, b"no") == send(server.port, None)


# ---- TLS ----


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    """Return a server's context, with a certificate by an authority that nobody knows."""
    return certificate("localhost", "127.0.0.1")[0]


def test_unknown_authority(running: Any, tls: ssl.SSLContext) -> None:
    """With a context of the caller's the certificate has to be good."""
    handler, port = running(tls=tls)
    context = ssl.create_default_context()
    assert (450, "No MX servers available") == send(port, tls_context=context, require_tls=True)
    assert [] == handler.messages


def test_tls_that_fails(running: Any, tls: ssl.SSLContext) -> None:
    """Opportunistic means that the message goes in plain text then; on a new connection."""
    handler, port = running(tls=tls)
    assert send(port, tls_context=ssl.create_default_context()) is None
    assert [False] == handler.encrypted


def test_tls_refused() -> None:
    """Offered and then not available (454): in plain text, on a new connection."""
    offer = b"250-mx.example\r\n250 STARTTLS"
    with Scripted({"EHLO": offer, "STARTTLS": b"454 not now", "MAIL": b"451 later"}) as server:
        assert (451, b"later") == send(server.port, None)
        assert 2 == server.connections


# ---- create_msg ----


class Vars:
    """What templates are filled in from; an attribute of the class does not count."""

    of_the_class = "x"

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def variables(**more: Any) -> Vars:
    """Return the least that is needed, and *more*."""
    return Vars(sender="bob@x.com", receiver="mail.me", **more)


FIXED = f"X-Mailer: PyMilter-{Milter.__version__}\nMIME-Version: 1.0\nContent-Type: text/plain\n"
ADDED = "To: bob@x.com\nFrom: postmaster@mail.me\nAuto-Submitted: auto-generated\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("X: y\n\nbody", f"{FIXED}X: y\n{ADDED}\nbody"),
        ("X:  %(sender)s  \n\nto %(receiver)s\n", f"{FIXED}X: bob@x.com\n{ADDED}\nto mail.me\n"),
        ("X: 100%%\n\n100%%", f"{FIXED}X: 100%\n{ADDED}\n100%"),
        ("\n\nb", f"{FIXED}{ADDED}\nb"),
        (
            "to: a@b\nFROM: c@d\nAuto-Submitted: no\nContent-Type: text/html\n\nb",
            f"{FIXED}to: a@b\nFROM: c@d\nAuto-Submitted: no\nContent-Type: text/html\n\nb",
        ),
        ("X: y\n\na\n\nb", f"{FIXED}X: y\n{ADDED}\na\n\nb"),
    ],
)
def test_create(template: str, text: str) -> None:
    """Fixed headers, the template's, those that it lacks, the text."""
    message = create_msg(variables(), None, None, template)
    assert message is not None
    assert text == message.as_string()


@pytest.mark.parametrize("template", [None, ""])
def test_no_template(template: Any) -> None:
    """No template, no message."""
    assert create_msg(variables(), None, None, template) is None


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("X: y", ValueError),
        ("X\n\nb", ValueError),
        ("X: y\n folded\n\nb", ValueError),
        ("X: y\r\n\r\nb", ValueError),
        ("X: 100%\n\nb", ValueError),
        ("X: y\n\n100% x", ValueError),
        ("X: %(of_the_class)s\n\nb", KeyError),
        ("X: %(nothing)s\n\nb", KeyError),
    ],
)
def test_bad_templates(template: str, error: type[Exception]) -> None:
    """No empty line, no colon, a folded header, a single %, an unknown name."""
    with pytest.raises(error):
        create_msg(variables(), None, None, template)


def test_recipients_and_original() -> None:
    """They become attributes of the given object."""
    v = variables()
    original = email.message_from_string("Subject: hi\nReceived-SPF: pass\n\nx")
    template = "S: %(subject)s\nR: %(rcpt)s\nF: %(spf_result)s\n\nb"
    message = create_msg(v, ["a@b", "c@d"], original, template)
    assert message is not None
    assert ("hi", "a@b\n\tc@d", "pass") == (message["S"], message["R"], message["F"])
    assert ("hi", "a@b\n\tc@d", "pass") == (v.subject, v.rcpt, v.spf_result)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("original", "subject"),
    [(email.message_from_string("A: b\n\n"), None), (object(), "(none)"), (5, "(none)")],
)
def test_odd_originals(original: object, subject: str | None) -> None:
    """No Subject is None; what has no headers at all is (none)."""
    v = variables()
    create_msg(v, None, original, "X: y\n\nb")
    assert (subject, None) == (v.subject, v.spf_result)  # type: ignore[attr-defined]


def test_spf_query() -> None:
    """An SPF query's short names get long ones, in an object of their own."""
    query = Vars(h="helo", s="s@x", i="192.0.2.1", r="rec", o="x", result="fail", perm_error="why")
    template = (
        "S: %(heloname)s %(sender)s %(connectip)s %(receiver)s %(sender_domain)s %(result)s"
        " %(perm_error)s %(rcpt)s\n\nb"
    )
    message = create_msg(query, ["a@b"], None, template)
    assert message is not None
    assert "helo s@x 192.0.2.1 rec x fail why a@b" == message["S"]
    assert not hasattr(query, "rcpt")
    # One that lacks something is taken as it is.
    lacking = variables(perm_error="why", h="helo")
    message = create_msg(lacking, None, None, "S: %(h)s\n\nb")
    assert message is not None
    assert "helo" == message["S"]


def test_header_injection() -> None:
    """A line feed in a value makes no header."""
    message = create_msg(
        Vars(sender="a\nBcc: eve@x", receiver="r"), None, None, "S: %(sender)s\n\nb"
    )
    assert message is not None
    with pytest.raises(email.errors.HeaderParseError):
        message.as_string()


def test_create_without_dnspython() -> None:
    """A message can be made without the DNS (pymilter: not even imported)."""
    code = (
        "import sys; sys.modules['dns'] = None\n"
        "from Milter.dsn import create_msg\n"
        "class V: pass\n"
        "v = V(); v.sender = 'a@b'; v.receiver = 'c'\n"
        "print(create_msg(v, None, None, 'X: y\\n\\nb')['X'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert b"y" == done.stdout.strip()
