"""The example auth_results.py: what it finds out, how it writes it down, which headers it removes.

The zone is a table; the signed message and its key are those of RFC 8463, appendix A.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from examples_support import DOWN, KEY, SIGNED, Nameserver, Program, load, message

import Milter
from Milter import mta
from Milter.mta import DeleteHeader, InsertHeader

pytest.importorskip("dkim", reason='no dkimpy: pip install "pymilter-cffi[examples]"')
pytest.importorskip("spf", reason='no pyspf: pip install "pymilter-cffi[examples]"')
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")

auth_results = load("auth_results")

ZONE: dict[tuple[str, str], Any] = {
    ("test._domainkey.football.example.com", "TXT"): [(KEY[:200], KEY[200:])],
    ("away._domainkey.example.com", "TXT"): DOWN,
    ("example.com", "TXT"): [
        (b"unrelated",),
        (b"v=spf1 ip4:192.0.2.0/28 ", b"include:other.example mx -all"),
    ],
    ("example.com", "MX"): [(10, "mx.example.com")],
    ("mx.example.com", "A"): ["198.51.100.1"],
    ("other.example", "TXT"): [(b"v=spf1 ip6:2001:db8::/32 ?all",)],
    ("soft.example", "TXT"): [(b"v=spf1 ~all",)],
    ("broken.example", "TXT"): [(b"v=spf1 nonsense:x -all",)],
    ("away.example", "TXT"): DOWN,
    ("helo.example", "TXT"): [(b"v=spf1 ip4:192.0.2.1 -all",)],
}


def fake(name: str, rrtype: str, timeout: float | None = None) -> list[Any]:
    """Look something up in the zone above."""
    assert timeout is None or timeout > 0
    found = ZONE.get((name.lower().rstrip("."), rrtype), [])
    if found is DOWN:
        raise OSError("the DNS is away")
    return list(found)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the zone above asked."""
    monkeypatch.setattr(auth_results, "lookup", fake)


