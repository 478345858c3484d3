"""The MTA's side of one milter conversation: commands in, bytes out; bytes in, events out.

Owns what an MTA may send when, which steps and which answers the negotiation has switched off, and
what a filter may answer when. Knows no socket and no clock: Milter.mta does the I/O.

Source: wire spec 2 (negotiation), 3.4 (order), 3.5 (macros), 5 and 8.9 (what an MTA accepts).
"""

from __future__ import annotations

import copy
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, NoReturn, Optional, Union

from Milter._engine import ffi, lib
from Milter._message import Modification, Text, from_wire, strip_blank, to_wire
from Milter._mtacodec import (
    COMMANDS,
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    HEAD,
    KINDS,
    NO_REPLY,
    NOT_SENT,
    REPLIES,
    STAGES,
    Command,
    ConnectionLost,
    Kind,
    MilterError,
    Options,
    Progress,
    ProtocolError,
    Reply,
    StateError,
    Verdict,
    action_names,
    decode,
    encode,
    modification,
    parse_reply,
    spoken,
)
from Milter._mtarules import RULES

Macros = Mapping[str, Text]
"""Macro names, spelled as the MTA spells them (``j``, ``{mail_addr}``), and their values."""

Event = Union[Options, Verdict, Progress, Modification]
"""What a filter can say."""

_RANK_RCPT: Final[int] = COMMANDS[lib.SMFIC_RCPT].rank

# Steps whose macros MTAs send although the step itself was negotiated away (wire spec 2.7; Postfix
# does so at UNKNOWN, too).
_MACROS_ALWAYS: Final = frozenset(
    {
        lib.SMFIC_CONNECT,
        lib.SMFIC_HELO,
        lib.SMFIC_MAIL,
        lib.SMFIC_RCPT,
        lib.SMFIC_DATA,
        lib.SMFIC_UNKNOWN,
    }
)


# What an offer of no actions, or no protocol bits, stands for (wire spec 2.1, step 4).
_FIRST_ACTIONS: Final = 0x0F
_FIRST_PROTOCOL: Final = 0x3F

_MACROS: Final = 50  # names in a list
_SIZES: Final[int] = lib.SMFIP_MDS_256K | lib.SMFIP_MDS_1M
_DEFAULT_MAX: Final = 65535  # bytes of data in a packet, before anything else is agreed on
_LARGEST_INDEX: Final = 0x7FFFFFFF  # a filter's numbers are signed
_CHANGE_COST: Final = 4096  # bytes that a change counts for besides its data
_CHANGES_ALWAYS: Final = 1024 * 1024  # bytes that they may come to, whatever the limit
_TOO_MUCH: Final = "a limit of ours, receive_limit: what one message's changes may come to"
_HEADER_CHANGES: Final = frozenset({lib.SMFIR_ADDHEADER, lib.SMFIR_INSHEADER, lib.SMFIR_CHGHEADER})
# What Sendmail takes for a reply text at all.
_SENDMAIL_REPLY: Final = re.compile(rb"[45][0-9][0-9][^\0]*\0")
_ABOUT_CLIENT: Final = frozenset({lib.SMFIC_CONNECT, lib.SMFIC_HELO})


class Outgoing(NamedTuple):
    """What a step puts on the wire."""

    step: str
    """Its name: ``connect``, ``mail``, ``eom`` and so on."""
    data: bytes
    """To be written, perhaps nothing."""
    verdict: Optional[Verdict]
    """None: the filter's answer is to be awaited. Else no answer comes, and this stands for it."""


