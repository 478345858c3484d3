"""`Milter.config.MilterConfigParser` (API spec 3.2)."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest

from Milter.config import MilterConfigParser

INI = """
[sect]
addrs = foo@Example.COM, bar@example.com, baz@other.org
cats = spam, ham, none
spam = a@b, c@d
ham = e@f,a@b
list = a, b ,c,,
empty =
number = 12
fraction = 1.5
yes = On
text = words here
interpolated = %(number)s!
bad = nobody
worse = a@b@c
fromfile = file:Users, me@here
filed = file:Lists
catfile = filed
"""


@pytest.fixture
def config(tmp_path: Path) -> MilterConfigParser:
    """Read INI, with defaults of several types; the files that it names are in tmp_path."""
    (tmp_path / "users").write_text("ann bob\n\tCarl\n", encoding="utf-8")
    (tmp_path / "Lists").write_text("x@y Z@w\n", encoding="utf-8")
    parser = MilterConfigParser({"zz": "dflt", "seven": 7, "flag": True, "number": "99"})
    parser.read_string(INI)
    return parser


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (("sect", "text"), "words here"),
        (("sect", "TEXT"), "words here"),
        (("sect", "interpolated"), "12!"),
        (("sect", "empty"), ""),
        (("sect", "number"), "12"),  # before the default of that name
        (("sect", "zz"), "dflt"),
        (("nosuch", "zz"), "dflt"),
        (("nosuch", "seven"), 7),
        (("sect", "zz", "fallback"), "fallback"),  # before the default, if it is true
        (("sect", "zz", ""), "dflt"),
        (("sect", "nosuch", "fallback"), "fallback"),
        (("sect", "nosuch"), None),
        (("nosuch", "nosuch"), None),
    ],
)
def test_get(config: MilterConfigParser, args: tuple[Any, ...], value: object) -> None:
    """An option, or the fallback, or the default, or None; never an exception."""
    assert value == config.get(*args)


def test_get_passes_its_keywords_on(config: MilterConfigParser) -> None:
    """`raw` and `vars` are those of ConfigParser."""
    assert "%(number)s!" == config.get("sect", "interpolated", raw=True)
    assert "5!" == config.get("sect", "interpolated", vars={"number": "5"})
    assert "v" == config.get("sect", "nosuch", vars={"NoSuch": "v"})
    assert config.get("nosuch", "nosuch", vars={"nosuch": "v"}) is None
    assert 7 == config.get("nosuch", "seven", vars={"seven": "v"})


def test_defaults(config: MilterConfigParser) -> None:
    """They are an attribute, and no part of the sections."""
    assert {"zz": "dflt", "seven": 7, "flag": True, "number": "99"} == config.defaults
    assert not config.has_option("sect", "zz")
    assert "zz" not in config["sect"]
    with pytest.raises(KeyError):
        config["sect"]["zz"]
    with pytest.raises(TypeError):
        config.defaults()
    assert {} == MilterConfigParser().defaults


def test_defaults_are_not_shared() -> None:
    """Each parser that got none has its own."""
    MilterConfigParser().defaults["x"] = 1
    assert {} == MilterConfigParser().defaults


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("list", ["a", "b", "c", "", ""]),
        ("empty", [""]),
        ("spam", ["a@b", "c@d"]),
        ("nosuch", []),
        ("zz", []),
    ],
)
def test_getlist(config: MilterConfigParser, option: str, words: list[str]) -> None:
    """Split at commas, stripped; the defaults are not asked."""
    assert words == config.getlist("sect", option)


def test_getlist_without_the_section(config: MilterConfigParser) -> None:
    """No section, no words."""
    assert [] == config.getlist("nosuch", "list")


def test_getaddrset(config: MilterConfigParser, tmp_path: Path) -> None:
    """Users by domain; a file's name is its domain, in lower case both of them."""
    assert {"example.com": ["foo", "bar"], "other.org": ["baz"]} == config.getaddrset(
        "sect", "addrs"
    )
    assert {"users": ["ann", "bob", "Carl"], "here": ["me"]} == config.getaddrset(
        "sect", "fromfile", str(tmp_path)
    )
    assert {} == config.getaddrset("sect", "nosuch")
    assert {} == config.getaddrset("nosuch", "addrs")


