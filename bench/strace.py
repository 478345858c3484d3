"""System calls of a running filter, counted by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from bench.process import Failed

# A line of its table: % time, seconds, microseconds a call, calls, errors if any, name.
ROW = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


def available() -> bool:
    """Tells whether there is an strace."""
    return shutil.which("strace") is not None


def calls(table: str) -> dict[str, int]:
    """Returns how often each system call was made, by name, from what `strace -c` prints."""
    return {name: int(count) for count, name in ROW.findall(table) if name != "total"}


class Counting:
    """Counts what some processes and all their threads call, while its context lasts."""

    def __init__(self, pids: list[int], folder: str) -> None:
        """Takes the processes, and a directory for the table."""
        self._pids = pids
        self._path = Path(folder, "strace")
        self.calls: dict[str, int] = {}

    def __enter__(self) -> Counting:
        """Attaches, and waits until it is attached to every thread."""
        command = ["strace", "-c", "-f", "-o", str(self._path)]
        for pid in self._pids:
            command += ["-p", str(pid)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 10
        while not all(map(self._traced, self._pids)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                complaint = self._process.communicate()[1].decode(errors="replace")
                raise Failed("strace cannot attach: " + complaint.strip()[-200:])
            time.sleep(0.02)
        return self

    def _traced(self, pid: int) -> bool:
        """Tells whether every thread of a process has a tracer."""
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            try:
                if "\nTracerPid:\t0\n" in status.read_text():
                    return False
            except OSError:  # the thread ended just now
                pass
        return True

    def __exit__(self, *_: object) -> None:
        """Detaches and reads the table."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        try:
            self.calls = calls(self._path.read_text())
        except OSError:
            pass
