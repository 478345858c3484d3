"""Filters that other processes are: programs that a test starts, and what runs already.

Owns how a program is told where to listen, how that is waited for, and how it is ended; what is
said to it is Milter.mta's affair. Milter.testing has the public names.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final, Optional, Union

from Milter._direct import socket_path
from Milter._mtacodec import ConnectError, MilterError
from Milter._mtasocket import open_socket, parse_spec, reason

PATIENCE: Final = 20.0
"""Seconds until a program must listen."""

_ENDING: Final = 5.0  # seconds that it gets after SIGTERM
_NUDGE: Final = 0.3  # seconds until it is reminded
_PAUSE: Final = 0.02  # seconds between two looks


class StartError(Exception):
    """A program did not become a filter that listens; the text has why, or what it said."""


StartError.__module__ = "Milter.testing"  # as users import it, and pytest prints it


class RemoteFilter:
    """A filter that listens somewhere, and is started and stopped by somebody else."""

    def __init__(self, spec: str) -> None:
        """Connects to nothing yet."""
        parse_spec(spec)
        self.spec = spec

    def open(self, timeout: float) -> socket.socket:
        """Returns a new connection."""
        return open_socket(self.spec, timeout)

    def stop(self) -> None:
        """Leaves it as it is."""


class ProcessFilter(RemoteFilter):
    """A program that is a filter, from its start to its end.

    Args:
        args: program and arguments; see :func:`command`.
        directory: for its socket and what it prints.
        spec: where it listens, if the arguments do not say so.
        cwd: the directory that it runs in; None: this process's.
        env: environment variables besides this process's, with the same words replaced.
        patience: seconds until it must listen.

    Raises:
        StartError: it does not, or cannot be started.
    """

    def __init__(
        self,
        args: Sequence[Union[str, os.PathLike[str]]],
        directory: str,
        spec: Optional[str] = None,
        cwd: Union[str, os.PathLike[str], None] = None,
        env: Optional[Mapping[str, str]] = None,
        patience: float = PATIENCE,
    ) -> None:
        """Starts it and waits until it listens."""
        path = socket_path(directory, "filter.sock")
        port = _free_port()
        words = {"{socket}": f"unix:{path}", "{path}": path, "{port}": str(port)}
        texts = [os.fspath(arg) for arg in args]
        if spec is None:
            spec = words["{socket}"]
            if not any(word in text for text in texts for word in ("{socket}", "{path}")):
                spec = f"inet:{port}@127.0.0.1"
        super().__init__(_replaced(spec, words))
        variables = {name: _replaced(value, words) for name, value in (env or {}).items()}
        self._log = os.path.join(directory, "filter.log")
        program, *others = (_replaced(text, words) for text in texts)
        with open(self._log, "wb") as log:
            try:
                self.process = subprocess.Popen(
                    [program, *others],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, **variables},
                )
            except OSError as error:
                # Not subprocess's own, with whose traceback pytest prints the whole environment.
                where = "" if error.filename in (None, program) else f": {error.filename}"
                raise StartError(f"cannot start {program}: {reason(error)}{where}") from None
        try:
            self._wait(patience)
        except BaseException:
            self.stop()
            raise

    def _wait(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            status = self.process.poll()
            if status is not None:
                raise StartError(f"{self._title()} ended ({_ending(status)}) {self._said()}")
            try:
                self.open(1.0).close()
                return
            except ConnectError as error:
                if time.monotonic() >= deadline:
                    raise StartError(
                        f"{self._title()} does not listen within {patience:g} s: {error}; "
                        f"it has not ended {self._said()}"
                    ) from None
            time.sleep(_PAUSE)

    @property
    def fate(self) -> str:
        """How it has ended, in words; "" while it runs."""
        status = self.process.poll()
        return "" if status is None else f"{self._title()} has ended ({_ending(status)})"

    def _title(self) -> str:
        return str(self.process.args[0])  # type: ignore[index]

    def _said(self) -> str:
        said = self.output.rstrip()
        return f"and said:\n{said}" if said else "and said nothing"

    @property
    def output(self) -> str:
        """What it has printed so far, on standard output and standard error."""
        with open(self._log, "rb") as log:
            return log.read().decode("utf-8", "replace")

    def stop(self) -> None:
        """Ends it, first with SIGTERM; more than once."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self._wait_for_end()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _wait_for_end(self) -> None:
        """Waits until it has ended.

        Raises:
            subprocess.TimeoutExpired: it does not.
        """
        try:
            self.process.wait(min(_NUDGE, _ENDING))
        except subprocess.TimeoutExpired:
            # libmilter looks every five seconds, or when somebody connects, whether it is to end.
            with contextlib.suppress(MilterError):
                self.open(1.0).close()
            self.process.wait(_ENDING)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _free_port() -> int:
    """A TCP port of this machine that nobody uses just now.

    If possible none of those that the system chooses for whoever asks for any (ip(7)): it might
    give it to another process before the program listens.
    """
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low = int(file.read().split()[0])
    except OSError:
        low = 0  # not Linux
    below = range(max(low // 2, 1024), low)
    # Not random.sample(): Hypothesis, for one, has that choose the same in every process.
    for port in [*random.SystemRandom().sample(below, min(len(below), 100)), 0]:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found: int = sock.getsockname()[1]
            return found
    raise StartError("no TCP port is free")


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
