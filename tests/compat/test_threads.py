"""Which thread runs a callback, and what it finds there (API spec 1.13)."""

from __future__ import annotations

import contextvars
import sqlite3
import threading
import weakref
from typing import Any

import pytest
from compat_live import MESSAGE, Live
from compat_support import DEADLINE, wait_until

import milter
from harness.packets import CONTINUE, A, C, E, H, M, N, Q, R, T

#: What belongs to a thread belongs to a connection only where each has a thread of its own.
own_thread = pytest.mark.one_mode("the pool promises nothing of threads (docs/pool.md)")

EVENTS = [*MESSAGE, "abort", "close"]


def _everything(live: Live, function: Any) -> list[Any]:
    """Install the function for every event; the list collects (event, what it gave)."""
    seen: list[Any] = []

    def handler(event: str) -> Any:
        def call(ctx: Any, *args: Any) -> int:
            seen.append((event, function(ctx)))
            return milter.CONTINUE

        return call

    live.on(**{event: handler(event) for event in EVENTS})
    return seen


def _session(live: Live) -> None:
    """A connection with every event, ended."""
    mta = live.mta()
    mta.play(*MESSAGE.values(), M)
    mta.send(A, Q)
    mta.expect_close()


@pytest.mark.ours
@own_thread
def test_one_thread_for_a_connection(live: Live) -> None:
    """All callbacks of a connection run in the same thread, close included (with Debian's libmilter
    they do not)."""
    seen = _everything(live, lambda ctx: (threading.get_ident(), threading.get_native_id()))
    live.on(negotiate=lambda ctx, opts: seen.append(("negotiate", seen_here())) or milter.ALL_OPTS)

    def seen_here() -> Any:
        return (threading.get_ident(), threading.get_native_id())

    _session(live)
    assert ["negotiate", *MESSAGE, "envfrom", "abort", "close"] == [event for event, _ in seen]
    assert 1 == len({ids for _, ids in seen})


def test_not_the_threads_that_listen(live: Live) -> None:
    """The thread that called main() runs no callback."""
    seen = _everything(live, lambda ctx: threading.get_ident())
    for _ in range(3):
        _session(live)
    idents = {ident for _, ident in seen}
    assert live.main_ident not in idents
    assert threading.get_ident() not in idents


def test_they_are_daemons(live: Live) -> None:
    """`threading.current_thread()` gives a daemon thread: a filter's exit does not wait for it."""
    seen = _everything(live, lambda ctx: threading.current_thread().daemon)
    _session(live)
    assert {True} == {daemon for _, daemon in seen}


@pytest.mark.ours
@pytest.mark.parametrize("event", ["connect", "envfrom", "eom"])
def test_connections_do_not_wait_for_each_other(live: Live, event: str) -> None:
    """Callbacks of different connections run at the same time: ten that all wait for each other
    get through (with Debian's libmilter not always)."""
    barrier = threading.Barrier(10, timeout=DEADLINE)
    live.on(**{event: lambda ctx, *args: barrier.wait() and None})
    peers = [live.play(event) for _ in range(10)]
    for peer in peers:
        peer.send(MESSAGE[event])
    for peer in peers:
        peer.expect(CONTINUE)


def test_a_blocked_callback_delays_its_own_connection_only(live: Live) -> None:
    """While one connection's callback blocks, another is served from handshake to end."""
    release = threading.Event()
    live.on(helo=lambda ctx, name: release.wait(DEADLINE) and None)
    blocked = live.play("helo")
    blocked.send(H)
    other = live.mta()
    other.play(C, M, R, T, N, E)
    other.send(Q)
    other.expect_close()
    release.set()
    blocked.expect(CONTINUE)


def test_callbacks_of_a_connection_are_serial(live: Live) -> None:
    """Callbacks of one connection never overlap, even when the MTA has sent all events at once."""
    running: list[int] = []
    most: list[int] = []

    def enter(ctx: Any) -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    _everything(live, enter)
    mta = live.mta()
    mta.send(*MESSAGE.values())
    mta.expect(*[CONTINUE] * len(MESSAGE))
    assert {1} == set(most)


# -- thread-local data -------------------------------------------------------------------------


class _Value:
    """Something that can be seen to be freed."""


@own_thread
def test_thread_local_data_lives_with_the_connection(live: Live) -> None:
    """What one callback stores is there in all later ones of the connection, close included, and
    not in the next connection."""
    local = threading.local()

    def take(ctx: Any) -> int:
        local.count = getattr(local, "count", 0) + 1
        return int(local.count)

    seen = _everything(live, take)
    for _ in range(3):
        _session(live)
    assert list(range(1, 13)) * 3 == [count for _, count in seen]


@own_thread
def test_thread_local_data_of_connections_at_once(live: Live) -> None:
    """Connections that are open together do not see each other's."""
    local = threading.local()
    seen: list[Any] = []

    def connect(ctx: Any, hostname: str, *args: Any) -> None:
        assert not hasattr(local, "me")
        local.me = id(ctx)

    live.on(connect=connect, helo=lambda ctx, name: seen.append(local.me == id(ctx)) or 0)
    peers = [live.mta() for _ in range(5)]
    for peer in peers:
        peer.ask(C)
    for peer in reversed(peers):
        peer.ask(H)
    assert [True] * 5 == seen


