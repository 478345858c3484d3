"""What the two private mail servers have in common: where they live, what is found in them.

An `Mta` listens for SMTP on several loopback ports; each is an `Endpoint` with filters of its own,
so that one server of each kind serves the whole test session.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]

#: The name that both servers believe to be theirs.
HOSTNAME = "mail.example.org"
#: Seconds until something that takes a fraction of one is given up.
DEADLINE = 30.0

Found = Optional["Stored"]


class Unavailable(Exception):
    """The mail server cannot be run here; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class Endpoint:
    """One SMTP port of a mail server, and the filters that see its mail, in order."""

    name: str
    address: tuple[str, int]
    #: How the filters are to listen, as `Milter.runmilter` has it.
    filters: tuple[str, ...]
    #: Seconds that the MTA waits for one reply of the filter; None: the MTA's default.
    timeout: int | None = None


@dataclass
class Stored:
    """A message as the mail server stored or delivered it."""

    queue_id: str
    sender: str
    recipients: list[str]
    #: Names and values as they are in the file: value with leading blanks, folds as LF + blank.
    headers: list[tuple[str, str]]
    #: With LF line ends.
    body: bytes
    #: The reason, or "" where the MTA keeps none; None: not in quarantine.
    quarantine: str | None = None
    #: Recipient -> what NOTIFY asks for, where the MTA's file tells.
    notify: dict[str, str] = field(default_factory=dict)

    def values(self, name: str) -> list[str]:
        """Return the values of all headers of this name, without the one blank after the colon."""
        return [
            value[1:] if value.startswith(" ") else value
            for each, value in self.headers
            if each.lower() == name.lower()
        ]


class Mta:
    """A private mail server."""

    name = ""
    #: The umask under which a filter makes a socket that this MTA is able and willing to use.
    umask = 0o077

    def __init__(self, directory: Path, endpoints: Sequence[Endpoint]) -> None:
        self.directory = directory
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}

    def start(self) -> None:
        """Start the server and wait until all its ports answer."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the server, whatever state it is in. May be called twice."""
        raise NotImplementedError

    def stored(self, reply: str) -> Found:
        """Return the message that *reply* (the one to the content) accepted.

        Waits until delivery is done, where the server delivers. None: the server has no such
        message, so it was discarded.
        """
        raise NotImplementedError

    def holds(self, token: str) -> bool:
        """Tell whether any message that contains *token* is in a queue or was delivered."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget delivered and queued messages, so that no case sees another's."""
        raise NotImplementedError

    def diagnosis(self) -> str:
        """Return what the server has to say, for the report of a failed test."""
        raise NotImplementedError


# -- places ----------------------------------------------------------------------------------------


def private_directory() -> Path:
    """Make a temporary directory with a short path that no other user can write to.

    Sendmail refuses a filter's socket below a directory that is writable for all, as /tmp is, and
    a unix socket's path may have 107 bytes.
    """
    for place in ("/run", "/var/lib", os.environ.get("XDG_RUNTIME_DIR", "")):
        if place and os.access(place, os.W_OK) and not os.stat(place).st_mode & 0o022:
            parent = place
            break
    else:
        parent = tempfile.gettempdir()
    directory = Path(tempfile.mkdtemp(prefix="mlt-", dir=parent))
    # The servers' own users have to get through to their parts of it.
    directory.chmod(0o755)
    return directory


