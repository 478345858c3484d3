"""Captures: by hand from the formats' descriptions and the RFCs, and by tcpdump."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

import pytest
from mta_support import OFFER, PATIENCE, C, options, packet

from Milter import mta
from Milter._pcap import Capture
from Milter._recording import Head, Reader, Writer
from Milter._trace import FILTER, MTA, Record

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ANSWER = options(protocol=0)
HELO = packet("H", b"mx\0")
MTA_PORT, FILTER_PORT = 40000, 8891

# A frame's IP packet, and how many bytes of it were not captured.
Sent = tuple[bytes, int]


def tcp(who: str, seq: int, ack: Optional[int], flags: int, data: bytes, options: bytes) -> bytes:
    """A segment (RFC 9293, 3.1)."""
    ports = (MTA_PORT, FILTER_PORT) if who == MTA else (FILTER_PORT, MTA_PORT)
    if ack is not None:
        flags |= ACK
    offset = 5 + len(options) // 4
    head = struct.pack(
        ">HHIIBBHHH", *ports, seq % 2**32, (ack or 0) % 2**32, offset << 4, flags, 65535, 0, 0
    )
    return head + options + data


def ipv4(who: str, segment: bytes, length: Optional[int] = None, fragment: int = 0) -> bytes:
    """An IP packet with an option (RFC 791, 3.1)."""
    ends = [socket.inet_aton(text) for text in ("192.0.2.1", "192.0.2.2")]
    source, target = ends if who == MTA else ends[::-1]
    size = 24 + len(segment) if length is None else length
    head = struct.pack(">BBHHHBBH4s4s", 0x46, 0, size, 1, fragment, 64, 6, 0, source, target)
    return head + b"\1\1\1\0" + segment


def ipv6(who: str, segment: bytes, extension: bool = True) -> bytes:
    """An IP packet with a destination options header (RFC 8200, 3 and 4.6)."""
    ends = [socket.inet_pton(socket.AF_INET6, text) for text in ("2001:db8::1", "2001:db8::2")]
    source, target = ends if who == MTA else ends[::-1]
    more = struct.pack(">BB", 6, 0) + b"\1\4\0\0\0\0" if extension else b""
    following = 60 if extension else 6
    head = struct.pack(">IHBB", 6 << 28, len(more) + len(segment), following, 64)
    return head + source + target + more + segment


class Talk:
    """A connection, segment by segment."""

    def __init__(self, start: tuple[int, int] = (1000, 5000), ip: str = "4") -> None:
        self.next = dict(zip((MTA, FILTER), start))
        self.ip = ip
        self.sent: list[Sent] = []

    def segment(
        self, who: str, seq: int, data: bytes = b"", flags: int = 0, ack: bool = True, cut: int = 0
    ) -> None:
        """One segment as it is; of its data the last `cut` bytes are not captured."""
        other = self.next[FILTER if who == MTA else MTA]
        whole = tcp(who, seq, other if ack else None, flags, data, b"\1\1\1\0")
        frame = ipv4(who, whole) if self.ip == "4" else ipv6(who, whole)
        self.sent.append((frame[: len(frame) - cut], cut))

    def open(self) -> Talk:
        """The three of the beginning."""
        self.segment(MTA, self.next[MTA], flags=SYN, ack=False)
        self.next[MTA] += 1
        self.segment(FILTER, self.next[FILTER], flags=SYN)
        self.next[FILTER] += 1
        self.segment(MTA, self.next[MTA])
        return self

    def say(self, who: str, data: bytes, flags: int = PSH, cut: int = 0) -> Talk:
        """Says something."""
        self.segment(who, self.next[who], data, flags, cut=cut)
        self.next[who] += len(data) + (flags & FIN)
        return self

    def close(self) -> Talk:
        """Both sides close."""
        return self.say(MTA, b"", FIN).say(FILTER, b"", FIN).say(MTA, b"", 0)


def ordinary(**kind: str) -> Talk:
    """A short conversation."""
    talk = Talk(**kind).open()  # type: ignore[arg-type]
    talk.say(MTA, OFFER).say(FILTER, ANSWER).say(MTA, HELO).say(FILTER, C)
    return talk.say(MTA, packet("Q")).close()


EXPECTED = [
    ("packet", MTA, OFFER[4:]),
    ("packet", FILTER, ANSWER[4:]),
    ("packet", MTA, HELO[4:]),
    ("packet", FILTER, b"c"),
    ("packet", MTA, b"Q"),
    ("end", MTA, b""),
    ("end", FILTER, b""),
]


# -- files ---------------------------------------------------------------------------------------


def ethernet(frame: bytes) -> bytes:
    """IEEE 802.3: two addresses, and the type; padded to its least length."""
    kind = b"\x08\x00" if frame[0] >> 4 == 4 else b"\x86\xdd"
    return (bytes(12) + kind + frame).ljust(60, b"\0")


def pcap(
    sent: Iterable[Sent],
    link: int = 1,
    order: str = "<",
    nanoseconds: bool = False,
    wrap: Optional[object] = None,
) -> bytes:
    """draft-ietf-opsawg-pcap, 4 and 5: a packet each second, from 1000.5 s on."""
    cover = ethernet if wrap is None else wrap
    magic, half = (0xA1B23C4D, 5 * 10**8) if nanoseconds else (0xA1B2C3D4, 5 * 10**5)
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for number, (frame, cut) in enumerate(sent):
        body = cover(frame)  # type: ignore[operator]
        data += struct.pack(order + "IIII", 1000 + number, half, len(body), len(body) + cut)
        data += body
    return data


def block(order: str, kind: int, body: bytes) -> bytes:
    """draft-ietf-opsawg-pcapng, 3.1."""
    body += b"\0" * (-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def pcapng(sent: Iterable[Sent], order: str = "<", simple: bool = False) -> bytes:
    """Blocks: a section, names, an interface with milliseconds and an offset, the packets."""
    data = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(order, 4, b"\0\0\0\0")
    clock = struct.pack(order + "HHB3xHHqHH", 9, 1, 3, 14, 8, 900, 0, 0)
    data += block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + clock)
    for number, (frame, cut) in enumerate(sent):
        body = ethernet(frame)
        if simple:
            data += block(order, 3, struct.pack(order + "I", len(body)) + body)
            continue
        when = (100 + number) * 1000 + 500
        head = struct.pack(order + "IIIII", 0, 0, when, len(body), len(body) + cut)
        data += block(order, 6, head + body + b"\0" * (-len(body) % 4))
    return data


def read(data: bytes, port: Optional[int] = None) -> tuple[list[Record], Capture]:
    """The records in a capture's bytes."""
    capture = Capture(io.BytesIO(data), "c.pcap", port)
    return list(capture), capture


