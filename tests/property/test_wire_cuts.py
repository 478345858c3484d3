"""However the bytes of a session are cut, callbacks and replies are the same; garbage harms nobody.

The dialogues, replies and callbacks are written by hand from the wire spec; Hypothesis only chooses
where writes end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import F, Peer, Run, macros, offer, packet, running
from harness.packets import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    MESSAGE,
    MESSAGE_NAMES,
    OFFER,
    PROGRESS,
    REJECT,
    SKIP,
    TEMPFAIL,
    A,
    B,
    C,
    E,
    H,
    K,
    L,
    M,
    N,
    Q,
    R,
    T,
    U,
)

FULL_REPLY = bytes.fromhex("0000000D 4F 00000006 000001FF 00000000")


class Dialogue(NamedTuple):
    """A session that ends with Q: what is sent, what comes back, the callbacks with arguments."""

    spec: F
    sent: list[bytes]
    replies: list[bytes]
    calls: list[tuple[Any, ...]]


def modify(ctx: Any) -> None:
    """In eom: one of each kind of modification, and progress in between."""
    ctx.addheader("X", "v")
    ctx.addheader("X", "v", 0)
    ctx.progress()
    ctx.chgheader("X", 1, "")
    ctx.replacebody(b"hi\r\n")
    ctx.addrcpt("<r@e>")
    ctx.quarantine("why")


def reject_with_text(ctx: Any, *args: object) -> int:
    """A verdict with a text of its own."""
    ctx.setreply("550", "5.7.1", "no")
    return 1


def no_reply(ctx: object, opts: list[int]) -> None:
    """Negotiate: no replies to anything but what must have one, and no SKIP."""
    opts[0:2] = [0x1FF, 0xFF080]


CONNECT = ("connect", "h", 2, ("192.0.2.1", 1234))
CALLS: dict[str, tuple[Any, ...]] = {
    "helo": ("helo", "h"),
    "mail": ("mail", b"<a@b>"),
    "rcpt": ("rcpt", b"<c@d>"),
    "data": ("data",),
    "header": ("header", "Subject", b"hi"),
    "eoh": ("eoh",),
    "body": ("body", b"xy\r\n"),
    "eom": ("eom",),
    "unknown": ("unknown", "FOO"),
    "abort": ("abort",),
    "close": ("close",),
}
CONTENT = MESSAGE_NAMES


def called(*names: str) -> list[tuple[Any, ...]]:
    """The calls of these names for the packets of the wire spec's rows."""
    return [CONNECT if name == "connect" else CALLS[name] for name in names]


