"""What real filters do, point by point of the legacy usage notes, with a small filter each.

The filters are installed with `live.filter`, which calls `Milter.runmilter` itself. Points 12 and
13 (how the program is run, signals) are in test_signals, the submodules' test helpers of point 10
in the tests of those modules.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest
from compat_live import Live
from compat_support import DEADLINE, environment, run_python, wait_until

import Milter
import milter
from harness import Peer, macros, offer, packet
from harness.packets import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    REJECT,
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
    U,
)

CONTENT = (M, R, T, L, N, B)


def _frames(mta: Peer) -> list[bytes]:
    """All packets up to and including the verdict."""
    frames = []
    while True:
        letter, data = mta.read_packet()
        frames.append(packet(letter, data))
        if letter in "carstdy":
            return frames


def _end_of_message(mta: Peer) -> list[bytes]:
    mta.send(E)
    return _frames(mta)


# -- 1 -----------------------------------------------------------------------------------------


class Changes(Milter.Base):
    """Overrides eom only, and changes the message there."""

    def eom(self) -> int:
        self.addheader("X", "1")
        self.chgheader("Y", 1, "2")
        self.addrcpt("<r@e>")
        self.delrcpt("<c@d>")
        self.replacebody(b"new\r\n")
        self.chgfrom("<n@e>")
        self.quarantine("why")
        return Milter.ACCEPT


CHANGED = [
    packet("h", b"X\x001\0"),
    packet("m", b"\0\0\0\1Y\x002\0"),
    packet("+", b"<r@e>\0"),
    packet("-", b"<c@d>\0"),
    packet("b", b"new\r\n"),
    packet("e", b"<n@e>\0"),
    packet("q", b"why\0"),
    ACCEPT,
]


@pytest.mark.parametrize("flags", [None, 0, Milter.ADDHDRS])
def test_01_flags_that_name_too_few_actions(live: Live, flags: int | None) -> None:
    """All that the MTA offered works, whatever `set_flags` was told, if it was called at all."""
    if flags is not None:
        Milter.set_flags(flags)
    try:
        live.filter(Changes)
        mta = live.mta()
        mta.play(C, H, *CONTENT)
        assert CHANGED == _end_of_message(mta)
    finally:
        Milter.set_flags(Milter.CURR_ACTS)


def test_01_disabled_only_if_not_offered(live: Live) -> None:
    """DisabledAction comes where the MTA did not offer the action, and only there."""
    seen: list[str] = []

    class Mine(Milter.Base):
        def eom(self) -> int:
            for call in (
                lambda: self.quarantine("x"),
                lambda: self.chgfrom("<x>"),
                lambda: self.addheader("X", "1"),
            ):
                try:
                    call()
                except Milter.DisabledAction as error:
                    seen.append(str(error))
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta(actions=0x1F)
    mta.play(C, H, *CONTENT)
    assert [packet("h", b"X\x001\0"), CONTINUE] == _end_of_message(mta)
    assert ["QUARANTINE", "CHGFROM"] == seen


# -- 2 -----------------------------------------------------------------------------------------


def test_02_symlist_and_other_macros(live: Live) -> None:
    """A filter with @symlist on one callback may ask for any macro in the others: what the MTA
    sends is found, what it does not send is None."""
    seen: list[Any] = []

    class Mine(Milter.Base):
        @Milter.symlist("{auth_authen}")
        def envfrom(self, f: str, *params: str) -> int:
            seen.append((self.getsymval("{auth_authen}"), self.getsymval("i")))
            return Milter.CONTINUE

        def eom(self) -> int:
            seen.append((self.getsymval("{auth_authen}"), self.getsymval("i")))
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(C, H)
    mta.send(macros("M", ("{auth_authen}", "user")))
    mta.play(*CONTENT)
    mta.send(macros("E", ("i", "queueid")))
    mta.ask(E)
    assert [("user", None), ("user", "queueid")] == seen


# -- 3 -----------------------------------------------------------------------------------------


class NoReply(Milter.Base):
    """Every step that may be is @noreply."""

    outcome: Any = Milter.CONTINUE

    def _out(self) -> int:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @Milter.noreply
    def envfrom(self, f: str, *params: str) -> int:
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, to: str, *params: str) -> int:
        return Milter.CONTINUE

    @Milter.noreply
    def header(self, field: str, value: str) -> int:
        return self._out()

    @Milter.noreply
    def eoh(self) -> int:
        return Milter.CONTINUE


@pytest.mark.parametrize("protocol", [0x7F, 0x3FF & ~0x80, 0])
def test_03_noreply_with_an_old_mta(live: Live, protocol: int) -> None:
    """With an MTA that has no such bit every step is answered by CONTINUE."""
    live.filter(NoReply)
    mta = live.mta(protocol=protocol)
    mta.play(C, H, *CONTENT, E)


def test_03_noreply(live: Live) -> None:
    """With one that has it nothing is sent for these steps."""
    live.filter(NoReply)
    mta = live.mta()
    assert 0x4000 | 0x8000 | 0x80 | 0x40000 == mta.options[2] & 0xFF080
    mta.send(M, R, L, N, E)
    assert [CONTINUE] == _frames(mta)


@pytest.mark.ours
@pytest.mark.parametrize("outcome", [Milter.REJECT, Milter.TEMPFAIL, KeyError("x")])
def test_03_verdict_out_of_a_noreply_callback(live: Live, outcome: Any) -> None:
    """A reject, a tempfail or an exception there is not lost: the next step that has a reply gets
    the exception policy's (under pymilter the mail passes)."""
    cls = type("Mine", (NoReply,), {"outcome": outcome})
    live.filter(cls)
    mta = live.mta()
    mta.send(M, R, L, N, E)
    assert [packet("y", b"451 4.3.0 pymilter: untrapped exception in compat\0")] == _frames(mta)
    mta.send(M, R, N, E)
    assert [CONTINUE] == _frames(mta)


