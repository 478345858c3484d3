"""Macros and macro lists (API spec 1.12)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from compat_live import MESSAGE, Live

import milter
from harness import macros, packet
from harness.packets import A, B, C, E, H, L, M, N, Q, R, T


def _look(live: Live, *names: str, event: str) -> list[Any]:
    """Install a callback for the event that looks the names up; the list fills at its calls."""
    seen: list[Any] = []
    live.on(**{event: lambda ctx, *args: seen.append(tuple(ctx.getsymval(n) for n in names)) or 0})
    return seen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("j", "host"),
        ("{j}", "host"),
        ("_", "me"),
        ("{_}", "me"),
        ("i", "id"),
        ("{i}", "id"),
        ("{daemon_name}", "dn"),
        ("daemon_name", None),
        ("bare", "b"),
        ("{bare}", None),
        ("{empty}", ""),
        ("J", None),
        ("{DAEMON_NAME}", None),
        ("nosuch", None),
        ("", None),
        ("{}", None),
        ("{utf8}", "\u20ac"),
    ],
)
def test_names(live: Live, name: str, value: Any) -> None:
    """Names are looked up literally, but for one character, which matches with and without braces
    both ways."""
    seen = _look(live, name, event="connect")
    mta = live.mta()
    mta.send(
        macros(
            "C",
            ("j", "host"),
            ("_", "me"),
            ("{i}", "id"),
            ("{daemon_name}", "dn"),
            ("bare", "b"),
            ("{empty}", ""),
            ("{utf8}", "\u20ac"),
        )
    )
    mta.ask(C)
    assert [(value,)] == seen
    assert value is None or str is type(seen[0][0])


def test_later_stages_override(live: Live) -> None:
    """The same name is looked up from the latest stage back to connect."""
    live.on_all()
    logs = {
        event: _look(live, "x", event=event)
        for event in (
            "connect",
            "helo",
            "envfrom",
            "envrcpt",
            "data",
            "header",
            "eoh",
            "body",
            "eom",
        )
    }
    mta = live.mta()
    for stage, command in zip("CHMRT", (C, H, M, R, T)):
        mta.send(macros(stage, ("x", "at " + stage)))
        mta.ask(command)
    mta.ask(L)
    mta.send(macros("N", ("x", "at N")))
    mta.play(N, B)
    mta.send(macros("E", ("x", "at E")))
    mta.ask(E)
    assert {
        "connect": [("at C",)],
        "helo": [("at H",)],
        "envfrom": [("at M",)],
        "envrcpt": [("at R",)],
        "data": [("at T",)],
        "header": [("at T",)],
        "eoh": [("at N",)],
        "body": [("at N",)],
        "eom": [("at E",)],
    } == logs


def test_a_new_set_replaces_the_stages_old_one(live: Live) -> None:
    """Macros sent again for a stage replace all that were sent before."""
    seen = _look(live, "a", "b", event="connect")
    mta = live.mta()
    mta.send(macros("C", ("a", "1")), macros("C", ("b", "2")))
    mta.ask(C)
    assert [(None, "2")] == seen


def test_connect_and_helo_persist(live: Live) -> None:
    """CONNECT's and HELO's macros are there in every message, in header, abort and close too."""
    logs = {
        event: _look(live, "j", "{tls}", event=event)
        for event in ("envfrom", "envrcpt", "header", "body", "eom", "abort", "close")
    }
    mta = live.mta()
    mta.send(macros("C", ("j", "mx")))
    mta.ask(C)
    mta.send(macros("H", ("{tls}", "1.3")))
    mta.ask(H)
    for _ in range(2):
        mta.play(M, R, T, L, N, B, E)
    mta.play(M)
    mta.send(A, Q)
    mta.expect_close()
    both = ("mx", "1.3")
    assert {
        "envfrom": [both] * 3,
        "envrcpt": [both] * 2,
        "header": [both] * 2,
        "body": [both] * 2,
        "eom": [both] * 2,
        "abort": [both],
        "close": [both],
    } == logs


def test_connect_macros_without_a_connect_callback(live: Live) -> None:
    """They are kept whether or not the step's own callback is there."""
    seen = _look(live, "j", event="envfrom")
    mta = live.mta()
    mta.send(macros("C", ("j", "mx")))
    mta.play(C, H, M)
    assert [("mx",)] == seen


def test_a_new_mail_discards_the_rest(live: Live) -> None:
    """A new MAIL discards the last message's RCPT, DATA, EOH and EOM macros, and keeps the MAIL
    macros if it brings none."""
    seen = _look(live, "m", "r", "t", "n", "e", event="envfrom")
    at_rcpt = _look(live, "m", "r", "t", "n", "e", event="envrcpt")
    mta = live.mta()
    mta.play(C, H)
    for stage, command in zip("MRTNE", (M, R, T, N, E)):
        mta.send(macros(stage, (stage.lower(), "1")))
        mta.ask(command)
    mta.play(M, R)
    mta.send(macros("M", ("new", "2")))
    mta.ask(M)
    nothing_after_mail = ("1", None, None, None, None)
    assert [nothing_after_mail, nothing_after_mail, (None,) * 5] == seen
    assert [("1", "1", None, None, None), nothing_after_mail] == at_rcpt


def test_a_new_helo_discards_what_follows_it(live: Live) -> None:
    """A new HELO discards everything after HELO."""
    seen = _look(live, "c", "h", "m", "r", event="helo")
    mta = live.mta()
    for stage, command in zip("CHMR", (C, H, M, R)):
        mta.send(macros(stage, (stage.lower(), "1")))
        mta.ask(command)
    mta.ask(H)
    assert [("1", "1", None, None), ("1", "1", None, None)] == seen


