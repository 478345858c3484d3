"""What callbacks are called with over the wire (API spec 1.5, 1.6), what their results do (1.7)."""

from __future__ import annotations

import enum
import socket
from typing import Any

import pytest
from compat_live import MESSAGE, POLICY_TEMPFAIL, REPLYING, Live

import milter
from harness import packet
from harness.packets import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    REJECT,
    SKIP,
    TEMPFAIL,
    A,
    B,
    C,
    E,
    H,
    L,
    M,
    N,
    R,
    T,
    U,
)

# -- arguments ---------------------------------------------------------------------------------


def test_a_message(live: Live) -> None:
    """Each event's arguments, with their types, for a whole message."""
    live.on_all(negotiate=10)
    mta = live.mta()
    for command in (C, H, M, R, T, L, N, B, E, U):
        mta.ask(command)
    mta.ask(M)
    mta.send(A)
    live.finish()
    assert [
        ("negotiate", (0x1FF, 0x1FFFFF, 0, 0)),
        ("connect", "h", socket.AF_INET, ("192.0.2.1", 1234)),
        ("helo", "h"),
        ("envfrom", b"<a@b>"),
        ("envrcpt", b"<c@d>"),
        ("data",),
        ("header", "Subject", b"hi"),
        ("eoh",),
        ("body", b"xy\r\n"),
        ("eom",),
        ("unknown", "FOO"),
        ("envfrom", b"<a@b>"),
        ("abort",),
        ("close",),
    ] == live.calls


def test_types(live: Live) -> None:
    """Text is `str`, the envelope, header values and the body are `bytes`, numbers are `int`."""
    live.on_all()
    live.on(negotiate=lambda ctx, opts: types.append(type(opts)) or 10)
    types: list[type] = []
    mta = live.mta()
    mta.play(C, H, M, R, T, L, N, B, E, U)
    assert [list] == types
    assert {
        "connect": [str, int, tuple],
        "helo": [str],
        "envfrom": [bytes],
        "envrcpt": [bytes],
        "data": [],
        "header": [str, bytes],
        "eoh": [],
        "body": [bytes],
        "eom": [],
        "unknown": [str],
    } == {call[0]: [_plain(a) for a in call[1:]] for call in live.calls if call[0] != "negotiate"}


def _plain(value: Any) -> type:
    """The type; socket.AF_INET and its like are ints."""
    return int if isinstance(value, int) else type(value)


def test_the_context_is_the_connections_own(live: Live) -> None:
    """`ctx` is one object for all callbacks of a connection, another for another connection."""
    live.on_all()
    one, two = live.mta(), live.mta()
    for command in MESSAGE.values():
        one.ask(command)
        two.ask(command)
    live.finish()
    assert 20 == len(live.contexts)
    assert 2 == len({id(ctx) for ctx in live.contexts})
    names: dict[int, list[str]] = {}
    for ctx, call in zip(live.contexts, live.calls):
        names.setdefault(id(ctx), []).append(call[0])
    assert [[*MESSAGE, "close"]] * 2 == list(names.values())


@pytest.mark.parametrize(
    ("data", "args"),
    [
        (b"<a@b>\0", (b"<a@b>",)),
        (b"<a@b>\0SIZE=9\0BODY=8BITMIME\0", (b"<a@b>", b"SIZE=9", b"BODY=8BITMIME")),
        (b"<>\0", (b"<>",)),
        (b"\0", (b"",)),
        (b"bare@x\0", (b"bare@x",)),
        (b"<\xe9\xff@b>\0X=\xfe\0", (b"<\xe9\xff@b>", b"X=\xfe")),
        (b"<a>\0\0B\0", (b"<a>", b"", b"B")),
    ],
)
def test_envelope(live: Live, data: bytes, args: tuple[bytes, ...]) -> None:
    """Sender and recipient come exactly as sent, brackets and bytes, with their parameters."""
    live.on(envfrom=None, envrcpt=None)
    mta = live.mta()
    mta.play(C, H, packet("M", data), packet("R", data))
    assert [("envfrom", *args), ("envrcpt", *args)] == live.calls


