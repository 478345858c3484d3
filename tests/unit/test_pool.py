"""The pool: few threads, many connections; and the same with a thread per connection where it
applies.

What a filter may rely on is checked by filters themselves; what the MTA gets, byte by byte. That
the pool speaks the protocol is shown elsewhere: the conformance rows run in both modes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

import Milter
import milter
from harness import F, Peer, Run, macros, packet, running
from harness.packets import (
    CONTINUE,
    MESSAGE,
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
)
from Milter._server import Server

ROOT = Path(__file__).resolve().parents[2]

#: Seconds after which a wait has failed; generous, since it only bounds a test that hangs.
PATIENCE = 30.0

#: The NR bits of all steps but negotiate and end of message (wire spec 2.2).
NO_REPLIES = 0xFF080

TEMPFAILED = packet("y", b"451 4.3.0 pymilter: untrapped exception in F\0")


@pytest.fixture(params=[0, 8], ids=["thread", "pool"])
def threads(request: pytest.FixtureRequest) -> int:
    """How many threads of a pool serve: none, each connection has its own; or some."""
    return int(request.param)


def side_by_side(play: Callable[[int], None], count: int) -> None:
    """Call the function for each number in a thread of its own; raise what one of them raised."""
    with ThreadPoolExecutor(count) as executor:
        for done in [executor.submit(play, number) for number in range(count)]:
            done.result(3 * PATIENCE)


class Gate:
    """Where callbacks wait until the test lets them go."""

    def __init__(self) -> None:
        self._inside = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)

    def wait(self) -> None:
        """In a callback: wait."""
        self._inside.release()
        assert self._permits.acquire(timeout=3 * PATIENCE)

    def expect(self, count: int = 1) -> None:
        """Wait until so many callbacks more are inside."""
        for _ in range(count):
            assert self._inside.acquire(timeout=PATIENCE), "no callback has come"

    def open(self, count: int = 1) -> None:
        """Let so many go."""
        for _ in range(count):
            self._permits.release()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open for all when the test is over, so that a failure shows at once."""
    made = Gate()
    yield made
    made.open(1000)


def blocks(gate: Gate, name: str = "block") -> Callable[..., None]:
    """A helo callback that waits at the gate if the client has that name."""

    def helo(ctx: Any, hello: str) -> None:
        if hello == name:
            gate.wait()

    return helo


BLOCK = packet("H", b"block\0")


# -- callbacks that take their time ----------------------------------------------------------------


def test_callbacks_that_sleep(threads: int) -> None:
    """Callbacks that sleep do so side by side, as many as there are threads at most."""
    lock = threading.Lock()
    inside: set[int] = set()
    most: list[int] = [0]

    def sleep(ctx: Any, *args: Any) -> None:
        with lock:
            inside.add(id(ctx))
            most.append(len(inside))
        time.sleep(0.03)
        with lock:
            inside.remove(id(ctx))

    with running(F(returns={"helo": sleep, "eom": sleep}), threads=threads) as run:
        peers = [run.mta() for _ in range(20)]

        def play(number: int) -> None:
            for _ in range(3):
                peers[number].play(H, *MESSAGE)

        side_by_side(play, len(peers))
    assert 60 == run.names().count("eom")
    assert 1 < max(most) <= (threads or 20)


def test_callbacks_that_compute(threads: int) -> None:
    """Callbacks that hold the interpreter's lock for 50 ms each harm nobody: all come through,
    those that do nothing long before."""
    go_on = True

    def compute(ctx: Any, *args: Any) -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            sum(range(500))

    with running(F(returns={"eoh": compute}), threads=threads) as run:
        busy = [run.mta() for _ in range(4)]
        quick = run.mta()

        def play(number: int) -> None:
            busy[number].play(*MESSAGE)
            while go_on:
                busy[number].play(*MESSAGE)

        with ThreadPoolExecutor(4) as executor:
            played = [executor.submit(play, number) for number in range(4)]
            try:
                for _ in range(10):
                    quick.play(H, M)
                    quick.send(A)
            finally:
                go_on = False
            for each in played:
                each.result(PATIENCE)
    assert 10 == run.names().count("abort")
    assert run.names().count("eom") == run.names().count("eoh") >= 4


def test_callbacks_that_wait_for_other_connections() -> None:
    """A semaphore taken in MAIL and given back at the end of the message, with fewer permits than
    connections and fewer callbacks blocked than threads: all messages come through."""
    semaphore = threading.Semaphore(3)
    held: list[int] = []
    most: list[int] = []
    first_three = threading.Barrier(3)

    def mail(ctx: Any, *args: Any) -> None:
        assert semaphore.acquire(timeout=PATIENCE)
        held.append(1)
        most.append(len(held))
        if len(most) <= 3:
            first_three.wait(PATIENCE)

    def eom(ctx: Any) -> None:
        held.pop()
        semaphore.release()

    with running(F(returns={"mail": mail, "eom": eom}), threads=10) as run:
        peers = [run.mta() for _ in range(12)]

        def play(number: int) -> None:
            for _ in range(5):
                peers[number].play(*MESSAGE)

        side_by_side(play, len(peers))
    assert 60 == run.names().count("eom")
    assert 3 == max(most)
    assert [] == run.messages()