@pytest.mark.ours
@pytest.mark.parametrize("outcome", [Milter.REJECT, Milter.TEMPFAIL, KeyError("x")])
def test_03_verdict_out_of_noreply_with_an_old_mta(live: Live, outcome: Any) -> None:
    """The same where the MTA has no such bit: CONTINUE for the step itself, then the policy's."""
    live.filter(type("Mine", (NoReply,), {"outcome": outcome}))
    mta = live.mta(protocol=0x3F)
    mta.play(C, H, M, R, L)
    mta.ask(N, packet("y", b"451 4.3.0 pymilter: untrapped exception in compat\0"))
    mta.play(M, R, N, E)


# -- 4 -----------------------------------------------------------------------------------------


def test_04_callbacks_that_raise(live: Live) -> None:
    """A callback that raises on odd mail, or forgets to return, is answered by the policy's text
    with the name given to runmilter; ordinary mail goes on."""

    class Mine(Milter.Base):
        def header(self, field: str, value: str) -> Any:
            if field == "Date":
                return int(value)
            if field == "Subject":
                return Milter.CONTINUE
            return None

    live.filter(Mine, "my filter")
    text = packet("y", b"451 4.3.0 pymilter: untrapped exception in my filter\0")
    mta = live.mta()
    mta.play(C, H, M, R, T, L)
    mta.ask(packet("L", b"Date\0yesterday\0"), text)
    mta.play(M, R, T, L)
    mta.ask(packet("L", b"X\0y\0"), text)
    mta.play(M, R, T, L, N, E)


# -- 5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "keywords", "text"),
    [
        (("550",), {"xcode": "5.7.1", "msg": "no"}, b"550 5.7.1 no"),
        ((), {"rcode": "550", "xcode": "5.7.1", "msg": "no"}, b"550 5.7.1 no"),
        (("550",), {"xcode": None, "msg": "no"}, b"550 no"),
        (("550", "5.7.1", "a", "b", "c", "d", "e"), {}, None),
        (("550", "5.7.1", "100%% sure"), {}, b"550 5.7.1 100%% sure"),
    ],
)
def test_05_setreply(live: Live, args: Any, keywords: Any, text: bytes | None) -> None:
    """setreply with keywords, without an extended code, with many lines, with doubled percent."""

    class Mine(Milter.Base):
        def envrcpt(self, to: str, *params: str) -> int:
            self.setreply(*args, **keywords)
            return Milter.REJECT

    live.filter(Mine)
    mta = live.mta()
    mta.play(C, H, M)
    if text is None:
        text = b"\r\n".join(b"550-5.7.1 " + line for line in (b"a", b"b", b"c", b"d"))
        text += b"\r\n550 5.7.1 e"
    mta.ask(R, packet("y", text + b"\0"))


def test_05_setreply_lone_percent(live: Live) -> None:
    """A lone percent is a ValueError in the filter, hence the policy's answer."""

    class Mine(Milter.Base):
        def envrcpt(self, to: str, *params: str) -> int:
            with pytest.raises(ValueError, match=r"^'%' must be doubled: 100% sure$"):
                self.setreply("550", "5.7.1", "100% sure")
            self.setreply("550", "5.7.1", "100% sure")
            return Milter.REJECT

    live.filter(Mine)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(R, packet("y", b"451 4.3.0 pymilter: untrapped exception in compat\0"))


# -- 6 -----------------------------------------------------------------------------------------


