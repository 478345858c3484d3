"""The files in which pymilter's greylist kept its records, and how they become a database of ours.

Owns `Record`, what such a file looks like, reading it, and putting the new file in its place.

A shelve file maps ``ip:sender:recipient`` to a pickle (API spec 3.6), and who can write a pickle
can run programs in the process that reads it. So they are read with everything forbidden but the
one class that they are of.

Some processes may start at once, and any may be killed at any point. So they take turns (a lock on
the directory, which goes with its holder), and the new file appears complete, under the old one's
name, in one step; the old one has another name before it loses its own.
"""

from __future__ import annotations

import contextlib
import dbm
import fcntl
import importlib
import io
import logging
import os
import pickle
import pickletools
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from Milter._greydecision import Entry, StoreError, as_entry
from Milter._greystore import Key

log = logging.getLogger("milter.greylist")

KEPT = ".shelve"
"""What the old file's name gets appended."""

_SQLITE = b"SQLite format 3\0"
# The first four bytes, in either order: the formats of 32 and 64 bits, and the one of 1.21.
_GDBM = {0x13579ACD, 0x13579ACE, 0x13579ACF, 0x13579AD0, 0x13579AD1}
# The four bytes at 12, in either order: hash and btree.
_BERKELEY = {0x00061561, 0x00053162}


class Record:
    """What pymilter keeps of a triple (API spec 3.6).

    Args:
        timeinc: seconds to add to the clock.
    """

    __slots__ = ("cnt", "firstseen", "lastseen", "umis")

    def __init__(self, timeinc: float = 0) -> None:
        """Takes the present time as both times."""
        self.firstseen = time.time() + timeinc
        self.lastseen = self.firstseen
        self.cnt = 0
        self.umis: str | None = None

    def __str__(self) -> str:
        """Return the two times, in words, and the other two."""
        first, last = time.ctime(self.firstseen), time.ctime(self.lastseen)
        return f"Grey[{first}:{last}:{self.umis}:{self.cnt}]"


Record.__module__ = "Milter.greylist"  # where it is public, and by which name it is pickled


# What the pickle of a record is made of, by protocol 2 and either Python. All others are left out
# that call something, or that take room for a number that stands in the file.
# fmt: off
_OPCODES = frozenset([
    "PROTO", "GLOBAL", "EMPTY_TUPLE", "NEWOBJ", "BUILD", "STOP", "BINPUT", "BINGET",
    "MARK", "TUPLE2", "EMPTY_DICT", "SETITEM", "SETITEMS", "NONE",
    "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "BINFLOAT",
    "INT", "BININT", "BININT1", "BININT2", "LONG1",
])
# fmt: on


class _Unpickler(pickle.Unpickler):
    """Makes records and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("Milter.greylist", "Record"):
            return Record
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a greylist")


def _record(value: bytes) -> Entry | None:
    """Return what a pickle holds; None if it is anything but a sound record."""
    try:
        if not all(opcode.name in _OPCODES for opcode, _, _ in pickletools.genops(value)):
            return None
        record = _Unpickler(io.BytesIO(value), encoding="latin-1").load()
        if type(record) is Record:
            return as_entry(record.firstseen, record.lastseen, record.cnt, record.umis)
    except Exception:  # a pickle can raise whatever it likes; MemoryError, too
        pass
    return None


class Old(NamedTuple):
    """What was found where a greylist is to be."""

    kind: str  # the module that reads it
    name: str  # what that one is to open
    suffixes: tuple[str, ...]  # of the files' names, beyond the greylist's


def find(path: str) -> Old | None:
    """Return the old file at *path*, or that goes by it in the way of its kind; else None."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return _find_beside(path)
    except OSError:
        return None  # that it cannot be opened SQLite will say
    if head == _SQLITE:
        return Old("dbm.sqlite3", path, ("",)) if _is_dict(path) else None
    if _numbers(head[:4]) & _GDBM:
        return Old("dbm.gnu", path, ("",))
    if _numbers(head[12:16]) & _BERKELEY:
        return Old("berkeleydb", path, ("",))
    return None


def _find_beside(path: str) -> Old | None:
    def there(*suffixes: str) -> bool:
        return all(os.path.isfile(path + suffix) for suffix in suffixes)

    if there(".pag", ".dir"):
        return Old("dbm.ndbm", path, (".pag", ".dir"))
    if there(".dat", ".dir"):
        return Old("dbm.dumb", path, (".dat", ".dir", ".bak"))
    if there(".db"):
        # Some systems' ndbm is Berkeley DB in disguise.
        found = find(path + ".db")
        if found and found.kind == "berkeleydb":
            return Old(found.kind, found.name, (".db",))
    return None


def _numbers(four: bytes) -> set[int]:
    """Return the number in both orders."""
    return {struct.unpack(order, four)[0] for order in ("<I", ">I")} if len(four) == 4 else set()


