"""Greylist entries in SQLite: one file, any number of threads and processes.

Owns the table (API spec 3.7), the transaction around a check, waiting for other processes, and what
happens at a fork. Imported when the first list is opened.

- The file is in WAL mode, so what only reads holds up nobody. ``synchronous`` is NORMAL: a process
  that is killed loses what it had not committed, a machine that loses power may lose the last
  checks, and neither damages the file. Greylisting can bear that: a sender is asked once more.
- Who writes says so at the start (BEGIN IMMEDIATE). A transaction that only finds out later that it
  must write fails at once where another one has written meanwhile, however long it would wait.
- One connection per list and process, behind a lock: SQLite lets one writer in at a time anyway.
- No connection may cross a fork: the locks that SQLite believes to hold stay with the parent, who
  may then delete the log that the child writes to. So it is closed before, and opened again when
  needed, in both.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable, TypeVar

from Milter._greydecision import (
    Decision,
    DuplicateError,
    Entry,
    Periods,
    StoreError,
    as_entry,
    decide,
    expired,
)
from Milter._greystore import Key

_T = TypeVar("_T")

# pymilter's table, to the letter: either library opens the other's file.
_CREATE = """CREATE TABLE IF NOT EXISTS greylist(
    ip text, sender text, recipient text,
    firstseen timestamp, lastseen timestamp, cnt integer, umis text,
    primary key (ip, sender, recipient))"""
# Text goes in as bytes, since addresses may hold what no UTF-8 does. IS, for None.
_TRIPLE = "ip IS CAST(? AS TEXT) AND sender IS CAST(? AS TEXT) AND recipient IS CAST(? AS TEXT)"
_COLUMNS = "firstseen, lastseen, cnt, umis"
_LOOK_UP = f"SELECT rowid, {_COLUMNS} FROM greylist WHERE {_TRIPLE}"
_PAGE = (
    f"SELECT rowid, ip, sender, recipient, {_COLUMNS} FROM greylist"
    " WHERE rowid > ? ORDER BY rowid LIMIT 500"
)
_UPDATE = "UPDATE greylist SET firstseen=?, lastseen=?, cnt=?, umis=? WHERE rowid=?"
_INSERT = (
    f"INSERT INTO greylist(ip, sender, recipient, {_COLUMNS})"
    " VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?)"
)
_CLEAN = "DELETE FROM greylist WHERE forgotten(lastseen, ?, ?)"

_NAP = 0.05  # seconds that SQLite itself waits for a lock; then it is asked again


class _SQLiteStoreError(StoreError, sqlite3.OperationalError):
    """What callers of pymilter's greysql catch, and what ours do."""


class _SQLiteDuplicateError(DuplicateError, sqlite3.IntegrityError):
    """Likewise."""


for _public in (_SQLiteStoreError, _SQLiteDuplicateError):
    _public.__name__ = _public.__qualname__ = _public.__bases__[0].__name__


