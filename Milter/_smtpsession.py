"""One SMTP session of a mail server, and what the filters in front of it get to see; no I/O.

Owns what an MTA tells which filter when, what it makes of their verdicts, and what the SMTP client
is told, as far as all do the same; Milter._smtppostfix and Milter._smtpsendmail have the rest.

The methods named after SMTP's commands are generators. They yield operations on one of the filters
(:class:`Connect`, :class:`Exchange`, :class:`Close`), are sent the filter's answer, or thrown the
MilterError that the operation ended in, and return the reply that a filter's verdict makes the MTA
give, or None where the filters let it pass. Whoever does the I/O drives them: Milter._mailserver
with blocking sockets, Milter._mailserverasync with asyncio.

Source: wire spec 2.7, and what Postfix 3.7.11 and Sendmail 8.17.1.9 did where that is silent
(tests/integration/test_profiles.py plays the same sessions to them).
"""

from __future__ import annotations

import abc
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Callable, Final, NamedTuple, Optional, TypeVar, Union

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import HOSTNAME, Answer, Outcome, RejectedRecipient, Result, SmtpClient, Step
from Milter._engine import lib
from Milter._heldmessage import HeldMessage, server_fault
from Milter._message import (
    ChangeHeader,
    DeleteHeader,
    Message,
    Modification,
    Quarantine,
    Text,
    bare,
    bracketed,
    from_wire,
    quarantine_reason,
    shown,
    to_wire,
)
from Milter._mtacodec import (
    NOT_SENT,
    ConnectionLost,
    Kind,
    MilterError,
    ProtocolError,
    StateError,
    Verdict,
)
from Milter._mtarules import RULES
from Milter._profiles import ACTIONS, Profile, Timeouts

T = TypeVar("T")

# Why a message is put aside for a filter that failed.
_UNAVAILABLE: Final = "milter unavailable"


# -- what is to be done --------------------------------------------------------------------------


class Connect(NamedTuple):
    """Connect to a filter. The answer is None."""

    filter: int
    """Its number, from 0."""


class Exchange(NamedTuple):
    """Write to a filter, and wait for its answer where one is due.

    The answer is an :class:`Answer`; that to the offer holds no more than that it came.
    """

    filter: int
    writes: tuple[bytes, ...]
    """Each with a write of its own; perhaps none."""
    outgoing: Outgoing
    """The step; an answer is due if it has no verdict."""


class Close(NamedTuple):
    """Write the rest to a filter, and close the connection to it. The answer is None."""

    filter: int
    writes: tuple[bytes, ...] = ()
    quit: bool = False
    """QUIT is what is written last, or was before, so that the filter may be waited for."""


Operation = Union[Connect, Exchange, Close]
Script = Generator[Operation, Optional[Answer], T]
"""Yields operations, wants their answers, returns a T."""


@dataclass(frozen=True)
class SmtpReply:
    """What an SMTP server says.

    Attributes:
        code: three digits.
        enhanced: enhanced status code (RFC 3463), None for none.
        lines: the text, without the codes.
    """

    code: int
    enhanced: Optional[str]
    lines: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, text: str) -> SmtpReply:
        """Returns a reply of one line, given as it is said: ``550 5.7.1 Command rejected``."""
        code, _, rest = text.partition(" ")
        enhanced, blank, words = rest.partition(" ")
        if blank and enhanced.count(".") == 2 and enhanced.replace(".", "").isdigit():
            return cls(int(code), enhanced, (words,))
        return cls(int(code), None, (rest,))

    def __str__(self) -> str:
        """The reply as it is said, lines joined by CR LF."""
        middle = f"{self.enhanced} " if self.enhanced else ""
        *first, last = self.lines
        said = [f"{self.code}-{middle}{line}" for line in first]
        if self.enhanced and not last:
            middle = self.enhanced  # nothing stands behind it
        return "\r\n".join([*said, f"{self.code} {middle}{last}"])

    @property
    def closes(self) -> bool:
        """True: the server closes the connection with it."""
        return self.code == 421


