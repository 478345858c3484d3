"""The context object: each method's arguments, results, failures, and where it is allowed (API
spec 1.10)."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Callable

import pytest
from compat_live import MESSAGE, REPLYING, Live

import milter
from harness import macros, packet
from harness.packets import ACCEPT, PROGRESS, C, E, H, M, N, R, T

METHODS = [
    "addheader",
    "addrcpt",
    "chgfrom",
    "chgheader",
    "delrcpt",
    "getpriv",
    "getsymval",
    "progress",
    "quarantine",
    "replacebody",
    "setpriv",
    "setreply",
    "setsymlist",
]
#: A good call of each method that modifies the message -> the packet, the action bit.
MODIFICATIONS: dict[str, tuple[tuple[Any, ...], bytes, int]] = {
    "addheader": (("X", "v"), packet("h", b"X\0v\0"), 0x1),
    "chgheader": (("X", 1, "v"), packet("m", b"\0\0\0\1X\0v\0"), 0x10),
    "addrcpt": (("<r@e>",), packet("+", b"<r@e>\0"), 0x4),
    "delrcpt": (("<r@e>",), packet("-", b"<r@e>\0"), 0x8),
    "replacebody": ((b"hi\r\n",), packet("b", b"hi\r\n"), 0x2),
    "chgfrom": (("<n@e>",), packet("e", b"<n@e>\0"), 0x40),
    "quarantine": (("why",), packet("q", b"why\0"), 0x20),
}
TEXTS = {
    "addheader": "cannot add header",
    "chgheader": "cannot change header",
    "addrcpt": "cannot add recipient",
    "delrcpt": "cannot delete recipient",
    "replacebody": "cannot replace message body",
    "chgfrom": "cannot change sender",
    "quarantine": "cannot quarantine message",
    "progress": "cannot notify progress",
    "setreply": "cannot set reply",
    "setsymlist": "cannot set macro list",
}
EVENTS = [*REPLYING, "abort", "close", "negotiate"]


def _call(method: str, *args: Any, **keywords: Any) -> Callable[[Any], Any]:
    return lambda ctx: getattr(ctx, method)(*args, **keywords)


def _context(live: Live) -> Any:
    """The context of a connection that is open."""
    live.on(connect=None)
    live.mta().ask(C)
    return live.contexts[-1]


# -- the type ------------------------------------------------------------------------------------


def test_type(live: Live) -> None:
    """The type calls itself milter.Context and cannot be instantiated or subclassed."""
    kind = type(_context(live))
    assert ("milter", "Context") == (kind.__module__, kind.__name__)
    with pytest.raises(TypeError) as caught:
        kind()
    assert "cannot create 'milter.Context' instances" == str(caught.value)
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})


def test_instance(live: Live) -> None:
    """It prints as milter.Context, is hashable, takes neither attributes nor weak references."""
    ctx = _context(live)
    assert repr(ctx).startswith("<milter.Context object at 0x")
    assert {ctx: 1}[ctx] == 1
    assert ctx == ctx
    with pytest.raises(AttributeError):
        ctx.mine = 1
    with pytest.raises(AttributeError):
        ctx.addheader = None
    with pytest.raises(TypeError):
        weakref.ref(ctx)


def test_methods(live: Live) -> None:
    """Exactly these public attributes."""
    assert METHODS == [name for name in dir(_context(live)) if not name.startswith("_")]


# -- what goes to the MTA ------------------------------------------------------------------------

WIRE = [
    ("addheader", ("X", "v"), [packet("h", b"X\0v\0")]),
    ("addheader", ("X", "v", -1), [packet("h", b"X\0v\0")]),
    ("addheader", ("X", "v", -7), [packet("h", b"X\0v\0")]),
    ("addheader", ("X", "v", 0), [packet("i", b"\0\0\0\0X\0v\0")]),
    ("addheader", ("X", "v", 5), [packet("i", b"\0\0\0\5X\0v\0")]),
    ("addheader", ("X", ""), [packet("h", b"X\0\0")]),
    ("addheader", ("X", "a\r\n b"), [packet("h", b"X\0a\r\n b\0")]),
    ("addheader", ("X", " a"), [packet("h", b"X\0 a\0")]),
    ("addheader", ("\u00e9", "\u20ac"), [packet("h", b"\xc3\xa9\0\xe2\x82\xac\0")]),
    ("chgheader", ("X", 1, "v"), [packet("m", b"\0\0\0\1X\0v\0")]),
    ("chgheader", ("X", 0, "v"), [packet("m", b"\0\0\0\0X\0v\0")]),
    ("chgheader", ("X", 2, ""), [packet("m", b"\0\0\0\2X\0\0")]),
    ("chgheader", ("X", 2, None), [packet("m", b"\0\0\0\2X\0\0")]),
    ("addrcpt", ("<r@e>",), [packet("+", b"<r@e>\0")]),
    ("addrcpt", ("<r@e>", None), [packet("+", b"<r@e>\0")]),
    ("addrcpt", ("<r@e>", "NOTIFY=NEVER"), [packet("2", b"<r@e>\0NOTIFY=NEVER\0")]),
    ("addrcpt", ("<r@e>", ""), [packet("2", b"<r@e>\0\0")]),
    ("delrcpt", ("<r@e>",), [packet("-", b"<r@e>\0")]),
    ("chgfrom", ("<n@e>",), [packet("e", b"<n@e>\0")]),
    ("chgfrom", ("<>", None), [packet("e", b"<>\0")]),
    ("chgfrom", ("<n@e>", "SIZE=1"), [packet("e", b"<n@e>\0SIZE=1\0")]),
    ("chgfrom", ("<n@e>", ""), [packet("e", b"<n@e>\0\0")]),
    ("quarantine", ("why",), [packet("q", b"why\0")]),
    ("progress", (), [packet("p")]),
    ("replacebody", (b"hi\r\n",), [packet("b", b"hi\r\n")]),
    ("replacebody", ("h\u00e9",), [packet("b", b"h\xc3\xa9")]),
    ("replacebody", (b"a\0b",), [packet("b", b"a\0b")]),
    ("replacebody", ("a\0b",), [packet("b", b"a\0b")]),
    ("replacebody", (b"",), [packet("b")]),
    ("replacebody", ("",), [packet("b")]),
    ("replacebody", (b"x" * 65535,), [packet("b", b"x" * 65535)]),
    ("replacebody", (b"x" * 65536,), [packet("b", b"x" * 65535), packet("b", b"x")]),
    ("replacebody", (b"x" * 131070,), [packet("b", b"x" * 65535)] * 2),
    ("replacebody", (b"x" * 131071,), [packet("b", b"x" * 65535)] * 2 + [packet("b", b"x")]),
]


@pytest.mark.parametrize(("method", "args", "packets"), WIRE)
def test_wire(live: Live, method: str, args: tuple[Any, ...], packets: list[bytes]) -> None:
    """In eom each call returns None and sends its packet before the verdict."""
    outcome = live.during("eom", _call(method, *args), milter.ACCEPT)
    assert (None, None, packets, ACCEPT) == (
        outcome.error,
        outcome.value,
        outcome.packets,
        outcome.verdict,
    )


def test_order(live: Live) -> None:
    """Operations reach the MTA in the order of the calls."""

    def act(ctx: Any) -> None:
        for method, (args, _, _) in MODIFICATIONS.items():
            getattr(ctx, method)(*args)
        ctx.progress()
        for method, (args, _, _) in reversed(MODIFICATIONS.items()):
            getattr(ctx, method)(*args)

    packets = [sent for _, sent, _ in MODIFICATIONS.values()]
    assert [*packets, PROGRESS, *packets[::-1]] == live.during("eom", act).packets


BYTES = [
    ("addheader", (b"X", b"v\xe9"), packet("h", b"X\0v\xe9\0")),
    ("addheader", ("X", "v\udce9"), packet("h", b"X\0v\xe9\0")),
    ("addheader", ("X\udce9", "v"), packet("h", b"X\xe9\0v\0")),
    ("chgheader", (b"X", 1, b"\xff"), packet("m", b"\0\0\0\1X\0\xff\0")),
    ("chgheader", ("X", 1, "\udcff"), packet("m", b"\0\0\0\1X\0\xff\0")),
    ("chgheader", (b"X", 1, None), packet("m", b"\0\0\0\1X\0\0")),
    ("addrcpt", (b"<\xe9>",), packet("+", b"<\xe9>\0")),
    ("addrcpt", ("<\udce9>", b"A=\xe9"), packet("2", b"<\xe9>\0A=\xe9\0")),
    ("delrcpt", (b"<\xe9>",), packet("-", b"<\xe9>\0")),
    ("delrcpt", ("<\udce9>",), packet("-", b"<\xe9>\0")),
    ("chgfrom", (b"<\xe9>", "A=\udce9"), packet("e", b"<\xe9>\0A=\xe9\0")),
    ("quarantine", (b"\xe9",), packet("q", b"\xe9\0")),
    ("quarantine", ("\udce9",), packet("q", b"\xe9\0")),
    ("replacebody", ("\udce9",), packet("b", b"\xe9")),
    ("replacebody", (bytearray(b"a\0\xe9"),), packet("b", b"a\0\xe9")),
    ("replacebody", (memoryview(b"xa\0\xe9x")[1:4],), packet("b", b"a\0\xe9")),
]


@pytest.mark.ours
@pytest.mark.parametrize(("method", "args", "sent"), BYTES)
def test_bytes_and_surrogates(live: Live, method: str, args: tuple[Any, ...], sent: bytes) -> None:
    """Text may be bytes, or carry surrogates that stand for bytes, so that whatever a callback got
    can be written back; a body may be any buffer."""
    outcome = live.during("eom", _call(method, *args))
    assert (None, [sent]) == (outcome.error, outcome.packets)


@pytest.mark.ours
def test_bytes_elsewhere(live: Live) -> None:
    """The same holds for setreply and getsymval."""

    def act(ctx: Any) -> list[Any]:
        ctx.setreply(b"550", b"5.7.1", b"\xe9", "\udcea")
        return [ctx.getsymval(b"i"), ctx.getsymval("i")]

    live.on(connect=None)
    mta = live.mta()
    results: list[Any] = []
    live.on(helo=lambda ctx, name: results.extend(act(ctx)) or milter.REJECT)
    mta.send(packet("D", b"Ci\0queue\0"))
    mta.ask(C)
    mta.ask(H, packet("y", b"550-5.7.1 \xe9\r\n550 5.7.1 \xea\0"))
    assert ["queue", "queue"] == results


# -- refused arguments ---------------------------------------------------------------------------

FAILURES = [
    ("addheader", ("", "v")),
    ("addheader", ("", "v", 0)),
    ("chgheader", ("", 1, "v")),
    ("chgheader", ("X", -1, "v")),
    ("addrcpt", ("",)),
    ("addrcpt", ("", "A=1")),
    ("delrcpt", ("",)),
    ("chgfrom", ("",)),
    ("chgfrom", ("", "A=1")),
    ("quarantine", ("",)),
    ("addheader", ("X", "v" * 65535)),
]


@pytest.mark.parametrize(("method", "args"), FAILURES)
def test_failure(live: Live, method: str, args: tuple[Any, ...]) -> None:
    """What the protocol cannot carry is a milter.error with the method's text; nothing is sent."""
    outcome = live.during("eom", _call(method, *args))
    assert (("error", TEXTS[method]), []) == (outcome.failure, outcome.packets)
    assert isinstance(outcome.error, milter.error)


