"""Greylists under any sequence of checks: every store decides as the one function does."""

from __future__ import annotations

import csv
import io
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.redis_server import RedisServer
from Milter import greylist, greysql
from Milter._greydecision import Entry, Periods, decide
from Milter._greyshelve import _record

pytestmark = pytest.mark.one_mode("it serves nothing")

START = 1_700_000_000.0

# Short periods, so that few steps meet every row of the table: 0.5 min, 0.05 h, 0.01 d, in seconds.
PERIODS = Periods(30.0, 180.0, 864.0)
GIVEN = {"grey_time": 0.5, "grey_expire": 0.05, "grey_retain": 0.01}
EDGES = [0.0, 1e-6, 1.0, 5.0, 30.0, 35.0, 144.99999, 145.0, 180.0, 864.0, 864.000001, 900.0]

Steps = list[tuple[int, float]]
steps = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(
            st.sampled_from(EDGES),
            st.sampled_from(EDGES).map(lambda seconds: -seconds),
            st.floats(-1000, 1000, allow_nan=False),
        ),
    ),
    min_size=1,
    max_size=30,
)
TRIPLES = [("192.0.2.1", "a@x", "b@y"), ("2001:db8::1", "a b@x", "b:@y"), ("192.0.2.1", "", ".")]

# Anything that could be an address, so without NUL, at which the protocol's texts end, and which
# CSV cannot hold before Python 3.11. The second are bytes that were no UTF-8.
addresses = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        st.integers(0xDC80, 0xDCFF).map(chr),
        st.sampled_from(":.% \n\r,\"'*?[]\\"),
    )
)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis server."""
    pytest.importorskip("redis", reason="no redis-py: pip install redis")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


def times(sequence: Steps) -> list[tuple[int, float]]:
    """Return the steps with points of time in place of seconds since the last step."""
    moments = itertools.accumulate((seconds for _, seconds in sequence), initial=START)
    return [(which, now) for (which, _), now in zip(sequence, itertools.islice(moments, 1, None))]


def expected(sequence: Steps) -> tuple[list[int], dict[int, Entry]]:
    """Return the answers by the decision function, and what is remembered at the end."""
    seen: dict[int, Entry] = {}
    answers = []
    for which, now in times(sequence):
        decision = decide(seen.get(which), now, PERIODS)
        answers.append(decision.result)
        seen[which] = decision.entry
    return answers, seen


def table(store: Any) -> list[list[str]]:
    """Return the whole list; by its clock nothing of it is expired."""
    out = io.StringIO(newline="")
    store.export_csv(out, timeinc=-1e9)
    return sorted(csv.reader(io.StringIO(out.getvalue(), newline="")))


def quoted(triple: tuple[str, str, str]) -> list[str]:
    """Return how a list shows a triple."""
    return [triple[0], *map(greylist.quoteAddress, triple[1:])]


def rows(seen: dict[int, Entry]) -> list[list[str]]:
    """Return what the table must be."""
    return sorted(
        [*quoted(TRIPLES[which]), repr(entry.firstseen), repr(entry.lastseen), str(entry.cnt), ""]
        for which, entry in seen.items()
    )


def play(store: Any, clock: list[float], sequence: Steps) -> list[int]:
    """Return the answers of a store."""
    answers = []
    for which, now in times(sequence):
        clock[0] = now
        answers.append(store.check(*TRIPLES[which]))
    return answers


@given(steps)
def test_sqlite_decides_as_the_function_does(sequence: Steps) -> None:
    """Answers and entries are the same, whatever the times are."""
    answers, seen = expected(sequence)
    clock = [START]
    with greylist.Greylist(":memory:", **GIVEN, clock=lambda: clock[0]) as store:
        assert answers == play(store, clock, sequence)
        assert rows(seen) == table(store)


@given(steps)
def test_redis_decides_as_the_function_does(redis: RedisServer, sequence: Steps) -> None:
    """Answers and entries are the same, to the last bit of the times."""
    assert b"+OK\r\n" == redis.ask(b"FLUSHALL")
    answers, seen = expected(sequence)
    clock = [START]
    with greylist.open(redis.url, **GIVEN, clock=lambda: clock[0]) as store:
        assert answers == play(store, clock, sequence)
        assert rows(seen) == table(store)


@given(steps)
def test_the_first_answer_is_no_and_counts_go_up_by_one(sequence: Steps) -> None:
    """What the table of API spec 3.6 means, whoever decides.

    The first is refused; who passes was seen before, not too short ago; a count is 1 or the last
    one and 1.
    """
    seen: dict[int, Entry] = {}
    for which, now in times(sequence):
        before = seen.get(which)
        result, after, _ = decide(before, now, PERIODS)
        assert now == after.lastseen
        if before is None:
            assert (0, Entry(now, now, 0, None)) == (result, after)
        elif result:
            assert before.cnt + 1 == result == after.cnt
            assert before.firstseen == after.firstseen <= now - 35
            assert now <= before.lastseen + 864
        else:
            assert after.cnt in (0, before.cnt)
        seen[which] = after


@given(addresses)
def test_quoted_addresses_can_stand_in_a_key(address: str) -> None:
    """No colon, blank or control character; no leading dot; quoting again changes nothing."""
    result = greylist.quoteAddress(address)
    assert not set(result) & set(": \n\r\0,\"'*?[]\\")
    assert result.isascii()
    assert not result.startswith(".")
    assert result == greylist.quoteAddress(result)


@given(st.lists(st.tuples(addresses, addresses, addresses), unique=True, max_size=8))
def test_csv_goes_round(triples: list[tuple[str, str, str]]) -> None:
    """What greysql exports, it imports: any text, each triple by itself."""
    clock = [START]
    with greysql.Greylist(":memory:", clock=lambda: clock[0]) as one:
        for number, triple in enumerate(triples):
            one.check(*triple, timeinc=number / 7)
        out = io.StringIO(newline="")
        one.export_csv(out)
        with greysql.Greylist(":memory:", clock=lambda: clock[0]) as two:
            two.import_csv(io.StringIO(out.getvalue(), newline=""))
            assert len(triples) == len(table(two))
            assert table(one) == table(two)
            assert [1] * len(triples) == [two.check(*triple, 700) for triple in triples]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_none(value: bytes) -> None:
    """What stands in an old file raises nothing and makes nothing but an entry."""
    assert isinstance(_record(value), (Entry, type(None)))
    # Also behind a beginning that is all right.
    assert isinstance(
        _record(b"\x80\x02cMilter.greylist\nRecord\nq\0)\x81" + value), (Entry, type(None))
    )


@given(st.builds(bytearray, st.just(pickle.dumps(greylist.Record(), 2))), st.data())
def test_damaged_pickle_is_a_record_or_none(value: bytearray, data: st.DataObject) -> None:
    """One byte of a sound pickle is changed."""
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(_record(bytes(value)), (Entry, type(None)))
