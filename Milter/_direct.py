"""Filters that a test runs in its own process: without a socket's address, or in a thread.

Both serve on the engine and the dispatch that serve in production, with a Server of their own, so
that several filters can run side by side. Owns how a class becomes such a server and how its end
is waited for; what is said to it is Milter.mta's affair. Milter.testing has the public names.
"""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from typing import Any, Callable, Final, Optional

import Milter as package
from Milter import _run
from Milter._dispatch import Dispatcher
from Milter._engine import ffi, lib
from Milter._mtasocket import open_socket
from Milter._server import Server

Factory = Callable[[], Any]
"""Makes the object that serves a connection: a class derived from Milter.Base, as a rule."""

_PATIENCE: Final = 10.0  # seconds for a connection's last callbacks


class LocalFilter:
    """A filter in this process: what its objects and its mistakes are.

    Args:
        factory: makes its objects; None for `Milter.factory`.
        name: of the filter.

    Attributes:
        objects: those that the factory made, one for each connection, in order.
        crashes: what callbacks raised and nobody has taken yet, in order.
    """

    def __init__(self, factory: Optional[Factory], name: str) -> None:
        """Makes the server, which serves nobody yet."""
        self.objects: list[Any] = []
        self.crashes: list[BaseException] = []
        self.server = Server()

        def negotiate(ctx: Any, options: list[int]) -> Any:
            milter = _run.attach(ctx, package.factory if factory is None else factory)
            self.objects.append(milter)
            return milter.negotiate(options)

        _run.set_callbacks(self.server)
        _run.register(self.server, name, negotiate)
        for step, callback in enumerate(self.server.callbacks):
            if callback is not None:
                self.server._set_callback(step, self._noting(callback, step))
        # Whoever takes them off `crashes` has them shown.
        self.server.print_tracebacks = False

    def _noting(self, callback: Callable[..., Any], step: int) -> Callable[..., Any]:
        """The same callback; what it raises, or for no verdict, is kept, and raised."""

        def call(*args: Any) -> Any:
            try:
                return Dispatcher._check_status(callback(*args), step)
            except BaseException as crash:
                self.crashes.append(crash)
                raise

        return call


class MemoryFilter(LocalFilter):
    """A filter that listens nowhere: each connection is a pair of sockets without an address."""

    def __init__(self, factory: Optional[Factory], name: str) -> None:
        """Ready for connections."""
        super().__init__(factory, name)
        self.spec = "memory"
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def open(self, timeout: float) -> socket.socket:
        """Returns the MTA's end of a new connection; the filter serves the other in a thread.

        Args:
            timeout: of no use; nothing is waited for.

        Raises:
            ConnectionRefusedError: after stop().
        """
        if self._stopped:
            raise ConnectionRefusedError("the filter was stopped")
        connection = ffi.gc(lib.mlt_connection_new(self.server.engine), lib.mlt_connection_free)
        if connection == ffi.NULL:
            raise MemoryError
        ours, theirs = socket.socketpair()
        lib.mlt_connection_adopt(connection, theirs.detach())
        thread = threading.Thread(
            # What the test has set in context variables, its callbacks see.
            target=contextvars.copy_context().run,
            args=(Dispatcher(self.server, {}).run, connection),
            name=f"{self.server.name}-{len(self._threads) + 1}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()
        return ours

    def stop(self) -> None:
        """Ends all connections, and waits for their last callbacks; more than once.

        Raises:
            TimeoutError: a callback does not return.
        """
        self._stopped = True
        lib.mlt_server_cut(self.server.engine)
        _join(self._threads)


class ThreadFilter(LocalFilter):
    """A filter that a thread of this process serves on a socket.

    Args:
        factory: see :class:`LocalFilter`.
        name: see there.
        spec: where to listen, as for `Milter.runmilter`; port 0 for any.
        threads: see `Milter.runmilter`.

    Raises:
        milter.error: the socket cannot be opened.
    """

    def __init__(
        self, factory: Optional[Factory], name: str, spec: str, threads: Optional[int] = None
    ) -> None:
        """Listens."""
        super().__init__(factory, name)
        self.server.setconn(spec)
        self.server.opensocket(False)
        where = self.server.address
        self.spec = f"unix:{where}" if isinstance(where, str) else _inet(*where)
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(
            target=self._serve, args=(threads,), name=f"{name}-main", daemon=True
        )
        self._thread.start()

    def _serve(self, threads: Optional[int]) -> None:
        try:
            # Not as the environment says: a test's process is not to be forked.
            self.server.main(threads=threads, workers=0)
        except BaseException as failure:
            self._failure = failure

    def open(self, timeout: float) -> socket.socket:
        """Returns a new connection; see Milter._mtasocket.open_socket()."""
        return open_socket(self.spec, timeout)

    def stop(self) -> None:
        """Stops the server, and waits for its end; more than once.

        Raises:
            TimeoutError: a callback does not return.
        """
        self.server.stop()
        _join([self._thread])
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _inet(host: str, port: int) -> str:
    return f"inet6:{port}@[{host}]" if ":" in host else f"inet:{port}@{host}"


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name}: a callback has not returned in {_PATIENCE:g} s")


def socket_path(directory: str, name: str) -> str:
    """Returns where a unix socket can be: a path that is not too long for one.

    Raises:
        ValueError: the directory's path is too long already.
    """
    path = os.path.join(directory, name)
    if len(os.fsencode(path)) > 100:
        raise ValueError(f"{path}: too long for a socket")
    return path