def said(records: Iterable[Record]) -> list[tuple[str, str, bytes]]:
    """What was told but for the openings."""
    return [
        (record.kind, record.sender, record.data) for record in records if record.kind != "open"
    ]


LINKS = {
    0: lambda frame: struct.pack("<I", 2) + frame,
    1: lambda frame: bytes(12) + b"\x81\0\0\7" + ethernet(frame)[12:],  # 802.1Q
    12: lambda frame: frame,
    101: lambda frame: frame,
    108: lambda frame: struct.pack(">I", 2) + frame,
    113: lambda frame: bytes(14) + ethernet(frame)[12:14] + frame,
    228: lambda frame: frame,
    276: lambda frame: ethernet(frame)[12:14] + bytes(18) + frame,
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("ip", ["4", "6"])
def test_link_types(link: int, ip: str) -> None:
    """Each kind of frame, with either IP."""
    records, capture = read(pcap(ordinary(ip=ip).sent, link, wrap=LINKS[link]))
    assert (EXPECTED, []) == (said(records), capture.warnings)
    names = {
        "4": "192.0.2.1:40000 to 192.0.2.2:8891",
        "6": "[2001:db8::1]:40000 to [2001:db8::2]:8891",
    }
    assert names[ip] == records[0].text


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["micro", "nano", "ng"])
def test_files(order: str, kind: str) -> None:
    """pcap with both resolutions and pcapng, of machines of either byte order; their times."""
    sent = ordinary().sent
    if kind == "ng":
        records, capture = read(pcapng(sent, order))
    else:
        records, capture = read(pcap(sent, order=order, nanoseconds=kind == "nano"))
    assert EXPECTED == said(records)
    assert "1970-01-01T00:16:40.500000Z" == capture.head.began
    assert [3.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] == [record.time for record in records]


