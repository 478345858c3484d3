"""The two ways of waiting, as far as they are Python's: who runs the callbacks.

Thread per connection: threads wait in the engine for connections and keep each to its end. The
pool: a few threads ask the engine for whatever has come in, of all connections. How the engine
waits, and when another thread takes over, is its own affair (milter_c/blocking.c, pool.c).

No thread starts before main().
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

from Milter import _threadstate
from Milter._dispatch import CALLBACKS, Dispatcher, log
from Milter._engine import ffi, lib
from Milter._errors import error

if TYPE_CHECKING:
    from Milter._context import Context
    from Milter._server import Server
    from Milter._signals import Bell

IDLE_THREADS = 32
"""Threads that may wait for connections; those beyond end with their connection."""

_RETRY = 1.0  # seconds until main() tries again to start a thread
_BEGIN = 10.0  # seconds that a thread gets to begin; also where a machine stalls
_COMPLAIN = 60.0  # seconds until it is said again that none can be started


class _Begun(threading.Event):
    """Whether a thread has begun; is not waited for for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(_BEGIN if timeout is None else timeout)


class _Thread(threading.Thread):
    """A daemon thread. One that the system has started but that finds no memory to begin with ends
    without a word, and whoever waits for its beginning, as threading.Thread.start() does, would
    wait for ever: the thread that has a connection, or main() itself."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._started = _Begun()

    def start(self) -> None:
        """Raises RuntimeError, MemoryError: it cannot be started."""
        super().start()
        if self.ident is None:
            raise RuntimeError("it does not begin")


class _Complaint:
    """Says that threads cannot be started, but not for each connection.

    Args:
        server: whose threads these are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._next = 0.0

    def say(self, what: str, problem: BaseException | None) -> None:
        """Logs what is wrong and what was raised, if nothing was logged for a while."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _COMPLAIN
            why = "" if problem is None else f": {str(problem) or repr(problem)}"
            log(logging.ERROR, "%s: %s%s", self._server.name, what, why)


class ThreadPerConnection:
    """Each connection has a thread of its own, from negotiate to close.

    Args:
        server: whose connections these are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._threads = 0
        self._missing = False  # nobody may be waiting for connections; main() is to see to it
        self._complaint = _Complaint(server)
        self._busy = 0  # threads that have a connection

    def start(self) -> None:
        """Starts one more thread to wait for connections.

        Raises:
            RuntimeError, MemoryError: it cannot be started.
        """
        self._threads += 1
        _Thread(self._work, f"{self._server.name}-{self._threads}").start()

    def attend(self) -> float | None:
        """Does what main() is to do; returns after how many seconds again, None for never."""
        if self._missing:
            self._try_again()
        return _RETRY if self._missing else None

    def refuse(self, bell: Bell) -> None:
        """Waits until no thread accepts connections any more, which is at once."""
        while lib.mlt_server_waiting(self._server.engine):
            bell.wait(0.05)

    def retire(self) -> None:
        """Accepts no more connections, and leaves those that are open alone."""
        lib.mlt_server_retire(self._server.engine)

    def active(self) -> int:
        """Returns how many connections are open, or not yet told of in the log."""
        return max(int(lib.mlt_server_active(self._server.engine)), self._busy)

    def _work(self) -> None:
        """One thread."""
        try:
            self._serve()
        except BaseException as problem:
            # Out of memory, most likely, and perhaps for the words as well.
            self._lack_thread("a thread has failed", problem)

    def _serve(self) -> None:
        """Waits for a connection, keeps it to its end, and waits for the next."""
        server = self._server
        connection = ffi.gc(lib.mlt_connection_new(server.engine), lib.mlt_connection_free)
        if connection == ffi.NULL:
            self._lack_thread("no memory for a connection")
            return
        view = lib.mlt_connection_view(connection)
        dispatcher = Dispatcher(server, {})
        while True:
            status = lib.mlt_connection_accept(connection)
            view.entering = 0
            if status == lib.MLT_NOTICE:
                log(logging.ERROR, "%s: %s", server.name, os.fsdecode(ffi.string(view.error)))
                continue
            if status == lib.MLT_END:
                return
            if status != lib.MLT_OK:
                server.ring()
                return
            if view.alone:
                self._replace_thread()
            with self._lock:
                self._busy += 1
            try:
                contextvars.Context().run(dispatcher.run, connection)
            except BaseException:
                try:
                    _log_failure(server, view.id)
                    dispatcher.drop(view.id)
                finally:
                    lib.mlt_connection_end(connection)
            finally:
                with self._lock:
                    self._busy -= 1
            if server.is_stopped():
                server.ring()
            if not _threadstate.renew():
                if not lib.mlt_server_waiting(server.engine):
                    self._replace_thread()
                return

    def _replace_thread(self) -> None:
        """Starts a thread to wait where this one no longer does, unless main() is about to."""
        if self._server.is_stopped() or self._missing:
            return
        try:
            self.start()
        except (RuntimeError, MemoryError) as problem:
            # New connections wait in the backlog until a thread is free again, or main() can start
            # one.
            self._lack_thread("cannot start a thread", problem)

    def _lack_thread(self, what: str, problem: BaseException | None = None) -> None:
        """Leaves it to main(), and says so."""
        self._missing = True
        self._server.ring()
        self._complaint.say(what, problem)

    def _try_again(self) -> None:
        """Starts the thread that could not be started, if it is still wanted and can be now."""
        self._missing = False  # first: the new thread may itself find that another is missing
        if not lib.mlt_server_waiting(self._server.engine):
            try:
                self.start()
            except (RuntimeError, MemoryError):
                self._missing = True


