"""Hypothesis strategies for tests of filters: envelopes, headers, messages, whole dialogues.

    from hypothesis import given
    from Milter import strategies, testing

    @given(strategies.messages())
    def test_adds_one_header(message):
        with testing.direct(MyFilter) as client:
            assert len(client.send(message).headers("X-Checked")) == 1

What they make a mail server can send: bytes beyond ASCII and broken MIME among it, but nothing that
none would say. Examples shrink to small and plain ones. :func:`play` plays a dialogue.

Needs Hypothesis.
"""

from __future__ import annotations

import base64
import functools
import quopri
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Optional, Union

from Milter import mta

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("Milter.strategies needs Hypothesis: pip install hypothesis") from error

__all__ = [
    "Move",
    "addresses",
    "bodies",
    "clients",
    "dialogues",
    "envelopes",
    "header_names",
    "header_values",
    "headers",
    "messages",
    "mime_messages",
    "parameters",
    "play",
]

_ATEXT: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~"
_LABEL: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_EIGHT_BIT: Final = bytes(range(128, 256))
_COMMON: Final = ("Subject", "From", "To", "Received", "Content-Type", "Message-ID", "X-Spam-Flag")


# -- the envelope --------------------------------------------------------------------------------


def _domains() -> st.SearchStrategy[str]:
    labels = st.text(_LABEL, min_size=1, max_size=12)
    names = st.lists(labels, max_size=2).map(lambda parts: ".".join([*parts, "example"]))
    # What comes first is what examples shrink to.
    usual = st.just("example.org") | st.sampled_from(["example.com", "[192.0.2.1]"])
    return usual | names


def addresses(*, null: bool = False, smtputf8: bool = False) -> st.SearchStrategy[str]:
    """Envelope addresses in angle brackets (RFC 5321 4.1.2), quoted local parts among them.

    Args:
        null: also ``<>``, which a sender may be.
        smtputf8: also with letters beyond ASCII (RFC 6531).
    """
    atoms = st.text(_ATEXT, min_size=1, max_size=12)
    local = st.just("bob") | st.lists(atoms, min_size=1, max_size=3).map(".".join)
    text = st.text("abc xyz.@,<>()", min_size=1, max_size=8)
    local |= text.map(lambda words: f'"{words}"')
    if smtputf8:
        local |= st.text("äöüßéñжш邮件", min_size=1, max_size=6)
    made = st.builds(lambda left, right: f"<{left}@{right}>", local, _domains())
    return st.just("<>") | made if null else made


def parameters(*, recipient: bool = False) -> st.SearchStrategy[list[str]]:
    """ESMTP parameters of a sender (SIZE, BODY, RET, ENVID), or of a recipient (NOTIFY, ORCPT)."""
    if recipient:
        each = [
            st.sampled_from(["NOTIFY=NEVER", "NOTIFY=SUCCESS,FAILURE", "NOTIFY=DELAY"]),
            st.just("ORCPT=rfc822;bob@example.com"),
        ]
    else:
        each = [
            st.integers(0, 10**8).map(lambda size: f"SIZE={size}"),
            st.sampled_from(["BODY=7BIT", "BODY=8BITMIME"]),
            st.sampled_from(["RET=FULL", "RET=HDRS"]),
            st.text(_LABEL, min_size=1, max_size=8).map(lambda text: f"ENVID={text}"),
        ]
    return st.lists(
        st.one_of(each), unique_by=lambda text: text.partition("=")[0], max_size=len(each)
    )


def envelopes(
    *, max_recipients: int = 4, smtputf8: bool = False
) -> st.SearchStrategy[tuple[str, list[str], list[mta.Recipient]]]:
    """Sender, its parameters, and one to *max_recipients* recipients with theirs."""
    recipients = st.builds(
        lambda address, params: mta.Recipient(address, tuple(params)),
        addresses(smtputf8=smtputf8),
        parameters(recipient=True),
    )
    return st.tuples(
        addresses(null=True, smtputf8=smtputf8),
        parameters(),
        st.lists(recipients, min_size=1, max_size=max_recipients),
    )


