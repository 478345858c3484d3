"""Greylisting as pymilter does it: what its two modules have in common, and module `greylist`."""

from __future__ import annotations

import csv
import io
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from Milter import greylist, greysql

NOW = 1_700_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture(params=[greylist, greysql], ids=["greylist", "greysql"])
def module(request: pytest.FixtureRequest) -> Any:
    """Each of the two modules."""
    return request.param


@pytest.fixture
def grey(module: Any, tmp_path: Path) -> Any:
    """A list of either kind, with pymilter's periods, whose clock stands still."""
    with module.Greylist(str(tmp_path / "grey.db"), clock=Clock()) as store:
        yield store


def rows(store: Any) -> list[list[str]]:
    """Return the list, as CSV has it."""
    out = io.StringIO()
    store.export_csv(out)
    return list(csv.reader(io.StringIO(out.getvalue())))


# -- the decision ----------------------------------------------------------------------------------


def test_periods_are_given_in_minutes_hours_and_days(module: Any, tmp_path: Path) -> None:
    """The constructor's numbers are the attributes' in seconds (API spec 3.6)."""
    with module.Greylist(str(tmp_path / "a")) as store:
        assert (600, 14400, 3110400) == (
            store.greylist_time,
            store.greylist_expire,
            store.greylist_retain,
        )
        assert store.ignoreLastByte is False
    with module.Greylist(str(tmp_path / "b"), grey_time=1, grey_expire=2, grey_retain=3) as store:
        assert (60, 7200, 259200) == (
            store.greylist_time,
            store.greylist_expire,
            store.greylist_retain,
        )
    with module.Greylist(str(tmp_path / "c"), 1, 2, 3) as store:
        assert 60 == store.greylist_time


# One row: what a triple was like (first seen, last seen, count: seconds before NOW), what is
# answered, and what it is like afterwards, by API spec 3.6. "retain" is 36 days, "expire" 4 hours,
# "grey_time" 10 minutes.
DECISIONS = [
    ("unknown", None, 0, (0, 0, 0)),
    ("over retain", (40 * DAY, 36 * DAY + 1, 7), 0, (0, 0, 0)),
    ("at retain", (40 * DAY, 36 * DAY, 7), 8, (40 * DAY, 0, 8)),
    ("over retain, never passed", (36 * DAY + 1, 36 * DAY + 1, 0), 0, (0, 0, 0)),
    ("at once", (0, 0, 0), 0, (0, 0, 0)),
    ("under grey_time", (599, 599, 0), 0, (599, 0, 0)),
    ("at grey_time: five seconds more", (600, 600, 0), 0, (600, 0, 0)),
    ("under those", (604.5, 3, 0), 0, (604.5, 0, 0)),
    ("at those", (605, 605, 0), 1, (605, 0, 1)),
    ("early, though it has passed", (604, 10, 3), 0, (604, 0, 3)),
    ("passed before", (700, 3, 1), 2, (700, 0, 2)),
    ("under expire", (4 * HOUR - 1, 3 * HOUR, 0), 1, (4 * HOUR - 1, 0, 1)),
    ("at expire", (4 * HOUR, 3 * HOUR, 0), 0, (0, 0, 0)),
    ("over expire, but passed before", (9 * HOUR, 8 * HOUR, 1), 2, (9 * HOUR, 0, 2)),
    ("over expire", (9 * HOUR, 8 * HOUR, 0), 0, (0, 0, 0)),
]


