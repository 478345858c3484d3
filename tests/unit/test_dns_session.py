"""`Milter.dns.Session` where names, answers and caches are odd; beyond API spec 3.3."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import Milter.dns
from harness.dns_server import Scripted
from harness.wire import PATIENCE
from Milter.dns import DNSError, Session

message = pytest.importorskip("dns.message")
rrset = pytest.importorskip("dns.rrset")
resolver = pytest.importorskip("dns.resolver")


def answer(*records: str, soa: str = "") -> Callable[[bytes], bytes]:
    """Return what answers each query with these records, in the form of a zone file."""

    def reply(query: bytes) -> bytes:
        response = message.make_response(message.from_wire(query))
        for record in records:
            name, ttl, rdclass, kind, data = record.split(None, 4)
            response.answer.append(rrset.from_text(name, int(ttl), rdclass, kind, data))
        if soa:
            name, ttl, rdclass, kind, data = soa.split(None, 4)
            response.authority.append(rrset.from_text(name, int(ttl), rdclass, kind, data))
        wire: bytes = response.to_wire()
        return wire

    return reply


@pytest.fixture
def asking() -> Iterator[Callable[..., tuple[Session, Scripted]]]:
    """Give a function that returns a session whose server answers so."""
    servers = []

    def ask(reply: Callable[[bytes], bytes], **options: Any) -> tuple[Session, Scripted]:
        server = Scripted(reply)
        servers.append(server)
        made = resolver.Resolver(configure=False)
        made.nameservers, made.port = ["127.0.0.1"], server.port
        return Session(**{"timeout": 10, "resolver": made, **options}), server

    yield ask
    for server in servers:
        server.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of names that are asked for; none of them exists."""
    names: list[str] = []

    def lookup(name: str, qtype: str) -> list[Any]:
        names.append(name)
        return []

    monkeypatch.setattr(Milter.dns, "DNSLookup", lookup)
    return names


@pytest.mark.parametrize(
    ("name", "queried"),
    [
        ("b\xfccher.example", "xn--bcher-kva.example"),
        ("B\xdcCHER.example.", "xn--bcher-kva.example"),
        # The examples of UTS 46 section 7.2, in IDNA2008.
        ("fa\xdf.de", "xn--fa-hia.de"),
        ("\u03b2\u03cc\u03bb\u03bf\u03c2.com", "xn--nxasmm1c.com"),
        ("b\xfccher\u3002example", "xn--bcher-kva.example"),
        (b"Plain.example", "plain.example"),
    ],
)
def test_internationalized_names(asked: list[str], name: Any, queried: str) -> None:
    """A name is asked for by its A-labels, and never by another domain's."""
    assert [] == Session().dns(name, "A")
    assert [queried] == asked


@pytest.mark.parametrize(
    "name",
    [
        "a\u2024b.example",
        "\xad.example",
        "\udcff.example",
        "\xfc" * 70 + ".example",
        "\xfc..x",
        None,
        5,
    ],
)
def test_names_that_cannot_be(asked: list[str], name: Any) -> None:
    """What no label can hold has no records, and nobody is asked."""
    assert [] == Session().dns(name, "A")
    assert [] == asked


@pytest.mark.parametrize("rdclass", ["CH", "HS", "CLASS99"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("MX", r"\# 5 000a 0141 00"),
        ("SRV", r"\# 9 0001 0001 0001 0141 00"),
        ("TXT", r"\# 2 0161"),
        ("CNAME", r"\# 3 0141 00"),
        ("SOA", r"\# 22 00 00 00000001 00000001 00000001 00000001 00000001"),
    ],
)
def test_other_classes(asking: Any, rdclass: str, kind: str, data: str) -> None:
    """Records of a class that was not asked for are no answer, and no failure."""
    session, _ = asking(answer(f"x.test. 60 {rdclass} {kind} {data}"))
    assert [] == session.dns("x.test", kind)
    assert {} == session.cache


def test_address_of_another_class(asking: Any) -> None:
    """Nor are addresses, which another class need not have."""
    session, _ = asking(answer(r"x.test. 60 CLASS99 A \# 4 01020304"))
    assert [] == session.dns("x.test", "A")


