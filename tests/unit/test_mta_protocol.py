"""The MTA's side of a conversation without I/O: what it writes, what it accepts, when.

Bytes by hand from the wire spec, sections 1.3, 1.4, 2, 3.4, 3.5 and 8.9.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable

import pytest
from mta_support import ALL, OFFER, C, agreed, hexed, options, packet

from Milter import mta

Play = Callable[[mta.Protocol], mta.Outgoing]

VERDICTS = {
    mta.Kind.CONTINUE: packet("c"),
    mta.Kind.ACCEPT: packet("a"),
    mta.Kind.REJECT: packet("r"),
    mta.Kind.TEMPFAIL: packet("t"),
    mta.Kind.DISCARD: packet("d"),
}


def answer(conversation: mta.Protocol, reply: bytes = C) -> Any:
    """Feeds a reply and returns what it means."""
    conversation.receive(reply)
    return conversation.next_event()


def at_mail(**kind: Any) -> mta.Protocol:
    """After MAIL, answered."""
    conversation = agreed(**kind)
    conversation.mail("<a@b>")
    if conversation.waiting_for:
        answer(conversation)
    return conversation


def at_rcpt(**kind: Any) -> mta.Protocol:
    """After MAIL and RCPT, answered."""
    conversation = at_mail(**kind)
    conversation.rcpt("<c@d>")
    if conversation.waiting_for:
        answer(conversation)
    return conversation


def at_body(**kind: Any) -> mta.Protocol:
    """After the headers' end, answered."""
    conversation = at_rcpt(**kind)
    conversation.eoh()
    if conversation.waiting_for:
        answer(conversation)
    return conversation


def at_eom(**kind: Any) -> mta.Protocol:
    """The end of a message was sent."""
    conversation = at_rcpt(**kind)
    conversation.eom()
    return conversation


# -- what goes out -------------------------------------------------------------------------------


def test_offer_is_the_mtas() -> None:
    """The offer is one packet, by default with what Postfix and Sendmail offer (1.3, 2.7)."""
    conversation = mta.Protocol()
    assert ("optneg", OFFER, None) == tuple(conversation.negotiate())
    assert conversation.waiting_for == "optneg"


def test_offer_of_ones_own() -> None:
    """Version, actions and protocol of the offer are the caller's."""
    expected = hexed("00 00 00 0D 4F 00 00 00 02 00 00 00 3F 00 00 00 7F")
    assert expected == mta.Protocol().negotiate(2, 0x3F, 0x7F).data


@pytest.mark.row(193)
def test_one_offer_only() -> None:
    """Exactly one offer is made."""
    conversation = agreed()
    with pytest.raises(mta.StateError, match="one offer"):
        conversation.negotiate()


COMMANDS: list[tuple[str, Callable[[], mta.Protocol], Play, str]] = [
    (
        "connect, IPv4",
        agreed,
        lambda p: p.connect("h.ex", "192.0.2.1", 1234),
        "00 00 00 13 43 68 2E 65 78 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00",
    ),
    (
        "connect, IPv6 with tag",
        agreed,
        lambda p: p.connect("h", "IPv6:::1", 25),
        "00 00 00 0F 43 68 00 36 00 19 49 50 76 36 3A 3A 3A 31 00",
    ),
    (
        "connect, IPv6",
        agreed,
        lambda p: p.connect("h", "::1", 25),
        "00 00 00 0A 43 68 00 36 00 19 3A 3A 31 00",
    ),
    (
        "connect, highest port",
        agreed,
        lambda p: p.connect("", "1.2.3.4", 65535),
        "00 00 00 0D 43 00 34 FF FF 31 2E 32 2E 33 2E 34 00",
    ),
    (
        "connect, unix",
        agreed,
        lambda p: p.connect("h", "/s"),
        "00 00 00 09 43 68 00 4C 00 00 2F 73 00",
    ),
    (
        "connect, unknown",
        agreed,
        lambda p: p.connect("localhost", None),
        "00 00 00 0C 43 6C 6F 63 61 6C 68 6F 73 74 00 55",
    ),
    ("helo", agreed, lambda p: p.helo("c.ex"), "00 00 00 06 48 63 2E 65 78 00"),
    (
        "mail",
        agreed,
        lambda p: p.mail("<a@b>", "SIZE=9"),
        "00 00 00 0E 4D 3C 61 40 62 3E 00 53 49 5A 45 3D 39 00",
    ),
    ("rcpt", at_mail, lambda p: p.rcpt("<c@d>"), "00 00 00 07 52 3C 63 40 64 3E 00"),
    ("data", at_rcpt, lambda p: p.data(), "00 00 00 01 54"),
    (
        "header",
        at_rcpt,
        lambda p: p.header("Subject", " hi"),
        "00 00 00 0C 4C 53 75 62 6A 65 63 74 00 68 69 00",
    ),
    (
        "folded header",
        at_rcpt,
        lambda p: p.header(b"X", b" a\n\tb"),
        "00 00 00 08 4C 58 00 61 0A 09 62 00",
    ),
    ("eoh", at_rcpt, lambda p: p.eoh(), "00 00 00 01 4E"),
    ("body", at_rcpt, lambda p: p.body(b"hi\r\n"), "00 00 00 05 42 68 69 0D 0A"),
    ("eom", at_rcpt, lambda p: p.eom(), "00 00 00 01 45"),
    ("eom with data", at_rcpt, lambda p: p.eom(data=b"x"), "00 00 00 02 45 78"),
    ("abort", at_rcpt, lambda p: p.abort(), "00 00 00 01 41"),
    ("quit", at_rcpt, lambda p: p.quit(), "00 00 00 01 51"),
    ("quit_nc", agreed, lambda p: p.quit_nc(), "00 00 00 01 4B"),
    (
        "unknown",
        agreed,
        lambda p: p.unknown("FOO bar"),
        "00 00 00 09 55 46 4F 4F 20 62 61 72 00",
    ),
    (
        "macros",
        agreed,
        lambda p: p.connect("h", None, macros={"j": "mx"}),
        "00 00 00 07 44 43 6A 00 6D 78 00 00 00 00 04 43 68 00 55",
    ),
    (
        "no macros",
        agreed,
        lambda p: p.helo("c", macros={}),
        "00 00 00 02 44 48 00 00 00 03 48 63 00",
    ),
    (
        "two macros, one empty",
        agreed,
        lambda p: p.mail("<>", macros={"i": "", "{mail_addr}": b"\xff"}),
        "00 00 00 13 44 4D 69 00 00 7B 6D 61 69 6C 5F 61 64 64 72 7D 00 FF 00 "
        "00 00 00 04 4D 3C 3E 00",
    ),
    (
        "surrogates for bytes that are not UTF-8",
        agreed,
        lambda p: p.helo("\udcff\xe9"),
        "00 00 00 05 48 FF C3 A9 00",
    ),
]


@pytest.mark.parametrize(
    ("begin", "play", "expected"),
    [row[1:] for row in COMMANDS],
    ids=[row[0] for row in COMMANDS],
)
def test_commands(begin: Callable[[], mta.Protocol], play: Play, expected: str) -> None:
    """Every command is the bytes of wire spec 1.3."""
    assert hexed(expected) == play(begin()).data


def test_macros_of_steps_without_a_stage() -> None:
    """Macros can be sent before headers, body and unknown commands, as Postfix does (2.7)."""
    conversation = at_rcpt()
    first = hexed("00 00 00 06 44 4C 69 00 51 00") + packet("L", b"X\0y\0")
    assert first == conversation.header("X", "y", {"i": "Q"}).data
    answer(conversation)
    second = hexed("00 00 00 06 44 42 69 00 51 00") + packet("B", b"z")
    assert second == conversation.body(b"z", {"i": "Q"}).data


@pytest.mark.parametrize(
    "play",
    [
        lambda p: p.helo("a\0b"),
        lambda p: p.mail(b"<\0>"),
        lambda p: p.mail("<>", "A\0"),
        lambda p: p.connect("h\0", None),
        lambda p: p.connect("h", "/\0"),
        lambda p: p.connect("h", "mail.example.org"),
        lambda p: p.connect("h", "1.2.3"),
        lambda p: p.connect("h", "IPv6:127.0.0.1"),
        lambda p: p.connect("h", "127.0.0.1", 65536),
        lambda p: p.connect("h", "127.0.0.1", -1),
        lambda p: p.helo("h", macros={"a\0": "b"}),
        lambda p: p.unknown("\ud800"),
    ],
)
def test_what_cannot_be_sent(play: Play) -> None:
    """A NUL, a surrogate for no byte, or no address is a ValueError, and changes nothing."""
    conversation = agreed()
    with pytest.raises(ValueError, match=r"."):
        play(conversation)
    assert conversation.waiting_for is None
    assert not conversation.in_message
    assert b"\0\0\0\3Hh\0" == conversation.helo("h").data


