"""What every command prints with, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Callable, Final, Optional, TextIO

from Milter._message import shown

# How it was called; error messages and --help say so.
PROGRAM: Final = "milterctl" if os.path.basename(sys.argv[0]) == "milterctl" else "python -m Milter"

ACCEPTED: Final = 0
REFUSED: Final = 1
FAILED: Final = 2


class Failure(Exception):
    """What the user gets to read, in one line; the exit status is 2."""


_console: Optional[Any] = None  # rich's, where there are to be colours
_never = False  # not even on standard error


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Whether that is open, and a terminal."""
    return stream is not None and stream.isatty()


def live_console() -> Any:
    """Returns rich's console for what is shown on standard error while something goes on.

    Raises:
        ImportError: there is no rich.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, no_color=True if _never else None)


def use_colours(when: str) -> None:
    """Has :func:`say` use colours from here on, or not.

    Args:
        when: ``always``, ``never``, or ``auto``: on a terminal, unless NO_COLOR is set.

    Raises:
        Failure: ``always``, and the library for it is not installed.
    """
    global _console, _never
    _console = None
    _never = when == "never"
    if _never or (when == "auto" and not is_terminal(sys.stdout)):
        return
    try:
        from rich.console import Console
    except ImportError:
        if when == "always":
            raise Failure('colours need rich: pip install "pymilter-cffi[cli]"') from None
        return
    _console = Console(
        force_terminal=True,
        color_system="standard" if when == "always" else "auto",
        no_color=False if when == "always" else None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def put(data: bytes) -> None:
    """Writes to standard output at once, so that a slow filter can be watched."""
    if sys.stdout is None:
        return  # it was closed by whoever started us
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def coloured(text: str, style: str) -> str:
    """Returns a text as a terminal is told to show it, where there are to be colours.

    Args:
        text: without control characters.
        style: in rich's words, as ``bold red``.
    """
    if _console is None or not style:
        return text
    from rich.text import Text

    with _console.capture() as capture:
        _console.print(Text(text, style), end="")
    result: str = capture.get()
    return result


def say(text: str, style: str = "") -> None:
    """Prints a line, whatever characters the terminal knows.

    Args:
        text: without control characters but those of :func:`coloured`.
        style: in rich's words.
    """
    text = coloured(text, style)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    put(text.encode(encoding, "backslashreplace") + b"\n")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how far it is on standard error while the block runs, if that is a terminal.

    Args:
        what: is being counted.
        total: of them, at most.

    Yields:
        What is to be called for each.
    """
    try:
        from rich import progress as bars
    except ImportError:
        yield lambda: None
        return
    columns = (bars.TextColumn(what), bars.BarColumn(), bars.MofNCompleteColumn())
    console = live_console()
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def complain(command: str, text: str) -> None:
    """Prints an error of a command, in one line."""
    if sys.stderr is None:  # print() would take standard output
        return
    with suppress(OSError):  # nobody can be told; the exit status says it
        print(f"{PROGRAM} {command}: {shown(text)}", file=sys.stderr, flush=True)
