"""Wire spec 8.7, rows 156 to 169: modifications of the message.

The rows' `smfi_*` calls are methods of ctx (API spec 1.10); -1 is `milter.error`. addheader and
insheader are one method, as are addrcpt and addrcpt_par. None stands for C's NULL.
"""

from __future__ import annotations

from typing import Any

import pytest

import milter
from harness import F, packet, running
from harness.packets import (
    ACCEPT,
    BY_LETTER,
    CONTINUE,
    PROGRESS,
    A,
    B,
    C,
    E,
    H,
    L,
    M,
    N,
    Q,
    R,
    T,
    commands,
)

Call = tuple[str, tuple[Any, ...]]

#: C name -> (the call, its action bit, its packet).
CALLS: dict[str, tuple[Call, int, bytes]] = {
    "addheader": (("addheader", ("X", "v")), 0x1, bytes.fromhex("00000005 68 5800 7600")),
    "insheader": (("addheader", ("X", "v", 0)), 0x1, packet("i", b"\0\0\0\0X\0v\0")),
    "chgheader": (("chgheader", ("X", 1, "v")), 0x10, packet("m", b"\0\0\0\1X\0v\0")),
    "addrcpt": (("addrcpt", ("<r@e>",)), 0x4, bytes.fromhex("00000007 2B 3C7240653E00")),
    "addrcpt_par": (
        ("addrcpt", ("<r@e>", "NOTIFY=NEVER")),
        0x80,
        bytes.fromhex("00000014 32 3C7240653E00 4E4F544946593D4E4556455200"),
    ),
    "delrcpt": (("delrcpt", ("<r@e>",)), 0x8, bytes.fromhex("00000007 2D 3C7240653E00")),
    "chgfrom": (
        ("chgfrom", ("<n@e>", "SIZE=1")),
        0x40,
        bytes.fromhex("0000000E 65 3C6E40653E00 53495A453D3100"),
    ),
    "replacebody": (("replacebody", (b"hi\r\n",)), 0x2, bytes.fromhex("00000005 62 68690D0A")),
    "quarantine": (("quarantine", ("why",)), 0x20, bytes.fromhex("00000005 71 77687900")),
}
#: What is played before each step, in its row name.
BEFORE = {
    "connect": "",
    "helo": "C",
    "mail": "C H",
    "rcpt": "C H M",
    "data": "C H M R",
    "header": "C H M R T",
    "eoh": "C H M R T",
    "body": "C H M R T N",
    "unknown": "C H M R",
    "abort": "C H M R",
    "close": "C H M R T L N B E",
}
LETTER = {
    "connect": "C",
    "helo": "H",
    "mail": "M",
    "rcpt": "R",
    "data": "T",
    "header": "L",
    "eoh": "N",
    "body": "B",
    "unknown": "U",
    "abort": "A",
    "close": "Q",
}
MESSAGE = (C, H, M, R, T, L, N, B)


def attempt(ctx: Any, call: Call) -> Any:
    """Make the call: None if it succeeds, "-1" for milter.error, otherwise the exception's name."""
    method, args = call
    try:
        return getattr(ctx, method)(*args)
    except milter.error:
        return "-1"
    except (TypeError, ValueError) as error:
        return type(error).__name__


def in_eom(feed: str, *calls: Call, expected: list[Any], sent: list[bytes], **spec: Any) -> None:
    """In eom the calls give the expected results, and the MTA gets these packets, then `a`."""
    results: list[Any] = []

    def eom(ctx: Any) -> int:
        results.extend(attempt(ctx, call) for call in calls)
        return milter.ACCEPT

    with running(F(returns={"eom": eom}, **spec), feed) as run:
        mta = run.mta()
        mta.play(*MESSAGE)
        mta.ask(E, *sent, ACCEPT)
        mta.send(Q)
        mta.expect_close()
        run.finish()
    assert expected == results


def one(feed: str, method: str, *args: Any, sent: bytes) -> None:
    """One call, which succeeds."""
    in_eom(feed, (method, args), expected=[None], sent=[sent])


