"""``demo``: shows a filter at work on real SMTP.

Owns the running of filter, SMTP server and client together: Milter._programs starts the filter, as
a process of its own, Milter.smtp is the server, and smtplib the client. All of them on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn, Union

from Milter._cli.arguments import add_colour, port
from Milter._cli.command import Command
from Milter._cli.messages import Source, parse, sources
from Milter._cli.output import ACCEPTED, FAILED, Failure, complain, say, use_colours
from Milter._cli.run import LISTENING, names_class
from Milter._cli.show import say_diff, say_outcome
from Milter._message import from_wire, shown
from Milter.mta import PROFILES, Message, MilterError

if TYPE_CHECKING:
    from Milter._programs import ProcessFilter
    from Milter.smtp import Handled

_EPILOG: Final = """\
Without FILTER it is one that marks mail and refuses subjects with "!!!". The SMTP server needs
aiosmtpd: pip install "pymilter-cffi[smtp]".

examples:
  What is a milter?
    milterctl demo

  Your own, with a message of your own, and with the mail kept:
    milterctl demo spam.py:Spam --message message.eml --maildir mail

  Go on by hand, with swaks or a mail program:
    milterctl demo spam.py:Spam --keep

exit status:
  0  each message got a reply, whatever the filter's verdict
  2  the filter could not be started, ended or failed, or an argument is wrong
"""

_OWN: Final = "Milter._cli.demofilter:Demo"
_MESSAGES: Final = (
    b"From: Alice <alice@example.org>\n"
    b"To: Bob <bob@example.com>\n"
    b"Subject: Lunch on Friday\n"
    b"\n"
    b"At noon?\n",
    b"From: Mallory <mallory@example.net>\n"
    b"To: Bob <bob@example.com>\n"
    b"Subject: BUY NOW!!!\n"
    b"\n"
    b"It is the last day.\n",
)
_TIMEOUT: Final = 60.0  # seconds that the client waits for a reply
_LOOK: Final = 0.5  # seconds between two looks at what the filter has printed
_PAUSE: Final = 0.02  # and at its beginning
_PATIENCE: Final = 20.0  # seconds that filter and server get to begin


def _add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.usage = "%(prog)s [options] [FILTER]"
    add: Any = parser.add_argument
    add(
        "filter",
        nargs="?",
        default=_OWN,
        metavar="FILTER",
        help="FILE:CLASS, MODULE:CLASS, or a program, as for run (default: a small one for show)",
    )
    add(
        "--message",
        action="append",
        dest="messages",
        metavar="FILE",
        help="a message to send, as for send; more than once for several (default: two for show)",
    )
    add("--keep", action="store_true", help="then go on listening, until Ctrl-C")
    add("--port", type=port, metavar="PORT", help="where to listen (default: one that is free)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--maildir",
        metavar="DIR",
        help="where mail lands (default: one that is removed at the end)",
    )
    place.add_argument(
        "--mbox",
        metavar="FILE",
        help="a mailbox (mbox) where mail lands instead; what is quarantined is refused for now",
    )
    add(
        "--profile",
        choices=sorted(PROFILES),
        default="postfix",
        help="as which mail server it asks the filter (default: postfix)",
    )
    add_colour(parser)


class _Complaints(logging.Handler):
    """Shows what Milter.smtp has to complain of, as all errors of the command line are shown."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one."""
        self.count += 1
        complain(COMMAND.name, record.getMessage())


class _InMaildir:
    """The mail in a maildir, and in its folder for what is quarantined."""

    kind = "maildir"

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen = self.files()

    def new(self) -> Iterator[tuple[str, bytes]]:
        """Yields where each message is that came since the last time, and its content."""
        before, self.seen = self.seen, self.files()
        for place in sorted(self.seen - before):
            with open(place, "rb") as file:
                yield place, file.read()

    def files(self) -> set[str]:
        """All files."""
        folders = [self.path, os.path.join(self.path, ".quarantine")]
        places = [os.path.join(folder, part) for folder in folders for part in ("new", "cur")]
        return {
            os.path.join(place, name)
            for place in places
            if os.path.isdir(place)
            for name in os.listdir(place)
        }


class _InMbox:
    """The mail in an mbox, which grows at its end."""

    kind = "mbox"

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen = os.path.getsize(path)

    def new(self) -> Iterator[tuple[str, bytes]]:
        """Yields what came since the last time."""
        with open(self.path, "rb") as file:
            file.seek(self.seen)
            data = file.read()
        if data:
            self.seen += len(data)
            yield self.path, data


