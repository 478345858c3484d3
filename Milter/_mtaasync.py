"""The connection of an MTA to one filter, with asyncio.

Owns the waiting, as Milter._mtasession does with blocking sockets; what each method means is
described there. Milter._mailserverasync has whole mail servers.

    async with await connect_async("unix:/run/filter.sock") as session:
        result = await session.send(message)

Cancelling a task that waits for a filter closes the connection to it: whatever it was about to say
cannot be told any more from the answer to something else.

Needs an event loop that can watch sockets (add_reader): any but Windows' default one.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import time
from collections.abc import Awaitable, Generator, Sequence
from types import TracebackType
from typing import Any, Callable, Final, Optional, TypeVar, Union

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import Answer, RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message, Text
from Milter._mtacodec import (
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    ConnectError,
    ConnectionLost,
    MilterError,
    Options,
    Verdict,
)
from Milter._mtasessionbase import LOCALHOST, RECEIVE, SessionBase, Wait
from Milter._mtasocket import parse_spec, reason
from Milter._profiles import Timeouts

A = TypeVar("A")
T = TypeVar("T")
Q = TypeVar("Q", bound="AsyncQuitting")
W = TypeVar("W")

_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR})
_QUEUE_FULL: Final = 0.02  # seconds until a unix socket whose queue is full is tried again


# -- sockets -------------------------------------------------------------------------------------


async def _ready(sock: socket.socket, *, write: bool, deadline: float) -> bool:
    """Waits until a socket can be read or written; returns False when the time is over."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[bool] = loop.create_future()

    def wake(can: bool) -> None:
        if not woken.done():
            woken.set_result(can)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    timer = None
    if deadline != math.inf:
        timer = loop.call_later(max(deadline - time.monotonic(), 0), wake, False)
    add(sock, wake, True)
    try:
        return await woken
    finally:
        remove(sock)
        if timer is not None:
            timer.cancel()


async def _addresses(spec: str) -> list[tuple[int, Any]]:
    """What a socket specification stands for: families and addresses."""
    family, host, port = parse_spec(spec)
    if family == socket.AF_UNIX:
        return [(family, host)]
    kind = (socket.AddressFamily(family), socket.SOCK_STREAM)
    try:
        # An address needs no thread.
        found = socket.getaddrinfo(host, port, *kind, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=kind[0], type=kind[1])
    return [(entry[0], entry[4]) for entry in found]


async def _connect_to(sock: socket.socket, address: Any, timeout: float) -> Optional[str]:
    """Connects; returns what went wrong."""
    deadline = time.monotonic() + timeout
    late = f"no connection within {timeout:g} s"
    while True:
        code = sock.connect_ex(address)
        if code != errno.EAGAIN or sock.family != socket.AF_UNIX:
            break
        # There is nothing to wait on until the filter has taken another client from its queue.
        if time.monotonic() >= deadline:
            return late
        await asyncio.sleep(_QUEUE_FULL)
    if code in _UNDER_WAY:
        if not await _ready(sock, write=True, deadline=deadline):
            return late
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return os.strerror(code) if code else None


async def open_socket_async(spec: str, timeout: float) -> socket.socket:
    """Returns a connected stream socket that does not block.

    Args:
        spec: where to; see :func:`Milter.mta.connect`.
        timeout: seconds for each address that a host name has.

    Raises:
        SocketSpecError: ``spec`` is no socket specification.
        ConnectError: nobody answers there.
    """
    try:
        addresses = await _addresses(spec)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {spec}: {reason(error)}") from error
    reasons: list[str] = []
    for family, address in addresses:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            reasons.append(reason(error))
            continue
        try:
            sock.setblocking(False)
            wrong = await _connect_to(sock, address, timeout)
            if wrong is None:
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
        except OSError as error:
            wrong = reason(error)
        except BaseException:
            sock.close()
            raise
        sock.close()
        reasons.append(wrong)
    raise ConnectError(f"cannot connect to {spec}: {', '.join(dict.fromkeys(reasons))}")