@pytest.mark.parametrize("size", [0, 1, 8])
def test_a_blocked_callback_keeps_no_answer_back(gate: Gate, size: int) -> None:
    """What was answered before a callback blocks goes out, even if no thread is left; where there
    are threads, everybody is answered."""
    early = 0
    with running(F(returns={"helo": blocks(gate)}), threads=size) as run:
        for turn in range(20):
            first, blocked, second = run.mta(), run.mta(), run.mta()
            senders = [b"<%d-%d>" % (turn, number) for number in range(2)]
            # Written at once, so that one look at the sockets finds several of them.
            first.send(packet("M", senders[0] + b"\0"))
            blocked.send(BLOCK)
            second.send(packet("M", senders[1] + b"\0"))
            gate.expect()
            late = []
            for peer, sender in zip((first, second), senders):
                if size != 1 or (sender,) in run.args("mail"):
                    peer.expect(CONTINUE)
                    early += 1
                else:
                    late.append(peer)
            gate.open()
            for peer in (blocked, *late):
                peer.expect(CONTINUE)
            for peer in (first, second, blocked):
                peer.close()
    assert early > 0


def exhausted(run: Run) -> list[str]:
    """The warnings that all threads are busy."""
    return [line for line in run.messages() if "threads have been busy" in line]


def test_all_threads_blocked(gate: Gate) -> None:
    """With all threads blocked others wait, and the log says so, once, with the callbacks' names.
    It goes on when one callback returns, the others still blocked."""

    def mail(ctx: Any, *args: Any) -> None:
        gate.wait()

    with running(F(returns={"helo": blocks(gate), "mail": mail}), threads=3) as run:
        one, two, three, waits = (run.mta() for _ in range(4))
        one.send(M)
        two.send(M)
        three.send(BLOCK)
        gate.expect(3)
        waits.send(H)
        run.wait_for(lambda: exhausted(run) != [])
        assert [
            "F: all 3 threads have been busy for a while, and connections wait; they are in "
            "2 x envfrom, 1 x helo; more threads may help (docs/pool.md)"
        ] == exhausted(run)
        assert 1 == run.names().count("helo")
        gate.open()
        waits.expect(CONTINUE)
        waits.play(H)
        # Blocked again, for longer than it took the warning to come: not twice in a minute.
        waits.send(BLOCK)
        gate.expect()
        late = run.connect()
        late.send(OFFER)
        late.expect_nothing(2.5)
        assert 1 == len(exhausted(run))
        gate.open(3)
        for peer in (one, two, three, waits):
            peer.expect(CONTINUE)
        assert "O" == late.read_packet()[0]


def test_callbacks_that_block_for_long_are_no_matter_of_the_log(gate: Gate) -> None:
    """Nothing is said where all threads are blocked but nobody waits."""
    with running(F(returns={"helo": blocks(gate)}), threads=2) as run:
        peers = [run.mta(), run.mta()]
        for peer in peers:
            peer.send(BLOCK)
        gate.expect(2)
        peers[0].expect_nothing(1.5)
        assert [] == run.messages()
        gate.open(2)
        for peer in peers:
            peer.expect(CONTINUE)


def test_one_thread(gate: Gate) -> None:
    """A pool of one serves many connections in turn; while its callback blocks, all wait."""
    with running(F(returns={"helo": blocks(gate)}), threads=1) as run:
        peers = [run.mta() for _ in range(10)]
        for command in MESSAGE:
            for peer in peers:
                peer.ask(command)
        assert ["F-1"] == run.threads()
        peers[0].send(BLOCK)
        gate.expect()
        peers[1].send(M)
        peers[1].expect_nothing()
        gate.open()
        peers[1].expect(CONTINUE)
        peers[0].expect(CONTINUE)
        assert ["F-1"] == run.threads()
    assert 10 == run.names().count("eom")


def test_no_more_threads_than_asked_for(gate: Gate) -> None:
    """However many connections and blocked callbacks, there are N threads, and one where none
    blocks."""
    with running(F(returns={"helo": blocks(gate)}), threads=4) as run:
        peers = [run.mta() for _ in range(12)]
        for _ in range(3):
            for peer in peers:
                peer.send(BLOCK)
            gate.expect(4)
            assert 4 == len(run.threads())
            gate.open(12)
            gate.expect(8)
            for peer in peers:
                peer.expect(CONTINUE)
        assert 4 == len(run.threads())
    run.wait_for(lambda: run.threads() == [])


# -- order -----------------------------------------------------------------------------------------


