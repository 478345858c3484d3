"""Start, stop and signals of a whole process, under pymilter and under us (API spec 1.14)."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidebyside import HERE, PATIENCE, Side

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


class Life:
    """A process running life.py."""

    def __init__(self, side: Side, *modes: str) -> None:
        self.side = side.name
        self.path = side.directory / "life.sock"
        self.path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [str(side.python), str(HERE / "life.py"), str(self.path), *modes],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=side.environment,
            cwd=side.directory,
        )
        self.connections: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Wait until the filter listens; return a connection that has negotiated."""
        deadline = time.monotonic() + PATIENCE
        connection = socket.socket(socket.AF_UNIX)
        self.connections.append(connection)
        connection.settimeout(PATIENCE)
        while True:
            try:
                connection.connect(str(self.path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        connection.sendall(struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF))
        assert b"\0\0\0\x0dO" == connection.recv(17)[:5]
        return connection

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end of the process; return its status and what it printed."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        for connection in self.connections:
            connection.close()
        # libmilter leaves it behind when it runs as root.
        self.path.unlink(missing_ok=True)
        return self.process.returncode, output.decode("utf-8", "replace").splitlines()

    def kill(self) -> None:
        """End the process if a test has left it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def lives() -> Iterator[list[Life]]:
    """Collect the processes of a test, to end what it leaves."""
    result: list[Life] = []
    yield result
    for life in result:
        life.kill()


@pytest.fixture
def sides(waiting: str, theirs: Side, ours: Side) -> list[Side]:
    """The sides to look at. Each end costs libmilter five seconds, and what it does is written
    down in the tests: it is looked at once, and ours in each way of waiting."""
    return [theirs, ours] if waiting == "thread" else [ours]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(sides: list[Side], lives: list[Life], number: signal.Signals) -> None:
    """Each of the three makes runmilter return None, and the code after it runs."""
    lives += [Life(side) for side in sides]
    for life in lives:
        life.connect().close()
        life.process.send_signal(number)
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        # The callbacks of the connection may come before the signal or be lost with the stop.
        assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_stop_from_a_thread(sides: list[Side], lives: list[Life]) -> None:
    """Milter.stop() in another thread makes runmilter return; the callback's reply still comes."""
    lives += [Life(side, "stop") for side in sides]
    for life in lives:
        connection = life.connect()
        connection.sendall(b"\0\0\0\x06Hh.ex\0")
        assert b"\0\0\0\x01c" == connection.recv(5)
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_handlers(sides: list[Side], lives: list[Life]) -> None:
    """Python's own handlers never run there, not even afterwards; here they do (design, 5)."""
    lives += [Life(side, "handler") for side in sides]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    # The second signal comes after the return: blocked there, handled here.
    expected = {
        "theirs": ["start", "returned None", "end"],
        "ours": ["start", "handled SIGTERM", "returned None", "handled SIGTERM", "end"],
    }
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        assert expected[life.side] == [line for line in lines if line != "close"]


def test_a_thread_started_before(sides: list[Side], lives: list[Life]) -> None:
    """With another thread SIGTERM kills the process there; here it stops it as always."""
    lives += [Life(side, "thread") for side in sides]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    for life in lives:
        status, lines = life.end()
        if life.side == "theirs":
            assert -signal.SIGTERM == status
            assert "end" not in lines
        else:
            assert 0 == status
            assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_restart(sides: list[Side], lives: list[Life]) -> None:
    """After a stop, runmilter returns at once there, for ever; here it serves again."""
    lives += [Life(side, "twice") for side in sides]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    for life in lives:
        first = []
        assert life.process.stdout is not None
        while life.side == "ours" and "returned None" not in first:
            first.append(life.process.stdout.readline().decode().strip())
            assert "" not in first
        if life.side == "ours":
            # Negotiated, so the second run serves, and has its handlers.
            life.connect().close()
            life.process.send_signal(signal.SIGTERM)
        status, lines = life.end()
        assert 0 == status
        assert ["start", "returned None", "returned None", "end"] == [
            line for line in first + lines if line != "close"
        ]


def test_socket_file(sides: list[Side], lives: list[Life]) -> None:
    """As root the socket's file stays there; here it goes (wire spec row 176)."""
    if os.geteuid() != 0:
        pytest.skip("not here: the two differ for root only")
    lives += [Life(side) for side in sides]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
        life.process.wait(timeout=PATIENCE)
        assert (life.side == "theirs") == Path(life.path).exists()
        life.end()