def test_06_overridden_actions(live: Live) -> None:
    """Action methods may be overridden with other signatures that call super(); nothing but the
    filter itself calls them."""

    class Mine(Milter.Base):
        def chgheader(self, field: str, value: str, idx: int = 1) -> Any:
            return super().chgheader(field, idx, value)

        def replacebody(self) -> Any:
            return super().replacebody(b"fixed\r\n")

        def delrcpt(self, addresses: list[str]) -> None:
            for address in addresses:
                super().delrcpt(address)

        def addheader(self, line: str) -> Any:
            name, _, value = line.partition(": ")
            return super().addheader(name, value)

        def log(self, level: int, text: str) -> None:
            raise AssertionError("only the filter calls log")

        def setreply(self, text: str) -> Any:
            return super().setreply("550", "5.7.1", text)

        def setsymlist(self) -> None:
            raise AssertionError("no list was declared")

        def getsymval(self) -> None:
            raise AssertionError("only the filter calls getsymval")

        def progress(self, often: int) -> None:
            raise AssertionError("only the filter calls progress")

        def eom(self) -> int:
            self.chgheader("A", "b")
            self.replacebody()
            self.delrcpt(["<c@d>", "<e@f>"])
            self.addheader("X: y")
            return Milter.CONTINUE

        def envrcpt(self, to: str, *params: str) -> int:
            if to == "<no@d>":
                self.setreply("no")
                return Milter.REJECT
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(packet("R", b"<no@d>\0"), packet("y", b"550 5.7.1 no\0"))
    mta.play(R, T, N)
    assert [
        packet("m", b"\0\0\0\1A\0b\0"),
        packet("b", b"fixed\r\n"),
        packet("-", b"<c@d>\0"),
        packet("-", b"<e@f>\0"),
        packet("h", b"X\0y\0"),
        CONTINUE,
    ] == _end_of_message(mta)


# -- 7 -----------------------------------------------------------------------------------------


def test_07_attributes_with_callback_names(live: Live) -> None:
    """Instance attributes named like callbacks do not make a step wanted: what the class does not
    override is not asked for, and other callbacks go on."""

    class Mine(Milter.Base):
        def __init__(self) -> None:
            self.data: dict[str, str] = {}
            self.header = "not callable"
            self.unknown = None

        def envfrom(self, f: str, *params: str) -> int:
            self.data["from"] = f
            return Milter.CONTINUE

        def eom(self) -> int:
            self.addheader("X-From", self.data["from"])
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    assert 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 == mta.options[2] & 0x37F
    mta.play(M)
    assert [packet("h", b"X-From\0<a@b>\0"), CONTINUE] == _end_of_message(mta)


@pytest.mark.ours
def test_07_a_step_that_was_not_asked_for(live: Live) -> None:
    """If the MTA sends such a step all the same, the attribute is not called (under pymilter it is,
    and the exception policy answers)."""

    class Mine(Milter.Base):
        def __init__(self) -> None:
            self.data: dict[str, str] = {}
            self.header = "not callable"

        def eom(self) -> int:
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(C, H, M, R, T, L, N, B, E)


# -- 8 -----------------------------------------------------------------------------------------

COPY_OF_RUNMILTER = """
import os, sys
import Milter
from Milter import milter

class Mine(Milter.Base):
    def envfrom(self, f, *params):
        self.sender = f
        return Milter.CONTINUE
    def header(self, field, value):
        self.addr = value
        return Milter.CONTINUE
    def unknown(self, cmd):
        return Milter.REJECT
    def eom(self):
        self.addheader("X-Sender", self.sender)
        return Milter.ACCEPT

def run(name, socketname, timeout=0, rmsock=True):
    milter.set_flags(milter.ADDHDRS)
    milter.set_connect_callback(Milter.connect_callback)
    milter.set_helo_callback(lambda ctx, host: ctx.getpriv().hello(host))
    milter.set_envfrom_callback(lambda ctx, *s: ctx.getpriv().envfrom_bytes(*s))
    milter.set_envrcpt_callback(lambda ctx, *s: ctx.getpriv().envrcpt_bytes(*s))
    milter.set_header_callback(lambda ctx, f, v: ctx.getpriv().header_bytes(f, v))
    milter.set_eoh_callback(lambda ctx: ctx.getpriv().eoh())
    milter.set_body_callback(lambda ctx, chunk: ctx.getpriv().body(chunk))
    milter.set_eom_callback(lambda ctx: ctx.getpriv().eom())
    milter.set_abort_callback(lambda ctx: ctx.getpriv().abort())
    milter.set_close_callback(Milter.close_callback)
    milter.setconn(socketname)
    if timeout > 0:
        milter.settimeout(timeout)
    ncb = Milter.negotiate_callback
    if milter.getversion() < (1, 0, 1):
        ncb = None
    milter.register(name, data=lambda ctx: ctx.getpriv().data(),
                    unknown=lambda ctx, cmd: ctx.getpriv().unknown(cmd), negotiate=ncb)
    milter.opensocket(rmsock)
    os.chmod(socketname.partition(":")[2], 0o660)
    start_seq = Milter._seq
    print("listening", flush=True)
    try:
        milter.main()
    except milter.error:
        if start_seq == Milter._seq:
            raise
        raise milter.error("out of thread resources")

Milter.factory = Mine
run("copy", sys.argv[1], 600)
print("after main", flush=True)
"""


