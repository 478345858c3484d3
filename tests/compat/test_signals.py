"""Stopping: signals, `stop()`, open transactions (API spec 1.14, and docs/design.md on where we
differ from libmilter).

Each test runs a filter as a program of its own. What it prints tells what happened there.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from compat_support import DEADLINE, environment, wait_until

from harness import Peer, offer
from harness.packets import CONTINUE, A, B, C, E, H, L, M, N, Q, R, T

pytestmark = pytest.mark.usefixtures("waiting")

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

#: A stop with nothing open takes less than 0.1 s, and under libmilter up to 5 s; in between, with
#: room for a loaded machine.
PROMPTLY = 4.0

PROGRAM = """
import os, signal, sys, threading, time
import Milter
from Milter import milter

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Mine(Milter.Base):
    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE
    def hello(self, name):
        return Milter.CONTINUE
    def envfrom(self, f, *params):
        return Milter.CONTINUE
    def envrcpt(self, to, *params):
        return Milter.CONTINUE
    def data(self):
        return Milter.CONTINUE
    def header(self, field, value):
        return Milter.CONTINUE
    def eoh(self):
        return Milter.CONTINUE
    def body(self, blk):
        return Milter.CONTINUE
    def eom(self):
        say("eom")
        return Milter.CONTINUE
    def abort(self):
        say("abort")
        return Milter.CONTINUE
    def close(self):
        say("close")
        return Milter.CONTINUE

Milter.factory = Mine
SOCKET = sys.argv[1]
"""

RUN = """
say("result", Milter.runmilter("x", SOCKET))
say("after")
"""


class Program:
    """A running filter program: its socket, its output, its end."""

    def __init__(self, path: Path, body: str) -> None:
        self.path = str(path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + body, "unix:" + self.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that `line` takes no more than its line
            env=environment(),
        )
        self._watchdog = threading.Timer(3 * DEADLINE, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._peers: list[Peer] = []

    def ready(self) -> Program:
        """Wait until the program answers at its socket."""
        wait_until(self._answers, "the filter's start")
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            with Peer(self.path) as peer:
                peer.send(offer())
                letter = peer.read_packet()[0]
                peer.send(Q)
                peer.expect_close()
                return letter == "O"
        except OSError:
            return False

    def mta(self, *commands: bytes) -> Peer:
        """A connection after the handshake, on which these commands were answered by CONTINUE."""
        peer = Peer(self.path)
        self._peers.append(peer)
        peer.send(offer())
        assert "O" == peer.read_packet()[0]
        peer.play(*commands)
        return peer

    def kill(self, number: int) -> None:
        """Send the signal."""
        self.process.send_signal(number)

    def line(self) -> str:
        """The next line that the program prints; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def end(self) -> tuple[int, list[str], str]:
        """Wait for the end: exit status, the lines printed since, stderr."""
        out, err = self.process.communicate(timeout=2 * DEADLINE)
        return self.process.returncode, out.decode().splitlines(), err.decode()

    def end_logged(self) -> tuple[int, list[str]]:
        """The same where stderr may have a line of the log, but nothing else."""
        status, lines, err = self.end()
        assert "Traceback" not in err
        return status, lines

    def close(self) -> None:
        """End everything."""
        self._watchdog.cancel()
        for peer in self._peers:
            peer.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with this body after PROGRAM, and wait until it serves."""
    programs: list[Program] = []

    def begin(body: str = RUN, ready: bool = True) -> Program:
        programs.append(Program(tmp_path / "s", body))
        return programs[-1].ready() if ready else programs[-1]

    yield begin
    for program in programs:
        program.close()


def _after_ready(program: Program) -> None:
    """Read the line that `ready`'s own connection has caused."""
    assert "close" == program.line()


# -- what stops it -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_signal_stops(start: Start, number: int) -> None:
    """Each of the three makes runmilter return None; what follows it runs; nothing is raised."""
    program = start()
    program.kill(number)
    assert (0, ["close", "result None", "after"], "") == program.end()


@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_signal_stops_low_level_main(start: Start, number: int) -> None:
    """The same for `milter.main`."""
    program = start("""
milter.set_connect_callback(lambda *args: 0)
milter.setconn(SOCKET)
milter.register("x")
say("result", milter.main())
""")
    program.kill(number)
    assert (0, ["result None"], "") == program.end()


