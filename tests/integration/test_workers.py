"""Filters of several processes behind Postfix, under load: workers killed and replaced.

What must hold: a worker that dies costs the connections it had, whose clients are told to try
again; a replaced one costs nothing; and no message is lost.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Place, missing
from .filters import filter_python, on_our_engine
from .mta import wait_until
from .mta_postfix import Postfix
from .smtp import ONE, QUIT, SENDER, Client, Say, message_steps, on_the_wire, render

PLACES = [
    pytest.param(("postfix", endpoint), id=endpoint, marks=pytest.mark.postfix)
    for endpoint in ("solo-unix", "solo-inet")
]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.parametrize("solo", PLACES, indirect=True),
]

FILTER = """
import logging, os, sys, time
import Milter

SOCKET, NOTES, WORKERS = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

def note(*words):
    with open(NOTES, "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")

class Marking(Milter.Base):
    held = False
    def hello(self, name):
        self.name, self.held = name, name.startswith("held")
        return Milter.CONTINUE
    def header(self, field, value):
        return Milter.CONTINUE
    def body(self, chunk):
        return Milter.CONTINUE
    def eom(self):
        self.addheader("X-Worker", str(os.getpid()))
        if self.held:
            note("held", self.name, os.getpid())
            while not os.path.exists(NOTES + ".gate"):
                time.sleep(0.01)
        return Milter.CONTINUE

Milter.factory = Marking
Milter.runmilter("marking", SOCKET, workers=int(WORKERS))
note("returned", os.getpid())
"""

#: Messages of one load, and how many sessions send them at once.
MESSAGES, SESSIONS = 300, 8
#: Seconds until a load, which takes a few, is given up.
PATIENCE = 120.0


class Service:
    """A filter with workers behind Postfix, and what is to be known of the two."""

    def __init__(self, place: Place, workers: int) -> None:
        self.place = place
        assert isinstance(place.mta, Postfix)
        self.mta = place.mta
        self.notes = place.mta.directory / f"{place.token}.notes"
        self.gate = Path(f"{self.notes}.gate")
        self._output = place.filter.output
        self._output.touch()
        self._old_output = self._output.stat().st_size
        # So that nothing of another test's comes behind it.
        self.mta.wait_for_sessions()
        self._old_log = len(self.mta._log())
        program = place.mta.directory / f"{place.token}.py"
        program.write_text(FILTER)
        place.filter.start(
            command=[
                filter_python(),
                program,
                place.filter.spec,
                self.notes,
                str(workers),
            ]
        )
        self.workers = self.started(workers)

    def said(self, pattern: str) -> list[str]:
        """What fits in the filter's log: the pattern's group, for each line."""
        data = self._output.read_bytes()[self._old_output :]
        return re.findall(rf"^{pattern}$", data.decode(), re.M)

    def started(self, count: int) -> list[str]:
        """Wait until so many workers have become ready; return their process ids, in order."""
        ready = r"INFO marking: worker (\d+) is ready"
        wait_until(lambda: len(self.said(ready)) >= count, f"{count} workers are ready")
        return self.said(ready)

    def ended(self, pid: str) -> None:
        """Wait until a worker has ended in order."""
        wait_until(
            lambda: self.said(rf"INFO marking: (worker {pid}) exited with status 0"),
            f"worker {pid} ends",
        )

    def held(self) -> list[tuple[str, str]]:
        """The messages at which a worker waits for the gate: client's name, worker."""
        text = self.notes.read_text() if self.notes.exists() else ""
        return re.findall(r"^held (\S+) (\d+)$", text, re.M)

    def stop(self) -> None:
        """Stop the filter; it must end in order, and nobody but the supervisor returns."""
        pid = self.place.filter.pid
        self.place.filter.signal(signal.SIGTERM)
        assert 0 == self.place.filter.wait()
        assert [str(pid)] == re.findall(r"^returned (\d+)$", self.notes.read_text(), re.M)

    # -- what became of the mail -----------------------------------------------------------------

    def maillog(self) -> str:
        """What Postfix has logged since the filter was started."""
        return self.mta._log()[self._old_log :]

    def cut_short(self) -> list[str]:
        """The log's lines about sessions in which no message was accepted."""
        self.mta.wait_for_sessions()
        lines = re.findall(": disconnect from.*", self.maillog())
        return [line for line in lines if " data=1 " not in line]

    def refusals(self) -> set[str]:
        """What clients were told on account of the filter."""
        return set(re.findall(r"milter-reject: \S+ from \S+: (?:451 )?([^;]*);", self.maillog()))

    def delivered(self) -> list[str]:
        """The worker that each delivered message has gone through; "" for none."""
        found = []
        for path in self.mta._maildir_files():
            match = re.search(rb"^X-Worker: (\d+)$", path.read_bytes(), re.M)
            found.append(match[1].decode() if match else "")
        return found

    def wait_for_empty_queue(self) -> None:
        """Wait until nothing is left to be delivered."""
        queue = self.mta.base / "queue"

        def empty() -> bool:
            return not any(
                path.is_file()
                for name in ("maildrop", "incoming", "active", "deferred")
                for path in (queue / name).glob("**/*")
            )

        wait_until(empty, "all mail is delivered", PATIENCE)

    def wait_for_mail(self, count: int) -> None:
        """Wait until so many messages have been delivered."""
        wait_until(
            lambda: len(self.mta._maildir_files()) >= count, f"{count} messages delivered", PATIENCE
        )


