"""What a hostile, broken or vanishing MTA can do: end its own connection, with one log line.

No other connection notices, and nothing is left behind.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from harness import F, Peer, Run, macros, offer, packet, running
from harness.packets import (
    CONTINUE,
    MESSAGE_NAMES,
    OFFER,
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
    commands,
    replies,
)

FULL_REPLY = bytes.fromhex("0000000D 4F 00000006 000001FF 00000000")

#: A log line that says why a connection ended, and which one.
ENDED = re.compile(r"connection (\d+) .*ended: (.+)")


def endings(messages: list[str]) -> list[tuple[str, str]]:
    """(connection, reason) of each line, which must all be such."""
    found = []
    for message in messages:
        match = ENDED.search(message)
        assert match, message
        found.append((match[1], match[2]))
    return found


def spoiled(run: Run, mta: Peer, names: list[str], reason: str) -> None:
    """The milter ended the session, these were its callbacks, the one log line has that in it."""
    run.expect_broken(mta, names)
    ((_, why),) = endings(run.messages())
    assert reason in why


# -- floods and slowness -------------------------------------------------------------------------


@pytest.mark.row(76)
def test_as_many_macros_as_allowed(feed: str) -> None:
    """Macros up to the limits of their number and of their bytes (NULs counted) are kept."""
    seen: list[tuple[Any, ...]] = []

    def connect(ctx: Any, *args: object) -> None:
        seen.append((ctx.getsymval("a"), ctx.getsymval("c")))

    limits = {"macros_per_stage": 3, "macro_bytes": 30}
    with running(F(limits=limits, returns={"connect": connect}), feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("a", "1"), ("b", "2"), ("c", "3" * 19)))
        mta.play(C)
        assert [("1", "3" * 19)] == seen


@pytest.mark.parametrize(
    ("limits", "pairs"),
    [
        ({"macros_per_stage": 3}, [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]),
        ({"macro_bytes": 30}, [("a", "1"), ("b", "2"), ("c", "3" * 21)]),
        ({}, [("a", "1")] * 300),
        ({}, [("a", "1" * 70000)]),
    ],
    ids=["number", "bytes", "default number", "default bytes"],
)
@pytest.mark.parametrize(
    ("before", "names"), [("", ["close"]), ("M R", ["mail", "rcpt", "abort", "close"])]
)
def test_too_many_macros(
    limits: dict[str, int], pairs: list[tuple[str, str]], before: str, names: list[str]
) -> None:
    """Macros beyond a limit end the connection; the line says what is too much."""
    with running(F(limits=limits)) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(macros("R", *pairs))
        spoiled(run, mta, names, "macros")


def resident() -> int:
    """Bytes of memory that this process has in use."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


@linux
def test_flood_of_macro_packets() -> None:
    """Endless macros within the limits replace each other: memory stays, the session goes on."""
    with running() as run:
        mta = run.mta()
        flood = [macros(s, ("{m}", s * 1000), ("n", "x" * 500)) for s in "CHMRTNELBU"]
        other = run.mta()
        other.play(C)
        for _ in range(100):
            mta.send(*flood)
        mta.play(C)
        before = resident()
        for _ in range(2000):
            mta.send(*flood)
        mta.play(H, M)
        other.play(H)
        assert resident() - before < 8 << 20


@pytest.mark.parametrize(("before", "names"), [("", ["close"]), ("M", ["mail", "abort", "close"])])
@pytest.mark.parametrize("part", [b"\0", b"\0\0\0\x05", b"\0\0\0\x05Hab"])
def test_packet_that_does_not_come_to_an_end(before: str, names: list[str], part: bytes) -> None:
    """A packet begun and not completed in time ends the connection."""
    with running(F(limits={"packet_timeout": 0.3})) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(part)
        run.expect_broken(mta, names)
        assert 1 == len(endings(run.messages()))


def test_packet_that_comes_in_drops() -> None:
    """One byte now and then does not extend the time for a packet; a pause between is free."""
    with running(F(limits={"packet_timeout": 0.5})) as run:
        idle = run.mta()
        mta = run.mta()
        mta.send(bytes.fromhex("00010000 42"))
        begun = time.monotonic()
        while mta._recv(1, 0.05) is None:
            mta.send(b"x")
            assert time.monotonic() - begun < 30, "each byte extends the time"
        idle.play(H)  # idle all the while, and not in a packet
        run.finish()
        assert 1 == len(endings(run.messages()))


def test_peer_that_does_not_read() -> None:
    """An MTA that sends and never reads the replies is given up after the write timeout."""
    with running(F(limits={"write_timeout": 0.3}, record=False)) as run:
        mta = run.connect()
        mta.send(OFFER)
        mta.socket.settimeout(30)
        chunk = H * 5000
        try:
            while True:  # until both directions are full and the milter has closed
                mta.socket.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        run.wait_for(lambda: len(endings(run.messages())) == 1)
        other = run.mta()
        other.play(C, H)