class Witness(Milter.Base):
    """A filter that sees for itself that its callbacks come one at a time, and in order."""

    made: list[Witness] = []
    complaints: list[str] = []

    def __init__(self) -> None:
        self.inside = False
        self.count = 0
        self.seen: list[str] = []
        self.threads: set[int] = set()
        self.random = random.Random(len(self.made))
        self.made.append(self)

    def step(self, name: str) -> int:
        """What each callback does."""
        before = self.count
        if self.inside:
            self.complaints.append(f"{name} while another runs, after {self.seen}")
        self.inside = True
        self.seen.append(f"<{name}")
        self.threads.add(threading.get_ident())
        pause = self.random.random()
        if pause < 0.2:
            time.sleep(pause / 100)  # up to 2 ms, around the time at which another takes over
        if before != self.count:
            self.complaints.append(f"{name}: the count has changed meanwhile")
        self.count = before + 1
        self.seen.append(f"{name}>")
        self.inside = False
        return Milter.CONTINUE

    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        return self.step("connect")

    def hello(self, hostname: str) -> int:
        return self.step("helo")

    def envfrom(self, sender: str, *params: str) -> int:
        return self.step("mail")

    def envrcpt(self, recipient: str, *params: str) -> int:
        return self.step("rcpt")

    def data(self) -> int:
        return self.step("data")

    def header(self, name: str, value: str) -> int:
        return self.step("header")

    def eoh(self) -> int:
        return self.step("eoh")

    def body(self, chunk: bytes) -> int:
        return self.step("body")

    def eom(self) -> int:
        return self.step("eom")

    def close(self) -> int:
        return self.step("close")


class SilentWitness(Witness):
    """The same, of which no reply is expected before the end of the message."""

    @Milter.noreply
    def envfrom(self, sender: str, *params: str) -> int:
        return self.step("mail")

    @Milter.noreply
    def envrcpt(self, recipient: str, *params: str) -> int:
        return self.step("rcpt")

    @Milter.noreply
    def data(self) -> int:
        return self.step("data")

    @Milter.noreply
    def header(self, name: str, value: str) -> int:
        return self.step("header")

    @Milter.noreply
    def eoh(self) -> int:
        return self.step("eoh")

    @Milter.noreply
    def body(self, chunk: bytes) -> int:
        return self.step("body")