TYPES = [
    ("addheader", (None, "v")),
    ("addheader", ("X", None)),
    ("addheader", ("X", 1)),
    ("addheader", ("X", "v", "1")),
    ("addheader", ("X", "v", None)),
    ("addheader", ("X", "v", 1.0)),
    ("chgheader", ("X", "1", "v")),
    ("chgheader", ("X", None, "v")),
    ("chgheader", (1, 1, "v")),
    ("chgheader", ("X", 1, 1)),
    ("addrcpt", (None,)),
    ("addrcpt", ("<r>", 1)),
    ("delrcpt", (None,)),
    ("chgfrom", (None,)),
    ("chgfrom", ("<s>", 1)),
    ("quarantine", (None,)),
    ("replacebody", (None,)),
    ("replacebody", (1,)),
    ("replacebody", (["x"],)),
    ("getsymval", (None,)),
    ("getsymval", (1,)),
    ("setreply", (None, "5.7.1", "x")),
    ("setreply", (550, "5.7.1", "x")),
    ("setreply", ("550", 5, "x")),
    ("setreply", ("550", "5.7.1", None)),
    ("setreply", ("550", "5.7.1", "x", None)),
    ("setreply", ("550", "5.7.1", 1)),
    ("addheader", ("X",)),
    ("addheader", ()),
    ("addheader", ("X", "v", 1, 2)),
    ("chgheader", ("X", 1)),
    ("chgheader", ("X", 1, "v", 2)),
    ("addrcpt", ()),
    ("addrcpt", ("<r>", None, None)),
    ("delrcpt", ()),
    ("delrcpt", ("<r>", None)),
    ("chgfrom", ()),
    ("quarantine", ()),
    ("quarantine", ("a", "b")),
    ("replacebody", ()),
    ("replacebody", (b"a", 1)),
    ("progress", (1,)),
    ("getsymval", ()),
    ("getsymval", ("a", "b")),
    ("setreply", ()),
    ("setreply", ("550",)),
    ("setpriv", ()),
    ("setpriv", (1, 2)),
    ("getpriv", (1,)),
    ("setsymlist", (0,)),
    ("setsymlist", (0, "a", "b")),
    ("setsymlist", ("0", "a")),
    ("setsymlist", (0, None)),
    ("setsymlist", (0, ["a"])),
]