def test_08_a_copy_of_runmilter(tmp_path: Path) -> None:
    """A filter with its own copy of runmilter, which changes the socket's mode between opensocket
    and main, serves."""
    path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", COPY_OF_RUNMILTER, f"unix:{path}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        assert "listening\n" == process.stdout.readline()
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        with Peer(str(path)) as mta:
            mta.send(offer())
            # want: envfrom, header, unknown, eom; SKIP as offered
            mta.expect(packet("O", bytes.fromhex("00000006 000001FF 0000065B")))
            mta.ask(U, REJECT)
            mta.play(M, L)
            mta.send(E)
            mta.expect(packet("h", b"X-Sender\0<a@b>\0"), ACCEPT)
            mta.send(Q)
            mta.expect_close()
        process.terminate()
        assert "after main\n" == process.stdout.readline()
        assert 0 == process.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# -- 9 -----------------------------------------------------------------------------------------


def test_09_negotiate_overridden(live: Live) -> None:
    """`negotiate` may call super() and then change the protocol bits in place."""
    seen: list[Any] = []

    class Mine(Milter.Base):
        def header(self, field: str, value: str) -> int:
            seen.append(value)
            return Milter.CONTINUE

        def negotiate(self, opts: list[int]) -> int:
            result = super().negotiate(opts)
            opts[1] |= getattr(Milter, "P_HDR_LEADSPC", 0)
            opts[1] &= ~Milter.P_NOBODY
            return result

    live.filter(Mine)
    mta = live.mta()
    assert (6, 0x1FF, 0x10074F) == mta.options
    mta.play(M)
    mta.ask(packet("L", b"X\0 y\0"))
    assert [" y"] == seen


# -- 10 ----------------------------------------------------------------------------------------


class _FakeCtx:
    """A stand-in of the kind that filters' unit tests have."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def getsymval(self, name: str) -> str:
        return "value of " + name

    def setreply(self, rcode: str, xcode: str, *msg: str) -> None:
        self.calls.append(("setreply", rcode, xcode, *msg))

    def chgheader(self, f: str, i: int, v: str) -> None:
        self.calls.append(("chgheader", f, i, v))

    def addheader(self, f: str, v: str, i: int) -> None:
        self.calls.append(("addheader", f, v, i))

    def addrcpt(self, rcpt: str, params: Any) -> None:
        self.calls.append(("addrcpt", rcpt, params))


def test_10_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test puts a fake into `_ctx`, sets the masks by hand and calls decorated callbacks."""

    class Mine(Milter.Base):
        @Milter.noreply
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            self.ip = hostaddr[0]
            return Milter.CONTINUE

        @Milter.noreply
        @Milter.decode("bytes")
        @Milter.symlist("i")
        def envfrom(self, f: Any, *params: Any) -> int:
            self.sender = f
            return Milter.CONTINUE

        def eom(self) -> int:
            self.chgheader("A", 1, "")
            self.addheader("B", self.getsymval("j"))
            self.addrcpt("<r>")
            self.setreply("550", "5.7.1", "no")
            return Milter.REJECT

    mine = Mine()
    mine._ctx = ctx = _FakeCtx()
    mine._protocol = 0
    mine._actions = Milter.CURR_ACTS
    assert Milter.CONTINUE == mine.connect("h", socket.AF_INET, ("192.0.2.1", 25))
    assert Milter.CONTINUE == mine.envfrom_bytes(b"<\xe9>")
    assert (b"<\xe9>", "192.0.2.1") == (mine.sender, mine.ip)
    mine._protocol = Milter.P_NR_CONN
    assert Milter.NOREPLY == mine.connect("h", socket.AF_INET, ("192.0.2.1", 25))
    monkeypatch.setattr(Milter, "NOREPLY", Milter.CONTINUE)
    assert Milter.CONTINUE == mine.connect("h", socket.AF_INET, ("192.0.2.1", 25))
    assert Milter.REJECT == mine.eom()
    assert [
        ("chgheader", "A", 1, ""),
        ("addheader", "B", "value of j", -1),
        ("addrcpt", "<r>", None),
        ("setreply", "550", "5.7.1", "no"),
    ] == ctx.calls


# -- 11 ----------------------------------------------------------------------------------------


class Configured(Milter.Base):
    """Says in a header what it was configured with."""

    config = "default"

    def __init__(self, config: str | None = None) -> None:
        if config is not None:
            self.config = config

    def eom(self) -> int:
        self.addheader("X", self.config)
        return Milter.CONTINUE

    def make(self) -> Milter.Base:
        return Configured("bound method")

    def __call__(self) -> Milter.Base:
        return Configured("object")


def _closure(config: str) -> Any:
    def make() -> Milter.Base:
        return Configured(config)

    return make


@pytest.mark.parametrize(
    ("factory", "config"),
    [
        (Configured, b"default"),
        (lambda: Configured("lambda"), b"lambda"),
        (_closure("closure"), b"closure"),
        (Configured().make, b"bound method"),
        (functools.partial(Configured, "partial"), b"partial"),
        (Configured(), b"object"),
    ],
    ids=["class", "lambda", "closure", "bound method", "partial", "object"],
)
def test_11_factories(live: Live, factory: Any, config: bytes) -> None:
    """Whatever can be called without arguments is a factory."""
    live.filter(factory)
    mta = live.mta()
    mta.play(M)
    assert [packet("h", b"X\0" + config + b"\0"), CONTINUE] == _end_of_message(mta)


