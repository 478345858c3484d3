"""A server's threads where the operating system gives none."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness import F, running
from harness.packets import OFFER, C, M
from harness.wire import PATIENCE
from Milter import _threads
from Milter._dispatch import Dispatcher
from Milter._server import Server
from Milter._threads import ThreadPerConnection


@pytest.mark.usefixtures("waiting")
def test_no_thread_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that came while no further thread could be started is served once one can be,
    and not only when the connection that keeps the last thread has ended."""
    start = threading.Thread.start
    refuse = threading.Event()

    def limited(thread: Any) -> None:
        if refuse.is_set() and thread.name.startswith("F-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with running() as run:
        run.wait_for(lambda: "F-1" in run.threads())
        refuse.set()
        first = run.mta()
        first.play(C, M)
        run.wait_for(lambda: len(run.messages()) >= 1)
        refuse.clear()
        with run.connect() as second:
            second.send(OFFER)
            assert "O" == second.read_packet()[0]
            first.play(M)
        assert ["F: cannot start a thread: can't start new thread"] == run.messages()


@pytest.mark.parametrize("size", [0, 2], ids=["thread", "pool"])
def test_a_thread_that_does_not_begin(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A thread that the system starts but that ends before it begins, for want of memory, holds up
    neither the connection whose thread wanted it nor main(), which starts another."""
    bootstrap = threading.Thread._bootstrap

    def end(thread: Any) -> None:
        if thread.name == "F-2":
            threading._limbo.pop(thread, None)  # or enumerate() would find it for ever
        else:
            bootstrap(thread)

    wait = _threads._Begun.wait
    waits: list[Any] = []

    def wait_for_the_first(begun: Any, timeout: Any = None) -> bool:
        waits.append(begun)
        return wait(begun, PATIENCE if len(waits) == 1 else timeout)

    monkeypatch.setattr(threading.Thread, "_bootstrap", end)
    # Without its first thread main() would not run; that one may be slow on a busy machine.
    monkeypatch.setattr(_threads._Begun, "wait", wait_for_the_first)
    monkeypatch.setattr(_threads, "_BEGIN", 0.05)
    monkeypatch.setattr(_threads, "_RETRY", 0.05)
    with running(threads=size) as run:
        first = run.mta()
        first.play(C, M)
        with run.connect() as second:
            second.send(OFFER)
            assert "O" == second.read_packet()[0]
        first.play(M)
        assert ["F: cannot start a thread: it does not begin"] == run.messages()
        run.server.stop()


@pytest.mark.parametrize("size", [0, 2], ids=["thread", "pool"])
def test_no_thread_for_long(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Where only one thread can be started, connections are served one after the other, and the
    log says so once, not for each of them."""
    start = threading.Thread.start

    def limited(thread: Any) -> None:
        if thread.name.startswith("F-") and thread.name != "F-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with running(threads=size) as run:
        for _ in range(5):
            with run.connect() as mta:
                mta.send(OFFER)
                assert "O" == mta.read_packet()[0]
                mta.play(C, M)
        assert ["F: cannot start a thread: can't start new thread"] == run.messages()


def test_missing_again_while_main_starts_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that main() starts may take a connection and find that no further one can be started
    before main() is back; main() tries again all the same."""
    crew = ThreadPerConnection(Server())

    def take_a_connection_at_once() -> None:
        crew._lack_thread("cannot start a thread", RuntimeError())

    monkeypatch.setattr(crew, "start", take_a_connection_at_once)
    crew._lack_thread("cannot start a thread", RuntimeError())
    assert crew.attend() is not None
    assert crew.attend() is not None


@pytest.mark.parametrize("size", [0, 1], ids=["thread", "pool"])
def test_a_thread_that_fails(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A thread that has no memory to handle an event, nor to log that, costs its connection: others
    are served, also where it was the only one, and a stop does not wait for it."""
    handle = Dispatcher._handle
    failing = threading.Event()

    def fail_once(self: Dispatcher, number: int, count: int) -> Any:
        if failing.is_set():
            raise MemoryError
        return handle(self, number, count)

    def no_words(*values: object) -> None:
        failing.clear()
        raise MemoryError

    monkeypatch.setattr(Dispatcher, "_handle", fail_once)
    monkeypatch.setattr(_threads, "_log_failure", no_words)
    with running(F(record=False), threads=size) as run:
        with run.connect() as first:
            first.send(OFFER)
            assert "O" == first.read_packet()[0]
            failing.set()
            first.send(C)
            first.expect_close()
        for _ in range(2):
            with run.connect() as mta:
                mta.send(OFFER)
                assert "O" == mta.read_packet()[0]
                mta.play(C, M)
        # Another thread, or another connection, may be served before that is said.
        run.wait_for(lambda: bool(run.messages()))
    assert ["F: a thread has failed: MemoryError()"] == run.messages()