DIALOGUES: dict[str, Dialogue] = {
    "two messages and K": Dialogue(
        F(),
        [OFFER, C, H, U, *MESSAGE, M, R, R, A, M, R, N, B, B, E, K, C, H, Q],
        [FULL_REPLY, *[CONTINUE] * 10, *[CONTINUE] * 3, *[CONTINUE] * 6, *[CONTINUE] * 2],
        called(
            "connect", "helo", "unknown", *CONTENT, "mail", "rcpt", "rcpt", "abort",
            "mail", "rcpt", "eoh", "body", "body", "eom", "close", "connect", "helo", "close",
        ),
    ),
    "macros before every command": Dialogue(
        F(),
        [
            OFFER, macros("C", ("j", "mx"), ("{daemon_name}", "x")), C, macros("H"), H,
            macros("M", ("i", "1")), M, macros("R", ("{rcpt_addr}", "c")), R, macros("T"), T,
            macros("L", ("a", "b")), L, macros("N"), N, macros("B"), B, macros("E"), E, Q,
        ],
        [FULL_REPLY, *[CONTINUE] * 9],
        called("connect", "helo", *CONTENT, "close"),
    ),
    "long and odd data": Dialogue(
        F(),
        [
            OFFER,
            packet("C", b"x" * 300 + b"\0" + b"6" + b"\x00\x19" + b"IPv6:2001:db8::1\0"),
            packet("M", b"<>\0" + b"\0" + b"SIZE=1\0"),
            packet("R", b"<" + b"r" * 500 + b">\0"),
            packet("L", b"X\0" + b"a\n\tb" * 400 + b"\0" + b"more\0"),
            packet("N", b"ignored"),
            packet("B", bytes(range(256)) * 40),
            packet("E", b"the rest"),
            Q,
        ],
        [FULL_REPLY, *[CONTINUE] * 7],
        [
            ("connect", "x" * 300, 10, ("2001:db8::1", 25, 0, 0)),
            ("mail", b"<>", b"", b"SIZE=1"),
            ("rcpt", b"<" + b"r" * 500 + b">"),
            ("header", "X", b"a\n\tb" * 400),
            ("eoh",),
            ("body", bytes(range(256)) * 40),
            ("body", b"the rest"),
            ("eom",),
            ("close",),
        ],
    ),
    "verdicts": Dialogue(
        F(negotiate=10, returns={
            "helo": reject_with_text, "mail": [2, 0, 0], "rcpt": [1, 4, 0],
            "body": [8], "eom": [3, 4],
        }),
        [OFFER, C, H, M, R, T, M, R, R, R, T, L, N, B, E, M, R, E, Q],
        [
            bytes.fromhex("0000000D 4F 00000006 000001FF 00000400"),
            CONTINUE, packet("y", b"550 5.7.1 no\0"), DISCARD,
            # R and T after DISCARD are dropped, then the next M
            CONTINUE, REJECT, TEMPFAIL, *[CONTINUE] * 4, SKIP, ACCEPT, CONTINUE, CONTINUE, TEMPFAIL,
        ],
        [
            ("negotiate", (0x1FF, 0x1FFFFF, 0, 0)),
            *called(
                "connect", "helo", "mail", "mail", "rcpt", "rcpt", "rcpt", "data", "header", "eoh",
                "body", "eom", "mail", "rcpt", "eom", "close",
            ),
        ],
    ),
    "modifications": Dialogue(
        F(returns={"eom": modify}),
        [OFFER, M, R, E, M, R, E, Q],
        [FULL_REPLY, *[
            CONTINUE, CONTINUE,
            bytes.fromhex("00000005 68 58007600"),
            bytes.fromhex("00000009 69 00000000 58007600"),
            PROGRESS,
            bytes.fromhex("00000008 6D 00000001 580000"),
            bytes.fromhex("00000005 62 68690D0A"),
            bytes.fromhex("00000007 2B 3C7240653E00"),
            bytes.fromhex("00000005 71 77687900"),
            CONTINUE,
        ] * 2],
        called("mail", "rcpt", "eom", "mail", "rcpt", "eom", "close"),
    ),
    "no-reply steps": Dialogue(
        F(negotiate=no_reply, returns=dict.fromkeys(
            ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body"], 7
        )),
        [OFFER, C, H, M, R, T, L, L, L, N, B, B, E, M, R, A, M, R, E, Q],
        [bytes.fromhex("0000000D 4F 00000006 000001FF 000FF080"), CONTINUE, CONTINUE],
        [
            ("negotiate", (0x1FF, 0x1FFFFF, 0, 0)),
            *called(
                "connect", "helo", "mail", "rcpt", "data", "header", "header", "header", "eoh",
                "body", "body", "eom", "mail", "rcpt", "abort", "mail", "rcpt", "eom", "close",
            ),
        ],
    ),
    "no-reply steps that are not offered": Dialogue(
        F(negotiate=no_reply, returns=dict.fromkeys(["mail", "rcpt", "header", "body"], 7)),
        [offer(6, 0x1FF, 0x7F), M, R, L, B, E, Q],
        [bytes.fromhex("0000000D 4F 00000006 000001FF 00000000"), *[CONTINUE] * 5],
        [
            ("negotiate", (0x1FF, 0xFF0FF, 0, 0)),
            *called("mail", "rcpt", "header", "body", "eom", "close"),
        ],
    ),
    "an old MTA and few callbacks": Dialogue(
        F(only=["header", "eom", "close"], flags=0xF),
        [offer(2, 0, 0x7F), M, R, L, L, N, B, E, Q],
        [bytes.fromhex("0000000D 4F 00000002 0000000F 0000005F"), *[CONTINUE] * 7],
        called("header", "header", "eom", "close"),
    ),
}  # fmt: skip

EXAMPLES = 100


@pytest.fixture(scope="module", params=DIALOGUES.values(), ids=DIALOGUES)
def played(waiting: str, request: pytest.FixtureRequest) -> Iterator[tuple[Dialogue, Run]]:
    """A dialogue and a filter of its own, which all its examples use one after the other."""
    dialogue: Dialogue = request.param
    with running(dialogue.spec) as run:
        yield dialogue, run


