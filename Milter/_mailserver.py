"""A mail server in front of filters, with blocking sockets; without the mail.

Owns the waiting; the rest is in Milter._mailserverbase, and what is said when in
Milter._smtpsession. The public names are in Milter.mta.
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
from Milter._mtasession import Quitting, Session, drive
from Milter._mtasessionbase import LOCALHOST
from Milter._mtasocket import open_socket
from Milter._smtpsession import Close, Connect, Operation, Script, SmtpReply
from Milter._wholemessage import check

T = TypeVar("T")


class MailServer(MailServerBase):
    """A mail server with filters in a row: Postfix's smtpd_milters, Sendmail's InputMailFilters.

    It listens nowhere and delivers nothing: it plays SMTP sessions to the filters as the real one
    would, and says what would become of the mail. It holds no connection of its own; sessions may
    be used side by side in different threads.

    Args:
        filters: where they listen, or :class:`Filter` for more to say about one.
        profile: ``postfix`` or ``sendmail``, or a Profile.
        default_action: for filters that have none of their own; see :class:`Filter`.
        hostname: what it calls itself.
        strict: what a filter may not do, but mail servers put up with, counts as any other failure
            of it, too: the default action is taken; see :class:`Milter.mta.Protocol`.

    Raises:
        ValueError: no such profile or action.
    """

    def __enter__(self) -> MailServer:
        """Returns the server."""
        return self

    def __exit__(self, *exc: object) -> None:
        """There is nothing to close."""

    def open(self, number: int, timeout: float) -> socket.socket:
        """Returns a new connection to a filter; a derived class may reach it in another way.

        Args:
            number: of the filter, from 0.
            timeout: seconds for each address of a host.

        Raises:
            ConnectError: nobody answers there.
        """
        return open_socket(self.filters[number].spec, timeout)

    def session(
        self,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> SmtpSession:
        """Returns an SMTP session: a client has connected, and said HELO.

        Args:
            client: who.
            helo: how it introduces itself; by default as what it is called, "" for not at all.
            macros: further ones, or other values, by names as they go on the wire (``j``,
                ``{auth_authen}``). One that the MTA has no place for goes with CONNECT and MAIL.
            on_step: called after each step of each filter.
        """
        return SmtpSession(self, client, helo, macros, on_step)

    def send(
        self,
        message: Message,
        *,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> Result:
        """Plays one message in a session of its own.

        Args:
            message: with its envelope; it is not changed.
            client: see :meth:`session`.
            helo: see :meth:`session`.
            macros: see :meth:`session`.
            rejected: recipients that the MTA rejects itself, for filters that want to hear of them.
            on_step: see :meth:`session`.

        Returns:
            What becomes of the message.

        Raises:
            ValueError: a message without recipients, or a NUL where none can be sent; nothing was
                sent.
        """
        check(message, client, helo, macros, rejected)
        with self.session(client, helo, macros, on_step) as session:
            result = session.send(message, rejected=rejected)
        # Also what a filter said when it was over.
        return dataclasses.replace(result, errors=session.errors)


class SmtpSession(SmtpSessionBase[Session], Quitting):
    """One SMTP session in front of the filters of a :class:`MailServer`.

    A context manager: at the end of the block the client says QUIT. What is named after an SMTP
    command returns the :class:`SmtpReply` with which the MTA refuses it for a filter's sake, or
    None. Filters that fail raise nothing: the MTA goes on without them as the default action says,
    and :attr:`errors` has what was wrong. Used by one thread at a time.

    Every command goes through :meth:`play`, where a derived class may do more.

    Raises:
        StateError: a command that the MTA itself would refuse here.
    """

    def __init__(
        self,
        server: MailServer,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> None:
        """Connects, and says HELO."""
        super().__init__(server, client, helo, macros, on_step)
        self._server = server
        try:
            self.play(self._beginning())
        except BaseException:
            self.close()
            raise

    # -- commands --------------------------------------------------------------------------------

    def helo(self, name: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says HELO or EHLO (again)."""
        return self.play(self._dialogue.helo(name, macros))

    def mail(
        self, sender: str, *params: str, macros: Optional[Macros] = None
    ) -> Optional[SmtpReply]:
        """A message begins: the sender with or without angle brackets, and ESMTP parameters."""
        return self.play(self._dialogue.mail(sender, *params, macros=macros))

    def rcpt(
        self,
        recipient: str,
        *params: str,
        macros: Optional[Macros] = None,
        rejected: Optional[RejectedRecipient] = None,
    ) -> Optional[SmtpReply]:
        """A recipient; *rejected*: the MTA itself refuses it, and why."""
        return self.play(self._dialogue.rcpt(recipient, *params, macros=macros, rejected=rejected))

    def data(self, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says DATA."""
        return self.play(self._dialogue.data(macros))

    def content(self, message: Message, macros: Optional[Macros] = None) -> Result:
        """The content; the envelope of *message* is the one that the MTA has now."""
        return self.play(self._dialogue.content(message, macros))

    def reset(self) -> None:
        """The client says RSET."""
        self.play(self._dialogue.reset())

    def unknown(self, command: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says what is no SMTP command."""
        return self.play(self._dialogue.unknown(command, macros))

    def quit(self) -> None:
        """The client says QUIT, or is gone."""
        self.play(self._dialogue.quit())

    # -- a whole message -------------------------------------------------------------------------

    def send(
        self,
        message: Message,
        *,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
    ) -> Result:
        """Plays a message, from MAIL to its end or to where it is refused.

        Args:
            message: with its envelope; it is not changed.
            macros: see :meth:`MailServer.session`.
            rejected: recipients that the MTA rejects itself.

        Returns:
            What becomes of it.

        Raises:
            ValueError: a message without recipients, or a NUL where none can be sent; nothing was
                sent.
            StateError: the session is over since an earlier message, or QUIT.
        """
        return self.play(self._message(message, macros, rejected))

    # -- I/O -------------------------------------------------------------------------------------

    def play(self, script: Script[T]) -> T:
        """Plays the course of a command to the filters, and returns what comes of it."""
        return drive(script, self._do)

    def _do(self, operation: Operation) -> Optional[Answer]:
        number = operation.filter
        if isinstance(operation, Connect):
            timeouts = self._dialogue.timeouts[number]
            sock = self._server.open(number, timeouts.connect)
            protocol = self._dialogue.protocols[number]
            self._sessions[number] = Session(sock, timeouts=timeouts, protocol=protocol)
            return None
        if isinstance(operation, Close):
            self._sessions.pop(number).hang_up(operation.writes, wait=operation.quit)
            return None
        return self._sessions[number].exchange(operation.writes, operation.outgoing)