def test_simple_packets() -> None:
    """pcapng's packets without a time."""
    records, _ = read(pcapng(ordinary().sent, simple=True))
    assert EXPECTED == said(records)


def test_sections() -> None:
    """pcapng files one behind the other are one (section 4.1), whatever their byte order."""
    sent = ordinary().sent
    records, _ = read(pcapng(sent[:5], "<") + pcapng(sent[5:], ">"))
    assert EXPECTED == said(records)


# -- broken files --------------------------------------------------------------------------------

WHOLE = pcap(ordinary().sent)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "byte 0: the file ends within its first four bytes"),
        (WHOLE[:2], "byte 0: the file ends within its first four bytes"),
        (WHOLE[:20], "byte 4: the file ends within the head of the file"),
        (WHOLE[:30], "byte 24: the file ends within the head of a packet"),
        (WHOLE[:50], "byte 40: the file ends within a packet of 62 bytes"),
        (WHOLE[:40], "byte 40: the file ends within a packet of 62 bytes"),
        (WHOLE[:32] + b"\xff" * 4 + WHOLE[36:], "byte 24: a packet of 4294967295 bytes"),
        (b"MZ\x90\0" + bytes(100), "byte 0: no capture"),
        (pcapng([])[:6], "byte 4: the file ends within the head of a block"),
        (pcapng([])[:20], "byte 12: the file ends within a block of 28 bytes"),
        (
            pcapng([])[:8] + b"\0\0\0\0" + pcapng([])[12:],
            "byte 0: a section without its byte order",
        ),
        (pcapng([])[:24] + b"\1" + pcapng([])[25:], "byte 0: a block whose two lengths differ"),
        (pcapng([])[:32] + b"\7" + pcapng([])[33:], "byte 28: a block of 7 bytes"),
        (pcapng([]) + block("<", 6, b"\0\0"), "byte 88: a malformed block"),
        (pcapng([]) + block("<", 6, struct.pack("<IIIII", 1, 0, 0, 0, 0)), "byte 88: a malformed"),
        (pcapng([]) + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 9, 9)), "byte 88: a malformed"),
    ],
)
def test_broken(data: bytes, text: str) -> None:
    """One line, which says at which byte."""
    with pytest.raises(mta.RecordingError) as error:
        read(data)
    assert str(error.value).startswith(f"c.pcap, {text}")


@pytest.mark.parametrize("size", range(0, len(WHOLE), 7))
def test_cut(size: int) -> None:
    """A capture cut anywhere gives what was whole, and an error or not, but nothing else."""
    records = []
    try:
        for record in Capture(io.BytesIO(WHOLE[:size]), "c.pcap"):
            records.append(record)
    except mta.RecordingError:
        pass
    got = [each for each in said(records) if each[0] != "cut"]
    assert EXPECTED[: len(got)] == got


def test_damaged() -> None:
    """Any byte may be another: then there are other records, or the error, and no other one."""
    outcomes = set()
    for at in range(24, len(WHOLE)):
        data = WHOLE[:at] + bytes([WHOLE[at] ^ 0xFF]) + WHOLE[at + 1 :]
        try:
            outcomes.add("same" if said(read(data)[0]) == EXPECTED else "other")
        except mta.RecordingError:
            outcomes.add("error")
    # Some bytes say nothing, as Ethernet addresses.
    assert {"same", "other", "error"} == outcomes


# -- TCP -----------------------------------------------------------------------------------------


def test_out_of_order() -> None:
    """Segments that come in any order, twice, overlapping, or again with more (RFC 9293, 3.10)."""
    talk = Talk().open()
    start = talk.next[MTA]
    said_all = OFFER
    for first, last in ((12, 17), (5, 12), (0, 3), (0, 3), (2, 9), (0, 17), (16, 17)):
        talk.segment(MTA, start + first, said_all[first:last])
    talk.next[MTA] += 17
    talk.say(FILTER, ANSWER).say(MTA, HELO).say(FILTER, C).say(MTA, packet("Q")).close()
    assert EXPECTED == said(read(pcap(talk.sent))[0])