class Pool:
    """A few threads serve all connections (docs/pool.md).

    Args:
        server: whose connections these are.
        threads: how many threads at most run callbacks.
        bell: rung by the engine when all of them are blocked.
    """

    def __init__(self, server: Server, threads: int, bell: Bell) -> None:
        self._server = server
        self._size = threads
        self._contexts: dict[int, Context] = {}
        self._started = 0
        self._complaint = _Complaint(server)
        self._lock = threading.Lock()
        self._threads = 0  # there are
        self._failed = False  # one has ended that should not have; main() is to see to it
        options = ffi.new("mlt_pool_options *")
        options.threads = threads
        has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
        options.active = 1 if has_lock else min(threads, os.cpu_count() or 1)
        options.threshold = max(1, lib.mlt_server_settings(server.engine).blocked_after)
        options.bell = bell.fileno()
        options.shared = server.shared
        pool = lib.mlt_pool_new(server.engine, options)
        if pool == ffi.NULL:
            raise error(f"cannot run main: {server.problem()}")
        self._pool = ffi.gc(pool, lib.mlt_pool_free)

    def start(self) -> None:
        """Starts the first thread, and says what the pool means for filters.

        Raises:
            RuntimeError, MemoryError: it cannot be started.
        """
        log(
            logging.INFO,
            "%s: up to %d threads serve all connections: callbacks of one connection never "
            "overlap but may run in different threads, so thread-locals, SQLite handles and locks "
            "held from one callback to the next do not work (docs/pool.md)",
            self._server.name,
            self._size,
        )
        self._start_thread()

    def attend(self) -> float | None:
        """Does what main() is to do; returns after how many seconds again, None for never."""
        if lib.mlt_pool_take_exhausted(self._pool):
            steps = [context._step for context in list(self._contexts.values())]
            names = sorted(CALLBACKS[step] for step in steps if step >= 0)
            log(
                logging.WARNING,
                "%s: all %d threads have been busy for a while, and connections wait; they are in "
                "%s; more threads may help (docs/pool.md)",
                self._server.name,
                self._size,
                ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)),
            )
        if self._failed:
            self._failed = False
            # Where another is left, the engine asks for more of them when it needs them.
            if not self._threads:
                self._start_another()
        return _RETRY if self._failed else None

    def refuse(self, bell: Bell) -> None:
        """Accepts no more connections."""
        lib.mlt_pool_refuse(self._pool)

    def retire(self) -> None:
        """Accepts no more connections, and leaves those that are open alone."""
        lib.mlt_pool_refuse(self._pool)

    def active(self) -> int:
        """Returns how many connections are open, or not yet told of in the log."""
        return int(lib.mlt_pool_connections(self._pool))

    def _start_thread(self) -> None:
        self._started += 1
        _Thread(self._work, f"{self._server.name}-{self._started}").start()

    def _start_another(self) -> None:
        try:
            self._start_thread()
        except (RuntimeError, MemoryError) as problem:
            self._lack_thread("cannot start a thread", problem)

    def _lack_thread(self, what: str, problem: BaseException | None = None) -> None:
        """Has the engine ask again later, or main() see to it, and says so."""
        lib.mlt_pool_lacks_thread(self._pool)
        self._failed = True
        self._server.ring()
        self._complaint.say(what, problem)

    def _work(self) -> None:
        """One thread."""
        pool = self._pool  # to outlive the worker
        worker = ffi.NULL
        with self._lock:
            self._threads += 1
        failed: BaseException | None = None
        try:
            worker = ffi.gc(lib.mlt_worker_new(pool), lib.mlt_worker_free)
            if worker != ffi.NULL:
                try:
                    self._serve(worker)
                finally:
                    ffi.release(worker)
        except BaseException as problem:
            # Out of memory, most likely, and perhaps for the words below as well.
            failed = problem
        finally:
            with self._lock:
                self._threads -= 1
        if failed is not None:
            self._lack_thread("a thread has failed", failed)
        elif worker == ffi.NULL:
            self._lack_thread("no memory for a thread")
        else:
            self._server.ring()

    def _serve(self, worker: Any) -> None:
        """Handles events until the server stops."""
        server = self._server
        work = lib.mlt_worker_work(worker)
        dispatcher = Dispatcher(server, self._contexts)
        while True:
            try:
                status = dispatcher.run_pool(worker, work, self._start_another)
            except BaseException:
                try:
                    _log_failure(server, work.id)
                    dispatcher.drop(work.id)
                finally:
                    lib.mlt_worker_abandon(worker)
                continue
            if status == lib.MLT_NOTICE:
                log(logging.ERROR, "%s: %s", server.name, os.fsdecode(ffi.string(work.error)))
            elif status == lib.MLT_STOPPED:
                return


def _log_failure(server: Server, number: int) -> None:
    log(
        logging.ERROR,
        "%s: connection %d: internal error",
        server.name,
        number,
        exc_info=True,
    )