def test_exit_status_is_the_programs(start: Start) -> None:
    """Code after runmilter decides how the program ends."""
    program = start(RUN + "sys.exit(5)")
    program.kill(TERM)
    assert (5, ["close", "result None", "after"], "") == program.end()


def test_joins_after_runmilter(start: Start) -> None:
    """Threads of the program can be given work, told to end and joined after runmilter."""
    program = start("""
import queue
todo = queue.Queue()
def work():
    for item in iter(todo.get, None):
        say("did", item)
worker = threading.Thread(target=work)
class Stopping(Mine):
    def hello(self, name):
        worker.start()
        Milter.stop()
        return Milter.CONTINUE
Milter.factory = Stopping
Milter.runmilter("x", SOCKET)
todo.put("last")
todo.put(None)
worker.join()
say("joined")
""")
    program.mta(C, H)
    status, lines, err = program.end()
    assert (0, "") == (status, err)
    assert ["did last", "joined"] == [line for line in lines if line != "close"]


@pytest.mark.ours
@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_prompt(start: Start, number: int) -> None:
    """With nothing open, main returns at once (libmilter: up to 5 s)."""
    program = start()
    _after_ready(program)
    begun = time.monotonic()
    program.kill(number)
    assert "result None" == program.line()
    assert time.monotonic() - begun < PROMPTLY
    assert (0, ["after"], "") == program.end()


@pytest.mark.ours
def test_prompt_with_idle_connections(start: Start) -> None:
    """Connections without an open message do not delay the stop; they are closed, and `close`
    runs."""
    program = start()
    _after_ready(program)
    idle = [program.mta(), program.mta(C, H), program.mta(C, H, M, R, T, N, E)]
    assert "eom" == program.line()
    begun = time.monotonic()
    program.kill(TERM)
    for peer in idle:
        assert b"" == peer.read_all()
    assert time.monotonic() - begun < PROMPTLY
    assert (0, ["close", "close", "close", "result None", "after"], "") == program.end()


@pytest.mark.ours
def test_socket_file_is_gone(start: Start, tmp_path: Path) -> None:
    """After a signal the socket file is removed."""
    program = start()
    program.kill(TERM)
    assert 0 == program.end()[0]
    assert [] == list(tmp_path.iterdir())


# -- stop() --------------------------------------------------------------------------------------


@pytest.mark.ours
def test_stop_from_a_callback(start: Start) -> None:
    """`stop` in a callback returns None; the callback completes and its reply is sent (under
    pymilter unless the program has ended by then)."""
    program = start(
        """
class Stopping(Mine):
    def hello(self, name):
        say("stop", Milter.stop())
        return Milter.REJECT
Milter.factory = Stopping
"""
        + RUN
    )
    _after_ready(program)
    mta = program.mta(C)
    mta.ask(H, bytes.fromhex("00000001 72"))
    status, lines, err = program.end()
    assert (0, "") == (status, err)
    assert ["stop None", "result None", "after"] == [line for line in lines if line != "close"]


@pytest.mark.ours
def test_stop_from_a_callback_is_prompt(start: Start) -> None:
    """It does not block, either (libmilter: up to 5 s)."""
    program = start(
        """
class Stopping(Mine):
    def hello(self, name):
        begun = time.monotonic()
        Milter.stop()
        say("prompt" if time.monotonic() - begun < 4 else "slow")
        return Milter.CONTINUE
Milter.factory = Stopping
"""
        + RUN
    )
    _after_ready(program)
    program.mta(C, H)
    assert "prompt" == program.line()
    assert (0, ["close", "result None", "after"], "") == program.end()


def test_runmilter_in_another_thread(start: Start) -> None:
    """runmilter may run in a thread that is not the main one; `Milter.stop()` ends it there."""
    program = start("""
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
results = []
thread = threading.Thread(target=lambda: results.append(Milter.runmilter("x", SOCKET)))
thread.start()
signal.sigwait([signal.SIGUSR1])
say("stop", Milter.stop())
thread.join()
say("results", results)
""")
    program.kill(signal.SIGUSR1)
    status, lines, err = program.end()
    assert (0, "") == (status, err)
    assert ["stop None", "results [None]"] == [line for line in lines if line != "close"]


