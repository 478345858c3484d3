"""Greylist entries in redis: one list for several hosts.

Owns the keys, the script that decides, and what redis-py is told. redis-py (the extra "redis") is
imported when a list is opened.

- A check is one script, so it is one round trip and nothing can come between. The script is
  _greydecision.decide() once more, line by line; a test compares the two.
- The time is the server's. All hosts then go by one clock, the one by which redis lets keys expire;
  with their own, one host whose clock is wrong would let senders pass early for all others.
- A key expires when its entry does, a second later, so the list cleans itself.
- Nothing is tried twice: whether a check whose answer got lost has counted, nobody knows.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Callable
from urllib.parse import urlsplit

from Milter._greydecision import (
    FAR,
    SLACK,
    Decision,
    DuplicateError,
    Entry,
    Periods,
    StoreError,
    as_entry,
    expired,
)
from Milter._greystore import Key

CONNECTIONS = 32
"""Connections that a process has at most; a further thread waits for one. The URL's query
``max_connections`` says otherwise."""

_FIELDS = ("firstseen", "lastseen", "cnt", "umis")
_PAGE = 500  # keys that are asked for at a time

# KEYS[1]: the entry. ARGV: the time, or nothing: the server's; seconds to add to it; the periods.
# "%.17g" gives a number's text without loss. What a full server refuses comes before what it does
# not refuse: nothing is refused any more to a script that has written.
_CHECK = f"""
local clock = redis.call('TIME')
local server = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local now = (tonumber(ARGV[1]) or server) + tonumber(ARGV[2])
local time, expire, retain = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function number(text)
    local value = text and tonumber(text)
    if value and value > -{FAR:.0f} and value < {FAR:.0f} then return value end
end

local seen = redis.pcall('HMGET', KEYS[1], 'firstseen', 'lastseen', 'cnt')
local first, last, cnt = number(seen[1]), number(seen[2]), number(seen[3])
local result, reason = 0, nil
if not (first and last and cnt) or cnt < 0 then
    reason = 'new'
elseif now > last + retain then
    reason = 'expired'
elseif now < first + time + {SLACK!r} then
    reason = 'early'
elseif cnt > 0 or now < first + expire then
    result, reason = cnt + 1, 'active'
else
    reason = 'missed'
end

local stamp = string.format('%.17g', now)
if reason == 'early' then
    redis.call('HSET', KEYS[1], 'lastseen', stamp)
elseif reason == 'active' then
    redis.call('HSET', KEYS[1], 'lastseen', stamp, 'cnt', string.format('%d', result))
else
    if seen.err then redis.call('DEL', KEYS[1]) end
    redis.call('HSET', KEYS[1], 'firstseen', stamp, 'lastseen', stamp, 'cnt', '0')
    redis.call('HDEL', KEYS[1], 'umis')
end
local left = math.max(now - server, 0) + retain + 1
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left * 1000))
return {{result, reason, stamp}}
"""

# Deletes an entry unless it was seen again. ARGV[1]: when it was last seen; "": damaged.
_FORGET = """
local last = redis.pcall('HGET', KEYS[1], 'lastseen')
if ARGV[1] == '' or last == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


def _bytes(key: Any) -> bytes:
    return str(key).encode("utf-8", "surrogateescape")


