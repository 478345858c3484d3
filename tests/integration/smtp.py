"""The SMTP client's side of a case: what is said, what was answered."""

from __future__ import annotations

import smtplib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

SENDER = "sender@client.example"
ONE, TWO = "one@dest.example", "two@dest.example"

#: Header names and values of the ordinary message, in order.
HEADERS = (
    ("From", "Sender <sender@client.example>"),
    ("To", "one@dest.example, two@dest.example"),
    # Folded; in an address header Sendmail would unfold it.
    ("X-Folded", "one\n\ttwo\n   three"),
    ("Subject", "An ordinary message"),
    ("Date", "Sat, 21 Nov 2026 12:00:00 +0000"),
    ("Message-ID", "<{token}@client.example>"),
    ("X-Thing", "first"),
    ("X-Thing", "second"),
)
BODY = "Hello,\n\n..this line began with two dots.\n.\nBye\n"


@dataclass(frozen=True)
class Say:
    """One thing that the client says: a command, or bytes that are sent as they are.

    Without bytes of its own a content step sends the content of the case.
    """

    label: str
    text: str | bytes = b""


def render(
    token: str,
    headers: Iterable[tuple[str, str]] | None = None,
    body: str | bytes | None = None,
) -> bytes:
    """Return a message with LF line ends; *token* makes it one of a kind."""
    fields = HEADERS if headers is None else headers
    head = "".join(f"{name}: {value}\n" for name, value in fields).replace("{token}", token)
    content = BODY if body is None else body
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    return head.encode("utf-8", "surrogateescape") + b"\n" + content


def on_the_wire(message: bytes) -> bytes:
    """Return a message with CRLF line ends, dots doubled, and the final dot."""
    lines = message.replace(b"\n", b"\r\n")
    if lines.startswith(b"."):
        lines = b"." + lines
    return lines.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def message_steps(prefix: str = "", sender: str = SENDER) -> list[Say]:
    """Return the steps of one message."""
    return [
        Say(f"{prefix}mail", f"MAIL FROM:<{sender}>"),
        Say(f"{prefix}rcpt1", f"RCPT TO:<{ONE}>"),
        Say(f"{prefix}rcpt2", f"RCPT TO:<{TWO}>"),
        Say(f"{prefix}data", "DATA"),
        Say(f"{prefix}content"),
    ]


GREETING = Say("greeting")
EHLO = Say("ehlo", "EHLO client.example")
QUIT = Say("quit", "QUIT")
#: One whole session with one ordinary message.
STANDARD = (GREETING, EHLO, *message_steps(), QUIT)

#: What is answered when nobody objects, by what the label ends with.
SUCCESS = {
    "greeting": "220",
    "ehlo": "250",
    "helo": "250",
    "mail": "250",
    "rcpt": "250",
    "data": "354",
    "bdat": "250",
    "content": "250",
    "rset": "250",
    "noop": "250",
    "quit": "221",
}


def kind(label: str) -> str:
    """Return what sort of step a label names: ``2-rcpt1`` is ``rcpt``."""
    return label.rpartition("-")[2].rstrip("0123456789")


class Flow:
    """Which step of a session is worth saying, after the replies so far.

    A message that lost its sender or all its recipients is not gone on with; after 421 nothing is.
    """

    def __init__(self) -> None:
        self.over = False
        self._start()

    def _start(self) -> None:
        self.sender = self.recipient = self.content = False

    def wants(self, label: str) -> bool:
        """Tell whether the step is to be said now."""
        if self.over:
            return False
        needed = {"rcpt": "sender", "data": "recipient", "content": "content"}.get(kind(label))
        return needed is None or bool(getattr(self, needed))

    def saw(self, label: str, code: str) -> None:
        """Take note of a reply."""
        step = kind(label)
        good = code[:1] in "23"
        if step == "mail":
            self._start()
            self.sender = good
        elif step == "rcpt":
            self.recipient |= good
        elif step in ("data", "bdat"):
            self.content = good
        elif step in ("rset", "ehlo", "helo"):
            self._start()
        if code == "421" or step == "quit":
            self.over = True


@dataclass
class Transcript:
    """The replies of one session, by label, in order: ``250 2.1.0 Ok``."""

    replies: dict[str, str] = field(default_factory=dict)
    #: The server closed the connection (looked at after a 421).
    closed: bool = False
    #: The client's own address, as the server sees it: (host, port, ...).
    source: tuple[str, int] = ("", 0)


class Client(smtplib.SMTP):
    """smtplib's client, saying what it is told to."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(timeout=40)
        self.command_encoding = "utf-8"
        self.address = address

    def say(self, step: Say, content: bytes = b"") -> str:
        """Say one thing and return the reply; lines of a long one are joined by LF."""
        if kind(step.label) == "greeting":
            code, text = self.connect(*self.address)
        elif isinstance(step.text, str):
            code, text = self.docmd(step.text)
        else:
            self.send(step.text or content)
            code, text = self.getreply()
        return f"{code} {text.decode('utf-8', 'surrogateescape')}".rstrip()

    def source(self) -> tuple[str, int]:
        """Return the address that the server sees: (host, port)."""
        assert self.sock is not None
        host, port = self.sock.getsockname()[:2]
        return (str(host), int(port))

    def vanish(self) -> None:
        """Close the connection without a word."""
        self.close()

    def at_end(self) -> bool:
        """Tell whether the server has closed the connection, once it had the time to."""
        assert self.sock is not None
        self.sock.settimeout(40)
        try:
            return bool(self.sock.recv(1) == b"")
        except ConnectionError:
            return True


def play(address: tuple[str, int], steps: Iterable[Say], message: bytes) -> Transcript:
    """Play a session, with this message where content is due; return what was answered."""
    content = on_the_wire(message)
    transcript = Transcript()
    flow = Flow()
    client = Client(address)
    try:
        for step in steps:
            if flow.wants(step.label):
                reply = client.say(step, content)
                transcript.replies[step.label] = reply
                if kind(step.label) == "greeting":
                    transcript.source = client.source()
                flow.saw(step.label, reply[:3])
        if any(reply.startswith("421") for reply in transcript.replies.values()):
            transcript.closed = client.at_end()
    finally:
        client.close()
    return transcript


def expected_replies(steps: Iterable[Say], given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (label, expected reply) of the steps said if the replies are as *given*.

    A label that is not in *given* succeeds.
    """
    flow = Flow()
    unknown = set(given)
    for step in steps:
        unknown.discard(step.label)
        if flow.wants(step.label):
            reply = given.get(step.label) or SUCCESS[kind(step.label)]
            flow.saw(step.label, reply[:3])
            yield step.label, reply
    assert not unknown, f"the case expects replies to steps that it does not have: {unknown}"