def fails(feed: str, method: str, *args: Any, result: str = "-1") -> None:
    """One call, which fails; nothing is sent."""
    in_eom(feed, (method, args), expected=[result], sent=[])


@pytest.mark.row(156)
@pytest.mark.parametrize("name", CALLS)
def test_each_call(feed: str, name: str) -> None:
    """In eom each call with its action sends its packet, then comes the verdict."""
    call, _, sent = CALLS[name]
    in_eom(feed, call, expected=[None], sent=[sent])


@pytest.mark.row(156)
def test_order(feed: str) -> None:
    """The packets go out in the order of the calls, whatever their kinds."""
    there = list(CALLS.values())
    back = there[::-1]
    in_eom(
        feed,
        *(call for call, _, _ in there),
        ("progress", ()),
        *(call for call, _, _ in back),
        expected=[None] * (2 * len(there) + 1),
        sent=[*(s for _, _, s in there), PROGRESS, *(s for _, _, s in back)],
    )


@pytest.mark.row(156)
@pytest.mark.parametrize(("verdict", "reply"), [(0, "c"), (1, "r"), (2, "d"), (3, "a"), (4, "t")])
def test_before_any_verdict(feed: str, verdict: int, reply: str) -> None:
    """Modifications are sent before whatever verdict follows; a reject after them is legal."""

    def eom(ctx: Any) -> int:
        ctx.addheader("X", "v")
        return verdict

    with running(F(returns={"eom": eom}), feed) as run:
        mta = run.mta()
        mta.play(*MESSAGE)
        mta.ask(E, CALLS["addheader"][2], packet(reply))


@pytest.mark.row(157)
@pytest.mark.parametrize("name", CALLS)
def test_without_its_action(feed: str, name: str) -> None:
    """With every action but its own a call fails and sends nothing; progress works."""
    call, bit, _ = CALLS[name]
    in_eom(
        feed,
        call,
        ("progress", ()),
        expected=["-1", None],
        sent=[PROGRESS],
        flags=0x1FF & ~bit,
    )


@pytest.mark.row(157)
@pytest.mark.parametrize("other", CALLS)
def test_with_one_action_only(feed: str, other: str) -> None:
    """With one action agreed on, the calls that need it work, and all others fail."""
    bit = CALLS[other][1]
    in_eom(
        feed,
        *(call for call, _, _ in CALLS.values()),
        ("progress", ()),
        expected=[*(None if needed == bit else "-1" for _, needed, _ in CALLS.values()), None],
        sent=[*(s for _, needed, s in CALLS.values() if needed == bit), PROGRESS],
        flags=bit,
    )


@pytest.mark.row(158)
@pytest.mark.parametrize("step", BEFORE)
def test_outside_of_eom(feed: str, step: str) -> None:
    """In every other callback each call fails and sends nothing."""
    results: list[Any] = []

    def callback(ctx: Any, *args: Any) -> None:
        results.extend(attempt(ctx, call) for call, _, _ in CALLS.values())

    with running(F(returns={step: callback}), feed) as run:
        mta = run.mta()
        mta.play(*commands(BEFORE[step]))
        mta.send(BY_LETTER[LETTER[step]])
        if step not in ("abort", "close"):
            mta.expect(CONTINUE)
        if step != "close":
            mta.send(Q)
        mta.expect_close()
        run.finish()
    assert ["-1"] * len(CALLS) == results


@pytest.mark.row(158)
def test_in_negotiate(feed: str) -> None:
    """Nor do they work in negotiate."""
    results: list[Any] = []

    def negotiate(ctx: Any, opts: list[int]) -> int:
        results.extend(attempt(ctx, call) for call, _, _ in CALLS.values())
        return milter.ALL_OPTS

    with running(F(negotiate=negotiate), feed) as run:
        mta = run.connect()
        mta.send(packet("O", bytes.fromhex("00000006 000001FF 001FFFFF")))
        mta.expect(packet("O", bytes.fromhex("00000006 000001FF 00000400")))
        mta.send(Q)
        mta.expect_close()
    assert ["-1"] * len(CALLS) == results


