"""The benchmark's load generator and floor (bench/load, bench/floor), built and run.

The generator plays the MTA; here a filter of a few lines answers it, with bytes from the wire spec,
and keeps what it received.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mta_support import PATIENCE

BENCH = Path(__file__).resolve().parents[2] / "bench"

CONTINUE = b"\0\0\0\1c"
ADD_HEADER = b"\0\0\0\x05hX\0v\0"  # wire spec 1.4

# What the generator offers (wire spec 2.7), and answers: version 6, actions, protocol.
OFFER = b"\0\0\0\6\0\0\1\xff\0\x1f\xff\xff"
ALL_QUIET = 0xFF080

# The events of a connection with one message of one recipient, two headers and one chunk.
POSTFIX = "O DC C DH H DM M DR R DT T DL L DL L DN N DB B DE E A A Q"
SENDMAIL = "O DC C DH H DM M DR R T L L N B DE E Q"
SMALL = ("--headers", "2", "--body", "10")

# An answer to a command: bytes; None closes the connection.
Answer = Callable[[str, int], "bytes | None"]


def negotiation(protocol: int = 0, actions: int = 1, version: int = 6, lists: bytes = b"") -> bytes:
    """Returns the filter's answer to the offer."""
    data = b"O" + struct.pack("!III", version, actions, protocol) + lists
    return struct.pack("!I", len(data)) + data


def ordinary(letter: str, _: int) -> bytes:
    """Answers as a filter does that wants everything and adds a header."""
    if letter == "O":
        return negotiation()
    if letter == "E":
        return ADD_HEADER + CONTINUE
    return CONTINUE


def instead(letter: str, answer: bytes | None, number: int = 0, options: int = 0) -> Answer:
    """Returns an ordinary filter that gives another answer to the command with that letter, if that
    is the connection's `number`th (0: to each).
    """

    def given(asked: str, count: int) -> bytes | None:
        if asked == letter and number in (0, count):
            return answer
        return negotiation(options) if asked == "O" else ordinary(asked, count)

    return given


def quiet(letter: str, _: int) -> bytes:
    """Answers nothing but the negotiation and the end of message."""
    if letter == "O":
        return negotiation(ALL_QUIET)
    return CONTINUE if letter == "E" else b""