def test_shuffled() -> None:
    """The end may be seen before what it ends."""
    sent = ordinary().sent
    swapped = [*sent[:7], sent[8], sent[7], *sent[9:]]  # MTA's FIN, and its Q before it
    assert EXPECTED == said(read(pcap(swapped))[0])


def test_sequence_numbers_begin_anew() -> None:
    """They count up to 2**32, and then from 0."""
    talk = Talk(start=(2**32 - 10, 2**32 - 3)).open()
    talk.say(MTA, OFFER).say(FILTER, ANSWER).say(MTA, HELO).say(FILTER, C)
    talk.say(MTA, packet("Q")).close()
    assert EXPECTED == said(read(pcap(talk.sent))[0])


def test_twice() -> None:
    """A capture on all interfaces has everything of the loopback twice."""
    twice = [each for sent in ordinary().sent for each in (sent, sent)]
    assert EXPECTED == said(read(pcap(twice))[0])


def test_keepalive_and_padding() -> None:
    """A probe with a byte from before, and what pads a short frame, are no data."""
    talk = Talk().open().say(MTA, OFFER)
    talk.segment(MTA, talk.next[MTA] - 1, b"\0")
    talk.say(FILTER, ANSWER).say(MTA, HELO).say(FILTER, C).say(MTA, packet("Q")).close()
    assert EXPECTED == said(read(pcap(talk.sent))[0])


def test_missing_segment() -> None:
    """What the other side has acknowledged, and we have not, is missing: told, and read around."""
    talk = Talk().open().say(MTA, OFFER).say(FILTER, ANSWER)
    talk.say(MTA, HELO)
    del talk.sent[-1]
    talk.say(MTA, packet("M", b"<a@b>\0"))
    talk.say(FILTER, C + C).say(MTA, packet("Q")).close()
    records, _ = read(pcap(talk.sent))
    assert [
        *EXPECTED[:2],
        ("gap", MTA, b""),
        ("broken", MTA, packet("M", b"<a@b>\0")),
        ("packet", FILTER, b"c"),
        ("packet", FILTER, b"c"),
        ("broken", MTA, packet("Q")),
        *EXPECTED[-2:],
    ] == said(records)
    assert ["8 bytes were not captured"] == [r.text for r in records if r.kind == "gap"]


def test_snapped() -> None:
    """Of packets that were captured in part, what is missing is told."""
    talk = (
        Talk().open().say(MTA, OFFER).say(FILTER, ANSWER).say(MTA, packet("B", b"x" * 99), cut=90)
    )
    records, _ = read(pcap(talk.sent, 101, wrap=lambda frame: frame))
    assert ("broken", MTA, b"\0\0\0\x64Bxxxxxxxxx") == said(records)[2]
    assert ["90 bytes were not captured"] == [r.text for r in records if r.kind == "gap"]


def test_large_segments() -> None:
    """IP packets without a length, which the network card was to cut."""
    talk = ordinary()
    talk.sent = [(frame[:2] + b"\0\0" + frame[4:], cut) for frame, cut in talk.sent]
    assert EXPECTED == said(read(pcap(talk.sent, 101, wrap=lambda frame: frame))[0])


def test_what_is_no_tcp() -> None:
    """UDP, fragments, heads that are cut or lie: nothing of it is looked at."""
    frame, _ = ordinary().sent[3]
    odd = [
        frame[:9] + b"\x11" + frame[10:],
        frame[:6] + b"\x20\0" + frame[8:],
        frame[:30],
        frame[:3],
        b"\x41" + frame[1:],
        b"\x50" + frame[1:],
        frame[:36] + b"\0" + frame[37:],
        b"",
    ]
    sent = [(each, 0) for each in odd]
    for link in (1, 101):
        wrap = None if link == 1 else LINKS[101]
        usable = [each for each in sent if each[0] or link == 101]
        records, capture = read(pcap([*usable, *ordinary().sent], link, wrap=wrap))
        assert (EXPECTED, []) == (said(records), capture.warnings)


