"""An MTA-side peer that sends and expects bytes, and knows nothing of the code under test.

It has no state machine, no table of commands and no decoder beyond the frame's length, so it cannot
share a mistake with the engine. What to send and what to expect is written by hand in each test.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterable
from typing import Optional, Union

Address = Union[str, tuple[str, int]]

#: Seconds until a reply, or an end of the connection, counts as missing: generous.
PATIENCE = 30.0
#: Wire spec 8: "P -> -" means that nothing comes within 300 ms.
SILENCE = 0.3


def packet(letter: str, data: bytes = b"") -> bytes:
    """One frame: length of letter and data (big-endian), letter, data (wire spec 1.1)."""
    return struct.pack("!I", 1 + len(data)) + letter.encode("latin-1") + data


def offer(version: int = 6, actions: int = 0x1FF, protocol: int = 0x1FFFFF) -> bytes:
    """An `O` packet with these three words; the default is what Postfix and Sendmail offer."""
    return packet("O", struct.pack("!III", version, actions, protocol))


def macros(stage: str, *pairs: tuple[str, str]) -> bytes:
    """A `D` packet for the stage's letter with name and value strings, each ended by NUL."""
    return packet(
        "D", stage.encode() + b"".join(b"%s\0%s\0" % (n.encode(), v.encode()) for n, v in pairs)
    )


def shown(data: bytes) -> str:
    """Bytes for a failure message: their number, their hex, their text; long ones cut."""
    head = data[:64]
    more = "..." if len(data) > 64 else ""
    return f"{len(data)} bytes {head.hex(' ')}{more} {head!r}{more}"


class Peer:
    """One connection to a milter.

    address: the path of an AF_UNIX socket, or (host, port).
    feed: how `send` writes: "whole" in one write; "bytes" one byte at a time, each written only
    when the one before has been read; or an iterable of positions in the stream of all bytes sent
    on this connection, at which a write ends.
    patience: seconds until an `expect` gives up.
    """

    def __init__(
        self,
        address: Address,
        feed: Union[str, Iterable[int]] = "whole",
        patience: float = PATIENCE,
    ) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.patience = patience
        self.feed = feed if isinstance(feed, str) else sorted(set(feed))
        self.sent = 0
        self.received = 0
        self.socket.settimeout(patience)
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    # -- writing ---------------------------------------------------------------------------------

    def send(self, *packets: bytes) -> None:
        """Write the packets, one after the other without a pause, in the way that `feed` says.

        A milter that has closed already is not an error here: what the test expects next decides.
        """
        data = b"".join(packets)
        if self.feed == "whole":
            cuts: list[int] = []
        elif self.feed == "bytes":
            cuts = list(range(1, len(data)))
        else:
            cuts = [c - self.sent for c in self.feed if 0 < c - self.sent < len(data)]
        self.sent += len(data)
        self.send_cut(data, cuts)

    def send_bytes(self, data: bytes) -> None:
        """Write one byte at a time, each when the one before has been read."""
        self.send_cut(data, range(1, len(data)))

    def send_cut(self, data: bytes, cuts: Iterable[int]) -> None:
        """Write data in pieces that end at these positions, each when the last has been read."""
        edges = [0, *cuts, len(data)]
        try:
            for start, end in zip(edges, edges[1:]):
                if start:
                    self._await_read()
                self.socket.sendall(data[start:end])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _await_read(self) -> None:
        """Wait until the milter has taken what was sent, or a moment if it is busy elsewhere.

        The kernel tells how much is unread (unix socket) or unacknowledged (TCP); without this,
        single bytes would meet again in the milter's receive queue and none would be alone.
        """
        deadline = time.monotonic() + 0.25
        while time.monotonic() < deadline:
            unread = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            if unread == b"\0\0\0\0":
                return
            time.sleep(0.00002)

    def half_close(self) -> None:
        """Send EOF, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both directions; may be called again."""
        self.socket.close()

    def reset(self) -> None:
        """Vanish: on TCP the milter gets RST, not FIN; on a unix socket this is `close`."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    # -- reading ---------------------------------------------------------------------------------

    def _recv(self, size: int, patience: Optional[float] = None) -> Optional[bytes]:
        """Up to size bytes; b"" at the end of the connection; None when patience is over."""
        self.socket.settimeout(self.patience if patience is None else patience)
        try:
            piece = self.socket.recv(size)
            self.received += len(piece)
            return piece
        except socket.timeout:
            return None
        except ConnectionResetError:
            return b""  # the milter closed while bytes of ours lay unread: closed it is

    def read(self, size: int) -> bytes:
        """Exactly size bytes, or fewer if the connection ends or patience does."""
        got = b""
        while len(got) < size:
            piece = self._recv(size - len(got))
            if not piece:
                break
            got += piece
        return got

    def expect(self, *expected: bytes) -> None:
        """Exactly these bytes come next; nothing is said about what follows them."""
        want = b"".join(expected)
        got = b""
        end = ""
        while len(got) < len(want):
            piece = self._recv(len(want) - len(got))
            if not piece:
                end = ", then silence" if piece is None else ", then the connection ended"
                break
            got += piece
        assert want == got, f"expected {shown(want)}\n     got {shown(got)}{end}"

    def expect_nothing(self, seconds: float = SILENCE) -> None:
        """No byte comes for that long, and the connection stays open."""
        got = self._recv(4096, seconds)
        assert got is None, f"expected silence, got {shown(got) if got else 'the end'}"

    def expect_close(self) -> None:
        """The milter closes, without a further byte."""
        got = self._recv(4096)
        assert got is not None, "expected the milter to close, but the connection stays open"
        assert got == b"", f"expected the milter to close, got {shown(got)}"

    def read_packet(self) -> tuple[str, bytes]:
        """The next packet as (letter, data); AssertionError if it is not complete."""
        head = self.read(5)
        assert len(head) == 5, f"expected a packet, got {shown(head)}"
        length = struct.unpack("!I", head[:4])[0]
        data = self.read(length - 1)
        assert len(data) == length - 1, f"expected {length - 1} bytes of data, got {shown(data)}"
        return head[4:].decode("latin-1"), data

    def read_all(self) -> bytes:
        """Everything up to the end of the connection; AssertionError if it does not end."""
        got = b""
        while True:
            piece = self._recv(65536)
            assert piece is not None, f"no end of the connection after {shown(got)}"
            if not piece:
                return got
            got += piece

    # -- both ------------------------------------------------------------------------------------

    def ask(self, command: bytes, *replies: bytes) -> None:
        """Send the command and expect exactly these replies; with none given, `c`."""
        self.send(command)
        self.expect(*(replies or (b"\0\0\0\1c",)))

    def play(self, *commands: bytes) -> None:
        """Send the commands one after the other, each when the one before was answered by `c`."""
        for command in commands:
            self.ask(command)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