# -- the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["dkim", "dns.resolver", "spf"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is missing is an ImportError that names the extra."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "pymilter-cffi\[examples\]"'):
        load("auth_results")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nameserver", "localhost"),
        ("--nameserver", "127.0.0.1@x"),
        ("--authserv-id", "example.org; dkim=pass"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be used ends the program with 2, and it says why."""
    monkeypatch.setattr(Milter, "runmilter", lambda *_: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as caught:
        auth_results.main(arguments)
    assert 2 == caught.value.code
    assert ": error: no " in capsys.readouterr().err


# -- the results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "sender", "helo", "result"),
    [
        ("192.0.2.5", "a@example.com", "h", "spf=pass smtp.mailfrom=a@example.com"),
        ("192.0.2.16", "a@example.com", "h", "spf=fail smtp.mailfrom=a@example.com"),
        ("198.51.100.1", "a@example.com", "h", "spf=pass smtp.mailfrom=a@example.com"),
        ("2001:db8::1", "a@example.com", "h", "spf=pass smtp.mailfrom=a@example.com"),
        ("2001:db9::1", "a@example.com", "h", "spf=fail smtp.mailfrom=a@example.com"),
        ("192.0.2.5", "a@soft.example", "h", "spf=softfail smtp.mailfrom=a@soft.example"),
        ("192.0.2.5", "a@none.example", "h", "spf=none smtp.mailfrom=a@none.example"),
        ("192.0.2.5", "a@broken.example", "h", "spf=permerror smtp.mailfrom=a@broken.example"),
        ("192.0.2.5", "a@away.example", "h", "spf=temperror smtp.mailfrom=a@away.example"),
        # The null sender: the name of HELO is looked at (RFC 7208 section 2.4).
        ("192.0.2.1", "", "helo.example", "spf=pass smtp.helo=helo.example"),
        ("192.0.2.2", "", "helo.example", "spf=fail smtp.helo=helo.example"),
        ("192.0.2.1", "", "not a name", 'spf=none smtp.helo="not a name"'),
        ("192.0.2.1", "b\udcfc@b\udcfc.example", "h", 'spf=none smtp.mailfrom="b?@b?.example"'),
    ],
)
@pytest.mark.usefixtures("zone")
def test_spf(ip: str, sender: str, helo: str, result: str) -> None:
    """Each of SPF's results comes out, for the identity that RFC 7208 names."""
    assert result == auth_results.check_spf(ip, sender, helo)


@pytest.mark.usefixtures("zone")
def test_dkim_of_the_rfc() -> None:
    """The signed message of RFC 8463 passes, and fails with a changed body or header."""
    good = "dkim={} header.d=football.example.com header.s=test"
    assert [good.format("pass")] == auth_results.check_dkim(SIGNED)
    assert [good.format("pass")] == auth_results.check_dkim(SIGNED.replace(b"\n", b"\r\n"))
    assert [good.format("fail")] == auth_results.check_dkim(SIGNED.replace(b"Joe.", b"Jim."))
    assert [good.format("fail")] == auth_results.check_dkim(SIGNED.replace(b"dinner", b"lunch"))


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        (b"s=test", b"s=none", "dkim=permerror header.d=football.example.com header.s=none"),
        (b"d=football.example.com", b"d=football.example.com; x=1528637910",
         "dkim=fail header.d=football.example.com header.s=test"),
        (b"v=1;", b"v=1; s=away; d=example.com;", "dkim=neutral"),
        (b"a=rsa-sha256", b"a=rsa-md5", "dkim=fail header.d=football.example.com header.s=test"),
        (b"DKIM-Signature", b"X-Signature", "dkim=none"),
        (b"From:", b"F rom:", "dkim=permerror"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("zone")
def test_dkim_that_cannot_be_checked(old: bytes, new: bytes, result: str) -> None:
    """No key, expired, a tag twice, an unknown algorithm, no signature, and what is no message."""
    changed = SIGNED.replace(old, new, 1)
    assert changed != SIGNED
    assert [result] == auth_results.check_dkim(changed)


@pytest.mark.usefixtures("zone")
def test_dkim_while_the_dns_is_away() -> None:
    """A key that cannot be asked for now is a temporary error, and not a bad signature."""
    changed = SIGNED.replace(b"d=football.example.com", b"d=example.com")
    changed = changed.replace(b"i=@football", b"i=@a").replace(b"s=test", b"s=away")
    assert ["dkim=temperror header.d=example.com header.s=away"] == auth_results.check_dkim(changed)


@pytest.mark.usefixtures("zone")
def test_several_signatures() -> None:
    """Each signature has its result, in order, up to a limit."""
    head = SIGNED[: SIGNED.index(b"From:")]
    results = auth_results.check_dkim(head.replace(b"s=test", b"s=none") + SIGNED)
    assert ["dkim=permerror", "dkim=pass"] == [line.split()[0] for line in results]
    assert auth_results.SIGNATURES == len(auth_results.check_dkim(head * 50 + SIGNED))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("example.org", "example.org"),
        ("a.b+c=d@example.org", "a.b+c=d@example.org"),
        ("@example.org", "@example.org"),
        ("", '""'),
        ("a=b", '"a=b"'),
        ("a;dkim=pass@x", '"a;dkim=pass@x"'),
        ("a b@x", '"a b@x"'),
        ('"q\\"@x', '"\\"q\\\\\\"@x"'),
        ("a\r\nEvil: yes@x", '"a??Evil: yes@x"'),
        ("(c)@x", '"(c)@x"'),
        ("\udcfc@\u00fc", '"?@?"'),
    ],
)
def test_values(text: str, written: str) -> None:
    """What is not a word or a plain address is a quoted string (RFC 8601 section 2.2)."""
    assert written == auth_results.value(text)


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("mx.example.org; spf=pass", "mx.example.org"),
        (" MX.Example.ORG 1; none", "mx.example.org"),
        ("mx.example.org", "mx.example.org"),
        ("mx.example.org.; none", "mx.example.org"),
        ("\r\n\tmx.example.org;none", "mx.example.org"),
        ("(a;b) (c(d)e\\)) mx.example.org; none", "mx.example.org"),
        ('("a) mx.example.org; " ) other.example; none', "mx.example.org"),
        ('"mx.example.org"; none', "mx.example.org"),
        ('"mx\\.example\\.org" 1; none', "mx.example.org"),
        ("other.example; dkim=pass header.d=mx.example.org", "other.example"),
        ("", None),
        (";", None),
        ("(mx.example.org; none", None),
        ('"mx.example.org; none', None),
        (") mx.example.org", None),
    ],
)
def test_who_claims_it(text: str, claimed: str | None) -> None:
    """The word in front, whatever comments and quotes there are; None if it is not clear."""
    assert claimed == auth_results.claimed_id(text)


# -- over the wire ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> Iterator[bytes]:
    """A private key in PEM, whose public half is in the zone, for example.com, selector s."""
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = b"v=DKIM1; p=" + base64.b64encode(public)
    ZONE["s._domainkey.example.com", "TXT"] = [(text[:250], text[250:])]
    yield private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    del ZONE["s._domainkey.example.com", "TXT"]


