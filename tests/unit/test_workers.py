"""Several processes: what the supervisor does about its workers (docs/workers.md).

Each test runs a filter as a program of its own and speaks to it as an MTA would. Where it matters
which worker has a connection, the others are stopped (SIGSTOP) while it is made.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from harness import Peer, offer, packet
from harness.packets import CONTINUE, A, C, E, H, L, M, N, Q, R, T
from Milter import _workers
from Milter._server import Server
from Milter._signals import Bell

TERM, INT, HUP, KILL, USR1 = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGKILL,
    signal.SIGUSR1,
)

#: Seconds after which a wait has failed; generous, since it only bounds a test that hangs.
DEADLINE = 100.0

PROGRAM = """
import logging, os, random, signal, sys, threading, time
import Milter
from Milter import _workers, milter

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Mine(Milter.Base):
    def hello(self, name):
        self.name = name
        say("hello", name, os.getpid())
        return Milter.CONTINUE
    def envfrom(self, f, *params):
        return Milter.CONTINUE
    def envrcpt(self, to, *params):
        return Milter.CONTINUE
    def eom(self):
        say("eom", self.name, os.getpid())
        return Milter.CONTINUE

Milter.factory = Mine
SOCKET = sys.argv[1]
PATH = SOCKET.partition(":")[2]

def held():  # whatever is forked waits while this file is there
    while os.path.exists(PATH + ".hold"):
        time.sleep(0.01)
os.register_at_fork(after_in_child=held)

class Telling(_workers.Worker):
    def _hear(self):
        super()._hear()
        if self._retiring:
            say("retired", os.getpid())
_workers.Worker = Telling

# A busy machine is no reason to kill one that is about to end.
_workers.GRACE = 20.0
"""

RUN = 'say("result", Milter.runmilter("x", SOCKET, {}), os.getpid())\n'


def run(**settings: Any) -> str:
    """The line that serves, with two workers unless said otherwise."""
    return RUN.format(", ".join(f"{k}={v!r}" for k, v in {"workers": 2, **settings}.items()))


def helo(name: str) -> bytes:
    """An `H` packet with this name."""
    return packet("H", name.encode() + b"\0")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition is true and return its value; fail after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.01)


def _stopped(pid: int) -> bool:
    """Tell whether SIGSTOP has reached all threads of a process."""
    states = [
        task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


class Lines:
    """What comes out of a pipe, line by line, while the test does something else."""

    def __init__(self, pipe: Any) -> None:
        self.all: list[str] = []
        self.ended = False
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.all.append(line.decode().rstrip("\n"))
        self.ended = True

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """The lines so far that fit as a whole."""
        found = [re.fullmatch(pattern, line) for line in list(self.all)]
        return [match for match in found if match]

    def wait(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """Wait for so many lines that fit; return them."""
        wait_until(
            lambda: len(self.matches(pattern)) >= count or self.ended, f"{count} lines {pattern!r}"
        )
        found = self.matches(pattern)
        assert len(found) >= count, (pattern, count, self.all)
        return found


class Program:
    """A running filter program: its socket, its workers, what it says and what it logs."""

    def __init__(self, path: Path, body: str, env: dict[str, str]) -> None:
        self.path = str(path)
        here = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), **env)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + body, "unix:" + self.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=here,
            start_new_session=True,  # so that its process group can be signalled
        )
        self.out = Lines(self.process.stdout)
        self.log = Lines(self.process.stderr)
        self._peers: list[Peer] = []
        self._names = 0

    # -- its workers -----------------------------------------------------------------------------

    def started(self, count: int) -> list[int]:
        """Wait until so many workers have become ready; return their process ids, in order."""
        return [int(m[1]) for m in self.log.wait(r"INFO x: worker (\d+) is ready", count)]

    def retired(self, pid: int) -> None:
        """Wait until this worker takes no more connections, which is some time after another has
        become ready."""
        self.out.wait(rf"retired {pid}")

    def ended(self, *pids: int) -> None:
        """Wait until these workers have ended in order."""
        for pid in pids:
            self.log.wait(rf"INFO x: worker {pid} exited with status 0")

    def kill(self, number: int, pid: Optional[int] = None) -> None:
        """Send a signal, to the supervisor unless to another."""
        os.kill(self.process.pid if pid is None else pid, number)

    # -- connections -----------------------------------------------------------------------------

    def mta(self, *commands: bytes) -> tuple[Peer, int]:
        """A connection on which these commands were continued, and the worker that has it."""
        self._names += 1
        name = f"n{self._names}"
        peer = Peer(self.path)
        self._peers.append(peer)
        peer.send(offer())
        assert "O" == peer.read_packet()[0]
        peer.play(C, helo(name), *commands)
        return peer, int(self.out.wait(rf"hello {name} (\d+)")[0][1])

    def mta_at(self, pid: int, others: list[int], *commands: bytes) -> Peer:
        """Likewise, with that worker; the others cannot be quicker."""
        others = [each for each in others if each != pid]
        for each in others:
            self.kill(signal.SIGSTOP, each)
        for each in others:
            wait_until(lambda each=each: _stopped(each), "a worker is stopped")
        try:
            peer, got = self.mta(*commands)
        finally:
            for each in others:
                self.kill(signal.SIGCONT, each)
        assert pid == got
        return peer

    def accepts(self) -> bool:
        """Tell whether somebody listens at the socket."""
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(self.path)
            except OSError:
                return False
            return True

    def refused(self) -> None:
        """Wait until nobody listens."""
        wait_until(lambda: not self.accepts(), "the end of listening")

    # -- its end ---------------------------------------------------------------------------------

    def end(self) -> int:
        """Wait until all of its processes have ended; return the exit status."""
        status = self.process.wait(DEADLINE)
        wait_until(lambda: self.out.ended and self.log.ended, "the end of all workers")
        assert [] == [line for line in self.log.all if "Traceback" in line], self.log.all
        return status

    def over(self, *more: str) -> None:
        """Wait for an orderly end: status 0, runmilter returned once, in the supervisor, without
        a line of the log above INFO but these."""
        assert 0 == self.end(), self.log.all
        assert [f"result None {self.process.pid}"] == [m[0] for m in self.out.matches("result .*")]
        assert list(more) == [m[0] for m in self.log.matches("(?!INFO).*")]
        assert not os.path.exists(self.path)

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for peer in self._peers:
            peer.close()
        # The group lives as long as the supervisor has not been waited for, or a worker is left.
        if self.process.returncode is None or not self.out.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            wait_until(lambda: self.out.ended and self.log.ended, "the pipes' end")
            pipe.close()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program with this body after PROGRAM, and this in its environment."""
    programs: list[Program] = []

    def begin(body: str = run(), **env: str) -> Program:
        programs.append(Program(tmp_path / "s", body, env))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