@pytest.mark.parametrize(("method", "args"), TYPES)
def test_types(live: Live, method: str, args: tuple[Any, ...]) -> None:
    """The wrong type or number of arguments is a TypeError; nothing is sent."""
    outcome = live.during("eom", _call(method, *args))
    assert (TypeError, []) == (type(outcome.error), outcome.packets)


@pytest.mark.parametrize(
    ("method", "args", "text"),
    [
        ("addheader", (None, "v"), "addheader() argument 1 must be str, not None"),
        ("addheader", ("X", 5), "addheader() argument 2 must be str, not int"),
        ("chgheader", ("X", 1, 5), "chgheader() argument 3 must be str or None, not int"),
        ("addrcpt", (5,), "addrcpt() argument 1 must be str, not int"),
        ("addrcpt", ("<r>", 5), "addrcpt() argument 2 must be str or None, not int"),
        ("delrcpt", (None,), "delrcpt() argument 1 must be str, not None"),
        ("chgfrom", ("<s>", 5), "chgfrom() argument 2 must be str or None, not int"),
        ("quarantine", (5,), "quarantine() argument 1 must be str, not int"),
        ("getsymval", (5,), "getsymval() argument 1 must be str, not int"),
        ("setreply", (5, None), "setreply() argument 1 must be str, not int"),
        ("setreply", ("550", 5), "setreply() argument 2 must be str or None, not int"),
    ],
)
def test_type_texts(live: Live, method: str, args: tuple[Any, ...], text: str) -> None:
    """The TypeError names method, position and type."""
    assert text == str(live.during("eom", _call(method, *args)).error)