@pytest.mark.parametrize(("stage", "command"), [("L", L), ("B", B), ("U", packet("U", b"X\0"))])
def test_stages_without_a_set(live: Live, stage: str, command: bytes) -> None:
    """Macros attached to single headers, chunks or unknown commands are ignored."""
    event = {"L": "header", "B": "body", "U": "unknown"}[stage]
    seen = _look(live, "i", event=event)
    mta = live.mta()
    mta.play(C, H, M, R, T)
    if stage == "B":
        mta.ask(N)
    mta.send(macros(stage, ("i", "ignored")))
    mta.ask(command)
    assert [(None,)] == seen


def test_nothing_in_negotiate(live: Live) -> None:
    """In negotiate every lookup is None; what was sent before is gone."""
    seen: list[Any] = []
    live.on(negotiate=lambda ctx, opts: seen.append(ctx.getsymval("j")) or milter.ALL_OPTS)
    live.mta()
    assert [None] == seen


@pytest.mark.ours
def test_value_that_is_not_utf8(live: Live) -> None:
    """A value that is not UTF-8 is decoded with surrogateescape (pymilter: UnicodeDecodeError)."""
    seen = _look(live, "j", event="connect")
    mta = live.mta()
    mta.send(packet("D", b"Cj\0\xe9\0"))
    mta.ask(C)
    assert [("\udce9",)] == seen


# -- setsymlist --------------------------------------------------------------------------------


def _lists(data: bytes) -> list[tuple[int, bytes]]:
    """The (stage, list) pairs at the end of an option reply."""
    found = []
    while data:
        (stage,) = struct.unpack("!I", data[:4])
        names, _, data = data[4:].partition(b"\0")
        found.append((stage, names))
    return found


def _negotiating(result: int, *lists: tuple[int, Any]) -> Any:
    def negotiate(ctx: Any, opts: list[int]) -> int:
        for stage, names in lists:
            assert ctx.setsymlist(stage, names) is None
        opts[1] = 0
        return result

    return negotiate


@pytest.mark.parametrize("result", [milter.CONTINUE, milter.ALL_OPTS])
def test_setsymlist(live: Live, result: int) -> None:
    """The lists go out with the option reply, in the order of the stages, untouched: blanks,
    commas, any number of names, none."""
    lists = [(6, "i"), (0, "j _ {daemon_name}"), (3, ""), (5, "a,b, c"), (2, "a b c d e f g")]
    live.on(negotiate=_negotiating(result, *lists))
    mta = live.mta()
    assert [(stage, names.encode()) for stage, names in sorted(lists)] == _lists(mta.lists)
    assert 0x1FF == mta.options[1]


@pytest.mark.ours
def test_setsymlist_bytes(live: Live) -> None:
    """The list may be bytes, which is what `Base.setsymlist` hands over."""
    live.on(negotiate=_negotiating(milter.ALL_OPTS, (0, b"j _")))
    assert [(0, b"j _")] == _lists(live.mta().lists)


@pytest.mark.parametrize("stage", [-1, 7, 100, 2**31 - 1])
def test_setsymlist_stage(live: Live, stage: int) -> None:
    """A stage outside 0..6 is `cannot set macro list`."""
    outcome = live.during("negotiate", lambda ctx: ctx.setsymlist(stage, "j"), milter.ALL_OPTS)
    assert ("error", "cannot set macro list") == outcome.failure
    assert [b""] == outcome.packets


def test_setsymlist_twice(live: Live) -> None:
    """A second list for a stage in one connection fails, and the first stays."""

    def act(ctx: Any) -> None:
        ctx.setsymlist(0, "j")
        ctx.setsymlist(1, "x")
        ctx.setsymlist(0, "_")

    outcome = live.during("negotiate", act, milter.ALL_OPTS)
    assert ("error", "cannot set macro list") == outcome.failure
    assert [(0, b"j"), (1, b"x")] == _lists(outcome.packets[0])
    second = live.during("negotiate", lambda ctx: ctx.setsymlist(0, "i"), milter.ALL_OPTS)
    assert [(0, b"i")] == _lists(second.packets[0])


@pytest.mark.ours
def test_setsymlist_not_offered(live: Live) -> None:
    """Where the MTA did not offer SETSYMLIST the list is not sent, which an old MTA could not
    read; pymilter sends it."""
    live.on(negotiate=_negotiating(milter.ALL_OPTS))
    outcome = live.during(
        "negotiate", lambda ctx: _quietly(ctx.setsymlist, 0, "j"), milter.ALL_OPTS, actions=0xFF
    )
    assert [b""] == outcome.packets


def _quietly(function: Any, *args: Any) -> None:
    try:
        function(*args)
    except milter.error:
        pass


@pytest.mark.ours
def test_symlist_decorator(live: Live) -> None:
    """A filter's @symlist reaches the MTA, and the rest of its negotiation holds."""
    import Milter

    class Mine(Milter.Base):
        @Milter.symlist("{auth_authen}", "i")
        def envfrom(self, f: str, *params: str) -> int:
            return Milter.CONTINUE

        @Milter.symlist("{msg_id}")
        def eom(self) -> int:
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    assert (6, 0x1FF, 0x77B) == mta.options
    assert [(2, b"{auth_authen} i"), (5, b"{msg_id}")] == _lists(mta.lists)
    mta.ask(MESSAGE["envfrom"])
