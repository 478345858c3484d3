"""A filter of bare sockets that writes down every packet it gets, and answers by a table.

It knows nothing of this package, so that what it saw of a real mail server and what it saw of the
simulated one can be compared (wire spec 1 and 2).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

#: Packets that nobody answers, besides QUIT, at which the filter closes.
SILENT = frozenset(b"ADK")
CONTINUE = b"\0\0\0\x01c"
ACTIONS, PROTOCOL = 0x1FF, 0x1FFFFF


def packet(letter: str, data: bytes = b"") -> bytes:
    """Return a packet."""
    return struct.pack("!I", len(data) + 1) + letter.encode() + data


class Recorder:
    """Listens on a socket until it is closed.

    answers: what is sent back to a step: its letter (``M``), or its letter and number within the
    connection (``R2``), to packets; an empty bytes closes the connection instead, None says
    nothing. actions, protocol: what it asks for; lists: macro lists by stage number.
    """

    def __init__(self, path: str, mode: int = 0o777) -> None:
        self.path = path
        self.answers: Mapping[str, bytes | None] = {}
        self.version, self.actions, self.protocol = 6, ACTIONS, 0
        self.lists: Mapping[int, str] = {}
        #: For each connection, the packets in order: (letter, data).
        self.connections: list[list[tuple[str, bytes]]] = []
        self._changed = threading.Condition()
        self._open = 0
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        os.chmod(path, mode)
        self._socket.listen(20)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def load(
        self,
        answers: Mapping[str, bytes | None] | None = None,
        *,
        version: int = 6,
        actions: int = ACTIONS,
        protocol: int = 0,
        lists: Mapping[int, str] | None = None,
    ) -> None:
        """Begin a new record, with answers of its own."""
        self.settled()
        self.answers = answers or {}
        self.version, self.actions, self.protocol = version, actions, protocol
        self.lists = lists or {}
        self.connections = []

    def settled(self, seconds: float = 60) -> list[list[tuple[str, bytes]]]:
        """Wait until no connection is open, and return what came."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, seconds), "a connection stays"
        return self.connections

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self.settled()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with self._changed:
                self._open += 1
            threading.Thread(target=self._serve, args=(peer,)).start()

    def _serve(self, peer: socket.socket) -> None:
        seen: list[tuple[str, bytes]] = []
        try:
            with peer, peer.makefile("rb") as file:
                self._talk(peer, file, seen)
        except OSError as error:
            # No fault, as the other side may close at any time; for the report of one.
            print(f"recorder at {self.path}: {error!r}")
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _talk(self, peer: socket.socket, file: Any, seen: list[tuple[str, bytes]]) -> None:
        counts: dict[str, int] = {}
        while True:
            head = file.read(4)
            if len(head) < 4:
                return
            (size,) = struct.unpack("!I", head)
            content = file.read(size)
            letter, data = chr(content[0]), content[1:]
            if not seen:
                self.connections.append(seen)
            seen.append((letter, data))
            if letter == "O":
                options = struct.pack("!III", self.version, self.actions, self.protocol)
                for stage, names in self.lists.items():
                    options += struct.pack("!I", stage) + names.encode() + b"\0"
                peer.sendall(packet("O", options))
                continue
            if letter == "Q":
                return
            if ord(letter) in SILENT:
                continue
            counts[letter] = counts.get(letter, 0) + 1
            answer = self.answers.get(
                f"{letter}{counts[letter]}", self.answers.get(letter, CONTINUE)
            )
            if answer == b"":
                return
            if answer is not None:
                peer.sendall(answer)
