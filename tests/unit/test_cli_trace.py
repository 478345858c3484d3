"""``python -m Milter trace`` and ``send --replay``: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND, ENVIRONMENT, answer_promptly, await_socket, process
from mta_support import OFFER, PATIENCE, C, Simple, options, packet

from Milter import _cli, mta
from Milter._cli import trace
from Milter._cli.output import Failure
from Milter._recording import Head, Writer
from Milter._trace import FILTER, MTA, Record

EML = b"From: <a@example.org>\nTo: <b@example.com>\nSubject: love\n\nsecret\n"
HEAD = Head("2026-11-21T13:35:00.000000Z")
MAIL = packet("M", b"<a@b>\0")
RCPT = packet("R", b"<c@d>\0")
DIALOGUE = [
    (0.0, MTA, OFFER),
    (0.25, FILTER, options(actions=1, protocol=0x37F)),
    (0.25, MTA, packet("D", b"Mi\x004711\0")),
    (0.5, MTA, packet("E")),
    (3.0, FILTER, packet("h", b"X-Spam\0no\x1b[2J\0")),
    (3.0, FILTER, C),
    (3.5, MTA, packet("Q")),
]


def recording(path: Path, dialogue: Any = DIALOGUE, number: int = 1) -> Path:
    """Writes a recording of one connection."""
    with Writer(path, HEAD) as writer:
        writer.write(Record(number, 10.0, "open", text="a to b"))
        for when, sender, data in dialogue:
            writer.write(Record(number, 10.0 + when, "packet", sender, data[4:]))
        writer.write(Record(number, 14.0, "end", MTA), Record(number, 14.0, "end", FILTER))
    return path


def run(
    capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0
) -> tuple[list[str], str]:
    """Runs the command line; the lines of its output, and its errors."""
    result = _cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert status == result, out + err
    return out.splitlines(), err


# -- files ---------------------------------------------------------------------------------------


def test_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each packet with its number, the times, who said it and what; then what was counted."""
    lines, err = run(capsys, "trace", recording(tmp_path / "s.rec"))
    assert "" == err
    no = "NOCONNECT|NOHELO|NOMAIL|NORCPT|NOBODY|NOHDRS|NOEOH"
    offer = (
        "version 6, actions ADDHDRS|CHGBODY|ADDRCPT|DELRCPT|CHGHDRS|QUARANTINE|CHGFROM|ADDRCPT_PAR|"
        f"SETSYMLIST, protocol {no}|NR_HDR|NOUNKNOWN|NODATA|SKIP|RCPT_REJ|NR_CONN|NR_HELO|NR_MAIL|"
        "NR_RCPT|NR_DATA|NR_UNKN|NR_EOH|NR_BODY|HDR_LEADSPC"
    )
    assert [
        "recorded 2026-11-21T13:35:00.000000Z",
        "#1            0.0000   +0.0000         opened: a to b",
        f"#1      1     0.0000   +0.0000  mta    optneg    {offer}",
        "#1      2     0.2500   +0.2500  filter optneg    version 6, actions ADDHDRS, protocol "
        f"{no}|NOUNKNOWN|NODATA",
        "#1      3     0.2500   +0.0000  mta    macro     for mail: i=4711",
        "#1      4     0.5000   +0.2500  mta    eom",
        r"#1      5     3.0000   +2.5000  filter add header X-Spam: no\x1b[2J",
        "#1      6     3.0000   +0.0000  filter continue",
        "                                       slow: eom took 2.5 s",
        "#1      7     3.5000   +0.5000  mta    quit",
        "#1            4.0000   +0.5000  mta    closed",
        "#1            4.0000   +0.0000  filter closed",
        "#1   over: 7 packets, 1 message, slowest eom 2.5000 s (packet 6)",
        "",
        "1 connection, 1 message, 7 packets, 0 not legal",
        "step       answers    mean s  longest s",
        "optneg           1    0.2500     0.2500  #1 packet 2",
        "eom              1    2.5000     2.5000  #1 packet 6",
    ] == lines


