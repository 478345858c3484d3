"""Recordings played to a filter again: what is sent, and what counts as another answer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Optional

import pytest
from mta_support import OFFER, PATIENCE, C, Simple, options, packet

import Milter
from Milter import mta
from Milter._recording import Head, Writer
from Milter._trace import FILTER, MTA, Record
from Milter.testing import thread

MAIL = packet("M", b"<a@b>\0")
RCPT = packet("R", b"<c@d>\0")
HEADER = packet("L", b"Subject\0hi\0")
BODY = packet("B", b"hello\r\n")
EOM = packet("E")
QUIT = packet("Q")
ABORT = packet("A")
ADD = packet("h", b"X-Seen\0yes\0")

Step = tuple[str, bytes]


def recording(path: Path, *connections: list[Step], content: bool = True) -> Path:
    """Writes a recording; a step without bytes is the end of its sender."""
    with Writer(path, Head("2026-11-21T13:35:00.000000Z", content)) as writer:
        for number, steps in enumerate(connections, 1):
            writer.write(Record(number, 0.0, "open", text="a to b"))
            for sender, data in steps:
                kind = "packet" if data else "end"
                writer.write(Record(number, 0.0, kind, sender, data[4:]))
    return path


def opened(protocol: int = 0, lists: bytes = b"", version: int = 6) -> list[Step]:
    """The negotiation."""
    return [(MTA, OFFER), (FILTER, options(version, protocol=protocol, lists=lists))]


MESSAGE: list[Step] = [
    (MTA, MAIL),
    (FILTER, C),
    (MTA, RCPT),
    (FILTER, C),
    (MTA, HEADER),
    (FILTER, C),
    (MTA, BODY),
    (FILTER, C),
    (MTA, EOM),
    (FILTER, ADD),
    (FILTER, C),
]
CLOSED: list[Step] = [(MTA, QUIT), (MTA, b""), (FILTER, b"")]


def played(
    place: Path, steps: list[Step], replies: Optional[dict[str, Any]] = None, **kind: Any
) -> tuple[list[str], list[mta.Difference]]:
    """Plays a connection to a filter with these answers: what that heard, and the differences."""
    content = kind.pop("content", True)
    path = recording(place / "s.rec", steps, content=content)
    kind.setdefault("timeouts", mta.Timeouts.all(PATIENCE))
    with Simple(place / "f", {"E": ADD + C, **(replies or {})}) as simple:
        differences = mta.Recording.read(path).play(simple.spec, **kind)
    return simple.letters, differences


def test_same(tmp_path: Path) -> None:
    """The filter hears what was recorded, byte by byte, and answers the same: no difference."""
    steps = [
        *opened(),
        (MTA, packet("D", b"Cj\0mx\0")),
        (MTA, packet("C", b"h\x004\0\x19192.0.2.1\0")),
        (FILTER, C),
        *MESSAGE,
        (MTA, ABORT),
        *CLOSED,
    ]
    writes = [data for sender, data in steps if sender == MTA]
    replies = {"E": [ADD + C]}
    path = recording(tmp_path / "s.rec", steps)
    with Simple(tmp_path / "f", replies) as simple:
        loaded = mta.Recording.read(path)
        assert [] == loaded.play(simple.spec)
    assert [data[4:] for data in writes if data] == simple.packets
    assert ("2026-11-21T13:35:00.000000Z", True, []) == (
        loaded.began,
        loaded.content,
        loaded.warnings,
    )
    (connection,) = loaded.connections
    assert (1, 18) == (connection.number, connection.packets)
    assert "open" == connection.records[0].kind


def test_another_verdict(tmp_path: Path) -> None:
    """Where, what was expected and what came; the rest of that message is left out."""
    reply = packet(
        "y", b"550 5.7.1 no\r\n550 5.7.1 way\0".replace(b"550 5.7.1 no", b"550-5.7.1 no")
    )
    heard, (difference,) = played(tmp_path, [*opened(), *MESSAGE, *CLOSED], {"L": reply})
    assert ["O", "M", "R", "L", "Q"] == heard
    assert (1, 7, "header", ("continue",), ("reject: 550-5.7.1 no", "550 5.7.1 way"), None) == (
        difference.connection,
        difference.packet,
        difference.step,
        difference.expected,
        difference.got,
        difference.error,
    )
    assert (
        "connection 1, packet 7, header: not answered as recorded (-), but (+)\n"
        "-continue\n"
        "+reject: 550-5.7.1 no\n"
        "+550 5.7.1 way"
    ) == str(difference)


def test_goes_on_with_the_next_message(tmp_path: Path) -> None:
    """After a message that was decided otherwise, the next one is played."""
    heard, differences = played(
        tmp_path,
        [*opened(), *MESSAGE, (MTA, ABORT), *MESSAGE, *CLOSED],
        {"L": [packet("a"), C]},
    )
    assert ["O", "M", "R", "L", "A", "M", "R", "L", "B", "E", "Q"] == heard
    assert [7] == [each.packet for each in differences]


def test_other_changes(tmp_path: Path) -> None:
    """Added, missing and other changes; in their order."""
    new = packet("m", b"\0\0\0\1Subject\0ho\0") + packet("h", b"X-Seen\0no\0") + C
    _, (difference,) = played(tmp_path, [*opened(), *MESSAGE, *CLOSED], {"E": new})
    assert [
        "-add header X-Seen: yes",
        "+change header 1 of Subject: ho",
        "+add header X-Seen: no",
        " continue",
    ] == difference.diff()


def test_another_body(tmp_path: Path) -> None:
    """The lines of a new body that differ; how it was cut into packets makes no difference."""
    steps = [*opened(), *MESSAGE[:-2], (FILTER, packet("b", b"one\r\ntwo\r\n")), (FILTER, C)]
    same = packet("b", b"one\r") + packet("b", b"\ntwo\r\n") + C
    assert [] == played(tmp_path, [*steps, *CLOSED], {"E": same})[1]
    (tmp_path / "s.rec").unlink()
    (tmp_path / "f").unlink()
    other = packet("b", b"one\r\nTWO\r\n") + C
    _, (difference,) = played(tmp_path, [*steps, *CLOSED], {"E": other})
    assert ["-  | two", "+  | TWO"] == [
        line for line in difference.diff() if line.startswith(("-", "+"))
    ]


def test_ignored_headers(tmp_path: Path) -> None:
    """The value of a header that changes every time; that there is one still counts."""
    steps = [*opened(), *MESSAGE, *CLOSED]
    new = {"E": packet("h", b"X-Seen\0another\0") + C}
    assert [] == played(tmp_path, steps, new, ignore=["x-seen"])[1]
    for name in ("s.rec", "f"):
        (tmp_path / name).unlink()
    assert 1 == len(played(tmp_path, steps, {"E": C}, ignore=["x-seen"])[1])


def test_without_content(tmp_path: Path) -> None:
    """Of a recording without content, names and lengths are compared."""
    blank = [(s, ADD.replace(b"yes", b"xxx")) if d == ADD else (s, d) for s, d in MESSAGE]
    steps = [*opened(), *blank, *CLOSED]
    assert [] == played(tmp_path, steps, content=False)[1]
    for name in ("s.rec", "f"):
        (tmp_path / name).unlink()
    longer = {"E": packet("h", b"X-Seen\0longer\0") + C}
    assert 1 == len(played(tmp_path, steps, longer, content=False)[1])


# -- the negotiation -----------------------------------------------------------------------------


def test_another_negotiation(tmp_path: Path) -> None:
    """It is said, and the steps that the filter does not want to hear of are left out."""
    heard, (difference,) = played(
        tmp_path, [*opened(), *MESSAGE, *CLOSED], {"O": options(protocol=0x10 | 0x400)}
    )
    assert ["O", "M", "R", "L", "E", "Q"] == heard
    assert (1, "optneg") == (difference.packet, difference.step)
    assert difference.expected[0].endswith("protocol none")
    assert difference.got[0].endswith("protocol NOBODY|SKIP")


def test_more_than_was_recorded(tmp_path: Path) -> None:
    """Steps that the filter wants now, and that were not recorded, are named."""
    steps = [*opened(0x20), *[step for step in MESSAGE if step[1] != HEADER]]
    del steps[6]  # the answer to it
    heard, (difference,) = played(tmp_path, [*steps, *CLOSED])
    assert ["O", "M", "R", "B", "E", "Q"] == heard
    assert "(not recorded, so not played: header)" == difference.got[1]


def test_mail_that_was_not_sent(tmp_path: Path) -> None:
    """Recorded with a filter that wants neither MAIL nor RCPT: the rest is played."""
    steps = [*opened(0x0C), *MESSAGE[4:], (MTA, ABORT), *MESSAGE[4:], *CLOSED]
    heard, differences = played(tmp_path, steps, {"O": options(protocol=0x0C), "E": [ADD + C, C]})
    assert ["O", "L", "B", "E", "A", "L", "B", "E", "Q"] == heard
    assert [15] == [each.packet for each in differences]


def test_answers_that_are_not_sent(tmp_path: Path) -> None:
    """Headers that are not answered, now or then, are as good as answered by CONTINUE."""
    no_answer = [step for number, step in enumerate(MESSAGE) if number != 5]
    _, (difference,) = played(tmp_path, [*opened(0x80), *no_answer, *CLOSED])
    assert "optneg" == difference.step
    for name in ("s.rec", "f"):
        (tmp_path / name).unlink()
    heard, (difference,) = played(
        tmp_path, [*opened(), *MESSAGE, *CLOSED], {"O": options(protocol=0x80), "L": b""}
    )
    assert ["O", "M", "R", "L", "B", "E", "Q"] == heard
    assert "optneg" == difference.step


def test_macro_lists(tmp_path: Path) -> None:
    """Other macros asked for are another negotiation; their order is not."""
    lists = b"\0\0\0\3i {rcpt_addr}\0"
    steps = [*opened(0, lists), *MESSAGE, *CLOSED]
    same = options(lists=b"\0\0\0\3{rcpt_addr} i\0")
    assert [] == played(tmp_path, steps, {"O": same})[1]
    for name in ("s.rec", "f"):
        (tmp_path / name).unlink()
    _, (difference,) = played(tmp_path, steps, {"O": options(lists=b"\0\0\0\3i\0")})
    assert difference.got[0].endswith("macros at rcpt: i")


# -- filters that fail ---------------------------------------------------------------------------


def waiting_for(header: Optional[bytes]) -> mta.Timeouts:
    """Not for long for that answer to a header, if it does not come; for as long as it takes else.

    The header is the first step that goes by this one.
    """
    return mta.Timeouts(content=0.2 if header == b"" else PATIENCE)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (None, mta.ConnectionLost, "the filter closed the connection"),
        (b"", mta.FilterTimeout, "no answer to header within 0.2 s"),
        (packet("Z"), mta.ProtocolError, "the filter sent a packet of unknown type 'Z'"),
        (
            packet("h", b"X\0y\0"),
            mta.ProtocolError,
            "the filter sent ADDHEADER in answer to header",
        ),
    ],
)
def test_failures(reply: Any, kind: type[mta.MilterError], text: str, tmp_path: Path) -> None:
    """A filter that fails now is a difference with the error, and the connection ends there."""
    heard, (difference,) = played(
        tmp_path,
        [*opened(), *MESSAGE, *CLOSED],
        {"L": reply},
        timeouts=waiting_for(reply),
    )
    assert ["O", "M", "R", "L"] == heard
    assert ("header", ("continue",)) == (difference.step, difference.expected)
    assert isinstance(difference.error, kind)
    assert difference.got[0].startswith(text)


@pytest.mark.parametrize(
    ("recorded", "reply"),
    [
        ([(FILTER, b""), (MTA, b"")], None),
        ([(MTA, b""), (FILTER, b"")], b""),
        ([(FILTER, packet("Z")), (MTA, b""), (FILTER, b"")], packet("Z")),
    ],
)
def test_fails_as_it_did(recorded: list[Step], reply: Any, tmp_path: Path) -> None:
    """A filter that failed then, and fails the same way now, answers as recorded."""
    steps = [*opened(), *MESSAGE[:5], *recorded]
    assert [] == played(tmp_path, steps, {"L": reply}, timeouts=waiting_for(reply))[1]


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([(FILTER, b""), (MTA, b"")], "the filter closed the connection"),
        ([(MTA, b""), (FILTER, b"")], "no answer, until the mail server gave up"),
    ],
)
def test_mended(recorded: list[Step], expected: str, tmp_path: Path) -> None:
    """A filter that failed then, and answers now."""
    _, (difference,) = played(tmp_path, [*opened(), *MESSAGE[:5], *recorded])
    assert ("header", (expected,), ("continue",), None) == (
        difference.step,
        difference.expected,
        difference.got,
        difference.error,
    )


def test_answered_twice_when_recorded(tmp_path: Path) -> None:
    """The first answer is the one that counts; a filter that answers once now is mended."""
    twice = [*MESSAGE[:2], (FILTER, packet("r")), *MESSAGE[2:]]
    heard, differences = played(tmp_path, [*opened(), *twice, *CLOSED])
    assert (["O", "M", "R", "L", "B", "E", "Q"], []) == (heard, differences)


def test_the_recording_ends(tmp_path: Path) -> None:
    """What had no answer when the recording was ended is not compared."""
    heard, differences = played(tmp_path, [*opened(), *MESSAGE[:5]])
    assert (["O", "M", "R", "L"], []) == (heard, differences)


def test_nobody_there(tmp_path: Path) -> None:
    """Nobody listens: the first connection says so."""
    path = recording(tmp_path / "s.rec", [*opened(), *CLOSED])
    with pytest.raises(mta.ConnectError):
        mta.Recording.read(path).play(f"unix:{tmp_path / 'nobody'}")


# -- which connections ---------------------------------------------------------------------------


def test_one_connection(tmp_path: Path) -> None:
    """A connection alone; one on which nothing was said is nothing to play."""
    path = recording(tmp_path / "s.rec", [(MTA, b"")], [*opened(), *CLOSED], [*opened(), *MESSAGE])
    with Simple(tmp_path / "f", {"E": ADD + C}) as simple:
        loaded = mta.Recording.read(path)
        assert [1, 2, 3] == [each.number for each in loaded.connections]
        assert [] == loaded.connections[0].play(simple.spec)
        assert 0 == simple.connections
        assert [] == loaded.connections[1].play(simple.spec)
        assert ["O", "Q"] == simple.letters
        assert [] == loaded.play(simple.spec)
    assert 3 == simple.connections


def test_not_whole(tmp_path: Path) -> None:
    """A connection whose beginning, or a part, is missing cannot be played, which is said."""
    path = tmp_path / "s.rec"
    with Writer(path, Head("x")) as writer:
        writer.write(Record(4, 0.0, "packet", MTA, b"E"))
    with pytest.raises(mta.RecordingError, match="connection 4: a part of it was not captured"):
        mta.Recording.read(path).play(f"unix:{tmp_path / 'nobody'}")


def test_what_no_mail_server_sends(tmp_path: Path) -> None:
    """Packets that are none of the protocol's are left out."""
    steps = [*opened(), (MTA, packet("Z")), (MTA, packet("M", b"<a@b>")), *MESSAGE, *CLOSED]
    heard, differences = played(tmp_path, steps)
    assert (["O", "M", "R", "L", "B", "E", "Q"], []) == (heard, differences)


def test_in_a_test(tmp_path: Path) -> None:
    """As docs/testing.md shows it: a class that was mended still answers as it did."""

    class Marker(Milter.Base):
        value = "yes"

        def eom(self) -> int:
            self.addheader("X-Seen", self.value)
            return Milter.CONTINUE

    class Another(Marker):
        value = "no"

    with thread(Marker) as client:
        steps = _recorded(client.spec)
        path = recording(tmp_path / "s.rec", steps)
        assert [] == mta.Recording.read(path).play(client.spec)
    with thread(Another) as client:
        (difference,) = mta.Recording.read(path).play(client.spec)
    assert ["-add header X-Seen: yes", "+add header X-Seen: no"] == difference.diff()[:2]


def _recorded(spec: str) -> list[Step]:
    """A conversation with a filter on a unix socket that wants to hear of nothing but the end."""
    steps: list[Step] = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(spec.partition(":")[2])
        for data, answers in ((OFFER, 1), (EOM, 2), (QUIT, 0)):
            sock.sendall(data)
            steps.append((MTA, data))
            for _ in range(answers):
                head = sock.recv(4, socket.MSG_WAITALL)
                rest = sock.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                steps.append((FILTER, head + rest))
    return steps
