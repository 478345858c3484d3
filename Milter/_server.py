"""A milter: its settings, its callbacks, its listening socket and its threads.

The methods that pymilter's module functions stand on have their names and rules (API spec 1.3,
1.4 and 1.14). Several servers may run in one process. Threads wait in the engine for connections
and keep each to its end; none starts before main().
"""

from __future__ import annotations

import functools
import grp
import logging
import os
import pwd
import sys
import threading
import time
from typing import Any, Callable

from Milter import _dispatch, _forks
from Milter._constants import CURR_ACTS, TEMPFAIL, VERSION
from Milter._context import to_bytes, to_c_int
from Milter._dispatch import log
from Milter._engine import ffi, lib
from Milter._errors import error
from Milter._signals import Bell, StopOnSignals
from Milter._threads import IDLE_THREADS, Pool, ThreadPerConnection
from Milter._workers import Worker, supervise

Callback = Callable[..., Any]

DRAIN = 5.0
"""Seconds that open transactions get to finish when a server stops."""

_MOST_THREADS = 10000
_LARGEST_LIMIT = 2**31 - 1  # what MTAs, too, have an int for
_IDLE_GRACE = 0.05  # seconds for idle connections to end
_CUT_GRACE = 0.5  # seconds for the last callbacks once the connections were cut
_BACKLOG = 4096  # the operating system cuts it to what it allows

_UNSET: Any = object()


def _limit(name: str, unit: str) -> Any:
    """Makes a property of Limits: a whole number in the engine's settings."""

    def get(self: Limits) -> int:
        return int(getattr(self._settings, name))

    def put(self: Limits, value: int) -> None:
        if not 0 <= value <= _LARGEST_LIMIT:
            raise ValueError(f"{name} must be from 0 to {_LARGEST_LIMIT}")
        setattr(self._settings, name, value)

    return property(get, put, doc=unit)


def _time(name: str, what: str) -> Any:
    """Makes a property of Limits: seconds here, milliseconds in the engine's settings."""

    def get(self: Limits) -> float:
        return float(getattr(self._settings, name) / 1000)

    def put(self: Limits, value: float) -> None:
        setattr(self._settings, name, int(value * 1000))

    return property(get, put, doc=what)


def _from_environment(name: str, value: int | None, most: int = _MOST_THREADS) -> int:
    """Returns a number of threads, processes or connections.

    Args:
        name: of the environment variable that counts if there is no keyword.
        value: the keyword, or None.
        most: the largest number that makes sense.

    Raises:
        milter.error: it is no whole number from 0 on.
    """
    text = os.environ.get(name, "") if value is None else str(value)
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise error(
            f"cannot run main: {name if value is None else name.lower()[7:]} must be a whole "
            f"number from 0 to {most}, not {text!r}"
        )
    return int(text)


class Limits:
    """What a server puts up with. To be set before it runs.

    Times are in seconds; below 0: for ever, 0: no waiting at all.
    """

    __slots__ = ("_owner", "_settings")

    def __init__(self, server: Any) -> None:
        self._owner = server  # the settings are part of it, and go with it
        self._settings = lib.mlt_server_settings(server)

    receive_frame = _limit("receive_frame", "Bytes of a received packet. Default: 1 MiB.")
    send_payload = _limit("send_payload", "Bytes of data of a sent packet. Default: 65535.")
    macros_per_stage = _limit("macros_per_stage", "Macros at one step. Default: 256.")
    macro_bytes = _limit("macro_bytes", "Bytes of the macros at one step. Default: 64 KiB.")
    connections = _limit(
        "connections", "Connections at once; others wait. 0: any number. Default: 0."
    )
    packet_timeout = _time(
        "packet_timeout", "From a packet's first byte to its last. Default: 120."
    )
    idle_timeout = _time("idle_timeout", "Between packets; settimeout() sets it. Default: 7210.")
    write_timeout = _time("write_timeout", "For the MTA to take what is sent. Default: 300.")
    blocked_after = _time(
        "blocked_after",
        "Until a callback of the pool counts as blocked while others wait. Default: 0.001.",
    )