@pytest.mark.row(158)
def test_in_close_after_a_message_and_the_end(feed: str) -> None:
    """Nor in a close that follows the MTA's sudden end after eom."""
    results: list[Any] = []

    def close(ctx: Any) -> None:
        results.extend(attempt(ctx, call) for call, _, _ in CALLS.values())

    with running(F(returns={"close": close}), feed) as run:
        mta = run.mta()
        mta.play(*MESSAGE, E)
        mta.half_close()
        assert b"" == mta.read_all()
        run.finish()
    assert ["-1"] * len(CALLS) == results


@pytest.mark.row(159)
@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("addheader", ("", "v")),
        ("addheader", ("", "v", 0)),
        ("chgheader", ("", 1, "v")),
        ("addrcpt", ("",)),
        ("addrcpt", ("", "A=1")),
        ("delrcpt", ("",)),
        ("chgfrom", ("",)),
        ("chgfrom", ("", "A=1")),
        ("quarantine", ("",)),
    ],
)
def test_empty_arguments(feed: str, method: str, args: tuple[Any, ...]) -> None:
    """An empty name, address or reason fails."""
    fails(feed, method, *args)


@pytest.mark.row(159)
@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("addheader", (None, "v")),
        ("addheader", ("X", None)),
        ("addheader", (None, "v", 0)),
        ("addheader", ("X", None, 0)),
        ("chgheader", (None, 1, "v")),
        ("addrcpt", (None,)),
        ("delrcpt", (None,)),
        ("chgfrom", (None,)),
        ("quarantine", (None,)),
    ],
)
def test_null_arguments(feed: str, method: str, args: tuple[Any, ...]) -> None:
    """None where text is needed fails, in Python as a TypeError."""
    fails(feed, method, *args, result="TypeError")


@pytest.mark.row(160)
@pytest.mark.parametrize("value", [None, ""])
def test_deleting_a_header(feed: str, value: Any) -> None:
    """chgheader with no value or the empty one sends the empty string."""
    one(feed, "chgheader", "X", 1, value, sent=bytes.fromhex("00000008 6D 00000001 5800 00"))


@pytest.mark.row(161)
@pytest.mark.parametrize(("index", "hexed"), [(0, "00000000"), (2147483647, "7FFFFFFF")])
def test_indexes(feed: str, index: int, hexed: str) -> None:
    """The smallest and the largest index are sent as given."""
    in_eom(
        feed,
        ("chgheader", ("X", index, "v")),
        ("addheader", ("X", "v", index)),
        expected=[None, None],
        sent=[
            bytes.fromhex("00000009 6D" + hexed + "5800 7600"),
            bytes.fromhex("00000009 69" + hexed + "5800 7600"),
        ],
    )


@pytest.mark.row(161)
def test_negative_index(feed: str) -> None:
    """A negative index fails for chgheader; addheader means "append" by it (API spec 1.10)."""
    fails(feed, "chgheader", "X", -1, "v")
    one(feed, "addheader", "X", "v", -1, sent=CALLS["addheader"][2])


@pytest.mark.row(162)
@pytest.mark.parametrize(
    ("name", "value"),
    [("X:Y Z", "v"), ("X", "a\r\n b"), ("X", " v"), ("X", "a\n\tb"), ("X", "\t"), ("X y", "")],
)
def test_header_text_is_not_checked(feed: str, name: str, value: str) -> None:
    """Names and values go out as given: colons, blanks, line breaks, a leading blank."""
    one(feed, "addheader", name, value, sent=packet("h", f"{name}\0{value}\0".encode()))


@pytest.mark.row(163)
@pytest.mark.parametrize(("args", "second"), [(None, b""), ("", b"\0"), ("A=1 B=2", b"A=1 B=2\0")])
def test_esmtp_arguments(feed: str, args: Any, second: bytes) -> None:
    """No arguments: one string; empty ones: a further NUL; others: a second string."""
    one(feed, "chgfrom", "<s@e>", args, sent=packet("e", b"<s@e>\0" + second))
    letter = "+" if args is None else "2"
    one(feed, "addrcpt", "<s@e>", args, sent=packet(letter, b"<s@e>\0" + second))