@pytest.mark.ours
def test_stop_in_a_signal_handler(start: Start) -> None:
    """A handler of the program may call `Milter.stop()` itself, also for another signal."""
    program = start(
        """
signal.signal(signal.SIGUSR1, lambda *args: say("handler", Milter.stop()))
signal.signal(signal.SIGTERM, lambda *args: say("handler", Milter.stop()))
"""
        + RUN
    )
    _after_ready(program)
    program.kill(signal.SIGUSR1)
    assert (0, ["handler None", "result None", "after"], "") == program.end()


FORKING = """
import multiprocessing
context = multiprocessing.get_context("fork")
class Forking(Mine):
    def eom(self):
        child = context.Process(target=work)
        child.start()
        after(child)
        child.join(30)
        say("child", child.exitcode)
        child.kill()
        return Milter.CONTINUE
Milter.factory = Forking
"""


@pytest.mark.ours
@pytest.mark.parametrize(
    ("work", "after", "status"),
    [
        ("time.sleep(60)", "child.terminate()", -TERM),
        ("(Milter.stop(), os._exit(7))", "None", 7),
    ],
    ids=["terminate", "stop"],
)
def test_forked_child(start: Start, work: str, after: str, status: int) -> None:
    """What ends a child that a callback has forked does nothing to the filter: SIGTERM is not its
    stop, nor is the child's own `stop()`, and its connections stay."""
    program = start(f"{FORKING}\nwork = lambda: {work}\nafter = lambda child: {after}" + RUN)
    _after_ready(program)
    idle = program.mta(C)
    mta = program.mta(C, H, M, R, T, N, E)
    assert f"child {status}" == program.line()
    idle.play(H, M)
    mta.play(M)
    program.mta(C)
    program.kill(TERM)
    idle.send(Q)
    mta.send(Q)
    assert (0, "") == program.end()[::2]


# -- the program's own handlers ------------------------------------------------------------------


@pytest.mark.ours
@pytest.mark.parametrize("number", [TERM, INT])
def test_own_handler_runs(start: Start, number: int) -> None:
    """A handler of the program for SIGTERM or SIGINT runs, once, in the main thread, and
    runmilter returns."""
    program = start(
        f"""
def handler(signum, frame):
    say("handler", signum, threading.current_thread() is threading.main_thread())
signal.signal({int(number)}, handler)
"""
        + RUN
    )
    _after_ready(program)
    program.kill(number)
    assert (0, [f"handler {int(number)} True", "result None", "after"], "") == program.end()


@pytest.mark.ours
@pytest.mark.parametrize("number", [TERM, INT])
def test_handler_that_exits(start: Start, number: int) -> None:
    """A handler that raises SystemExit ends the program with that status, after a graceful stop:
    `close` runs for open connections, the socket file is removed."""
    program = start(
        f"""
signal.signal({int(number)}, lambda *args: sys.exit(7))
"""
        + RUN
    )
    _after_ready(program)
    program.mta(C, H)
    program.kill(number)
    assert (7, ["close"], "") == program.end()
    assert not Path(program.path).exists()


@pytest.mark.ours
def test_handler_that_raises(start: Start) -> None:
    """Any other exception of a handler comes out of runmilter the same way."""
    program = start("""
class Mine2(Exception): pass
def handler(*args):
    raise Mine2("from the handler")
signal.signal(signal.SIGTERM, handler)
try:
    Milter.runmilter("x", SOCKET)
except Mine2 as error:
    say("caught", error, os.path.exists(SOCKET[5:]))
""")
    _after_ready(program)
    program.mta(C, H)
    program.kill(TERM)
    assert (0, ["close", "caught from the handler False"], "") == program.end()


@pytest.mark.ours
def test_handler_that_raises_lets_messages_finish(start: Start) -> None:
    """An open message is finished before the handler's exception goes on."""
    program = start("signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))\n" + _drain(60))
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    mta.play(T, L, N, B, E)
    assert b"" == mta.read_all()
    assert (7, ["eom", "close"], "") == program.end()


