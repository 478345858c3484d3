"""Milter.mta by Hypothesis: any answers, any cuts, any bytes."""

from __future__ import annotations

import struct
from typing import Any, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mta_support import agreed, packet

from Milter import mta
from Milter._mtacodec import COMMANDS, REPLIES, decode, encode

STRINGS = st.binary().map(lambda text: text.replace(b"\0", b""))
NAMES = STRINGS.filter(bool)
NUMBERS = st.integers(0, 2**32 - 1)


def text(data: bytes) -> str:
    """Bytes as the API shows them."""
    return data.decode("utf-8", "surrogateescape")


def strings(*parts: bytes) -> bytes:
    """Strings as the wire has them."""
    return b"".join(part + b"\0" for part in parts)


# A packet by hand, and what it means.
ADD_HEADER = st.builds(
    lambda name, value: (packet("h", strings(name, value)), mta.AddHeader(text(name), text(value))),
    NAMES,
    STRINGS,
)
INSERT_HEADER = st.builds(
    lambda index, name, value: (
        packet("i", struct.pack("!I", index) + strings(name, value)),
        mta.InsertHeader(index, text(name), text(value)),
    ),
    NUMBERS,
    NAMES,
    STRINGS,
)
CHANGE_HEADER = st.builds(
    lambda index, name, value: (
        packet("m", struct.pack("!I", index) + strings(name, value)),
        mta.ChangeHeader(index, text(name), text(value))
        if value
        else mta.DeleteHeader(index, text(name)),
    ),
    NUMBERS,
    NAMES,
    STRINGS,
)
ADD_RECIPIENT = st.builds(
    lambda address, args: (
        packet("2", strings(address) if args is None else strings(address, args)),
        mta.AddRecipient(text(address), None if args is None else text(args)),
    ),
    NAMES,
    st.none() | STRINGS,
)
CHANGE_SENDER = st.builds(
    lambda address, args: (
        packet("e", strings(address) if args is None else strings(address, args)),
        mta.ChangeSender(text(address), None if args is None else text(args)),
    ),
    NAMES,
    st.none() | STRINGS,
)
ADDRESS = NAMES.map(lambda a: (packet("+", strings(a)), mta.AddRecipient(text(a))))
DELETE = NAMES.map(lambda a: (packet("-", strings(a)), mta.DeleteRecipient(text(a))))
BODY = st.binary().map(lambda data: (packet("b", data), mta.ReplaceBody(data)))
QUARANTINE = NAMES.map(lambda why: (packet("q", strings(why)), mta.Quarantine(text(why))))
PROGRESS = st.just((packet("p"), mta.Progress()))
ANYTHING = st.one_of(
    ADD_HEADER,
    INSERT_HEADER,
    CHANGE_HEADER,
    ADD_RECIPIENT,
    CHANGE_SENDER,
    ADDRESS,
    DELETE,
    BODY,
    QUARANTINE,
    PROGRESS,
)


def at_eom(**kind: Any) -> mta.Protocol:
    """The end of a message was sent."""
    conversation = agreed(protocol=0x4000 | 0x8000, **kind)
    conversation.mail("<>")
    conversation.rcpt("<>")
    conversation.eom()
    return conversation


@given(st.lists(ANYTHING, max_size=10), st.lists(st.integers(1, 40)))
def test_any_answers_at_any_cuts(answers: list[tuple[bytes, Any]], sizes: list[int]) -> None:
    """Whatever a filter does to a message comes out as it went in, however it is cut."""
    conversation = at_eom(strict=False)
    wire = b"".join(answer[0] for answer in answers) + packet("a")
    events = []
    while wire:
        size = sizes.pop() if sizes else len(wire)
        conversation.receive(wire[:size])
        wire = wire[size:]
        while (event := conversation.next_event()) is not None:
            events.append(event)
    assert [*(answer[1] for answer in answers), mta.Verdict(mta.Kind.ACCEPT)] == events


def what_breaks(conversation: mta.Protocol) -> Optional[mta.MilterError]:
    """Reads all events; the error that ends them, if one does."""
    try:
        while conversation.next_event() is not None:
            pass
    except mta.MilterError as error:
        return error
    return None


