"""`ctx.setreply`: what it refuses, and the bytes that the MTA gets (API spec 1.11)."""

from __future__ import annotations

from typing import Any

import pytest
from compat_live import Live

import milter
from harness import packet
from harness.packets import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    MESSAGE,
    REJECT,
    TEMPFAIL,
    A,
    B,
    C,
    E,
    H,
    M,
    N,
    R,
    T,
)


def _reply(text: bytes) -> bytes:
    return packet("y", text + b"\0")


def _try(ctx: Any, *args: Any) -> Any:
    """Call setreply; give its result, or the exception's type and text up to the first colon."""
    try:
        return ctx.setreply(*args)
    except Exception as error:
        return (type(error).__name__, str(error).split(":")[0])


REFUSED = ("error", "cannot set reply")

SENT = [
    (("550", "5.7.1", "go away"), 1, b"550 5.7.1 go away"),
    (("550", "5.7.1"), 1, b"550 5.7.1"),
    (("550", "5.7.1", ""), 1, b"550 5.7.1 "),
    (("550", None, "x"), 1, b"550 x"),
    (("550", None), 1, b"550 "),
    (("550", None, ""), 1, b"550 "),
    (("550", "5.7.1", "a", "", "c"), 1, b"550-5.7.1 a\r\n550-5.7.1 \r\n550 5.7.1 c"),
    (("550", None, "a", "b"), 1, b"550-5.0.0 a\r\n550 5.0.0 b"),
    (("450", None, "a", "b"), 4, b"450-4.0.0 a\r\n450 4.0.0 b"),
    (("450", "4.7.1", "t"), 4, b"450 4.7.1 t"),
    (("421", "4.7.0", "t"), 4, b"421 4.7.0 t"),
    (("550", "5.7.1", "50% off"), 1, b"550 5.7.1 50% off"),
    (("550", "5.7.1", "50%% off"), 1, b"550 5.7.1 50%% off"),
    (("550", "5.7.1", "a%", "%%s"), 1, b"550-5.7.1 a%\r\n550 5.7.1 %%s"),
    (("550", "2.7.1", "x"), 1, b"550 2.7.1 x"),
    (("550", "4.7.1", "x"), 1, b"550 4.7.1 x"),
    (("450", "5.7.1", "x"), 4, b"450 5.7.1 x"),
    (("599", "5.123.999", "x"), 1, b"599 5.123.999 x"),
    (("400", "4.0.0", "x"), 4, b"400 4.0.0 x"),
    (("550", "5.7.1", "\u20ac"), 1, b"550 5.7.1 \xe2\x82\xac"),
    (("550", "5.7.1", "\t\x01\x7f"), 1, b"550 5.7.1 \t\x01\x7f"),
    (("550", "5.7.1", "x" * 980), 1, b"550 5.7.1 " + b"x" * 980),
    (
        ("550", "5.7.1", *["l"] * 32),
        1,
        b"550-5.7.1 l\r\n" * 31 + b"550 5.7.1 l",
    ),
    (
        ("550", "5.7.1", *["x" * 980] * 32),
        1,
        (b"550-5.7.1 " + b"x" * 980 + b"\r\n") * 31 + b"550 5.7.1 " + b"x" * 980,
    ),
]


@pytest.mark.parametrize(("args", "status", "text"), SENT)
def test_sent(live: Live, args: tuple[Any, ...], status: int, text: bytes) -> None:
    """REJECT sends a text that begins with 5, TEMPFAIL one that begins with 4, to the byte."""
    outcome = live.during("envrcpt", lambda ctx: ctx.setreply(*args), status)
    assert (None, None, [], _reply(text)) == (
        outcome.error,
        outcome.value,
        outcome.packets,
        outcome.verdict,
    )


BAD_CODES = ["250", "354", "55", "5500", "5x0", "600", "999", "", "55 "]
BAD_XCODES = ["", "abc", "3.7.1", "5.7", "5.7.1.2", "5.1000.1", "5..1", "5.7.1 ", " 5.7.1", "5.7."]
BAD_XCODES += ["05.7.1", "5.7.1x", "-5.7.1"]
BAD = [
    *((code, "5.7.1", "x") for code in BAD_CODES),
    *(("550", xcode, "x") for xcode in BAD_XCODES),
    ("550", "5.7.1", "a\rb"),
    ("550", "5.7.1", "a\nb"),
    ("550", "5.7.1", "a\r\n"),
    ("550", "5.7.1", "fine", "a\nb"),
    ("550", "5.7.1", "x" * 981),
    ("550", "5.7.1", "fine", "x" * 981),
]


@pytest.mark.parametrize("args", BAD)
def test_refused(live: Live, args: tuple[Any, ...]) -> None:
    """What is no SMTP reply is a milter.error; the reply set before stays in place."""
    outcome = live.during(
        "envrcpt", lambda ctx: [ctx.setreply("551", "5.1.1", "old"), _try(ctx, *args)], 1
    )
    assert [None, REFUSED] == outcome.value
    assert _reply(b"551 5.1.1 old") == outcome.verdict


def test_refused_without_an_earlier_one(live: Live) -> None:
    """Without an earlier reply the plain verdict is sent."""
    outcome = live.during("envrcpt", lambda ctx: _try(ctx, "250", "2.0.0", "ok"), 1)
    assert (REFUSED, REJECT) == (outcome.value, outcome.verdict)


def test_too_many_lines(live: Live) -> None:
    """More than 32 lines are a TypeError that counts the arguments."""
    outcome = live.during("envrcpt", lambda ctx: ctx.setreply("550", "5.7.1", *["l"] * 33), 1)
    assert TypeError is type(outcome.error)
    assert "setreply() takes at most 34 arguments (35 given)" == str(outcome.error)
    assert REJECT == outcome.verdict