# -- serving ---------------------------------------------------------------------------------------


def test_workers_serve(start: Start, waiting: str) -> None:
    """There are as many as asked for; each serves; after SIGTERM runmilter returns, once."""
    program = start(run(workers=3))
    pids = program.started(3)
    assert 3 == len({*pids, program.process.pid} - {program.process.pid})
    for pid in pids:
        program.mta_at(pid, pids, M, R, T, N, E).send(Q)
    assert pids == [int(m[1]) for m in program.out.wait(r"eom \w+ (\d+)", 3)]
    program.kill(TERM)
    program.over()
    assert 3 == len(program.log.matches(r"INFO x: worker \d+ is ready"))


def test_one_worker(start: Start) -> None:
    """workers=1 is a supervisor and one worker."""
    program = start(run(workers=1))
    (pid,) = program.started(1)
    assert pid == program.mta()[1] != program.process.pid
    program.kill(TERM)
    program.over()


def test_legacy_program(start: Start, waiting: str) -> None:
    """A program that knows nothing of workers, and calls milter.main() itself, gets them from the
    environment."""
    program = start(
        """
milter.set_helo_callback(lambda ctx, name: say("hello", name, os.getpid()) or Milter.CONTINUE)
milter.setconn(SOCKET)
milter.register("x")
say("result", milter.main(), os.getpid())
""",
        MILTER_WORKERS="2",
    )
    pids = program.started(2)
    for pid in pids:
        program.mta_at(pid, pids)
    program.kill(TERM)
    program.over()


@pytest.mark.parametrize(
    ("settings", "variable", "count"),
    [
        ({"workers": 0}, "2", 0),
        ({"workers": 1}, "3", 1),
        ({"workers": None}, "2", 2),
        ({"workers": None}, "", 0),
        ({"workers": None}, "0", 0),
    ],
)
def test_keyword_wins(start: Start, settings: dict[str, Any], variable: str, count: int) -> None:
    """What runmilter is given goes before the environment; 0 and nothing mean one process."""
    program = start(run(**settings), MILTER_WORKERS=variable)
    pids = program.started(count)
    wait_until(program.accepts, "the filter listens")
    assert program.mta()[1] in (pids or [program.process.pid])
    program.kill(TERM)
    program.over()
    assert count == len(program.log.matches(r"INFO x: worker \d+ is ready"))


@pytest.mark.parametrize("variable", ["MILTER_WORKERS", "MILTER_WORKER_CONNECTIONS"])
@pytest.mark.parametrize("text", ["two", "-1", "1.5", "99999999999"])
def test_wrong_variable(start: Start, variable: str, text: str) -> None:
    """A variable that is no number is an error that names it; nothing is started, no socket
    left."""
    program = start(
        """
try:
    Milter.runmilter("x", SOCKET)
except milter.error as problem:
    say(problem, os.path.exists(PATH))
""",
        **{variable: text},
    )
    assert 0 == program.end()
    (line,) = program.out.all
    assert line.startswith(f"cannot run main: {variable} must be a whole number from 0 to ")
    assert line.endswith(f", not {text!r} False")


def test_negative_number(start: Start) -> None:
    """A number below 0 is an error."""
    program = start("""
for setting in ("workers", "worker_connections"):
    try:
        Milter.runmilter("x", SOCKET, **{setting: -1})
    except milter.error as problem:
        say(str(problem).partition(" to ")[0], os.path.exists(PATH))
""")
    assert 0 == program.end()
    assert [
        "cannot run main: workers must be a whole number from 0 False",
        "cannot run main: worker_connections must be a whole number from 0 False",
    ] == program.out.all


