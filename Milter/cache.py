"""What was found out about addresses, remembered for days, and in a file beyond the process.

API spec 3.1. The file has a line for each address that was found bad: the address, a blank, and
when. A line without a time is as good as new whenever it is read.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import Any, Optional

from Milter.plock import PLock

__all__ = ["AddrCache"]

_DAY = 86400  # seconds


class AddrCache:
    """A mapping from addresses, or whole domains, to results. Case does not matter.

    *renew*: after how many days a result is forgotten. *fname*: the file's path; None for no file.
    Attributes: `age` (the days), `fname`, and `cache`, a dictionary from addresses in lower case to
    ``(time, result)``, where the time is None for what is never forgotten. Any thread may use it,
    and several processes may share the file.
    """

    #: How times are written in the file (`time.strftime`, local time).
    time_format = "%Y%b%d %H:%M:%S %Z"

    def __init__(self, renew: float = 7, fname: Optional[str] = None) -> None:
        """Make an empty cache; nothing is read before `load`."""
        self.age = renew
        self.cache: dict[str, tuple[Optional[float], Any]] = {}
        self.fname = fname
        # For what is looked up and then changed; not held while the file is written.
        self._lock = threading.Lock()

    def load(self, fname: str, age: float = 0) -> None:
        """Read the file *fname*, and have it written to from now on.

        *age*: how many days back to go, 0 for those given to the class. Lines that are older, or
        whose time cannot be read, are removed from the file, which then stays as ``fname.old``;
        empty lines and comments are left as they are. A comment begins with ``#`` and is no
        address, with or without a time, that begins so. A file that is not there is an empty one.
        Raises FileExistsError if ``fname.lock`` exists: somebody is writing the file anew. A file
        that cannot be read is ignored.
        """
        if not age:
            age = self.age
        self.fname = fname
        oldest = time.time() - age * _DAY
        lock = PLock(fname)
        new = lock.lock()
        try:
            with open(fname, encoding="utf-8", errors="surrogateescape") as old:
                # Held until the file is replaced, so that no line is added to the old one
                # meanwhile.
                fcntl.flock(old, fcntl.LOCK_EX)
                changed = False
                for line in old:
                    if self._take(line, oldest):
                        new.write(line)
                    else:
                        changed = True
                if changed:
                    lock.commit(fname + ".old")
        except OSError:
            pass
        finally:
            lock.unlock()

    def _take(self, line: str, oldest: float) -> bool:
        """Take a line of the file into the cache; tell whether the line is to stay."""
        words = line.split(None, 1)
        # A local part may begin with "#" (RFC 5322 section 3.2.3): not all such lines are comments.
        comment = not words or words[0].startswith("#")
        if comment and not (words and "@" in words[0]):
            return True
        when = time.time()
        if len(words) > 1:
            try:
                when = time.mktime(time.strptime(words[1].strip(), self.time_format))
            except (ValueError, OverflowError):
                return comment
            if when < oldest:
                return False
        with self._lock:
            self.cache[words[0].lower()] = (when, None)
        return True

    def has_precise_key(self, addr: Optional[str]) -> bool:
        """Tell whether *addr* itself, not its domain, has a result that is not too old."""
        if not addr:
            return False
        with self._lock:
            return self._entry(addr.lower()) is not None

    def _entry(self, key: str) -> Optional[tuple[Optional[float], Any]]:
        """Return what is kept for *key* and not too old; forget what is. The lock is held."""
        entry = self.cache.get(key)
        if entry is None or not entry[0] or entry[0] > time.time() - self.age * _DAY:
            return entry
        del self.cache[key]
        return None

    def has_key(self, addr: Optional[str]) -> bool:
        """Tell whether *addr*, or what follows its first ``@``, has a result not too old."""
        if not addr:
            return False
        return self.has_precise_key(addr) or self.has_precise_key(addr.partition("@")[2])

    __contains__ = has_key

    def __getitem__(self, addr: str) -> Any:
        """Return the result for *addr*, else for what follows its first ``@``, or the next one.

        Raises KeyError, with what follows the last ``@`` in lower case, if there is none.
        """
        key = addr.lower()
        with self._lock:
            while True:
                entry = self._entry(key)
                if entry is not None:
                    return entry[1]
                _, at, rest = key.partition("@")
                if not at:
                    raise KeyError(key)
                key = rest

    def addperm(self, addr: str, res: Any = None) -> None:
        """Remember *addr* (an address or a domain) for ever.

        A result that it has stays, in place of *res*. One that is not true is written to the file,
        which there must be: TypeError without one.
        """
        key = addr.lower()
        with self._lock:
            entry = self._entry(key)
            if entry is not None:
                if entry[0] is None:
                    return
                res = entry[1]
            self.cache[key] = (None, res)
        if not res:
            if self.fname is None:
                raise TypeError("addperm: the cache has no file")
            self._append(addr)

    def __setitem__(self, addr: str, res: Any) -> None:
        """Remember *res* for *addr*, in the file as well if it is not true and there is a file."""
        now = time.time()
        with self._lock:
            self.cache[addr.lower()] = (now, res)
        if not res and self.fname is not None:
            self._append(f"{addr} {time.strftime(self.time_format, time.localtime(now))}")

    def _append(self, line: str) -> None:
        """Add *line* to the file. Raises OSError if that fails."""
        # An address may come from outside, and a line is one address.
        data = " ".join(line.splitlines()).encode("utf-8", "surrogateescape") + b"\n"
        while True:
            with open(self.fname or "", "ab", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Another process may have put a new file in its place before the lock was ours.
                try:
                    there = os.stat(self.fname or "")
                except FileNotFoundError:
                    continue
                if os.path.samestat(there, os.fstat(file.fileno())):
                    file.write(data)
                    return

    def __len__(self) -> int:
        """Return the number of results, those that are too old included."""
        return len(self.cache)