def test_everything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no packet, what is missing, what broke off; with the rule and the bytes."""
    path = tmp_path / "s.rec"
    with Writer(path, HEAD) as writer:
        writer.write(
            Record(1, 0.0, "open", text="a to b\x1b"),
            Record(1, 0.0, "failed", text="cannot connect to b: refused"),
            Record(2, 0.0, "open", text="a to b"),
            Record(2, 0.0, "packet", MTA, OFFER[4:]),
            Record(2, 0.0, "packet", FILTER, b"Zz"),
            Record(2, 0.0, "broken", FILTER, b"\0\0\0\0Q"),
            Record(2, 0.0, "reset", FILTER),
            Record(2, 0.0, "cut", text="closed"),
            Record(3, 0.0, "gap", MTA, text="9 bytes"),
        )
    lines, _ = run(capsys, "trace", path)
    assert [
        r"#1            0.0000   +0.0000         opened: a to b\x1b",
        "#1            0.0000   +0.0000         cannot connect to b: refused",
        "#1   over: 0 packets, 0 messages",
        "#2            0.0000   +0.0000         opened: a to b",
    ] == lines[1:5]
    assert [
        "#2      2     0.0000   +0.0000  filter ?",
        f"{'':39}not legal: the filter sent a packet of unknown type "
        "'Z' (wire spec 1.4: a filter sends the letters of 1.4 only); packet: 00 00 00 02 5A 7A",
        "#2            0.0000   +0.0000  filter 5 bytes that are no packet",
        "                                       not legal: no packet: 00 00 00 00 51",
        "#2            0.0000   +0.0000  filter reset the connection",
        "                                       not answered: optneg, after 0.0 s",
        "#2            0.0000   +0.0000         closed",
        "#2   over: 2 packets, 0 messages, 2 not legal, not answered",
        "#3            0.0000   +0.0000  mta    missing: 9 bytes",
        "",
        "3 connections, 0 messages, 2 packets, 2 not legal, 1 not answered",
    ] == lines[6:]


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is wrong or slow; only one connection; only the summary; content or not."""
    path = recording(tmp_path / "s.rec")
    lines, _ = run(capsys, "trace", path, "--only", "problems")
    assert ["continue", "2.5"] == [lines[1].split()[-1], lines[2].split()[-2]]
    assert "" == lines[3]
    lines, _ = run(capsys, "trace", path, "--only", "problems", "--slow", "3")
    assert ["", "1 connection, 1 message, 7 packets, 0 not legal"] == lines[1:3]
    lines, _ = run(capsys, "trace", path, "--only", "summary")
    assert "" == lines[1]
    lines, _ = run(capsys, "trace", path, "--connection", "2")
    assert ["", "1 connection, 1 message, 7 packets, 0 not legal"] == lines[1:3]
    lines, _ = run(capsys, "trace", path, "--no-content")
    assert "add header X-Spam: (6 bytes)" in lines[6]


def test_a_filter_that_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that closes instead of answering is among the problems, and is counted."""
    path = tmp_path / "s.rec"
    with Writer(path, HEAD) as writer:
        for when, sender, data in (*DIALOGUE[:2], (1.0, MTA, packet("E"))):
            writer.write(Record(1, when, "packet", sender, data[4:]))
        writer.write(Record(1, 3.5, "end", FILTER), Record(1, 3.5, "end", MTA))
    lines, _ = run(capsys, "trace", path, "--only", "problems")
    assert ["#1            3.5000   +2.5000  filter closed", "not answered: eom, after 2.5 s"] == [
        line if line.startswith("#") else line.strip() for line in lines[1:3]
    ]
    assert "1 connection, 1 message, 3 packets, 0 not legal, 1 not answered" == lines[4]
    lines, _ = run(capsys, "trace", path)
    assert "#1   over: 3 packets, 1 message, not answered" in lines
    values = [json.loads(line) for line in run(capsys, "trace", path, "--json")[0]]
    assert ("eom", 2.5) == (values[3]["unanswered"], values[3]["waited"])
    assert 1 == values[-1]["unanswered"]


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each record, and one for the summary."""
    lines, _ = run(capsys, "trace", recording(tmp_path / "s.rec"), "--json")
    values = [json.loads(line) for line in lines]
    assert {
        "connection": 1,
        "time": 13.0,
        "elapsed": 3.0,
        "since": 2.5,
        "what": "packet",
        "from": "filter",
        "packet": 5,
        "name": "ADDHEADER",
        "fields": {"name": "X-Spam", "size": 6, "value": "no\x1b[2J"},
    } == values[5]
    assert ("eom", 2.5) == (values[6]["answers"], values[6]["took"])
    assert {"stage": "mail", "macros": {"i": "4711"}} == values[3]["fields"]
    assert {
        "what": "summary",
        "connections": 1,
        "messages": 1,
        "packets": 7,
        "problems": 0,
        "unanswered": 0,
        "steps": {
            "optneg": {"answers": 1, "mean": 0.25, "longest": 0.25, "connection": 1, "packet": 2},
            "eom": {"answers": 1, "mean": 2.5, "longest": 2.5, "connection": 1, "packet": 6},
        },
    } == values[-1]


