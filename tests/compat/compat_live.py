"""Module `milter` serving in this process, and what a test installs, plays and sees.

The module has one server per process, whose callbacks may be replaced while it runs (API spec
1.4). So it is started once per test module, and each test installs its own callbacks. pymilter
cannot be started twice in a process; with PYMILTER_ORACLE in the environment it is left running.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from compat_support import DEADLINE, wait_until

import Milter
import milter
from harness import Peer, offer, packet
from harness.packets import A, B, C, E, H, L, M, N, Q, R, T, U

SETTERS = ["connect", "helo", "envfrom", "envrcpt", "header", "eoh", "body", "eom", "abort"]
SETTERS += ["close"]
REGISTERED = ["unknown", "data", "negotiate"]

#: The steps of a message in order, with the packets of wire spec 8.
MESSAGE = {
    "connect": C,
    "helo": H,
    "envfrom": M,
    "envrcpt": R,
    "data": T,
    "header": L,
    "eoh": N,
    "body": B,
    "eom": E,
}
#: Every event that is answered, with the packet that causes it.
REPLYING = {**MESSAGE, "unknown": U}
#: The texts of the exception policies TEMPFAIL and REJECT for the name "compat".
POLICY_TEMPFAIL = packet("y", b"451 4.3.0 pymilter: untrapped exception in compat\0")
POLICY_REJECT = packet("y", b"554 5.3.0 pymilter: untrapped exception in compat\0")


@dataclass
class Outcome:
    """What a function did inside a callback, and what the MTA got meanwhile."""

    value: Any = None
    error: Optional[BaseException] = None
    packets: list[bytes] = field(default_factory=list)  #: before the verdict, whole frames
    verdict: Optional[bytes] = None  #: the frame; None for an event without a reply

    @property
    def failure(self) -> Optional[tuple[str, str]]:
        """The exception as (type's name, text up to the first colon), None if there was none."""
        if self.error is None:
            return None
        return (type(self.error).__name__, str(self.error).split(":")[0])


class Live:
    """The running module."""

    def __init__(self) -> None:
        directory = tempfile.mkdtemp(prefix="mlc")
        self.path = os.path.join(directory, "s")
        self.calls: list[tuple[Any, ...]] = []
        self.contexts: list[Any] = []
        self._peers: list[Peer] = []
        self._failures: list[BaseException] = []
        self._changed = threading.Condition()
        self.main_ident: Optional[int] = None
        milter.setconn("unix:" + self.path)
        milter.register("compat")
        self._thread = threading.Thread(target=self._main, name="milter main", daemon=True)
        self._thread.start()
        wait_until(self._answers, "the server's start")

    def _main(self) -> None:
        self.main_ident = threading.get_ident()
        milter.main()

    def _answers(self) -> bool:
        try:
            Peer(self.path).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server and wait for main() to return."""
        milter.stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    # -- the filter's side -----------------------------------------------------------------------

    def on(self, **handlers: Any) -> None:
        """Install callbacks by event: an int is what is returned, a function is called with ctx
        and the arguments, None records only. A function that returns None means CONTINUE; let it
        return `Live.NONE` to return None itself. Every call is recorded."""
        registered = {}
        for event, handler in handlers.items():
            function = self._recorder(event, handler)
            if event in REGISTERED:
                registered[event] = function
            else:
                getattr(milter, f"set_{event}_callback")(function)
        if registered:
            milter.register("compat", **registered)

    def on_all(self, **handlers: Any) -> None:
        """Install all callbacks but negotiate, those not named answering CONTINUE."""
        self.on(**{name: None for name in [*SETTERS, "unknown", "data"] if name not in handlers})
        self.on(**handlers)

    NONE = object()

    def _recorder(self, event: str, handler: Any) -> Callable[..., Any]:
        def callback(ctx: Any, *args: Any) -> Any:
            # A list (negotiate's options) is copied: the handler may change it afterwards.
            kept = tuple(tuple(a) if isinstance(a, list) else a for a in args)
            with self._changed:
                self.calls.append((event, *kept))
                self.contexts.append(ctx)
                self._changed.notify_all()
            if not callable(handler):
                return milter.CONTINUE if handler is None else handler
            try:
                result = handler(ctx, *args)
            except AssertionError as failure:
                self._failures.append(failure)  # the exception policy would hide it
                raise
            if result is None:
                return milter.CONTINUE
            return None if result is Live.NONE else result

        return callback

    def filter(self, factory: Any, name: str = "compat") -> None:
        """Install a filter of package Milter: what `runmilter` does, but for the start."""
        real = Milter.milter

        class Stub:
            def __getattr__(self, attribute: str) -> Any:
                return getattr(real, attribute)

            def setconn(self, spec: str) -> None:
                pass

            def opensocket(self, rmsock: Any) -> None:
                pass

            def main(self) -> None:
                pass

        Milter.factory = factory
        Milter.milter = Stub()
        try:
            Milter.runmilter(name, "")
        finally:
            Milter.milter = real

    @property
    def names(self) -> list[str]:
        """The events so far, of all connections, in order."""
        return [call[0] for call in list(self.calls)]

    def args(self, event: str) -> list[tuple[Any, ...]]:
        """The arguments after ctx of each call for that event."""
        return [call[1:] for call in list(self.calls) if call[0] == event]

    def wait(self, *expected: str) -> None:
        """Wait until so many events have come, and compare."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.calls) >= len(expected), DEADLINE)
        assert list(expected) == self.names

    # -- the MTA's side --------------------------------------------------------------------------

    def connect(self) -> Peer:
        """A new connection on which nothing was sent."""
        peer = Peer(self.path)
        self._peers.append(peer)
        return peer

    def mta(self, actions: int = 0x1FF, protocol: int = 0x1FFFFF) -> Peer:
        """A new connection after the handshake; the reply's three words are in `peer.options`."""
        peer = self.connect()
        peer.send(offer(6, actions, protocol))
        letter, data = peer.read_packet()
        assert letter == "O"
        peer.options = struct.unpack("!III", data[:12])  # type: ignore[attr-defined]
        peer.lists = data[12:]  # type: ignore[attr-defined]
        return peer

    def finish(self) -> list[str]:
        """End every connection, wait for the milter to end it too, and give the events."""
        for peer in self._peers:
            try:
                peer.half_close()
                peer.read_all()
            except OSError:
                pass  # closed by the test
            peer.close()
        self._peers.clear()
        if self._failures:
            raise self._failures.pop(0)
        return self.names

    def play(self, last: str, **keywords: Any) -> Peer:
        """A connection on which the message went up to, but without, the event `last`."""
        peer = self.mta(**keywords)
        for event, command in MESSAGE.items():
            if event == last:
                break
            if (last, event) == ("unknown", "envfrom"):
                break
            if (last, event) == ("abort", "envrcpt"):
                break
            if (last, event) == ("close", "helo"):
                break
            peer.ask(command)
        return peer

    def during(
        self, event: str, function: Callable[[Any], Any], result: Any = 0, **keywords: Any
    ) -> Outcome:
        """Call the function with the context inside that event's callback.

        result: what the callback returns afterwards. keywords: the offer, as for `mta`.
        """
        outcome = Outcome()

        def handler(ctx: Any, *args: Any) -> Any:
            try:
                outcome.value = function(ctx)
            except AssertionError:
                raise
            except Exception as error:
                outcome.error = error
            return result

        self.on(**{event: handler})
        if event == "close":
            self.on(connect=None)  # a step before it, so that there is a context
        if event == "negotiate":
            peer = self.mta(**keywords)
            outcome.packets.append(peer.lists)  # type: ignore[attr-defined]
            return outcome
        peer = self.play(event, **keywords)
        if event == "abort":
            peer.send(A, H)
        elif event == "close":
            peer.send(Q)
            data = peer.read_all()
            if data:
                outcome.packets.append(data)
            return outcome
        else:
            peer.send(REPLYING[event])
        while True:
            letter, data = peer.read_packet()
            frame = packet(letter, data)
            if letter in "carstdy":
                outcome.verdict = frame if event != "abort" else None
                return outcome
            outcome.packets.append(frame)

    # -- between tests ---------------------------------------------------------------------------

    def reset(self) -> None:
        """Remove every callback, and what was recorded."""
        for name in SETTERS:
            getattr(milter, f"set_{name}_callback")(None)
        milter.register("compat", unknown=None, data=None, negotiate=None)
        milter.set_exception_policy(milter.TEMPFAIL)
        self.calls = []
        self.contexts = []
        self._failures = []
