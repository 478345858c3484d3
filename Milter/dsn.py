"""Delivery status notifications, and the question whether a sender's address takes any.

API spec 3.4. `create_msg` fills in a template; `send_dsn` brings the result to the sender's mail
exchangers, or, without one, only asks them whether they would take it (call-back verification).
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import time
from email.message import Message
from typing import Any, Optional, Union

import Milter

__all__ = ["create_msg", "send_dsn"]

#: What `send_dsn` says of a failure: code and text, `bytes` of the server or `str` of ours; or, if
#: several recipients were refused, such a pair for each.
Failure = Union[tuple[int, Union[bytes, str]], dict[str, tuple[int, bytes]]]

#: Seconds that one address may take to accept a connection, so that a dead one leaves time for
#: others.
CONNECT_TIMEOUT = 30.0

#: Seconds for the answer to QUIT, on which nothing depends.
QUIT_TIMEOUT = 5.0

#: Bytes of one reply with all its lines (RFC 5321 section 4.5.3.1.5 asks for 512 in a line).
REPLY_LIMIT = 65536


class _Final(Exception):
    """No other host is to be asked: what `send_dsn` returns."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def send_dsn(
    mailfrom: str,
    receiver: str,
    msg: Union[str, bytes, Message, None] = None,
    timeout: float = 600,
    session: Any = None,
    ourfrom: str = "",
    *,
    port: int = 25,
    tls_context: Optional[ssl.SSLContext] = None,
    require_tls: bool = False,
) -> Optional[Failure]:
    """Send *msg* to the address *mailfrom*, or ask whether a message could be sent.

    *mailfrom*: the address, without angle brackets. *receiver*: our host's name, for HELO. *msg*:
    the message; None, or an empty one: only ask. *timeout*: seconds for all of it together,
    however slowly the servers talk (but the system's resolver takes what it takes for a host's
    address). *session*: what is asked for MX records, by its method ``dns(name, "MX")``; by default
    a new `Milter.dns.Session`. *ourfrom*: the envelope's sender; by default empty, as RFC 3464
    section 2 has it. *port*: of the servers.

    STARTTLS is used where it is offered, with whatever certificate the server has; if that fails
    the message goes in plain text, as mail servers do it (RFC 7435). *tls_context* says what to
    accept instead. *require_tls*: pass over servers with which it fails, or which do not offer it.

    Returns None on success. Else ``(code, text)``: what a server said to the sender, the recipient
    or the message, its text as bytes; or 556 for a domain that takes no mail (RFC 7505), 553 for a
    server without a name or with ours, or for an address that is not ASCII where the server has no
    SMTPUTF8 (RFC 6531), 450 if the DNS does not answer, if time is up, or if no
    server would talk to us.

    Raises ValueError for an address that is none, ImportError without *session* and dnspython. May
    be called anywhere, but it blocks for up to *timeout*.
    """
    deadline = time.monotonic() + timeout
    domain = mailfrom.rpartition("@")[2]
    # A blank may stand in a quoted local part; control characters would be commands of their own.
    controls = any(c < " " or c == "\x7f" for c in mailfrom)
    if "@" not in mailfrom or not domain or controls or any(c.isspace() for c in domain):
        raise ValueError(f"not an address: {mailfrom!r}")
    late: Failure = (450, f"No MX response within {timeout / 60.0:f} minutes")
    try:
        for _, host in _exchangers(domain, session, timeout):
            if time.monotonic() >= deadline:
                return late
            for use_tls in (True, False):
                try:
                    with _Client(receiver, deadline) as smtp:
                        _greet(smtp, host, port, domain, receiver)
                        if use_tls or require_tls:
                            _start_tls(smtp, tls_context, require_tls)
                        _deliver(smtp, mailfrom, receiver, msg, ourfrom)
                    return None
                except _TLSFailed:
                    if require_tls:
                        break
                    # Once more, in plain text.
                except (smtplib.SMTPException, OSError, ValueError):
                    break  # the next host
    except _Final as final:
        return final.failure
    return late if time.monotonic() >= deadline else (450, "No MX servers available")


def _exchangers(domain: str, session: Any, timeout: float) -> list[tuple[int, str]]:
    """Return priority and name of the hosts that take the domain's mail, the best first."""
    import Milter.dns

    if session is None:
        session = Milter.dns.Session(lifetime=timeout)
    try:
        found: list[tuple[int, str]] = session.dns(domain, "MX")
    except Milter.dns.DNSError:
        raise _Final((450, f"DNS Timeout: {domain} MX")) from None
    if not found:
        return [(0, domain)]
    found.sort()
    hosts = [(priority, host) for priority, host in found if host.rstrip(".")]
    if not hosts:
        raise _Final((556, f"Domain does not accept mail: {domain}"))
    return hosts


