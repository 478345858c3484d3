"""Captures of network traffic: what MTAs and filters said to each other over TCP, as records.

Owns the formats pcap and pcapng, as tcpdump and Wireshark write them, what of Ethernet, IP and TCP
leads to the bytes of a connection, and how segments that come twice, late or not at all are put
together. What the bytes mean is Milter._trace's to say.

Not by a library: dpkt reads the files, but puts no segments together; scapy takes a file that was
cut for a whole one; neither says at which byte a file is broken. What would be left for them to do,
the layouts below, is less than what stands around it here.

Source: RFC 791, 8200 (IP), 9293 (TCP), IEEE 802.3 and 802.1Q; pcap and pcapng as the IETF drafts
draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng describe them; link types as
draft-ietf-opsawg-pcaplinktype lists them.
"""

from __future__ import annotations

import heapq
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Callable, Final, NamedTuple, Optional

from Milter._engine import lib
from Milter._message import shown
from Milter._mtacodec import HEAD
from Milter._recording import LATEST, Head, RecordingError, now
from Milter._trace import FILTER, MTA, Record, Tap

# The file's first four bytes: byte order, and parts of a second.
_MAGICS: Final = {
    b"\xa1\xb2\xc3\xd4": (">", 10**6),
    b"\xd4\xc3\xb2\xa1": ("<", 10**6),
    b"\xa1\xb2\x3c\x4d": (">", 10**9),
    b"\x4d\x3c\xb2\xa1": ("<", 10**9),
}
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_LARGEST: Final = 16 * 1024 * 1024  # bytes of a packet or block; no capture has larger ones
_HELD: Final = 1024 * 1024  # bytes of a direction that came early, until what is missing is lost
_SEGMENTS: Final = 4096  # and how many segments, which may be without any bytes
_OVER: Final = 1000  # connections that are over, and of which an acknowledgement may still come


def is_capture(start: bytes) -> bool:
    """Returns whether a file that begins so is a capture; four bytes are enough."""
    return start[:4] in _MAGICS or start[:4] == _SECTION


# -- files ---------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A packet as it was captured."""

    time: float
    """Seconds since 1970."""
    link: int
    """What kind of frame it is (LINKTYPE_)."""
    data: bytes
    missing: int
    """Bytes that were on the network, but were not captured."""


