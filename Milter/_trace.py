"""What goes between an MTA and a filter, seen from outside: as records, and in words.

Owns what a record is, how the bytes of both directions become records, what each packet says, and
what is wrong with it. The rules are Milter._conversation's, the layouts the engine's. Knows no
socket (Milter._tracewire), no file (Milter._recording) and no capture (Milter._pcap).

Source: wire spec 1 (packets), 2 (negotiation), 3.4 and 8.9 (what may come when).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, Final, NamedTuple, Optional

from Milter._conversation import Outgoing, Protocol
from Milter._engine import ffi, lib
from Milter._message import from_wire, shown
from Milter._mtacodec import (
    COMMANDS,
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    HEAD,
    REPLIES,
    STAGES,
    Command,
    MilterError,
    Options,
    ProtocolError,
    StateError,
    action_names,
    decode,
    encode,
    hex_of,
    modification,
    protocol_names,
)
from Milter._mtarules import RULES

MTA: Final = "mta"
FILTER: Final = "filter"

# Bytes of letter and data up to which a packet is held together. The largest that can be agreed on
# has 1 MiB; mail servers may write longer headers than that, and what promises more is none.
LARGEST: Final = 4 * 1024 * 1024

_SENDERS: Final = (MTA, FILTER)

# What a record may say, and whether it has a sender, bytes, and words.
KINDS: Final = {
    "open": (False, False, True),
    "packet": (True, True, False),
    "broken": (True, True, False),
    "gap": (True, False, True),
    "end": (True, False, False),
    "reset": (True, False, False),
    "failed": (False, False, True),
    "cut": (False, False, True),
}


class Record(NamedTuple):
    """Something that happened on a connection."""

    connection: int
    """Its number, from 1."""
    time: float
    """Seconds since the recording began; of a packet, when its last byte came."""
    kind: str
    """What it was:

    - ``open``: an MTA has connected; `text` says from where and to where.
    - ``packet``: `data` is its letter and data.
    - ``broken``: `data` are bytes that are no packet, or a part of one behind which nothing came.
    - ``gap``: bytes are missing here in the capture; `text` says how many.
    - ``end``: the sender has said all: it closed, or shut its side down.
    - ``reset``: the sender broke the connection off.
    - ``failed``: the filter could not be reached; `text` says why.
    - ``cut``: the connection went on behind the end of the recording.
    """
    sender: str = ""
    """``mta`` or ``filter``; empty where it is neither's doing."""
    data: bytes = b""
    text: str = ""


# -- bytes to records ----------------------------------------------------------------------------


class _Stream:
    """One direction: bytes to packets."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.broken = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yields what is whole by now: the kind of a record, and its data."""
        if self.broken:
            yield "broken", data
            return
        self._held += data
        packet = ffi.new("mlt_packet *")
        while self._held:
            with ffi.from_buffer(self._held) as view:
                status = lib.mlt_frame_next(view, len(self._held), LARGEST, packet)
            if status == lib.MLT_NEED_MORE:
                return
            if status != lib.MLT_OK:
                self.broken = True
                yield from self.rest()
                return
            whole = bytes(self._held[HEAD - 1 : packet.used])
            del self._held[: packet.used]
            yield "packet", whole

    def rest(self) -> Iterator[tuple[str, bytes]]:
        """Yields what was begun, if anything was: there is nothing more to come."""
        if self._held:
            yield "broken", bytes(self._held)
            self._held.clear()


