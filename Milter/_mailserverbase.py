"""A mail server in front of filters, but for the waiting.

Owns what a mail server is made of, and the sessions that it has with its filters, for
Milter._mailserver, which blocks, and Milter._mailserverasync.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Final, Generic, Optional, TypeVar, Union

from Milter._conversation import Macros
from Milter._dialogue import HOSTNAME, RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message
from Milter._mtacodec import MilterError, StateError
from Milter._mtasessionbase import SessionBase
from Milter._profiles import POSTFIX, PROFILES, Profile
from Milter._smtppostfix import PostfixDialogue
from Milter._smtpsendmail import SendmailDialogue
from Milter._smtpsession import Filter, Script, SmtpDialogue, SmtpReply
from Milter._wholemessage import greet, whole_message

S = TypeVar("S", bound=SessionBase)

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


class MailServerBase:
    """What MailServer and AsyncMailServer share; see there."""

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


class SmtpSessionBase(Generic[S]):
    """What SmtpSession and AsyncSmtpSession share; see there."""

    def __init__(
        self,
        server: MailServerBase,
        client: SmtpClient,
        helo: Optional[str],
        macros: Optional[Macros],
        on_step: Optional[Callable[[Step], None]],
    ) -> None:
        """Connects to nothing yet."""
        self._client = client
        self._helo = client.name if helo is None else helo
        self._macros = macros
        self._dialogue = server.dialogue(on_step)
        self._sessions: dict[int, S] = {}
        self.greeting: Optional[SmtpReply] = None
        """The greeting, if a filter has it refuse."""
        self._lost: Optional[SmtpReply] = None
        """Why no message can come any more."""

    @property
    def over(self) -> bool:
        """True: QUIT was said, or a filter has had the connection closed (421)."""
        return self._dialogue.over

    @property
    def errors(self) -> tuple[MilterError, ...]:
        """What the filters did wrong so far."""
        return tuple(self._dialogue.errors)

    @property
    def sessions(self) -> dict[int, S]:
        """The connections that are open, by the filter's number."""
        return dict(self._sessions)

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

    def close(self) -> None:
        """Closes all connections without a word; at any time, more than once."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _beginning(self) -> Script[None]:
        """The client connects, and says HELO."""
        self.greeting, self._lost = yield from greet(
            self._dialogue, self._client, self._helo, self._macros
        )

    def _message(
        self, message: Message, macros: Optional[Macros], rejected: Sequence[RejectedRecipient]
    ) -> Script[Result]:
        """See :meth:`Milter.mta.SmtpSession.send`."""
        if self.over and self._lost is None:
            raise StateError("the SMTP session is over")
        return whole_message(self._dialogue, message, macros, rejected, self._lost)