def fresh(run: Run) -> None:
    """Forget the earlier example: calls, log, and how far the scripted verdicts are."""
    for name in run.spec.present:
        where = {"mail": "envfrom", "rcpt": "envrcpt"}.get(name, name)
        if where in ("unknown", "data"):
            continue
        verdict = run.spec.returns.get(name)
        getattr(run.server, f"set_{where}_callback")(run.callback(name, verdict))
    run.forget()


def check(dialogue: Dialogue, run: Run, cuts: list[int]) -> None:
    """Send all of the dialogue's bytes, cut there, and compare everything that comes back."""
    fresh(run)
    with Peer(run.address) as mta:
        mta.send_cut(b"".join(dialogue.sent), cuts)
        replies = mta.read_all()
    assert b"".join(dialogue.replies) == replies
    run.wait([call[0] for call in dialogue.calls])
    assert dialogue.calls == run.calls
    assert [] == run.messages()


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere(played: tuple[Dialogue, Run], data: st.DataObject) -> None:
    """Cut at up to forty places, anywhere: same callbacks, same arguments, same replies."""
    dialogue, run = played
    size = len(b"".join(dialogue.sent))
    cuts = data.draw(st.lists(st.integers(1, size - 1), max_size=40, unique=True).map(sorted))
    check(dialogue, run, cuts)


def test_cut_near_every_edge(played: tuple[Dialogue, Run]) -> None:
    """Cut within, before and after the length and the letter of every packet."""
    dialogue, run = played
    size = len(b"".join(dialogue.sent))
    edges = [sum(map(len, dialogue.sent[:i])) for i in range(len(dialogue.sent) + 1)]
    for offset in range(-2, 8):
        cuts = sorted({edge + offset for edge in edges if 0 < edge + offset < size})
        check(dialogue, run, cuts)


def test_coalesced(played: tuple[Dialogue, Run]) -> None:
    """Everything in one write, as an MTA that does not wait would: replies come in order."""
    dialogue, run = played
    check(dialogue, run, [])


LETTERS = st.sampled_from("ODCHMRTLNBEAQKU")
GARBAGE = st.one_of(
    st.binary(min_size=1, max_size=200),
    # a frame around garbage gets further: past the length, into the decoder
    st.lists(
        st.tuples(LETTERS, st.binary(max_size=40)).map(lambda p: packet(*p)),
        min_size=1,
        max_size=12,
    ).map(b"".join),
    # a lie about the length
    st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=60)).map(
        lambda p: struct.pack("!I", p[0]) + p[1]
    ),
)


@pytest.fixture(scope="module")
def survivor(waiting: str) -> Iterator[tuple[Run, Peer]]:
    """A filter, and a session on it in the middle of a message, which must notice nothing."""
    with running() as run:
        mta = run.mta()
        mta.play(C, H, M, R)
        yield run, mta


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.sampled_from([(), (C, H), (M,), (M, R), (M, R, T, L)]), garbage=GARBAGE)
def test_garbage_kills_nobody(
    survivor: tuple[Run, Peer], before: tuple[bytes, ...], garbage: bytes
) -> None:
    """Garbage after a valid handshake: that session ends in order, all others go on."""
    run, other = survivor
    run.wait_for(lambda: closed(run))
    seen = len(run.sessions())
    with Peer(run.address) as mta:
        mta.ask(OFFER, FULL_REPLY)
        mta.play(*before)
        mta.send(garbage)
        mta.half_close()
        mta.read_all()  # whatever it is, it comes to an end
    run.wait_for(lambda: len(run.sessions()) > seen and closed(run))
    session = run.sessions()[-1]
    assert "close" == session[-1]
    # Each transaction has one end at most: never abort after abort or eom without a message between
    ended = True
    for name in session:
        if name in ("abort", "eom"):
            assert not ended, session
            ended = True
        elif name in ("mail", "rcpt", "data", "header", "eoh", "body"):
            ended = False
    other.play(R)  # in the middle of its message, and served as ever


def closed(run: Run) -> bool:
    """Every session but the survivor's, the first, has been closed."""
    return all(session[-1] == "close" for session in run.sessions()[1:])


def test_survivor_ends_in_order() -> None:
    """A session beside one that sends an impossible length completes its message."""
    with running() as run:
        mta = run.mta()
        mta.play(C, H, M)
        broken = run.mta()
        broken.send(bytes.fromhex("FFFFFFFF"))
        broken.expect_close()
        mta.play(R, T, L, N, B, E)
        mta.send(Q)
        mta.expect_close()
        run.finish()
        assert sorted(run.sessions()) == [["close"], ["connect", "helo", *MESSAGE_NAMES, "close"]]
