"""Several processes for one filter: a supervisor that opens the socket, and workers that serve it.

Owns when a worker is forked, told to end, killed and replaced, and what a process is to forget
after the fork. How a worker serves is _server's matter, signals are _signals'.

The supervisor and each worker share a pair of sockets, over which they tell each other single
bytes. Its end tells either that the other one is gone, whatever ended it. Commands do not go by
signal, because service managers and terminals signal all processes at once: a worker could not
tell the supervisor's second SIGTERM from the first of somebody else's.

What an operator sees of all this is in docs/workers.md.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import signal
import socket
import threading
import time
import warnings
from typing import TYPE_CHECKING, Callable, NoReturn, Union

from Milter._dispatch import log
from Milter._engine import lib
from Milter._errors import error
from Milter._forks import end_process, flush
from Milter._signals import SIGNALS, Bell, StopOnSignals

if TYPE_CHECKING:
    from types import TracebackType

    from Milter._server import Server
    from Milter._threads import Pool, ThreadPerConnection

    Crew = Union[Pool, ThreadPerConnection]
    Mask = set[Union[int, signal.Signals]]

RETIRE = 300.0
"""Seconds that the connections of a worker that was replaced may go on before it is stopped."""

GRACE = 3.0
"""Seconds that a worker gets beyond the drain time, and again from the hurry to the kill."""

START = 60.0
"""Seconds that a worker gets until it must be ready to take connections."""

YOUNG = 10.0
"""A worker that dies before it has lived this many seconds is replaced with a pause."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds between the deaths of young workers and the next attempts: none after the first death,
then from the first of these to the longest, doubled each time."""

_TICK = 5.0  # seconds after which the supervisor looks at its workers though it has heard nothing
_BURIAL = 0.01  # likewise, while one that has closed its socket cannot be waited for yet
_SILENT = 1.0  # seconds for one that has closed its socket to end

# What the supervisor tells a worker, in the order in which it does.
_RETIRE, _DRAIN, _HURRY = b"t", b"d", b"h"
# What a worker tells the supervisor.
_READY, _ENOUGH, _LEAVING, _STOP_ALL = b"r", b"e", b"l", b"s"

_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

# This process's ends of all pairs. A process forked from it for another purpose must not keep them
# open, or the end of this one would not be noticed.
_channels: set[socket.socket] = set()
_watching_forks = False


def _close_channels() -> None:
    while _channels:
        _channels.pop().close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """Makes a pair of sockets that block neither and that no other child inherits."""
    global _watching_forks
    if not _watching_forks:
        _watching_forks = True
        os.register_at_fork(after_in_child=_close_channels)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def _tell(channel: socket.socket, word: bytes) -> None:
    """Never blocks. That the other end is gone is noticed elsewhere."""
    try:
        channel.send(word, _NOSIGNAL)
    except OSError:
        pass


def _listen(channel: socket.socket) -> bytes | None:
    """Returns what was told: one letter each; None at the end."""
    try:
        return channel.recv(4096) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


def _fork() -> int:
    """Forks, as os.fork() does, without Python's own remark on threads."""
    flush()  # or each worker would write what is left in there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# -- in a worker -----------------------------------------------------------------------------------


class Worker:
    """What a server has while its process is a worker.

    Args:
        server: the server, as the fork has copied it.
        channel: to the supervisor.
        mask: the signal mask of before the fork; until begin() all signals are blocked.
        last: number of the connection with which it has had enough; 0: never.
    """

    def __init__(self, server: Server, channel: socket.socket, mask: Mask, last: int) -> None:
        self._server = server
        self._channel = channel
        self._fd = channel.fileno()
        self._mask = mask
        self._last = last
        self._worn = last == 0  # has said so, or never will
        self._retiring = False
        self._crew: Crew | None = None
        self._bell: Bell | None = None

    def signals(self, crew: Crew, bell: Bell) -> StopOnSignals:
        """Returns the context manager in which the worker serves, and is told things.

        Args:
            crew: who serve.
            bell: on which the main thread waits.
        """
        self._crew = crew
        self._bell = bell
        return _WorkerSignals(self, bell)

    def begin(self) -> None:
        """Takes words and signals, now that there are handlers for them."""
        if self._bell is not None:
            self._bell.watch(self._fd, self._hear)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def ready(self) -> None:
        """Says that connections are accepted."""
        _tell(self._channel, _READY)

    def served(self, number: int) -> None:
        """Takes note that a connection has ended: its number, from 1. From any thread."""
        if number >= self._last and not self._worn:
            self._worn = True
            _tell(self._channel, _ENOUGH)

    def stop_all(self) -> None:
        """Has the supervisor stop all workers. Never blocks; from any thread.

        In a process that a callback has forked, the channel is closed and nothing happens.
        """
        _tell(self._channel, _STOP_ALL)

    def signalled(self) -> None:
        """Stops this worker for a signal, which was for it alone or for all processes."""
        # In this order: once it is told there may be another, and then nobody is to be let in here.
        self._server.halt()
        _tell(self._channel, _LEAVING)

    def retired(self) -> bool:
        """Tells whether it was to take no more connections, and has none left."""
        # In this order: a connection is counted before its thread no longer waits for one.
        return (
            self._retiring
            and self._crew is not None
            and not lib.mlt_server_waiting(self._server.engine)
            and not self._crew.active()
        )

    def _hear(self) -> None:
        words = _listen(self._channel)
        if words is None:
            if self._bell is not None:
                self._bell.unwatch(self._fd)
            log(logging.WARNING, "%s: the supervisor is gone; stopping", self._server.name)
            self._server.halt()
            return
        if _RETIRE in words and self._crew is not None:
            self._retiring = True
            self._crew.retire()
        if _DRAIN in words or _HURRY in words:
            self._server.halt(hurry=_HURRY in words)


