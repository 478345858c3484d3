"""A socket that cuts what is written, stops in the middle of it, and keeps a record of both sides.

Stands between Milter.mta's Session and a real socket, for Milter._torture.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Optional

from Milter._mtacodec import HEAD

_LENGTH = HEAD - 1  # bytes that say how long a packet is


class Vanished(Exception):
    """The MTA leaves here, as the play says."""


class Wire:
    """A connected socket.

    Args:
        sock: the socket; it is the wire's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Writes and reads nothing."""
        self.sock = sock
        self.record: list[tuple[str, bytes]] = []
        """What was written ("mta") and read ("filter"), in order."""
        self._buffer = bytearray()
        self._length = bytearray()  # of the packet being read
        self._left = 0
        self._cuts: Sequence[int] = ()
        self._pause = 0.0
        self._most: Optional[int] = None
        self._leaving = False

    def prepare(self, cuts: Sequence[int], pause: float, most: Optional[int] = None) -> None:
        """Says how the next write is done.

        Args:
            cuts: after how many bytes a new write begins.
            pause: seconds between two of them.
            most: of so many bytes, and nothing is read after it; None: of all.
        """
        self._cuts = cuts
        self._pause = pause
        self._most = most

    # -- a socket's methods, as a Session calls them ---------------------------------------------

    def settimeout(self, seconds: Optional[float]) -> None:
        """See `socket.socket.settimeout`."""
        self.sock.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        """Writes all of it, as was prepared.

        Raises:
            Vanished: that was not all.
        """
        most = len(data) if self._most is None else self._most
        self._leaving = self._most is not None
        edges = [0, *(cut for cut in self._cuts if 0 < cut < len(data)), len(data)]
        for number, (start, end) in enumerate(zip(edges, edges[1:])):
            if number and self._pause:
                time.sleep(self._pause)
            piece = data[start : min(end, most)]
            if piece:
                self.sock.sendall(piece)
                self._note("mta", piece)
            if most < end:
                raise Vanished
        self.prepare((), 0.0)

    def recv(self, size: int) -> bytes:
        """Reads, but never more than the rest of one packet.

        So a reader that stops at a packet's end has not taken anything of the next.

        Raises:
            Vanished: the play leaves without reading this.
        """
        if self._leaving:
            raise Vanished
        if not self._buffer:
            self._buffer += self._receive(size)
        if not self._buffer:
            return b""
        if self._left:
            piece = bytes(self._buffer[: min(size, self._left)])
            self._left -= len(piece)
        else:
            piece = bytes(self._buffer[: min(size, _LENGTH - len(self._length))])
            self._length += piece
            if len(self._length) == _LENGTH:
                self._left = int.from_bytes(self._length, "big")
                self._length.clear()
        del self._buffer[: len(piece)]
        return piece

    def close(self) -> None:
        """Closes it; more than once."""
        self.sock.close()

    # -- what a Session does not do --------------------------------------------------------------

    def reset(self) -> None:
        """Closes it, and whoever reads from it or writes to it gets an error (TCP)."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def rest(self, seconds: float, half: bool) -> tuple[bytes, bool]:
        """Reads until the other side has closed.

        Args:
            seconds: at the longest.
            half: nothing more is written, and the other side is told so.

        Returns:
            What was read, and whether it has closed.
        """
        data = bytes(self._buffer)
        self._buffer.clear()
        deadline = time.monotonic() + seconds
        try:
            if half:
                self.sock.shutdown(socket.SHUT_WR)
            while True:
                self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
                more = self._receive(65536)
                if not more:
                    return data, True
                data += more
        except socket.timeout:
            return data, False
        except OSError:
            # Reset: it had closed with something unread.
            return data, True

    def _receive(self, size: int) -> bytes:
        data = self.sock.recv(size)
        if data:
            self._note("filter", data)
        return data

    def _note(self, who: str, data: bytes) -> None:
        if self.record and self.record[-1][0] == who:
            self.record[-1] = (who, self.record[-1][1] + data)
        else:
            self.record.append((who, data))
