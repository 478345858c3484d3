"""Plays the MTA's side of recorded conversations to a filter again, and compares its answers.

Owns what is played of a recording, and what counts as another answer. The public names are in
Milter.mta.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Final, Optional, Union

from Milter._conversation import Outgoing
from Milter._dialogue import Answer
from Milter._engine import lib
from Milter._message import (
    AddHeader,
    ChangeHeader,
    InsertHeader,
    Modification,
    ReplaceBody,
    from_wire,
    shown,
    to_wire,
)
from Milter._mtacodec import (
    COMMANDS,
    HEAD,
    KINDS,
    REPLIES,
    Command,
    ConnectionLost,
    FilterTimeout,
    Kind,
    MilterError,
    Options,
    ProtocolError,
    StateError,
    Verdict,
    decode,
    modification,
    parse_reply,
)
from Milter._mtasession import Session, connect
from Milter._pcap import Capture, is_capture
from Milter._profiles import Timeouts
from Milter._recording import Reader, RecordingError
from Milter._trace import (
    FILTER,
    METHODS,
    MTA,
    Record,
    Referee,
    blanked,
    blanked_value,
    macro_lists,
    options_words,
    say,
    step_name,
)

_LINES: Final = 500  # of a new body, up to which they are compared one by one

Source = Union[Reader, Capture]
"""What yields records."""


def open_source(file: BufferedReader, name: str, port: Optional[int] = None) -> Source:
    """Reads the beginning of a recording or a capture, told apart by content.

    Args:
        file: at its beginning.
        name: of the file, for errors.
        port: the filter's, in a capture; see :class:`Capture`.

    Raises:
        RecordingError: it is neither.
    """
    start = file.peek(4)[:4]
    if is_capture(start):
        return Capture(file, name, port)
    if not start.startswith(b"{"):
        raise RecordingError(f"{shown(name)}, line 1: neither a recording nor a capture")
    return Reader(file, name)


# -- what was recorded ---------------------------------------------------------------------------


@dataclass
class _Exchange:
    """A packet of the MTA's and what the filter said to it."""

    number: int
    """The packet's number in the connection."""
    packet: bytes
    begins: bool = False
    """With it began a message whose MAIL was not to be sent."""
    due: bool = False
    """An answer was to come."""
    answered: bool = False
    answers: list[bytes] = field(default_factory=list)
    ending: str = ""
    """What came instead of the answer: ``closed`` by the filter, ``left`` by the MTA, or neither,
    where the recording ends."""
    wrong: Optional[bytes] = None
    """The first packet of the answer that broke a rule."""


class RecordedConnection:
    """A connection of a recording.

    Attributes:
        number: of the connection, from 1.
        records: all that happened on it, in order.
        packets: how many packets either side has sent.
    """

    def __init__(self, number: int, records: Sequence[Record], content: bool = True) -> None:
        """Made by :meth:`Recording.read`."""
        self.number = number
        self.records = tuple(records)
        self.packets = sum(record.kind == "packet" for record in records)
        self._content = content

    def play(
        self,
        spec: Union[str, os.PathLike[str]],
        *,
        timeouts: Timeouts = Timeouts(),
        strict: bool = True,
        ignore: Iterable[str] = (),
    ) -> list[Difference]:
        """Plays this connection alone; see :meth:`Recording.play`."""
        return _Play(self, self._content, strict, ignore).run(spec, timeouts)