class Tap:
    """Both directions of one connection: bytes to records.

    Args:
        number: of the connection.
    """

    def __init__(self, number: int) -> None:
        """Has seen nothing."""
        self.number = number
        self._streams = {MTA: _Stream(), FILTER: _Stream()}
        self._over: set[str] = set()

    def open(self, time: float, text: str) -> list[Record]:
        """An MTA has connected; *text*: from where, and to where."""
        return [Record(self.number, time, "open", text=text)]

    def feed(self, sender: str, data: bytes, time: float) -> list[Record]:
        """Bytes have come, any number, cut anywhere."""
        pieces = self._streams[sender].feed(data)
        return [Record(self.number, time, kind, sender, piece) for kind, piece in pieces]

    def gap(self, sender: str, time: float, text: str, lost: bool = True) -> list[Record]:
        """Bytes are missing; *lost*: nobody can say where the next packet of theirs begins."""
        records = self._rest(sender, time)
        self._streams[sender].broken = lost
        return [*records, Record(self.number, time, "gap", sender, text=text)]

    def end(self, sender: str, time: float, kind: str = "end") -> list[Record]:
        """The sender has said all; *kind*: ``end`` or ``reset``. Counts once."""
        if sender in self._over:
            return []
        self._over.add(sender)
        return [*self._rest(sender, time), Record(self.number, time, kind, sender)]

    def failed(self, time: float, text: str) -> list[Record]:
        """The filter could not be reached."""
        records = self._rest(MTA, time)
        self._over |= {MTA, FILTER}
        return [*records, Record(self.number, time, "failed", text=text)]

    def cut(self, time: float, text: str) -> list[Record]:
        """Nothing more is seen of it; nothing, if it was over."""
        if len(self._over) == len(_SENDERS):
            return []
        records = [record for sender in _SENDERS for record in self._rest(sender, time)]
        self._over |= {MTA, FILTER}
        return [*records, Record(self.number, time, "cut", text=text)]

    def _rest(self, sender: str, time: float) -> list[Record]:
        pieces = self._streams[sender].rest()
        return [Record(self.number, time, kind, sender, piece) for kind, piece in pieces]


# -- without what people write -------------------------------------------------------------------


def blanked(data: bytes, kept: bytes = b"") -> bytes:
    """The same number of bytes, none of them its own but line ends and the blanks of folds."""
    return re.sub(rb"[^\r\n" + kept + rb"]", b"x", data)


def blanked_value(value: bytes) -> bytes:
    """A header's value, still folded where it was: a blank stays behind a line end."""
    return b"\n".join(
        line if not line else (line[:1] if number and line[:1] in b" \t" else b"x") + _x(line)
        for number, line in enumerate(value.split(b"\n"))
    )


def _x(line: bytes) -> bytes:
    return b"x" * (len(line) - 1)


def _row(sender: str, letter: int) -> Optional[tuple[str, bytes]]:
    """The name of a packet and its shape, None where there is no such letter."""
    row = (COMMANDS if sender == MTA else REPLIES).get(letter)
    return None if row is None else (row.name, row.shape)


_HEADERS: Final = {(MTA, "HEADER"), (FILTER, "ADDHEADER"), (FILTER, "INSHEADER")} | {
    (FILTER, "CHGHEADER")
}
_BODIES: Final = {(MTA, "BODY"), (MTA, "BODYEOB"), (FILTER, "REPLBODY")}


def without_content(record: Record) -> Record:
    """Returns a record without what people wrote to each other, of the same length.

    The values of headers, bodies, and bytes that nobody can read are written over, whoever sent
    them; line ends stay. So are unknown commands: they may be the lines of a message, of a client
    that has not waited to be told that nobody wants it. Addresses, names of headers, macros,
    replies and the reasons of quarantines stay as they are.
    """
    if record.kind == "broken":
        # The beginning of a packet is told; but any bytes may stand behind what was lost.
        head = record.data[:HEAD]
        if len(head) < HEAD or head[0] != 0 or _row(record.sender, head[-1]) is None:
            head = b""
        return record._replace(data=head + blanked(record.data[len(head) :]))
    if record.kind != "packet":
        return record
    letter, data = record.data[:1], record.data[1:]
    row = _row(record.sender, letter[0])
    fields = None if row is None else decode(row[1], data)
    if row is None or fields is None:
        return record._replace(data=letter + blanked(data))
    which = (record.sender, row[0])
    if which in _BODIES or which == (MTA, "UNKNOWN") or row[1] == b".":
        kept = b"\0" if row[0] == "UNKNOWN" else b""
        return record._replace(data=letter + blanked(data, kept))
    if which in _HEADERS:
        numbers, texts = fields
        name, value = texts[0] or b"", texts[1] or b""
        # What stands behind the strings means nothing (shape z); it goes.
        shape = row[1].replace(b"z", b"")
        packet = encode(letter[0], shape, numbers, (name, blanked_value(value)))
        return record._replace(data=packet[HEAD - 1 :])
    return record


