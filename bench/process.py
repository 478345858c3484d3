"""A filter's process, seen from outside: starting it, what it uses, ending it. Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The filter did not come up, or went away."""


def listen_specification(tcp: bool, folder: str) -> str:
    """Returns where a filter is to listen: a socket file in `folder`, or a port free just now."""
    if not tcp:
        return f"unix:{folder}/s"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"inet:{probe.getsockname()[1]}@127.0.0.1"


def connects(specification: str) -> bool:
    """Tells whether somebody accepts connections there."""
    kind, _, where = specification.partition(":")
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as probe:
        probe.settimeout(2)
        try:
            if kind == "unix":
                probe.connect(where)
            else:
                port, _, host = where.partition("@")
                probe.connect((host, int(port)))
        except OSError:
            return False
    return True


class Filter:
    """One running contender. A context manager: at its end nothing of it is left."""

    def __init__(
        self, command: list[str], environment: dict[str, str], variant: str, tcp: bool
    ) -> None:
        """Takes the program without its two arguments, what to add to the environment, which
        variant of the filter it is to be, and whether to listen on TCP.
        """
        self._command = command
        # Only this program says how the filter waits.
        inherited = {name: os.environ[name] for name in os.environ if name[:7] != "MILTER_"}
        self._environment = {**inherited, **environment}
        self._variant = variant
        self._tcp = tcp
        # Context switches over its whole life, those of workers with them; known when it is over.
        self.switches = 0

    def __enter__(self) -> Filter:
        """Starts it, and waits until it accepts connections. Failed if it does not."""
        self._folder = tempfile.TemporaryDirectory(prefix="milter-bench-")
        self.folder = self._folder.name
        self.socket = listen_specification(self._tcp, self.folder)
        self._log = open(os.path.join(self.folder, "log"), "wb")
        try:
            self._process = subprocess.Popen(
                [*self._command, self.socket, self._variant],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        except OSError as error:
            self._log.close()
            self._folder.cleanup()
            raise Failed(f"cannot be started: {error}") from None
        deadline = time.monotonic() + 20
        while not connects(self.socket):
            if not self.alive or time.monotonic() > deadline:
                text = self.log()
                self.__exit__()
                raise Failed("does not listen: " + (text.strip()[-300:] or "no output"))
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it and all that it has started."""
        # Workers of a supervisor that was killed would stay behind, so ask first, then make sure.
        tree = self.tree()
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 0.5
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.01)
        for pid in tree:
            if pid != self._process.pid or self.alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self.alive:
            self._reap(0)
        self._log.close()
        self._folder.cleanup()

    def _reap(self, options: int) -> None:
        """Takes note of its end, and of what the system has counted for it, threads and all."""
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.switches = usage.ru_nvcsw + usage.ru_nivcsw

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        if self._process.returncode is None:
            self._reap(os.WNOHANG)
        return self._process.returncode is None

    def log(self) -> str:
        """Returns what it has printed."""
        return Path(self.folder, "log").read_text(errors="replace")

    def tree(self) -> list[int]:
        """Returns its process and all that stem from it, by id."""
        found = [self._process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    found.extend(map(int, children.read_text().split()))
                except OSError:  # the thread ended just now
                    pass
        return found

    def cpu_seconds(self) -> float:
        """Returns the CPU time of all its processes and threads so far, living and dead."""
        ticks = 0
        for pid in self.tree():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / TICK

    def resident_kib(self) -> float:
        """Returns the resident memory in KiB, pages shared with others counted in shares, so that
        workers may be summed up.
        """
        total = 0
        for pid in self.tree():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
        return total