def test_recorded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file can be recorded without its content, and then that is gone."""
    path, blank = recording(tmp_path / "s.rec"), tmp_path / "blank.rec"
    run(capsys, "trace", path, "--record", blank, "--no-content")
    assert b'"data": "X-Spam\\u0000xxxxxx\\u0000"' in blank.read_bytes()
    lines, _ = run(capsys, "trace", blank)
    assert "add header X-Spam: (6 bytes)" in lines[6]
    same = tmp_path / "same.rec"
    run(capsys, "trace", path, "--record", same)
    assert path.read_bytes() == same.read_bytes()


def test_broken_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands before the place at which a file is broken is printed, and counted."""
    path = recording(tmp_path / "s.rec")
    path.write_bytes(path.read_bytes() + b"{}\n")
    lines, err = run(capsys, "trace", path, "--only", "summary", status=2)
    assert "1 connection, 1 message, 7 packets, 0 not legal" in lines
    assert err.endswith('s.rec, line 12: "connection" is no number from 1 on\n')


def test_connections_without_an_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all is remembered of connections whose ends nobody has seen; they are counted."""
    given = _cli.parser().parse_args(["trace", "f", "--only", "summary"])
    printer = trace._Printer(given)
    monkeypatch.setattr(trace, "_WATCHED", 3)
    for number in range(1, 10):
        printer.see(Record(1, 0.0, "packet", MTA, OFFER[4:]))  # this one is alive
        printer.see(Record(number, 0.0, "packet", MTA, OFFER[4:]))
    assert [8, 1, 9] == list(printer.watches)
    printer.summary()
    assert "9 connections, 0 messages, 18 packets" in capsys.readouterr().out


def test_gaps_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all connections of which something was left out are remembered for ever."""
    monkeypatch.setattr(trace, "_WATCHED", 3)
    monkeypatch.setattr(trace, "_BYTES", -1)
    given = _cli.parser().parse_args(["trace", "f", "--only", "summary"])
    screen = trace._Screen(trace._Printer(given), "", lambda: None)
    for number in range(1, 10):
        screen.put(Record(number, 0.0, "end", MTA))
    assert screen.close()
    assert [7, 8, 9] == list(screen._gaps)


