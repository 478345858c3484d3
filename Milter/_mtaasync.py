"""The MTA's side of milter connections for asyncio: one filter, or a mail server in front of some.

Owns the I/O: the same Milter._conversation, Milter._dialogue and Milter._smtpsession that
Milter._mtasession and Milter._mailserver drive with blocking sockets. What is said when, and what
each method means, is described there.

    async with await connect_async("unix:/run/filter.sock") as session:
        result = await session.send(message)

    server = AsyncMailServer("unix:/run/a.sock", "inet:8893@127.0.0.1", profile="sendmail")
    result = await server.send(message)

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
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Callable, Final, NoReturn, Optional, TypeVar, Union

from Milter._conversation import Event, Macros, Outgoing, Protocol
from Milter._dialogue import (
    HOSTNAME,
    Answer,
    RejectedRecipient,
    Result,
    SmtpClient,
    Step,
    play,
)
from Milter._mailserver import MailServer, whole_message
from Milter._message import Message, Modification, Text
from Milter._mtacodec import (
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    NOT_SENT,
    ConnectError,
    ConnectionLost,
    FilterTimeout,
    Kind,
    MilterError,
    Options,
    Progress,
    StateError,
    Verdict,
)
from Milter._mtasession import LOCALHOST
from Milter._mtasocket import parse_spec, reason
from Milter._profiles import POSTFIX, Profile, Timeouts
from Milter._smtpsession import (
    Close,
    Connect,
    Exchange,
    Filter,
    Operation,
    Script,
    SmtpReply,
    recipients_of,
)

T = TypeVar("T")

_RECEIVE: Final = 65536  # bytes asked of the operating system at once
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


# -- one filter ----------------------------------------------------------------------------------


class AsyncSession:
    """A connection to a filter: :class:`Milter.mta.Session` with asyncio.

    An asynchronous context manager: at the end of the block the filter is told to QUIT, and the
    connection is closed; after an exception it is only closed. The steps have the arguments,
    results and errors that they have there. Used by one task at a time.

    Args:
        sock: a connected stream socket; it is the session's from now on.
        timeouts: how long to wait for what.
        protocol: the rules; a strict :class:`Milter.mta.Protocol` of its own by default.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeouts: Timeouts = Timeouts(),
        protocol: Optional[Protocol] = None,
    ) -> None:
        """Takes over a connected socket."""
        self.timeouts = timeouts
        self.protocol = Protocol() if protocol is None else protocol
        """The rules, and the state of the conversation."""
        sock.setblocking(False)
        self._socket = sock
        self._messages = 0

    async def __aenter__(self) -> AsyncSession:
        """Returns the session."""
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Says QUIT, unless an exception is on its way or the session is over, and closes."""
        try:
            idle = self.protocol.options is not None and self.protocol.waiting_for is None
            if kind is None and idle and not self.protocol.over:
                await self.quit()
        finally:
            self.close()

    @property
    def options(self) -> Optional[Options]:
        """What was negotiated; None before."""
        return self.protocol.options

    # -- I/O -------------------------------------------------------------------------------------

    def _fail(self, error: MilterError, cause: Optional[OSError] = None) -> NoReturn:
        """The session is over, and this is why."""
        self.protocol.fail(error)
        self.close()
        raise error from cause

    def _lost(self, error: OSError, step: str) -> NoReturn:
        self._fail(ConnectionLost(f"the connection broke at {step}: {reason(error)}"), error)

    async def _wait(self, *, write: bool, deadline: float, step: str) -> bool:
        try:
            return await _ready(self._socket, write=write, deadline=deadline)
        except asyncio.CancelledError:
            # What the filter says next would be taken for an answer to something else.
            self.protocol.fail(ConnectionLost(f"given up while waiting at {step}"))
            self.close()
            raise

    async def _write(self, data: bytes, step: str) -> None:
        deadline = time.monotonic() + self.timeouts.reply
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, InterruptedError):
                if not await self._wait(write=True, deadline=deadline, step=step):
                    seconds = f"{self.timeouts.reply:g} s"
                    self._fail(FilterTimeout(f"the filter did not take {step} within {seconds}"))
            except OSError as error:
                self._lost(error, step)

    async def _read(self, step: str, timeout: float, deadline: float) -> None:
        """Feeds the protocol with whatever there is next."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except (BlockingIOError, InterruptedError):
                if not await self._wait(write=False, deadline=deadline, step=step):
                    self._fail(FilterTimeout(f"no answer to {step} within {timeout:g} s"))
            except OSError as error:
                self._lost(error, step)
            else:
                self.protocol.receive(data)
                return

    def _look(self, step: str) -> None:
        """Takes what is there before we have said anything: it cannot be an answer."""
        try:
            data = self._socket.recv(_RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error, step)
        self.protocol.receive(data, early=True)

    async def _event(self, step: str, end: float = math.inf) -> Event:
        """Waits for what the filter says next, at the longest until *end*."""
        timeout = self.timeouts.of(step)
        deadline = min(time.monotonic() + timeout, end)
        while True:
            event = self.protocol.next_event()
            if event is not None:
                return event
            await self._read(step, timeout, deadline)

    async def _exchange(self, outgoing: Outgoing) -> Answer:
        """Writes a step and waits for its answer, if one is due."""
        return await self.exchange((outgoing.data,) if outgoing.data else (), outgoing)

    async def exchange(self, writes: Sequence[bytes], outgoing: Outgoing) -> Answer:
        """See :meth:`Milter.mta.Session.exchange`."""
        if writes:
            self._look(outgoing.step)
        for data in writes:
            await self._write(data, outgoing.step)
        if outgoing.verdict is not None:
            return Answer(outgoing.verdict)
        changes: list[Modification] = []
        progress = 0
        total = self.timeouts.eom_total if outgoing.step == "eom" else None
        end = math.inf if total is None else time.monotonic() + total
        while True:
            event = await self._event(outgoing.step, end)
            if isinstance(event, Verdict):
                return Answer(event, tuple(changes), progress)
            if isinstance(event, Options):
                return Answer(Verdict(Kind.CONTINUE))
            if isinstance(event, Progress):
                progress += 1
            else:
                changes.append(event)

    # -- steps -----------------------------------------------------------------------------------

    async def negotiate(
        self, version: int = 6, actions: int = DEFAULT_ACTIONS, protocol: int = DEFAULT_PROTOCOL
    ) -> Options:
        """See :meth:`Milter.mta.Session.negotiate`."""
        await self._exchange(self.protocol.negotiate(version, actions, protocol))
        assert self.protocol.options is not None, "nothing else is an answer to an offer"
        return self.protocol.options

    async def connect(
        self,
        hostname: Text = "localhost",
        address: Optional[str] = "127.0.0.1",
        port: int = 0,
        macros: Optional[Macros] = None,
    ) -> Verdict:
        """See :meth:`Milter.mta.Session.connect`."""
        outgoing = self.protocol.connect(hostname, address, port, macros)
        return (await self._exchange(outgoing)).verdict

    async def helo(self, name: Text = "localhost", macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.helo`."""
        return (await self._exchange(self.protocol.helo(name, macros))).verdict

    async def mail(self, sender: Text, *params: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.mail`."""
        return (await self._exchange(self.protocol.mail(sender, *params, macros=macros))).verdict

    async def rcpt(
        self,
        recipient: Text,
        *params: Text,
        macros: Optional[Macros] = None,
        rejected: bool = False,
    ) -> Verdict:
        """See :meth:`Milter.mta.Session.rcpt`."""
        outgoing = self.protocol.rcpt(recipient, *params, macros=macros, rejected=rejected)
        return (await self._exchange(outgoing)).verdict

    async def data(self, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.data`."""
        return (await self._exchange(self.protocol.data(macros))).verdict

    async def header(self, name: Text, value: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.header`."""
        return (await self._exchange(self.protocol.header(name, value, macros))).verdict

    async def eoh(self, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.eoh`."""
        return (await self._exchange(self.protocol.eoh(macros))).verdict

    async def body(self, data: bytes, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.body`."""
        size = 65535 if self.options is None else self.options.max_data
        verdict = NOT_SENT
        for at in range(0, len(data), size):
            piece = self.protocol.body(data[at : at + size], macros)
            verdict = (await self._exchange(piece)).verdict
            if verdict.final or verdict.kind in (Kind.SKIP, Kind.NOT_SENT):
                break
        return verdict

    async def eom(self, macros: Optional[Macros] = None, data: bytes = b"") -> Answer:
        """See :meth:`Milter.mta.Session.eom`."""
        return await self._exchange(self.protocol.eom(macros, data))

    async def unknown(self, command: Text, macros: Optional[Macros] = None) -> Verdict:
        """See :meth:`Milter.mta.Session.unknown`."""
        return (await self._exchange(self.protocol.unknown(command, macros))).verdict

    async def abort(self) -> None:
        """See :meth:`Milter.mta.Session.abort`."""
        await self._exchange(self.protocol.abort())

    async def quit_nc(self) -> None:
        """See :meth:`Milter.mta.Session.quit_nc`."""
        await self._exchange(self.protocol.quit_nc())

    async def quit(self) -> None:
        """See :meth:`Milter.mta.Session.quit`."""
        outgoing = self.protocol.quit()
        try:
            await self.hang_up((outgoing.data,))
        finally:
            self.close()

    async def hang_up(self, writes: Sequence[bytes], wait: bool = True) -> None:
        """See :meth:`Milter.mta.Session.hang_up`."""
        timeout = self.timeouts.reply
        deadline = time.monotonic() + timeout
        try:
            for data in writes:
                await self._write(data, "quit")
            while wait and not self.protocol.closed:
                await self._read("quit", timeout, deadline)
                self.protocol.next_event()
        except ConnectionLost:
            pass
        except FilterTimeout:
            raise FilterTimeout(f"the filter did not close within {timeout:g} s of QUIT") from None

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

    def close(self) -> None:
        """Closes the connection, without a word to the filter; at any time, more than once."""
        self._socket.close()

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
        if self.options is None:
            await self.negotiate()
        self._messages += 1
        script = play(
            self.protocol,
            message,
            client=client,
            helo=helo,
            macros=macros or {},
            rejected=rejected,
            queue_id=f"{0x4A5B6C0000 + self._messages:X}",
            on_step=on_step,
        )
        try:
            outgoing = next(script)
            while True:
                outgoing = script.send(await self._exchange(outgoing))
        except StopIteration as end:
            result: Result = end.value
        if result.session_over:
            await self.quit()
        return result


# -- several filters -----------------------------------------------------------------------------


class AsyncMailServer:
    """A mail server with filters in a row: :class:`Milter.mta.MailServer` with asyncio.

    It holds no connection of its own; any number of sessions may be under way in different tasks.

    Args:
        filters: where they listen, or :class:`Milter.mta.Filter` for more to say about one.
        profile: ``postfix`` or ``sendmail``, or a Profile.
        default_action: for filters that have none of their own; see :class:`Milter.mta.Filter`.
        hostname: what it calls itself.
        strict: what a filter may not do, but mail servers put up with, counts as any other failure
            of it, too: the default action is taken; see :class:`Milter.mta.Protocol`.

    Raises:
        ValueError: no such profile or action.
    """

    def __init__(
        self,
        *filters: Union[str, Filter],
        profile: Union[str, Profile] = POSTFIX,
        default_action: Optional[str] = None,
        hostname: str = HOSTNAME,
        strict: bool = False,
    ) -> None:
        """Connects to nothing yet."""
        self._server = MailServer(
            *filters,
            profile=profile,
            default_action=default_action,
            hostname=hostname,
            strict=strict,
        )
        self.profile = self._server.profile
        self.filters = self._server.filters
        self.hostname = hostname
        self.dialogue = self._server.dialogue

    def session(
        self,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> AsyncSmtpSession:
        """Returns an SMTP session, to be entered with ``async with`` or begun with ``begin()``.

        Args:
            client: who connects.
            helo: how it introduces itself; by default as what it is called, "" for not at all.
            macros: see :meth:`Milter.mta.MailServer.session`.
            on_step: called after each step of each filter.
        """
        return AsyncSmtpSession(self, client, helo, macros, on_step)

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
        """Plays one message in a session of its own; see :meth:`Milter.mta.MailServer.send`."""
        recipients_of(message)
        async with self.session(client, helo, macros, on_step) as session:
            return await session.send(message, rejected=rejected)


class AsyncSmtpSession:
    """One SMTP session in front of the filters of an :class:`AsyncMailServer`.

    As :class:`Milter.mta.SmtpSession`, with asyncio; an asynchronous context manager, which
    connects and says HELO where the block begins, and QUIT at its end. Used by one task at a time.
    """

    def __init__(
        self,
        server: AsyncMailServer,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> None:
        """Connects to nothing yet."""
        self._server = server
        self._sessions: dict[int, AsyncSession] = {}
        self._dialogue = server.dialogue(on_step)
        self._client = client
        self._helo = client.name if helo is None else helo
        self._macros = macros
        self._begun = False
        self._done = False  # QUIT was said, or the connections were closed
        self.greeting: Optional[SmtpReply] = None
        """The greeting, if a filter has it refuse."""
        self._refusal: Optional[SmtpReply] = None

    async def begin(self) -> None:
        """The client has connected, and said HELO; once, and first."""
        if self._begun:
            raise StateError("the session has begun already")
        self._begun = True
        try:
            self.greeting = await self._run(self._dialogue.connect(self._client, self._macros))
            if self._helo and not self.over:
                self._refusal = await self._run(self._dialogue.helo(self._helo))
        except BaseException:
            self.close()
            raise

    async def __aenter__(self) -> AsyncSmtpSession:
        """Begins, and returns the session."""
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Says QUIT, or closes all connections after an exception."""
        try:
            if kind is None:
                await self.quit()
        finally:
            self.close()

    @property
    def over(self) -> bool:
        """True: QUIT was said, or a filter has had the connection closed (421)."""
        return self._dialogue.over

    @property
    def errors(self) -> tuple[MilterError, ...]:
        """What the filters did wrong so far."""
        return tuple(self._dialogue.errors)

    @property
    def queue_id(self) -> str:
        """The name of the message in hand, in the macro ``i``."""
        return self._dialogue.queue_id

    def count_from(self, number: int) -> None:
        """Sets how many messages there have been, of which the name of the next one is made.

        Args:
            number: for servers in which several sessions share their names, those of all.
        """
        self._dialogue.message_count = number

    @property
    def sessions(self) -> dict[int, AsyncSession]:
        """The connections that are open, by the filter's number."""
        return dict(self._sessions)

    # -- commands --------------------------------------------------------------------------------

    async def helo(self, name: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says HELO or EHLO (again)."""
        return await self._run(self._dialogue.helo(name, macros))

    async def mail(
        self, sender: str, *params: str, macros: Optional[Macros] = None
    ) -> Optional[SmtpReply]:
        """A message begins: the sender with or without angle brackets, and ESMTP parameters."""
        return await self._run(self._dialogue.mail(sender, *params, macros=macros))

    async def rcpt(
        self,
        recipient: str,
        *params: str,
        macros: Optional[Macros] = None,
        rejected: Optional[RejectedRecipient] = None,
    ) -> Optional[SmtpReply]:
        """A recipient; *rejected*: the MTA itself refuses it, and why."""
        return await self._run(
            self._dialogue.rcpt(recipient, *params, macros=macros, rejected=rejected)
        )

    async def data(self, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says DATA."""
        return await self._run(self._dialogue.data(macros))

    async def content(self, message: Message, macros: Optional[Macros] = None) -> Result:
        """The content; the envelope of *message* is the one that the MTA has now."""
        return await self._run(self._dialogue.content(message, macros))

    async def reset(self) -> None:
        """The client says RSET."""
        await self._run(self._dialogue.reset())

    async def unknown(self, command: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says what is no SMTP command."""
        return await self._run(self._dialogue.unknown(command, macros))

    async def quit(self) -> None:
        """The client says QUIT, or is gone; more than once."""
        if not self._done:
            self._done = True
            await self._run(self._dialogue.quit())

    async def send(
        self,
        message: Message,
        *,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
    ) -> Result:
        """Plays a message; see :meth:`Milter.mta.SmtpSession.send`."""
        lost = (self.greeting or self._refusal) if self.over else None
        return await self._run(whole_message(self._dialogue, message, macros, rejected, lost))

    def leave(self) -> None:
        """The client is gone: tells the filters what can be told at once, and closes.

        At any time and more than once; nothing is awaited, so that it can be called where no task
        runs any more.
        """
        if self._done:
            self.close()
            return
        self._done = True
        script = self._dialogue.quit()
        try:
            operation = next(script)
            while True:
                operation = self._left(script, operation)
        except (StopIteration, MilterError):
            self.close()

    def _left(self, script: Script[None], operation: Operation) -> Operation:
        """Does what can be done at once, and returns what is to be done next."""
        session = self._sessions.get(operation.filter)
        if isinstance(operation, Close):
            if session is not None:
                session.leave(operation.writes)
                del self._sessions[operation.filter]
            return script.send(None)
        if isinstance(operation, Exchange) and operation.outgoing.verdict is not None:
            # What gives the message up, which no filter answers.
            if session is not None:
                try:
                    session.write_now(operation.writes)
                except MilterError as error:
                    return script.throw(error)
            return script.send(Answer(operation.outgoing.verdict))
        return script.throw(ConnectionLost("the client is gone"))

    def close(self) -> None:
        """Closes all connections without a word; at any time, more than once."""
        self._done = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    # -- I/O -------------------------------------------------------------------------------------

    async def _run(self, script: Script[T]) -> T:
        """Drives the course of a command."""
        answer: Optional[Answer] = None
        error: Optional[MilterError] = None
        while True:
            try:
                operation = script.send(answer) if error is None else script.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = error = None
            try:
                answer = await self._do(operation)
            except MilterError as failure:
                error = failure

    async def _do(self, operation: Operation) -> Optional[Answer]:
        number = operation.filter
        timeouts = self._dialogue.timeouts[number]
        if isinstance(operation, Connect):
            sock = await open_socket_async(self._server.filters[number].spec, timeouts.connect)
            protocol = self._dialogue.protocols[number]
            self._sessions[number] = AsyncSession(sock, timeouts=timeouts, protocol=protocol)
            return None
        if isinstance(operation, Close):
            session = self._sessions.pop(number)
            try:
                await session.hang_up(operation.writes, wait=operation.quit)
            finally:
                session.close()
            return None
        return await self._sessions[number].exchange(operation.writes, operation.outgoing)
