"""The order of events that filters can see (API spec 1.16)."""

from __future__ import annotations

from typing import Any

import pytest
from compat_live import MESSAGE, Live

import milter
from harness import packet
from harness.packets import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    REJECT,
    TEMPFAIL,
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
)

REPLIES = {1: REJECT, 2: DISCARD, 3: ACCEPT, 4: TEMPFAIL}
MAIL = ["envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"]


def test_order(live: Live) -> None:
    """negotiate, connect, helo, then each message's events, then close."""
    live.on_all(negotiate=milter.ALL_OPTS)
    mta = live.mta()
    mta.play(C, H)
    mta.play(M, R, R, T, L, L, N, B, B, E)
    mta.play(M, R, T, N, E)
    mta.send(Q)
    mta.expect_close()
    assert [
        *["negotiate", "connect", "helo"],
        *[
            "envfrom",
            "envrcpt",
            "envrcpt",
            "data",
            "header",
            "header",
            "eoh",
            "body",
            "body",
            "eom",
        ],
        *["envfrom", "envrcpt", "data", "eoh", "eom", "close"],
    ] == live.names


STAGES = {
    "envfrom": (M,),
    "envrcpt": (M, R),
    "data": (M, R, T),
    "header": (M, R, T, L),
    "eoh": (M, R, T, L, N),
    "body": (M, R, T, L, N, B),
}


@pytest.mark.parametrize("stage", STAGES)
def test_abort_by_reset(live: Live, stage: str) -> None:
    """The MTA's abort ends an open transaction with one `abort`; it has no reply, and a new message
    can follow."""
    live.on(abort=None, envfrom=None, eom=None)
    mta = live.mta()
    mta.play(C, H, *STAGES[stage])
    mta.send(A)
    mta.play(*list(MESSAGE.values())[2:])
    assert ["envfrom", "abort", "envfrom", "eom"] == live.finish()


@pytest.mark.parametrize("end", ["quit", "close"])
@pytest.mark.parametrize("stage", STAGES)
def test_abort_by_the_end(live: Live, stage: str, end: str) -> None:
    """So does the end of the connection, by QUIT or without a word; `close` follows."""
    live.on(connect=None, abort=None, close=None)
    mta = live.mta()
    mta.play(C, H, *STAGES[stage])
    if end == "quit":
        mta.send(Q)
        mta.expect_close()
    assert ["connect", "abort", "close"] == live.finish()


@pytest.mark.parametrize(("command", "event"), [(M, "envfrom"), (H, "helo")])
@pytest.mark.parametrize("stage", STAGES)
def test_abort_by_a_new_start(live: Live, stage: str, command: bytes, event: str) -> None:
    """So does a new MAIL or HELO, before its own callback."""
    live.on(abort=None)
    mta = live.mta()
    mta.play(C, H, *STAGES[stage])
    live.on(**{event: None})
    mta.ask(command)
    assert ["abort", event] == live.names


@pytest.mark.parametrize("status", REPLIES)
@pytest.mark.parametrize("event", ["envfrom", "data", "header", "eoh", "body", "eom"])
def test_no_abort_after_a_final_verdict(live: Live, event: str, status: int) -> None:
    """After the filter itself has ended the message there is no `abort`, whatever comes."""
    live.on(abort=None, close=None, connect=None, **{event: status})
    mta = live.play(event)
    mta.ask(MESSAGE[event], REPLIES[status])
    mta.send(A)
    mta.ask(H)
    assert ["connect", event, "close"] == live.finish()


@pytest.mark.parametrize("status", REPLIES)
@pytest.mark.parametrize("event", ["envfrom", "data", "header", "eoh", "body"])
def test_nothing_more_of_a_message_that_is_decided(live: Live, event: str, status: int) -> None:
    """Its further events are ignored without a reply; the next message is served."""
    live.on_all(**{event: status})
    mta = live.play(event)
    mta.ask(MESSAGE[event], REPLIES[status])
    seen = len(live.names)
    later = list(MESSAGE.values())[list(MESSAGE).index(event) + 1 :]
    mta.send(*later)
    live.on(**{event: None})
    mta.play(M, R, T, L, N, B, E)
    assert MAIL == live.names[seen:]


@pytest.mark.parametrize("status", [1, 4])
def test_a_refused_recipient(live: Live, status: int) -> None:
    """REJECT and TEMPFAIL on a recipient concern that one; the message goes on."""
    live.on_all(envrcpt=status)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(R, REPLIES[status])
    live.on(envrcpt=None)
    mta.play(R, T, L, N, B, E)
    assert ["envfrom", "envrcpt", *MAIL[1:]] == live.names[2:]


