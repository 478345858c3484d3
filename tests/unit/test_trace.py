"""What packets say, what is wrong with them, and recordings: bytes by hand from the wire spec."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, Optional

import pytest
from mta_support import ALL, OFFER, C, hexed, options, packet

from Milter import _recording as recording
from Milter import mta
from Milter._trace import FILTER, MTA, Record, Shown, Style, Tap, Watch, say, without_content

# The examples of wire spec 1.3 and 1.4, and what they say there.
COMMANDS = [
    (
        "00 00 00 0D 4F 00 00 00 06 00 00 01 FF 00 1F FF FF",
        "optneg",
        "version 6, actions ADDHDRS|CHGBODY|ADDRCPT|DELRCPT|CHGHDRS|QUARANTINE|CHGFROM|ADDRCPT_PAR|"
        "SETSYMLIST, protocol NOCONNECT|NOHELO|NOMAIL|NORCPT|NOBODY|NOHDRS|NOEOH|NR_HDR|NOUNKNOWN|"
        "NODATA|SKIP|RCPT_REJ|NR_CONN|NR_HELO|NR_MAIL|NR_RCPT|NR_DATA|NR_UNKN|NR_EOH|NR_BODY|"
        "HDR_LEADSPC",
    ),
    ("00 00 00 07 44 43 6A 00 6D 78 00", "macro", "for connect: j=mx"),
    ("00 00 00 02 44 48", "macro", "for helo: none"),
    (
        "00 00 00 13 43 68 2E 65 78 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00",
        "connect",
        "h.ex [192.0.2.1]:1234",
    ),
    (
        "00 00 00 0F 43 68 00 36 00 19 49 50 76 36 3A 3A 3A 31 00",
        "connect",
        "h [IPv6:::1]:25",
    ),
    ("00 00 00 09 43 68 00 4C 00 00 2F 73 00", "connect", "h [/s]"),
    ("00 00 00 0C 43 6C 6F 63 61 6C 68 6F 73 74 00 55", "connect", "localhost [unknown]"),
    ("00 00 00 06 48 63 2E 65 78 00", "helo", "c.ex"),
    ("00 00 00 0E 4D 3C 61 40 62 3E 00 53 49 5A 45 3D 39 00", "mail", "<a@b> SIZE=9"),
    ("00 00 00 07 52 3C 63 40 64 3E 00", "rcpt", "<c@d>"),
    ("00 00 00 01 54", "data", ""),
    ("00 00 00 0C 4C 53 75 62 6A 65 63 74 00 68 69 00", "header", "Subject: hi"),
    ("00 00 00 08 4C 58 00 61 0A 09 62 00", "header", r"X: a\n\tb"),
    ("00 00 00 01 4E", "eoh", ""),
    ("00 00 00 05 42 68 69 0D 0A", "body", r"4 bytes: hi\r\n"),
    ("00 00 00 01 45", "eom", ""),
    ("00 00 00 03 45 68 69", "eom", "2 bytes: hi"),
    ("00 00 00 01 41", "abort", ""),
    ("00 00 00 01 51", "quit", ""),
    ("00 00 00 01 4B", "quit_nc", ""),
    ("00 00 00 09 55 46 4F 4F 20 62 61 72 00", "unknown", "FOO bar"),
]
REPLIES = [
    (
        "00 00 00 13 4F 00 00 00 06 00 00 00 01 00 00 04 00 00 00 00 03 69 00",
        "optneg",
        "version 6, actions ADDHDRS, protocol SKIP, macros at rcpt: i",
    ),
    ("00 00 00 01 63", "continue", ""),
    ("00 00 00 01 61", "accept", ""),
    ("00 00 00 01 72", "reject", ""),
    ("00 00 00 01 74", "tempfail", ""),
    ("00 00 00 01 64", "discard", ""),
    ("00 00 00 01 73", "skip", ""),
    ("00 00 00 01 70", "progress", ""),
    ("00 00 00 0E 79 35 35 30 20 35 2E 37 2E 31 20 6E 6F 00", "reply", "550 5.7.1 no"),
    (
        "00 00 00 1A 79 35 35 30 2D 35 2E 37 2E 31 20 61 0D 0A 35 35 30 20 35 2E 37 2E 31 20 62 00",
        "reply",
        r"550-5.7.1 a\r\n550 5.7.1 b",
    ),
    ("00 00 00 05 68 58 00 76 00", "", "add header X: v"),
    ("00 00 00 09 69 00 00 00 00 58 00 76 00", "", "insert header at 0: X: v"),
    ("00 00 00 09 6D 00 00 00 01 58 00 76 00", "", "change header 1 of X: v"),
    ("00 00 00 08 6D 00 00 00 01 58 00 00", "", "delete header 1 of X"),
    ("00 00 00 05 62 68 69 0D 0A", "", r"replace body: 4 bytes: hi\r\n"),
    ("00 00 00 01 62", "", "replace body: 0 bytes"),
    ("00 00 00 07 2B 3C 72 40 65 3E 00", "", "add recipient <r@e>"),
    (
        "00 00 00 14 32 3C 72 40 65 3E 00 4E 4F 54 49 46 59 3D 4E 45 56 45 52 00",
        "",
        "add recipient <r@e> NOTIFY=NEVER",
    ),
    ("00 00 00 07 2D 3C 72 40 65 3E 00", "", "delete recipient <r@e>"),
    (
        "00 00 00 0E 65 3C 6E 40 65 3E 00 53 49 5A 45 3D 31 00",
        "",
        "change sender <n@e> SIZE=1",
    ),
    ("00 00 00 05 71 77 68 79 00", "", "quarantine: why"),
]


@pytest.mark.parametrize(
    ("sender", "frame", "title", "text"),
    [(MTA, *row) for row in COMMANDS] + [(FILTER, *row) for row in REPLIES],
)
def test_words(sender: str, frame: str, title: str, text: str) -> None:
    """Each packet of the wire spec's examples says what stands beside it there."""
    said = say(sender, hexed(frame)[4:])
    assert said is not None
    assert (title, text) == (said.title, said.text)