def test_11_class_attributes_through_the_factory(live: Live) -> None:
    """Configuration set as an attribute of `Milter.factory` is seen by its instances, and another
    factory is used from the next connection on."""

    class Mine(Configured):
        pass

    live.filter(Mine)
    Milter.factory.config = "set later"
    one = live.mta()
    Milter.factory = lambda: Configured("another")
    two = live.mta()
    one.play(M)
    two.play(M)
    assert [packet("h", b"X\0set later\0"), CONTINUE] == _end_of_message(one)
    assert [packet("h", b"X\0another\0"), CONTINUE] == _end_of_message(two)


def test_11_a_factory_that_raises(live: Live) -> None:
    """When the factory raises, that connection is refused, and the next one is not."""

    def broken() -> Any:
        raise KeyError("no configuration")

    live.filter(broken)
    mta = live.connect()
    mta.send(offer())
    mta.expect_close()
    Milter.factory = Configured
    live.mta().ask(M)


# -- 14 ----------------------------------------------------------------------------------------

SERVE = """
import sys, threading, time
import Milter
Milter.factory = Milter.Base
thread = threading.Thread(target=Milter.runmilter, args=("x", sys.argv[1]), daemon=True)
thread.start()
sys.stdin.read()
Milter.stop()
"""


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("unix:{path}", "{path}"),
        ("local:{path}", "{path}"),
        ("{path}", "{path}"),
        ("inet:{port}@127.0.0.1", ("127.0.0.1", 0)),
        ("inet:{port}@localhost", ("127.0.0.1", 0)),
        ("inet:{port}@[127.0.0.1]", ("127.0.0.1", 0)),
        ("inet6:{port}@[::1]", ("::1", 0)),
        ("inet6:{port}@::1", ("::1", 0)),
        ("inet:{port}", ("127.0.0.1", 0)),
    ],
)
def test_14_sockets(
    tmp_path: Path, keep_port: Callable[[str], int], spec: str, address: Any
) -> None:
    """The forms of socket specs that filters use are listened on."""
    path = str(tmp_path / "s")
    port = 0 if isinstance(address, str) else keep_port(address[0])
    where = path if isinstance(address, str) else (address[0], port)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, spec.format(path=path, port=port)],
        stdin=subprocess.PIPE,
        env=environment(),
    )
    try:

        def answers() -> bool:
            assert process.poll() is None
            try:
                with Peer(where) as mta:
                    mta.send(offer())
                    return mta.read_packet()[0] == "O"
            except OSError:
                return False

        wait_until(answers, "an answer at " + spec)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.ours
@pytest.mark.parametrize("listening", [True, False])
def test_14_inherited_descriptor(tmp_path: Path, listening: bool) -> None:
    """`fd:3` serves on a socket that the service manager has bound (LISTEN_FDS)."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "s"))
        if listening:
            s.listen(5)
        launcher = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
        launcher += "os.environ['LISTEN_FDS'] = '1'; os.environ['LISTEN_PID'] = str(os.getpid()); "
        launcher += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], 'fd:3'])"
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, str(s.fileno()), SERVE],
            stdin=subprocess.PIPE,
            pass_fds=[s.fileno()],
            env=environment(),
        )
    try:

        def answers() -> bool:
            assert process.poll() is None
            try:
                with Peer(str(tmp_path / "s")) as mta:
                    mta.send(offer())
                    return mta.read_packet()[0] == "O"
            except OSError:
                return False

        wait_until(answers, "an answer on the inherited socket")
    finally:
        process.kill()
        process.communicate()


# -- 15 ----------------------------------------------------------------------------------------


@pytest.mark.ours
@pytest.mark.one_mode("a SQLite handle is its thread's (docs/pool.md)")
def test_15_thread_local_sqlite(live: Live) -> None:
    """A SQLite handle per thread, made on first use, and one made in `connect`, are used in eom."""
    import sqlite3

    local = threading.local()
    made: list[int] = []

    def db() -> sqlite3.Connection:
        if not hasattr(local, "db"):
            made.append(1)
            local.db = sqlite3.connect(":memory:")
            local.db.execute("create table t (sender text)")
        return local.db

    class Mine(Milter.Base):
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            self.own = sqlite3.connect(":memory:")
            self.own.execute("create table t (sender text)")
            return Milter.CONTINUE

        def envfrom(self, f: str, *params: str) -> int:
            db().execute("insert into t values (?)", (f,))
            self.own.execute("insert into t values (?)", (f,))
            return Milter.CONTINUE

        def eom(self) -> int:
            for handle in (db(), self.own):
                (count,) = handle.execute("select count(*) from t").fetchone()
                self.addheader("X-Count", str(count))
            return Milter.CONTINUE

        def close(self) -> int:
            self.own.close()
            local.db.close()
            return Milter.CONTINUE

    live.filter(Mine)
    for _ in range(3):
        mta = live.mta()
        mta.ask(C)
        for n in (b"1", b"2"):
            mta.play(M)
            counted = packet("h", b"X-Count\0" + n + b"\0")
            assert [counted, counted, CONTINUE] == _end_of_message(mta)
        mta.send(Q)
        mta.expect_close()
    assert 3 == len(made)


def test_15_executor_and_queue(live: Live) -> None:
    """Callbacks may hand work to a ThreadPoolExecutor, or to one database thread by a queue."""
    work: queue.Queue[Any] = queue.Queue()

    def database() -> None:
        while True:
            item = work.get()
            if item is None:
                return
            sender, reply = item
            reply.put(f"seen {sender}")

    worker = threading.Thread(target=database)
    worker.start()
    with ThreadPoolExecutor(2) as pool:

        class Mine(Milter.Base):
            def envfrom(self, f: str, *params: str) -> int:
                reply: queue.Queue[str] = queue.Queue()
                work.put((f, reply))
                self.text = reply.get(timeout=DEADLINE)
                self.future = pool.submit(lambda: f.upper())
                return Milter.CONTINUE

            def eom(self) -> int:
                self.addheader("X", self.text + self.future.result(DEADLINE))
                return Milter.CONTINUE

        live.filter(Mine)
        mta = live.mta()
        mta.play(M)
        assert [packet("h", b"X\0seen <a@b><A@B>\0"), CONTINUE] == _end_of_message(mta)
    work.put(None)
    worker.join(DEADLINE)


LOGGER_PROCESS = """
import multiprocessing, os, sys, threading
import Milter

