"""`Milter.dns`: queries, their cache, CNAMEs (API spec 3.3), against NSD and a scripted server."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import Milter.dns
from harness.dns_server import NSD, Nsd, Scripted
from Milter.dns import MAX_CNAME, DNSError, DNSLookup, Session

resolver_module = pytest.importorskip("dns.resolver")

SOA = "@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
LONG = "x" * 250
PATIENCE = 30.0  # seconds until there is no answer


def chain(name: str, links: int) -> str:
    """Return records of a chain of CNAMEs, and the address at its end."""
    lines = [f"{name}{n} CNAME {name}{n + 1}" for n in range(links)]
    return "\n".join([*lines, f"{name}{links} A 192.0.2.77"]) + "\n"


ZONES = {
    "example.test": f"""$ORIGIN example.test.
$TTL 300
{SOA}
@ MX 20 mx2
@ MX 10 MX1
mx1 A 192.0.2.1
mx2 A 192.0.2.2
mx2 A 192.0.2.3
six AAAA 2001:db8::1
alias CNAME mx1
outside CNAME host.other.test.
text TXT "v=spf1 " "-all"
text TXT "second"
binary TXT "caf\\233"
1 PTR Host.example.test.
sip SRV 1 2 5060 mx1
nothing MX 0 .
self CNAME self
loop1 CNAME loop2
loop2 CNAME loop3
loop3 CNAME loop1
dangling CNAME nowhere
{chain("ten", 10)}{chain("eleven", 11)}
"""
    + "".join(f'big TXT "{n:02}{LONG}"\n' for n in range(12)),
    "other.test": f"$ORIGIN other.test.\n$TTL 300\n{SOA}host A 192.0.2.10\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsd]:
    """Run an NSD with ZONES."""
    if NSD is None:
        pytest.skip("no NSD: apt-get install nsd")
    nsd = Nsd(tmp_path_factory.mktemp("nsd"), ZONES)
    yield nsd
    nsd.close()


def resolver(port: int) -> Any:
    """Return a resolver that asks 127.0.0.1 at *port*, and not a second time for its slowness."""
    made = resolver_module.Resolver(configure=False)
    made.nameservers = ["127.0.0.1"]
    made.port = port
    made.timeout = PATIENCE
    return made


@pytest.fixture
def session(server: Nsd) -> Session:
    """Return a session that asks NSD."""
    return Session(timeout=PATIENCE, resolver=resolver(server.port))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("mx1.example.test", "A", ["192.0.2.1"]),
        ("MX1.Example.TEST.", "a", ["192.0.2.1"]),
        ("mx2.example.test", "A", ["192.0.2.2", "192.0.2.3"]),
        ("six.example.test", "AAAA", ["2001:db8::1"]),
        ("example.test", "MX", [(10, "mx1.example.test"), (20, "mx2.example.test")]),
        ("example.test", "NS", ["ns.example.test"]),
        ("nothing.example.test", "MX", [(0, "")]),
        ("text.example.test", "TXT", [[b"second"], [b"v=spf1 ", b"-all"]]),
        ("binary.example.test", "TXT", [[b"caf\xe9"]]),
        ("1.example.test", "PTR", ["host.example.test"]),
        ("sip.example.test", "SRV", [(1, 2, 5060, "mx1.example.test")]),
        ("alias.example.test", "CNAME", ["mx1.example.test"]),
        ("alias.example.test", "A", ["192.0.2.1"]),
        ("outside.example.test", "A", ["192.0.2.10"]),
        ("dangling.example.test", "A", []),
        ("nowhere.example.test", "A", []),
        ("mx1.example.test", "MX", []),
    ],
)
def test_answers(session: Session, name: str, kind: str, data: list[object]) -> None:
    """The data of each type, plain; nothing is an empty list; CNAMEs are followed."""
    found = session.dns(name, kind)
    assert data == sorted(
        (item.lower() if isinstance(item, str) else
         (item[0], *item[1:-1], item[-1].lower()) if isinstance(item, tuple) else item)
        for item in found
    )  # fmt: skip
    # and once more, from the cache
    assert sorted(found) == sorted(session.dns(name, kind))


def test_lookup(server: Nsd) -> None:
    """DNSLookup gives owner, type and data of each record, the CNAME among them."""
    answer = DNSLookup("alias.example.test", "A", 5, resolver(server.port))
    assert [
        (("alias.example.test", "CNAME"), "mx1.example.test"),
        (("mx1.example.test", "A"), "192.0.2.1"),
    ] == answer
    assert answer == DNSLookup("alias.example.test.", "A", 5, resolver(server.port))
    assert [] == DNSLookup("nowhere.example.test", "A", 5, resolver(server.port))


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", ".a", "a" * 64, f"x.{'b' * 64}.test", "a." * 127 + "test", "\u20ac" * 70,
     "a\u2024b" + "." * 3, None, 5],
)  # fmt: skip
def test_what_is_no_name(name: Any) -> None:
    """An empty or too long label, or no text: nothing, and nobody is asked."""
    assert [] == Session(resolver=object()).dns(name, "A")


@pytest.mark.parametrize(
    "name", ["a b.test", "a\0b.test", 'a"b\\.test', "*.test", "@.test", "\xe9.test"]
)
def test_odd_names(session: Session, name: str) -> None:
    """Odd characters are no error of ours: the server says what it likes."""
    try:
        assert [] == session.dns(name, "A")
    except DNSError:
        pass


@pytest.mark.parametrize("kind", ["", "NOSUCH", "A A", "TYPE99999999"])
def test_what_is_no_type(session: Session, kind: str) -> None:
    """An unknown type is a DNSError."""
    with pytest.raises(DNSError):
        session.dns("example.test", kind)


def test_txt(session: Session) -> None:
    """Pieces joined; no domain is nothing; what does not fit the encoding is a DNSError."""
    assert ["second", "v=spf1 -all"] == sorted(session.dns_txt("text.example.test"))
    assert ["caf\xe9"] == session.dns_txt("binary.example.test", "latin-1")
    assert [] == session.dns_txt("")
    assert [] == session.dns_txt(None)
    with pytest.raises(DNSError):
        session.dns_txt("binary.example.test")


@pytest.mark.parametrize("name", ["self", "loop1", "loop2"])
def test_loops(session: Session, name: str) -> None:
    """A loop of CNAMEs is a DNSError that says so."""
    with pytest.raises(DNSError, match=r"^CNAME loop$"):
        session.dns(f"{name}.example.test", "A")


def test_long_chains(session: Session) -> None:
    """Ten links are followed, eleven are not."""
    assert 10 == MAX_CNAME
    assert ["192.0.2.77"] == session.dns("ten0.example.test", "A")
    with pytest.raises(DNSError, match=r"^Length of CNAME chain exceeds 10$"):
        session.dns("eleven0.example.test", "A")


def test_truncated_answers(session: Session) -> None:
    """What does not fit into a datagram comes over TCP."""
    assert 12 == len(session.dns("big.example.test", "TXT"))


def test_refused(session: Session) -> None:
    """A server that knows nothing of the domain: DNSError."""
    with pytest.raises(DNSError):
        session.dns("example.org", "A")


# ---- the cache ----


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Put a stand-in in place of DNSLookup, as filters' tests do; return what it is asked."""
    asked = []
    records = {
        ("a.test", "A"): [(("a.test", "A"), "192.0.2.1")],
        ("al.test", "A"): [(("al.test", "CNAME"), "a.test"), (("a.test", "A"), "192.0.2.1")],
        ("al2.test", "A"): [(("al2.test", "CNAME"), "a.test")],
        ("p.test", "PTR"): [(("p.test", "PTR"), "h.test"), (("h.test", "A"), "192.0.2.66")],
        ("evil.test", "A"): [(("evil.test", "A"), "192.0.2.6"), (("bank.test", "A"), "192.0.2.6")],
    }

    def lookup(name: str, kind: str) -> list[Any]:
        asked.append((name, kind))
        if name == "broken.test":
            raise OSError("no")
        return list(records.get((name, kind), []))

    monkeypatch.setattr(Milter.dns, "DNSLookup", lookup)
    return asked


