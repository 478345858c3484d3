"""Greylisting: who is not known yet is asked to come again later (API spec 3.6).

`open()` opens a list, in a file or in a redis server, and `Greylist` is pymilter's class. How to
use either, which to take, and what happens when things go wrong is in docs/greylist.md.

    python -m Milter.greylist FILE

writes a list to the standard output as CSV.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, Union
from urllib.parse import quote, unquote

from Milter._greydecision import DuplicateError, Entry, StoreError
from Milter._greyshelve import Record, find, migrate
from Milter._greystore import TIMEOUT, Store

if TYPE_CHECKING:
    import threading

    from Milter._greysqlite import SQLiteTable

__all__ = ["DuplicateError", "Greylist", "Record", "Store", "StoreError", "open", "quoteAddress"]

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

PREFIX = "greylist:"
"""What the keys in redis begin with."""


def quoteAddress(s: Any) -> str:
    """Return an address such that a colon or a blank in it means nothing (API spec 3.6).

    What is not a letter, a digit or one of ``@_-+~!.%`` becomes ``%XX``; so does a leading dot.
    Done twice it changes nothing more.
    """
    if isinstance(s, str):
        s = s.encode("utf-8", "surrogateescape")
    quoted = quote(s, safe="@_-+~!.%")
    return "%2e" + quoted[1:] if quoted.startswith(".") else quoted


class _Quoted(Store):
    """A list that keeps addresses quoted, as pymilter's `greylist` does."""

    def _key(self, ip: Any, sender: Any, recipient: Any) -> tuple[str, str, str]:
        if not isinstance(ip, str):
            raise TypeError(f"a client's address must be str, not {type(ip).__name__}")
        return ip, quoteAddress(sender), quoteAddress(recipient)


class Greylist(_Quoted):
    """A list in a file (API spec 3.6).

    An old shelve file is taken over; it gets ".shelve" appended to its name.

    Args:
        dbname: the file; made if it is absent. ":memory:" is none.
        grey_time: minutes that a new sender has to wait.
        grey_expire: hours within which he has to come again.
        grey_retain: days for which he is known after his last message.
        timeout: seconds to wait for other threads and processes.
        clock: returns seconds since 1970, for tests.

    Raises:
        StoreError: the file cannot be opened, or is something else.
        ImportError: the old file is of a kind that this Python cannot read; the text says what is
            to be installed.
    """

    _table: SQLiteTable

    def __init__(
        self,
        dbname: Path,
        grey_time: float = 10,
        grey_expire: float = 4,
        grey_retain: float = 36,
        *,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Opens the file."""
        from Milter._greysqlite import SQLiteTable

        path = os.fsdecode(dbname)
        migrate(path)
        super().__init__(SQLiteTable(path, timeout, clock), grey_time, grey_expire, grey_retain)

    @property
    def dbp(self) -> Mapping[str, Record]:
        """The list, to be looked at: ``ip:sender:recipient``, quoted, to a copy of the record."""
        return _Shelf(self._table)

    @property
    def lock(self) -> threading.RLock:
        """Holding it keeps the other threads of this process out."""
        return self._table.lock


class _Shelf(Mapping[str, Record]):
    """What was a shelve once."""

    def __init__(self, table: SQLiteTable) -> None:
        self._table = table

    def __getitem__(self, key: str) -> Record:
        parts = key.rsplit(":", 2)
        entry = self._table.look_up((parts[0], parts[1], parts[2])) if len(parts) == 3 else None
        if entry is None:
            raise KeyError(key)
        return _as_record(entry)

    def __iter__(self) -> Iterator[str]:
        return (":".join(key) for key, _ in self._table.rows())

    def __len__(self) -> int:
        return sum(1 for _ in self._table.rows())


def _as_record(entry: Entry) -> Record:
    record = Record()
    record.firstseen, record.lastseen, record.cnt, record.umis = entry
    return record


class _RedisGreylist(_Quoted):
    """A list in a redis server."""


def open(
    url: Path,
    grey_time: float = 10,
    grey_expire: float = 4,
    grey_retain: float = 36,
    *,
    prefix: str = PREFIX,
    timeout: float = TIMEOUT,
    clock: Callable[[], float] | None = None,
) -> Store:
    """Open a list.

    Args:
        url: where it is kept::

                sqlite:///var/lib/grey.db     a file, by its whole path, with %25 for "%"
                /var/lib/grey.db              likewise; any path
                redis://host:6379/0           a redis server; redis://user:password@host/0
                rediss://host:6379/0          the same over TLS, with redis-py's options as a query
                unix:///run/redis.sock?db=0   the same on a socket; redis+unix:// is the same

        grey_time: minutes that a new sender has to wait.
        grey_expire: hours within which he has to come again.
        grey_retain: days for which he is known after his last message.
        prefix: what the keys in redis begin with; a list of its own for each prefix.
        timeout: seconds to wait for the store.
        clock: returns seconds since 1970, for tests; by default this host's for a file, the
            server's for redis.

    Returns:
        A list with the methods of Greylist. What is in a file is open at once; a redis server is
        spoken to by the first check, so that a filter can start before it.

    Raises:
        StoreError: the file cannot be opened, or is something else.
        ImportError: a library is not installed; the text says which.
        ValueError: no such URL.
    """
    text = os.fsdecode(url)
    if "://" not in text:
        return Greylist(text, grey_time, grey_expire, grey_retain, timeout=timeout, clock=clock)
    scheme, _, rest = text.partition("://")
    if scheme == "sqlite":
        # Not by urlsplit(), to which "?" and "#" would be special.
        if len(rest) < 2 or not rest.startswith("/"):
            raise ValueError(f"not sqlite:///PATH: {text!r}")
        path = unquote(rest, errors="surrogateescape")
        return Greylist(path, grey_time, grey_expire, grey_retain, timeout=timeout, clock=clock)
    if scheme == "redis+unix":
        scheme, text = "unix", f"unix://{rest}"
    if scheme in ("redis", "rediss", "unix"):
        from Milter._greyredis import RedisTable

        table = RedisTable(text, prefix, timeout, clock)
        return _RedisGreylist(table, grey_time, grey_expire, grey_retain)
    raise ValueError(f"no greylist can be kept in {scheme}://")


def _main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m Milter.greylist FILE-OR-URL >CSV", file=sys.stderr)
        return 2
    if "://" not in sys.argv[1] and not (os.path.exists(sys.argv[1]) or find(sys.argv[1])):
        print(f"{sys.argv[1]}: there is no such greylist", file=sys.stderr)
        return 1
    with open(sys.argv[1]) as store:
        store.export_csv(sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
