"""The configuration file of a filter: an INI file whose absent options are no error.

API spec 3.2. Beside what `configparser.ConfigParser` has there are lists, sets of addresses, and
defaults that are asked last and do not show up in the sections.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import ConfigParser, NoOptionError, NoSectionError
from typing import Any, Callable, Optional, TypeVar, Union

__all__ = ["MilterConfigParser"]

T = TypeVar("T")

#: Stands for "no fallback given", since None may be one.
_UNSET: Any = object()


class MilterConfigParser(ConfigParser):
    """An INI file with interpolation, where an option may be absent.

    *defaults*: values of any type for options that are absent, whatever the section. They are in
    the attribute `defaults`, which hides `ConfigParser`'s method of that name.
    """

    def __init__(self, defaults: Optional[Mapping[str, Any]] = None) -> None:
        """Make a parser without any section."""
        ConfigParser.__init__(self)
        self.defaults: Any = {} if defaults is None else defaults

    # Everything below asks this, the typed getters and the sections' own, too.
    def get(  # type: ignore[override]
        self, sect: str, opt: str, fallback: Any = None, **kwargs: Any
    ) -> Any:
        """Return an option's value, which is `str`, or what stands in for it.

        For an option that is absent: *fallback* if that is true, else the one of the defaults, else
        *fallback*. So None means that there is none at all; nothing is raised for it. *raw* and
        *vars* as for `ConfigParser.get`.
        """
        try:
            return ConfigParser.get(self, sect, opt, **kwargs)
        except (NoOptionError, NoSectionError):
            pass
        if fallback:
            return fallback
        return self.defaults.get(opt, fallback)

    def _typed(
        self,
        convert: Callable[[Any], T],
        sect: str,
        opt: str,
        fallback: Any,
        kwargs: dict[str, Any],
    ) -> Union[T, Any]:
        value = self.get(sect, opt, **kwargs)
        if value is not None:
            return convert(value)
        if fallback is _UNSET:
            raise NoOptionError(opt, sect)
        return fallback

    def getint(  # type: ignore[override]
        self, sect: str, opt: str, *, fallback: Any = _UNSET, **kwargs: Any
    ) -> Any:
        """Return an option as an integer; *fallback* for an absent one without a default.

        Raises ValueError for what is no number, configparser.NoOptionError for an absent option if
        no *fallback* is given.
        """
        return self._typed(int, sect, opt, fallback, kwargs)

    def getfloat(  # type: ignore[override]
        self, sect: str, opt: str, *, fallback: Any = _UNSET, **kwargs: Any
    ) -> Any:
        """Return an option as a floating point number; otherwise like `getint`."""
        return self._typed(float, sect, opt, fallback, kwargs)

    def getboolean(  # type: ignore[override]
        self, sect: str, opt: str, *, fallback: Any = _UNSET, **kwargs: Any
    ) -> Any:
        """Return an option as a truth value: yes, no, on, off, 1, 0, ...; otherwise like
        `getint`."""

        def convert(value: Any) -> bool:
            # A default may be of any type.
            try:
                return self.BOOLEAN_STATES[str(value).lower()]
            except KeyError:
                raise ValueError(f"Not a boolean: {value}") from None

        return self._typed(convert, sect, opt, fallback, kwargs)

    def getlist(self, sect: str, opt: str) -> list[str]:
        """Return an option's words, separated by commas, without the blanks around them.

        Empty words stay. An absent option is an empty list; the defaults are not asked.
        """
        if not self.has_option(sect, opt):
            return []
        return [word.strip() for word in ConfigParser.get(self, sect, opt).split(",")]

    def getaddrset(self, sect: str, opt: str, dir: str = "") -> dict[str, list[str]]:
        """Return an option's addresses by domain: ``{"example.com": ["bob", "ann"]}``.

        Each of its words is ``user@domain``, or ``file:NAME``: then NAME in lower case is taken for
        a domain and for the name of a file in the directory *dir* with that domain's users,
        separated by white space. Domains are in lower case. An absent option is an empty
        dictionary. Raises ValueError for a word without exactly one ``@``, OSError for a file that
        cannot be read.
        """
        found: dict[str, list[str]] = {}
        for word in self.getlist(sect, opt):
            if word.startswith("file:"):
                domain = word[5:].lower()
                found[domain] = _words_of(os.path.join(dir, domain))
                continue
            try:
                user, domain = word.split("@")
            except ValueError:
                raise ValueError(f"[{sect}] {opt}: not an address: {word!r}") from None
            found.setdefault(domain.lower(), []).append(user)
        return found

    def getaddrdict(self, sect: str, opt: str, dir: str = "") -> dict[str, str]:
        """Return which list each address is on: ``{"bob@example.com": "friends"}``.

        The option names other options of its section, each a list of addresses or of ``file:NAME``,
        a file in the directory *dir* with addresses separated by white space. Where lists share an
        address the last one counts. Lists that are absent are skipped. Raises OSError for a file
        that cannot be read.
        """
        found: dict[str, str] = {}
        for name in self.getlist(sect, opt):
            for word in self.getlist(sect, name):
                if word.startswith("file:"):
                    found.update(dict.fromkeys(_words_of(os.path.join(dir, word[5:])), name))
                else:
                    found[word] = name
        return found

    def getdefault(self, sect: str, opt: str, default: Any = None) -> Any:
        """Return an option's value, *default* if it is absent; the defaults are not asked."""
        if self.has_option(sect, opt):
            return ConfigParser.get(self, sect, opt)
        return default

    def getintdefault(self, sect: str, opt: str, default: Any = None) -> Any:
        """Return an option as an integer, *default* if it is absent; the defaults are not asked.

        Raises ValueError for what is no number.
        """
        if self.has_option(sect, opt):
            return int(ConfigParser.get(self, sect, opt))
        return default


def _words_of(path: str) -> list[str]:
    """Return the words of a file, which is UTF-8; other bytes come as lone surrogates."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().split()
