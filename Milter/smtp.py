"""An SMTP server that consults milters: a handler for aiosmtpd, and what goes with it.

    from Milter.smtp import Controller, Maildir, MilterHandler

    handler = MilterHandler("inet:8893@127.0.0.1", app=Maildir("mail"))
    controller = Controller(handler, hostname="127.0.0.1", port=8025)
    controller.start()

:class:`MilterHandler` drops into any aiosmtpd Controller. It tells the filters of the session as
Postfix (or Sendmail) would, gives the client the replies that they make it give, and changes
aiosmtpd's Envelope as they wish, before the application's own handler gets it. aiosmtpd has no hook
for three things: the greeting, what comes between DATA and its 354, and unknown commands.
:class:`Controller` and :class:`SMTP` of this module have these as well; with others, a filter's
verdict on the client is found at the first command, that on DATA at the end of the message, and
unknown commands are told nobody.

:class:`Maildir` and :class:`Mbox` are applications that keep the mail in files.

Needs aiosmtpd: ``pip install "pymilter-cffi[smtp]"``. Importing this module does not.

Source: wire spec 2.7; the aiosmtpd documentation on handlers; RFC 5321 3.8, 4.2 and 4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from Milter._smtpenvelope import Handled, handled
from Milter._smtphandler import MilterHandler
from Milter._smtpstore import Maildir, Mbox

if TYPE_CHECKING:
    from Milter._smtpserver import SMTP, Controller

__all__ = [
    "SMTP",
    "Controller",
    "Handled",
    "Maildir",
    "Mbox",
    "MilterHandler",
    "handled",
]


def __getattr__(name: str) -> Any:
    if name in ("Controller", "SMTP"):
        from Milter import _smtpserver

        return getattr(_smtpserver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
