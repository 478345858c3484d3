"""``check``: asks a filter what it wants, and says so in words."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

from Milter._cli.arguments import add_colour, seconds
from Milter._cli.command import Command
from Milter._cli.output import ACCEPTED, say, use_colours
from Milter._engine import lib
from Milter._message import shown
from Milter._mtacodec import COMMANDS
from Milter.mta import Options, Timeouts, connect

_EPILOG: Final = """\
The filter is offered what Postfix and Sendmail offer it, and then told to quit; it is told of no
mail.

examples:
  What does the filter ask for?
    milterctl check --socket unix:/run/filter.sock

  Is it there? (for a monitor, a container's health check, a script)
    milterctl check --quiet --timeout 5 --socket unix:/run/filter.sock

exit status:
  0  it answered as the protocol has it
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
        default=30.0,
        metavar="SECONDS",
        help="for the connection and for each answer (default: 30)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but errors; the exit status says it"
    )
    add_colour(parser)


def _run(arguments: argparse.Namespace) -> int:
    """Asks one filter."""
    use_colours(arguments.color)
    timeouts = Timeouts.all(arguments.timeout)
    with connect(arguments.socket, timeouts=timeouts) as session:
        options = session.negotiate()
    if not arguments.quiet:
        say(f"A filter answers at {shown(arguments.socket)}.", "green")
        for sentence in described(options):
            say(sentence)
    return ACCEPTED


COMMAND: Final = Command(
    "check",
    "say in words what a filter asks for",
    _EPILOG,
    _add,
    _run,
)