# -- vanishing -----------------------------------------------------------------------------------

#: A session with macros: each packet, and the callback that it gives.
STEPS = [
    (OFFER, ""),
    (macros("C", ("j", "mx")), ""),
    (C, "connect"),
    (H, "helo"),
    (M, "mail"),
    (macros("R", ("{rcpt_addr}", "c@d")), ""),
    (R, "rcpt"),
    (T, "data"),
    (L, "header"),
    (N, "eoh"),
    (B, "body"),
    (E, "eom"),
    (M, "mail"),
    (A, "abort"),
    (M, "mail"),
    (R, "rcpt"),
    (K, "abort close"),
    (C, "connect"),
]


def ending(names: list[str]) -> list[str]:
    """The callbacks that the connection's end adds to these."""
    if names and names[-1] in ("mail", "rcpt", "data", "header", "eoh", "body"):
        return ["abort", "close"]
    return [] if names and names[-1] == "close" else ["close"]


Steps = list[tuple[bytes, str]]


def prefixes(steps: Steps) -> Iterator[tuple[int, int, bool]]:
    """For each number of bytes sent: how many packets are whole, and whether one is begun."""
    begin = 0
    for packets, (data, _) in enumerate(steps):
        for size in range(begin, begin + len(data)):
            yield size, packets, size > begin
        begin += len(data)


def test_vanishing_between_any_two_bytes() -> None:
    """EOF after any number of bytes: every whole packet counts, then abort if open, and close."""
    stream = b"".join(p for p, _ in STEPS)
    with running() as run:
        other = run.mta()
        for size, packets, within in prefixes(STEPS):
            run.forget()
            with Peer(run.address) as mta:
                mta.send(stream[:size])
                mta.half_close()
                mta.read_all()
            names = [name for _, called in STEPS[:packets] for name in called.split()]
            run.wait(names + ending(names))
            if within:
                run.wait_for(lambda: len(endings(run.messages())) == 1)
            elif "abort" in ending(names):
                run.wait_for(lambda: len(endings(run.messages(logging.INFO))) == 1)
            else:
                assert [] == run.messages()
            # One line at most for each; that of the one before may come after its callbacks.
            ended = [text.split()[2] for text in run.messages(logging.INFO)]
            assert sorted(set(ended)) == sorted(ended), size
        other.play(C, H, M)


@pytest.mark.row(110)
@pytest.mark.parametrize(
    "data", [b"\0\0", packet("X"), packet("T"), packet("E"), OFFER, bytes.fromhex("00000000")]
)
def test_broken_between_sessions(feed: str, data: bytes) -> None:
    """After K and before the next C: the line is there, and close was called once already."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(C, H)
        mta.send(K, data)
        mta.half_close()
        run.expect_broken(mta, ["connect", "helo", "close"])
        assert 1 == len(endings(run.messages()))


@pytest.mark.parametrize("conn", [None, "inet:0@127.0.0.1"], ids=["unix", "inet"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_vanishing_without_reading(how: str, conn: str | None) -> None:
    """Gone after any number of bytes, replies unread: the session's callbacks are in order."""
    steps = STEPS[:-2]  # with K there would be two ends, and no telling which one has come
    stream = b"".join(p for p, _ in steps)
    whole = [name for _, called in steps for name in called.split()]
    possible = [whole[:i] + ending(whole[:i]) for i in range(len(whole) + 1)]
    with running(conn=conn) as run:
        other = run.mta()
        for size, _, _ in prefixes(steps):
            run.forget()
            mta = Peer(run.address)
            mta.send(stream[:size])
            getattr(mta, how)()
            run.wait_for(lambda: run.names() in possible)
            # One line at most for each; that of the one before may come after its callbacks.
            ended = [text.split()[2] for text in run.messages(logging.INFO)]
            assert sorted(set(ended)) == sorted(ended), size
        other.play(C, H, M)


# -- ten thousand broken connections -------------------------------------------------------------


def eof(mta: Peer) -> None:
    """Half close, and read up to the end."""
    mta.half_close()
    mta.read_all()


def refused(*packets: bytes) -> Callable[[Peer], None]:
    """Handshake, then these bytes, upon which the milter closes."""

    def play(mta: Peer) -> None:
        mta.ask(OFFER, FULL_REPLY)
        mta.send(*packets)
        mta.read_all()

    return play