def test_terminals_are_not_attacked_by_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a recording says of itself is shown without what a terminal would obey."""
    path = tmp_path / "s.rec"
    with Writer(path, Head("\x1b]0;pwned\x07\u202e")):
        pass
    assert [r"recorded \x1b]0;pwned\x07\u202e"] == run(capsys, "trace", path)[0][:1]


def test_cut_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A last line that was cut is a warning; garbage before is an error after what was read."""
    path = recording(tmp_path / "s.rec")
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    _, err = run(capsys, "trace", path)
    assert f"python -m Milter trace: {path}, line 11: cut off; the rest was read\n" == err
    path.write_bytes(data.replace(b'"mta"', b'"me"', 1))
    lines, err = run(capsys, "trace", path, status=2)
    assert f'python -m Milter trace: {path}, line 3: "from" is neither "mta" nor "filter"\n' == err
    assert lines[1].endswith("opened: a to b")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "either FILE, or both --listen and --filter"),
        (["--listen", "unix:x"], "either FILE, or both --listen and --filter"),
        (["f", "--listen", "unix:x", "--filter", "unix:y"], "either FILE, or both"),
        (["nothing.rec"], "nothing.rec: No such file or directory"),
        (["/"], "/: Is a directory"),
        (["/dev/null"], "/dev/null, line 1: neither a recording nor a capture"),
        ([__file__], "line 1: neither a recording nor a capture"),
        (["--listen", "tcp:1", "--filter", "unix:y"], "bad socket 'tcp:1': unknown type 'tcp'"),
        (["--listen", "unix:x", "--filter", "tcp:1"], "bad socket 'tcp:1': unknown type 'tcp'"),
        (["--listen", "unix:x", "--filter", "x"], "--listen and --filter are the same socket"),
        (["--listen", "unix:/nowhere/x", "--filter", "unix:y"], "cannot listen at unix:/nowhere/x"),
    ],
)
def test_errors(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and exit status 2."""
    lines, err = run(capsys, "trace", *arguments, status=2)
    assert ([], 1) == (lines, err.count("\n"))
    assert text in err


# -- live ----------------------------------------------------------------------------------------


@contextmanager
def tracing(place: Path, *arguments: object, **kind: Any) -> Iterator[subprocess.Popen[str]]:
    """The command between a socket `t` and a filter at `f`; at the end it is stopped."""
    specs = ["--listen", f"unix:{place / 't'}", "--filter", f"unix:{place / 'f'}"]
    kind.setdefault("stdout", subprocess.PIPE)
    with subprocess.Popen(
        [*COMMAND, "trace", *specs, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        **kind,
    ) as child:
        try:
            await_socket(place / "t", child)  # this is connection 1
            yield child
        finally:
            child.kill()


def ended(child: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[str, str, int]:
    """Ends it: what it has printed, its errors, and its exit status."""
    child.send_signal(number)
    out, err = child.communicate(timeout=PATIENCE)
    return out, err, child.returncode


def played(place: Path, *arguments: object) -> str:
    """Plays the message through the trace."""
    place.joinpath("m.eml").write_bytes(EML)
    done = process("send", "--socket", f"unix:{place / 't'}", *arguments, place / "m.eml")
    return done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_live(number: int, tmp_path: Path) -> None:
    """What is said is printed and recorded, and a signal ends it with all in the file."""
    path = tmp_path / "s.rec"
    with Simple(tmp_path / "f", {"E": packet("h", b"X\0y\0") + C}) as simple:
        with tracing(tmp_path, "--record", path) as child:
            assert "+X: y" in played(tmp_path)
            out, err, status = ended(child, number)
        assert ("", 0) == (err, status)
        assert not (tmp_path / "t").exists()
        assert re.search(r"^#2 +\d+ +\d+\.\d{4} +\+\d+\.\d{4}  filter add header X: y$", out, re.M)
        assert "mta    header    Subject: love\n" in out
        assert "mta    body      8 bytes: secret\\r\\n\n" in out
        assert re.search(r"^2 connections, 1 message, \d+ packets, 0 not legal$", out, re.M)
        assert 0o600 == path.stat().st_mode & 0o777
        assert [] == mta.Recording.read(path).play(simple.spec)
    heard = ["".join(simple.letters)[: len(simple.letters) // 2]]
    assert heard[0] + heard[0] == "".join(simple.letters)


def test_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it says that it listens, a signal ends it as it is to end, and wakes it for that."""
    wakes: list[int] = []

    def early(*_: object) -> None:
        raise Failure("nothing was there yet to handle it")

    class Hasty(trace._Screen):
        def __init__(self, *arguments: Any) -> None:
            wakes.append(signal.set_wakeup_fd(-1))
            signal.set_wakeup_fd(wakes[0])
            signal.raise_signal(signal.SIGTERM)
            super().__init__(*arguments)

    monkeypatch.setattr(trace, "_Screen", Hasty)
    before = signal.signal(signal.SIGTERM, early)
    try:
        where = ["--listen", f"unix:{tmp_path / 't'}", "--filter", f"unix:{tmp_path / 'f'}"]
        assert 0 == _cli.main(["trace", *where])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "t").exists()
    assert [-1] != wakes
    assert -1 == signal.set_wakeup_fd(-1)


def test_live_without_content(tmp_path: Path) -> None:
    """Nothing that people wrote is printed or in the file."""
    path = tmp_path / "s.rec"
    answer = packet("m", b"\0\0\0\1Subject\0hatred\0") + packet("b", b"malice\r\n") + C
    only = ["--record", path, "--no-content", "--json"]
    with Simple(tmp_path / "f", {"E": answer}), tracing(tmp_path, *only) as child:
        assert "malice" in played(tmp_path)
        out, _, _ = ended(child)
    assert "Subject" in out
    for text in (out, path.read_text()):
        assert not re.search("love|secret|hatred|malice", text)


