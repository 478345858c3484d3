"""What goes between an MTA and a filter, packet by packet, as the MTA's side needs it.

Owns the bytes of a packet and the typed objects that stand for what a filter says. What a packet
looks like is the engine's codec's to say, by the rows of protocol.def: no letter, bit or layout
stands here. Knows not when a packet may come (Milter._conversation), and no socket.

Source: wire spec 1.3 and 1.4 (packets), 1.2 and 2 (negotiation), 4.3 to 4.5 (reply texts).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn, Optional

from Milter._engine import ffi, lib
from Milter._message import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    InsertHeader,
    Modification,
    Quarantine,
    ReplaceBody,
    from_wire,
)
from Milter._mtarules import RULES
from Milter._tables import rows

# -- errors --------------------------------------------------------------------------------------


class MilterError(Exception):
    """Something went wrong between us and the filter.

    Attributes:
        packet: number of the packet at which it did, counting from 1 what either side sent: the
            one that is wrong, or the last one before the filter failed to go on; None outside a
            conversation.
        data: the bytes of the packet that is wrong, or as many as came of the one that is missing.
        filter: number of the filter, from 0, where there are several in a row.
    """

    packet: Optional[int] = None
    data: bytes = b""
    filter: int = 0

    def __str__(self) -> str:
        text = super().__str__()
        if not self.data:
            return text
        return f"{text}; of its packet came {hex_of(self.data)}"


class ConnectError(MilterError):
    """The filter could not be reached."""


class SocketSpecError(ConnectError, ValueError):
    """A socket specification that names no socket to connect to."""


class ConnectionLost(MilterError):
    """The filter closed the connection, or it broke."""


class FilterTimeout(MilterError):
    """The filter did not answer in time."""


class ProtocolError(MilterError):
    """The filter broke the protocol.

    Attributes:
        rule: the rule that it broke, and where that stands.
    """

    def __init__(self, text: str, rule: str) -> None:
        super().__init__(text, rule)
        self.rule = rule

    def __str__(self) -> str:
        where = "" if self.packet is None else f"; packet {self.packet}: {hex_of(self.data)}"
        return f"{self.args[0]} ({self.rule}{where})"


def hex_of(data: bytes, most: int = 40) -> str:
    """Returns bytes as the wire spec prints them, and of more than *most* the beginning."""
    if len(data) <= most:
        return data.hex(" ").upper()
    return f"{data[:most].hex(' ').upper()} ... ({len(data)} bytes)"


def spoken(step: Optional[str]) -> Optional[str]:
    """Returns a step's name as errors say it: as its method is called."""
    return "negotiate" if step == "optneg" else step


class StateError(MilterError):
    """A step that may not be played now: nothing was sent, and nothing has changed."""


# As users import them, and tracebacks name them.
MilterError.__module__ = ConnectError.__module__ = SocketSpecError.__module__ = "Milter.mta"
ConnectionLost.__module__ = FilterTimeout.__module__ = "Milter.mta"
ProtocolError.__module__ = StateError.__module__ = "Milter.mta"


# -- the rows of protocol.def --------------------------------------------------------------------


class Command(NamedTuple):
    """A command and the step that it starts."""

    letter: int
    name: str
    shape: bytes
    answer: int
    since: int
    no_bit: int
    nr_bit: int
    rank: int
    repeats: bool


class Reply(NamedTuple):
    """A packet from the filter."""

    letter: int
    name: str
    shape: bytes
    kind: int
    action: int


def _name(row: Any) -> str:
    """The name of a row without its family: MAIL for SMFIC_MAIL."""
    symbol: bytes = ffi.string(row.symbol)
    return symbol.decode("ascii").partition("_")[2]


def _commands() -> dict[int, Command]:
    steps = {step.letter: step for step in rows(lib.mlt_steps)}
    commands = {}
    for row in rows(lib.mlt_commands):
        step = steps.get(row.letter)
        commands[row.letter] = Command(
            row.letter,
            _name(row),
            ffi.string(row.shape),
            row.kind,
            row.action,
            step.no_bit if step else 0,
            step.nr_bit if step else 0,
            step.rank if step else -1,
            bool(step.repeats) if step else False,
        )
    return commands


