"""A redis server of the test's own, on a Unix socket in its directory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE = 60.0  # seconds until it must answer


class RedisServer:
    """A server without a port, that keeps nothing on the disk.

    Args:
        directory: for its socket; the path must be short enough for one.
        options: more of its command line.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no redis-server: run scripts/setup-services")
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            program,
            *("--port", "0"),
            *("--unixsocket", str(self.socket)),
            *("--dir", str(directory)),
            *("--save", ""),
            *("--logfile", str(directory / "redis.log")),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while self.ask(b"PING") != b"+PONG\r\n":
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def ask(self, line: bytes) -> bytes:
        """Return the answer to an inline command; b"" if there is none to be had."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            try:
                sock.connect(str(self.socket))
                sock.sendall(line + b"\r\n")
                return sock.recv(65536)
            except OSError:
                return b""

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
