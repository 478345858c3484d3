"""``send``: plays messages to filters, as a mail server would, and shows what becomes of them."""

from __future__ import annotations

import argparse
import json
from typing import Any, Callable, Final, Optional

from Milter._cli.arguments import (
    add_capture_port,
    add_colour,
    address,
    client,
    macro,
    seconds,
    whole,
)
from Milter._cli.command import Command
from Milter._cli.messages import parse, sources
from Milter._cli.output import (
    ACCEPTED,
    FAILED,
    REFUSED,
    Failure,
    complain,
    say,
    use_colours,
)
from Milter._cli.show import (
    error_value,
    options_value,
    result_value,
    say_diff,
    say_message,
    say_options,
    say_outcome,
    say_step,
)
from Milter._inwords import count
from Milter._message import shown
from Milter._profiles import ACTIONS
from Milter._smtpsession import SmtpDialogue
from Milter.mta import (
    LOCALHOST,
    PROFILES,
    ConnectError,
    Difference,
    Filter,
    MailServer,
    Message,
    MilterError,
    Outcome,
    RecordedConnection,
    Recording,
    RecordingError,
    Result,
    SmtpSession,
    Step,
    Timeouts,
    parse_spec,
)

_EPILOG: Final = """\
MESSAGE is a file, a directory (all files in it; a maildir's new and cur), a mailbox (mbox), or -
for standard input. Without --from and --to the envelope is made from the headers: the sender from
From, the recipients from To and Cc.

Nothing is delivered. The filters are told what Postfix or Sendmail would tell them; shown is what
they answer, what that mail server would tell the client, and what it would make of the message.
Where a filter fails, the mail server does what --default-action says, and the error is reported.

With --replay there are no messages: what a mail server said to a filter when FILE was recorded
(milterctl trace) is said to this filter again, and its answers are compared with those of then.
What made the message is in the recording, so only --socket, --timeout, --lenient, --json and
--color go with it.

examples:
  See what a filter does to a message, as a diff:
    milterctl send --socket unix:/run/filter.sock message.eml

  With an envelope, a client and macros of your choice, behind Sendmail:
    milterctl send --socket inet:8893@127.0.0.1 --profile sendmail \\
        --from 'alice@example.org SIZE=1000' --to bob@example.com --to carol@example.com \\
        --client 'mail.example.org[192.0.2.1]' --macro auth_authen=alice message.eml

  Two filters in a row, as a mail server would ask them:
    milterctl send --socket unix:/run/one.sock --socket unix:/run/two.sock message.eml

  All messages of a mailbox, one JSON object for each:
    milterctl send --socket unix:/run/filter.sock --json archive.mbox

  Does a mended filter still answer what the old one did? It signs, so no two signatures are alike:
    milterctl send --socket unix:/run/mended.sock --replay session.rec \
        --ignore-header DKIM-Signature

exit status:
  0  all messages were accepted, with or without changes; with --replay: answered as recorded
  1  at least one was rejected, tempfailed or discarded; the last line of each says which; with
     --replay: not answered as recorded
  2  a filter could not be reached or broke the protocol, or a message or an argument is wrong
"""