COMMANDS: Final = _commands()
REPLIES: Final = {
    row.letter: Reply(row.letter, _name(row), ffi.string(row.shape), row.kind, row.action)
    for row in rows(lib.mlt_replies)
}
STAGES: Final[dict[int, int]] = {row.letter: row.value for row in rows(lib.mlt_stages)}
HEAD: Final = 5  # bytes of a packet before its data

DEFAULT_ACTIONS: Final[int] = sum(row.value for row in rows(lib.mlt_action_bits))
"""Every action there is: what Postfix and Sendmail offer."""

DEFAULT_PROTOCOL: Final[int] = sum(
    row.value
    for row in rows(lib.mlt_protocol_bits)
    if row.value not in (lib.SMFIP_MDS_256K, lib.SMFIP_MDS_1M)
)
"""Every protocol option but the larger packets: what Postfix and Sendmail offer."""


def action_names(actions: int) -> list[str]:
    """Returns the names of the action bits: ``ADDHDRS`` and so on."""
    return [_name(row) for row in rows(lib.mlt_action_bits) if row.value & actions]


def protocol_names(protocol: int) -> list[str]:
    """Returns the names of the protocol bits: ``NOCONNECT`` and so on."""
    return [_name(row) for row in rows(lib.mlt_protocol_bits) if row.value & protocol]


# -- the codec -----------------------------------------------------------------------------------


def encode(
    letter: int, shape: bytes, numbers: Sequence[int] = (), texts: Sequence[Optional[bytes]] = ()
) -> bytes:
    """Returns a whole packet. A text of None is left out (shape ``t``)."""
    fields = ffi.new("mlt_fields *")
    fields.numbers = len(numbers)
    for index, number in enumerate(numbers):
        fields.number[index] = number
    fields.texts = len(texts)
    kept = [ffi.from_buffer(text) for text in texts if text is not None]
    given = iter(kept)
    room = HEAD + 4 * len(numbers) + len(texts)
    for index, text in enumerate(texts):
        if text is not None:
            fields.text[index].data = next(given)
            fields.text[index].len = len(text)
            room += len(text)
    out = ffi.new("char[]", room)
    size = lib.mlt_codec_encode(letter, shape, fields, out, room)
    if not 0 < size <= room:
        raise AssertionError(f"fields that do not fit packet {chr(letter)!r}")
    packet: bytes = ffi.buffer(out, size)[:]
    return packet


def decode(shape: bytes, data: bytes) -> Optional[tuple[list[int], list[Optional[bytes]]]]:
    """Returns the numbers and texts of a packet's data, None where it does not fit the shape."""
    fields = ffi.new("mlt_fields *")
    with ffi.from_buffer(data) as view:
        if lib.mlt_codec_decode(shape, view, len(data), fields) != lib.MLT_OK:
            return None
        numbers = [int(fields.number[index]) for index in range(fields.numbers)]
        texts: list[Optional[bytes]] = []
        for index in range(fields.texts):
            span = fields.text[index]
            texts.append(None if span.data == ffi.NULL else ffi.buffer(span.data, span.len)[:])
    return numbers, texts


# -- verdicts ------------------------------------------------------------------------------------


