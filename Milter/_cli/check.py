"""``check``: asks a filter what it wants, says so in words, and looks whether it holds out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

from Milter._cli.arguments import add_colour, seconds, whole
from Milter._cli.command import Command
from Milter._cli.output import ACCEPTED, REFUSED, Failure, progress, say, use_colours
from Milter._engine import lib
from Milter._inwords import count
from Milter._message import shown
from Milter._mtacodec import COMMANDS
from Milter.mta import Options, Timeouts, connect

_EPILOG: Final = """\
The filter is offered what Postfix and Sendmail offer it. Then come conversations that no mail
server would have: packets cut anywhere, connections that vanish, old versions of the protocol,
nonsense. After each of them it must still serve a plain message. The filter sees mail that does not
exist, so do that to none that a mail server depends on; --quiet and --rounds 0 leave it out.

examples:
  What does the filter ask for, and does it hold out?
    milterctl check --socket unix:/run/filter.sock

  Is it there? (for a monitor, a container's health check, a script)
    milterctl check --quiet --timeout 5 --socket unix:/run/filter.sock

  All night long:
    milterctl check --socket unix:/run/filter.sock --rounds 1000000 --seconds 28800 --seed 7

exit status:
  0  it answered as the protocol has it
  1  it broke the protocol in a conversation that no mail server would have
  2  it could not be reached, did not answer, or broke the protocol, or an argument is wrong
"""

# What each bit of the negotiation means (wire spec 2.2 and 2.3).
_ACTIONS: Final = {
    lib.SMFIF_ADDHDRS: "add headers",
    lib.SMFIF_CHGHDRS: "change and delete headers",
    lib.SMFIF_CHGBODY: "replace the body",
    lib.SMFIF_CHGFROM: "change the sender",
    lib.SMFIF_ADDRCPT: "add recipients",
    lib.SMFIF_ADDRCPT_PAR: "add recipients with ESMTP parameters",
    lib.SMFIF_DELRCPT: "delete recipients",
    lib.SMFIF_QUARANTINE: "quarantine messages",
    lib.SMFIF_SETSYMLIST: "choose macros",
}
_STEPS: Final = {
    lib.SMFIC_CONNECT: "the client",
    lib.SMFIC_HELO: "HELO",
    lib.SMFIC_MAIL: "the sender",
    lib.SMFIC_RCPT: "recipients",
    lib.SMFIC_DATA: "DATA",
    lib.SMFIC_HEADER: "headers",
    lib.SMFIC_EOH: "the end of the headers",
    lib.SMFIC_BODY: "the body",
    lib.SMFIC_UNKNOWN: "unknown commands",
}
_WISHES: Final = {
    lib.SMFIP_SKIP: "It may skip the rest of a body.",
    lib.SMFIP_RCPT_REJ: "It wants to hear of recipients that the mail server rejects.",
    lib.SMFIP_HDR_LEADSPC: "It sees and gives headers with the blank behind the colon.",
    lib.SMFIP_MDS_256K: "It takes packets of 256 KiB.",
    lib.SMFIP_MDS_1M: "It takes packets of 1 MiB.",
}
_STAGES: Final = {
    lib.SMFIM_CONNECT: "the client's connection",
    lib.SMFIM_HELO: "HELO",
    lib.SMFIM_ENVFROM: "the sender",
    lib.SMFIM_ENVRCPT: "a recipient",
    lib.SMFIM_DATA: "DATA",
    lib.SMFIM_EOH: "the end of the headers",
    lib.SMFIM_EOM: "the end of the message",
}


def _listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def described(options: Options) -> Iterator[str]:
    """Says what a filter asked for, one sentence after the other."""
    yield f"It speaks version {options.version} of the protocol."
    actions = [text for bit, text in _ACTIONS.items() if options.actions & bit]
    yield f"It may {_listed(actions)}." if actions else "It may change nothing."

    def steps(mask: str) -> list[str]:
        return [
            text
            for letter, text in _STEPS.items()
            if options.protocol & getattr(COMMANDS[letter], mask)
        ]

    untold = steps("no_bit")
    told = [text for text in _STEPS.values() if text not in untold]
    yield f"It is told of {_listed([*told, 'the end of the message'])}."
    if untold:
        yield f"It does not want to hear of {_listed(untold)}."
    silent = [text for text in steps("nr_bit") if text not in untold]
    if silent:
        yield f"It does not answer to {_listed(silent)}."
    for bit, text in _WISHES.items():
        if options.protocol & bit:
            yield text
    for stage, text in _STAGES.items():
        names = options.macro_lists.get(stage)
        if names is not None:
            yield f"At {text} it asks for {_macros(names)}."
    others = "other " if options.macro_lists else ""
    yield f"It leaves it to the mail server which {others}macros it gets."


def _macros(names: Sequence[str]) -> str:
    return shown(f"the macros {_listed(names)}") if names else "no macros"


def _add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.usage = "%(prog)s --socket SPEC [options]"
    parser.add_argument(
        "--socket",
        required=True,
        metavar="SPEC",
        help="where the filter listens: unix:PATH, inet:PORT@HOST, inet6:PORT@HOST, or as Postfix "
        "spells it, inet:HOST:PORT",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="for the connection and for each answer (default: 30, in the odd conversations 5)",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="only connect, negotiate and quit, and print nothing but errors",
    )
    parser.add_argument(
        "--rounds", type=whole, default=100, metavar="N", help="odd conversations (default: 100)"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="after which no other is begun (default: 60)",
    )
    parser.add_argument(
        "--seed",
        type=whole,
        default=0,
        metavar="N",
        help="the same number makes the same conversations (default: 0)",
    )
    parser.add_argument(
        "--replay",
        metavar="PLAY",
        help="only the one that an earlier check printed behind this word",
    )
    add_colour(parser)


def _run(arguments: argparse.Namespace) -> int:
    """Asks one filter."""
    use_colours(arguments.color)
    timeout: float = arguments.timeout or 30.0
    with connect(arguments.socket, timeouts=Timeouts.all(timeout)) as session:
        options = session.negotiate()
    if arguments.quiet:
        return ACCEPTED
    if arguments.replay is None:
        say(f"A filter answers at {shown(arguments.socket)}.", "green")
        for sentence in described(options):
            say(sentence)
    return _torture(arguments)


def _torture(arguments: argparse.Namespace) -> int:
    """Has the odd conversations, and says what came of them."""
    from Milter import _torture as torture

    timeouts = Timeouts.all(arguments.timeout or 5.0)
    if arguments.replay is not None:
        from Milter._tortureplay import Play

        try:
            play = Play.from_json(arguments.replay)
        except ValueError:
            raise Failure("--replay: not what an earlier check has printed") from None
        try:
            failure = torture.replay(arguments.socket, play, timeouts=timeouts)
        except ValueError as error:  # a NUL, which cannot be told to a filter
            raise Failure(f"--replay: {error}") from None
        if failure is None:
            say("It held out: no rule broken.", "green")
            return ACCEPTED
        _say_failure(failure)
        return REFUSED
    if not arguments.rounds:
        return ACCEPTED
    with progress("odd conversations", arguments.rounds) as done:
        report = torture.torture(
            arguments.socket,
            seed=arguments.seed,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            timeouts=timeouts,
            on_play=lambda play, error: done(),
        )
    about = f"{count(report.plays, 'odd conversation')} (seed {report.seed})"
    if report.ok:
        say(f"It held out {about}: no rule broken.", "green")
        return ACCEPTED
    words = f"It broke {count(len(report.failures), 'rule')} in {about}"
    say(words + (", and is gone:" if report.gone else ":"), "red")
    for failure in report.failures:
        say("")
        _say_failure(failure)
    return REFUSED


def _say_failure(failure: object) -> None:
    first, *others = str(failure).split("\n")
    say(shown(first), "red")
    for line in others:
        say(shown(line))


COMMAND: Final = Command(
    "check",
    "say in words what a filter asks for, and see whether it holds out",
    _EPILOG,
    _add,
    _run,
)