@pytest.mark.parametrize(
    ("sender", "data"),
    [
        (MTA, packet("X")),
        (MTA, packet("c")),
        (FILTER, packet("C")),
        (MTA, packet("H", b"no end")),
        (MTA, packet("O", b"\0\0\0\6")),
        (FILTER, packet("c", b"x")),
        (FILTER, packet("h", b"X\0")),
        (FILTER, packet("y", b"550 no")),
    ],
)
def test_no_words(sender: str, data: bytes) -> None:
    """What is of the other side, unknown or malformed says nothing."""
    assert say(sender, data[4:]) is None


def test_terminals_are_not_attacked() -> None:
    """Control characters, line ends, what turns text around, and bytes that are no UTF-8."""
    said = say(MTA, packet("L", b"X\0\x1b]0;pwned\x07\xff\xe2\x80\xae\r\nb\0")[4:])
    assert said is not None
    assert r"X: \x1b]0;pwned\x07\udcff\u202e\r\nb" == said.text
    for data in (packet("D", b"C\x1b[2J\0\x1b[2J\0"), packet("M", b"<\x1b[2J>\0\x9b1m\0")):
        said = say(MTA, data[4:])
        assert said is not None
        assert said.text.isprintable()


def test_long_ones_are_cut() -> None:
    """Of a long value or body the beginning, and how long it is; with `full` all of it."""
    header = packet("L", b"X\0" + b"v" * 1000 + b"\0")[4:]
    body = packet("B", b"b" * 65535)[4:]
    for data, expected in (
        (header, f"X: {'v' * 200}... (1000 characters)"),
        (body, f"65535 bytes: {'b' * 60}..."),
    ):
        short, whole = say(MTA, data), say(MTA, data, Style(full=True))
        assert short is not None
        assert whole is not None
        assert expected == short.text
        assert whole.text.count(expected[3 if data is header else 13]) >= len(data) - 10