def test_time_of_another_class(asking: Any) -> None:
    """An SOA of another class says nothing about how long there is nothing."""
    data = r"\# 22 00 00 00000001 00000001 00000001 00000001 00000001"
    session, server = asking(answer(soa=f"test. 60 CLASS99 SOA {data}"))
    assert [[], []] == [session.dns("x.test", "A") for _ in range(2)]
    assert 2 == len(server.queries)


def test_zero_is_not_kept(asking: Any) -> None:
    """A time to live of 0 is for this question only (RFC 1035 section 3.2.1)."""
    session, server = asking(answer("x.test. 0 IN A 192.0.2.1"))
    assert [["192.0.2.1"]] * 2 == [session.dns("x.test", "A") for _ in range(2)]
    assert 2 == len(server.queries)


def test_answer_about_others(asking: Any) -> None:
    """What an answer says of names that have nothing to do with the question is not believed."""
    session, _ = asking(answer("bank.test. 60 IN CNAME evil.test.", "x.test. 60 IN A 192.0.2.1"))
    assert ["192.0.2.1"] == session.dns("x.test", "A")
    assert ("bank.test", "CNAME") not in session.cache


def test_alias_of_the_root(asking: Any) -> None:
    """The root is not followed to."""
    session, _ = asking(answer("x.test. 60 IN CNAME ."))
    assert [] == session.dns("x.test", "A")


def test_what_is_put_over_an_old_answer(asking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that somebody puts into the cache stay, even where an answer was that has expired."""
    session, server = asking(answer("x.test. 60 IN A 192.0.2.1"))
    clock = [1000.0]
    stand_in = type("Time", (), {"monotonic": staticmethod(lambda: clock[0])})
    monkeypatch.setattr(Milter.dns, "time", stand_in)
    assert ["192.0.2.1"] == session.dns("x.test", "A")
    clock[0] += 100
    session.cache["x.test", "A"] = ["192.0.2.9"]
    assert ["192.0.2.9"] == session.dns("x.test", "A")
    assert 1 == len(server.queries)


def test_cleared_cache(asking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who clears the cache of a session that lives long has cleared all of it that grows."""
    monkeypatch.setattr(Milter.dns, "MAX_CACHE", 3)
    monkeypatch.setattr(Milter.dns, "DNSLookup", lambda name, qtype: [((name, "A"), "192.0.2.1")])
    session = Session()
    for number in range(10):
        assert ["192.0.2.1"] == session.dns(f"{number}.test", "A")
        session.cache.clear()
    assert len(session._expiry) <= 3


def test_answer_is_the_callers(asking: Any) -> None:
    """Changing the list that `dns` returns changes nothing for the next one who asks."""
    session, _ = asking(answer("x.test. 60 IN MX 10 mx.test."))
    session.dns("x.test", "MX").clear()
    session.dns("x.test", "MX").clear()
    assert [(10, "mx.test")] == session.dns("x.test", "MX")


def test_damaged_answers(asking: Any) -> None:
    """Whatever a few wrong bytes make of an answer, it is a list or a DNSError."""
    good = answer(
        "x.test. 60 IN A 192.0.2.1",
        "x.test. 60 IN MX 10 mx.test.",
        'x.test. 60 IN TXT "a" "b"',
        "x.test. 60 IN SRV 1 2 3 mx.test.",
        soa="test. 60 IN SOA a. b. 1 2 3 4 5",
    )

    def damaged(query: bytes) -> bytes:
        rng = random.Random(query[2:])
        wire = bytearray(good(query))
        for _ in range(rng.randrange(1, 4)):
            # Behind the question, without which dnspython goes on waiting for the right answer.
            wire[rng.randrange(len(query) - 11, len(wire))] = rng.choice([0, 1, 255, 0xC0, 3])
        return bytes(wire)

    first, server = asking(damaged)
    kinds = ["A", "MX", "TXT", "SRV", "CNAME"]

    def outcome(number: int) -> str:
        # Many answers are ignored, and then the time-out is waited for: at the same time by all.
        session = Session(timeout=3, resolver=first.resolver)
        try:
            found = session.dns(f"x{number}.test", kinds[number % 5])
        except DNSError:
            return "error"
        assert isinstance(found, list)
        return "data" if found else "nothing"

    with ThreadPoolExecutor(80) as executor:
        outcomes = set(executor.map(outcome, range(80)))
    assert {"nothing", "error"} <= outcomes
    # One whose time was over may still be on its way.
    deadline = time.monotonic() + PATIENCE
    while len(server.queries) < 80 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.queries) >= 80
