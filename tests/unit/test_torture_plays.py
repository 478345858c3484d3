"""Plays of torture as values: made of a seed, written down, simplified. And the cutting socket."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from mta_support import agreed, hexed, options, packet

from Milter import mta
from Milter._mtacodec import ProtocolError
from Milter._torture import Failure
from Milter._tortureplay import ATTACKS, OFFER, PLAIN, End, Move, Play, make_play, moves_of, simpler
from Milter._torturewire import Vanished, Wire

SOME = [make_play(7, number, improved=True) for number in range(300)]


def test_the_same_for_the_same_seed() -> None:
    """A play is what its seed and number say; others are others."""
    assert SOME == [make_play(7, number, improved=True) for number in range(300)]
    assert SOME != [make_play(8, number, improved=True) for number in range(300)]
    free = [replace(play, number=0) for play in SOME if play.attack is None]
    assert len(free) == len(set(free)) == 180


def test_all_there_is() -> None:
    """Among a few hundred plays there is every version, bit, step, way to leave, and attack."""
    assert set(range(2, 7)) == {play.offer[0] for play in SOME}
    for number, bits in ((1, 0x1FF), (2, 0x301FFFFF)):
        offered = [play.offer[number] & bits for play in SOME]
        missing = {~each & bits for each in offered}
        assert bits == sum(1 << bit for bit in range(30) if any(o >> bit & 1 for o in offered))
        assert bits == sum(1 << bit for bit in range(30) if any(m >> bit & 1 for m in missing))
    steps = {move.step for play in SOME for move in play.moves}
    known = "connect helo mail rcpt data header eoh body eom unknown abort quit_nc"
    assert set(known.split()) == steps
    assert {"quit", "close", "reset", "half", "stay"} == {play.end.how for play in SOME}
    assert set(ATTACKS) == {play.attack.name for play in SOME if play.attack is not None}
    plain = [make_play(7, number) for number in range(300)]
    lenient = {name for name, row in ATTACKS.items() if not row.improved}
    assert lenient == {play.attack.name for play in plain if play.attack is not None}


def test_written_down() -> None:
    """A play is the same after it was written down and read."""
    for play in [*SOME, PLAIN, Play()]:
        assert "\n" not in play.to_json()
        assert play == Play.from_json(play.to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "7",
        '{"moves": 7}',
        '{"moves": [{}]}',
        '{"moves": [{"step": "dance"}]}',
        '{"moves": [{"step": "helo", "how": 1}]}',
        '{"attack": ["none", "", []]}',
        '{"attack": ["noise", "xy", []]}',
        '{"offer": [6]}',
        '{"end": [1, 2, 3]}',
        '{"more": 1}',
        '{"make": [7, 1]}',
        '{"make": ["7", 1, false]}',
        '{"make": [7, "1", false]}',
        '{"make": [7, 1, "no"]}',
        '{"make": [7, -1, false]}',
        '{"offer": ["6", 511, 0]}',
        '{"offer": [6, -1, 0]}',
        '{"offer": [6, 511, 4294967296]}',
        '{"offer": [6, 511, 0.5]}',
        '{"cuts": ["1"]}',
        '{"cuts": "12"}',
        '{"cuts": [-1]}',
        '{"moves": [{"step": "helo"}]}',
        '{"moves": [{"step": "helo", "texts": [7]}]}',
        '{"moves": [{"step": "helo", "texts": ["a", "b"]}]}',
        '{"moves": [{"step": "mail", "texts": []}]}',
        '{"moves": [{"step": "eom", "macros": [["i", 7]]}]}',
        '{"moves": [{"step": "eom", "macros": [[7, "i"]]}]}',
        '{"moves": [{"step": "body", "size": "9"}]}',
        '{"moves": [{"step": "body", "size": true}]}',
        '{"moves": [{"step": "connect", "texts": ["h", "192.0.2.1"], "size": 65536}]}',
        '{"moves": [{"step": "eom", "cuts": ["1"]}]}',
        '{"moves": [{"step": "eom", "pause": "1"}]}',
        '{"moves": [{"step": "eom", "pause": -1}]}',
        '{"moves": [{"step": "eom", "pause": NaN}]}',
        '{"moves": [{"step": "eom", "joined": "no"}]}',
        '{"attack": ["noise", "00", ["1"]]}',
        '{"end": ["leave", null]}',
        '{"end": ["close", "3"]}',
    ],
)
def test_no_play(text: str) -> None:
    """What is no play is a ValueError."""
    text = text.replace('{"', '{"seed": 1, "number": 2, "', 1)
    with pytest.raises(ValueError, match=r"."):
        Play.from_json(text)


@pytest.mark.parametrize("numbers", ['"seed": "1", "number": 2', '"seed": 1, "number": "2"'])
def test_numbers_are_no_texts(numbers: str) -> None:
    """What a play was made of are numbers; what is wrong is named."""
    with pytest.raises(ValueError, match=r"^'[12]' is no int$"):
        Play.from_json(f"{{{numbers}}}")


def test_simpler_ones_come_to_an_end() -> None:
    """Whoever always takes the first simpler play arrives at the plainest of all."""
    for play in SOME[:60]:
        for _ in range(3000):
            following = next(simpler(play), None)
            if following is None:
                break
            assert following != play
            play = following
        assert Play(play.seed, play.number) == play


def test_simpler_moves() -> None:
    """A move can be made plain as a whole and in each of its parts, the offer and the end too."""
    move = Move("helo", ("x",), (("j", "y"),), 0, (3,), 0.1, True)
    play = Play(1, 2, (2, 0, 0), (1,), (move,), None, End("close", 3))
    plays = list(simpler(play))
    for expected in (
        replace(play, moves=()),
        replace(play, offer=OFFER),
        replace(play, cuts=()),
        replace(play, end=End()),
        replace(play, end=End("close")),
        replace(play, moves=(Move("helo", ("h",)),)),
        replace(play, moves=(replace(move, macros=None),)),
        replace(play, moves=(replace(move, joined=False),)),
    ):
        assert expected in plays


def test_moves() -> None:
    """A move writes what its step writes: the packets of wire spec 1.3."""
    for letters, expected in (
        ("C", packet("C", b"localhost\0U")),
        ("H", packet("H", b"h\0")),
        ("M", hexed("00 00 00 07 4D 3C 61 40 62 3E 00")),
        ("MR", hexed("00 00 00 07 52 3C 63 40 64 3E 00")),
        ("MRT", packet("T")),
        ("MRL", packet("L", b"X\0y\0")),
        ("MRN", packet("N")),
        ("MRB", packet("B", b"A")),
        ("MRE", packet("E")),
        ("U", packet("U", b"FOO\0")),
        ("A", packet("A")),
    ):
        conversation = agreed(protocol=0xFF080)  # nothing is answered but the end
        for move in moves_of(letters):
            written = move.play(conversation).data
        assert expected == written
    conversation = agreed()
    conversation.connect()
    conversation.receive(packet("c"))
    conversation.next_event()
    with pytest.raises(mta.StateError):
        moves_of("C")[0].play(conversation)


@pytest.mark.parametrize("bits", [0, 0x10000000])
def test_body_of_a_move(bits: int) -> None:
    """A piece of body is as large as asked for, but no larger than was agreed on."""
    for size, expected in ((1, 1), (65535, 65535), (300000, 262143 if bits else 65535)):
        conversation = mta.Protocol()
        conversation.negotiate(6, 0x1FF, 0x301FFFFF)
        conversation.receive(options(protocol=bits | 0xFF080))
        conversation.next_event()
        for move in moves_of("MR"):
            move.play(conversation)
        assert 5 + expected == len(Move("body", size=size).play(conversation).data)


def test_attacks_are_packets() -> None:
    """Each attack is a packet by the letter of its row; rows say where they stand."""
    for name, row in ATTACKS.items():
        assert row.rule.startswith("wire spec "), name
        assert row.expect in {"close", "drop", "stay", "answer", "options", "any"}, name
    assert packet("R", b"<c@d>\0") == make_attack("rcpt after CH")
    assert hexed("80 00 00 00") == make_attack("impossible length")[:4]


def make_attack(name: str) -> bytes:
    """The bytes of an attack, from the first play that has it."""
    return next(p.attack.data for p in SOME if p.attack is not None and p.attack.name == name)


# -- the socket ----------------------------------------------------------------------------------


def test_writes_are_cut() -> None:
    """Each piece is a write of its own; a datagram socket shows them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        wire = Wire(ours)
        wire.prepare((2, 5, 9), 0.0)
        wire.sendall(b"abcdefg")
        wire.sendall(b"xyz")
        assert [b"ab", b"cde", b"fg", b"xyz"] == [theirs.recv(100) for _ in range(4)]
        assert [("mta", b"abcdefgxyz")] == wire.record