class RedisTable:
    """Entries in a redis server.

    Args:
        url: as redis-py takes it: redis://, rediss://, unix://.
        prefix: what the keys begin with.
        timeout: seconds to wait for a connection, and for an answer.
        clock: returns seconds since 1970; None: the server's clock.

    Raises:
        ImportError: redis-py is not there.
        ValueError: no such URL.
    """

    def __init__(
        self, url: str, prefix: str, timeout: float, clock: Callable[[], float] | None = None
    ) -> None:
        try:
            redis = importlib.import_module("redis")
        except ImportError as error:
            raise ImportError(
                'a greylist in redis needs redis-py: pip install "pymilter-cffi[redis]"'
            ) from error
        self._redis = redis
        self._errors = (redis.RedisError, OSError)
        self._prefix = _bytes(prefix)
        self._clock = clock
        parts = urlsplit(url)
        # Without the password.
        self._name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._closed = False
        retry = importlib.import_module("redis.retry").Retry(
            importlib.import_module("redis.backoff").NoBackoff(), 0
        )
        # Connects when first used.
        self._pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=retry,
        )
        self._client: Any = redis.Redis(connection_pool=self._pool)
        self._check = self._client.register_script(_CHECK)
        self._forget = self._client.register_script(_FORGET)

    def _failed(self, error: BaseException) -> StoreError:
        return StoreError(f"{self._name}: {error}")

    def _open(self) -> Any:
        if self._closed:
            raise StoreError(f"{self._name}: the list is closed")
        return self._client

    def _name_of(self, key: Key) -> bytes:
        return self._prefix + b":".join(map(_bytes, key))

    def now(self) -> float:
        """Return the time that the list goes by."""
        if self._clock is not None:
            return self._clock()
        try:
            seconds, microseconds = self._open().time()
        except self._errors as error:
            raise self._failed(error) from error
        return float(seconds) + float(microseconds) / 1e6

    def check(self, key: Key, timeinc: float, periods: Periods) -> Decision:
        """Run the script."""
        self._open()
        now = "" if self._clock is None else repr(float(self._clock()))
        arguments = [now, *(repr(float(each)) for each in (timeinc, *periods))]
        try:
            result, reason, stamp = self._check([self._name_of(key)], arguments)
        except self._errors as error:
            raise self._failed(error) from error
        seen = float(stamp)
        # When it was first seen stays in the server: nobody asks.
        return Decision(int(result), Entry(seen, seen, int(result), None), reason.decode())

    def _pages(self) -> Iterator[list[tuple[bytes, Any]]]:
        """Go through all keys and the fields of each, which are an exception where it has none."""
        client = self._open()
        pattern = b"".join(
            b"\\" + bytes([each]) if each in b"*?[]^-\\" else bytes([each]) for each in self._prefix
        )
        told: set[bytes] = set()  # SCAN may tell a key twice
        cursor = 0
        try:
            while True:
                cursor, found = client.scan(cursor, match=pattern + b"*", count=_PAGE)
                keys = [key for key in dict.fromkeys(found) if key not in told]
                told.update(keys)
                with client.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.hmget(key, _FIELDS)
                    yield list(zip(keys, pipe.execute(raise_on_error=False)))
                if not cursor:
                    return
        except self._errors as error:
            raise self._failed(error) from error

    @staticmethod
    def _entry(fields: Any) -> Entry | None:
        return as_entry(*fields) if isinstance(fields, list) else None

    def rows(self) -> Iterator[tuple[Key, Entry]]:
        """Go through the list; what changes meanwhile may be told as it was or as it is."""
        for page in self._pages():
            for name, fields in page:
                entry = self._entry(fields)
                text = name[len(self._prefix) :].decode("utf-8", "surrogateescape")
                # From the right, since the address may hold colons.
                key = text.rsplit(":", 2)
                if entry is not None and len(key) == 3:
                    yield (key[0], key[1], key[2]), entry

    def insert(self, rows: list[tuple[Key, Entry]], periods: Periods) -> None:
        """Put in all, or none: if one of the keys appears meanwhile, it is looked at again."""
        entries = {self._name_of(key): entry for key, entry in rows}
        if len(entries) < len(rows):
            raise DuplicateError("a triple is in the file twice")
        names = list(entries)
        client = self._open()
        now = self.now()
        try:
            while names:
                with client.pipeline() as pipe:
                    for start in range(0, len(names), _PAGE):
                        some = names[start : start + _PAGE]
                        pipe.watch(*some)
                        if pipe.exists(*some):
                            raise DuplicateError("a triple is in the list already")
                    pipe.multi()
                    for name, entry in entries.items():
                        fields = zip(_FIELDS, map(str, entry))
                        pipe.hset(name, mapping=dict(fields if entry.umis else list(fields)[:3]))
                        left = entry.lastseen - now + periods.retain + 1
                        pipe.pexpire(name, int(left * 1000))
                    try:
                        pipe.execute()
                        return
                    except self._redis.WatchError:
                        continue
        except self._errors as error:
            raise self._failed(error) from error

    def clean(self, timeinc: float, retain: float) -> int:
        """Delete what is expired or damaged; most of it redis has deleted already."""
        now = self.now() + timeinc
        deleted = 0
        for page in self._pages():
            for name, fields in page:
                if fields == [None] * len(_FIELDS):  # gone meanwhile
                    continue
                entry = self._entry(fields)
                if entry is None or expired(entry.lastseen, now, retain):
                    try:
                        deleted += self._forget([name], [fields[1] if entry else b""])
                    except self._errors as error:
                        raise self._failed(error) from error
        return deleted

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._pool.disconnect()
