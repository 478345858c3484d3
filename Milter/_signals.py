"""Signals while a server runs in the main thread.

libmilter takes SIGTERM, SIGINT and SIGHUP for itself and a program's own handlers never run. Here
they run, and the server stops as before; a program that has a handler for SIGHUP keeps it, and
then SIGHUP is no longer ours (docs/porting.md).

Python runs handlers in the main thread only, between two of its instructions, whichever thread
the operating system chose; so the main thread waits on a pair of sockets into which the
interpreter writes when a signal comes.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any, Callable


class Bell:
    """Wakes one waiting thread; may be rung from any thread and any signal handler.

    The thread that waits may have it listen to other descriptors as well.
    """

    def __init__(self) -> None:
        self._ear, self._hammer = socket.socketpair()
        self._ear.setblocking(False)
        self._hammer.setblocking(False)
        # Not select(), which knows no descriptors beyond 1023.
        self._poll = select.poll()
        self._poll.register(self._ear, select.POLLIN)
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, heard: Callable[[], None]) -> None:
        """Has wait() call `heard` whenever something, or the end, can be read from `fd`."""
        self._watched[fd] = heard
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Ends that, before the descriptor is closed. Does nothing if there is nothing to end."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def ring(self) -> None:
        """Wakes the waiting thread, or the next that waits. Never blocks."""
        try:
            self._hammer.send(b"\0")
        except OSError:
            pass  # so many bytes unread that one more says nothing new; or closed

    def wait(self, seconds: float | None) -> None:
        """Waits until the bell rings or something is heard, `seconds` at most, None for ever."""
        ready = self._poll.poll(None if seconds is None else max(0, math.ceil(seconds * 1000)))
        try:
            self._ear.recv(4096)
        except BlockingIOError:
            pass
        for fd, _ in ready:
            heard = self._watched.get(fd)
            if heard is not None:
                heard()

    def fileno(self) -> int:
        """Returns the descriptor that a byte may be written to in order to ring."""
        return self._hammer.fileno()

    def close(self) -> None:
        """Gives the descriptors back."""
        self._ear.close()
        self._hammer.close()


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What is handled while a server runs."""

# Those in force, innermost last, and the forking thread's signal mask: a child that a callback
# forks (multiprocessing) is to have the program's own handlers, as the server is its parent's.
_active: list[StopOnSignals] = []
_forking = threading.local()
_watching_forks = False


def _before_fork() -> None:
    """Holds signals back, so that one sent to the child at once does not meet our handlers."""
    if _active:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    for stopper in reversed(_active):
        stopper._restore()
    _active.clear()
    _after_fork()


def _watch_forks() -> None:
    """Has the functions above called, from now on."""
    global _watching_forks
    if not _watching_forks:
        _watching_forks = True
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork,
            after_in_child=_after_fork_in_child,
        )


class StopOnSignals:
    """Context manager: SIGTERM, SIGINT and SIGHUP call `stop` while it is active.

    Args:
        bell: rung for every signal, whatever its handler.
        stop: called in the main thread, before the program's own handler.
        hang_up: called for SIGHUP instead, with whether the program has a handler of its own,
            which runs then. None: such a handler runs alone, and without one SIGHUP stops.
        chain: whether the program's own handlers for SIGTERM and SIGINT run.

    Outside of the main thread it does nothing: Python allows no handlers there.
    """

    def __init__(
        self,
        bell: Bell,
        stop: Callable[[], None],
        hang_up: Callable[[bool], None] | None = None,
        chain: bool = True,
    ) -> None:
        self._bell = bell
        self._stop = stop
        self._hang_up = hang_up
        self._chain = chain
        self._previous: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> StopOnSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        _watch_forks()
        self._wakeup = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        _active.append(self)
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if previous is None:
                continue  # not Python's: an embedding program looks after it
            if number == signal.SIGHUP and (
                previous == signal.SIG_IGN or (previous != signal.SIG_DFL and self._hang_up is None)
            ):
                continue  # ignored by nohup, or the program's own
            self._previous[number] = previous
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        own = callable(previous) and previous is not signal.default_int_handler
        if number == signal.SIGHUP and self._hang_up is not None:
            self._hang_up(own)
        else:
            self._stop()
            own = own and self._chain
        if own:
            previous(number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self in _active:
            _active.remove(self)
            self._restore()

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            # Not if a handler has put another in its own place.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        signal.set_wakeup_fd(self._wakeup)