class _WorkerSignals(StopOnSignals):
    """SIGTERM and SIGINT stop the worker; a handler of the program for these runs in the
    supervisor only. SIGHUP is for the supervisor, and in a worker for the program."""

    def __init__(self, worker: Worker, bell: Bell) -> None:
        super().__init__(bell, worker.signalled, lambda own: None, chain=False)
        self._worker = worker

    def __enter__(self) -> StopOnSignals:
        super().__enter__()
        self._worker.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # For good: what is signalled to all processes must not kill one that is at its end.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        super().__exit__(kind, problem, trace)


def _be_worker(
    server: Server,
    serve: Callable[[], None],
    channel: socket.socket,
    theirs: socket.socket,
    mask: Mask,
    last: int,
) -> NoReturn:
    """The worker's whole life, after the fork.

    Args:
        server, channel, mask, last: as for Worker.
        serve: serves until the server is stopped.
        theirs: the supervisor's end of the channel.
    """
    status = 1
    try:
        # What the program has registered is for its own end. What a callback registers from now on
        # is for the worker's.
        atexit._clear()
        theirs.close()
        _channels.add(channel)
        server.become_worker(Worker(server, channel, mask, last))
        serve()
        status = 0
    except SystemExit as leaving:
        # Of a handler of the program for another signal.
        if leaving.code is None or isinstance(leaving.code, int):
            status = (leaving.code or 0) & 0xFF
    except BaseException:
        log(logging.ERROR, "%s: worker %d failed", server.name, os.getpid(), exc_info=True)
    finally:
        end_process(status)


# -- in the supervisor -----------------------------------------------------------------------------


class _Child:
    """A worker as the supervisor knows it.

    Args:
        pid: its process.
        channel: to it.
        generation: number of SIGHUPs before its start.
    """

    def __init__(self, pid: int, channel: socket.socket, generation: int) -> None:
        self.pid = pid
        self.channel = channel
        self.fd = channel.fileno()
        self.generation = generation
        self.born = time.monotonic()
        self.worn = False  # has had as many connections as it is to have
        self.told = b""  # the last command
        self.deadline = self.born + START  # by which it should have obeyed, or be ready
        self.silent = False  # it has closed its end
        self.killed = False

    def tell(self, word: bytes, seconds: float) -> None:
        """Gives a command, and that many seconds to obey. One given before is not given again."""
        order = (b"", _RETIRE, _DRAIN, _HURRY)
        if order.index(word) > order.index(self.told):
            self.told = word
            self.deadline = time.monotonic() + seconds
            _tell(self.channel, word)

    def kill(self, number: int) -> None:
        """Sends a signal. It has not been waited for, so its number is still its own."""
        try:
            os.kill(self.pid, number)
        except OSError:
            pass


class _Slot:
    """The place of one worker."""

    def __init__(self) -> None:
        self.child: _Child | None = None  # that serves
        self.coming: _Child | None = None  # that takes its place once it is ready
        self.deaths = 0  # of young workers, one after the other
        self.due = 0.0  # when the next may be started


def _cause(status: int | None) -> str:
    """Says how a process has ended, by its exit code as Python has it."""
    if status is None:
        return "has ended (somebody else has waited for it)"
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


