"""A whole message in a mail server's session: what is checked, and the order of commands; no I/O.

Also the session that Milter.mta.Session.send() plays: one filter, to which somebody else has
connected. What is said at each command is in Milter._smtpsession and Milter._smtppostfix.

Source: wire spec 2.7, and 4.2 for what a verdict decides about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Callable, Optional

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message, Recipient, Text, to_wire
from Milter._profiles import POSTFIX
from Milter._smtppostfix import PostfixDialogue
from Milter._smtpsession import Filter, Link, Script, SmtpDialogue, SmtpReply


def check(
    message: Message,
    client: Optional[SmtpClient] = None,
    helo: Optional[str] = None,
    macros: Optional[Macros] = None,
    rejected: Sequence[RejectedRecipient] = (),
) -> None:
    """Finds what cannot be sent, before anything is sent.

    Raises:
        ValueError: no recipients, a header without a name, or a NUL outside the body.
    """
    if not message.recipients:
        raise ValueError("a message without recipients: no MTA has anything to send")
    texts: list[Text] = [message.sender, *message.sender_params, helo or ""]
    for recipient in message.recipients:
        texts += [recipient.address, *recipient.params]
    for header in message.headers:
        if not header.key:
            raise ValueError("a header without a name")
        texts += header
    for refused in rejected:
        texts += refused
    for name, value in (macros or {}).items():
        texts += [name, value]
    if client is not None:
        texts += [client.name, client.address or ""]
    for text in texts:
        to_wire(text)


def greet(
    dialogue: SmtpDialogue, client: SmtpClient, helo: str, macros: Optional[Macros]
) -> Script[tuple[Optional[SmtpReply], Optional[SmtpReply]]]:
    """Plays the beginning of a session: a client has connected, and says HELO.

    Args:
        dialogue: the session.
        client: who.
        helo: how it introduces itself; "" for not at all.
        macros: see :meth:`SmtpDialogue.connect`.

    Returns:
        The greeting, if a filter has it refuse; and the reply with which the session has ended
        already, if it has.
    """
    greeting = last = yield from dialogue.connect(client, macros)
    if helo and not dialogue.over:
        last = yield from dialogue.helo(helo)
    return greeting, last if dialogue.over else None


def whole_message(
    dialogue: SmtpDialogue,
    message: Message,
    macros: Optional[Macros] = None,
    rejected: Sequence[RejectedRecipient] = (),
    lost: Optional[SmtpReply] = None,
) -> Script[Result]:
    """Plays a message, from MAIL to its end or to where it is refused.

    Args:
        dialogue: the session.
        message: with its envelope; it is not changed.
        macros: see :meth:`SmtpDialogue.connect`.
        rejected: recipients that the MTA rejects itself.
        lost: the reply with which the session has ended already.

    Returns:
        What becomes of it.

    Raises:
        ValueError: see :func:`check`.
    """
    check(message, macros=macros, rejected=rejected)
    left = dataclasses.replace(
        message,
        headers=list(message.headers),
        sender_params=list(message.sender_params),
        recipients=list(message.recipients),
    )
    if lost is not None:
        return dialogue.refused(left, lost)
    reply = yield from dialogue.mail(message.sender, *message.sender_params, macros=macros)
    if reply is None:
        left.recipients, reply = yield from _recipients(dialogue, message.recipients, rejected)
    if reply is None:
        reply = yield from dialogue.data()
    if reply is None:
        return (yield from dialogue.content(left))
    result = dialogue.refused(left, reply)
    if not dialogue.over:
        yield from dialogue.reset()
    return result


def _recipients(
    dialogue: SmtpDialogue, recipients: Sequence[Recipient], rejected: Sequence[RejectedRecipient]
) -> Script[tuple[list[Recipient], Optional[SmtpReply]]]:
    """Plays the recipients.

    Returns:
        Those that were not refused, and the reply with which the message ends here, if it does.
    """
    kept: list[Recipient] = []
    last: Optional[SmtpReply] = None
    for number, recipient in enumerate(recipients, 1):
        last = yield from dialogue.rcpt(recipient.address, *recipient.params)
        if last is None:
            kept.append(recipient)
        elif dialogue.over:
            return [*kept, *recipients[number:]], last
    for refused in rejected:
        yield from dialogue.rcpt(refused.address, rejected=refused)
    return kept, None if kept else last


# -- one filter ----------------------------------------------------------------------------------


class _Connected(PostfixDialogue):
    """Postfix in front of one filter, over a connection that somebody else has and goes on to use.

    So it holds back nothing that is to be written, tells the filter that the message is given up
    only if that has it in hand, and leaves the closing, and what the filter does wrong, to them.
    """

    def __init__(
        self, protocol: Protocol, number: int, on_step: Optional[Callable[[Step], None]]
    ) -> None:
        from Milter import __version__  # not while Milter itself is being imported

        profile = dataclasses.replace(POSTFIX, software=f"pymilter-cffi {__version__}")
        super().__init__(profile, [Filter("")], on_step=on_step)
        (self.link,) = self._links
        self.link.protocol = protocol
        self.link.connected = True
        self.message_count = number - 1

    def _connect(self, client: SmtpClient) -> Script[Optional[SmtpReply]]:
        # Of the client the filter hears once for all messages.
        return None if self.link.protocol.begun else (yield from super()._connect(client))

    def _open(self, link: Link) -> Script[bool]:
        yield from ()
        return True

    def _close(self, link: Link) -> Script[None]:
        link.gone = True
        yield from ()

    def _ask(
        self, link: Link, make: Callable[[Protocol], Outgoing], argument: str = ""
    ) -> Script[Optional[Step]]:
        outgoing = make(link.protocol)
        answer = yield from self._exchange(link, outgoing)
        return self._note(Step(outgoing.step, argument, answer))

    def _writes(self, link: Link, outgoing: Outgoing) -> tuple[bytes, ...]:
        return (outgoing.data,) if outgoing.data else ()

    def _abort(self) -> None:
        """Not until the end: see :meth:`give_up`."""

    def give_up(self) -> Script[None]:
        """The message is over; says so if the filter has it still in hand."""
        if self.link.protocol.in_message:
            yield from self._ask(self.link, lambda protocol: protocol.abort())


def message_to(
    protocol: Protocol,
    message: Message,
    *,
    client: SmtpClient,
    helo: Optional[str],
    macros: Optional[Macros],
    rejected: Sequence[RejectedRecipient],
    number: int,
    on_step: Optional[Callable[[Step], None]],
) -> Script[Result]:
    """Plays one message to one filter, as :meth:`Milter.mta.Session.send` describes it.

    It yields nothing but :class:`Milter._smtpsession.Exchange`.

    Args:
        protocol: the conversation, after the negotiation; CONNECT and HELO are played if they have
            not been.
        message: see there.
        client: see there.
        helo: see there.
        macros: see there.
        rejected: see there.
        number: of the message in its session, from 1; its name goes by it.
        on_step: see there.

    Raises:
        ValueError: see :func:`check`.
        MilterError: whatever is wrong with the filter.
    """
    check(message, client, helo, macros, rejected)
    dialogue = _Connected(protocol, number, on_step)
    if helo is None:
        helo = "" if protocol.begun else client.name
    _, lost = yield from greet(dialogue, client, helo, macros)
    result = yield from whole_message(dialogue, message, None, rejected, lost)
    yield from dialogue.give_up()
    return dataclasses.replace(
        result,
        steps=(*result.steps, *dialogue.steps),
        session_over=result.session_over or dialogue.link.gone,
    )