def logger(queue, path):
    with open(path, "w") as file:
        for line in iter(queue.get, None):
            file.write(line + "\\n")
            file.flush()

class Mine(Milter.Base):
    def envfrom(self, f, *params):
        queue.put("mail from " + f)
        return Milter.CONTINUE

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    queue = context.Queue(20)
    process = context.Process(target=logger, args=(queue, sys.argv[2]))
    process.start()
    Milter.factory = Mine
    threading.Thread(target=lambda: (sys.stdin.read(), Milter.stop()), daemon=True).start()
    Milter.runmilter("x", sys.argv[1])
    queue.put(None)
    process.join(20)
    print("joined", process.exitcode, flush=True)
    os._exit(0)
"""


def test_15_logger_process(tmp_path: Path) -> None:
    """A multiprocessing logger started before runmilter gets what callbacks put into its queue."""
    path, log = tmp_path / "s", tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", LOGGER_PROCESS, f"unix:{path}", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )

    def listens() -> bool:
        # The path is there before that.
        try:
            Peer(str(path)).close()
        except OSError:
            return False
        return True

    try:
        wait_until(listens)
        with Peer(str(path)) as mta:
            mta.send(offer())
            assert "O" == mta.read_packet()[0]
            mta.play(M)
            wait_until(lambda: log.exists() and log.read_text() == "mail from <a@b>\n")
            mta.send(Q)
            mta.expect_close()
        out, _ = process.communicate("", timeout=DEADLINE)
        assert "joined 0\n" == out
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the logger as well, which has the pipe, too
        process.communicate()


# -- 16 ----------------------------------------------------------------------------------------


def test_16_macros_everywhere(live: Live) -> None:
    """Macros are asked for in any callback, with and without braces; CONNECT's in MAIL although
    the connect step was switched off; one that is missing is None."""
    seen: list[Any] = []

    class Mine(Milter.Base):
        def _look(self) -> int:
            seen.append(tuple(self.getsymval(n) for n in ("j", "{j}", "i", "{daemon_name}", "{x}")))
            return Milter.CONTINUE

        def envfrom(self, f: str, *params: str) -> int:
            return self._look()

        def header(self, field: str, value: str) -> int:
            return self._look()

        def abort(self) -> int:
            return self._look()

        def close(self) -> int:
            return self._look()

    live.filter(Mine)
    mta = live.mta()
    assert mta.options[2] & Milter.P_NOCONNECT
    mta.send(macros("C", ("j", "mx"), ("{daemon_name}", "dn")))
    mta.send(macros("M", ("i", "queue")))
    mta.play(M)
    mta.ask(L)
    mta.send(A)
    mta.play(packet("M", b"<x>\0"))
    mta.send(Q)
    mta.expect_close()
    assert {("mx", "mx", "queue", "dn", None)} == set(seen)
    assert 6 == len(seen)


def test_16_missing_macros(live: Live) -> None:
    """Without any macro every lookup is None."""
    seen: list[Any] = []

    class Mine(Milter.Base):
        def envfrom(self, f: str, *params: str) -> int:
            seen.append((self.getsymval("i"), self.getsymval("j")))
            return Milter.CONTINUE

    live.filter(Mine)
    live.mta().play(M)
    assert [(None, None)] == seen


# -- 17 ----------------------------------------------------------------------------------------


def test_17_decode(live: Live) -> None:
    """@decode('bytes') and @decode('replace') over the wire, the default beside them."""
    seen: list[Any] = []

    class Mine(Milter.Base):
        @Milter.decode("bytes")
        def envfrom(self, *args: Any) -> int:
            seen.append(args)
            return Milter.CONTINUE

        @Milter.decode("replace")
        def envrcpt(self, *args: Any) -> int:
            seen.append(args)
            return Milter.CONTINUE

        def header(self, *args: Any) -> int:
            seen.append(args)
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(packet("M", b"<\xe9>\0A=\xff\0"), packet("R", b"<\xe9>\0"), packet("L", b"X\0\xe9\0"))
    assert [(b"<\xe9>", b"A=\xff"), ("<\ufffd>",), ("X", "\udce9")] == seen


@pytest.mark.ours
def test_17_what_came_can_go_back(live: Live) -> None:
    """A HELO or host name that is not UTF-8 reaches the filter, and any value it got can be
    written into the message again."""

    class Mine(Milter.Base):
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            self.host = hostname
            return Milter.CONTINUE

        def hello(self, hostname: str) -> int:
            self.helo = hostname
            return Milter.CONTINUE

        def header(self, field: str, value: str) -> int:
            self.value = value
            return Milter.CONTINUE

        def eom(self) -> int:
            self.addheader("X", f"{self.host} {self.helo} {self.value}")
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(packet("C", b"h\xff\0U"), packet("H", b"\xe9\0"), M, packet("L", b"S\0\xfe\0"))
    assert [packet("h", b"X\0h\xff \xe9 \xfe\0"), CONTINUE] == _end_of_message(mta)


# -- 18 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "first"),
    [
        (b"4\x04\xd2192.0.2.1\0", "192.0.2.1"),
        (b"6\0\x19::1\0", "::1"),
        (b"L\0\0/run/x\0", "/"),
    ],
)
def test_18_hostaddr_is_indexed(live: Live, data: bytes, first: str) -> None:
    """`hostaddr[0]` is the address of an internet peer, and the first character of a path."""

    class Mine(Milter.Base):
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            self.ip = hostaddr[0]
            return Milter.CONTINUE

        def eom(self) -> int:
            self.addheader("X", self.ip)
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(packet("C", b"h\0" + data), M)
    assert [packet("h", b"X\0" + first.encode() + b"\0"), CONTINUE] == _end_of_message(mta)


def test_18_unknown_peer(live: Live) -> None:
    """An unknown peer's `hostaddr` is None: indexing it is the filter's exception."""

    class Mine(Milter.Base):
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            self.ip = hostaddr[0]
            return Milter.CONTINUE

    live.filter(Mine)
    live.mta().ask(
        packet("C", b"localhost\0U"),
        packet("y", b"451 4.3.0 pymilter: untrapped exception in compat\0"),
    )


# -- 19, 20 --------------------------------------------------------------------------------------


def test_19_headers(live: Live) -> None:
    """Headers are deleted by '' and None, counted from 1, 0 or down to 0, inserted at 0, and their
    values keep line breaks."""

    class Mine(Milter.Base):
        def eom(self) -> int:
            self.chgheader("X", 1, "")
            self.chgheader("X", 0, None)
            for i in range(2, -1, -1):
                self.chgheader("Y", i, "")
            self.addheader("Top", "t", 0)
            self.addheader("End", "e", -1)
            self.addheader("Fold", "a\n\tb")
            self.addheader("Fold", "a\r\n b")
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(M)
    assert [
        packet("m", b"\0\0\0\1X\0\0"),
        packet("m", b"\0\0\0\0X\0\0"),
        packet("m", b"\0\0\0\2Y\0\0"),
        packet("m", b"\0\0\0\1Y\0\0"),
        packet("m", b"\0\0\0\0Y\0\0"),
        packet("i", b"\0\0\0\0Top\0t\0"),
        packet("h", b"End\0e\0"),
        packet("h", b"Fold\0a\n\tb\0"),
        packet("h", b"Fold\0a\r\n b\0"),
        CONTINUE,
    ] == _end_of_message(mta)


@pytest.mark.parametrize("size", [4096, 8192, None])
def test_20_replacebody(live: Live, size: int | None) -> None:
    """The body is replaced in pieces or whole; each piece is a packet of its own, up to 65535."""
    body = b"0123456789abcde\n" * 5000
    step = size or len(body)

    class Mine(Milter.Base):
        def eom(self) -> int:
            for at in range(0, len(body), step):
                self.replacebody(body[at : at + step])
            return Milter.CONTINUE

    live.filter(Mine)
    mta = live.mta()
    mta.play(M)
    *pieces, verdict = _end_of_message(mta)
    assert CONTINUE == verdict
    packets = [body[at : at + min(step, 65535)] for at in range(0, len(body), min(step, 65535))]
    assert [packet("b", piece) for piece in packets] == pieces


# -- 21 ----------------------------------------------------------------------------------------


def test_21_names_that_leak() -> None:
    """Filters reach for these through the package."""
    assert Milter.milter is milter
    assert Milter.error is milter.error
    assert Milter.MODBODY == Milter.CHGBODY
    assert (1, 0, 1) == Milter.getversion()
    assert 2 == len(Milter.getdiag())
    assert Milter.setdbg(0) is None
    assert Milter.settimeout(7210) is None
    assert Milter.set_exception_policy(0) is None
    assert Milter.set_exception_policy(Milter.TEMPFAIL) is None
    assert {"SIZE": "1"} == Milter.param2dict(["SIZE=1"])


def test_21_names_of_both(tmp_path: Path) -> None:
    """`import milter, Milter` and `from milter import ACCEPT` stand side by side."""
    code = "import milter, Milter; from milter import ACCEPT; from Milter import Base, noreply"
    done = run_python(code + "; print(ACCEPT, Milter.ACCEPT, milter is Milter.milter)")
    assert ("", "3 3 True\n") == (done.stderr, done.stdout)


# -- 22 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "verdict", "command", "reply"),
    [
        ("data", Milter.REJECT, T, REJECT),
        ("connect", Milter.ACCEPT, C, ACCEPT),
        ("envrcpt", Milter.DISCARD, R, DISCARD),
        ("hello", Milter.DISCARD, H, DISCARD),
        pytest.param("envfrom", Milter.SKIP, M, CONTINUE, marks=pytest.mark.ours),
    ],
)
def test_22_verdicts_in_odd_places(
    live: Live, method: str, verdict: int, command: bytes, reply: bytes
) -> None:
    """Each is passed on, but SKIP outside the body, which an MTA need not understand."""
    cls = type("Mine", (Milter.Base,), {})

    def answer(self: Any, *args: Any) -> int:
        return verdict

    answer.__name__ = method
    setattr(cls, method, answer)
    live.filter(cls)
    mta = live.mta()
    for packet_ in (C, H, M, R, T):
        if packet_ == command:
            mta.ask(packet_, reply)
            break
        mta.ask(packet_)


def test_22_values_from_abort_and_close(live: Live) -> None:
    """abort and close may return anything, or nothing."""
    seen: list[str] = []

    class Mine(Milter.Base):
        def abort(self) -> Any:
            seen.append("abort")
            return Milter.REJECT

        def close(self) -> Any:
            seen.append("close")

    live.filter(Mine)
    mta = live.mta()
    mta.play(M)
    mta.send(A)
    mta.play(M)
    mta.half_close()
    assert b"" == mta.read_all()
    assert ["abort", "abort", "close"] == seen


# -- the environment -----------------------------------------------------------------------------

UMASK = """
import os, sys, threading
import Milter
os.umask(int(sys.argv[2], 8))
threading.Thread(target=lambda: (sys.stdin.read(), Milter.stop()), daemon=True).start()
Milter.factory = Milter.Base
Milter.runmilter("x", sys.argv[1])
"""


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o755), ("077", 0o700), ("0", 0o777)])
def test_13_umask(tmp_path: Path, umask: str, mode: int) -> None:
    """`os.umask` before runmilter sets the socket's mode."""
    path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", UMASK, f"unix:{path}", umask],
        stdin=subprocess.PIPE,
        env=environment(),
    )
    try:
        wait_until(path.exists)
        assert mode == stat.S_IMODE(path.stat().st_mode)
    finally:
        process.kill()
        process.communicate()


