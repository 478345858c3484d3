"""What `Milter.policy` promises (API spec 3.9), with maps from each program that makes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.accessmaps import BUILT, build, conf
from Milter.policy import DB, MTAPolicy, dbmopen

#: One map for all tests of this file, a prefix for each test, since some makers are slow.
MAP = (
    """\
smtp-auth:good@example.com	GOOD
smtp-auth:example.com	REJECT
smtp-test:.baz.com	WILD
smtp-test:	DEF
bare	BARE
not:b.c	1
not:.a.b.c	2
not:u	3
not:u@	4
u@a.b.c	5
sep!u@d	BANG
sep:u@d	COLON
CASE:U@D	A Value
at:d	D
utf8:jürg@d	größer
""".encode()
    + b"latin:\xe9@d caf\xe9\n"
)
ORDER = ["u@a.b.c", "a.b.c", ".b.c", ".c", ""]
for first in range(len(ORDER)):
    MAP += b"".join(b"order%d:%s\t%s.\n" % (first, n.encode(), n.encode()) for n in ORDER[first:])
    MAP += b"order%d\tprefix alone\n" % first
MAP += b"order%d\tprefix alone\n" % len(ORDER)


@pytest.fixture(params=sorted(BUILT))
def way(request: pytest.FixtureRequest) -> str:
    """The name of a way to make a map."""
    return str(request.param)


def policy_of(config: Any, sender: str, prefix: str) -> str | None:
    """Open the map, ask once, close it."""
    with MTAPolicy(sender, config) as policy:
        return policy.getPolicy(prefix)


def test_table(way: str, tmp_path: Path) -> None:
    """Each row of the specification's table holds in each format."""
    config = build(way, tmp_path, MAP)
    rows: dict[tuple[str, str], str | None] = {
        ("good@example.com", "smtp-auth"): "GOOD",
        ("bad@Example.COM", "smtp-auth"): "REJECT",
        ("bad@sub.example.com", "smtp-auth"): None,
        ("x@foo.bar.baz.com", "smtp-test"): "WILD",
        ("x@baz.com", "smtp-test"): "DEF",
        ("x@other", "bare"): "BARE",
        ("x@other", "nope"): None,
        ("", "smtp-test"): "DEF",
    }
    assert rows == {row: policy_of(config, *row) for row in rows}


def test_order(way: str, tmp_path: Path) -> None:
    """The address wins over the domain, it over its parents, nearest first, they over the rest."""
    config = build(way, tmp_path, MAP)
    assert [f"{name}." for name in ORDER] + ["prefix alone"] == [
        policy_of(config, "u@a.b.c", f"order{number}") for number in range(len(ORDER) + 1)
    ]


def test_not_looked_up(way: str, tmp_path: Path) -> None:
    """A parent domain without its dot, the domain with one, the local part: none of them counts."""
    assert None is policy_of(build(way, tmp_path, MAP), "u@a.b.c", "not")


def test_exclamation_mark(way: str, tmp_path: Path) -> None:
    """With `access_file_colon` false the separator is an exclamation mark, and only that."""
    config = build(way, tmp_path, MAP, colon=False)
    assert "BANG" == policy_of(config, "u@d", "sep")
    config.access_file_colon = True
    assert "COLON" == policy_of(config, "u@d", "sep")
    del config.access_file_colon
    assert "COLON" == policy_of(config, "u@d", "sep")


def test_case(way: str, tmp_path: Path) -> None:
    """Keys in the map are in lower case; the case of sender and prefix is kept and must fit."""
    config = build(way, tmp_path, MAP)
    assert "A Value" == policy_of(config, "u@d", "case")
    assert None is policy_of(config, "U@d", "case")
    assert None is policy_of(config, "u@d", "CASE")


def test_last_at_sign(way: str, tmp_path: Path) -> None:
    """The domain is what stands after the last at sign, or all of it if there is none."""
    config = build(way, tmp_path, MAP)
    assert ["D", "D", "D"] == [policy_of(config, sender, "at") for sender in ("a@b@D", "d", "@d")]


def test_text_beyond_ascii(way: str, tmp_path: Path) -> None:
    """Addresses and values are UTF-8 in the map."""
    assert "größer" == policy_of(build(way, tmp_path, MAP), "jürg@d", "utf8")


def test_not_utf8(way: str, tmp_path: Path) -> None:
    """What is not UTF-8 comes and goes with surrogates; pymilter raises UnicodeError for either."""
    assert "caf\udce9" == policy_of(build(way, tmp_path, MAP), "\udce9@d", "latin")


@pytest.mark.parametrize("way", ["makemap-hash", "postmap-hash"])
def test_nulls_have_to_be_said(way: str, tmp_path: Path) -> None:
    """Keys of a Berkeley DB are looked up as `access_file_nulls` says, and in no other way."""
    config = build(way, tmp_path, MAP)
    assert "BARE" == policy_of(config, "", "bare")
    config.access_file_nulls = not config.access_file_nulls
    assert None is policy_of(config, "", "bare")


@pytest.mark.parametrize("way", ["text", "postmap-lmdb", "postmap-cdb", "tinycdb"])
def test_nulls_do_not_matter(way: str, tmp_path: Path) -> None:
    """In the formats that pymilter does not read, entries are found whatever is said of NUL."""
    config = build(way, tmp_path, MAP)
    for config.access_file_nulls in (False, True):
        assert "BARE" == policy_of(config, "", "bare")