@pytest.mark.parametrize("status", [1, 4])
def test_abort_after_refused_recipients(live: Live, status: int) -> None:
    """With every recipient refused the transaction is still open: `abort` comes."""
    live.on(envrcpt=status, abort=None)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(R, REPLIES[status])
    mta.send(A)
    mta.ask(H)
    assert ["envrcpt", "abort"] == live.names


def test_a_recipient_can_end_the_message(live: Live) -> None:
    """ACCEPT on a recipient is for the whole message."""
    live.on_all(envrcpt=milter.ACCEPT)
    mta = live.play("envrcpt")
    mta.ask(R, ACCEPT)
    mta.send(R, T, L, N, B, E, A)
    live.on(envrcpt=None)
    mta.play(M, R)
    assert ["envfrom", "envrcpt", "envfrom", "envrcpt"] == live.names[2:]


def test_discard_on_a_recipient(live: Live) -> None:
    """After DISCARD on a recipient it is the MTA that ends the message: if it goes on all the same,
    it is served (wire spec 3.1; API spec 1.16 says otherwise, pymilter does this)."""
    live.on_all(envrcpt=milter.DISCARD)
    mta = live.play("envrcpt")
    mta.ask(R, DISCARD)
    mta.play(T, L)
    mta.send(A)
    mta.ask(H)
    assert ["envfrom", "envrcpt", "data", "header", "abort", "helo"] == live.names[2:]


@pytest.mark.parametrize("status", REPLIES)
@pytest.mark.parametrize(("event", "command"), [("connect", C), ("helo", H)])
def test_verdicts_before_a_message(live: Live, event: str, command: bytes, status: int) -> None:
    """After any verdict on connect or HELO the milter goes on serving: the MTA decides."""
    live.on_all(**{event: status})
    mta = live.play(event)
    mta.ask(command, REPLIES[status])
    live.on(**{event: None})
    mta.play(H, M, R, T, L, N, B, E)
    assert ["helo", *MAIL] == live.names[-8:]


def test_close_after_a_handshake_alone(live: Live) -> None:
    """`close` comes once, also when nothing followed the handshake."""
    live.on(negotiate=milter.ALL_OPTS, close=None)
    live.mta()
    assert ["negotiate", "close"] == live.finish()


def test_close_once(live: Live) -> None:
    """`close` comes once per connection, after `abort`, with QUIT and then the end."""
    live.on(connect=None, abort=None, close=None)
    one, two = live.mta(), live.mta()
    one.play(C, H, M)
    two.play(C, H)
    one.send(Q)
    one.expect_close()
    two.send(Q)
    two.expect_close()
    assert ["connect", "connect", "abort", "close", "close"] == live.finish()


def test_close_comes_after_a_broken_packet(live: Live) -> None:
    """A packet that cannot be read ends the connection: `abort` if a message was open, `close`."""
    live.on(connect=None, abort=None, close=None)
    mta = live.mta()
    mta.play(C, H, M)
    mta.send(packet("X", b"?"))
    mta.expect_close()
    assert ["connect", "abort", "close"] == live.finish()


def test_several_messages_with_aborts(live: Live) -> None:
    """Messages that are completed, refused and aborted can follow each other on a connection."""
    verdicts = iter([0, 1, 0, 0])
    live.on_all(envfrom=lambda ctx, *a: next(verdicts))
    mta = live.mta()
    mta.play(C, H, M, R, T, N, E)
    mta.ask(M, REJECT)
    mta.play(M, R)
    mta.send(A)
    mta.play(M, R, T, N, E)
    mta.send(Q)
    mta.expect_close()
    complete = ["envfrom", "envrcpt", "data", "eoh", "eom"]
    assert [
        *["connect", "helo"],
        *complete,
        "envfrom",
        *["envfrom", "envrcpt", "abort"],
        *complete,
        "close",
    ] == live.finish()


@pytest.mark.parametrize("result", [0, 1, 2, 3, 4])
def test_values_from_abort(live: Live, result: int) -> None:
    """What abort returns has no effect on what follows."""
    live.on(abort=result, envfrom=None)
    mta = live.mta()
    mta.play(C, H, M)
    mta.send(A)
    mta.ask(M, CONTINUE)
    assert ["envfrom", "abort", "envfrom"] == live.names


def test_connections_at_once(live: Live) -> None:
    """Connections that are interleaved have each its own order."""
    live.on_all()
    peers = [live.mta() for _ in range(3)]
    for command in MESSAGE.values():
        for peer in peers:
            peer.ask(command)
    live.finish()
    order: dict[Any, list[str]] = {}
    for ctx, call in zip(live.contexts, live.calls):
        order.setdefault(ctx, []).append(call[0])
    assert [[*MESSAGE, "close"]] * 3 == list(order.values())