class Ruling(NamedTuple):
    """A verdict that the MTA acts upon."""

    verdict: Verdict
    reply: Optional[SmtpReply]
    """What the client is told; None for DISCARD, of which it is told nothing."""


@dataclass(frozen=True)
class Filter:
    """A filter as a mail server's configuration names it.

    Attributes:
        spec: where it listens; see :func:`Milter.mta.connect`.
        default_action: what the MTA does where the filter fails it: ``accept``, ``reject``,
            ``tempfail``, ``quarantine``, ``shutdown``; None: what the profile says. Sendmail's flag
            ``F=T`` is ``tempfail``, ``F=R`` ``reject``, ``F=4`` ``shutdown``, none ``accept``.
        timeouts: how long to wait for it; None: what the profile says.

    Raises:
        ValueError: no such action.
    """

    spec: str
    default_action: Optional[str] = None
    timeouts: Optional[Timeouts] = None

    def __post_init__(self) -> None:
        """Checks the action."""
        if self.default_action is not None and self.default_action not in ACTIONS:
            raise ValueError(f"{self.default_action!r} is none of {', '.join(ACTIONS)}")


class Link:
    """One of the filters, as the session goes on."""

    def __init__(self, number: int, protocol: Protocol, action: str) -> None:
        self.number = number
        self.protocol = protocol
        self.action = action
        self.connected = False
        self.gone = False
        """The connection is closed, or was never made: it is asked nothing more."""
        self.failed = False
        """It is gone because it failed the MTA."""
        self.done = False
        """It is left alone until the next message begins."""
        self.told = False
        """It has the message in hand: it was told of MAIL, and has not decided since."""
        self.answered = False
        """It has answered MAIL, and lets it pass."""
        self.parting = False
        """QUIT was said to it while the session went on, and the connection is still open."""
        self.standing: Optional[Ruling] = None
        """What counts as its answer where it cannot be asked any more; None: it lets pass."""
        self.pending = b""
        """Written already, as far as the session is concerned."""


# -- what all of them do -------------------------------------------------------------------------