class Peer:
    """A filter: keeps what each connection has received, in the order of their beginnings."""

    def __init__(self, path: str, answer: Answer, one_by_one: bool) -> None:
        self.packets: list[list[bytes]] = []  # each without its length
        self.reads: list[list[bytes]] = []
        self._answer = answer
        self._one_by_one = one_by_one
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """Waits until every connection has ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def events(self) -> list[str]:
        """Returns what each connection has received, by letters; macros with their stage."""
        return [
            " ".join((p[:2] if p[:1] == b"D" else p[:1]).decode() for p in packets)
            for packets in self.packets
        ]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.packets.append([])
                self.reads.append([])
                thread = threading.Thread(
                    target=self._serve, args=(connection, self.packets[-1], self.reads[-1])
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, packets: list[bytes], reads: list[bytes]) -> None:
        counts: dict[str, int] = {}
        data = b""
        with connection, suppress(ConnectionError):
            connection.settimeout(PATIENCE)
            while True:
                got = connection.recv(1 << 20)
                if not got:
                    return
                reads.append(got)
                data += got
                while len(data) >= 4 and len(data) >= 4 + struct.unpack("!I", data[:4])[0]:
                    size = struct.unpack("!I", data[:4])[0]
                    packet, data = data[4 : 4 + size], data[4 + size :]
                    packets.append(packet)
                    letter = packet[:1].decode()
                    counts[letter] = counts.get(letter, 0) + 1
                    if letter in "DAQ":
                        continue
                    answer = self._answer(letter, counts[letter])
                    if answer is None:
                        return
                    pieces = [answer[i : i + 1] for i in range(len(answer))]
                    for piece in pieces if self._one_by_one else [answer]:
                        connection.sendall(piece)


class Generator:
    """The built program."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = folder + "/s"

    def run(self, *options: str, specification: str = "") -> tuple[int, dict[str, object]]:
        """Runs it against the socket; returns its exit status and the object that it prints."""
        done = subprocess.run(
            [
                str(BENCH / "build" / "load"),
                *("--socket", specification or f"unix:{self.path}", "--json", *options),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert "" == done.stderr
        return done.returncode, json.loads(done.stdout)

    @contextmanager
    def against(self, answer: Answer, one_by_one: bool = False) -> Iterator[Peer]:
        """Has a filter there that answers so."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        peer = Peer(self.path, answer, one_by_one)
        try:
            yield peer
        finally:
            peer.stop()

    def good(self, answer: Answer, *options: str) -> tuple[Peer, dict[str, object]]:
        """Runs it against such a filter, without an error; returns the filter, and the object."""
        with self.against(answer) as peer:
            status, result = self.run(*options)
        assert None is result["first_error"]
        assert 0 == result["errors"]
        assert 0 == status
        return peer, result

    def bad(self, answer: Answer, *options: str) -> str:
        """Runs it against a filter that breaks the protocol; returns the first error's text."""
        with self.against(answer):
            status, result = self.run("--connections", "1", *options)
        assert 1 == result["errors"]
        assert 1 == status
        return str(result["first_error"])


def build(program: str) -> str:
    """Builds one of the benchmark's programs; returns its path."""
    for tool in ("make", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} to build the load generator with")
    # A make around us would have its own targets and job server in the environment.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "-C", str(BENCH), f"build/{program}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)
    return str(BENCH / "build" / program)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build("load")


@pytest.fixture
def load() -> Iterator[Generator]:
    """The generator, and a folder for sockets: pytest's own may be too deep for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="mlt") as folder:
        yield Generator(folder)


def packets_of(peer: Peer, letter: bytes) -> list[bytes]:
    """Returns the data of the first connection's commands with that letter."""
    return [packet[1:] for packet in peer.packets[0] if packet[:1] == letter]


def macros_of(peer: Peer, stage: str, number: int = 0) -> dict[str, str]:
    """Returns the first connection's macros for a stage, of the packet with that number."""
    found = [packet[2:] for packet in peer.packets[0] if packet[:2] == b"D" + stage.encode()]
    strings = found[number].decode().split("\0")
    assert "" == strings.pop()
    return dict(zip(strings[::2], strings[1::2]))


@pytest.mark.parametrize(("style", "events"), [("postfix", POSTFIX), ("sendmail", SENDMAIL)])
def test_events(load: Generator, style: str, events: str) -> None:
    """Each style sends the events, and the macros, that its MTA sends, and ends as it does."""
    peer, result = load.good(ordinary, "--style", style, "--connections", "1", *SMALL)
    assert [events] == peer.events()
    # CONNECT, HELO, MAIL, RCPT, DATA, two headers, their end, a chunk, the end of message.
    assert {"O": 1, "c": 10, "h": 1} == result["replies"]
    assert [{"version": 6, "actions": 1, "protocol": 0}] == result["negotiated"]


def test_payloads(load: Generator) -> None:
    """The commands carry what the wire spec (1.3) says, a body in chunks of 65535 bytes."""
    peer, _ = load.good(
        ordinary, "--connections", "1", "--body", "70000", "--recipients", "3", "--headers", "25"
    )
    assert [OFFER] == packets_of(peer, b"O")
    hostname, _, rest = packets_of(peer, b"C")[0].partition(b"\0")
    assert (b"client.example.net", b"4", b"192.0.2.25\0") == (hostname, rest[:1], rest[3:])
    assert [b"client.example.net\0"] == packets_of(peer, b"H")
    (sender,) = packets_of(peer, b"M")
    assert b"<sender@example.net>" == sender.split(b"\0")[0]
    assert b"\0" == sender[-1:]
    assert [b"<user0@example.org>", b"<user1@example.org>", b"<user2@example.org>"] == [
        data.split(b"\0")[0] for data in packets_of(peer, b"R")
    ]
    headers = packets_of(peer, b"L")
    assert 25 == len(headers)
    assert all(data.count(b"\0") == 2 and data[-1:] == b"\0" for data in headers)
    assert all(b"\r" not in data for data in headers)
    assert [65535, 70000 - 65535] == [len(data) for data in packets_of(peer, b"B")]
    body = b"".join(packets_of(peer, b"B"))
    assert all(line[-1:] == b"\r" for line in body.split(b"\n")[:-1])
    for bare in (b"T", b"N", b"E", b"A", b"Q"):
        assert {b""} == set(packets_of(peer, bare))


@pytest.mark.parametrize(
    ("style", "stage", "number", "known"),
    [
        ("postfix", "M", 0, {"i": False, "{mail_addr}": True}),
        ("postfix", "R", 0, {"i": False, "{rcpt_addr}": True}),
        ("postfix", "R", 1, {"i": True, "{rcpt_addr}": True}),
        ("postfix", "E", 0, {"i": True}),
        ("sendmail", "M", 0, {"i": True, "{mail_addr}": True}),
        ("sendmail", "E", 0, {"i": False, "{msg_id}": True}),
    ],
)
def test_macros(
    load: Generator, style: str, stage: str, number: int, known: dict[str, bool]
) -> None:
    """The macros of a stage are those that the MTA sends with it (wire spec 2.7)."""
    peer, _ = load.good(
        ordinary, "--style", style, "--connections", "1", "--recipients", "2", *SMALL
    )
    macros = macros_of(peer, stage, number)
    assert known == {name: name in macros for name in known}
    assert "mx.example.org" == macros_of(peer, "C")["j"]
    assert {} == macros_of(peer, "H")


@pytest.mark.parametrize("style", ["postfix", "sendmail"])
def test_asked_macros(load: Generator, style: str) -> None:
    """A filter gets the macros that it asks for, as far as there are any."""
    lists = b"\0\0\0\0j,{client_addr} {tls_version}\0" + b"\0\0\0\3{rcpt_addr}\0"
    asking = instead("O", negotiation(actions=0x101, lists=lists))
    peer, _ = load.good(asking, "--style", style, "--connections", "1", *SMALL)
    assert {"j": "mx.example.org", "{client_addr}": "192.0.2.25"} == macros_of(peer, "C")
    assert {"{rcpt_addr}": "user0@example.org"} == macros_of(peer, "R")


def test_counts(load: Generator) -> None:
    """Connections, messages and replies are counted exactly; times are in order."""
    peer, result = load.good(
        ordinary, "--sessions", "2", "--connections", "5", "--messages", "3", "--recipients", "2"
    )
    message = "DM M DR R DR R DT T " + "DL L " * 20 + "DN N DB B DE E"
    expected = f"O DC C DH H {message} A {message} A {message} A A Q"
    assert [expected] * 5 == peer.events()
    assert (5, 15, 0) == (result["connections"], result["messages"], result["refused"])
    assert (5, 15) == (result["all_connections"], result["all_messages"])
    # CONNECT and HELO, then MAIL, two RCPT, DATA, headers, their end, a chunk, the end.
    assert {"O": 5, "c": 5 * 2 + 15 * (1 + 2 + 1 + 20 + 1 + 1 + 1), "h": 15} == result["replies"]
    latency = result["latency_us"]
    assert isinstance(latency, dict)
    times = [latency[name] for name in ("p50", "p90", "p99", "max")]
    assert 0 < times[0]
    assert sorted(times) == times
    assert times[-1] <= float(str(result["seconds"])) * 1e6
    for unit in ("messages", "connections"):
        assert 0 < float(str(result[f"{unit}_per_second"]))


def test_latency(load: Generator) -> None:
    """A message's time is that from MAIL to its verdict, with all that the filter makes of it."""

    def slow(letter: str, count: int) -> bytes:
        if letter in "CE":  # CONNECT is not part of it
            time.sleep(0.1)
        return ordinary(letter, count)

    _, result = load.good(slow, "--connections", "1", *SMALL)
    latency = result["latency_us"]
    assert isinstance(latency, dict)
    assert abs(latency["max"] - latency["p50"]) <= latency["max"] / 100  # in steps of 0.8 %
    assert 100_000 <= latency["max"] <= float(str(result["seconds"])) * 1e6 - 100_000


def test_no_reply(load: Generator) -> None:
    """Steps whose answer is negotiated away are sent without waiting; the rest is as ever."""
    peer, result = load.good(quiet, "--connections", "2", "--messages", "2", *SMALL)
    events = POSTFIX.replace(" A A Q", "") + " A " + POSTFIX.partition("H H ")[2]
    assert [events] * 2 == peer.events()
    assert {"O": 2, "c": 4} == result["replies"]
    # Postfix writes the envelope at once; what was written at once is read at once.
    envelope = peer.reads[0][1]
    assert b"DC" == envelope[4:6]
    assert b"\0\0\0\1T" in envelope


def test_one_write(load: Generator) -> None:
    """In Postfix's style macros and command are one write, so that they are read together."""
    peer, _ = load.good(ordinary, "--connections", "1", *SMALL)
    begin = [read[4:6] if read[4:5] == b"D" else read[4:5] for read in peer.reads[0]]
    assert "O DC DH DM DR DT DL DL DN DB DE A" == b" ".join(begin).decode()


@pytest.mark.parametrize(
    ("style", "events"),
    [
        # Both send the macros of the envelope's steps without the steps (wire spec 2.7).
        ("postfix", "O DC C DH DM M DR R DT DE E A A Q"),
        ("sendmail", "O DC C DH DM M DR R DE E Q"),
    ],
)
def test_left_out(load: Generator, style: str, events: str) -> None:
    """Steps that the filter does not want are not sent: here HELO, DATA and all of the content."""
    unwanting = instead("O", negotiation(0x2 | 0x200 | 0x20 | 0x40 | 0x10))
    peer, result = load.good(unwanting, "--style", style, "--connections", "1")
    assert [events] == peer.events()
    assert 1 == result["messages"]


def test_old_version(load: Generator) -> None:
    """A filter of version 3 gets no DATA."""
    peer, _ = load.good(instead("O", negotiation(version=3)), "--connections", "1", *SMALL)
    assert [POSTFIX.replace(" T ", " ")] == peer.events()


def test_leading_space(load: Generator) -> None:
    """Header values begin with their blank if the filter wants it."""
    peer, _ = load.good(instead("O", negotiation(0x100000)), "--connections", "1", *SMALL)
    values = [data.split(b"\0")[1] for data in packets_of(peer, b"L")]
    assert [b" from", b" from"] == [value[:5] for value in values]


def test_skip(load: Generator) -> None:
    """After SKIP no further chunk is sent; the end of message is."""
    skipping = instead("B", b"\0\0\0\1s", options=0x400)
    peer, result = load.good(skipping, "--connections", "1", "--body", "200000", "--headers", "0")
    assert ["O DC C DH H DM M DR R DT T DN N DB B DE E A A Q"] == peer.events()
    assert 1 == result["messages"]


@pytest.mark.parametrize("style", ["postfix", "sendmail"])
@pytest.mark.parametrize(
    ("letter", "where", "answer", "events", "refused"),
    [
        ("C", "connect", b"\0\0\0\1r", "O DC C Q", 2),
        ("C", "connect", b"\0\0\0\1t", "O DC C Q", 2),
        ("H", "helo", b"\0\0\0\x0ey550 5.7.1 no\0", "O DC C DH H Q", 2),
        ("H", "", b"\0\0\0\1a", "O DC C DH H Q", 0),
    ],
)
def test_refused_connection(
    load: Generator,
    style: str,
    letter: str,
    where: str,
    answer: bytes,
    events: str,
    refused: int,
) -> None:
    """A final answer to CONNECT or HELO ends the connection; the next one begins."""
    expected = ("--reject-at", where) if where else ()
    peer, result = load.good(
        instead(letter, answer), "--style", style, "--connections", "2", *expected
    )
    assert [events] * 2 == peer.events()
    assert (2, 0, refused) == (result["connections"], result["messages"], result["refused"])
    latency = result["latency_us"]
    assert isinstance(latency, dict)
    assert 0 < latency["p50"]


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (instead("C", b"\0\0\0\1r"), "helo"),
        (instead("C", b"\0\0\0\1r"), "none"),
        (instead("H", b"\0\0\0\1a"), "helo"),
        (ordinary, "connect"),
        (ordinary, "helo"),
    ],
)
def test_unexpected(load: Generator, answer: Answer, where: str) -> None:
    """What a connection is not expected to be answered is an error."""
    assert "expected to be" in load.bad(answer, "--reject-at", where)


