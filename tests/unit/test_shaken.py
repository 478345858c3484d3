"""What scripts/test-shaken puts into every process: waits, in all places that it names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHAKE = Path(__file__).resolve().parent.parent / "harness" / "shake"

PROGRAM = """
import logging, select, socket, threading, time

def seconds(call):
    start = time.monotonic()
    for _ in range(10):
        call()
    return time.monotonic() - start

one, two = socket.socketpair()
readable = select.poll()
readable.register(two, select.POLLIN)
logging.disable(logging.NOTSET)
logging.getLogger("x").addHandler(logging.NullHandler())

def thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()

for call in (
    lambda: one.send(b"x"),
    lambda: readable.poll(0),
    lambda: two.recv(1),
    lambda: socket.socket().close(),
    lambda: logging.getLogger("x").warning("w"),
    thread,
):
    print(seconds(call))
"""


def waited(library: Path, one_in: int, most: int) -> list[float]:
    """Seconds that ten calls of each kind take, with two waits of at most so many microseconds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(SHAKE),
            "DELAYS_ONE_IN": str(one_in),
            "DELAYS_US": str(most),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    return [float(line) for line in done.stdout.split()]


def test_waits(tmp_path: Path) -> None:
    """Each kind of call waits when told to do so every time, twice 10 ms on average: that twenty
    such waits are less than 20 ms happens once in 10**18 times. Told not to, none waits."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    library = tmp_path / "delays.so"
    source = SHAKE / "delays.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    shaken = waited(library, 1, 20_000)
    assert 6 == len(shaken)
    assert all(seconds > 0.02 for seconds in shaken), shaken
    # Where no call is to wait it ends, which it would not for hours.
    assert 6 == len(waited(library, 0, 1_000_000_000))