def test_without_content() -> None:
    """Values and bodies are written over, of the same length and folded where they were."""

    def left(sender: str, letter: str, data: bytes) -> bytes:
        record = Record(1, 0.0, "packet", sender, packet(letter, data)[4:])
        return without_content(record).data[1:]

    assert b"Subject\0xxxx\n\txx\0" == left(MTA, "L", b"Subject\0love\n\tme\0")
    assert b"X\0\0" == left(MTA, "L", b"X\0\0")
    assert b"xx\r\nxxxx" == left(MTA, "B", b"hi\r\n\xff\0 a")
    assert b"xxx" == left(MTA, "E", b"end")
    assert b"\0\0\0\2X\0xxx\0" == left(FILTER, "m", b"\0\0\0\2X\0abc\0")
    assert b"\0\0\0\2X\0\0" == left(FILTER, "m", b"\0\0\0\2X\0\0")
    assert b"\0\0\0\0X\0xxx\0" == left(FILTER, "i", b"\0\0\0\0X\0abc\0")
    assert b"X\0xxx\0" == left(FILTER, "h", b"X\0abc\0")
    assert b"xx\r\n" == left(FILTER, "b", b"hi\r\n")
    # Nobody knows what is in these.
    assert b"xxxxxx" == left(MTA, "L", b"secret")
    assert b"xxxxxx" == left(MTA, "Z", b"secret")
    for sender, letter, data in (
        (MTA, "M", b"<a@b>\0SIZE=9\0"),
        (MTA, "D", b"Mi\x004A\0"),
        (MTA, "C", b"h\x004\0\x19127.0.0.1\0"),
        (FILTER, "y", b"550 5.7.1 no\0"),
        (FILTER, "q", b"why\0"),
        (FILTER, "c", b""),
    ):
        assert data == left(sender, letter, data)
    broken = Record(1, 0.0, "broken", MTA, b"\0\0\0\x0bLX\0secret")
    assert b"\0\0\0\x0bLxxxxxxxx" == without_content(broken).data
    assert Record(1, 0.0, "end", MTA) == without_content(Record(1, 0.0, "end", MTA))


def test_content_out_of_place() -> None:
    """What people write is written over where it does not belong, too."""

    def left(kind: str, data: bytes, sender: str = MTA) -> bytes:
        return without_content(Record(1, 0.0, kind, sender, data)).data

    # Behind bytes that were no packet, or that are missing, packets begin anywhere.
    for sender in (MTA, FILTER):
        assert b"xxxxxx\r\nxxx" == left("broken", b"secret\r\nour", sender)
        assert b"xxx" == left("broken", b"our", sender)
        assert b"xxxxxxx" == left("broken", b"\0s\0e\0c\0", sender)
    # A client that goes on with its message although it was told not to.
    assert b"Uxxxxxx\0" == left("packet", b"Usecret\0")
    # What stands behind a packet that has nothing to say.
    for letter in (b"T", b"N", b"A", b"Q", b"K"):
        assert letter + b"xxxxxx" == left("packet", letter + b"secret")


# -- bytes to records ----------------------------------------------------------------------------


def taken(data: bytes, size: int) -> list[tuple[str, bytes]]:
    """What becomes of bytes of the MTA's that come in pieces of that size, and then the end."""
    tap = Tap(1)
    records = []
    for at in range(0, len(data), size):
        records += tap.feed(MTA, data[at : at + size], 0.0)
    records += tap.end(MTA, 0.0)
    return [(record.kind, record.data) for record in records]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces(size: int) -> None:
    """How the bytes were cut makes no difference to the packets."""
    frames = [hexed(row[0]) for row in COMMANDS]
    expected = [("packet", frame[4:]) for frame in frames]
    assert [*expected, ("end", b"")] == taken(b"".join(frames), size)


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\0\0\0Q",  # a length counts the letter (wire spec 1.1)
        b"\x80\0\0\0Q",
        b"\0\x50\0\1Q",  # 5 MiB
        b"\0\0\0",
        b"\0\0\0\5Bhi",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_no_packets(broken: bytes) -> None:
    """What is no packet is kept byte by byte, what stood before it too."""
    found = taken(C + broken, 1000)
    assert [("packet", b"c"), ("end", b"")] == [found[0], found[-1]]
    assert {"broken"} == {kind for kind, _ in found[1:-1]}
    assert broken == b"".join(data for _, data in found[1:-1])