@pytest.mark.parametrize("method", [*MODIFICATIONS, "setreply", "getsymval", "setpriv", "progress"])
def test_no_keywords(live: Live, method: str) -> None:
    """Every method takes its arguments by position only."""
    outcome = live.during("eom", _call(method, value="x"))
    assert isinstance(outcome.error, TypeError)
    assert str(outcome.error).endswith(f"{method}() takes no keyword arguments")


NULS = [
    ("addheader", ("X\0", "v")),
    ("addheader", ("X", "v\0w")),
    ("chgheader", ("X\0", 1, "v")),
    ("chgheader", ("X", 1, "v\0")),
    ("addrcpt", ("<r>\0",)),
    ("addrcpt", ("<r>", "A\0")),
    ("delrcpt", ("<r>\0",)),
    ("chgfrom", ("<r>\0",)),
    ("chgfrom", ("<r>", "\0")),
    ("quarantine", ("a\0b",)),
    ("setreply", ("550", "5.7.1", "a\0b")),
    ("setreply", ("550\0", "5.7.1", "a")),
    ("setreply", ("550", "5.7.1\0", "a")),
    ("getsymval", ("i\0",)),
]


@pytest.mark.parametrize(("method", "args"), NULS)
def test_embedded_nul(live: Live, method: str, args: tuple[Any, ...]) -> None:
    """A NUL in text is a ValueError, since the wire could not carry it."""
    outcome = live.during("eom", _call(method, *args))
    assert ValueError is type(outcome.error)
    assert "embedded null character" == str(outcome.error)
    assert [] == outcome.packets


@pytest.mark.ours
@pytest.mark.parametrize(
    ("method", "args"),
    [("addheader", (b"X", b"v\0w")), ("delrcpt", (b"\0",)), ("quarantine", (b"a\0",))],
)
def test_embedded_nul_in_bytes(live: Live, method: str, args: tuple[Any, ...]) -> None:
    """The same for bytes."""
    outcome = live.during("eom", _call(method, *args))
    assert (ValueError, []) == (type(outcome.error), outcome.packets)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**64])