class _File:
    """The file, and where in it we are."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.offset = 0

    def read(self, size: int, what: str) -> bytes:
        """Returns so many bytes; b"" at the end of the file."""
        data = self._file.read(size)
        if data and len(data) < size:
            raise self.error(f"the file ends within {what}")
        self.offset += len(data)
        return data

    def need(self, size: int, what: str) -> bytes:
        """Returns so many bytes, and not fewer."""
        data = self.read(size, what)
        if len(data) < size:
            raise self.error(f"the file ends within {what}")
        return data

    def error(self, why: str, at: Optional[int] = None) -> RecordingError:
        """Returns the error."""
        offset = self.offset if at is None else at
        return RecordingError(f"{shown(self._name)}, byte {offset}: {why}")


def frames(file: BinaryIO, name: str) -> Iterator[Frame]:
    """Yields what was captured.

    Args:
        file: at its beginning.
        name: of the file, for errors.

    Raises:
        RecordingError: the file is broken; the text says at which byte.
    """
    source = _File(file, name)
    start = source.need(4, "its first four bytes")
    if start == _SECTION:
        yield from _blocks(source)
    elif start in _MAGICS:
        yield from _classic(source, *_MAGICS[start])
    else:
        raise source.error("no capture", 0)


def _classic(source: _File, order: str, parts: int) -> Iterator[Frame]:
    rest = source.need(20, "the head of the file")
    link = struct.unpack(order + "HHiIII", rest)[5] & 0xFFFF  # above it: of frame check sequences
    record = struct.Struct(order + "IIII")
    while True:
        at = source.offset
        head = source.read(record.size, "the head of a packet")
        if not head:
            return
        seconds, fraction, size, length = record.unpack(head)
        if size > _LARGEST:
            raise source.error(f"a packet of {size} bytes", at)
        data = source.need(size, f"a packet of {size} bytes") if size else b""
        yield Frame(seconds + fraction / parts, link, data, max(0, length - size))


class _Interface(NamedTuple):
    link: int
    most: int  # bytes that are captured of a packet; 0 for all
    parts: float  # of a second
    offset: int  # seconds


def _blocks(source: _File) -> Iterator[Frame]:
    """pcapng: blocks, of which only those with packets, and what they need, are looked at."""
    kind, at = _SECTION, 0
    order = ""
    interfaces: list[_Interface] = []
    while True:
        sizes = source.need(4, "the head of a block")
        if kind == _SECTION:
            magic = source.need(4, "the head of a section")
            order = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(magic, "")
            if not order:
                raise source.error("a section without its byte order", at)
            interfaces = []
        (size,) = struct.unpack(order + "I", sizes)
        taken = 12 if kind == _SECTION else 8
        if size % 4 or not taken + 4 <= size <= _LARGEST:
            raise source.error(f"a block of {size} bytes", at)
        body = source.need(size - taken, f"a block of {size} bytes")
        if body[-4:] != sizes:
            raise source.error("a block whose two lengths differ", at)
        try:
            frame = _block(kind, body[:-4], order, interfaces)
        except (struct.error, IndexError):
            raise source.error("a malformed block", at) from None
        if frame is not None:
            yield frame
        at = source.offset
        kind = source.read(4, "the head of a block")
        if not kind:
            return


def _block(kind: bytes, body: bytes, order: str, interfaces: list[_Interface]) -> Optional[Frame]:
    number = int.from_bytes(kind, "big" if order == ">" else "little")
    if number == 1:
        link, _, most = struct.unpack_from(order + "HHI", body)
        interfaces.append(_Interface(link, most, *_clock(body[8:], order)))
    elif number in (2, 6):  # the old kind, and the one of today
        if number == 2:
            which, _, high, low, size, length = struct.unpack_from(order + "HHIIII", body)
        else:
            which, high, low, size, length = struct.unpack_from(order + "IIIII", body)
        face = interfaces[which]
        if size > len(body) - 20:
            raise IndexError
        when = face.offset + ((high << 32) | low) / face.parts
        return Frame(when, face.link, body[20 : 20 + size], max(0, length - size))
    elif number == 3:  # without a time
        (length,) = struct.unpack_from(order + "I", body)
        face = interfaces[0]
        size = min(length, face.most or length, len(body) - 4)
        return Frame(0.0, face.link, body[4 : 4 + size], length - size)
    return None


def _clock(options: bytes, order: str) -> tuple[float, int]:
    """The parts of a second, and the offset, of an interface's times."""
    parts, offset = 10.0**6, 0
    while len(options) >= 4:
        code, size = struct.unpack_from(order + "HH", options)
        value = options[4 : 4 + size]
        if code == 0:
            break
        if code == 9 and size == 1:
            exponent = value[0] & 0x7F
            parts = 2.0**exponent if value[0] & 0x80 else 10.0**exponent
        elif code == 14 and size == 8:
            (offset,) = struct.unpack(order + "q", value)
        options = options[4 + size + -size % 4 :]
    return parts, offset


# -- frames to segments --------------------------------------------------------------------------

End = tuple[str, int]
"""An address and a port."""

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


class Segment(NamedTuple):
    """A segment of TCP."""

    source: End
    target: End
    sequence: int
    acknowledged: Optional[int]
    flags: int
    data: bytes
    missing: int
    """Bytes behind the data that were not captured."""


def _ethernet(data: bytes) -> bytes:
    at = 12
    while data[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):  # VLANs
        at += 4
    return _by_type(data[at : at + 2], data[at + 2 :])


def _by_type(kind: bytes, data: bytes) -> bytes:
    return data if kind in (b"\x08\x00", b"\x86\xdd") else b""


def _raw(data: bytes) -> bytes:
    return data


_LINKS: Final[dict[int, Callable[[bytes], bytes]]] = {
    0: lambda data: data[4:],  # NULL: BSD's loopback; the family is the IP version's to say
    1: _ethernet,
    12: _raw,
    14: _raw,
    101: _raw,
    108: lambda data: data[4:],  # LOOP
    113: lambda data: _by_type(data[14:16], data[16:]),  # LINUX_SLL
    228: _raw,
    229: _raw,
    276: lambda data: _by_type(data[0:2], data[20:]),  # LINUX_SLL2
}
# Headers that may stand between IPv6's own and TCP's.
_EXTENSIONS: Final = {0, 43, 60}


def segment(frame: Frame) -> Optional[Segment]:
    """Returns the segment of TCP in a frame, None where there is none.

    Raises:
        KeyError: frames of this kind are not known.
    """
    data = _LINKS[frame.link](frame.data)
    try:
        if not data:
            return None
        if data[0] >> 4 == 4:
            return _ipv4(data, frame.missing)
        return _ipv6(data, frame.missing) if data[0] >> 4 == 6 else None
    except (struct.error, IndexError):
        return None  # cut within its heads


