"""The files that access maps are kept in: text, Berkeley DB, LMDB, CDB.

Owns how a format is recognised, how each is read, and what is remembered of those that are read
whole. Knows nothing of policies: keys and values are bytes here.

A map is open for as long as one policy is asked for, so opening has to be cheap. Berkeley DB and
CDB are looked up in the file. Text has to be compiled, and LMDB would want a file of locks in a
directory that a filter need not be able to write to, and forbids two handles of one file in a
process; so these two are read whole, and remembered for as long as the file is the same one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

log = logging.getLogger("Milter")

SUFFIXES = (".db", ".lmdb", ".cdb")
"""What the makers append to a name, and what is tried if there is no file of the name itself."""

_BERKELEY = {0x00061561, 0x00053162}  # hash, btree: the 32 bits at 12, in the maker's order
_OTHER_BERKELEY = {0x00042253, 0x00074582}  # queue, heap
_LMDB = struct.pack("=I", 0xBEEFC0DE)
_LMDB_OFFSETS = (
    16,
    12,
)  # behind the page's header, as large as a machine of 64 or 32 bits makes it

_CDB_TABLES = struct.Struct("<512I")  # 256 pairs: where a table is, how many slots it has
_CDB_PAIR = struct.Struct("<II")

_SETTLED = 2.0
"""Seconds after which a file's times are taken to tell one state of it from the next."""
_REMEMBERED = 32
"""How many files' contents are kept."""


class PolicyMapError(ValueError):
    """A file is no map of a format known here, or a damaged one. The text names the file."""


class Map(Protocol):
    """What every format offers."""

    def __getitem__(self, key: bytes) -> bytes:
        """Return the value; KeyError if there is none."""
        ...

    def close(self) -> None:
        """End it; again is no error."""
        ...


def open_map(name: str | os.PathLike[str], fold: bool = True) -> Map:
    """Open a map for reading.

    Args:
        name: the file, with or without its suffix.
        fold: whether the keys of text are lower-cased, as makemap does without ``-f``.

    Raises:
        OSError: there is no such file, or it cannot be read.
        PolicyMapError: it is of no format known here.
        ImportError: it needs an extra that is not installed.
    """
    path = _find(os.fspath(name))
    with _lock, open(path, "rb") as file:
        kind = _recognise(path, file)
        if kind == "cdb":
            return CdbMap(path, file)
        if kind == "lmdb":
            return DictMap(path, _remembered(path, file, kind))
        if kind == "text":
            return DictMap(path, _remembered(path, file, "folded" if fold else kind))
    return BerkeleyMap(path)


def _find(path: str) -> str:
    """Return the name of the file that there is, preferably the one named."""
    if not os.path.exists(path):
        for suffix in SUFFIXES:
            if os.path.exists(path + suffix):
                return path + suffix
    return path


def _recognise(path: str, file: BinaryIO) -> str:
    """Tell the format by what the file begins with; its name only says what it may not be."""
    head = file.read(_CDB_TABLES.size)
    magic = _numbers(head[12:16])
    if magic & _BERKELEY:
        return "berkeleydb"
    if magic & _OTHER_BERKELEY:
        raise PolicyMapError(f"{path}: a Berkeley DB file, but neither hash nor btree")
    if any(head[offset : offset + 4] == _LMDB for offset in _LMDB_OFFSETS):
        return "lmdb"
    if _is_cdb(head, os.fstat(file.fileno()).st_size):
        return "cdb"
    # An empty or half-written database must not pass for text that has nothing in it.
    suffix = os.path.splitext(path)[1]
    if suffix in SUFFIXES:
        raise PolicyMapError(f"{path}: not a database of the kind that its name says")
    if b"\0" in head:
        raise PolicyMapError(f"{path}: neither text nor a database of a known kind")
    return "text"


def _numbers(four: bytes) -> set[int]:
    return {struct.unpack(order, four)[0] for order in ("<I", ">I")} if len(four) == 4 else set()


