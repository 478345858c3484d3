"""The MTA's side of the milter protocol: connect to any filter, and see what it does.

    from Milter import mta

    message = mta.Message.from_file("message.eml", "alice@example.org", ["bob@example.com"])
    with mta.connect("unix:/run/filter.sock") as session:
        result = session.send(message)
    print(result.outcome, result.reply, result.modifications)
    print(result.message.as_bytes().decode())

:meth:`Session.send` plays a whole message. The methods named after the steps (``mail``, ``rcpt``,
``header``, ...) play one each, for a dialogue of one's own.

:class:`MailServer` is a whole mail server in front of any number of filters, Postfix or Sendmail:
what it would tell the filters in the course of an SMTP session, and what would become of mail.

    with mta.MailServer("unix:/run/a.sock", "inet:8893@127.0.0.1", profile="sendmail") as server:
        result = server.send(message)

The layers below know no socket, so that other ways of doing I/O can stand on them:
Milter._smtpsession (an SMTP session in front of several filters), Milter._wholemessage (a whole
message), Milter._conversation (what may come when), Milter._mtacodec (packets), Milter._message
(messages and changes). Milter._mtasession and Milter._mailserver block; what they share with those
for asyncio is in Milter._mtasessionbase and Milter._mailserverbase.

A Session is used by one thread at a time.

Source: wire spec 8.9, and 2.7 for what real MTAs do.
"""

from __future__ import annotations

from Milter._conversation import Event, Macros, Outgoing, Protocol
from Milter._dialogue import Answer, Outcome, RejectedRecipient, Result, SmtpClient, Step
from Milter._heldmessage import HeldMessage
from Milter._mailserver import MailServer, SmtpSession
from Milter._message import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Header,
    InsertHeader,
    Message,
    Modification,
    Quarantine,
    Recipient,
    ReplaceBody,
    Text,
)
from Milter._mtacodec import (
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    ConnectError,
    ConnectionLost,
    FilterTimeout,
    Kind,
    MilterError,
    Options,
    Progress,
    ProtocolError,
    SocketSpecError,
    StateError,
    Verdict,
    action_names,
    protocol_names,
)
from Milter._mtasession import Session, connect
from Milter._mtasessionbase import LOCALHOST
from Milter._mtasocket import parse_spec
from Milter._profiles import POSTFIX, PROFILES, SENDMAIL, Profile, Timeouts
from Milter._recording import RecordingError
from Milter._replay import Difference, RecordedConnection, Recording
from Milter._smtpsession import Filter, SmtpReply
from Milter._torture import Failure, Report, replay, torture
from Milter._tortureplay import Play

__all__ = [
    "DEFAULT_ACTIONS",
    "DEFAULT_PROTOCOL",
    "LOCALHOST",
    "POSTFIX",
    "PROFILES",
    "SENDMAIL",
    "AddHeader",
    "AddRecipient",
    "Answer",
    "ChangeHeader",
    "ChangeSender",
    "ConnectError",
    "ConnectionLost",
    "DeleteHeader",
    "DeleteRecipient",
    "Difference",
    "Event",
    "Failure",
    "Filter",
    "FilterTimeout",
    "Header",
    "HeldMessage",
    "InsertHeader",
    "Kind",
    "Macros",
    "MailServer",
    "Message",
    "MilterError",
    "Modification",
    "Options",
    "Outcome",
    "Outgoing",
    "Play",
    "Profile",
    "Progress",
    "Protocol",
    "ProtocolError",
    "Quarantine",
    "Recipient",
    "RecordedConnection",
    "Recording",
    "RecordingError",
    "RejectedRecipient",
    "ReplaceBody",
    "Report",
    "Result",
    "Session",
    "SmtpClient",
    "SmtpReply",
    "SmtpSession",
    "SocketSpecError",
    "StateError",
    "Step",
    "Text",
    "Timeouts",
    "Verdict",
    "action_names",
    "connect",
    "parse_spec",
    "protocol_names",
    "replay",
    "torture",
]


def __getattr__(name: str) -> object:
    """Gives the asyncio client's names; asyncio is not for those to import who do without."""
    if name in ("AsyncMailServer", "AsyncSmtpSession"):
        from Milter import _mailserverasync

        return getattr(_mailserverasync, name)
    if name in ("AsyncSession", "connect_async"):
        from Milter import _mtaasync

        return getattr(_mtaasync, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
