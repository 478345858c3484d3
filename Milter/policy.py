"""What an access map says of a sender: pymilter's `policy` (API spec 3.9).

    with MTAPolicy(sender, conf, "/etc/mail/access.db") as policy:
        if policy.getPolicy("smtp-auth") == "REJECT":
            ...

pymilter reads files of Berkeley DB only, and needs its Python module to be imported at all. Here a
map may be any of these, and what it is shows in the file itself, whatever its name:

=============  ===================================================  ==============================
a map in       is made by                                           needs
=============  ===================================================  ==============================
text           hand: what makemap and postmap read                  nothing
Berkeley DB    ``makemap hash``, ``postmap hash:`` (and ``btree``)  ``pymilter-cffi[berkeleydb]``
LMDB           ``postmap lmdb:``                                    ``pymilter-cffi[lmdb]``
CDB            ``postmap cdb:``, ``cdb -c``                         nothing
=============  ===================================================  ==============================

Where there is no file of the name given, the name with ``.db``, ``.lmdb`` and ``.cdb`` is tried in
this order. A file with one of these suffixes that is no database (an empty one, say) is an error,
not a text without entries.

In text a line is a key, blanks or tabs, and a value; lines that begin with ``#`` do not count. Keys
are lower-cased, as makemap does, unless the configuration says ``access_file_fold = False``. The
text is compiled when it is first opened, and again when a policy finds that the file has changed.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from Milter._policymaps import Map, PolicyMapError, open_map

__all__ = ["DB", "MTAPolicy", "PolicyMapError", "dbmopen"]


class DB:
    """A map, as `dbmopen` returns it; pymilter's face of Berkeley DB (API spec 3.9)."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._map: Map | None = None

    def open(self, fname: str | os.PathLike[str], mode: str = "r", *, fold: bool = True) -> None:
        """Open a map.

        Args:
            fname: the file's name.
            mode: "r", since maps are made by other programs.
            fold: whether the keys of a map in text are lower-cased.

        Raises:
            ValueError: for another mode. A file of no known format, or a damaged one, is a
                `PolicyMapError`, which is one, too.
            OSError: there is no such file, or it cannot be read.
            ImportError: it needs an extra that is not installed; the text names it.
        """
        if mode != "r":
            raise ValueError(f"a map can be opened for reading only, not {mode!r}")
        self.close()
        self._map = open_map(fname, fold)

    def __getitem__(self, key: bytes) -> bytes:
        """Return the value of a key, with a NUL at its end if it was stored so.

        Raises:
            KeyError: there is none.
            ValueError: no map is open.
        """
        if self._map is None:
            raise ValueError("no map is open")
        return self._map[key]

    def close(self) -> None:
        """Close the map; again is no error."""
        if self._map is not None:
            self._map.close()
            self._map = None


def dbmopen(fname: str | os.PathLike[str], mode: str) -> DB:
    """Open a map (API spec 3.9); see `DB.open`."""
    db = DB()
    db.open(fname, mode)
    return db


class MTAPolicy:
    """What an access map says of one sender (API spec 3.9).

    Args:
        sender: an address, without angle brackets.
        conf: any object with these attributes: `access_file`, the map's file, where the argument
            does not say it; `access_file_nulls`, whether the keys of a Berkeley DB end in NUL
            (``makemap -N``, and all that postmap makes; for other formats it makes no
            difference); `access_file_colon`, whether ``:`` or ``!`` stands between prefix and
            address (``:`` if it is missing; under pymilter 1.0.5 always ``!``);
            `access_file_fold`, whether the keys of a map in text are lower-cased (true if it is
            missing).
        access_file: the map's file; falsy means the one that *conf* says, and if that is falsy,
            too, no map.

    Raises:
        AttributeError: *conf* lacks one of the first two (`access_file` only if it is needed).
        TypeError: *sender* is bytes.
    """

    def __init__(
        self, sender: str, conf: Any, access_file: str | os.PathLike[str] | None = None
    ) -> None:
        """Opens nothing yet."""
        self.domain = sender.rsplit("@", maxsplit=1)[-1].lower()
        self.sender = sender
        self.use_nulls = conf.access_file_nulls
        self.use_colon = getattr(conf, "access_file_colon", True)
        self.access_file = access_file or conf.access_file
        self.acf: DB | None = None
        self._fold = bool(getattr(conf, "access_file_fold", True))

    def __enter__(self) -> MTAPolicy:
        """Open the map, if there is one; for errors see `DB.open`, and one line is printed."""
        if self.access_file:
            acf = DB()
            try:
                acf.open(self.access_file, "r", fold=self._fold)
            except BaseException:
                print(f"{self.access_file}: Cannot open for reading")
                raise
            self.acf = acf
        return self

    def __exit__(
        self,
        t: type[BaseException] | None,
        v: BaseException | None,
        b: TracebackType | None,
    ) -> None:
        """Close the map; an exception passes."""
        self.close()

    def close(self) -> None:
        """Close the map; again is no error."""
        if self.acf:
            self.acf.close()

    def getPolicy(self, pfx: str) -> str | None:
        """Look up what applies to the sender.

        The first of these that is there, with ``:`` or ``!`` between the two (API spec 3.9): the
        prefix and the address as it was given; the prefix and the domain in lower case; and each
        parent domain with a dot before it; the prefix and nothing; the prefix alone. An entry whose
        value is empty is none.

        Args:
            pfx: such as ``smtp-auth``; its case counts.

        Returns:
            The value, or None if there is no entry or no map.

        Raises:
            ValueError: the map was closed.
        """
        acf = self.acf
        if acf is None:
            return None
        stem = pfx + (":" if self.use_colon else "!")
        names = [stem + self.sender, stem + self.domain]
        _, dot, parent = self.domain.partition(".")
        while dot:
            names.append(f"{stem}.{parent}")
            _, dot, parent = parent.partition(".")
        names += [stem, pfx]
        for name in names:
            key = name.encode("utf-8", "surrogateescape") + (b"\0" if self.use_nulls else b"")
            try:
                value = acf[key]
            except KeyError:
                continue
            if value:
                return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return None