def test_stand_in(lookups: list[tuple[str, str]]) -> None:
    """What takes DNSLookup's place is asked, once for what it knows; its IOError is DNSError."""
    session = Session()
    for _ in range(3):
        assert ["192.0.2.1"] == session.dns("A.test.", "A")
    assert [("a.test", "A")] == lookups
    with pytest.raises(DNSError):
        session.dns("broken.test", "A")


def test_nothing_is_asked_again(lookups: list[tuple[str, str]]) -> None:
    """Without a time to live an empty answer is not relied on."""
    session = Session()
    assert [] == session.dns("no.test", "A")
    assert [] == session.dns("no.test", "A")
    assert 2 == len(lookups)


def test_alias(lookups: list[tuple[str, str]]) -> None:
    """The target's answer is remembered under the alias, and the CNAME always."""
    session = Session()
    assert ["192.0.2.1"] == session.dns("al.test", "A")
    assert [("al.test", "A")] == lookups
    assert {
        ("al.test", "CNAME"): ["a.test"],
        ("a.test", "A"): ["192.0.2.1"],
        ("al.test", "A"): ["192.0.2.1"],
    } == session.cache
    assert ["192.0.2.1"] == session.dns("al2.test", "A")
    assert [("al.test", "A"), ("al2.test", "A")] == lookups