class Running:
    """`Milter.runmilter` in a thread of this process, and what it logs."""

    def __init__(self, factory: Any, **keywords: Any) -> None:
        self.directory = tempfile.mkdtemp(prefix="mlp")
        self.path = os.path.join(self.directory, "s")
        self.lines: list[str] = []
        self.failure: Optional[BaseException] = None
        self.peers: list[Peer] = []
        Milter.factory = factory
        self._thread = threading.Thread(target=self._main, kwargs=keywords, daemon=True)
        self._thread.start()

    def _main(self, **keywords: Any) -> None:
        try:
            Milter.runmilter("F", "unix:" + self.path, **keywords)
        except BaseException as failure:
            self.failure = failure

    def mta(self, *commands: bytes) -> Peer:
        """A connection after the handshake, on which these were answered CONTINUE."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                peer = Peer(self.path)
                break
            except OSError:
                assert self.failure is None, self.failure
                assert time.monotonic() < deadline
                time.sleep(0.005)
        self.peers.append(peer)
        peer.send(OFFER)
        assert "O" == peer.read_packet()[0]
        peer.play(*commands)
        return peer

    def stop(self) -> None:
        """Stop it, and wait until runmilter returns."""
        for peer in self.peers:
            peer.close()
        Milter.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert self.failure is None, self.failure


@contextlib.contextmanager
def runmilter(factory: Any, **keywords: Any) -> Iterator[Running]:
    """Run a filter of package Milter while the block runs."""
    before = Milter.factory
    made = Running(factory, **keywords)
    try:
        yield made
    finally:
        made.stop()
        Milter.factory = before


@pytest.mark.parametrize("kind", [Witness, SilentWitness])
@pytest.mark.parametrize("size", [0, 1, 3, 8])
def test_order_under_load(kind: type[Witness], size: int) -> None:
    """Callbacks of a connection come one at a time, in order, each seeing what the one before
    wrote, whichever thread runs them, with dialogues and with messages written in one go."""
    kind.made, kind.complaints = [], []
    silent = kind is SilentWitness
    with runmilter(kind, threads=size) as filter_:
        peers = [filter_.mta() for _ in range(12)]

        def play(number: int) -> None:
            peer = peers[number]
            peer.play(C, H)
            for turn in range(6):
                if silent:
                    # In one go, or with an end of the packet's and a beginning of the next.
                    peer.send_cut(b"".join(MESSAGE), [23] if turn % 2 else [])
                    peer.expect(CONTINUE)
                elif turn % 2:
                    peer.send(*MESSAGE)
                    peer.expect(*[CONTINUE] * len(MESSAGE))
                else:
                    peer.play(*MESSAGE)
            peer.send(Q)
            peer.expect_close()

        side_by_side(play, len(peers))
    expected = ["connect", "helo", *MESSAGE_NAMES * 6, "close"]
    assert [] == kind.complaints
    assert 12 == len(kind.made)
    for each in kind.made:
        assert [mark for name in expected for mark in (f"<{name}", f"{name}>")] == each.seen
        assert len(expected) == each.count
    used = {thread for each in kind.made for thread in each.threads}
    assert len(used) <= (size or 12)
    if size == 0:
        assert {1} == {len(each.threads) for each in kind.made}


@pytest.mark.parametrize("size", [0, 1, 4])
def test_fairness(size: int) -> None:
    """A connection that always has something ready does not starve others."""
    stop = threading.Event()
    counted: list[int] = []

    def helo(ctx: Any, name: str) -> None:
        counted.append(1)

    def negotiate(ctx: Any, opts: list[int]) -> None:
        opts[0:2] = [0x1FF, 0x2000]  # no reply to HELO

    spec = F(negotiate=negotiate, returns={"helo": helo}, record=False)
    with running(spec, threads=size) as run:
        greedy, others = run.mta(), [run.mta() for _ in range(3)]
        greedy.patience = 0.2

        def flood() -> None:
            data = H * 2000
            greedy.socket.settimeout(PATIENCE)
            while not stop.is_set():
                greedy.socket.sendall(data)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            run.wait_for(lambda: len(counted) > 5000)
            before = len(counted)
            rounds = 0
            # For so long that there was something ready: else nobody could starve.
            while rounds < 10 or len(counted) == before:
                for other in others:
                    other.play(*MESSAGE)
                rounds += 1
            # New ones are let in, too.
            run.mta().play(C)
        finally:
            stop.set()
            flooding.join(PATIENCE)


@pytest.mark.parametrize("size", [1, 4])
def test_turns(size: int) -> None:
    """What comes for another connection while one has a lot to do is not left until all of that is
    done: it waits for 16 batches of 64 events at most."""
    counted = 0
    written = 0
    waited: list[int] = []

    def helo(ctx: Any, name: str) -> None:
        nonlocal counted, written
        counted += 1
        if counted % 8000 == 1000 and len(waited) < 9:
            written = counted
            other.send(M)

    def mail(ctx: Any, *args: Any) -> None:
        waited.append(counted - written)

    def negotiate(ctx: Any, opts: list[int]) -> None:
        opts[0:2] = [0x1FF, 0x2000]  # no reply to HELO

    spec = F(negotiate=negotiate, returns={"helo": helo, "mail": mail}, record=False)
    with running(spec, threads=size) as run:
        greedy, other = run.mta(), run.mta()
        while len(waited) < 9:
            greedy.socket.sendall(H * 8000)
        # The median: a write into the very last batch would wait less, a busy machine more.
        assert sorted(waited)[4] <= 2 * 16 * 64


def test_a_peer_that_does_not_read(threads: int) -> None:
    """A body of 10 MB for a peer that does not read it stops nobody else, not even in a pool of
    one; when the peer reads, it gets all of it."""
    body = bytes(range(256)) * 4 * 10240

    def eom(ctx: Any) -> None:
        if ctx.getpriv():
            ctx.replacebody(body)

    def helo(ctx: Any, name: str) -> None:
        ctx.setpriv(name == "large")

    spec = F(returns={"eom": eom, "helo": helo})
    with running(spec, threads=min(threads, 1)) as run:
        deaf = run.mta()
        deaf.play(packet("H", b"large\0"), M, R, T, L, N, B)
        deaf.send(E)
        run.wait_for(lambda: "eom" in run.names())
        others = [run.mta() for _ in range(3)]
        for _ in range(3):
            for other in others:
                other.play(H, *MESSAGE)
        got = []
        while True:
            letter, data = deaf.read_packet()
            if letter == "c":
                break
            assert letter == "b"
            assert 0 < len(data) <= 65535
            got.append(data)
        assert body == b"".join(got)
        deaf.play(*MESSAGE[:3])
        assert [] == run.messages()


def test_packets_that_come_in_pieces(threads: int) -> None:
    """Connections that have sent half a packet keep no thread and no others; what the pieces say
    is put together per connection."""
    with running(threads=min(threads, 1)) as run:
        peers = [run.mta() for _ in range(8)]
        commands = [packet("H", b"%d" % n + b"x" * 3000 + b"\0") for n in range(8)]
        for cut in (2, 5, 1000, 2999):
            for peer, command in zip(peers, commands):
                peer.send(command[:cut])
            run.mta().play(*MESSAGE)
            for peer, command in zip(peers, commands):
                peer.send(command[cut:])
            for peer in reversed(peers):
                peer.expect(CONTINUE)
        names = {name for (name,) in run.args("helo")}
        assert {f"{n}" + "x" * 3000 for n in range(8)} == names
        assert 32 == len(run.args("helo"))


# -- what a filter does ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4])
def test_connections_are_kept_apart(size: int) -> None:
    """Macros, private data, actions and replies are each connection's own, in a thread that works
    for many in turn; so is what a second session of a connection starts with."""
    seen: dict[str, list[Any]] = {}

    def connect(ctx: Any, host: str, *args: Any) -> None:
        assert ctx.getpriv() is None
        ctx.setpriv(host)

    def rcpt(ctx: Any, address: bytes) -> int:
        host = ctx.getpriv()
        seen.setdefault(host, []).append((ctx.getsymval("i"), ctx.getsymval("{rcpt}"), address))
        if address == b"<bad>":
            ctx.setreply("550", "5.7.1", f"not from {host}")
            return 1
        return 0

    def eom(ctx: Any) -> None:
        ctx.addheader("X-From", ctx.getpriv())
        ctx.addheader("X-Id", ctx.getsymval("i"))

    spec = F(returns={"connect": connect, "rcpt": rcpt, "eom": eom})
    with running(spec, threads=size) as run:
        peers = [run.mta() for _ in range(6)]
        for turn in range(2):
            hosts = [f"h{turn}{n}" for n in range(6)]
            for peer, host in zip(peers, hosts):
                peer.ask(packet("C", host.encode() + b"\0U"))
            for peer, host in zip(peers, hosts):
                peer.send(macros("M", ("i", "id-" + host)))
                peer.ask(M)
            for peer, host in zip(peers, hosts):
                peer.send(macros("R", ("{rcpt}", "1-" + host)))
                peer.ask(R)
            for peer, host in zip(peers, hosts):
                peer.send(macros("R", ("{rcpt}", "2-" + host)))
                reply = packet("y", b"550 5.7.1 not from %s\0" % host.encode())
                peer.ask(packet("R", b"<bad>\0"), reply)
            for peer, host in zip(peers, hosts):
                text = host.encode()
                peer.play(T, L, N, B)
                added = packet("h", b"X-From\0%s\0" % text), packet("h", b"X-Id\0id-%s\0" % text)
                peer.ask(E, *added, CONTINUE)
            for peer in peers:
                peer.send(K)
    for turn in range(2):
        for n in range(6):
            host = f"h{turn}{n}"
            first = (f"id-{host}", f"1-{host}", b"<c@d>")
            assert [first, (f"id-{host}", f"2-{host}", b"<bad>")] == seen[host]
    assert [] == run.messages()


def test_progress_from_a_slow_end_of_message(gate: Gate, threads: int) -> None:
    """progress() reaches the MTA while the callback is still at work, and actions come after it."""

    def eom(ctx: Any) -> None:
        ctx.progress()
        gate.wait()
        ctx.addheader("X", "y")
        ctx.progress()
        gate.wait()

    with running(F(returns={"eom": eom}), threads=threads) as run:
        mta, other = run.mta(), run.mta()
        mta.play(*MESSAGE[:-1])
        mta.send(E)
        gate.expect()
        mta.expect(packet("p"))
        other.play(C, H, M)
        gate.open()
        gate.expect()
        mta.expect(packet("h", b"X\0y\0"), packet("p"))
        gate.open()
        mta.expect(CONTINUE)


def test_the_context_in_another_thread(threads: int) -> None:
    """A callback may have another thread use its context meanwhile."""
    seen: list[Any] = []

    def eom(ctx: Any) -> None:
        with ThreadPoolExecutor(1) as executor:
            seen.append(executor.submit(ctx.getsymval, "i").result(PATIENCE))
            executor.submit(ctx.addheader, "X", "y").result(PATIENCE)

    with running(F(returns={"eom": eom}), threads=threads) as run:
        mta = run.mta()
        mta.send(macros("M", ("i", "queue-id")))
        mta.play(*MESSAGE[:-1])
        mta.ask(E, packet("h", b"X\0y\0"), CONTINUE)
    assert ["queue-id"] == seen


@pytest.mark.parametrize("failure", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt()])
def test_failures(capfd: pytest.CaptureFixture[str], failure: BaseException, threads: int) -> None:
    """What a callback raises, SystemExit too, is answered by the exception policy; the connection,
    the others and the threads go on."""

    def fail(ctx: Any, *args: Any) -> None:
        raise failure

    with running(F(returns={"rcpt": fail}), threads=threads) as run:
        mta, other = run.mta(), run.mta()
        other.play(M)
        before = run.threads()
        for _ in range(10):
            mta.play(M)
            mta.ask(R, TEMPFAILED)
            mta.send(A)
        # Printing the traceback may take long enough for one more to be started.
        assert set(before) <= set(run.threads())
        assert len(run.threads()) <= (threads or 32)
        other.play(H, M)
    assert 10 == len(run.messages(logging.ERROR))
    assert run.messages(logging.ERROR)[0].endswith(f"the envrcpt callback failed: {failure!r}")
    assert type(failure).__name__ in capfd.readouterr().err


def test_contexts_are_freed(threads: int) -> None:
    """When connections have ended, their contexts and the filter's objects are gone; and no thread
    was added for them."""

    class Value:
        pass

    refs: list[Any] = []

    def connect(ctx: Any, *args: Any) -> None:
        value = Value()
        refs.append(weakref.ref(value))
        ctx.setpriv(value)

    gc.collect()
    made, deleted = milter.getdiag()
    with running(F(returns={"connect": connect}, record=False), threads=threads) as run:
        for n in range(60):
            mta = run.mta()
            mta.play(C, *(MESSAGE if n % 3 else [M]))
            if n % 2:
                mta.send(Q)
                mta.expect_close()
            mta.close()

        def all_gone() -> bool:
            gc.collect()
            return milter.getdiag()[1] == deleted + 60

        run.wait_for(all_gone)
        assert made + 60 == milter.getdiag()[0]
        assert [None] * 60 == [ref() for ref in refs]
        if threads:
            assert len(run.threads()) <= threads


# -- stop ------------------------------------------------------------------------------------------


def listens(run: Run) -> bool:
    """Whether a connection is still let in."""
    try:
        Peer(run.address).close()
    except OSError:
        return False
    return True


def join(run: Run) -> None:
    """Wait until main() has returned."""
    assert run._thread is not None
    run._thread.join(PATIENCE)
    assert not run._thread.is_alive(), "main() does not return"


def test_stop_and_drain(gate: Gate, threads: int) -> None:
    """After stop(), while a callback blocks: idle connections end, nobody is let in, messages that
    have begun go on to their end, and main() returns when the last has."""
    with running(F(returns={"helo": blocks(gate)}), drain=60, threads=threads) as run:
        blocked, idle, begun = run.mta(), run.mta(), run.mta()
        begun.play(M)
        idle.play(C)
        blocked.send(BLOCK)
        gate.expect()
        run.server.stop()
        run.server.stop()
        idle.expect_close()
        run.wait_for(lambda: not listens(run))
        begun.play(R, T, L, N, B, E)
        begun.expect_close()
        assert run._thread is not None
        assert run._thread.is_alive()
        gate.open()
        blocked.expect(CONTINUE)
        blocked.expect_close()
        join(run)
        run.wait_for(lambda: run.threads() == [])
    assert ["close"] * 3 == [name for name in run.names() if name == "close"]
    assert "abort" not in run.names()
    assert [] == run.messages()


def test_stop_and_cut(gate: Gate, threads: int) -> None:
    """When the drain is over, what is still open is cut: a message that waits gets its abort and
    close, and main() does not wait for a callback that blocks. That one's abort and close come when
    it returns."""
    spec = F(returns={"rcpt": lambda ctx, *args: gate.wait()})
    with running(spec, drain=0.2, threads=threads) as run:
        blocked, begun = run.mta(), run.mta()
        blocked.play(M)
        blocked.send(R)
        gate.expect()
        begun.play(M)
        run.server.stop()
        begun.expect_close()
        join(run)
        # It gives them half a second; on a busy machine they take longer.
        run.wait(["mail", "rcpt", "mail", "abort", "close"])
        assert ["F: cutting off 2 connections"] == run.messages()
        gate.open()
        run.wait(["mail", "rcpt", "mail", "abort", "close", "abort", "close"])
        run.wait_for(lambda: run.threads() == [])


def test_stop_with_all_threads_blocked(gate: Gate) -> None:
    """A stop does not depend on a thread being free: main() returns, and what waits is ended when
    one is."""
    with running(F(returns={"helo": blocks(gate)}), drain=0.2, threads=2) as run:
        peers = [run.mta(), run.mta()]
        begun = run.mta()
        begun.play(M)
        for peer in peers:
            peer.send(BLOCK)
        gate.expect(2)
        begun.send(R)
        run.server.stop()
        join(run)
        gate.open(2)
        run.wait_for(lambda: run.names().count("close") == 3)
        run.wait_for(lambda: run.threads() == [])


@pytest.mark.parametrize("size", [0, 1, 8])
def test_main_again(size: int) -> None:
    """main() serves again after a stop; a stop before main() has the next one return at once."""
    server = Server(flags=0x1FF)
    seen: list[str] = []
    server.set_helo_callback(lambda ctx, name: seen.append(name) or 0)
    server.register("F")
    failures: list[BaseException] = []

    def main() -> None:
        try:
            server.main(threads=size)
        except BaseException as failure:
            failures.append(failure)

    with tempfile.TemporaryDirectory(prefix="mlp") as directory:
        server.setconn(f"unix:{directory}/s")
        for turn in range(4):
            server.opensocket(False)
            if turn == 2:
                server.stop()
            thread = threading.Thread(target=main, daemon=True)
            thread.start()
            if turn != 2:
                with Peer(f"{directory}/s") as peer:
                    peer.send(OFFER)
                    assert "O" == peer.read_packet()[0]
                    peer.ask(packet("H", b"%d\0" % turn))
                    server.stop()
                    peer.expect_close()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            assert [] == failures
    assert ["0", "1", "3"] == seen


def test_stop_while_main_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop() that comes just before the pool is made has main() return, without an error."""
    from Milter import _server

    real = _server.Pool
    server = Server()
    server.register("F")

    def stopped_first(*args: Any) -> Any:
        server.stop()
        return real(*args)

    monkeypatch.setattr(_server, "Pool", stopped_first)
    with tempfile.TemporaryDirectory(prefix="mlp") as directory:
        server.setconn(f"unix:{directory}/s")
        assert server.main(threads=2) is None


