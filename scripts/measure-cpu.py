#!/usr/bin/env python3
"""Compares what a message costs a filter in CPU time, here and under another interpreter.

    scripts/measure-cpu.py [--rounds N] [--messages N] PYTHON [PYTHON ...]

Each PYTHON is an interpreter that has a `Milter` package: this project's, or pymilter. The same
filter runs under each, in turn, so that a noisy machine treats them alike. It overrides every
callback and adds one header; ten sessions at once send messages of 20 headers and 8 KiB over a unix
socket, every step answered. Printed: microseconds of the filter's CPU time (user and system, of the
whole process) per message, the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FILTER = """
import sys, Milter
class Filter(Milter.Base):
    def connect(self, hostname, family, hostaddr): return Milter.CONTINUE
    def hello(self, hostname): return Milter.CONTINUE
    def envfrom(self, f, *s): return Milter.CONTINUE
    def envrcpt(self, to, *s): return Milter.CONTINUE
    def data(self): return Milter.CONTINUE
    def header(self, field, value): return Milter.CONTINUE
    def eoh(self): return Milter.CONTINUE
    def body(self, blk): return Milter.CONTINUE
    def eom(self):
        self.addheader("X-Filter", self.getsymval("i") or "-")
        return Milter.CONTINUE
Milter.factory = Filter
Milter.runmilter("measure", sys.argv[1], 60)
"""


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """One packet."""
    return struct.pack(">I", len(payload) + 1) + letter + payload


OFFER = packet(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))
BEGIN = [packet(b"C", b"client.example\x004\x04\xd2192.0.2.1\0"), packet(b"H", b"client.example\0")]
MESSAGE = [
    packet(b"D", b"Mi\x0042\0{mail_addr}\0a@b\0") + packet(b"M", b"<a@b>\0SIZE=9\0"),
    packet(b"D", b"R{rcpt_addr}\0c@d\0") + packet(b"R", b"<c@d>\0"),
    packet(b"T"),
    *[packet(b"L", b"X-Header-%d\0value number %d of a header\0" % (n, n)) for n in range(20)],
    packet(b"N"),
    packet(b"B", b"0123456789abcde\r\n" * 482),
    packet(b"D", b"E{msg_id}\0<x@y>\0") + packet(b"E"),
]


def read_reply(peer: socket.socket, until: bytes) -> None:
    """Reads packets up to and with the first of the letter `until`."""
    data = b""
    while True:
        while len(data) >= 5:
            size = struct.unpack(">I", data[:4])[0]
            if len(data) < 4 + size:
                break
            letter, data = data[4:5], data[4 + size :]
            if letter == until:
                return
        got = peer.recv(65536)
        if not got:
            raise SystemExit("the filter closed the connection")
        data += got


def play(path: str, messages: int) -> None:
    """Plays one session with that many messages."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(OFFER)
        read_reply(peer, b"O")
        for step in BEGIN:
            peer.sendall(step)
            read_reply(peer, b"c")
        for _ in range(messages):
            for step in MESSAGE:
                peer.sendall(step)
                read_reply(peer, b"c")
        peer.sendall(packet(b"Q"))


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(python: str, messages: int) -> float:
    """Returns the filter's microseconds of CPU time per message."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        filter_process = subprocess.Popen([python, "-c", FILTER, "unix:" + path], cwd=folder)
        try:
            while not os.path.exists(path):
                if filter_process.poll() is not None:
                    raise SystemExit(f"{python} cannot run the filter")
                time.sleep(0.01)
            play(path, 20)  # warm
            before = cpu_seconds(filter_process.pid)
            sessions = [
                threading.Thread(target=play, args=(path, messages // 10)) for _ in range(10)
            ]
            for session in sessions:
                session.start()
            for session in sessions:
                session.join()
            used = cpu_seconds(filter_process.pid) - before
        finally:
            filter_process.send_signal(signal.SIGKILL)
            filter_process.wait()
    return used / (messages // 10 * 10) * 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("python", nargs="+")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {python: [] for python in options.python}
    for _ in range(options.rounds):
        for python in options.python:
            figures[python].append(measure(python, options.messages))
    for python, values in figures.items():
        print(
            f"{statistics.median(values):8.0f} us per message"
            f"  ({min(values):.0f} to {max(values):.0f})  {python}"
        )


if __name__ == "__main__":
    sys.exit(main())
