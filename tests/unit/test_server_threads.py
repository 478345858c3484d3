"""A server's threads where the operating system gives none."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness import running
from harness.packets import OFFER, C, M


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
        run.wait_for(lambda: "F-1" in [thread.name for thread in threading.enumerate()])
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
