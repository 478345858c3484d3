"""`Milter.cache.AddrCache`: results for addresses, and their file (API spec 3.1)."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from Milter.cache import AddrCache
from Milter.plock import PLock

DAY = 86400


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are written in UTC, whatever the machine's zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "addresses"


def stamp(when: float) -> str:
    """Return a time as it stands in the file."""
    return time.strftime("%Y%b%d %H:%M:%S %Z", time.localtime(when))


def test_defaults() -> None:
    """A week, no file, nothing in it."""
    cache = AddrCache()
    assert (7, None, {}, 0) == (cache.age, cache.fname, cache.cache, len(cache))
    assert "%Y%b%d %H:%M:%S %Z" == AddrCache.time_format


def test_case_does_not_matter() -> None:
    """Keys are in lower case, whatever is asked."""
    cache = AddrCache()
    cache["Foo@Bar.com"] = "res"
    assert ["foo@bar.com"] == list(cache.cache)
    assert "FOO@bar.COM" in cache
    assert "res" == cache["foo@BAR.com"]


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("spammer.com", True),
        ("any@Spammer.com", True),
        ("@spammer.com", True),
        ("any@sub.spammer.com", False),
        ("spammer.com@elsewhere", False),
        ("other.com", False),
        ("", False),
        (None, False),
    ],
)
def test_domains(address: str, known: bool) -> None:
    """A domain stands for all its addresses, not for those of its subdomains."""
    cache = AddrCache()
    cache["spammer.com"] = "why"
    assert known is (address in cache)
    assert known is cache.has_key(address)
    assert (address == "spammer.com") is cache.has_precise_key(address)
    if known:
        assert "why" == cache[address]


def test_the_address_before_its_domain() -> None:
    """What is known of the address itself counts more."""
    cache = AddrCache()
    cache["x.com"] = "domain"
    cache["me@x.com"] = "address"
    assert "address" == cache["me@x.com"]
    assert "domain" == cache["you@x.com"]


def test_several_signs() -> None:
    """Of an address with several @ the result is found at last; whether it is known is not asked
    beyond the first.
    """
    cache = AddrCache()
    cache["spammer.com"] = "why"
    assert "a@b@spammer.com" not in cache
    assert "why" == cache["a@b@spammer.com"]
    cache["B@spammer.com"] = "more"
    assert "a@b@spammer.com" in cache
    assert "more" == cache["a@b@spammer.com"]


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("no@no", "no"),
        ("No@No.com", "no.com"),
        ("No.com", "no.com"),
        ("a@b@c", "c"),
        ("", ""),
    ],
)
def test_unknown(address: str, named: str) -> None:
    """A KeyError that names the domain where there is one, in lower case."""
    with pytest.raises(KeyError) as caught:
        AddrCache()[address]
    assert (named,) == caught.value.args


def test_expiry() -> None:
    """What is older than the age is unknown, and forgotten when that is found out."""
    cache = AddrCache(renew=2)
    now = time.time()
    cache.cache["old@x"] = (now - 2 * DAY - 1, "old")
    cache.cache["new@x"] = (now - 2 * DAY + 60, "new")
    cache.cache["ever@x"] = (None, "ever")
    assert 3 == len(cache)
    assert "old@x" not in cache
    assert 2 == len(cache)
    assert "new" == cache["new@x"]
    assert "ever" == cache["ever@x"]


def test_what_is_renewed_while_it_expires() -> None:
    """A result that comes just when the one before is found too old is not forgotten with it."""
    cache = AddrCache()
    renewing = threading.Thread(target=cache.__setitem__, args=("x@y", "new"))

    class Watched(dict):  # type: ignore[type-arg]
        def get(self, *args: object) -> object:
            entry = super().get(*args)
            if not renewing.ident:
                renewing.start()
                # Where nothing keeps it from it, it is done in that time.
                renewing.join(0.2)
            return entry

    cache.cache = Watched({"x@y": (time.time() - 8 * DAY, "old")})
    assert "x@y" not in cache
    renewing.join()
    assert "new" == cache["x@y"]


def test_an_old_address_gives_way_to_its_domain() -> None:
    """The domain's result counts again once the address's own is too old."""
    cache = AddrCache()
    cache["x.com"] = "domain"
    cache.cache["me@x.com"] = (time.time() - 8 * DAY, "address")
    assert "domain" == cache["me@x.com"]


def test_the_file(path: Path) -> None:
    """A result that is not true is written down with the time, in the case it was given."""
    cache = AddrCache(fname=str(path))
    before = int(time.time())
    cache["Bad@X.com"] = None
    cache["good@x.com"] = "ok"
    cache["empty@x.com"] = ""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert ["Bad@X.com", "empty@x.com"] == [line.split()[0] for line in lines]
    allowed = {stamp(second) for second in range(before, int(time.time()) + 1)}
    assert lines[0].partition(" ")[2] in allowed


def test_addperm(path: Path) -> None:
    """For ever: the address alone in the file; once; a result that it has stays."""
    cache = AddrCache(fname=str(path))
    cache.addperm("Ever@x.com")
    cache.addperm("ever@x.com")
    assert "Ever@x.com\n" == path.read_text(encoding="utf-8")
    assert (None, None) == cache.cache["ever@x.com"]
    cache["known@x.com"] = "result"
    cache.addperm("known@x.com", "other")
    assert (None, "result") == cache.cache["known@x.com"]
    cache.addperm("fresh@x.com", "true")
    assert (None, "true") == cache.cache["fresh@x.com"]
    assert "Ever@x.com\n" == path.read_text(encoding="utf-8")


def test_addperm_with_its_domain_known(path: Path) -> None:
    """An address whose domain alone is known is added like any other (pymilter: KeyError)."""
    cache = AddrCache(fname=str(path))
    cache.addperm("x.com")
    cache.addperm("me@x.com")
    assert "x.com\nme@x.com\n" == path.read_text(encoding="utf-8")
    assert cache.has_precise_key("me@x.com")


def test_addperm_without_a_file() -> None:
    """There is nowhere to write it: TypeError."""
    with pytest.raises(TypeError):
        AddrCache().addperm("x")


def test_load(path: Path) -> None:
    """Lines that are too old or unreadable go, and the old file stays beside the new one."""
    now = time.time()
    kept = f"new@x {stamp(now - DAY)}\nword\n  Lead@x\n"
    text = f"old@x {stamp(now - 8 * DAY)}\nbad@x not a date\n{kept}"
    path.write_text(text, encoding="utf-8")
    cache = AddrCache(renew=30)
    cache.load(str(path), 7)
    assert kept == path.read_text(encoding="utf-8")
    assert text == Path(f"{path}.old").read_text(encoding="utf-8")
    assert {"new@x", "word", "lead@x"} == set(cache.cache)
    assert (30, str(path)) == (cache.age, cache.fname)
    when, result = cache.cache["new@x"]
    assert when is not None
    assert int(now - DAY) == int(when)
    assert result is None
    when, result = cache.cache["word"]
    assert when is not None
    assert now <= when <= time.time()
    assert {path.name, f"{path.name}.old"} == set(os.listdir(path.parent))


def test_load_leaves_a_good_file_alone(path: Path) -> None:
    """Nothing to drop: not touched, no copy, no lock."""
    path.write_text(f"new@x {stamp(time.time())}\n", encoding="utf-8")
    inode = path.stat().st_ino
    AddrCache().load(str(path))
    assert inode == path.stat().st_ino
    assert [path.name] == os.listdir(path.parent)


def test_load_by_the_age_of_the_cache(path: Path) -> None:
    """Without an age of its own `load` goes by the cache's."""
    path.write_text(f"x@y {stamp(time.time() - 9 * DAY)}\n", encoding="utf-8")
    cache = AddrCache(renew=10)
    cache.load(str(path))
    assert 1 == len(cache)
    cache = AddrCache(renew=8)
    cache.load(str(path))
    assert 0 == len(cache)


