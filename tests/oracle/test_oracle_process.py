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
def lives(theirs: Side, ours: Side) -> Iterator[list[Life]]:
    """Collect the processes of a test, to end what it leaves."""
    result: list[Life] = []
    yield result
    for life in result:
        life.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(theirs: Side, ours: Side, lives: list[Life], number: signal.Signals) -> None:
    """Each of the three makes runmilter return None, and the code after it runs."""
    lives += [Life(side) for side in (theirs, ours)]
    for life in lives:
        life.connect().close()
        life.process.send_signal(number)
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        # The callbacks of the connection may come before the signal or be lost with the stop.
        assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_stop_from_a_thread(theirs: Side, ours: Side, lives: list[Life]) -> None:
    """Milter.stop() in another thread makes runmilter return; the callback's reply still comes."""
    lives += [Life(side, "stop") for side in (theirs, ours)]
    for life in lives:
        connection = life.connect()
        connection.sendall(b"\0\0\0\x06Hh.ex\0")
        assert b"\0\0\0\x01c" == connection.recv(5)
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_handlers(theirs: Side, ours: Side, lives: list[Life]) -> None:
    """Python's own handlers never run there, not even afterwards; here they do (design, 5)."""
    lives += [Life(side, "handler") for side in (theirs, ours)]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    printed = []
    for life in lives:
        status, lines = life.end()
        assert 0 == status
        printed.append([line for line in lines if line != "close"])
    # The second signal comes after the return: blocked there, handled here.
    assert ["start", "returned None", "end"] == printed[0]
    assert ["start", "handled SIGTERM", "returned None", "handled SIGTERM", "end"] == printed[1]


def test_a_thread_started_before(theirs: Side, ours: Side, lives: list[Life]) -> None:
    """With another thread SIGTERM kills the process there; here it stops it as always."""
    lives += [Life(side, "thread") for side in (theirs, ours)]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    status, lines = lives[0].end()
    assert -signal.SIGTERM == status
    assert "end" not in lines
    status, lines = lives[1].end()
    assert 0 == status
    assert ["start", "returned None", "end"] == [x for x in lines if x != "close"]


def test_restart(theirs: Side, ours: Side, lives: list[Life]) -> None:
    """After a stop, runmilter returns at once there, for ever; here it serves again."""
    lives += [Life(side, "twice") for side in (theirs, ours)]
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
    status, lines = lives[0].end()
    assert 0 == status
    assert ["start", "returned None", "returned None", "end"] == [x for x in lines if x != "close"]
    first = []
    assert lives[1].process.stdout is not None
    while "returned None" not in first:
        first.append(lives[1].process.stdout.readline().decode().strip())
        assert "" not in first
    # Negotiated, so the second run serves, and has its handlers.
    lives[1].connect().close()
    lives[1].process.send_signal(signal.SIGTERM)
    status, lines = lives[1].end()
    assert 0 == status
    assert ["start", "returned None", "returned None", "end"] == [
        line for line in first + lines if line != "close"
    ]


def test_socket_file(theirs: Side, ours: Side, lives: list[Life]) -> None:
    """As root the socket's file stays there; here it goes (wire spec row 176)."""
    if os.geteuid() != 0:
        pytest.skip("not here: the two differ for root only")
    lives += [Life(side) for side in (theirs, ours)]
    left = []
    for life in lives:
        life.connect().close()
        life.process.send_signal(signal.SIGTERM)
        life.process.wait(timeout=PATIENCE)
        left.append(Path(life.path).exists())
        life.end()
    assert [True, False] == left