# -- what a packet says --------------------------------------------------------------------------

_WIDTH: Final = 200  # characters of a text, before it is cut
_BODY: Final = 60


def step_name(letter: int) -> str:
    """Returns a command's name as the steps are called: ``eom`` for BODYEOB."""
    return "eom" if letter == lib.SMFIC_BODYEOB else COMMANDS[letter].name.lower()


_STAGE_NAMES: Final = {number: step_name(letter) for letter, number in STAGES.items()}


class Said(NamedTuple):
    """What a packet says."""

    name: str
    """Of the packet, as the wire spec has it: ``MAIL``, ``CONTINUE``."""
    title: str
    """The same for people: ``mail``, ``continue``, ``eom``; empty if the text says it all."""
    text: str
    """In words, without control characters."""
    fields: dict[str, Any]
    """The same for machines."""


@dataclass(frozen=True)
class Style:
    """How much of a packet is told.

    Attributes:
        content: what people wrote to each other, too.
        full: nothing is cut, however long.
    """

    content: bool = True
    full: bool = False

    def cut(self, text: str, most: int = _WIDTH) -> str:
        """Returns a text that can be shown, and of a long one the beginning."""
        if not self.full and len(text) > most:
            return f"{shown(text[:most])}... ({len(text)} characters)"
        return shown(text)

    def value(self, value: bytes) -> str:
        """Returns the value of a header."""
        return self.cut(from_wire(value)) if self.content else f"({len(value)} bytes)"

    def body(self, data: bytes) -> str:
        """Returns a piece of body."""
        size = f"{len(data)} byte{'' if len(data) == 1 else 's'}"
        if not self.content or not data:
            return size
        most = len(data) if self.full else _BODY
        more = "..." if len(data) > most else ""
        return f"{size}: {shown(from_wire(data[:most]))}{more}"


def _names(words: list[str]) -> str:
    return "|".join(words) or "none"


def macro_lists(rest: bytes) -> dict[int, tuple[str, ...]]:
    """Returns the macro lists that stand behind a filter's options, by stage (SMFIM_)."""
    lists: dict[int, tuple[str, ...]] = {}
    while rest:
        entry = decode(b"usb", rest)
        if entry is None:
            break
        names, rest = entry[1][0] or b"", entry[1][1] or b""
        lists[entry[0][0]] = tuple(from_wire(names).replace(",", " ").split())
    return lists


def options_words(options: Options) -> str:
    """Returns what was offered or chosen."""
    text = (
        f"version {options.version}, actions {_names(action_names(options.actions))}, "
        f"protocol {_names(protocol_names(options.protocol))}"
    )
    for what, bits in _unknown(options):
        text += f", {what} without a name 0x{bits:X}"
    for stage, macros in options.macro_lists.items():
        words = shown(" ".join(macros)) or "none"
        text += f", macros at {_STAGE_NAMES.get(stage, stage)}: {words}"
    return text


def _unknown(options: Options) -> Iterator[tuple[str, int]]:
    """The bits that have no name."""
    bits = options.actions & ~DEFAULT_ACTIONS, options.protocol & ~_KNOWN_PROTOCOL
    yield from ((what, each) for what, each in zip(("actions", "protocol"), bits) if each)


def _options(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "version": options.version,
        "actions": action_names(options.actions),
        "protocol": protocol_names(options.protocol),
    }
    for what, bits in _unknown(options):
        fields[f"unknown_{what}"] = bits
    if options.macro_lists:
        fields["macros"] = {
            _STAGE_NAMES.get(stage, str(stage)): list(names)
            for stage, names in options.macro_lists.items()
        }
    return fields