def _stored(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _loaded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _forgotten(lastseen: Any, now: float, retain: float) -> bool:
    return not isinstance(lastseen, (int, float)) or expired(lastseen, now, retain)


def _patiently(what: Callable[[], _T], deadline: float) -> _T:
    """Call until no other process is in the way.

    SQLite's own waiting is not enough: it does not wait at all where it fears a deadlock, as when
    two processes switch a new file to WAL at once, and the longer it waits the seldomer it looks.
    """
    while True:
        try:
            return what()
        except sqlite3.OperationalError as error:
            # There is no number to go by before Python 3.11.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0005, 0.005))


class SQLiteTable:
    """Entries in a file, or in memory (":memory:").

    Args:
        path: the file; made if it is absent.
        timeout: seconds to wait for other threads and processes.
        clock: returns seconds since 1970; None: this host's.

    Raises:
        StoreError: the file cannot be opened or is no such database.
    """

    def __init__(self, path: str, timeout: float, clock: Callable[[], float] | None = None) -> None:
        self.lock = threading.RLock()
        self.now = clock or time.time
        self._timeout = timeout
        self._in_memory = path in ("", ":memory:")
        # Daemons change their directory, and the file may have to be opened again.
        self._path = path if self._in_memory else os.path.abspath(path)
        self._conn: sqlite3.Connection | None = None
        self._closed = False
        with _fork_lock:
            _tables.add(self)
        with self._held():
            self.connection()

    # -- the connection ----------------------------------------------------------------------------

    def connection(self) -> sqlite3.Connection:
        """Return this process's connection, to be used under the lock."""
        if self._closed:
            raise sqlite3.ProgrammingError("the list is closed")
        if self._conn is None:
            self._conn = self._open()
        return self._conn

    def _open(self) -> sqlite3.Connection:
        deadline = time.monotonic() + self._timeout
        conn = sqlite3.connect(
            self._path, timeout=_NAP, isolation_level=None, check_same_thread=False
        )
        try:
            conn.row_factory = sqlite3.Row
            conn.text_factory = _loaded
            conn.create_function("forgotten", 3, _forgotten)
            # A network file system cannot do WAL; then each commit has to reach the disk.
            mode = self._prepare(conn, "PRAGMA journal_mode=WAL", deadline)
            self._prepare(
                conn, f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}", deadline
            )
            self._prepare(conn, _CREATE, deadline)
        except BaseException:
            conn.close()
            raise
        return conn

    @staticmethod
    def _prepare(conn: sqlite3.Connection, statement: str, deadline: float) -> Any:
        try:
            row = _patiently(lambda: conn.execute(statement).fetchone(), deadline)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            return None  # good enough to export from; check() will say so
        return row[0] if row else None

    def _drop(self) -> None:
        """Close the connection; the next use opens another one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def _failed(self, error: sqlite3.Error) -> StoreError:
        return _SQLiteStoreError(f"{self._path}: {error}")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; what SQLite raises meanwhile becomes ours."""
        if not self.lock.acquire(timeout=self._timeout):
            raise _SQLiteStoreError(f"{self._path}: other threads have kept it busy for too long")
        try:
            yield
        except (sqlite3.IntegrityError, StoreError):
            raise
        except sqlite3.Error as error:
            if not self._in_memory:
                with contextlib.suppress(sqlite3.Error):
                    self._drop()  # the file may be mended or replaced meanwhile
            raise self._failed(error) from error
        finally:
            self.lock.release()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, alone; what was written is there afterwards, or after an exception it is not."""
        with self._held():
            conn = self.connection()
            deadline = time.monotonic() + self._timeout
            _patiently(lambda: conn.execute("BEGIN IMMEDIATE"), deadline)
            try:
                yield conn
                # In WAL mode nobody is in its way; without, each reader is.
                _patiently(lambda: conn.execute("COMMIT"), deadline)
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with self._held():
            conn = self.connection()
            deadline = time.monotonic() + self._timeout
            # Readers wait for nobody but one who cleans up after a process that was killed.
            return _patiently(lambda: conn.execute(query, values).fetchall(), deadline)

    # -- what a Table does -------------------------------------------------------------------------

    def check(self, key: Key, timeinc: float, periods: Periods) -> Decision:
        """Look up, decide, write back."""
        stored = tuple(map(_stored, key))
        with self._transaction() as conn:
            # The time is taken in here, so that who writes later is also later by the clock.
            row = conn.execute(_LOOK_UP, stored).fetchone()
            decision = decide(as_entry(*row[1:]) if row else None, self.now() + timeinc, periods)
            if row:
                conn.execute(_UPDATE, (*_entry(decision.entry), row[0]))
            else:
                conn.execute(_INSERT, (*stored, *_entry(decision.entry)))
        return decision

    def look_up(self, key: Key) -> Entry | None:
        """Return an entry; None: there is none, or a damaged one."""
        row = next(iter(self._read(_LOOK_UP, tuple(map(_stored, key)))), None)
        return as_entry(*row[1:]) if row else None

    def rows(self) -> Iterator[tuple[Key, Entry]]:
        """Go through the list, some hundreds at a time, in between which others may write."""
        last = -(2**63)
        while True:
            page = self._read(_PAGE, (last,))
            if not page:
                return
            for row in page:
                entry = as_entry(*row[4:])
                if entry is not None:
                    yield (row[1], row[2], row[3]), entry
            last = page[-1][0]

    def insert(self, rows: Iterable[tuple[Key, Entry]], periods: Periods) -> None:
        """Put in all, or none."""
        try:
            with self._transaction() as conn:
                conn.executemany(
                    _INSERT, ((*map(_stored, key), *_entry(entry)) for key, entry in rows)
                )
        except sqlite3.IntegrityError as error:
            raise _SQLiteDuplicateError(f"in the list already, or twice: {error}") from error

    def clean(self, timeinc: float, retain: float) -> int:
        """Delete what is expired or damaged."""
        with self._transaction() as conn:
            return conn.execute(_CLEAN, (self.now() + timeinc, retain)).rowcount

    def close(self) -> None:
        """Close the file. Waits for a check that another thread is at."""
        with self._held():
            self._closed = True
            self._drop()


def _entry(entry: Entry) -> tuple[float, float, int, Any]:
    return entry.firstseen, entry.lastseen, entry.cnt, _text(entry.umis)


def _text(value: str | None) -> str | None:
    """Return text without what SQLite would not take."""
    return None if value is None else value.encode("utf-8", "replace").decode()


def build(path: str, rows: Iterable[tuple[Key, Entry]]) -> None:
    """Make a database of its own, of one file that is on the disk in whole."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute("BEGIN IMMEDIATE")
        conn.execute(_CREATE)
        conn.executemany(_INSERT, ((*map(_stored, key), *_entry(entry)) for key, entry in rows))
        conn.execute("COMMIT")


# -- forks -----------------------------------------------------------------------------------------

_fork_lock = threading.Lock()  # held over a fork, too, so that forks of two threads do not mix
_tables: weakref.WeakSet[SQLiteTable] = weakref.WeakSet()
_kept: list[SQLiteTable] = []  # those that have been locked for the fork


def _before_fork() -> None:
    _fork_lock.acquire()
    for table in list(_tables):
        table.lock.acquire()
        _kept.append(table)
        if not table._in_memory:
            with contextlib.suppress(sqlite3.Error):
                table._drop()


def _after_fork() -> None:
    while _kept:
        _kept.pop().lock.release()
    _fork_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
