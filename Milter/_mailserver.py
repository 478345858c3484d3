"""A mail server in front of filters, with blocking sockets; without the mail.

Owns the I/O for Milter._smtpsession, and the making of whole sessions. The public names are in
Milter.mta.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Callable, Final, Optional, TypeVar, Union

from Milter._conversation import Macros
from Milter._dialogue import HOSTNAME, Answer, RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message, Recipient
from Milter._mtacodec import MilterError
from Milter._mtasession import LOCALHOST, Session
from Milter._mtasocket import open_socket
from Milter._profiles import POSTFIX, PROFILES, Profile
from Milter._smtppostfix import PostfixDialogue
from Milter._smtpsendmail import SendmailDialogue
from Milter._smtpsession import (
    Close,
    Connect,
    Filter,
    Operation,
    Script,
    SmtpDialogue,
    SmtpReply,
    recipients_of,
)

T = TypeVar("T")

_DIALOGUES: Final[dict[str, type[SmtpDialogue]]] = {
    "postfix": PostfixDialogue,
    "sendmail": SendmailDialogue,
}


def profile_of(profile: Union[str, Profile]) -> Profile:
    """Returns a profile, given itself or its name.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(profile, Profile):
        return profile
    try:
        return PROFILES[profile]
    except KeyError:
        raise ValueError(f"no profile {profile!r}: there are {', '.join(PROFILES)}") from None


