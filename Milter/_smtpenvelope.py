"""aiosmtpd's Envelope and the filters' message: one from the other, and what was said of it.

Owns what stands in an Envelope after the filters, and what is remembered beside it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Optional

from Milter._dialogue import Result, SmtpClient
from Milter._message import Message, Recipient, bare, bracketed, from_wire

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope


@dataclass(frozen=True)
class Handled:
    """What the filters had to say about a message.

    Attributes:
        result: what becomes of it, all steps and changes included.
        queue_id: the name that it has in replies and in the macro ``i``; no other message of the
            same handler has it.
        client: who brought it, as the filters were told.
        helo: how the client introduced itself.
        hostname: what the server calls itself.
        original_content: headers and body as they came, whatever the filters made of them.
    """

    result: Result
    queue_id: str
    client: SmtpClient
    helo: str
    hostname: str
    original_content: bytes


# By identity: an Envelope of the application's own may be equal to another, or have no hash.
_HANDLED: Final[dict[int, tuple[weakref.ref[Any], Handled]]] = {}


def remember(envelope: Envelope, about: Handled) -> None:
    """Has :func:`handled` return this, as long as the Envelope exists."""
    key = id(envelope)
    _HANDLED[key] = (weakref.ref(envelope, lambda _: _HANDLED.pop(key, None)), about)


def handled(envelope: Envelope) -> Optional[Handled]:
    """Returns what the filters had to say about the message of an aiosmtpd Envelope.

    For applications, in ``handle_DATA`` and later, as long as the Envelope exists.

    Args:
        envelope: the one that the handler was given.

    Returns:
        None while the message has not ended, or where no :class:`MilterHandler` saw it.
    """
    known = _HANDLED.get(id(envelope))
    return None if known is None else known[1]


def forget(envelope: Envelope) -> None:
    """The message in hand is over, and MAIL comes next."""
    envelope.mail_from = None
    envelope.mail_options.clear()
    envelope.rcpt_tos.clear()
    envelope.rcpt_options.clear()


def content_of(envelope: Envelope) -> bytes:
    """The message as it stands in an Envelope."""
    content = envelope.content or b""
    return content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content


def change(envelope: Envelope, before: Message, after: Message) -> None:
    """Makes an Envelope what the filters made of the message."""
    if after.sender != before.sender:
        envelope.mail_from = bare(after.sender) or "<>"
    envelope.mail_options[:] = after.sender_params
    if after.recipients != before.recipients:
        envelope.rcpt_tos[:] = [bare(to.address) for to in after.recipients]
        envelope.rcpt_options[:] = [word for to in after.recipients for word in to.params]
    if (after.headers, after.body) != (before.headers, before.body):
        content = after.as_bytes()
        is_text = isinstance(envelope.content, str)
        envelope.content = from_wire(content) if is_text else content
        # The same as bytes, for applications that are given text but want bytes: aiosmtpd's own
        # Proxy is one of them, and would pass on what no filter has changed.
        envelope.original_content = content


def message_of(envelope: Envelope, params: Mapping[str, tuple[str, ...]]) -> Message:
    """Returns the message as aiosmtpd has it, for filters.

    Args:
        envelope: aiosmtpd's.
        params: ESMTP parameters of the recipients that have some.
    """
    message = Message.from_bytes(
        content_of(envelope),
        bracketed(envelope.mail_from or ""),
        [Recipient(bracketed(address), params.get(address, ())) for address in envelope.rcpt_tos],
        envelope.mail_options,
    )
    message.headers = [
        header._replace(value=header.value.replace(b"\0", b"")) for header in message.headers
    ]
    return message