class _TLSFailed(Exception):
    """The connection is of no use any more, though one without TLS might be."""


class _Client(smtplib.SMTP):
    """An SMTP client whose every wait ends at one deadline (`time.monotonic`)."""

    def __init__(self, receiver: str, deadline: float) -> None:
        super().__init__(local_hostname=receiver, timeout=max(0.001, deadline - time.monotonic()))
        self.deadline = deadline

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time left")
        return left

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        error: OSError = OSError("no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM
        ):
            left = self._left()
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as failure:
                error = failure
                continue
            try:
                sock.settimeout(min(left, CONNECT_TIMEOUT))
                sock.connect(address)
                return sock
            except OSError as failure:
                sock.close()
                error = failure
        raise error

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self)
        if self.file is not None:
            self.file.room = REPLY_LIMIT
        code, text = super().getreply()
        if not 200 <= code <= 599:
            raise smtplib.SMTPServerDisconnected("not a reply")
        return code, text

    def send(self, s: Any) -> None:
        # One for all of the data, also under TLS.
        if self.sock is not None:
            self.sock.settimeout(self._left())
        super().send(s)

    def starttls(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        if self.sock is not None:
            self.sock.settimeout(self._left())
        return super().starttls(*args, **kwargs)

    def __exit__(self, *args: object) -> None:
        try:
            if self.sock is not None:
                self.deadline = min(self.deadline, time.monotonic() + QUIT_TIMEOUT)
                self.docmd("QUIT")
        except (smtplib.SMTPException, OSError, ValueError):
            pass
        finally:
            self.close()


class _Lines:
    """What smtplib reads replies from: a server that trickles does not get beyond the deadline."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._sock = client.sock
        self._data = b""
        self.room = REPLY_LIMIT

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._data and len(self._data) < limit:
            assert self._sock is not None
            self._sock.settimeout(self._client._left())
            more = self._sock.recv(8192)
            if not more:
                break
            self._data += more
        end = self._data.find(b"\n") + 1 or len(self._data)
        line, self._data = self._data[: min(end, limit)], self._data[min(end, limit) :]
        self.room -= len(line)
        if self.room < 0:
            raise smtplib.SMTPServerDisconnected("too long a reply")
        return line

    def close(self) -> None:
        self._data = b""


def _greet(smtp: _Client, host: str, port: int, domain: str, receiver: str) -> None:
    """Connect and say EHLO, or HELO; see who answers."""
    # For the certificate's name; smtplib knows it only if it connects by itself.
    smtp._host = host  # type: ignore[attr-defined]
    code, text = smtp.connect(host, port)
    if code != 220:
        raise smtplib.SMTPConnectError(code, text)
    code, text = smtp.ehlo(receiver)
    if not 200 <= code <= 299:
        code, text = smtp.helo(receiver)
    words = text.split(None, 1)
    if not words:
        raise _Final((553, f"MX for {domain} has no hostname in banner: {host}"))
    if words[0].lower() == receiver.lower().encode("utf-8", "replace"):
        raise _Final((553, f"Fraudulent MX for {domain}: {host}"))
    if not 200 <= code <= 299:
        raise smtplib.SMTPHeloError(code, text)


def _start_tls(smtp: _Client, context: Optional[ssl.SSLContext], required: bool) -> None:
    if not smtp.has_extn("starttls"):
        if required:
            raise _TLSFailed
        return
    if context is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        smtp.starttls(context=context)
        code, text = smtp.ehlo()
        if code != 250:
            raise smtplib.SMTPHeloError(code, text)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise _TLSFailed from error


def _deliver(
    smtp: _Client,
    mailfrom: str,
    receiver: str,
    msg: Union[str, bytes, Message, None],
    ourfrom: str,
) -> None:
    """Bring the message, or ask; raise `_Final` if the server refuses."""
    utf8: tuple[str, ...] = ()
    if not (mailfrom.isascii() and ourfrom.isascii()):
        if not smtp.has_extn("smtputf8"):
            raise _Final((553, f"Not an ASCII address, and no SMTPUTF8: {smtp._host}"))  # type: ignore[attr-defined]
        utf8 = ("SMTPUTF8",)
    if not msg:
        code, text = smtp.mail(ourfrom, utf8)
        if code != 250:
            raise _Final((code, text))
        code, text = smtp.rcpt(mailfrom)
        if code not in (250, 251):
            raise _Final((code, text))
        return
    try:
        try:
            _send(smtp, ourfrom, mailfrom, msg, utf8)
        except smtplib.SMTPSenderRefused as refused:
            try:
                _send(smtp, f"postmaster@{receiver}", mailfrom, msg, utf8)
            except smtplib.SMTPServerDisconnected:
                # Some hang up on those whom they refuse.
                raise refused from None
    except smtplib.SMTPRecipientsRefused as refused:
        replies = refused.recipients
        raise _Final(next(iter(replies.values())) if len(replies) == 1 else replies) from None
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as refused:
        error = refused.smtp_error
        raise _Final((refused.smtp_code, error)) from None


def _flat(msg: Message) -> Union[str, bytes]:
    try:
        return msg.as_bytes()
    except UnicodeError:  # text put in without a word on its encoding, as `create_msg` does
        return msg.as_string()


def _send(
    smtp: _Client,
    sender: str,
    recipient: str,
    msg: Union[str, bytes, Message],
    options: tuple[str, ...],
) -> None:
    if isinstance(msg, Message):
        msg = _flat(msg)
    if isinstance(msg, str):
        msg = msg.encode("utf-8", "surrogateescape")
    # RFC 5321 section 2.3.8: no line ends otherwise.
    data = re.sub(rb"\r\n|\r|\n", b"\r\n", msg)
    if not data.isascii() and smtp.has_extn("8bitmime"):
        options = (*options, "BODY=8BITMIME")
    smtp.sendmail(sender, recipient, data, options)


class _Values:
    """What a template is filled in with."""


#: The attributes of an SPF query (pyspf's) -> what templates call them.
_SPF_NAMES = {
    "h": "heloname",
    "s": "sender",
    "i": "connectip",
    "r": "receiver",
    "o": "sender_domain",
    "result": "result",
    "perm_error": "perm_error",
}


def create_msg(
    v: Any,
    rcptlist: Optional[list[str]] = None,
    origmsg: Any = None,
    template: Optional[str] = None,
) -> Optional[Message]:
    """Return a message made from a template, None if there is no template.

    *v*: an object whose own attributes are what ``%(name)s`` in the template stands for; `sender`
    and `receiver` fill in the headers To and From. An SPF query (which has `perm_error`) is known
    by longer names: `heloname`, `sender`, `connectip`, `receiver`, `sender_domain`, `result`,
    `perm_error`. *rcptlist*: recipients of the message in question, which *v* then has as `rcpt`.
    *origmsg*: that message, whose Subject and Received-SPF *v* then has as `subject` and
    `spf_result`.

    *template*: lines ``Name: value``, an empty line, and the text, with line feeds only. Headers
    that a notification needs and the template lacks are added.

    Raises ValueError for a template that is not like that, also for a ``%`` that is not doubled;
    KeyError for a name that *v* does not have; AttributeError if it has no `sender` or `receiver`
    where they are needed. The DNS is not needed.
    """
    if not template:
        return None
    if hasattr(v, "perm_error"):
        values = _Values()
        try:
            for short, name in _SPF_NAMES.items():
                setattr(values, name, getattr(v, short))
            v = values
        except AttributeError:
            pass
    if rcptlist:
        v.rcpt = "\n\t".join(rcptlist)
    if origmsg:
        try:
            v.subject = origmsg["Subject"]
        except (TypeError, KeyError, AttributeError):
            v.subject = "(none)"
        try:
            v.spf_result = origmsg["Received-SPF"]
        except (TypeError, KeyError, AttributeError):
            v.spf_result = None
    head, blank, body = template.partition("\n\n")
    if not blank:
        raise ValueError("the template has no empty line after its headers")
    msg = Message()
    msg.add_header("X-Mailer", f"PyMilter-{Milter.__version__}")
    msg.add_header("MIME-Version", "1.0")
    msg.add_header("Content-Type", "text/plain")
    for line in head.splitlines():
        name, colon, value = line.partition(":")
        if not colon or name[:1].isspace():
            raise ValueError(f"not a header line in the template: {line!r}")
        msg.add_header(name, _filled(value, v).strip())
    if "to" not in msg:
        msg.add_header("To", v.sender)
    if "from" not in msg:
        msg.add_header("From", f"postmaster@{v.receiver}")
    if "auto-submitted" not in msg:
        msg.add_header("Auto-Submitted", "auto-generated")
    msg.set_payload(_filled(body, v))
    return msg


def _filled(text: str, v: Any) -> str:
    try:
        return str(text % v.__dict__)
    except TypeError as error:
        # What "% x" in a text comes to.
        raise ValueError(f"in the template: {error}") from None
