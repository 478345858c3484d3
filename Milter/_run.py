"""`runmilter`, and the callbacks that tie the `milter` module to objects of `Milter.factory`.

What a filter may replace at run time - `Milter.factory`, `Milter.milter`, the callbacks - is read
from the package at each use, never kept. Source: API spec 2.8 and 2.9.
"""

from __future__ import annotations

from typing import Any, Callable

import Milter as package
from Milter import _lowlevel
from Milter._base import Base, strategy_of
from Milter._constants import CONTINUE, P_NR_CONN
from Milter._context import Context
from Milter._dispatch import METHODS, NO_BITS, short_cut, short_cut_headers
from Milter._server import DRAIN


def uniqueID() -> int:
    """Returns a number that this process has not given before, from 1. From any thread."""
    with package._seq_lock:
        package._seq += 1
        return package._seq


def _unwanted_steps(klass: type) -> int:
    """Returns the steps that a class has no use for, as the engine's mask.

    The class decides: an attribute of an object that happens to have a callback's name is never
    taken for one.
    """
    cached: int | None = klass.__dict__.get("_unwanted_steps")
    if cached is not None:
        return cached
    mask = 0
    for step, name in enumerate(METHODS):
        if NO_BITS[step] & getattr(getattr(klass, name, None), "milter_protocol", 0):
            mask |= 1 << step
    klass._unwanted_steps = mask  # type: ignore[attr-defined]
    return mask


def attach(ctx: Any, factory: Callable[[], Any]) -> Any:
    """Makes the filter's object for a connection."""
    milter = factory()
    milter._setctx(ctx)
    if isinstance(ctx, Context):
        ctx._skip_steps(_unwanted_steps(type(milter)))
    return milter


def negotiate_callback(ctx: Any, opts: list[int]) -> Any:
    """The first callback of a connection: makes the object with `Milter.factory()`."""
    return attach(ctx, package.factory).negotiate(opts)


def connect_callback(
    ctx: Any, hostname: str, family: int, hostaddr: Any, nr_mask: int = P_NR_CONN
) -> Any:
    """Calls connect, and makes the object first where negotiate_callback has not.

    Args:
        ctx: the context.
        hostname, family, hostaddr: as for Base.connect.
        nr_mask: of no use; pymilter has it.
    """
    milter = ctx.getpriv()
    if not milter:
        milter = attach(ctx, package.factory)
        if isinstance(ctx, Context):
            milter._actions, milter._protocol = ctx._negotiated()
    return milter.connect(hostname, family, hostaddr)


def close_callback(ctx: Any) -> Any:
    """Calls close and detaches the object, also when close raises."""
    milter = ctx.getpriv()
    if not milter:
        return CONTINUE
    try:
        return milter.close()
    finally:
        milter._setctx(None)


def _hello(ctx: Any, hostname: str) -> Any:
    return ctx.getpriv().hello(hostname)


def _envfrom(ctx: Any, *words: bytes) -> Any:
    return ctx.getpriv().envfrom_bytes(*words)


def _envrcpt(ctx: Any, *words: bytes) -> Any:
    return ctx.getpriv().envrcpt_bytes(*words)


def _data(ctx: Any) -> Any:
    return ctx.getpriv().data()


def _header(ctx: Any, name: str, value: bytes) -> Any:
    return ctx.getpriv().header_bytes(name, value)


def _eoh(ctx: Any) -> Any:
    return ctx.getpriv().eoh()


def _body(ctx: Any, chunk: bytes) -> Any:
    return ctx.getpriv().body(chunk)


def _eom(ctx: Any) -> Any:
    return ctx.getpriv().eom()


def _abort(ctx: Any) -> Any:
    return ctx.getpriv().abort()


def _unknown(ctx: Any, command: str) -> Any:
    return ctx.getpriv().unknown(command)


# The same from the event, with two calls less, for the steps that a message has many of.


@short_cut(_envfrom)
def _envfrom_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.envfrom_bytes(*text.split(b"\0"))


@short_cut(_envrcpt)
def _envrcpt_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.envrcpt_bytes(*text.split(b"\0"))


@short_cut(_data)
def _data_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.data()