def test_no_fork(start: Start) -> None:
    """Where there is no fork, asking for workers is an error that says so."""
    program = start(f"""
os_fork = os.fork
del os.fork
try:
    {run()}
except milter.error as problem:
    say(problem, os.path.exists(PATH))
""")
    assert 0 == program.end()
    assert ["cannot run main: workers need os.fork(), which is not there False"] == program.out.all


def test_socket_access(start: Start) -> None:
    """The supervisor makes the socket as it was asked to, and no worker's end removes it."""
    program = start(run(socket_mode=0o620))
    pids = program.started(2)
    assert 0o620 == stat.S_IMODE(os.stat(program.path).st_mode)
    before = os.stat(program.path).st_ino
    program.kill(HUP)
    program.ended(*pids)
    assert before == os.stat(program.path).st_ino
    program.kill(TERM)
    program.over()


def test_runs_again(start: Start) -> None:
    """After runmilter has returned it can be called again, with workers and without."""
    program = start(run() + run(workers=1) + run(workers=0))
    pids = program.started(2)
    assert program.mta()[1] in pids
    program.kill(TERM)
    pids = program.started(3)[2:]
    assert program.mta()[1] in pids
    program.kill(TERM)
    program.out.wait("result .*", 2)
    wait_until(program.accepts, "the filter listens")
    assert program.process.pid == program.mta()[1]
    program.kill(TERM)
    assert 0 == program.end()
    assert 3 * [f"result None {program.process.pid}"] == [
        m[0] for m in program.out.matches("result .*")
    ]


def test_random_numbers_differ(start: Start) -> None:
    """Workers do not draw the same random numbers."""
    program = start(
        """
random.seed(1)
class Drawing(Mine):
    def envfrom(self, f, *params):
        say("drawn", random.random())
        return Milter.CONTINUE
Milter.factory = Drawing
"""
        + run()
    )
    pids = program.started(2)
    for pid in pids:
        program.mta_at(pid, pids, M)
    assert 2 == len({m[1] for m in program.out.wait("drawn (.*)", 2)})


# -- workers that die ------------------------------------------------------------------------------


def test_killed_in_a_message(start: Start, waiting: str) -> None:
    """A worker killed in the middle of a message costs its own connections: others go on, it is
    replaced, and the log says what has ended it."""
    program = start()
    pids = first, second = program.started(2)
    lost = program.mta_at(first, pids, M, R, T)
    kept = program.mta_at(second, pids, M, R, T)
    program.kill(KILL, first)
    assert b"" == lost.read_all()
    kept.play(N, E, M, R)
    third = program.started(3)[2]
    program.mta_at(third, [second], M, R, T, N, E)
    kept.play(T, N, E)
    program.kill(TERM)
    program.over(f"ERROR x: worker {first} was killed by SIGKILL; starting another")


def test_exit_in_a_callback(start: Start) -> None:
    """A callback that ends its process ends that worker, and the log has the exit status."""
    program = start(
        """
class Exiting(Mine):
    def eom(self):
        os._exit(3)
Milter.factory = Exiting
"""
        + run(workers=1)
    )
    (first,) = program.started(1)
    mta, _ = program.mta(M, R, T, N)
    mta.send(E)
    assert b"" == mta.read_all()
    second = program.started(2)[1]
    assert second == program.mta()[1]
    program.kill(TERM)
    program.over(f"ERROR x: worker {first} exited with status 3; starting another")


def test_real_time_signal(start: Start) -> None:
    """A signal without a name is told by its number."""
    if not hasattr(signal, "SIGRTMIN"):
        pytest.skip("not here: no real-time signals")
    number = signal.SIGRTMIN + 3
    program = start(run(workers=1))
    (first,) = program.started(1)
    program.kill(number, first)
    program.started(2)
    program.kill(TERM)
    program.over(f"ERROR x: worker {first} was killed by signal {number}; starting another")


PAUSES = "_workers.FIRST_PAUSE, _workers.LONGEST_PAUSE = 0.05, 0.25\n"


def test_back_off(start: Start) -> None:
    """Workers that die at once are replaced with longer and longer pauses, up to the longest,
    and the log says that this goes on. It can be stopped all the same."""
    program = start(
        PAUSES
        + """
_workers.YOUNG = 3600
postpone = _workers._Supervisor._postpone
def postponed(self, slot):
    say("died", time.monotonic())
    return postpone(self, slot)
_workers._Supervisor._postpone = postponed
os.register_at_fork(
    before=lambda: say("forked", time.monotonic()), after_in_child=lambda: os._exit(3)
)
"""
        + run(workers=1)
    )
    lines = program.log.wait(r"ERROR x: worker \d+ exited with status 3; (.*)", 7)[:7]
    assert [
        "starting another",
        "trying again in 0.05 s",
        "trying again in 0.1 s",
        "trying again in 0.2 s",
        "this goes on; trying again every 0.25 s",
        "this goes on; trying again every 0.25 s",
        "this goes on; trying again every 0.25 s",
    ] == [m[1] for m in lines]
    died = [float(m[1]) for m in program.out.wait(r"died ([\d.]+)", 6)]
    forked = [float(m[1]) for m in program.out.wait(r"forked ([\d.]+)", 7)]
    for before, after, pause in zip(died[1:], forked[2:], [0.05, 0.1, 0.2, 0.25, 0.25]):
        assert after - before >= pause
    program.kill(TERM)
    assert 0 == program.end()
    assert f"result None {program.process.pid}" in program.out.all