def _ipv4(data: bytes, missing: int) -> Optional[Segment]:
    head = (data[0] & 15) * 4
    length, _, fragment = struct.unpack_from(">HHH", data, 2)
    if data[9] != 6 or fragment & 0x3FFF or head < 20:
        return None
    source = socket.inet_ntop(socket.AF_INET, data[12:16])
    target = socket.inet_ntop(socket.AF_INET, data[16:20])
    # 0: the network card was to cut it, and to say how long each piece is.
    length = length or len(data) + missing
    return _tcp(source, target, data[head:length], _behind(length, data, missing))


def _ipv6(data: bytes, missing: int) -> Optional[Segment]:
    length, following = struct.unpack_from(">HB", data, 4)
    source = socket.inet_ntop(socket.AF_INET6, data[8:24])
    target = socket.inet_ntop(socket.AF_INET6, data[24:40])
    length = length + 40 if length else len(data) + missing
    at = 40
    while following in _EXTENSIONS:
        following, more = data[at], data[at + 1]
        at += (more + 1) * 8
    if following != 6:
        return None
    return _tcp(source, target, data[at:length], _behind(length, data, missing))


def _behind(length: int, data: bytes, missing: int) -> int:
    """How many bytes of an IP packet were not captured; what pads a frame is none of them."""
    return max(0, min(missing, length - len(data)))


def _tcp(source: str, target: str, data: bytes, missing: int) -> Optional[Segment]:
    ports = struct.unpack_from(">HHIIBB", data)
    head = (ports[4] >> 4) * 4
    if head < 20:
        return None
    return Segment(
        (source, ports[0]),
        (target, ports[1]),
        ports[2],
        ports[3] if ports[5] & _ACK else None,
        ports[5],
        data[head:],
        missing,
    )


# -- segments to connections ---------------------------------------------------------------------


def _ahead(one: int, other: int) -> int:
    """How far a sequence number is ahead of another; they begin anew after 2**32."""
    return (one - other + 0x80000000) % 0x100000000 - 0x80000000


class _Direction:
    """What one end says: segments to bytes.

    Positions are sequence numbers that do not begin anew.
    """

    def __init__(self) -> None:
        self.next: Optional[int] = None
        self.first: Optional[int] = None  # the number of its SYN
        self.late = False  # it was under way when the capture began
        self.over = False
        self._early: dict[int, tuple[bytes, int]] = {}  # by position
        self._order: list[int] = []  # the same positions, a heap
        self._size = 0  # bytes in it
        self._end: Optional[int] = None

    def add(self, part: Segment) -> Iterator[tuple[str, bytes, int]]:
        """Yields ``data`` with bytes, ``gap`` with how many are missing, ``end`` and ``reset``."""
        if self.over:
            return
        sequence = part.sequence
        if part.flags & _SYN:
            self.first = sequence
            sequence += 1
        if self.next is None:
            self.next = sequence
            self.late = not part.flags & _SYN
        position = self._position(sequence)
        if part.data or part.missing:
            self._hold(position, part.data, part.missing)
        if part.flags & _FIN:
            self._end = position + len(part.data) + part.missing
        yield from self._whole()
        while len(self._order) > _SEGMENTS or self._size > _HELD:
            yield from self._lose()
        if part.flags & _RST and not self.over:
            yield from self.rest()
            self.over = True
            yield "reset", b"", 0

    def _position(self, sequence: int) -> int:
        assert self.next is not None
        return self.next + _ahead(sequence, self.next)

    def _hold(self, position: int, data: bytes, missing: int) -> None:
        """Keeps a segment until what stands before it has come."""
        known = self._early.get(position)
        if known is None:
            heapq.heappush(self._order, position)
        elif len(known[0]) + known[1] < len(data) + missing:
            # Of two with the same beginning the longer one: it was sent again with more behind it.
            self._size -= len(known[0])
        else:
            return
        self._early[position] = (data, missing)
        self._size += len(data)

    def acknowledged(self, sequence: int) -> Iterator[tuple[str, bytes, int]]:
        """The other end has got all before this: what we have not will not come any more."""
        if self.next is None:
            return
        position = self._position(sequence)
        while self._order and not self.over and self._order[0] < position:
            yield from self._lose()

    def rest(self) -> Iterator[tuple[str, bytes, int]]:
        """Nothing more comes."""
        while self._order and not self.over:
            yield from self._lose()

    def _whole(self) -> Iterator[tuple[str, bytes, int]]:
        """What is there without a hole before it."""
        assert self.next is not None
        while self._order and self._order[0] <= self.next:
            position = heapq.heappop(self._order)
            data, missing = self._early.pop(position)
            self._size -= len(data)
            fresh = data[self.next - position :]
            if fresh:
                self.next += len(fresh)
                yield "data", fresh, 0
            lost = position + len(data) + missing - self.next
            if missing and lost > 0:
                self.next += lost
                yield "gap", b"", lost
        if self._end is not None and self._end <= self.next and not self.over:
            self.over = True
            yield "end", b"", 0

    def _lose(self) -> Iterator[tuple[str, bytes, int]]:
        """Gives up what is missing before the first that came early."""
        assert self.next is not None
        first = self._order[0]
        yield "gap", b"", first - self.next
        self.next = first
        yield from self._whole()