def test_stop_while_connections_come_and_go(threads: int) -> None:
    """However a stop falls together with connections that begin, talk and end, main() returns and
    every connection that was told of is told its end."""
    for turn in range(15):
        with running(threads=threads) as run:
            gone = threading.Event()

            def come_and_go(run: Run = run, gone: threading.Event = gone) -> None:
                while not gone.is_set():
                    try:
                        with Peer(run.address, patience=5) as peer:
                            peer.send(OFFER, C, H, M)
                            peer.read(32)  # the offer's reply, and three
                    except OSError:
                        return

            clients = [threading.Thread(target=come_and_go) for _ in range(3)]
            for client in clients:
                client.start()
            run.wait_for(lambda run=run, turn=turn: len(run.calls) > turn)  # type: ignore[misc]
            run.server.stop()
            join(run)
            gone.set()
            for client in clients:
                client.join(PATIENCE)
            sessions = run.sessions()
            assert [] == [names for names in sessions if names[-1] != "close"]
            assert [] == [names for names in sessions if names.count("close") != 1]
            assert [] == run.messages()


# -- settings --------------------------------------------------------------------------------------


def started(run: Run) -> list[str]:
    """What the log says of a pool at the start."""
    return [text for text in run.messages(0) if "threads serve all connections" in text]


