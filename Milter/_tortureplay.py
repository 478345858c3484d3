"""Plays for Milter._torture: conversations with a filter that no mail server would ever have.

Owns what a play is, how one is made of a seed, which simpler ones there are, and the table of what
is said that the protocol does not allow an MTA. A play is a value: it has no part in I/O, compares,
and can be written down and read again.

Source: wire spec 8.1 to 8.5 (rows of what filters must cope with), 8.9, row 199.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Final, NamedTuple, Optional, TypeVar

from Milter._conversation import Outgoing, Protocol
from Milter._engine import lib
from Milter._mtacodec import COMMANDS, DEFAULT_ACTIONS, DEFAULT_PROTOCOL, encode

T = TypeVar("T")

OFFER: Final = (6, DEFAULT_ACTIONS, DEFAULT_PROTOCOL)
"""What Postfix and Sendmail offer."""


@dataclass(frozen=True)
class Move:
    """A step of the MTA's that the protocol allows.

    Attributes:
        step: name of the step, as the methods of :class:`Milter.mta.Protocol` are called.
        texts: its arguments.
        macros: sent before it; None for no macro packet.
        size: bytes of a piece of body.
        cuts: after how many of its bytes a new write begins.
        pause: seconds to wait at each cut.
        joined: written together with the next move, without waiting for the answer.
    """

    step: str
    texts: tuple[str, ...] = ()
    macros: Optional[tuple[tuple[str, str], ...]] = None
    size: int = 0
    cuts: tuple[int, ...] = ()
    pause: float = 0.0
    joined: bool = False

    def play(self, protocol: Protocol) -> Outgoing:
        """Plays it on a conversation.

        Raises:
            StateError: it may not come now.
        """
        macros = None if self.macros is None else dict(self.macros)
        texts = self.texts
        if self.step == "connect":
            return protocol.connect(texts[0], texts[1] or None, self.size, macros)
        if self.step in ("mail", "rcpt"):
            step: Callable[..., Outgoing] = getattr(protocol, self.step)
            return step(*texts, macros=macros)
        if self.step == "body":
            most = 65535 if protocol.options is None else protocol.options.max_data
            return protocol.body(_text_of(min(self.size, most)), macros)
        if self.step in ("abort", "quit_nc"):
            plain: Callable[[], Outgoing] = getattr(protocol, self.step)
            return plain()
        other: Callable[..., Outgoing] = getattr(protocol, self.step)
        return other(*texts, macros=macros)

    @property
    def simple(self) -> Move:
        """The plainest move of its kind."""
        return _SIMPLE[self.step]


def _text_of(size: int) -> bytes:
    line = b"All work and no play makes Jack a dull boy.\r\n"
    return (line * (size // len(line) + 1))[:size]


_SIMPLE: Final = {
    move.step: move
    for move in (
        Move("connect", ("localhost", "")),
        Move("helo", ("h",)),
        Move("mail", ("<a@b>",)),
        Move("rcpt", ("<c@d>",)),
        Move("data"),
        Move("header", ("X", " y")),
        Move("eoh"),
        Move("body", size=1),
        Move("eom"),
        Move("unknown", ("FOO",)),
        Move("abort"),
        Move("quit_nc"),
    )
}
_OF_LETTER: Final = {
    "C": "connect",
    "H": "helo",
    "M": "mail",
    "R": "rcpt",
    "T": "data",
    "L": "header",
    "N": "eoh",
    "B": "body",
    "E": "eom",
    "U": "unknown",
    "A": "abort",
}


def moves_of(letters: str) -> tuple[Move, ...]:
    """Returns the plainest moves of these commands' letters."""
    return tuple(_SIMPLE[_OF_LETTER[letter]] for letter in letters)


class End(NamedTuple):
    """How the MTA leaves."""

    how: str = "quit"
    """``quit``: as it should. ``close``, ``reset``: the connection is closed, or reset, without a
    word. ``half``: closed for writing, and read to its end. ``stay``: left open, while another
    connection brings a message."""
    after: Optional[int] = None
    """So many bytes of the last move (and those joined to it) are written before, and no answer is
    waited for; None: it is played to its end. Not with ``quit``."""


QUIT: Final = End()