def test_ends_count_once() -> None:
    """An end, a reset and a cut are told once, and what was begun before them is not lost."""
    tap = Tap(3)
    assert [] == tap.feed(FILTER, b"\0\0", 1.0)
    assert [
        Record(3, 2.0, "broken", FILTER, b"\0\0"),
        Record(3, 2.0, "reset", FILTER),
    ] == tap.end(FILTER, 2.0, "reset")
    assert [] == tap.end(FILTER, 3.0)
    assert [Record(3, 3.0, "cut", text="x")] == tap.cut(3.0, "x")
    assert [] == tap.cut(4.0, "x")
    assert [] == tap.end(MTA, 4.0)


# -- what is wrong -------------------------------------------------------------------------------


def seen(*packets: tuple[str, bytes], times: Optional[list[float]] = None) -> list[Shown]:
    """What a watch says to packets with their frames, one after the other."""
    watch = Watch()
    moments = times or [0.0] * len(packets)
    return [
        watch.see(Record(1, when, "packet", sender, data[4:]))
        for (sender, data), when in zip(packets, moments)
    ]


def begun(protocol: int = 0, actions: int = 0x1FF) -> list[tuple[str, bytes]]:
    """A negotiation."""
    return [(MTA, OFFER), (FILTER, options(actions=actions, protocol=protocol))]


MAIL = packet("M", b"<a@b>\0")
RCPT = packet("R", b"<c@d>\0")
CONTENT = [(MTA, MAIL), (FILTER, C), (MTA, RCPT), (FILTER, C)]
HEADER = packet("L", b"X\0y\0")


@pytest.mark.parametrize(
    ("dialogue", "problem"),
    [
        ([*begun(), (FILTER, C)], "CONTINUE although nothing was asked"),
        ([*begun(), (FILTER, packet("Z"))], "a packet of unknown type 'Z'"),
        ([*begun(), *CONTENT, (MTA, packet("E")), (FILTER, packet("h", b"X"))], "a malformed ADDH"),
        ([*begun(), *CONTENT, (MTA, packet("E")), (FILTER, packet("4"))], "SHUTDOWN in answer to"),
        ([*begun(), (MTA, MAIL), (FILTER, packet("h", b"X\0y\0"))], "ADDHEADER in answer to mail"),
        (
            [*begun(actions=0), *CONTENT, (MTA, packet("E")), (FILTER, packet("h", b"X\0y\0"))],
            "ADDHEADER without ADDHDRS negotiated",
        ),
        ([*begun(), (MTA, MAIL), (FILTER, packet("s"))], "SKIP in answer to mail"),
        ([*begun(), (MTA, MAIL), (FILTER, packet("y", b"250 ok\0"))], "reply text"),
        ([(MTA, OFFER), (FILTER, options(version=7))], "protocol version 7; 6 was offered"),
        ([(MTA, OFFER), (FILTER, C)], "CONTINUE in answer to the offer"),
        ([*begun(), (MTA, HEADER)], "HEADER outside a message"),
        ([*begun(), (MTA, packet("X"))], "no such command"),
        ([*begun(), (MTA, packet("M", b"<a@b>"))], "a malformed MAIL"),
        ([*begun(), (MTA, OFFER)], "negotiated already"),
        ([*begun(), (MTA, packet("H", b"x\0")), (MTA, MAIL)], "sent before the answer to helo"),
        ([*begun(0x2), (MTA, packet("H", b"x\0"))], "although it was agreed not to"),
        ([*begun(), (MTA, packet("Q")), (MTA, MAIL)], "QUIT was sent"),
        ([*begun(), *CONTENT, (MTA, packet("B", b"x" * 65536))], "more than the 65535"),
    ],
)
def test_problems(dialogue: list[tuple[str, bytes]], problem: str) -> None:
    """The last packet is against the rules, with its bytes; none before it is."""
    *before, last = seen(*dialogue)
    assert [] == [each.problem for each in before if each.problem]
    assert last.problem is not None
    assert problem in last.problem
    assert "; packet: 00 0" in last.problem


