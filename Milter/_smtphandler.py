"""The aiosmtpd handler that consults filters.

Owns which of aiosmtpd's hooks tells the filters what, and whose reply the client gets. Knows no
packet: what filters see and what comes of it is Milter._smtpsession's.

Source: wire spec 2.7; the aiosmtpd documentation on handlers.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import re
from typing import TYPE_CHECKING, Any, Callable, Final, Optional, Union
from weakref import WeakKeyDictionary

from Milter._dialogue import HOSTNAME, Outcome, RejectedRecipient, SmtpClient
from Milter._mailserverasync import AsyncMailServer, AsyncSmtpSession
from Milter._mtasocket import parse_spec
from Milter._profiles import POSTFIX, Profile
from Milter._smtpclient import auth_macros, client_of, daemon_macros, tls_macros
from Milter._smtpenvelope import Handled, change, content_of, forget, message_of, remember
from Milter._smtpsession import Filter, SmtpReply

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP as Server
    from aiosmtpd.smtp import Envelope, Session

LOG: Final = logging.getLogger("Milter")

_STATUS: Final = re.compile(r"(\d{3})(?:[- ](?:(\d\.\d{1,3}\.\d{1,3}) )?(.*))?")
_BAD_CHARACTER: Final = "501 5.5.2 Syntax error: a NUL in the command"
_NO_MESSAGE: Final = "503 5.5.1 Error: need MAIL command"
CLOSING: Final = SmtpReply.of("421 4.3.0 Closing connection")
_OK: Final = "250 OK"


class _Connection:
    """One client, beside aiosmtpd's Session."""

    def __init__(self, smtp: AsyncSmtpSession, client: SmtpClient) -> None:
        self.smtp = smtp
        self.client = client
        self.helo = ""
        self.in_message = False
        self.data_told = False
        self.closing = False
        self.errors_logged = 0
        self.mechanism = ""
        # Parameters of recipients, of which aiosmtpd keeps one list for all.
        self.params: dict[str, tuple[str, ...]] = {}

    @property
    def open(self) -> bool:
        """True: filters have a message in hand, or have let it pass."""
        return self.in_message and not self.smtp.over