class Attack(NamedTuple):
    """Something that no MTA may say, as the last move."""

    name: str
    """Of the row of :data:`ATTACKS` that says what the filter must do."""
    data: bytes
    """What is written."""
    cuts: tuple[int, ...] = ()
    """After how many bytes a new write begins."""


@dataclass(frozen=True)
class Play:
    """A connection's whole course, from the MTA's side.

    A move that the filter's answers have made impossible is left out when the play is played.

    Attributes:
        seed, number: what it was made of; it is the same again for the same.
        offer: version, actions and protocol bits that are offered.
        cuts: after how many bytes of the offer a new write begins.
        moves: what is said.
        attack: what is said then, or None.
        end: how it ends, unless by an attack.
    """

    seed: int = 0
    number: int = 0
    offer: tuple[int, int, int] = OFFER
    cuts: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()
    attack: Optional[Attack] = None
    end: End = QUIT

    def to_json(self) -> str:
        """Returns the play as JSON of one line; what is as in the plainest play is left out."""
        value = {"seed": self.seed, "number": self.number, **_differing(self, Play())}
        if self.moves:
            value["moves"] = [{"step": each.step, **_differing(each, _MOVE)} for each in self.moves]
        if self.attack is not None:
            value["attack"] = [self.attack.name, self.attack.data.hex(), list(self.attack.cuts)]
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str) -> Play:
        """Returns the play that :meth:`to_json` wrote down.

        ``{"make": [SEED, NUMBER, IMPROVED]}`` is the play of that number in a torture.

        Raises:
            ValueError: it is none.
        """
        try:
            value = json.loads(text)
            if "make" in value:
                seed, number, improved = value["make"]
                seed, number = _number(seed, -math.inf), _number(number)
                return make_play(seed, number, _is(bool, improved))
            seed, number = _number(value.pop("seed"), -math.inf), _number(value.pop("number"))
            moves = tuple(_move(**each) for each in value.pop("moves", ()))
            if "attack" in value:
                name, data, cuts = value["attack"]
                if name not in ATTACKS:
                    raise ValueError(f"no attack {name!r}")
                value["attack"] = Attack(name, bytes.fromhex(data), _numbers(cuts))
            if "end" in value:
                value["end"] = _end(*value["end"])
            version, actions, protocol = _numbers(value.pop("offer", OFFER), 2**32 - 1)
            cuts = _numbers(value.pop("cuts", ()))
            return cls(seed, number, (version, actions, protocol), cuts, moves, **value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no play: {error!r}") from None


_MOVE: Final = Move("")
_ENDS: Final = ("quit", "close", "reset", "half", "stay")


def _is(kind: type[T], value: Any) -> T:
    """Returns what was read, if it is of this type; True and False are no numbers."""
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _number(value: Any, least: float = 0, most: float = math.inf) -> int:
    """Returns a whole number that was read."""
    number = _is(int, value)
    if not least <= number <= most:
        raise ValueError(f"{number} is out of range")
    return number


def _numbers(values: Any, most: float = math.inf) -> tuple[int, ...]:
    return tuple(_number(value, most=most) for value in values)


def _move(
    step: str,
    texts: Any = (),
    macros: Any = None,
    size: Any = 0,
    cuts: Any = (),
    pause: Any = 0.0,
    joined: Any = False,
) -> Move:
    """Returns a move that was read."""
    if step not in _SIMPLE:
        raise ValueError(f"no step {step!r}")
    texts = tuple(_is(str, text) for text in texts)
    count = len(_SIMPLE[step].texts)
    if len(texts) < count or (len(texts) > count and step not in ("mail", "rcpt")):
        raise ValueError(f"{step} with {len(texts)} texts")
    if macros is not None:
        macros = tuple((_is(str, name), _is(str, text)) for name, text in macros)
    size = _number(size, most=65535 if step == "connect" else math.inf)  # there it is the port
    if type(pause) not in (int, float) or not 0 <= pause < math.inf:
        raise ValueError(f"{pause!r} is no pause")
    return Move(step, texts, macros, size, _numbers(cuts), pause, _is(bool, joined))


def _end(how: str = QUIT.how, after: Any = None) -> End:
    """Returns an end that was read."""
    if how not in _ENDS:
        raise ValueError(f"no end {how!r}")
    return End(how, None if after is None else _number(after))


def _differing(value: Any, other: Any) -> dict[str, Any]:
    """The fields of a dataclass in which it is not like another one."""
    names = [each.name for each in fields(value)]
    return {n: getattr(value, n) for n in names if getattr(value, n) != getattr(other, n)}


PLAIN: Final = Play(
    moves=(
        Move("connect", ("mail.example.org", "192.0.2.1"), (("j", "mx.example.com"),), 25),
        Move("helo", ("mail.example.org",), ()),
        Move("mail", ("<a@example.org>",), (("i", "4A5B6C0001"), ("{mail_addr}", "a@example.org"))),
        Move("rcpt", ("<b@example.com>",), (("i", "4A5B6C0001"), ("{rcpt_addr}", "b@example.com"))),
        Move("data", (), (("i", "4A5B6C0001"),)),
        Move("header", ("From", " a@example.org")),
        Move("header", ("Subject", " plain")),
        Move("eoh", (), (("i", "4A5B6C0001"),)),
        Move("body", (), None, 100),
        Move("eom", (), (("i", "4A5B6C0001"),)),
    )
)
"""A message like any other, as Postfix brings it."""


# -- what no MTA may say -------------------------------------------------------------------------


class Row(NamedTuple):
    """What is said that an MTA may not say, and what the filter must do then."""

    rule: str
    """Where that stands, and what it is."""
    expect: str
    """``close``: it closes, without an answer. ``drop``: it gives no answer, and closes or goes on.
    ``stay``: it gives no answer, and goes on. ``answer``: it answers, and goes on. ``options``: it
    answers as to an offer. ``any``: all that it says is well-formed, and it closes at the end."""
    before: Optional[str]
    """Letters of what is said before it; None: it comes in the place of the offer."""
    makes: Callable[[random.Random], bytes]
    """Returns what is said."""
    improved: bool = False
    """libmilter does otherwise, and the wire spec asks for better (level I of its table)."""


def _frame(letter: str, data: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(data)) + letter.encode("latin-1") + data


def _one(*packets: bytes) -> Callable[[random.Random], bytes]:
    return lambda rng: rng.choice(packets)


def _unknown_letter(rng: random.Random) -> bytes:
    known = {chr(letter) for letter in COMMANDS}
    letters = [chr(number) for number in range(256) if chr(number) not in known]
    return _frame(rng.choice(letters), rng.choice([b"", b"x", b"x\0y\0"]))


def _noise(rng: random.Random) -> bytes:
    return bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 5, 40])))