def _add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.usage = "%(prog)s --socket SPEC [options] (MESSAGE ... | --replay FILE)"
    parser.add_argument(
        "messages", nargs="*", metavar="MESSAGE", help="file, directory, mailbox, or - (see below)"
    )
    parser.add_argument(
        "--socket",
        dest="sockets",
        action="append",
        required=True,
        metavar="SPEC",
        help="where the filter listens: unix:PATH, inet:PORT@HOST, inet6:PORT@HOST, or as Postfix "
        "spells it, inet:HOST:PORT; given more than once, several filters are asked in that order",
    )
    envelope = parser.add_argument_group("what the mail server is told")
    envelope.add_argument(
        "--from",
        dest="sender",
        type=address,
        metavar="ADDRESS",
        help="envelope sender, with ESMTP parameters if you like: 'a@example.org SIZE=1000'; "
        "'' is the null sender",
    )
    envelope.add_argument(
        "--to",
        dest="recipients",
        type=address,
        action="append",
        metavar="ADDRESS",
        help="envelope recipient, likewise; may be given more than once",
    )
    envelope.add_argument(
        "--helo", metavar="NAME", help="HELO name (default: the client's; '' for no HELO)"
    )
    envelope.add_argument(
        "--client",
        type=client,
        default=LOCALHOST,
        metavar="CLIENT",
        help="the SMTP client: NAME, ADDRESS, or as in Postfix's log NAME[ADDRESS] or "
        "NAME[ADDRESS]:PORT (default: localhost[127.0.0.1])",
    )
    envelope.add_argument(
        "--macro",
        dest="macros",
        type=macro,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a macro beside those that the mail server sends, or with another value: "
        "auth_authen=bob; may be given more than once",
    )
    server = parser.add_argument_group("the mail server")
    server.add_argument(
        "--profile",
        choices=PROFILES,
        default="postfix",
        help="which it is (default: postfix)",
    )
    server.add_argument(
        "--default-action",
        choices=ACTIONS,
        metavar="ACTION",
        help="what it does where a filter fails: " + ", ".join(ACTIONS) + " (default: the mail "
        "server's own, tempfail for Postfix and accept for Sendmail)",
    )
    server.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="for the connection and for each answer (default: as the mail server)",
    )
    server.add_argument(
        "--lenient",
        action="store_true",
        help="put up with what real mail servers put up with, in filters and in messages",
    )
    server.add_argument(
        "--one-connection",
        action="store_true",
        help="all messages in one SMTP session, unless a filter ends it",
    )
    replayed = parser.add_argument_group("what was recorded")
    replayed.add_argument(
        "--replay",
        metavar="FILE",
        help="play what milterctl trace has recorded, or a capture, instead of messages",
    )
    replayed.add_argument(
        "--connection",
        type=whole,
        metavar="N",
        help="only this connection of it",
    )
    replayed.add_argument(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="only play it: other answers than were recorded are as good",
    )
    replayed.add_argument(
        "--ignore-header",
        dest="ignore",
        action="append",
        default=[],
        metavar="NAME",
        help="the value that a filter gives to this header may differ; may be given more than once",
    )
    add_capture_port(replayed)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--show",
        choices=("diff", "message", "none"),
        default="diff",
        help="after the outcome: a diff of what changed in an accepted message, or all of it as it "
        "would be delivered (default: diff)",
    )
    output.add_argument(
        "--no-message",
        dest="show",
        action="store_const",
        const="none",
        help="the same as --show none",
    )
    output.add_argument(
        "--json", action="store_true", help="a JSON object for each message, each on a line"
    )
    add_colour(output)


class _Server(MailServer):
    """Keeps hold of the session that is being made, for what is shown of it meanwhile."""

    current: SmtpDialogue

    def dialogue(self, on_step: Optional[Callable[[Step], None]] = None) -> SmtpDialogue:
        """Returns a new session's course."""
        self.current = super().dialogue(on_step)
        return self.current