@pytest.mark.parametrize(
    ("value", "keyword", "size"),
    [
        (None, None, 0),
        ("", None, 0),
        ("0", None, 0),
        ("5", None, 5),
        ("007", None, 7),
        ("5", 0, 0),
        ("5", 3, 3),
        ("no number", 3, 3),
        (None, 3, 3),
    ],
)
def test_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, value: Optional[str], keyword: Optional[int], size: int
) -> None:
    """MILTER_THREADS counts where there is no keyword. The pool says once, at its start, how many
    threads it has and what a filter cannot rely on."""
    if value is None:
        monkeypatch.delenv("MILTER_THREADS", raising=False)
    else:
        monkeypatch.setenv("MILTER_THREADS", value)
    with running(threads=keyword) as run:
        for _ in range(3):
            run.mta().play(*MESSAGE)
        said = started(run)
        assert (1 if size else 0) == len(said)
        if size:
            assert said[0].startswith(f"F: up to {size} threads serve all connections: ")
            assert "thread-locals, SQLite handles and locks" in said[0]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", " 4", "\u0664", "10001", "9" * 30])
def test_bad_number_of_threads(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What is no number of threads is refused by name, and nothing is served."""
    monkeypatch.setenv("MILTER_THREADS", value)
    server = Server()
    server.register("F")
    with tempfile.TemporaryDirectory(prefix="mlp") as directory:
        server.setconn(f"unix:{directory}/s")
        with pytest.raises(milter.error) as caught:
            server.main()
    assert (
        "cannot run main: MILTER_THREADS must be a whole number from 0 to 10000, "
        f"not {value!r}" == str(caught.value)
    )


@pytest.mark.parametrize("value", [-1, 10001, "x", 1.5])
def test_bad_keyword(value: Any) -> None:
    """So is a wrong keyword, by its own name."""
    server = Server()
    server.register("F")
    with tempfile.TemporaryDirectory(prefix="mlp") as directory:
        server.setconn(f"unix:{directory}/s")
        with pytest.raises(milter.error, match=r"^cannot run main: threads must be a whole number"):
            server.main(threads=value)
        server.setconn(f"unix:{directory}/s")


def test_runmilter(caplog: pytest.LogCaptureFixture) -> None:
    """runmilter(threads=N) runs the filter in the pool; without, it does not, also afterwards."""
    caplog.set_level(logging.INFO, "Milter")
    said = []
    for keywords in ({}, {"threads": 2}, {}):
        caplog.clear()
        with runmilter(Milter.Base, **keywords) as filter_:
            filter_.mta(C, H, M)
            said.append([text for text in caplog.messages if "up to 2 threads" in text])
    assert [0, 1, 0] == [len(lines) for lines in said]


# -- processes -------------------------------------------------------------------------------------

PROGRAM = """
import os, resource, subprocess, sys, threading, time, warnings
import Milter

def say(*words):
    print(*words, flush=True)

def kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024

class Mine(Milter.Base):
    pass

"""


class Program:
    """A filter in a process of its own."""

    def __init__(self, body: str, size: int) -> None:
        self.directory = tempfile.mkdtemp(prefix="mlp")
        self.path = os.path.join(self.directory, "s")
        run = "Milter.factory = Mine\nsay('end', Milter.runmilter('x', sys.argv[1], drain=60))\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + body + run, "unix:" + self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=dict(os.environ, PYTHONPATH=str(ROOT), MILTER_THREADS=str(size)),
        )
        self._watchdog = threading.Timer(30 * PATIENCE, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def ask(self) -> str:
        """Send it a line, and return the one that it prints."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return self.line()

    def mta(self, *commands: bytes) -> Peer:
        """A connection after the handshake, on which these were answered CONTINUE."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                peer = Peer(self.path, patience=PATIENCE)
                break
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
        peer.send(OFFER)
        assert "O" == peer.read_packet()[0]
        peer.play(*commands)
        return peer

    def end(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(PATIENCE)
        self.close()
        return status

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._watchdog.cancel()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Callable[[str, int], Program]]:
    """Start programs; they end with the test."""
    made: list[Program] = []

    def function(body: str, size: int) -> Program:
        made.append(Program(body, size))
        return made[-1]

    yield function
    for program in made:
        program.close()


FORKS = """
warnings.simplefilter("ignore", DeprecationWarning)  # about fork and threads, which is the subject
class Mine(Milter.Base):
    def envfrom(self, sender, *params):
        done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], stdout=subprocess.PIPE)
        say("subprocess", done.returncode, done.stdout.decode().strip())
        child = os.fork()
        if child == 0:
            os.execv("/bin/sh", ["sh", "-c", "exit 7"])
        say("exec", os.WEXITSTATUS(os.waitpid(child, 0)[1]))
        child = os.fork()
        if child == 0:
            os._exit(5)
        say("fork", os.WEXITSTATUS(os.waitpid(child, 0)[1]))
        return Milter.CONTINUE
    def eom(self):
        return Milter.CONTINUE