@pytest.fixture(scope="module")
def program(waiting: str, key: bytes) -> Iterator[Program]:
    """The program, asking a name server of the test."""
    server = Nameserver(ZONE)
    program = Program(
        "auth_results",
        "--authserv-id", "mx.example.org", "--nameserver", f"127.0.0.1@{server.port}",
        foreign=True,
    )  # fmt: skip
    yield program
    program.stop()
    server.stop()


CLIENT = mta.SmtpClient("mail.example.com", "192.0.2.5", 25)


def test_what_is_inserted(program: Program) -> None:
    """One header on top, with both results, and nothing else is changed."""
    sent = mta.Message.from_bytes(SIGNED, "<joe@example.com>", ["<suzie@shopping.example.net>"])
    result = program.send(sent, client=CLIENT)
    assert mta.Outcome.ACCEPTED is result.outcome
    # The blank is ours, as it was negotiated that the mail server adds none.
    assert [
        InsertHeader(
            0,
            "Authentication-Results",
            " mx.example.org;\n\tspf=pass smtp.mailfrom=joe@example.com;\n"
            "\tdkim=pass header.d=football.example.com header.s=test",
        )
    ] == list(result.modifications)


def test_blanks_are_signed(program: Program, key: bytes) -> None:
    """A signature over headers as they are, blanks and folds included, is found good."""
    import dkim

    unsigned = b"From:  a@example.com\r\nSubject:\tx\r\n y  \r\nX-None:z\r\n\r\nhi \r\n\r\n"
    signature = dkim.sign(unsigned, b"s", b"example.com", key, canonicalize=(b"simple", b"simple"))
    sent = mta.Message.from_bytes(signature + unsigned, "<>", ["<b@example.org>"])
    (inserted,) = program.send(sent, client=CLIENT, helo="none.example").modifications
    assert isinstance(inserted, InsertHeader)
    assert [
        "mx.example.org",
        "spf=none smtp.helo=none.example",
        "dkim=pass header.d=example.com header.s=s",
    ] == inserted.value.strip().split(";\n\t")


def test_a_mail_server_that_takes_blanks_away(program: Program) -> None:
    """Without the raw values one blank is assumed, and none is written."""
    with program.connect() as session:
        session.negotiate(protocol=mta.DEFAULT_PROTOCOL & ~0x100000)  # SMFIP_HDR_LEADSPC
        sent = mta.Message.from_bytes(SIGNED, "<joe@example.com>", ["<b@example.org>"])
        (inserted,) = session.send(sent, client=CLIENT).modifications
    assert isinstance(inserted, InsertHeader)
    assert inserted.value.startswith("mx.example.org;")
    assert inserted.value.endswith("dkim=pass header.d=football.example.com header.s=test")


def test_forged_headers_are_removed(program: Program) -> None:
    """Those that claim to be ours go, the last one first, and those of others stay."""
    name = "Authentication-Results"
    forged = [
        (name, "mx.example.org; spf=pass smtp.mailfrom=bank.example"),
        (name, "other.example; spf=pass smtp.mailfrom=mx.example.org"),
        (name.lower(), '(x) "MX.example.org" 1; none'),
        ("X-" + name, "mx.example.org; none"),
        (name, "(unclear"),
    ]
    result = program.send(message(forged), client=CLIENT)
    assert [DeleteHeader(4, name), DeleteHeader(3, name), DeleteHeader(1, name)] == list(
        result.modifications[:-1]
    )
    assert 2 == len(result.message.get_all(name))
    assert result.message.headers[0].value.startswith(b" mx.example.org;")


def test_temporary_errors(program: Program) -> None:
    """What the DNS cannot tell now is said to be so, and the message passes."""
    result = program.send(message(sender="<a@away.example>"), client=CLIENT)
    assert mta.Outcome.ACCEPTED is result.outcome
    assert b"spf=temperror smtp.mailfrom=a@away.example;" in result.message.get_all(
        "Authentication-Results"
    )[0]  # fmt: skip


def test_who_has_logged_in(program: Program) -> None:
    """A user of ours is named, and neither SPF nor DKIM looked at."""
    result = program.send(
        message(sender="<a@example.com>"), client=CLIENT, macros={"{auth_authen}": "al ice"}
    )
    assert [b'mx.example.org;\n\tauth=pass smtp.auth="al ice"'] == result.message.get_all(
        "Authentication-Results"
    )


def test_mail_from_this_machine(program: Program) -> None:
    """Without a client's address there is nothing for SPF to look at."""
    with program.connect() as session:
        session.negotiate()
        session.connect("localhost", "/socket")
        result = session.send(message(sender="<a@example.com>"))
    assert [b"mx.example.org;\n\tdkim=none"] == result.message.get_all("Authentication-Results")