class Protocol:
    """One conversation with a filter, from the offer to QUIT, without I/O.

    A method for each step returns what is to be written and whether an answer is due. Then
    :meth:`receive` is fed what the filter wrote, and :meth:`next_event` asked until it has
    returned the :class:`Verdict` (to the offer, the :class:`Options`).

    A step that may not come now, because the filter would not answer it, raises
    :class:`StateError` and changes nothing. Anything that the filter does wrong raises another
    :class:`MilterError`, and ends the conversation.

    Args:
        strict: also what one MTA or the other puts up with is an error: protocol bits, or macro
            lists, that were not offered; packets larger than was agreed on; DISCARD to CONNECT or
            HELO; SKIP to anything but a negotiated body; modifications whose action was not
            negotiated, or with an empty name, a negative number, or CR or a line that is no fold
            in a header; a new body in pieces that are not together; reply texts whose two codes
            disagree, with a lone ``%``, or longer than libmilter makes them.
        progress_anywhere: the filter may say that it is still at work at any time, as with
            Postfix; false: only at the end of a message, as with Sendmail.
        receive_limit: bytes of letter and data of one packet from the filter; and, if it is more
            than 1 MiB, of the changes of one message, each of which counts 4096 besides its data.
        rules: whose conversation it is, ``postfix`` or ``sendmail``: where it is not strict, it
            puts up with what this mail server does, and with nothing else; and the macros are
            chosen by whoever plays the mail server. None: what any of them puts up with, short of
            packets that are malformed.
    """

    def __init__(
        self,
        *,
        strict: bool = True,
        progress_anywhere: bool = True,
        receive_limit: int = 64 * 1024 * 1024,
        rules: Optional[str] = None,
    ) -> None:
        self.options: Optional[Options] = None
        """What was negotiated; None before."""
        self.strict = strict
        self._progress_anywhere = progress_anywhere
        self._limit = receive_limit
        self._rules = rules
        self._input = bytearray()
        self._eof = False
        self._error: Optional[MilterError] = None
        self._over = False
        self._due: Optional[Command] = None
        self._offer: Optional[tuple[int, int, int]] = None
        self._begun = False
        self._rank: Optional[int] = None
        self._skipped: Optional[int] = None
        self._last_change: Optional[int] = None
        self._body_replaced = False
        self._changed = 0  # bytes that the changes of this message come to
        self._packets = 0  # that either side has sent
        self._taken = b""  # the last one that came, whole
        # The packet whose beginning is in the input was begun before it was asked for.
        self._ahead = False

    # -- state -----------------------------------------------------------------------------------

    @property
    def waiting_for(self) -> Optional[str]:
        """Name of the step whose answer is due; None: the next step may come."""
        return None if self._due is None else _step_name(self._due)

    @property
    def in_message(self) -> bool:
        """True: the filter is inside a message: after MAIL, and neither decided, ended nor aborted.

        Only then do RCPT and what follows get an answer.
        """
        return self._rank is not None

    @property
    def begun(self) -> bool:
        """True: CONNECT, HELO or MAIL was played, so that CONNECT may not come any more."""
        return self._begun

    @property
    def over(self) -> bool:
        """True: QUIT was sent, or the conversation broke."""
        return self._over or self._error is not None

    @property
    def broken(self) -> Optional[MilterError]:
        """What the conversation broke of; None: it did not."""
        return self._error

    @property
    def packets(self) -> int:
        """How many packets either side has sent, as far as this knows."""
        return self._packets

    @property
    def closed(self) -> bool:
        """True: the filter has closed the connection."""
        return self._eof

    # -- from the filter -------------------------------------------------------------------------

    def receive(self, data: bytes, *, early: bool = False) -> None:
        """Takes bytes that the filter wrote; an empty `bytes` says that it closed.

        Args:
            data: any number of bytes, cut anywhere.
            early: they came before what the last step returned was written, so they cannot be an
                answer to it.

        Raises:
            ProtocolError: ``early``, and nothing was due from the filter.
            ConnectionLost: ``early``, and the filter closed.
        """
        if data:
            self._input += data
        else:
            self._eof = True
        if early:
            self._check_silence()

    def copy(self) -> Protocol:
        """Returns a conversation in the same state, into which nothing was read yet.

        It says what would be written later, if the filter answered this and that.
        """
        other = copy.copy(self)
        other._input = bytearray()
        return other

    def fail(self, error: MilterError) -> None:
        """Ends the conversation: whoever does the I/O cannot go on.

        Args:
            error: why; the first one counts.
        """
        if self._error is None:
            self._error = error
            error.packet = self._packets
            error.data = self._taken if isinstance(error, ProtocolError) else bytes(self._input)
        self._rank = None

    def next_event(self) -> Optional[Event]:
        """Returns what the filter said next; None: more bytes are needed, or nothing is due.

        Raises:
            ProtocolError: it broke the protocol.
            ConnectionLost: it closed instead of answering.
        """
        if self._error is not None:
            raise self._error
        if self._due is None:
            self._check_silence()
            return None
        packet = self._packet()
        if packet is None:
            if self._eof:
                self._fail(
                    ConnectionLost(
                        f"the filter closed the connection instead of answering "
                        f"{spoken(self.waiting_for)}{' with a whole packet' if self._input else ''}"
                    )
                )
            return None
        letter, data = packet
        reply = self._known(letter)
        ahead, self._ahead = self._ahead, False
        if ahead and reply.kind != lib.MLT_REPLY_PROGRESS:
            self._break(
                f"{reply.name} before {spoken(self.waiting_for)} was asked", RULES["silence"]
            )
        if self._due.answer == lib.MLT_ANSWER_OPTIONS:
            return self._options(reply, data)
        if reply.kind == lib.MLT_REPLY_PROGRESS:
            if not self._progress_anywhere and self._due.answer != lib.MLT_ANSWER_MODS:
                self._break(f"PROGRESS in answer to {spoken(self.waiting_for)}", RULES["progress"])
            self._fields(reply, data)
            return Progress()
        if reply.kind == lib.MLT_REPLY_MODIFICATION:
            return self._modification(reply, data)
        if reply.kind == lib.MLT_REPLY_VERDICT:
            return self._verdict(reply, data)
        return self._break(
            f"{reply.name} in answer to {spoken(self.waiting_for)}",
            RULES["never" if reply.kind == lib.MLT_REPLY_NEVER else "misplaced"],
        )

    def _packet(self) -> Optional[tuple[int, bytes]]:
        """Takes a whole packet off the input, None if there is none yet."""
        if not self._input:
            return None
        packet = ffi.new("mlt_packet *")
        with ffi.from_buffer(self._input) as view:
            status = lib.mlt_frame_next(view, len(self._input), self._limit, packet)
            if status == lib.MLT_OK:
                data: bytes = ffi.buffer(packet.payload.data, packet.payload.len)[:]
        if status == lib.MLT_NEED_MORE:
            return None
        self._packets += 1
        if status != lib.MLT_OK:
            head = self._taken = bytes(self._input[:HEAD])
            self._break(
                f"a packet of length {int.from_bytes(head[:4], 'big')}: {head!r}; "
                "is this a filter at all?",
                RULES["frame"],
            )
        self._taken = bytes(self._input[: packet.used])
        del self._input[: packet.used]
        most = _DEFAULT_MAX if self.options is None else self.options.max_data
        if self.strict and len(data) > most:
            self._break(f"{len(data)} bytes of data in one packet, more than {most}", RULES["size"])
        return packet.letter, data

    def _known(self, letter: int) -> Reply:
        reply = REPLIES.get(letter)
        if reply is None:
            self._break(f"a packet of unknown type {chr(letter)!r}", RULES["letter"])
        return reply

    def _fields(self, reply: Reply, data: bytes) -> tuple[list[int], list[Optional[bytes]]]:
        fields = decode(reply.shape, data)
        if fields is None and not reply.shape and self._as("sendmail"):
            # It does not look at what stands behind the letter (wire spec 1.4).
            fields = [], []
        if fields is None:
            more = "..." if len(data) > 60 else ""
            self._break(
                f"a malformed {reply.name} with {len(data)} bytes of data: {data[:60]!r}{more}",
                RULES["layout"],
            )
        return fields

    def _as(self, server: str) -> bool:
        """True: what this mail server puts up with passes."""
        return self._rules == server and not self.strict

    def _check_silence(self) -> None:
        """Nothing is due from the filter: whatever it has said is wrong, but for progress."""
        while True:
            packet = self._packet()
            if packet is None:
                break
            reply = self._known(packet[0])
            if reply.kind != lib.MLT_REPLY_PROGRESS or not self._progress_anywhere:
                self._break(f"{reply.name} although nothing was asked", RULES["silence"])
            self._fields(reply, packet[1])
        self._ahead = bool(self._input)
        if self._eof:
            if self._input:
                self._packets += 1
                self._taken = bytes(self._input)
                self._break("half a packet, and then the end", RULES["frame"])
            if not self._over:
                self._fail(ConnectionLost("the filter closed the connection"))

    def _options(self, reply: Reply, data: bytes) -> Options:
        """Checks the answer to the offer (wire spec 8.9, row 193)."""
        assert self._offer is not None
        rule = RULES["offer"]
        if reply.kind != lib.MLT_REPLY_OPTIONS:
            self._break(f"{reply.name} in answer to the offer", rule)
        numbers, texts = self._fields(reply, data)
        version, actions, protocol = numbers
        offered_version, offered_actions, offered_protocol = self._offer
        # An offer of none is one of those that there were before they could be chosen (2.1).
        offered_actions = offered_actions or _FIRST_ACTIONS
        offered_protocol = offered_protocol or _FIRST_PROTOCOL
        # Version 0 is not told apart from 1: neither has ever been spoken by an MTA's client.
        too_old = version < lib.MLT_PROTOCOL_OLDEST and not self._as("postfix")
        too_new = version > offered_version and not self._as("sendmail")
        if too_old or too_new:
            self._break(f"protocol version {version}; {offered_version} was offered", rule)
        if version < lib.MLT_PROTOCOL_OLDEST:
            version = offered_version  # Postfix takes it for one that has all steps
        if actions & ~offered_actions:
            self._break(f"actions 0x{actions:X}; 0x{offered_actions:X} were offered", rule)
        if protocol & ~offered_protocol:
            if self.strict or self._as("sendmail"):
                self._break(f"protocol 0x{protocol:X}; 0x{offered_protocol:X} was offered", rule)
            protocol &= offered_protocol
        if self.strict and not _SIZES & ~protocol:
            self._break("both of the larger data sizes", RULES["one size"])
        if self.strict and texts[0] and not offered_actions & lib.SMFIF_SETSYMLIST:
            self._break("macro lists without SETSYMLIST offered", RULES["lists not offered"])
        lists: dict[int, tuple[str, ...]] = {}
        rest = texts[0] or b""
        while rest:
            entry = decode(b"usb", rest)
            assert entry is not None, "the codec has checked that these are lists"
            stage = entry[0][0]
            names, rest = entry[1][0] or b"", entry[1][1] or b""
            wanted = tuple(from_wire(names).replace(",", " ").split())
            if self.strict and len(wanted) > _MACROS:
                self._break(f"a macro list with {len(wanted)} names", RULES["lists size"])
            if self.strict and stage in lists:
                self._break(f"two macro lists for stage {stage}", RULES["lists"])
            if stage in STAGES.values():
                lists[stage] = wanted
            elif self.strict:
                self._break(f"a macro list for stage {stage}", RULES["lists"])
        self.options = Options(version, actions, protocol, lists, *self._offer)
        self._due = None
        return self.options

    def _modification(self, reply: Reply, data: bytes) -> Modification:
        """Checks a modification (wire spec 8.9, row 196)."""
        assert self._due is not None
        assert self.options is not None
        if self._due.answer != lib.MLT_ANSWER_MODS:
            self._break(
                f"{reply.name} in answer to {spoken(self.waiting_for)}", RULES["early change"]
            )
        if self.strict and not reply.action & self.options.actions:
            self._break(
                f"{reply.name} without {'|'.join(action_names(reply.action))} negotiated",
                RULES["action"],
            )
        self._changed += len(data) + _CHANGE_COST
        most = max(self._limit, _CHANGES_ALWAYS)
        if self._changed > most:
            self._break(f"changes beyond {most} bytes", _TOO_MUCH)
        if reply.letter == lib.SMFIR_REPLBODY:
            if self.strict and self._body_replaced and self._last_change != reply.letter:
                self._break("REPLBODY resumed after another modification", RULES["body pieces"])
            self._body_replaced = True
        self._last_change = reply.letter
        numbers, texts = self._fields(reply, data)
        if self.strict and reply.letter != lib.SMFIR_REPLBODY:
            self._check_change(reply, numbers, texts)
        return modification(reply.letter, numbers, texts)

    def _check_change(
        self, reply: Reply, numbers: Sequence[int], texts: Sequence[Optional[bytes]]
    ) -> None:
        """What is wrong in a modification, but taken by the one MTA or the other (section 5)."""
        if not texts[0]:
            self._break(f"{reply.name} with an empty name, address or reason", RULES["empty"])
        if numbers and numbers[0] > _LARGEST_INDEX:
            self._break(f"{reply.name} with number {numbers[0] - 2**32}", RULES["index"])
        if reply.letter in _HEADER_CHANGES and texts[1]:
            if b"\r" in texts[1]:
                self._break(f"{reply.name} with CR in the value", RULES["line ends"])
            if re.search(rb"\n(?![ \t])", texts[1]):
                self._break(f"{reply.name} with LF that no blank follows", RULES["line ends"])

    def _verdict(self, reply: Reply, data: bytes) -> Verdict:
        assert self._due is not None
        assert self.options is not None
        due = self._due
        if reply.letter == lib.SMFIR_REPLYCODE:
            verdict = self._reply_text(reply, data)
        else:
            self._fields(reply, data)
            verdict = Verdict(KINDS[reply.letter])
        if verdict.kind is Kind.SKIP:
            negotiated = due.letter == lib.SMFIC_BODY and self.options.protocol & lib.SMFIP_SKIP
            at_end = due.answer == lib.MLT_ANSWER_MODS and not self._as("postfix")
            if at_end or (self.strict and not negotiated):
                why = " that was not negotiated" if due.letter == lib.SMFIC_BODY else ""
                self._break(f"SKIP{why} in answer to {spoken(self.waiting_for)}", RULES["skip"])
            if due.letter == lib.SMFIC_BODY or not self._as("sendmail"):
                self._skipped = due.letter
        elif self.strict and verdict.kind is Kind.DISCARD and due.letter in _ABOUT_CLIENT:
            self._break(f"DISCARD in answer to {spoken(self.waiting_for)}", RULES["discard"])
        elif (
            due.rank >= 0
            and verdict.final
            # A verdict about one recipient leaves the message open, but for ACCEPT (wire spec 3.4).
            and (due.letter != lib.SMFIC_RCPT or verdict.kind is Kind.ACCEPT)
        ):
            self._rank = None
        self._due = None
        return verdict

    def _reply_text(self, reply: Reply, data: bytes) -> Verdict:
        if self._as("sendmail") and not _SENDMAIL_REPLY.fullmatch(data):
            # To it this is a refusal with nothing to say (wire spec 1.4).
            return Verdict(Kind.REJECT, raw=data.partition(b"\0")[0])
        _, texts = self._fields(reply, data)
        try:
            return parse_reply(texts[0] or b"", self.strict, self._as("postfix"))
        except ProtocolError as error:
            self._fail(error)

    def _fail(self, error: MilterError) -> NoReturn:
        self.fail(error)
        raise error

    def _break(self, text: str, rule: str) -> NoReturn:
        self._fail(ProtocolError(f"the filter sent {text}", rule))

    # -- to the filter ---------------------------------------------------------------------------

    def negotiate(
        self, version: int = 6, actions: int = DEFAULT_ACTIONS, protocol: int = DEFAULT_PROTOCOL
    ) -> Outgoing:
        """Offers what the MTA can do; once, and before everything else.

        Args:
            version: protocol version.
            actions: SMFIF_ bits.
            protocol: SMFIP_ bits.
        """
        if self._offer is not None:
            raise StateError("negotiated already: an MTA makes exactly one offer")
        self._check_silence()
        self._offer = (version, actions, protocol)
        command = COMMANDS[lib.SMFIC_OPTNEG]
        data = encode(command.letter, command.shape, self._offer)
        self._packets += 1
        self._due = command
        return Outgoing(_step_name(command), data, None)

    def connect(
        self,
        hostname: Text = "localhost",
        address: Optional[str] = "127.0.0.1",
        port: int = 0,
        macros: Optional[Macros] = None,
    ) -> Outgoing:
        """A client has connected; once, and first after the negotiation or QUIT_NC.

        Args:
            hostname: the client's name; an MTA writes ``[192.0.2.1]`` where it found none.
            address: an IPv4 or IPv6 address (``IPv6:`` before it is sent as it is), a path (with a
                slash) for a unix socket, None if it is unknown.
            port: the client's port, 0 if it is unknown.
            macros: to be sent before it.

        Raises:
            ValueError: an address that is none of these, or a port outside 0 to 65535.
        """
        family = address_family(address)
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        where = None
        if address is not None:
            where = struct.pack("!H", port) + to_wire(address) + b"\0"
        name = to_wire(hostname)
        self._may(lib.SMFIC_CONNECT)
        if self._begun:
            raise StateError("CONNECT may only come first: a filter answers no second one")
        self._begun = True
        return self._send(lib.SMFIC_CONNECT, (name, family, where), macros)

    def helo(self, name: Text = "localhost", macros: Optional[Macros] = None) -> Outgoing:
        """The client said HELO or EHLO; at any time. Inside a message the filter aborts that."""
        argument = to_wire(name)
        self._may(lib.SMFIC_HELO)
        self._begun = True
        self._rank = None
        return self._send(lib.SMFIC_HELO, (argument,), macros)

    def mail(self, sender: Text, *params: Text, macros: Optional[Macros] = None) -> Outgoing:
        """A message begins; at any time. Inside another message the filter aborts that.

        Args:
            sender: as it goes on the wire, with angle brackets.
            params: ESMTP parameters.
            macros: to be sent before it.
        """
        arguments = _argv(sender, params)
        self._may(lib.SMFIC_MAIL)
        self._begun = True
        self._rank = COMMANDS[lib.SMFIC_MAIL].rank
        return self._send(lib.SMFIC_MAIL, (arguments,), macros)

    def rcpt(
        self,
        recipient: Text,
        *params: Text,
        macros: Optional[Macros] = None,
        rejected: bool = False,
    ) -> Outgoing:
        """A recipient of the message.

        Args:
            recipient: as it goes on the wire, with angle brackets.
            params: ESMTP parameters.
            macros: to be sent before it.
            rejected: the MTA has rejected it itself: sent only to a filter that wants to hear of
                these (RCPT_REJ).
        """
        arguments = _argv(recipient, params)
        self._may(lib.SMFIC_RCPT)
        assert self.options is not None
        if rejected and not self.options.rejected_recipients:
            return Outgoing("rcpt", b"", NOT_SENT)
        return self._send(lib.SMFIC_RCPT, (arguments,), macros)

    def data(self, macros: Optional[Macros] = None) -> Outgoing:
        """The client said DATA, after at least one recipient."""
        self._may(lib.SMFIC_DATA)
        return self._send(lib.SMFIC_DATA, (), macros)

    def header(self, name: Text, value: Text, macros: Optional[Macros] = None) -> Outgoing:
        """A header.

        Args:
            name: not empty.
            value: all that stands behind the colon, the first blank included, folded by LF and a
                blank. The first blank is taken off unless HDR_LEADSPC was negotiated.
            macros: to be sent before it.
        """
        key, content = to_wire(name), to_wire(value)
        if not key:
            raise ValueError("a header's name is never empty")
        self._may(lib.SMFIC_HEADER)
        assert self.options is not None
        if not self.options.leading_space:
            content = strip_blank(content)
        return self._send(lib.SMFIC_HEADER, (key, content), macros)

    def eoh(self, macros: Optional[Macros] = None) -> Outgoing:
        """End of the headers."""
        self._may(lib.SMFIC_EOH)
        return self._send(lib.SMFIC_EOH, (), macros)

    def body(self, chunk: bytes, macros: Optional[Macros] = None) -> Outgoing:
        """A piece of the body.

        Args:
            chunk: 1 to ``options.max_data`` bytes, lines ended by CR LF, cut anywhere.
            macros: to be sent before it.
        """
        self._may(lib.SMFIC_BODY)
        assert self.options is not None
        if not 0 < len(chunk) <= self.options.max_data:
            raise ValueError(
                f"a body chunk of {len(chunk)} bytes: 1 to {self.options.max_data} were agreed on"
            )
        return self._send(lib.SMFIC_BODY, (bytes(chunk),), macros)

    def eom(self, macros: Optional[Macros] = None, data: bytes = b"") -> Outgoing:
        """End of the message. Modifications may come before the verdict.

        Args:
            macros: to be sent before it.
            data: a last piece of body, which the protocol allows and no MTA makes use of.
        """
        self._may(lib.SMFIC_BODYEOB)
        self._last_change = None
        self._body_replaced = False
        self._changed = 0
        outgoing = self._send(lib.SMFIC_BODYEOB, (bytes(data),), macros)
        # To the filter the message is over, whatever it will answer (wire spec 3.4).
        self._rank = None
        return outgoing

    def unknown(self, command: Text, macros: Optional[Macros] = None) -> Outgoing:
        """The client said something that is no SMTP command; at any time, and changes nothing."""
        argument = to_wire(command)
        self._may(lib.SMFIC_UNKNOWN)
        return self._send(lib.SMFIC_UNKNOWN, (argument,), macros)

    def abort(self) -> Outgoing:
        """The message in hand is given up; outside a message it means nothing."""
        self._may(lib.SMFIC_ABORT)
        self._rank = None
        return self._send(lib.SMFIC_ABORT, ())

    def quit_nc(self) -> Outgoing:
        """The SMTP session is over, the connection is used for another; from version 6 on."""
        self._may(lib.SMFIC_QUIT_NC)
        assert self.options is not None
        command = COMMANDS[lib.SMFIC_QUIT_NC]
        if self.options.version < command.since:
            raise StateError(f"QUIT_NC is not part of protocol version {self.options.version}")
        self._begun = False
        self._rank = None
        return self._send(command.letter, ())

    def quit(self) -> Outgoing:
        """The conversation is over; the filter closes the connection."""
        self._may(lib.SMFIC_QUIT)
        self._rank = None
        outgoing = self._send(lib.SMFIC_QUIT, ())
        self._over = True
        return outgoing

    def _may(self, letter: int) -> None:
        """Checks that this command may come now.

        Raises:
            StateError: it may not; nothing has changed.
            ProtocolError, ConnectionLost: the filter spoke or closed meanwhile.
        """
        command = COMMANDS[letter]
        if self._error is not None:
            raise StateError(f"the conversation is over: {self._error}")
        if self._over:
            raise StateError("the conversation is over: QUIT was sent")
        if self._due is not None:
            raise StateError(f"{command.name} before the answer to {spoken(self.waiting_for)}")
        if self.options is None:
            raise StateError(f"{command.name} before the negotiation")
        self._check_silence()
        if command.rank <= 0:
            return
        if self._rank is None:
            raise StateError(
                f"{command.name} outside a message, which MAIL begins and a verdict, the end of "
                "the message or an abort ends: a filter does not answer it"
            )
        repeated = command.rank == self._rank and command.repeats
        if command.rank <= self._rank and not repeated:
            raise StateError(f"{command.name} is out of order: a filter does not answer it")
        if (
            command.rank > _RANK_RCPT > self._rank
            and not self.options.protocol & COMMANDS[lib.SMFIC_RCPT].no_bit
        ):
            raise StateError(f"{command.name} before a recipient: a filter does not answer it")

    def _send(
        self, letter: int, texts: Sequence[Optional[bytes]], macros: Optional[Macros] = None
    ) -> Outgoing:
        """What this command puts on the wire; nothing of it where it was negotiated away."""
        assert self.options is not None
        command = COMMANDS[letter]
        step = _step_name(command)
        protocol = self.options.protocol
        if command.rank > 0:
            self._rank = command.rank
        if command.since > self.options.version:
            return Outgoing(step, b"", NOT_SENT)
        if command.no_bit & protocol:
            early = self._macros(letter, macros) if letter in _MACROS_ALWAYS else b""
            return Outgoing(step, early, NOT_SENT)
        if self._skipped == letter:
            return Outgoing(step, b"", NOT_SENT)
        self._skipped = None
        self._packets += 1
        data = self._macros(letter, macros) + encode(letter, command.shape, (), texts)
        if command.answer == lib.MLT_ANSWER_NONE or command.nr_bit & protocol:
            return Outgoing(step, data, NO_REPLY)
        self._due = command
        return Outgoing(step, data, None)

    def _macros(self, letter: int, macros: Optional[Macros]) -> bytes:
        """The packet of these macros, of those that the filter asked for if it did."""
        assert self.options is not None
        if macros is None:
            return b""
        pairs = [(to_wire(name), to_wire(value)) for name, value in macros.items()]
        wanted = self.options.macro_lists.get(STAGES.get(letter, -1))
        if wanted is not None and self._rules is None:
            names = {_macro_key(to_wire(name)) for name in wanted}
            pairs = [pair for pair in pairs if _macro_key(pair[0]) in names]
        self._packets += 1
        command = COMMANDS[lib.SMFIC_MACRO]
        content = b"".join(name + b"\0" + value + b"\0" for name, value in pairs)
        return encode(command.letter, command.shape, (), (bytes([letter]), content))


def _step_name(command: Command) -> str:
    return "eom" if command.letter == lib.SMFIC_BODYEOB else command.name.lower()


def _argv(first: Text, params: Sequence[Text]) -> bytes:
    """An address and its parameters, as the shape ``v`` has them."""
    return b"".join(to_wire(text) + b"\0" for text in (first, *params))


def _macro_key(name: bytes) -> bytes:
    """A name to compare: of one character, it is the same with braces and without."""
    return name[1:-1] if len(name) == 3 and name[:1] == b"{" and name[2:] == b"}" else name


def address_family(address: Optional[str]) -> bytes:
    """Returns the letter that says what a client's address is (wire spec 1.3).

    Raises:
        ValueError: it is nothing that can be told to a filter.
    """
    if address is None:
        return b"U"
    if "/" in address:
        return b"L"
    literal = address[5:] if address[:5].lower() == "ipv6:" else address
    for family, letter in ((socket.AF_INET, b"4"), (socket.AF_INET6, b"6")):
        try:
            socket.inet_pton(family, literal if letter == b"6" else address)
        except (OSError, ValueError):
            continue
        return letter
    raise ValueError(f"{address!r} is no IPv4 address, no IPv6 address, and no path")