_KNOWN_PROTOCOL: Final = DEFAULT_PROTOCOL | lib.SMFIP_MDS_256K | lib.SMFIP_MDS_1M


def _strings(data: bytes) -> list[str]:
    """The strings of a packet, each of which a NUL ends."""
    return [from_wire(text) for text in data.split(b"\0")[:-1]]


def _client(numbers: list[int], texts: list[Optional[bytes]]) -> tuple[str, dict[str, Any]]:
    """CONNECT's fields."""
    name, family, where = texts[:3]
    fields: dict[str, Any] = {
        "hostname": from_wire(name or b""),
        "family": from_wire(family or b""),
    }
    if where is None or not numbers:
        return f"{fields['hostname']} [unknown]", fields
    port, address = numbers[0], from_wire(where)
    fields.update(address=address, port=port)
    return f"{fields['hostname']} [{address}]{f':{port}' if port else ''}", fields


def say(sender: str, packet: bytes, style: Style = Style()) -> Optional[Said]:
    """Returns what a packet says, None where it is none of the protocol's, or malformed.

    Args:
        sender: ``mta`` or ``filter``.
        packet: letter and data.
        style: how much is told.
    """
    letter, data = packet[0], packet[1:]
    row = _row(sender, letter)
    found = None if row is None else decode(row[1], data)
    if row is None or found is None:
        return None
    name = row[0]
    numbers, texts = found
    first = texts[0] or b"" if texts else b""
    title = name.lower()
    fields: dict[str, Any] = {}
    text = ""
    if name == "OPTNEG":
        version, actions, protocol = numbers
        lists = macro_lists(first if sender == FILTER else b"")
        options = Options(version, actions, protocol, lists)
        text, fields = options_words(options), _options(options)
    elif (sender, name) in _BODIES:
        title = "" if sender == FILTER else step_name(letter)
        text = style.body(data) if data or name != "BODYEOB" else ""
        if sender == FILTER:
            text = f"replace body: {text}"
        fields["size"] = len(data)
        if style.content:
            fields["data"] = from_wire(data)
    elif (sender, name) in _HEADERS:
        value = texts[1] or b""
        fields = {"name": from_wire(first), "size": len(value)}
        if numbers:
            fields["index"] = numbers[0]
        if style.content:
            fields["value"] = from_wire(value)
        if sender == MTA:
            text = f"{style.cut(from_wire(first))}: {style.value(value)}"
        else:
            # The words of a change, with a value that may be shown.
            change = str(modification(letter, numbers, (first, b"x" if value else b"")))
            title, text = "", (change[:-1] + style.value(value) if value else change)
    elif sender == MTA:
        if name == "MACRO":
            stage = first[0]
            title = "macro"
            words = _strings(texts[1] or b"")
            pairs = dict(zip(words[::2], words[1::2]))
            known = COMMANDS.get(stage)
            fields = {"stage": step_name(stage) if known else from_wire(first), "macros": pairs}
            said = [f"{key}={style.cut(value)}" for key, value in pairs.items()]
            text = f"for {fields['stage']}: {' '.join(said) or 'none'}"
            return Said(name, title, shown(text), fields)
        if name == "CONNECT":
            text, fields = _client(numbers, texts)
        elif name in ("MAIL", "RCPT"):
            words = _strings(data)
            text = " ".join(words)
            fields = {"address": words[0] if words else "", "params": words[1:]}
        elif name in ("HELO", "UNKNOWN"):
            text = from_wire(first)
            fields["name" if name == "HELO" else "command"] = text
        text = style.cut(text)
    elif REPLIES[letter].kind == lib.MLT_REPLY_MODIFICATION:
        title, text = "", style.cut(str(modification(letter, numbers, texts)))
        for key, word in zip(("reason",) if name == "QUARANTINE" else ("address", "params"), texts):
            if word is not None:
                fields[key] = from_wire(word)
    elif name == "REPLYCODE":
        title = "reply"
        text = style.cut(from_wire(first))
        fields["text"] = from_wire(first)
    return Said(name, title, text, fields)