def left(letters: str, tail: bytes, how: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Handshake, commands, some more bytes, and then the MTA is gone."""

    def play(mta: Peer) -> None:
        mta.ask(OFFER, FULL_REPLY)
        mta.send(*commands(letters))
        mta.expect(*replies(letters))
        mta.send(tail)
        how(mta)

    return play


def flooded(mta: Peer) -> None:
    """Many commands, no reply read, gone."""
    mta.send(OFFER, C, *[H] * 50, M, *[R] * 20)
    mta.close()


#: (how a connection is broken, whether a warning must say so; None where a race decides)
BREAKERS: list[tuple[Callable[[Peer], None], bool | None]] = [
    (Peer.close, None),
    (eof, False),
    (lambda mta: (mta.send(b"\0\0"), eof(mta)), True),
    (lambda mta: (mta.send(offer(version=1)), mta.read_all()), True),
    (lambda mta: (mta.send(H), mta.read_all()), True),
    (refused(bytes.fromhex("FFFFFFFF")), True),
    (refused(bytes.fromhex("00000000")), True),
    (refused(packet("X", b"garbage")), True),
    (refused(packet("C", b"h\0")), True),
    (refused(M, R, T, T), True),
    (refused(M, R, packet("L", b"no value")), True),
    (refused(OFFER), True),
    (refused(macros("C", *[("a", "b")] * 1000)), True),
    (left("", b"", eof), False),
    (left("C H Q", b"", eof), False),
    (left("C H M R T L N B E", b"", eof), False),
    (left("C H M R", b"", eof), False),
    (left("C H M R", L[:9], eof), True),
    (left("M R N", struct.pack("!I", 1 << 20) + b"B" + b"x" * 1000, eof), True),
    (left("C H M R T L N B", b"", Peer.close), None),
    (left("C H M R T L N B", E, Peer.close), None),
    (left("C H M U A", U, Peer.reset), None),
    (flooded, None),
    (refused(Q), False),
]


class Watch:
    """What could leak: descriptors, threads, memory."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.threads = len(os.listdir("/proc/self/task"))
        self.memory = resident()


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("conn", "number"), [(None, 10000), ("inet:0@127.0.0.1", 2000)], ids=["unix", "inet"]
)
def test_broken_connections_leave_nothing(
    conn: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of broken connections: no descriptor, thread or memory stays, one line for each.

    Another session plays messages all the while.
    """
    # pytest keeps every record that reaches the root logger until the test ends: that would be
    # the only thing to grow.
    monkeypatch.setattr(logging.getLogger("Milter"), "propagate", False)
    ended = [0]
    lock = threading.Lock()

    def close(ctx: object) -> None:
        with lock:
            ended[0] += 1

    lines: list[tuple[str, str]] = []
    must = may = 0

    def harvest(run: Run) -> None:
        lines.extend(endings(run.take_messages()))

    def break_some(run: Run, times: int) -> None:
        """Break that many connections, eight open at a time."""
        nonlocal must, may
        breakers = itertools.cycle(BREAKERS)
        for _ in range(times // 8):
            peers = [Peer(run.address) for _ in range(8)]
            for mta in peers:
                how, says = next(breakers)
                how(mta)
                mta.close()
                must += says is True
                may += says is not False
        goal = must_close[0] = must_close[0] + times // 8 * 8
        run.wait_for(lambda: ended[0] == goal)
        harvest(run)

    must_close = [0]
    with running(F(record=False, returns={"close": close}), conn=conn) as run:
        other = run.mta()
        other.play(C, H)
        break_some(run, 960)  # threads, arenas and caches reach their size
        before = Watch()
        for _ in range(number // 1000):
            break_some(run, 1000)
            other.play(M, R, T, L, N, B, E)
        run.wait_for(lambda: Watch().descriptors <= before.descriptors)
        run.wait_for(lambda: Watch().threads <= before.threads + 2)
        run.wait_for(lambda: Watch().memory - before.memory < 8 << 20)
        run.wait_for(lambda: (harvest(run), len(lines) >= must)[1])
        assert must <= len(lines) <= may
        numbers = [number for number, _ in lines]
        assert len(set(numbers)) == len(numbers), "a connection with two lines"
        other.play(M, R, T, L, N, B, E)
        assert ended[0] == must_close[0], "the other session has ended"


def test_others_do_not_notice() -> None:
    """Sessions beside broken ones get their replies and callbacks as if they were alone."""
    with running() as run:
        good = [run.mta() for _ in range(3)]
        for letter in list("CHMRTLNBE"):
            for mta in good:
                mta.send(*commands(letter))
            if letter == "C":
                run.wait(["connect"] * 3)  # so that the good ones are the first
            for how, _ in BREAKERS:
                with Peer(run.address) as bad:
                    how(bad)
            for mta in good:
                mta.expect(CONTINUE)
        run.finish()
        whole = ["connect", "helo", *MESSAGE_NAMES, "close"]
        assert [whole] * 3 == run.sessions()[:3]