def test_no_filter(tmp_path: Path) -> None:
    """Where the filter cannot be reached, the mail server sees that at once, and it is said."""
    with tracing(tmp_path) as child:
        assert "451 4.7.1" in played(tmp_path)
        with Simple(tmp_path / "f"):
            assert "accepted" in played(tmp_path)
        out, err, status = ended(child)
    assert ("", 0) == (err, status)
    assert f"cannot connect to unix:{tmp_path / 'f'}: No such file or directory" in out


def test_open_connections_are_cut(tmp_path: Path) -> None:
    """What was begun when it is ended is in the recording."""
    path = tmp_path / "s.rec"
    where = tmp_path, "--record", path
    with Simple(tmp_path / "f"), tracing(*where) as child, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(tmp_path / "t"))
        sock.sendall(OFFER)
        sock.recv(100)
        sock.sendall(MAIL[:3])
        deadline = time.monotonic() + PATIENCE
        while b'"filter"' not in path.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        out, _, status = ended(child)
    assert 0 == status
    assert "the trace has ended" in out
    records = mta.Recording.read(path).connections[-1].records
    assert ["open", "packet", "packet"] == [record.kind for record in records][:3]
    assert "cut" == records[-1].kind


def test_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """Where nobody reads what it prints, it ends, as other programs do, and without a word."""
    with Simple(tmp_path / "f"), tracing(tmp_path) as child:
        assert child.stdout is not None
        child.stdout.close()
        played(tmp_path)
        assert child.stderr is not None
        assert (2, "") == (child.wait(PATIENCE), child.stderr.read())
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_room_for_what_is_printed(tmp_path: Path) -> None:
    """Where what it prints goes to a disk that is full, that is said once, and mail goes on."""
    path = tmp_path / "s.rec"
    with (
        open("/dev/full", "wb") as full,
        Simple(tmp_path / "f"),
        tracing(tmp_path, "--record", path, stdout=full) as child,
    ):
        assert "accepted" in played(tmp_path)
        assert "accepted" in played(tmp_path)
        child.terminate()
        assert child.stderr is not None
        assert 2 == child.wait(PATIENCE)
        (line,) = child.stderr.read().splitlines()
    assert line.endswith("standard output: No space left on device; no more is printed")
    assert 2 <= len(mta.Recording.read(path).connections)


def test_no_room_for_the_recording(tmp_path: Path) -> None:
    """A recording that can get no larger, live: said once, what is there is whole, mail goes on."""
    path = tmp_path / "s.rec"
    most = 2048
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    with Simple(tmp_path / "f"), tracing(tmp_path, "--record", path, preexec_fn=limit) as child:
        for _ in range(4):
            assert "accepted" in played(tmp_path)
        out, err, status = ended(child)
    assert 2 == status
    (line,) = err.splitlines()
    assert line.endswith("s.rec: File too large; no more is recorded")
    assert out.count("mta    eom") == 4
    assert 0 < path.stat().st_size <= most
    recording = mta.Recording.read(path)
    assert [] == recording.warnings
    assert recording.connections


@pytest.mark.slow
def test_stopped_terminal(tmp_path: Path) -> None:
    """A terminal that takes nothing stops no mail, and keeps nothing out of the recording."""
    path = tmp_path / "s.rec"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    with Simple(tmp_path / "f"), tracing(tmp_path, "--record", path, stdout=writing) as child:
        os.close(writing)
        assert "accepted" in played(tmp_path)
        child.terminate()
        assert child.stderr is not None
        # It waits some seconds for the terminal.
        assert 2 == child.wait(3 * PATIENCE)
        assert "the terminal does not take what is printed" in child.stderr.read()
    os.close(reading)
    assert 2 == len(mta.Recording.read(path).connections)


