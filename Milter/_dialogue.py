"""One whole message, played to a filter as an MTA plays it; without I/O.

Owns the order of the steps, the macros that go with them, and what becomes of the message. It is a
generator that yields what is to be written and gets the filter's answer sent in, so that any way
of doing I/O can drive it; Milter.mta does so with a blocking socket.

Source: wire spec 2.7 (what MTAs do, with Postfix's macros and replies) and 4.2 (what a verdict
decides about).
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Callable, Final, NamedTuple, Optional

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._engine import lib
from Milter._message import (
    Message,
    Modification,
    Text,
    bare,
    bracketed,
    from_wire,
    quarantine_reason,
    shown,
    to_wire,
)
from Milter._mtacodec import Kind, MilterError, Verdict

HOSTNAME: Final = "mta.example.org"
"""What we call ourselves in the macro ``j``."""

# The macros that Postfix sends unless the filter asks for others (wire spec 2.7).
_MACROS: Final[dict[int, tuple[str, ...]]] = {
    stage: tuple(names.split())
    for stage, names in {
        lib.SMFIM_CONNECT: "j {daemon_name} {daemon_addr} v _",
        lib.SMFIM_HELO: "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
        lib.SMFIM_ENVFROM: "i {auth_type} {auth_authen} {auth_author} "
        "{mail_addr} {mail_host} {mail_mailer}",
        lib.SMFIM_ENVRCPT: "i {rcpt_addr} {rcpt_host} {rcpt_mailer}",
        lib.SMFIM_DATA: "i",
        lib.SMFIM_EOH: "i",
        lib.SMFIM_EOM: "i",
    }.items()
}
_KNOWN: Final = frozenset(name for names in _MACROS.values() for name in names)


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


_OUTCOMES: Final = {
    Kind.REJECT: Outcome.REJECTED,
    Kind.TEMPFAIL: Outcome.TEMPFAILED,
    Kind.DISCARD: Outcome.DISCARDED,
}


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


Script = Generator[Outgoing, Answer, Result]
"""Yields what is to be written, wants the answer to it, returns the result."""


def play(
    protocol: Protocol,
    message: Message,
    *,
    client: SmtpClient,
    helo: Optional[str],
    macros: Macros,
    rejected: Sequence[RejectedRecipient],
    queue_id: str,
    on_step: Optional[Callable[[Step], None]],
) -> Script:
    """Plays one message, as Milter.mta.Session.send() describes it.

    The negotiation must be done; CONNECT and HELO are played if they have not been.

    Raises:
        ValueError: no recipients, or a NUL somewhere.
    """
    return _Script(protocol, message, client, macros, queue_id, on_step).run(helo, rejected)


class _Decided(Exception):
    """The filter's verdict ends the message here."""

    def __init__(self, verdict: Verdict, session: bool = False) -> None:
        super().__init__()
        self.verdict = verdict
        self.session = session


