"""``bench``: how many messages a filter gets through in a second, and how long each takes.

Owns the load and its figures. What a filter is told is the mail servers' of Milter.mta, one thread
for each of their sessions, so all of the load comes from about one processor. The generator of
the project's own benchmark, in bench/, is a program in C and not installed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Final, Optional

from Milter._cli.arguments import add_colour, seconds, within
from Milter._cli.command import Command
from Milter._cli.output import (
    ACCEPTED,
    FAILED,
    Failure,
    complain,
    is_terminal,
    live_console,
    say,
    use_colours,
)
from Milter._inwords import count
from Milter._message import shown
from Milter.mta import (
    PROFILES,
    Filter,
    Header,
    MailServer,
    Message,
    Outcome,
    Recipient,
    SmtpSession,
    Timeouts,
    connect,
)

_EPILOG: Final = """\
The messages go to the filter as they would from a mail server, each in an SMTP session of its own.
The filter sees mail that does not exist, so do that to none that a mail server depends on.
The load is made by one process of Python. The last line says how busy that was: near a whole
processor, the figures are its own as much as the filter's.

examples:
  Ten seconds, four sessions at a time:
    milterctl bench --socket unix:/run/filter.sock

  A thousand large messages, one after the other:
    milterctl bench --socket unix:/run/filter.sock --connections 1 --messages 1000 --size 1000000

exit status:
  0  the filter answered all messages, whatever its verdicts
  2  it did not answer some, or could not be reached, or an argument is wrong