def test_values(tmp_path: Path) -> None:
    """Trailing NULs go, an empty value is none; blanks stay."""
    db = pytest.importorskip("berkeleydb", reason="no package berkeleydb").db
    file = db.DB()
    file.open(str(tmp_path / "a.db"), None, db.DB_HASH, db.DB_CREATE)
    for key, value in {b"n:d": b"NN\0\0", b"e:u@d": b"", b"e:d": b"E", b"b:d": b" b "}.items():
        file[key] = value
    file.close()
    config = conf(tmp_path / "a.db")
    assert ["NN", "E", " b "] == [policy_of(config, "u@d", prefix) for prefix in "neb"]


# -- the object ------------------------------------------------------------------------------------


def test_attributes(tmp_path: Path) -> None:
    """The documented attributes say what was given."""
    (tmp_path / "map").write_text("p V\n")
    policy = MTAPolicy("A@Ex.COM", conf(tmp_path / "map", nulls=True, colon=False))
    assert ("A@Ex.COM", "ex.com") == (policy.sender, policy.domain)
    assert (True, False) == (policy.use_nulls, policy.use_colon)
    assert str(tmp_path / "map") == policy.access_file
    assert None is policy.acf
    with policy as entered:
        assert entered is policy
        assert isinstance(policy.acf, DB)


def test_argument_before_configuration(tmp_path: Path) -> None:
    """The map given as an argument is taken, unless it is falsy; then the configuration's."""
    (tmp_path / "one").write_text("p ONE\n")
    (tmp_path / "two").write_text("p TWO\n")
    config = conf(tmp_path / "one")
    for argument, expected in ((str(tmp_path / "two"), "TWO"), (None, "ONE"), ("", "ONE")):
        with MTAPolicy("x", config, argument) as policy:
            assert expected == policy.getPolicy("p")
    with MTAPolicy(
        "x", conf=SimpleNamespace(access_file_nulls=0), access_file=tmp_path / "two"
    ) as p:
        assert "TWO" == p.getPolicy("p")


@pytest.mark.parametrize("file", ["", None])
def test_no_map(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file there is no map, and no policy; nothing is said about it."""
    assert None is policy_of(conf(file), "u@d", "p")
    assert ("", "") == capsys.readouterr()


def test_not_entered(tmp_path: Path) -> None:
    """A policy that was not entered has no map; closing it is no error."""
    (tmp_path / "map").write_text("p V\n")
    policy = MTAPolicy("u@d", conf(tmp_path / "map"))
    assert None is policy.getPolicy("p")
    policy.close()


@pytest.mark.parametrize("missing", ["access_file", "access_file_nulls"])
def test_configuration_lacks(missing: str) -> None:
    """Without these attributes the configuration is none."""
    config = conf("x")
    delattr(config, missing)
    with pytest.raises(AttributeError, match=f"no attribute '{missing}'$"):
        MTAPolicy("u@d", config)


def test_bytes_sender() -> None:
    """A sender in bytes is a TypeError."""
    sender: Any = b"u@d"
    with pytest.raises(TypeError):
        MTAPolicy(sender, conf(None))


def test_bytes_prefix(tmp_path: Path) -> None:
    """A prefix in bytes is an error, too, and not silently something that is never found."""
    (tmp_path / "map").write_text("p V\n")
    prefix: Any = b"p"
    with MTAPolicy("u@d", conf(tmp_path / "map")) as policy, pytest.raises(TypeError):
        policy.getPolicy(prefix)


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A map that cannot be opened is said on stdout, and the error raised."""
    path = tmp_path / "no.db"
    with pytest.raises(FileNotFoundError, match=str(path)), MTAPolicy("x", conf(path)):
        pass
    assert (f"{path}: Cannot open for reading\n", "") == capsys.readouterr()


def test_closed(way: str, tmp_path: Path) -> None:
    """Closing twice is no error, asking afterwards is one; entering again opens the map again."""
    policy = MTAPolicy("x", build(way, tmp_path, MAP))
    for _ in range(2):
        with policy:
            assert "BARE" == policy.getPolicy("bare")
        policy.close()
        with pytest.raises(ValueError, match="no map is open"):
            policy.getPolicy("bare")


def test_exception_passes(tmp_path: Path) -> None:
    """An exception inside the `with` statement leaves it."""
    (tmp_path / "map").write_text("p V\n")
    with pytest.raises(ZeroDivisionError), MTAPolicy("x", conf(tmp_path / "map")):
        1 / 0  # noqa: B018


# -- dbmopen ---------------------------------------------------------------------------------------


def test_dbmopen(way: str, tmp_path: Path) -> None:
    """`dbmopen` gives bytes for bytes, and KeyError for what is not there."""
    config = build(way, tmp_path, MAP)
    end = b"\0" if config.access_file_nulls else b""
    opened = dbmopen(config.access_file, "r")
    try:
        assert isinstance(opened, DB)
        assert b"BARE" == opened[b"bare" + end].rstrip(b"\0")
        with pytest.raises(KeyError):
            opened[b"q" + end]
    finally:
        opened.close()
        opened.close()


@pytest.mark.parametrize("mode", ["w", "c", "n", "rw", ""])
def test_dbmopen_reads_only(mode: str, tmp_path: Path) -> None:
    """Any other mode than `r` is an error, and makes no file."""
    with pytest.raises(ValueError, match="for reading only"):
        dbmopen(str(tmp_path / "new"), mode)
    assert [] == list(tmp_path.iterdir())


def test_import_costs_nothing() -> None:
    """Importing the module imports no driver; under pymilter it fails without one."""
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, Milter.policy\n"
            "print(*sorted({'berkeleydb', 'bsddb3', 'lmdb', 'dbm'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert ("\n", "") == (shown.stdout, shown.stderr)
