"""Wire spec 8.2, rows 17 to 55: negotiation.

The reply to `O` is 13 (0x0D) bytes of `len`: the letter and three words, then the macro lists.
"""

from __future__ import annotations

import struct

import pytest

import milter
from harness import F, offer, running
from harness.packets import CONTINUE, A, B, C, E, H, L, M, N, R, T

CONTINUE_, REJECT_, DISCARD_, ACCEPT_, TEMPFAIL_, NOREPLY_, ALL_OPTS_ = 0, 1, 2, 3, 4, 7, 10


def reply(version: int, actions: int, protocol: int, tail: bytes = b"") -> bytes:
    """The `O` packet that a milter answers with."""
    return struct.pack("!IcIII", 13 + len(tail), b"O", version, actions, protocol) + tail


def wants(actions: int, protocol: int) -> object:
    """A negotiate callback that asks for these words."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        opts[0], opts[1] = actions, protocol
        return CONTINUE_

    return negotiate


@pytest.mark.row(17, 20)
@pytest.mark.parametrize(
    ("version", "signed"), [(0, 0), (1, 1), (0x80000000, -2147483648), (0xFFFFFFFF, -1)]
)
def test_version_too_old(feed: str, version: int, signed: int) -> None:
    """A version below 2, and one whose sign bit is set, is refused without a byte."""
    with running(feed=feed) as run:
        mta = run.connect()
        mta.send(offer(version=version))
        run.expect_broken(mta, ["close"])
        assert f"protocol version too old {signed} < 2" in run.messages()[0]


@pytest.mark.row(18, 19)
@pytest.mark.parametrize(
    ("version", "answer"),
    [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 6), (8, 6), (0x01000001, 6), (0x7FFFFFFF, 6)],
)
def test_version_of_the_reply(feed: str, version: int, answer: int) -> None:
    """The version of the reply is the MTA's, but never above 6."""
    with running(feed=feed) as run:
        mta = run.connect()
        mta.ask(offer(version=version), reply(answer, 0x1FF, 0))


@pytest.mark.row(21)
@pytest.mark.parametrize("size", [0, 1, 4, 8, 11])
def test_offer_too_short(feed: str, size: int) -> None:
    """An `O` with less than three words is refused without a byte."""
    data = bytes.fromhex("00000006 000001FF 001FFFFF")[:size]
    with running(feed=feed) as run:
        mta = run.connect()
        mta.send(struct.pack("!I", 1 + size) + b"O" + data)
        run.expect_broken(mta, ["close"])
        assert f"len too short {size} < 12" in run.messages()[0]


@pytest.mark.row(22)
def test_offer_with_more_than_three_words(feed: str) -> None:
    """What follows the three words of an `O` is ignored."""
    with running(feed=feed) as run:
        mta = run.connect()
        mta.send(bytes.fromhex("00000015 4F 00000006 000001FF 001FFFFF 0102030405060708"))
        mta.expect(bytes.fromhex("0000000D 4F 00000006 000001FF 00000000"))
        mta.play(H)


@pytest.mark.row(23, 24, 25, 26)
@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        (F(flags=0), "00000006 00000000 00000000"),
        (F(only=["eom"]), "00000006 000001FF 0000037F"),
        (F(only=[]), "00000006 000001FF 0000037F"),
        (F(version=2), "00000006 000001FF 00000300"),
        (F(version=3), "00000006 000001FF 00000200"),
        (F(version=4), "00000006 000001FF 00000000"),
    ],
    ids=["flags 0", "only eom", "nothing", "version 2", "version 3", "version 4"],
)
def test_what_the_descriptor_gives(feed: str, spec: F, answer: str) -> None:
    """Flags become actions; absent callbacks, or ones too new for the version, NO* bits."""
    with running(spec, feed) as run:
        mta = run.connect()
        mta.ask(offer(), bytes.fromhex("0000000D 4F" + answer))


@pytest.mark.row(27, 30, 31, 33)
@pytest.mark.parametrize(
    ("spec", "offered", "answer"),
    [
        (F(flags=0xF), (6, 0, 0x1FFFFF), (6, 0xF, 0)),
        (F(without=["header", "body"]), (2, 0x1FF, 0), (2, 0x1FF, 0x30)),
        (F(without=["data", "unknown"]), (2, 0x1FF, 0x7F), (2, 0x1FF, 0)),
        (F(flags=0x200), (6, 0x3FF, 0x1FFFFF), (6, 0x200, 0)),
    ],
    ids=["A=0 is 0xF", "P=0 is 0x3F", "NODATA and NOUNKNOWN are dropped", "an action unheard of"],
)
def test_descriptor_meets_offer(
    feed: str, spec: F, offered: tuple[int, int, int], answer: tuple[int, int, int]
) -> None:
    """Zero words mean those of version 1; NODATA and NOUNKNOWN need not be offered."""
    with running(spec, feed) as run:
        mta = run.connect()
        mta.ask(offer(*offered), reply(*answer))


