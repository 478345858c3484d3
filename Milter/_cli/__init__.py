# PYTHON_ARGCOMPLETE_OK: a mark for the shell, see _complete()
"""The command line, ``python -m Milter``.

Owns which commands there are and how an error ends them. Each command is a file of its own; what
they share is in output.py and arguments.py. Whatever goes wrong is one line on standard error and
exit status 2, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, Optional

from Milter import __version__
from Milter._cli import bench, check, demo, run, send, trace
from Milter._cli.command import Command
from Milter._cli.output import FAILED, PROGRAM, Failure, complain
from Milter.mta import MilterError

# In the order of --help. A new command is a file here with a COMMAND of its own, imported above and
# added to this table. It is imported at every start of any of them: what it needs beyond the
# standard library and Milter.mta it imports in its run(). A section of docs/cli.md names its
# options, and scripts/man-page.py makes the man page anew.
COMMANDS: Final = (
    run.COMMAND,
    send.COMMAND,
    trace.COMMAND,
    check.COMMAND,
    bench.COMMAND,
    demo.COMMAND,
)
_TAKE_REST: Final = {command.name for command in COMMANDS if command.takes_rest}

_EXAMPLES = """\
examples:
  Serve the class Spam of spam.py:
    milterctl run spam.py:Spam --socket unix:/run/filter.sock

  Play a message through a filter that listens on a unix socket, and see what it does:
    milterctl send --socket unix:/run/filter.sock message.eml

  The same over TCP, with an envelope of its own and a client from elsewhere:
    milterctl send --socket inet:8893@127.0.0.1 \\
        --from alice@example.org --to bob@example.com --to carol@example.com \\
        --client 'mail.example.org[192.0.2.1]' --helo mail.example.org message.eml

Each command explains itself: milterctl COMMAND --help
"""


def parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Returns the parser of the command line; *program*: what the command calls itself."""
    format: Any = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(
        prog=program,
        description="Tools for mail filters (milters).",
        epilog=_EXAMPLES.replace("milterctl", program),
        formatter_class=format,
    )
    whole.add_argument("--version", action="version", version=f"pymilter-cffi {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=command.epilog.replace("milterctl", program),
            formatter_class=format,
        )
        command.add(sub)
        sub.set_defaults(command=command)
    return whole


def parsers(program: str = PROGRAM) -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command by its name, for what documents them."""
    (commands,) = [
        action
        for action in parser(program)._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(commands.choices)


def _complete(whole: argparse.ArgumentParser) -> None:
    """Answers the shell, which runs the command with that variable set to complete a line."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(whole)


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
    words = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if words[:1] and words[0] in _TAKE_REST and "--" in words:
        at = words.index("--")
        words, rest = words[:at], words[at + 1 :]
    whole = parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(whole)
    arguments = whole.parse_args(words)
    arguments.rest = rest
    command: Command = arguments.command
    try:
        return command.run(arguments)
    except (Failure, MilterError) as error:
        text = str(error)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nor is there anybody to tell at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        text = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    except KeyboardInterrupt:
        text = "interrupted"
    complain(command.name, text)
    return FAILED
