"""Module `greysql`: its database, its errors, threads, and pymilter itself beside it.

What it decides stands in test_greylist.py, with that of `greylist`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from Milter import greylist, greysql

ROOT = Path(__file__).resolve().parents[2]
ORACLE_PYTHON = ROOT / ".cache" / "oracle" / "bin" / "python"
NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a database may be made."""
    return str(tmp_path / "grey.db")


# -- the database ----------------------------------------------------------------------------------


def test_table_is_pymilters(path: str) -> None:
    """Names, types and primary key of API spec 3.7; times are floats; None is NULL."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        store.check("192.0.2.1", None, "a b@x")
    conn = sqlite3.connect(path)
    columns = [
        (row[1], row[2].lower(), row[5]) for row in conn.execute("PRAGMA table_info(greylist)")
    ]
    assert [
        ("ip", "text", 1),
        ("sender", "text", 2),
        ("recipient", "text", 3),
        ("firstseen", "timestamp", 0),
        ("lastseen", "timestamp", 0),
        ("cnt", "integer", 0),
        ("umis", "text", 0),
    ] == columns
    assert [("192.0.2.1", None, "a b@x", NOW, NOW, 0, None)] == list(
        conn.execute("SELECT * FROM greylist")
    )
    conn.close()


def test_none_is_a_sender_like_others(path: str) -> None:
    """A triple with None is found again; pymilter asked such a sender to wait for ever."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        assert [0, 1, 2] == [
            store.check("192.0.2.1", None, "r", seconds) for seconds in (0, 605, 606)
        ]
        assert 0 == store.check("192.0.2.1", "", "r", 700)
        assert 2 == store.clean(37 * 86400)


def test_conn_is_the_connection(path: str) -> None:
    """`conn` may be used beside the list; what it writes is committed, and rows have names."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        store.check("192.0.2.1", "s", "r")
        assert isinstance(store.conn, sqlite3.Connection)
        store.conn.execute("UPDATE greylist SET umis = 'note'")
        store.conn.commit()
        assert 1 == store.check("192.0.2.1", "s", "r", 700)
        (row,) = store.conn.execute("SELECT * FROM greylist")
        assert (1, "note") == (row["cnt"], row["umis"])
        # A new start forgets the note, as pymilter does.
        store.check("192.0.2.1", "s", "r", 99 * 86400)
        assert [(0, None)] == [
            tuple(row) for row in store.conn.execute("SELECT cnt, umis FROM greylist")
        ]


def test_damaged_row_is_replaced(path: str) -> None:
    """A row that makes no sense counts as none, and is sound afterwards."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        for number, (column, value) in enumerate(
            [("firstseen", "'x'"), ("lastseen", "NULL"), ("cnt", "x'ff'"), ("lastseen", "9e999")]
        ):
            store.check("192.0.2.1", str(number), "r")
            store.conn.execute(f"UPDATE greylist SET {column} = {value} WHERE sender = '{number}'")
            assert [0, 1] == [
                store.check("192.0.2.1", str(number), "r", seconds) for seconds in (700, 1400)
            ], (column, value)


def test_clean_deletes_rows_without_a_time(path: str) -> None:
    """Nothing will ever come of them otherwise."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        store.check("192.0.2.1", "s", "r")
        store.check("192.0.2.2", "s", "r")
        store.conn.execute("UPDATE greylist SET lastseen = NULL WHERE ip = '192.0.2.2'")
        assert 1 == store.clean()
        assert 0 == store.clean()


# -- errors ----------------------------------------------------------------------------------------


def test_import_of_a_triple_that_is_there(path: str) -> None:
    """IntegrityError, nothing is imported, and the next check works (API spec 3.7, FIX)."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        store.check("192.0.2.2", "s", "r")
        lines = [f"192.0.2.{number},s,r,{NOW},{NOW},5,\n" for number in (1, 2, 3)]
        with pytest.raises(sqlite3.IntegrityError) as caught:
            store.import_csv(io.StringIO("".join(lines)))
        assert isinstance(caught.value, greylist.DuplicateError)
        assert isinstance(caught.value, ValueError)
        assert not isinstance(caught.value, greylist.StoreError)
        assert [0, 1] == [store.check(f"192.0.2.{last}", "s", "r", 700) for last in (1, 2)]
        with pytest.raises(sqlite3.IntegrityError):
            store.import_csv(io.StringIO(lines[2] * 2))
        store.import_csv(io.StringIO(lines[2]))
        assert 6 == store.check("192.0.2.3", "s", "r", 700)