def test_back_off_is_each_places_own(start: Start) -> None:
    """A worker that dies again and again does not keep another one's place empty."""
    program = start(
        "_workers.FIRST_PAUSE = _workers.LONGEST_PAUSE = _workers.YOUNG = 3600\n" + run()
    )
    pids = program.started(2)
    program.kill(KILL, pids[0])
    third = program.started(3)[2]
    program.kill(KILL, third)
    program.log.wait(rf"ERROR x: worker {third} was killed by SIGKILL; this goes on.*")
    program.kill(KILL, pids[1])
    fourth = program.started(4)[3]
    assert fourth == program.mta()[1]
    program.kill(TERM)
    assert 0 == program.end()


def test_no_back_off_for_the_old(start: Start) -> None:
    """A worker that has lived for a while is replaced at once, however many have died before."""
    program = start("_workers.YOUNG = 0\n" + run(workers=1))
    for count in range(1, 5):
        pid = program.started(count)[-1]
        program.kill(KILL, pid)
        program.log.wait(rf"ERROR x: worker {pid} was killed by SIGKILL; starting another")
    program.started(5)


def test_fork_fails(start: Start) -> None:
    """Where no process can be started this is tried again, and a roll keeps the old workers."""
    program = start(
        PAUSES
        + """
os_fork = os.fork
def fork():
    if os.path.exists(PATH + ".full"):
        raise BlockingIOError(11, "no more processes")
    return os_fork()
os.fork = fork
"""
        + run()
    )
    pids = program.started(2)
    Path(program.path + ".full").touch()
    program.kill(HUP)
    program.log.wait(r"ERROR x: cannot start a worker: .*no more processes; trying again in 0.05 s")
    assert program.mta(M, R, T, N, E)[1] in pids
    Path(program.path + ".full").unlink()
    program.started(4)
    for peer in program._peers:
        peer.close()
    program.ended(*pids)
    program.kill(TERM)
    assert 0 == program.end()


def test_never_ready(start: Start) -> None:
    """A worker that does not come to take connections is killed and tried again."""
    program = start(
        """
def shorten():  # for those that are held only: others may need longer on a busy machine
    _workers.START = 0.2 if os.path.exists(PATH + ".hold") else 60
os.register_at_fork(before=shorten)
"""
        + run(workers=1)
    )
    (first,) = program.started(1)
    Path(program.path + ".hold").touch()
    program.kill(KILL, first)
    killed = program.log.wait(r"WARNING x: worker (\d+) does not get ready; killing it")[0][1]
    program.log.wait(rf"ERROR x: worker {killed} was killed by SIGKILL; .*")
    Path(program.path + ".hold").unlink()
    second = program.started(2)[1]
    assert second == program.mta()[1]


def test_ready_too_late() -> None:
    """A worker that was killed for not being ready, and had just said that it is, does not retire
    the one that it was to replace."""
    bell = Bell()
    supervisor = _workers._Supervisor(Server(), bell, lambda: None, 1, 0, 0.0)
    ours, theirs = _workers._pair()
    with ours, theirs:
        before, late = (_workers._Child(0, ours, 0) for _ in range(2))
        (slot,) = supervisor._slots
        slot.child, slot.coming = before, late
        late.killed = True
        theirs.send(_workers._READY)
        supervisor._hear(late)
        assert slot.child is before
        assert [] == supervisor._leaving
        assert b"" == before.told
    bell.close()


@pytest.mark.parametrize(
    ("first", "patience", "said"),
    [
        # The callback only: the main thread ends the worker, however long it takes to.
        ("pass", 20, r"exited with status [01]"),
        # The main thread too, from before the descriptors are closed.
        ("os.kill(os.getpid(), signal.SIGUSR1); stuck.wait()", 0.2, "was killed by SIGKILL"),
    ],
    ids=["waits", "hangs"],
)
def test_worker_that_cuts_itself_off(start: Start, first: str, patience: float, said: str) -> None:
    """A callback that closes descriptors that are not its own loses its process, not the
    service: the worker ends by itself, or is killed."""
    program = start(
        f"""
_workers._SILENT = {patience}
stuck = threading.Event()
def hang(*args):
    stuck.set()
    time.sleep(600)
signal.signal(signal.SIGUSR1, hang)
class Closing(Mine):
    def eom(self):
        {first}
        os.closerange(3, 100)
        time.sleep(600)
Milter.factory = Closing
"""
        + run(workers=1, drain=0)
    )
    (pid,) = program.started(1)
    mta, _ = program.mta(M, R, T, N)
    mta.send(E)
    assert b"" == mta.read_all()
    second = program.started(2)[1]
    assert second == program.mta()[1]
    assert program.log.wait(rf"ERROR x: worker {pid} {said}; starting another")


