"""Wire spec 8.8, rows 170 to 192: the functions, sockets and the process.

The rows' `smfi_*` functions are methods of a Server; -1 is `milter.error`. What libmilter writes
to syslog about a bad socket stands in the error's text here.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import milter
from harness import F, Peer, packet, running
from harness.packets import CONTINUE, OFFER, A, B, C, E, H, L, M, N, Q, R, T

#: Seconds; for a wait that should be short, on a loaded machine.
PATIENCE = 30.0
#: A stop with nothing open takes less than 0.1 s, and under libmilter up to 5 s; in between, with
#: room for a loaded machine.
PROMPTLY = 4.0

KeepPort = Callable[[str], int]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name, which anybody may write to."""
    path = Path(tempfile.mkdtemp(prefix="mlt"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def server() -> Any:
    """A Server that is registered and has no callbacks."""
    from Milter._server import Server

    made = Server()
    made.register("F")
    return made


def failure(function: Callable[..., Any], *args: Any) -> str:
    """The text of the milter.error that the call raises."""
    with pytest.raises(milter.error) as caught:
        function(*args)
    return str(caught.value)


def answers(address: Any) -> bool:
    """Tell whether a milter answers an offer there."""
    try:
        with Peer(address) as peer:
            peer.send(OFFER)
            letter, _ = peer.read_packet()
            peer.send(Q)
            peer.expect_close()
            return letter == "O"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Poll until the condition holds; fail after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.01)


# -- setconn, sockets ------------------------------------------------------------------------------


@pytest.mark.row(170)
def test_setconn() -> None:
    """setconn refuses nothing (a TypeError) and the empty text, and parses no other."""
    made = server()
    with pytest.raises(TypeError):
        made.setconn(None)
    assert "cannot set connection" == failure(made.setconn, "").split(":")[0]
    for text in ("garbage:x", "inet:", "%", "unix:"):
        assert made.setconn(text) is None


def serves(spec: str, address: Any) -> None:
    """A server with that spec answers at the address, and not any more after its stop."""
    with running(F(), conn=spec):
        assert answers(address)
    assert not answers(address)


@pytest.mark.row(171)
@pytest.mark.parametrize("spec", ["unix:{}", "local:{}", "UNIX:{}", "Local:{}", "{}", ":{}"])
def test_unix_specs(directory: Path, spec: str) -> None:
    """Every spelling of a unix socket; the keyword's case does not matter."""
    path = directory / "s"
    serves(spec.format(path), str(path))


@pytest.mark.row(171)
def test_unix_path_with_colons(directory: Path) -> None:
    """The keyword ends at the first colon; the path may have others."""
    path = directory / "a:b@c"
    serves(f"unix:{path}", str(path))


@pytest.mark.row(171)
def test_relative_unix_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be relative to the working directory."""
    monkeypatch.chdir(directory)
    serves("unix:s", str(directory / "s"))


@pytest.mark.row(171)
@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("inet:{}@127.0.0.1", "127.0.0.1"),
        ("inet:{}@[127.0.0.1]", "127.0.0.1"),
        ("inet:{}@localhost", "127.0.0.1"),
        ("INET:{}@127.0.0.1", "127.0.0.1"),
        ("inet:{}", "127.0.0.1"),
        ("inet6:{}@::1", "::1"),
        ("inet6:{}@[::1]", "::1"),
        ("inet6:{}@[IPv6:::1]", "::1"),
        ("inet6:{}@[ipv6:::1]", "::1"),
        ("inet6:{}", "::1"),
    ],
)
def test_tcp_specs(keep_port: KeepPort, spec: str, host: str) -> None:
    """Every spelling of a TCP socket: name, literal, bracketed literal, any address."""
    port = keep_port(host)
    serves(spec.format(port), (host, port))


@pytest.mark.row(171)
def test_any_address_is_any(keep_port: KeepPort) -> None:
    """Without a host an IPv4 server listens on every address, not on IPv6."""
    port = keep_port("127.0.0.1")
    with running(F(), conn=f"inet:{port}"):
        assert answers(("127.0.0.1", port))
        assert answers(("127.0.0.2", port))
        assert not answers(("::1", port))


@pytest.mark.row(171)
def test_one_address_is_one(keep_port: KeepPort) -> None:
    """With a host it listens on that address only."""
    port = keep_port("127.0.0.1")
    with running(F(), conn=f"inet:{port}@127.0.0.1"):
        assert answers(("127.0.0.1", port))
        assert not answers(("127.0.0.2", port))


@pytest.mark.row(171)
def test_port_zero() -> None:
    """Port 0 is a port that the system chooses; the server's address tells which."""
    with running(F(), conn="inet:0@127.0.0.1") as run:
        host, port = run.address
        assert "127.0.0.1" == host
        assert 0 < int(port) < 65536
        assert answers((host, port))


@pytest.mark.row(171)
def test_service_name() -> None:
    """A port may be the name of a TCP service; `smtp` is in use, or free, or root's alone."""
    made = server()
    made.setconn("inet:smtp@127.0.0.1")
    try:
        made.opensocket(False)
    except milter.error as error:
        reason = str(error)
    else:
        reason = f"bound to {made.address[1]}"
        made.stop()
        made.main()
    assert reason == "bound to 25" or "Unable to bind to port" in reason


@pytest.mark.row(171)
@pytest.mark.parametrize("listening", [True, False])
def test_inherited_descriptor(directory: Path, listening: bool) -> None:
    """`fd:N` serves on a socket that is bound already, listening or not."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(directory / "s"))
        if listening:
            s.listen(5)
        inherited = os.dup(s.fileno())
    with running(F(), conn=f"fd:{inherited}"):
        assert answers(str(directory / "s"))


@pytest.mark.row(171)
@pytest.mark.parametrize("spec", ["unix:", "local:", ":"])
def test_empty_path(spec: str) -> None:
    """An empty path is refused (libmilter binds an abstract name of NULs)."""
    made = server()
    made.setconn(spec)
    text = failure(made.opensocket, True)
    assert text.startswith("cannot opensocket: ")
    assert "empty" in text


@pytest.mark.row(171)
def test_length_of_a_path(directory: Path) -> None:
    """A path of 106 bytes is bound; one of 108 does not fit the address and is refused."""
    longest = str(directory / ("x" * (106 - len(str(directory)) - 1)))
    assert 106 == len(longest)
    serves(f"unix:{longest}", longest)
    made = server()
    made.setconn(f"unix:{longest}xx")
    assert f"UNIX socket name {longest}xx too long" in failure(made.opensocket, True)


BAD_SPECS = [
    ("tcp:1@h", "unknown socket type tcp"),
    ("inet :1", "unknown socket type inet "),
    ("inet:x@h", "unknown port name x"),
    ("inet:@localhost", "unknown port name "),
    ("inet:99999@127.0.0.1", "unknown port name 99999"),
    ("inet:65536@127.0.0.1", "unknown port name 65536"),
    ("inet:0x@127.0.0.1", "unknown port name 0x"),
    ("inet:-1@127.0.0.1", "unknown port name -1"),
    ("inet:1@[", 'Invalid numeric domain spec "["'),
    ("inet:1@[::1]", 'Invalid numeric domain spec "[::1]"'),
    ("inet6:1@[127.0.0.1]", 'Invalid numeric domain spec "[127.0.0.1]"'),
    ("inet:1@no-such-host.invalid", "Unknown host name no-such-host.invalid"),
    ("inet6:1@no-such-host.invalid", "Unknown host name no-such-host.invalid"),
    ("fd:x", "expected positive integer as fd, got x"),
    ("fd:-1", "expected positive integer as fd, got -1"),
]


@pytest.mark.row(172)
@pytest.mark.parametrize(("spec", "reason"), BAD_SPECS)
def test_bad_specs(spec: str, reason: str) -> None:
    """What cannot be listened on fails in opensocket and in main; the error names the spec, and the
    reason in libmilter's words."""
    made = server()
    made.setconn(spec)
    opened, ran = failure(made.opensocket, True), failure(made.main)
    assert opened.startswith("cannot opensocket: ")
    assert ran.startswith("cannot run main: ")
    for text in (opened, ran):
        assert spec in text
        assert reason in text


@pytest.mark.row(172)
@pytest.mark.parametrize("spec", ["fd:9999", "fd:0"])
def test_bad_descriptors(spec: str) -> None:
    """A descriptor that is closed, or no socket, is refused, and stays as it is."""
    with open(os.devnull) as null:
        number = null.fileno() if spec == "fd:0" else 9999
        made = server()
        made.setconn(f"fd:{number}")
        assert failure(made.opensocket, True).startswith("cannot opensocket: ")
        if spec == "fd:0":
            os.fstat(number)


def stale(path: Path) -> os.stat_result:
    """Leave a socket there on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    return path.stat()


@pytest.mark.row(173)
def test_existing_socket_without_removal(directory: Path) -> None:
    """An existing socket file is in use, unless opensocket(true) was called; it stays."""
    path = directory / "s"
    before = stale(path)
    made = server()
    made.setconn(f"unix:{path}")
    for text in (failure(made.main), failure(made.opensocket, False)):
        assert re.search(r"Unable to bind to port \S*: Address already in use", text), text
    assert before.st_ino == path.stat().st_ino


@pytest.mark.row(174)
def test_stale_socket(directory: Path) -> None:
    """opensocket(true) replaces a dead socket."""
    path = directory / "s"
    stale(path)
    made = server()
    made.setconn(f"unix:{path}")
    assert made.opensocket(True) is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    made.stop()
    made.main()


@pytest.mark.row(174)
@pytest.mark.parametrize("rmsock", [True, False])
def test_regular_file(directory: Path, rmsock: bool) -> None:
    """A regular file is an error and is left untouched."""
    path = directory / "s"
    path.write_text("precious")
    made = server()
    made.setconn(f"unix:{path}")
    text = failure(made.opensocket, rmsock)
    if rmsock:
        assert f"{path} is not a UNIX domain socket" in text
    assert "precious" == path.read_text()


@pytest.mark.row(174)
def test_directory(directory: Path) -> None:
    """So is a directory."""
    made = server()
    made.setconn(f"unix:{directory}")
    assert f"{directory} is not a UNIX domain socket" in failure(made.opensocket, True)
    assert directory.is_dir()


@pytest.mark.row(174)
def test_missing_directory(directory: Path) -> None:
    """A directory that is not there is an error."""
    made = server()
    made.setconn(f"unix:{directory}/missing/s")
    assert "No such file or directory" in failure(made.opensocket, True)


@pytest.mark.row(175)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0, 0o777)])
def test_umask(directory: Path, umask: int, mode: int) -> None:
    """The socket's mode is what the umask leaves of 0777."""
    path = directory / "s"
    made = server()
    made.setconn(f"unix:{path}")
    before = os.umask(umask)
    try:
        made.opensocket(True)
    finally:
        os.umask(before)
    assert mode == stat.S_IMODE(path.stat().st_mode)
    assert os.geteuid() == path.stat().st_uid
    made.stop()
    made.main()


# -- programs --------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading, time
import milter
from Milter._server import Server

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def saying(name):
    def callback(ctx, *args):
        say(name)
        return 0
    return callback

server = Server(flags=0x1FF)
for name in ("envfrom", "envrcpt", "eom", "abort", "close"):
    getattr(server, "set_%s_callback" % name)(saying(name))
server.setconn(sys.argv[1])
server.register("F")
"""


class Program:
    """A milter in a process of its own."""

    def __init__(self, directory: Path, body: str) -> None:
        root = Path(__file__).resolve().parent.parent.parent
        self.path = str(directory / "s")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + body, "unix:" + self.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that `line` takes no more than its line
            env=dict(os.environ, PYTHONPATH=str(root)),
        )
        self._watchdog = threading.Timer(5 * PATIENCE, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self.peers: list[Peer] = []

    def ready(self, says_close: bool = True) -> Program:
        """Wait until it serves; take the line that the connection made for it causes."""
        wait_until(self._serves, "the milter's start")
        if says_close:
            assert "close" == self.line()
        return self

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return answers(self.path)

    def mta(self, *commands: bytes) -> Peer:
        """A connection after the handshake, on which these were answered `c`."""
        peer = Peer(self.path)
        self.peers.append(peer)
        peer.send(OFFER)
        assert "O" == peer.read_packet()[0]
        peer.play(*commands)
        return peer

    def line(self) -> str:
        """The next line printed."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end: status, and the lines printed since."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err.decode()
        return self.process.returncode, out.decode().splitlines()

    def close(self) -> None:
        """End everything."""
        self._watchdog.cancel()
        for peer in self.peers:
            peer.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


Start = Callable[..., Program]


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Start a program with this body after PROGRAM, and wait until it listens."""
    programs: list[Program] = []

    def begin(body: str = 'say("main", server.main())', says_close: bool = True) -> Program:
        programs.append(Program(directory, body))
        return programs[-1].ready(says_close)

    yield begin
    for program in programs:
        program.close()


@pytest.mark.row(176)
@pytest.mark.ours
@pytest.mark.parametrize("user", ["root", "other"])
def test_socket_file_after_a_stop(directory: Path, user: str) -> None:
    """The socket file is removed on stop, as root too (libmilter leaves root's)."""
    if user == "root" and os.geteuid() != 0:
        pytest.skip("not here: needs root")
    become = "os.setgid(65534); os.setuid(65534)\n" if user != "root" and os.geteuid() == 0 else ""
    program = Program(directory, become + 'say("main", server.main())')
    try:
        program.ready()
        assert stat.S_ISSOCK(os.stat(program.path).st_mode)
        program.process.terminate()
        assert (0, ["main None"]) == program.end()
        assert not os.path.lexists(program.path)
    finally:
        program.close()


@pytest.mark.row(177)
def test_path_replaced_by_a_file(directory: Path) -> None:
    """A regular file that has taken the socket's place stays."""
    path = directory / "s"
    with running(F(), conn=f"unix:{path}"):
        path.unlink()
        path.write_text("precious")
    assert "precious" == path.read_text()


@pytest.mark.row(177)
def test_path_replaced_by_another_socket(directory: Path) -> None:
    """So does somebody else's socket, on which they go on listening."""
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as other:
        with running(F(), conn=f"unix:{path}"):
            path.unlink()
            other.bind(str(path))
            other.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.row(178)
def test_opensocket_too_early_and_twice(directory: Path) -> None:
    """opensocket needs setconn and register; a second call succeeds and changes nothing."""
    from Milter._server import Server

    made = Server()
    assert failure(made.opensocket, True).startswith("cannot opensocket")
    made.setconn(f"unix:{directory}/s")
    assert failure(made.opensocket, True).startswith("cannot opensocket")
    made.register("F")
    assert made.opensocket(True) is None
    inode = (directory / "s").stat().st_ino
    assert made.opensocket(True) is None
    assert inode == (directory / "s").stat().st_ino
    made.stop()
    made.main()
    other = Server()
    other.register("F")
    assert failure(other.opensocket, True).startswith("cannot opensocket")


@pytest.mark.row(179)
def test_settings() -> None:
    """A backlog must be above 0; any timeout and debug level is taken; the version is 1.0.1."""
    made = server()
    assert "cannot set backlog" == failure(made.setbacklog, 0).split(":")[0]
    assert "cannot set backlog" == failure(made.setbacklog, -1).split(":")[0]
    assert made.setbacklog(5) is None
    for number in (0, 1, -1, 7210, 2**31 - 1, -(2**31)):
        assert made.settimeout(number) is None
        assert made.setdbg(number) is None
    made.setdbg(0)
    assert (1, 0, 1) == milter.getversion()


@pytest.mark.row(180)
@pytest.mark.parametrize("version", [2, 3, 4, 0x01000000, 0x01000001, 0x01000002, 0x0100007F])
def test_versions(version: int) -> None:
    """Descriptors of versions 2, 3 and 4, and of 1.0 whatever its patch, can be registered."""
    from Milter._server import Server

    assert Server(version=version).register("F") is None


@pytest.mark.row(180)
@pytest.mark.parametrize("version", [0, 1, 5, 6, 0x01000100, 0x02000001])
def test_bad_versions(version: int) -> None:
    """No others, with libmilter's text."""
    from Milter._server import Server

    text = failure(Server(version=version).register, "F")
    number = r"(0x)?[0-9a-f]+"
    assert re.search(
        rf"smfi_register: version mismatch application: {number} != milter: {number}", text
    )
    assert any(form in text for form in (str(version), f"{version:x}"))


@pytest.mark.row(181)
def test_no_context(feed: str) -> None:
    """A context whose connection is over (there is no NULL one in Python) fails with `bad context`;
    its private data can still be read and set, as in pymilter."""
    kept: list[Any] = []

    def connect(ctx: Any, *args: Any) -> None:
        kept.append(ctx)
        ctx.setpriv("mine")

    with running(F(returns={"connect": connect}), feed) as run:
        mta = run.mta()
        mta.ask(C)
        mta.send(Q)
        mta.expect_close()
        run.wait(["connect", "close"])
        run.wait_for(lambda: _is_over(kept[0]))
        for call in (
            lambda ctx: ctx.setreply("550", "5.7.1", "x"),
            lambda ctx: ctx.setreply("550", "5.7.1", "x", "y"),
            lambda ctx: ctx.progress(),
            lambda ctx: ctx.addheader("X", "v"),
            lambda ctx: ctx.getsymval("j"),
        ):
            assert "bad context" == failure(call, kept[0])
        assert "mine" == kept[0].getpriv()
        assert "mine" == kept[0].setpriv(None)
        assert kept[0].getpriv() is None


def _is_over(ctx: Any) -> bool:
    try:
        ctx.getsymval("j")
    except milter.error:
        return True
    return False


@pytest.mark.row(182)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals(start: Start, number: int) -> None:
    """TERM, HUP and INT make main return at once, without an error."""
    program = start()
    begun = time.monotonic()
    program.process.send_signal(number)
    assert "main None" == program.line()
    assert time.monotonic() - begun < PROMPTLY
    assert (0, []) == program.end()


@pytest.mark.row(183)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_open_session_after_a_signal(start: Start, number: int) -> None:
    """A session inside a message keeps working while main waits for it."""
    program = start('say("main", server.main(drain=60))')
    mta = program.mta(C, H, M)
    assert "envfrom" == program.line()
    program.process.send_signal(number)
    wait_until(lambda: not _connects(program.path), "the end of listening")
    mta.play(R, T, L, N, B, E)
    assert b"" == mta.read_all()
    status, lines = program.end()
    # Each connection of `_connects` that was let in has its own `close` before.
    assert (0, ["envrcpt", "eom", "close", "main None"]) == (status, lines[-4:])
    assert {"close"} >= set(lines[:-4])


def _connects(path: str) -> bool:
    """Tell whether connections are taken there; the one made for it is over then, with its
    callbacks."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        try:
            s.connect(path)
            s.shutdown(socket.SHUT_WR)
            s.recv(1)
        except (ConnectionError, FileNotFoundError):
            return False
        return True


@pytest.mark.row(184)
def test_stop_in_a_callback() -> None:
    """stop() in a callback returns at once; the callback's reply is sent; main returns."""
    took: list[float] = []

    def helo(ctx: Any, name: str) -> None:
        begun = time.monotonic()
        assert run.server.stop() is None
        took.append(time.monotonic() - begun)

    with running(F(returns={"helo": helo})) as run:
        mta = run.mta()
        mta.play(C, H)
        assert b"" == mta.read_all()
        run._thread.join(PATIENCE)  # type: ignore[union-attr]
        assert not run._thread.is_alive()  # type: ignore[union-attr]
        assert ["connect", "helo", "close"] == run.names()
    assert took[0] < PROMPTLY


@pytest.mark.row(185)
@pytest.mark.parametrize("disposition", ["SIG_IGN", "SIG_DFL"])
def test_reply_to_a_closed_socket(start: Start, disposition: str) -> None:
    """A reply to a peer that has gone does not kill the process, whatever SIGPIPE's disposition
    was: abort and close come, and the next session is served."""
    program = start(f"""
signal.signal(signal.SIGPIPE, signal.{disposition})
def envrcpt(ctx, *args):
    say("envrcpt")
    signal.sigtimedwait([signal.SIGUSR1], 20)
    return 0
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
server.set_envrcpt_callback(envrcpt)
say("main", server.main())
""")
    mta = program.mta(C, H, M)
    mta.send(R)
    assert ["envfrom", "envrcpt"] == [program.line(), program.line()]
    mta.close()
    program.process.send_signal(signal.SIGUSR1)
    assert ["abort", "close"] == [program.line(), program.line()]
    program.mta(C, H)
    program.process.terminate()
    assert (0, ["close", "main None"]) == program.end()


@pytest.mark.row(185)
def test_sigpipe(start: Start) -> None:
    """SIGPIPE itself does not end a milter."""
    program = start()
    program.process.send_signal(signal.SIGPIPE)
    program.mta(C, H)
    program.process.terminate()
    assert (0, ["close", "main None"]) == program.end()


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.row(186)
def test_idle_session() -> None:
    """A session that is silent for the timeout's 2 seconds ends: abort if in a message, close."""
    with running(F(timeout=2)) as run:
        mta = run.mta()
        begun = time.monotonic()
        mta.ask(M)
        mta.expect_close()
        assert 1.5 < time.monotonic() - begun
        assert ["mail", "abort", "close"] == run.finish()


@pytest.mark.row(187)
@pytest.mark.parametrize("part", [M[:3], M[:5], M[:-1]])
def test_half_a_packet(part: bytes) -> None:
    """So does one that stops in the middle of a packet."""
    with running(F(timeout=2)) as run:
        begun = time.monotonic()
        mta = run.mta()
        mta.send(part)
        mta.expect_close()
        assert 1.5 < time.monotonic() - begun
        assert ["close"] == run.finish()


@pytest.mark.row(188)
def test_slow_packet() -> None:
    """A packet that is started must be complete by a deadline, however steadily its bytes come."""
    with running(F(timeout=60, limits={"packet_timeout": 1.5})) as run:
        mta = run.mta()
        begun = time.monotonic()
        mta.send(packet("H", b"x" * 200)[:5])
        closed = False
        while not closed and time.monotonic() - begun < PATIENCE:
            mta.send(b"x")
            closed = mta._recv(1, 0.25) == b""
        assert closed
        assert 1 < time.monotonic() - begun
        assert ["close"] == run.finish()


@pytest.mark.row(188)
def test_a_complete_packet_ends_the_deadline() -> None:
    """The deadline is per packet: complete packets in between, and silence between packets, are
    fine."""
    with running(F(timeout=60, limits={"packet_timeout": 3.0})) as run:
        mta = run.mta()
        # Each takes far less than that, all together take more.
        for command in (C, H, M, R, T, L, N, B):
            mta.send(command[:3])
            time.sleep(0.4)
            mta.send(command[3:])
            mta.expect(CONTINUE)
        mta.expect_nothing(3.3)
        mta.ask(E)
        assert "abort" not in run.names()


# -- numbers ---------------------------------------------------------------------------------------

FEW_DESCRIPTORS = """
import logging, resource
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="LOG %(message)s")
def usage(*args):
    used = resource.getrusage(resource.RUSAGE_SELF)
    say("cpu", used.ru_utime + used.ru_stime)
signal.signal(signal.SIGUSR1, usage)
server.opensocket(True)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
say("main", server.main())
"""


@pytest.mark.row(189)
@pytest.mark.slow
def test_descriptors_run_out(start: Start) -> None:
    """With all descriptors used the milter waits without burning CPU, says so in the log once in a
    while, and goes on when there are some again."""
    program = start(FEW_DESCRIPTORS)
    peers = []
    for _ in range(60):
        peers.append(Peer(program.path))
    program.process.send_signal(signal.SIGUSR1)

    def said(prefix: str) -> str:
        while True:
            line = program.line()
            assert program.process.poll() is None or line
            if line.startswith("LOG"):
                logged.append(line)
            if line.startswith(prefix):
                return line

    logged: list[str] = []
    before = float(said("cpu").split()[1])
    time.sleep(3)  # the time in which it must not be busy
    program.process.send_signal(signal.SIGUSR1)
    after = float(said("cpu").split()[1])
    assert after - before < 1.0
    for peer in peers:
        peer.close()
    wait_until(lambda: answers(program.path), "recovery")
    program.process.terminate()
    status, lines = program.end()
    logged += [line for line in lines if line.startswith("LOG")]
    assert 0 == status
    about = [line for line in logged if "Too many open files" in line or "descriptor" in line]
    assert 1 <= len(about) <= 3, logged


@pytest.mark.row(190)
@pytest.mark.slow
def test_more_than_1024_connections(start: Start) -> None:
    """More connections than an fd_set has room for are served, all at once."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1200
    if hard != resource.RLIM_INFINITY and hard < wanted + 200:
        pytest.skip(f"not here: only {hard} descriptors are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 200, hard))
    program = start(
        """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for name in ("envfrom", "envrcpt", "eom", "abort", "close"):
    getattr(server, "set_%s_callback" % name)(lambda ctx, *args: 0)
say("main", server.main(drain=0))
""",
        says_close=False,
    )
    try:
        peers = [program.mta(H) for _ in range(wanted)]
        for peer in (peers[0], peers[1023], peers[1024], peers[-1]):
            peer.play(M, R, E)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    program.process.terminate()
    assert 0 == program.end()[0]


@pytest.mark.row(191)
def test_blocked_callbacks_delay_nobody_else() -> None:
    """With twenty callbacks blocked a new connection is served from handshake to end."""
    release = threading.Event()
    blocked = threading.Semaphore(0)
    released = []

    def helo(ctx: Any, name: str) -> None:
        if name == "slow":
            blocked.release()
            released.append(release.wait(PATIENCE))

    with running(F(returns={"helo": helo})) as run:
        slow = [run.mta() for _ in range(20)]
        for peer in slow:
            peer.send(packet("H", b"slow\0"))
        for _ in slow:
            assert blocked.acquire(timeout=PATIENCE)
        mta = run.mta()
        mta.play(C, H, M, R, T, L, N, B, E)
        mta.send(Q)
        mta.expect_close()
        assert [] == released
        release.set()
        for peer in slow:
            peer.expect(CONTINUE)


@pytest.mark.row(192)
def test_private_data_left_set() -> None:
    """Private data that is still set when the connection ends does no harm: it is freed with the
    context. No pointer can leak, hence there is no warning; pymilter's filters all leave it set."""

    class Value:
        pass

    refs: list[Any] = []

    def connect(ctx: Any, *args: Any) -> None:
        value = Value()
        refs.append(weakref.ref(value))
        ctx.setpriv(value)

    with running(F(returns={"connect": connect}, record=False)) as run:
        for end in ("quit", "eof", "abort"):
            mta = run.mta()
            mta.play(C, H, M)
            if end == "quit":
                mta.send(Q)
            elif end == "abort":
                mta.send(A, Q)
            mta.half_close()
            assert b"" == mta.read_all()
        run.wait_for(lambda: not [ref for ref in refs if ref() is not None])
        assert 3 == len(refs)
        run.finish()
        assert [] == run.messages(logging.ERROR)
