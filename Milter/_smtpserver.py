"""aiosmtpd's server with the three places at which it has no hook; see Milter.smtp.

The only module that needs aiosmtpd to be imported. It relies on three methods of aiosmtpd's SMTP
class, push(), smtp_DATA() and handle_exception(), and on its Controller's factory(),
_create_server() and _trigger_server(), which its manual has for subclasses.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Coroutine
from typing import Any, AnyStr, Final, Optional, cast

try:
    import aiosmtpd.controller
    import aiosmtpd.smtp
except ImportError as error:
    raise ImportError('an SMTP server needs aiosmtpd: pip install "pymilter-cffi[smtp]"') from error

from Milter._smtphandler import CLOSING, MilterHandler

_UNKNOWN: Final = re.compile(r'500 Error: command "(.*)" not recognized', re.DOTALL)


def _check(handler: object) -> None:
    if not isinstance(handler, MilterHandler):
        raise TypeError(f"the handler has to be a MilterHandler, not {type(handler).__name__}")


class SMTP(aiosmtpd.smtp.SMTP):
    """aiosmtpd's server, which tells a MilterHandler also of what aiosmtpd has no hook for.

    That is: the client has connected, so that the greeting may refuse it; DATA, before its 354; and
    commands that do not exist.

    Args:
        handler: a :class:`Milter.smtp.MilterHandler`.
        args: see aiosmtpd.
        kwargs: see aiosmtpd. ``timeout``, in seconds, is for the filters' answers, too.

    Raises:
        TypeError: another handler, which would not be told.
    """

    def __init__(self, handler: MilterHandler, *args: Any, **kwargs: Any) -> None:
        """Waits for a client."""
        _check(handler)
        super().__init__(handler, *args, **kwargs)
        self._milters = handler
        self._greeted = False

    async def push(self, status: AnyStr) -> None:
        """Says something to the client."""
        said: Any = status
        if isinstance(status, str):
            said = await self._instead(status) or status
        await super().push(said)
        if self._milters.closing(self):
            # aiosmtpd would go on with what the client has sent already; it cancels this task when
            # the connection is gone.
            assert self.transport is not None
            self.transport.close()
            await self.loop.create_future()

    async def _instead(self, status: str) -> Optional[str]:
        """What is to be said instead of what aiosmtpd would say; None for just that."""
        assert self.session is not None
        assert self.envelope is not None
        if not self._greeted:
            self._greeted = True
            return await self._refusal()
        unknown = _UNKNOWN.fullmatch(status)
        if unknown is None:
            return None
        return await self._milters.unknown(self, self.session, self.envelope, unknown[1])

    async def _refusal(self) -> Optional[str]:
        """The greeting, if it is to refuse."""
        assert self.session is not None
        assert self.envelope is not None
        try:
            try:
                greeting = await self._milters.connected(self, self.session)
            except Exception as error:
                await self.handle_exception(error)
                greeting = CLOSING
        except BaseException:
            # Cancelled, as a rule. aiosmtpd itself closes the connection only from the first
            # command on.
            self._writer.close()
            raise
        return None if greeting is None else self._milters.say(self, self.envelope, greeting)

    @aiosmtpd.smtp.syntax("DATA")
    async def smtp_DATA(self, arg: Optional[str]) -> None:
        """The client says DATA."""
        session, envelope = self.session, self.envelope
        assert session is not None
        assert envelope is not None
        may = session.authenticated or not self._auth_required
        if session.host_name and envelope.rcpt_tos and not arg and may:
            refusal = await self._milters.data(self, session, envelope)
            if refusal is not None:
                await self.push(refusal)
                return
        await super().smtp_DATA(arg)


class _NoServer:
    """Stands for asyncio's, which could not listen, until the controller is stopped."""

    def close(self) -> None:
        """Nothing to close."""

    async def wait_closed(self) -> None:
        """Nothing to wait for."""


class Controller(aiosmtpd.controller.Controller):
    """aiosmtpd's Controller, with :class:`SMTP` of this package; the arguments are the same.

    With port 0 the system chooses one that is free, and ``port`` is that after ``start()``. Where
    it cannot listen, ``start()`` raises OSError at once; ``stop()`` is called as always.

    Raises:
        TypeError: see :class:`SMTP`.
    """

    _problem: Optional[OSError] = None

    def __init__(self, handler: MilterHandler, *args: Any, **kwargs: Any) -> None:
        """Listens nowhere yet."""
        _check(handler)
        super().__init__(handler, *args, **kwargs)

    def factory(self) -> SMTP:
        """Returns the server for one connection."""
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _create_server(self) -> Coroutine[Any, Any, asyncio.AbstractServer]:
        """Listens."""
        return self._listen()

    async def _listen(self) -> asyncio.AbstractServer:
        try:
            # A client that finds the queue full, which by default has room for 100, waits for ever:
            # it takes itself for connected, and the server is the first to speak.
            return await self.loop.create_server(
                self._factory_invoker,
                host=self.hostname,
                port=self.port,
                ssl=self.ssl_context,
                backlog=socket.SOMAXCONN,
            )
        except OSError as error:
            # aiosmtpd would have start() wait for its whole time, and leave the event loop open.
            self._problem = error
            return cast(asyncio.AbstractServer, _NoServer())

    def _trigger_server(self) -> None:
        """Has aiosmtpd open its connection of its own."""
        if self._problem is not None:
            raise self._problem
        if self.port == 0:
            assert isinstance(self.server, asyncio.Server)
            self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]