def clients() -> st.SearchStrategy[mta.SmtpClient]:
    """SMTP clients: over IPv4 and IPv6, a unix socket, unknown, with and without a name."""
    names = st.sampled_from(["mail.example.net", "localhost", "[192.0.2.1]"])
    addresses = st.ip_addresses().map(str) | st.sampled_from(["192.0.2.1", "2001:db8::1"])
    places: st.SearchStrategy[Optional[str]] = st.one_of(
        addresses, st.sampled_from(["/run/client.sock", None])
    )
    return st.builds(
        lambda name, address, port: mta.SmtpClient(
            name, address, 0 if address is None or "/" in address else port
        ),
        names,
        places,
        st.integers(0, 65535),
    )


# -- the message ---------------------------------------------------------------------------------


def header_names() -> st.SearchStrategy[bytes]:
    """Names of headers: usual ones in any case, and others of printable ASCII (RFC 5322 2.2)."""
    usual = st.sampled_from(
        [spelt for name in _COMMON for spelt in (name, name.lower(), name.upper())]
    )
    other = st.text([chr(c) for c in range(33, 127) if chr(c) != ":"], min_size=1, max_size=20)
    return (usual | other).map(lambda name: name.encode("ascii"))


def header_values(*, eight_bit: bool = True) -> st.SearchStrategy[bytes]:
    """All that stands behind a header's colon, its first blank included; folded now and then.

    Args:
        eight_bit: also UTF-8, and bytes that are none.
    """
    pieces = st.text([chr(c) for c in range(32, 127)], max_size=40).map(str.encode)
    pieces |= st.sampled_from(
        [b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", b"=?utf-8?b?!?=", b"<x@example.org>"]
    )
    if eight_bit:
        pieces |= st.text("äöü邮件 ", max_size=10).map(str.encode)
        pieces |= st.binary(max_size=10).map(lambda data: data.translate(None, b"\0\r\n"))
    # A line of a fold that is blank would be no fold: something stands on each.
    folds = st.lists(
        st.tuples(st.sampled_from([b"\n ", b"\n\t"]), st.just(b"."), pieces), max_size=2
    )
    return st.builds(
        lambda blank, first, rest: blank + first + b"".join(b"".join(line) for line in rest),
        st.sampled_from([b" ", b"", b"\t"]),
        pieces,
        folds,
    )


def headers(*, max_size: int = 8, eight_bit: bool = True) -> st.SearchStrategy[list[mta.Header]]:
    """Headers of a message, in any order, some of the same name.

    Args:
        max_size: how many at most.
        eight_bit: see :func:`header_values`.
    """
    each = st.builds(mta.Header, header_names(), header_values(eight_bit=eight_bit))
    return st.lists(each, max_size=max_size)


def bodies(*, max_size: int = 2000) -> st.SearchStrategy[bytes]:
    """Bodies of any bytes but NUL; every CR or LF is part of a CR LF.

    Args:
        max_size: bytes at most.
    """
    lines = st.lists(
        st.text([chr(c) for c in range(32, 127)], max_size=60).map(str.encode)
        | st.binary(max_size=60).map(lambda data: data.translate(None, b"\0\r\n"))
    )
    end = st.sampled_from([b"\r\n", b""])
    made = st.builds(lambda each, last: b"\r\n".join(each) + (last if each else b""), lines, end)
    # A cut may have left a CR alone.
    return made.map(lambda body: _whole(body[:max_size]))


def _whole(body: bytes) -> bytes:
    return body[:-1] if body.endswith(b"\r") else body


class _Part(NamedTuple):
    """A part of a MIME message: its headers and content, lines ended by CR LF."""

    head: tuple[bytes, ...]
    content: bytes


# Not `builds`: Hypothesis would show a message as the call that made it, not as what it is.
@st.composite
def _assembled(
    draw: st.DrawFn,
    envelope: st.SearchStrategy[tuple[str, list[str], list[mta.Recipient]]],
    headers: st.SearchStrategy[list[mta.Header]],
    content: st.SearchStrategy[Union[bytes, _Part]],
) -> mta.Message:
    sender, params, recipients = draw(envelope)
    fields = draw(headers)
    body = draw(content)
    if isinstance(body, _Part):
        lines = [line.partition(b":") for line in (b"MIME-Version: 1.0", *body.head)]
        fields = [header for header in fields if not header.key.startswith(b"content-")]
        fields += [mta.Header(name, value) for name, _, value in lines]
        body = body.content
    return mta.Message(fields, body, sender, params, recipients)


def messages(
    *, max_headers: int = 8, max_body: int = 2000, eight_bit: bool = True, smtputf8: bool = False
) -> st.SearchStrategy[mta.Message]:
    """Messages with their envelopes, whatever is in them.

    Args:
        max_headers: how many at most.
        max_body: bytes at most.
        eight_bit: see :func:`header_values`.
        smtputf8: see :func:`addresses`.
    """
    return _assembled(
        envelopes(smtputf8=smtputf8),
        headers(max_size=max_headers, eight_bit=eight_bit),
        bodies(max_size=max_body),
    )


def _leaf(
    kind: bytes, name: Optional[str], encoding: bytes, data: bytes, valid: bool = False
) -> _Part:
    if valid and kind != b"application/octet-stream":
        data = data.translate(None, _EIGHT_BIT)
    if valid and kind == b"message/rfc822":  # whole, and not encoded (RFC 2046 5.2.1)
        data = b"Subject: inner\r\n\r\n" + data
        encoding = b"7bit"
    if valid and encoding == b"7bit" and not data.isascii():
        encoding = b"8bit"
    if encoding == b"base64":
        content = base64.encodebytes(data).replace(b"\n", b"\r\n")
    elif encoding == b"quoted-printable":
        content = quopri.encodestring(data).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    else:
        content = data
    head = [b"Content-Type: " + kind, b"Content-Transfer-Encoding: " + encoding]
    if name is not None:
        head.append(b'Content-Disposition: attachment; filename="' + name.encode() + b'"')
    return _Part(tuple(head), content)


def _multipart(kind: str, parts: Sequence[_Part], number: int, closed: bool) -> _Part:
    # Parts cannot hold it: it is longer the further out it is.
    depth = max((part.content.count(b"=-part-") for part in parts), default=0) + 1
    boundary = b"=-part-" + b"x" * depth + str(number).encode()
    lines = [b"--" + boundary + b"\r\n" + _whole_part(part) + b"\r\n" for part in parts]
    end = b"--" + boundary + b"--\r\n" if closed else b""
    head = b"Content-Type: multipart/" + kind.encode() + b'; boundary="' + boundary + b'"'
    return _Part((head,), b"".join(lines) + end)


def _whole_part(part: _Part) -> bytes:
    return b"".join(line + b"\r\n" for line in part.head) + b"\r\n" + part.content


def mime_messages(*, max_body: int = 500, broken: bool = True) -> st.SearchStrategy[mta.Message]:
    """Messages with MIME bodies: text, HTML, attachments, multiparts within multiparts.

    Args:
        max_body: bytes of each part's data at most.
        broken: now and then a multipart without its last boundary, or without any part; and bytes
            that the type, charset or encoding that a part names does not allow.
    """
    kinds = [
        b"text/plain; charset=utf-8",
        b"text/plain",
        b"text/html; charset=iso-8859-1",
        b"application/octet-stream",
        b"message/rfc822",
    ]
    files = ["a.txt", "run.exe", "x.zip"] + (["Grüße.pdf"] if broken else [])
    names = st.none() | st.sampled_from(files)
    leaves = st.builds(
        _leaf,
        st.sampled_from(kinds),
        names,
        st.sampled_from([b"7bit", b"8bit", b"base64", b"quoted-printable"]),
        bodies(max_size=max_body),
        st.just(not broken),
    )
    closed = st.just(True) | st.booleans() if broken else st.just(True)
    trees = st.recursive(
        leaves,
        lambda inner: st.builds(
            _multipart,
            st.sampled_from(["mixed", "alternative", "related"]),
            st.lists(inner, min_size=0 if broken else 1, max_size=3),
            st.integers(0, 9),
            closed,
        ),
        max_leaves=4,
    )

    return _assembled(envelopes(), headers(max_size=3), trees)


# -- dialogues -----------------------------------------------------------------------------------


class Move(NamedTuple):
    """One thing that a mail server does in a dialogue.

    ``repr()`` of a list of them is what a failing test can be written with.
    """

    step: str
    """A method of :class:`Milter.mta.Session`."""
    args: tuple[Any, ...] = ()


def _envelope_moves(message: mta.Message) -> list[Move]:
    return [
        Move("mail", (message.sender, *message.sender_params)),
        *[Move("rcpt", (to.address, *to.params)) for to in message.recipients],
    ]


def _content_moves(message: mta.Message, pieces: int) -> list[Move]:
    moves = [Move("data")]
    moves += [Move("header", (header.name, header.value)) for header in message.headers]
    moves.append(Move("eoh"))
    size = max(1, -(-len(message.body) // pieces))
    for at in range(0, len(message.body), size):
        moves.append(Move("body", (message.body[at : at + size],)))
    return [*moves, Move("eom")]


@functools.cache
def _small_messages() -> st.SearchStrategy[mta.Message]:
    """Made once: to make a strategy takes longer than to draw from it."""
    return messages(max_headers=4, max_body=200)


@st.composite
def _transactions(draw: st.DrawFn) -> list[Move]:
    message = draw(_small_messages())
    moves = _envelope_moves(message) + _content_moves(message, draw(st.integers(1, 3)))
    if draw(st.booleans()):
        return moves
    # Given up somewhere: with an abort, or with what makes the filter do so itself.
    kept = moves[: draw(st.integers(1, len(moves) - 1))]
    endings: list[list[Move]] = [[Move("abort")], [Move("helo", ("again",))], []]
    return [*kept, *draw(st.sampled_from(endings))]


@functools.cache
def _any_clients() -> st.SearchStrategy[mta.SmtpClient]:
    return clients()


@st.composite
def dialogues(draw: st.DrawFn, *, max_messages: int = 3) -> list[Move]:
    """Whole dialogues of a mail server with a filter, as :func:`play` plays them.

    CONNECT and HELO or not, any number of messages, some given up at any step, unknown commands in
    between; what an MTA may say in that order (wire spec 3.4).

    Args:
        draw: Hypothesis gives it.
        max_messages: how many at most.
    """
    moves: list[Move] = []
    if draw(st.booleans()):
        client = draw(_any_clients())
        moves.append(Move("connect", (client.name, client.address, client.port)))
    if draw(st.booleans()):
        moves.append(Move("helo", (draw(st.sampled_from(["mail.example.net", "[192.0.2.1]"])),)))
    for _ in range(draw(st.integers(0, max_messages))):
        moves += draw(_transactions())
        if draw(st.booleans()):
            moves.append(Move("unknown", (draw(st.sampled_from(["VRFY x", "XFOO", "GET /"])),)))
    return moves


def play(session: mta.Session, dialogue: Sequence[Move]) -> list[tuple[Move, Any]]:
    """Plays a dialogue to a filter, over a connection on which nothing has been said.

    What the filter has decided not to hear any more is left out, as a mail server leaves it out.

    Args:
        session: of :meth:`Milter.testing.Client.connect`, or :func:`Milter.mta.connect`; it is
            negotiated here unless it was.
        dialogue: the moves.

    Returns:
        Each move that was played, with the Verdict; with the Answer for ``eom``, None for
        ``abort``.

    Raises:
        MilterError: the filter broke the protocol, did not answer, or closed.
    """
    if session.options is None:
        session.negotiate()
    played: list[tuple[Move, Any]] = []
    for move in dialogue:
        try:
            answer = getattr(session, move.step)(*move.args)
        except mta.StateError:
            if session.protocol.over:
                raise
            continue
        played.append((move, answer))
        about_session = move.step in ("connect", "helo")
        if isinstance(answer, mta.Verdict) and answer.final and about_session:
            break
    return played