def test_index_out_of_range(live: Live, value: int) -> None:
    """An index that is no C int is an OverflowError."""
    for call in (_call("addheader", "X", "v", value), _call("chgheader", "X", value, "v")):
        assert OverflowError is type(live.during("eom", call).error)


def test_surrogates_that_stand_for_no_byte(live: Live) -> None:
    """A surrogate that cannot have come from a byte is a UnicodeEncodeError."""
    outcome = live.during("eom", _call("addheader", "X", "\ud800"))
    assert (UnicodeEncodeError, []) == (type(outcome.error), outcome.packets)


# -- where allowed -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MODIFICATIONS)
@pytest.mark.parametrize("event", [event for event in EVENTS if event != "eom"])
def test_modifications_outside_eom(live: Live, event: str, method: str) -> None:
    """Outside eom a modification fails with its text, and nothing is sent."""
    result = milter.ALL_OPTS if event == "negotiate" else milter.CONTINUE
    outcome = live.during(event, _call(method, *MODIFICATIONS[method][0]), result)
    live.finish()
    assert ("error", TEXTS[method]) == outcome.failure
    assert [b""] * (event == "negotiate") == outcome.packets


@pytest.mark.parametrize("method", MODIFICATIONS)
def test_modification_with_its_bit_alone(live: Live, method: str) -> None:
    """The method's own action bit is enough."""
    args, sent, bit = MODIFICATIONS[method]
    outcome = live.during("eom", _call(method, *args), actions=bit)
    assert (None, [sent]) == (outcome.error, outcome.packets)


@pytest.mark.parametrize("method", MODIFICATIONS)
def test_modification_without_its_bit(live: Live, method: str) -> None:
    """Without it the call fails with the same text."""
    args, _, bit = MODIFICATIONS[method]
    outcome = live.during("eom", _call(method, *args), actions=0x1FF & ~bit)
    assert (("error", TEXTS[method]), []) == (outcome.failure, outcome.packets)


@pytest.mark.parametrize(
    ("args", "actions", "works"),
    [
        (("<r@e>", "A=1"), 0x80, True),
        (("<r@e>", ""), 0x80, True),
        (("<r@e>", "A=1"), 0x1FF & ~0x80, False),
        (("<r@e>", ""), 0x1FF & ~0x80, False),
        (("<r@e>", None), 0x1FF & ~0x80, True),
        (("<r@e>",), 0x80, False),
    ],
)
def test_recipient_parameters_have_a_bit(
    live: Live, args: tuple[Any, ...], actions: int, works: bool
) -> None:
    """`addrcpt` with parameters, even empty ones, needs ADDRCPT_PAR, and nothing else."""
    outcome = live.during("eom", _call("addrcpt", *args), actions=actions)
    assert (None if works else ("error", TEXTS["addrcpt"])) == outcome.failure
    assert works == (len(outcome.packets) == 1)


@pytest.mark.parametrize(
    "event",
    [e if e != "negotiate" else pytest.param(e, marks=pytest.mark.ours) for e in EVENTS],
)
def test_allowed_everywhere(live: Live, event: str) -> None:
    """progress, getsymval and setreply work in every callback (pymilter sends a progress packet
    even before the answer to the offer)."""

    def act(ctx: Any) -> list[Any]:
        return [ctx.progress(), ctx.getsymval("nosuch"), ctx.setreply("450", "4.7.1", "x")]

    outcome = live.during(event, act, milter.ALL_OPTS if event == "negotiate" else 0, actions=0xFF)
    live.finish()
    assert (None, [None, None, None]) == (outcome.error, outcome.value)


@pytest.mark.ours
@pytest.mark.parametrize("event", [event for event in EVENTS if event != "eom"])
def test_progress_outside_eom_sends_nothing(live: Live, event: str) -> None:
    """Outside eom `progress` succeeds without a packet, which Sendmail would not understand."""
    result = milter.ALL_OPTS if event == "negotiate" else milter.CONTINUE
    outcome = live.during(event, _call("progress"), result)
    live.finish()
    assert (None, None) == (outcome.error, outcome.value)
    assert [b""] * (event == "negotiate") == outcome.packets