"""


def test_a_callback_that_forks(start: Callable[[str, int], Program], threads: int) -> None:
    """A callback may run programs and fork; the filter serves on, and stops as always."""
    program = start(FORKS, threads)
    peers = [program.mta(C, H) for _ in range(3)]
    for _ in range(2):
        for peer in peers:
            peer.ask(M)
            assert ["subprocess 0 42", "exec 7", "fork 5"] == [program.line() for _ in range(3)]
            peer.play(R, T, L, N, B, E)
    for peer in peers:
        peer.close()
    program.process.terminate()
    assert "end None" == program.line()
    assert 0 == program.end()


FORKS_AND_COMES_BACK = """
warnings.simplefilter("ignore", DeprecationWarning)
import atexit
atexit.register(lambda: say("atexit"))
class Mine(Milter.Base):
    def child(self, work):
        child = os.fork()
        if child == 0:
            say("child")
            return work()
        # Before the parent's own answer, so that a second one would come first.
        say("status", os.WEXITSTATUS(os.waitpid(child, 0)[1]))
        return Milter.CONTINUE
    def envfrom(self, sender, *params):
        return self.child(sys.exit)
    def envrcpt(self, recipient, *params):
        return self.child(lambda: sys.exit(9))
    def data(self):
        return self.child(lambda: 1 / 0)
    @Milter.noreply
    def header(self, name, value):
        return self.child(lambda: Milter.CONTINUE)
    def eom(self):
        return self.child(lambda: Milter.REJECT)
