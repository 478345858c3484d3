"""A filter in raw sockets for the tests of torture: right as it is, wrong as it is asked to be.

    python torture_filter.py SOCKET [FAULT]

Stands alone, and knows nothing of the package: what it does is read off the wire spec by hand.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading

RANKS = {"M": 0, "R": 1, "T": 2, "L": 3, "N": 4, "B": 5, "E": 6}
REPEATS = "RLB"

FAULTS = {
    "answers twice": "1.1",
    "answers aborts": "1.1",
    "answers after quit": "row 106",
    "no answer to unknown": "1.3",
    "loses the second of two packets": "1.3",
    "reads packets whole": "1.3",
    "more actions": "row 193",
    "more protocol": "row 193",
    "newer version": "row 193",
    "lists that were not offered": "2.5",
    "skips early": "2.4",
    "change in the envelope": "row 196",
    "change that was not agreed": "row 196",
    "answers what it said it would not": "1.1",
    "trailing byte": "1.4",
    "reply without NUL": "1.4",
    "bad code": "4.4",
    "quarantine without a reason": "wire spec 5",
    "body resumed": "wire spec 5",
    "does not close": "1.3",
    "does not see the end": "3.2",
    "hangs on letters": "rows 10",
    "answers letters": "rows 10",
    "wraps lengths": "row 7",
    "answers malformed mail": "row 69",
    "answers a short offer": "row 21",
    "answers version 1": "rows 17",
    "closes on odd macros": "rows 79",
    "answers odd macros": "rows 79",
    "answers recipients outside": "row 97",
    "answers a second offer": "row 52",
    "dies of noise": "7.2",
    "one at a time": "7.2",
    "remembers a vanished client": "7.2",
    "counts commands": "1.3",
    "second message": "1.3",
    "dies of a body without the headers' end": "1.1",  # of what it does before
}
"""What can be planted, and a part of the rule that it breaks."""


def frame(letter: str, data: bytes = b"") -> bytes:
    """One packet (wire spec 1.1)."""
    return struct.pack("!I", 1 + len(data)) + letter.encode("latin-1") + data


class Closed(Exception):
    pass


class Filter:
    """One filter; `broken` and `fault` say what is wrong with it."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.broken = False

    def serve(self, listener: socket.socket) -> None:
        while True:
            peer, _ = listener.accept()
            if self.fault == "one at a time":
                self.connection(peer)
            else:
                threading.Thread(target=self.connection, args=(peer,), daemon=True).start()

    def connection(self, peer: socket.socket) -> None:
        session = Session(self, peer)
        try:
            session.run()
        except (Closed, OSError):
            pass
        finally:
            keeps = self.fault == "does not close" and session.quit
            keeps = keeps or (self.fault == "does not see the end" and session.ended)
            if keeps:
                threading.Event().wait(20)
            peer.close()