def test_errors_are_those_of_sqlite_too(tmp_path: Path) -> None:
    """What a filter of pymilter's catches, it catches; and so does who catches StoreError."""
    junk = tmp_path / "junk"
    junk.write_bytes(b"From: nobody\n" * 1000)
    for bad in (tmp_path / "no such directory" / "g", junk, tmp_path):
        with pytest.raises(sqlite3.DatabaseError) as caught:
            greysql.Greylist(str(bad))
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert isinstance(caught.value, greylist.StoreError)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert str(bad) in str(caught.value)
    assert b"From: nobody\n" * 1000 == junk.read_bytes()


def test_any_thread_may_check(path: str) -> None:
    """One object for all threads: no same-thread rule, and no lock left behind (P 3.7, FIX)."""
    store = greysql.Greylist(path, clock=lambda: NOW)
    store.check("192.0.2.1", "s", "r")
    answers: list[int] = []

    def work() -> None:
        for _ in range(50):
            answers.append(store.check("192.0.2.1", "s", "r", 700))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(range(1, 401)) == sorted(answers)
    store.close()


def test_an_object_for_each_thread(path: str) -> None:
    """What filters did to live with pymilter's rule still works."""
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        store.check("192.0.2.1", "s", "r")
    answers: list[int] = []

    def work() -> None:
        with greysql.Greylist(path, clock=lambda: NOW) as own:
            for _ in range(25):
                answers.append(own.check("192.0.2.1", "s", "r", 700))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(range(1, 201)) == sorted(answers)


# -- pymilter itself -------------------------------------------------------------------------------

# Runs under pymilter. Reads: module, file, steps; writes the answers. The clock stands still.
# `greylist` was written for Python 2: what that had under other names, it gets here.
THEIRS = """
import csv, importlib, io, json, sys, time
name, path, now, steps = json.load(sys.stdin)
if name == "greylist":
    import _thread, shelve, urllib, urllib.parse
    sys.modules["thread"] = _thread
    urllib.quote = urllib.parse.quote
    shelve.Shelf.iteritems = lambda self: iter(list(self.items()))
module = importlib.import_module("Milter." + name)
time.time = lambda: now
store = module.Greylist(path)
answers = []
for step in steps:
    if step[0] == "check":
        answers.append(store.check(*step[1:]))
    elif step[0] == "clean":
        answers.append(store.clean(step[1]))
    elif step[0] == "import_csv":
        store.import_csv(io.StringIO(step[1]))
        answers.append(None)
    elif step[0] == "export_csv":
        out = io.StringIO()
        store.export_csv(out, step[1])
        answers.append(sorted(csv.reader(io.StringIO(out.getvalue()))))
store.close()
json.dump(answers, sys.stdout)
"""