@short_cut(_header)
def _header_event(callback: Any, ctx: Any, text: bytes) -> Any:
    name, _, value = text.partition(b"\0")
    return ctx._priv.header_bytes(name.decode("utf-8", "surrogateescape"), value)


@short_cut_headers(_header)
def _plain_headers(ctx: Context) -> Any:
    """The filter's object, if Base.header_bytes is all that decodes its headers."""
    milter = ctx._priv
    header_bytes = getattr(milter, "header_bytes", None)
    if getattr(header_bytes, "__func__", None) is not Base.header_bytes:
        return None
    return milter if strategy_of(milter.header) is None else None


@short_cut(_eoh)
def _eoh_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.eoh()


@short_cut(_body)
def _body_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.body(text)


@short_cut(_eom)
def _eom_event(callback: Any, ctx: Any, text: bytes) -> Any:
    return ctx._priv.eom()


def set_callbacks(milter: Any) -> None:
    """Sets the callbacks that call a filter's object, but for those that register() takes.

    Args:
        milter: the module `milter`, or a Server of one's own.
    """
    milter.set_connect_callback(package.connect_callback)
    milter.set_helo_callback(_hello)
    milter.set_envfrom_callback(_envfrom)
    milter.set_envrcpt_callback(_envrcpt)
    milter.set_header_callback(_header)
    milter.set_eoh_callback(_eoh)
    milter.set_body_callback(_body)
    milter.set_eom_callback(_eom)
    milter.set_abort_callback(_abort)
    milter.set_close_callback(package.close_callback)


def register(milter: Any, name: str, negotiate: Any) -> None:
    """Names the filter, and sets the other callbacks.

    Args:
        milter: as for set_callbacks().
        name: of the filter.
        negotiate: what makes the filter's object.
    """
    milter.register(name, data=_data, unknown=_unknown, negotiate=negotiate)


def runmilter(
    name: str,
    socketname: str,
    timeout: int = 0,
    rmsock: bool = True,
    *,
    socket_mode: int | None = None,
    socket_owner: str | int | None = None,
    socket_group: str | int | None = None,
    drain: float | None = None,
    threads: int | None = None,
    workers: int | None = None,
    worker_connections: int | None = None,
) -> None:
    """Runs the filter of `Milter.factory` until it is stopped.

    Args:
        name: of the filter, for logs and for replies to failed callbacks.
        socketname: where to listen, such as `unix:/run/filter.sock` or `inet:8890@localhost`.
        timeout: seconds that a connection may be silent; 0 for the default, 7210.
        rmsock: whether a socket file that is in the way is removed.
        socket_mode: permission bits of a unix socket. None: as umask has it.
        socket_owner: its owner, name or id. None: as the process.
        socket_group: its group, name or id. None: as the process.
        drain: seconds that open transactions get to finish when it stops. None: 5.
        threads: how many threads of a pool serve all connections (docs/pool.md); 0: each
            connection has a thread of its own. None: as MILTER_THREADS in the environment says,
            else 0.
        workers: how many processes serve (docs/workers.md); 0: this one. None: as MILTER_WORKERS
            in the environment says, else 0.
        worker_connections: connections after which a worker is replaced; 0: any number. None: as
            MILTER_WORKER_CONNECTIONS in the environment says, else 0.

    Raises:
        milter.error: the socket or the settings are wrong; the text says why.

    Returns after SIGTERM, SIGINT or `Milter.stop()`, and without workers after SIGHUP. In a worker
    it does not return. Source: API spec 2.9.
    """
    milter: Any = package.milter
    set_callbacks(milter)
    milter.setconn(socketname)
    if timeout > 0:
        milter.settimeout(timeout)
    wanted: Any = package.negotiate_callback
    if milter.getversion() < (1, 0, 1):
        wanted = None
    register(milter, name, wanted)
    server = _lowlevel.server
    server.set_socket_access(socket_mode, socket_owner, socket_group)
    server.drain = DRAIN if drain is None else drain
    server.threads = threads
    server.workers = workers
    server.worker_connections = worker_connections
    milter.opensocket(rmsock)
    start = package._seq
    try:
        milter.main()
    except milter.error:
        if package._seq == start:
            raise
        raise milter.error("out of thread resources") from None