@contextlib.contextmanager
def private_area() -> Iterator[Path]:
    """Make a private directory and remove it with all that is in it, whatever happens."""
    directory = private_directory()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int, keep: contextlib.ExitStack, host: str = "127.0.0.1") -> list[int]:
    """Return numbers of TCP ports that nobody uses now, and that nobody else gets from here.

    They lie below the range that the kernel takes clients' ports from, so that no client of this
    session can get hold of one before the server does. Until *keep* is closed each stays bound,
    without listening. Servers do not mind, for they say SO_REUSEADDR; but neither this process nor
    another one that runs these tests finds such a port free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 2000):
        if len(ports) == count:
            break
        one = keep.enter_context(socket.socket(family, socket.SOCK_STREAM))
        try:
            one.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        # Not before: with it, what another process keeps would be no hindrance.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ports.append(port)
    return ports


def have_ipv6() -> bool:
    """Tell whether ::1 can be bound."""
    try:
        with contextlib.ExitStack() as keep:
            free_ports(1, keep, "::1")
    except OSError:
        return False
    return True


def layout(directory: Path, keep: contextlib.ExitStack) -> list[Endpoint]:
    """Return the endpoints of one server, with filter sockets in *directory*.

    Their ports are kept for it until *keep* is closed.
    """
    with_ipv6 = have_ipv6()
    smtp = iter(free_ports(8, keep))
    inet = iter(free_ports(2, keep))

    def unix(name: str) -> str:
        return f"unix:{directory}/{name}.sock"

    endpoints = [
        Endpoint("unix", ("127.0.0.1", next(smtp)), (unix("a"),)),
        Endpoint("inet", ("127.0.0.1", next(smtp)), (f"inet:{next(inet)}@127.0.0.1",)),
        # Filters that a test starts and stops itself.
        Endpoint("solo-unix", ("127.0.0.1", next(smtp)), (unix("s"),)),
        Endpoint("solo-inet", ("127.0.0.1", next(smtp)), (f"inet:{next(inet)}@127.0.0.1",)),
        Endpoint("pair", ("127.0.0.1", next(smtp)), (unix("p1"), unix("p2"))),
        # No shorter: a filter that reports progress must not be late on a busy machine.
        Endpoint("impatient", ("127.0.0.1", next(smtp)), (unix("i"),), timeout=4),
    ]
    if with_ipv6:
        port, smtp6 = free_ports(2, keep, "::1")
        endpoints.append(Endpoint("inet6", ("::1", smtp6), (f"inet6:{port}@[::1]",)))
    return endpoints


# -- processes -------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel, in a new child, to end it when the test process is gone (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(
    command: Sequence[str | Path],
    output: Path,
    env: dict[str, str] | None = None,
    umask: int = 0o022,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; on Linux it gets SIGTERM when this one is gone."""

    def prepare() -> None:
        os.umask(umask)
        _die_with_parent()

    with open(output, "ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd=cwd,
            preexec_fn=prepare,  # noqa: PLW1509 - the tests start processes from one thread
        )


def end(process: subprocess.Popen[bytes], seconds: float = 15.0) -> int:
    """End a process that `spawn` started: SIGTERM, then SIGKILL. Return its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return int(process.returncode)


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = DEADLINE, pause: float = 0.01
) -> None:
    """Poll until *condition* holds; fail, naming *what* was waited for, when time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


def answers(address: tuple[str, int] | str) -> bool:
    """Tell whether somebody accepts connections there: (host, port), or a path."""
    if isinstance(address, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def greets(address: tuple[str, int]) -> bool:
    """Tell whether a mail server greets its clients there.

    By the time it does it has tried to reach its filters, so none of them, started later, will see
    this connection.
    """
    try:
        with socket.create_connection(address, 30) as probe, probe.makefile("rb") as replies:
            greeting = replies.readline()
            probe.sendall(b"QUIT\r\n")
            replies.read()
    except OSError:
        return False
    return greeting[:3].isdigit()


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a file, "" if there is none."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def split_message(data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Split a message with LF line ends into its headers and its body."""
    head, _, body = data.partition(b"\n\n") if not data.startswith(b"\n") else (b"", b"", data[1:])
    headers: list[tuple[str, str]] = []
    for line in head.decode("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        if line[:1] in (" ", "\t") and headers:
            name, value = headers[-1]
            headers[-1] = (name, f"{value}\n{line}")
        elif line:
            name, _, value = line.partition(":")
            headers.append((name, value))
    return headers, body