def theirs(module: str, path: str, steps: list[Any]) -> Any:
    """Run steps under pymilter."""
    if not ORACLE_PYTHON.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    done = subprocess.run(
        [str(ORACLE_PYTHON), "-c", THEIRS],
        input=json.dumps([module, path, NOW, steps]),
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,  # it writes each answer to the disk
        check=True,
        cwd=os.path.dirname(path),
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    return json.loads(done.stdout)


def ours(module: Any, path: str, steps: list[Any]) -> Any:
    """Run steps here."""
    answers: list[Any] = []
    with module.Greylist(path, clock=lambda: NOW) as store:
        for step in steps:
            if step[0] == "check":
                answers.append(store.check(*step[1:]))
            elif step[0] == "clean":
                answers.append(store.clean(step[1]))
            elif step[0] == "import_csv":
                store.import_csv(io.StringIO(step[1]))
                answers.append(None)
            else:
                out = io.StringIO()
                store.export_csv(out, step[1])
                answers.append(sorted(csv.reader(io.StringIO(out.getvalue()))))
    return answers


def random_steps(seed: int, count: int, shelve: bool) -> list[Any]:
    """Make steps whose times go forth by what is near an edge of the table.

    For greysql they also go back. pymilter's greylist then answers, to one that has passed and is
    now too early, with the count, where its greysql says 0, as does the table of API spec 3.6.
    """
    choose = random.Random(seed)
    edges = [0, 1, 600, 604, 605, 606, 4 * 3600 - 605, 4 * 3600, 36 * 86400, 40 * 86400]
    triples = list(
        itertools.product(
            ["192.0.2.1", "2001:db8::1"], ["a b@x", "A@x", "", "a=b/c@\u00e9"], ["r@y", ".r:@y"]
        )
    )
    some = choose.sample(triples, 3)
    now = 0.0
    steps: list[Any] = []
    for _ in range(count):
        now += max(0.0, choose.choice(edges) + choose.choice([0, 0, -1, 1, 0.5]))
        if choose.random() < 0.02:
            steps.append(["clean", now])
        elif shelve and choose.random() < 0.02:
            steps.append(["export_csv", now])
        else:
            steps.append(["check", *choose.choice(some), now])
            if not shelve and choose.random() < 0.3:
                now = max(0.0, now - choose.choice(edges))
    return steps


@pytest.mark.oracle
@pytest.mark.parametrize("module", [greylist, greysql], ids=["greylist", "greysql"])
def test_answers_are_pymilters(module: Any, tmp_path: Path) -> None:
    """Random steps of check() and clean(), and export_csv() where it has that: the same answers."""
    name = module.__name__.rpartition(".")[2]
    steps = random_steps(20261121, 4000, shelve=name == "greylist")
    expected = theirs(name, str(tmp_path / "theirs"), steps)
    assert {0, 1, 2, 3} <= {answer for answer in expected if isinstance(answer, int)}
    differences = [
        (step, theirs, ours)
        for step, theirs, ours in zip(steps, expected, ours(module, str(tmp_path / "ours"), steps))
        if theirs != ours
    ]
    assert [] == differences


@pytest.mark.oracle
def test_each_opens_the_others_database(path: str) -> None:
    """Turn by turn on one file: pymilter's, with which it begins, stays one for both."""
    answers: list[Any] = []
    steps = random_steps(7, 400, shelve=False)
    for number in range(0, 400, 100):
        part = steps[number : number + 100]
        side = theirs("greysql", path, part) if number % 200 == 0 else ours(greysql, path, part)
        answers.extend(side)
    alone = str(Path(path).with_name("alone"))
    assert theirs("greysql", alone, steps) == answers


@pytest.mark.oracle
def test_pymilter_imports_what_we_export(path: str) -> None:
    """Rows from our CSV go on counting under pymilter, and so do its own under us."""
    rows = (
        f"192.0.2.1,s,r,{NOW - 700},{NOW - 10},3,\r\n2001:db8::1,s,r,{NOW - 20},{NOW - 10},0,\r\n"
    )
    steps = [
        ["import_csv", rows],
        ["check", "192.0.2.1", "s", "r", 0],
        ["check", "2001:db8::1", "s", "r", 0],
    ]
    assert [None, 4, 0] == theirs("greysql", path, steps)
    with greysql.Greylist(path, clock=lambda: NOW) as store:
        out = io.StringIO()
        store.export_csv(out)
    assert [None, 5, 0] == theirs(
        "greysql", path + "2", [["import_csv", out.getvalue()], *steps[1:]]
    )


@pytest.mark.oracle
def test_shelve_file_that_pymilter_wrote(path: str) -> None:
    """The records of a shelve file that pymilter's own code wrote are taken over."""
    steps = [
        ["check", "2001:db8::1", "a b@x", "r@y", 0],
        ["check", "2001:db8::1", "a b@x", "r@y", 700],
        ["check", "2001:db8::1", "a b@x", "r@y", 701],
        ["check", "192.0.2.1", "", ".r@y", 0],
    ]
    assert [0, 1, 2, 0] == theirs("greylist", path, steps)
    with greylist.Greylist(path, clock=lambda: NOW) as store:
        assert 3 == store.check("2001:db8::1", "a b@x", "r@y", timeinc=702)
        assert 1 == store.check("192.0.2.1", "", ".r@y", timeinc=702)
        assert 2 == len(store.dbp)