@pytest.mark.parametrize(
    ("data", "args"),
    [
        (b"Subject\0hi\0", ("Subject", b"hi")),
        (b"X\0 leading\0", ("X", b" leading")),
        (b"X\0a\n\tb\0", ("X", b"a\n\tb")),
        (b"X\0\0", ("X", b"")),
        (b"X\0\xe9\0", ("X", b"\xe9")),
        (b"\xc3\xa9\0x\0", ("\u00e9", b"x")),
    ],
)
def test_header(live: Live, data: bytes, args: tuple[str, bytes]) -> None:
    """The value is raw: leading blank, folding and bytes as the MTA sent them."""
    live.on(header=None)
    mta = live.mta()
    mta.play(C, H, M, R, T, packet("L", data))
    assert [("header", *args)] == live.calls


def test_body(live: Live) -> None:
    """Any byte can be in a chunk; what the end-of-message packet carries comes as a last chunk."""
    every = bytes(range(256)) * 3
    live.on(body=None, eom=None)
    mta = live.mta()
    mta.play(C, H, M, R, T, N, packet("B", every), packet("B", b"\0"), packet("E", b"tail\0"))
    assert [("body", every), ("body", b"\0"), ("body", b"tail\0"), ("eom",)] == live.calls


@pytest.mark.parametrize(
    ("data", "text"), [(b"h.example\0", "h.example"), (b"\0", ""), (b"\xc3\xa9\0", "\u00e9")]
)
def test_helo_and_unknown(live: Live, data: bytes, text: str) -> None:
    """The HELO argument and an unknown command are text, the empty one too."""
    live.on(helo=None, unknown=None)
    mta = live.mta()
    mta.play(C, packet("H", data), packet("U", data))
    assert [("helo", text), ("unknown", text)] == live.calls


@pytest.mark.ours
def test_text_that_is_not_utf8(live: Live) -> None:
    """Host name, path, HELO, header name and unknown command that are not UTF-8 are decoded with
    surrogateescape (under pymilter the exception policy answers)."""
    live.on_all()
    mta = live.mta()
    mta.play(
        packet("C", b"h\xff\0L\0\0/s\xfe\0"),
        packet("H", b"\xe9\0"),
        packet("U", b"X\x80\0"),
        M,
        R,
        T,
        packet("L", b"N\xe9\0v\xe9\0"),
    )
    assert [("h\udcff", socket.AF_UNIX, "/s\udcfe")] == live.args("connect")
    assert [("\udce9",)] == live.args("helo")
    assert [("X\udc80",)] == live.args("unknown")
    assert [("N\udce9", b"v\xe9")] == live.args("header")


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "family", "address"),
    [
        (b"4\x12\x67" + b"192.0.2.7\0", socket.AF_INET, ("192.0.2.7", 4711)),
        (b"4\0\0" + b"0.0.0.0\0", socket.AF_INET, ("0.0.0.0", 0)),
        (b"4\xff\xff" + b"255.255.255.255\0", socket.AF_INET, ("255.255.255.255", 65535)),
        (b"6\0\x19" + b"2001:db8::1\0", socket.AF_INET6, ("2001:db8::1", 25, 0, 0)),
        (b"6\0\x19" + b"IPv6:2001:db8::1\0", socket.AF_INET6, ("2001:db8::1", 25, 0, 0)),
        (b"6\0\x19" + b"ipv6:::1\0", socket.AF_INET6, ("::1", 25, 0, 0)),
        (b"6\0\0" + b"2001:0DB8:0:0:0:0:0:00AB\0", socket.AF_INET6, ("2001:db8::ab", 0, 0, 0)),
        (b"6\0\0" + b"::ffff:192.0.2.1\0", socket.AF_INET6, ("::ffff:192.0.2.1", 0, 0, 0)),
        (b"6\0\0" + b"::FFFF:C000:201\0", socket.AF_INET6, ("::ffff:192.0.2.1", 0, 0, 0)),
        (b"6\0\0" + b"::\0", socket.AF_INET6, ("::", 0, 0, 0)),
        (b"L\0\0" + b"/run/x\0", socket.AF_UNIX, "/run/x"),
        (b"L\0\0" + b"\0", socket.AF_UNIX, ""),
        (b"U", 0, None),
        (b"U\0\0" + b"x\0", 0, None),
    ],
)
def test_address(live: Live, data: bytes, family: int, address: Any) -> None:
    """Family and address as the socket module has them; a path is text, unknown is 0 and None."""
    live.on(connect=None)
    live.mta().ask(packet("C", b"h\0" + data))
    assert [("connect", "h", family, address)] == live.calls
    assert type(address) is type(live.calls[0][3])


