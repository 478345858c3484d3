"""The command line, ``python -m Milter``: what it understands and what it prints.

One function for each command, and one that adds its arguments; COMMANDS has them all. Whatever goes
wrong is one line on standard error and exit status 2, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Callable, Final, NamedTuple, Optional

from Milter import __version__
from Milter._conversation import address_family
from Milter._message import bracketed, from_wire, shown
from Milter.mta import (
    LOCALHOST,
    Message,
    MilterError,
    Options,
    Outcome,
    Recipient,
    Result,
    Session,
    SmtpClient,
    Step,
    Timeouts,
    action_names,
    connect,
    protocol_names,
)

PROGRAM: Final = "python -m Milter"

ACCEPTED: Final = 0
REFUSED: Final = 1
FAILED: Final = 2

_WIDTH: Final = 100  # characters of what a step was about, before it is cut

_EXAMPLES = """\
examples:
  Play a message through a filter that listens on a unix socket, and see what it does:
    python -m Milter send --socket unix:/run/filter.sock message.eml

  The same over TCP, with an envelope of its own and a client from elsewhere:
    python -m Milter send --socket inet:8893@127.0.0.1 \\
        --from alice@example.org --to bob@example.com --to carol@example.com \\
        --client 'mail.example.org[192.0.2.1]' --helo mail.example.org message.eml

Each command explains itself: python -m Milter send --help
"""

_SEND_EPILOG = """\
Without --from and --to the envelope is made from the headers: the sender from From, the recipients
from To and Cc.

exit status:
  0  all messages were accepted, with or without changes
  1  at least one was rejected, tempfailed or discarded; the last line of each says which
  2  the filter could not be reached, or broke the protocol, or an argument is wrong
"""


class _Error(Exception):
    """What the user gets to read; the exit status is 2."""


# -- output --------------------------------------------------------------------------------------


def _put(data: bytes) -> None:
    """Writes to standard output at once, so that a slow filter can be watched."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    """Prints a line, whatever characters the terminal knows."""
    _put(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace") + b"\n")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


# -- arguments -----------------------------------------------------------------------------------


def _address(text: str) -> Recipient:
    """``ADDRESS [PARAMETER...]``, the address with or without angle brackets."""
    text = text.strip()
    if text.startswith("<") and ">" in text:
        address, _, rest = text.rpartition(">")
        return Recipient(f"{address}>", tuple(rest.split()))
    address, *params = text.split() or [""]
    return Recipient(bracketed(address), tuple(params))


def _client(text: str) -> SmtpClient:
    """``NAME``, ``ADDRESS``, ``NAME[ADDRESS]`` or ``NAME[ADDRESS]:PORT``, as Postfix logs them."""
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]+)\](?::([0-9]+))?", text)
    try:
        if match is None:
            if "[" in text or "]" in text or not text:
                raise ValueError("not NAME[ADDRESS]:PORT")
            try:
                address_family(text)
            except ValueError:
                return SmtpClient(text, LOCALHOST.address)
            return SmtpClient(f"[{text}]", text)
        name, address, port = match.groups()
        known = None if address.lower() == "unknown" else address
        address_family(known)
        if int(port or 0) > 65535:
            raise ValueError("not a port")
        return SmtpClient(name or f"[{address}]", known, int(port or 0))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _macro(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; the braces around a longer name may be left out."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if len(name) > 1 and not name.startswith("{"):
        name = f"{{{name}}}"
    return name, value


def _seconds(text: str) -> float:
    """A time to wait."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # Not above what the operating system's timers take; a NaN is not above 0.
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


# -- send ----------------------------------------------------------------------------------------