@pytest.mark.ours
def test_own_handler_for_hup(start: Start) -> None:
    """A handler of the program for SIGHUP runs, and that is all: the milter goes on."""
    program = start(
        """
signal.signal(signal.SIGHUP, lambda signum, frame: say("reload", signum))
"""
        + RUN
    )
    _after_ready(program)
    for _ in range(2):
        program.kill(HUP)
        assert "reload 1" == program.line()
    program.mta(C, H, M, R, T, N, E)
    assert "eom" == program.line()
    program.kill(TERM)
    assert (0, ["close", "result None", "after"], "") == program.end()


@pytest.mark.ours
def test_handler_for_another_signal(start: Start) -> None:
    """Handlers for other signals run while the milter serves (under pymilter they never do), and
    do not stop it."""
    program = start(
        """
signal.signal(signal.SIGUSR1, lambda signum, frame: say("usr1"))
signal.signal(signal.SIGALRM, lambda signum, frame: say("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.05)
"""
        + RUN
    )
    lines = {program.line(), program.line()}
    assert {"close", "alarm"} == lines
    program.kill(signal.SIGUSR1)
    assert "usr1" == program.line()
    program.mta(C, H)
    program.kill(TERM)
    assert (0, ["close", "result None", "after"], "") == program.end()


@pytest.mark.ours
def test_handlers_are_left_as_they_were(start: Start) -> None:
    """After main the handlers and the signal mask are the program's again: a later SIGTERM does
    what it does without a milter."""
    program = start("""
def handler(*args):
    say("handler")
signal.signal(signal.SIGINT, handler)
numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE]
before = [signal.getsignal(n) for n in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, [])
Milter.runmilter("x", SOCKET)
after = [signal.getsignal(n) for n in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, [])
say("same", before == after)
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGTERM)
say("not reached")
""")
    _after_ready(program)
    program.kill(TERM)
    assert (-TERM, ["same True", "handler"], "") == program.end()


@pytest.mark.ours
@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_thread_started_before(start: Start, number: int) -> None:
    """A thread that the program had started before does not make a signal fatal."""
    program = start(
        """
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
        + RUN
    )
    _after_ready(program)
    program.kill(number)
    assert (0, ["result None", "after"], "") == program.end()


@pytest.mark.ours
def test_thread_started_before_and_a_handler(start: Start) -> None:
    """Nor does it keep the program's own handler from running."""
    program = start(
        """
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *args: say("handler"))
"""
        + RUN
    )
    _after_ready(program)
    program.kill(TERM)
    assert (0, ["handler", "result None", "after"], "") == program.end()


@pytest.mark.ours
def test_restart_after_a_signal(start: Start) -> None:
    """After a signal runmilter can be called again, and the next signal stops that one."""
    program = start(RUN + RUN)
    _after_ready(program)
    program.kill(TERM)
    assert ["result None", "after"] == [program.line(), program.line()]
    program.ready()
    program.kill(INT)
    assert (0, ["close", "result None", "after"], "") == program.end()


# -- open messages -------------------------------------------------------------------------------


def _accepts(program: Program) -> bool:
    """Tell whether somebody still listens at the socket."""
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(program.path)
        except OSError:
            return False
        return True


def _drain(seconds: Any) -> str:
    """The end of a program that gives messages this long, and callbacks as long as they need on a
    busy machine: those of what is cut off usually have half a second."""
    return f"""
from Milter import _server
_server._CUT_GRACE += {DEADLINE}
say("result", Milter.runmilter("x", SOCKET, drain={seconds}))
say("after")
"""


@pytest.mark.ours
@pytest.mark.parametrize("number", [TERM, INT, HUP])
@pytest.mark.parametrize("before", [(M,), (M, R), (M, R, T, L, N, B)])
def test_open_message_is_finished(start: Start, number: int, before: tuple[bytes, ...]) -> None:
    """After a signal a message that is open is served to its end, while nobody new is let in; then
    its connection is closed."""
    program = start(_drain(60))
    _after_ready(program)
    mta = program.mta(C, H, *before)
    program.kill(number)
    wait_until(lambda: not _accepts(program), "the end of listening")
    message = (M, R, T, L, N, B, E)
    mta.play(*message[len(before) :])
    assert b"" == mta.read_all()
    assert (0, ["eom", "close", "result None", "after"], "") == program.end()


@pytest.mark.ours
def test_message_that_is_aborted_meanwhile(start: Start) -> None:
    """An open message that the MTA aborts instead ends the wait, too."""
    program = start(_drain(60))
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    begun = time.monotonic()
    mta.send(A)
    assert b"" == mta.read_all()
    assert (0, ["abort", "close", "result None", "after"], "") == program.end()
    assert time.monotonic() - begun < DEADLINE


@pytest.mark.ours
def test_peer_that_vanishes_meanwhile(start: Start) -> None:
    """So does one whose peer goes away."""
    program = start(_drain(60))
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    mta.close()
    assert (0, ["abort", "close", "result None", "after"], "") == program.end()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0, 0, 5), (0.3, 0.3, 5), (None, 5, DEADLINE)]
)
def test_drain_has_an_end(start: Start, seconds: float | None, least: float, most: float) -> None:
    """A message that is not finished when the time, 5 s by default, is over is cut off: `abort`,
    `close`."""
    program = start(_drain(seconds))
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    mta.patience = DEADLINE
    begun = time.monotonic()
    program.kill(TERM)
    assert b"" == mta.read_all()
    took = time.monotonic() - begun
    assert least <= took < most
    assert (0, ["abort", "close", "result None", "after"]) == program.end_logged()