async def connect_async(
    spec: Union[str, os.PathLike[str]],
    *,
    timeouts: Timeouts = Timeouts(),
    strict: bool = True,
    progress_anywhere: bool = True,
    receive_limit: int = 64 * 1024 * 1024,
) -> AsyncSession:
    """Connects to a filter; as :func:`Milter.mta.connect`, with asyncio.

    Args:
        spec: where it listens; see there.
        timeouts: how long to wait for what.
        strict: see :class:`Milter.mta.Protocol`.
        progress_anywhere: see :class:`Milter.mta.Protocol`.
        receive_limit: bytes of one packet from the filter.

    Returns:
        A session in which nothing has been said yet.

    Raises:
        SocketSpecError: ``spec`` is no socket specification.
        ConnectError: nobody answers there; the reason is in the text.
    """
    sock = await open_socket_async(os.fspath(spec), timeouts.connect)
    return AsyncSession(
        sock,
        timeouts=timeouts,
        protocol=Protocol(
            strict=strict, progress_anywhere=progress_anywhere, receive_limit=receive_limit
        ),
    )


# -- talking to it -------------------------------------------------------------------------------


async def drive_async(
    script: Generator[W, Optional[A], T], do: Callable[[W], Awaitable[Optional[A]]]
) -> T:
    """Does what a script yields, one thing after the other; see Milter._mtasession.drive()."""
    answer: Optional[A] = None
    error: Optional[MilterError] = None
    try:
        while True:
            try:
                wanted = script.send(answer) if error is None else script.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = error = None
            try:
                answer = await do(wanted)
            except MilterError as failure:
                error = failure
    finally:
        script.close()


class AsyncQuitting:
    """As Milter._mtasession.Quitting, asynchronously."""

    async def __aenter__(self: Q) -> Q:
        """Begins what is to be begun, and returns this."""
        await self._enter()
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Says QUIT if that can be, unless an exception is on its way; and closes."""
        try:
            if kind is None and self._may_quit():
                await self.quit()
        finally:
            self.close()

    async def _enter(self) -> None:
        """Begins what is to be begun."""

    def _may_quit(self) -> bool:
        """Whether QUIT can be said."""
        return True

    async def quit(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes it without a word; more than once."""
        raise NotImplementedError


