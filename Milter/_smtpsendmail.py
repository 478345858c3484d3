"""Sendmail, as the filters in front of it see it, in one SMTP session; no I/O.

Source: wire spec 2.7; what Sendmail 8.17.1.9 did where that is silent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Callable, Final, Optional

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import Result, SmtpClient
from Milter._engine import lib
from Milter._message import Message, from_wire, shown, to_wire
from Milter._mtacodec import HEAD, Kind, MilterError, ProtocolError, Verdict
from Milter._mtarules import RULES
from Milter._smtpsession import (
    Link,
    Ruling,
    Script,
    SmtpDialogue,
    SmtpReply,
    said,
)

_ENHANCED: Final = re.compile("([245](?:[.][0-9]{1,3}){2}) +(.*)")


_CONTENT: Final = frozenset({"content", "header", "eoh", "body", "eom"})


class SendmailDialogue(SmtpDialogue):
    """Sendmail.

    It connects to all filters before it greets the client, writes each packet with a write of its
    own, and gives a message up at once, to those filters only that have it in hand.
    """

    skip_ends_body = True

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
            elif step.verdict.kind in (Kind.ACCEPT, Kind.SKIP):
                yield from self._part(link)
            elif step.verdict.kind is Kind.DISCARD:
                # Nobody filters this session, and mail passes.
                for each in self._links:
                    yield from self._part(each)
            elif step.verdict.final:
                self._session = self._ruling(step.verdict, "connect", "")
        if self._session is None or self._session.reply is None:
            return None
        for link in self._links:
            yield from self._part(link)
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
                # What is out of place is met at the next step, as elsewhere.
                self._session = None if _late(self.errors[-1]) else link.standing
            elif step.verdict.kind in (Kind.ACCEPT, Kind.SKIP):
                yield from self._part(link)
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
        broke = any(link.failed and link.standing is not None for link in self._links)
        if not (broke and ruling.reply is not None and ruling.reply.closes):
            yield from self._abort()
        if ruling.reply is None:
            self._discard = ruling
            return None
        self._in_message = False
        return self._reply(ruling)

    def _rcpt(
        self, address: str, params: Sequence[str], rejected: bool
    ) -> Script[Optional[SmtpReply]]:
        about = shown(" ".join([address, *params]))
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
            address,
        )
        if ruling is None:
            return None
        if ruling.reply is None:
            # The filters hear of it at DATA; also at a recipient that it rejects itself.
            self._discard = ruling
            return None
        if rejected:
            return None
        self._refuse(about, ruling)
        return self._reply(ruling)

    def _data(self) -> Script[Optional[SmtpReply]]:
        for name in ("{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"):
            self._values.pop(name, None)  # they are of RCPT only
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
                yield from self._part(link)
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
                if link.standing is not None and not _late(self.errors[-1]):
                    return self._ruling(link.standing.verdict, step, about)
                continue
            verdict = answered.verdict
            if step == "mail":
                link.told = not verdict.final
                link.answered = verdict.kind is Kind.CONTINUE
            if verdict.kind is Kind.SKIP:
                yield from self._part(link)
            elif verdict.kind is Kind.ACCEPT:
                link.done = True
                link.told = False
            elif verdict.final:
                return self._ruling(verdict, step, about)
        return None

    def _abort(self) -> Script[None]:
        """Says ABORT to all filters that have the message in hand, and have answered MAIL."""
        for link in self._links:
            if link.told and not link.gone:
                link.told = False
                if link.answered:
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
        if stage == lib.SMFIM_EOM:
            # The list for the end of the message counts only beside one for that of the headers,
            # and that one alone switches these macros off (wire spec 2.5).
            assert link.protocol.options is not None
            lists = link.protocol.options.macro_lists
            if lib.SMFIM_EOH in lists and stage not in lists:
                return None
            if lib.SMFIM_EOH not in lists and stage in lists:
                return {"{msg_id}": {**self._values, **self._given}["{msg_id}"]}
        return super()._macros(link, stage)

    def content(self, message: Message, macros: Optional[Macros] = None) -> Script[Result]:
        found = message.get_all("Message-Id")
        made = f"<{self.queue_id}@{self.hostname}>"
        self._tell(msg_id=from_wire(found[0]).strip() if found else made)
        return (yield from super().content(message, macros))

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
            return Ruling(verdict, _in_its_words(verdict, about))
        if verdict.code == 421:
            text = f"421 4.7.0 {self.hostname} closing connection"
            if step in ("mail", "rcpt", "unknown"):
                text = "421 4.3.0 closing connection"
        elif verdict.kind is Kind.TEMPFAIL:
            text = "451 4.3.2 Please try again later"
        elif step in ("connect", "helo"):
            text = "550 5.0.0 Command rejected"
        elif step in ("header", "eoh") and verdict.raw:
            text = "550 5.7.1 Command rejected"
        elif step in _CONTENT:
            text = "554 5.7.1 Command rejected"
        else:
            text = (
                f"550 5.7.1 {about}... Command rejected" if about else "550 5.7.1 Command rejected"
            )
        return Ruling(verdict, SmtpReply.of(text))


# What it finds out of place, rather than unreadable, it comes back to at the next step only.
_LATE: Final = frozenset(RULES[name] for name in ("letter", "never", "progress", "early change"))


def _late(error: MilterError) -> bool:
    """True: the step at which a filter failed so still passes."""
    return isinstance(error, ProtocolError) and error.rule in _LATE


def _in_its_words(verdict: Verdict, about: str) -> SmtpReply:
    """A filter's reply text as Sendmail says it: in ASCII, the address put into the first line."""
    reply = said(verdict)
    lines = [bytes(byte & 0x7F for byte in to_wire(line)).decode("ascii") for line in reply.lines]
    enhanced = reply.enhanced
    if enhanced and lines == [""] and not verdict.raw.endswith(b" "):
        # With nothing behind it, it is text.
        lines, enhanced = [enhanced], None
    before = f"{about}... " if about and not reply.closes else ""
    if enhanced is None and len(lines) > 1:
        # Each line has its own, or none, but for the first.
        match = _ENHANCED.fullmatch(lines[0])
        code, first = match.groups() if match else (f"{str(reply.code)[0]}.0.0", lines[0])
        return SmtpReply(reply.code, None, (f"{code} {before}{first}", *lines[1:]))
    enhanced = enhanced or f"{str(reply.code)[0]}.0.0"
    return SmtpReply(reply.code, enhanced, (before + lines[0], *lines[1:]))