@pytest.mark.ours
@pytest.mark.parametrize("second", [TERM, INT])
def test_second_signal_ends_it_at_once(start: Start, second: int) -> None:
    """A second signal ends the wait for open messages."""
    program = start(_drain(600))
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    mta.ask(R)
    program.kill(second)
    assert b"" == mta.read_all()
    assert (0, ["abort", "close", "result None", "after"]) == program.end_logged()


@pytest.mark.ours
def test_second_stop_changes_nothing(start: Start) -> None:
    """`stop()` called while the milter waits already leaves an open message its time; a second
    signal does not."""
    program = start(
        """
def late(*args):
    Milter.stop()
signal.signal(signal.SIGUSR1, late)
"""
        + _drain(600)
    )
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    program.kill(signal.SIGUSR1)
    mta.play(R)
    program.kill(TERM)
    assert b"" == mta.read_all()
    assert (0, ["abort", "close", "result None", "after"]) == program.end_logged()


@pytest.mark.ours
def test_handler_that_stops_is_no_second_signal(start: Start) -> None:
    """A handler of the program that calls `Milter.stop()` itself does not end the wait for open
    messages; a second signal does."""
    program = start(
        """
signal.signal(signal.SIGTERM, lambda *args: Milter.stop())
"""
        + _drain(600)
    )
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(TERM)
    wait_until(lambda: not _accepts(program), "the end of listening")
    mta.play(R, T, L)
    program.kill(TERM)
    assert b"" == mta.read_all()
    assert (0, ["abort", "close", "result None", "after"]) == program.end_logged()


def test_running_callback_finishes(start: Start) -> None:
    """A callback that runs when the signal comes finishes, and its reply is sent."""
    program = start(
        """
class Slow(Mine):
    def eom(self):
        say("begun")
        end = time.monotonic() + 30
        while not os.path.exists(SOCKET[5:] + ".go") and time.monotonic() < end:
            time.sleep(0.01)
        say("finished")
        return Milter.CONTINUE
Milter.factory = Slow
"""
        + RUN
    )
    _after_ready(program)
    mta = program.mta(C, H, M, R, T, N)
    mta.send(E)
    assert "begun" == program.line()
    program.kill(TERM)
    Path(program.path + ".go").touch()
    mta.expect(CONTINUE)
    assert "finished" == program.line()
    status, lines, err = program.end()
    assert (0, "") == (status, err)
    assert ["result None", "after"] == [line for line in lines if line != "close"]


@pytest.mark.ours
def test_stop_with_open_message_from_a_thread(start: Start) -> None:
    """`Milter.stop()` lets open messages finish as a signal does."""
    program = start(
        """
signal.signal(signal.SIGUSR1, lambda *args: Milter.stop())
"""
        + _drain(60)
    )
    _after_ready(program)
    mta = program.mta(C, H, M, R)
    program.kill(signal.SIGUSR1)
    wait_until(lambda: not _accepts(program), "the end of listening")
    mta.play(T, L, N, B, E)
    assert b"" == mta.read_all()
    assert (0, ["eom", "close", "result None", "after"], "") == program.end()