def test_comments_and_empty_lines(path: Path) -> None:
    """They stay, and are no addresses (pymilter: the address '', and comments are dropped)."""
    text = "# why these are here\n\nx@y\n   \n"
    path.write_text(text, encoding="utf-8")
    cache = AddrCache()
    cache.load(str(path))
    assert ["x@y"] == list(cache.cache)
    assert text == path.read_text(encoding="utf-8")
    assert "" not in cache
    assert "@" not in cache


def test_load_of_no_file(path: Path) -> None:
    """An empty cache, and no file is made; what comes later goes there."""
    cache = AddrCache()
    cache.load(str(path))
    assert [] == os.listdir(path.parent)
    cache["x@y"] = None
    assert path.exists()


def test_load_while_locked(path: Path) -> None:
    """Somebody else is at the file: FileExistsError."""
    path.write_text("x@y\n", encoding="utf-8")
    lock = PLock(str(path))
    lock.lock()
    cache = AddrCache()
    with pytest.raises(FileExistsError):
        cache.load(str(path))
    assert 0 == len(cache)
    lock.unlock()


def test_bytes_that_are_no_text(path: Path) -> None:
    """They survive, as lone surrogates here and unchanged in the file."""
    path.write_bytes(b"caf\xe9@x\nold@x 2001Jan01 00:00:00 UTC\n")
    cache = AddrCache()
    cache.load(str(path))
    assert "caf\udce9@x" in cache
    cache.addperm("th\udce9@x")
    assert b"caf\xe9@x\nth\xe9@x\n" == path.read_bytes()


def test_a_line_feed_in_an_address(path: Path) -> None:
    """An address from outside makes one line, whatever is in it."""
    cache = AddrCache(fname=str(path))
    cache.addperm("x@y\nvictim@z")
    assert 1 == len(path.read_text(encoding="utf-8").splitlines())
    again = AddrCache()
    again.load(str(path))
    assert "victim@z" not in again


def write_many(name: str, who: int, count: int) -> None:
    """Add addresses of one's own, and load the file now and then, which writes it anew."""
    cache = AddrCache(fname=name)
    for number in range(count):
        cache.addperm(f"{who}-{number}@x")
        if number % 20 == 10:
            cache._append("old@x 2001Jan01 00:00:00 UTC")
            try:
                AddrCache().load(name)
            except FileExistsError:
                pass


@pytest.mark.parametrize("what", ["threads", "processes"])
def test_many_write(path: Path, what: str) -> None:
    """No line is lost, though others replace the file all the time."""
    if what == "threads":
        workers: list = [
            threading.Thread(target=write_many, args=(str(path), who, 100)) for who in range(4)
        ]
    else:
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=write_many, args=(str(path), who, 100)) for who in range(4)
        ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    found = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()}
    assert {f"{who}-{number}@x" for who in range(4) for number in range(100)} == found - {"old@x"}


def test_addresses_that_begin_like_a_comment(path: Path) -> None:
    """An address may begin with "#" (RFC 5322 section 3.2.3): what was written is read again."""
    written = AddrCache(fname=str(path))
    written["#a@x"] = None
    written.addperm("#b@x")
    with path.open("a") as file:
        file.write(f"# c@x\n#\n#d@x why\n#e@x {stamp(time.time() - 8 * DAY)}\n")
    cache = AddrCache()
    cache.load(str(path))
    assert {"#a@x", "#b@x"} == set(cache.cache)
    assert ["#a@x", "#b@x", "#", "#", "#d@x"] == [
        line.split()[0] for line in path.read_text().splitlines()
    ]