@pytest.mark.parametrize(
    "data", [b"4\0\0not an address\0", b"4\0\0::1\0", b"6\0\0192.0.2.x\0", b"X\0\0x\0", b""]
)
def test_bad_address(live: Live, data: bytes) -> None:
    """An address that cannot be parsed, or an unknown family, ends the connection: no `connect`,
    but `close`, since a context is there."""
    live.on(connect=None, close=None, negotiate=10)
    mta = live.mta()
    mta.send(packet("C", b"h\0" + data))
    mta.expect_close()
    assert ["negotiate", "close"] == live.finish()


# -- which callbacks are there ------------------------------------------------------------------


def test_without_callbacks(live: Live) -> None:
    """An event whose callback is not installed is answered by CONTINUE."""
    mta = live.mta()
    mta.play(*MESSAGE.values(), U)


def test_no_bits_for_missing_callbacks(live: Live) -> None:
    """Module milter never says "not interested" on its own: without a negotiate callback the
    actions are all that was offered, and of the protocol bits SKIP alone is taken."""
    assert (6, 0x1FF, 0x400) == live.mta().options
    assert (6, 0x3F, 0) == live.mta(0x3F, 0x7F).options


@pytest.mark.parametrize("flags", [0, 1, 0x1FF, 0x40])
def test_set_flags_is_inert(live: Live, flags: int) -> None:
    """`set_flags` changes nothing: all offered actions are taken and may be used."""
    milter.set_flags(flags)
    try:
        live.on(negotiate=lambda ctx, opts: opts.__setitem__(1, 0))
        outcome = live.during("eom", lambda ctx: (ctx.chgheader("A", 1, "b"), ctx.quarantine("q")))
        assert outcome.error is None
        assert [packet("m", b"\0\0\0\1A\0b\0"), packet("q", b"q\0")] == outcome.packets
        live.on(negotiate=lambda ctx, opts: milter.ALL_OPTS)
        assert (6, 0x1FF, 0x400) == live.mta().options
    finally:
        milter.set_flags(milter.CURR_ACTS)


def test_callbacks_can_be_replaced_while_serving(live: Live) -> None:
    """A callback that is set, replaced or removed takes effect at once, also in a connection that
    is open already."""
    mta = live.mta()
    mta.ask(C)
    live.on(helo=milter.REJECT, unknown=milter.TEMPFAIL)
    mta.ask(H, REJECT)
    mta.ask(U, TEMPFAIL)
    live.on(helo=milter.ACCEPT, unknown=milter.REJECT)
    mta.ask(H, ACCEPT)
    mta.ask(U, REJECT)
    milter.set_helo_callback(None)
    milter.register("compat", unknown=None)
    mta.ask(H)
    mta.ask(U)
    assert ["helo", "unknown"] * 2 == live.names


# -- results -----------------------------------------------------------------------------------


class _Verdict(enum.IntEnum):
    TEMPFAIL = 4