def test_what_is_wrong_stands_alone() -> None:
    """After something wrong the rest is judged as if it was not there."""
    found = seen(
        *begun(),
        (MTA, MAIL),
        (FILTER, packet("Z")),
        (FILTER, C),
        (MTA, packet("X")),
        (MTA, RCPT),
        (FILTER, C),
        (MTA, packet("E")),
        (FILTER, packet("h", b"X\0y\0")),
        (FILTER, packet("a")),
        (MTA, packet("Q")),
    )
    assert [4, 6] == [each.packet for each in found if each.problem]


@pytest.mark.parametrize(
    "change", [packet("b", b"x" * 65535), packet("h", b"X\0y\0")], ids=["body", "headers"]
)
def test_changes_without_end(change: bytes) -> None:
    """A new body of any size, and any number of headers, is legal: nothing is kept of it here."""
    end = [(MTA, packet("E")), *[(FILTER, change)] * 1500, (FILTER, C)]
    assert [] == [each.packet for each in seen(*begun(), *CONTENT, *end) if each.problem]


@pytest.mark.parametrize("macros", [True, False])
def test_steps_that_are_not_sent(macros: bool) -> None:
    """Where MAIL and RCPT are not sent, nobody misses them."""
    before = [(MTA, packet("D", b"M"))] if macros else []
    message = [*before, (MTA, HEADER), (FILTER, C), (MTA, packet("E")), (FILTER, C)]
    watch = Watch()
    shown = [
        watch.see(Record(1, 0.0, "packet", sender, data[4:]))
        for sender, data in [*begun(0x0C), *message, *message]
    ]
    assert [] == [each.problem for each in shown if each.problem]
    assert 2 == watch.figures.messages


def test_answers_that_are_not_sent() -> None:
    """NR_HDR: headers are not answered, and the end of the message is."""
    found = seen(
        *begun(0x80),
        *CONTENT,
        (MTA, HEADER),
        (MTA, HEADER),
        (MTA, packet("E")),
        (FILTER, C),
    )
    assert [] == [each.problem for each in found if each.problem]
    assert ["optneg", "mail", "rcpt", "eom"] == [each.answers for each in found if each.answers]


@pytest.mark.parametrize(
    ("kind", "sender"),
    [("end", FILTER), ("end", MTA), ("reset", FILTER), ("reset", MTA), ("cut", "")],
)
def test_what_was_not_answered(kind: str, sender: str) -> None:
    """A filter that goes instead of answering, or an MTA that waits no more: said once."""
    watch = Watch()
    for who, data in [*begun(), (MTA, MAIL), (FILTER, C), (MTA, RCPT), (FILTER, packet("p"))]:
        watch.see(Record(1, 5.0, "packet", who, data[4:]))
    found = watch.see(Record(1, 305.0, kind, sender))
    assert ("rcpt", 300.0) == (found.unanswered, found.waited)
    again = watch.see(Record(1, 306.0, "end", MTA if sender == FILTER else FILTER))
    assert again.unanswered is None
    assert 1 == watch.figures.unanswered


@pytest.mark.parametrize("last", [C, packet("a"), packet("r"), packet("y", b"550 no\0")])
def test_what_was_answered(last: bytes) -> None:
    """Who has answered may go, and so may an MTA that owes nobody an answer."""
    watch = Watch()
    for who, data in [
        *begun(),
        (MTA, MAIL),
        (FILTER, last),
        (MTA, packet("A")),
        (MTA, packet("Q")),
    ]:
        found = watch.see(Record(1, 5.0, "packet", who, data[4:]))
    for sender in (MTA, FILTER):
        found = watch.see(Record(1, 9.0, "end", sender))
        assert found.unanswered is None
    assert 0 == watch.figures.unanswered