class _Play:
    """The messages of one command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        timeouts = None if arguments.timeout is None else Timeouts.all(arguments.timeout)
        self.server = _Server(
            *(Filter(spec, arguments.default_action, timeouts) for spec in arguments.sockets),
            profile=arguments.profile,
            strict=not arguments.lenient,
        )
        self.session: Optional[SmtpSession] = None
        self.met: set[int] = set()
        self.told = 0
        self.status = ACCEPTED

    def title(self, number: int) -> str:
        """Says which filter, where there are several."""
        return f"{number + 1}: " if len(self.given.sockets) > 1 else ""

    def show_step(self, step: Step) -> None:
        """Prints a step as it has been played."""
        options = self.server.current.protocols[step.filter].options
        if options is not None and step.filter not in self.met:
            self.met.add(step.filter)
            say_options(options, self.title(step.filter))
        say_step(step, self.title(step.filter))

    def open(self) -> SmtpSession:
        """The SMTP session to use next."""
        if self.session is None:
            self.met.clear()
            self.told = 0
            self.session = self.server.session(
                client=self.given.client,
                helo=self.given.helo,
                macros=dict(self.given.macros),
                on_step=None if self.given.json else self.show_step,
            )
        return self.session

    def close(self) -> None:
        """Ends the SMTP session."""
        session, self.session = self.session, None
        if session is not None:
            with session:
                pass

    def errors(self) -> list[MilterError]:
        """What the filters did wrong since this was asked last."""
        errors = self.server.current.errors[self.told :]
        self.told += len(errors)
        return errors

    def message(self, name: str, message: Message) -> bool:
        """Plays one message; returns whether it makes sense to go on."""
        session = self.open()
        try:
            result = session.send(message)
        except ValueError as error:
            raise Failure(f"{name}: {error}") from None
        if session.over or not self.given.one_connection:
            self.close()
        errors = self.errors()
        if errors:
            self.status = FAILED
        elif result.outcome is not Outcome.ACCEPTED:
            self.status = max(self.status, REFUSED)
        if self.given.json:
            self.print_json(name, message, result, errors)
        else:
            self.show(message, result)
        for failure in errors:
            complain(COMMAND.name, str(failure))
        # Where nobody answers the next message would fare no better.
        return not any(isinstance(failure, ConnectError) for failure in errors)

    def show(self, message: Message, result: Result) -> None:
        """Prints what became of a message."""
        say_outcome(result)
        if result.outcome is not Outcome.ACCEPTED:
            return
        if self.given.show == "diff":
            say_diff(message, result.message)
        elif self.given.show == "message":
            say_message(result.message)

    def print_json(
        self, name: str, message: Message, result: Result, errors: list[MilterError]
    ) -> None:
        """Prints the same for a machine."""
        filters: list[dict[str, Any]] = []
        for spec, protocol in zip(self.given.sockets, self.server.current.protocols):
            options = {} if protocol.options is None else options_value(protocol.options)
            filters.append({"socket": spec, **options})
        value = {
            "message": name,
            "profile": self.server.profile.name,
            "filters": filters,
            **result_value(message, result),
            "errors": [error_value(error) for error in errors],
        }
        say(json.dumps(value))


# -- what was recorded ---------------------------------------------------------------------------


def _recorded(arguments: argparse.Namespace) -> Recording:
    """The recording, or the connection of it that is wanted."""
    try:
        recording = Recording.read(arguments.replay, port=arguments.port)
    except OSError as error:
        raise Failure(f"{arguments.replay}: {error.strerror}") from None
    for warning in recording.warnings:
        complain(COMMAND.name, warning)
    number: Optional[int] = arguments.connection
    if number is not None:
        recording.connections = [
            connection for connection in recording.connections if connection.number == number
        ]
        if not recording.connections:
            raise Failure(f"{arguments.replay}: no connection {number}")
    if not recording.connections:
        raise Failure(f"{arguments.replay}: no connections")
    return recording


def _replay(arguments: argparse.Namespace) -> int:
    """Plays what was recorded to a filter."""
    if len(arguments.sockets) > 1:
        raise Failure("--replay is for one filter")
    (spec,) = arguments.sockets
    recording = _recorded(arguments)
    timeouts = Timeouts() if arguments.timeout is None else Timeouts.all(arguments.timeout)
    status = ACCEPTED
    same = 0
    for connection in recording.connections:
        try:
            differences = connection.play(
                spec, timeouts=timeouts, strict=not arguments.lenient, ignore=arguments.ignore
            )
        except RecordingError as error:
            complain(COMMAND.name, f"{arguments.replay}: {error}")
            status = FAILED
            continue
        errors = [each.error for each in differences if each.error is not None]
        if not arguments.compare:
            differences = [each for each in differences if each.error is not None]
        same += not differences
        if errors:
            status = FAILED
        elif differences:
            status = max(status, REFUSED)
        if arguments.json:
            say(json.dumps(_differences_value(connection, differences)))
        else:
            _say_differences(connection, differences, arguments.compare)
        for failure in errors:
            complain(COMMAND.name, f"connection {connection.number}: {failure}")
    if not arguments.json:
        words = "answered as recorded" if arguments.compare else "played"
        total = count(len(recording.connections), "connection")
        say(f"{same} of {total} {words}", "bold green" if status == ACCEPTED else "bold red")
    return status


def _say_differences(
    connection: RecordedConnection, differences: list[Difference], compared: bool
) -> None:
    title = f"connection {connection.number}, {count(connection.packets, 'packet')}"
    if not differences:
        say(f"{title}: {'answered as recorded' if compared else 'played'}", "green")
    for difference in differences:
        head, *lines = str(difference).split("\n")
        say(head, "red")
        for line in lines:
            say(line, {"+": "green", "-": "red"}.get(line[:1], ""))


def _differences_value(
    connection: RecordedConnection, differences: list[Difference]
) -> dict[str, Any]:
    """The same for a machine."""
    return {
        "connection": connection.number,
        "packets": connection.packets,
        "differences": [
            {
                "packet": each.packet,
                "step": each.step,
                "expected": each.expected,
                "got": each.got,
                **({} if each.error is None else {"error": error_value(each.error)}),
            }
            for each in differences
        ],
    }


# -- running -------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    """Plays messages to filters."""
    use_colours("never" if arguments.json else arguments.color)
    for spec in arguments.sockets:
        parse_spec(spec)  # whether it is one
    if arguments.replay is None and not arguments.messages:
        raise Failure("required: MESSAGE, or --replay FILE")
    if arguments.replay is not None and arguments.messages:
        raise Failure("MESSAGE and --replay do not go together")
    if arguments.replay is not None:
        return _replay(arguments)
    play = _Play(arguments)
    several = len(arguments.messages) > 1
    try:
        for number, source in enumerate(sources(arguments.messages)):
            if (several or source.several) and not arguments.json:
                say(f"{'' if number == 0 else chr(10)}== {shown(source.name)}", "bold")
            try:
                message = parse(source, arguments.sender, arguments.recipients, arguments.lenient)
            except Failure as failure:
                complain(COMMAND.name, str(failure))
                play.status = FAILED
                continue
            if not play.message(source.name, message):
                break
        play.close()
    finally:
        if play.session is not None:
            play.session.close()
    return play.status


COMMAND: Final = Command(
    "send",
    "play messages to filters, and print what they say and what becomes of them",
    _EPILOG,
    _add,
    _run,
)
