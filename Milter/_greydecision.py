"""What greylisting decides: one function, and what is remembered of a triple.

A *triple* is the client's address, the sender and the recipient. Owns the decision (API spec 3.6),
what an entry of the list means and when it is damaged, and the errors of all stores. Knows nothing
of where entries are kept, nor of how they are spelt there.

Only redis decides without this function, since a script in the server is one round trip and cannot
be disturbed; tests/property/test_greylist_decisions.py holds that script against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

SLACK = 5.0
"""Seconds that are added to the time a sender has to wait (API spec 3.6)."""

FAR = 1e12
"""A time beyond this, in seconds, is no time: the entry is damaged."""


class StoreError(Exception):
    """The list is out of reach, or broken: nothing was decided.

    The cause is in `__cause__`. For lists in SQLite the error is a `sqlite3.OperationalError`, too,
    which is what callers of pymilter's `greysql` caught.
    """


class DuplicateError(ValueError):
    """A CSV file names a triple that is in the list already; nothing was imported.

    For lists in SQLite it is a `sqlite3.IntegrityError`, too (API spec 3.7).
    """


class Entry(NamedTuple):
    """What is remembered of a triple; times are seconds since 1970."""

    firstseen: float
    lastseen: float
    cnt: int  # how many messages have passed
    umis: Optional[str]  # pymilter keeps this column and never reads it


class Periods(NamedTuple):
    """How long things take, in seconds."""

    time: float  # a new sender has to wait for this long
    expire: float  # and to come again before this
    retain: float  # who has come again is known for this long after the last message


class Decision(NamedTuple):
    """What decide() says."""

    result: int  # 0: "come again later"; else the number of messages that have passed
    entry: Entry  # what is to be remembered
    reason: str  # "new", "expired", "early", "active", "missed": the row of the table


def expired(lastseen: float, now: float, retain: float) -> bool:
    """Return whether a triple last seen then is forgotten *now*."""
    return now > lastseen + retain


def decide(entry: Entry | None, now: float, periods: Periods) -> Decision:
    """Decide on a triple that is seen *now*; None: one that is not in the list."""
    restarted = Entry(now, now, 0, None)
    if entry is None:
        return Decision(0, restarted, "new")
    if expired(entry.lastseen, now, periods.retain):
        return Decision(0, restarted, "expired")
    if now < entry.firstseen + periods.time + SLACK:
        return Decision(0, entry._replace(lastseen=now), "early")
    if entry.cnt > 0 or now < entry.firstseen + periods.expire:
        seen = entry._replace(lastseen=now, cnt=entry.cnt + 1)
        return Decision(seen.cnt, seen, "active")
    return Decision(0, restarted, "missed")


def as_entry(firstseen: Any, lastseen: Any, cnt: Any, umis: Any) -> Entry | None:
    """Return what a store holds, numbers or their text, as an entry; None if it is damaged.

    A damaged entry is as good as none (API spec 3.6).
    """
    try:
        entry = Entry(float(firstseen), float(lastseen), int(cnt), None)
    except (TypeError, ValueError, OverflowError):
        return None
    # A NaN is not less than anything.
    if not (abs(entry.firstseen) < FAR and abs(entry.lastseen) < FAR and 0 <= entry.cnt < 2**53):
        return None
    if isinstance(umis, bytes):
        umis = umis.decode("utf-8", "surrogateescape")
    if umis is not None and not isinstance(umis, str):
        return None
    return entry._replace(umis=umis or None)