@pytest.mark.row(28, 29, 32)
@pytest.mark.parametrize(
    ("spec", "offered", "text"),
    [
        (F(flags=0x1F), (6, 0, 0x1FFFFF), "0xf does not fulfill action requirements 0x1f"),
        (F(without=["eoh"]), (2, 0x1FF, 0), "0x3f does not fulfill protocol requirements 0x40"),
        (F(flags=0x40), (6, 0x3F, 0x1FFFFF), "0x3f does not fulfill action requirements 0x40"),
    ],
    ids=["A=0 is 0xF", "NOEOH is needed", "CHGFROM is needed"],
)
def test_descriptor_asks_too_much(
    feed: str, spec: F, offered: tuple[int, int, int], text: str
) -> None:
    """What the MTA does not offer cannot be had: no byte, close, and the known log text."""
    with running(spec, feed) as run:
        mta = run.connect()
        mta.send(offer(*offered))
        run.expect_broken(mta, ["close"])
        assert text in run.messages()[0].lower()


@pytest.mark.row(34, 35)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("offered", "opts", "answer"),
    [
        ((6, 0x1FF, 0x1FFFFF), (0x1FF, 0x1FFFFF, 0, 0), (6, 0x1FF, 0x1FFFFF)),
        ((2, 0x3F, 0x7F), (0x3F, 0xFF0FF, 0, 0), (2, 0x3F, 0x7F)),
        ((6, 0, 0), (0xF, 0xFF0BF, 0, 0), (6, 0xF, 0x3F)),
        ((6, 0xFFFFFFFF, 0x801FFFFF), (0xFFFFFFFF, 0x801FFFFF, 0, 0), (6, 0xFFFFFFFF, 0x801FFFFF)),
    ],
)
def test_what_negotiate_is_called_with(
    feed: str,
    offered: tuple[int, int, int],
    opts: tuple[int, int, int, int],
    answer: tuple[int, int, int],
) -> None:
    """The offer plus all NR bits; in Python one list is argument and preset, as in API spec 1.8.

    So CONTINUE with the list untouched asks for everything shown, where C would give 0x400 and 0;
    NR bits that were not offered are emulated and stay off the wire.
    """
    with running(F(negotiate=0), feed) as run:
        mta = run.connect()
        mta.ask(offer(*offered), reply(*answer))
        assert [(opts,)] == run.args("negotiate")


