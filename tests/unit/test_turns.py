"""Threads take turns on their way back to Python, but nobody waits for a callback that waits."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from harness import F, running
from harness.packets import A, B, C, E, H, L, M, N, R, T
from harness.wire import PATIENCE
from Milter._server import Server

MESSAGE = (M, R, T, L, N, B, E)


def test_turns_are_taken_where_there_is_a_lock() -> None:
    """A server takes turns exactly if the interpreter has a lock to fight for."""
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert bool(Server()._settings.turns) == enabled


@pytest.mark.usefixtures("waiting")
def test_a_waiting_callback_holds_up_nobody() -> None:
    """While the holder of the turn waits in its callback, others play whole messages; so does the
    holder when it is back, and so do all after it."""
    go = threading.Event()
    inside = threading.Event()

    def helo(ctx: Any, name: str) -> int:
        if not go.is_set():
            inside.set()
            assert go.wait(PATIENCE)
        return 0

    with running(F(returns={"helo": helo})) as run:
        blocked = run.mta()
        blocked.play(C)
        blocked.send(H)
        assert inside.wait(PATIENCE)
        others = [run.mta() for _ in range(3)]
        for _ in range(5):
            for other in others:
                other.play(*MESSAGE)
        assert 15 == run.names().count("eom")
        go.set()
        blocked.expect(b"\0\0\0\x01c")
        for mta in (blocked, *others):
            mta.play(H, *MESSAGE)
            mta.play(M)
            mta.send(A)
        assert 19 == run.names().count("eom")