SETUID = """
import os, sys
import Milter
from Milter import milter
class Mine(Milter.Base):
    def hello(self, name):
        self.setreply("550", "5.7.1", "uid %d gid %d" % (os.getuid(), os.getgid()))
        return Milter.REJECT
Milter.factory = Mine
milter.set_connect_callback(Milter.connect_callback)
milter.set_helo_callback(lambda ctx, name: ctx.getpriv().hello(name))
milter.set_close_callback(Milter.close_callback)
milter.setconn(sys.argv[1])
milter.register("x", negotiate=Milter.negotiate_callback)
milter.opensocket(True)
os.setgid(65534)
os.setuid(65534)
print("open", flush=True)
milter.main()
print("stopped", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="not here: needs root to become somebody else")
def test_13_setuid_between_opensocket_and_main(tmp_path: Path) -> None:
    """A filter that gives up root after opensocket runs its callbacks as the other user, and an
    orderly stop is not an error although the socket's directory is not its own."""
    path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-c", SETUID, f"unix:{path}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        assert "open\n" == process.stdout.readline()
        with Peer(str(path)) as mta:
            mta.send(offer())
            assert "O" == mta.read_packet()[0]
            mta.ask(H, packet("y", b"550 5.7.1 uid 65534 gid 65534\0"))
            mta.send(Q)
            mta.expect_close()
        process.terminate()
        assert "stopped\n" == process.stdout.readline()
        assert 0 == process.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