@pytest.mark.parametrize("where", ["connect", "helo"])
def test_discarded_connection(load: Generator, where: str) -> None:
    """DISCARD says nothing about a connection: it goes on."""
    letter = {"connect": "C", "helo": "H"}[where]
    peer, _ = load.good(instead(letter, b"\0\0\0\1d"), "--connections", "1", *SMALL)
    assert [POSTFIX] == peer.events()


@pytest.mark.parametrize(
    ("letter", "answer", "message"),
    [
        ("M", b"\0\0\0\1r", "DM M"),
        ("M", b"\0\0\0\1a", "DM M"),
        ("T", b"\0\0\0\1t", "DM M DR R DT T"),
        ("L", b"\0\0\0\1a", "DM M DR R DT T DL L"),
        ("N", b"\0\0\0\1d", "DM M DR R DT T DL L DL L DN N"),
        ("B", b"\0\0\0\x0ey550 5.7.1 no\0", "DM M DR R DT T DL L DL L DN N DB B"),
        ("R", b"\0\0\0\1d", "DM M DR R"),
        ("R", b"\0\0\0\1r", "DM M DR R"),  # the only recipient
    ],
)
def test_verdict_on_message(load: Generator, letter: str, answer: bytes, message: str) -> None:
    """A final verdict ends the message, which counts; the next message gets all steps again."""
    peer, result = load.good(
        instead(letter, answer, number=1), "--connections", "1", "--messages", "2", *SMALL
    )
    second = POSTFIX.partition("H H ")[2]
    assert [f"O DC C DH H {message} A {second}"] == peer.events()
    assert 2 == result["messages"]