@own_thread
def test_thread_local_data_is_dropped_at_the_end(live: Live) -> None:
    """It is freed when the connection ends, without a next connection."""
    local = threading.local()
    refs: list[Any] = []

    def connect(ctx: Any, *args: Any) -> None:
        local.value = _Value()
        refs.append(weakref.ref(local.value))

    live.on(connect=connect, close=lambda ctx: refs.append(local.value is not None) or 0)
    mta = live.mta()
    mta.ask(C)
    assert refs[0]() is not None
    mta.send(Q)
    mta.expect_close()
    assert refs[1] is True
    wait_until(lambda: refs[0]() is None, "the end of the thread-local data")


@own_thread
def test_thread_local_subclass_is_made_anew(live: Live) -> None:
    """A subclass of threading.local is initialised anew in each connection."""
    made: list[int] = []

    class Mine(threading.local):
        def __init__(self) -> None:
            made.append(threading.get_ident())
            self.items: list[str] = []

    local = Mine()
    seen: list[int] = []

    def use(ctx: Any, *args: Any) -> None:
        local.items.append("x")
        seen.append(len(local.items))

    live.on(connect=use, helo=use, close=use)
    for _ in range(3):
        mta = live.mta()
        mta.play(C, H)
        mta.send(Q)
        mta.expect_close()
    assert [1, 2, 3] * 3 == seen
    assert 4 == len(made)  # once here, once per connection


def test_main_threads_data_stays(live: Live) -> None:
    """Thread-local data of other threads is left alone."""
    local = threading.local()
    local.mine = "kept"
    live.on(connect=lambda ctx, *args: setattr(local, "mine", "theirs"))
    for _ in range(3):
        mta = live.mta()
        mta.ask(C)
        mta.send(Q)
        mta.expect_close()
    assert "kept" == local.mine


@own_thread
def test_many_connections_one_after_the_other(live: Live) -> None:
    """However many connections, each finds nothing of an earlier one, and all data is freed."""
    local = threading.local()
    leaked: list[int] = []
    refs: list[Any] = []

    def connect(ctx: Any, *args: Any) -> None:
        if hasattr(local, "value"):
            leaked.append(1)
        local.value = _Value()
        refs.append(weakref.ref(local.value))

    live.on(connect=connect)
    for _ in range(50):
        mta = live.mta()
        mta.ask(C)
        mta.send(Q)
        mta.expect_close()
        mta.close()
    assert [] == leaked
    assert 50 == len(refs)
    wait_until(lambda: not [r for r in refs if r() is not None], "all data's end")


# -- context variables -------------------------------------------------------------------------

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("_variable", default="unset")


@own_thread
def test_context_variables(live: Live) -> None:
    """A context variable set in one callback holds for the connection's later callbacks, and is
    unset in the next connection."""
    seen = _everything(live, lambda ctx: (_variable.get(), _variable.set("set"))[0])
    for _ in range(2):
        _session(live)
    assert (["unset"] + ["set"] * 11) * 2 == [value for _, value in seen]


@own_thread
def test_context_variables_of_the_main_thread(live: Live) -> None:
    """Callbacks do not inherit the context of the thread that started the milter, and do not
    change this one's."""
    token = _variable.set("outer")
    try:
        seen = _everything(live, lambda ctx: (_variable.get(), _variable.set("inner"))[0])
        _session(live)
        assert "unset" == seen[0][1]
        assert "outer" == _variable.get()
    finally:
        _variable.reset(token)


# -- what filters keep there ----------------------------------------------------------------------


@pytest.mark.ours
@own_thread
def test_sqlite_handle(live: Live) -> None:
    """A SQLite handle made in one callback may be used in the others, which SQLite allows in the
    same thread only."""
    local = threading.local()

    def connect(ctx: Any, *args: Any) -> None:
        local.db = sqlite3.connect(":memory:")
        local.db.execute("create table seen (event text)")

    def note(ctx: Any, *args: Any) -> None:
        local.db.execute("insert into seen values ('x')")

    counts: list[Any] = []

    def close(ctx: Any) -> None:
        counts.append(local.db.execute("select count(*) from seen").fetchone())
        local.db.close()

    live.on(connect=connect, helo=note, envfrom=note, envrcpt=note, eom=note, close=close)
    for _ in range(3):
        mta = live.mta()
        mta.play(C, H, M, R, T, N, E)
        mta.send(Q)
        mta.expect_close()
    assert [(4,)] * 3 == counts


@pytest.mark.ours
@own_thread
def test_lock_held_across_callbacks(live: Live) -> None:
    """An RLock taken in MAIL can be released in EOM: it belongs to the thread."""
    lock = threading.RLock()
    live.on(envfrom=lambda ctx, *a: lock.acquire() and None, eom=lambda ctx: lock.release())
    mta = live.mta()
    for _ in range(2):
        mta.play(M, R, T, N, E)
    assert lock.acquire(timeout=DEADLINE)
    lock.release()


def test_semaphore_held_from_mail_to_eom(live: Live) -> None:
    """A semaphore taken in MAIL and given back in EOM makes other connections wait, and only
    them."""
    semaphore = threading.Semaphore(1)
    live.on(
        envfrom=lambda ctx, *a: semaphore.acquire(timeout=DEADLINE) and None,
        eom=lambda ctx: semaphore.release(),
    )
    one, two, three = live.mta(), live.mta(), live.mta()
    one.ask(M)
    two.send(M)
    two.expect_nothing(0.1)
    three.play(C, H)
    one.play(R, T, N, E)
    two.expect(CONTINUE)
    two.play(R, T, N, E)