def _add_send(parser: argparse.ArgumentParser) -> None:
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
        type=_address,
        metavar="ADDRESS",
        help="envelope sender, with ESMTP parameters if you like: 'a@example.org SIZE=1000'; "
        "'' is the null sender",
    )
    parser.add_argument(
        "--to",
        dest="recipients",
        type=_address,
        action="append",
        metavar="ADDRESS",
        help="envelope recipient, likewise; may be given more than once",
    )
    parser.add_argument("--helo", metavar="NAME", help="HELO name (default: the client's)")
    parser.add_argument(
        "--client",
        type=_client,
        default=LOCALHOST,
        metavar="CLIENT",
        help="the SMTP client: NAME, ADDRESS, or as in Postfix's log NAME[ADDRESS] or "
        "NAME[ADDRESS]:PORT (default: localhost[127.0.0.1])",
    )
    parser.add_argument(
        "--macro",
        dest="macros",
        type=_macro,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a macro beside those that Postfix sends, or with another value: auth_authen=bob; may "
        "be given more than once",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
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
        raise _Error(f"{path}: {error.strerror}") from None


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
        raise _Error(f"{path}: no recipients: give --to, the headers To and Cc name nobody")
    return message


def _print_options(options: Options) -> None:
    def names(words: list[str]) -> str:
        return "|".join(words) or "none"

    _say(
        f"negotiated version {options.version}, actions {names(action_names(options.actions))}, "
        f"protocol {names(protocol_names(options.protocol))}"
    )


def _print_step(step: Step) -> None:
    about = step.argument if len(step.argument) <= _WIDTH else step.argument[: _WIDTH - 3] + "..."
    _say(f"{step.name:<9}{step.verdict.kind.value:<10} {about}".rstrip())
    if step.verdict.raw:
        for line in from_wire(step.verdict.raw).split("\r\n"):
            _say(f"{'':9}{shown(line)}")
    if step.answer.progress:
        _say(f"{'':9}said {_count(step.answer.progress, 'time')} that it is still at work")
    for change in step.answer.modifications:
        _say(f"{'':9}{change}")


def _print_result(result: Result, message: bool) -> None:
    words = result.outcome.value
    if result.outcome is Outcome.ACCEPTED:
        if result.modifications:
            words += f", with {_count(len(result.modifications), 'change')}"
        if result.refused:
            words += f", but not for {_count(len(result.refused), 'recipient')}"
        if result.quarantine is not None:
            words += f", and quarantined: {shown(result.quarantine)}"
    lines = result.reply.split("\r\n")
    _say(f"{words}: {shown(lines[0])}")
    for line in lines[1:]:
        _say(f"{'':9}{shown(line)}")
    if not message or result.outcome is not Outcome.ACCEPTED:
        return
    after = result.message
    _say("")
    _say(shown(" ".join([f"MAIL FROM:{bracketed(after.sender)}", *after.sender_params])))
    for recipient in after.recipients:
        _say(shown(" ".join([f"RCPT TO:{bracketed(recipient.address)}", *recipient.params])))
    _say("")
    data = after.as_bytes(b"\n")
    _put(data if data.endswith(b"\n") else data + b"\n")


def _send(arguments: argparse.Namespace) -> int:
    """Plays messages to a filter."""
    timeouts = Timeouts() if arguments.timeout is None else Timeouts.all(arguments.timeout)
    status = ACCEPTED
    session: Optional[Session] = None
    try:
        for number, path in enumerate(arguments.messages):
            message = _message(path, arguments)
            if len(arguments.messages) > 1:
                _say(f"{'' if number == 0 else chr(10)}== {shown(path)}")
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
                raise _Error(f"{path}: {error}") from None
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


# -- all commands --------------------------------------------------------------------------------


class _Command(NamedTuple):
    name: str
    help: str
    epilog: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: Final = (
    _Command(
        "send",
        "play messages to a filter, and print what it says and what becomes of them",
        _SEND_EPILOG,
        _add_send,
        _send,
    ),
)


def _parser() -> argparse.ArgumentParser:
    format: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tools for mail filters (milters).",
        epilog=_EXAMPLES,
        formatter_class=format,
    )
    parser.add_argument("--version", action="version", version=f"pymilter-cffi {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=command.epilog,
            formatter_class=format,
        )
        command.add(sub)
        sub.set_defaults(command=command)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments without the program's name; by default the process's.

    Returns:
        The exit status: 0 done and accepted, 1 refused, 2 an error, of which one line stands on
        standard error.

    Raises:
        SystemExit: from argparse, for --help, --version (0) and wrong arguments (2).
    """
    arguments = _parser().parse_args(argv)
    command: _Command = arguments.command
    try:
        return command.run(arguments)
    except (_Error, MilterError) as error:
        text = str(error)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nor is there anybody to tell at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        text = str(error)
    except KeyboardInterrupt:
        text = "interrupted"
    print(f"{PROGRAM} {command.name}: {shown(text)}", file=sys.stderr)
    return FAILED