def _is_dict(path: str) -> bool:
    """Tell the shelve files of Python 3.13 from our own databases."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as conn:
        try:
            names = {row[0] for row in conn.execute("SELECT name FROM sqlite_master")}
        except sqlite3.Error:
            return False  # let it be opened, which says what the matter is
    return "Dict" in names and "greylist" not in names


# -- reading ---------------------------------------------------------------------------------------


def _items(old: Old) -> Iterator[tuple[bytes, bytes]]:
    return {"berkeleydb": _berkeley, "dbm.sqlite3": _sqlite}.get(old.kind, _dbm)(old)


def _dbm(old: Old) -> Iterator[tuple[bytes, bytes]]:
    try:
        module = importlib.import_module(old.kind)
    except ImportError as error:
        raise ImportError(
            f"{old.name} is a file of {old.kind}, which this Python was built without"
            " (Debian: python3-gdbm)"
        ) from error
    with module.open(old.name, "r") as db:
        for key in db.keys():  # noqa: SIM118 - not all of them can be gone through otherwise
            yield key, db[key]


def _sqlite(old: Old) -> Iterator[tuple[bytes, bytes]]:
    import sqlite3

    with contextlib.closing(sqlite3.connect(old.name)) as conn:
        # The adapter takes whatever bytes there are.
        conn.text_factory = bytes
        yield from conn.execute("SELECT key, value FROM Dict")


def _berkeley(old: Old) -> Iterator[tuple[bytes, bytes]]:
    try:
        module = importlib.import_module("berkeleydb.db")
    except ImportError as error:
        if old.suffixes == (".db",):  # then ndbm can read it, if it is there
            try:
                importlib.import_module("dbm.ndbm")
            except ImportError:
                pass
            else:
                yield from _dbm(Old("dbm.ndbm", old.name[: -len(".db")], old.suffixes))
                return
        raise ImportError(
            f'{old.name} is a Berkeley DB file: pip install "pymilter-cffi[berkeleydb]"'
        ) from error
    with contextlib.closing(module.DB()) as db:
        db.open(old.name, None, module.DB_UNKNOWN, module.DB_RDONLY)
        with contextlib.closing(db.cursor()) as cursor:
            item = cursor.first()
            while item is not None:
                yield item
                item = cursor.next()


class _Counted:
    """Goes through an old file's records, and counts."""

    def __init__(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.items = items
        self.good = 0
        self.damaged = 0

    def __iter__(self) -> Iterator[tuple[Key, Entry]]:
        for name, value in self.items:
            entry = _record(bytes(value))
            # From the right, since the client's address may hold colons.
            key = bytes(name).decode("utf-8", "surrogateescape").rsplit(":", 2)
            if entry is None or len(key) != 3:
                self.damaged += 1
            else:
                self.good += 1
                yield (key[0], key[1], key[2]), entry


def _failures() -> tuple[type[BaseException], ...]:
    """Return what reading may raise besides OSError."""
    import sqlite3

    kinds: list[type[BaseException]] = [*dbm.error, sqlite3.Error]
    with contextlib.suppress(ImportError):
        kinds.append(importlib.import_module("berkeleydb.db").DBError)
    # dbm.dumb evaluates its index as Python literals.
    return (*kinds, ValueError, SyntaxError)


# -- replacing -------------------------------------------------------------------------------------


def migrate(path: str) -> None:
    """Put a database in the place of an old file, if there is one.

    Args:
        path: where the greylist is to be.

    Raises:
        StoreError: the old file cannot be read, or holds no greylist; it is left as it is.
        ImportError: what reads it is not there.
    """
    if path in ("", ":memory:") or find(path) is None:
        return
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        old = find(path)  # another process may have been quicker
        if old is not None:
            _migrate(path, old)
            os.fsync(directory)
    except _failures() as error:
        raise StoreError(f"{path}: the old greylist cannot be read: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: the old greylist cannot be replaced: {error}") from error
    finally:
        os.close(directory)


def _migrate(path: str, old: Old) -> None:
    from Milter._greysqlite import build

    new = path + ".migrating"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of one who was killed
    rows = _Counted(_items(old))
    build(new, rows)
    if rows.damaged and not rows.good:
        os.unlink(new)
        raise StoreError(f"{path}: there are files of {old.kind}, but no greylist is in them")
    was = os.stat(path + old.suffixes[0])
    os.chmod(new, was.st_mode & 0o777)
    with contextlib.suppress(PermissionError):
        os.chown(new, was.st_uid, was.st_gid)
    kept = _free(path)
    if old.suffixes == ("",):
        _second_name(path, kept)
        os.replace(new, path)
    else:
        os.replace(new, path)
        for suffix in old.suffixes:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + suffix, kept + suffix)
    log.info(
        "%s: took over %d records of an old greylist, left out %d damaged ones; it is now %s",
        path, rows.good, rows.damaged, kept + old.suffixes[0],
    )  # fmt: skip


def _free(path: str) -> str:
    """Return a name for the old file that no other file has, unless it is the same one already."""
    name, number = path + KEPT, 0
    folder = os.path.dirname(path) or "."
    while any(each.startswith(os.path.basename(name)) for each in os.listdir(folder)):
        if os.path.exists(name) and os.path.exists(path) and os.path.samefile(name, path):
            break
        number += 1
        name = f"{path}{KEPT}.{number}"
    return name


def _second_name(path: str, kept: str) -> None:
    try:
        os.link(path, kept)
    except FileExistsError:
        pass  # the same one: who did this was killed before the next step
    except OSError:
        os.rename(path, kept)  # some file systems have no links
