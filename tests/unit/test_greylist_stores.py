"""What greylists are kept in: many processes, forks, kills, broken stores, redis, old files."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.ports import reserved
from harness.redis_server import RedisServer
from Milter import greylist, greysql

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("greylist_worker.py")
NOW = 1_700_000_000.0
PATIENCE = 60.0


def clock() -> float:
    """Stand still."""
    return NOW


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a list may be made."""
    return str(tmp_path / "grey.db")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis server for the tests of this file."""
    need_redis_py()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    """The server, with nothing in it."""
    assert b"+OK\r\n" == server.ask(b"FLUSHALL")
    return server


def need_redis_py() -> None:
    """Skip without it."""
    pytest.importorskip("redis", reason="no redis-py: pip install redis")


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty list of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'grey.db'}"
    server: RedisServer = request.getfixturevalue("redis")
    return server.url


def seen(*triples: str, cnt: int = 0) -> str:
    """Return CSV of triples that may pass now."""
    return "".join(f"192.0.2.1,{triple},r@y,{NOW - 700},{NOW - 700},{cnt},\n" for triple in triples)


def start(url: str, count: int, *triples: str) -> subprocess.Popen[bytes]:
    """Start a process that checks, and tells."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), url, str(count), *triples],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def told(output: bytes) -> dict[str, list[int]]:
    """Return the answers per triple; a line that the kill has cut counts as not told."""
    answers: dict[str, list[int]] = {}
    for line in output.decode().split("\n")[:-1]:
        triple, answer = line.split(" ")
        answers.setdefault(triple, []).append(int(answer))
    return answers


# -- many at once ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "checks"), [(8, 6250)])
def test_no_count_is_lost(url: str, processes: int, checks: int) -> None:
    """Eight processes check five triples 50,000 times: each count is given out once, none fails."""
    triples = [f"{number}@x" for number in range(5)]
    with greylist.open(url, timeout=PATIENCE, clock=clock) as store:
        store.import_csv(io.StringIO(seen(*triples)))
        workers = [start(url, checks, *triples) for _ in range(processes)]
        answers: dict[str, list[int]] = {triple: [] for triple in triples}
        outputs: list[bytes] = []
        readers = [
            threading.Thread(target=lambda worker=worker: outputs.append(worker.communicate()[0]))
            for worker in workers
        ]
        for reader in readers:  # closes the worker's standard input, so it begins
            reader.start()
        for reader in readers:
            reader.join()
        assert [0] * processes == [worker.returncode for worker in workers]
        for output in outputs:
            for triple, some in told(output).items():
                assert sorted(some) == some  # within one process counts only go up
                answers[triple] += some
        total = processes * checks // len(triples)
        for triple in triples:
            assert list(range(1, total + 1)) == sorted(answers[triple])
            assert total + 1 == store.check("192.0.2.1", triple, "r@y")


@pytest.mark.slow
def test_a_kill_loses_at_most_the_write_it_hit(path: str) -> None:
    """Processes killed while they write: what check() has returned is in the list, and at most the
    one check more that was under way."""
    triples = [f"{number}@x" for number in range(4)]
    with greylist.Greylist(path, clock=clock) as store:
        store.import_csv(io.StringIO(seen(*triples)))
    counts = dict.fromkeys(triples, 0)
    choose = random.Random(4)
    for _ in range(15):
        workers = {triple: start(path, 0, triple) for triple in triples}
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.stdin = None
        answers: dict[str, list[int]] = {}
        for triple, worker in workers.items():
            # Not before it writes, and then at any moment.
            assert worker.stdout is not None
            first = worker.stdout.readline()
            time.sleep(choose.uniform(0, 0.03))
            worker.kill()
            answers[triple] = told(first + worker.communicate()[0])[triple]
            assert -signal.SIGKILL == worker.returncode
            with greylist.Greylist(path, clock=clock) as store:
                assert answers[triple][-1] <= store.dbp[f"192.0.2.1:{triple}:r@y"].cnt
        # Only now is it settled whether the check under way counts: a kill between the write and
        # its entry in SQLite's index of the log leaves one that nobody sees until the index is
        # built anew, which the first to open the list does when no other process has it open.
        with greylist.Greylist(path, clock=clock) as store:
            for triple, some in answers.items():
                assert list(range(counts[triple] + 1, counts[triple] + 1 + len(some))) == some
                counts[triple] = store.dbp[f"192.0.2.1:{triple}:r@y"].cnt
                assert some[-1] <= counts[triple] <= some[-1] + 1
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert [("ok",)] == list(conn.execute("PRAGMA integrity_check"))