@pytest.mark.ours
@pytest.mark.parametrize("event", [event for event in EVENTS if event != "negotiate"])
def test_setsymlist_outside_negotiate(live: Live, event: str) -> None:
    """`setsymlist` fails with its text everywhere but in negotiate (under pymilter it succeeds
    without an effect)."""
    outcome = live.during(event, _call("setsymlist", 0, "j"))
    live.finish()
    assert ("error", TEXTS["setsymlist"]) == outcome.failure


@pytest.mark.ours
def test_modifications_after_eom(live: Live) -> None:
    """After eom has returned nothing can be changed any more, not in the next message either."""
    kept: list[Any] = []
    live.on(eom=kept.append)
    mta = live.mta()
    mta.play(C, H, M, R, T, N, E)
    with pytest.raises(milter.error) as caught:
        kept[0].addheader("X", "v")
    assert TEXTS["addheader"] == str(caught.value).split(":")[0]
    mta.play(M, R)


# -- private data --------------------------------------------------------------------------------


def test_priv(live: Live) -> None:
    """`setpriv` returns the object before, `getpriv` the present one; None at first."""
    first, second = object(), object()

    def act(ctx: Any) -> list[Any]:
        return [
            ctx.getpriv(),
            ctx.setpriv(first),
            ctx.getpriv(),
            ctx.setpriv(second),
            ctx.setpriv(None),
            ctx.getpriv(),
        ]

    outcome = live.during("connect", act)
    assert [None, None, first, first, second, None] == outcome.value


def test_priv_lives_as_long_as_the_connection(live: Live) -> None:
    """What one callback sets, every later one of that connection gets, and no other."""
    seen: list[Any] = []
    live.on_all()
    live.on(connect=lambda ctx, *args: ctx.setpriv([args[0]]) and None)
    for event in ("helo", "envfrom", "eom", "abort", "close"):
        live.on(**{event: lambda ctx, *args: seen.append(ctx.getpriv()) or 0})
    one, two = live.mta(), live.mta()
    one.ask(packet("C", b"one\0U"))
    two.ask(packet("C", b"two\0U"))
    for mta in (one, two):
        mta.play(*list(MESSAGE.values())[1:])
        mta.play(M)
    live.finish()
    assert [["one"]] * 6 == [s for s in seen if s == ["one"]]
    assert [["two"]] * 6 == [s for s in seen if s == ["two"]]
    assert 12 == len(seen)


# -- after the connection ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "args"),
    [
        *((name, args) for name, (args, _, _) in MODIFICATIONS.items()),
        ("progress", ()),
        ("getsymval", ("j",)),
        ("setreply", ("550", "5.7.1", "x")),
        ("setsymlist", (0, "j")),
    ],
)
def test_bad_context(live: Live, method: str, args: tuple[Any, ...]) -> None:
    """A context kept after its connection ended is `bad context` for every method ..."""
    live.on(connect=None, close=None)
    live.mta().ask(C)
    live.finish()
    with pytest.raises(milter.error) as caught:
        getattr(live.contexts[0], method)(*args)
    assert "bad context" == str(caught.value)


def test_private_data_after_the_connection(live: Live) -> None:
    """... but getpriv and setpriv, which go on working."""
    live.on(connect=lambda ctx, *args: ctx.setpriv("mine"), close=None)
    live.mta().ask(C)
    live.finish()
    ctx = live.contexts[0]
    assert "mine" == ctx.getpriv()
    assert "mine" == ctx.setpriv("other")
    assert "other" == ctx.getpriv()


@pytest.mark.ours
def test_macros_from_another_thread(live: Live) -> None:
    """A callback may have another thread read macros for it; when no callback runs that fails, as
    the MTA may be sending others just then."""
    kept: list[Any] = []

    def envfrom(ctx: Any, *args: Any) -> None:
        kept.append(ctx)
        helper = threading.Thread(target=lambda: kept.append(ctx.getsymval("i")))
        helper.start()
        helper.join()

    live.on(envfrom=envfrom)
    mta = live.mta()
    mta.send(macros("M", ("i", "abc")))
    mta.ask(M)
    assert "abc" == kept[1]
    with pytest.raises(milter.error, match="bad context"):
        kept[0].getsymval("i")


@pytest.mark.ours
def test_another_thread(live: Live) -> None:
    """A modification from another thread, when no callback of the connection is running, fails."""
    ctx = _context(live)
    with pytest.raises(milter.error) as caught:
        ctx.addheader("X", "v")
    assert TEXTS["addheader"] == str(caught.value).split(":")[0]