# -- what is wrong with it -----------------------------------------------------------------------

METHODS: Final[dict[int, Callable[[Protocol], Outgoing]]] = {
    # What is checked does not go by the arguments.
    lib.SMFIC_CONNECT: lambda protocol: protocol.connect(),
    lib.SMFIC_HELO: lambda protocol: protocol.helo(),
    lib.SMFIC_MAIL: lambda protocol: protocol.mail("<>"),
    lib.SMFIC_RCPT: lambda protocol: protocol.rcpt("<>"),
    lib.SMFIC_DATA: lambda protocol: protocol.data(),
    lib.SMFIC_HEADER: lambda protocol: protocol.header("X", ""),
    lib.SMFIC_EOH: lambda protocol: protocol.eoh(),
    lib.SMFIC_BODY: lambda protocol: protocol.body(b"x"),
    lib.SMFIC_BODYEOB: lambda protocol: protocol.eom(),
    lib.SMFIC_ABORT: lambda protocol: protocol.abort(),
    lib.SMFIC_UNKNOWN: lambda protocol: protocol.unknown(""),
    lib.SMFIC_QUIT_NC: lambda protocol: protocol.quit_nc(),
    lib.SMFIC_QUIT: lambda protocol: protocol.quit(),
}


class Referee(Protocol):
    """A conversation that others have: what each of the two sides does wrong in it.

    Unlike its base it goes on after an error, and an MTA may ask again before it was answered.
    """

    def __init__(self) -> None:
        """Has seen nothing."""
        super().__init__(strict=True, receive_limit=LARGEST)
        self.asked: deque[Command] = deque(maxlen=1000)
        """The commands whose answers are due, the first one first."""
        self.begins = False
        """True: a message begins with the last packet, whose MAIL was not to be sent."""

    def sent(self, packet: bytes) -> Optional[str]:
        """Takes a packet of the MTA's; returns what is wrong with it, None for nothing."""
        self._error = None
        self._due = None
        self.begins = False
        problem = self._sent(packet)
        self._queue()
        return problem

    def _queue(self) -> None:
        """Puts what was asked now behind what was asked before."""
        if self._due is not None:
            self.asked.append(self._due)
        self._due = self.asked[0] if self.asked else None

    def _sent(self, packet: bytes) -> Optional[str]:
        letter, data = packet[0], packet[1:]
        command = COMMANDS.get(letter)
        if command is None:
            return "no such command"
        fields = decode(command.shape, data)
        problem = None if fields else f"a malformed {command.name}"
        most = 65535 if self.options is None else self.options.max_data
        if len(data) > most and letter != lib.SMFIC_HEADER:
            problem = f"{len(data)} bytes of data, more than the {most} that were agreed on"
        if fields is None:
            return problem
        if letter == lib.SMFIC_MACRO:
            if fields[1][0] == bytes([lib.SMFIC_MAIL]):
                self._begin()
            return problem
        try:
            if letter == lib.SMFIC_OPTNEG:
                self.negotiate(*fields[0])
                return problem
            if self.asked:
                problem = f"sent before the answer to {step_name(self.asked[0].letter)}"
            outgoing = self._play(command)
        except StateError as error:
            return str(error)
        if not outgoing.data:
            # It was agreed not to send it. It is answered all the same (wire spec 2.2).
            self._due = None if command.answer == lib.MLT_ANSWER_NONE else command
            if command.nr_bit & (self.options.protocol if self.options else 0):
                self._due = None
            return problem or "sent, although it was agreed not to"
        return problem

    def _begin(self) -> None:
        """A message begins, if that is not for the filter to hear."""
        no_mail = COMMANDS[lib.SMFIC_MAIL].no_bit
        if self.options is not None and self.options.protocol & no_mail and not self.over:
            self.mail("<>")
            self.begins = True

    def _play(self, command: Command) -> Outgoing:
        try:
            return METHODS[command.letter](self)
        except StateError:
            if command.rank > 0:
                self._begin()
            if not self.begins:
                raise
        return METHODS[command.letter](self)

    def said(self, packet: bytes) -> Optional[ProtocolError]:
        """Takes a packet of the filter's; returns the rule that it breaks, None for none."""
        self._error = None
        self._changed = 0  # no limit: nothing is kept of a change
        rank = self._rank
        wrong: Optional[ProtocolError] = None
        try:
            self.receive(len(packet).to_bytes(HEAD - 1, "big") + packet)
            self.next_event()
        except ProtocolError as error:
            wrong = error
            self._rank = rank
            reply = REPLIES.get(packet[0])
            answers = reply is not None and reply.kind in (
                lib.MLT_REPLY_VERDICT,
                lib.MLT_REPLY_OPTIONS,
            )
            if answers:
                self._due = None
            if reply is not None and reply.kind == lib.MLT_REPLY_OPTIONS and self.options is None:
                found = decode(reply.shape, packet[1:])
                if found is not None:
                    version, actions, protocol = found[0]
                    self.options = Options(version, actions, protocol)
        except MilterError:  # it cannot close here
            raise AssertionError from None
        self._error = None
        self._input.clear()
        if self._due is None and self.asked:
            self.asked.popleft()
        self._due = self.asked[0] if self.asked else None
        return wrong