# -- SIGHUP ----------------------------------------------------------------------------------------


MESSAGE = (C, helo("load"), M, R, T, L, N, E)


class Load:
    """Short sessions, one after the other in each of some threads, until told to stop."""

    def __init__(self, program: Program, threads: int = 4) -> None:
        self.program = program
        self.failures: list[str] = []
        self.sessions = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Peer(self.program.path) as peer:
                    peer.send(offer())
                    assert "O" == peer.read_packet()[0]
                    peer.play(*MESSAGE)
                    peer.send(Q)
                    peer.expect_close()
            except (OSError, AssertionError) as failure:
                self.failures.append(repr(failure))
            self.sessions += 1  # a lost increment does not matter

    def wait(self, sessions: int) -> None:
        """Wait for so many more sessions."""
        until = self.sessions + sessions
        wait_until(lambda: self.sessions >= until, f"{sessions} sessions")

    def stop(self) -> None:
        """End it; every session must have come through."""
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)
        assert [] == self.failures


def test_roll_under_load(start: Start, waiting: str) -> None:
    """SIGHUP replaces all workers, and not one session is refused, cut or put off; the listening
    socket stays."""
    program = start()
    old = program.started(2)
    load = Load(program)
    try:
        load.wait(20)
        for count in (4, 6, 8):
            program.kill(HUP)
            new = program.started(count)[-2:]
            program.ended(*old)
            old = new
            load.wait(20)
    finally:
        load.stop()
    assert 8 == len(program.started(8))
    program.kill(TERM)
    program.over()
    # Only now has all of that been read.
    served = {int(m[1]) for m in program.out.matches(r"hello load (\d+)")}
    assert served <= set(program.started(8))
    assert served & set(old)


@pytest.mark.slow
def test_roll_with_little_mail(start: Start, waiting: str) -> None:
    """A connection of which a worker was told just before it was replaced is not left waiting until
    the next one comes: with a single client, which waits for each answer, none would."""
    program = start("say = lambda *words: None\n" + run())
    program.started(2)
    rolls = seen = ready = 0
    while rolls < 250:
        for line in program.log.all[seen:]:
            seen += 1
            ready += line.endswith("is ready")
        if ready >= 2 + 2 * rolls:
            program.kill(HUP)
            rolls += 1
        with Peer(program.path) as peer:
            peer.send(offer())
            assert "O" == peer.read_packet()[0], f"after {rolls} rolls"
            peer.play(C, H, M, R, T, N, E)
            peer.send(Q)
            peer.expect_close()
    program.kill(TERM)
    assert 0 == program.end()


def test_roll_leaves_connections(start: Start, waiting: str) -> None:
    """Connections of a worker that was replaced go on for as long as the MTA likes, from one
    message to the next; it ends with the last of them."""
    program = start()
    old = first, second = program.started(2)
    idle = program.mta_at(first, old)
    open_message = program.mta_at(first, old, M, R, T)
    program.kill(HUP)
    new = program.started(4)[2:]
    program.ended(second)
    program.retired(first)
    for _ in range(3):
        assert program.mta()[1] in new
    idle.play(M, R, T, N, E, M)
    idle.send(A)
    open_message.play(N, E)
    open_message.send(Q)
    assert b"" == open_message.read_all()
    idle.play(M, R, T, N, E)
    assert not program.log.matches(rf"INFO x: worker {first} exited.*")
    idle.close()
    program.ended(first)
    program.kill(TERM)
    program.over()


def test_roll_has_an_end(start: Start) -> None:
    """A connection that stays for too long is ended, as at a stop: once no message is open."""
    program = start("_workers.RETIRE = 0.2\n" + run(workers=1, drain=600))
    (first,) = program.started(1)
    idle, _ = program.mta()
    open_message, _ = program.mta(M, R)
    program.kill(HUP)
    program.started(2)
    assert b"" == idle.read_all()
    open_message.play(T, N, E)
    assert b"" == open_message.read_all()
    program.ended(first)
    program.kill(TERM)
    program.over()


def test_old_workers_serve_until_new_ones_are_ready(start: Start) -> None:
    """During a roll nobody is retired before there is another; a further SIGHUP meanwhile is
    remembered, and replaces those that were already new."""
    program = start()
    old = program.started(2)
    hold = Path(program.path + ".hold")
    hold.touch()
    program.kill(HUP)
    program.log.wait("INFO x: SIGHUP: replacing all workers")
    for pid in old:
        peer = program.mta_at(pid, old, M, R, T, N, E)
        peer.send(Q)
    program.kill(HUP)
    program.log.wait("INFO x: SIGHUP: replacing all workers", 2)
    assert 2 == len(program.started(2))
    hold.unlink()
    third, fourth, fifth = program.started(5)[2:]
    program.ended(*old, third)
    assert program.mta()[1] in (fourth, fifth)
    program.kill(TERM)
    program.over()
    assert 5 == len(program.log.matches(r"INFO x: worker \d+ is ready"))