class _Demo:
    """What is shown, message by message."""

    def __init__(self, mail: Union[_InMaildir, _InMbox], filter_: ProcessFilter) -> None:
        self.mail = mail
        self.results: list[Handled] = []
        self.filter = filter_
        self.printed = len(filter_.output)

    def skip(self, word: str) -> None:
        """Waits until the filter has printed a word; what it printed until then is not shown."""
        deadline = time.monotonic() + _PATIENCE
        while word not in self.filter.output and time.monotonic() < deadline:
            if self.filter.process.poll() is not None:
                return  # which is noticed later, and said
            time.sleep(_PAUSE)
        self.printed = len(self.filter.output)

    def send(self, port: int, message: Message) -> None:
        """Sends a message as any client does, and shows what became of it."""
        self.results.clear()
        client = smtplib.SMTP("127.0.0.1", port, "localhost", _TIMEOUT)
        try:
            if self._talk(client, message):
                say("")
            with contextlib.suppress(smtplib.SMTPServerDisconnected):
                client.quit()
        finally:
            # After an interruption without a word: the next reply would be to something else.
            client.close()
        for handled in self.results:
            say("what became of it:", "bold")
            say_outcome(handled.result)
            say_diff(message, handled.result.message)
        self.landed()
        self.said()

    def _talk(self, client: smtplib.SMTP, message: Message) -> bool:
        """Returns whether the message's content was sent."""

        def said(command: str, reply: tuple[int, bytes]) -> bool:
            say(f"> {shown(command)}", "cyan")
            for line in from_wire(reply[1]).split("\n"):
                say(f"< {reply[0]} {shown(line)}", "" if reply[0] < 400 else "red")
            return reply[0] < 400

        if not said("EHLO localhost", client.ehlo()):
            return False
        if not said(f"MAIL FROM:{message.sender}", client.mail(message.sender)):
            return False
        kept = [said(f"RCPT TO:{to.address}", client.rcpt(to.address)) for to in message.recipients]
        if not any(kept):
            return False
        try:
            said("DATA, and the message", client.data(message.as_bytes()))
        except smtplib.SMTPDataError as error:
            refusal = error.smtp_error
            said(
                "DATA", (error.smtp_code, refusal.encode() if isinstance(refusal, str) else refusal)
            )
            return False
        return True

    def landed(self) -> None:
        """Shows what is new in the mailbox."""
        say("")
        landed = False
        for place, data in self.mail.new():
            landed = True
            say(f"what landed in {shown(place)}:", "bold")
            for line in from_wire(data).splitlines():
                say("  " + "\t".join(shown(part) for part in line.split("\t")))
        if not landed:
            say(f"nothing landed in the {self.mail.kind}", "bold")

    def said(self) -> None:
        """Shows what the filter has printed since the last time."""
        output = self.filter.output
        new, self.printed = output[self.printed :], len(output)
        if new.strip():
            say("\nwhat the filter printed:", "bold")
            for line in new.splitlines():
                say("  " + "\t".join(shown(part) for part in line.split("\t")))

    def keep(self, port: int) -> None:
        """Waits until somebody has seen enough."""
        with contextlib.suppress(KeyboardInterrupt):
            say(
                f"\nIt goes on listening, and mail lands in {shown(self.mail.path)}. Try it:",
                "green",
            )
            say(f"  swaks --server 127.0.0.1:{port} --from alice@example.org --to bob@example.com")
            say("Ctrl-C ends it.")
            while True:
                time.sleep(_LOOK)
                self.said()


def _messages(names: list[str]) -> list[tuple[str, Message]]:
    found = list(sources(names)) if names else []
    if not names:
        found = [Source(f"message {n}", data, True) for n, data in enumerate(_MESSAGES, 1)]
    return [(source.name, parse(source, None, None, False)) for source in found]


def _has_ended(filter_: ProcessFilter, failed: bool) -> bool:
    """Whether it has; *failed*: so it may be about to, its sockets closed already."""
    if failed and filter_.process.poll() is None:
        try:
            filter_.open(_LOOK).close()
        except MilterError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                filter_.process.wait(_PATIENCE)
    return filter_.process.poll() is not None


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace) -> int:
    """Shows one filter."""
    use_colours(arguments.color)
    messages = _messages(arguments.messages)
    try:
        from Milter.smtp import Controller, Maildir, Mbox, MilterHandler
    except ImportError as error:
        raise Failure(str(error)) from None
    from Milter._programs import ProcessFilter, StartError

    with contextlib.ExitStack() as stack:
        # Ended by a signal, too, the filter does not stay behind.
        for end in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(end) is not signal.SIG_IGN:
                stack.callback(signal.signal, end, signal.signal(end, _interrupt))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="milterctl-"))
        command = [sys.executable, "-m", "Milter", "run", arguments.filter, "--socket", "{socket}"]
        try:
            running = ProcessFilter(command, directory)
        except StartError as error:
            last = str(error).rstrip().split("\n")[-1]
            raise Failure(last.partition(" run: ")[2] or last) from None
        stack.callback(running.stop)
        complaints = _Complaints(logging.WARNING)
        logger = logging.getLogger("Milter")
        logger.addHandler(complaints)
        stack.callback(logger.removeHandler, complaints)
        app: Union[Maildir, Mbox]
        mail: Union[_InMaildir, _InMbox]
        if arguments.mbox:
            app, mail = Mbox(arguments.mbox), _InMbox(arguments.mbox)
        else:
            maildir = arguments.maildir or os.path.join(directory, "mail")
            app, mail = Maildir(maildir), _InMaildir(maildir)
        demo = _Demo(mail, running)
        if names_class(arguments.filter):
            demo.skip(LISTENING)
        handler = MilterHandler(
            running.spec, app=app, profile=arguments.profile, on_result=demo.results.append
        )
        controller = Controller(
            handler,
            hostname="127.0.0.1",
            port=arguments.port or 0,
            ready_timeout=_PATIENCE,
        )
        stack.callback(controller.stop, no_assert=True)
        controller.start()
        number: int = controller.port
        title = "a small filter of our own" if arguments.filter == _OWN else arguments.filter
        say(f"An SMTP server on 127.0.0.1 port {number} asks {shown(title)}.", "green")
        for name, message in messages:
            say(f"\n== {shown(name)}", "bold")
            try:
                demo.send(number, message)
            except smtplib.SMTPException as error:
                raise Failure(f"{name}: {error}") from None
        if arguments.keep:
            demo.keep(number)
        elif _has_ended(running, complaints.count > 0):
            logger.error("the filter has ended")
        return FAILED if complaints.count else ACCEPTED


COMMAND: Final = Command(
    "demo",
    "show a filter at work on real SMTP, with an SMTP server and a client on loopback",
    _EPILOG,
    _add,
    _run,
)
