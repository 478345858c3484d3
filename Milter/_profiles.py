"""What tells mail servers apart that talk to filters, as far as it can be written in a table.

How they differ in what they do is in Milter._smtpsession.

Source: wire spec 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Optional

from Milter._engine import lib
from Milter._mtacodec import DEFAULT_ACTIONS, DEFAULT_PROTOCOL

_CONTENT: Final = frozenset({"header", "eoh", "body"})  # the steps whose timeout is `content`


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a filter, in seconds; the defaults are Postfix's (wire spec 2.7).

    Attributes:
        connect: for the connection.
        reply: for the answer to a step of the session or the envelope, for what is sent to be
            taken, and for the filter to close after QUIT.
        content: for the answer to a header, the end of the headers, or a piece of the body.
        eom: at the end of a message, for each of the filter's packets: a modification or a sign of
            progress starts the time again.
        eom_total: for all that the filter says to the end of a message, which nothing prolongs;
            None for any time.
        total: the same for any step: a filter that says without end that it is still at work, or
            asks for changes, is not waited for longer. Postfix would; None for that.
    """

    connect: float = 30.0
    reply: float = 30.0
    content: float = 300.0
    eom: float = 300.0
    eom_total: Optional[float] = None
    total: Optional[float] = 3600.0

    @classmethod
    def all(cls, seconds: float) -> Timeouts:
        """Returns timeouts that are all the same, and twelve times that for each step in all."""
        return cls(seconds, seconds, seconds, seconds, None, 12 * seconds)

    def total_of(self, step: str) -> float:
        """Returns the time that all of a step's answer may take."""
        limits = (self.total, self.eom_total if step == "eom" else None)
        return min((limit for limit in limits if limit is not None), default=math.inf)

    def of(self, step: str) -> float:
        """Returns the time that a step's answer may take."""
        if step == "eom":
            return self.eom
        return self.content if step in _CONTENT else self.reply


#: What an MTA may do where a filter fails it (Postfix's milter_default_action).
ACTIONS: Final = ("accept", "reject", "tempfail", "quarantine", "shutdown")


@dataclass(frozen=True)
class Profile:
    """A mail server, as a filter sees it.

    Attributes:
        name: ``postfix`` or ``sendmail``.
        version: protocol version that it offers.
        actions: SMFIF_ bits that it offers.
        protocol: SMFIP_ bits that it offers.
        macros: for each stage (SMFIM_) the macros that it sends unless the filter asks for others.
        timeouts: how long it waits.
        default_action: what it does where a filter fails it: one of :data:`ACTIONS`.
        progress_anywhere: a filter may say at any step that it is still at work, not only at the
            end of a message.
        every_macro_packet: it sends macros before every step, also where there are none to send;
            else only before those for which it has, or the filter has asked for, some.
        software: what it calls itself, in the macro ``v``.
    """

    name: str
    macros: Mapping[int, tuple[str, ...]]
    timeouts: Timeouts
    default_action: str
    progress_anywhere: bool
    every_macro_packet: bool
    software: str
    version: int = 6
    actions: int = DEFAULT_ACTIONS
    protocol: int = DEFAULT_PROTOCOL


def _lists(**names: str) -> dict[int, tuple[str, ...]]:
    return {getattr(lib, f"SMFIM_{stage}"): tuple(text.split()) for stage, text in names.items()}


_TLS: Final = "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}"

POSTFIX: Final = Profile(
    name="postfix",
    macros=_lists(
        CONNECT="j {daemon_name} {daemon_addr} v _",
        HELO=_TLS,
        ENVFROM="i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer}",
        ENVRCPT="i {rcpt_addr} {rcpt_host} {rcpt_mailer}",
        DATA="i",
        EOH="i",
        EOM="i",
    ),
    timeouts=Timeouts(),
    default_action="tempfail",
    progress_anywhere=True,
    every_macro_packet=True,
    software="Postfix 3.7.11",
)
"""Postfix 3.7 as it is when nothing is configured but smtpd_milters."""

SENDMAIL: Final = Profile(
    name="sendmail",
    macros=_lists(
        CONNECT="j _ {daemon_name} {if_name} {if_addr}",
        HELO=_TLS,
        ENVFROM="i {auth_type} {auth_authen} {auth_ssf} {auth_author} "
        "{mail_mailer} {mail_host} {mail_addr}",
        ENVRCPT="{rcpt_mailer} {rcpt_host} {rcpt_addr}",
        EOM="{msg_id}",
    ),
    timeouts=Timeouts(connect=300.0, reply=10.0, content=10.0, eom=10.0, eom_total=300.0),
    # F= has no flag by default: the message passes without the filter.
    default_action="accept",
    progress_anywhere=False,
    every_macro_packet=False,
    software="8.17.1.9",
)
"""Sendmail 8.17 as it is with an INPUT_MAIL_FILTER of nothing but S=."""

PROFILES: Final = {profile.name: profile for profile in (POSTFIX, SENDMAIL)}