def test_at_most_twice_as_many(start: Start) -> None:
    """While as many old workers as there are to be still have connections, no more are replaced."""
    program = start(run(workers=1))
    (first,) = program.started(1)
    mta, _ = program.mta()
    program.kill(HUP)
    second = program.started(2)[1]
    program.retired(first)
    other, at = program.mta()
    assert second == at
    program.kill(HUP)
    program.log.wait("INFO x: SIGHUP: replacing all workers", 2)
    other.play(M, R, T, N, E)
    assert 2 == len(program.started(2))
    mta.close()
    program.ended(first)
    program.started(3)
    other.close()
    program.ended(second)
    program.kill(TERM)
    program.over()


def test_own_handler_for_hup(start: Start) -> None:
    """A handler of the program for SIGHUP runs in each of its processes, and nobody is
    replaced."""
    program = start(
        'signal.signal(signal.SIGHUP, lambda *args: say("reload", os.getpid()))\n' + run()
    )
    pids = program.started(2)
    for count in (3, 6):
        program.kill(HUP)
        program.out.wait(r"reload \d+", count)
    said = [int(m[1]) for m in program.out.matches(r"reload (\d+)")]
    assert sorted(2 * [program.process.pid, *pids]) == sorted(said)
    assert program.mta()[1] in pids
    program.kill(TERM)
    program.over()
    assert 2 == len(program.log.matches(r"INFO x: worker \d+ is ready"))


def test_hup_ignored(start: Start) -> None:
    """Where SIGHUP is ignored, as under nohup, it stays so."""
    program = start(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        'signal.signal(signal.SIGUSR1, lambda *args: say("later"))\n' + run()
    )
    program.started(2)
    program.kill(HUP)
    program.kill(USR1)
    program.out.wait("later")
    program.mta(M, R, T, N, E)
    program.kill(TERM)
    program.over()
    assert [] == program.log.matches(".*SIGHUP.*")
    assert 2 == len(program.log.matches(r"INFO x: worker \d+ is ready"))


def test_hup_for_a_worker(start: Start) -> None:
    """SIGHUP sent to a worker, as a terminal or a service manager does, is nothing to it."""
    program = start()
    pids = program.started(2)
    for pid in pids:
        peer = program.mta_at(pid, pids, M)
        program.kill(HUP, pid)
        peer.play(R, T, N, E)
    program.kill(TERM)
    program.over()
    assert 2 == len(program.log.matches(r"INFO x: worker \d+ is ready"))


# -- the number of connections ---------------------------------------------------------------------


@pytest.mark.parametrize("by_variable", [False, True])
def test_worker_connections(start: Start, waiting: str, by_variable: bool) -> None:
    """A worker is replaced once it has had so many connections, without a session that fails."""
    if by_variable:
        program = start(run(), MILTER_WORKER_CONNECTIONS="20")
    else:
        program = start(run(worker_connections=20))
    program.started(2)
    load = Load(program, 2)
    try:
        program.started(8)
    finally:
        load.stop()
    ended = [int(m[1]) for m in program.log.wait(r"INFO x: worker (\d+) exited with status 0", 5)]
    program.kill(TERM)
    program.over()
    # Only now has all of that been read.
    served = [int(m[1]) for m in program.out.matches(r"hello load (\d+)")]
    for pid in ended:
        assert 20 <= served.count(pid)


def test_not_all_at_once(start: Start) -> None:
    """Workers do not all have enough at the same number: it is up to a tenth more."""
    program = start(
        """
limits = []
worker = _workers.Worker.__init__
def noted(self, server, channel, mask, last):
    say("last", last)
    worker(self, server, channel, mask, last)
_workers.Worker.__init__ = noted
"""
        + run(workers=12, worker_connections=1000)
    )
    limits = [int(m[1]) for m in program.out.wait(r"last (\d+)", 12)]
    assert 1000 <= min(limits)
    assert max(limits) <= 1100
    assert 1 < len(set(limits))


# -- stopping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [TERM, INT])
def test_open_messages_are_finished(start: Start, waiting: str, number: int) -> None:
    """After a signal open messages of all workers are served to their end, while nobody new is let
    in."""
    program = start(run(drain=600))
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R) for pid in pids]
    idle = [program.mta_at(pid, pids) for pid in pids]
    program.kill(number)
    program.refused()
    for peer in idle:
        assert b"" == peer.read_all()
    for peer in peers:
        peer.play(T, L, N, E)
        assert b"" == peer.read_all()
    program.over()


@pytest.mark.parametrize("number", [TERM, INT])
def test_signal_for_all_processes(start: Start, number: int) -> None:
    """A signal that goes to the workers as well, as from a terminal or a service manager, is one
    signal: open messages are finished."""
    program = start(run(drain=600))
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R) for pid in pids]
    os.killpg(program.process.pid, number)
    program.refused()
    for peer in peers:
        peer.play(T, L, N, E)
        assert b"" == peer.read_all()
    program.over()


def test_second_signal(start: Start, waiting: str) -> None:
    """A second signal ends the wait for open messages."""
    program = start(run(drain=600))
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R) for pid in pids]
    program.kill(TERM)
    # Not by connecting, which would be one more connection to cut off.
    wait_until(lambda: not os.path.exists(program.path), "the end of listening")
    peers[0].play(T)
    program.kill(INT)
    for peer in peers:
        assert b"" == peer.read_all()
    program.over(*2 * ["WARNING x: cutting off 1 connections"])


