"""DNS servers for tests: NSD, a real authoritative one, and one that misbehaves on order."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.ports import reserved

NSD = shutil.which("nsd") or shutil.which("nsd", path="/usr/sbin")

CONFIGURATION = """
server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/nsd.pid"
  zonelistfile: "{directory}/zone.list"
  xfrdfile: "{directory}/xfrd.state"
  xfrdir: "{directory}"
remote-control:
  control-enable: no
"""

ZONE = """
zone:
  name: {name}
  zonefile: {name}.zone
"""


@contextlib.contextmanager
def reserved_for_both() -> Iterator[int]:
    """As `reserved`, and the port is free for UDP as well, at the beginning."""
    while True:
        with reserved() as port:
            with socket.socket(type=socket.SOCK_DGRAM) as datagram:
                try:
                    datagram.bind(("127.0.0.1", port))
                except OSError:
                    continue
            yield port
            return


class Nsd:
    """A private NSD on 127.0.0.1 that knows the given zones, name -> the zone file's text."""

    def __init__(self, directory: Path, zones: dict[str, str]) -> None:
        assert NSD is not None
        with reserved_for_both() as self.port:
            self._start(directory, zones)

    def _start(self, directory: Path, zones: dict[str, str]) -> None:
        """Start it, and wait until it answers."""
        text = CONFIGURATION.format(port=self.port, directory=directory)
        for name, records in zones.items():
            (directory / f"{name}.zone").write_text(records, encoding="ascii")
            text += ZONE.format(name=name)
        (directory / "nsd.conf").write_text(text, encoding="ascii")
        self._log = directory / "nsd.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [NSD, "-d", "-c", str(directory / "nsd.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        """Wait until it answers over TCP, which it opens last."""
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                if b"nsd started" in self._log.read_bytes():
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text("utf-8", "replace"))
            time.sleep(0.01)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Scripted:
    """A server over UDP on 127.0.0.1 that answers as *answer* says: query -> reply, None for none.

    Attribute `queries`: what was asked, as it came.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer
        self.queries: list[bytes] = []
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(4096)
            if query == b"stop":
                return
            self.queries.append(query)
            reply = self._answer(query)
            if reply is not None:
                self._socket.sendto(reply, peer)

    def close(self) -> None:
        """End it."""
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"stop", ("127.0.0.1", self.port))
        self._thread.join(30)
        self._socket.close()