@pytest.mark.parametrize("option", ["bad", "worse", "empty"])
def test_getaddrset_of_no_address(config: MilterConfigParser, option: str) -> None:
    """A word without exactly one @ is a ValueError that names the option."""
    with pytest.raises(ValueError, match=option):
        config.getaddrset("sect", option)


def test_getaddrdict(config: MilterConfigParser, tmp_path: Path) -> None:
    """The list of each address; the last one counts; a file keeps its name's case."""
    assert {"a@b": "ham", "c@d": "spam", "e@f": "ham"} == config.getaddrdict("sect", "cats")
    assert {"x@y": "filed", "Z@w": "filed"} == config.getaddrdict("sect", "catfile", str(tmp_path))
    assert {} == config.getaddrdict("sect", "nosuch")
    assert {} == config.getaddrdict("sect", "empty")


def test_files_in_another_charset(config: MilterConfigParser, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 come as lone surrogates, as they do from the mail server."""
    (tmp_path / "users").write_bytes(b"j\xf8rn ann\n")
    (tmp_path / "Lists").write_bytes(b"j\xf8rn@y\n")
    fromfile = config.getaddrset("sect", "fromfile", str(tmp_path))
    assert ["j\udcf8rn", "ann"] == fromfile["users"]
    assert {"j\udcf8rn@y": "filed"} == config.getaddrdict("sect", "catfile", str(tmp_path))


def test_getdefault(config: MilterConfigParser) -> None:
    """The option, also an empty one, else what is given; the defaults are not asked."""
    assert "words here" == config.getdefault("sect", "text")
    assert "" == config.getdefault("sect", "empty", "x")
    assert "x" == config.getdefault("sect", "nosuch", "x")
    assert config.getdefault("sect", "zz") is None
    assert "x" == config.getdefault("nosuch", "text", "x")


def test_getintdefault(config: MilterConfigParser) -> None:
    """The same as a number."""
    assert 12 == config.getintdefault("sect", "number")
    assert 5 == config.getintdefault("sect", "nosuch", 5)
    assert config.getintdefault("sect", "seven") is None
    with pytest.raises(ValueError, match="words"):
        config.getintdefault("sect", "text")


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("getint", "number", 12),
        ("getint", "seven", 7),
        ("getfloat", "fraction", 1.5),
        ("getfloat", "seven", 7.0),
        ("getboolean", "yes", True),
        ("getboolean", "flag", True),  # pymilter: AttributeError for a default that is a bool
    ],
)
def test_typed(config: MilterConfigParser, method: str, option: str, value: object) -> None:
    """Options and defaults as numbers and truth values."""
    assert value == getattr(config, method)("sect", option)
    assert value == getattr(config, method)("sect", option, fallback="other")


@pytest.mark.parametrize("method", ["getint", "getfloat", "getboolean"])
def test_typed_and_absent(config: MilterConfigParser, method: str) -> None:
    """The fallback counts, None and 0 as well; without one NoOptionError (pymilter: TypeError)."""
    for fallback in (3, 0, None, False):
        assert fallback is getattr(config, method)("sect", "nosuch", fallback=fallback)
    with pytest.raises(configparser.NoOptionError):
        getattr(config, method)("sect", "nosuch")
    with pytest.raises(configparser.NoOptionError):
        getattr(config, method)("nosuch", "nosuch")
    with pytest.raises(ValueError, match="words here"):
        getattr(config, method)("sect", "text")


def test_typed_by_section(config: MilterConfigParser) -> None:
    """A section's own getters go the same way."""
    assert 12 == config["sect"].getint("number", 3)
    assert 3 == config["sect"].getint("nosuch", 3)
    assert config["sect"].get("nosuch") is None
