"""``trace``: what a mail server and a filter say to each other, live or from a file."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Final, Optional, Union

from Milter._cli.arguments import add_capture_port, add_colour, mode, seconds, whole
from Milter._cli.command import Command
from Milter._cli.output import ACCEPTED, FAILED, Failure, complain, say, use_colours
from Milter._inwords import count
from Milter._message import from_wire, shown
from Milter._mtacodec import MilterError
from Milter._mtasocket import parse_spec
from Milter._trace import Figures, Record, Shown, Style, Watch, without_content

if TYPE_CHECKING:
    from Milter._tracewire import Proxy

_EPILOG: Final = """\
With --listen and --filter it stands between the two: the mail server is told to connect to where
it listens, and each connection is passed on to the filter, byte by byte. What passes is printed,
packet by packet, also what is against the rules. Ctrl-C or SIGTERM end it, and the connections that
are open then.

FILE is what --record has written, or a capture of tcpdump or Wireshark (pcap or pcapng).

Each line begins with the number of the connection, the number of the packet in it, the seconds
since the connection was opened, the seconds since the line before of that connection, and who said
it. A filter's answer that took long shows in the fourth column.

Mail is private: --no-content leaves out what people wrote to each other, the values of headers and
bodies, from what is printed and from what is recorded. Addresses, names of headers, macros and
replies are still there.

examples:
  Between Postfix, with smtpd_milters = unix:/run/trace.sock, and a filter:
    milterctl trace --listen unix:/run/trace.sock --filter unix:/run/filter.sock

  Keep what is said for later, without what people write, and print only what is wrong or slow:
    milterctl trace --listen inet:8890@127.0.0.1 --filter inet:8891@127.0.0.1 \\
        --record session.rec --no-content --only problems --slow 1

  Read it, or a capture (tcpdump -i lo -w capture.pcap port 8891):
    milterctl trace session.rec
    milterctl trace --port 8891 capture.pcap

  The same while it happens, without a proxy:
    tcpdump -i lo -U -w - port 8891 | milterctl trace /dev/stdin

  Have a filter answer all of it again, and see where it answers otherwise:
    milterctl send --replay session.rec --socket unix:/run/mended.sock

exit status:
  0  it was ended, or the file was read to its end
  2  it could not listen, the file cannot be read, the recording not be written, or an argument is
     wrong