class Session:
    """One connection."""

    def __init__(self, owner: Filter, peer: socket.socket) -> None:
        self.owner = owner
        self.fault = owner.fault
        self.peer = peer
        self.buffer = b""
        self.rank: int | None = None
        self.begun = self.negotiated = self.quit = self.ended = False
        self.offered = (0, 0, 0)
        self.messages = self.commands = self.bodies = 0
        self.headers_ended = self.asked_for_unknown = False

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            more = self.peer.recv(65536)
            if not more:
                self.ended = True
                if self.fault == "remembers a vanished client" and self.buffer:
                    self.owner.broken = True
                raise Closed
            self.buffer += more
            if self.fault == "reads packets whole":
                size = min(size, len(self.buffer))
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        if self.fault == "loses the second of two packets" and size > 4 and len(self.buffer) > 4:
            self.buffer = b""
        return data

    def say(self, letter: str, data: bytes = b"") -> None:
        self.peer.sendall(frame(letter, data))

    def run(self) -> None:
        if self.owner.broken:
            return
        while True:
            size = int.from_bytes(self.read(4), "big")
            if self.fault == "wraps lengths" and size >= 0x80000000:
                size = 1
            if not 1 <= size <= 1 << 21:
                if self.fault == "dies of noise":
                    os._exit(1)
                raise Closed
            packet = self.read(size)
            letter, data = packet[:1].decode("latin-1"), packet[1:]
            self.commands += 1
            if self.fault == "counts commands" and self.commands > 40:
                continue
            if not self.negotiated:
                if letter != "O":
                    if letter in "HMUCRTLNBEAK":
                        continue
                    raise Closed
                self.offer(data)
            else:
                self.packet(letter, data)

    def offer(self, data: bytes) -> None:
        if len(data) < 12 and self.fault == "answers a short offer":
            data = struct.pack("!III", 6, 0x1FF, 0x1FFFFF)
        if len(data) < 12:
            raise Closed
        version, actions, protocol = struct.unpack("!III", data[:12])
        self.offered = version, actions, protocol
        if version == 1 and self.fault == "answers version 1":
            version = 6
        if not 2 <= version < 1 << 31:
            raise Closed
        version = min(version, 6)
        mine, lists = 0, b""
        if self.fault == "more actions":
            actions |= 0x1FF
        if self.fault == "more protocol":
            mine = 0x400
        if self.fault == "newer version":
            version = 6
        if self.fault == "change that was not agreed":
            actions &= ~0x20
        if self.fault == "lists that were not offered":
            lists = b"\0\0\0\2i\0"
        if self.fault == "answers what it said it would not":
            mine |= 0x2000 & protocol
        self.negotiated = True
        self.say("O", struct.pack("!III", version, actions, mine) + lists)
        self.agreed = actions, mine

    def packet(self, letter: str, data: bytes) -> None:
        if letter == "D":
            return self.macros(data)
        if letter == "Q":
            self.quit = True
            if self.fault == "answers after quit" and self.buffer:
                self.say("c")
            raise Closed
        if letter == "O":
            if self.fault == "answers a second offer":
                self.say("O", struct.pack("!III", 6, 0, 0))
            return None
        if letter == "A":
            if self.fault == "answers aborts" and self.rank is not None:
                self.say("c")
            self.rank = None
            return None
        if letter == "K":
            self.begun, self.rank = False, None
            return None
        if letter not in "CHMRTLNBEU":
            if self.fault == "answers letters":
                self.say("c")
                return None
            if self.fault == "hangs on letters":
                threading.Event().wait(20)
            raise Closed
        self.check(letter, data)
        if self.order(letter):
            self.answer(letter)
        return None

    def macros(self, data: bytes) -> None:
        if not data:
            raise Closed
        if data[:1] not in b"CHMRTLNBEU" or (data[1:] and not data.endswith(b"\0")):
            if self.fault == "closes on odd macros":
                raise Closed
            if self.fault == "answers odd macros":
                self.say("c")

    def check(self, letter: str, data: bytes) -> None:
        """Raises Closed if the packet cannot be read."""
        strings = data.split(b"\0")
        if letter == "C":
            _, _, rest = data.partition(b"\0")
            if not rest or rest[:1] not in b"46LU":
                raise Closed
            if rest[:1] != b"U":
                if len(rest) < 4 or b"\0" not in rest[3:]:
                    raise Closed
                address = rest[3:].split(b"\0")[0].decode()
                if rest[:1] in b"46":
                    six = rest[:1] == b"6"
                    if six and address[:5].lower() == "ipv6:":
                        address = address[5:]
                    try:
                        socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
                    except OSError:
                        raise Closed from None
        elif letter in "HMRU" and b"\0" not in data:
            if not (self.fault == "answers malformed mail" and letter == "M" and data):
                raise Closed
        elif letter == "L" and self.rank is not None:
            if len(strings) < 3 or not strings[0]:
                raise Closed
        elif letter == "B" and not data:
            raise Closed

    def order(self, letter: str) -> bool:
        """Whether it is answered, by wire spec 3.4."""
        if letter == "U":
            return True
        if letter == "C":
            fresh, self.begun = not self.begun, True
            return fresh
        self.begun = True
        if letter == "H":
            self.rank = None
            return True
        rank = RANKS[letter]
        if letter == "M":
            self.rank = 0
            return True
        if self.rank is None:
            return letter == "R" and self.fault == "answers recipients outside"
        again = rank == self.rank and letter not in REPEATS
        if rank < self.rank or again or (self.rank == 0 and rank > 1):
            self.rank = None
            return False
        self.rank = None if letter == "E" else rank
        return True

    def answer(self, letter: str) -> None:
        fault, (actions, mine) = self.fault, self.agreed
        if letter == "H" and mine & 0x2000 and self.messages == 0:
            return
        if letter == "U" and fault == "no answer to unknown":
            return
        if letter == "M":
            self.messages += 1
        if letter == "M" and self.messages == 2 and fault == "second message":
            return
        if fault == "dies of a body without the headers' end":
            if letter == "B" and not self.headers_ended:
                os._exit(1)
            self.headers_ended = letter in "NB"
            # What is found first, and looked for a smaller play for.
            self.asked_for_unknown = letter == "U" or (self.asked_for_unknown and letter != "M")
            if letter == "N" and self.asked_for_unknown:
                self.say("c")
        if letter == "R" and fault == "change in the envelope":
            self.say("h", b"X\0y\0")
        if letter == "L" and fault == "skips early":
            self.say("s")
            return
        if letter == "B" and fault == "trailing byte":
            self.say("c", b"\0")
            return
        if letter == "N" and fault == "reply without NUL":
            self.say("y", b"550 no")
            return
        if letter == "T" and fault == "bad code":
            self.say("y", b"250 fine\0")
            return
        if letter == "E":
            if fault == "change that was not agreed":
                self.say("q", b"why\0")
            if fault == "quarantine without a reason" and actions & 0x20:
                self.say("q", b"\0")
            if fault == "body resumed" and actions & 3 == 3:
                self.say("b", b"1\r\n")
                self.say("h", b"X\0y\0")
                self.say("b", b"2\r\n")
        self.say("c")
        if letter == "H" and fault == "answers twice":
            self.say("c")


def main() -> None:
    """Serve until killed."""
    path, fault = sys.argv[1], "".join(sys.argv[2:])
    assert not fault or fault in FAULTS, fault
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(50)
    Filter(fault).serve(listener)


if __name__ == "__main__":
    main()