class Kind(enum.Enum):
    """What a verdict says."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"
    SKIP = "skip"
    #: The step was sent, and that no answer comes to it was negotiated.
    NO_REPLY = "no reply"
    #: The step was not sent: negotiated away, unknown to the filter's version, or skipped.
    NOT_SENT = "not sent"


_FINAL = frozenset({Kind.ACCEPT, Kind.REJECT, Kind.TEMPFAIL, Kind.DISCARD})

KINDS: Final[dict[int, Kind]] = {
    lib.SMFIR_CONTINUE: Kind.CONTINUE,
    lib.SMFIR_ACCEPT: Kind.ACCEPT,
    lib.SMFIR_REJECT: Kind.REJECT,
    lib.SMFIR_TEMPFAIL: Kind.TEMPFAIL,
    lib.SMFIR_DISCARD: Kind.DISCARD,
    lib.SMFIR_SKIP: Kind.SKIP,
}

# What Postfix says to its client where the filter gives no text (wire spec 2.7).
_DEFAULT_REPLIES = {
    Kind.REJECT: "550 5.7.1 Command rejected",
    Kind.TEMPFAIL: "451 4.7.1 Service unavailable - try again later",
}


@dataclass(frozen=True)
class Verdict:
    """A filter's answer to a step.

    Attributes:
        kind: what it says; a reply text of 4xx is TEMPFAIL, one of 5xx is REJECT.
        code: SMTP code of the filter's reply text, None where it gave no text.
        enhanced: enhanced status code (RFC 3463) of that text, None where there is none.
        lines: the text's lines without the codes.
        raw: the whole text as it came, without the NUL; empty where there is none.
    """

    kind: Kind
    code: Optional[int] = None
    enhanced: Optional[str] = None
    lines: tuple[str, ...] = ()
    raw: bytes = b""

    @property
    def final(self) -> bool:
        """True: it decides about the connection, message or recipient; the step is not a pass."""
        return self.kind in _FINAL

    @property
    def reply(self) -> Optional[str]:
        """The SMTP reply that the client gets, lines joined by CR LF; None where it is no refusal.

        Made as Postfix makes it: ``%%`` in a filter's text stands for ``%``, and a lone ``%`` is
        dropped (wire spec 4.5).
        """
        if self.raw:
            return re.sub("%(%?)", r"\1", from_wire(self.raw))
        return _DEFAULT_REPLIES.get(self.kind)

    def __str__(self) -> str:
        return f"{self.kind.value}: {from_wire(self.raw)}" if self.raw else self.kind.value


NO_REPLY: Final = Verdict(Kind.NO_REPLY)
NOT_SENT: Final = Verdict(Kind.NOT_SENT)

_REPLY_LINE = re.compile(rb"([45][0-9][0-9])(?:([ -])(.*))?")
_REPLY_LINES: Final = 32
_REPLY_TEXT: Final = 980  # bytes of a line, without the codes
_ENHANCED = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: +|$)")


def parse_reply(text: bytes, strict: bool = True, postfix: bool = False) -> Verdict:
    """Returns the verdict of a reply text.

    Args:
        text: without the NUL.
        strict: also what one mail server or the other puts up with is an error: an enhanced code of
            another class than the SMTP code, a digit in its place that is not its class, a code and
            nothing else, more or longer lines than a libmilter filter can make, a lone ``%``.
        postfix: what Postfix does not put up with is an error.

    Raises:
        ProtocolError: it is no SMTP reply, or none that refuses anything.
    """

    def bad(why: str, rule: str = "reply") -> NoReturn:
        raise ProtocolError(f"reply text {text[:200]!r}: {why}", RULES[rule])

    lines = text.split(b"\r\n")
    code = lines[0][:3]
    codes: list[Optional[bytes]] = []  # the enhanced one of each line
    words: list[bytes] = []  # and what stands behind it
    rests: list[bytes] = []  # both
    for number, line in enumerate(lines, 1):
        match = None if b"\r" in line or b"\n" in line else _REPLY_LINE.fullmatch(line)
        if match is None:
            bad(f"line {number} does not begin with a code of 4xx or 5xx, or holds a bare CR or LF")
        if match.group(1) != code:
            bad(f"line {number} has another code than line 1")
        if (match.group(2) == b"-") != (number < len(lines)):
            bad(f"line {number} of {len(lines)} has the wrong separator after its code")
        rest = match.group(3) or b""
        status = _ENHANCED.match(rest)
        enhanced = None if status is None else status.group(1)
        codes.append(enhanced)
        rests.append(rest)
        words.append(rest if status is None else rest[status.end() :])
        if strict and enhanced is not None and enhanced[:1] != code[:1]:
            bad(f"the classes of {code.decode()} and {enhanced.decode()} differ", "reply classes")
        if strict and len(words[-1]) > _REPLY_TEXT:
            bad(f"line {number} has {len(words[-1])} bytes of text", "reply size")
    if strict or postfix:
        if text == code:
            bad("nothing stands behind the code")
        # Postfix takes a digit there for the class of an enhanced code, whatever it is.
        if text[4:5].isdigit() and text[4:5] != code[:1]:
            bad(f"{code.decode()} and then {text[4:5].decode()}", "reply classes")
    if strict:
        if len(lines) > _REPLY_LINES:
            bad(f"{len(lines)} lines", "reply size")
        if b"%" in text.replace(b"%%", b""):
            bad("a lone %", "percent")
    # It is one of the whole reply where every line has it; else it is part of its line.
    common = codes[0] if len(set(codes)) == 1 else None
    return Verdict(
        Kind.REJECT if code.startswith(b"5") else Kind.TEMPFAIL,
        int(code),
        None if common is None else common.decode("ascii"),
        tuple(map(from_wire, words if common else rests)),
        text,
    )


# -- negotiation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What the two sides agreed on.

    Attributes:
        version: protocol version that the filter speaks.
        actions: SMFIF_ bits that it wants to be able to do.
        protocol: SMFIP_ bits of what is left out or done differently.
        macro_lists: by stage number (SMFIM_), the names of the macros that it wants there.
        offered_version, offered_actions, offered_protocol: what was offered to it.
    """

    version: int
    actions: int
    protocol: int
    macro_lists: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    offered_version: int = 0
    offered_actions: int = 0
    offered_protocol: int = 0

    @property
    def max_data(self) -> int:
        """Bytes of data that one packet may have (wire spec 1.2 and 2.6)."""
        if self.protocol & lib.SMFIP_MDS_1M:
            return 1048575
        if self.protocol & lib.SMFIP_MDS_256K:
            return 262143
        return 65535

    @property
    def leading_space(self) -> bool:
        """True: header values go both ways with the blank behind the colon (HDR_LEADSPC)."""
        return bool(self.protocol & lib.SMFIP_HDR_LEADSPC)

    @property
    def rejected_recipients(self) -> bool:
        """True: the filter wants to hear of recipients that the MTA rejects (RCPT_REJ)."""
        return bool(self.protocol & lib.SMFIP_RCPT_REJ)