"""

_QUEUE: Final = 10000  # lines that may wait for a slow terminal,
_BYTES: Final = 64 * 1024 * 1024  # and bytes in them
_PATIENCE: Final = 5.0  # seconds that a terminal has to take the last of them
_WATCHED: Final = 10000  # connections of which is known what was said
_QUIET: Final = 5.0  # seconds until it is said again that it is too slow
_STYLES: Final = {
    "accept": "green",
    "reject": "red",
    "tempfail": "yellow",
    "discard": "magenta",
    "reply": "red",
    "macro": "dim",
}


def _add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.usage = "%(prog)s (--listen SPEC --filter SPEC | FILE) [options]"
    parser.add_argument("file", nargs="?", metavar="FILE", help="a recording, or a capture")
    live = parser.add_argument_group("between a mail server and a filter")
    live.add_argument(
        "--listen",
        metavar="SPEC",
        help="where the mail server is to connect to: unix:PATH, inet:PORT@HOST, inet6:PORT@HOST",
    )
    live.add_argument("--filter", metavar="SPEC", help="where the filter listens, likewise")
    live.add_argument(
        "--socket-mode",
        type=mode,
        metavar="MODE",
        help="permission bits of a unix socket to listen on, in octal (default: as the umask has "
        "it)",
    )
    live.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="for the connection to the filter (default: 30)",
    )
    add_capture_port(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--record",
        metavar="FILE",
        help="write all that is seen to this file, which must not exist yet; only its owner may "
        "read it",
    )
    output.add_argument(
        "--no-content",
        dest="content",
        action="store_false",
        help="neither print nor record what people wrote: values of headers, and bodies",
    )
    output.add_argument(
        "--connection",
        type=whole,
        metavar="N",
        help="print this connection only",
    )
    output.add_argument(
        "--only",
        choices=("problems", "summary"),
        help="print only what is wrong, or took long (see --slow); or only the summary at the end",
    )
    output.add_argument(
        "--slow",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="from which an answer counts as one that took long (default: 1)",
    )
    output.add_argument("--full", action="store_true", help="cut nothing, however long it is")
    output.add_argument(
        "--json", action="store_true", help="a JSON object for each packet, each on a line"
    )
    add_colour(output)


# -- what is printed -----------------------------------------------------------------------------


class _Printer:
    """Prints records."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.style = Style(given.content, given.full)
        self.watches: dict[int, Watch] = {}
        self.figures = Figures()

    def see(self, record: Record) -> None:
        """Prints a record, if it is one of those that are wanted."""
        # The one that was heard of last is the last one.
        watch = self.watches.pop(record.connection, None) or Watch(self.style)
        self.watches[record.connection] = watch
        if len(self.watches) > _WATCHED:
            # Its end may have been left out, as the terminal was too slow, or not be in a capture.
            self._over(next(iter(self.watches)), False)
        seen = watch.see(record)
        wanted = self.given.connection in (None, record.connection)
        if wanted and self._interesting(seen):
            if self.given.json:
                say(json.dumps(_value(seen)))
            else:
                self._print(seen)
        if watch.over:
            self._over(record.connection, wanted)

    def _interesting(self, seen: Shown) -> bool:
        if self.given.only is None:
            return True
        if self.given.only == "summary":
            return False
        bad = seen.problem is not None or seen.record.kind in ("broken", "failed", "reset")
        return bad or seen.unanswered is not None or self._slow(seen)

    def _slow(self, seen: Shown) -> bool:
        return seen.answers is not None and seen.took >= self.given.slow

    def _print(self, seen: Shown) -> None:
        record = seen.record
        head = (
            f"{f'#{record.connection}':<5}{seen.packet or '':>4}"
            f"{seen.elapsed:11.4f} {seen.since:+9.4f}  "
        )
        text, style = _line(seen)
        say(f"{head}{record.sender:<7}{text}".rstrip(), style)
        indent = " " * len(head)
        if self._slow(seen):
            say(f"{indent}{'':7}slow: {seen.answers} took {seen.took:.1f} s", "bold yellow")
        if seen.unanswered is not None:
            words = f"not answered: {seen.unanswered}, after {seen.waited:.1f} s"
            say(f"{indent}{'':7}{words}", "bold red")
        if seen.problem is not None:
            say(f"{indent}{'':7}not legal: {shown(seen.problem)}", "bold red")

    def _over(self, number: int, wanted: bool) -> None:
        """A connection has ended."""
        watch = self.watches.pop(number)
        self.figures.add(watch.figures)
        if not wanted or self.given.json or self.given.only is not None:
            return
        words = [count(watch.figures.packets, "packet"), count(watch.figures.messages, "message")]
        if watch.figures.problems:
            words.append(f"{watch.figures.problems} not legal")
        if watch.figures.unanswered:
            words.append("not answered")
        slow = watch.figures.slowest
        if slow is not None:
            words.append(f"slowest {slow.step} {slow.took:.4f} s (packet {slow.packet})")
        say(f"#{number:<4}over: {', '.join(words)}", "bold")

    def summary(self) -> None:
        """Prints what was counted."""
        for number in list(self.watches):
            self._over(number, False)
        figures = self.figures
        if self.given.json:
            say(json.dumps(_summary(figures)))
            return
        say("")
        words = [
            count(figures.connections, "connection"),
            count(figures.messages, "message"),
            count(figures.packets, "packet"),
            f"{figures.problems} not legal",
        ]
        if figures.unanswered:
            words.append(f"{figures.unanswered} not answered")
        say(", ".join(words), "bold")
        if not figures.steps:
            return
        say(f"{'step':<10}{'answers':>8}{'mean s':>10}{'longest s':>11}")
        for step, (answers, total) in figures.steps.items():
            slow = figures.longest[step]
            say(
                f"{step:<10}{answers:>8.0f}{total / answers:>10.4f}{slow.took:>11.4f}"
                f"  #{slow.connection} packet {slow.packet}"
            )


def _line(seen: Shown) -> tuple[str, str]:
    """What is printed of a record, and how."""
    record = seen.record
    if record.kind == "packet":
        if seen.said is None:
            return f"{'?':<9}", "red"
        style = _STYLES.get(seen.said.title, "" if seen.said.title else "cyan")
        if seen.said.title:
            return f"{seen.said.title:<9} {seen.said.text}", style
        return seen.said.text, style
    words = {
        "open": f"opened: {record.text}",
        "broken": f"{count(len(record.data), 'byte')} that are no packet",
        "gap": f"missing: {record.text}",
        "end": "closed",
        "reset": "reset the connection",
        "failed": record.text,
        "cut": record.text,
    }
    style = "bold red" if record.kind in ("broken", "failed", "reset") else "dim"
    return shown(words[record.kind]), style