def test_drain_has_an_end(start: Start) -> None:
    """A message that is not finished in time is cut off."""
    program = start(run(workers=1, drain=0.3))
    program.started(1)
    mta, _ = program.mta(M, R)
    begun = time.monotonic()
    program.kill(TERM)
    assert b"" == mta.read_all()
    assert time.monotonic() - begun >= 0.3
    program.over("WARNING x: cutting off 1 connections")


def test_worker_that_does_not_end(start: Start) -> None:
    """A worker that does not do what it is told is killed in the end."""
    # One worker: another would have to end in that time.
    program = start("_workers.GRACE = 0.2\n" + run(workers=1, drain=0))
    (pid,) = program.started(1)
    program.kill(signal.SIGSTOP, pid)
    wait_until(lambda: _stopped(pid), "the worker is stopped")
    program.kill(TERM)
    program.over(f"WARNING x: worker {pid} does not end; killing it")


def test_stop_in_a_callback(start: Start, waiting: str) -> None:
    """`Milter.stop()` in a callback stops all workers, and lets their open messages finish."""
    program = start(
        """
class Stopping(Mine):
    def hello(self, name):
        if name == "stop":
            Milter.stop()
        return Mine.hello(self, name)
Milter.factory = Stopping
"""
        + run(drain=600),
    )
    pids = program.started(2)
    mta = program.mta_at(pids[0], pids, M, R)
    with Peer(program.path) as last:
        last.send(offer())
        assert "O" == last.read_packet()[0]
        last.play(C)
        last.ask(helo("stop"), CONTINUE)
        program.refused()
        assert b"" == last.read_all()
    mta.play(T, N, E)
    assert b"" == mta.read_all()
    program.over()


@pytest.mark.parametrize(
    "how",
    [
        "signal.signal(signal.SIGUSR1, lambda *args: Milter.stop())",
        """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def stop():
    signal.sigwait([signal.SIGUSR1])
    Milter.stop()
threading.Thread(target=stop, name="stopper").start()
""",
    ],
    ids=["handler", "thread"],
)
def test_stop_in_the_supervisor(start: Start, how: str) -> None:
    """`Milter.stop()` in the supervisor, from a handler or a thread, stops all; a thread that runs
    before the workers are made is worth a warning."""
    program = start(how + "\n" + run(drain=600))
    pids = program.started(2)
    mta = program.mta_at(pids[0], pids, M, R)
    program.kill(USR1)
    program.refused()
    mta.play(T, N, E)
    warning = (
        "WARNING x: 1 threads run already (stopper); workers do not have them, and a lock that "
        "one of them holds at a fork stays locked there"
    )
    program.over(*([warning] if "Thread" in how else []))


def test_stop_before(start: Start) -> None:
    """A stop() that came before has runmilter return at once; no worker is made."""
    program = start("Milter.stop()\n" + run())
    program.over()
    assert [] == program.log.all


def test_runs_in_another_thread(start: Start) -> None:
    """runmilter with workers may run in a thread that is not the main one; `stop()` ends it."""
    program = start(
        f"""
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
thread = threading.Thread(target=lambda: {run()})
thread.start()
signal.sigwait([signal.SIGUSR1])
Milter.stop()
thread.join()
say("joined")
"""
    )
    first, second = pids = program.started(2)
    program.kill(KILL, first)
    third = program.started(3)[2]
    for pid in (second, third):
        program.mta_at(pid, [*pids[1:], third], M, R, T, N, E)
    program.kill(USR1)
    assert 0 == program.end()
    assert [f"result None {program.process.pid}", "joined"] == program.out.all[-2:]


def test_supervisor_killed(start: Start, waiting: str) -> None:
    """Without their supervisor the workers finish open messages and end; nobody keeps the
    socket."""
    program = start(run(drain=600))
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R) for pid in pids]
    program.kill(KILL)
    program.refused()
    for peer in peers:
        peer.play(T, N, E)
        assert b"" == peer.read_all()
    assert -KILL == program.end()
    assert 2 * ["WARNING x: the supervisor is gone; stopping"] == [
        m[0] for m in program.log.matches("(?!INFO).*")
    ]


@pytest.mark.parametrize("number", [TERM, INT])
def test_signal_for_one_worker(start: Start, number: int) -> None:
    """A worker that is told to end by itself finishes its messages; another takes its place at
    once."""
    program = start(run(workers=1, drain=600))
    (first,) = program.started(1)
    mta, _ = program.mta(M, R)
    program.kill(number, first)
    second = program.started(2)[1]
    assert second == program.mta()[1]
    program.kill(number, first)
    mta.play(T, N, E)
    assert b"" == mta.read_all()
    program.ended(first)
    program.kill(TERM)
    program.over()


def test_leaving_is_told_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor hears that a worker leaves when that one lets nobody in any more: the next
    connection is the new worker's."""
    server = Server()
    ours, theirs = _workers._pair()
    with ours, theirs:
        told = []
        monkeypatch.setattr(_workers, "_tell", lambda *args: told.append(server.is_stopped()))
        _workers.Worker(server, ours, set(), 0).signalled()
    assert [True] == told


