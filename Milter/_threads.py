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
from typing import TYPE_CHECKING, Any

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


class ThreadPerConnection:
    """Each connection has a thread of its own, from negotiate to close.

    Args:
        server: whose connections these are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._threads = 0
        self._missing = False  # nobody waits for connections, as no thread could be started
        self._busy = 0  # threads that have a connection

    def start(self) -> None:
        """Starts one more thread to wait for connections.

        Raises:
            RuntimeError, MemoryError: it cannot be started.
        """
        self._threads += 1
        threading.Thread(
            target=self._work, name=f"{self._server.name}-{self._threads}", daemon=True
        ).start()

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
        """One thread: waits for a connection, keeps it to its end, and waits for the next."""
        server = self._server
        connection = ffi.gc(lib.mlt_connection_new(server.engine), lib.mlt_connection_free)
        if connection == ffi.NULL:
            self._lack_thread("no memory for a connection")
            return
        view = lib.mlt_connection_view(connection)
        dispatcher = Dispatcher(server, {})
        while True:
            status = lib.mlt_connection_accept(connection)
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
                _log_failure(server, view)
                lib.mlt_connection_end(connection)
            with self._lock:
                self._busy -= 1
            if server.is_stopped():
                server.ring()
            if not _threadstate.renew():
                if not lib.mlt_server_waiting(server.engine):
                    self._replace_thread()
                return

    def _replace_thread(self) -> None:
        """Starts a thread to wait where this one no longer does."""
        if self._server.is_stopped():
            return
        try:
            self.start()
        except (RuntimeError, MemoryError) as problem:
            # New connections wait in the backlog until a thread is free again, or main() can start
            # one.
            self._lack_thread(f"cannot start a thread: {problem}")

    def _lack_thread(self, problem: str) -> None:
        """Says so, once, and leaves it to main()."""
        log(logging.ERROR, "%s: %s", self._server.name, problem)
        self._missing = True
        self._server.ring()

    def _try_again(self) -> None:
        """Starts the thread that could not be started, if it is still wanted and can be now."""
        if not lib.mlt_server_waiting(self._server.engine):
            try:
                self.start()
            except (RuntimeError, MemoryError):
                return
        self._missing = False


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
        return None

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
        threading.Thread(
            target=self._work, name=f"{self._server.name}-{self._started}", daemon=True
        ).start()

    def _start_another(self) -> None:
        try:
            self._start_thread()
        except (RuntimeError, MemoryError) as problem:
            log(logging.ERROR, "%s: cannot start a thread: %s", self._server.name, problem)
            lib.mlt_pool_lacks_thread(self._pool)

    def _work(self) -> None:
        """One thread."""
        server = self._server
        pool = self._pool  # to outlive the worker
        worker = ffi.gc(lib.mlt_worker_new(pool), lib.mlt_worker_free)
        if worker == ffi.NULL:
            log(logging.ERROR, "%s: no memory for a thread", server.name)
            lib.mlt_pool_lacks_thread(pool)
            return
        work = lib.mlt_worker_work(worker)
        dispatcher = Dispatcher(server, self._contexts)
        while True:
            try:
                status = dispatcher.run_pool(worker, work, self._start_another)
            except BaseException:
                _log_failure(server, work.view)
                self._contexts.pop(work.id, None)
                lib.mlt_worker_abandon(worker)
                continue
            if status == lib.MLT_NOTICE:
                log(logging.ERROR, "%s: %s", server.name, os.fsdecode(ffi.string(work.error)))
            elif status == lib.MLT_STOPPED:
                break
        ffi.release(worker)
        server.ring()


def _log_failure(server: Server, view: Any) -> None:
    log(
        logging.ERROR,
        "%s: connection %d: internal error",
        server.name,
        view.id,
        exc_info=True,
    )