def _value(seen: Shown) -> dict[str, Any]:
    """The same for a machine."""
    record = seen.record
    value: dict[str, Any] = {
        "connection": record.connection,
        "time": round(record.time, 6),
        "elapsed": round(seen.elapsed, 6),
        "since": round(seen.since, 6),
        "what": record.kind,
    }
    if record.sender:
        value["from"] = record.sender
    if seen.packet:
        value["packet"] = seen.packet
    if seen.said is not None:
        value.update(name=seen.said.name, fields=seen.said.fields)
    elif record.data:
        value["data"] = from_wire(record.data)
    if record.text:
        value["text"] = record.text
    if seen.answers is not None:
        value.update(answers=seen.answers, took=round(seen.took, 6))
    if seen.unanswered is not None:
        value.update(unanswered=seen.unanswered, waited=round(seen.waited, 6))
    if seen.problem is not None:
        value["problem"] = seen.problem
    return value


def _summary(figures: Figures) -> dict[str, Any]:
    return {
        "what": "summary",
        "connections": figures.connections,
        "messages": figures.messages,
        "packets": figures.packets,
        "problems": figures.problems,
        "unanswered": figures.unanswered,
        "steps": {
            step: {
                "answers": int(answers),
                "mean": round(total / answers, 6),
                "longest": round(figures.longest[step].took, 6),
                "connection": figures.longest[step].connection,
                "packet": figures.longest[step].packet,
            }
            for step, (answers, total) in figures.steps.items()
        },
    }


class _Screen:
    """Prints in a thread of its own: a terminal that is stopped does not stop mail.

    What it cannot print in time is not printed, which is said.
    """

    def __init__(self, printer: _Printer, title: str, stop: Callable[[], None]) -> None:
        self.error: Optional[BaseException] = None
        self.failed = False  # standard output takes no more
        self._printer = printer
        self._title = title
        self._stop = stop
        self._queue: queue.Queue[Union[Record, str, None]] = queue.Queue(_QUEUE)
        self._left_out = 0
        self._told = 0
        self._quiet_until = 0.0
        # Connections of which something was left out; the first one first.
        self._gaps: dict[int, None] = {}
        # Each of the two is counted in one thread only.
        self._put = 0
        self._taken = 0
        # A daemon: if its terminal never takes anything again, the process ends all the same.
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    def put(self, what: Union[Record, str]) -> None:
        """Has a record, or a complaint, printed; never waits."""
        if isinstance(what, str):
            self._enqueue(what)
            return
        number = what.connection
        if number in self._gaps:
            text = "lines were left out here, as the terminal is too slow"
            if self._enqueue(Record(number, what.time, "gap", what.sender, text=text)):
                del self._gaps[number]
        if number in self._gaps or not self._enqueue(what):
            self._left_out += 1
            self._gaps[number] = None
            if len(self._gaps) > _WATCHED:  # those that are over, and have nothing more to say
                del self._gaps[next(iter(self._gaps))]

    def _enqueue(self, what: Union[Record, str]) -> bool:
        """Returns whether there was room for it."""
        if self._put - self._taken > _BYTES:
            return False
        try:
            self._queue.put_nowait(what)
        except queue.Full:
            return False
        self._put += _size(what)
        return True

    def close(self) -> bool:
        """Waits until all is printed, and the summary; returns whether it is."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_PATIENCE)
        self._thread.join(_PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            if self._title:
                self._try(partial(say, self._title, "bold"))
            while True:
                what = self._queue.get()
                if what is None:
                    self._tell_left_out()
                    self._try(self._printer.summary)
                    return
                if isinstance(what, str):
                    complain(COMMAND.name, what)
                else:
                    self._try(partial(self._printer.see, what))
                self._taken += _size(what)
                if time.monotonic() >= self._quiet_until:
                    self._tell_left_out()
        except BaseException as error:  # above all: whoever reads our output has seen enough
            self.error = error
            self._stop()

    def _tell_left_out(self) -> None:
        """Says how much was left out since it was said last."""
        left_out = self._left_out
        if left_out > self._told:
            lines = count(left_out - self._told, "line")
            complain(COMMAND.name, f"the terminal is too slow: {lines} left out")
            self._told = left_out
            self._quiet_until = time.monotonic() + _QUIET

    def _try(self, prints: Callable[[], None]) -> None:
        """Prints, unless that has failed before: what is printed may go to a disk that is full."""
        if self.failed:
            return
        try:
            prints()
        except BrokenPipeError:
            raise
        except OSError as error:
            # Mail goes on.
            self.failed = True
            complain(COMMAND.name, f"standard output: {error.strerror}; no more is printed")


def _size(what: Union[Record, str]) -> int:
    return len(what) if isinstance(what, str) else len(what.data) + len(what.text)


# -- running -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(proxy: Proxy) -> Iterator[None]:
    """Has the signals that end a process stop the proxy instead."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # A signal that comes when it is about to wait would not be handled before it has waited.
    wakeup = signal.set_wakeup_fd(proxy.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: proxy.stop()) for number in numbers}
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