class MilterHandler:
    """An aiosmtpd handler that consults filters, and then the application's own handler.

    Order: the application's ``handle_HELO``, ``handle_EHLO``, ``handle_MAIL`` and ``handle_RCPT``
    come before the filters, as a mail server's own access rules do. What they refuse (4xx, 5xx) the
    filters do not hear of, but for recipients, if they asked for those. ``handle_DATA`` comes after
    them, with the Envelope changed as they wish: ``mail_from``, ``mail_options``, ``rcpt_tos``,
    ``rcpt_options``, ``content``, and ``original_content``, the same as bytes. It is not called for
    a message that was refused, discarded or quarantined, or that the filters left no recipient.
    :func:`handled` has the rest, also the content as it came.

    A quarantined message goes to the application's ``handle_QUARANTINE(server, session, envelope,
    reason)``, which returns a reply as handle_DATA does. Without one the client is told to try
    again later: the message is neither lost nor delivered.

    All other hooks (``handle_VRFY``, ``auth_...``) are the application's, unchanged. NULs in
    headers are taken out before the filters see them; no milter can be told of one.

    One handler serves any number of connections, in one event loop or several. What filters do
    wrong is logged as warnings of the logger ``Milter``.

    Args:
        filters: where they listen, or :class:`Milter.mta.Filter`, in the order in which they are
            asked; none is allowed.
        app: the application's own handler; None: mail is accepted and dropped.
        profile: ``postfix`` or ``sendmail``, or a Profile: as which mail server it behaves.
        default_action: where a filter fails; see :class:`Milter.mta.Filter`.
        hostname: what the filters are told that the server is called (the macro ``j``).
        strict: what a filter may not do, but mail servers put up with, is a failure of it.
        client: says who a client is, given aiosmtpd's Session; by default its address, without a
            look into the DNS: ``localhost`` on a loopback address, else ``[192.0.2.1]``.
        on_result: called with what became of each message, after its end and before it is
            delivered; in the event loop's thread.

    Raises:
        ValueError: no such profile or action, or a socket specification that is none.
    """

    def __init__(
        self,
        *filters: Union[str, Filter],
        app: Any = None,
        profile: Union[str, Profile] = POSTFIX,
        default_action: Optional[str] = None,
        hostname: str = HOSTNAME,
        strict: bool = False,
        client: Optional[Callable[[Session], SmtpClient]] = None,
        on_result: Optional[Callable[[Handled], None]] = None,
    ) -> None:
        """Connects to nothing yet."""
        self.server = AsyncMailServer(
            *filters,
            profile=profile,
            default_action=default_action,
            hostname=hostname,
            strict=strict,
        )
        for each in self.server.filters:
            parse_spec(each.spec)
        self.app = app
        self._client = client or client_of
        self._on_result = on_result
        self._messages = itertools.count()
        self._connections: WeakKeyDictionary[Server, _Connection] = WeakKeyDictionary()

    # -- hooks that are the application's ---------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """The application's hooks, where this handler has none."""
        if name.startswith(("handle_", "auth_")):
            return getattr(self.app, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        """All hooks: aiosmtpd finds them by their names."""
        theirs = [name for name in dir(self.app) if name.startswith(("handle_", "auth_"))]
        return sorted({*super().__dir__(), *theirs})

    async def _ask_app(
        self, name: str, server: Server, session: Session, envelope: Envelope, *args: Any
    ) -> Optional[Any]:
        """What the application's hook returns; None where it has none, or leaves it to aiosmtpd."""
        hook = getattr(self.app, f"handle_{name}", None)
        if hook is None:
            return None
        from aiosmtpd.smtp import MISSING

        answer = await hook(server, session, envelope, *args)
        return None if answer is MISSING else answer

    # -- the connection --------------------------------------------------------------------------

    async def connected(self, server: Server, session: Session) -> Optional[SmtpReply]:
        """A client has connected: tells the filters, once; for :class:`SMTP` and the first command.

        Returns:
            The greeting, if a filter has it refuse.
        """
        connection = await self._connection(server, session)
        return connection.smtp.greeting

    async def _connection(self, server: Server, session: Session) -> _Connection:
        connection = self._connections.get(server)
        if connection is None:
            client = self._client(session)
            # Only what this kind of server tells of: all that is given is told all filters.
            told = {name for names in self.server.profile.macros.values() for name in names}
            address = daemon_macros(server).items()
            macros = {name: value for name, value in address if name in told}
            smtp = self.server.session(client, helo="", macros=macros)
            connection = self._connections[server] = _Connection(smtp, client)
            task = asyncio.current_task()
            assert task is not None, "aiosmtpd calls its hooks from the connection's task"
            # There is no hook for a client that goes without a word.
            task.add_done_callback(lambda _: self._gone(server))
            try:
                await smtp.begin()
            except BaseException:
                # What comes next finds no session that never began.
                self._gone(server)
                raise
        self._log_errors(connection)
        return connection

    def _gone(self, server: Server) -> None:
        connection = self._connections.pop(server, None)
        if connection is not None:
            connection.smtp.leave()
            self._log_errors(connection)

    def _log_errors(self, connection: _Connection) -> None:
        """Says what filters did wrong since the last time, and so were gone on without."""
        for error in connection.smtp.errors[connection.errors_logged :]:
            LOG.warning("filter %s: %s", self.server.filters[error.filter].spec, error)
            connection.errors_logged += 1

    async def _give_up(self, connection: _Connection) -> None:
        """The message in hand is over, if there is one."""
        if connection.in_message:
            await connection.smtp.reset()
        connection.in_message = connection.data_told = False
        connection.params = {}

    def say(self, server: Server, envelope: Envelope, reply: SmtpReply) -> str:
        """Returns a reply as aiosmtpd wants it; the connection ends if that is what it says.

        For :class:`SMTP`, and for hooks just before they return.
        """
        if reply.closes:
            self._close(server)
        return plain(str(reply), utf8=bool(envelope.smtp_utf8))

    def _close(self, server: Server) -> None:
        """Has the connection closed behind the reply that the hook returns."""
        connection = self._connections.get(server)
        if connection is not None:
            connection.closing = True
        if server.transport is not None:
            # It is written as soon as the hook returns, and before anything else is run.
            asyncio.get_running_loop().call_soon(server.transport.close)

    def closing(self, server: Server) -> bool:
        """Tells whether the client has been told that the connection is closed; for :class:`SMTP`.

        What it sent behind the command in question (RFC 2920) is not to be looked at any more.
        """
        connection = self._connections.get(server)
        return connection is not None and connection.closing

    # -- HELO ------------------------------------------------------------------------------------

    async def _introduced(
        self, server: Server, session: Session, hostname: str
    ) -> Optional[SmtpReply]:
        if "\0" in hostname:
            return SmtpReply.of(_BAD_CHARACTER)
        connection = await self._connection(server, session)
        greeting = connection.smtp.greeting
        if greeting is not None and greeting.closes:
            return greeting
        if connection.smtp.over:
            return CLOSING
        connection.in_message = connection.data_told = False
        connection.params = {}
        connection.helo = hostname
        return await connection.smtp.helo(hostname, macros=tls_macros(server))

    async def handle_HELO(
        self, server: Server, session: Session, envelope: Envelope, hostname: str
    ) -> str:
        """The client says HELO."""
        answer = await self._ask_app("HELO", server, session, envelope, hostname)
        if answer is not None and _refuses(answer):
            return str(answer)
        reply = await self._introduced(server, session, hostname)
        if reply is not None:
            return self.say(server, envelope, reply)
        if answer is not None:
            return str(answer)
        session.host_name = hostname
        return f"250 {server.hostname}"

    async def handle_EHLO(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """The client says EHLO."""
        hook = getattr(self.app, "handle_EHLO", None)
        if hook is not None:
            if len(inspect.signature(hook).parameters) == 4:
                # As aiosmtpd before 1.3 had it: what it returns is the last line.
                last = await hook(server, session, envelope, hostname)
                responses = [*responses[:-1], last]
            else:
                responses = await hook(server, session, envelope, hostname, responses)
            if responses and _refuses(responses[-1]):
                return responses
        reply = await self._introduced(server, session, hostname)
        if reply is not None:
            return [self.say(server, envelope, reply)]
        if hook is None:
            # Else it is for the hook to say, as it is for any that aiosmtpd calls.
            session.host_name = hostname
        return responses

    # -- the envelope ----------------------------------------------------------------------------

    async def handle_MAIL(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        address: str,
        mail_options: list[str],
    ) -> str:
        """A message begins."""
        if "\0" in address:
            return _BAD_CHARACTER
        connection = await self._connection(server, session)
        if connection.smtp.over:
            return self.say(server, envelope, CLOSING)
        # aiosmtpd ends a message that is too large without telling anybody.
        await self._give_up(connection)
        answer = await self._ask_app("MAIL", server, session, envelope, address, mail_options)
        if answer is not None and _refuses(answer):
            return str(answer)
        macros = {**tls_macros(server), **auth_macros(session, connection.mechanism)}
        connection.in_message = True
        connection.smtp.count_from(next(self._messages))
        reply = await connection.smtp.mail(address, *mail_options, macros=macros)
        if reply is not None:
            connection.in_message = False
            forget(envelope)
            return self.say(server, envelope, reply)
        if answer is None:
            envelope.mail_from = address
            envelope.mail_options.extend(mail_options)
        return _OK if answer is None else str(answer)

    async def handle_RCPT(
        self,
        server: Server,
        session: Session,
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        """A recipient."""
        if "\0" in address:
            return _BAD_CHARACTER
        connection = await self._connection(server, session)
        if not connection.open:
            return _NO_MESSAGE
        before = list(envelope.rcpt_tos), list(envelope.rcpt_options)
        answer = await self._ask_app("RCPT", server, session, envelope, address, rcpt_options)
        if answer is not None and _refuses(answer):
            await connection.smtp.rcpt(
                address, *rcpt_options, rejected=_rejected(address, str(answer))
            )
            return str(answer)
        reply = await connection.smtp.rcpt(address, *rcpt_options)
        if reply is not None:
            envelope.rcpt_tos[:], envelope.rcpt_options[:] = before
            return self.say(server, envelope, reply)
        if answer is None:
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(rcpt_options)
        for new in envelope.rcpt_tos[len(before[0]) :]:
            connection.params[new] = tuple(rcpt_options)
        return _OK if answer is None else str(answer)

    # -- the content -----------------------------------------------------------------------------

    async def data(self, server: Server, session: Session, envelope: Envelope) -> Optional[str]:
        """The client says DATA, and was not told to go on yet; for :class:`SMTP`.

        Returns:
            The reply that refuses it, or None.
        """
        connection = await self._connection(server, session)
        if not connection.open:
            # aiosmtpd may still have an Envelope, after an exception in the application. Filters
            # would not be asked about what is no message of theirs.
            forget(envelope)
            return _NO_MESSAGE
        if connection.data_told:
            return None
        connection.data_told = True
        reply = await connection.smtp.data()
        if reply is None:
            return None
        # Filters have decided, and would not be asked again if the client said DATA once more.
        await self._give_up(connection)
        forget(envelope)
        return self.say(server, envelope, reply)

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        """The content has come."""
        refusal = await self.data(server, session, envelope)
        if refusal is not None:
            return refusal
        connection = await self._connection(server, session)
        queue_id = connection.smtp.queue_id
        before = message_of(envelope, connection.params)
        original = content_of(envelope)
        result = await connection.smtp.content(before)
        self._log_errors(connection)
        connection.in_message = connection.data_told = False
        connection.params = {}
        if result.modifications:
            change(envelope, before, result.message)
        about = Handled(
            result, queue_id, connection.client, connection.helo, server.hostname, original
        )
        remember(envelope, about)
        if self._on_result is not None:
            self._on_result(about)
        answer: Optional[Any] = None
        if result.outcome is Outcome.ACCEPTED and envelope.rcpt_tos:
            if result.quarantine is None:
                answer = await self._deliver(server, session, envelope)
            elif getattr(self.app, "handle_QUARANTINE", None) is None:
                answer = "451 4.3.0 Message was to be put aside, and there is no place for it"
            else:
                answer = await self._ask_app(
                    "QUARANTINE", server, session, envelope, result.quarantine
                )
        if answer is not None:
            return str(answer)
        if result.session_over:
            self._close(server)
        return plain(result.reply, utf8=bool(envelope.smtp_utf8))

    async def _deliver(self, server: Server, session: Session, envelope: Envelope) -> Optional[Any]:
        """Gives a message to the application."""
        old = getattr(self.app, "process_message", None)
        if old is None or hasattr(self.app, "handle_DATA"):
            return await self._ask_app("DATA", server, session, envelope)
        # What aiosmtpd still calls where there is no handle_DATA.
        answer = old(session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content)
        return await answer if inspect.isawaitable(answer) else answer

    # -- the rest --------------------------------------------------------------------------------

    async def handle_RSET(self, server: Server, session: Session, envelope: Envelope) -> str:
        """The client gives the message up."""
        await self._give_up(await self._connection(server, session))
        answer = await self._ask_app("RSET", server, session, envelope)
        return _OK if answer is None else str(answer)

    async def handle_QUIT(self, server: Server, session: Session, envelope: Envelope) -> str:
        """The client goes."""
        connection = self._connections.get(server)
        if connection is not None:
            # As mail servers do, and not to keep the client waiting for a filter that does not go.
            connection.smtp.leave()
        answer = await self._ask_app("QUIT", server, session, envelope)
        return "221 Bye" if answer is None else str(answer)

    async def handle_AUTH(
        self, server: Server, session: Session, envelope: Envelope, args: list[str]
    ) -> Any:
        """The client logs in; who, is told the filters with the next message."""
        from aiosmtpd.smtp import MISSING

        connection = await self._connection(server, session)
        connection.mechanism = args[0]
        answer = await self._ask_app("AUTH", server, session, envelope, args)
        return MISSING if answer is None else answer

    async def unknown(
        self, server: Server, session: Session, envelope: Envelope, command: str
    ) -> Optional[str]:
        """The client says what is no command; for :class:`SMTP`.

        Args:
            server: as all hooks have it.
            session: as all hooks have it.
            envelope: as all hooks have it.
            command: the word.

        Returns:
            The reply that a filter wants, or None.
        """
        if "\0" in command:
            return None
        connection = await self._connection(server, session)
        reply = await connection.smtp.unknown(command)
        return None if reply is None else self.say(server, envelope, reply)


def plain(text: str, *, utf8: bool) -> str:
    """Returns a reply that aiosmtpd can encode: a filter's may hold any bytes.

    Args:
        text: the reply.
        utf8: the client understands UTF-8 (RFC 6531 3.5).
    """
    if utf8:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text.encode("ascii", "replace").decode("ascii")


def _refuses(status: Any) -> bool:
    return str(status)[:1] in ("4", "5")


def _rejected(address: str, status: str) -> RejectedRecipient:
    match = _STATUS.match(status)
    enhanced, text = (match[2], match[3]) if match else (None, None)
    return RejectedRecipient(address, enhanced or f"{status[:1]}.1.1", text or "User unknown")