class AsyncSession(SessionBase, AsyncQuitting):
    """A connection to a filter: :class:`Milter.mta.Session` with asyncio.

    An asynchronous context manager: at the end of the block the filter is told to QUIT, and the
    connection is closed; after an exception it is only closed. The steps have the arguments,
    results and errors that they have there. Used by one task at a time.

    Args:
        sock: a connected stream socket; it is the session's from now on.
        timeouts: how long to wait for what.
        protocol: the rules; a strict :class:`Milter.mta.Protocol` of its own by default.
        on_step: called after each step but the negotiation.
    """

    # -- I/O -------------------------------------------------------------------------------------

    async def _do(self, wait: Wait) -> None:
        """Waits."""
        rest = memoryview(wait.data or b"")
        while True:
            try:
                if wait.data is None:
                    data = self._socket.recv(RECEIVE)
                    break
                rest = rest[self._socket.send(rest) :]
                if not rest:
                    return
            except (BlockingIOError, InterruptedError):
                if not await self._ready(wait):
                    self._late(wait)
            except OSError as error:
                self._lost(error, wait.step)
        self.protocol.receive(data)

    async def _ready(self, wait: Wait) -> bool:
        """Waits until the socket is ready; returns False when the time is over."""
        write = wait.data is not None
        try:
            return await _ready(self._socket, write=write, deadline=wait.deadline)
        except asyncio.CancelledError:
            # What the filter says next would be taken for an answer to something else.
            self.protocol.fail(ConnectionLost(f"given up while waiting at {wait.step}"))
            self.close()
            raise

    async def exchange(self, writes: Sequence[bytes], outgoing: Outgoing) -> Answer:
        """See :meth:`Milter.mta.Session.exchange`."""
        return await drive_async(self._exchanging(writes, outgoing), self._do)

    async def _step(self, outgoing: Outgoing) -> Answer:
        """Writes a step and waits for its answer, if one is due."""
        return await drive_async(self._playing(outgoing), self._do)

    # -- steps -----------------------------------------------------------------------------------

    async def negotiate(
        self, version: int = 6, actions: int = DEFAULT_ACTIONS, protocol: int = DEFAULT_PROTOCOL
    ) -> Options:
        """See :meth:`Milter.mta.Session.negotiate`."""
        return await drive_async(self._negotiating(version, actions, protocol), self._do)

    async def connect(
        self,
        hostname: Text = "localhost",
        address: Optional[str] = "127.0.0.1",
        port: int = 0,
        macros: Optional[Macros] = None,
    ) -> Verdict:
        """See :meth:`Milter.mta.Session.connect`."""
        outgoing = self.protocol.connect(hostname, address, port, macros)
        return (await self._step(outgoing)).verdict

    async def helo(self, name: Text = "localhost", macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.helo`."""
        return (await self._step(self.protocol.helo(name, macros))).verdict

    async def mail(self, sender: Text, *params: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.mail`."""
        return (await self._step(self.protocol.mail(sender, *params, macros=macros))).verdict

    async def rcpt(
        self,
        recipient: Text,
        *params: Text,
        macros: Optional[Macros] = None,
        rejected: bool = False,
    ) -> Verdict:
        """See :meth:`Milter.mta.Session.rcpt`."""
        outgoing = self.protocol.rcpt(recipient, *params, macros=macros, rejected=rejected)
        return (await self._step(outgoing)).verdict

    async def data(self, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.data`."""
        return (await self._step(self.protocol.data(macros))).verdict

    async def header(self, name: Text, value: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.header`."""
        return (await self._step(self.protocol.header(name, value, macros))).verdict

    async def eoh(self, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.eoh`."""
        return (await self._step(self.protocol.eoh(macros))).verdict

    async def body(self, data: bytes, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.body`."""
        return await drive_async(self._sending_body(data, macros), self._do)

    async def eom(self, macros: Optional[Macros] = None, data: bytes = b"") -> Answer:
        """See :meth:`Milter.mta.Session.eom`."""
        return await self._step(self.protocol.eom(macros, data))

    async def unknown(self, command: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.unknown`."""
        return (await self._step(self.protocol.unknown(command, macros))).verdict

    async def abort(self) -> None:
        """See :meth:`Milter.mta.Session.abort`."""
        await self._step(self.protocol.abort())

    async def quit_nc(self) -> None:
        """See :meth:`Milter.mta.Session.quit_nc`."""
        await self._step(self.protocol.quit_nc())

    async def quit(self) -> None:
        """See :meth:`Milter.mta.Session.quit`."""
        await drive_async(self._ending(), self._do)

    async def hang_up(self, writes: Sequence[bytes], wait: bool = True) -> None:
        """See :meth:`Milter.mta.Session.hang_up`."""
        await drive_async(self._hanging_up(writes, wait), self._do)

    def leave(self, writes: Sequence[bytes]) -> None:
        """Writes what can be written at once, and closes; at any time, and nothing is awaited.

        Args:
            writes: the last that is to be said.
        """
        try:
            self.write_now(writes)
        except MilterError:
            pass  # the filter learns from the end of the connection what it was not told
        finally:
            self.close()

    def write_now(self, writes: Sequence[bytes]) -> None:
        """Writes what needs no waiting for.

        Raises:
            ConnectionLost: the filter does not take it at once, or is gone.
        """
        for data in writes:
            try:
                taken = self._socket.send(data)
            except OSError as error:
                self._lost(error, "quit")
            if taken < len(data):
                self._fail(ConnectionLost("the filter does not take at once what ends it"))

    # -- a whole message -------------------------------------------------------------------------

    async def send(
        self,
        message: Message,
        *,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> Result:
        """Plays one message as an MTA would; see :meth:`Milter.mta.Session.send`."""
        course = self._sending(message, client, helo, macros, rejected, on_step)
        return await drive_async(course, self._do)