def _recorder(given: argparse.Namespace, head: Any) -> Any:
    from Milter._recording import Writer

    try:
        return Writer(given.record, head._replace(content=head.content and given.content))
    except OSError as error:
        raise Failure(f"{given.record}: {error.strerror}") from None


def _live(given: argparse.Namespace) -> int:
    """Stands between a mail server and a filter."""
    from Milter._recording import Head, now
    from Milter._tracewire import Proxy

    recorder: Any = None
    screen: Any = None
    status = ACCEPTED

    def on_record(record: Record) -> None:
        nonlocal recorder, status
        if not given.content:
            record = without_content(record)
        if recorder is not None:
            try:
                recorder.write(record)
            except OSError as error:
                # Mail goes on.
                screen.put(f"{given.record}: {error.strerror}; no more is recorded")
                recorder, status = None, FAILED
        screen.put(record)

    def on_trouble(text: str) -> None:
        screen.put(text)

    with Proxy(
        given.listen,
        given.filter,
        on_record,
        on_trouble,
        timeout=given.timeout,
        mode=given.socket_mode,
    ) as proxy:
        if given.record is not None:
            recorder = _recorder(given, Head(now(time.time() - proxy.now())))
        title = f"listening at {shown(given.listen)}, passing on to {shown(given.filter)}"
        whole = True
        try:
            with _signals(proxy):
                # It says that it listens: who has read that may end it.
                screen = _Screen(_Printer(given), "" if given.json else title, proxy.stop)
                proxy.run()
        finally:
            if recorder is not None:
                recorder.close()
            if screen is not None:
                whole = screen.close()
    if not whole:
        complain(COMMAND.name, "the terminal does not take what is printed")
        # Not as usual: the interpreter would wait for the thread that waits for the terminal.
        os._exit(FAILED)
    if screen.error is not None:
        raise screen.error
    return FAILED if screen.failed else status


def _file(given: argparse.Namespace) -> int:
    """Reads a recording or a capture."""
    from Milter._replay import open_source

    printer = _Printer(given)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(given.file, "rb"))
            source = open_source(file, given.file, given.port)
        except OSError as error:
            raise Failure(f"{given.file}: {error.strerror}") from None
        if not source.head.content:
            given.content = False
            printer.style = Style(False, given.full)
        recorder: Any = None
        if given.record is not None:
            recorder = stack.enter_context(_recorder(given, source.head))
        if not given.json:
            say(f"recorded {shown(source.head.began)[:60]}", "bold")
        broken: Optional[MilterError] = None
        try:
            for record in source:
                if not given.content:
                    record = without_content(record)
                if recorder is not None:
                    try:
                        recorder.write(record)
                    except OSError as error:
                        raise Failure(f"{given.record}: {error.strerror}") from None
                printer.see(record)
        except KeyboardInterrupt:
            # It may be a pipe from tcpdump, which goes on until somebody has seen enough.
            pass
        except MilterError as error:
            # What stands before is good.
            broken = error
    printer.summary()
    if broken is not None:
        raise broken
    for warning in source.warnings:
        complain(COMMAND.name, warning)
    return ACCEPTED


def _run(arguments: argparse.Namespace) -> int:
    """Traces."""
    use_colours("never" if arguments.json else arguments.color)
    wire = arguments.listen, arguments.filter
    if (arguments.file is None) == (wire == (None, None)) or (None in wire and any(wire)):
        raise Failure("either FILE, or both --listen and --filter")
    if arguments.file is None:
        if parse_spec(arguments.listen) == parse_spec(arguments.filter):
            raise Failure("--listen and --filter are the same socket")
        return _live(arguments)
    return _file(arguments)


COMMAND: Final = Command(
    "trace",
    "print what a mail server and a filter say to each other, live or from a file",
    _EPILOG,
    _add,
    _run,
)