# -- a connection as it is shown -----------------------------------------------------------------


class Shown(NamedTuple):
    """A record, and what there is to say of it."""

    record: Record
    packet: int
    """Number of the packet in the connection, counting from 1 what either side sent; 0 for none."""
    elapsed: float
    """Seconds since the connection was opened."""
    since: float
    """Seconds since the record before it."""
    said: Optional[Said]
    """What the packet says; None if the record is no packet, or not one of the protocol's."""
    problem: Optional[str]
    """What is wrong with it."""
    answers: Optional[str]
    """The step that this packet answers to the end."""
    took: float
    """Seconds from that step to its answer."""
    unanswered: Optional[str] = None
    """The step whose answer was due when this happened, and will hardly come any more."""
    waited: float = 0.0
    """Seconds since that step."""


@dataclass
class Slowest:
    """An answer that took long."""

    step: str
    took: float
    connection: int
    packet: int


@dataclass
class Figures:
    """What was counted."""

    connections: int = 0
    packets: int = 0
    messages: int = 0
    problems: int = 0
    unanswered: int = 0
    """Connections that ended when an answer was due."""
    steps: dict[str, list[float]] = field(default_factory=dict)
    """By step: how many answers, how many seconds they took, the longest."""
    longest: dict[str, Slowest] = field(default_factory=dict)

    def answered(self, step: str, took: float, connection: int, packet: int) -> None:
        """A step was answered after so many seconds."""
        sums = self.steps.setdefault(step, [0, 0.0])
        sums[0] += 1
        sums[1] += took
        if step not in self.longest or took > self.longest[step].took:
            self.longest[step] = Slowest(step, took, connection, packet)

    @property
    def slowest(self) -> Optional[Slowest]:
        """The answer that took longest, but for the negotiation's."""
        found = [each for each in self.longest.values() if each.step != "optneg"]
        return max(found, key=lambda each: each.took, default=None)

    def add(self, other: Figures) -> None:
        """Counts another's, too."""
        self.connections += other.connections
        self.packets += other.packets
        self.messages += other.messages
        self.problems += other.problems
        self.unanswered += other.unanswered
        for step, (answers, seconds) in other.steps.items():
            sums = self.steps.setdefault(step, [0, 0.0])
            sums[0] += answers
            sums[1] += seconds
        for step, slow in other.longest.items():
            if step not in self.longest or slow.took > self.longest[step].took:
                self.longest[step] = slow