def test_refused_recipient(load: Generator) -> None:
    """A recipient's refusal leaves the message to the others."""
    refusing = instead("R", b"\0\0\0\1r", number=1)
    peer, _ = load.good(refusing, "--connections", "1", "--recipients", "2", *SMALL)
    assert [POSTFIX.replace("DR R", "DR R DR R")] == peer.events()


def test_closing_reply(load: Generator) -> None:
    """A reply that begins with 421 ends the SMTP session."""
    peer, result = load.good(
        instead("M", b"\0\0\0\x0fy421 4.7.0 bye\0"), "--connections", "1", "--messages", "5"
    )
    assert ["O DC C DH H DM M A A Q"] == peer.events()
    assert 1 == result["messages"]


@pytest.mark.parametrize("style", ["postfix", "sendmail"])
def test_modifications(load: Generator, style: str) -> None:
    """All that a filter may send at the end of message is understood (wire spec 1.4), byte by byte
    as well.
    """
    answer = b"".join(
        [
            b"\0\0\0\x05hX\0v\0",
            b"\0\0\0\x09i\0\0\0\0X\0v\0",
            b"\0\0\0\x09m\0\0\0\1X\0v\0",
            b"\0\0\0\x08m\0\0\0\1X\0\0",
            b"\0\0\0\1p",
            b"\0\0\0\5bhi\r\n",
            b"\0\0\0\1b",
            b"\0\0\0\7+<r@e>\0",
            b"\0\0\0\x142<r@e>\0NOTIFY=NEVER\0",
            b"\0\0\0\7-<r@e>\0",
            b"\0\0\0\x0ee<n@e>\0SIZE=1\0",
            b"\0\0\0\5qwhy\0",
            CONTINUE,
        ]
    )

    def everything(letter: str, count: int) -> bytes:
        if letter == "O":
            return negotiation(actions=0x1FF)
        return answer if letter == "E" else ordinary(letter, count)

    for one_by_one in (False, True):
        with load.against(everything, one_by_one):
            status, result = load.run("--style", style, "--connections", "1", *SMALL)
        assert None is result["first_error"]
        assert 0 == status
        counted = {"h": 1, "i": 1, "m": 2, "p": 1, "b": 2, "+": 1, "2": 1, "-": 1, "e": 1, "q": 1}
        assert {"O": 1, "c": 10, **counted} == result["replies"]