@pytest.mark.row(36, 37)
@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ((6, 0x1FF, 0x1FFFFF), (6, 0x1FF, 0x400)),
        ((6, 0x1FF, 0x1FFBFF), (6, 0x1FF, 0)),
        ((2, 0x3F, 0x7F), (2, 0x3F, 0)),
    ],
)
def test_all_opts(feed: str, offered: tuple[int, int, int], answer: tuple[int, int, int]) -> None:
    """ALL_OPTS takes all actions and SKIP, if offered, whatever the flags and the list say."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        opts[:] = [1, 0, 0, 0]
        return ALL_OPTS_

    with running(F(negotiate=negotiate), feed) as run:
        run.server.set_flags(0x1)
        mta = run.connect()
        mta.ask(offer(*offered), reply(*answer))


@pytest.mark.row(36, 37)
@pytest.mark.parametrize(("protocol", "answer"), [(0x1FFFFF, 0x400), (0x1FFBFF, 0)])
def test_no_negotiate_callback(feed: str, protocol: int, answer: int) -> None:
    """As module `milter` has it, no negotiate callback is the same as one that says ALL_OPTS."""
    with running(F(flags=None), feed) as run:
        run.server.set_flags(0)
        mta = run.connect()
        mta.ask(offer(protocol=protocol), reply(6, 0x1FF, answer))


@pytest.mark.row(38)
@pytest.mark.ours
def test_all_opts_with_callbacks_absent(feed: str) -> None:
    """ALL_OPTS with only body and eom: the NO* bits of all others, and SKIP.

    The C preset 76F for an untouched CONTINUE has no equal in Python, where the list is preset with
    the offer (API spec 1.8).
    """
    with running(F(only=["body", "eom"], negotiate=ALL_OPTS_), feed) as run:
        mta = run.connect()
        mta.ask(offer(), bytes.fromhex("0000000D 4F 00000006 000001FF 0000076F"))


@pytest.mark.row(39, 40, 41)
@pytest.mark.parametrize(
    ("wanted", "offered", "answer"),
    [
        ((1, 0), 0x1FFFFF, (6, 1, 0)),
        ((1, 0xFF080), 0x1FFFFF, (6, 1, 0xFF080)),
        ((1, 0xFF080), 0x7F, (6, 1, 0)),
        ((1, 0xFF080), 0x3FF, (6, 1, 0x80)),
        ((1, 0xFF080), 0x1FF, (6, 1, 0x80)),
        ((0x1FF, 0x1FFFFF), 0x1FFFFF, (6, 0x1FF, 0x1FFFFF)),
    ],
)
def test_negotiate_chooses(
    feed: str, wanted: tuple[int, int], offered: int, answer: tuple[int, int, int]
) -> None:
    """What the callback leaves in the list is the reply, less the NR bits that were not offered."""
    with running(F(negotiate=wants(*wanted)), feed) as run:
        mta = run.connect()
        mta.ask(offer(protocol=offered), reply(*answer))


@pytest.mark.row(42, 43, 44)
@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ((0, 0x400), 0x1FFBFF),
        ((0x3FF, 0), 0x1FFFFF),
        ((0, 0x200000), 0x1FFFFF),
        ((0, 0x80000000), 0x1FFFFF),
        ((0, 0x70000000), 0x1FFFFF),
    ],
)
def test_negotiate_asks_too_much(feed: str, wanted: tuple[int, int], offered: int) -> None:
    """A bit that was not offered, other than an NR bit, ends the connection without a byte."""
    with running(F(negotiate=wants(*wanted)), feed) as run:
        mta = run.connect()
        mta.send(offer(protocol=offered))
        run.expect_broken(mta, ["negotiate", "close"])
        assert "does not fulfill" in run.messages()[0]


@pytest.mark.row(45)
@pytest.mark.parametrize("verdict", [REJECT_, DISCARD_, ACCEPT_, TEMPFAIL_, NOREPLY_, 8, 99, -1])
def test_negotiate_refuses(feed: str, verdict: int) -> None:
    """Any result but CONTINUE and ALL_OPTS gives the connection up, without a byte."""
    with running(F(negotiate=verdict), feed) as run:
        mta = run.connect()
        mta.send(offer())
        run.expect_broken(mta, ["negotiate", "close"])
        assert f"xxfi_negotiate returned {verdict} (protocol options=0x" in run.messages()[0]


@pytest.mark.row(46)
@pytest.mark.parametrize(
    ("spec", "answer"),
    [(F(negotiate=ALL_OPTS_), 0x400), (F(negotiate=0), 0x1FFFFF), (F(), 0)],
    ids=["ALL_OPTS", "CONTINUE", "no callback"],
)
def test_large_body_bits_are_hidden(feed: str, spec: F, answer: int) -> None:
    """Without the option, the bits for larger packets are neither shown nor echoed."""
    with running(spec, feed) as run:
        mta = run.connect()
        mta.ask(offer(protocol=0x301FFFFF), reply(6, 0x1FF, answer))
        for (opts,) in run.args("negotiate"):
            assert opts == (0x1FF, 0x1FFFFF, 0, 0)
        assert ("negotiate" in run.names()) == (spec.negotiate is not None)


@pytest.mark.row(47)
@pytest.mark.parametrize("version", [2, 3, 4])
def test_descriptor_too_old_for_negotiate(feed: str, version: int) -> None:
    """A descriptor version below 5 has no negotiate callback, even if one is given."""
    with running(F(version=version, flags=None, negotiate=REJECT_), feed) as run:
        mta = run.connect()
        mta.send(offer())
        letter, _ = mta.read_packet()
        assert letter == "O"
        assert run.names() == []


@pytest.mark.row(48)
@pytest.mark.parametrize("verdict", [CONTINUE_, ALL_OPTS_])
def test_macro_lists(feed: str, verdict: int) -> None:
    """Lists follow the options in ascending order of their stages, not of the calls."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        ctx.setsymlist(0, "j _")
        ctx.setsymlist(5, "{msg_id}")
        ctx.setsymlist(6, "i")
        ctx.setsymlist(3, "")
        opts[0:2] = [0x1FF, 0x400]
        return verdict

    tail = (
        bytes.fromhex("00000000") + b"j _\0" + bytes.fromhex("00000003") + b"\0"
        + bytes.fromhex("00000005") + b"{msg_id}\0" + bytes.fromhex("00000006") + b"i\0"
    )  # fmt: skip
    with running(F(negotiate=negotiate), feed) as run:
        mta = run.connect()
        mta.ask(offer(), reply(6, 0x1FF, 0x400, tail))
        mta.play(H)


