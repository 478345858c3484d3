"""One MTA-side client, two filters: play a scenario to both and write down what happened.

The client knows nothing of either library: it writes bytes and reads frames (wire spec 1.1). The
filters are two processes running recorder.py, one under pymilter on libmilter and one under ours.

A scenario's steps are a string of the packets that wire spec section 8 names::

    O  offer of version 6 with everything       C H M R T L N B E A Q K U  as defined there

Each packet waits for as many verdicts as the protocol promises: one for most, none for A, Q, K and
D. A suffix says otherwise: ``L-`` expects no reply to that L (and does not wait), ``L?`` goes on
without one, for steps at which libmilter is known to be silent. Packets of another content are
given as ``(letter and suffix, data)``; ``("raw", bytes)`` writes bytes as they are. ``"|"`` ends
the connection and opens the next one to the same filter.

What came back is a string too, one word per frame: the letter, for ``O`` the three numbers in
hexadecimal, for other frames the data; ``-`` where a promised verdict did not come, ``X`` where
the filter closed the connection before we did.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Union

from milter_modes import MODES, VARIABLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ORACLE_PYTHON = ROOT / ".cache" / "oracle" / "bin" / "python"

#: How long a reply may take that must come. Only a failure waits so long.
PATIENCE = 30.0
#: How long to wait where silence is what is expected.
SILENCE = 5.0

Step = Union[str, tuple[str, bytes]]

#: The packets of wire spec section 8, "Conventions".
PACKETS = {
    "O": bytes.fromhex("00000006 000001ff 001fffff"),
    "C": b"h\x004\x04\xd2192.0.2.1\x00",
    "H": b"h\x00",
    "M": b"<a@b>\x00",
    "R": b"<c@d>\x00",
    "T": b"",
    "L": b"Subject\x00hi\x00",
    "N": b"",
    "B": b"xy\r\n",
    "E": b"",
    "A": b"",
    "Q": b"",
    "K": b"",
    "U": b"FOO\x00",
}

#: Packets that are never answered (wire spec 1.3).
UNANSWERED = frozenset("AQKD")


def frame(letter: str, data: bytes) -> bytes:
    """Return the frame of wire spec 1.1: length, letter, data."""
    return struct.pack(">I", 1 + len(data)) + letter.encode("ascii") + data


def offer(version: int, actions: int, protocol: int, extra: bytes = b"") -> tuple[str, bytes]:
    """Return the step that offers these three words."""
    return ("O", struct.pack(">III", version, actions, protocol) + extra)


def macros(stage: str, **values: str) -> tuple[str, bytes]:
    """Return the step that gives macros for *stage*; a name of several letters gets braces."""
    data = stage.encode("ascii")
    for name, value in values.items():
        key = name if len(name) == 1 else "{" + name + "}"
        data += key.encode() + b"\0" + value.encode() + b"\0"
    return ("D", data)


def render(letter: str, data: bytes) -> str:
    """Return a frame as one word of a transcript."""
    if letter == "O" and len(data) >= 12:
        version, actions, protocol = struct.unpack(">III", data[:12])
        text = f"O{version:x},{actions:x},{protocol:x}"
        rest = data[12:]
        while len(rest) > 4:
            names, _, after = rest[4:].partition(b"\0")
            text += f",{struct.unpack('>I', rest[:4])[0]}:{names.decode().replace(' ', '+')}"
            rest = after
        return text + (f",+{rest.hex()}" if rest else "")
    if not data:
        return letter
    if len(data) > 200:
        return f"{letter}[{len(data)} bytes, {data[:8]!r}...{data[-8:]!r}]"
    return f"{letter}{data!r}".replace(" ", "_")


class Closed(Exception):
    """The filter has closed the connection."""


class Wire:
    """One connection to a filter, the MTA's end of it."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.socket.connect(path)
                break
            except (ConnectionRefusedError, FileNotFoundError):  # not listening yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.pending = b""

    def write(self, data: bytes) -> None:
        """Write *data*; raise Closed if nobody is there any more."""
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def read(self, patience: float) -> tuple[str, bytes] | None:
        """Return the next frame, None if none comes in *patience* seconds; raise Closed at EOF."""
        deadline = time.monotonic() + patience
        while True:
            if len(self.pending) >= 4:
                length = struct.unpack(">I", self.pending[:4])[0]
                if len(self.pending) >= 4 + length:
                    body = self.pending[4 : 4 + length]
                    self.pending = self.pending[4 + length :]
                    return chr(body[0]), body[1:]
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            self.socket.settimeout(remaining)
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                return None
            except ConnectionResetError as error:
                raise Closed from error
            if not data:
                raise Closed
            self.pending += data

    def rest(self, patience: float = PATIENCE) -> list[str]:
        """End our half, and return every frame that still comes until the filter closes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        words = []
        try:
            while True:
                answer = self.read(patience)
                if answer is None:
                    words.append("never-closed")
                    break
                words.append(render(*answer))
        except Closed:
            pass
        if self.pending:
            words.append(f"partial:{self.pending.hex()}")
        self.socket.close()
        return words


#: Frames from the filter that are not verdicts: more follows (wire spec 1.4).
NOT_VERDICTS = frozenset("phimb+2-eq")


def play_connection(path: str, steps: list[Step], expected: str = "") -> str:
    """Play the steps of one connection and return the transcript.

    expected: what will be in it. Only where it says so there is silence to be waited for.
    """
    words_expected = expected.split()
    silence = SILENCE if "-" in words_expected else PATIENCE
    words: list[str] = []
    wire = Wire(path)
    try:
        for step in steps:
            name, data = step if isinstance(step, tuple) else (step, None)
            if name == "raw":
                assert data is not None
                wire.write(data)
                continue
            letter, suffix = name[0], name[1:]
            wire.write(frame(letter, PACKETS[letter] if data is None else data))
            if suffix == "-" or letter in UNANSWERED:
                continue
            while True:
                answer = wire.read(silence if suffix == "?" else PATIENCE)
                if answer is None:
                    words.append("-")
                    break
                words.append(render(*answer))
                if answer[0] not in NOT_VERDICTS:
                    break
    except Closed:
        words.append("X")
    words += wire.rest(SILENCE if "never-closed" in words_expected else PATIENCE)
    return " ".join(words)


def parse(steps: tuple[Step, ...]) -> list[list[Step]]:
    """Split a scenario's steps into connections of single packets."""
    connections: list[list[Step]] = [[]]
    for step in steps:
        for item in step.split() if isinstance(step, str) else [step]:
            if item == "|":
                connections.append([])
            else:
                connections[-1].append(item)
    return connections