def _plausible_noise(rng: random.Random) -> bytes:
    """A letter that there is, and data that has nothing to do with it."""
    letter = rng.choice(sorted(set(COMMANDS) - {lib.SMFIC_QUIT}))
    return _frame(chr(letter), _noise(rng) + rng.choice([b"", b"\0"]))


_OFFERED: Final = struct.pack("!II", *OFFER[1:])

ATTACKS: Final[dict[str, Row]] = {
    # -- in the place of the offer
    "old version": Row(
        "wire spec 8.2, rows 17 and 20: a version below 2 ends the connection without a byte",
        "close",
        None,
        _one(*(_frame("O", struct.pack("!I", n) + _OFFERED) for n in (0, 1, 2**31, 2**32 - 1))),
    ),
    "short offer": Row(
        "wire spec 8.2, row 21: an offer that is too short ends the connection without a byte",
        "close",
        None,
        lambda rng: _frame("O", (struct.pack("!I", 6) + _OFFERED)[: rng.randrange(12)]),
    ),
    "long offer": Row(
        "wire spec 8.2, row 22: what stands behind the three words of an offer is ignored",
        "options",
        None,
        _one(_frame("O", struct.pack("!I", 6) + _OFFERED + b"\0\0\0\1\0\0\0\2")),
    ),
    "newer version": Row(
        "wire spec 8.2, row 19: a version above 6 is answered with 6",
        "options",
        None,
        _one(*(_frame("O", struct.pack("!I", n) + _OFFERED) for n in (7, 8, 0x01000001))),
    ),
    "no offer": Row(
        "wire spec 8.5, row 93: before the offer no such step is answered",
        "drop",
        None,
        _one(_frame("C", b"h\0U"), _frame("R", b"<c@d>\0"), _frame("E")),
    ),
    "another protocol": Row(
        "wire spec 1.2: a packet that is too large ends the connection, with no answer",
        "close",
        None,
        _one(b"EHLO example.org\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\x7f\xff\xff\xffO"),
    ),
    # -- packets
    "unknown letter": Row(
        "wire spec 8.1, rows 10 and 11: an unknown letter ends the connection, with no answer",
        "close",
        "CH",
        _unknown_letter,
    ),
    "unknown letter in a message": Row(
        "wire spec 8.1, rows 10 and 11: an unknown letter ends the connection, with no answer",
        "close",
        "CHMR",
        _unknown_letter,
    ),
    "empty macros": Row(
        "wire spec 8.1, row 9: a packet without what must be in it ends the connection",
        "close",
        "C",
        _one(_frame("D")),
    ),
    "empty CONNECT": Row(
        "wire spec 8.1, row 9: a packet without what must be in it ends the connection",
        "close",
        "",
        _one(_frame("C")),
    ),
    "empty MAIL": Row(
        "wire spec 8.1, row 9: a packet without what must be in it ends the connection",
        "close",
        "CH",
        _one(_frame("M")),
    ),
    "empty HEADER": Row(
        "wire spec 8.1, row 9: a packet without what must be in it ends the connection",
        "close",
        "CHMR",
        _one(_frame("L")),
    ),
    "empty BODY": Row(
        "wire spec 8.1, row 8: an empty piece of body is answered, or ends the connection",
        "any",
        "CHMRTLN",
        _one(_frame("B")),
    ),
    "impossible length": Row(
        "wire spec 8.1, row 7: a packet that is too large ends the connection, with no answer",
        "close",
        "CHMR",
        _one(b"\x80\0\0\0E", b"\x80\0\0\0N"),
    ),
    "length that wraps": Row(
        "wire spec 8.1, row 6: a packet that is too large ends the connection, with no answer",
        "close",
        "CHMR",
        _one(b"\xff\xff\xff\xffN", b"\x80\0\0\1E"),
        improved=True,
    ),
    "length of nothing": Row(
        "wire spec 8.1, row 5: a packet of length 0 ends the connection, with no answer",
        "close",
        "C",
        _one(b"\0\0\0\0H"),
        improved=True,
    ),
    "more than comes": Row(
        "wire spec 8.1, row 14: where the connection ends inside a packet, the filter closes it",
        "any",
        "CHMRN",
        _one(b"\0\x11\0\0Bxy", b"\0\1\0\0Bxy", b"\0\0\0\4Bxy"),
    ),
    "larger than usual": Row(
        "wire spec 8.1, row 4: body above 65535 bytes is taken, or ends the connection",
        "any",
        "CHMRN",
        _one(_frame("B", bytes(65536)), _frame("B", bytes(300000))),
    ),
    "noise": Row(
        "wire spec 1.4: whatever is said to a filter, what it says is well-formed",
        "any",
        "CHMR",
        _noise,
    ),
    "noise at first": Row(
        "wire spec 1.4: whatever is said to a filter, what it says is well-formed",
        "any",
        None,
        _noise,
    ),
    "plausible noise": Row(
        "wire spec 1.4: whatever is said to a filter, what it says is well-formed",
        "any",
        "CHMR",
        _plausible_noise,
    ),
    # -- fields
    "bad CONNECT": Row(
        "wire spec 8.3, row 61: a CONNECT that cannot be read ends the connection, with no answer",
        "close",
        "",
        _one(
            _frame("C", b"h\0X\x00\x191.2.3.4\0"),
            _frame("C", b"h\x004\0\x19::1\0"),
            _frame("C", b"h\x004\0\x19nonsense\0"),
            _frame("C", b"h\x004\0\x19\0"),
            _frame("C", b"h\x004\0\x191.2.3.4"),
            _frame("C", b"h\0"),
            _frame("C", b"h\x004"),
            _frame("C", b"h\x004\0\x19"),
        ),
    ),
    "MAIL without NUL": Row(
        "wire spec 8.3, row 69: MAIL without a NUL ends the connection, with no answer",
        "close",
        "CH",
        _one(_frame("M", b"<a@b>")),
    ),
    "bad HEADER": Row(
        "wire spec 8.3, row 72: a HEADER that cannot be read ends the connection, with no answer",
        "close",
        "CHMR",
        _one(_frame("L", b"A\0"), _frame("L", b"A\0b"), _frame("L", b"\0v\0")),
    ),
    "HELO without NUL": Row(
        "wire spec 8.3, row 65: HELO without a NUL ends the connection, with no answer",
        "close",
        "C",
        _one(_frame("H", b"helo")),
        improved=True,
    ),
    "UNKNOWN without NUL": Row(
        "wire spec 8.3, row 75: UNKNOWN without a NUL ends the connection, with no answer",
        "close",
        "C",
        _one(_frame("U", b"FOO")),
        improved=True,
    ),
    "longer CONNECT": Row(
        "wire spec 8.3, row 60: what stands behind an unknown address is ignored",
        "answer",
        "",
        _one(_frame("C", b"h\0Uxyz\0")),
    ),
    "longer HELO": Row(
        "wire spec 8.3, row 66: what stands behind the name is ignored",
        "answer",
        "C",
        _one(_frame("H", b"a\0b\0")),
    ),
    "longer DATA": Row(
        "wire spec 8.1, row 16: data of DATA is ignored",
        "answer",
        "CHMR",
        _one(_frame("T", b"xyz")),
    ),
    "longer HEADER": Row(
        "wire spec 8.3, row 73: what stands behind the value is ignored",
        "answer",
        "CHMR",
        _one(_frame("L", b"A\0b\0c\0")),
    ),
    "longer EOH": Row(
        "wire spec 8.1, row 16: data of EOH is ignored",
        "answer",
        "CHMRTL",
        _one(_frame("N", b"zz")),
    ),
    "odd macros": Row(
        "wire spec 8.4, rows 79 to 82: macros that make no sense, or are for no stage, are ignored",
        "stay",
        "C",
        _one(
            *(_frame("D", letter + b"a\x001\0") for letter in (b"L", b"B", b"U", b"X", b"O")),
            _frame("D", b"C"),
            _frame("D", b"Cb"),
            _frame("D", b"Ca\x001\0b\0zz"),
            _frame("D", b"Ca\0"),
        ),
    ),
    # -- order
    "second offer": Row(
        "wire spec 8.2, row 52: a second offer is not answered",
        "drop",
        "",
        _one(encode(lib.SMFIC_OPTNEG, COMMANDS[lib.SMFIC_OPTNEG].shape, OFFER)),
    ),
    "after QUIT": Row(
        "wire spec 8.5, row 106: QUIT ends the connection, and nothing behind it is answered",
        "close",
        "CH",
        _one(_frame("Q") + _frame("M", b"<a@b>\0"), _frame("Q", b"xyz") + _frame("H", b"h\0")),
    ),
}