@pytest.mark.parametrize(
    ("before", "answer", "after"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_decision(grey: Any, before: Any, answer: int, after: Any) -> None:
    """Each row of the table, on its edge and beside it, with what is remembered afterwards."""
    if before is not None:
        line = f"192.0.2.1,s@x,r@y,{NOW - before[0]!r},{NOW - before[1]!r},{before[2]},\n"
        grey.import_csv(io.StringIO(line))
    assert answer == grey.check("192.0.2.1", "s@x", "r@y")
    ((*_, first, last, cnt, umis),) = rows(grey)
    assert (NOW - after[0], NOW - after[1], str(after[2]), "") == (
        float(first),
        float(last),
        cnt,
        umis,
    )


def test_verified_run(grey: Any) -> None:
    """The run of API spec 3.6, with three triples."""
    run = [(0, 0), (300, 0), (604, 0), (606, 1), (607, 2), (900, 3), (18000, 4), (37 * DAY, 0)]
    assert [answer for _, answer in run] == [
        grey.check("192.0.2.1", "a@x", "b@y", timeinc=seconds) for seconds, _ in run
    ]
    late = [(0, 0), (4 * HOUR + 1, 0)]
    assert [answer for _, answer in late] == [
        grey.check("192.0.2.1", "a@x", "c@y", seconds) for seconds, _ in late
    ]
    just = [(0, 0), (4 * HOUR - 1, 1), (4 * HOUR + 10, 2)]
    assert [answer for _, answer in just] == [
        grey.check("192.0.2.1", "a@x", "d@y", seconds) for seconds, _ in just
    ]


def test_run_of_pymilters_own_suite(module: Any, tmp_path: Path) -> None:
    """The run that pymilter's test of greysql makes, and one deletion after reopening (P 7)."""
    name = str(tmp_path / "test.db")
    store = module.Greylist(name)
    one, two = ("192.0.2.1", "a@x", "b@y"), ("192.0.2.2", "a@x", "b@y")
    run = [
        (one, 0, 0),
        (one, 5 * MINUTE, 0),
        (one, 15 * MINUTE, 1),
        (two, 15 * MINUTE, 0),
        (one, 5 * HOUR, 2),
        (two, 6 * HOUR, 0),
        (one, 37 * DAY, 0),
        (("192.0.2.1", "new@x", "b@y"), 20 * DAY, 0),
    ]
    for triple, seconds, answer in run:
        assert answer == store.check(*triple, timeinc=seconds), (triple, seconds)
    store.close()
    store = module.Greylist(name)
    # Only the second client's: the first was seen on day 37, the new sender on day 20.
    assert 1 == store.clean(timeinc=37 * DAY)
    assert 0 == store.clean(timeinc=37 * DAY)
    store.close()


def test_each_part_of_a_triple_counts(grey: Any) -> None:
    """Another address, sender or recipient is another triple, and so is another case."""
    grey.check("192.0.2.1", "a@x", "b@y")
    for triple in [
        ("192.0.2.2", "a@x", "b@y"),
        ("192.0.2.1", "A@x", "b@y"),
        ("192.0.2.1", "a@x", "B@y"),
        ("192.0.2.1", "", "b@y"),
        ("192.0.2.1", "a@x", ""),
    ]:
        assert 0 == grey.check(*triple, timeinc=700), triple
    assert 1 == grey.check("192.0.2.1", "a@x", "b@y", timeinc=700)


def test_periods_are_read_at_each_check(grey: Any) -> None:
    """Who sets an attribute changes what is decided from then on."""
    grey.check("192.0.2.1", "a@x", "b@y")
    grey.greylist_time = 0
    assert 1 == grey.check("192.0.2.1", "a@x", "b@y", timeinc=5)
    grey.greylist_retain = 10
    assert 0 == grey.check("192.0.2.1", "a@x", "b@y", timeinc=16)


def test_odd_addresses_are_themselves(grey: Any) -> None:
    """Colons, blanks, what is no UTF-8, NUL and quotes neither fail nor run together."""
    odd = ["a:b", "a b", "'; DROP TABLE greylist; --", "caf\udce9@x", "é@x", "a\0b", "a\0c", ".a"]
    for sender in odd:
        assert 0 == grey.check("2001:db8::1", sender, "r@y")
    for sender in odd:
        assert 1 == grey.check("2001:db8::1", sender, "r@y", timeinc=606), sender


def test_real_clock_is_the_hosts(module: Any, tmp_path: Path) -> None:
    """Without a clock the times are seconds since 1970, of now, plus timeinc."""
    with module.Greylist(str(tmp_path / "g")) as store:
        before = time.time()
        store.check("192.0.2.1", "a@x", "b@y", timeinc=1000)
        after = time.time()
        ((*_, first, last, _, _),) = rows(store)
        assert before + 1000 <= float(first) == float(last) <= after + 1000


def test_log(grey: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Both modules log to `milter.greylist`, as pymilter does, with its words."""
    caplog.set_level(logging.DEBUG, logger="milter.greylist")
    for seconds in (0, 1, 700, 37 * DAY, 38 * DAY):
        grey.check("192.0.2.1", "a@x", "b@y", timeinc=seconds)
    triple = "192.0.2.1:a@x:b@y"
    assert [
        ("milter.greylist", logging.DEBUG, f"Early greylist: {triple}"),
        ("milter.greylist", logging.DEBUG, f"Active greylist(1): {triple}"),
        ("milter.greylist", logging.DEBUG, f"Expired greylist: {triple}"),
        ("milter.greylist", logging.DEBUG, f"Late greylist: {triple}"),
    ] == caplog.record_tuples


# -- clean, CSV, close -----------------------------------------------------------------------------


def test_clean_deletes_what_is_expired(grey: Any) -> None:
    """Its result is the number deleted; a triple on the edge stays."""
    for number in range(5):
        grey.check("192.0.2.1", f"{number}@x", "b@y", timeinc=number)
    assert 0 == grey.clean()
    assert 0 == grey.clean(timeinc=36 * DAY)
    assert 2 == grey.clean(timeinc=36 * DAY + 2)
    assert ["2@x", "3@x", "4@x"] == [row[1] for row in rows(grey)]
    assert 3 == grey.clean(100 * DAY)
    assert [] == rows(grey)


def test_export_leaves_out_what_is_expired(grey: Any) -> None:
    """Seven columns, no headings, as of the time given."""
    grey.check("192.0.2.1", "a@x", "b@y")
    grey.check("192.0.2.2", "a@x", "b@y", timeinc=DAY)
    out = io.StringIO()
    grey.export_csv(out)
    assert (
        "192.0.2.1,a@x,b@y,1700000000.0,1700000000.0,0,\r\n"
        "192.0.2.2,a@x,b@y,1700086400.0,1700086400.0,0,\r\n"
    ) == out.getvalue()
    out = io.StringIO()
    grey.export_csv(out, timeinc=36 * DAY + 1)
    assert ["192.0.2.2"] == [row[0] for row in csv.reader(io.StringIO(out.getvalue()))]


@pytest.mark.parametrize("source", [greylist, greysql], ids=["from greylist", "from greysql"])
def test_import_takes_what_export_writes(module: Any, source: Any, tmp_path: Path) -> None:
    """A list read from CSV goes on where the other one has stopped."""
    with source.Greylist(str(tmp_path / "one"), clock=Clock()) as one:
        for seconds in (0, 700, 800):
            one.check("2001:db8::1", "a@x", "b@y", timeinc=seconds)
        out = io.StringIO()
        one.export_csv(out)
    with module.Greylist(str(tmp_path / "two"), clock=Clock()) as two:
        two.import_csv(io.StringIO(out.getvalue()))
        assert 3 == two.check("2001:db8::1", "a@x", "b@y", timeinc=900)


@pytest.mark.parametrize(
    "bad",
    [
        "192.0.2.9,s,r",
        "192.0.2.9,s,r,1,2,3",
        "192.0.2.9,s,r,1,2,3,,8",
        "192.0.2.9,s,r,yesterday,2,3,",
        "192.0.2.9,s,r,1,nan,3,",
        "192.0.2.9,s,r,1,2,-3,",
        "192.0.2.9,s,r,1,2,,",
        pytest.param("x" * 200_000, id="a field longer than the csv module takes"),
    ],
)
def test_import_refuses_a_bad_line_and_takes_nothing(grey: Any, bad: str) -> None:
    """ValueError names the line; what stood before it is not in the list, and check() works."""
    with pytest.raises(ValueError, match="line 2"):
        grey.import_csv(io.StringIO(f"192.0.2.1,s,r,{NOW},{NOW},0,\n{bad}\n"))
    assert [] == rows(grey)
    assert 0 == grey.check("192.0.2.1", "s", "r")


def test_import_does_not_mind_empty_lines(grey: Any) -> None:
    """An empty line, at the end for instance, is no row; what is quoted may go over lines."""
    grey.import_csv(io.StringIO(f'\n192.0.2.1,"s,s",r,{NOW},{NOW},3,u\n\n'))
    ((ip, _, recipient, _, _, cnt, umis),) = rows(grey)
    assert ("192.0.2.1", "r", "3", "u") == (ip, recipient, cnt, umis)


def test_closed_list(grey: Any) -> None:
    """After close() a check is an error that can be caught as ever; close() again is not."""
    grey.close()
    with pytest.raises(greylist.StoreError, match="closed"):
        grey.check("192.0.2.1", "a@x", "b@y")
    grey.close()


# -- module greylist -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "quoted"),
    [
        ("a b@x", "a%20b@x"),
        ("a:b", "a%3Ab"),
        (".a", "%2ea"),
        ("", ""),
        ("..a", "%2e.a"),
        ("plain@example.com", "plain@example.com"),
        ("@_-+~!.%", "@_-+~!.%"),
        ("a/b=c", "a%2Fb%3Dc"),
        ("a%20b", "a%20b"),
        ("\u00e9@x", "%C3%A9@x"),
        ("\udce9@x", "%E9@x"),
        (b"a b", "a%20b"),
    ],
)
def test_quote_address(address: Any, quoted: str) -> None:
    """The examples of API spec 3.6, and what follows from its rule; bytes that were no text."""
    assert quoted == greylist.quoteAddress(address)


def test_no_address_is_a_mistake_of_the_caller() -> None:
    """None is neither a sender nor a client here: TypeError, as in pymilter."""
    with pytest.raises(TypeError):
        greylist.quoteAddress(None)
    with greylist.Greylist(":memory:") as store:
        for triple in [(None, "s", "r"), ("192.0.2.1", None, "r"), ("192.0.2.1", "s", None)]:
            with pytest.raises(TypeError):
                store.check(*triple)


def test_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record's four slots and its text (API spec 3.6)."""
    monkeypatch.setattr("time.time", lambda: NOW)
    record = greylist.Record(timeinc=60)
    assert (NOW + 60, NOW + 60, None, 0) == (
        record.firstseen,
        record.lastseen,
        record.umis,
        record.cnt,
    )
    assert {"firstseen", "lastseen", "umis", "cnt"} == set(greylist.Record.__slots__)
    assert not hasattr(record, "__dict__")
    moment = time.ctime(NOW + 60)
    assert f"Grey[{moment}:{moment}:None:0]" == str(record)
    assert NOW == greylist.Record().firstseen


def test_csv_has_the_quoted_forms(tmp_path: Path) -> None:
    """What CSV shows of greylist is quoted; quoted or not, it is read as the same triple."""
    with greylist.Greylist(str(tmp_path / "g"), clock=Clock()) as store:
        store.check("2001:db8::1", "a b@x", ".r:1@y")
        assert [["2001:db8::1", "a%20b@x", "%2er%3A1@y"]] == [row[:3] for row in rows(store)]
        store.import_csv(io.StringIO(f"192.0.2.1,c d@x,%2er@y,{NOW},{NOW},1,\n"))
        assert 2 == store.check("192.0.2.1", "c d@x", ".r@y", timeinc=700)


def test_dbp_shows_the_records(tmp_path: Path) -> None:
    """The attribute that was a shelve is a mapping from the same keys to records."""
    with greylist.Greylist(str(tmp_path / "g"), clock=Clock()) as store:
        store.check("2001:db8::1", "a b@x", "r@y")
        store.check("2001:db8::1", "a b@x", "r@y", timeinc=700)
        assert ["2001:db8::1:a%20b@x:r@y"] == list(store.dbp.keys())
        record = store.dbp["2001:db8::1:a%20b@x:r@y"]
        assert (NOW, NOW + 700, None, 1) == (
            record.firstseen,
            record.lastseen,
            record.umis,
            record.cnt,
        )
        assert isinstance(record, greylist.Record)
        assert (1, True, False) == (
            len(store.dbp),
            "2001:db8::1:a%20b@x:r@y" in store.dbp,
            "x" in store.dbp,
        )
        with pytest.raises(KeyError):
            store.dbp["192.0.2.1:a:b"]


def test_lock_keeps_other_threads_out(tmp_path: Path) -> None:
    """Who holds the lock may use the list; another thread's check waits for it."""
    with greylist.Greylist(str(tmp_path / "g"), clock=Clock()) as store:
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(store.check("1", "s", "r", 700)))
        with store.lock:
            store.check("1", "s", "r")
            thread.start()
            assert not answers
            store.check("1", "s", "r", 650)
        thread.join()
        assert [2] == answers


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module as a command."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )


def test_commands(tmp_path: Path) -> None:
    """`python -m Milter.greylist` writes CSV, `Milter.greysql` reads it."""
    name, other = str(tmp_path / "g"), str(tmp_path / "h")
    with greylist.Greylist(name) as store:
        store.check("192.0.2.1", "a b@x", "r@y")
    exported = run("Milter.greylist", name)
    assert (0, "") == (exported.returncode, exported.stderr)
    assert exported.stdout.startswith("192.0.2.1,a%20b@x,r@y,")
    imported = run("Milter.greysql", other, stdin=exported.stdout)
    assert (0, "") == (imported.returncode, imported.stderr)
    with greysql.Greylist(other) as store:
        assert 1 == store.check("192.0.2.1", "a%20b@x", "r@y", timeinc=700)
    missing = run("Milter.greylist", str(tmp_path / "none"))
    assert (1, "", False) == (missing.returncode, missing.stdout, (tmp_path / "none").exists())
    assert 2 == run("Milter.greylist").returncode == run("Milter.greysql").returncode


def test_import_costs_nothing() -> None:
    """Neither module brings in a database, nor anything that is not in the standard library."""
    program = (
        "import sys, Milter.greylist, Milter.greysql\n"
        "print(*(name for name in ('sqlite3', 'redis', 'berkeleydb', 'dbm.gnu', 'dbm.dumb')"
        " if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "\n" == done.stdout