"""

_EVERY: Final = 0.2  # seconds between two looks at how far it is
_PATIENCE: Final = 20  # failures in a row, beside one for each session, after which it is given up
_SHOWN: Final = 3  # different errors
_HEADERS: Final = (
    ("From", "Alice <alice@example.org>"),
    ("To", "Bob <bob@example.com>"),
    ("Subject", "A message to measure with"),
    ("Date", "Fri, 01 Jan 2021 12:00:00 +0000"),
    ("Message-ID", "<measure@example.org>"),
    ("MIME-Version", "1.0"),
    ("Content-Type", "text/plain; charset=us-ascii"),
)
_LINE: Final = b"The quick brown fox jumps over the lazy dog, and over the dog, and on.\r\n"

# -- the load ------------------------------------------------------------------------------------


def message_of(size: int, headers: int) -> Message:
    """Returns the message to send.

    Args:
        size: of its body, in bytes.
        headers: how many.
    """
    fields = [*_HEADERS[:headers]]
    fields += ((f"X-Header-{number}", "value") for number in range(len(fields) + 1, headers + 1))
    return Message(
        [Header(name.encode(), b" " + value.encode()) for name, value in fields],
        (_LINE * (size // len(_LINE) + 1))[:size],
        "<alice@example.org>",
        [],
        [Recipient("<bob@example.com>")],
    )


def percentile(ordered: list[float], part: float) -> float:
    """Returns the smallest of the values that *part* per cent of them are not above.

    Args:
        ordered: the values, in ascending order, at least one.
        part: above 0, up to 100.
    """
    return ordered[math.ceil(part / 100 * len(ordered)) - 1]


class Load:
    """A load on a filter, and what came of it so far.

    Args:
        server: the mail server that makes it.
        message: what is sent.
        connections: sessions at the same time.
        messages: how many to send; None for no limit.
        reuse: many messages in one session.
    """

    def __init__(
        self,
        server: MailServer,
        message: Message,
        connections: int,
        messages: Optional[int],
        reuse: bool,
    ) -> None:
        """Starts nothing yet."""
        self._server = server
        self._message = message
        self._limit = messages
        self._reuse = reuse
        self._patience = _PATIENCE + connections
        self._tickets = itertools.count()
        self.lock = threading.Lock()
        """Held while what follows changes."""
        self._stop = threading.Event()
        self._in_a_row = 0
        # What went wrong with the load itself, and is a fault of ours.
        self._fault: Optional[BaseException] = None
        self.latencies = array("d")
        """Seconds from the connection, or in a session that goes on from MAIL, to the reply to the
        message; of those that the filter answered."""
        self.outcomes: Counter[Outcome] = Counter()
        """Of the same messages."""
        self.errors: Counter[str] = Counter()
        """What went wrong with the others, by its text."""
        # Daemons, so that a filter that hangs does not keep us from ending when interrupted.
        self._threads = [
            threading.Thread(target=self._work, name=f"bench-{number}", daemon=True)
            for number in range(connections)
        ]

    @property
    def failed(self) -> int:
        """How many messages were not answered."""
        return sum(self.errors.values())

    def run(self, duration: Optional[float], on_look: Callable[[float], None]) -> float:
        """Makes the load; returns the seconds that it took.

        Args:
            duration: seconds after which no other message is begun; None for no limit.
            on_look: called now and then, with the seconds since the beginning.
        """
        begin = time.monotonic()
        try:
            for thread in self._threads:
                try:
                    thread.start()
                except RuntimeError:  # the system's limit
                    started = sum(each.ident is not None for each in self._threads)
                    raise Failure(f"no more than {started} connections can be made") from None
            for thread in self._threads:
                while thread.is_alive():
                    elapsed = time.monotonic() - begin
                    left = math.inf if duration is None else duration - elapsed
                    if left <= 0:
                        self._stop.set()
                    thread.join(min(_EVERY, left) if left > 0 else _EVERY)
                    on_look(time.monotonic() - begin)
        finally:
            self._stop.set()
        if self._fault is not None:
            raise self._fault
        return time.monotonic() - begin

    def _work(self) -> None:
        """One session after the other."""
        session: Optional[SmtpSession] = None
        try:
            while not self._stop.is_set():
                if self._limit is not None and next(self._tickets) >= self._limit:
                    break
                session = self._play(session)
            if session is not None:
                session.quit()
        except BaseException as fault:
            self._fault = fault
            self._stop.set()
        finally:
            if session is not None:
                session.close()

    def _play(self, session: Optional[SmtpSession]) -> Optional[SmtpSession]:
        """Sends a message; returns the session that the next is to use, if it is this one."""
        begin = time.perf_counter()
        if session is None:
            session = self._server.session()
        result = session.send(self._message)
        taken = time.perf_counter() - begin
        # A failed filter is left alone for the rest of a session: its messages would not count.
        keep = self._reuse and not session.over and not session.errors
        if not keep:
            with session:
                pass
        with self.lock:
            if session.errors:
                self.errors[str(session.errors[0])] += 1
                self._in_a_row += 1
                if self._in_a_row >= self._patience:
                    self._stop.set()
            else:
                self._in_a_row = 0
                self.latencies.append(taken)
                self.outcomes[result.outcome] += 1
        return session if keep else None


# -- what is shown -------------------------------------------------------------------------------


@contextmanager
def _live() -> Iterator[Callable[[str], None]]:
    """Yields what shows a line in the place of the last one, on standard error if a terminal."""
    if not is_terminal(sys.stderr):
        yield lambda text: None
        return
    try:
        console = live_console()
    except ImportError:

        def show(text: str) -> None:
            try:
                columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            except OSError:
                columns = 80
            width = min(columns, 80) - 1
            print(f"\r{text:<{width}.{width}}", end="", file=sys.stderr, flush=True)

        try:
            yield show
        finally:
            show("")
            print("\r", end="", file=sys.stderr, flush=True)
        return
    with console.status("starting") as status:
        yield status.update


def _progress(load: Load, elapsed: float) -> str:
    done = len(load.latencies)
    text = f"{elapsed:.0f} s: {count(done, 'message')}, {done / max(elapsed, 1e-9):.0f} a second"
    return f"{text}, {count(load.failed, 'error')}" if load.failed else text


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.2f} ms"


def _summary(load: Load, elapsed: float, busy: float) -> None:
    """Prints what came of it; *busy*: seconds that a processor worked for us."""
    done = len(load.latencies)
    say(
        f"{count(done, 'message')} in {elapsed:.2f} s: {done / elapsed:.1f} messages per second",
        "green" if done else "red",
    )
    if done:
        ordered = sorted(load.latencies)
        values = ", ".join(
            f"p{part} {_milliseconds(percentile(ordered, part))}" for part in (50, 90, 99)
        )
        say(f"latency: {values}, longest {_milliseconds(ordered[-1])}")
        verdicts = (f"{number} {outcome.value}" for outcome, number in load.outcomes.most_common())
        say(f"outcomes: {', '.join(verdicts)}")
    say(f"errors: {load.failed}", "red" if load.failed else "")
    for text, number in load.errors.most_common(_SHOWN):
        say(f"  {count(number, 'time')}: {shown(text)}")
    if len(load.errors) > _SHOWN:
        say(f"  and {len(load.errors) - _SHOWN} others")
    say(f"this command itself kept a processor busy for {100 * busy / elapsed:.0f} % of the time")


# -- the command ---------------------------------------------------------------------------------


def _add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.usage = "%(prog)s --socket SPEC [options]"
    add: Any = parser.add_argument
    add(
        "--socket",
        required=True,
        metavar="SPEC",
        help="where the filter listens: unix:PATH, inet:PORT@HOST, inet6:PORT@HOST, or as Postfix "
        "spells it, inet:HOST:PORT",
    )
    add(
        "--connections",
        type=within(1, 10000),
        default=4,
        metavar="N",
        help="SMTP sessions at the same time (default: 4)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--messages", type=within(1, 10**12), metavar="N", help="how many messages")
    group.add_argument(
        "--seconds",
        type=seconds,
        metavar="SECONDS",
        help="after which no other message is begun (default: 10, without --messages)",
    )
    add(
        "--size",
        type=within(0, 10**9),
        default=2000,
        metavar="BYTES",
        help="of the body (default: 2000)",
    )
    add("--headers", type=within(0, 10**6), default=10, metavar="N", help="how many (default: 10)")
    add(
        "--one-connection",
        action="store_true",
        help="many messages in each SMTP session, instead of one",
    )
    add(
        "--profile",
        choices=sorted(PROFILES),
        default="postfix",
        help="the mail server (default: postfix)",
    )
    add(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="for the connection and for each answer (default: 30)",
    )
    add_colour(parser)


def _run(arguments: argparse.Namespace) -> int:
    """Loads one filter."""
    use_colours(arguments.color)
    timeouts = Timeouts.all(arguments.timeout)
    # Is anything there? One line now is better than as many errors as there are sessions.
    with connect(arguments.socket, timeouts=timeouts) as session:
        session.negotiate()
    load = Load(
        MailServer(
            Filter(arguments.socket, timeouts=timeouts),
            profile=arguments.profile,
        ),
        message_of(arguments.size, arguments.headers),
        arguments.connections,
        arguments.messages,
        arguments.one_connection,
    )
    duration: Optional[float] = arguments.seconds
    if duration is None and arguments.messages is None:
        duration = 10.0
    busy = time.process_time()
    begin = time.monotonic()
    try:
        with _live() as show:
            load.run(duration, lambda elapsed: show(_progress(load, elapsed)))
    finally:
        # Also when interrupted, while sessions may still be at work: what there is so far.
        with load.lock:
            _summary(load, time.monotonic() - begin, time.process_time() - busy)
    if load.failed:
        complain(COMMAND.name, f"{count(load.failed, 'message')} not answered")
        return FAILED
    return ACCEPTED


COMMAND: Final = Command(
    "bench",
    "load a filter with messages, and measure how many it handles and how fast",
    _EPILOG,
    _add,
    _run,
)