def test_unknown_link_type() -> None:
    """It is said that packets were not read, and why."""
    records, capture = read(pcap(ordinary().sent, 147))
    assert [] == records
    assert ["c.pcap: 11 packets of unknown link type 147"] == capture.warnings


@pytest.mark.parametrize("who", [MTA, FILTER])
def test_reset(who: str) -> None:
    """A reset ends both directions."""
    talk = Talk().open().say(MTA, OFFER).say(FILTER, ANSWER).say(who, b"", RST)
    talk.say(FILTER if who == MTA else MTA, b"", RST)
    records, _ = read(pcap(talk.sent))
    assert [*EXPECTED[:2], ("reset", who, b""), ("cut", "", b"")] == said(records)


def test_port_used_again() -> None:
    """Another connection between the same ends is another, whether the first was closed or not."""
    first = Talk().open().say(MTA, OFFER)
    second = Talk(start=(900000, 700000)).open().say(MTA, OFFER).say(FILTER, ANSWER).close()
    records, _ = read(pcap([*first.sent, *second.sent, *ordinary().sent]))
    assert ["packet", "cut", "packet", "packet", "end", "end", *["packet"] * 5, "end", "end"] == [
        each[0] for each in said(records)
    ]
    assert {1, 2, 3} == {record.connection for record in records}


# -- whose it is ---------------------------------------------------------------------------------


def test_other_connections() -> None:
    """What does not begin with an offer is left out, and counted."""
    talk = Talk().open().say(FILTER, b"220 mail.example.org ESMTP\r\n").say(MTA, b"EHLO x\r\n")
    records, capture = read(pcap(talk.close().sent))
    assert [] == records
    (warning,) = capture.warnings
    assert warning.startswith("c.pcap: 1 other TCP connection")
    assert "--port" in warning


def test_only_heads_were_captured() -> None:
    """A capture without data says of nothing what it is: left out and counted, not waited for."""
    talk = Talk().open()
    for data in (OFFER, HELO):
        talk.say(MTA, data, cut=len(data)).say(FILTER, data, cut=len(data))
    data = pcap(talk.sent, 101, wrap=lambda frame: frame)
    records, capture = read(data)
    assert [] == records
    (warning,) = capture.warnings
    assert warning.startswith("c.pcap: 1 other TCP connection")
    (pair,) = capture._pairs.values()
    assert [] == pair.waiting
    assert 4 == [each[0] for each in said(read(data, FILTER_PORT)[0])].count("gap")


def test_what_never_comes_is_not_waited_for() -> None:
    """Behind a hole no more is held than there is room for, even where nothing has data."""
    talk = Talk().open().say(MTA, OFFER)
    start = talk.next[MTA]
    for number in range(1, 5000):  # each second one is missing, and nobody acknowledges
        talk.segment(MTA, start + 20 * number, b"x" * 10, cut=10)
    records, _ = read(pcap(talk.sent, 101, wrap=lambda frame: frame))
    (end,) = [each.time for each in records if each.kind == "cut"]
    assert any(each.kind == "gap" and each.time < end for each in records)


def test_connections_that_are_over_are_forgotten() -> None:
    """A capture that goes on for weeks does not fill the memory."""
    sent: list[Sent] = []
    for number in range(1, 1501):
        talk = Talk((number * 100000, number * 100000))  # the port is used again
        talk.say(MTA, b"x", FIN).say(FILTER, b"", FIN)
        port = struct.pack(">H", 1024 + number)
        sent += [
            (frame.replace(struct.pack(">H", MTA_PORT), port), cut) for frame, cut in talk.sent
        ]
    _, capture = read(pcap(sent, 101, wrap=lambda frame: frame))
    assert len(capture._pairs) <= 1000
    assert "1500 other TCP connections" in capture.warnings[0]