# -- what the program has set up -------------------------------------------------------------------


@pytest.mark.parametrize("number", [TERM, INT])
def test_own_handler(start: Start, number: int) -> None:
    """A handler of the program for SIGTERM or SIGINT runs once, in the supervisor, also where the
    signal goes to all processes."""
    program = start(
        f'signal.signal({int(number)}, lambda *args: say("handler", os.getpid()))\n' + run()
    )
    program.started(2)
    os.killpg(program.process.pid, number)
    program.over()
    assert [f"handler {program.process.pid}"] == [m[0] for m in program.out.matches("handler.*")]


def test_handler_that_exits(start: Start) -> None:
    """A handler that raises SystemExit ends the program with that status, once open messages are
    finished; where it is called again meanwhile, with the last one, at once."""
    program = start(
        "codes = iter([7, 8])\n"
        "signal.signal(signal.SIGTERM, lambda *args: sys.exit(next(codes)))\n" + run(drain=600)
    )
    pids = program.started(2)
    done = program.mta_at(pids[0], pids, M, R)
    cut = program.mta_at(pids[1], pids, M, R)
    program.kill(TERM)
    program.refused()
    done.play(T, N, E)
    program.ended(pids[0])
    cut.play(T)
    program.kill(TERM)
    assert b"" == cut.read_all()
    assert 8 == program.end()
    assert not os.path.exists(program.path)


def test_handler_that_exits_once(start: Start) -> None:
    """Likewise with one signal."""
    program = start("signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))\n" + run())
    program.started(2)
    program.kill(TERM)
    assert 7 == program.end()


def test_exit_functions(start: Start) -> None:
    """Functions that the program has registered with atexit run once, at its own end; those that a
    callback registers, at the end of the worker. What was in a buffer is written once."""
    program = start(
        """
import atexit
atexit.register(lambda: say("program", os.getpid()))
class Registering(Mine):
    def envfrom(self, f, *params):
        atexit.register(lambda: say("worker", os.getpid()))
        print("printed in", os.getpid())
        return Milter.CONTINUE
Milter.factory = Registering
print("printed before")
"""
        + run(),
        PYTHONUNBUFFERED="",
    )
    pids = program.started(2)
    program.mta_at(pids[1], pids, M)
    program.kill(HUP)
    for peer in program._peers:
        peer.close()
    program.ended(*pids)
    program.kill(TERM)
    program.over()
    said = [line for line in program.out.all if line.startswith(("program", "worker", "printed"))]
    assert [
        "printed before",
        f"worker {pids[1]}",
        f"printed in {pids[1]}",
        f"program {program.process.pid}",
    ] == said


GRANDCHILD = """
class Forking(Mine):
    def eom(self):
        pid = os.fork()
        if not pid:
            {child}
            os._exit(7)
        say("forked", pid)
        {parent}
        return Milter.CONTINUE
Milter.factory = Forking
_workers._TICK = 3600
"""


#: Such callbacks fork beside other threads; that this is dangerous they know.
FORKS = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}


@pytest.mark.parametrize(
    ("child", "parent", "status"),
    [
        ("time.sleep(60)", "os.kill(pid, signal.SIGTERM)", -TERM),
        ("Milter.stop()", "", 7),
    ],
    ids=["terminate", "stop"],
)
def test_child_of_a_callback(start: Start, child: str, parent: str, status: int) -> None:
    """What ends a process that a callback has forked does nothing to the workers: SIGTERM is not
    their stop, nor is that process's own `stop()`."""
    wait = f'{parent}\n        say("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))'
    program = start(GRANDCHILD.format(child=child, parent=wait) + run(), **FORKS)
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R, T, N, E) for pid in pids]
    assert [str(status)] * 2 == [m[1] for m in program.out.wait("child (.*)", 2)]
    for peer in peers:
        peer.play(M, R, T, N, E)
    program.kill(TERM)
    program.over()


def test_child_of_a_callback_that_stays(start: Start) -> None:
    """A process that a callback has forked, and that outlives its worker, does not keep the
    worker's death from being noticed; nor does one keep the supervisor's."""
    program = start(GRANDCHILD.format(child="time.sleep(600)", parent="") + run(), **FORKS)
    pids = program.started(2)
    peers = [program.mta_at(pid, pids, M, R, T, N, E) for pid in pids]
    children = [int(m[1]) for m in program.out.wait(r"forked (\d+)", 2)]
    try:
        program.kill(KILL, pids[0])
        program.started(3)
        program.kill(KILL)
        program.log.wait("WARNING x: the supervisor is gone; stopping", 2)
        assert b"" == peers[1].read_all()
    finally:
        for pid in children:
            program.kill(KILL, pid)


def test_somebody_else_waits(start: Start) -> None:
    """A program that has its children's ends thrown away, or waits for them itself, still has its
    workers replaced."""
    program = start("signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + run(workers=1))
    (first,) = program.started(1)
    program.kill(KILL, first)
    program.started(2)
    program.kill(TERM)
    assert 0 == program.end()
    assert program.log.matches(
        rf"ERROR x: worker {first} has ended \(somebody else has waited for it\); starting another"
    )