def test_empty_and_oversize() -> None:
    """No header without a name, no empty body chunk, none larger than agreed on (1.2, 1.3)."""
    conversation = at_rcpt()
    for play in (
        lambda: conversation.header("", " x"),
        lambda: conversation.body(b""),
        lambda: conversation.body(bytes(65536)),
    ):
        with pytest.raises(ValueError, match=r"empty|1 to 65535"):
            play()
    assert 65535 + 5 == len(conversation.body(bytes(65535)).data)


# -- the answer to the offer ---------------------------------------------------------------------


def negotiating(offer: tuple[int, int, int] = (6, 0x1FF, 0x1FFFFF), **kind: Any) -> mta.Protocol:
    """The offer was sent."""
    conversation = mta.Protocol(**kind)
    conversation.negotiate(*offer)
    return conversation


def test_options() -> None:
    """The filter's choice and its macro lists, byte by byte from 1.4."""
    reply = hexed("00 00 00 13 4F 00 00 00 06 00 00 00 01 00 00 04 00 00 00 00 03 69 00")
    conversation = negotiating()
    expected = mta.Options(6, 1, 0x400, {3: ("i",)}, 6, 0x1FF, 0x1FFFFF)
    assert expected == answer(conversation, reply)
    assert expected == conversation.options
    assert conversation.waiting_for is None
    assert not expected.leading_space
    assert not expected.rejected_recipients
    assert 65535 == expected.max_data


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        C,
        packet("p"),
        packet("y", b"550 no\0"),
        packet("h", b"X\0y\0"),
        packet("O"),
        packet("O", bytes(11)),
        options(7),
        options(1),
        options(0),
        options(2**32 - 1),
        options(actions=0x200),
        options(actions=0x8000_0000),
        options(lists=b"\0"),
        options(lists=b"\0\0\0\3"),
        options(lists=b"\0\0\0\3i"),
        options(lists=b"\0\0\0\3i\0\0"),
    ],
)
@pytest.mark.row(193)
def test_bad_answers_to_the_offer(reply: bytes, strict: bool) -> None:
    """Not O, too short, a version or action that was not offered, or lists cut short."""
    with pytest.raises(mta.ProtocolError, match="the filter sent"):
        answer(negotiating(strict=strict), reply)


@pytest.mark.row(193)
def test_version_above_the_offer() -> None:
    """A version that we know but did not offer is refused."""
    with pytest.raises(mta.ProtocolError, match="version 6; 4 was offered"):
        answer(negotiating((4, 0x1FF, 0x1FFFFF)), options(6))
    assert 4 == answer(negotiating((4, 0x1FF, 0x1FFFFF)), options(4)).version


@pytest.mark.row(193)
def test_actions_beyond_the_offer() -> None:
    """An action that exists but was not offered is refused."""
    with pytest.raises(mta.ProtocolError, match=r"0x20; 0x1F were offered.*row 193"):
        answer(negotiating((6, 0x1F, 0)), options(actions=0x20))


@pytest.mark.row(193)
def test_protocol_beyond_the_offer() -> None:
    """Protocol bits that were not offered: an error when strict, else as if not set (Postfix)."""
    with pytest.raises(mta.ProtocolError, match="row 193"):
        answer(negotiating((6, 0x1FF, 0x7F)), options(protocol=0x401))
    lenient = negotiating((6, 0x1FF, 0x7F), strict=False)
    assert 1 == answer(lenient, options(protocol=0x401)).protocol


def test_macro_lists() -> None:
    """Up to seven lists, names separated by blanks or commas, an empty one too (2.5)."""
    lists = b"\0\0\0\0j {daemon_name}\0\0\0\0\5i,{x}\0\0\0\0\6\0"
    expected = {0: ("j", "{daemon_name}"), 5: ("i", "{x}"), 6: ()}
    assert expected == answer(negotiating(), options(lists=lists)).macro_lists


def test_macro_list_of_an_unknown_stage() -> None:
    """A list for a stage that does not exist: an error when strict, else ignored (2.5)."""
    lists = b"\0\0\0\7i\0\0\0\0\2i\0"
    with pytest.raises(mta.ProtocolError, match="stage 7"):
        answer(negotiating(), options(lists=lists))
    assert {2: ("i",)} == answer(negotiating(strict=False), options(lists=lists)).macro_lists


def test_two_macro_lists_for_a_stage() -> None:
    """A second list for a stage: an error when strict, else the last one holds (2.5)."""
    lists = b"\0\0\0\2i\0\0\0\0\2j\0"
    with pytest.raises(mta.ProtocolError, match=r"two macro lists for stage 2.*2\.5"):
        answer(negotiating(), options(lists=lists))
    assert {2: ("j",)} == answer(negotiating(strict=False), options(lists=lists)).macro_lists


@pytest.mark.parametrize("many", [50, 51])
def test_long_macro_lists(many: int) -> None:
    """Sendmail takes 50 names in a list: more are an error when strict (2.5)."""
    names = " ".join(f"{{m{number}}}" for number in range(many)).encode()
    lists = b"\0\0\0\2" + names + b"\0"
    assert many == len(answer(negotiating(strict=False), options(lists=lists)).macro_lists[2])
    if many <= 50:
        assert many == len(answer(negotiating(), options(lists=lists)).macro_lists[2])
        return
    with pytest.raises(mta.ProtocolError, match=r"list with 51 names.*2\.5"):
        answer(negotiating(), options(lists=lists))


def test_macro_lists_where_none_are_understood() -> None:
    """Lists to an MTA that did not offer SETSYMLIST: an error when strict (2.5, row 50)."""
    lists, offer = b"\0\0\0\2i\0", (6, 0xFF, 0x1FFFFF)
    with pytest.raises(mta.ProtocolError, match=r"without SETSYMLIST offered.*2\.5"):
        answer(negotiating(offer), options(actions=0, lists=lists))
    lenient = negotiating(offer, strict=False)
    assert {2: ("i",)} == answer(lenient, options(actions=0, lists=lists)).macro_lists
    assert {} == answer(negotiating(offer), options(actions=0)).macro_lists


def test_two_larger_sizes() -> None:
    """One of the larger data sizes may be chosen, both are an error when strict (2.6)."""
    offer = (6, 0x1FF, 0x301FFFFF)
    with pytest.raises(mta.ProtocolError, match=r"both of the larger.*2\.6"):
        answer(negotiating(offer), options(protocol=0x30000000))
    assert answer(negotiating(offer, strict=False), options(protocol=0x30000000)) is not None


@pytest.mark.parametrize("strict", [True, False])
def test_offer_of_nothing(strict: bool) -> None:
    """An offer of no actions or bits stands for those of the first version (2.1, row 27)."""
    got = answer(negotiating((2, 0, 0), strict=strict), options(2, 0xF, 0x3F))
    assert (0xF, 0x3F, 0, 0) == (
        got.actions,
        got.protocol,
        got.offered_actions,
        got.offered_protocol,
    )
    with pytest.raises(mta.ProtocolError, match="row 193"):
        answer(negotiating((2, 0, 0), strict=strict), options(2, 0x10, 0))
    with pytest.raises(mta.ProtocolError, match="row 193"):
        answer(negotiating((2, 0, 0)), options(2, 0, 0x40))


@pytest.mark.parametrize(
    ("bits", "size"), [(0, 65535), (0x10000000, 262143), (0x20000000, 1048575)]
)
def test_larger_packets(bits: int, size: int) -> None:
    """With one of the larger data sizes agreed on, body chunks may be that large (2.6)."""
    conversation = negotiating((6, 0x1FF, 0x301FFFFF))
    answer(conversation, options(protocol=bits))
    assert conversation.options is not None
    assert size == conversation.options.max_data
    conversation.mail("<>")
    answer(conversation)
    conversation.rcpt("<>")
    answer(conversation)
    assert 5 + size == len(conversation.body(bytes(size)).data)


# -- what is left out ----------------------------------------------------------------------------