@pytest.mark.row(164)
@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (65534, [65534]),
        (65535, [65535]),
        (65536, [65535, 1]),
        (131070, [65535, 65535]),
        (131071, [65535, 65535, 1]),
    ],
)
def test_long_bodies(feed: str, size: int, pieces: list[int]) -> None:
    """A new body is sent in pieces of 65535 bytes, unchanged."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    sent, at = [], 0
    for length in pieces:
        sent.append(packet("b", body[at : at + length]))
        at += length
    in_eom(feed, ("replacebody", (body,)), expected=[None], sent=sent)


@pytest.mark.row(165)
@pytest.mark.parametrize("body", [b"", ""])
def test_empty_body(feed: str, body: Any) -> None:
    """An empty body is one empty packet."""
    one(feed, "replacebody", body, sent=bytes.fromhex("00000001 62"))


@pytest.mark.row(166)
@pytest.mark.parametrize("body", [None, 5, -1, object()])
def test_no_body(feed: str, body: Any) -> None:
    """What is no body fails, in Python as a TypeError: there is no length to be wrong."""
    fails(feed, "replacebody", body, result="TypeError")


@pytest.mark.row(167)
@pytest.mark.parametrize("shorter", [0, 1, 2, 1000])
def test_longest_header(feed: str, shorter: int) -> None:
    """A header packet may have 65535 bytes of data, NULs included ..."""
    value = "v" * (65535 - 3 - shorter)
    one(feed, "addheader", "X", value, sent=packet("h", b"X\0" + value.encode() + b"\0"))


@pytest.mark.row(167)
@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("addheader", ("X", "v" * 65533)),
        ("addheader", ("X", "v" * 65529, 0)),
        ("chgheader", ("X", 1, "v" * 65529)),
        ("addrcpt", ("r" * 65535,)),
        ("addrcpt", ("r", "a" * 65533)),
        ("delrcpt", ("r" * 65535,)),
        ("chgfrom", ("r" * 65535,)),
        ("quarantine", ("r" * 65535,)),
        ("addheader", ("X", "v" * 200000)),
    ],
)
def test_too_long(feed: str, method: str, args: tuple[Any, ...]) -> None:
    """... and none of 65536: the call fails, nothing is sent, and the session goes on."""
    in_eom(
        feed,
        (method, args),
        CALLS["addheader"][0],
        expected=["-1", None],
        sent=[CALLS["addheader"][2]],
    )


@pytest.mark.row(168)
@pytest.mark.ours
def test_send_limit(feed: str) -> None:
    """The limit of a packet's data can be set, per server: `limits.send_payload`, 65535 by default.
    (In libmilter smfi_setmaxdatasize sets it for the whole process, for reading too.)"""
    with running(feed=feed) as run:
        assert 65535 == run.server.limits.send_payload
    in_eom(
        feed,
        ("addheader", ("X", "v" * 97)),
        ("addheader", ("X", "v" * 98)),
        ("addheader", ("X", "v" * 200)),
        expected=[None, "-1", "-1"],
        sent=[packet("h", b"X\0" + b"v" * 97 + b"\0")],
        limits={"send_payload": 100},
    )
    one(feed, "addheader", "X", "v" * 200, sent=packet("h", b"X\0" + b"v" * 200 + b"\0"))


@pytest.mark.row(169)
@pytest.mark.parametrize("step", BEFORE)
def test_progress_elsewhere(feed: str, step: str) -> None:
    """Outside of eom progress sends nothing and succeeds (libmilter sends `p`, for which Sendmail
    drops the filter)."""
    results: list[Any] = []

    def callback(ctx: Any, *args: Any) -> None:
        results.append(attempt(ctx, ("progress", ())))

    with running(F(returns={step: callback}), feed) as run:
        mta = run.mta()
        mta.play(*commands(BEFORE[step]))
        mta.send(BY_LETTER[LETTER[step]])
        if step not in ("abort", "close"):
            mta.expect(CONTINUE)
        if step != "close":
            mta.send(A, Q)
        mta.expect_close()
        run.finish()
    assert [None] == results