@pytest.mark.parametrize(
    ("answer", "options", "text"),
    [
        (instead("M", b"\0\0\0\1z"), (), "no letter that a filter may send"),
        (instead("M", b"\0\0\0\2cx"), (), "data where there must be none"),
        (instead("M", b"\0\0\0\0c"), (), "a reply of 0 bytes"),
        (instead("M", b"\xff\xff\xff\xffc"), (), "a reply of 4294967295 bytes"),
        (instead("M", CONTINUE * 2), (), "when no answer was owed"),
        (instead("M", ADD_HEADER + CONTINUE), (), "modification h in answer to M"),
        (instead("M", b"\0\0\0\1s", options=0x400), (), "skip in answer to M"),
        (instead("B", b"\0\0\0\1s"), (), "skip in answer to B"),
        (instead("M", b"\0\0\0\1p" + CONTINUE), ("--style", "sendmail"), "progress"),
        (instead("E", b"\0\0\0\7+<r@e>\0" + CONTINUE), (), "+ was not negotiated"),
        (instead("E", b"\0\0\0\4hX\0v" + CONTINUE), (), "no byte 0 at the end"),
        (instead("E", b"\0\0\0\3hX\0" + CONTINUE), (), "the wrong number of strings"),
        (instead("E", b"\0\0\0\4m\0\0\1" + CONTINUE), (), "shorter than its integers"),
        (instead("E", CONTINUE + ADD_HEADER), (), "when no answer was owed"),
        (instead("M", b"\0\0\0\x0dy550 5.7.1 no"), (), "no byte 0 at the end"),
        (instead("M", b"\0\0\0\x0ey250 5.7.1 no\0"), (), "neither 4 nor 5"),
        (instead("M", None), (), "closed the connection"),
        (instead("O", None), (), "closed the connection (negotiating)"),
        (instead("O", CONTINUE), (), "reply c to O"),
        (instead("M", negotiation()), (), "reply O to M"),
        (instead("O", b"\0\0\0\5O\0\0\0\6"), (), "shorter than its integers"),
        (instead("O", negotiation(version=7)), (), "version 7 was not offered"),
        (instead("O", negotiation(actions=0x201)), (), "actions 0x201 were not offered"),
        (instead("O", negotiation(0x10000000)), (), "protocol bits 0x10000000"),
        (instead("M", b""), ("--timeout", "0.3"), "no answer for 0.3 s"),
    ],
)
def test_breach(load: Generator, answer: Answer, options: tuple[str, ...], text: str) -> None:
    """Whatever the filter may not do is an error, told apart, and makes the run fail."""
    assert text in load.bad(answer, *options, *SMALL)