@dataclass
class Recording:
    """What MTAs and filters said to each other, from a file that ``milterctl trace`` has written.

    Attributes:
        connections: in the order in which they were opened.
        began: when, in UTC, as ISO 8601 has it.
        content: False: what people wrote to each other was left out when it was recorded.
        warnings: what was read around, a line each.
    """

    connections: list[RecordedConnection]
    began: str
    content: bool = True
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Union[str, os.PathLike[str]], *, port: Optional[int] = None) -> Recording:
        """Reads a recording, or a capture of network traffic (pcap or pcapng).

        Args:
            path: of the file.
            port: the filter's TCP port, for captures; by default connections that begin as milter
                conversations do are taken for one.

        Raises:
            RecordingError: it is neither, or broken; the text says where.
            OSError: it cannot be read.
        """
        name = os.fspath(path)
        with open(name, "rb") as file:
            source = open_source(file, name, port)
            found: dict[int, list[Record]] = {}
            for record in source:
                found.setdefault(record.connection, []).append(record)
        content = source.head.content
        connections = [
            RecordedConnection(number, records, content) for number, records in found.items()
        ]
        return cls(connections, source.head.began, content, source.warnings)

    def play(
        self,
        spec: Union[str, os.PathLike[str]],
        *,
        timeouts: Timeouts = Timeouts(),
        strict: bool = True,
        ignore: Iterable[str] = (),
    ) -> list[Difference]:
        """Plays the MTA's side of all connections to a filter, one after the other.

        The packets are those that were recorded, without the pauses. As an MTA would, it leaves out
        steps that this filter has negotiated away, and the rest of a message that it has decided
        about. Packets that no MTA may send are left out, too.

        Args:
            spec: where the filter listens; see :func:`Milter.mta.connect`.
            timeouts: how long to wait for what.
            strict: also what an MTA may put up with is an error; see :class:`Protocol`.
            ignore: names of headers whose values may differ, such as ``DKIM-Signature``.

        Returns:
            Where the filter's answers are not those that were recorded; [] if all are.

        Raises:
            ConnectError: nobody answers there.
            RecordingError: a part of a connection was not captured, so that it cannot be played.
        """
        names = tuple(ignore)
        return [
            difference
            for connection in self.connections
            for difference in connection.play(spec, timeouts=timeouts, strict=strict, ignore=names)
        ]


@dataclass(frozen=True)
class Difference:
    """Where a filter's answer is not the one that was recorded.

    Attributes:
        connection: number of the connection.
        packet: number of the packet that was answered, counting from 1 what either side sent.
        step: what that was: ``mail``, ``eom`` and so on; ``optneg`` for the negotiation.
        expected: the recorded answer, in words, a line for each change and one for the verdict.
        got: the answer now.
        error: what went wrong, if the filter did not answer as the protocol has it.
    """

    connection: int
    packet: int
    step: str
    expected: tuple[str, ...]
    got: tuple[str, ...]
    error: Optional[MilterError] = None

    def diff(self) -> list[str]:
        """Returns the lines of both answers, those that differ with ``-`` or ``+`` before them."""
        lines = list(difflib.unified_diff(self.expected, self.got, lineterm="", n=2))[2:]
        return [line for line in lines if not line.startswith("@@")]

    def __str__(self) -> str:
        lines = [
            f"connection {self.connection}, packet {self.packet}, {self.step}: "
            "not answered as recorded (-), but (+)"
        ]
        return "\n".join([*lines, *self.diff()])


def _exchanges(records: Sequence[Record]) -> Iterator[_Exchange]:
    """What was said, question by question."""
    referee = Referee()
    found: list[_Exchange] = []
    due: deque[_Exchange] = deque()
    number = 0
    for record in records:
        if record.kind in ("end", "reset"):
            for exchange in due:
                exchange.ending = exchange.ending or (
                    "closed" if record.sender == FILTER else "left"
                )
        if record.kind != "packet":
            continue
        number += 1
        waiting = len(referee.asked)
        if record.sender == MTA:
            exchange = _Exchange(number, record.data)
            found.append(exchange)
            referee.sent(record.data)
            exchange.begins = referee.begins
            if len(referee.asked) > waiting:
                exchange.due = True
                due.append(exchange)
            continue
        wrong = referee.said(record.data)
        if not found:
            continue
        exchange = due[0] if due else found[-1]
        if wrong is not None and exchange.wrong is None:
            exchange.wrong = record.data
        if due:  # else nobody has asked
            exchange.answers.append(record.data)
        if len(referee.asked) < waiting:
            due.popleft().answered = True
    yield from found


# -- playing it ----------------------------------------------------------------------------------

_NO_ANSWER: Final = Verdict(Kind.NO_REPLY)