STEPS: list[tuple[str, int, int, Callable[..., mta.Protocol], Play]] = [
    ("connect", 0x1, 0x1000, agreed, lambda p: p.connect("h")),
    ("helo", 0x2, 0x2000, agreed, lambda p: p.helo("h")),
    ("mail", 0x4, 0x4000, agreed, lambda p: p.mail("<>")),
    ("rcpt", 0x8, 0x8000, at_mail, lambda p: p.rcpt("<>")),
    ("data", 0x200, 0x10000, at_rcpt, lambda p: p.data()),
    ("header", 0x20, 0x80, at_rcpt, lambda p: p.header("X", "y")),
    ("eoh", 0x40, 0x40000, at_rcpt, lambda p: p.eoh()),
    ("body", 0x10, 0x80000, at_rcpt, lambda p: p.body(b"x")),
    ("unknown", 0x100, 0x20000, agreed, lambda p: p.unknown("FOO")),
]
STEP_IDS = [row[0] for row in STEPS]


@pytest.mark.row(194)
@pytest.mark.parametrize(("name", "no", "nr", "begin", "play"), STEPS, ids=STEP_IDS)
def test_steps_negotiated_away(
    name: str, no: int, nr: int, begin: Callable[..., mta.Protocol], play: Play
) -> None:
    """With its NO bit a step is not sent (2.2), with its NR bit nobody waits for it (2.3)."""
    sent = play(begin())
    assert (name, None) == (sent.step, sent.verdict)

    conversation = begin(protocol=no)
    assert (name, b"", mta.Kind.NOT_SENT) == kinded(play(conversation))
    assert conversation.waiting_for is None

    conversation = begin(protocol=nr)
    assert (name, sent.data, mta.Kind.NO_REPLY) == kinded(play(conversation))
    assert conversation.waiting_for is None


def kinded(outgoing: mta.Outgoing) -> tuple[str, bytes, Any]:
    """The parts of what a step writes, the verdict by its kind."""
    return outgoing.step, outgoing.data, outgoing.verdict and outgoing.verdict.kind


@pytest.mark.row(194)
def test_no_answer_to_these() -> None:
    """ABORT, QUIT and QUIT_NC have no answer; nor has the macro packet before a NR step."""
    for play in (mta.Protocol.abort, mta.Protocol.quit_nc, mta.Protocol.quit):
        conversation = at_rcpt()
        assert mta.Kind.NO_REPLY is kinded(play(conversation))[2]
        assert conversation.waiting_for is None
    conversation = agreed(protocol=0x4000)
    assert mta.Kind.NO_REPLY is kinded(conversation.mail("<>", macros={"i": "x"}))[2]


@pytest.mark.row(194)
@pytest.mark.parametrize(
    ("version", "data", "unknown"), [(2, False, False), (3, False, True), (4, True, True)]
)
def test_steps_unknown_to_the_version(version: int, data: bool, unknown: bool) -> None:
    """DATA is sent from protocol version 4 on, UNKNOWN from 3 on (1.3, 2.7)."""
    assert unknown == bool(agreed(version=version).unknown("FOO").data)
    assert data == bool(at_rcpt(version=version).data({"i": "Q"}).data)


def test_quit_nc_needs_version_6() -> None:
    """QUIT_NC is no part of older versions (1.3)."""
    with pytest.raises(mta.StateError, match="version 4"):
        agreed(version=4).quit_nc()


@pytest.mark.row(194)
def test_macros_of_steps_negotiated_away() -> None:
    """C, H, M, R, T and U tell their macros even so, as MTAs do, the content does not (2.7)."""
    conversation = agreed(protocol=0x7F | 0x300)
    assert packet("D", b"Ui\0Q\0") == conversation.unknown("FOO", {"i": "Q"}).data
    macros = {"i": "Q"}
    assert packet("D", b"Ci\0Q\0") == conversation.connect("h", macros=macros).data
    assert packet("D", b"Hi\0Q\0") == conversation.helo("h", macros).data
    assert packet("D", b"Mi\0Q\0") == conversation.mail("<>", macros=macros).data
    assert packet("D", b"Ri\0Q\0") == conversation.rcpt("<>", macros=macros).data
    assert packet("D", b"Ti\0Q\0") == conversation.data(macros).data
    assert b"" == conversation.header("X", "y", macros).data
    assert b"" == conversation.eoh(macros).data
    assert b"" == conversation.body(b"x", macros).data
    assert packet("D", b"Ei\0Q\0") + packet("E") == conversation.eom(macros).data


@pytest.mark.row(194)
def test_requested_macros() -> None:
    """Only the macros that the filter asked for at a stage; all where it asked for none there."""
    conversation = agreed(lists=b"\0\0\0\0{j} x {long}\0\0\0\0\1\0")
    macros = {"j": "1", "{x}": "2", "long": "3", "{long}": "4", "y": "5"}
    expected = packet("D", b"Cj\x001\0{x}\x002\0{long}\x004\0") + packet("C", b"h\0U")
    assert expected == conversation.connect("h", None, macros=macros).data
    answer(conversation)
    assert packet("D", b"H") + packet("H", b"h\0") == conversation.helo("h", macros).data
    answer(conversation)
    assert packet("D", b"My\x005\0") + packet("M", b"<>\0") == (
        conversation.mail("<>", macros={"y": "5"}).data
    )


@pytest.mark.row(194)
@pytest.mark.parametrize(
    ("value", "without", "with_it"),
    [
        (" hi", b"hi", b" hi"),
        ("hi", b"hi", b"hi"),
        ("  hi", b" hi", b"  hi"),
        ("\thi", b"\thi", b"\thi"),
        ("", b"", b""),
        (" ", b"", b" "),
    ],
)
def test_leading_space(value: str, without: bytes, with_it: bytes) -> None:
    """One blank is taken off a header's value, no tab, and nothing with HDR_LEADSPC (1.3, 2.4)."""
    assert packet("L", b"X\0" + without + b"\0") == at_rcpt().header("X", value).data
    leading = at_rcpt(protocol=0x100000)
    assert leading.options is not None
    assert leading.options.leading_space
    assert packet("L", b"X\0" + with_it + b"\0") == leading.header("X", value).data


@pytest.mark.row(194)
def test_rejected_recipients() -> None:
    """A recipient that the MTA rejects is told only to a filter that wants it (RCPT_REJ, 2.4)."""
    without = at_mail()
    assert ("rcpt", b"", mta.Kind.NOT_SENT) == kinded(
        without.rcpt("<x@y>", rejected=True, macros={})
    )
    assert without.waiting_for is None
    with_it = at_mail(protocol=0x800)
    assert packet("R", b"<x@y>\0") == with_it.rcpt("<x@y>", rejected=True).data
    assert with_it.waiting_for == "rcpt"


@pytest.mark.row(194)
def test_skip() -> None:
    """After SKIP no more body is sent, but the end of the message is, and the next body (2.4)."""
    conversation = at_body(protocol=0x400)
    conversation.body(b"1")
    assert mta.Verdict(mta.Kind.SKIP) == answer(conversation, packet("s"))
    assert ("body", b"", mta.Kind.NOT_SENT) == kinded(conversation.body(b"2"))
    assert ("body", b"", mta.Kind.NOT_SENT) == kinded(conversation.body(b"3"))
    assert packet("E") == conversation.eom().data
    answer(conversation)
    for play in (
        lambda: conversation.mail("<>"),
        lambda: conversation.rcpt("<>"),
        lambda: conversation.body(b"4"),
    ):
        assert play().data
        answer(conversation)


@pytest.mark.parametrize(
    ("begin", "play"),
    [
        (agreed, lambda p: p.helo("h")),
        (at_mail, lambda p: p.rcpt("<>")),
        (at_rcpt, lambda p: p.header("X", "y")),
        (at_rcpt, lambda p: p.body(b"x")),
    ],
)
def test_skip_elsewhere(begin: Callable[..., mta.Protocol], play: Play) -> None:
    """SKIP to another step, or to a body that did not negotiate it: an error when strict; else the
    same event is left out until another comes, as Postfix does (2.4)."""
    conversation = begin()
    play(conversation)
    with pytest.raises(mta.ProtocolError, match=r"SKIP.*2\.4"):
        answer(conversation, packet("s"))
    conversation = begin(strict=False)
    play(conversation)
    assert mta.Kind.SKIP is answer(conversation, packet("s")).kind
    assert mta.Kind.NOT_SENT is kinded(play(conversation))[2]
    conversation.unknown("FOO")
    answer(conversation)
    assert play(conversation).data


@pytest.mark.parametrize("strict", [True, False])
def test_skip_at_the_end(strict: bool) -> None:
    """SKIP is no answer to the end of a message (2.4)."""
    with pytest.raises(mta.ProtocolError, match="SKIP in answer to eom"):
        answer(at_eom(strict=strict, protocol=0x400), packet("s"))