def test_unasked(load: Generator) -> None:
    """An answer to a step that is not to be answered is an error, at the latest with the next
    message: until then it may pass for an answer that was owed.
    """

    def loud(letter: str, count: int) -> bytes:
        return ordinary(letter, count) if letter in "OE" else CONTINUE

    def answering(letter: str, count: int) -> bytes:
        return negotiation(ALL_QUIET) if letter == "O" else loud(letter, count)

    with load.against(answering):
        status, result = load.run("--connections", "1", "--messages", "500")
    assert 1 == status
    assert 0 < int(str(result["errors"]))


def test_first_error(load: Generator) -> None:
    """The first error's text says where it was; the other connections go on."""
    connections = []

    def third(letter: str, count: int) -> bytes | None:
        if letter == "O":
            connections.append(letter)
        failing = len(connections) == 3 and letter == "R"
        return None if failing else ordinary(letter, count)

    with load.against(third):
        status, result = load.run("--connections", "6", *SMALL)
    assert (1, 1, 5, 5) == (status, result["errors"], result["connections"], result["messages"])
    text = "the filter closed the connection (message 1, after command R)"
    assert text == result["first_error"]


def test_nobody_listens(load: Generator) -> None:
    """A filter that is not there is an error of every connection, up to a hundred."""
    status, result = load.run("--connections", "3")
    assert (1, 3, 0) == (status, result["errors"], result["connections"])
    assert "No such file or directory (connecting)" in str(result["first_error"])
    status, result = load.run("--seconds", "50")
    assert 1 == status
    assert 100 <= int(str(result["errors"]))
    assert float(str(result["seconds"])) < 40


def test_idle(load: Generator) -> None:
    """Idle connections come first, say HELO, are silent while the others run, and end in order."""
    peer, result = load.good(
        ordinary, "--idle", "40", "--connections", "2", "--sessions", "2", *SMALL
    )
    assert ["O DC C DH H A A Q"] * 40 + [POSTFIX] * 2 == peer.events()
    assert (40, 2, 2) == (result["idle"], result["connections"], result["messages"])


def test_idle_closed(load: Generator) -> None:
    """An idle connection that the filter ends is an error."""
    with load.against(instead("H", b"\0\0\0\1a", number=1)):
        status, result = load.run("--idle", "2", "--connections", "1", "--messages", "0")
    assert 1 == status
    assert 2 == result["errors"]
    assert "an idle connection was answered a" in str(result["first_error"])


def test_no_messages(load: Generator) -> None:
    """Connections without messages are timed and counted, too."""
    peer, result = load.good(ordinary, "--connections", "2", "--messages", "0")
    assert ["O DC C DH H A A Q"] * 2 == peer.events()
    assert (2, 0) == (result["connections"], result["messages"])
    latency = result["latency_us"]
    assert isinstance(latency, dict)
    assert 0 < latency["p50"]


