"""What the tests of Milter.mta share: packets by hand, and a filter that follows a script.

The bytes are written by hand from the wire spec; nothing here encodes or decodes with the code
under test.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any, Optional

from Milter import mta

PATIENCE = 30.0
"""Seconds after which something that does not happen has failed."""


def packet(letter: str, data: bytes = b"") -> bytes:
    """One frame (wire spec 1.1)."""
    return struct.pack("!I", 1 + len(data)) + letter.encode("latin-1") + data


def options(version: int = 6, actions: int = 0x1FF, protocol: int = 0, lists: bytes = b"") -> bytes:
    """A filter's answer to the offer."""
    return packet("O", struct.pack("!III", version, actions, protocol) + lists)


def hexed(text: str) -> bytes:
    """Bytes as the wire spec prints them."""
    return bytes.fromhex(text)


# What Postfix and Sendmail offer, and the answer of a filter that wants every step and may do
# everything.
OFFER = hexed("00 00 00 0D 4F 00 00 00 06 00 00 01 FF 00 1F FF FF")
ALL = options()
C = packet("c")


def agreed(
    version: int = 6, actions: int = 0x1FF, protocol: int = 0, lists: bytes = b"", **kind: Any
) -> mta.Protocol:
    """A conversation after the negotiation."""
    conversation = mta.Protocol(**kind)
    conversation.negotiate()
    conversation.receive(options(version, actions, protocol, lists))
    assert isinstance(conversation.next_event(), mta.Options)
    return conversation


class Script:
    """A filter at the other end of a socket pair: expects these bytes, then writes those.

    turns: (bytes expected from the MTA's side, bytes written when they have come). After the last
    one it closes; `hold`: not before the other side has.
    """

    def __init__(self, *turns: tuple[bytes, bytes], hold: bool = False) -> None:
        ours, self.theirs = socket.socketpair()
        self.ours = ours
        self.theirs.settimeout(PATIENCE)
        self.turns = turns
        self.hold = hold
        self.mistake: Optional[str] = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self.theirs:
                for expected, reply in self.turns:
                    got = b""
                    while len(got) < len(expected):
                        piece = self.theirs.recv(len(expected) - len(got))
                        if not piece:
                            break
                        got += piece
                    if got != expected:
                        self.mistake = f"expected {expected!r}, got {got!r}"
                        return
                    if reply:  # also nothing cannot be written once the other side has closed
                        self.theirs.sendall(reply)
                if self.hold:
                    rest = self.theirs.recv(4096)
                    if rest:
                        self.mistake = f"expected the end, got {rest!r}"
        except OSError as error:
            self.mistake = f"{error!r}"

    def session(self, pieces: Optional[Iterable[int]] = None, **kind: Any) -> mta.Session:
        """The MTA's side of it; `pieces`: the sizes of what each read gives."""
        kind.setdefault("timeouts", mta.Timeouts.all(PATIENCE))
        sock: Any = self.ours if pieces is None else Pieces(self.ours, pieces)
        return mta.Session(sock, **kind)

    def done(self) -> None:
        """All was as written."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the filter still waits"
        assert self.mistake is None, self.mistake


class Pieces:
    """A socket whose reads give pieces of these sizes, and after the last all there is."""

    def __init__(self, sock: socket.socket, sizes: Iterable[int]) -> None:
        self.sock = sock
        self.sizes = iter(sizes)
        self.next: Optional[int] = next(self.sizes, None)

    def recv(self, size: int) -> bytes:
        data = self.sock.recv(size if self.next is None else self.next)
        if self.next is not None and len(data) < self.next:
            self.next -= len(data)
        else:
            self.next = next(self.sizes, None)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class FromAnswer(mta.Timeouts):
    """Times that begin when something of the answer is there: over for what never comes, and not
    because the filter's thread has not had its turn.

    sock: the MTA's end. silent: steps that nothing answers; their times begin at once. times: as
    for Timeouts.
    """

    def __init__(self, sock: socket.socket, *silent: str, **times: Any) -> None:
        super().__init__(**times)
        object.__setattr__(self, "_sock", sock)
        object.__setattr__(self, "_begun", set(silent))

    def _begin(self, step: str) -> None:
        here: Any = self
        if step not in here._begun:
            here._begun.add(step)
            assert select.select([here._sock], [], [], PATIENCE)[0], f"nothing comes to {step}"

    def total_of(self, step: str) -> float:
        self._begin(step)
        return super().total_of(step)

    def of(self, step: str) -> float:
        self._begin(step)
        return super().of(step)


class OnlyAt(mta.Timeouts):
    """Times that are over soon at one step alone: at others a filter may be slow."""

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(PATIENCE, PATIENCE, PATIENCE, PATIENCE)
        object.__setattr__(self, "_only", (step, seconds))

    def of(self, step: str) -> float:
        here: Any = self
        return here._only[1] if step == here._only[0] else super().of(step)


class Simple:
    """A filter on a unix socket that answers every step alike.

    path: where it listens. replies: by letter of the command, what it writes; a list is used up,
    one for each, the last one repeats. Steps without one get CONTINUE.
    """

    def __init__(self, path: Any, replies: Optional[dict[str, Any]] = None) -> None:
        self.replies = {"O": ALL, "D": b"", "A": b"", "K": b"", **(replies or {})}
        self.letters: list[str] = []
        self.packets: list[bytes] = []
        self.connections = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(5)
        self.spec = f"unix:{path}"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with peer, peer.makefile("rwb", buffering=0) as file:
                    peer.settimeout(PATIENCE)
                    self._serve(file)
            except (EOFError, OSError):
                pass  # the other side is gone

    def _serve(self, file: Any) -> None:
        while True:
            size = int.from_bytes(_exactly(file, 4), "big")
            packet = _exactly(file, size)
            letter = packet[:1].decode()
            # In this order: who has waited for the letter may look at the packet.
            self.packets.append(packet)
            self.letters.append(letter)
            if letter == "Q":
                return
            reply = self.replies.get(letter, C)
            if isinstance(reply, list):
                reply = reply.pop(0) if len(reply) > 1 else reply[0]
            if reply is None:
                return
            if reply:
                file.write(reply)

    def __enter__(self) -> Simple:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(PATIENCE)


def _exactly(file: Any, size: int) -> bytes:
    """Reads so many bytes from a raw file; EOFError where it ends before."""
    data = b""
    while len(data) < size:
        piece: bytes = file.read(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