def _is_cdb(head: bytes, size: int) -> bool:
    """CDB has no magic number, but its 256 tables stand one behind the other up to the file's end.

    That they do so is no rule of the format, but all makers write it so.
    """
    if len(head) < _CDB_TABLES.size:
        return False
    numbers: tuple[int, ...] = _CDB_TABLES.unpack(head)
    end = numbers[0]
    if end < _CDB_TABLES.size:
        return False
    for start, slots in zip(numbers[::2], numbers[1::2]):
        if start != end:
            return False
        end += slots * _CDB_PAIR.size
    return end == size


# -- the formats -----------------------------------------------------------------------------------


class _Closable:
    """What the maps that are ours share."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed = False

    def close(self) -> None:
        """End it; again is no error."""
        self.closed = True

    def __getitem__(self, key: bytes) -> bytes:
        """Return the value; KeyError if there is none.

        Whether keys and values end in NUL is a habit of who made the file, so either is found.
        """
        if self.closed:
            raise ValueError(f"{self.path}: closed")
        other = key[:-1] if key.endswith(b"\0") else key + b"\0"
        for each in (key, other):
            value = self._find(each)
            if value is not None:
                return value
        raise KeyError(key)

    def _find(self, key: bytes) -> bytes | None:
        raise NotImplementedError


class DictMap(_Closable):
    """A map that was read whole.

    Args:
        path: the file that it was read from, for messages.
        items: what it holds; not changed here, and shared.
    """

    def __init__(self, path: str, items: dict[bytes, bytes]) -> None:
        """Does nothing else."""
        super().__init__(path)
        self._items = items

    def _find(self, key: bytes) -> bytes | None:
        return self._items.get(key)


class CdbMap(_Closable):
    """A constant database of D. J. Bernstein's, as tinycdb and Postfix write it.

    Who makes a new one renames it over the old one, so what is mapped here does not change.

    Args:
        path: for messages.
        file: open for reading; may be closed afterwards.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        """Maps the file into memory."""
        super().__init__(path)
        self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """End it; again is no error."""
        super().close()
        self._data.close()

    def _find(self, key: bytes) -> bytes | None:
        try:
            return self._search(key)
        except struct.error:
            raise PolicyMapError(f"{self.path}: damaged") from None

    def _search(self, key: bytes) -> bytes | None:
        hashed = 5381
        for byte in key:
            hashed = (hashed * 33 & 0xFFFFFFFF) ^ byte
        data = self._data
        table, slots = _CDB_PAIR.unpack_from(data, (hashed & 0xFF) * _CDB_PAIR.size)
        for step in range(slots):
            slot = (hashed // 256 + step) % slots
            found, record = _CDB_PAIR.unpack_from(data, table + slot * _CDB_PAIR.size)
            if record == 0:
                break
            if found != hashed:
                continue
            key_size, value_size = _CDB_PAIR.unpack_from(data, record)
            start = record + _CDB_PAIR.size
            middle, end = start + key_size, start + key_size + value_size
            if end > len(data):
                raise PolicyMapError(f"{self.path}: damaged")
            if data[start:middle] == key:
                return data[middle:end]
        return None


class BerkeleyMap:
    """A hash or btree file of Berkeley DB.

    Unlike with the others, whether keys end in NUL has to be said (``access_file_nulls``), as under
    pymilter.

    Args:
        path: the file.

    Raises:
        ImportError: without the extra `berkeleydb`.
        OSError: there is no such file, or it cannot be read.
        berkeleydb.db.DBError: it is damaged.
    """

    def __init__(self, path: str) -> None:
        """Opens the file."""
        db = _extra("berkeleydb.db", path, "a Berkeley DB file", "berkeleydb")
        self._db = db.DB()
        try:
            self._db.open(path, None, db.DB_UNKNOWN, db.DB_RDONLY)
        except BaseException:
            self._db.close()
            raise

    def __getitem__(self, key: bytes) -> bytes:
        """Return the value; KeyError if there is none."""
        return bytes(self._db[key])

    def close(self) -> None:
        """End it; again is no error."""
        self._db.close()


def _extra(module: str, path: str, what: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{path} is {what}: pip install "pymilter-cffi[{extra}]"') from error


# -- reading whole ---------------------------------------------------------------------------------

# Held while a file is open here: LMDB forbids two handles of one file, and the locks on it, which
# belong to the process, go when any of its descriptors is closed.
_lock = threading.Lock()
_contents: dict[tuple[str, str], tuple[tuple[int, ...], dict[bytes, bytes]]] = {}


def _after_fork() -> None:
    """A child must not wait for a thread that it does not have."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _state(file: BinaryIO) -> tuple[int, ...]:
    """Return what differs between two states of a file, or between it and another of its name."""
    at = os.fstat(file.fileno())
    return (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)


def _remembered(path: str, file: BinaryIO, kind: str) -> dict[bytes, bytes]:
    """Return what the file holds, without reading it again if it is the same as before.

    Called with the lock held.
    """
    key = (os.path.abspath(path), kind)
    state = _state(file)
    known = _contents.pop(key, None)
    if known is not None and known[0] == state:
        items = known[1]
    elif kind == "lmdb":
        items = _read_lmdb(path, file)
    else:
        items = dict(_read_text(path, file, fold=kind == "folded"))
    # A file that was changed just now may change again without its times telling, since the
    # kernel's clock for them is coarse.
    if state == _state(file) and time.time() - max(state[3:]) / 1e9 > _SETTLED:
        while len(_contents) >= _REMEMBERED:
            del _contents[next(iter(_contents))]
        _contents[key] = (state, items)  # as the last one: those used least go first
    return items


def _read_lmdb(path: str, file: BinaryIO) -> dict[bytes, bytes]:
    """Return everything in an LMDB file.

    Postfix opens its files without LMDB's own locks and locks the file itself, the way that is
    done here: a reader waits while postmap writes.
    """
    lmdb = _extra("lmdb", path, "an LMDB file", "lmdb")
    with _locked(file):
        try:
            environment = lmdb.open(path, subdir=False, readonly=True, lock=False, create=False)
            with contextlib.closing(environment), environment.begin() as transaction:
                return {bytes(key): bytes(value) for key, value in transaction.cursor()}
        except lmdb.Error as error:
            raise PolicyMapError(f"{path}: {error}") from error


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    try:
        fcntl.lockf(file, fcntl.LOCK_SH)
    except OSError as error:
        # A file system without locks: nobody else can have locked the file either.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
        yield
        return
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def _read_text(path: str, file: BinaryIO, fold: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of an access map as text, as makemap reads it.

    A line is a key, blanks or tabs, and a value, which may hold blanks. Lines that begin with `#`
    and lines of blanks do not count. Of a key that comes twice the first is taken. What makemap
    would complain about is left out, as it is there, with a warning that names the line.
    """
    seen = set()
    file.seek(0)
    for number, line in enumerate(file, 1):
        # makemap takes a carriage return for a part of the value, which it never is.
        text = line.rstrip(b"\r\n")
        if text.startswith(b"#") or not text.strip():
            continue
        complaint = None
        key, value = text, b""
        if text[:1].isspace():
            complaint = "begins with a blank"
        else:
            words = text.split(None, 1)
            key = words[0].lower() if fold else words[0]
            value = words[1] if len(words) > 1 else b""
            if b"\0" in text:
                complaint = "holds a NUL"
            elif not value:
                complaint = f"no value for {_shown(key)}"
            elif key in seen:
                complaint = f"{_shown(key)} a second time"
        if complaint:
            log.warning("%s, line %d: %s; left out", path, number, complaint)
            continue
        seen.add(key)
        yield key, value


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))