def test_time(load: Generator) -> None:
    """A run by time counts what is between the warm-up and the end; nothing is left half done."""
    peer, result = load.good(
        ordinary,
        *("--sessions", "2", "--warmup", "0.2", "--seconds", "2", "--messages", "3", *SMALL),
    )
    received = " ".join(peer.events()).split()
    assert received.count("E") == result["all_messages"]
    assert received.count("Q") == len(peer.packets) == result["all_connections"]
    assert 0 < int(str(result["messages"])) < received.count("E")
    assert 2 <= float(str(result["seconds"])) < PATIENCE
    assert received.count("M") == received.count("E")


def test_cpu(load: Generator) -> None:
    """The generator tells its CPU time, and that of other processes in the same time."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    begin = time.process_time()
    _, result = load.good(
        ordinary, "--connections", "20", "--cpu-of", f"{os.getpid()},{gone.pid}", *SMALL
    )
    used = time.process_time() - begin
    cpu = result["cpu_of"]
    assert isinstance(cpu, dict)
    assert {str(os.getpid()), str(gone.pid)} == set(cpu)
    assert 0 < cpu[str(os.getpid())] <= used
    assert None is cpu[str(gone.pid)]
    assert 0 < float(str(result["cpu_seconds"])) < 10


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--socket", "unix:/s"),
        ("--socket", "unix:/s", "--seconds", "1", "--connections", "1"),
        ("--socket", "tcp:1@127.0.0.1", "--seconds", "1"),
        ("--socket", "unix:", "--seconds", "1"),
        ("--socket", "inet:66666@127.0.0.1", "--seconds", "1"),
        ("--socket", "unix:/s", "--seconds", "x"),
        ("--socket", "unix:/s", "--seconds", "1", "--sessions", "0"),
        ("--socket", "unix:/s", "--seconds", "1", "--messages", "-1"),
        ("--socket", "unix:/s", "--seconds", "1", "--style", "exim"),
        ("--socket", "unix:/s", "--seconds", "1", "--reject-at", "mail"),
        ("--socket", "unix:/s", "--seconds", "1", "more"),
        ("--unheard-of",),
    ],
)
def test_usage(options: tuple[str, ...]) -> None:
    """A command line that means nothing is refused, with status 2 and a line that says why."""
    done = subprocess.run(
        [str(BENCH / "build" / "load"), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert 2 == done.returncode
    assert b"" == done.stdout
    assert b"" != done.stderr


def test_help() -> None:
    """--help names every key of the object that the generator prints."""
    done = subprocess.run(
        [str(BENCH / "build" / "load"), "--help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=False,
    )
    assert 0 == done.returncode
    with tempfile.TemporaryDirectory() as folder:
        _, result = Generator(folder).run("--connections", "1")
    assert [] == [key for key in result if key not in done.stdout]


@pytest.mark.parametrize("transport", ["unix", "inet"])
@pytest.mark.parametrize("style", ["postfix", "sendmail"])
@pytest.mark.parametrize(
    ("workload", "where", "replies"),
    [
        # In two connections of three messages: CONNECT, HELO, and nine answers to each message.
        ("full", "none", {"O": 2, "c": 2 * (2 + 3 * 8), "h": 6}),
        ("noreply", "none", {"O": 2, "c": 6, "h": 6}),
        ("reject", "helo", {"O": 2, "c": 2, "r": 2}),
        ("reject-connect", "connect", {"O": 2, "r": 2}),
    ],
)
def test_floor(
    load: Generator,
    transport: str,
    style: str,
    workload: str,
    where: str,
    replies: dict[str, int],
    keep_port: Callable[[str], int],
) -> None:
    """The bare responder answers as the benchmark's filter does, in each of its workloads."""
    program = build("floor")
    port = keep_port("127.0.0.1")
    specification = f"unix:{load.path}" if transport == "unix" else f"inet:{port}@127.0.0.1"
    floor = subprocess.Popen([program, specification, workload], stdin=subprocess.DEVNULL)
    try:
        family = socket.AF_UNIX if transport == "unix" else socket.AF_INET
        address = load.path if transport == "unix" else ("127.0.0.1", port)
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket(family) as probe:
                if probe.connect_ex(address) == 0:
                    break
            assert floor.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status, result = load.run(
            *("--connections", "2", "--messages", "3", "--style", style, "--reject-at", where),
            *("--headers", "2"),
            specification=specification,
        )
    finally:
        floor.kill()
        floor.wait()
    assert None is result["first_error"]
    assert 0 == status
    assert replies == result["replies"]