@pytest.mark.parametrize(
    ("args", "status", "reply"),
    [
        (("450", "4.7.1", "x"), 1, REJECT),
        (("421", "4.7.1", "x"), 1, REJECT),
        (("550", "5.7.1", "x"), 4, TEMPFAIL),
        (("550", "5.7.1", "x"), 0, CONTINUE),
        (("550", "5.7.1", "x"), 3, ACCEPT),
        (("550", "5.7.1", "x"), 2, DISCARD),
        (("450", "4.7.1", "x"), 0, CONTINUE),
    ],
)
def test_text_that_does_not_fit(
    live: Live, args: tuple[str, ...], status: int, reply: bytes
) -> None:
    """A text whose class does not fit the verdict is not sent, the plain verdict is."""
    assert reply == live.during("envrcpt", lambda ctx: ctx.setreply(*args), status).verdict


@pytest.mark.parametrize(
    ("event", "status", "command", "reply"),
    [
        ("connect", 0, C, CONTINUE),
        ("helo", 0, H, CONTINUE),
        ("envfrom", 0, M, CONTINUE),
        ("connect", 3, C, ACCEPT),
    ],
)
def test_text_stays_pending(
    live: Live, event: str, status: int, command: bytes, reply: bytes
) -> None:
    """After CONTINUE or ACCEPT the text waits for the next verdict of its class on the connection,
    and is gone when it was used."""

    def handler(ctx: Any, *args: Any) -> int:
        ctx.setreply("550", "5.7.1", "later")
        return status

    live.on(**{event: handler, "envrcpt": milter.REJECT})
    mta = live.mta()
    for packet_ in (C, H, M):
        mta.ask(packet_, reply if packet_ == command else CONTINUE)
    mta.ask(R, _reply(b"550 5.7.1 later"))
    mta.ask(R, REJECT)


def test_text_survives_a_message(live: Live) -> None:
    """A pending text can come out in a later message."""

    def eom(ctx: Any) -> int:
        ctx.setreply("450", "4.7.1", "slow down")
        return milter.CONTINUE

    live.on(eom=eom)
    mta = live.mta()
    mta.play(C, H, *MESSAGE)
    live.on(envfrom=milter.TEMPFAIL)
    mta.ask(M, _reply(b"450 4.7.1 slow down"))


@pytest.mark.parametrize(
    ("args", "first", "plain", "second", "text"),
    [
        (("550", "5.7.1", "x"), 4, TEMPFAIL, 1, b"550 5.7.1 x"),
        (("450", "4.7.1", "x"), 1, REJECT, 4, b"450 4.7.1 x"),
    ],
)
def test_other_class_leaves_it(
    live: Live, args: tuple[str, ...], first: int, plain: bytes, second: int, text: bytes
) -> None:
    """A verdict of the other class does not use the text up: it waits for one of its own class."""
    live.on(connect=lambda ctx, *a: ctx.setreply(*args), envrcpt=first)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(R, plain)
    live.on(envrcpt=second)
    mta.ask(R, _reply(text))


def test_last_one_counts(live: Live) -> None:
    """A second call replaces the first."""

    def act(ctx: Any) -> None:
        ctx.setreply("550", "5.7.1", "one")
        ctx.setreply("550", "5.7.2", "two", "three")

    outcome = live.during("eom", act, 1)
    assert _reply(b"550-5.7.2 two\r\n550 5.7.2 three") == outcome.verdict


def test_set_in_abort(live: Live) -> None:
    """A text set in abort is used by the next verdict of its class."""
    live.on(abort=lambda ctx: ctx.setreply("550", "5.7.1", "from abort"))
    mta = live.mta()
    mta.play(C, H, M)
    mta.send(A)
    live.on(envfrom=milter.REJECT)
    mta.ask(M, _reply(b"550 5.7.1 from abort"))


def test_connections_do_not_share(live: Live) -> None:
    """Each connection has its own text."""
    live.on(helo=lambda ctx, name: ctx.setreply("550", "5.7.1", name), envrcpt=milter.REJECT)
    one, two = live.mta(), live.mta()
    one.play(C, packet("H", b"one\0"), M)
    two.play(C, packet("H", b"two\0"), M)
    one.ask(R, _reply(b"550 5.7.1 one"))
    two.ask(R, _reply(b"550 5.7.1 two"))


def test_at_every_step(live: Live) -> None:
    """The text goes out at every step that has a reply."""
    live.on_all()
    mta = live.mta()
    for event, command in (("connect", C), ("helo", H)):
        live.on(**{event: _rejecting(event)})
        mta.ask(command, _reply(b"550 5.7.1 " + event.encode()))
    before: dict[str, tuple[bytes, ...]] = {
        "envfrom": (),
        "envrcpt": (M,),
        "data": (M, R),
        "eoh": (M, R, T),
        "body": (M, R, T, N),
        "eom": (M, R, T, N, B),
    }
    commands = {"envfrom": M, "envrcpt": R, "data": T, "eoh": N, "body": B, "eom": E}
    for event, first in before.items():
        mta.play(*first)
        live.on(**{event: _rejecting(event)})
        mta.ask(commands[event], _reply(b"550 5.7.1 " + event.encode()))
        live.on(**{event: None})


def _rejecting(text: str) -> Any:
    def callback(ctx: Any, *args: Any) -> int:
        ctx.setreply("550", "5.7.1", text)
        return milter.REJECT

    return callback
