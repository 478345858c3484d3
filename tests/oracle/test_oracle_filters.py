"""Legacy filters, each a script of its own, under pymilter on libmilter and under us, unchanged.

Each of filters/*.py gets the same SMTP dialogues from a client that behaves as a mail server does:
it leaves out the steps that were negotiated away and goes by the verdicts. The bytes that come
back, what the script prints and how it ends must be the same.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidebyside import (
    HERE,
    NOT_VERDICTS,
    PATIENCE,
    Closed,
    Side,
    Wire,
    frame,
    macros,
    offer,
    render,
)

pytestmark = pytest.mark.oracle

#: Filters that are played once for each of these arguments, which stand behind a colon here.
ARGUMENTS = {"exception_policy": ("CONTINUE", "REJECT", "TEMPFAIL")}

FILTERS = sorted(
    f"{path.stem}:{argument}" if argument else path.stem
    for path in (HERE / "filters").glob("*.py")
    for argument in ARGUMENTS.get(path.stem, ("",))
)

#: Filters whose other threads or handlers let SIGTERM end them otherwise under pymilter, in which
#: a thread that was started before runmilter takes the signal and dies of it (docs/porting.md).
KILLED_THERE = {"database_thread"}
#: Filters that end when their standard input does.
ENDED_BY_STDIN = {"stops_itself"}
#: What these rely on is not promised by the pool (docs/pool.md).
THREAD_BOUND = {"locals_of_threads"}

#: How the package's own log begins in a filter that sends every logger's lines to its output.
OUR_LOG = "Milter INFO "

#: Letter -> the bits that switch the step, and its answer, off (wire spec 2.2).
NO = {"C": 0x1, "H": 0x2, "M": 0x4, "R": 0x8, "B": 0x10, "L": 0x20, "N": 0x40, "U": 0x100,
      "T": 0x200}  # fmt: skip
NO_REPLY = {"L": 0x80, "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000, "T": 0x10000,
            "U": 0x20000, "N": 0x40000, "B": 0x80000}  # fmt: skip

MULTIPART = (
    b'--b\r\nContent-Type: text/plain; name="notes.txt"\r\n\r\nplain\r\n'
    b'--b\r\nContent-Type: application/octet-stream; name="game.exe"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nTVqQAAMAAAAEAAAA\r\n--b--\r\n"
)


def client(name: str, family: str, port: int, address: str) -> bytes:
    """Return the data of a connect packet (wire spec 1.3)."""
    if family == "U":
        return name.encode() + b"\0U"
    end = address.encode() + b"\0"
    return name.encode() + b"\0" + family.encode() + struct.pack(">H", port) + end


class Mail:
    """A message of a dialogue.

    headers: pairs of bytes. gives_up: the step after which the client resets, or None.
    """

    def __init__(
        self,
        sender: bytes = b"<alice@example.com>",
        recipients: tuple[bytes, ...] = (b"<bob@example.net>",),
        headers: tuple[tuple[bytes, bytes], ...] = ((b"Subject", b"hello"),),
        body: tuple[bytes, ...] = (b"Hello there.\r\n",),
        gives_up: str | None = None,
    ) -> None:
        self.sender = sender
        self.recipients = recipients
        self.headers = headers
        self.body = body
        self.gives_up = gives_up


PLAIN = Mail()
RICH = Mail(
    b"<Alice@Example.COM>\0SIZE=1000\0BODY=8BITMIME",
    (b"<bob@example.net>\0NOTIFY=SUCCESS", b"<carol@example.net>", b'"d e"@example.net'),
    (
        (b"Received", b"from a\n\tby b"),
        (b"Received", b"from c\n\tby d"),
        (b"From", b"=?utf-8?q?J=C3=BCrgen?= <alice@example.com>"),
        (b"Subject", b"please replace this"),
        (b"Content-Type", b'multipart/mixed; boundary="b"'),
        (b"X-Empty", b""),
    ),
    (MULTIPART[:100], MULTIPART[100:]),
)
SPAM = Mail(
    b"<spam@bad.example>",
    (b"<spamtrap@example.net>", b"<late@example.net>", b"<bob@example.net>"),
    ((b"Subject", b"buy viagra now"), (b"X-Spam", b"yes"), (b"Received", b"from e")),
    (b"x" * 5000 + b"\r\n",),
)
NULL_SENDER = Mail(b"<>", (b"<bob@example.net>", b"<devnull@example.net>"))
EIGHT_BIT = Mail(
    b"<j\xc3\xbcrgen@none.example>",
    (b"<b\xf6b@example.net>",),
    ((b"Subject", b"\xe4\xf6\xfc"), (b"X-Utf", b"\xc3\xa4"), (b"X-Space", b"  two")),
    (b"\xff\xfe\r\n",),
)

V4 = client("mail.example.com", "4", 1234, "192.0.2.1")
V6 = client("six.example.com", "6", 25, "2001:db8::1")
LOCAL = client("localhost", "L", 0, "/run/socket")
UNKNOWN = client("unknown", "U", 0, "")

#: Connections: the client, its HELO, its messages, and how it goes: Q says so, X vanishes.
DIALOGUES: list[tuple[bytes, bytes, list[Mail], str]] = [
    (V4, b"mail.example.com", [PLAIN, RICH], "Q"),
    (V6, b"bad.example", [SPAM, PLAIN], "Q"),
    (UNKNOWN, b"[192.0.2.9]", [NULL_SENDER], "X"),
    (LOCAL, b"trusted", [PLAIN], "Q"),
    (client("adsl-1-2-0-192.example.net", "4", 9, "192.0.2.1"), b"h", [EIGHT_BIT], "X"),
    (V4, b"h", [Mail(gives_up="M"), Mail(gives_up="R"), Mail(gives_up="B"), PLAIN], "Q"),
    (V4, b"h", [Mail(b"<later@example.com>"), SPAM, RICH], "Q"),
    (V4, b"h", [Mail(gives_up="L")], "X"),
    (V4, b"h", [], "Q"),
]


class Mta:
    """One connection, as a mail server has it: it goes by what was negotiated and answered."""

    def __init__(self, path: str) -> None:
        self.wire = Wire(path)
        self.words: list[str] = []
        self.protocol = 0

    def send(self, letter: str, data: bytes = b"") -> str:
        """Send a packet, if it is wanted; return the verdict's letter, `c` where there is none."""
        if self.protocol & NO.get(letter, 0):
            return "c"
        self.wire.write(frame(letter, data))
        if self.protocol & NO_REPLY.get(letter, 0):
            return "c"
        while True:
            answer = self.wire.read(PATIENCE)
            if answer is None:
                self.words.append(f"no-answer-to-{letter}")
                raise Closed
            self.words.append(render(*answer))
            if answer[0] == "O" and letter == "O":
                self.protocol = struct.unpack(">I", answer[1][8:12])[0]
                return "c"
            if answer[0] not in NOT_VERDICTS:
                return answer[0]

    def macros(self, stage: str, **values: str) -> None:
        """Send macros, which nobody answers."""
        self.wire.write(frame(*macros(stage, **values)))

    def session(self, address: bytes, helo: bytes, mails: list[Mail], end: str) -> None:
        """Play a whole connection."""
        self.send(*offer(6, 0x1FF, 0x1FFFFF))
        self.macros("C", j="mx.example.net", daemon_name="smtpd")
        if self.send("C", address) != "c":
            return
        # Refused here, it is refused at MAIL; the mail server asks no more (Postfix).
        if self.send("H", helo + b"\0") != "c":
            return
        for number, mail in enumerate(mails, 1):
            self.message(number, mail)
        if end == "Q":
            self.send_only("Q")

    def send_only(self, letter: str) -> None:
        """Send a packet that is never answered."""
        self.wire.write(frame(letter, b""))

    def message(self, number: int, mail: Mail) -> None:
        """Play a message up to its end, or to where it is refused or given up."""
        if self.content(number, mail) not in ("end", "vanish"):
            self.send_only("A")

    def content(self, number: int, mail: Mail) -> str:
        """Return how it came out: "end" if the verdict on the message is given."""
        self.macros("M", i=f"QUEUE{number}", mail_addr="addr", auth_type="PLAIN")
        if self.send("M", mail.sender + b"\0") != "c" or mail.gives_up == "M":
            return "abort"
        taken = 0
        for recipient in mail.recipients:
            answer = self.send("R", recipient + b"\0")
            taken += answer == "c"
            if answer in "ad":
                return "abort"
        if not taken or mail.gives_up == "R" or self.send("T") != "c":
            return "abort"
        # Postfix keeps the space behind the colon for those who ask; then it comes with it.
        space = b" " if self.protocol & 0x100000 else b""
        for name, value in mail.headers:
            if self.send("L", name + b"\0" + space + value + b"\0") != "c":
                return "abort"
        if mail.gives_up == "L" or self.send("N") != "c":
            return "abort"
        for chunk in mail.body:
            answer = self.send("B", chunk)
            if answer == "s":
                break
            if answer != "c":
                return "abort"
        if mail.gives_up == "B":
            return "abort"
        self.macros("E", i=f"QUEUE{number}")
        self.send("E")
        return "end"


