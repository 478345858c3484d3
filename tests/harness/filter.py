"""The filter "F" of wire spec 8, run in this process, with every callback recorded.

    with running(F(without=("eoh",), returns={"mail": 1})) as run:
        mta = run.mta()                 # connected, handshake done
        mta.ask(HELO)                   # sends, expects `c`
        mta.close()
        assert ["helo", "close"] == run.finish()

Callbacks go by their names in the wire spec's rows: negotiate connect helo mail rcpt data header
eoh body eom abort close unknown.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Optional,
    Union,
)

from harness.wire import PATIENCE, Address, Peer, offer

#: Row name -> (how a Server takes the callback, the NO* bit that says it is absent; wire spec 2.2).
#: The keywords are those of `register`, the others belong to `set_<name>_callback`.
CALLBACKS: dict[str, tuple[str, int]] = {
    "connect": ("connect", 0x1),
    "helo": ("helo", 0x2),
    "mail": ("envfrom", 0x4),
    "rcpt": ("envrcpt", 0x8),
    "body": ("body", 0x10),
    "header": ("header", 0x20),
    "eoh": ("eoh", 0x40),
    "unknown": ("register:unknown", 0x100),
    "data": ("register:data", 0x200),
    "eom": ("eom", 0),
    "abort": ("abort", 0),
    "close": ("close", 0),
}

Verdict = Union[int, Sequence[int], Callable[..., Any]]


@dataclass
class F:
    """A filter in the notation of wire spec 8: F, F-x, F+neg.

    without: the callbacks that are not there (F-x); their NO* bits are advertised.
    only: the callbacks that are there, instead of `without`.
    returns: verdict per callback, default CONTINUE: an int; a list, one element per call and then
        CONTINUE; or a function called as the callback is, ctx first, whose None means CONTINUE.
    negotiate: F+neg: such a verdict, or a function (ctx, opts).
    flags: the descriptor's flags (wire spec 2.1 step 6); None: as module `milter` does it. Default
        0x1FF, and None for F+neg.
    version: the descriptor's version (wire spec 1.5).
    limits: attributes of `Server.limits` by name.
    timeout, backlog: for `settimeout` and `setbacklog` unless None.
    policy: for `set_exception_policy` unless None.
    record: False keeps no calls, for tests that watch memory.
    """

    without: Iterable[str] = ()
    only: Optional[Iterable[str]] = None
    returns: Mapping[str, Verdict] = field(default_factory=dict)
    negotiate: Optional[Verdict] = None
    flags: Optional[int] = -1
    version: int = 0x01000001
    limits: Mapping[str, Any] = field(default_factory=dict)
    timeout: Optional[int] = None
    backlog: Optional[int] = None
    policy: Optional[int] = None
    mds: bool = False
    record: bool = True

    def __post_init__(self) -> None:
        """Give `flags` the default that depends on `negotiate`."""
        if self.flags == -1:
            self.flags = None if self.negotiate is not None else 0x1FF

    @property
    def present(self) -> list[str]:
        """The callbacks that this filter has, by row name."""
        if self.only is not None:
            left_out = set(CALLBACKS) - set(self.only)
        else:
            left_out = set(self.without)
        assert left_out <= set(CALLBACKS), left_out
        return [name for name in CALLBACKS if name not in left_out]

    @property
    def absent(self) -> int:
        """The NO* bits of the callbacks that this filter does not have."""
        present = self.present
        return sum(bit for name, (_, bit) in CALLBACKS.items() if name not in present)


class Run:
    """A running filter: where it listens, what it was called with, what it logged."""

    def __init__(self, spec: F, feed: Union[str, Iterable[int]] = "whole") -> None:
        self.spec = spec
        self.feed = feed
        self.address: Address = ""
        self.server: Any = None
        self.log: list[logging.LogRecord] = []
        self.calls: list[tuple[Any, ...]] = []
        self._contexts: list[Any] = []  # of each call; kept, so that an identity is not used twice
        self._peers: list[Peer] = []
        self._changed = threading.Condition()
        self._failed: list[BaseException] = []
        self._thread: Optional[threading.Thread] = None
        self._others = set(threading.enumerate())
        self._returned = False

    # -- the filter's side -----------------------------------------------------------------------

    def callback(self, name: str, verdict: Optional[Verdict]) -> Callable[..., Any]:
        """A callback for the Server that records its call under this name and gives the verdict."""
        script = iter(verdict) if isinstance(verdict, (list, tuple)) else None

        def called(ctx: Any, *args: Any) -> Any:
            if self.spec.record:
                # A list (negotiate's options) is copied: the callback may change it afterwards.
                kept = tuple(tuple(a) if isinstance(a, list) else a for a in args)
                with self._changed:
                    self.calls.append((name, *kept))
                    self._contexts.append(ctx)
                    self._changed.notify_all()
            if script is not None:
                return next(script, 0)
            if callable(verdict):
                try:
                    result = verdict(ctx, *args)
                except AssertionError as failure:
                    self._failed.append(failure)  # the exception policy would hide it from the test
                    raise
                return 0 if result is None else result
            return verdict or 0

        return called

    def names(self) -> list[str]:
        """The names of all callbacks so far, of all connections, in order."""
        with self._changed:
            return [call[0] for call in self.calls]

    def args(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments after ctx of each call of that callback, in order."""
        with self._changed:
            return [call[1:] for call in self.calls if call[0] == name]

    def sessions(self) -> list[list[str]]:
        """The names of the callbacks of each connection, connections in order of their first."""
        with self._changed:
            of: dict[int, list[str]] = {}
            for ctx, call in zip(self._contexts, self.calls):
                of.setdefault(id(ctx), []).append(call[0])
            return list(of.values())

    def threads(self) -> list[str]:
        """The names of the server's threads: those that run callbacks, or are about to end.

        Threads of a server before, which may outlive its main() for a moment, are not among them.
        """
        pattern = re.compile(re.escape(self.server.name) + r"-\d+")
        alive = [thread for thread in threading.enumerate() if thread not in self._others]
        return [thread.name for thread in alive if pattern.fullmatch(thread.name)]

    def forget(self) -> None:
        """Drop the calls and log records so far, for the next example on the same server."""
        with self._changed:
            self.calls.clear()
            self._contexts.clear()
            self.log.clear()

    def wait(self, expected: Sequence[str], patience: float = PATIENCE) -> None:
        """Wait until the callbacks of all connections are exactly these; AssertionError if not.

        For callbacks that no reply announces, such as `close`. What comes later is the matter of
        `finish`.
        """
        want = list(expected)
        with self._changed:
            self._changed.wait_for(lambda: len(self.calls) >= len(want), patience)
            assert want == [call[0] for call in self.calls]

    def wait_for(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Poll until the condition holds; AssertionError if it does not in that time (seconds)."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.005)

    def messages(self, level: int = logging.WARNING) -> list[str]:
        """The text of each record logged at this level or above."""
        return [record.getMessage() for record in list(self.log) if record.levelno >= level]

    def take_messages(self, level: int = logging.WARNING) -> list[str]:
        """As `messages`, and drops the records so far; one that comes meanwhile is kept."""
        taken = self.log[:]
        del self.log[: len(taken)]
        return [record.getMessage() for record in taken if record.levelno >= level]

    # -- the MTA's side --------------------------------------------------------------------------

    def connect(self) -> Peer:
        """A new connection on which nothing has been sent."""
        peer = Peer(self.address, self.feed)
        self._peers.append(peer)
        return peer

    def mta(self) -> Peer:
        """A new connection after the handshake that wire spec 8 takes for granted.

        Offered is O(6,1FF,1FFFFF). With descriptor flags the reply must be (6, flags, absent bits);
        with a negotiate callback it must be an `O` packet, what it says is the test's matter.
        """
        peer = self.connect()
        peer.send(offer())
        if self.spec.flags is None:
            letter, _ = peer.read_packet()
            assert letter == "O"
        else:
            words = struct.pack("!III", 6, self.spec.flags, self.spec.absent)
            peer.expect(b"\0\0\0\x0dO" + words)
        return peer

    # -- the end ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Close the peers, stop the server and wait for main() to return; may be called again."""
        for peer in self._peers:
            peer.close()
        if self._thread is None or self._returned:
            return
        # A session whose peer is gone ends by itself; stop() only after that, so that the order of
        # callbacks is the session's own and not the stop's. If one does not end, the test's own
        # comparison says so.
        deadline = time.monotonic() + PATIENCE
        while not self._all_closed() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.server.stop()
        self._thread.join(PATIENCE + 5)
        assert not self._thread.is_alive(), "main() did not return after stop()"
        self._returned = True
        if self._failed:
            raise self._failed[0]

    def _all_closed(self) -> bool:
        """Every connection made so far has had its `close` callback, if that can be told."""
        if not self.spec.record or "close" not in self.spec.present:
            return True
        closed = sum(name == "close" for name in self.names())
        if self.spec.flags is None and all(peer.received for peer in self._peers):
            # Of a connection without a callback before, no end is told.
            from Milter._engine import lib

            if not lib.mlt_server_active(self.server.engine):
                return closed >= len(self.sessions())
        return closed >= len(self._peers)

    def finish(self) -> list[str]:
        """Close the peers, let every session end, stop, and give the complete order of calls."""
        self.stop()
        return self.names()

    def finish_calls(self) -> list[tuple[Any, ...]]:
        """As `finish`, each call with its arguments after ctx."""
        self.finish()
        return list(self.calls)

    def expect_broken(self, mta: Peer, names: Sequence[str]) -> None:
        """The milter closes the connection without a byte, for a reason that it logs in one line.

        names: the complete order of callbacks. Stops the server.
        """
        mta.expect_close()
        assert list(names) == self.finish()
        messages = self.messages()
        assert 1 == len(messages), messages
        assert re.search(r"connection \d+ .*ended: .", messages[0]), messages


class _Keep(logging.Handler):
    """Appends each record to a list; used by several threads, and list.append is atomic."""

    def __init__(self, into: list[logging.LogRecord]) -> None:
        super().__init__(logging.DEBUG)
        self.emit = into.append  # type: ignore[method-assign]


def build(run: Run, conn: str) -> Any:
    """A `Milter._server.Server` with the callbacks of run.spec, registered, not listening yet."""
    from Milter._server import Server  # here, so that tests of the harness need no engine

    spec = run.spec
    server = Server(absent=spec.absent, flags=spec.flags, version=spec.version, mds=spec.mds)
    keywords: dict[str, Any] = {}
    for name in spec.present:
        where, _ = CALLBACKS[name]
        function = run.callback(name, spec.returns.get(name))
        if where.startswith("register:"):
            keywords[where.partition(":")[2]] = function
        else:
            getattr(server, f"set_{where}_callback")(function)
    if spec.negotiate is not None:
        keywords["negotiate"] = run.callback("negotiate", spec.negotiate)
    if spec.policy is not None:
        server.set_exception_policy(spec.policy)
    for limit, value in spec.limits.items():
        assert hasattr(server.limits, limit), limit
        setattr(server.limits, limit, value)
    if spec.timeout is not None:
        server.settimeout(spec.timeout)
    if spec.backlog is not None:
        server.setbacklog(spec.backlog)
    server.setconn(conn)
    server.register("F", **keywords)
    return server


@contextlib.contextmanager
def running(
    spec: Optional[F] = None,
    feed: Union[str, Iterable[int]] = "whole",
    conn: Optional[str] = None,
    drain: float = PATIENCE,
    threads: Optional[int] = None,
) -> Iterator[Run]:
    """Run a filter in a thread until the block is left; peers made by the Run are closed, too.

    spec: the filter, default F(). feed: for each Peer that the Run makes. conn: the socket spec,
    default a unix socket in a directory of its own. drain, threads: for main().
    """
    run = Run(spec or F(), feed)
    logger = logging.getLogger("Milter")
    keep = _Keep(run.log)
    level = logger.level
    directory = tempfile.mkdtemp(prefix="mlt")  # short: a unix path has 107 bytes
    try:
        logger.addHandler(keep)
        logger.setLevel(logging.DEBUG)
        server = run.server = build(run, conn or f"unix:{os.path.join(directory, 's')}")
        server.opensocket(False)
        run.address = server.address

        def main() -> None:
            try:
                server.main(drain=drain, threads=threads)
            except BaseException as failure:  # it would die unseen with the thread
                run._failed.append(failure)

        run._thread = threading.Thread(target=main, name="milter main", daemon=True)
        run._thread.start()
        try:
            yield run
        finally:
            run.stop()
        # Or the next test would take them for its own.
        run.wait_for(lambda: not run.threads())
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)
        shutil.rmtree(directory, ignore_errors=True)
