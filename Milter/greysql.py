"""A greylist in an SQLite database of pymilter's `greysql` (API spec 3.7).

The decisions are those of `Milter.greylist`, which says more about them, and new filters had better
use `Milter.greylist.open()`. Here addresses are kept as they are given, there with quotes.

    python -m Milter.greysql FILE <CSV

puts what a greylist has exported into a database.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Callable

from Milter._greystore import TIMEOUT, Store

if TYPE_CHECKING:
    import sqlite3

    from Milter._greysqlite import SQLiteTable
    from Milter.greylist import Path

__all__ = ["Greylist"]


class Greylist(Store):
    """A list in an SQLite database; it may be used from any thread.

    Args:
        dbname: the file; made if it is absent. ":memory:" is none.
        grey_time: minutes that a new sender has to wait.
        grey_expire: hours within which he has to come again.
        grey_retain: days for which he is known after his last message.
        timeout: seconds to wait for other threads and processes.
        clock: returns seconds since 1970, for tests.

    Raises:
        sqlite3.OperationalError: the file cannot be opened, or is something else. All errors of
            the database are that, and `Milter.greylist.StoreError`. A triple that import_csv()
            finds to be there already is sqlite3.IntegrityError.
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

        table = SQLiteTable(os.fsdecode(dbname), timeout, clock)
        super().__init__(table, grey_time, grey_expire, grey_retain)

    @property
    def conn(self) -> sqlite3.Connection:
        """The connection. Each statement commits itself; after a fork it is another one."""
        with self._table.lock:
            return self._table.connection()


def _main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m Milter.greysql FILE <CSV", file=sys.stderr)
        return 2
    with Greylist(sys.argv[1]) as store:
        store.import_csv(sys.stdin)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