class Script:
    """A filter's process."""

    def __init__(self, name: str, side: Side, environment: dict[str, str], directory: Path) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir()
        # Not all of them stay who they are.
        directory.chmod(0o777)
        script, _, argument = name.partition(":")
        self.socket = side.directory / f"{name}.sock"
        self.socket.unlink(missing_ok=True)
        with open(directory / "out", "wb") as out, open(directory / "err", "wb") as err:
            self.process = subprocess.Popen(
                [
                    str(side.python),
                    "-u",
                    str(HERE / "filters" / f"{script}.py"),
                    f"unix:{self.socket}",
                    *([argument] if argument else []),
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=directory,
            )

    def play(self) -> list[str]:
        """Play all dialogues, one after the other; return what came back in each."""
        deadline = time.monotonic() + PATIENCE
        while not self.socket.exists():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        transcripts = []
        for dialogue in DIALOGUES:
            mta = Mta(str(self.socket))
            try:
                mta.session(*dialogue)
            except Closed:
                mta.words.append("X")
            finally:
                # Until it closes, so that what it prints at the end is printed.
                mta.words += mta.wire.rest()
            transcripts.append(" ".join(mta.words))
        return transcripts

    def errors(self) -> str:
        """Return what it wrote to standard error."""
        return (self.directory / "err").read_text("utf-8", "replace")

    def stop(self) -> None:
        """Have it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.name not in ENDED_BY_STDIN:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; return its status, and what it printed."""
        status = self.process.wait(PATIENCE)
        self.socket.unlink(missing_ok=True)
        return status, (self.directory / "out").read_text("utf-8", "replace").splitlines()

    def kill(self) -> None:
        """End it if a test has left it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Result = tuple[list[str], int, list[str]]


@pytest.fixture(scope="module")
def expected(theirs: Side, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """What each filter does under pymilter; all at once, as each end takes libmilter seconds."""
    root = tmp_path_factory.mktemp("theirs")
    root.chmod(0o755)
    scripts = []
    try:
        wires = {}
        for name in FILTERS:
            scripts.append(Script(name, theirs, theirs.environment, root / name))
            wires[name] = scripts[-1].play()
            scripts[-1].stop()
        yield {script.name: (wires[script.name], *script.end()) for script in scripts}
    finally:
        for script in scripts:
            script.kill()


def compare(name: str, theirs: Result, ours: Side, threads: str, directory: Path) -> None:
    """Run the filter under us, and compare all that can be seen of it."""
    script = Script(name, ours, {**ours.environment, "MILTER_THREADS": threads}, directory / name)
    try:
        wires = script.play()
        script.stop()
        status, lines = script.end()
    finally:
        script.kill()
    # A comparison of two failures would compare equal.
    assert not any("no-answer" in wire or "never-closed" in wire for wire in theirs[0])
    assert theirs[0] == wires
    if name in KILLED_THERE:
        assert -signal.SIGTERM == theirs[1]
        assert 0 == status
    else:
        assert theirs[1] == status
    assert theirs[2] == [line for line in lines if not line.startswith(OUR_LOG)]


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in THREAD_BOUND])
def test_filter(
    name: str, waiting: str, expected: dict[str, Result], ours: Side, tmp_path: Path
) -> None:
    """The same bytes, the same output, the same exit status."""
    compare(name, expected[name], ours, "4" if waiting == "pool" else "0", tmp_path)


@pytest.mark.one_mode("what they rely on is no promise of the pool's")
@pytest.mark.parametrize("name", sorted(THREAD_BOUND))
def test_thread_bound_filter(
    name: str, waiting: str, expected: dict[str, Result], ours: Side, tmp_path: Path
) -> None:
    """The same for those that are at home in one thread, with a thread for each connection."""
    compare(name, expected[name], ours, "0", tmp_path)


def test_dialogues_reach_everything(expected: dict[str, Result]) -> None:
    """Among all filters every kind of verdict and every modification is seen."""
    letters = {
        word[0] for wires, _, _ in expected.values() for wire in wires for word in wire.split()
    }
    assert set("Ocartydshimb+2-eqp") <= letters
