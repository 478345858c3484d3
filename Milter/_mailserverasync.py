"""A mail server in front of filters, with asyncio; without the mail.

Owns the waiting, as Milter._mailserver does with blocking sockets; what each method means is
described there.

    server = AsyncMailServer("unix:/run/a.sock", "inet:8893@127.0.0.1", profile="sendmail")
    result = await server.send(message)
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from typing import Callable, Optional, TypeVar

from Milter._conversation import Macros
from Milter._dialogue import Answer, RejectedRecipient, Result, SmtpClient, Step
from Milter._mailserverbase import MailServerBase, SmtpSessionBase
from Milter._message import Message
from Milter._mtaasync import AsyncQuitting, AsyncSession, drive_async, open_socket_async
from Milter._mtacodec import ConnectionLost, MilterError, StateError
from Milter._mtasessionbase import LOCALHOST
from Milter._smtpsession import Close, Connect, Exchange, Operation, Script, SmtpReply
from Milter._wholemessage import check

T = TypeVar("T")


class AsyncMailServer(MailServerBase):
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

    async def open(self, number: int, timeout: float) -> socket.socket:
        """Returns a new connection to a filter; see :meth:`Milter.mta.MailServer.open`.

        It does not block.
        """
        return await open_socket_async(self.filters[number].spec, timeout)

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
        check(message, client, helo, macros, rejected)
        async with self.session(client, helo, macros, on_step) as session:
            result = await session.send(message, rejected=rejected)
        # Also what a filter said when it was over.
        return dataclasses.replace(result, errors=session.errors)


class AsyncSmtpSession(SmtpSessionBase[AsyncSession], AsyncQuitting):
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
        super().__init__(server, client, helo, macros, on_step)
        self._server = server
        self._begun = False
        self._done = False  # QUIT was said, or the connections were closed

    async def begin(self) -> None:
        """The client has connected, and said HELO; once, and first."""
        if self._begun:
            raise StateError("the session has begun already")
        self._begun = True
        try:
            await self.play(self._beginning())
        except BaseException:
            self.close()
            raise

    async def _enter(self) -> None:
        await self.begin()

    # -- commands --------------------------------------------------------------------------------

    async def helo(self, name: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says HELO or EHLO (again)."""
        return await self.play(self._dialogue.helo(name, macros))

    async def mail(
        self, sender: str, *params: str, macros: Optional[Macros] = None
    ) -> Optional[SmtpReply]:
        """A message begins: the sender with or without angle brackets, and ESMTP parameters."""
        return await self.play(self._dialogue.mail(sender, *params, macros=macros))

    async def rcpt(
        self,
        recipient: str,
        *params: str,
        macros: Optional[Macros] = None,
        rejected: Optional[RejectedRecipient] = None,
    ) -> Optional[SmtpReply]:
        """A recipient; *rejected*: the MTA itself refuses it, and why."""
        return await self.play(
            self._dialogue.rcpt(recipient, *params, macros=macros, rejected=rejected)
        )

    async def data(self, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says DATA."""
        return await self.play(self._dialogue.data(macros))

    async def content(self, message: Message, macros: Optional[Macros] = None) -> Result:
        """The content; the envelope of *message* is the one that the MTA has now."""
        return await self.play(self._dialogue.content(message, macros))

    async def reset(self) -> None:
        """The client says RSET."""
        await self.play(self._dialogue.reset())

    async def unknown(self, command: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says what is no SMTP command."""
        return await self.play(self._dialogue.unknown(command, macros))

    async def quit(self) -> None:
        """The client says QUIT, or is gone; more than once."""
        if not self._done:
            self._done = True
            await self.play(self._dialogue.quit())

    async def send(
        self,
        message: Message,
        *,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
    ) -> Result:
        """Plays a message; see :meth:`Milter.mta.SmtpSession.send`."""
        return await self.play(self._message(message, macros, rejected))

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
        super().close()

    # -- I/O -------------------------------------------------------------------------------------

    async def play(self, script: Script[T]) -> T:
        """Plays the course of a command to the filters, and returns what comes of it."""
        return await drive_async(script, self._do)

    async def _do(self, operation: Operation) -> Optional[Answer]:
        number = operation.filter
        if isinstance(operation, Connect):
            timeouts = self._dialogue.timeouts[number]
            sock = await self._server.open(number, timeouts.connect)
            protocol = self._dialogue.protocols[number]
            self._sessions[number] = AsyncSession(sock, timeouts=timeouts, protocol=protocol)
            return None
        if isinstance(operation, Close):
            await self._sessions.pop(number).hang_up(operation.writes, wait=operation.quit)
            return None
        return await self._sessions[number].exchange(operation.writes, operation.outgoing)