@dataclass(frozen=True)
class Progress:
    """The filter is still at work; the timeout starts again."""


# -- modifications -------------------------------------------------------------------------------


def modification(
    letter: int, numbers: Sequence[int], texts: Sequence[Optional[bytes]]
) -> Modification:
    """Returns the modification that a packet of this letter and with these fields stands for."""
    if letter == lib.SMFIR_REPLBODY:
        return ReplaceBody(texts[0] or b"")
    words = [None if text is None else from_wire(text) for text in texts]
    first = words[0] or ""
    second = words[1] if len(words) > 1 else None
    if letter == lib.SMFIR_ADDHEADER:
        return AddHeader(first, second or "")
    if letter == lib.SMFIR_INSHEADER:
        return InsertHeader(numbers[0], first, second or "")
    if letter == lib.SMFIR_CHGHEADER:
        if second:
            return ChangeHeader(numbers[0], first, second)
        return DeleteHeader(numbers[0], first)
    if letter in (lib.SMFIR_ADDRCPT, lib.SMFIR_ADDRCPT_PAR):
        return AddRecipient(first, second)
    if letter == lib.SMFIR_DELRCPT:
        return DeleteRecipient(first)
    if letter == lib.SMFIR_CHGFROM:
        return ChangeSender(first, second)
    if letter == lib.SMFIR_QUARANTINE:
        return Quarantine(first)
    raise AssertionError(f"a modification without a class: {chr(letter)!r}")
