"""Applications for an SMTP server that keep the mail in files: a maildir, an mbox.

Owns what is written, with the headers that a mail server puts on top of a message it delivers.

Source: RFC 5321 4.4.
"""

from __future__ import annotations

import abc
import logging
import mailbox
import os
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Callable, Final, Optional, Union

from Milter._message import bare, bracketed
from Milter._smtpclient import client_of
from Milter._smtpenvelope import Handled, content_of, handled

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP as Server
    from aiosmtpd.smtp import Envelope, Session

LOG: Final = logging.getLogger("Milter")

_OK: Final = "250 OK"


class _Mailbox(abc.ABC):
    """Keeps mail in a mailbox of the standard library."""

    @abc.abstractmethod
    def _open(self) -> mailbox.Mailbox[Any]:
        """Opens it, for one message."""

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        """Keeps a message."""
        return self._keep(self._open, server, session, envelope)

    def _keep(
        self,
        opened: Callable[[], mailbox.Mailbox[Any]],
        server: Server,
        session: Session,
        envelope: Envelope,
        *headers: str,
    ) -> str:
        """Adds a message, below these headers, to a mailbox, and closes that."""
        about = handled(envelope)
        trace = [*headers, f"Return-Path: {bracketed(bare(envelope.mail_from or ''))}"]
        trace += [f"Delivered-To: {bare(to)}" for to in envelope.rcpt_tos]
        trace.append(_received(server, session, about))
        message = "\r\n".join([*trace, ""]).encode("utf-8", "surrogateescape") + content_of(
            envelope
        )
        try:
            self._add(opened(), message)
        except (OSError, mailbox.Error) as error:
            LOG.error("cannot keep a message: %s", error)
            return "451 4.3.0 Message cannot be kept now"
        return _OK if about is None else about.result.reply

    def _add(self, box: mailbox.Mailbox[Any], message: bytes) -> None:
        try:
            box.lock()
            # Mailboxes have the line ends of the system, and no program likes to see others.
            box.add(message.replace(b"\r\n", os.linesep.encode()))
        finally:
            box.close()


class Maildir(_Mailbox):
    """An application for :class:`MilterHandler` (or aiosmtpd) that keeps mail in a maildir.

    Each message gets Return-Path, a Delivered-To for each recipient, and Received. What is
    quarantined goes to the folder ``.quarantine``, with the reason in X-Quarantine.

    Args:
        path: the directory; it is made if it does not exist, and made a maildir if it is none.

    Raises:
        OSError: it cannot be made one.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        """Makes the directory."""
        self.path = os.fspath(path)
        self._open()
        for part in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(self.path, part), 0o700, exist_ok=True)

    def _open(self) -> mailbox.Maildir:
        return mailbox.Maildir(self.path, factory=None)

    async def handle_QUARANTINE(
        self, server: Server, session: Session, envelope: Envelope, reason: str
    ) -> str:
        """Keeps a message out of the way."""
        mark = f"X-Quarantine: {_line(reason)}"
        return self._keep(
            lambda: self._open().add_folder("quarantine"), server, session, envelope, mark
        )


class Mbox(_Mailbox):
    """An application for :class:`MilterHandler` (or aiosmtpd) that keeps mail in an mbox file.

    As :class:`Maildir`; a quarantined message is refused for now.

    Args:
        path: the file; it is made if it does not exist.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        """Makes the file."""
        self.path = os.fspath(path)
        self._open().close()

    def _open(self) -> mailbox.mbox:
        return mailbox.mbox(self.path, factory=None)


def _received(server: Server, session: Session, about: Optional[Handled]) -> str:
    """The server's own Received header (RFC 5321 4.4)."""
    client = client_of(session) if about is None else about.client
    kind = "ESMTP" if session.extended_smtp else "SMTP"
    if session.extended_smtp:
        kind += ("S" if session.ssl is not None else "") + ("A" if session.authenticated else "")
    helo = _line((session.host_name if about is None else about.helo) or "unknown")
    name = "" if about is None else f" id {about.queue_id}"
    return (
        f"Received: from {helo} ({client})\r\n"
        f"\tby {server.hostname} with {kind}{name};\r\n"
        f"\t{formatdate(localtime=True)}"
    )


def _line(text: str) -> str:
    """A text on one line, for a header."""
    return " ".join(text.split())
