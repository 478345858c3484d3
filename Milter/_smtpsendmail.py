"""Sendmail, as the filters in front of it see it, in one SMTP session; no I/O.

Source: wire spec 2.7; what Sendmail 8.17.1.9 did where that is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import SmtpClient
from Milter._engine import lib
from Milter._message import (
    shown,
)
from Milter._mtacodec import HEAD, Kind, Verdict
from Milter._smtpsession import (
    Link,
    Ruling,
    Script,
    SmtpDialogue,
    SmtpReply,
    said,
)


class SendmailDialogue(SmtpDialogue):
    """Sendmail.

    It connects to all filters before it greets the client, writes each packet with a write of its
    own, and gives a message up at once, to those filters only that have it in hand.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """See :class:`SmtpDialogue`."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._session: Optional[Ruling] = None
        """What was decided about the whole session."""

    def _connect(self, client: SmtpClient) -> Script[Optional[SmtpReply]]:
        for link in self._links:
            if not (yield from self._open(link)) and link.standing is not None:
                self._session = link.standing
                break
        for link in self._links:
            if self._session is not None:
                break
            if link.gone:
                continue
            step = yield from self._ask(
                link,
                lambda protocol, link=link: protocol.connect(  # type: ignore[misc]
                    client.name,
                    f"IPv6:{client.address}" if ":" in (client.address or "") else client.address,
                    client.port,
                    self._macros(link, lib.SMFIM_CONNECT),
                ),
                str(client),
            )
            if step is None:
                self._session = link.standing
            elif step.verdict.kind is Kind.ACCEPT:
                yield from self._hang_up(link)
            elif step.verdict.kind is Kind.DISCARD:
                # Nobody filters this session, and mail passes.
                for each in self._links:
                    yield from self._hang_up(each)
            elif step.verdict.final:
                self._session = self._ruling(step.verdict, "connect", "")
        if self._session is None or self._session.reply is None:
            return None
        for link in self._links:
            yield from self._hang_up(link)
        if self._session.reply.closes:
            self.over = True
            return SmtpReply.of(f"421 4.7.0 {self.hostname} closing connection")
        if self._session.reply.code >= 500:
            return SmtpReply(554, None, (f"{self.hostname} ESMTP not accepting messages",))
        return None

    def helo(self, name: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        self._give(macros)
        yield from self._give_up()
        for link in self._links:
            if link.gone:
                self._session = self._session or link.standing
            if self._session is not None:
                break
            if link.gone:
                continue
            step = yield from self._ask(
                link,
                lambda protocol, link=link: protocol.helo(  # type: ignore[misc]
                    name, self._macros(link, lib.SMFIM_HELO)
                ),
                shown(name),
            )
            if step is None:
                self._session = link.standing
            elif step.verdict.kind is Kind.ACCEPT:
                yield from self._hang_up(link)
            elif step.verdict.kind is Kind.DISCARD:
                break  # the others are not asked, and that is all
            elif step.verdict.final:
                self._session = self._ruling(step.verdict, "helo", "")
        if self._session is None or self._session.reply is None or not self._session.reply.closes:
            return None
        self.over = True
        return self._session.reply

    def _mail(self, sender: str, params: Sequence[str]) -> Script[Optional[SmtpReply]]:
        if self._session is not None:
            return self._session.reply
        self._in_message = True
        # Unlike Postfix it has a name for the message before anything is said of it.
        self._values["i"] = self.queue_id
        for link in self._links:
            link.done = False
        ruling = yield from self._event(
            "mail",
            lambda link: (
                lambda protocol: protocol.mail(
                    sender, *params, macros=self._macros(link, lib.SMFIM_ENVFROM)
                )
            ),
            shown(" ".join([sender, *params])),
            sender,
        )
        if ruling is None:
            return None
        yield from self._abort()
        if ruling.reply is None:
            self._discard = ruling
            return None
        self._in_message = False
        return self._reply(ruling)

    def _rcpt(
        self, address: str, params: Sequence[str], rejected: bool
    ) -> Script[Optional[SmtpReply]]:
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
            shown(" ".join([address, *params])),
            address,
        )
        if ruling is None or rejected:
            return None
        if ruling.reply is None:
            # The filters hear of it at DATA.
            self._discard = ruling
            return None
        self._refused.append(self.steps[-1])
        return self._reply(ruling)

    def _data(self) -> Script[Optional[SmtpReply]]:
        ruling = yield from self._event(
            "data",
            lambda link: lambda protocol: protocol.data(self._macros(link, lib.SMFIM_DATA)),
            "",
            "",
        )
        if ruling is not None and ruling.reply is None:
            self._discard = ruling
        if self.discarded:
            yield from self._abort()
        return self._reply(ruling)

    def reset(self) -> Script[None]:
        yield from self._give_up()
        self.steps = []

    def _give_up(self) -> Script[None]:
        """The message in hand is over."""
        if self._in_message:
            yield from self._abort()
        self._drop()

    def unknown(self, command: str, macros: Optional[Macros] = None) -> Script[Optional[SmtpReply]]:
        self._give(macros)
        if self._session is not None:
            return None
        ruling = yield from self._event(
            "unknown",
            lambda link: lambda protocol: protocol.unknown(command, None),
            shown(command),
            "",
        )
        if ruling is not None and ruling.reply is None:
            # Nobody filters the rest of the session, and mail passes.
            for link in self._links:
                yield from self._hang_up(link)
        return self._reply(ruling)

    def quit(self) -> Script[None]:
        self.over = True
        for link in self._links:
            yield from self._hang_up(link)
        self._drop()

    def _event(
        self,
        step: str,
        make: Callable[[Link], Callable[[Protocol], Outgoing]],
        argument: str,
        about: str,
    ) -> Script[Optional[Ruling]]:
        """Asks one filter after the other, until one refuses."""
        if self.discarded:
            return None
        for link in self._links:
            if link.gone:
                if link.standing is not None:
                    return self._ruling(link.standing.verdict, step, about)
                continue
            if link.done or (step in ("rcpt", "data") and not link.told):
                continue
            answered = yield from self._ask(link, make(link), argument)
            if answered is None:
                if link.standing is not None:
                    return self._ruling(link.standing.verdict, step, about)
                continue
            verdict = answered.verdict
            if step == "mail":
                link.told = not verdict.final
            if verdict.kind is Kind.ACCEPT:
                link.done = True
                link.told = False
            elif verdict.final:
                return self._ruling(verdict, step, about)
        return None

    def _abort(self) -> Script[None]:
        """Says ABORT to all filters that have the message in hand."""
        for link in self._links:
            if link.told and not link.gone:
                link.told = False
                link.done = True  # also unknown commands are not for it until the next MAIL
                yield from self._ask(link, lambda protocol: protocol.abort())

    def _reply(self, ruling: Optional[Ruling]) -> Optional[SmtpReply]:
        if ruling is None or ruling.reply is None:
            return None
        if ruling.reply.closes:
            self.over = True
        return ruling.reply

    def _ended(self, ruling: Optional[Ruling]) -> Script[None]:
        if ruling is not None:
            yield from self._abort()

    def _accepted(self) -> str:
        return f"250 2.0.0 {self.queue_id} Message accepted for delivery"

    def _macros(self, link: Link, stage: int) -> Optional[Macros]:
        macros = super()._macros(link, stage)
        if macros is not None and stage == lib.SMFIM_EOM and "{msg_id}" not in macros:
            return {**macros, "{msg_id}": f"<{self.queue_id}@{self.hostname}>"}
        return macros

    def _writes(self, link: Link, outgoing: Outgoing) -> tuple[bytes, ...]:
        data, writes = outgoing.data, []
        while data:
            size = HEAD - 1 + int.from_bytes(data[: HEAD - 1], "big")
            writes.append(data[:size])
            data = data[size:]
        return tuple(writes)

    def _ruling(self, verdict: Verdict, step: str, about: str) -> Ruling:
        if verdict.kind is Kind.DISCARD:
            return Ruling(verdict, None)
        if any("%" in line.replace("%%", "") for line in verdict.lines):
            # Where a percent sign is not written twice the whole text is nothing to it.
            verdict = Verdict(Kind.REJECT, None, None, (), verdict.raw)
        if step == "connect":
            # Of the text only its class is kept.
            code = None if verdict.code != 421 else 421
            verdict = Verdict(verdict.kind, code, None, (), verdict.raw)
        if verdict.lines:
            reply = said(verdict)
            lines = reply.lines
            if about and not reply.closes:
                lines = (f"{about}... {lines[0]}", *lines[1:])
            default = f"{str(reply.code)[0]}.0.0"
            return Ruling(verdict, SmtpReply(reply.code, reply.enhanced or default, lines))
        if verdict.code == 421:
            text = f"421 4.7.0 {self.hostname} closing connection"
            if step in ("mail", "rcpt"):
                text = "421 4.3.0 closing connection"
        elif verdict.kind is Kind.TEMPFAIL:
            text = "451 4.3.2 Please try again later"
        elif step in ("connect", "helo"):
            text = "550 5.0.0 Command rejected"
        elif step == "content":
            text = "554 5.7.1 Command rejected"
        else:
            text = (
                f"550 5.7.1 {about}... Command rejected" if about else "550 5.7.1 Command rejected"
            )
        return Ruling(verdict, SmtpReply.of(text))