def test_times() -> None:
    """Since the connection began, since the record before, and how long an answer took."""
    moments = [10.0, 10.5, 11.0, 13.0, 13.5, 14.0, 20.0, 20.0]
    found = seen(
        *begun(),
        (MTA, MAIL),
        (FILTER, packet("p")),
        (FILTER, C),
        (MTA, RCPT),
        (FILTER, packet("t")),
        (MTA, packet("Q")),
        times=moments,
    )
    assert [0.0, 0.5, 1.0, 3.0, 3.5, 4.0, 10.0, 10.0] == [each.elapsed for each in found]
    assert [0.0, 0.5, 0.5, 2.0, 0.5, 0.5, 6.0, 0.0] == [each.since for each in found]
    assert [("optneg", 0.5), ("mail", 2.5), ("rcpt", 6.0)] == [
        (each.answers, each.took) for each in found if each.answers
    ]


def test_the_beginning_is_missing() -> None:
    """Of a conversation under way nobody says that it breaks rules; answers are timed."""
    found = seen((MTA, HEADER), (FILTER, packet("s")), (MTA, packet("E")), (FILTER, C), (FILTER, C))
    assert [] == [each.problem for each in found if each.problem]
    assert ["header", "eom"] == [each.answers for each in found if each.answers]


# -- recordings ----------------------------------------------------------------------------------

HEAD = recording.Head("2026-11-21T13:35:00.000000Z")
FIRST = (
    b'{"format": "milter-recording", "version": 1, "began": "2026-11-21T13:35:00.000000Z", '
    b'"content": true}\n'
)
SECOND = b'{"connection":1,"time":0,"what":"end","from":"mta"}\n'


def read(data: bytes) -> tuple[list[Record], list[str]]:
    """The records in a recording's bytes, and the warnings."""
    reader = recording.Reader(io.BytesIO(data), "f.rec")
    return list(reader), reader.warnings


def test_format() -> None:
    """Lines by hand, as docs/cli.md describes them."""
    lines = [
        '{"connection": 1, "time": 0, "what": "open", "text": "a to b", "new": [1]}',
        '{"connection":1,"time":0.0123,"what":"packet","from":"mta","letter":"H","data":"mx\\u0000"}',
        '{"connection":1,"time":1,"what":"packet","from":"filter","letter":"\\udcff","data":""}',
        '{"connection":1,"time":1.5,"what":"broken","from":"mta","data":"\\udcffä😀\\udcfe"}',
        '{"connection":1,"time":2,"what":"gap","from":"mta","text":"9 bytes"}',
        '{"connection":1,"time":2,"what":"end","from":"mta"}',
        '{"connection":1,"time":2,"what":"reset","from":"filter"}',
        '{"connection":2,"time":2,"what":"failed","text":"no"}',
        '{"connection":2,"time":2,"what":"cut","text":"over"}',
    ]
    data = FIRST + "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    assert (
        [
            Record(1, 0.0, "open", text="a to b"),
            Record(1, 0.0123, "packet", MTA, b"Hmx\0"),
            Record(1, 1.0, "packet", FILTER, b"\xff"),
            Record(1, 1.5, "broken", MTA, b"\xff\xc3\xa4\xf0\x9f\x98\x80\xfe"),
            Record(1, 2.0, "gap", MTA, text="9 bytes"),
            Record(1, 2.0, "end", MTA),
            Record(1, 2.0, "reset", FILTER),
            Record(2, 2.0, "failed", text="no"),
            Record(2, 2.0, "cut", text="over"),
        ],
        [],
    ) == read(data)