@pytest.mark.parametrize(("limit", "most"), [("_QUEUE", 20), ("_BYTES", 100)])
def test_slow_terminal(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a terminal has no time for is left out, which is said, and is no fault of anybody's."""
    monkeypatch.setattr(trace, limit, most)
    go_on, real = threading.Event(), trace.say

    def slow(text: str, style: str = "") -> None:
        assert go_on.wait(PATIENCE)
        real(text, style)

    monkeypatch.setattr(trace, "say", slow)
    given = _cli.parser().parse_args(["trace", "f"])
    screen = trace._Screen(trace._Printer(given), "title", lambda: None)
    for number in (1, 2):
        screen.put(Record(number, 0.0, "open", text="a to b"))
        for when, sender, data in DIALOGUE * 5:
            screen.put(Record(number, when, "packet", sender, data[4:]))
    go_on.set()
    deadline = time.monotonic() + PATIENCE
    while screen._put != screen._taken and time.monotonic() < deadline:
        time.sleep(0.01)
    screen.put(Record(1, 9.0, "packet", FILTER, b"c"))
    screen.put(Record(1, 9.0, "end", FILTER))
    assert screen.close()
    assert screen.error is None
    out, err = capsys.readouterr()
    assert "mta    missing: lines were left out here" in out or "filter missing: lines" in out
    assert out.index("title") < out.index("opened") < out.index("missing") < out.index("closed")
    assert re.search(r"the terminal is too slow: \d+ lines left out\n", err)
    after = out[out.index("missing") :]
    assert "not legal:" not in after


def test_slow_terminals_are_not_complained_of_all_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often it falls behind: said once, and at the end the rest."""
    monkeypatch.setattr(trace, "_BYTES", 10)
    monkeypatch.setattr(trace, "_QUIET", 1e9)
    given = _cli.parser().parse_args(["trace", "f", "--only", "summary"])
    screen = trace._Screen(trace._Printer(given), "", lambda: None)
    for _ in range(3):
        go_on = threading.Event()
        monkeypatch.setattr(screen._printer, "see", lambda _, go_on=go_on: go_on.wait(PATIENCE))
        for _ in range(4):  # only the first has room, or the word that something is missing
            screen.put(Record(1, 0.0, "packet", MTA, b"H" + b"x" * 20))
        go_on.set()
        deadline = time.monotonic() + PATIENCE
        while screen._put != screen._taken and time.monotonic() < deadline:
            time.sleep(0.01)
    assert screen.close()
    lines = capsys.readouterr().err.splitlines()
    assert 2 == len(lines)
    assert 3 + 4 + 4 == sum(int(re.findall(r"(\d+) lines? left out", line)[0]) for line in lines)


def test_where_it_cannot_record(tmp_path: Path) -> None:
    """A file that exists is not written over, and no socket stays behind."""
    path = tmp_path / "s.rec"
    path.write_text("mine")
    done = process(
        "trace", "--listen", f"unix:{tmp_path / 't'}", "--filter", "unix:f", "--record", path
    )
    assert (2, f"python -m Milter trace: {path}: File exists\n") == (done.returncode, done.stderr)
    assert "mine" == path.read_text()
    assert not (tmp_path / "t").exists()


def test_pipe(tmp_path: Path) -> None:
    """A recording, or a capture, may come through a pipe."""
    data = recording(tmp_path / "s.rec").read_bytes()
    done = subprocess.run(
        [*COMMAND, "trace", "/dev/stdin"],
        input=data,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (0, b"") == (done.returncode, done.stderr)
    assert b"add header X-Spam" in done.stdout


def test_colours(tmp_path: Path) -> None:
    """Where they are asked for; what is printed stays the same."""
    pytest.importorskip("rich")
    path = recording(tmp_path / "s.rec")
    plain = process("trace", path).stdout
    coloured = process("trace", path, "--color", "always").stdout
    assert "\x1b[" in coloured
    assert plain == re.sub("\x1b\\[[0-9;]*m", "", coloured)


# -- send --replay -------------------------------------------------------------------------------

ANSWERS = {"O": options(actions=1, protocol=0x37F), "E": packet("h", b"X-Spam\0no\x1b[2J\0") + C}


def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answered as recorded: exit status 0."""
    path = recording(tmp_path / "s.rec")
    with Simple(tmp_path / "f", ANSWERS) as simple:
        lines, err = run(capsys, "send", "--replay", path, "--socket", simple.spec)
    assert "" == err
    assert [
        "connection 1, 7 packets: answered as recorded",
        "1 of 1 connection answered as recorded",
    ] == lines


def test_replay_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not answered as recorded: where, both answers, and exit status 1; unless that is allowed."""
    path = recording(tmp_path / "s.rec")
    other = {**ANSWERS, "E": packet("h", b"X-Spam\0yes\0") + packet("t")}
    with Simple(tmp_path / "f", other) as simple:
        where = ["send", "--replay", path, "--socket", simple.spec]
        lines, err = run(capsys, *where, status=1)
        assert "" == err
        assert [
            "connection 1, packet 4, eom: not answered as recorded (-), but (+)",
            r"-add header X-Spam: no\x1b[2J",
            "-continue",
            "+add header X-Spam: yes",
            "+tempfail",
            "0 of 1 connection answered as recorded",
        ] == lines
        lines, _ = run(capsys, *where, "--json", status=1)
        (value,) = map(json.loads, lines)
        assert {
            "connection": 1,
            "packets": 7,
            "differences": [
                {
                    "packet": 4,
                    "step": "eom",
                    "expected": [r"add header X-Spam: no\x1b[2J", "continue"],
                    "got": ["add header X-Spam: yes", "tempfail"],
                }
            ],
        } == value
        run(capsys, *where, "--ignore-header", "x-spam", status=1)
        lines, _ = run(capsys, *where, "--no-compare")
        assert "1 of 1 connection played" == lines[-1]


@pytest.mark.parametrize("more", [[], ["--no-compare"]])
def test_replay_fails(
    more: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A filter that breaks the protocol: which rule, at which packet, and exit status 2."""
    path = recording(tmp_path / "s.rec")
    for answer, text in (
        (packet("Z"), "a filter sends the letters of 1.4 only; packet 4: 00 00 00 01 5A"),
        (None, "the filter closed the connection instead of answering eom"),
    ):
        (tmp_path / "f").unlink(missing_ok=True)
        with Simple(tmp_path / "f", {**ANSWERS, "E": answer}) as simple:
            where = ["send", "--replay", path, "--socket", simple.spec]
            _, err = run(capsys, *where, *more, status=2)
        assert text in err
        assert 1 == err.count("\n")
    answer_promptly(monkeypatch, {**ANSWERS, "E": b""})
    where = ["send", "--replay", path, "--socket", "unix:f", "--timeout", "0.2"]
    _, err = run(capsys, *where, *more, status=2)
    assert "no answer to eom within 0.2 s" in err
    assert 1 == err.count("\n")


def test_replay_one_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only that one; one that is not there is an error."""
    path = recording(tmp_path / "s.rec", number=3)
    with Simple(tmp_path / "f", ANSWERS) as simple:
        where = ["send", "--replay", path, "--socket", simple.spec, "--connection"]
        run(capsys, *where, 3)
        _, err = run(capsys, *where, 1, status=2)
    assert f"python -m Milter send: {path}: no connection 1\n" == err
    assert 1 == simple.connections


def test_replay_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be played, and a filter that is not there: a line, and exit status 2."""
    nobody = f"unix:{tmp_path / 'nobody'}"
    path = recording(tmp_path / "s.rec")
    _, err = run(capsys, "send", "--replay", path, "--socket", nobody, status=2)
    assert f"cannot connect to {nobody}: No such file or directory\n" in err
    _, err = run(capsys, "send", "--replay", tmp_path / "x", "--socket", nobody, status=2)
    assert f"python -m Milter send: {tmp_path / 'x'}: No such file or directory\n" == err
    _, err = run(capsys, "send", "--replay", __file__, "--socket", nobody, status=2)
    assert "neither a recording nor a capture" in err
    two = ["--socket", nobody, "--socket", nobody]
    _, err = run(capsys, "send", "--replay", path, *two, status=2)
    assert "--replay is for one filter" in err
    late = recording(tmp_path / "late.rec", DIALOGUE[3:])
    _, err = run(capsys, "send", "--replay", late, "--socket", nobody, status=2)
    assert "connection 1: a part of it was not captured" in err


def test_imports_nothing_until_used() -> None:
    """The command line does not import asyncio, nor what the proxy needs."""
    code = (
        "import sys, Milter._cli\n"
        "print([n for n in ('asyncio', 'select', 'Milter._tracewire', 'rich') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "Milter._tracewire" not in done.stdout
    assert "asyncio" not in done.stdout