class Server:
    """One milter.

    Args:
        absent: SMFIP_NO bits of steps that are to be announced as not wanted whatever the
            callbacks are, as libmilter does for callbacks that are not registered.
        flags: None, so that the negotiate callback decides and without one all actions that the
            MTA offers are taken; or the actions wanted, and no negotiate callback is called.
        version: descriptor version (wire spec 1.5).
        mds: agree to packets of up to 1 MiB where the MTA offers them (wire spec 2.6).
    """

    def __init__(
        self,
        absent: int = 0,
        flags: int | None = None,
        version: int = VERSION,
        mds: bool = False,
    ) -> None:
        self.engine = ffi.gc(lib.mlt_server_new(), lib.mlt_server_free)
        if self.engine == ffi.NULL:
            raise MemoryError
        self._settings = lib.mlt_server_settings(self.engine)
        self._settings.version = version
        self._settings.absent = absent
        self._settings.mds = mds
        self._settings.negotiate = flags is None
        # Without the interpreter's lock, threads have nothing to take turns for.
        self._settings.turns = getattr(sys, "_is_gil_enabled", lambda: True)()
        self._settings.idle_threads = IDLE_THREADS
        if flags is not None:
            self._settings.flags = flags
        self.limits = Limits(self.engine)
        # libmilter tells every connection's end; pymilter only those of which the filter has seen
        # something before.
        self.always_close = flags is not None
        self.callbacks: list[Callback | None] = [None] * len(_dispatch.CALLBACKS)
        self.invokers = list(_dispatch.INVOKERS)  # how each of them is called
        self.takes_headers = _dispatch.header_taker(None)
        self.exception_policy = TEMPFAIL
        self.flags = CURR_ACTS  # stored and, as with libmilter, of no effect
        self.print_tracebacks = True  # of callbacks, on standard error, besides the log
        self.debug = 0
        self.threads: int | None = None  # what main() takes for None, as of the next two
        self.workers: int | None = None
        self.worker_connections: int | None = None
        self.copied = False  # this process was forked from the one that serves
        self.shared = False  # other processes accept from the same socket
        self.drain = DRAIN  # seconds that open transactions get when it stops
        self._name: str | None = None
        self._spec: bytes | None = None
        self._options = ffi.new("mlt_socket_options *")
        self._options.backlog = _BACKLOG
        self._options.mode = self._options.owner = self._options.group = -1
        self._lock = threading.Lock()
        self._running = False
        self._stopped = False  # stop() was called, for the main() that runs or is to come
        self._signalled_once = False
        self._hurry = False  # a second signal came
        self._bell: Bell | None = None
        self.worker: Worker | None = None  # this process is one of several (_workers.py)
        self._skip_missing()

    # Settings.

    @property
    def name(self) -> str:
        """The name given to register(), for logs and for replies to failed callbacks."""
        return self._name if self._name is not None else "pymilter"

    @property
    def address(self) -> Any:
        """Where the socket is bound: a path, or (host, port); None while it is not open."""
        if lib.mlt_server_fd(self.engine) < 0:
            return None
        text = os.fsdecode(ffi.string(lib.mlt_server_address(self.engine)))
        if self._is_unix():
            return text
        host, _, port = text.rpartition(" ")
        return (host, int(port))

    def _is_unix(self) -> bool:
        text = ffi.string(lib.mlt_server_address(self.engine))
        return b" " not in text or b"/" in text

    def set_flags(self, flags: int, /) -> None:
        """Keeps the actions that the filter says it needs. Without effect (API spec 1.3)."""
        self.flags = to_c_int(flags)

    def _set_callback(self, step: int, callback: Callback | None) -> Callback | None:
        if callback is not None and not callable(callback):
            raise TypeError("callback parameter must be callable")
        previous, self.callbacks[step] = self.callbacks[step], callback
        self.invokers[step] = _dispatch.invoker(step, callback)
        if step == lib.MLT_STEP_HEADER:
            self.takes_headers = _dispatch.header_taker(callback)
        self._skip_missing()
        return previous

    def _skip_missing(self) -> None:
        """Has the engine answer steps without callback itself. Effective at once."""
        self._settings.unwanted = sum(
            1 << step
            for step, callback in enumerate(self.callbacks)
            if callback is None and step != _dispatch.NEGOTIATE
        )

    def set_connect_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, hostname, family, hostaddr)`; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_CONNECT, callback)

    def set_helo_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, name)`; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_HELO, callback)

    def set_envfrom_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, sender, *params)`, all bytes; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_MAIL, callback)

    def set_envrcpt_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, recipient, *params)`, all bytes; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_RCPT, callback)

    def set_header_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, name, value)`, the value bytes; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_HEADER, callback)

    def set_eoh_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx)` for the end of the headers; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_EOH, callback)

    def set_body_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx, chunk)`, bytes; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_BODY, callback)

    def set_eom_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx)` for the end of the message; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_EOM, callback)

    def set_abort_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx)` for a message that comes to nothing; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_ABORT, callback)

    def set_close_callback(self, callback: Callback | None, /) -> Callback | None:
        """Sets `f(ctx)` for the end of a connection; returns the one before, or None."""
        return self._set_callback(lib.MLT_STEP_CLOSE, callback)

    def set_exception_policy(self, policy: int, /) -> None:
        """Sets what is answered where a callback fails: CONTINUE, REJECT, ACCEPT or TEMPFAIL.

        Raises:
            milter.error: `invalid exception policy`.
        """
        number = to_c_int(policy)
        if number not in _dispatch.POLICIES:
            raise error("invalid exception policy")
        self.exception_policy = number

    def register(
        self,
        name: Any = _UNSET,
        unknown: Callback | None = _UNSET,
        data: Callback | None = _UNSET,
        negotiate: Callback | None = _UNSET,
    ) -> None:
        """Names the filter and sets the callbacks that have no function of their own.

        Args:
            name: `str`; for logs and for replies to failed callbacks.
            unknown: `f(ctx, command)`; None for none; left out: as it was. Likewise:
            data: `f(ctx)`.
            negotiate: `f(ctx, options)`.

        Raises:
            TypeError: the name is no `str`, or a callback cannot be called.
            milter.error: `cannot register`.
        """
        if name is _UNSET:
            raise TypeError("register() missing required argument 'name' (pos 1)")
        if not isinstance(name, str):
            kind = "None" if name is None else type(name).__name__
            raise TypeError(f"register() argument 1 must be str, not {kind}")
        to_bytes(name, "register", 1)
        given = (("unknown", unknown), ("data", data), ("negotiate", negotiate))
        for parameter, callback in given:
            if callback is not _UNSET and callback is not None and not callable(callback):
                raise TypeError(f"{parameter} parameter must be callable")
        if lib.mlt_server_check_version(self.engine) != lib.MLT_OK:
            raise error(f"cannot register: {self.problem()}")
        for step, callback in (
            (lib.MLT_STEP_UNKNOWN, unknown),
            (lib.MLT_STEP_DATA, data),
            (lib.MLT_STEP_NEGOTIATE, negotiate),
        ):
            if callback is not _UNSET:
                self._set_callback(step, callback)
        self._name = name

    def setdbg(self, level: int, /) -> None:
        """Keeps the level of debugging; above 0 each event is logged (level DEBUG)."""
        self.debug = to_c_int(level)

    def settimeout(self, seconds: int, /) -> None:
        """Sets how long a connection may be silent: seconds; below 0: for ever, 0: not at all."""
        self.limits.idle_timeout = to_c_int(seconds)

    def setbacklog(self, connections: int, /) -> None:
        """Sets how many connections may wait to be accepted.

        Raises:
            milter.error: `cannot set backlog`: not above 0.
        """
        number = to_c_int(connections)
        if number <= 0:
            raise error("cannot set backlog: it must be above 0")
        self._options.backlog = number

    def set_socket_access(
        self,
        mode: int | None = None,
        owner: str | int | None = None,
        group: str | int | None = None,
    ) -> None:
        """Sets who may connect to a unix socket, from the next opensocket() on.

        Args:
            mode: permission bits, such as 0o660. None: as umask has it.
            owner: user name or id. None: as the process.
            group: group name or id. None: as the process.

        Raises:
            milter.error: there is no such user or group.
        """
        try:
            user = pwd.getpwnam(owner).pw_uid if isinstance(owner, str) else owner
        except KeyError:
            raise error(f"cannot opensocket: there is no user {owner}") from None
        try:
            team = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
        except KeyError:
            raise error(f"cannot opensocket: there is no group {group}") from None
        self._options.mode = -1 if mode is None else mode
        self._options.owner = -1 if user is None else user
        self._options.group = -1 if team is None else team

    # The socket.

    def problem(self) -> str:
        """Returns the text of the engine's last failure."""
        return os.fsdecode(ffi.string(lib.mlt_server_error(self.engine)))

    def setconn(self, spec: Any, /) -> None:
        """Sets where to listen. It is not looked at before the socket is opened.

        Args:
            spec: `str`; as in wire spec 6.1: `unix:/path`, `inet:port@host`, ...

        Raises:
            TypeError, ValueError: no `str`, or with a NUL.
            milter.error: `cannot set connection`: it is empty.
        """
        if not isinstance(spec, str):
            kind = "None" if spec is None else type(spec).__name__
            raise TypeError(f"setconn() argument 1 must be str, not {kind}")
        data = to_bytes(spec, "setconn", 1)
        if not data:
            raise error("cannot set connection")
        self._spec = data

    def _open(self, failure: str, replace: bool) -> None:
        """Opens the socket, if it is not open."""
        if self._name is None:
            raise error(f"{failure}: register() comes first")
        if self._spec is None:
            raise error(f"{failure}: setconn() comes first")
        self._options.replace = replace
        if lib.mlt_server_open(self.engine, self._spec, self._options) != lib.MLT_OK:
            raise error(f"{failure}: {os.fsdecode(self._spec)}: {self.problem()}")

    def opensocket(self, rmsock: bool | int, /) -> None:
        """Binds and listens, so that a wrong socket shows before main().

        Args:
            rmsock: whether a socket that is in the way is removed, even one in use.

        Raises:
            milter.error: `cannot opensocket`, and why.

        After setconn() and register(). While the socket is open it does nothing.
        """
        flag = to_c_int(rmsock)
        if not 0 <= flag <= 255:
            raise OverflowError(
                f"unsigned byte integer is {'less' if flag < 0 else 'greater'} "
                f"than {'minimum' if flag < 0 else 'maximum'}"
            )
        self._open("cannot opensocket", bool(flag))

    # Running.

    def main(
        self,
        *,
        drain: float | None = None,
        threads: int | None = None,
        workers: int | None = None,
        worker_connections: int | None = None,
    ) -> None:
        """Serves until stopped: by stop(), SIGTERM, SIGINT or, without workers, SIGHUP.

        Args:
            drain: seconds that open transactions get to finish then; None for the attribute
                `drain`. A second signal ends them at once.
            threads: how many threads of a pool serve all connections (docs/pool.md); 0: each
                connection has a thread of its own. None: as MILTER_THREADS in the environment
                says, else 0.
            workers: how many processes serve (docs/workers.md); 0: this one. None: as
                MILTER_WORKERS in the environment says, else 0.
            worker_connections: connections after which a worker is replaced; 0: any number.
                None: as MILTER_WORKER_CONNECTIONS in the environment says, else 0.

        Raises:
            milter.error: `cannot run main`, and why; `milter module in use` if it runs already.

        After setconn() and register(); it opens the socket if that is not open. May be called
        again after it has returned.
        """
        with self._lock:
            if self._running:
                raise error("milter module in use")
            self._running = True
        try:
            size = _from_environment("MILTER_THREADS", self.threads if threads is None else threads)
            count = _from_environment(
                "MILTER_WORKERS", self.workers if workers is None else workers
            )
            turnover = _from_environment(
                "MILTER_WORKER_CONNECTIONS",
                self.worker_connections if worker_connections is None else worker_connections,
                _LARGEST_LIMIT,
            )
            seconds = self.drain if drain is None else drain
            self._open("cannot run main", False)
            if count:
                self._bell = Bell()
                serve = functools.partial(self._serve, seconds, size)
                supervise(self, self._bell, serve, count, turnover, seconds)
            else:
                self._serve(seconds, size)
        finally:
            with self._lock:
                self._running = False
                self._stopped = False
                self._signalled_once = False
                self._hurry = False
                bell, self._bell = self._bell, None
            lib.mlt_server_close(self.engine)
            if bell is not None:
                bell.close()

    def _serve(self, drain: float, threads: int) -> None:
        """Starts the first thread, waits for the end, and sees all threads off."""
        if lib.mlt_server_start(self.engine) != lib.MLT_OK:
            raise error(f"cannot run main: {self.problem()}")
        _forks.serving(self)
        bell = self._bell = Bell()
        crew: ThreadPerConnection | Pool = (
            Pool(self, threads, bell) if threads else ThreadPerConnection(self)
        )
        worker = self.worker
        with worker.signals(crew, bell) if worker else StopOnSignals(bell, self.signalled):
            try:
                if not self._stopped:
                    crew.start()
                    if worker:
                        worker.ready()
                while not self._stopped and not (worker and worker.retired()):
                    bell.wait(crew.attend())
            except RuntimeError as problem:
                raise error(f"cannot run main: {problem}") from problem
            finally:
                # Also when the program's own handler raised: graceful on the way out.
                self._stopped = True
                lib.mlt_server_stop(self.engine)
                self._see_off(crew, bell, drain)

    def _see_off(self, crew: ThreadPerConnection | Pool, bell: Bell, drain: float) -> None:
        """Closes the socket, lets open transactions finish, and cuts off the rest."""
        # Those between two messages need a moment to end, even where nobody waits for the others.
        deadline = time.monotonic() + max(drain, _IDLE_GRACE)
        crew.refuse(bell)
        # At once, so that MTAs are refused instead of waiting in the backlog for nobody.
        lib.mlt_server_close(self.engine)
        while crew.active() and not self._hurry:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            bell.wait(left)
        if crew.active():
            log(logging.WARNING, "%s: cutting off %d connections", self.name, crew.active())
            lib.mlt_server_cut(self.engine)
            deadline = time.monotonic() + _CUT_GRACE
            while crew.active() and time.monotonic() < deadline:
                bell.wait(deadline - time.monotonic())

    def stop(self) -> None:
        """Stops main(): no new connections, open transactions may finish. Never blocks.

        From any thread, callback or signal handler. Before main() it has the next main() return
        at once. In a worker it stops them all.
        """
        if self.worker is not None:
            self.worker.stop_all()
        self.halt()

    def halt(self, hurry: bool = False) -> None:
        """Stops this process; `hurry`: without waiting for open transactions. Never blocks."""
        if hurry:
            self._hurry = True
        self._stopped = True
        lib.mlt_server_stop(self.engine)
        self.ring()

    def signalled(self) -> None:
        """Stops for a signal; for a second one, without waiting for open transactions."""
        hurry, self._signalled_once = self._signalled_once, True
        self.halt(hurry)

    def is_stopped(self) -> bool:
        """Whether stop() was called."""
        return self._stopped

    def is_hurried(self) -> bool:
        """Whether open transactions are not to be waited for."""
        return self._hurry

    def become_worker(self, worker: Worker) -> None:
        """After a fork: forgets what is the supervisor's. Nothing has been started yet."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()
        self._lock = threading.Lock()
        self.shared = True
        self.worker = worker
        lib.mlt_server_disown(self.engine)

    def ring(self) -> None:
        """Wakes main(). From any thread."""
        bell = self._bell
        if bell is not None:
            bell.ring()