def test_safe_to_cache(lookups: list[tuple[str, str]]) -> None:
    """An address in the answer to a PTR query is ignored, and so is what is said of others."""
    session = Session()
    assert ["h.test"] == session.dns("p.test", "PTR")
    assert {("p.test", "PTR"): ["h.test"]} == session.cache
    assert ["192.0.2.6"] == session.dns("evil.test", "A")
    assert ("bank.test", "A") not in session.cache
    assert ("PTR", "A") not in Session.SAFE2CACHE
    assert {("MX", "MX"), ("MX", "A"), ("CNAME", "CNAME"), ("CNAME", "A"), ("A", "A"),
            ("AAAA", "AAAA"), ("PTR", "PTR"), ("NS", "NS"), ("NS", "A"), ("TXT", "TXT"),
            ("SPF", "SPF")} == set(Session.SAFE2CACHE)  # fmt: skip


def test_cache_given(lookups: list[tuple[str, str]]) -> None:
    """What a test puts into the cache is taken; the result is the caller's to change."""
    session = Session()
    session.cache["x.test", "A"] = ["192.0.2.5"]
    session.dns("x.test", "A").clear()
    assert ["192.0.2.5"] == session.dns("x.test", "A")
    assert [] == lookups


def test_bounded(lookups: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache does not grow without end; the oldest goes first."""
    monkeypatch.setattr(Milter.dns, "MAX_CACHE", 2)
    session = Session()
    for name in ("a.test", "al.test", "evil.test"):
        session.dns(name, "A")
        assert len(session.cache) <= 2
    assert ["192.0.2.6"] == session.cache["evil.test", "A"]


def reply(query: bytes, rcode: int, *, ttl: int = 0, soa: tuple[int, int] | None = None) -> bytes:
    """Return an answer by hand (RFC 1035 section 4): an A record if there is a *ttl*, an SOA."""
    question = query[12 : query.index(b"\0", 12) + 5]
    answer = authority = b""
    if ttl:
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, ttl, 4) + bytes([192, 0, 2, 1])
    if soa:
        data = b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, soa[1])
        authority = b"\0" + struct.pack("!HHIH", 6, 1, soa[0], len(data)) + data
    counts = struct.pack("!4H", 1, bool(answer), bool(authority), 0)
    return query[:2] + struct.pack("!H", 0x8180 | rcode) + counts + question + answer + authority


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have Milter.dns go by a clock that the test sets."""
    clock = [1000.0]
    stand_in = type("Time", (), {"monotonic": staticmethod(lambda: clock[0])})
    monkeypatch.setattr(Milter.dns, "time", stand_in)
    return clock


@pytest.mark.parametrize(
    ("rcode", "ttl", "soa", "holds"),
    [
        (0, 300, None, 300),
        (3, 0, (600, 60), 60),  # the lesser of the SOA's own time and its minimum
        (3, 0, (40, 60), 40),
        (0, 0, (600, 60), 60),  # NODATA
    ],
)
def test_times_to_live(
    now: list[float], rcode: int, ttl: int, soa: tuple[int, int] | None, holds: int
) -> None:
    """An answer, also an empty one, holds as long as it says, and no longer."""
    server = Scripted(lambda query: reply(query, rcode, ttl=ttl, soa=soa))
    try:
        session = Session(timeout=PATIENCE, resolver=resolver(server.port))
        expected = ["192.0.2.1"] if ttl else []
        assert expected == session.dns("x.test", "A")
        now[0] += holds - 1
        assert expected == session.dns("x.test", "A")
        assert 1 == len(server.queries)
        now[0] += 2
        assert expected == session.dns("x.test", "A")
        assert 2 == len(server.queries)
    finally:
        server.close()


def test_an_empty_answer_without_a_time(now: list[float]) -> None:
    """Without an SOA nothing says how long a name does not exist: it is asked again."""
    server = Scripted(lambda query: reply(query, 3))
    try:
        session = Session(timeout=PATIENCE, resolver=resolver(server.port))
        assert [] == session.dns("x.test", "A")
        assert [] == session.dns("x.test", "A")
        assert 2 == len(server.queries)
    finally:
        server.close()


# ---- servers that fail ----


@pytest.mark.parametrize(
    "answer",
    [
        lambda query: reply(query, 2),  # SERVFAIL
        lambda query: reply(query, 5),  # REFUSED
        lambda query: b"garbage",
        lambda query: query[:2] + b"\x81\x80" + b"\xff" * 30,
        lambda query: None,
    ],
)
def test_servers_that_fail(answer: Any) -> None:
    """A failure, nonsense, silence: DNSError."""
    server = Scripted(answer)
    try:
        with pytest.raises(DNSError):
            Session(timeout=0.3, resolver=resolver(server.port)).dns("x.test", "A")
    finally:
        server.close()


def test_any_garbage() -> None:
    """Whatever bytes come back, it is data or DNSError."""
    rng = random.Random(7)

    def answer(query: bytes) -> bytes:
        good = bytearray(reply(query, 0, ttl=60))
        for _ in range(rng.randrange(4)):
            good[rng.randrange(2, len(good))] = rng.randrange(256)
        return bytes(good[: rng.randrange(12, len(good) + 1)])

    server = Scripted(answer)
    try:
        for number in range(20):
            session = Session(timeout=0.05, resolver=resolver(server.port))
            try:
                assert isinstance(session.dns(f"x{number}.test", "A"), list)
            except DNSError:
                pass
    finally:
        server.close()


def test_the_lifetime_of_a_session() -> None:
    """All queries together take no more than the lifetime; then there is no other query."""
    server = Scripted(lambda query: None)
    try:
        session = Session(timeout=0.2, lifetime=0.5, resolver=resolver(server.port))
        start = time.monotonic()
        for number in range(50):
            with pytest.raises(DNSError):
                session.dns(f"x{number}.test", "A")
        assert time.monotonic() - start < 10  # 50 time-outs of 0.2 s if it did not count
        with pytest.raises(DNSError, match="no time left"):
            session.dns("y.test", "A")
    finally:
        server.close()  # behind all that it was asked
    assert [] == [query for query in server.queries if b"\1y\4test\0" in query]
    assert [] != [query for query in server.queries if b"\2x0\4test\0" in query]


def test_addresses_as_resolver() -> None:
    """The name servers' addresses will do."""
    session = Session(timeout=0.2, resolver=["127.0.0.53.1"])
    with pytest.raises(DNSError):
        session.dns("x.test", "A")


def test_threads(server: Nsd) -> None:
    """One session serves many threads."""
    session = Session(timeout=PATIENCE, resolver=resolver(server.port))
    wrong = []

    def work() -> None:
        for _ in range(20):
            if session.dns("outside.example.test", "A") != ["192.0.2.10"]:
                wrong.append("outside")
            if session.dns("ten0.example.test", "A") != ["192.0.2.77"]:
                wrong.append("ten")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == wrong


# ---- without dnspython ----

WITHOUT = """
import sys
sys.modules["dns"] = None
import Milter.dns, Milter.dsn
print("imported")
try:
    Milter.dns.Session().dns("example.test", "A")
except ImportError as error:
    print(error)
"""


def test_without_dnspython() -> None:
    """The module is importable, asks nothing, and says at first use what to install."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], check=True, stdout=subprocess.PIPE)
    lines = done.stdout.decode().splitlines()
    assert "imported" == lines[0]
    assert 'pip install "pymilter-cffi[dns]"' in lines[1]


def test_importing_is_cheap() -> None:
    """No module of dnspython is imported before the first query."""
    code = (
        "import sys, Milter.dns, Milter.dsn;"
        "print(sorted(name for name in sys.modules if name[:3] == 'dns'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert b"[]" == done.stdout.strip()


def test_names() -> None:
    """The names that filters know."""
    assert Milter.dns.DNS.DNSError is DNSError
    assert issubclass(DNSError, Exception)
