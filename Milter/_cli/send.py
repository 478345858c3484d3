"""``send``: plays messages to a filter."""

from __future__ import annotations

import argparse
import sys
from typing import Final, Optional

from Milter._cli.arguments import address, client, macro, seconds
from Milter._cli.command import Command
from Milter._cli.output import ACCEPTED, REFUSED, Failure, count, put, say
from Milter._message import bracketed, from_wire, shown
from Milter.mta import (
    LOCALHOST,
    Message,
    Options,
    Outcome,
    Recipient,
    Result,
    Session,
    Step,
    Timeouts,
    action_names,
    connect,
    protocol_names,
)

_WIDTH: Final = 100  # characters of what a step was about, before it is cut

_EPILOG = """\
Without --from and --to the envelope is made from the headers: the sender from From, the recipients
from To and Cc.

exit status:
  0  all messages were accepted, with or without changes
  1  at least one was rejected, tempfailed or discarded; the last line of each says which
  2  the filter could not be reached, or broke the protocol, or an argument is wrong
"""


def _add(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``send``."""
    parser.add_argument(
        "messages", nargs="+", metavar="MESSAGE", help="file with a message; - is standard input"
    )
    parser.add_argument(
        "--socket",
        required=True,
        metavar="SPEC",
        help="where the filter listens: unix:PATH, inet:PORT@HOST, inet6:PORT@HOST, or as Postfix "
        "spells it, inet:HOST:PORT",
    )
    parser.add_argument(
        "--from",
        dest="sender",
        type=address,
        metavar="ADDRESS",
        help="envelope sender, with ESMTP parameters if you like: 'a@example.org SIZE=1000'; "
        "'' is the null sender",
    )
    parser.add_argument(
        "--to",
        dest="recipients",
        type=address,
        action="append",
        metavar="ADDRESS",
        help="envelope recipient, likewise; may be given more than once",
    )
    parser.add_argument("--helo", metavar="NAME", help="HELO name (default: the client's)")
    parser.add_argument(
        "--client",
        type=client,
        default=LOCALHOST,
        metavar="CLIENT",
        help="the SMTP client: NAME, ADDRESS, or as in Postfix's log NAME[ADDRESS] or "
        "NAME[ADDRESS]:PORT (default: localhost[127.0.0.1])",
    )
    parser.add_argument(
        "--macro",
        dest="macros",
        type=macro,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a macro beside those that Postfix sends, or with another value: auth_authen=bob; may "
        "be given more than once",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="for the connection and for each answer (default: as Postfix, 30, and 300 for the "
        "content)",
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="put up with what real mail servers put up with, too",
    )
    parser.add_argument(
        "--one-connection",
        action="store_true",
        help="all messages over one connection, if the filter lets us",
    )
    parser.add_argument(
        "--no-message", action="store_true", help="do not print what the message is afterwards"
    )


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None


def _addresses(message: Message, *names: str) -> list[Recipient]:
    """The addresses in these headers."""
    from email.utils import getaddresses  # not needed by who gives an envelope

    values = [from_wire(value) for name in names for value in message.get_all(name)]
    return [Recipient(bracketed(address)) for _, address in getaddresses(values) if address]


def _message(path: str, arguments: argparse.Namespace) -> Message:
    message = Message.from_bytes(_read(path))
    sender: Optional[Recipient] = arguments.sender
    if sender is None:
        sender = next(iter(_addresses(message, "From")), Recipient("<>"))
    message.sender = sender.address
    message.sender_params = list(sender.params)
    message.recipients = arguments.recipients or _addresses(message, "To", "Cc")
    if not message.recipients:
        raise Failure(f"{path}: no recipients: give --to, the headers To and Cc name nobody")
    return message


def _print_options(options: Options) -> None:
    def names(words: list[str]) -> str:
        return "|".join(words) or "none"

    say(
        f"negotiated version {options.version}, actions {names(action_names(options.actions))}, "
        f"protocol {names(protocol_names(options.protocol))}"
    )


def _print_step(step: Step) -> None:
    about = step.argument if len(step.argument) <= _WIDTH else step.argument[: _WIDTH - 3] + "..."
    say(f"{step.name:<9}{step.verdict.kind.value:<10} {about}".rstrip())
    if step.verdict.raw:
        for line in from_wire(step.verdict.raw).split("\r\n"):
            say(f"{'':9}{shown(line)}")
    if step.answer.progress:
        say(f"{'':9}said {count(step.answer.progress, 'time')} that it is still at work")
    for change in step.answer.modifications:
        say(f"{'':9}{change}")


def _print_result(result: Result, message: bool) -> None:
    words = result.outcome.value
    if result.outcome is Outcome.ACCEPTED:
        if result.modifications:
            words += f", with {count(len(result.modifications), 'change')}"
        if result.refused:
            words += f", but not for {count(len(result.refused), 'recipient')}"
        if result.quarantine is not None:
            words += f", and quarantined: {shown(result.quarantine)}"
    lines = result.reply.split("\r\n")
    say(f"{words}: {shown(lines[0])}")
    for line in lines[1:]:
        say(f"{'':9}{shown(line)}")
    if not message or result.outcome is not Outcome.ACCEPTED:
        return
    after = result.message
    say("")
    say(shown(" ".join([f"MAIL FROM:{bracketed(after.sender)}", *after.sender_params])))
    for recipient in after.recipients:
        say(shown(" ".join([f"RCPT TO:{bracketed(recipient.address)}", *recipient.params])))
    say("")
    data = after.as_bytes(b"\n")
    put(data if data.endswith(b"\n") else data + b"\n")


def _run(arguments: argparse.Namespace) -> int:
    """Plays messages to a filter."""
    timeouts = Timeouts() if arguments.timeout is None else Timeouts.all(arguments.timeout)
    status = ACCEPTED
    session: Optional[Session] = None
    try:
        for number, path in enumerate(arguments.messages):
            message = _message(path, arguments)
            if len(arguments.messages) > 1:
                say(f"{'' if number == 0 else chr(10)}== {shown(path)}")
            if session is None:
                session = connect(arguments.socket, timeouts=timeouts, strict=not arguments.lenient)
                _print_options(session.negotiate())
            try:
                result = session.send(
                    message,
                    client=arguments.client,
                    helo=None if session.protocol.begun else arguments.helo,
                    macros=dict(arguments.macros),
                    on_step=_print_step,
                )
            except ValueError as error:
                raise Failure(f"{path}: {error}") from None
            _print_result(result, not arguments.no_message)
            if result.outcome is not Outcome.ACCEPTED:
                status = REFUSED
            if not session.protocol.over and not arguments.one_connection:
                session.quit()
            if session.protocol.over:
                session = None
        if session is not None:
            session.quit()
    finally:
        if session is not None:
            session.close()
    return status


COMMAND: Final = Command(
    "send",
    "play messages to a filter, and print what it says and what becomes of them",
    _EPILOG,
    _add,
    _run,
)