class _Supervisor:
    """Keeps so many workers running until its server is stopped.

    Args:
        server: the server; its socket is open.
        bell: its bell.
        serve: what a worker does.
        workers: how many.
        turnover: connections after which a worker is replaced, and up to a tenth more; 0: never.
        drain: seconds that open transactions get to finish at the end.
    """

    def __init__(
        self,
        server: Server,
        bell: Bell,
        serve: Callable[[], None],
        workers: int,
        turnover: int,
        drain: float,
    ) -> None:
        self._server = server
        self._bell = bell
        self._serve = serve
        self._turnover = turnover
        self._drain = max(drain, 0.0)
        self._slots = [_Slot() for _ in range(workers)]
        self._leaving: list[_Child] = []  # that have no slot any more
        self._generation = 0
        self._rolled = 0  # the generation that the log knows of
        self._pass_on = False  # SIGHUP is to go to the workers
        self._random = random.Random()  # not the program's

    def run(self) -> None:
        """Serves until the server is stopped. In a worker it does not return."""
        server = self._server
        with StopOnSignals(self._bell, server.signalled, self._hung_up):
            try:
                while not server.is_stopped():
                    self._bell.wait(self._look_after())
            finally:
                # Also when the program's own handler raised: graceful on the way out.
                self._end()

    def _children(self) -> list[_Child]:
        both = [child for slot in self._slots for child in (slot.child, slot.coming)]
        return [child for child in both if child is not None] + self._leaving

    def _log(self, level: int, text: str, *values: object) -> None:
        log(level, "%s: " + text, self._server.name, *values)

    # What it hears.

    def _hung_up(self, own: bool) -> None:
        """SIGHUP: replaces all workers, unless the program has a handler of its own for it."""
        # Python's handler may come between any two instructions: _look_after() does the rest.
        if own:
            self._pass_on = True
        else:
            self._generation += 1

    def _hear(self, child: _Child) -> None:
        words = _listen(child.channel)
        if words is None:
            self._bell.unwatch(child.fd)
            child.silent = True
            child.deadline = min(child.deadline, time.monotonic() + _SILENT)
            return
        if _STOP_ALL in words:
            self._server.stop()
        # One that came too late is dead, and the one that it was to replace goes on.
        if _READY in words and not child.killed:
            self._place(child)
        if _ENOUGH in words:
            child.worn = True
        if _LEAVING in words:
            self._remove(child)
            child.tell(_DRAIN, self._drain + GRACE)

    # What it does.

    def _place(self, child: _Child) -> None:
        """Gives a worker that is ready its slot, and retires the one that has it."""
        for slot in self._slots:
            if slot.coming is child:
                before, slot.child, slot.coming = slot.child, child, None
                if not child.told:
                    child.deadline = float("inf")
                self._log(logging.INFO, "worker %d is ready", child.pid)
                if before is not None:
                    self._leaving.append(before)
                    before.tell(_RETIRE, RETIRE)

    def _remove(self, child: _Child) -> None:
        """Makes room for another worker."""
        for slot in self._slots:
            if slot.child is child:
                slot.child = None
            elif slot.coming is child:
                slot.coming = None
            else:
                continue
            self._leaving.append(child)

    def _look_after(self) -> float:
        """Does all that is due; returns the seconds until something may be again."""
        self._bury()
        self._insist()
        if self._pass_on:
            self._pass_on = False
            # A program that reads its settings anew must do so in each of its processes.
            for child in self._children():
                child.kill(signal.SIGHUP)
        if self._rolled != self._generation:
            self._rolled = self._generation
            self._log(logging.INFO, "SIGHUP: replacing all workers")
        now = time.monotonic()
        next_time = now + _TICK
        # One by one, and never more than twice as many processes as there are to be.
        room = len(self._leaving) < len(self._slots)
        replacing = any(slot.child is not None and slot.coming is not None for slot in self._slots)
        for slot in self._slots:
            serving = slot.child
            if slot.coming is not None:
                continue
            if serving is not None:
                if not serving.worn and serving.generation == self._generation:
                    continue
                if replacing or not room:
                    continue
            if slot.due > now:
                next_time = min(next_time, slot.due)
                continue
            self._start(slot)
            replacing = replacing or serving is not None
            next_time = min(next_time, slot.due) if slot.coming is None else next_time
        for child in self._children():
            next_time = min(next_time, now + _BURIAL if child.silent else child.deadline)
        return max(0.0, next_time - time.monotonic())

    def _start(self, slot: _Slot) -> None:
        """Forks a worker for a slot."""
        last = self._turnover and self._turnover + self._random.randint(0, self._turnover // 10)
        # All of them: no handler of the program's may run in a worker that is half made.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            ours, theirs = _pair()
            try:
                pid = _fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
            if pid == 0:
                _be_worker(self._server, self._serve, theirs, ours, mask, last)
            theirs.close()
            _channels.add(ours)
            child = _Child(pid, ours, self._generation)
            slot.coming = child
            self._bell.watch(child.fd, lambda: self._hear(child))
        except OSError as problem:
            slot.deaths += 1
            self._log(logging.ERROR, "cannot start a worker: %s; %s", problem, self._postpone(slot))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _postpone(self, slot: _Slot) -> str:
        """Sets when the next worker may be started, by the deaths so far, and says it."""
        if slot.deaths <= 1:
            pause = 0.0
        else:
            pause = FIRST_PAUSE * 2.0 ** min(slot.deaths - 2, 30)
        slot.due = time.monotonic() + min(pause, LONGEST_PAUSE)
        if pause >= LONGEST_PAUSE:
            return f"this goes on; trying again every {LONGEST_PAUSE:g} s"
        return f"trying again in {pause:g} s" if pause else "starting another"

    def _bury(self) -> None:
        """Waits for those that have ended."""
        for child in self._children():
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                self._buried(child, None)
                continue
            if pid:
                self._buried(child, os.waitstatus_to_exitcode(status))

    def _buried(self, child: _Child, status: int | None) -> None:
        """Takes note of an end, and says so if it was not wanted."""
        self._bell.unwatch(child.fd)
        # What it has said last, if it has not been read yet.
        words = _listen(child.channel) or b""
        _channels.discard(child.channel)
        child.channel.close()
        if _STOP_ALL in words:
            self._server.stop()
        wanted = _LEAVING in words or child in self._leaving or self._server.is_stopped()
        old = time.monotonic() - child.born >= YOUNG
        hopes = ""
        for slot in self._slots:
            if child in (slot.child, slot.coming):
                if slot.child is child:
                    slot.child = None
                else:
                    slot.coming = None
                if not wanted:
                    slot.deaths = 1 if old else slot.deaths + 1
                    hopes = "; " + self._postpone(slot)
        if child in self._leaving:
            self._leaving.remove(child)
        if wanted and (status == 0 or child.killed):
            self._log(logging.INFO, "worker %d %s", child.pid, _cause(status))
        else:
            self._log(logging.ERROR, "worker %d %s%s", child.pid, _cause(status), hopes)

    def _insist(self) -> None:
        """Sees to those that have not done in time what they were told."""
        now = time.monotonic()
        for child in self._children():
            if now < child.deadline:
                continue
            if child.told == _RETIRE and not child.silent:
                child.tell(_DRAIN, self._drain + GRACE)
            elif child.told == _DRAIN and not child.silent:
                child.tell(_HURRY, GRACE)
            else:
                lack = "end" if child.told or child.silent else "get ready"
                self._log(logging.WARNING, "worker %d does not %s; killing it", child.pid, lack)
                child.killed = True
                child.kill(signal.SIGKILL)
                child.deadline = float("inf")

    def _end(self) -> None:
        """Stops all workers, and waits for them."""
        server = self._server
        server.halt()
        # At once, so that MTAs are refused instead of waiting in the backlog for nobody.
        lib.mlt_server_close(server.engine)
        problems: list[BaseException] = []
        while len(problems) < 3:
            try:
                for child in self._children():
                    child.tell(_DRAIN, self._drain + GRACE)
                    if server.is_hurried():
                        child.tell(_HURRY, GRACE)
                self._bury()
                self._insist()
                children = self._children()
                if not children:
                    break
                now = time.monotonic()
                until = min(child.deadline for child in children)
                if any(child.silent for child in children):
                    until = now + _BURIAL
                self._bell.wait(max(0.0, min(until - now, _TICK)))
            except BaseException as raised:
                # The program's handler for a second signal. A third is enough.
                problems.append(raised)
                server.halt(hurry=True)
        for child in self._children():
            child.kill(signal.SIGKILL)
        if problems:
            raise problems[-1]


def supervise(
    server: Server,
    bell: Bell,
    serve: Callable[[], None],
    workers: int,
    turnover: int,
    drain: float,
) -> None:
    """Serves with so many processes until the server is stopped. In a worker it does not return.

    Args:
        server: its socket is open.
        bell: rung by the server's stop().
        serve: called in each worker; serves until the server is stopped there.
        workers: how many, from 1.
        turnover: connections after which a worker is replaced; 0: never.
        drain: seconds that open transactions get to finish at the end.

    Raises:
        milter.error: `cannot run main`: there is no fork here.
    """
    if not hasattr(os, "fork"):
        raise error("cannot run main: workers need os.fork(), which is not there")
    threads = [
        each.name for each in threading.enumerate() if each is not threading.current_thread()
    ]
    if threads:
        log(
            logging.WARNING,
            "%s: %d threads run already (%s); workers do not have them, and a lock that one of "
            "them holds at a fork stays locked there",
            server.name,
            len(threads),
            ", ".join(threads[:5]) + (", ..." if len(threads) > 5 else ""),
        )
    if not server.is_stopped():
        _Supervisor(server, bell, serve, workers, turnover, drain).run()