def test_absurd_times(tmp_path: Path) -> None:
    """Times that no recording can have become the latest that it can have."""
    data = bytearray(pcapng(ordinary().sent[:-1]))
    (size,) = struct.unpack("<I", data[-4:])
    high = len(data) - size + 12  # half of the last packet's time
    data[high : high + 4] = b"\xff\xff\xff\xff"
    records, _ = read(bytes(data))
    assert 1e12 == max(each.time for each in records)
    with Writer(tmp_path / "s.rec", Head("x")) as writer:
        writer.write(*records)
    with open(tmp_path / "s.rec", "rb") as file:
        assert records == list(Reader(file, "s.rec"))


def test_offer_in_pieces() -> None:
    """It is waited for."""
    talk = Talk().open()
    for at in range(17):
        talk.say(MTA, OFFER[at : at + 1])
    talk.say(FILTER, ANSWER).say(MTA, HELO).say(FILTER, C).say(MTA, packet("Q")).close()
    assert EXPECTED == said(read(pcap(talk.sent))[0])


def test_under_way() -> None:
    """With the filter's port, a connection that had begun before is read from where it is."""
    sent = ordinary().sent[5:]
    assert [] == read(pcap(sent))[0]
    records, _ = read(pcap(sent), FILTER_PORT)
    assert [("gap", MTA, b""), *EXPECTED[2:]] == said(records)
    assert "the beginning was not captured" == records[1].text
    assert [] == read(pcap(sent), 25)[0]


def test_port_says_whose() -> None:
    """The port turns round who is who, and its connections begin as they like."""
    records, _ = read(WHOLE, MTA_PORT)
    assert [FILTER, MTA] == [each[1] for each in said(records)][:2]


# -- tcpdump -------------------------------------------------------------------------------------


def _tcpdump(path: Path, interface: str, port: int) -> subprocess.Popen[bytes]:
    """tcpdump, once it captures."""
    child = subprocess.Popen(
        ["tcpdump", "-i", interface, "-U", "-w", str(path), f"tcp port {port}"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"},
    )
    assert child.stderr is not None
    line = b""
    while b"listening on" not in line:
        line = child.stderr.readline()
        if not line:
            child.wait(PATIENCE)
            child.stderr.close()
            pytest.skip("missing: the right to capture with tcpdump")
    return child


@pytest.mark.parametrize("interface", ["lo", "any"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcpdump(interface: str, host: str, tmp_path: Path) -> None:
    """What tcpdump has written of a conversation is that conversation, larger packets too."""
    if shutil.which("tcpdump", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        pytest.skip("missing: tcpdump (apt-get install tcpdump)")
    if sys.platform != "linux":
        pytest.skip("other interfaces than Linux's")
    path = tmp_path / "c.pcap"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("missing: IPv6 on loopback")
    body = packet("B", b"0123456789" * 6553)
    with server:
        server.settimeout(PATIENCE)
        child = _tcpdump(path, interface, server.getsockname()[1])
        try:
            with socket.create_connection((host, server.getsockname()[1]), PATIENCE) as ours:
                theirs, _ = server.accept()
                with theirs:
                    for sender, sink, data in (
                        (ours, theirs, OFFER),
                        (theirs, ours, ANSWER),
                        (ours, theirs, body),
                        (theirs, ours, C),
                    ):
                        threading.Thread(target=sender.sendall, args=(data,)).start()
                        left = len(data)
                        while left:
                            left -= len(sink.recv(left))
            _await_end(path)
        finally:
            child.terminate()
            child.wait(PATIENCE)
            assert child.stderr is not None
            child.stderr.close()
    records = mta.Recording.read(path).connections[0].records
    assert [
        ("packet", MTA, OFFER[4:]),
        ("packet", FILTER, ANSWER[4:]),
        ("packet", MTA, body[4:]),
        ("packet", FILTER, b"c"),
    ] == said(records)[:4]
    assert {"end", "reset", "cut"} >= {each[0] for each in said(records)[4:]}


def _await_end(path: Path) -> None:
    """Waits until both ends of the only connection are in the file."""
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            ends = sum(
                record.kind in ("end", "reset")
                for record in mta.Recording.read(path).connections[0].records
            )
        except (mta.RecordingError, OSError, IndexError):
            ends = 0
        if ends == 2:
            return
        time.sleep(0.05)
    raise AssertionError("tcpdump has not written it")
