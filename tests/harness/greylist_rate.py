#!/usr/bin/env python3
"""Measures how many checks per second a greylist does, for docs/greylist.md.

    python tests/harness/greylist_rate.py

Each process goes through a thousand triples in turn, all of them on one list.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

CHECKS = 50_000


def worker(url: str, count: int) -> None:
    """Check, and tell how long the middle one and the slowest of a hundred have taken."""
    from Milter import greylist

    took = []
    with greylist.open(url) as store:
        print("ready", flush=True)
        sys.stdin.read()
        for number in range(count):
            before = time.perf_counter()
            store.check("192.0.2.1", f"{number % 1000}@example.com", "somebody@example.net")
            took.append(time.perf_counter() - before)
    took.sort()
    print(took[count // 2], took[count * 99 // 100], took[-1])


def measure(kind: str, url: str, processes: int) -> None:
    """Run some workers, and print a row of the table."""
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, url, str(CHECKS // processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for each in workers:
        assert each.stdout is not None
        each.stdout.readline()
    start = time.perf_counter()
    for each in workers:
        assert each.stdin is not None
        each.stdin.close()
        each.stdin = None
    times = [[float(word) * 1000 for word in each.communicate()[0].split()] for each in workers]
    rate = CHECKS / (time.perf_counter() - start)
    worst = " | ".join(f"{max(some):.2f}" for some in zip(*times))
    print(f"| {kind} | {processes} | {rate:,.0f} | {worst} |")


def main() -> None:
    """Measure both kinds with one process and with eight."""
    from harness.redis_server import RedisServer

    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}")
    print("| list | processes | checks a second | median, ms | 99 of 100, ms | slowest, ms |")
    for processes in (1, 8):
        with tempfile.TemporaryDirectory() as directory:
            measure("SQLite", f"{directory}/grey.db", processes)
            server = RedisServer(Path(directory))
            try:
                measure("redis", server.url, processes)
            finally:
                server.stop()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        worker(sys.argv[1], int(sys.argv[2]))
    else:
        main()