@pytest.mark.row(48)
def test_macro_lists_ask_for_their_action(feed: str) -> None:
    """A filter that sets a list gets SETSYMLIST among the agreed actions (wire spec 2.5)."""

    def negotiate(ctx: object, opts: list[int]) -> None:
        ctx.setsymlist(1, "a")
        opts[0:2] = [0x1, 0]

    with running(F(negotiate=negotiate), feed) as run:
        mta = run.connect()
        mta.ask(offer(), reply(6, 0x101, 0, bytes.fromhex("00000001 6100")))


@pytest.mark.row(49)
def test_macro_lists_that_are_refused(feed: str) -> None:
    """A stage set twice, a stage that is none and a list of None raise; the first list stays."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        ctx.setsymlist(0, "j")
        for stage in (0, 7, -1):
            with pytest.raises(milter.error, match="cannot set macro list"):
                ctx.setsymlist(stage, "i")
        with pytest.raises(TypeError):
            ctx.setsymlist(1, None)
        return ALL_OPTS_

    with running(F(negotiate=negotiate), feed) as run:
        mta = run.connect()
        mta.ask(offer(), reply(6, 0x1FF, 0x400, bytes.fromhex("00000000 6A00")))


@pytest.mark.row(49)
def test_macro_list_of_another_connection(feed: str) -> None:
    """That a stage was set is a matter of one connection."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        ctx.setsymlist(0, "j")
        return ALL_OPTS_

    with running(F(negotiate=negotiate), feed) as run:
        for _ in range(2):
            mta = run.connect()
            mta.ask(offer(), reply(6, 0x1FF, 0x400, bytes.fromhex("00000000 6A00")))


@pytest.mark.row(48)
@pytest.mark.parametrize("name", ["connect", "mail", "eom", "close"])
def test_macro_list_after_negotiation(feed: str, name: str) -> None:
    """Outside negotiate a list could not reach the MTA any more: the call fails (wire spec 2.5)."""
    raised = []

    def late(ctx: object, *args: object) -> None:
        with pytest.raises(milter.error, match="cannot set macro list"):
            ctx.setsymlist(0, "j")
        raised.append(name)

    with running(F(returns={name: late}), feed) as run:
        mta = run.mta()
        mta.play(C, H, M, R, E)
        run.finish()
        assert [name] == raised


@pytest.mark.row(50)
def test_macro_lists_not_offered(feed: str) -> None:
    """An MTA that did not offer SETSYMLIST gets no list, and its action is not claimed."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        ctx.setsymlist(0, "j")
        return ALL_OPTS_

    with running(F(negotiate=negotiate), feed) as run:
        mta = run.connect()
        mta.ask(offer(actions=0xFF), reply(6, 0xFF, 0x400))
        mta.play(H)


@pytest.mark.row(51)
def test_macro_lists_too_long() -> None:
    """A list that would push the reply past 65535 bytes fails; the handshake goes on."""

    def negotiate(ctx: object, opts: list[int]) -> int:
        ctx.setsymlist(0, "a" * 60000)
        with pytest.raises(milter.error, match="cannot set macro list"):
            ctx.setsymlist(1, "b" * 10000)
        # 12 for the words, 4 + 60000 + 1 for the first list, 4 + 1 for this one besides its text
        with pytest.raises(milter.error, match="cannot set macro list"):
            ctx.setsymlist(2, "c" * (65535 - 12 - 60005 - 5 + 1))
        ctx.setsymlist(3, "d" * (65535 - 12 - 60005 - 5))
        return ALL_OPTS_

    tail = struct.pack("!I", 0) + b"a" * 60000 + b"\0" + struct.pack("!I", 3) + b"d" * 5513 + b"\0"
    with running(F(negotiate=negotiate)) as run:
        mta = run.connect()
        mta.ask(offer(), reply(6, 0x1FF, 0x400, tail))
        mta.play(H)


@pytest.mark.row(52)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("before", "names"),
    [((), ["close"]), ((C, H), ["connect", "helo", "close"]),
     ((M, R), ["mail", "rcpt", "abort", "close"])],
)  # fmt: skip
def test_second_offer(feed: str, before: tuple[bytes, ...], names: list[str]) -> None:
    """A second `O` ends the connection (libmilter drops it); abort first if in a transaction."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*before)
        mta.send(offer())
        run.expect_broken(mta, names)