class Held:
    """An SMTP session that has sent its message, which the filter keeps waiting."""

    def __init__(self, place: Place, number: int) -> None:
        self.name = f"held{number}.example"
        self.client = Client(place.address)
        content = on_the_wire(render(f"{place.token}-{number}"))
        for step in (Say("greeting"), Say("ehlo", f"EHLO {self.name}"), *message_steps()[:-1]):
            reply = self.client.say(step)
            assert reply[:1] in "23", reply
        self.client.send(content)

    def reply(self) -> str:
        """Wait for the reply to the message."""
        code, text = self.client.getreply()
        return f"{code} {text.decode()}"


@pytest.fixture
def load() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The load generators started by the test, ended with it."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def begin_load(
    place: Place, running: list[subprocess.Popen[bytes]], messages: int = MESSAGES
) -> subprocess.Popen[bytes]:
    """Start smtp-source: one message for each session, some sessions at once."""
    program = shutil.which("smtp-source", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        missing("smtp-source, which comes with Postfix")
    host, port = place.address
    options = f"-A -s {SESSIONS} -m {messages} -l 3000 -M load.example -f {SENDER} -t {ONE}".split()
    process = subprocess.Popen(
        [program, *options, f"{host}:{port}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    running.append(process)
    return process


def needs_workers() -> None:
    """Skip where the filters run on something that has no workers."""
    if not on_our_engine():
        pytest.skip("not here: workers= is not pymilter's")


def test_worker_killed_under_load(solo: Place, load: list[subprocess.Popen[bytes]]) -> None:
    """A worker killed with SIGKILL in the middle of messages costs those: their clients are told
    to try again. All else is delivered, through the other workers and the one that replaces it."""
    needs_workers()
    service = Service(solo, 3)
    held: list[Held] = []
    try:
        while len({worker for _, worker in service.held()}) < 2:
            held.append(Held(solo, len(held)))
            wait_until(lambda: len(service.held()) == len(held), "the filter has the message")
            assert len(held) < 50, "all connections go to one worker"
        of = dict(service.held())
        victim = of[held[0].name]
        source = begin_load(solo, load)
        service.wait_for_mail(MESSAGES // 5)
        subprocess.run(["kill", "-KILL", victim], check=True)
        assert 4 == len(service.started(4))
        replies = {one.name: one.reply() for one in held if of[one.name] == victim}
        assert {"451 4.7.1 Service unavailable - try again later"} == set(replies.values())
        assert 0 == source.wait(PATIENCE)
        service.gate.touch()
        kept = [one.reply() for one in held if of[one.name] != victim]
        assert all(reply.startswith("250 ") for reply in kept), kept
    finally:
        service.gate.touch()
        for one in held:
            one.client.close()
    said = service.said(r"ERROR marking: worker (\d+ .*)")
    assert [f"{victim} was killed by SIGKILL; starting another"] == said
    service.wait_for_empty_queue()
    delivered = service.delivered()
    # A held message has two recipients.
    lost = MESSAGES + 2 * len(kept) - len(delivered)
    assert lost <= SESSIONS
    assert lost + len(replies) == len(service.cut_short())
    assert set() == service.refusals() - {"4.7.1 Service unavailable - try again later"}
    assert set(service.started(4)) >= set(delivered)
    service.stop()


def test_roll_under_load(solo: Place, load: list[subprocess.Popen[bytes]]) -> None:
    """SIGHUP replaces all workers under load and costs nothing: every message is delivered, none
    put off, and Postfix has nothing to say about the filter. A session that goes on meanwhile, from
    one message to the next, keeps its worker."""
    needs_workers()
    service = Service(solo, 2)
    long = Client(solo.address)
    content = on_the_wire(render(solo.token))
    try:
        for step in (Say("greeting"), Say("ehlo", "EHLO long.example")):
            assert long.say(step)[:1] == "2"
        # A load for each time, and one for the last workers: however late the signal comes, those
        # that it brings get mail.
        for count in range(3):
            begin_load(solo, load, MESSAGES // 3)
            # What came before, the long session's messages with two recipients each, and some.
            service.wait_for_mail(count * (MESSAGES // 3 + 2) + MESSAGES // 6)
            solo.filter.signal(signal.SIGHUP)
            service.started(4 + 2 * count)
            for step in message_steps():
                assert long.say(step, content)[:1] in "23"
        begin_load(solo, load, SESSIONS)
        assert long.say(QUIT)[:3] == "221"
        assert [0] * 4 == [source.wait(PATIENCE) for source in load]
    finally:
        long.close()
    workers = service.started(8)
    for pid in workers[:6]:
        service.ended(pid)
    service.wait_for_empty_queue()
    delivered = service.delivered()
    assert MESSAGES + SESSIONS + 6 == len(delivered)
    assert set(workers) >= set(delivered)
    assert len(set(delivered)) >= 3
    assert [] == re.findall(r".*(?:milter|4\d\d 4\.).*", service.maillog())
    assert [] == service.said("((?:WARNING|ERROR).*)")
    service.stop()
