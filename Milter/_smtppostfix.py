"""Postfix, as the filters in front of it see it, in one SMTP session; no I/O.

Source: wire spec 2.7; what Postfix 3.7.11 did where that is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Final, Optional

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import SmtpClient
from Milter._engine import lib
from Milter._message import Message, Modification, shown
from Milter._mtacodec import HEAD, NO_REPLY, Kind, MilterError, ProtocolError, Verdict
from Milter._mtarules import RULES
from Milter._smtpsession import (
    Exchange,
    Link,
    Ruling,
    Script,
    SmtpDialogue,
    SmtpReply,
    said,
)

# Replies where a filter fails; the second is that of Postfix 3.11.7.
_UNAVAILABLE: Final = {
    "reject": "550 5.5.0 Service unavailable",
    "shutdown": "421 4.7.1 Service unavailable - try again later",
}
# And to a filter's SHUTDOWN, which no filter sends.
_SHUTDOWN: Final = "421 4.7.0 Server closing connection"
_SHUT_DOWN: Final = bytes([lib.SMFIR_SHUTDOWN])
_ENVELOPE_MACROS: Final = frozenset(
    {
        "{mail_addr}",
        "{mail_host}",
        "{mail_mailer}",
        "{rcpt_addr}",
        "{rcpt_host}",
        "{rcpt_mailer}",
        "{client_connections}",
        "{client_resolve}",
    }
)
_MISREAD: Final = frozenset({RULES["reply"], RULES["reply classes"]})


class PostfixDialogue(SmtpDialogue):
    """Postfix's smtpd and cleanup.

    It asks one filter after the other, and at the first that refuses no further one. What it writes
    stays in a buffer until it has to wait for an answer; so does what gives a message up.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """See :class:`SmtpDialogue`."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._helo = False
        # Filters that sent no SMTP reply within a message's content, and what stands for them then.
        self._misread: list[tuple[Link, Optional[Ruling]]] = []

    def _connect(self, client: SmtpClient) -> Script[Optional[SmtpReply]]:
        def make(link: Link) -> Callable[[Protocol], Outgoing]:
            return lambda protocol: protocol.connect(
                client.name, client.address, client.port, self._macros(link, lib.SMFIM_CONNECT)
            )

        ruling: Optional[Ruling] = None
        for link in self._links:
            if ruling is not None or any(each.failed and _holds(each) for each in self._links):
                link.gone = True  # it is never asked
            elif (yield from self._open(link)):
                ruling = yield from self._consult(link, "connect", make(link), str(client))
            else:
                ruling = link.standing
        if ruling is None or ruling.reply is None:
            return None
        if ruling.reply.closes:
            self.over = True
            return SmtpReply(421, None, (f"{self.hostname} Service unavailable - try again later",))
        if ruling.reply.code >= 500:
            return SmtpReply(554, None, (f"{self.hostname} ESMTP not accepting connections",))
        return None

    def helo(self, name: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        self._give(macros)
        ruling = yield from self._event(
            "helo",
            lambda link: lambda protocol: protocol.helo(name, self._macros(link, lib.SMFIM_HELO)),
            shown(name),
        )
        if ruling is not None and ruling.reply is not None and ruling.reply.closes:
            return self._close_with(ruling.reply)
        if self._helo:
            self._abort()
        self._helo = True
        self._give_up()
        return None

    def _mail(self, sender: str, params: Sequence[str]) -> Script[Optional[SmtpReply]]:
        if self.discarded:
            # Since before it began: nothing of it is told, not even that it is given up.
            return None
        self._in_message = True
        ruling = yield from self._event(
            "mail",
            lambda link: (
                lambda protocol: protocol.mail(
                    sender, *params, macros=self._macros(link, lib.SMFIM_ENVFROM)
                )
            ),
            shown(" ".join([sender, *params])),
        )
        reply = self._reply(ruling)
        if reply is not None:
            self._give_up()
        return reply

    def _rcpt(
        self, address: str, params: Sequence[str], rejected: bool
    ) -> Script[Optional[SmtpReply]]:
        about = shown(" ".join([address, *params]))
        before = self._discard
        ruling = yield from self._event(
            "rcpt",
            lambda link: (
                lambda protocol: protocol.rcpt(
                    address,
                    *params,
                    macros=self._macros(link, lib.SMFIM_ENVRCPT),
                    rejected=rejected,
                )
            ),
            about,
        )
        if rejected:
            # Also to DISCARD: it only asks this filter no more of the message, which passes.
            self._discard = before
            return None
        reply = self._reply(ruling)
        if ruling is not None and reply is not None:
            self._refuse(about, ruling)
        return reply

    def _data(self) -> Script[Optional[SmtpReply]]:
        ruling = yield from self._event(
            "data",
            lambda link: lambda protocol: protocol.data(self._macros(link, lib.SMFIM_DATA)),
            "",
        )
        return self._reply(ruling)

    def reset(self) -> Script[None]:
        self._give_up()
        self.steps = []
        yield from ()  # a generator, as everything here

    def _give_up(self) -> None:
        """The message in hand is over."""
        if self._in_message:
            self._abort()
        self._drop()

    def unknown(self, command: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        self._give(macros)
        word = command.split(" ", 1)[0]
        ruling = yield from self._event(
            "unknown",
            lambda link: lambda protocol: protocol.unknown(word, {}),
            shown(word),
        )
        return self._reply(ruling)

    def quit(self) -> Script[None]:
        self._give_up()
        if self._helo:
            self._abort()
        self._helo = False
        self.over = True
        for link in self._links:
            yield from self._hang_up(link)

    def _event(
        self,
        step: str,
        make: Callable[[Link], Callable[[Protocol], Outgoing]],
        argument: str,
    ) -> Script[Optional[Ruling]]:
        """Asks one filter after the other, until one refuses."""
        if self.discarded and step != "unknown":
            return None
        for link in self._links:
            ruling = yield from self._consult(link, step, make(link), argument)
            if ruling is not None:
                if ruling.reply is None:
                    self._discard = ruling
                return ruling
            if link.failed and _holds(link):
                return None  # that is an answer, so no filter behind it is asked
        return None

    def _consult(
        self, link: Link, step: str, make: Callable[[Protocol], Outgoing], argument: str
    ) -> Script[Optional[Ruling]]:
        """Asks one filter."""
        if link.gone:
            return link.standing
        if step == "mail":
            link.done = False
        elif link.done and step != "helo":
            return None
        answered = yield from self._ask(link, make, argument)
        if answered is None:
            return link.standing
        verdict = answered.verdict
        about_session = step in ("connect", "helo")
        if verdict.kind is Kind.ACCEPT:
            if about_session:
                yield from self._close(link)
            else:
                link.done = True
            return None
        if verdict.kind is Kind.DISCARD:
            if about_session:
                return None
            link.done = True
        elif not verdict.final:
            return None
        ruling = self._ruling(verdict, step, "")
        if about_session:
            # It stands for the rest of the session; the filter is not needed for that.
            link.standing = ruling
            yield from self._close(link)
        return ruling

    def _abort(self) -> None:
        """Writes ABORT to all filters, into the buffer."""
        for link in self._links:
            if link.connected and not link.gone:
                try:
                    link.pending += link.protocol.abort().data
                except MilterError:
                    continue  # it comes out at the next step

    def _reply(self, ruling: Optional[Ruling]) -> Optional[SmtpReply]:
        if ruling is None or ruling.reply is None:
            return None
        return self._close_with(ruling.reply)

    def _close_with(self, reply: SmtpReply) -> SmtpReply:
        if reply.closes:
            self.over = True
        return reply

    def _ended(self, ruling: Optional[Ruling]) -> Script[None]:
        # That it is not set up well was cleanup's to say; to smtpd the filter is just gone.
        for link, standing in self._misread:
            link.standing = standing
        self._misread = []
        self._give_up()
        yield from ()

    def _accepted(self) -> str:
        return f"250 2.0.0 Ok: queued as {self.queue_id}"

    def _contents(
        self, link: Link, message: Message
    ) -> Script[tuple[Optional[Ruling], tuple[Modification, ...]]]:
        if link.pending:
            # smtpd writes what it has before it hands the connection over to cleanup.
            written, link.pending = (link.pending,), b""
            try:
                yield Exchange(link.number, written, Outgoing("data", b"", NO_REPLY))
            except MilterError as error:
                yield from self._failed(link, error, "", "data")
                return link.standing, ()
        return (yield from super()._contents(link, message))

    def _macros(self, link: Link, stage: int) -> Optional[Macros]:
        macros = super()._macros(link, stage)
        if not self._in_content or macros is None:
            return macros
        # cleanup was not told these by smtpd.
        return {
            name: value
            for name, value in macros.items()
            if name in self._given or name not in _ENVELOPE_MACROS
        }

    def _writes(self, link: Link, outgoing: Outgoing) -> tuple[bytes, ...]:
        link.pending += outgoing.data
        if outgoing.verdict is not None or not link.pending:
            return ()
        data, link.pending = link.pending, b""
        return (data,)

    def _ruling(self, verdict: Verdict, step: str, about: str) -> Ruling:
        if verdict.kind is Kind.DISCARD:
            return Ruling(verdict, None)
        if verdict.lines:
            return Ruling(verdict, said(verdict))
        if verdict.code == 421:
            text = _SHUTDOWN
        elif verdict.kind is Kind.TEMPFAIL:
            text = "451 4.7.1 Service unavailable - try again later"
        else:
            text = "550 5.7.1 Command rejected"
        return Ruling(verdict, SmtpReply.of(text))

    def _fail(self, link: Link, error: MilterError, step: str) -> Script[None]:
        yield from super()._fail(link, error, step)
        if link.action in _UNAVAILABLE:
            assert link.standing is not None
            link.standing = Ruling(link.standing.verdict, SmtpReply.of(_UNAVAILABLE[link.action]))
        if not isinstance(error, ProtocolError):
            return
        if error.data[HEAD - 1 : HEAD] == _SHUT_DOWN and not self._in_content:
            link.standing = self._ruling(Verdict(Kind.TEMPFAIL, 421), step, "")
        elif error.rule in _MISREAD and link.standing is not None:
            if self._in_content:
                self._misread.append((link, link.standing))
            reply = SmtpReply.of("451 4.3.5 Server configuration problem - try again later")
            link.standing = Ruling(Verdict(Kind.TEMPFAIL, 451, "4.3.5"), reply)


def _holds(link: Link) -> bool:
    """True: where this filter fails, the message is put aside."""
    return link.action == "quarantine"