class _Int(int):
    pass


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (0, CONTINUE),
        (1, REJECT),
        (2, DISCARD),
        (3, ACCEPT),
        (4, TEMPFAIL),
        (True, REJECT),
        (False, CONTINUE),
        (_Verdict.TEMPFAIL, TEMPFAIL),
        (_Int(3), ACCEPT),
        (2**32, CONTINUE),
        (2**32 + 1, REJECT),
        (-(2**32) + 4, TEMPFAIL),
    ],
)
@pytest.mark.parametrize("event", REPLYING)
def test_status(live: Live, event: str, result: int, reply: bytes) -> None:
    """Any int is a status, of whatever subclass, taken modulo 2**32, at every step."""
    live.on(**{event: result})
    live.play(event).ask(REPLYING[event], reply)


def test_skip(live: Live) -> None:
    """SKIP from `body` is the skip reply."""
    live.on(body=milter.SKIP)
    live.play("body").ask(B, SKIP)


@pytest.mark.parametrize("event", [*REPLYING, "abort", "close"])
@pytest.mark.parametrize("result", [Live.NONE, "x", 1.0])
def test_not_an_int(
    live: Live, capsys: pytest.CaptureFixture[str], event: str, result: Any
) -> None:
    """Anything but an int counts as an exception, which is printed and names the event; where
    there is a reply, it is the policy's."""
    live.on(**{"connect": None, event: lambda *args: result})
    if event in REPLYING:
        live.play(event).ask(REPLYING[event], POLICY_TEMPFAIL)
    else:
        live.play("eom").send(A)
    live.finish()
    assert f"milter.error: The {event} callback must return int\n" in capsys.readouterr().err


def test_not_an_int_from_negotiate(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """The same from `negotiate`, where the connection is closed."""
    live.on(negotiate=lambda *args: Live.NONE)
    mta = live.connect()
    mta.send(bytes.fromhex("0000000D 4F 00000006 000001FF 001FFFFF"))
    mta.expect_close()
    live.finish()
    assert "milter.error: The negotiate callback must return int\n" in capsys.readouterr().err


@pytest.mark.ours
@pytest.mark.parametrize("event", REPLYING)
@pytest.mark.parametrize("result", [5, 6, 9, 10, 20, 21, 22, 99, -1, -5, 2**31, 2**32 + 5])
def test_unknown_status(live: Live, event: str, result: int) -> None:
    """An int that is no status is answered by the exception policy (pymilter: by nothing)."""
    live.on(**{event: result})
    live.play(event).ask(REPLYING[event], POLICY_TEMPFAIL)


@pytest.mark.ours
@pytest.mark.parametrize("event", REPLYING)
def test_noreply_without_the_bit(live: Live, event: str) -> None:
    """NOREPLY where the bit was not negotiated is CONTINUE: the MTA must get a reply."""
    live.on(**{event: milter.NOREPLY})
    live.play(event).ask(REPLYING[event], CONTINUE)


@pytest.mark.ours
@pytest.mark.parametrize("event", [event for event in REPLYING if event != "body"])
def test_skip_elsewhere(live: Live, event: str) -> None:
    """SKIP outside `body` is CONTINUE (the choice made where wire spec 4.1 leaves one)."""
    live.on(**{event: milter.SKIP})
    live.play(event).ask(REPLYING[event], CONTINUE)


@pytest.mark.ours
def test_skip_not_negotiated(live: Live) -> None:
    """SKIP that the MTA did not offer is CONTINUE."""
    live.on(body=milter.SKIP)
    live.play("body", protocol=0x1FFBFF).ask(B, CONTINUE)


@pytest.mark.parametrize("result", [0, 1, 3, 4, 7])
def test_results_of_abort_and_close(live: Live, result: int) -> None:
    """What abort and close return makes no difference: nothing is sent."""
    live.on(abort=result, close=result)
    mta = live.play("envrcpt")
    mta.send(A)
    mta.ask(H)
    mta.half_close()
    assert b"" == mta.read_all()
    assert ["abort", "close"] == live.names
