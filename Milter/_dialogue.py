"""What is said in a session of a mail server and its filters, and what comes of it, as values.

Owns the client, a filter's answer, a step, and the result of a message. What is said when is in
Milter._smtpsession, for a whole message in Milter._wholemessage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple, Optional

from Milter._message import Message, Modification
from Milter._mtacodec import MilterError, Verdict

HOSTNAME: Final = "mta.example.org"
"""What we call ourselves in the macro ``j``."""


class Answer(NamedTuple):
    """All that a filter said to one step."""

    verdict: Verdict
    modifications: tuple[Modification, ...] = ()
    """In the order in which they came; only to the end of a message."""
    progress: int = 0
    """How often it said that it is still at work."""


@dataclass(frozen=True)
class SmtpClient:
    """The SMTP client that an MTA tells the filter about.

    Attributes:
        name: its host name; an MTA writes ``[192.0.2.1]`` where it found none.
        address: an IPv4 or IPv6 address, a path for a unix socket, None if it is unknown.
        port: 0 if it is unknown.
    """

    name: str = "localhost"
    address: Optional[str] = "127.0.0.1"
    port: int = 0

    def __str__(self) -> str:
        return f"{self.name} [{self.address or 'unknown'}]"


class RejectedRecipient(NamedTuple):
    """A recipient that the MTA itself rejects, for filters that want to hear of these."""

    address: str
    enhanced: str = "5.1.1"
    """Enhanced status code (RFC 3463) of the rejection."""
    text: str = "User unknown"


class Outcome(enum.Enum):
    """What becomes of a message."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    TEMPFAILED = "tempfailed"
    DISCARDED = "discarded"


@dataclass(frozen=True)
class Step:
    """A step that was played.

    Attributes:
        name: ``connect``, ``helo``, ``mail``, ``rcpt``, ``data``, ``header``, ``eoh``, ``body``,
            ``eom`` or ``abort``.
        argument: what it was about, for a human to read.
        answer: what the filter said.
        filter: its number, from 0, where there are several in a row.
    """

    name: str
    argument: str
    answer: Answer
    filter: int = 0

    @property
    def verdict(self) -> Verdict:
        """The verdict of the answer."""
        return self.answer.verdict


@dataclass(frozen=True)
class Result:
    """What became of a message.

    Attributes:
        outcome: accepted, also with changes and with some recipients refused; or not.
        verdict: the one that decided it.
        reply: the SMTP reply that the client gets in the end, lines joined by CR LF.
        message: message and envelope afterwards: without refused recipients, all modifications
            made, also where the outcome is that nobody gets it.
        modifications: in the order in which they came.
        quarantine: the reason why the message is put aside, None if it is not.
        refused: the steps of the recipients that the filter refused.
        steps: all that was played.
        session_over: the filter has decided about the whole connection, which ends here.
        errors: what filters did wrong that the mail server went on without (only where there is a
            default action for it).
    """

    outcome: Outcome
    verdict: Verdict
    reply: str
    message: Message
    modifications: tuple[Modification, ...] = ()
    quarantine: Optional[str] = None
    refused: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    session_over: bool = False
    errors: tuple[MilterError, ...] = ()
