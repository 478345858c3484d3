"""`Milter.testctx.TestCtx`, a context without a connection (API spec 3.13)."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from email.header import Header
from pathlib import Path
from typing import Any

import pytest
from compat_support import run_python
from testkit_support import BODY, HEADERS, MESSAGE, STEPS, Seen, kit, message

import Milter
import milter
from Milter.testctx import TestCtx

__all__ = ["kit"]  # a fixture


@pytest.fixture
def ctx(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestCtx]:
    """A context that is not connected yet; the factory is Seen."""
    monkeypatch.setattr(Milter, "factory", Seen)
    yield TestCtx()
    assert [Milter.CURR_ACTS, 0x1FFFFF, 0, 0] == TestCtx.default_opts


def use(monkeypatch: pytest.MonkeyPatch, **members: Any) -> type[Seen]:
    """Make the factory a class derived from Seen with these members."""
    klass = type("Mine", (Seen,), members)
    monkeypatch.setattr(Milter, "factory", klass)
    return klass


def connected(ctx: TestCtx) -> TestCtx:
    """Connect it and forget the calls."""
    assert Milter.CONTINUE == ctx._connect()
    ctx._priv.calls.clear()
    return ctx


def at_eom(ctx: TestCtx, todo: Any) -> TestCtx:
    """Feed the message, with something to do in eom."""
    if ctx._priv is None:
        connected(ctx)
    ctx._priv.todo = todo
    ctx._feedFile(message())
    return ctx


def refuse(*bits: int) -> Any:
    """Return a negotiate method that asks for these bits in addition."""

    def negotiate(self: Any, opts: list[int]) -> Any:
        verdict = Seen.negotiate(self, opts)
        for bit in bits:
            opts[1] |= bit
        return verdict

    return negotiate


# Attributes.


def test_attributes(ctx: TestCtx) -> None:
    """What suites look at has these names, and these values at first."""
    wanted = {
        "_priv": None,
        "_delrcpt": [],
        "_addrcpt": [],
        "_macros": {},
        "_reply": None,
        "_symlist": [None] * 7,
        "_body": None,
        "_bodyreplaced": False,
        "_headerschanged": False,
        "_msg": None,
        "_sender": None,
        "_envfromchanged": False,
        "_opts": [0x1FF, 0x1FFFFF, 0, 0],
    }
    assert wanted == {name: getattr(ctx, name) for name in wanted}
    assert isinstance(ctx._activity, float)


def test_logfile_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument is ignored: no file is made."""
    monkeypatch.chdir(tmp_path)
    TestCtx("x.log")
    TestCtx(logfile="missing/x.log")
    assert [] == list(tmp_path.iterdir())


def test_contexts_share_nothing(ctx: TestCtx) -> None:
    """A second context starts anew."""
    ctx._setsymval("j", "x")
    ctx._addrcpt.append(("<x>", None))
    other = TestCtx()
    assert ({}, [], [None] * 7) == (other._macros, other._addrcpt, other._symlist)


def test_import_leaves_noreply() -> None:
    """Importing Milter.testctx alone does not change Milter.NOREPLY."""
    done = run_python("import Milter.testctx; print(Milter.NOREPLY)")
    assert "7" == done.stdout.strip(), done.stderr


def test_priv(ctx: TestCtx) -> None:
    """setpriv keeps an object and returns None; getpriv gives it."""
    assert ctx.getpriv() is None
    assert ctx.setpriv("x") is None
    assert "x" == ctx.getpriv() == ctx._priv


# Negotiation.


def test_negotiate(ctx: TestCtx) -> None:
    """The factory's object is made, attached, and agrees with the offer."""
    assert Milter.CONTINUE == ctx._negotiate()
    wanted = 0x1FFFFF & ~Seen.protocol_mask()
    assert isinstance(ctx._priv, Seen)
    assert ctx is ctx._priv._ctx
    assert ([0x1FF, wanted, 0, 0], wanted) == (ctx._opts, ctx._protocol)
    assert (wanted, 0x1FF) == (ctx._priv._protocol, ctx._priv._actions)