class Watch:
    """One connection, record by record.

    Args:
        style: how much of each packet is told.
    """

    def __init__(self, style: Style = Style()) -> None:
        """Has seen nothing."""
        self.figures = Figures(connections=1)
        self.over = False
        """True: neither side says anything more."""
        self._style = style
        self._referee: Optional[Referee] = Referee()
        self._start: Optional[float] = None
        self._last = 0.0
        self._asked: deque[tuple[str, float]] = deque(maxlen=1000)
        self._ended: set[str] = set()

    def see(self, record: Record) -> Shown:
        """Takes the next record."""
        if self._start is None:
            self._start = self._last = record.time
        since, self._last = record.time - self._last, record.time
        said = problem = answers = None
        took = 0.0
        number = 0
        if record.kind == "packet":
            self.figures.packets += 1
            number = self.figures.packets
            said = say(record.sender, record.data, self._style)
            if record.sender == MTA:
                problem = self._sent(record, said)
            else:
                problem, answers, took = self._said(record, said, number)
        elif record.kind == "broken":
            problem = "no packet: " + hex_of(record.data)
        elif record.kind == "gap":
            # Who knows what was said there.
            self._referee = None
            self._asked.clear()
        elif record.kind in ("failed", "cut"):
            self.over = True
        elif record.kind in ("end", "reset"):
            self._ended.add(record.sender)
            self.over = self.over or len(self._ended) == len(_SENDERS)
        if problem is not None:
            self.figures.problems += 1
        elapsed = record.time - self._start
        shown = Shown(record, number, elapsed, since, said, problem, answers, took)
        if record.kind in ("end", "reset", "cut"):
            return self._not_answered(shown)
        return shown

    def _not_answered(self, shown: Shown) -> Shown:
        """Says so where one side goes before it was answered, or without an answer. Once."""
        if self.figures.unanswered or self._referee is None or not self._asked:
            return shown
        self.figures.unanswered = 1
        step, when = self._asked[0]
        return shown._replace(unanswered=step, waited=shown.record.time - when)

    def _sent(self, record: Record, said: Optional[Said]) -> Optional[str]:
        letter = record.data[0]
        if self.figures.packets == 1 and letter != lib.SMFIC_OPTNEG:
            self._referee = None
        problem = None
        if self._referee is None:
            if said is None:
                problem = "no such command, or a malformed one"
            elif COMMANDS[letter].answer != lib.MLT_ANSWER_NONE:
                self._asked.clear()
                self._asked.append((step_name(letter), record.time))
        else:
            due = len(self._referee.asked)
            problem = self._referee.sent(record.data)
            if len(self._referee.asked) > due:
                self._asked.append((step_name(letter), record.time))
        begins = self._referee is not None and self._referee.begins
        if letter == lib.SMFIC_MAIL or begins:
            self.figures.messages += 1
        return None if problem is None else f"{problem}{self._hex(record)}"

    def _said(
        self, record: Record, said: Optional[Said], number: int
    ) -> tuple[Optional[str], Optional[str], float]:
        reply = REPLIES.get(record.data[0])
        problem = None
        if self._referee is None:
            if said is None:
                problem = f"{RULES['letter' if reply is None else 'layout']}"
        else:
            wrong = self._referee.said(record.data)
            if wrong is not None:
                problem = f"{wrong.args[0]} ({wrong.rule})"
        if problem is not None:
            problem += self._hex(record)
        if reply is None or not self._asked:
            return problem, None, 0.0
        if reply.kind not in (lib.MLT_REPLY_VERDICT, lib.MLT_REPLY_OPTIONS):
            return problem, None, 0.0
        step, when = self._asked.popleft()
        took = record.time - when
        self.figures.answered(step, took, record.connection, number)
        return problem, step, took

    def _hex(self, record: Record) -> str:
        """The bytes as they were on the wire."""
        size = len(record.data).to_bytes(HEAD - 1, "big")
        return f"; packet: {hex_of(size + record.data)}"
