"""`getdiag`: contexts made and freed (API spec 1.15)."""

from __future__ import annotations

import gc

from compat_live import Live
from compat_support import wait_until

import milter
from harness.packets import C, H, M


def _deleted_since(before: tuple[int, int], count: int) -> bool:
    gc.collect()
    return milter.getdiag()[1] - before[1] == count


def test_created_with_the_first_event(live: Live) -> None:
    """A context is made when the first event with a callback reaches a connection."""
    live.on(envfrom=None)
    before = milter.getdiag()
    mta = live.mta()
    mta.play(C, H)
    assert before[0] == milter.getdiag()[0]
    mta.ask(M)
    assert before[0] + 1 == milter.getdiag()[0]
    mta.ask(M)
    assert before[0] + 1 == milter.getdiag()[0]


def test_deleted_when_freed(live: Live) -> None:
    """It is counted as deleted when the connection is over and nobody holds it."""
    live.on(connect=None)
    gc.collect()  # contexts of earlier tests
    before = milter.getdiag()
    for _ in range(3):
        live.mta().ask(C)
    live.finish()
    assert 3 == len(live.contexts)
    assert (before[0] + 3, before[1]) == milter.getdiag()
    live.contexts.pop()
    wait_until(lambda: _deleted_since(before, 1))
    live.contexts.clear()
    wait_until(lambda: _deleted_since(before, 3))
    assert before[0] + 3 == milter.getdiag()[0]


def test_without_callbacks(live: Live) -> None:
    """Connections without a callback make none."""
    before = milter.getdiag()
    live.mta().play(C, H, M)
    live.finish()
    assert before == milter.getdiag()