def _order(row: str, before: str, letters: str) -> None:
    """Adds rows for steps out of order (wire spec 8.5, level D/C)."""
    for letter in letters:
        move = _SIMPLE[_OF_LETTER[letter]]
        packet = _PACKETS[move.step]
        ATTACKS[f"{move.step} after {before or 'nothing'}"] = Row(
            f"wire spec 8.5, {row}: a step out of order is not answered",
            "drop",
            before,
            _one(packet),
        )


_PACKETS: Final = {
    "connect": _frame("C", b"h\0U"),
    "rcpt": _frame("R", b"<c@d>\0"),
    "data": _frame("T"),
    "header": _frame("L", b"X\0y\0"),
    "eoh": _frame("N"),
    "body": _frame("B", b"xy\r\n"),
    "eom": _frame("E"),
}

for _row in (
    ("row 94", "C", "C"),
    ("row 94", "CHM", "C"),
    ("row 97", "CH", "R"),
    ("row 98", "CHM", "T"),
    ("row 100", "CHMRT", "RT"),
    ("row 100", "CHMRTLN", "NL"),
    ("row 100", "CHMRTLNB", "L"),
    ("row 101", "CHMRTLNBE", "ERB"),
):
    _order(*_row)

NEEDS: Final[dict[str, str]] = {
    name: chr(row.makes(random.Random(0))[4])
    for name, row in ATTACKS.items()
    if row.before is not None and row.expect in ("close", "answer", "drop")
}
"""For an attack the letter of the step that the filter must want, for it to be one."""