class MailServer:
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

    def __init__(
        self,
        *filters: Union[str, Filter],
        profile: Union[str, Profile] = POSTFIX,
        default_action: Optional[str] = None,
        hostname: str = HOSTNAME,
        strict: bool = False,
    ) -> None:
        """Connects to nothing yet."""
        self.profile = profile_of(profile)
        self.filters = tuple(
            each if isinstance(each, Filter) else Filter(each, default_action) for each in filters
        )
        self.hostname = hostname
        self.strict = strict

    def __enter__(self) -> MailServer:
        """Returns the server."""
        return self

    def __exit__(self, *exc: object) -> None:
        """There is nothing to close."""

    def dialogue(self, on_step: Optional[Callable[[Step], None]] = None) -> SmtpDialogue:
        """Returns a new SMTP session's course, for those who do the I/O themselves.

        Args:
            on_step: called after each step of each filter.
        """
        return _DIALOGUES[self.profile.name](
            self.profile,
            self.filters,
            hostname=self.hostname,
            strict=self.strict,
            on_step=on_step,
        )

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
            ValueError: a message without recipients, or a NUL where none can be sent.
        """
        recipients_of(message)
        with self.session(client, helo, macros, on_step) as session:
            return session.send(message, rejected=rejected)


class SmtpSession:
    """One SMTP session in front of the filters of a :class:`MailServer`.

    A context manager: at the end of the block the client says QUIT. What is named after an SMTP
    command returns the :class:`SmtpReply` with which the MTA refuses it for a filter's sake, or
    None. Filters that fail raise nothing: the MTA goes on without them as the default action says,
    and :attr:`errors` has what was wrong. Used by one thread at a time.

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
        self._server = server
        self._sessions: dict[int, Session] = {}
        self._dialogue = server.dialogue(on_step)
        self.greeting: Optional[SmtpReply] = None
        """The greeting, if a filter has it refuse."""
        self._refusal: Optional[SmtpReply] = None
        try:
            self.greeting = self._run(self._dialogue.connect(client, macros))
            name = client.name if helo is None else helo
            if name and not self.over:
                self._refusal = self._run(self._dialogue.helo(name))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SmtpSession:
        """Returns the session."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Says QUIT, or closes all connections after an exception."""
        try:
            if kind is None:
                self.quit()
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
    def sessions(self) -> dict[int, Session]:
        """The connections that are open, by the filter's number."""
        return dict(self._sessions)

    # -- commands --------------------------------------------------------------------------------

    def helo(self, name: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says HELO or EHLO (again)."""
        return self._run(self._dialogue.helo(name, macros))

    def mail(
        self, sender: str, *params: str, macros: Optional[Macros] = None
    ) -> Optional[SmtpReply]:
        """A message begins: the sender with or without angle brackets, and ESMTP parameters."""
        return self._run(self._dialogue.mail(sender, *params, macros=macros))

    def rcpt(
        self,
        recipient: str,
        *params: str,
        macros: Optional[Macros] = None,
        rejected: Optional[RejectedRecipient] = None,
    ) -> Optional[SmtpReply]:
        """A recipient; *rejected*: the MTA itself refuses it, and why."""
        return self._run(self._dialogue.rcpt(recipient, *params, macros=macros, rejected=rejected))

    def data(self, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says DATA."""
        return self._run(self._dialogue.data(macros))

    def content(self, message: Message, macros: Optional[Macros] = None) -> Result:
        """The content; the envelope of *message* is the one that the MTA has now."""
        return self._run(self._dialogue.content(message, macros))

    def reset(self) -> None:
        """The client says RSET."""
        self._run(self._dialogue.reset())

    def unknown(self, command: str, macros: Optional[Macros] = None) -> Optional[SmtpReply]:
        """The client says what is no SMTP command."""
        return self._run(self._dialogue.unknown(command, macros))

    def quit(self) -> None:
        """The client says QUIT, or is gone."""
        self._run(self._dialogue.quit())

    def close(self) -> None:
        """Closes all connections without a word; at any time, more than once."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

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
            ValueError: a message without recipients, or a NUL where none can be sent.
        """
        return self._run(whole_message(self._dialogue, message, macros, rejected, self._lost()))

    def _lost(self) -> Optional[SmtpReply]:
        """Why no message can come any more."""
        reply = self.greeting if self.greeting is not None else self._refusal
        return reply if self.over else None

    # -- I/O -------------------------------------------------------------------------------------

    def _run(self, script: Script[T]) -> T:
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
                answer = self._do(operation)
            except MilterError as failure:
                error = failure

    def _do(self, operation: Operation) -> Optional[Answer]:
        number = operation.filter
        timeouts = self._dialogue.timeouts[number]
        if isinstance(operation, Connect):
            sock = open_socket(self._server.filters[number].spec, timeouts.connect)
            protocol = self._dialogue.protocols[number]
            self._sessions[number] = Session(sock, timeouts=timeouts, protocol=protocol)
            return None
        if isinstance(operation, Close):
            session = self._sessions.pop(number)
            try:
                session.hang_up(operation.writes, wait=operation.quit)
            finally:
                session.close()
            return None
        return self._sessions[number].exchange(operation.writes, operation.outgoing)


def whole_message(
    dialogue: SmtpDialogue,
    message: Message,
    macros: Optional[Macros],
    rejected: Sequence[RejectedRecipient],
    lost: Optional[SmtpReply] = None,
) -> Script[Result]:
    """Plays a message from MAIL on; the course of :meth:`SmtpSession.send`.

    Args:
        dialogue: the session.
        message: see there.
        macros: see there.
        rejected: see there.
        lost: the reply with which the session has ended already.
    """
    recipients = recipients_of(message)
    if lost is not None:
        return dialogue.refused(message, lost)
    reply = yield from dialogue.mail(message.sender, *message.sender_params, macros=macros)
    kept: list[Recipient] = []
    last: Optional[SmtpReply] = None
    if reply is None:
        for recipient in recipients:
            last = yield from dialogue.rcpt(recipient.address, *recipient.params)
            if last is None:
                kept.append(recipient)
            elif last.closes:
                break
        for refused in rejected:
            yield from dialogue.rcpt(refused.address, rejected=refused)
        if not kept or dialogue.over:
            reply = last
    left = Message(
        list(message.headers), message.body, message.sender, list(message.sender_params), kept
    )
    if reply is None:
        reply = yield from dialogue.data()
    if reply is None:
        return (yield from dialogue.content(left))
    result = dialogue.refused(left, reply)
    if not dialogue.over:
        yield from dialogue.reset()
    return result