class _Script:
    """The state of one message."""

    def __init__(
        self,
        protocol: Protocol,
        message: Message,
        client: SmtpClient,
        macros: Macros,
        queue_id: str,
        on_step: Optional[Callable[[Step], None]],
    ) -> None:
        from Milter import __version__  # not while Milter itself is being imported

        self.protocol = protocol
        self.message = message
        self.client = client
        self.given = dict(macros)
        self.queue_id = from_wire(to_wire(self.given.get("i", queue_id)))
        self.on_step = on_step
        self.steps: list[Step] = []
        self.refused: list[Step] = []
        self.kept = list(message.recipients)
        self.modifications: tuple[Modification, ...] = ()
        self.values: dict[str, Text] = {
            "j": HOSTNAME,
            "{daemon_name}": HOSTNAME,
            "{daemon_addr}": "127.0.0.1",
            "v": f"pymilter-cffi {__version__}",
            "_": str(client),
        }

    # -- macros ----------------------------------------------------------------------------------

    def macros(self, stage: int, **values: Text) -> Macros:
        """The macros to send at this stage; `values`: those that hold from here on, unbraced."""
        self.values.update({f"{{{name}}}": value for name, value in values.items()})
        known = {**self.values, **self.given}
        assert self.protocol.options is not None
        wanted = self.protocol.options.macro_lists.get(stage)
        names = list(_MACROS[stage] if wanted is None else wanted)
        if wanted is None and stage in (lib.SMFIM_CONNECT, lib.SMFIM_ENVFROM):
            # What is nobody's by default is told where it holds longest.
            names += [name for name in self.given if name not in _KNOWN]
        return {name: known[name] for name in names if name in known}

    # -- steps -----------------------------------------------------------------------------------

    def note(self, outgoing: Outgoing, argument: str = "") -> Generator[Outgoing, Answer, Step]:
        """Plays one step and notes it down."""
        answer = yield outgoing
        step = Step(outgoing.step, argument, answer)
        self.steps.append(step)
        self.modifications += answer.modifications
        if self.on_step is not None:
            self.on_step(step)
        return step

    def step(self, outgoing: Outgoing, argument: str = "") -> Generator[Outgoing, Answer, Step]:
        """Plays a step whose verdict matters."""
        step = yield from self.note(outgoing, argument)
        if step.verdict.code == 421:
            # The MTA closes the SMTP session whatever the step was (wire spec 4.5).
            raise _Decided(step.verdict, session=True)
        return step

    def content(self, outgoing: Outgoing, argument: str = "") -> Generator[Outgoing, Answer, Step]:
        """Plays a step whose verdict is about the whole message."""
        step = yield from self.step(outgoing, argument)
        if step.verdict.final:
            raise _Decided(step.verdict)
        return step

    def run(self, helo: Optional[str], rejected: Sequence[RejectedRecipient]) -> Script:
        """Plays everything and says what came out."""
        self.check(helo, rejected)
        try:
            yield from self.session(helo)
            yield from self.envelope(rejected)
            verdict = yield from self.contents()
            decided = _Decided(verdict)
        except _Decided as end:
            decided = end
        if self.protocol.in_message:
            # The filter still has it open: a verdict about recipients, or DISCARD at one.
            yield from self.note(self.protocol.abort())
        return self.result(decided)

    def check(self, helo: Optional[str], rejected: Sequence[RejectedRecipient]) -> None:
        """Finds what cannot be sent before anything is sent."""
        message, client = self.message, self.client
        if not message.recipients:
            raise ValueError("a message without recipients: no MTA has anything to send")
        texts: list[Text] = [message.sender, *message.sender_params]
        for recipient in message.recipients:
            texts += [recipient.address, *recipient.params]
        for header in message.headers:
            if not header.key:
                raise ValueError("a header without a name")
            texts += header
        for refused in rejected:
            texts += refused
        texts += [*self.given, *self.given.values(), client.name, client.address or "", helo or ""]
        for text in texts:
            to_wire(text)

    def session(self, helo: Optional[str]) -> Generator[Outgoing, Answer, None]:
        """CONNECT and HELO, if they are due."""
        client = self.client
        fresh = not self.protocol.begun
        if fresh:
            connect = self.protocol.connect(
                client.name, client.address, client.port, self.macros(lib.SMFIM_CONNECT)
            )
            step = yield from self.step(connect, str(client))
            self.about_session(step.verdict)
        if fresh or helo is not None:
            name = client.name if helo is None else helo
            step = yield from self.step(
                self.protocol.helo(name, self.macros(lib.SMFIM_HELO)), shown(name)
            )
            self.about_session(step.verdict)

    def about_session(self, verdict: Verdict) -> None:
        """DISCARD there is a mistake of the filter's that MTAs take for CONTINUE (2.7)."""
        if verdict.final and verdict.kind is not Kind.DISCARD:
            raise _Decided(verdict, session=True)

    def envelope(self, rejected: Sequence[RejectedRecipient]) -> Generator[Outgoing, Answer, None]:
        """MAIL and the recipients."""
        message = self.message
        sender = bracketed(message.sender)
        macros = self.macros(
            lib.SMFIM_ENVFROM,
            mail_addr=bare(sender),
            mail_host=_domain(sender),
            mail_mailer="smtp",
        )
        yield from self.content(
            self.protocol.mail(sender, *message.sender_params, macros=macros),
            shown(" ".join([sender, *message.sender_params])),
        )
        for number, recipient in enumerate(message.recipients):
            address = bracketed(recipient.address)
            macros = self.macros(
                lib.SMFIM_ENVRCPT,
                rcpt_addr=bare(address),
                rcpt_host=_domain(address),
                rcpt_mailer="smtp",
            )
            outgoing = self.protocol.rcpt(address, *recipient.params, macros=macros)
            about = shown(" ".join([address, *recipient.params]))
            step = yield from self.note(outgoing, about)
            verdict = step.verdict
            if verdict.kind in (Kind.REJECT, Kind.TEMPFAIL):
                del self.kept[number - len(self.refused)]
                self.refused.append(step)
                if verdict.code == 421:
                    raise _Decided(verdict, session=True)
            elif verdict.final:
                raise _Decided(verdict)
            else:
                # Postfix makes the queue file, whose name it is, for the first good recipient.
                self.values["i"] = self.queue_id
        for refused in rejected:
            address = bracketed(refused.address)
            # Told in the macros of this one recipient only (wire spec 2.4).
            before = dict(self.values)
            macros = self.macros(
                lib.SMFIM_ENVRCPT,
                rcpt_mailer="error",
                rcpt_host=refused.enhanced,
                rcpt_addr=refused.text,
            )
            self.values = before
            outgoing = self.protocol.rcpt(address, macros=macros, rejected=True)
            step = yield from self.note(outgoing, shown(address))
            # The MTA has refused it already, whatever the filter thinks. Only that to an ACCEPT
            # the filter takes no more of this message.
            if not self.protocol.in_message:
                raise _Decided(step.verdict)
        if not self.kept:
            raise _Decided(self.refused[-1].verdict)

    def contents(self) -> Generator[Outgoing, Answer, Verdict]:
        """DATA to the end of the message; returns the last verdict."""
        protocol, message = self.protocol, self.message
        yield from self.content(protocol.data(self.macros(lib.SMFIM_DATA)))
        for header in message.headers:
            # Blanks before the colon are not part of the name (RFC 5322 4.5.8).
            name = header.name.rstrip(b" \t")
            text = from_wire(name + b":" + header.value)
            yield from self.content(protocol.header(name, header.value), shown(text))
        yield from self.content(protocol.eoh(self.macros(lib.SMFIM_EOH)))
        assert protocol.options is not None
        size = protocol.options.max_data
        for at in range(0, len(message.body), size):
            chunk = message.body[at : at + size]
            step = yield from self.content(protocol.body(chunk), f"{len(chunk)} bytes")
            if step.verdict.kind in (Kind.SKIP, Kind.NOT_SENT):
                break
        step = yield from self.step(protocol.eom(self.macros(lib.SMFIM_EOM)))
        return step.verdict

    # -- the end ---------------------------------------------------------------------------------

    def result(self, decided: _Decided) -> Result:
        """What came out."""
        message = Message(
            list(self.message.headers),
            self.message.body,
            self.message.sender,
            list(self.message.sender_params),
            self.kept,
        )
        assert self.protocol.options is not None
        outcome = _OUTCOMES.get(decided.verdict.kind, Outcome.ACCEPTED)
        return Result(
            outcome,
            decided.verdict,
            decided.verdict.reply or f"250 2.0.0 Ok: queued as {self.queue_id}",
            message.apply(self.modifications, leading_space=self.protocol.options.leading_space),
            self.modifications,
            quarantine_reason(self.modifications),
            tuple(self.refused),
            tuple(self.steps),
            decided.session,
        )


def _domain(address: str) -> str:
    return bare(address).rpartition("@")[2]