@pytest.mark.parametrize("most", range(4))
def test_writes_end_early(most: int) -> None:
    """With a limit no more is written, and nothing is read any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(packet("c"))
        wire = Wire(ours)
        wire.prepare((1, 2), 0.0, most)
        if most < 3:
            with pytest.raises(Vanished):
                wire.sendall(b"abc")
        else:
            wire.sendall(b"abc")
        with pytest.raises(Vanished):
            wire.recv(100)
        ours.shutdown(socket.SHUT_WR)
        with theirs.makefile("rb") as file:
            assert b"abc"[:most] == file.read()


def test_reads_stop_at_packets() -> None:
    """A read never gives more than the rest of one packet, whatever has come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(
            packet("c") + packet("y", b"550 no\0") + packet("c") + bytes(4) + packet("a")
        )
        wire = Wire(ours)
        pieces = []
        while sum(map(len, pieces)) < 5 + 12 + 5 + 4 + 5:
            pieces.append(wire.recv(100))
        assert packet("c") == b"".join(pieces[:2])
        assert packet("y", b"550 no\0") == b"".join(pieces[2:4])
        assert packet("c") == b"".join(pieces[4:6])
        assert bytes(4) == pieces[6]
        assert packet("a") == b"".join(pieces[7:])
        theirs.close()
        assert b"" == wire.recv(100)


def test_rest() -> None:
    """The rest is all that comes until the other side closes, or until the time is over."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"abcdef")
        wire = Wire(ours)
        wire.recv(4)
        assert (b"ef", False) == wire.rest(0.05, half=False)
        theirs.shutdown(socket.SHUT_WR)
        assert (b"", True) == wire.rest(10, half=True)
        assert b"" == theirs.recv(10)


@pytest.mark.parametrize("improved", [False, True])
def test_a_long_play_is_named_by_what_made_it(improved: bool) -> None:
    """Beyond two thousand characters a failure prints seed and number, which make it again."""
    long = next(
        play
        for play in (make_play(7, number, improved) for number in range(1000))
        if len(play.to_json()) > 2000 and (not improved or play != make_play(7, play.number))
    )
    failure = Failure("a rule", ProtocolError("no", "a rule"), long, long)
    _, _, text = str(failure).partition("replay: ")
    assert len(text) < 60
    assert long == Play.from_json(text)
    short = Failure("a rule", ProtocolError("no", "a rule"), Play(1, 2), long)
    assert str(short).endswith("replay: " + Play(1, 2).to_json())