def test_threads_share_a_list(url: str) -> None:
    """Sixteen threads, one object: no count is lost."""
    with greylist.open(url, timeout=PATIENCE, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        answers: list[int] = []

        def work() -> None:
            for _ in range(50):
                answers.append(store.check("192.0.2.1", "a@x", "r@y"))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(range(1, 801)) == sorted(answers)


def test_list_opened_before_a_fork(url: str) -> None:
    """Parent and children go on with the object that was opened before: no count is lost."""
    with greylist.open(url, timeout=PATIENCE, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        assert 1 == store.check("192.0.2.1", "a@x", "r@y")
        children = []
        for _ in range(3):
            pid = forked(lambda: [store.check("192.0.2.1", "a@x", "r@y") for _ in range(100)])
            children.append(pid)
            for _ in range(100):
                store.check("192.0.2.1", "a@x", "r@y")
        assert [0, 0, 0] == [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert 602 == store.check("192.0.2.1", "a@x", "r@y")


def test_no_file_crosses_a_fork(path: str) -> None:
    """The child has none of the list's files open: closing one would drop the parent's locks."""

    def look() -> None:
        names = [path + suffix for suffix in ("", "-wal", "-shm")]
        ours = [os.stat(name) for name in names if os.path.exists(name)]
        for number in range(3, 256):
            with contextlib.suppress(OSError):
                there = os.fstat(number)
                if any(os.path.samestat(there, each) for each in ours):
                    os._exit(3)

    with greylist.Greylist(path, clock=clock) as store:
        assert 0 == store.check("192.0.2.1", "a@x", "r@y")
        pid = forked(look)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_fork_while_other_threads_check(path: str) -> None:
    """A child forked in the middle of another thread's check can check, and so can the parent."""
    with greylist.Greylist(path, timeout=PATIENCE, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        stop = threading.Event()
        done: list[int] = []

        def work() -> None:
            while not stop.is_set():
                done.append(store.check("192.0.2.1", "a@x", "r@y"))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            results = []
            for _ in range(20):
                pid = forked(lambda: store.check("192.0.2.1", "a@x", "r@y"))
                results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        finally:
            stop.set()
            thread.join()
        assert [0] * 20 == results
        assert len(done) + 21 == store.check("192.0.2.1", "a@x", "r@y")


def forked(what: Any) -> int:
    """Run something in a child, which is killed if it hangs; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is the point
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(int(PATIENCE))
            what()
            status = 0
        finally:
            os._exit(status)
    return pid


def test_list_in_memory_survives_a_fork() -> None:
    """There is no file to open again: each process goes on with its own."""
    with greylist.Greylist(":memory:", clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x", cnt=5)))
        pid = forked(lambda: 6 == store.check("192.0.2.1", "a@x", "r@y") or os._exit(3))
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert 6 == store.check("192.0.2.1", "a@x", "r@y")


def test_daemon_that_changes_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is that of the directory in which the list was opened."""
    monkeypatch.chdir(tmp_path)
    with greylist.Greylist("grey.db", clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        monkeypatch.chdir("/")
        # Opened again after the fork.
        pid = forked(lambda: 1 == store.check("192.0.2.1", "a@x", "r@y") or os._exit(3))
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert 2 == store.check("192.0.2.1", "a@x", "r@y")


# -- SQLite in trouble -----------------------------------------------------------------------------


def test_file_is_in_wal_mode(path: str) -> None:
    """As docs/greylist.md says; also when pymilter has made it, in another mode."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert ("delete",) == conn.execute("PRAGMA journal_mode").fetchone()
        conn.execute(
            "CREATE TABLE greylist(ip text, sender text, recipient text, firstseen timestamp,"
            " lastseen timestamp, cnt integer, umis text, primary key (ip, sender, recipient))"
        )
    with greysql.Greylist(path) as store:
        assert "wal" == store.conn.execute("PRAGMA journal_mode").fetchone()[0]
        assert 1 == store.conn.execute("PRAGMA synchronous").fetchone()[0]  # NORMAL


def test_readers_of_a_file_that_cannot_do_wal(path: str) -> None:
    """Without WAL a reader is in a commit's way: it is waited for, and nothing is lost."""
    results: list[object] = []

    def check(store: greysql.Greylist) -> None:
        try:
            results.append(store.check("192.0.2.1", "a@x", "r@y"))
        except Exception as error:
            results.append(error)

    with greysql.Greylist(path, timeout=PATIENCE, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        # As it stays where there is no shared memory, on network file systems.
        assert "delete" == store.conn.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM greylist").fetchone()
            thread = threading.Thread(target=check, args=(store,))
            thread.start()
            # Who waits to commit lets no new readers in.
            while thread.is_alive():
                with contextlib.closing(sqlite3.connect(path, timeout=0)) as late:
                    try:
                        late.execute("SELECT count(*) FROM greylist").fetchone()
                    except sqlite3.OperationalError:
                        break
            # Longer than SQLite itself waits; where that was all, the check has failed by now.
            thread.join(0.5)
            reader.execute("COMMIT")
            thread.join(PATIENCE)
        assert [1] == results
        assert 2 == store.check("192.0.2.1", "a@x", "r@y")


def test_locked_for_too_long(path: str) -> None:
    """StoreError after the timeout; when the lock has gone, the same object works."""
    with greylist.Greylist(path, timeout=0.1, clock=clock) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(greylist.StoreError, match="locked") as caught:
                store.check("192.0.2.1", "a@x", "r@y")
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            other.execute("ROLLBACK")
        assert 0 == store.check("192.0.2.1", "a@x", "r@y")
        assert 1 == store.check("192.0.2.1", "a@x", "r@y", timeinc=700)


def test_thread_that_keeps_the_lock_for_too_long(path: str) -> None:
    """A thread does not wait for others longer than for other processes."""
    with greylist.Greylist(path, timeout=0.1, clock=clock) as store:
        errors: list[Exception] = []

        def work() -> None:
            try:
                store.check("192.0.2.1", "a@x", "r@y")
            except greylist.StoreError as error:
                errors.append(error)

        with store.lock:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert 1 == len(errors)
        assert 0 == store.check("192.0.2.1", "a@x", "r@y")


def test_full_disk(path: str) -> None:
    """StoreError and no half of anything; it works again when there is room."""
    import resource

    with greylist.Greylist(path, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x")))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The interpreter ignores the signal, so writing fails, as it does where a disk is full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        passed = 0
        try:
            with pytest.raises(greylist.StoreError) as caught:  # noqa: PT012 - which one, nobody knows
                for _ in range(1000):
                    passed = store.check("192.0.2.1", "a@x", "r@y")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert 0 < passed < 1000
        assert passed + 1 == store.check("192.0.2.1", "a@x", "r@y")


def test_database_without_room(path: str) -> None:
    """The same where SQLite itself says that it is full."""
    with greysql.Greylist(path, clock=clock) as store:
        store.conn.execute("PRAGMA max_page_count=4")
        with pytest.raises(greylist.StoreError, match="full"):  # noqa: PT012 - likewise
            for number in range(1000):
                store.check("192.0.2.1", f"{number}@x" * 20, "r@y")
        assert 0 == store.check("192.0.2.1", "a@x" * 1000, "r@y")


def test_corrupted_database(path: str) -> None:
    """StoreError, which is what pymilter's callers catch, too."""
    with greylist.Greylist(path, clock=clock) as store:
        store.import_csv(io.StringIO(seen(*(f"{number}@x" for number in range(500)))))
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with greylist.Greylist(path, clock=clock) as store:
        with pytest.raises(greylist.StoreError) as caught:
            store.check("192.0.2.1", "7@x", "r@y")
        assert isinstance(caught.value, sqlite3.DatabaseError)
        with pytest.raises(greylist.StoreError):
            store.export_csv(io.StringIO())


@contextlib.contextmanager
def without_rights() -> Iterator[Path]:
    """Give a directory of somebody's who is not root, and be nobody in it."""
    root = os.geteuid() == 0
    directory = Path(tempfile.mkdtemp(prefix="grey"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_file_that_may_only_be_read() -> None:
    """It can be exported; a check is StoreError."""
    with without_rights() as directory:
        name = directory / "grey.db"
        with contextlib.closing(sqlite3.connect(name)) as conn:
            conn.execute(
                "CREATE TABLE greylist(ip text, sender text, recipient text, firstseen timestamp,"
                " lastseen timestamp, cnt integer, umis text, primary key (ip, sender, recipient))"
            )
            conn.execute(f"INSERT INTO greylist VALUES ('1', 's', 'r', {NOW}, {NOW}, 0, NULL)")
            conn.commit()
        name.chmod(0o444)
        directory.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        out = io.StringIO()
        with greylist.Greylist(name, clock=clock) as store:
            store.export_csv(out)
            with pytest.raises(greylist.StoreError, match="readonly") as caught:
                store.check("1", "s", "r")
            assert isinstance(caught.value, sqlite3.OperationalError)
        assert f"1,s,r,{NOW},{NOW},0,\r\n" == out.getvalue()


def test_check_goes_on_while_others_read(path: str) -> None:
    """An export that somebody is slow to take, and a reader elsewhere, hold up nobody."""
    with greylist.Greylist(path, timeout=0.1, clock=clock) as store:
        store.import_csv(io.StringIO(seen(*(f"{number}@x" for number in range(1200)))))

        class Slow:
            lines = 0

            def write(self, line: str) -> None:
                self.lines += 1
                if self.lines % 400 == 1:
                    thread = threading.Thread(target=store.check, args=("1", "s", "r"))
                    thread.start()
                    thread.join()

        slow = Slow()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert (1200,) == reader.execute("SELECT count(*) FROM greylist").fetchone()
            store.export_csv(slow)
            assert (1200,) == reader.execute("SELECT count(*) FROM greylist").fetchone()
        assert 1201 == slow.lines  # the one that came meanwhile is at the end


def test_import_of_a_slow_file_holds_up_nobody(path: str) -> None:
    """The file is read to its end before the list is touched."""
    with greylist.Greylist(path, timeout=0.1, clock=clock) as store:

        def slow() -> Iterator[str]:
            yield seen("a@x")
            with greylist.Greylist(path, timeout=0.1, clock=clock) as other:
                other.check("192.0.2.1", "b@x", "r@y")
            yield seen("c@x")

        store.import_csv(slow())
        assert 3 == len(store.dbp)


# -- open() ----------------------------------------------------------------------------------------


def test_spellings_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sqlite:/// and the whole path, or just a path, relative or not."""
    monkeypatch.chdir(tmp_path)
    strange = tmp_path / "a?b#c d%"
    for spelling, file in [
        (f"sqlite://{tmp_path}/one", tmp_path / "one"),
        (f"{tmp_path}/two", tmp_path / "two"),
        ("three", tmp_path / "three"),
        (tmp_path / "four", tmp_path / "four"),
        (f"sqlite://{tmp_path}/a?b#c%20d%25", strange),
    ]:
        with greylist.open(spelling, grey_time=1, grey_expire=2, grey_retain=3) as store:
            assert isinstance(store, greylist.Greylist)
            assert (60, 7200, 259200) == (
                store.greylist_time,
                store.greylist_expire,
                store.greylist_retain,
            )
        assert file.exists(), spelling


@pytest.mark.parametrize(
    "bad",
    ["sqlite://", "sqlite:///", "sqlite://grey.db", "mysql://host/db", "http://host/", "://x"],
)
def test_urls_that_are_none(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ValueError, and no file appears."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"not sqlite:///PATH|no greylist can be kept"):
        greylist.open(bad)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["redis://localhost", "rediss://localhost", "unix:///nowhere"])
def test_redis_without_its_library(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImportError names the extra."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install \"pymilter-cffi\[redis\]\""):
        greylist.open(kind)


def test_same_methods_everywhere(url: str) -> None:
    """check, clean, export_csv, import_csv, close, and the context manager: for each store."""
    with greylist.open(url, clock=clock) as store:
        assert isinstance(store, greylist.Store)
        triple = ("2001:db8::1", "a b@x", ".r:1@y")
        assert [0, 0, 1, 2] == [store.check(*triple, timeinc=inc) for inc in (0, 604, 605, 606)]
        store.import_csv(io.StringIO(seen("z@x", cnt=7)))
        assert 8 == store.check("192.0.2.1", "z@x", "r@y")
        out = io.StringIO()
        store.export_csv(out, timeinc=36 * 86400)
        # The first was last seen later than z, which on that day is on the edge.
        assert [
            f"192.0.2.1,z@x,r@y,{NOW - 700},{NOW},8,",
            f"2001:db8::1,a%20b@x,%2er%3A1@y,{NOW},{NOW + 606},2,",
        ] == sorted(out.getvalue().splitlines())
        out = io.StringIO()
        store.export_csv(out, timeinc=36 * 86400 + 1)
        assert 1 == len(out.getvalue().splitlines())
        assert 1 == store.clean(timeinc=36 * 86400 + 1)
        assert 1 == store.clean(timeinc=37 * 86400)
        assert 0 == store.clean(timeinc=37 * 86400)
        assert 0 == store.check(*triple, timeinc=700)
    with pytest.raises(greylist.StoreError, match="closed"):
        store.check(*triple)
    with pytest.raises(greylist.StoreError, match="closed"):
        store.clean()
    store.close()


def test_import_is_all_or_nothing_everywhere(url: str) -> None:
    """DuplicateError for what is there, and for what comes twice; then checks work."""
    with greylist.open(url, clock=clock) as store:
        store.import_csv(io.StringIO(seen("b@x", cnt=1)))
        for text in (seen("a@x", "b@x", "c@x"), seen("a@x", "c@x", "a@x")):
            with pytest.raises(greylist.DuplicateError):
                store.import_csv(io.StringIO(text))
        assert [0, 2, 0] == [store.check("192.0.2.1", f"{name}@x", "r@y") for name in "abc"]


def test_extra_column_goes_with_the_entry(url: str) -> None:
    """What pymilter calls umis comes in and out, and is forgotten at a new start."""
    with greylist.open(url, clock=clock) as store:
        store.import_csv(io.StringIO(f"192.0.2.1,a@x,r@y,{NOW - 700},{NOW},1,n\u00f6te\n"))
        assert 2 == store.check("192.0.2.1", "a@x", "r@y")
        out = io.StringIO()
        store.export_csv(out)
        assert f"192.0.2.1,a@x,r@y,{NOW - 700},{NOW},2,n\u00f6te\r\n" == out.getvalue()
        assert 0 == store.check("192.0.2.1", "a@x", "r@y", timeinc=37 * 86400)
        out = io.StringIO()
        store.export_csv(out)
        assert out.getvalue().endswith(",0,\r\n")


# -- redis -----------------------------------------------------------------------------------------


def test_hosts_share_a_list(redis: RedisServer) -> None:
    """Two objects, as on two hosts: both know what one has seen; the clock is the server's."""
    with greylist.open(redis.url) as one, greylist.open(f"{redis.url}?db=0") as two:
        before = time.time()
        assert 0 == one.check("192.0.2.1", "a@x", "r@y")
        after = time.time()
        assert 0 == two.check("192.0.2.1", "a@x", "r@y", timeinc=300)
        assert 1 == two.check("192.0.2.1", "a@x", "r@y", timeinc=700)
        assert 2 == one.check("192.0.2.1", "a@x", "r@y", timeinc=700)
        out = io.StringIO()
        two.export_csv(out)
        # The server is on this host. Its clock tells microseconds.
        assert before - 1e-3 <= float(out.getvalue().split(",")[3]) <= after + 1e-3
    with greylist.open(f"redis+{redis.url}?db=1") as other:
        assert 0 == other.check("192.0.2.1", "a@x", "r@y", timeinc=700)


def test_own_wrong_clock_does_not_matter(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is a day fast lets nobody pass early."""
    with greylist.open(redis.url) as store:
        store.check("192.0.2.1", "a@x", "r@y")
        real = time.time
        monkeypatch.setattr("time.time", lambda: real() + 86400)
        assert 0 == store.check("192.0.2.1", "a@x", "r@y")
        assert 0 == store.clean(timeinc=35 * 86400)


def test_keys_in_redis(redis: RedisServer) -> None:
    """One key per triple, prefixed, which expires a second after the entry does."""
    key = b"greylist:2001:db8::1:a%20b@x:r@y"

    def check(store: greylist.Store) -> None:
        before = time.monotonic()
        store.check("2001:db8::1", "a b@x", "r@y")
        left = int(redis.ask(b"PTTL " + key)[1:])
        passed = (time.monotonic() - before) * 1000
        # Milliseconds may be cut off at both ends.
        assert 2 * 86400_000 + 1000 - passed - 2 <= left <= 2 * 86400_000 + 1000

    with greylist.open(redis.url, grey_retain=2) as store:
        check(store)
        assert redis.ask(b"KEYS *").split(b"\r\n")[2] == key
        # And again from each time that it is seen.
        assert b":1\r\n" == redis.ask(b"PEXPIRE " + key + b" 60000")
        check(store)
        # What is imported expires when it would have, had it always been there.
        now = time.time()
        store.import_csv(io.StringIO(f"192.0.2.1,s,r,{now},{now - 86400},0,\n"))
        left = int(redis.ask(b"PTTL greylist:192.0.2.1:s:r")[1:])
        assert 86400_000 - 60_000 < left <= 86400_000 + 1000


def test_entry_that_redis_has_let_expire(redis: RedisServer) -> None:
    """It is unknown, and as new."""
    with greylist.open(redis.url, clock=clock) as store:
        store.import_csv(io.StringIO(seen("a@x", cnt=3)))
        assert b":1\r\n" == redis.ask(b"PEXPIRE greylist:192.0.2.1:a@x:r@y 0")
        assert 0 == store.check("192.0.2.1", "a@x", "r@y")


def test_prefix(redis: RedisServer) -> None:
    """Lists with other prefixes do not see each other, whatever is in the prefix."""
    with (
        greylist.open(redis.url, prefix="[a]*:", clock=clock) as one,
        greylist.open(redis.url, prefix="a:", clock=clock) as two,
    ):
        one.check("192.0.2.1", "a@x", "r@y")
        assert 0 == two.check("192.0.2.1", "a@x", "r@y", timeinc=700)
        assert 1 == one.check("192.0.2.1", "a@x", "r@y", timeinc=700)
        assert 1 == two.clean(timeinc=99 * 86400)
        out = io.StringIO()
        one.export_csv(out)
        assert 1 == len(out.getvalue().splitlines())
        assert 1 == one.clean(timeinc=99 * 86400)


def test_many_keys(redis: RedisServer) -> None:
    """More than one SCAN tells at a time: all are exported, imported and cleaned, each once."""
    with greylist.open(redis.url, clock=clock) as store:
        text = seen(*(f"{number}@x" for number in range(2500)))
        store.import_csv(io.StringIO(text))
        redis.ask(b"SET other value")
        out = io.StringIO()
        store.export_csv(out)
        assert sorted(text.splitlines()) == sorted(out.getvalue().splitlines())
        assert 2500 == store.clean(timeinc=99 * 86400)
        assert b":1\r\n" == redis.ask(b"DBSIZE")


def test_key_of_another_kind_is_replaced(redis: RedisServer) -> None:
    """A damaged entry counts as none (API spec 3.6)."""
    with greylist.open(redis.url, clock=clock) as store:
        for damage in (
            b"SET greylist:192.0.2.1:a@x:r@y value",
            b"HSET greylist:192.0.2.1:a@x:r@y lastseen never firstseen 1 cnt 1",
            b"HSET greylist:192.0.2.1:a@x:r@y lastseen nan firstseen 1 cnt 1",
            b"HDEL greylist:192.0.2.1:a@x:r@y firstseen",
        ):
            redis.ask(damage)
            out = io.StringIO()
            store.export_csv(out)
            assert "" == out.getvalue()
            assert 0 == store.check("192.0.2.1", "a@x", "r@y"), damage
            assert 1 == store.check("192.0.2.1", "a@x", "r@y", timeinc=700), damage
        redis.ask(b"DEL greylist:192.0.2.1:a@x:r@y")
        redis.ask(b"SET greylist:192.0.2.1:a@x:r@y value")
        assert 1 == store.clean()


def test_entry_that_comes_during_an_import(redis: RedisServer) -> None:
    """The import sees it and takes nothing, or, if it is not one of its own, goes on."""
    with greylist.open(redis.url, clock=clock) as one, greylist.open(redis.url, clock=clock) as two:
        table: Any = one
        pool = table._table._pool
        real = pool.get_connection
        looked = []

        def get_connection(*args: Any, **kwargs: Any) -> Any:
            connection = real(*args, **kwargs)
            send = connection.send_packed_command

            def spied(command: Any, *more: Any, **others: Any) -> Any:
                # Between the look and the writing.
                if any(b"MULTI" in bytes(part) for part in command) and not looked:
                    looked.append(two.check("192.0.2.1", "b@x", "r@y"))
                return send(command, *more, **others)

            connection.send_packed_command = spied
            return connection

        pool.get_connection = get_connection
        with pytest.raises(greylist.DuplicateError):
            one.import_csv(io.StringIO(seen("a@x", "b@x")))
        assert [0] == looked
        pool.get_connection = real
        assert 0 == two.check("192.0.2.1", "a@x", "r@y")


def test_out_of_reach(tmp_path: Path) -> None:
    """Opening works, so that a filter can start first; each use is StoreError with its cause."""
    need_redis_py()
    redis = importlib.import_module("redis")
    url = f"unix://user:geheim@{tmp_path / 'none.sock'}"
    with greylist.open(url) as store:
        for use in (
            lambda: store.check("192.0.2.1", "a@x", "r@y"),
            store.clean,
            lambda: store.export_csv(io.StringIO()),
            lambda: store.import_csv(io.StringIO(seen("a@x"))),
        ):
            with pytest.raises(greylist.StoreError) as caught:
                use()
            assert isinstance(caught.value.__cause__, redis.RedisError)
            assert "geheim" not in str(caught.value)
            assert "none.sock" in str(caught.value)


def test_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    """StoreError while it is away; the same object works when it is back."""
    need_redis_py()
    server = RedisServer(tmp_path)
    try:
        with greylist.open(server.url, clock=clock) as store:
            assert 0 == store.check("192.0.2.1", "a@x", "r@y")
            server.stop()
            with pytest.raises(greylist.StoreError):
                store.check("192.0.2.1", "a@x", "r@y")
            server.start()
            # It has kept nothing: also its copy of the script is gone.
            assert 0 == store.check("192.0.2.1", "a@x", "r@y", timeinc=700)
            server.stop()
            server.start()
            # The connection broke without having been used meanwhile.
            assert 0 == store.check("192.0.2.1", "a@x", "r@y", timeinc=700)
    finally:
        server.stop()


def test_server_that_does_not_answer(tmp_path: Path) -> None:
    """StoreError after the timeout."""
    need_redis_py()
    server = RedisServer(tmp_path)
    try:
        # Long enough for the answers that do come on a busy machine.
        with greylist.open(server.url, timeout=4, clock=clock) as store:
            assert 0 == store.check("192.0.2.1", "a@x", "r@y")
            assert server._process is not None
            server._process.send_signal(signal.SIGSTOP)
            with pytest.raises(greylist.StoreError):
                store.check("192.0.2.1", "a@x", "r@y", timeinc=700)
            server._process.send_signal(signal.SIGCONT)
            # The answer that came too late is not taken for that of another check.
            assert 0 == store.check("192.0.2.1", "b@x", "r@y", timeinc=700)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "trouble",
    [b"CONFIG SET maxmemory 1", b"REPLICAOF 127.0.0.1 1", b"CONFIG SET requirepass x"],
    ids=["full", "read-only replica", "password"],
)
def test_server_that_refuses(tmp_path: Path, trouble: bytes) -> None:
    """No memory left, a replica, a wrong password: StoreError."""
    need_redis_py()
    server = RedisServer(tmp_path)
    try:
        assert b"+OK\r\n" == server.ask(trouble)
        with greylist.open(server.url) as store, pytest.raises(greylist.StoreError):
            store.check("192.0.2.1", "a@x", "r@y")
    finally:
        server.stop()


def test_over_tls(tmp_path: Path) -> None:
    """rediss:// checks the certificate: with the right authority it works, without it does not."""
    need_redis_py()
    trustme = pytest.importorskip("trustme", reason="no trustme: pip install trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with reserved() as port:
        server = RedisServer(
            tmp_path,
            *("--tls-port", str(port), "--bind", "127.0.0.1", "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(tmp_path / "cert.pem")),
            *("--tls-key-file", str(tmp_path / "key.pem")),
            *("--tls-ca-cert-file", str(tmp_path / "ca.pem")),
        )
    try:
        url = f"rediss://localhost:{port}/0"
        with greylist.open(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}", clock=clock) as store:
            assert [0, 1] == [store.check("192.0.2.1", "a@x", "r@y", inc) for inc in (0, 700)]
        with (
            greylist.open(url) as store,
            pytest.raises(greylist.StoreError, match=r"(?i)certificate"),
        ):
            store.check("192.0.2.1", "a@x", "r@y")
    finally:
        server.stop()


# -- old files -------------------------------------------------------------------------------------


def python2_pickle(first: float, last: float, cnt: int, umis: bytes | None = None) -> bytes:
    """Return what Python 2.7 writes for a record, protocol 2: put together by hand.

    The strings are SHORT_BINSTRING, as Python 2's were bytes; the order of the slots is of no
    meaning.
    """
    note = b"N" if umis is None else b"U" + bytes([len(umis)]) + umis
    return (
        b"\x80\x02cMilter.greylist\nRecord\nq\x01)\x81q\x02N}q\x03("
        b"U\x09firstseenq\x04G" + struct.pack(">d", first) + b"U\x08lastseenq\x05G"
        + struct.pack(">d", last) + b"U\x04umisq\x06" + note + b"U\x03cntq\x07K"
        + bytes([cnt]) + b"u\x86q\x08b."
    )  # fmt: skip


class Evil:
    """Calls something when it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


SOUND = {
    b"192.0.2.1:a@x:r@y": python2_pickle(NOW - 700, NOW - 700, 0),
    b"2001:db8::1:a%20b@x:%2er@y": python2_pickle(NOW - 9000, NOW - 5, 7, b"n\xf6te"),
    b"192.0.2.2:long@x:r@y": python2_pickle(NOW - 40 * 86400, NOW - 39 * 86400, 3),
    # As Python 3 writes it.
    b"192.0.2.3:a@x:r@y": pickle.dumps(greylist.Record(timeinc=-1e8), 2),
}
DAMAGED = {
    b"1:empty:r": b"",
    b"1:cut:r": python2_pickle(NOW, NOW, 0)[:-9],
    b"1:text:r": pickle.dumps("text", 2),
    b"1:class itself:r": b"\x80\x02cMilter.greylist\nRecord\n.",
    b"1:nothing in it:r": b"\x80\x02cMilter.greylist\nRecord\n)\x81.",
    b"1:not a number:r": python2_pickle(float("nan"), NOW, 0),
    b"1:never:r": python2_pickle(float("inf"), NOW, 0),
    b"no key": python2_pickle(NOW, NOW, 0),
    b"1:much memory:r": b"\x80\x02Nr\xff\xff\xff\x3f.",
    b"1:\xff\xfe:r": b"\xff\xfe",
}

# What migrate() is to have done, by hand from SOUND: quoted triple -> (count, extra column).
TAKEN = {
    "192.0.2.1:a@x:r@y": (0, None),
    "2001:db8::1:a%20b@x:%2er@y": (7, "n\u00f6te"),
    "192.0.2.2:long@x:r@y": (3, None),
    "192.0.2.3:a@x:r@y": (0, None),
}


def make_dumb(path: str, items: dict[bytes, bytes]) -> None:
    """Write the three files of dbm.dumb: values at multiples of 512, an index of literals."""
    data, index = b"", []
    for key, value in items.items():
        data += b"\0" * (-len(data) % 512)
        index.append(f"{key.decode('latin-1')!r}, ({len(data)}, {len(value)})\n")
        data += value
    Path(path + ".dat").write_bytes(data)
    Path(path + ".dir").write_text("".join(index), encoding="latin-1")
    Path(path + ".bak").write_text("")


def make_sqlite3(path: str, items: dict[bytes, bytes]) -> None:
    """Write the file that shelve makes from Python 3.13 on."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        conn.executemany("INSERT INTO Dict VALUES (?, ?)", items.items())
        conn.commit()


def make_berkeley(path: str, items: dict[bytes, bytes]) -> None:
    """Write a hash as Python 2's bsddb did."""
    module = pytest.importorskip("berkeleydb.db", reason="no berkeleydb: pip install berkeleydb")
    db = module.DB()
    db.open(path, None, module.DB_HASH, module.DB_CREATE)
    for key, value in items.items():
        db.put(key, value)
    db.close()


# kind -> (how to make one, the suffixes of its files)
MAKERS = {
    "dumb": (make_dumb, [".dat", ".dir", ".bak"]),
    "sqlite3": (make_sqlite3, [""]),
    "berkeley": (make_berkeley, [""]),
    "ndbm in Berkeley DB": (lambda path, items: make_berkeley(path + ".db", items), [".db"]),
}


@pytest.fixture(params=MAKERS)
def old(request: pytest.FixtureRequest, path: str) -> Any:
    """Each kind of old file: what makes one, and what its files' names end with."""
    make, suffixes = MAKERS[request.param]
    return lambda items: make(path, items), suffixes


def taken(path: str) -> dict[str, Any]:
    """Return what is in a list."""
    with greylist.Greylist(path, clock=clock) as store:
        return {key: (record.cnt, record.umis) for key, record in store.dbp.items()}


def test_old_file_is_taken_over(path: str, old: Any, caplog: pytest.LogCaptureFixture) -> None:
    """All sound records are there and go on counting; the old files have another name."""
    make, suffixes = old
    make({**SOUND, **DAMAGED})
    before = [Path(path + suffix).read_bytes() for suffix in suffixes]
    caplog.set_level("INFO", logger="milter.greylist")
    assert TAKEN == taken(path)
    assert 1 == check(path, "192.0.2.1", "a@x", "r@y")
    assert 8 == check(path, "2001:db8::1", "a b@x", ".r@y")
    assert 0 == check(path, "192.0.2.2", "long@x", "r@y")
    assert before == [Path(f"{path}.shelve{suffix}").read_bytes() for suffix in suffixes]
    assert {"grey.db", *(f"grey.db.shelve{suffix}" for suffix in suffixes)} == {
        file.name for file in Path(path).parent.iterdir()
    }
    ((_, _, text),) = caplog.record_tuples
    assert f"{len(SOUND)} records" in text
    assert f"{len(DAMAGED)} damaged" in text
    assert f"{path}.shelve" in text


def check(path: str, *triple: str) -> int:
    """Open a list and check."""
    with greylist.Greylist(path, clock=clock) as store:
        return store.check(*triple)


def test_by_hand_is_as_python_2_wrote() -> None:
    """The pickles that are put together here are sound to Python's own reader."""
    record = pickle.loads(python2_pickle(1.5, 2.5, 3, b"u"))
    assert (1.5, 2.5, 3, "u") == (record.firstseen, record.lastseen, record.cnt, record.umis)
    assert type(record) is greylist.Record


def test_nothing_in_an_old_file_is_run(path: str, tmp_path: Path) -> None:
    """A pickle that calls something, by any opcode, is a damaged record."""
    trap = tmp_path / "trap"
    evil = {
        b"1:system:r": pickle.dumps(Evil(os.system, f"touch {trap}"), 2),
        b"1:eval:r": pickle.dumps(Evil(eval, f"open({str(trap)!r}, 'w')"), 0),
        b"1:open:r": pickle.dumps(Evil(open, str(trap), "w"), 4),
        b"1:inside:r": python2_pickle(NOW, NOW, 0)[:-2]
        + pickle.dumps(Evil(os.mkdir, str(trap)), 2)[2:-1] + b"b.",
        b"1:inst:r": b"(S'touch " + str(trap).encode() + b"'\nios\nsystem\n.",
    }  # fmt: skip
    make_dumb(path, {**evil, **SOUND})
    assert TAKEN == taken(path)
    assert not trap.exists()


def test_file_without_a_record_is_not_ours(path: str, old: Any) -> None:
    """StoreError, and nothing has changed: it may be somebody's map."""
    make, _ = old
    make({b"example.com": b"REJECT\0", b"spam@example.net": b"OK\0"})
    before = {file.name: file.read_bytes() for file in Path(path).parent.iterdir()}
    with pytest.raises(greylist.StoreError, match="no greylist"):
        greylist.Greylist(path)
    assert before == {file.name: file.read_bytes() for file in Path(path).parent.iterdir()}


def test_empty_old_file(path: str, old: Any) -> None:
    """pymilter on Python 3 could make no more than that: an empty list."""
    make, _ = old
    make({})
    assert {} == taken(path)


def test_name_of_an_old_file_that_is_taken(path: str, old: Any) -> None:
    """What was kept before stays."""
    make, suffixes = old
    precious = Path(f"{path}.shelve{suffixes[0]}")
    precious.write_text("precious")
    make(SOUND)
    assert TAKEN == taken(path)
    assert "precious" == precious.read_text()
    assert Path(f"{path}.shelve.1{suffixes[0]}").exists()


def test_old_file_keeps_its_mode(path: str) -> None:
    """Who could read and write the old one can do so with the new one."""
    make_sqlite3(path, SOUND)
    os.chmod(path, 0o640)
    assert TAKEN == taken(path)
    assert 0o640 == os.stat(path).st_mode & 0o777


def test_killed_before_the_new_file_was_complete(path: str) -> None:
    """What it left is thrown away."""
    make_sqlite3(path, SOUND)
    Path(path + ".migrating").write_bytes(b"SQLite format 3\0 and no more")
    assert TAKEN == taken(path)
    assert not os.path.exists(path + ".migrating")


def test_killed_between_the_two_names(path: str) -> None:
    """The old file has both names: it is not taken for another old one."""
    make_sqlite3(path, SOUND)
    os.link(path, path + ".shelve")
    assert TAKEN == taken(path)
    assert {"grey.db", "grey.db.shelve"} == {file.name for file in Path(path).parent.iterdir()}


@pytest.mark.slow
def test_several_processes_start_at_once(path: str) -> None:
    """One takes the old file over, all of them count on, at whatever moment some are killed."""
    items = {
        f"192.0.2.1:{number}@x:r@y".encode(): python2_pickle(NOW - 700, NOW - 700, 0)
        for number in range(3000)
    }
    make_dumb(path, items)
    choose = random.Random(1)
    for _ in range(4):
        victims = [start(path, 1, "0@y") for _ in range(3)]
        for victim in victims:
            assert victim.stdin is not None
            victim.stdin.close()
            victim.stdin = None
        time.sleep(choose.uniform(0.1, 0.4))
        for victim in victims:
            victim.kill()
            victim.communicate()
    workers = [start(path, 100, "0@x") for _ in range(4)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    answers = [told(worker.communicate()[0])["0@x"] for worker in workers]
    assert [0] * 4 == [worker.returncode for worker in workers]
    assert list(range(1, 401)) == sorted(answer for some in answers for answer in some)
    keys = taken(path)
    assert {key.decode() for key in items} == keys.keys() - {"192.0.2.1:0@y:r@y"}


def test_berkeley_db_without_its_library(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImportError names the extra, and the file stays."""
    # The letters that tell a hash: at 12.
    Path(path).write_bytes(b"\0" * 12 + struct.pack("<I", 0x061561) + b"\0" * 1000)
    monkeypatch.setitem(sys.modules, "berkeleydb", None)
    monkeypatch.setitem(sys.modules, "berkeleydb.db", None)
    with pytest.raises(ImportError, match=r"pip install \"pymilter-cffi\[berkeleydb\]\""):
        greylist.Greylist(path)
    assert 1016 == os.path.getsize(path)


def test_gnu_dbm_without_its_library(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImportError says what is missing."""
    Path(path).write_bytes(struct.pack("<I", 0x13579ACF) + b"\0" * 1000)
    monkeypatch.setitem(sys.modules, "dbm.gnu", None)
    with pytest.raises(ImportError, match="python3-gdbm"):
        greylist.Greylist(path)


def test_broken_old_file(path: str) -> None:
    """StoreError, and it stays: nobody throws a list away."""
    Path(path + ".dat").write_bytes(b"")
    Path(path + ".dir").write_text("import os\n")
    with pytest.raises(greylist.StoreError, match="cannot be read"):
        greylist.Greylist(path)
    pytest.importorskip("berkeleydb", reason="no berkeleydb: pip install berkeleydb")
    other = path + "2"
    Path(other).write_bytes(b"\0" * 12 + struct.pack("<I", 0x061561) + b"\xff" * 1000)
    with pytest.raises(greylist.StoreError, match="cannot be read"):
        greylist.Greylist(other)
    assert 1016 == os.path.getsize(other)


# Run by a Python that has the module: writes an old file and has it taken over. The package's own
# __init__ is left out, since the engine may not be built for that one.
ELSEWHERE = """
import contextlib, importlib, json, sqlite3, sys, types
kind, path, root, items = json.load(sys.stdin)
sys.path.insert(0, root)
package = types.ModuleType("Milter")
package.__path__ = [root + "/Milter"]
sys.modules["Milter"] = package
db = importlib.import_module(kind).open(path, "c")
for key, value in items:
    db[bytes.fromhex(key)] = bytes.fromhex(value)
db.close()
from Milter import greylist
with greylist.Greylist(path) as store:
    json.dump({key: [record.cnt, record.umis] for key, record in store.dbp.items()}, sys.stdout)
"""


@pytest.mark.parametrize(
    ("kind", "suffix"), [("dbm.gnu", ""), ("dbm.ndbm", ".db"), ("dbm.dumb", ".dat")]
)
def test_old_file_of_another_python(kind: str, suffix: str, path: str) -> None:
    """GNU's and BSD's dbm, by a Python that was built with them: this one or Debian's."""
    for python in (sys.executable, "/usr/bin/python3"):
        has = subprocess.run(
            [python, "-c", f"import {kind}"], stderr=subprocess.DEVNULL, check=False
        )
        if has.returncode == 0:
            break
    else:
        pytest.skip(f"no Python with {kind}: apt-get install python3-gdbm")
    items = [(key.hex(), value.hex()) for key, value in {**SOUND, **DAMAGED}.items()]
    done = subprocess.run(
        [python, "-B", "-c", textwrap.dedent(ELSEWHERE)],
        input=json.dumps([kind, path, str(ROOT), items]),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert {key: list(value) for key, value in TAKEN.items()} == json.loads(done.stdout)
    assert os.path.exists(f"{path}.shelve{suffix}")
    assert TAKEN == taken(path)