class SmtpDialogue(abc.ABC):
    """One SMTP session in front of any number of filters in a row.

    The commands come in an order that the MTA itself would accept: HELO at any time, MAIL outside a
    message, RCPT after MAIL, DATA after a recipient that was accepted, then the content.

    Args:
        profile: the mail server.
        filters: in the order in which they are asked.
        hostname: what the mail server calls itself, also in the macro ``j``.
        strict: what a filter may not do but the MTA puts up with ends the conversation with it, as
            any other fault of its does; see :class:`Milter.mta.Protocol`.
        on_step: called after each step of each filter.
    """

    def __init__(
        self,
        profile: Profile,
        filters: Sequence[Filter],
        *,
        hostname: str = HOSTNAME,
        strict: bool = True,
        on_step: Optional[Callable[[Step], None]] = None,
        receive_limit: int = 64 * 1024 * 1024,
    ) -> None:
        """Nothing is said yet."""
        self.profile = profile
        self.hostname = hostname
        self.on_step = on_step
        self.timeouts = [each.timeouts or profile.timeouts for each in filters]
        """For each filter, how long to wait for it."""
        self._links = [
            Link(
                number,
                Protocol(
                    strict=strict,
                    progress_anywhere=profile.progress_anywhere,
                    receive_limit=receive_limit,
                    rules=profile.name,
                ),
                each.default_action or profile.default_action,
            )
            for number, each in enumerate(filters)
        ]
        self.errors: list[MilterError] = []
        """What filters did wrong, in order."""
        self.steps: list[Step] = []
        """What was played since the last result, RSET, or the beginning."""
        self.over = False
        """The connection to the client is to be closed: after a reply of 421, and QUIT."""
        self.message_count = 0
        """How many messages began; their names go by it."""
        self._data_refused: Optional[SmtpReply] = None
        self._in_content = False
        self._quarantine: Optional[str] = None
        self._values: dict[str, Text] = {}
        self._given: dict[str, Text] = {}
        self._drop()

    @property
    def protocols(self) -> list[Protocol]:
        """For each filter, the rules of its conversation."""
        return [link.protocol for link in self._links]

    @property
    def discarded(self) -> bool:
        """True: a filter has discarded the message in hand; what comes is accepted, for nothing."""
        return self._discard is not None

    @property
    def queue_id(self) -> str:
        """The name of the message in hand, in the macro ``i``."""
        return from_wire(to_wire(self._given.get("i", f"{0x4A5B6C0000 + self.message_count:X}")))

    # -- the SMTP session ------------------------------------------------------------------------

    skip_ends_body = False
    """SKIP in answer to a header, or their end, keeps the body from the filter."""

    def connect(
        self, client: SmtpClient, macros: Optional[Macros] = None
    ) -> Script[Optional[SmtpReply]]:
        """A client has connected; first, and once.

        Args:
            client: who.
            macros: to be told besides those that the MTA sends, or instead of them, from here on;
                also in all steps below.

        Returns:
            The greeting, if a filter wants it to be none of welcome. A greeting that refuses does
            not end the session unless its code is 421; the commands that follow are refused.
        """
        self._give(macros)
        self._values.update(
            {
                "j": self.hostname,
                "{daemon_name}": self.hostname,
                "{daemon_addr}": "127.0.0.1",
                "{if_name}": self.hostname,
                "{if_addr}": "127.0.0.1",
                "v": self.profile.software,
                "_": str(client),
                "{client_name}": client.name,
                "{client_ptr}": client.name,
                "{client_addr}": client.address or "unknown",
                "{client_port}": str(client.port),
                "{client_connections}": "1",
                "{client_resolve}": "FAIL" if client.name.startswith("[") else "OK",
                "{daemon_port}": "25",
            }
        )
        return (yield from self._connect(client))

    @abc.abstractmethod
    def _connect(self, client: SmtpClient) -> Script[Optional[SmtpReply]]:
        """CONNECT to all filters."""

    @abc.abstractmethod
    def helo(self, name: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        """The client says HELO or EHLO; at any time. A message in hand is given up.

        Returns:
            A reply of 421, or None: HELO succeeds, and what comes is refused (wire spec 2.7).
        """

    def mail(
        self, sender: str, *params: str, macros: Optional[Macros] = None
    ) -> Script[Optional[SmtpReply]]:
        """A message begins; outside one.

        Args:
            sender: with or without angle brackets.
            params: ESMTP parameters.
            macros: see :meth:`connect`.
        """
        self._give(macros)
        self._begin(bracketed(sender))
        return (yield from self._mail(bracketed(sender), params))

    @abc.abstractmethod
    def _mail(self, sender: str, params: Sequence[str]) -> Script[Optional[SmtpReply]]:
        """MAIL to all filters."""

    def rcpt(
        self,
        recipient: str,
        *params: str,
        macros: Optional[Macros] = None,
        rejected: Optional[RejectedRecipient] = None,
    ) -> Script[Optional[SmtpReply]]:
        """A recipient; after MAIL.

        Args:
            recipient: with or without angle brackets.
            params: ESMTP parameters.
            macros: see :meth:`connect`; of this recipient.
            rejected: the MTA rejects it, for this reason, whatever the filters say: told to those
                that want to hear of it.
        """
        self._give(macros)
        address = bracketed(recipient)
        # Told in the macros of this one recipient only (wire spec 2.4).
        before = dict(self._values)
        if rejected is None:
            self._tell(
                rcpt_addr=bare(address), rcpt_host=domain(address), rcpt_mailer=self._mailer()
            )
        else:
            self._tell(rcpt_addr=rejected.text, rcpt_host=rejected.enhanced, rcpt_mailer="error")
        reply = yield from self._rcpt(address, params, rejected is not None)
        if rejected is not None:
            self._values = before
        elif reply is None and not self.discarded:
            # Postfix makes the queue file, whose name it is, for the first good recipient.
            self._values["i"] = self.queue_id
        return reply

    @abc.abstractmethod
    def _rcpt(
        self, address: str, params: Sequence[str], rejected: bool
    ) -> Script[Optional[SmtpReply]]:
        """RCPT to all filters."""

    def data(self, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        """The client says DATA; after a recipient. Refused once, it is refused until a reset."""
        self._give(macros)
        if self._data_refused is None:
            self._data_refused = yield from self._data()
        return self._data_refused

    @abc.abstractmethod
    def _data(self) -> Script[Optional[SmtpReply]]:
        """DATA to all filters."""

    @abc.abstractmethod
    def reset(self) -> Script[None]:
        """The message in hand, if any, is given up: RSET, or an end of it that no filter made."""

    @abc.abstractmethod
    def unknown(self, command: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        """The client says what is no command; at any time.

        Args:
            command: the whole line.
            macros: see :meth:`connect`.
        """

    @abc.abstractmethod
    def quit(self) -> Script[None]:
        """The client says QUIT, or is gone; at any time. All connections are closed."""

    def content(self, message: Message, macros: Optional[Macros] = None) -> Script[Result]:
        """The content of the message, after DATA; which ends it.

        Args:
            message: headers and body; the envelope as the MTA has it now.
            macros: see :meth:`connect`.

        Returns:
            What becomes of it.
        """
        self._give(macros)
        if self._data_refused is not None:
            return self.refused(message, self._data_refused)
        ruling = self._discard
        changes: list[tuple[int, Modification]] = []
        held = HeldMessage(message, self.profile.name)
        self._in_content = True
        if ruling is None:
            for link in self._links:
                passed = link.standing if link.gone else None
                aside = False  # this filter has put the message aside
                if not link.gone and not link.done:
                    passed, made = yield from self._contents(link, held.seen())
                    changes += [(link.number, change) for change in made]
                    self._apply(link, held, made)
                    fault = server_fault(made, self.profile.name)
                    if fault is not None and passed is None:
                        passed = yield from self._faulted(link, made, fault)
                    aside = any(isinstance(change, Quarantine) for change in made)
                    aside = aside or (link.failed and link.action == "quarantine")
                if passed is not None:
                    ruling = passed
                    break
                if aside and self.profile.name == "postfix":
                    break  # it asks no filter behind it
        self._in_content = False
        if any(link.failed and link.action == "quarantine" for link in self._links):
            self._quarantine = self._quarantine or _UNAVAILABLE
        result = self._result(held.stored(), ruling, tuple(change for _, change in changes))
        yield from self._ended(ruling)
        if ruling is not None and ruling.reply is not None and ruling.reply.closes:
            self.over = True
        self._drop()
        self.steps = []
        return result

    def refused(self, message: Message, reply: SmtpReply) -> Result:
        """Returns what becomes of a message that was refused before its content.

        Args:
            message: it, with the recipients that are left.
            reply: the one that ended it.
        """
        verdict = next((step.verdict for step in reversed(self.steps) if step.verdict.final), None)
        kind = Kind.REJECT if reply.code >= 500 else Kind.TEMPFAIL
        ruling = Ruling(verdict or Verdict(kind, reply.code), reply)
        result = self._result(message, ruling, ())
        self.steps = []
        return result

    # -- for the classes below -------------------------------------------------------------------

    def _mailer(self) -> str:
        """The MTA's name for how it delivers."""
        return "smtp"

    def _begin(self, sender: str) -> None:
        """A message begins."""
        self.message_count += 1
        self._values.pop("i", None)
        self._tell(mail_addr=bare(sender), mail_host=domain(sender), mail_mailer=self._mailer())

    def _drop(self) -> None:
        """No message is in hand."""
        self._in_message = False
        self._data_refused = None
        self._discard: Optional[Ruling] = None
        self._quarantine = None
        self._refused: list[Step] = []
        for link in self._links:
            link.told = False

    def _give(self, macros: Optional[Macros]) -> None:
        self._given.update(macros or {})

    def _tell(self, **values: Text) -> None:
        """Sets macros with braces around their names."""
        self._values.update({f"{{{name}}}": value for name, value in values.items()})

    def _macros(self, link: Link, stage: int) -> Optional[Macros]:
        """Returns the macros to send to a filter at this stage; None for no packet of them."""
        known = {**self._values, **self._given}
        options = link.protocol.options
        assert options is not None
        wanted = options.macro_lists.get(stage)
        if not wanted and self.profile.name == "postfix":
            wanted = None  # an empty list asks for nothing else
        default = self.profile.macros.get(stage, ())
        names = list(default if wanted is None else wanted)
        if wanted is None and stage in (lib.SMFIM_CONNECT, lib.SMFIM_ENVFROM):
            # What is nobody's by default is told where it holds longest.
            defaults = {name for each in self.profile.macros.values() for name in each}
            names += [name for name in self._given if name not in defaults]
        if not names and not self.profile.every_macro_packet:
            return None
        return {name: known[name] for name in names if name in known}

    def _open(self, link: Link) -> Script[bool]:
        """Connects to a filter and negotiates; returns whether that went well."""
        try:
            yield Connect(link.number)
            link.connected = True
            profile = self.profile
            offer = link.protocol.negotiate(profile.version, profile.actions, profile.protocol)
            yield Exchange(link.number, (offer.data,), offer)
        except MilterError as error:
            yield from self._fail(link, error, "connect")
            return False
        return True

    def _ask(
        self, link: Link, make: Callable[[Protocol], Outgoing], argument: str = ""
    ) -> Script[Optional[Step]]:
        """Plays a step to one filter; None: it failed, and what counts is its `standing`."""
        try:
            outgoing = make(link.protocol)
        except StateError:
            if link.protocol.broken is not None:
                # Where nothing was to be told to it, and nothing could be made of that.
                yield from self._failed(link, link.protocol.broken, argument)
                return None
            # It has decided already, so that it would not answer; an MTA that tells it all the same
            # gets no more out of it.
            return Step("", argument, Answer(NOT_SENT), link.number)
        except MilterError as error:
            yield from self._failed(link, error, argument)
            return None
        try:
            answer = yield from self._exchange(link, outgoing)
        except MilterError as error:
            yield from self._failed(link, error, argument, outgoing.step)
            return None
        return self._note(Step(outgoing.step, argument, answer, link.number))

    def _exchange(self, link: Link, outgoing: Outgoing) -> Script[Answer]:
        """Has a step written, at once or later, and answered."""
        writes = self._writes(link, outgoing)
        if not writes and outgoing.verdict is not None:
            return Answer(outgoing.verdict)
        answer = yield Exchange(link.number, writes, outgoing)
        assert answer is not None
        return answer

    def _note(self, step: Step) -> Step:
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)
        return step

    def _refuse(self, about: str, ruling: Ruling) -> None:
        """Notes a refused recipient: the step, which no filter had where one has failed before."""
        step = Step("rcpt", about, Answer(ruling.verdict))
        if self.steps and (self.steps[-1].name, self.steps[-1].argument) == ("rcpt", about):
            step = self.steps[-1]
        self._refused.append(step)

    def _failed(
        self, link: Link, error: MilterError, argument: str, step: str = ""
    ) -> Script[None]:
        """A filter failed at a step."""
        yield from self._fail(link, error, step)
        verdict = NOT_SENT if link.standing is None else link.standing.verdict
        self._note(Step(step or "error", argument, Answer(verdict), link.number))

    def _fail(self, link: Link, error: MilterError, step: str) -> Script[None]:
        """A filter fails: the MTA goes on without it, as it is told to."""
        error.filter = link.number
        self.errors.append(error)
        link.gone = True
        link.failed = True
        link.told = False
        link.pending = b""
        link.standing = None
        if link.action == "quarantine":
            self._quarantine = _UNAVAILABLE
        elif link.action != "accept":
            kind = Kind.REJECT if link.action == "reject" else Kind.TEMPFAIL
            code = 421 if link.action == "shutdown" else None
            place = "content" if self._in_content else step
            link.standing = self._ruling(Verdict(kind, code), place, "")
        if link.connected:
            yield Close(link.number)

    def _close(self, link: Link) -> Script[None]:
        """Closes the connection to a filter that is asked no more."""
        link.gone = True
        link.told = False
        if link.connected:
            rest = (link.pending,) if link.pending else ()
            link.pending = b""
            yield Close(link.number, rest)

    def _part(self, link: Link) -> Script[None]:
        """Says QUIT to a filter while the session goes on, which does not wait for it to close."""
        outgoing = yield from self._farewell(link)
        if outgoing is None:
            return
        try:
            yield Exchange(link.number, (outgoing.data,), outgoing)
            link.parting = True
        except MilterError as error:
            if not isinstance(error, ConnectionLost):
                self._regret(link, error)
            yield Close(link.number)

    def _hang_up(self, link: Link) -> Script[None]:
        """Says QUIT to a filter, unless that was done, and closes the connection."""
        writes: tuple[bytes, ...] = ()
        if not link.parting:
            outgoing = yield from self._farewell(link)
            if outgoing is None:
                return
            writes = (outgoing.data,)
        link.parting = False
        try:
            yield Close(link.number, writes, quit=True)
        except MilterError as error:
            self._regret(link, error)

    def _farewell(self, link: Link) -> Script[Optional[Outgoing]]:
        """QUIT, and what was held back before it; None: it cannot be said, and all is closed."""
        connected = link.connected and not link.gone
        link.gone = True
        link.told = False
        if not connected:
            return None
        try:
            outgoing = link.protocol.quit()
        except MilterError as error:
            self._regret(link, link.protocol.broken or error)
            yield Close(link.number)
            return None
        pending, link.pending = link.pending, b""
        return outgoing._replace(data=pending + outgoing.data)

    def _regret(self, link: Link, error: MilterError) -> None:
        """Notes what a filter did wrong where that has no consequences any more."""
        error.filter = link.number
        self.errors.append(error)

    def _contents(
        self, link: Link, message: Message
    ) -> Script[tuple[Optional[Ruling], tuple[Modification, ...]]]:
        """Headers to the end of the message, to one filter.

        Returns:
            What the MTA acts upon, if anything, and the changes.
        """
        content = self._content_macros(link, lib.SMFIM_EOH)
        skipped = False
        for header in message.headers:
            # Blanks before the colon are not part of the name (RFC 5322 4.5.8).
            name, value = header.name.rstrip(b" \t"), header.value
            step = yield from self._ask(
                link,
                lambda protocol, name=name, value=value: protocol.header(name, value, content),  # type: ignore[misc]
                shown(from_wire(name + b":" + value)),
            )
            if step is None or step.verdict.final:
                return self._decided(link, step), ()
            skipped = skipped or step.verdict.kind is Kind.SKIP
        step = yield from self._ask(
            link, lambda protocol: protocol.eoh(self._macros(link, lib.SMFIM_EOH))
        )
        if step is None or step.verdict.final:
            return self._decided(link, step), ()
        skipped = skipped or step.verdict.kind is Kind.SKIP
        content = self._content_macros(link, lib.SMFIM_EOM)
        assert link.protocol.options is not None
        size = link.protocol.options.max_data
        length = 0 if skipped and self.skip_ends_body else len(message.body)
        for at in range(0, length, size):
            chunk = message.body[at : at + size]
            step = yield from self._ask(
                link,
                lambda protocol, chunk=chunk: protocol.body(chunk, content),  # type: ignore[misc]
                f"{len(chunk)} bytes",
            )
            if step is None or step.verdict.final:
                return self._decided(link, step), ()
            if step.verdict.kind in (Kind.SKIP, Kind.NOT_SENT):
                break
        step = yield from self._ask(
            link, lambda protocol: protocol.eom(self._macros(link, lib.SMFIM_EOM))
        )
        if step is None:
            return link.standing, ()
        link.told = False
        for change in step.answer.modifications:
            if isinstance(change, Quarantine):
                self._quarantine = change.reason
        return self._decided(link, step), step.answer.modifications

    def _content_macros(self, link: Link, stage: int) -> Optional[Macros]:
        """The macros that go with a header, or a piece of the body: those of the end of them."""
        return self._macros(link, stage) if self.profile.every_macro_packet else None

    def _faulted(
        self, link: Link, changes: Sequence[Modification], reply: str
    ) -> Script[Optional[Ruling]]:
        """A filter has asked for changes that the MTA gives up on."""
        nameless = any(
            isinstance(change, (ChangeHeader, DeleteHeader)) and not change.name
            for change in changes
        )
        rule = RULES["empty" if nameless else "body pieces"]
        error = ProtocolError("the filter sent changes that the server cannot make", rule)
        link.protocol.fail(error)
        yield from self._fail(link, error, "eom")
        if link.standing is None:
            return None
        return Ruling(Verdict(Kind.TEMPFAIL, 451, "4.3.5"), SmtpReply.of(reply))

    def _decided(self, link: Link, step: Optional[Step]) -> Optional[Ruling]:
        """What the MTA makes of a verdict on the content."""
        if step is None:
            return link.standing
        verdict = step.verdict
        if verdict.final:
            link.done = True
            link.told = False
        if not verdict.final or verdict.kind is Kind.ACCEPT:
            return None
        return self._ruling(verdict, step.name, "")

    def _apply(self, link: Link, held: HeldMessage, changes: tuple[Modification, ...]) -> None:
        """Makes the changes of one filter, as this MTA makes them."""
        options = link.protocol.options
        held.change(changes, leading_space=options is not None and options.leading_space)

    def _result(
        self, message: Message, ruling: Optional[Ruling], changes: tuple[Modification, ...]
    ) -> Result:
        outcome, verdict = Outcome.ACCEPTED, Verdict(Kind.CONTINUE)
        reply = self._accepted()
        if ruling is not None:
            verdict = ruling.verdict
            if ruling.reply is not None:
                reply = str(ruling.reply)
                refused = ruling.reply.code >= 500
                outcome = Outcome.REJECTED if refused else Outcome.TEMPFAILED
            else:
                outcome = Outcome.DISCARDED
        else:
            for step in self.steps:
                if step.verdict.kind is Kind.ACCEPT:
                    verdict = step.verdict
        return Result(
            outcome,
            verdict,
            reply,
            message,
            changes,
            quarantine_reason(changes) if self._quarantine is None else self._quarantine,
            tuple(self._refused),
            tuple(self.steps),
            bool(ruling is not None and ruling.reply is not None and ruling.reply.closes),
            tuple(self.errors),
        )

    @abc.abstractmethod
    def _accepted(self) -> str:
        """What the client is told of a message that is taken."""

    @abc.abstractmethod
    def _ended(self, ruling: Optional[Ruling]) -> Script[None]:
        """The content is over: what that makes the MTA tell its filters."""

    @abc.abstractmethod
    def _writes(self, link: Link, outgoing: Outgoing) -> tuple[bytes, ...]:
        """What is to be written now."""

    @abc.abstractmethod
    def _ruling(self, verdict: Verdict, step: str, about: str) -> Ruling:
        """What the MTA makes of a verdict of REJECT, TEMPFAIL or DISCARD.

        Args:
            verdict: it.
            step: at which step; ``content`` where it failed at one of those from the headers on.
            about: the address, of MAIL and RCPT.
        """


def domain(address: str) -> str:
    """Returns what stands behind the last at sign of an address."""
    return bare(address).rpartition("@")[2]


def said(verdict: Verdict) -> SmtpReply:
    """The reply in a filter's own words."""
    assert verdict.code is not None
    # A percent sign is written twice (wire spec 4.5); one that is not goes missing.
    lines = tuple(re.sub("%(.?)", r"\1", line) for line in verdict.lines or ("",))
    return SmtpReply(verdict.code, verdict.enhanced, lines)