def test_written(tmp_path: Path) -> None:
    """A line is in the file as soon as it is written; only the owner may read it."""
    path = tmp_path / "s.rec"
    with recording.Writer(path, HEAD) as writer:
        assert FIRST == path.read_bytes()
        writer.write(Record(1, 0.01230049, "packet", MTA, b"Hmx\xff\0"))
        _, second = path.read_bytes().splitlines()
        assert {
            "connection": 1,
            "time": 0.0123,
            "what": "packet",
            "from": "mta",
            "letter": "H",
            "data": "mx\udcff\0",
        } == json.loads(second)
        assert second.isascii()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(FileExistsError):
        recording.Writer(path, HEAD)
    assert 2 == path.read_bytes().count(b"\n")


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for which there is no room is absent, and nothing is written behind it."""
    path = tmp_path / "s.rec"
    real = os.write
    with recording.Writer(path, HEAD) as writer:
        writer.write(Record(1, 0.0, "end", MTA))
        before = path.read_bytes()
        room = [10]

        def write(descriptor: int, data: Any) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            size, room[0] = room[0], 0
            return real(descriptor, data[:size])

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            writer.write(Record(1, 0.0, "end", FILTER))
        monkeypatch.undo()
        writer.write(Record(1, 0.0, "end", FILTER))
    assert before == path.read_bytes()


@pytest.mark.parametrize("size", range(1, len(SECOND)))
def test_cut_off(size: int) -> None:
    """A last line that is not whole is read around, wherever it was cut."""
    records, warnings = read(FIRST + SECOND + SECOND[:size])
    if size == len(SECOND) - 1:  # but for its line end
        assert (2, []) == (len(records), warnings)
    else:
        assert (1, ["f.rec, line 3: cut off; the rest was read"]) == (len(records), warnings)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "line 1: no JSON object"),
        (b"\n", "line 1: no JSON object"),
        (b"[" * 100000, "line 1: no JSON object"),
        (b"[]\n", "line 1: no JSON object"),
        (b"{}\n", 'line 1: "format" is not "milter-recording"'),
        (FIRST.replace(b"1", b"2", 1), "line 1: version 2 of the format; known is 1"),
        (FIRST.replace(b": 1", b": true", 1), "line 1: version True of the format; known is 1"),
        (b'{"format":"milter-recording","version":1}\n', 'line 1: "began" or "content" is missing'),
        (FIRST + b"\xff\xfe\n" + SECOND, "line 2: no JSON object"),
        (FIRST + b"\0" * 1000 + b"\n", "line 2: no JSON object"),
        (FIRST + SECOND.replace(b"1", b"0", 1), 'line 2: "connection" is no number from 1 on'),
        (FIRST + SECOND.replace(b"1", b"1.5", 1), 'line 2: "connection" is no number from 1 on'),
        (FIRST + SECOND.replace(b"1", b"9" * 999, 1), 'line 2: "connection" is no number from 1'),
        (FIRST + SECOND.replace(b":0", b":NaN"), 'line 2: "time" is no number of seconds'),
        (FIRST + SECOND.replace(b":0", b":true"), 'line 2: "time" is no number of seconds'),
        (FIRST + SECOND.replace(b":0", b":-1"), 'line 2: "time" is no number of seconds'),
        (FIRST + SECOND.replace(b"end", b"x"), "line 2: \"what\" is 'x', none of open, packet"),
        (FIRST + SECOND.replace(b"mta", b"me"), 'line 2: "from" is neither "mta" nor "filter"'),
        (FIRST + SECOND.replace(b"end", b"packet"), "line 2: bytes are a string"),
        (
            FIRST
            + b'{"connection":1,"time":0,"what":"packet","from":"mta","letter":"","data":""}\n',
            "line 2: a letter is one byte",
        ),
        (
            FIRST + b'{"connection":1,"time":0,"what":"broken","from":"mta","data":"\\ud800"}\n',
            'line 2: "data" has a character that stands for no byte',
        ),
        (FIRST + SECOND.replace(b"end", b"cut"), 'line 2: "text" is missing'),
    ],
)
def test_garbage(data: bytes, text: str) -> None:
    """A file that is no recording is one line of error, with the number of the line."""
    with pytest.raises(mta.RecordingError) as error:
        read(data)
    assert str(error.value).startswith(f"f.rec, {text}")
    assert "\n" not in str(error.value)


def test_never_ending_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without an end is not read into memory for ever."""
    monkeypatch.setattr(recording, "_LINE", 1000)
    with pytest.raises(mta.RecordingError, match="line 1: too long"):
        read(b'{"' + b"x" * 2000)


def test_all() -> None:
    """The offer and the answer that everything else here begins with are no problem."""
    assert [None, None] == [each.problem for each in seen((MTA, OFFER), (FILTER, ALL))]