@given(st.lists(st.binary(), max_size=5), st.booleans(), st.booleans())
@example([packet("y", b"550 \0")], True, True)
def test_any_bytes(pieces: list[bytes], strict: bool, whole: bool) -> None:
    """No bytes get anything out of it but events and a MilterError, which then stays."""
    for piece in pieces:
        conversation = at_eom(strict=strict)
        # Half of them with a length that is right, so that the letters and data are looked at.
        conversation.receive(struct.pack("!I", len(piece)) + piece if whole else piece)
        error = what_breaks(conversation)
        assert (error is not None) == conversation.over
        assert error is what_breaks(conversation)


@given(st.sampled_from(sorted("hirmb+2-eqyOcartdsp")), st.binary(max_size=30))
def test_any_data(letter: str, data: bytes) -> None:
    """The same with letters that exist."""
    conversation = at_eom()
    conversation.receive(packet(letter, data))
    error = what_breaks(conversation)
    assert error is None or (
        isinstance(error, mta.ProtocolError) and error.rule.startswith("wire spec")
    )


def fields_for(shape: str) -> st.SearchStrategy[tuple[list[int], list[Any]]]:
    """Numbers and texts that fit a shape of protocol.def."""
    texts = {
        "s": STRINGS,
        "t": st.none() | STRINGS,
        "v": st.lists(STRINGS, min_size=1).map(lambda parts: strings(*parts)),
        "p": st.lists(st.tuples(STRINGS, STRINGS)).map(
            lambda pairs: b"".join(strings(*pair) for pair in pairs)
        ),
        "c": st.sampled_from([b"C", b"E", b"\xff"]),
        "b": st.binary(),
        "l": st.lists(st.tuples(NUMBERS, STRINGS)).map(
            lambda lists: b"".join(struct.pack("!I", n) + strings(names) for n, names in lists)
        ),
    }
    numbers = st.lists(NUMBERS, min_size=shape.count("u"), max_size=shape.count("u"))
    found = st.tuples(*(texts[letter] for letter in shape if letter in texts)).map(list)
    return st.tuples(numbers, found)


SHAPES = sorted({row.shape.decode() for row in (*COMMANDS.values(), *REPLIES.values())})


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "a" not in shape])
@given(data=st.data())
def test_codec_round_trip(shape: str, data: st.DataObject) -> None:
    """Whatever fields are encoded, they come back from decoding, for every shape there is."""
    numbers, texts = data.draw(fields_for(shape))
    wire = encode(ord("x"), shape.encode(), numbers, texts)
    assert struct.pack("!I", len(wire) - 4) + b"x" == wire[:5]
    # Of one string or more, decoding gives the span without the last NUL.
    expected = [part[:-1] if letter == "v" else part for letter, part in zip(shape, texts)]
    if "v" not in shape:
        expected = texts
    assert (numbers, expected) == decode(shape.encode(), wire[5:])


@pytest.mark.parametrize(
    ("family", "address"), [("U", None), ("4", b"192.0.2.1"), ("6", b"::1"), ("L", b"/s")]
)
@given(name=STRINGS, port=st.integers(0, 65535))
def test_connect_round_trip(family: str, address: Any, name: bytes, port: int) -> None:
    """CONNECT comes back from decoding, for every family."""
    where = None if address is None else address.decode()
    outgoing = agreed().connect(name, where, port)
    expected = ([], [name, family.encode(), None])
    if address is not None:
        expected = ([port], [name, family.encode(), address])
    assert expected == decode(COMMANDS[ord("C")].shape, outgoing.data[5:])


@given(st.lists(NAMES, min_size=1), st.dictionaries(NAMES.map(text), STRINGS))
def test_mail_by_hand(arguments: list[bytes], macros: dict[str, bytes]) -> None:
    """Sender, parameters and macros stand on the wire as wire spec 1.3 says."""
    pairs = b"".join(
        strings(name.encode("utf-8", "surrogateescape"), value) for name, value in macros.items()
    )
    expected = packet("D", b"M" + pairs) + packet("M", strings(*arguments))
    assert expected == agreed().mail(*arguments, macros=macros).data