class _Play:
    """One connection to a filter."""

    def __init__(
        self, connection: RecordedConnection, content: bool, strict: bool, ignore: Iterable[str]
    ) -> None:
        self.connection = connection
        self.content = content
        self.strict = strict
        self.ignore = frozenset(name.lower() for name in ignore)
        self.differences: list[Difference] = []
        self.exchange = _Exchange(0, b"")
        self.step = ""

    def run(self, spec: Union[str, os.PathLike[str]], timeouts: Timeouts) -> list[Difference]:
        """Plays it."""
        exchanges = list(_exchanges(self.connection.records))
        if not exchanges:
            return []  # connected, and left again
        first = exchanges[0]
        if first.packet[0] != lib.SMFIC_OPTNEG or any(
            record.kind == "gap" for record in self.connection.records
        ):
            raise RecordingError(
                f"connection {self.connection.number}: a part of it was not captured, "
                "so it cannot be played"
            )
        session = connect(spec, timeouts=timeouts, strict=self.strict)
        try:
            self._all(session, exchanges)
        except MilterError as error:
            self._failed(error)
        finally:
            session.close()
        return self.differences

    def _all(self, session: Session, exchanges: list[_Exchange]) -> None:
        macros = b""
        for exchange in exchanges:
            letter = exchange.packet[0]
            command = COMMANDS.get(letter)
            if command is None or decode(command.shape, exchange.packet[1:]) is None:
                continue
            self.exchange, self.step = exchange, step_name(letter)
            if exchange.begins and _told_of_no_mail(session):
                session.protocol.mail("<>")
            frame = len(exchange.packet).to_bytes(HEAD - 1, "big") + exchange.packet
            if letter == lib.SMFIC_MACRO:
                macros += frame
            elif letter == lib.SMFIC_OPTNEG:
                if session.options is None:
                    self._negotiate(session, exchange)
            elif letter == lib.SMFIC_QUIT:
                session.protocol.quit()
                session.hang_up((macros + frame,))
                return
            else:
                if self._one(session, command, macros + frame, exchange):
                    return
                macros = b""

    def _negotiate(self, session: Session, exchange: _Exchange) -> None:
        """Makes the offer that was recorded."""
        numbers = decode(COMMANDS[lib.SMFIC_OPTNEG].shape, exchange.packet[1:])
        assert numbers is not None
        version, actions, protocol = numbers[0]
        options = session.negotiate(version, actions, protocol)
        before = _recorded_options(exchange)
        if before is None:
            if exchange.ending:
                self._differ(("the filter closed the connection",), (options_words(options),))
            return
        if _key(before) == _key(options):
            return
        unplayed = [
            step_name(letter)
            for letter, command in COMMANDS.items()
            if command.no_bit & before.protocol & ~options.protocol
        ]
        words = [options_words(options)]
        if unplayed:
            words.append(f"(not recorded, so not played: {', '.join(unplayed)})")
        self._differ((options_words(before),), tuple(words))

    def _one(self, session: Session, command: Command, data: bytes, exchange: _Exchange) -> bool:
        """Plays one step; returns whether the MTA would have ended here."""
        try:
            outgoing: Outgoing = METHODS[command.letter](session.protocol)
        except StateError:
            # An MTA would not send this, now that the filter has decided.
            return False
        sent = outgoing.verdict is None or outgoing.verdict.kind is not Kind.NOT_SENT
        answer = Answer(outgoing.verdict or _NO_ANSWER)
        if sent:
            answer = session.exchange((data,), outgoing)
        expected = self._recorded(exchange)
        if expected is None:
            if exchange.ending:
                self._differ(_unanswered(exchange), self._words(answer))
            return exchange.ending != ""
        if self._same(expected, answer):
            return False
        self._differ(self._words(expected), self._words(answer))
        return command.letter == lib.SMFIC_CONNECT and (
            answer.verdict.final or expected.verdict.final
        )

    def _recorded(self, exchange: _Exchange) -> Optional[Answer]:
        """The answer that was recorded, None if none was."""
        if not exchange.due:
            return Answer(_NO_ANSWER)
        if not exchange.answered:
            return None
        changes: list[Modification] = []
        verdict = _NO_ANSWER
        for packet in exchange.answers:
            reply = REPLIES.get(packet[0])
            fields = None if reply is None else decode(reply.shape, packet[1:])
            if reply is None or fields is None:
                continue
            if reply.kind == lib.MLT_REPLY_MODIFICATION:
                changes.append(modification(reply.letter, *fields))
            elif reply.letter == lib.SMFIR_REPLYCODE:
                text = fields[1][0] or b""
                try:
                    verdict = parse_reply(text, False)
                except ProtocolError:
                    verdict = Verdict(Kind.REJECT, raw=text)
            elif reply.kind == lib.MLT_REPLY_VERDICT:
                verdict = Verdict(KINDS[reply.letter])
        return Answer(verdict, tuple(changes))

    # -- comparing -------------------------------------------------------------------------------

    def _same(self, expected: Answer, got: Answer) -> bool:
        return self._changes(expected) == self._changes(got) and _verdict(expected) == _verdict(got)

    def _changes(self, answer: Answer) -> list[Modification]:
        """The changes as they are compared."""
        changes: list[Modification] = []
        for change in answer.modifications:
            if isinstance(change, (AddHeader, InsertHeader, ChangeHeader)):
                if change.name.lower() in self.ignore:
                    change = dataclasses.replace(change, value="...")
                elif not self.content:
                    value = from_wire(blanked_value(to_wire(change.value)))
                    change = dataclasses.replace(change, value=value)
            elif isinstance(change, ReplaceBody):
                data = change.data if self.content else blanked(change.data)
                if changes and isinstance(changes[-1], ReplaceBody):
                    # How a new body is cut into packets means nothing.
                    data = changes[-1].data + data
                    del changes[-1]
                change = ReplaceBody(data)
            changes.append(change)
        return changes

    def _words(self, answer: Answer) -> tuple[str, ...]:
        words: list[str] = []
        for change in self._changes(answer):
            words.append(str(change))
            if isinstance(change, ReplaceBody):
                lines = from_wire(change.data).split("\r\n")
                if len(lines) <= _LINES:
                    words += [f"  | {shown(line)}" for line in lines]
                else:
                    words.append(f"  | sha256 {hashlib.sha256(change.data).hexdigest()}")
        return (*words, *(shown(line) for line in str(answer.verdict).split("\r\n")))

    def _differ(
        self,
        expected: tuple[str, ...],
        got: tuple[str, ...],
        error: Optional[MilterError] = None,
    ) -> None:
        self.differences.append(
            Difference(
                self.connection.number, self.exchange.number, self.step, expected, got, error
            )
        )

    def _failed(self, error: MilterError) -> None:
        """The filter did not answer as the protocol has it; perhaps it did not then, either."""
        exchange = self.exchange
        if isinstance(error, ProtocolError) and exchange.wrong is not None:
            if error.data[HEAD - 1 :] == exchange.wrong:
                return
        elif exchange.due and not exchange.answered:
            same = ConnectionLost if exchange.ending == "closed" else FilterTimeout
            if isinstance(error, same):
                return
        expected = self._recorded(exchange)
        if exchange.wrong is not None:
            said = say(FILTER, exchange.wrong)
            words: tuple[str, ...] = (f"broke a rule, with {said.name if said else 'nonsense'}",)
        elif self.step == "optneg":
            options = _recorded_options(exchange)
            words = _unanswered(exchange) if options is None else (options_words(options),)
        elif self.step == "quit":
            words = ("the filter closed the connection",)
        else:
            words = _unanswered(exchange) if expected is None else self._words(expected)
        self._differ(words, (shown(str(error)),), error)