def test_negotiate_calls_the_packages_callback(
    ctx: TestCtx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milter.negotiate_callback, connect_callback and close_callback are looked up and called."""
    calls = []

    def spy(name: str) -> Any:
        real = getattr(Milter, name)

        def callback(*args: Any) -> Any:
            calls.append((name, *args[1:]))
            return real(*args)

        return callback

    for name in ("negotiate_callback", "connect_callback", "close_callback"):
        monkeypatch.setattr(Milter, name, spy(name))
    ctx._connect("h", ip="192.0.2.1")
    ctx._close()
    assert [
        ("negotiate_callback", ctx._opts),
        ("connect_callback", "h", socket.AF_INET, ("192.0.2.1", 1234)),
        ("close_callback",),
    ] == calls


@pytest.mark.parametrize("verdict", [Milter.REJECT, Milter.TEMPFAIL, 5])
def test_negotiate_refused(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch, verdict: int) -> None:
    """Any other verdict calls abort and close, once each, and is returned."""
    use(monkeypatch, negotiate=lambda self, opts: verdict)
    assert verdict == ctx._negotiate()
    assert ["abort", "close"] == [call[0] for call in ctx._priv.calls]
    assert ctx._priv._ctx is None


@pytest.mark.ours
def test_negotiate_all_opts(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ALL_OPTS every step is called, whatever is left in the list (API spec 1.8)."""
    use(monkeypatch, negotiate=lambda self, opts: Milter.ALL_OPTS)
    assert Milter.ALL_OPTS == ctx._negotiate()
    assert Milter.P_SKIP == ctx._protocol
    connected(ctx)._feedFile(message(), "s@x", "r@x")
    assert STEPS == ctx._priv.calls


def test_negotiate_raises(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a filter's negotiate raises is not caught."""

    def negotiate(self: Any, opts: list[int]) -> int:
        raise LookupError("mine")

    use(monkeypatch, negotiate=negotiate)
    with pytest.raises(LookupError, match="mine"):
        ctx._negotiate()


@pytest.mark.ours
def test_offer_is_copied(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every context, and every connection of one, begins with the whole offer."""
    offers = []

    def negotiate(self: Any, opts: list[int]) -> int:
        offers.append(list(opts))
        return Seen.negotiate(self, opts)

    use(monkeypatch, negotiate=negotiate)
    ctx._connect()
    ctx._connect()
    TestCtx()._connect()
    assert [[0x1FF, 0x1FFFFF, 0, 0]] * 3 == offers


@pytest.mark.ours
def test_another_offer(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put in `_opts` before the connection is the offer, for further connections, too."""
    offers = []

    def negotiate(self: Any, opts: list[int]) -> int:
        offers.append(list(opts))
        return Seen.negotiate(self, opts)

    use(monkeypatch, negotiate=negotiate)
    ctx._opts = [Milter.ADDHDRS, 0x3F, 0, 0]
    ctx._connect()
    ctx._connect()
    assert [[Milter.ADDHDRS, 0x3F, 0, 0]] * 2 == offers
    with pytest.raises(Milter.DisabledAction):
        at_eom(ctx, lambda self: self.addrcpt("<a>"))


# connect and HELO.


def test_connect(ctx: TestCtx) -> None:
    """It negotiates, and calls connect and hello with these defaults."""
    assert Milter.CONTINUE == ctx._connect()
    assert [
        ("connect", "localhost", socket.AF_INET, ("1.2.3.4", 1234)),
        ("hello", "spamrelay"),
    ] == ctx._priv.calls


@pytest.mark.ours
@pytest.mark.parametrize(
    ("ip", "family", "hostaddr"),
    [
        ("192.0.2.7", socket.AF_INET, ("192.0.2.7", 1234)),
        ("2001:db8::7", socket.AF_INET6, ("2001:db8::7", 1234, 0, 0)),
        ("::1", socket.AF_INET6, ("::1", 1234, 0, 0)),
        ("::ffff:192.0.2.7", socket.AF_INET6, ("::ffff:192.0.2.7", 1234, 0, 0)),
        (None, 0, None),
    ],
)
def test_hostaddr(ctx: TestCtx, ip: str | None, family: int, hostaddr: Any) -> None:
    """The address is a tuple, as of the real context (pymilter: the text alone), or None."""
    ctx._connect("mail.x", "me.x", ip)
    assert [("connect", "mail.x", family, hostaddr), ("hello", "me.x")] == ctx._priv.calls


@pytest.mark.parametrize("ip", ["", "a.b", "1.2.3", "1.2.3.256", "2G01::", "::1%lo", "/run/x"])
def test_invalid_ip(ctx: TestCtx, ip: str) -> None:
    """No address: ValueError that names it."""
    with pytest.raises(ValueError, match="invalid ip address") as caught:
        ctx._connect(ip=ip)
    assert f"TestCtx.connect: invalid ip address: {ip}" == str(caught.value)


@pytest.mark.parametrize("step", ["connect", "hello"])
def test_connect_refused(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Anything but CONTINUE closes and is returned; hello is not called after connect's."""

    def refused(self: Any, *args: Any) -> int:
        getattr(Seen, step)(self, *args)
        return Milter.TEMPFAIL

    use(monkeypatch, **{step: refused})
    assert Milter.TEMPFAIL == ctx._connect()
    wanted = ["connect", "close"] if step == "connect" else ["connect", "hello", "close"]
    assert wanted == [call[0] for call in ctx._priv.calls]
    assert ctx._priv._ctx is None


def test_no_connect(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the connect step was negotiated away, HELO is left out, too; CONTINUE."""
    use(monkeypatch, connect=Milter.Base.connect)
    assert Milter.CONTINUE == ctx._connect()
    assert [] == ctx._priv.calls
    assert Milter.CONTINUE == ctx._helo("x")
    assert [("hello", "x")] == ctx._priv.calls


@pytest.mark.ours
@pytest.mark.parametrize("noreply", [Milter.CONTINUE, milter.NOREPLY])
def test_noreply_is_continue(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch, noreply: int) -> None:
    """Callbacks under @noreply go on, with and without Milter.test imported (pymilter: refusal)."""
    monkeypatch.setattr(Milter, "NOREPLY", noreply)
    steps = ["connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body"]
    use(monkeypatch, **{name: Milter.noreply(getattr(Seen, name)) for name in steps})
    connected(ctx)
    assert ctx._priv._protocol & Milter.P_NR_CONN
    assert Milter.CONTINUE == ctx._feedFile(message(), "s@x", "r@x")
    assert STEPS == ctx._priv.calls
    assert [Milter.CONTINUE] * 3 == [ctx._envfrom("<a>"), ctx._data(), ctx._header("a", "b")]


def test_helo_refused(ctx: TestCtx) -> None:
    """_helo by itself closes when it is refused."""
    connected(ctx)._priv.verdicts["hello"] = Milter.REJECT
    assert Milter.REJECT == ctx._helo("x")
    assert [("hello", "x"), ("close",)] == ctx._priv.calls


# The steps one by one.


@pytest.mark.parametrize(
    ("driver", "args", "bit", "call"),
    [
        ("_helo", ("x",), Milter.P_NOHELO, ("hello", "x")),
        ("_envfrom", ("<a@x>",), Milter.P_NOMAIL, ("envfrom", "<a@x>")),
        ("_envfrom", ("<a@x>", "SIZE=1"), Milter.P_NOMAIL, ("envfrom", "<a@x>", "SIZE=1")),
        ("_envrcpt", ("<a@x>",), Milter.P_NORCPT, ("envrcpt", "<a@x>")),
        ("_data", (), Milter.P_NODATA, ("data",)),
        ("_eoh", (), Milter.P_NOEOH, ("eoh",)),
        ("_feed_body", (io.BytesIO(b"x"),), Milter.P_NOBODY, ("body", b"x")),
    ],
)
def test_steps(
    ctx: TestCtx,
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    args: Any,
    bit: int,
    call: Any,
) -> None:
    """Each calls its callback and returns what that does; unless its NO bit was negotiated."""
    connected(ctx)._priv.verdicts[call[0]] = Milter.DISCARD
    assert Milter.DISCARD == getattr(ctx, driver)(*args)
    assert call == ctx._priv.calls[0]

    use(monkeypatch, negotiate=refuse(bit))
    other = connected(TestCtx())
    other._priv.verdicts[call[0]] = Milter.DISCARD
    for arg in args:
        if isinstance(arg, io.BytesIO):
            arg.seek(0)
    assert Milter.CONTINUE == getattr(other, driver)(*args)
    assert [] == other._priv.calls


def test_envfrom_records_the_sender(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """`_sender` is what _envfrom was given, also where MAIL was negotiated away."""
    connected(ctx)._envfrom("<a@x>", "SIZE=1")
    assert "<a@x>" == ctx._sender
    use(monkeypatch, negotiate=refuse(Milter.P_NOMAIL))
    connected(ctx)._envfrom("<b@x>")
    assert "<b@x>" == ctx._sender


def test_envelope_is_not_decoded(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """envfrom and envrcpt get what they are given, without the layer for bytes."""

    def never(self: Any, *b: bytes) -> int:
        raise AssertionError(b)

    use(
        monkeypatch,
        envfrom_bytes=never,
        envrcpt_bytes=never,
        envfrom=Milter.decode("bytes")(Seen.envfrom),
    )
    connected(ctx)._envfrom("<\u00e9@x>")
    ctx._envrcpt("<r@x>")
    assert [("envfrom", "<\u00e9@x>"), ("envrcpt", "<r@x>")] == ctx._priv.calls


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ("plain", b"plain"),
        ("h\udce9", b"h\xe9"),
        ("a\n\tb", b"a\n\tb"),
        (Header("plain"), b"plain"),
        (Header("h\udce9", "unknown-8bit"), b"h\xe9"),
        pytest.param("\u00e9", b"\xc3\xa9", marks=pytest.mark.ours),
        pytest.param(b"\xe9", b"\xe9", marks=pytest.mark.ours),
        pytest.param(
            Header("\u00e9", "iso-8859-1"), b"=?iso-8859-1?q?=E9?=", marks=pytest.mark.ours
        ),
    ],
)
def test_header(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch, value: Any, raw: bytes) -> None:
    """header_bytes gets the value as bytes, whatever it was given as."""
    got = []

    def header_bytes(self: Any, fld: str, val: bytes) -> int:
        got.append((fld, val))
        return Milter.DISCARD

    use(monkeypatch, header_bytes=header_bytes)
    assert Milter.DISCARD == connected(ctx)._header("Subject", value)
    assert [("Subject", raw)] == got


def test_header_is_always_called(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """header_bytes is called, also where headers were negotiated away."""
    got = []
    use(
        monkeypatch,
        negotiate=refuse(Milter.P_NOHDRS),
        header_bytes=lambda self, *args: got.append(args) or 0,
    )
    connected(ctx)._header("a", "b")
    assert [("a", b"b")] == got


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 20000])
def test_feed_body(ctx: TestCtx, size: int) -> None:
    """The body comes in pieces of 8192 bytes."""
    assert Milter.CONTINUE == connected(ctx)._feed_body(io.BytesIO(b"x" * size))
    sizes = [len(call[1]) for call in ctx._priv.calls]
    assert size == sum(sizes)
    assert [8192] * (size // 8192) == sizes[: size // 8192]
    assert len(sizes) == -(-size // 8192)


@pytest.mark.parametrize("verdict", [Milter.REJECT, Milter.SKIP])
def test_feed_body_stops(ctx: TestCtx, verdict: int) -> None:
    """What is not CONTINUE ends the body and is returned."""
    connected(ctx)._priv.verdicts["body"] = verdict
    assert verdict == ctx._feed_body(io.BytesIO(bytes(20000)))
    assert 1 == len(ctx._priv.calls)


def test_eom(ctx: TestCtx) -> None:
    """eom is called with `_body` open for what is replaced."""
    connected(ctx)._priv.todo = lambda self: self.replacebody(b"new")
    ctx._priv.verdicts["eom"] = Milter.ACCEPT
    assert Milter.ACCEPT == ctx._eom()
    assert (b"new", True) == (ctx._body.getvalue(), ctx._bodyreplaced)
    ctx._eom()
    assert b"new" == ctx._body.getvalue()


@pytest.mark.ours
def test_eom_without_a_message(ctx: TestCtx) -> None:
    """Where the steps are called one by one, headers are recorded as well."""
    connected(ctx)._priv.todo = lambda self: (
        self.addheader("X", "1"),
        self.chgheader("Y", 1, ""),
    )
    ctx._eom()
    assert [("X", "1")] == ctx._msg.items()
    assert ctx._headerschanged


def test_abort(ctx: TestCtx) -> None:
    """abort is called, then close."""
    assert connected(ctx)._abort() is None
    assert [("abort",), ("close",)] == ctx._priv.calls
    assert ctx._priv._ctx is None


def test_close(ctx: TestCtx) -> None:
    """close is called with the context; after it the object is still there, detached."""
    attached = []
    connected(ctx)
    ctx._priv.close = lambda: attached.append(ctx._priv._ctx) or 0
    ctx._close()
    assert [ctx] == attached
    assert isinstance(ctx._priv, Seen)
    assert ctx._priv._ctx is None


def test_close_of_nothing(ctx: TestCtx) -> None:
    """_close before there is an object does nothing."""
    ctx._close()
    assert ctx._priv is None


def test_close_detaches_after_an_exception(ctx: TestCtx) -> None:
    """What close raises comes through; the object is detached all the same."""
    connected(ctx)

    def close() -> int:
        raise LookupError("mine")

    ctx._priv.close = close
    with pytest.raises(LookupError):
        ctx._close()
    assert ctx._priv._ctx is None


# Messages.


def test_feed(ctx: TestCtx) -> None:
    """All callbacks of a message in their order, with their arguments; no close."""
    connected(ctx)._priv.verdicts["eom"] = Milter.ACCEPT
    assert Milter.ACCEPT == ctx._feedFile(message(), "s@x", "r@x")
    assert STEPS == ctx._priv.calls
    assert ctx is ctx._priv._ctx
    assert MESSAGE == ctx._body.getvalue()
    assert HEADERS == ctx._msg.items()
    assert not ctx._msg.ismodified()


def test_feed_default_envelope(ctx: TestCtx) -> None:
    """Sender and recipient have defaults; more recipients may follow; all in angle brackets."""
    connected(ctx)._feedFile(message())
    assert [
        ("envfrom", "<spam@adv.com>"),
        ("envrcpt", "<victim@lamb.com>"),
    ] == ctx._priv.calls[:2]
    ctx._priv.calls.clear()
    ctx._feedFile(message(), "s@x", "a@x", "b@x")
    assert [("envrcpt", "<a@x>"), ("envrcpt", "<b@x>")] == ctx._priv.calls[1:3]


@pytest.mark.parametrize("step", ["envfrom", "envrcpt", "data", "header", "eoh", "body"])
def test_feed_stops(ctx: TestCtx, step: str) -> None:
    """What is not CONTINUE before eom is returned at once."""
    connected(ctx)._priv.verdicts[step] = Milter.DISCARD
    assert Milter.DISCARD == ctx._feedFile(message(), "s@x", "r@x")
    names = [call[0] for call in STEPS]
    assert names[: names.index(step) + 1] == [call[0] for call in ctx._priv.calls]
    assert ctx._body is None


@pytest.mark.ours
def test_skip(ctx: TestCtx) -> None:
    """SKIP from body ends the body; eom comes (pymilter: returns 8 without eom)."""
    connected(ctx)._priv.verdicts.update(body=Milter.SKIP, eom=Milter.ACCEPT)
    assert Milter.ACCEPT == ctx._feedFile(message(b"A: b\n\n" + bytes(9000)))
    assert ["body", "eom"] == [call[0] for call in ctx._priv.calls][-2:]


def test_feed_uses_the_drivers_methods(ctx: TestCtx) -> None:
    """A subclass of TestCtx may replace how a step is driven."""
    got = []

    class Mine(TestCtx):
        def _data(self) -> Any:
            got.append("data")
            return super()._data()

    connected(Mine())._feedFile(message())
    assert ["data"] == got


@pytest.mark.ours
def test_feed_other_headers(ctx: TestCtx) -> None:
    """A header that is not ASCII reaches the filter decoded as Base decodes it."""
    data = b"Subject: \xe9\xc3\xa9\n\nx\n"
    connected(ctx)._feedFile(message(data))
    assert ("header", "Subject", "\udce9\u00e9") in ctx._priv.calls
    assert data == ctx._body.getvalue()


def test_feed_msg(ctx: TestCtx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """_feedMsg reads the file below test/; the recipients follow the sender."""
    monkeypatch.chdir(tmp_path)
    Path("test").mkdir()
    Path("test/samp").write_bytes(MESSAGE)
    assert Milter.CONTINUE == connected(ctx)._feedMsg("samp", "s@x", "r@x")
    assert STEPS == ctx._priv.calls
    with pytest.raises(FileNotFoundError):
        ctx._feedMsg("missing")


def test_ten_connections_of_one_context(ctx: TestCtx) -> None:
    """One context can be connected again and again, with a new object each time."""
    objects = []
    for number in range(10):
        assert Milter.CONTINUE == ctx._connect()
        objects.append(ctx._priv)
        ctx._feedFile(message(), "s@x", f"r{number}@x")
        ctx._close()
        names = ["connect", "hello", *(call[0] for call in STEPS), "close"]
        assert names == [call[0] for call in ctx._priv.calls]
        assert MESSAGE == ctx._body.getvalue()
    assert 10 == len({id(each) for each in objects})


# What the filter does.


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("addheader", ("a", "b", -1)),
        ("chgheader", ("a", 1, "b")),
        ("addrcpt", ("<x>", None)),
        ("delrcpt", ("<x>",)),
        ("replacebody", (b"x",)),
        ("chgfrom", ("<x>",)),
        ("quarantine", ("x",)),
    ],
)
def test_only_in_eom(ctx: TestCtx, method: str, args: tuple[Any, ...]) -> None:
    """Outside of eom what changes the message raises IOError."""
    with pytest.raises(OSError, match=rf"^{method} not called from eom\(\)$"):
        getattr(ctx, method)(*args)
    connected(ctx)
    with pytest.raises(OSError, match=rf"^{method} not called from eom\(\)$"):
        getattr(ctx, method)(*args)


def test_actions(ctx: TestCtx) -> None:
    """What the filter does in eom is written down; recipients with their parameters."""

    def todo(self: Any) -> None:
        self.addheader("X", "1")
        self.addheader("Y", "2", 0)
        self.chgheader("Subject", 1, "new")
        self.chgheader("Received", 1, "")
        self.addrcpt("<a@x>")
        self.addrcpt("<b@x>", "NOTIFY=NEVER")
        self.delrcpt("<r@x>")
        self.chgfrom("<n@x>", "SIZE=1")
        self.setreply("550", "5.7.1", "no", "way")
        self.replacebody(b"new")

    at_eom(ctx, todo)
    assert [
        *HEADERS[2:],
        ("X", "1"),
        ("Y", "2"),
        ("Subject", "new"),
    ] == ctx._msg.items()
    assert [("<a@x>", None), ("<b@x>", "NOTIFY=NEVER")] == ctx._addrcpt
    assert ["<r@x>"] == ctx._delrcpt
    assert "<n@x>" == ctx._sender
    assert ("550", "5.7.1", "no", "way") == ctx._reply
    assert (True, True, True) == (ctx._headerschanged, ctx._envfromchanged, ctx._bodyreplaced)
    assert MESSAGE[: -len(BODY)] + b"new" == ctx._body.getvalue()


@pytest.mark.ours
def test_chgheader_with_none(ctx: TestCtx) -> None:
    """chgheader with None deletes, as with the real context."""
    at_eom(ctx, lambda self: self.chgheader("received", 1, None))
    assert HEADERS[2:] == ctx._msg.items()


@pytest.mark.ours
def test_quarantine(ctx: TestCtx) -> None:
    """quarantine is written down (pymilter: TypeError), and forgotten with the next message."""
    at_eom(ctx, lambda self: self.quarantine("why"))
    assert "why" == ctx._quarantine_reason
    at_eom(ctx, None)
    assert ctx._quarantine_reason is None


def test_progress(ctx: TestCtx) -> None:
    """progress updates `_activity`, in any callback."""
    connected(ctx)
    ctx._activity = 0.0
    assert ctx._priv.progress() is None
    assert ctx._activity > 0.0


def test_checks_of_base(ctx: TestCtx) -> None:
    """Base's own checks hold: actions that were not offered, `%` that is not doubled."""
    connected(ctx)._priv._actions = Milter.ADDHDRS
    with pytest.raises(Milter.DisabledAction, match="ADDRCPT"):
        at_eom(ctx, lambda self: self.addrcpt("<a>"))
    with pytest.raises(ValueError, match="doubled"):
        ctx._priv.setreply("550", "5.7.1", "50%")
    assert ctx._reply is None


# Macros.


def test_macros(ctx: TestCtx) -> None:
    """_setsymval defines what getsymval gives; else None."""
    ctx._setsymval("i", "QID")
    ctx._setsymval("{auth_authen}", "me")
    connected(ctx)
    assert ["QID", "me", None] == [
        ctx._priv.getsymval(name) for name in ("i", "{auth_authen}", "j")
    ]


@pytest.mark.ours
def test_macros_anywhere(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Macros can be read in every callback, and outside (pymilter: TypeError, AttributeError)."""
    got: dict[str, Any] = {}

    def look(name: str) -> Any:
        def callback(self: Any, *args: Any) -> int:
            got[name] = self.getsymval("i")
            return Milter.CONTINUE

        callback.__name__ = name
        return callback

    steps = ["connect", "hello", *dict.fromkeys(call[0] for call in STEPS), "abort", "close"]
    use(monkeypatch, **{name: look(name) for name in steps})
    ctx._setsymval("i", "QID")
    assert "QID" == ctx.getsymval("i")
    ctx._connect()
    ctx._feedFile(message())
    ctx._abort()
    assert dict.fromkeys(steps, "QID") == got
    assert "QID" == ctx.getsymval("i")


def test_symlist(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback under @symlist gets the macros that it names and no others; the rest all."""
    got = {}

    def look(name: str) -> Any:
        def callback(self: Any, *args: Any) -> int:
            got[name] = [self.getsymval(macro) for macro in ("i", "{x}", "j")]
            return Milter.CONTINUE

        callback.__name__ = name
        return callback

    use(
        monkeypatch,
        envfrom=Milter.symlist("i", "{x}")(look("envfrom")),
        envrcpt=look("envrcpt"),
        eom=Milter.symlist("j")(look("eom")),
    )
    for name in ("i", "{x}", "j"):
        ctx._setsymval(name, name.upper())
    for _ in range(2):
        got.clear()
        connected(ctx)
        assert [None, None, {b"i", b"{x}"}, None, None, {b"j"}, None] == ctx._symlist
        ctx._feedFile(message())
        assert {
            "envfrom": ["I", "{X}", None],
            "envrcpt": ["I", "{X}", "J"],
            "eom": [None, None, "J"],
        } == got
        # Between the callbacks there is no list.
        assert "I" == ctx.getsymval("i")


def test_setsymlist(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """setsymlist takes text or bytes, 5 macros, in negotiate only; each stage once."""
    outcomes: list[Any] = []

    def negotiate(self: Any, opts: list[int]) -> int:
        for args in [
            (Milter.M_CONNECT, "a b"),
            (Milter.M_HELO, b"c d"),
            (Milter.M_EOM, "a b c d e f"),
            (Milter.M_HELO, "e"),
            (7, "e"),
        ]:
            try:
                outcomes.append(ctx.setsymlist(*args))
            except Exception as reason:
                outcomes.append((type(reason), str(reason).partition(":")[0]))
        return Milter.CONTINUE

    use(monkeypatch, negotiate=negotiate)
    ctx._negotiate()
    assert [
        None,
        None,
        (ValueError, "setsymlist limited to 5 macros by MTA"),
        (milter.error, "cannot set macro list"),
        (milter.error, "cannot set macro list"),
    ] == outcomes
    assert [{b"a", b"b"}, {b"c", b"d"}, None, None, None, None, None] == ctx._symlist
    with pytest.raises(RuntimeError, match=r"^setsymlist may only be called from negotiate$"):
        ctx.setsymlist(0, "a")


# As the real context.


def test_methods_of_the_real_context() -> None:
    """Whatever method a context has (API spec 1.10), TestCtx has, too."""
    names = (
        "addheader addrcpt chgfrom chgheader delrcpt getpriv getsymval progress quarantine "
        "replacebody setpriv setreply setsymlist"
    )
    public = {name for name in dir(TestCtx) if not name.startswith("_")}
    assert set(names.split()) | {"default_opts"} == public


def test_factory_forms(ctx: TestCtx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milter.factory is read for each connection, and may be anything that can be called."""
    made = Seen()
    monkeypatch.setattr(Milter, "factory", lambda: made)
    connected(ctx)
    assert made is ctx._priv