class _Pair:
    """A TCP connection, until and after it is known which end is the filter's."""

    def __init__(self, one: End, other: End) -> None:
        self.ends = (one, other)
        self.directions = {one: _Direction(), other: _Direction()}
        self.mta: Optional[End] = None
        self.tap: Optional[Tap] = None
        self.waiting: list[tuple[float, End, str, bytes, int]] = []
        self.begun = {one: b"", other: b""}  # the first bytes of either
        self.torn = False  # of these some are missing
        self.ignored = False
        self.over = False
        self.opened: Optional[End] = None  # who sent the first SYN


_OFFER: Final = bytes([lib.SMFIC_OPTNEG])


class Capture:
    """The milter conversations in a capture.

    Args:
        file: at its beginning.
        name: of the file, for errors.
        port: the filter's; None: connections that begin as a milter conversation does, with the
            MTA's offer, are taken for one.

    Attributes:
        head: when it began.
        warnings: what could not be read, a line each; whole when all records were read.
    """

    def __init__(self, file: BinaryIO, name: str, port: Optional[int] = None) -> None:
        """Reads the first packet."""
        self.warnings: list[str] = []
        self._name = name
        self._port = port
        self._frames = frames(file, name)
        self._first = next(self._frames, None)
        self._start = 0.0 if self._first is None else self._first.time
        try:
            self.head = Head(now(self._start))
        except (OverflowError, ValueError, OSError):
            self.head = Head(now(0.0))
        self._pairs: dict[tuple[End, End], _Pair] = {}
        self._count = 0
        self._others = 0
        self._unknown: dict[int, int] = {}
        self._over: deque[_Pair] = deque()

    def __iter__(self) -> Iterator[Record]:
        """Yields the records.

        Raises:
            RecordingError: the file is broken; what stands before that was yielded.
        """
        last = 0.0
        if self._first is not None:
            yield from self._frame(self._first)
        for frame in self._frames:
            last = min(max(last, frame.time - self._start), LATEST)
            yield from self._frame(frame)
        for pair in list(self._pairs.values()):
            yield from self._close(pair, last)
        title = shown(self._name)
        for link, count in sorted(self._unknown.items()):
            self.warnings.append(f"{title}: {count} packets of unknown link type {link}")
        if self._others:
            hint = "" if self._port else "; --port says which port is the filter's"
            many = "TCP connection" if self._others == 1 else "TCP connections"
            self.warnings.append(
                f"{title}: {self._others} other {many}, which do not begin with an MTA's offer"
                f"{hint}"
            )

    def _frame(self, frame: Frame) -> Iterator[Record]:
        try:
            part = segment(frame)
        except KeyError:
            self._unknown[frame.link] = self._unknown.get(frame.link, 0) + 1
            return
        if part is None:
            return
        if self._port is not None and self._port not in (part.source[1], part.target[1]):
            return
        when = min(max(0.0, frame.time - self._start), LATEST)
        one, other = sorted((part.source, part.target))
        pair = self._pairs.get((one, other))
        if pair is not None and self._anew(pair, part):
            yield from self._close(pair, when)
            pair = None
        if pair is None:
            if part.flags & _RST or (not part.data and part.flags & _FIN):
                return  # of one that was over before
            pair = self._pairs[one, other] = _Pair(one, other)
        if part.flags & _SYN and pair.opened is None:
            pair.opened = part.target if part.flags & _ACK else part.source
        if part.acknowledged is not None:
            back = pair.directions[part.target].acknowledged(part.acknowledged)
            for what, data, count in back:
                yield from self._happened(pair, when, part.target, what, data, count)
        for what, data, count in pair.directions[part.source].add(part):
            yield from self._happened(pair, when, part.source, what, data, count)
        if all(each.over for each in pair.directions.values()):
            # The last acknowledgement is still to come; it makes no new connection.
            yield from self._decide(pair, when, True)
            self._forget(pair)

    def _forget(self, pair: _Pair) -> None:
        """It is over; some time later nothing needs to be known of it any more."""
        if pair.over:
            return
        pair.over = True
        self._over.append(pair)
        if len(self._over) > _OVER:
            oldest = self._over.popleft()
            ends = sorted(oldest.ends)
            if self._pairs.get((ends[0], ends[1])) is oldest:
                del self._pairs[ends[0], ends[1]]

    @staticmethod
    def _anew(pair: _Pair, part: Segment) -> bool:
        """Whether this begins another connection between the same ends."""
        if not part.flags & _SYN or part.flags & _ACK:
            return False
        before = pair.directions[part.source]
        return before.next is not None and before.first != part.sequence

    def _happened(
        self, pair: _Pair, when: float, sender: End, what: str, data: bytes, count: int
    ) -> Iterator[Record]:
        if pair.ignored:
            return
        if pair.tap is None:
            pair.waiting.append((when, sender, what, data, count))
            pair.begun[sender] += data[:HEAD]
            pair.torn = pair.torn or what == "gap"
            yield from self._decide(pair, when, False)
            return
        yield from self._tell(pair, when, sender, what, data, count)

    def _tell(
        self, pair: _Pair, when: float, sender: End, what: str, data: bytes, count: int
    ) -> Iterator[Record]:
        assert pair.tap is not None
        who = MTA if sender == pair.mta else FILTER
        if what == "data":
            yield from pair.tap.feed(who, data, when)
        elif what == "gap":
            yield from pair.tap.gap(who, when, f"{count} bytes were not captured")
        else:
            yield from pair.tap.end(who, when, what)
            if what == "reset":
                yield from pair.tap.cut(when, "closed, as the other side was reset")

    def _decide(self, pair: _Pair, when: float, last: bool) -> Iterator[Record]:
        """Finds out which end is the filter's, if that can be told by now."""
        if pair.tap is not None or pair.ignored:
            return
        mta = self._mta(pair)
        if mta is None:
            unlike = pair.torn or any(self._started(pair, end) is False for end in pair.ends)
            if last or unlike:
                pair.ignored = True
                pair.waiting.clear()
                self._others += unlike or any(pair.begun.values())
            return
        pair.mta = mta
        filter = pair.ends[1] if mta == pair.ends[0] else pair.ends[0]
        self._count += 1
        pair.tap = Tap(self._count)
        start = pair.waiting[0][0] if pair.waiting else when
        yield from pair.tap.open(start, f"{_end_name(mta)} to {_end_name(filter)}")
        for end in pair.ends:
            if pair.directions[end].late:
                who = MTA if end == mta else FILTER
                # A capture begins between two packets rather than within one.
                yield from pair.tap.gap(who, start, "the beginning was not captured", False)
        waiting, pair.waiting = pair.waiting, []
        for event in waiting:
            yield from self._tell(pair, *event)

    def _mta(self, pair: _Pair) -> Optional[End]:
        one, other = pair.ends
        if self._port is not None:
            if one[1] == other[1]:
                return pair.opened or one
            return one if other[1] == self._port else other
        for end in pair.ends:
            if self._started(pair, end):
                return end
        return None

    @staticmethod
    def _started(pair: _Pair, end: End) -> Optional[bool]:
        """Whether an end has begun with an offer; None: it has not said enough to tell."""
        said = pair.begun[end][:HEAD]
        if not said:
            return None
        # A packet of version 2 and up has 12 bytes of data, and hardly more.
        if not b"\0\0\0".startswith(said[:3]) or (len(said) > 3 and said[3] < 13):
            return False
        if len(said) < HEAD:
            return None
        return said[HEAD - 1 :] == _OFFER and not pair.directions[end].late

    def _close(self, pair: _Pair, when: float) -> Iterator[Record]:
        """Nothing more of it is in the capture."""
        for end in pair.ends:
            for what, data, count in list(pair.directions[end].rest()):
                yield from self._happened(pair, when, end, what, data, count)
        yield from self._decide(pair, when, True)
        if pair.tap is not None:
            yield from pair.tap.cut(when, "the capture ends here")


def _end_name(end: End) -> str:
    host = f"[{end[0]}]" if ":" in end[0] else end[0]
    return f"{host}:{end[1]}"