"""


def test_a_child_comes_back(start: Callable[[str, int], Program], threads: int) -> None:
    """A child that returns from the callback which forked it, raises or calls sys.exit() ends, as
    by then it has nothing to say to the mail server: the only answer is its parent's."""
    program = start(FORKS_AND_COMES_BACK, threads)
    mta = program.mta(C, H)
    for commands, statuses in (([M], [0]), ([R], [9]), ([T], [1]), ([L, L, E], [0, 0, 0])):
        mta.send(*commands)
        for status in statuses:
            assert ["child", "atexit", f"status {status}"] == [program.line() for _ in range(3)]
        mta.expect(b"\0\0\0\1c")
    mta.send(Q)
    assert b"" == mta.read_all()
    mta.close()
    program.process.terminate()
    assert ["end None", "atexit"] == [program.line(), program.line()]
    assert 0 == program.end()


def test_signals(start: Callable[[str, int], Program], threads: int) -> None:
    """SIGTERM lets a message that has begun go on, for as long as the drain says; a second one does
    not."""
    for second in (False, True):
        program = start("", threads)
        mta, idle = program.mta(C, H, M), program.mta(C)
        program.process.terminate()
        idle.expect_close()
        mta.play(R)
        if second:
            program.process.terminate()
            mta.expect_close()
        else:
            mta.play(T, L, N, B, E)
            mta.expect_close()
        assert "end None" == program.line()
        assert 0 == program.end()
        mta.close()
        idle.close()


MANY = 5000

MEASURES = """
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

class Mine(Milter.Base):
    __slots__ = ()
    def hello(self, hostname):
        return Milter.CONTINUE
    def envfrom(self, sender, *params):
        return Milter.CONTINUE
    @Milter.nocallback
    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE

def answer():
    for line in sys.stdin:
        say(kib(), threading.active_count())

threading.Thread(target=answer, daemon=True).start()
"""


@pytest.mark.slow
def test_many_idle_connections(
    start: Callable[[str, int], Program], record_property: Callable[[str, object], None]
) -> None:
    """5,000 connections open at once, most of them idle: those that talk are served, no thread is
    added, and an idle one costs a few KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY + 200:
        pytest.skip(f"not here: only {hard} descriptors are allowed")
    if soft != resource.RLIM_INFINITY and soft < MANY + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MANY + 200, hard))
    peers: list[Peer] = []
    try:
        program = start(MEASURES, 4)
        # What the first ones make the process load and keep is no connection's.
        peers += [program.mta(H) for _ in range(200)]
        before, count = program.ask().split()
        peers += [program.mta(H) for _ in range(MANY - 200)]
        after, count = program.ask().split()
        each = (int(after) - int(before)) / (MANY - 200)
        record_property("KiB per idle connection", each)
        print(f"{each:.2f} KiB per idle connection, the filter's object included")
        # The main thread, the one that answers us, and up to four.
        assert int(count) <= 6
        for peer in (peers[0], peers[1], peers[MANY // 2], peers[-1]):
            for _ in range(3):
                peer.ask(M)
                peer.send(A)
        assert each < 8
    finally:
        for peer in peers:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    program.mta(H, M).close()
    program.process.terminate()
    assert "end None" == program.line()
    assert 0 == program.end()