# -- making them ---------------------------------------------------------------------------------


def make_play(seed: int, number: int, improved: bool = False) -> Play:
    """Returns the play of this number; the same for the same seed and number.

    Args:
        seed: any number.
        number: which.
        improved: also what libmilter does not cope with, but the wire spec asks for.
    """
    return _Maker(random.Random(f"{seed}/{number}"), improved).play(seed, number)


class _Maker:
    """Makes one play."""

    def __init__(self, rng: random.Random, improved: bool) -> None:
        self.rng = rng
        self.improved = improved

    def play(self, seed: int, number: int) -> Play:
        rng = self.rng
        if number % 5 in (1, 3):
            # All in turn, so that few plays have seen many of them.
            names = [name for name, row in ATTACKS.items() if self.improved or not row.improved]
            random.Random(seed).shuffle(names)
            name = names[number * 2 // 5 % len(names)]
            row = ATTACKS[name]
            data = row.makes(rng)
            attack = Attack(name, data, self.cuts(len(data)))
            return Play(seed, number, OFFER, (), moves_of(row.before or ""), attack)
        return Play(seed, number, self.offer(), self.cuts(17), self.session(), None, self.end())

    def offer(self) -> tuple[int, int, int]:
        rng = self.rng
        pick = rng.random()
        if pick < 0.45:
            return OFFER
        if pick < 0.55:
            # Postfix with an older milter_protocol (wire spec 2.7).
            version = rng.choice((2, 3, 4))
            return version, DEFAULT_ACTIONS, {2: 0x7F, 3: 0x17F, 4: 0x37F}[version]
        version, actions, protocol = rng.randint(2, 6), DEFAULT_ACTIONS, DEFAULT_PROTOCOL
        if pick < 0.8:
            for _ in range(rng.randint(0, 2)):
                actions &= ~(1 << rng.randrange(9))
            for _ in range(rng.randint(0, 4)):
                protocol &= ~(1 << rng.randrange(21))
        else:
            actions, protocol = rng.getrandbits(9), rng.getrandbits(21)
        for bit in (lib.SMFIP_MDS_256K, lib.SMFIP_MDS_1M):
            if rng.random() < 0.15:
                protocol |= bit
        return version, actions, protocol

    def cuts(self, size: int = 40) -> tuple[int, ...]:
        rng = self.rng
        pick = rng.random()
        if pick < 0.6 or size < 2:
            return ()
        if pick < 0.7:
            return tuple(range(1, min(size, 100)))
        return tuple(sorted({rng.randrange(1, size) for _ in range(rng.randint(1, 4))}))

    def end(self) -> End:
        rng = self.rng
        if rng.random() < 0.5:
            return QUIT
        how = rng.choice(("close", "close", "reset", "half", "stay"))
        return End(how, rng.choice((None, rng.randrange(6), rng.randrange(60))))

    def session(self) -> tuple[Move, ...]:
        rng = self.rng
        moves = [self.connect()] if rng.random() < 0.9 else []
        moves += [self.helo() for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            moves += self.message()
            pick = rng.random()
            if pick < 0.15:
                moves += [self.move("abort")] * rng.choice((1, 2))
            elif pick < 0.25:
                moves += [self.helo()]
            elif pick < 0.4:
                moves += [self.move("quit_nc"), self.connect(), self.helo()]
        return tuple(moves)

    def message(self) -> list[Move]:
        rng = self.rng
        moves = [self.move("mail", self.address(), *self.parameters())]
        moves += [
            self.move("rcpt", self.address(), *self.parameters()) for _ in range(rng.randint(1, 3))
        ]
        if rng.random() < 0.15:
            moves.insert(
                rng.randint(0, len(moves)), self.move("unknown", rng.choice(("FOO", "", "X Y")))
            )
        data = rng.random() < 0.9
        headers = [self.header() for _ in range(rng.choice((0, 1, 3, 8)))]
        if data:
            moves.append(self.move("data"))
        moves += headers
        # libmilter takes the body without the headers' end only where neither has come.
        if data or headers or rng.random() < 0.8:
            moves.append(self.move("eoh"))
        moves += [self.body() for _ in range(rng.choice((0, 1, 1, 3)))]
        moves.append(self.move("eom"))
        if rng.random() < 0.25:
            del moves[rng.randint(1, len(moves)) :]
        return moves

    def move(self, step: str, *texts: str, size: int = 0) -> Move:
        rng = self.rng
        macros = None
        if rng.random() < 0.6:
            names = ("i", "j", "_", "{mail_addr}", "{x}", "v", "{client_addr}")
            some = rng.sample(names, rng.randint(0, 4))
            macros = tuple((name, rng.choice(("", "value", "x" * 300))) for name in some)
        cuts = self.cuts()
        return Move(
            step,
            texts,
            None if step in ("abort", "quit_nc") else macros,
            size,
            cuts,
            rng.choice((0.0, 0.0, 0.0, 0.001, 0.005)) if len(cuts) < 5 else 0.0,
            rng.random() < 0.25,
        )

    def connect(self) -> Move:
        client = self.rng.choice(
            (
                ("localhost", "127.0.0.1", 25),
                ("[192.0.2.1]", "192.0.2.1", 65535),
                ("h.example", "2001:db8::1", 0),
                ("h.example", "IPv6:2001:db8::1", 1),
                ("localhost", "/run/s", 0),
                ("localhost", "", 0),
                ("", "192.0.2.1", 1),
            )
        )
        return self.move("connect", *client[:2], size=client[2])

    def helo(self) -> Move:
        return self.move("helo", self.rng.choice(("h.example", "[192.0.2.1]", "", "x" * 500)))

    def address(self) -> str:
        return self.rng.choice(
            (
                "<>",
                "<a@b.example>",
                "<a@b.example>",
                "a@b",
                "<\u00e4@\u00f6.example>",
                "<" + "x" * 500 + "@y>",
            )
        )

    def parameters(self) -> list[str]:
        known = ("SIZE=100", "BODY=8BITMIME", "SMTPUTF8", "NOTIFY=NEVER", "")
        return [self.rng.choice(known) for _ in range(self.rng.choice((0, 0, 0, 1, 3)))]

    def header(self) -> Move:
        rng = self.rng
        name = rng.choice(("Subject", "From", "Received", "X-Spam", "x", "N" * 200))
        value = rng.choice(
            (" hi", "", " ", "\thi", " a\n\tb\n c", " \u00e4", " " + "x" * 5000, " %s%n")
        )
        return self.move("header", name, value)

    def body(self) -> Move:
        return self.move("body", size=self.rng.choice((1, 2, 80, 1000, 65534, 65535, 300000)))


# -- simpler ones --------------------------------------------------------------------------------


def simpler(play: Play) -> Iterator[Play]:
    """Yields plays that are a little simpler than this one, the boldest first."""
    moves = play.moves
    if play.attack is not None:
        yield replace(play, attack=None)
    size = len(moves)
    while size:
        for at in range(0, len(moves), size):
            yield replace(play, moves=moves[:at] + moves[at + size :])
        size //= 2
    plain: dict[str, Any] = {"offer": OFFER, "cuts": (), "end": QUIT}
    for name, value in plain.items():
        if getattr(play, name) != value:
            yield replace(play, **{name: value})
    if play.end.after is not None:
        yield replace(play, end=play.end._replace(after=None))
    if play.attack is not None and play.attack.cuts:
        yield replace(play, attack=play.attack._replace(cuts=()))
    for at, move in enumerate(moves):
        plainer: dict[str, Any] = {
            "cuts": (),
            "pause": 0.0,
            "joined": False,
            "macros": None,
            "texts": move.simple.texts,
            "size": move.simple.size,
        }
        changed = [move.simple] if move != move.simple else []
        changed += [
            replace(move, **{name: value})
            for name, value in plainer.items()
            if getattr(move, name) != value
        ]
        for each in changed:
            if each != move:
                yield replace(play, moves=(*moves[:at], each, *moves[at + 1 :]))
