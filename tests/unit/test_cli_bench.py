"""``python -m Milter bench``: what it sends, what it counts, and its exit status."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_support import answer_promptly, process
from mta_support import PATIENCE, C, Simple, options, packet

from Milter import _cli
from Milter._cli import bench
from Milter._cli.output import Failure
from Milter.mta import Filter, MailServer, SmtpSession, Timeouts


def run(
    capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0
) -> tuple[list[str], str]:
    """Runs the command; the lines of its output, and its errors."""
    result = _cli.main(["bench", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert status == result, out + err
    return out.splitlines(), err


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0], 51, 2.0),
        ([float(n) for n in range(1, 101)], 50, 50.0),
        ([float(n) for n in range(1, 101)], 90, 90.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 11)], 99, 10.0),
        ([float(n) for n in range(1, 11)], 100, 10.0),
    ],
)
def test_percentile(values: list[float], part: float, expected: float) -> None:
    """The nearest rank: the smallest value with at least so many per cent not above it."""
    assert expected == bench.percentile(values, part)


@pytest.mark.parametrize("size", [0, 1, 71, 72, 73, 200_000])
def test_size(size: int) -> None:
    """A body of exactly that many bytes."""
    assert size == len(bench.message_of(size, 1).body)


@pytest.mark.parametrize("headers", [0, 1, 7, 8, 30])
def test_headers(headers: int) -> None:
    """Exactly that many headers, none of them twice."""
    message = bench.message_of(10, headers)
    assert headers == len(message.headers) == len({header.key for header in message.headers})


def test_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many messages as asked for reach the filter, each in a connection of its own."""
    with Simple(tmp_path / "s", {"O": options(), "E": C}) as simple:
        lines, err = run(
            capsys, "--socket", simple.spec, "--messages", 7, "--connections", 1, "--headers", 3
        )
        letters = simple.letters
    assert "" == err
    counted = {letter: letters.count(letter) for letter in "OMLEQ"}
    # One more negotiation: whether anybody is there.
    assert {"O": 8, "M": 7, "L": 21, "E": 7, "Q": 8} == counted
    number = r"\d+\.\d\d"
    assert re.fullmatch(
        rf"7 messages in {number} s: \d+\.\d messages per second\n"
        rf"latency: p50 {number} ms, p90 {number} ms, p99 {number} ms, longest {number} ms\n"
        r"outcomes: 7 accepted\nerrors: 0\n"
        r"this command itself kept a processor busy for \d+ % of the time",
        "\n".join(lines),
    ), lines


def test_one_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All messages of a session go over one connection, which ends with QUIT."""
    with Simple(tmp_path / "s", {"O": options(), "E": C}) as simple:
        run(
            capsys,
            *("--socket", simple.spec, "--messages", 5, "--connections", 1, "--one-connection"),
        )
        letters = simple.letters
    assert {"O": 2, "M": 5, "E": 5, "Q": 2} == {each: letters.count(each) for each in "OMEQ"}


def test_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal is an answer: it is counted as an outcome, and is no error."""
    with Simple(tmp_path / "s", {"O": options(), "E": packet("r")}) as simple:
        lines, _ = run(capsys, "--socket", simple.spec, "--messages", 3, "--connections", 1)
    assert "outcomes: 3 rejected" in lines
    assert "errors: 0" in lines