# -- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "no", "nr", "begin", "play"), STEPS, ids=STEP_IDS)
def test_verdicts(
    name: str, no: int, nr: int, begin: Callable[..., mta.Protocol], play: Play
) -> None:
    """Each verdict is understood at each step (1.4)."""
    for kind, reply in VERDICTS.items():
        conversation = begin(strict=False)
        play(conversation)
        assert name == conversation.waiting_for
        assert mta.Verdict(kind) == answer(conversation, reply)
        assert conversation.waiting_for is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"550 5.7.1 no", (mta.Kind.REJECT, 550, "5.7.1", ("no",))),
        (b"550 no", (mta.Kind.REJECT, 550, None, ("no",))),
        (b"451 4.3.0", (mta.Kind.TEMPFAIL, 451, "4.3.0", ("",))),
        (b"421 4.7.0 bye", (mta.Kind.TEMPFAIL, 421, "4.7.0", ("bye",))),
        (b"550 ", (mta.Kind.REJECT, 550, None, ("",))),
        (b"550 5.123.123 ", (mta.Kind.REJECT, 550, "5.123.123", ("",))),
        (b"550-5.7.1 a\r\n550 5.7.1 b", (mta.Kind.REJECT, 550, "5.7.1", ("a", "b"))),
        (b"450-a\r\n450-\r\n450 c", (mta.Kind.TEMPFAIL, 450, None, ("a", "", "c"))),
        # A code that not all lines have is part of its line.
        (b"550-5.7.1 a\r\n550 b", (mta.Kind.REJECT, 550, None, ("5.7.1 a", "b"))),
        (b"550-a\r\n550 5.7.1 b", (mta.Kind.REJECT, 550, None, ("a", "5.7.1 b"))),
        (b"550-5.7.1 a\r\n550 5.7.2 b", (mta.Kind.REJECT, 550, None, ("5.7.1 a", "5.7.2 b"))),
        (b"554 5.7.1  x", (mta.Kind.REJECT, 554, "5.7.1", ("x",))),
        (b"554 5.7.12345 x", (mta.Kind.REJECT, 554, None, ("5.7.12345 x",))),
        (b"554 \xff\xc3\xa9\t", (mta.Kind.REJECT, 554, None, ("\udcff\xe9\t",))),
    ],
)
def test_reply_texts(text: bytes, expected: tuple[Any, ...]) -> None:
    """A reply text is taken apart, and kept as it came (4.3, 4.4)."""
    conversation = agreed()
    conversation.helo("h")
    assert mta.Verdict(*expected, raw=text) == answer(conversation, packet("y", text + b"\0"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"550 no",
        b"550 no\0x",
        b"550 a\0b\0",
        b"\0",
        b"55\0",
        b"250 ok\0",
        b"354 go\0",
        b"650 x\0",
        b"5x0 x\0",
        b"550x\0",
        b"550-unfinished\0",
        b"550 a\n550 b\0",
        b"550 a\r\0",
        b"550 a\rb\0",
        b"550 a\r\n550 b\0",
        b"550-a\r\n451 b\0",
        b"550-a\r\n550-b\0",
        b"550-a\r\n\r\n550 b\0",
        b"550 a\r\n\0",
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_bad_reply_texts(data: bytes, strict: bool) -> None:
    """No NUL, one inside, no refusal, unfinished lines, bare CR or LF: an error (1.4, 4.5)."""
    conversation = agreed(strict=strict)
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError, match=r"wire spec"):
        answer(conversation, packet("y", data))


@pytest.mark.parametrize(
    "text",
    [
        b"550 4.7.1 x",
        b"550 2.0.0 x",
        b"450-5.7.1 a\r\n450 5.7.1 b",
        b"450-4.7.1 a\r\n450 5.7.1 b",
    ],
)
def test_reply_text_with_two_classes(text: bytes) -> None:
    """Two codes that disagree: an error when strict, as at Postfix, else the first counts (4.5)."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError, match="classes"):
        answer(conversation, packet("y", text + b"\0"))
    conversation = agreed(strict=False)
    conversation.helo("h")
    assert int(text[:3]) == answer(conversation, packet("y", text + b"\0")).code


@pytest.mark.parametrize(
    ("verdict", "reply", "final"),
    [
        (mta.Verdict(mta.Kind.CONTINUE), None, False),
        (mta.Verdict(mta.Kind.NO_REPLY), None, False),
        (mta.Verdict(mta.Kind.NOT_SENT), None, False),
        (mta.Verdict(mta.Kind.SKIP), None, False),
        (mta.Verdict(mta.Kind.ACCEPT), None, True),
        (mta.Verdict(mta.Kind.DISCARD), None, True),
        (mta.Verdict(mta.Kind.REJECT), "550 5.7.1 Command rejected", True),
        (
            mta.Verdict(mta.Kind.TEMPFAIL),
            "451 4.7.1 Service unavailable - try again later",
            True,
        ),
        (mta.Verdict(mta.Kind.REJECT, 550, raw=b"550 100%% a%b%"), "550 100% ab", True),
        (mta.Verdict(mta.Kind.REJECT, 550, raw=b"550-a\r\n550 %%%%"), "550-a\r\n550 %%", True),
    ],
)
def test_smtp_reply(verdict: mta.Verdict, reply: str | None, final: bool) -> None:
    """What the client gets to read is Postfix's text, or the filter's with %% undone (2.7, 4.5)."""
    assert reply == verdict.reply
    assert final == verdict.final


@pytest.mark.parametrize("letter", "CH")
def test_discard_of_a_session(letter: str) -> None:
    """DISCARD to CONNECT or HELO is an error when strict (4.2); MTAs take it for CONTINUE."""
    conversation = agreed()
    PLAYS[letter](conversation)
    with pytest.raises(mta.ProtocolError, match=r"DISCARD in answer to .*wire spec 4\.2"):
        answer(conversation, packet("d"))
    conversation = agreed(strict=False)
    PLAYS[letter](conversation)
    assert mta.Verdict(mta.Kind.DISCARD) == answer(conversation, packet("d"))


@pytest.mark.parametrize(
    ("text", "rule", "good"),
    [
        (b"550 is 100% no", "4\\.5", b"550 is 100%% no"),
        (b"550 %%%", "4\\.5", b"550 %%%%"),
        (b"550 4 of them", "4\\.4 and 4\\.5", b"550 5 of them"),
        (b"550", "4\\.4 and 4\\.5", b"550 "),
        (b"550-a\r\n" * 32 + b"550 a", "4\\.4", b"550-a\r\n" * 31 + b"550 a"),
        (b"550 5.7.1 " + b"x" * 981, "4\\.4", b"550 5.7.1 " + b"x" * 980),
        (b"550 " + b"x" * 981, "4\\.4", b"550 " + b"x" * 980),
        (
            b"550-5.7.1 a\r\n550 5.7.1 " + b"x" * 981,
            "4\\.4",
            b"550-5.7.1 a\r\n550 5.7.1 " + b"x" * 980,
        ),
    ],
)
def test_reply_texts_that_not_all_take(text: bytes, rule: str, good: bytes) -> None:
    """A lone %, a digit where the class of an enhanced code stands, nothing behind the code, more
    or longer lines than there can be: errors when strict only; what is just within is none (4.3 to
    4.5)."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError, match=rf"reply text.*wire spec {rule}:"):
        answer(conversation, packet("y", text + b"\0"))
    for strict, accepted in ((False, text), (True, good)):
        conversation = agreed(strict=strict)
        conversation.helo("h")
        assert 550 == answer(conversation, packet("y", accepted + b"\0")).code


# -- what one mail server puts up with -----------------------------------------------------------


def lenient(rules: str | None, **kind: Any) -> mta.Protocol:
    """A conversation that is not strict, in which HELO was played."""
    conversation = agreed(strict=False, rules=rules, **kind)
    conversation.helo("h")
    return conversation


@pytest.mark.parametrize("text", [b"550 4.7.1 x", b"450 2.0.0 x", b"550 4 of them", b"550"])
def test_reply_texts_that_only_sendmail_takes(text: bytes) -> None:
    """Postfix calls these malformed, as all codes of a wrong class (4.5); Sendmail passes them."""
    with pytest.raises(mta.ProtocolError, match=r"reply text.*4\.5"):
        answer(lenient("postfix"), packet("y", text + b"\0"))
    for rules in ("sendmail", None):
        assert int(text[:3]) == answer(lenient(rules), packet("y", text + b"\0")).code


@pytest.mark.parametrize("data", [b"550 5.7.1 no", b"250 2.0.0 ok\0", b"\0", b"", b"550 a\0b\0"])
def test_reply_texts_that_are_none_to_sendmail(data: bytes) -> None:
    """Where there is no reply text Sendmail has one of its own (1.4); others have an error."""
    verdict = answer(lenient("sendmail"), packet("y", data))
    assert (mta.Kind.REJECT, None, ()) == (verdict.kind, verdict.code, verdict.lines)
    for rules in ("postfix", None):
        with pytest.raises(mta.ProtocolError):
            answer(lenient(rules), packet("y", data))


def test_data_behind_a_verdict() -> None:
    """Sendmail ignores it, Postfix does not (1.4)."""
    assert mta.Verdict(mta.Kind.CONTINUE) == answer(lenient("sendmail"), packet("c", b"x"))
    for rules in ("postfix", None):
        with pytest.raises(mta.ProtocolError, match="malformed CONTINUE"):
            answer(lenient(rules), packet("c", b"x"))


@pytest.mark.row(193)
def test_versions_that_one_server_takes() -> None:
    """Sendmail takes any but 1, Postfix none above its own (2.7)."""
    assert 7 == answer(negotiating(strict=False, rules="sendmail"), options(7)).version
    # To Postfix an older one is one that has all steps.
    assert 6 == answer(negotiating(strict=False, rules="postfix"), options(1)).version
    for rules, version in (("sendmail", 1), ("postfix", 7), (None, 1), (None, 7)):
        with pytest.raises(mta.ProtocolError, match="row 193"):
            answer(negotiating(strict=False, rules=rules), options(version))


@pytest.mark.row(193)
def test_protocol_bits_that_one_server_takes() -> None:
    """Postfix does without bits that it has not offered, Sendmail without the filter (2.7)."""
    offer = (6, 0x1FF, 0x7F)
    lax = negotiating(offer, strict=False, rules="postfix")
    assert 1 == answer(lax, options(protocol=0x401)).protocol
    with pytest.raises(mta.ProtocolError, match="row 193"):
        answer(negotiating(offer, strict=False, rules="sendmail"), options(protocol=0x401))


def test_skip_at_the_end_of_a_message() -> None:
    """To Postfix it is an answer like any other, to Sendmail none (2.4)."""
    conversation = at_eom(strict=False, rules="postfix")
    assert mta.Kind.SKIP is answer(conversation, packet("s")).kind
    with pytest.raises(mta.ProtocolError, match="SKIP in answer to eom"):
        answer(at_eom(strict=False, rules="sendmail"), packet("s"))


@pytest.mark.parametrize(
    ("rules", "again"), [("postfix", False), ("sendmail", True), (None, False)]
)
def test_skip_of_a_header(rules: str | None, again: bool) -> None:
    """Postfix keeps the headers that follow from the filter, Sendmail does not (2.4)."""
    conversation = at_rcpt(strict=False, rules=rules)
    conversation.header("A", " b")
    answer(conversation, packet("s"))
    assert again == bool(conversation.header("A", " b").data)


def test_macros_of_a_mail_server() -> None:
    """Where a mail server is played, it chooses its macros itself."""
    conversation = agreed(rules="postfix", lists=b"\0\0\0\1j\0")
    assert (
        packet("D", b"Hv\x001\0") + packet("H", b"h\0") == conversation.helo("h", {"v": "1"}).data
    )


# -- modifications -------------------------------------------------------------------------------

MODIFICATIONS: list[tuple[str, str, mta.Modification]] = [
    ("add header", "00 00 00 05 68 58 00 76 00", mta.AddHeader("X", "v")),
    (
        "insert header",
        "00 00 00 09 69 00 00 00 00 58 00 76 00",
        mta.InsertHeader(0, "X", "v"),
    ),
    (
        "insert header far away",
        "00 00 00 09 69 7F FF FF FF 58 00 76 00",
        mta.InsertHeader(2147483647, "X", "v"),
    ),
    ("change header", "00 00 00 09 6D 00 00 00 01 58 00 76 00", mta.ChangeHeader(1, "X", "v")),
    ("delete header", "00 00 00 08 6D 00 00 00 01 58 00 00", mta.DeleteHeader(1, "X")),
    ("replace body", "00 00 00 05 62 68 69 0D 0A", mta.ReplaceBody(b"hi\r\n")),
    ("empty body", "00 00 00 01 62", mta.ReplaceBody(b"")),
    ("add recipient", "00 00 00 07 2B 3C 72 40 65 3E 00", mta.AddRecipient("<r@e>")),
    (
        "add recipient with parameters",
        "00 00 00 14 32 3C 72 40 65 3E 00 4E 4F 54 49 46 59 3D 4E 45 56 45 52 00",
        mta.AddRecipient("<r@e>", "NOTIFY=NEVER"),
    ),
    (
        "add recipient with parameters, none given",
        "00 00 00 07 32 3C 72 40 65 3E 00",
        mta.AddRecipient("<r@e>"),
    ),
    (
        "add recipient with empty parameters",
        "00 00 00 08 32 3C 72 40 65 3E 00 00",
        mta.AddRecipient("<r@e>", ""),
    ),
    ("delete recipient", "00 00 00 07 2D 3C 72 40 65 3E 00", mta.DeleteRecipient("<r@e>")),
    (
        "change sender",
        "00 00 00 0E 65 3C 6E 40 65 3E 00 53 49 5A 45 3D 31 00",
        mta.ChangeSender("<n@e>", "SIZE=1"),
    ),
    (
        "change sender, no parameters",
        "00 00 00 07 65 3C 6E 40 65 3E 00",
        mta.ChangeSender("<n@e>"),
    ),
    ("quarantine", "00 00 00 05 71 77 68 79 00", mta.Quarantine("why")),
]
MODIFICATION_IDS = [row[0] for row in MODIFICATIONS]
ACTIONS = dict(zip("himb+2-eq", (0x1, 0x1, 0x10, 0x2, 0x4, 0x80, 0x8, 0x40, 0x20)))


@pytest.mark.row(196)
@pytest.mark.parametrize(("text", "expected"), [r[1:] for r in MODIFICATIONS], ids=MODIFICATION_IDS)
def test_modifications(text: str, expected: mta.Modification) -> None:
    """Every modification of 1.4 is understood after the end of the message, whole and cut in two
    at every byte, and with its action alone negotiated."""
    wire = hexed(text)
    for cut in range(1, len(wire)):
        conversation = at_eom(actions=ACTIONS[chr(wire[4])])
        conversation.receive(wire[:cut])
        assert conversation.next_event() is None
        conversation.receive(wire[cut:])
        assert expected == conversation.next_event()
        assert conversation.next_event() is None
        assert conversation.waiting_for == "eom"
        assert mta.Verdict(mta.Kind.CONTINUE) == answer(conversation)


@pytest.mark.row(196)
@pytest.mark.parametrize("text", [row[1] for row in MODIFICATIONS], ids=MODIFICATION_IDS)
def test_modifications_not_negotiated(text: str) -> None:
    """Without its action a modification is an error when strict, else it counts (section 5)."""
    wire = hexed(text)
    others = 0x1FF & ~ACTIONS[chr(wire[4])]
    with pytest.raises(mta.ProtocolError, match=r"without \w+ negotiated.*row 196"):
        answer(at_eom(actions=others), wire)
    assert answer(at_eom(actions=others, strict=False), wire) is not None


@pytest.mark.row(196)
@pytest.mark.parametrize(("name", "no", "nr", "begin", "play"), STEPS, ids=STEP_IDS)
def test_modifications_before_the_end(
    name: str, no: int, nr: int, begin: Callable[..., mta.Protocol], play: Play
) -> None:
    """A modification in answer to any other step is an error, also when not strict."""
    for strict in (True, False):
        conversation = begin(strict=strict)
        play(conversation)
        with pytest.raises(mta.ProtocolError, match=f"ADDHEADER in answer to {name}.*row 196"):
            answer(conversation, packet("h", b"X\0v\0"))


@pytest.mark.row(196)
def test_modification_after_the_verdict() -> None:
    """A modification after the verdict is an error, found before the next step at the latest."""
    conversation = at_eom()
    conversation.receive(C + packet("h", b"X\0v\0"))
    assert mta.Verdict(mta.Kind.CONTINUE) == conversation.next_event()
    with pytest.raises(mta.ProtocolError, match="ADDHEADER although nothing was asked"):
        conversation.mail("<>")


@pytest.mark.row(196)
@pytest.mark.parametrize(
    "wire",
    [packet(letter, b"x") for letter in "cartdsp"]
    + [packet(letter, b"\0") for letter in "cartdsp"]
    + [packet(letter) for letter in "yhim+2-eq"]
    + [
        packet("h", b"X\0v"),
        packet("h", b"X\0"),
        packet("h", b"X"),
        packet("h", b"X\0v\0\0"),
        packet("h", b"X\0v\0w\0"),
        packet("i", b"\0\0\0"),
        packet("i", b"\0\0\0\0"),
        packet("i", b"\0\0\0\0X\0v"),
        packet("i", b"\0\0\0\0X\0v\0\0"),
        packet("m", b"\0\0\0"),
        packet("m", b"\0\0\0\1X\0"),
        packet("+", b"<r@e>"),
        packet("+", b"<r@e>\0N=1\0"),
        packet("2", b"<r@e>\0N=1"),
        packet("2", b"<r@e>\0N=1\0\0"),
        packet("-", b"<r@e>"),
        packet("-", b"<r@e>\0\0"),
        packet("e", b"<n@e>\0S\0\0"),
        packet("e", b"<n@e>\0S"),
        packet("q", b"why"),
        packet("q", b"why\0\0"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_exact_lengths(wire: bytes, strict: bool) -> None:
    """Missing NULs, NULs inside, trailing bytes: each is an error, strict or not (1.4, row 196)."""
    conversation = at_eom(strict=strict, protocol=0x400)
    with pytest.raises(mta.ProtocolError, match=r"malformed .*1\.4"):
        answer(conversation, wire)


@pytest.mark.parametrize(
    "wire",
    [
        packet("h", b"\0v\0"),
        packet("i", b"\0\0\0\0\0v\0"),
        packet("m", b"\0\0\0\1\0v\0"),
        packet("+", b"\0"),
        packet("2", b"\0N=1\0"),
        packet("-", b"\0"),
        packet("e", b"\0"),
        packet("q", b"\0"),
    ],
)
def test_empty_names(wire: bytes) -> None:
    """A modification without a name, address or reason: an error when strict (section 5)."""
    with pytest.raises(mta.ProtocolError, match="with an empty name"):
        answer(at_eom(), wire)
    assert answer(at_eom(strict=False), wire) is not None


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (packet("i", b"\x80\0\0\0X\0v\0"), "INSHEADER with number -2147483648"),
        (packet("m", b"\xff\xff\xff\xffX\0v\0"), "CHGHEADER with number -1"),
        (packet("h", b"X\0a\r\n b\0"), "ADDHEADER with CR"),
        (packet("i", b"\0\0\0\0X\0a\r\0"), "INSHEADER with CR"),
        (packet("m", b"\0\0\0\1X\0\r\0"), "CHGHEADER with CR"),
        (packet("h", b"X\0a\nB: c\0"), "ADDHEADER with LF that no blank follows"),
        (packet("i", b"\0\0\0\0X\0a\n\0"), "INSHEADER with LF that no blank follows"),
        (packet("m", b"\0\0\0\1X\0a\n\n b\0"), "CHGHEADER with LF that no blank follows"),
    ],
)
def test_headers_that_not_all_take(wire: bytes, text: str) -> None:
    """A negative number, CR in a value, a line that is no fold: errors when strict (5)."""
    with pytest.raises(mta.ProtocolError, match=rf"{text}.* \(wire spec 5: "):
        answer(at_eom(), wire)
    assert answer(at_eom(strict=False), wire) is not None


@pytest.mark.parametrize("value", [b"a\n b", b"a\n\tb\n c", b"", b" a"])
def test_folds(value: bytes) -> None:
    """Values folded by LF and a blank are as they should be (5)."""
    assert answer(at_eom(), packet("h", b"X\0" + value + b"\0")) is not None
    assert answer(at_eom(), packet("m", b"\0\0\0\0X\0" + value + b"\0")) is not None


def test_no_fold_where_no_header() -> None:
    """What is said of a header's value is not said of addresses' parameters."""
    assert mta.AddRecipient("<r@e>", "a\nb") == answer(at_eom(), packet("2", b"<r@e>\0a\nb\0"))


@pytest.mark.parametrize(
    ("bits", "size"), [(0, 65535), (0x10000000, 262143), (0x20000000, 1048575)]
)
def test_more_data_than_agreed(bits: int, size: int) -> None:
    """A packet with more data than was agreed on is an error when strict (1.2, 2.6)."""
    for strict, length in ((True, size), (False, size + 1)):
        conversation = sized(bits, strict)
        assert mta.ReplaceBody(bytes(length)) == answer(conversation, packet("b", bytes(length)))
    with pytest.raises(mta.ProtocolError, match=rf"{size + 1} bytes of data.*wire spec 1\.2"):
        answer(sized(bits, True), packet("b", bytes(size + 1)))


def sized(bits: int, strict: bool) -> mta.Protocol:
    """At the end of a message, with these bits agreed on."""
    conversation = negotiating((6, 0x1FF, 0x301FFFFF), strict=strict)
    answer(conversation, options(protocol=bits))
    for step in (conversation.mail, conversation.rcpt):
        step("<>")
        answer(conversation)
    conversation.eom()
    return conversation


def test_body_in_pieces() -> None:
    """Pieces of a new body may follow each other; when strict, not after something else (5)."""
    pieces = [packet("b", b"1"), packet("b", b"2"), packet("h", b"X\0v\0"), packet("b", b"3")]
    conversation = at_eom()
    for piece in pieces[:3]:
        assert answer(conversation, piece) is not None
    with pytest.raises(mta.ProtocolError, match="REPLBODY resumed"):
        answer(conversation, pieces[3])
    conversation = at_eom(strict=False)
    for piece in pieces:
        assert answer(conversation, piece) is not None


@pytest.mark.parametrize("strict", [True, False])
def test_too_many_changes(strict: bool) -> None:
    """The changes of one message come to receive_limit at most, each with 4096 bytes more than its
    data; those of the next are counted anew."""
    conversation = at_eom(strict=strict, receive_limit=1 << 20)
    change = packet("h", b"X\0y\0")  # 4 bytes of data
    for _ in range(2):
        for _ in range(255):
            assert mta.AddHeader("X", "y") == answer(conversation, change)
        answer(conversation)
        for play in (PLAYS["M"], PLAYS["R"]):
            play(conversation)
            answer(conversation)
        conversation.eom()
    for _ in range(255):
        answer(conversation, change)
    with pytest.raises(mta.ProtocolError, match=r"changes beyond 1048576 bytes \(a limit of ours"):
        answer(conversation, change)


def test_body_pieces_are_counted_per_message() -> None:
    """What one message's body was replaced by does not matter to the next."""
    conversation = at_eom()
    for piece in (packet("b", b"1"), packet("h", b"X\0v\0"), C):
        answer(conversation, piece)
    conversation.mail("<>")
    answer(conversation)
    conversation.rcpt("<>")
    answer(conversation)
    conversation.eom()
    assert mta.ReplaceBody(b"2") == answer(conversation, packet("b", b"2"))


# -- progress ------------------------------------------------------------------------------------


@pytest.mark.row(195)
@pytest.mark.parametrize(("name", "no", "nr", "begin", "play"), STEPS, ids=STEP_IDS)
def test_progress_anywhere(
    name: str, no: int, nr: int, begin: Callable[..., mta.Protocol], play: Play
) -> None:
    """PROGRESS may come at any step, any number of times, as at Postfix; or only at the end, as at
    Sendmail."""
    conversation = begin()
    play(conversation)
    conversation.receive(packet("p") + packet("p") + C)
    assert mta.Progress() == conversation.next_event()
    assert mta.Progress() == conversation.next_event()
    assert mta.Verdict(mta.Kind.CONTINUE) == conversation.next_event()
    conversation = begin(progress_anywhere=False)
    play(conversation)
    with pytest.raises(mta.ProtocolError, match=f"PROGRESS in answer to {name}"):
        answer(conversation, packet("p"))


@pytest.mark.row(195)
def test_progress_at_the_end() -> None:
    """At the end of a message PROGRESS is fine with both, also between modifications."""
    conversation = at_eom(progress_anywhere=False)
    conversation.receive(packet("p") + packet("h", b"X\0v\0") + packet("p") + C)
    assert [
        mta.Progress(),
        mta.AddHeader("X", "v"),
        mta.Progress(),
        mta.Verdict(mta.Kind.CONTINUE),
        None,
    ] == [conversation.next_event() for _ in range(5)]


@pytest.mark.row(195)
def test_progress_while_nothing_is_due() -> None:
    """Late PROGRESS is passed over with Postfix, and an error with Sendmail."""
    conversation = agreed()
    conversation.receive(packet("p"))
    assert conversation.helo("h").data
    conversation = agreed(progress_anywhere=False)
    conversation.receive(packet("p"))
    with pytest.raises(mta.ProtocolError, match="PROGRESS although nothing was asked"):
        conversation.helo("h")


# -- what no filter may send ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (packet("4"), "SHUTDOWN.*no filter may send it"),
        (packet("f"), "CONN_FAIL.*no filter may send it"),
        (packet("l"), "unknown type 'l'"),
        (packet("X"), "unknown type 'X'"),
        (packet("\x80"), "unknown type"),
        (ALL, "OPTNEG in answer to helo"),
        (bytes(4), r"length 0: .*wire spec 1\.1"),
        (hexed("FF FF FF FF"), "length 4294967295"),
        (hexed("04 00 00 01"), "length 67108865"),
        (b"220 mail.example.org ESMTP\r\n", "is this a filter at all"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_impossible_packets(wire: bytes, text: str, strict: bool) -> None:
    """Letters that may not come, and impossible lengths, which are told before the rest comes."""
    conversation = agreed(strict=strict)
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError, match=text):
        answer(conversation, wire)


def test_receive_limit() -> None:
    """A packet of the limit is taken, of one byte more it is refused by its length alone."""
    conversation = at_eom(receive_limit=100)
    assert mta.ReplaceBody(bytes(99)) == answer(conversation, packet("b", bytes(99)))
    with pytest.raises(mta.ProtocolError, match="length 101"):
        answer(conversation, packet("b", bytes(100))[:4])


@pytest.mark.parametrize("reply", [C, packet("h", b"X\0v\0"), ALL])
@pytest.mark.row(194)
def test_answers_that_nobody_waits_for(reply: bytes) -> None:
    """A packet to a step with a NR bit is an error, whatever comes next."""
    conversation = agreed(protocol=0x2000)
    conversation.helo("h")
    conversation.receive(reply)
    with pytest.raises(mta.ProtocolError, match="although nothing was asked"):
        conversation.next_event()
    conversation = agreed(protocol=0x2000)
    conversation.helo("h")
    conversation.receive(reply)
    with pytest.raises(mta.ProtocolError, match="although nothing was asked"):
        conversation.mail("<>")


def test_early_bytes() -> None:
    """Bytes that were there before a step was written are not taken for its answer."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError, match="CONTINUE although nothing was asked"):
        conversation.receive(C, early=True)


@pytest.mark.parametrize("cut", range(1, 5))
def test_answers_begun_early(cut: int) -> None:
    """An answer of which the first byte was there before the question is none (1.1)."""
    conversation = agreed()
    conversation.helo("h")
    conversation.receive(C[:cut], early=True)
    conversation.receive(C[cut:])
    with pytest.raises(mta.ProtocolError, match=r"CONTINUE .* was asked"):
        conversation.next_event()
    conversation = agreed()
    conversation.receive(C[:cut])
    conversation.helo("h")
    conversation.receive(C[cut:])
    with pytest.raises(mta.ProtocolError, match="CONTINUE before helo was asked"):
        conversation.next_event()


def test_progress_begun_early() -> None:
    """PROGRESS may be begun before the question, where it may come at any time."""
    conversation = agreed()
    conversation.helo("h")
    conversation.receive(packet("p")[:2], early=True)
    conversation.receive(packet("p")[2:] + C)
    assert mta.Progress() == conversation.next_event()
    assert mta.Verdict(mta.Kind.CONTINUE) == conversation.next_event()


def test_nothing_before_the_offer() -> None:
    """A filter that speaks first, as an SMTP server does, is found out (1.1)."""
    conversation = mta.Protocol()
    conversation.receive(ALL)
    with pytest.raises(mta.ProtocolError, match="OPTNEG although nothing was asked"):
        conversation.negotiate()


def test_where_an_error_is() -> None:
    """An error says at which packet it is, both directions counted, and that packet's bytes."""
    conversation = agreed()  # packets 1 and 2
    conversation.connect("h", macros={"j": "x"})  # 3 and 4
    answer(conversation)  # 5
    conversation.abort()  # 6
    conversation.helo("h")  # 7
    assert mta.Progress() == answer(conversation, packet("p") + packet("c", b"xy"))  # 8 and 9
    with pytest.raises(mta.ProtocolError) as caught:
        conversation.next_event()
    assert 9 == caught.value.packet
    assert packet("c", b"xy") == caught.value.data
    assert str(caught.value) == (
        "the filter sent a malformed CONTINUE with 2 bytes of data: b'xy' (wire spec 1.4: exact "
        "length, strings ended by NUL; packet 9: 00 00 00 03 63 78 79)"
    )


def test_where_a_large_error_is() -> None:
    """Of a large packet's bytes the text shows the beginning, the error has all."""
    conversation = at_eom()
    with pytest.raises(mta.ProtocolError) as caught:
        answer(conversation, packet("h", b"x" * 5000))
    assert packet("h", b"x" * 5000) == caught.value.data
    assert str(caught.value).endswith(
        "; packet 8: 00 00 13 89 68" + " 78" * 35 + " ... (5005 bytes))"
    )


def test_where_a_reply_text_is_wrong() -> None:
    """A reply text that is none is an error at its packet, too."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError) as caught:
        answer(conversation, packet("y", b"no\0"))
    assert (4, packet("y", b"no\0")) == (caught.value.packet, caught.value.data)


def test_where_an_answer_is_missing() -> None:
    """Where a packet is missing, the error has the one before it and what came of it."""
    conversation = agreed()
    conversation.helo("h")
    conversation.receive(C[:3])
    with pytest.raises(mta.ConnectionLost) as caught:
        answer(conversation, b"")
    assert (3, C[:3]) == (caught.value.packet, caught.value.data)
    conversation = agreed()
    conversation.helo("h")
    error = mta.FilterTimeout("no answer")
    conversation.fail(error)
    assert (3, b"") == (error.packet, error.data)
    assert (None, b"") == (mta.ConnectError("x").packet, mta.ConnectError("x").data)


def test_half_a_packet_counts() -> None:
    """Half a packet and the end: that one is the error's."""
    conversation = agreed()
    conversation.receive(C[:3])
    with pytest.raises(mta.ProtocolError, match="half a packet") as caught:
        answer(conversation, b"")
    assert (3, C[:3]) == (caught.value.packet, caught.value.data)


def test_copies() -> None:
    """A copy says what would come later, has nothing of what was read, and leaves the original."""
    conversation = agreed()
    conversation.mail("<a@b>")
    conversation.receive(C[:3])
    copy = conversation.copy()
    assert copy.waiting_for == "mail"
    assert mta.Verdict(mta.Kind.CONTINUE) == answer(copy)
    assert copy.rcpt("<c@d>").data == packet("R", b"<c@d>\0")
    assert conversation.waiting_for == "mail"
    assert mta.Verdict(mta.Kind.CONTINUE) == answer(conversation, C[3:])
    assert packet("R", b"<c@d>\0") == conversation.rcpt("<c@d>").data


def test_packets_are_counted() -> None:
    """What either side has sent is counted, macros too, and what is not sent is not."""
    conversation = mta.Protocol()
    counts = [conversation.packets]
    conversation.negotiate()
    counts.append(conversation.packets)
    answer(conversation, options(protocol=0x2))
    counts.append(conversation.packets)
    conversation.helo("h")  # not wanted
    counts.append(conversation.packets)
    conversation.helo("h", {"i": "x"})  # but the macros are sent
    counts.append(conversation.packets)
    conversation.mail("<>", macros={})
    counts.append(conversation.packets)
    answer(conversation)
    counts.append(conversation.packets)
    assert [0, 1, 2, 2, 3, 5, 6] == counts


def test_error_sticks() -> None:
    """After an error every step is refused, and every look for an answer raises it again."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ProtocolError) as first:
        answer(conversation, packet("X"))
    conversation.receive(C)
    with pytest.raises(mta.ProtocolError) as again:
        conversation.next_event()
    assert first.value is again.value
    assert conversation.over
    for play in (conversation.quit, conversation.abort, lambda: conversation.mail("<>")):
        with pytest.raises(mta.StateError, match="is over: the filter sent"):
            play()


def test_errors_survive_pickling() -> None:
    """An error can be handed to another process whole, as test runners do."""
    error = mta.ProtocolError("the filter sent nonsense", "wire spec 1.4")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(error), error.rule) == (str(copy), copy.rule)
    assert "the filter sent nonsense (wire spec 1.4)" == str(error)
    error.packet, error.data = 7, b"\0\1"
    copy = pickle.loads(pickle.dumps(error))
    assert (7, b"\0\1", str(error)) == (copy.packet, copy.data, str(copy))


def test_errors_are_named_as_they_are_imported() -> None:
    """Tracebacks and pickles name every error by the public module, and it is found there."""
    public = [getattr(mta, name) for name in mta.__all__]
    errors = [each for each in public if isinstance(each, type) and issubclass(each, Exception)]
    assert 8 == len(errors)
    for each in errors:
        assert "Milter.mta" == each.__module__
        error = each("went wrong", *["wire spec 1.4"] * (each is mta.ProtocolError))
        copy = pickle.loads(pickle.dumps(error))
        assert (each, str(error)) == (type(copy), str(copy))


def test_end_of_the_connection() -> None:
    """An end instead of an answer, inside a packet, or while nothing is due: an error; after QUIT
    it is what should happen."""
    conversation = agreed()
    conversation.helo("h")
    with pytest.raises(mta.ConnectionLost, match=r"instead of answering helo$"):
        answer(conversation, b"")
    conversation = agreed()
    conversation.helo("h")
    conversation.receive(C[:3])
    with pytest.raises(mta.ConnectionLost, match="helo with a whole packet"):
        answer(conversation, b"")
    conversation = agreed()
    with pytest.raises(mta.ConnectionLost, match=r"closed the connection$"):
        answer(conversation, b"")
    conversation = agreed()
    conversation.receive(C[:3])
    with pytest.raises(mta.ProtocolError, match="half a packet"):
        answer(conversation, b"")
    conversation = agreed()
    conversation.quit()
    assert not conversation.closed
    assert answer(conversation, b"") is None
    assert conversation.closed


# -- what may come when --------------------------------------------------------------------------


def test_nothing_before_the_negotiation() -> None:
    """No step before the negotiation is done."""
    conversation = mta.Protocol()
    with pytest.raises(mta.StateError, match="HELO before the negotiation"):
        conversation.helo("h")
    conversation.negotiate()
    with pytest.raises(mta.StateError, match="HELO before the answer to negotiate"):
        conversation.helo("h")


def test_one_at_a_time() -> None:
    """No step before the answer to the last one."""
    conversation = agreed()
    conversation.helo("h")
    for play in (lambda: conversation.mail("<>"), conversation.abort, conversation.quit):
        with pytest.raises(mta.StateError, match="before the answer to helo"):
            play()
    assert mta.Verdict(mta.Kind.CONTINUE) == answer(conversation)


def test_nothing_after_quit() -> None:
    """QUIT is the last word."""
    conversation = agreed()
    conversation.quit()
    assert conversation.over
    with pytest.raises(mta.StateError, match="QUIT was sent"):
        conversation.helo("h")


# Letters of steps; each is answered by CONTINUE. True: the last one may come (wire spec 3.4).
ORDER = [
    ("C", True),
    ("CC", False),
    ("HC", False),
    ("MC", False),
    ("UC", True),
    ("CKC", True),
    ("MRKC", True),
    ("MKR", False),
    ("H", True),
    ("CHH", True),
    ("HM", True),
    ("M", True),
    ("MM", True),
    ("MRM", True),
    ("R", False),
    ("MR", True),
    ("MRR", True),
    ("MT", False),
    ("ML", False),
    ("MN", False),
    ("MB", False),
    ("ME", False),
    ("MRT", True),
    ("MRTR", False),
    ("MRTT", False),
    ("MRTL", True),
    ("MRTN", True),
    ("MRTB", True),
    ("MRTE", True),
    ("MRL", True),
    ("MRLL", True),
    ("MRLT", False),
    ("MRLR", False),
    ("MRLB", True),
    ("MRN", True),
    ("MRNN", False),
    ("MRNL", False),
    ("MRNB", True),
    ("MRB", True),
    ("MRBB", True),
    ("MRBN", False),
    ("MRBL", False),
    ("MRE", True),
    ("MREE", False),
    ("MRER", False),
    ("MREB", False),
    ("MREM", True),
    ("MREH", True),
    ("MREU", True),
    ("MREA", True),
    ("MA", True),
    ("MRA", True),
    ("MRAR", False),
    ("MRAT", False),
    ("MRAM", True),
    ("A", True),
    ("MRH", True),
    ("MRHR", False),
    ("MUR", True),
    ("MRUT", True),
    ("MRTUL", True),
    ("MREKM", True),
]
PLAYS: dict[str, Play] = {
    "C": lambda p: p.connect("h"),
    "H": lambda p: p.helo("h"),
    "M": lambda p: p.mail("<>"),
    "R": lambda p: p.rcpt("<>"),
    "T": lambda p: p.data(),
    "L": lambda p: p.header("X", "y"),
    "N": lambda p: p.eoh(),
    "B": lambda p: p.body(b"x"),
    "E": lambda p: p.eom(),
    "U": lambda p: p.unknown("x"),
    "A": lambda p: p.abort(),
    "K": lambda p: p.quit_nc(),
}


@pytest.mark.parametrize(("letters", "good"), ORDER)
def test_order(letters: str, good: bool) -> None:
    """A step that a filter would drop without an answer is refused (3.4), and changes nothing."""
    conversation = agreed()
    for letter in letters[:-1]:
        PLAYS[letter](conversation)
        if conversation.waiting_for:
            answer(conversation)
    last = PLAYS[letters[-1]]
    if good:
        assert last(conversation).data
        return
    before = conversation.in_message
    for _ in range(2):
        with pytest.raises(mta.StateError, match=r"a filter (does not answer it|answers no)"):
            last(conversation)
    assert before == conversation.in_message
    assert conversation.waiting_for is None


@pytest.mark.parametrize(("letters", "good"), ORDER)
def test_order_without_answers(letters: str, good: bool) -> None:
    """The same order holds where steps are not sent, or not answered."""
    for protocol in (0x7F & ~0x8 | 0x300, 0xFF080):
        conversation = agreed(protocol=protocol)
        for letter in letters[:-1]:
            PLAYS[letter](conversation)
            if conversation.waiting_for:
                answer(conversation)
        if good:
            PLAYS[letters[-1]](conversation)
        else:
            with pytest.raises(mta.StateError):
                PLAYS[letters[-1]](conversation)


def test_no_recipient_needed_with_norcpt() -> None:
    """Where recipients are not told at all, the content may follow MAIL (3.4)."""
    conversation = at_mail(protocol=0x8)
    assert conversation.data().data


@pytest.mark.parametrize("letter", "MRTLNB")
@pytest.mark.parametrize("kind", VERDICTS)
def test_verdicts_end_the_message(letter: str, kind: mta.Kind) -> None:
    """A final verdict ends the message for the filter; about a recipient only ACCEPT does (3.4)."""
    before = {"M": "", "R": "M", "T": "MR", "L": "MR", "N": "MR", "B": "MR"}[letter]
    conversation = agreed()
    for earlier in before:
        PLAYS[earlier](conversation)
        answer(conversation)
    PLAYS[letter](conversation)
    answer(conversation, VERDICTS[kind])
    keeps = kind is mta.Kind.CONTINUE or (letter == "R" and kind is not mta.Kind.ACCEPT)
    assert keeps == conversation.in_message
    if keeps:
        PLAYS["E" if letter != "M" else "R"](conversation)
    else:
        with pytest.raises(mta.StateError, match="outside a message"):
            conversation.rcpt("<>")
        assert conversation.mail("<>").data


@pytest.mark.parametrize("letter", "CHU")
@pytest.mark.parametrize("kind", VERDICTS)
def test_verdicts_outside_a_message(letter: str, kind: mta.Kind) -> None:
    """After any verdict on CONNECT, HELO or UNKNOWN the filter goes on to answer (row 129)."""
    conversation = agreed(strict=False)
    PLAYS[letter](conversation)
    answer(conversation, VERDICTS[kind])
    assert conversation.helo("h").data


def test_unknown_does_not_touch_the_message() -> None:
    """A verdict on an unknown command leaves the message alone."""
    conversation = at_rcpt()
    conversation.unknown("FOO")
    answer(conversation, packet("r"))
    assert conversation.in_message
    assert conversation.data().data


def test_names_of_bits() -> None:
    """Action and protocol bits are shown by the names of wire spec 1.5."""
    assert ["ADDHDRS", "CHGHDRS", "SETSYMLIST"] == mta.action_names(0x111)
    assert ["NOCONNECT", "NR_HDR", "HDR_LEADSPC"] == mta.protocol_names(0x100081)
    assert (0x1FF, 0x1FFFFF) == (mta.DEFAULT_ACTIONS, mta.DEFAULT_PROTOCOL)