def big_header(ctx: object) -> None:
    """In eom: a header whose payload (name, NUL, value, NUL) has exactly 65536 bytes, if it may."""
    try:
        ctx.addheader("X", "v" * 65533)
    except milter.error:
        pass


BIG_HEADER = bytes.fromhex("00010001 68") + b"X\0" + b"v" * 65533 + b"\0"


@pytest.mark.row(53)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("offered", "echo", "size"),
    [
        (0x101FFFFF, 0x10000000, 262143),
        (0x201FFFFF, 0x20000000, 1048575),
        (0x301FFFFF, 0x20000000, 1048575),
    ],
)
def test_larger_packets_agreed(offered: int, echo: int, size: int) -> None:
    """A filter built for larger packets agrees on the largest offered, for both directions."""
    spec = F(mds=True, version=0x01000002, returns={"eom": big_header})
    with running(spec) as run:
        mta = run.connect()
        mta.ask(offer(protocol=offered), reply(6, 0x1FF, echo))
        mta.play(M, R, struct.pack("!I", size + 1) + b"B" + b"x" * size)
        mta.ask(E, BIG_HEADER, CONTINUE)
        assert [(b"x" * size,)] == run.args("body")


@pytest.mark.row(54)
def test_larger_packets_are_one_connection_s_matter() -> None:
    """A connection without the bit has the normal limit, whatever an earlier one agreed."""
    spec = F(mds=True, version=0x01000002, returns={"eom": big_header})
    with running(spec) as run:
        mta = run.connect()
        mta.ask(offer(protocol=0x201FFFFF), reply(6, 0x1FF, 0x20000000))
        mta.play(M, R)
        mta.ask(E, BIG_HEADER, CONTINUE)
        second = run.connect()
        second.ask(offer(), reply(6, 0x1FF, 0))
        second.play(M, R)
        second.ask(E, CONTINUE)
        mta.play(M, R)
        mta.ask(E, BIG_HEADER, CONTINUE)


@pytest.mark.row(55)
def test_order_is_one_connection_s_matter(feed: str) -> None:
    """What one connection negotiated away does not relax the order of commands for another."""
    protocol = [0x20 | 0x40, 0, 0x8, 0]

    def negotiate(ctx: object, opts: list[int]) -> None:
        opts[0:2] = [0x1FF, protocol.pop(0)]

    with running(F(negotiate=negotiate), feed) as run:
        first = run.connect()
        first.ask(offer(), reply(6, 0x1FF, 0x60))
        first.play(C, H, M, R, T, B, E)
        second = run.connect()
        second.ask(offer(), reply(6, 0x1FF, 0))
        second.play(C, H, M, R, T, B)
        third = run.connect()
        third.ask(offer(), reply(6, 0x1FF, 0x8))
        third.play(M, T)  # without R, as NORCPT allows
        fourth = run.connect()
        fourth.ask(offer(), reply(6, 0x1FF, 0))
        fourth.play(M)
        fourth.send(T)
        fourth.expect_close()
        run.finish()
        assert [
            ["negotiate", "connect", "helo", "mail", "rcpt", "data", "body", "eom", "close"],
            ["negotiate", "connect", "helo", "mail", "rcpt", "data", "body", "abort", "close"],
            ["negotiate", "mail", "data", "abort", "close"],
            ["negotiate", "mail", "abort", "close"],
        ] == run.sessions()


@pytest.mark.row(40, 41)
@pytest.mark.parametrize(
    ("offered", "answers"), [(0x1FFFFF, b""), (0x7F, CONTINUE), (0x3FF, CONTINUE)]
)
def test_no_reply_and_its_emulation(feed: str, offered: int, answers: bytes) -> None:
    """A no-reply step sends nothing; where the MTA did not offer it, `c` is sent in its stead."""
    steps = ("connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body")
    spec = F(negotiate=wants(0x1FF, 0xFF080), returns=dict.fromkeys(steps, NOREPLY_))
    with running(spec, feed) as run:
        mta = run.connect()
        mta.send(offer(protocol=offered))
        mta.read_packet()
        for command in (C, H, M, R, T, L, N, B):
            mta.send(command)
            # NR_HDR is the one bit of the last offer.
            mta.expect(b"" if command == L and offered == 0x3FF else answers)
        mta.ask(E)
        mta.send(A)
        mta.expect_nothing()