def _recorded_options(exchange: _Exchange) -> Optional[Options]:
    """What was negotiated when it was recorded, None if nothing was."""
    reply = REPLIES[lib.SMFIR_OPTNEG]
    for packet in exchange.answers:
        fields = decode(reply.shape, packet[1:]) if packet[0] == reply.letter else None
        if fields is not None:
            version, actions, protocol = fields[0]
            lists = macro_lists(fields[1][0] or b"")
            return Options(version, actions, protocol, lists)
    return None


def _told_of_no_mail(session: Session) -> bool:
    """Whether it was agreed that MAIL is not sent."""
    no_mail = COMMANDS[lib.SMFIC_MAIL].no_bit
    return session.options is not None and bool(session.options.protocol & no_mail)


def _key(options: Options) -> tuple[object, ...]:
    """What is compared of a negotiation."""
    lists = {stage: frozenset(names) for stage, names in options.macro_lists.items()}
    return options.version, options.actions, options.protocol, lists


# Where no answer was due, or the step was not even sent, mail goes on.
_GO_ON: Final = frozenset({Kind.CONTINUE, Kind.NO_REPLY, Kind.NOT_SENT})


def _verdict(answer: Answer) -> tuple[Kind, bytes]:
    """What is compared of a verdict."""
    kind = answer.verdict.kind
    return (Kind.CONTINUE if kind in _GO_ON else kind), answer.verdict.raw


def _unanswered(exchange: _Exchange) -> tuple[str, ...]:
    if exchange.ending == "closed":
        return ("the filter closed the connection",)
    return ("no answer, until the mail server gave up",)