def test_failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no answer is an error, is not among the messages per second, and says what it was."""
    with Simple(tmp_path / "s", {"O": options(), "E": packet("!")}) as simple:
        lines, err = run(
            capsys, "--socket", simple.spec, "--messages", 3, "--connections", 1, status=2
        )
    assert re.match(r"0 messages in .* 0\.0 messages per second$", lines[0])
    assert "errors: 3" == lines[1]
    assert lines[2].startswith("  3 times: ")
    assert 1 == err.count("\n")
    assert err.endswith(" bench: 3 messages not answered\n")


def test_errors_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three that come most often are shown, and how many others there are."""
    load = bench.Load(MailServer(Filter(f"unix:{tmp_path}/s")), bench.message_of(1, 1), 1, 1, False)
    load.errors.update({"one": 1, "two": 2, "three": 3, "four": 4, "five": 5})
    bench._summary(load, 1.0, 0.5)
    assert ["errors: 15", "  5 times: five", "  4 times: four", "  3 times: three"] == (
        capsys.readouterr().out.splitlines()[1:5]
    )
    load.errors.clear()
    load.errors.update({"one": 1})
    bench._summary(load, 1.0, 0.5)
    assert "  1 time: one" in capsys.readouterr().out.splitlines()


def test_too_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads: one line that says how many it gave."""

    class Limited(threading.Thread):
        def start(self) -> None:
            if self.name == "bench-2":
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Limited)
    with Simple(tmp_path / "s", {"O": options(), "E": C}) as simple:
        server = MailServer(Filter(simple.spec, timeouts=Timeouts.all(PATIENCE)))
        load = bench.Load(server, bench.message_of(10, 1), 3, None, False)
        with pytest.raises(Failure, match="no more than 2 connections can be made"):
            load.run(None, lambda _: None)
        for thread in load._threads[:2]:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that does nothing but fail is given up, however many messages are left."""
    with Simple(tmp_path / "s", {"O": options(), "E": packet("!")}) as simple:
        lines, _ = run(
            capsys, "--socket", simple.spec, "--messages", 10**9, "--connections", 1, status=2
        )
    assert "errors: 21" == lines[1]


def test_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends when the time is over."""
    with Simple(tmp_path / "s", {"O": options(), "E": C}) as simple:
        lines, _ = run(capsys, "--socket", simple.spec, "--seconds", 0.2, "--connections", 1)
    assert "errors: 0" in lines


class Meeting(MailServer):
    """Begins sessions only three at a time."""

    barrier = threading.Barrier(3, timeout=PATIENCE)

    def session(self, *arguments: Any, **keywords: Any) -> SmtpSession:
        """Waits for two others."""
        self.barrier.wait()
        return super().session(*arguments, **keywords)


def test_side_by_side(tmp_path: Path) -> None:
    """As many sessions at the same time as connections; they share the messages, and all end."""
    with Simple(tmp_path / "s", {"O": options(), "E": C}) as simple:
        server = Meeting(Filter(simple.spec, timeouts=Timeouts.all(PATIENCE)))
        load = bench.Load(server, bench.message_of(10, 1), 3, 12, False)
        load.run(None, lambda _: None)
    assert (12, 0) == (len(load.latencies), load.failed)
    assert not [t for t in threading.enumerate() if t.name.startswith("bench-")]


def test_hanging(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that does not answer is waited for no longer than --timeout says."""
    answer_promptly(monkeypatch, {"E": b""})
    lines, _ = run(
        capsys,
        *("--socket", "unix:s", "--messages", 1, "--connections", 1, "--timeout", 0.3),
        status=2,
    )
    assert ["errors: 1", "  1 time: no answer to eom within 0.3 s"] == lines[1:3]


def test_nobody(tmp_path: Path) -> None:
    """Where nobody listens: one line, and status 2."""
    done = process("bench", "--socket", f"unix:{tmp_path}/s")
    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")
    assert "cannot connect" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("--connections", "0"),
        ("--messages", "0"),
        ("--messages", "1", "--seconds", "1"),
        ("--size", "-1"),
        ("--size", "1000000001"),
        ("--headers", "1000001"),
        ("--connections", "10001"),
        ("--profile", "exim"),
    ],
)
def test_wrong(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that make no sense are refused before anything is connected to."""
    with pytest.raises(SystemExit) as end:
        _cli.main(["bench", "--socket", "unix:/nonexistent", *wrong])
    assert 2 == end.value.code
    assert f"argument {wrong[-2]}" in capsys.readouterr().err