class Side:
    """One of the two libraries: its interpreter, and a recorder process for each kind."""

    def __init__(self, name: str, python: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.python = python
        self.environment = environment
        # A path of a unix socket must be short, so not pytest's own temporary directory.
        self.directory = Path(tempfile.mkdtemp(prefix=f"oracle-{name}-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def path(self, process: str, what: str) -> Path:
        """Return the path of a file of that recorder process."""
        return self.directory / f"{process}.{what}"

    def start(self, process: str) -> None:
        """Make sure that a recorder process runs and listens.

        process: "base" or "low", and anything after a hyphen for another process of that kind.
        """
        running = self.processes.get(process)
        if running is not None and running.poll() is None:
            return
        self.path(process, "behaviour").write_text("{}", encoding="utf-8")
        self.path(process, "out").write_text("", encoding="utf-8")
        # One that has died leaves its socket behind.
        self.path(process, "sock").unlink(missing_ok=True)
        with open(self.path(process, "log"), "ab") as log:
            running = subprocess.Popen(
                [
                    str(self.python),
                    str(HERE / "recorder.py"),
                    *("--kind", process.partition("-")[0]),
                    *("--socket", f"unix:{self.path(process, 'sock')}"),
                    *("--behaviour", str(self.path(process, "behaviour"))),
                    *("--out", str(self.path(process, "out"))),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.directory,
            )
        self.processes[process] = running
        deadline = time.monotonic() + PATIENCE
        while not self.path(process, "sock").exists():
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: no recorder:\n{self.log(process)}")
            time.sleep(0.02)

    def log(self, process: str) -> str:
        """Return what the recorder printed."""
        return self.path(process, "log").read_text(encoding="utf-8", errors="replace")

    def events(self, process: str) -> list[dict[str, Any]]:
        """Return the callbacks that the recorder has written down, without a line in the making."""
        lines = self.path(process, "out").read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def play(
        self,
        process: str,
        behaviour: dict[str, Any],
        steps: tuple[Step, ...],
        closes: bool = True,
        expected: str = "",
    ) -> tuple[str, list[dict[str, Any]]]:
        """Play a scenario; return the transcript and the recorded callbacks.

        closes: whether a close callback is promised, to wait for, at the end of each connection.
        expected: the transcript, where it is known; see `play_connection`.
        """
        self.start(process)
        self.path(process, "behaviour").write_text(json.dumps(behaviour), encoding="utf-8")
        self.path(process, "out").write_text("", encoding="utf-8")
        transcripts = []
        for number, connection in enumerate(parse(steps), 1):
            transcripts.append(
                play_connection(str(self.path(process, "sock")), connection, expected)
            )
            deadline = time.monotonic() + PATIENCE
            while closes:
                closed = sum(event["cb"] == "close" for event in self.events(process))
                if closed >= number:
                    break
                if time.monotonic() > deadline or self.processes[process].poll() is not None:
                    transcripts.append("no-close-callback")
                    break
                time.sleep(0.002)
        return " | ".join(transcripts), self.events(process)

    def restart(self, process: str) -> None:
        """End that recorder process, so that the next scenario starts a new one."""
        running = self.processes.pop(process, None)
        if running is not None:
            # libmilter takes up to five seconds to notice SIGTERM, and nothing is lost here.
            running.send_signal(signal.SIGKILL)
            running.wait()
            self.path(process, "sock").unlink(missing_ok=True)

    def stop(self) -> None:
        """End the recorders that this object started."""
        for process in list(self.processes):
            self.restart(process)
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()


def environment(ours: bool) -> dict[str, str]:
    """Return the environment for a process of one side."""
    result = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if ours and not installed():
        result["PYTHONPATH"] = str(ROOT)
    return result


def installed() -> bool:
    """Tell whether our package is imported from somewhere else than this source tree."""
    import Milter

    return ROOT not in Path(Milter.__file__).resolve().parents


def our_side(waiting: str) -> Side:
    """Return the side of the package under test in that way of waiting."""
    variables = {**environment(ours=True), VARIABLE: MODES[waiting]}
    return Side("ours", Path(sys.executable), variables)


def their_side() -> Side:
    """Return the side of pymilter on libmilter."""
    return Side("theirs", ORACLE_PYTHON, environment(ours=False))


def names(events: list[dict[str, Any]]) -> str:
    """Return the callbacks in their order, as one string."""
    return " ".join(event["cb"] for event in events)
