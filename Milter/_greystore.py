"""The face that all greylists have, whatever they are kept in: check, clean, CSV, close.

Owns the periods and how they are given, the log lines, and the CSV format (API spec 3.6). What
keeps the entries is a `Table`; this file knows none of them.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from Milter._greydecision import Decision, Entry, Periods, as_entry, expired

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("milter.greylist")

TIMEOUT = 10.0
"""Seconds that an operation waits for the store; Postfix gives a filter 30 for a command."""

Key = tuple[Any, Any, Any]
"""Client's address, sender, recipient, as the store is to keep them; text, and None in greysql."""

_S = TypeVar("_S", bound="Store")

# What pymilter calls the rows of the table in its log; a new triple makes no line there.
_WORDS = {"early": "Early", "active": "Active", "expired": "Expired", "missed": "Late"}


class Table(Protocol):
    """What keeps entries. Each method raises StoreError where that is out of reach."""

    def now(self) -> float:
        """Return the time, in seconds since 1970, that this list goes by."""

    def check(self, key: Key, timeinc: float, periods: Periods) -> Decision:
        """Look up, decide and write back, so that nobody else can come between."""

    def rows(self) -> Iterator[tuple[Key, Entry]]:
        """Go through what is there, without what is damaged, holding up nobody."""

    def insert(self, rows: list[tuple[Key, Entry]], periods: Periods) -> None:
        """Put in all, or none: DuplicateError."""

    def clean(self, timeinc: float, retain: float) -> int:
        """Delete what is expired, and what is damaged; return how many."""

    def close(self) -> None:
        """Let go of everything; again does nothing."""


class Store:
    """A greylist (API spec 3.6): what `Milter.greylist.open()` returns.

    It may be used from any thread, and after a fork in either process. It is a context manager
    that closes it.

    Attributes:
        greylist_time: seconds that a new sender has to wait.
        greylist_expire: seconds within which he has to come again.
        greylist_retain: seconds for which he is known after his last message.
    """

    ignoreLastByte = False
    """Part of pymilter's interface, and without a meaning there, too."""

    def __init__(
        self, table: Table, grey_time: float, grey_expire: float, grey_retain: float
    ) -> None:
        """Takes minutes, hours and days, as pymilter does."""
        self._table = table
        self.greylist_time = grey_time * 60
        self.greylist_expire = grey_expire * 3600
        self.greylist_retain = grey_retain * 24 * 3600

    def _key(self, ip: Any, sender: Any, recipient: Any) -> Key:
        """Return a triple as it is kept."""
        return ip, sender, recipient

    def _periods(self) -> Periods:
        return Periods(self.greylist_time, self.greylist_expire, self.greylist_retain)

    def check(self, ip: Any, sender: Any, recipient: Any, timeinc: float = 0) -> int:
        """Decide on a message, and remember that it was seen.

        Args:
            ip: the client's address, or what is to stand for it, such as its network.
            sender: the envelope's sender; case counts.
            recipient: the envelope's recipient; case counts.
            timeinc: seconds to add to the clock, for tests.

        Returns:
            0 if the message is to be refused for now, else how many have passed, this one included.

        Raises:
            StoreError: the list is out of reach or broken. Whether the message passes is up to the
                filter; most let it pass.
        """
        key = self._key(ip, sender, recipient)
        decision = self._table.check(key, timeinc, self._periods())
        if decision.reason != "new" and log.isEnabledFor(logging.DEBUG):
            passed = f"({decision.result})" if decision.result else ""
            log.debug("%s greylist%s: %s:%s:%s", _WORDS[decision.reason], passed, *key)
        return decision.result

    def clean(self, timeinc: float = 0) -> int:
        """Delete what is expired, *timeinc* seconds from now; return the number deleted.

        Raises:
            StoreError: the list is out of reach or broken.
        """
        return self._table.clean(timeinc, self.greylist_retain)

    def export_csv(self, fp: Any, timeinc: float = 0) -> None:
        """Write the list to a text file: ip, sender, recipient, firstseen, lastseen, cnt, umis.

        What is expired, *timeinc* seconds from now, is left out. There is no line of headings.

        Raises:
            StoreError: the list is out of reach or broken.
        """
        now = self._table.now() + timeinc
        writer = csv.writer(fp)
        for key, entry in self._table.rows():
            if not expired(entry.lastseen, now, self.greylist_retain):
                writer.writerow((*key, *entry))

    def import_csv(self, fp: Iterable[str]) -> None:
        """Read what export_csv() writes, all of it or, if it fails, nothing.

        Raises:
            DuplicateError: a triple is in the list already, or in the file twice.
            ValueError: a line is not what it should be.
            StoreError: the list is out of reach or broken.
        """
        # Read to its end first: nobody has to wait for a slow file.
        self._table.insert(list(self._parsed(fp)), self._periods())

    def _parsed(self, fp: Iterable[str]) -> Iterator[tuple[Key, Entry]]:
        reader = csv.reader(fp)
        try:
            for row in reader:
                if not row:  # an empty line
                    continue
                entry = as_entry(*row[3:]) if len(row) == 7 else None
                if entry is None:
                    raise ValueError(f"line {reader.line_num}: no row of a greylist: {row!r:.200}")
                yield self._key(*row[:3]), entry
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: no CSV: {error}") from error

    def close(self) -> None:
        """Close the list. What is called afterwards raises StoreError, but for close()."""
        self._table.close()

    def __enter__(self: _S) -> _S:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the list."""
        self.close()
