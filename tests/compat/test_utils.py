"""`Milter.utils`: addresses and header text (API spec 3.14)."""

from __future__ import annotations

import base64
import doctest
import email.base64mime
import re
import socket
import subprocess
import sys

import pytest

from Milter import dynip, utils
from Milter.utils import (
    MASK,
    MASK6,
    addr2bin,
    bin2long6,
    cidr,
    decode,
    iniplist,
    parse_addr,
    parse_header,
    parseaddr,
)


@pytest.mark.parametrize("module", [utils, dynip])
def test_examples_of_the_documentation(module: object) -> None:
    """What the docstrings show is so."""
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert 0 == failed
    assert tried


def test_importing_changes_nothing() -> None:
    """The standard library's base64 decoder stays its own (pymilter replaces it)."""
    code = (
        "import email.base64mime as m; before = m.decode; import Milter.utils;"
        "print(m.decode is before)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert b"True" == shown.stdout.strip()
    assert email.base64mime.decode is not utils.decode


# ---- IP addresses ----


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("1.2.3.4", True),
        ("255.250.249.199", True),
        ("1.2.3.4\n", True),
        ("01.2.3.4", False),
        ("256.1.1.1", False),
        ("1.2.3", False),
        ("1.2.3.4.5", False),
        ("1.2.3.4 ", False),
        (" 1.2.3.4", False),
    ],
)
def test_ip4re(text: str, matches: bool) -> None:
    """Four octets without leading zeros, to the end."""
    assert matches is bool(utils.ip4re.match(text))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("::", True),
        ("::1", True),
        ("1::", True),
        ("1:2:3:4:5:6:7:8", True),
        ("1:2:3:4:5:6:7::", True),
        ("::2:3:4:5:6:7:8", True),
        ("1::3:4:5:6:7:8", True),
        ("1:2:3:4:5:6:1.2.3.4", True),
        ("::ffff:1.2.3.4", True),
        ("2001:DB8::A", True),
        ("1:2:3:4:5:6:7:8:9", False),
        ("1::2::3", False),
        ("12345::", False),
        ("::256.1.1.1", False),
        ("fe80::1%eth0", False),
        ("[::1]", False),
        ("1:2", False),
        (":", False),
    ],
)
def test_ip6re(text: str, matches: bool) -> None:
    """RFC 3986's IPv6address, in either case, without a zone."""
    assert matches is bool(utils.ip6re.match(text))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("ab", True),
        ("A-1.example", True),
        ("a..b", True),
        ("a", False),
        ("1a", False),
        ("a_b", False),
        ("-ab", False),
        ("ab ", False),
        ("ab\n", True),
        ("é.x", False),
    ],
)
def test_dnsre(text: str, matches: bool) -> None:
    """A letter, then one or more letters, digits, hyphens and dots."""
    assert matches is bool(utils.dnsre.match(text))


def test_inet() -> None:
    """IPv6 by the socket module; blanks around the text do not matter."""
    assert "::1" == utils.inet_ntop(bytes(15) + b"\1")
    assert bytes(15) + b"\1" == utils.inet_pton(" ::1 ")
    with pytest.raises(OSError, match=r"illegal|invalid"):
        utils.inet_pton("1.2.3.4")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.2.3.4", 16909060), ("::1", 1), ("1.2.3", 16908291), ("ff::", 255 << 112)],
)
def test_addr2bin(text: str, number: int) -> None:
    """IPv6 if there is a colon, else IPv4 by inet_aton's rules."""
    assert number == addr2bin(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "Invalid IP4 address: x"),
        ("1.2.3.4.5", "Invalid IP4 address: 1.2.3.4.5"),
        ("", "Invalid IP4 address: "),
        ("1:2", "Invalid IP6 address: 1:2"),
        ("::g", "Invalid IP6 address: ::g"),
    ],
)
def test_addr2bin_of_no_address(text: str, message: str) -> None:
    """OSError, which says of which kind it was thought to be."""
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        addr2bin(text)


def test_bin2long6() -> None:
    """16 bytes, the first one the highest."""
    assert 0x0102 << 112 | 3 == bin2long6(b"\1\2" + bytes(13) + b"\3")
    with pytest.raises(ValueError, match="16 bytes"):
        bin2long6(b"1234")


@pytest.mark.parametrize(
    ("args", "number"),
    [
        ((0x01020304, 24), 0x01020300),
        ((0x01020304, 0), 0),
        ((0x01020304, 32), 0x01020304),
        ((0x01020304, 33), 0x01020304),
        ((MASK6, 64, MASK6), 0xFFFFFFFFFFFFFFFF << 64),
        ((MASK6, 0, MASK6), 0),
        ((MASK, 8), 0xFF000000),
    ],
)
def test_cidr(args: tuple[int, ...], number: int) -> None:
    """The first n bits stay."""
    assert number == cidr(*args)


@pytest.mark.parametrize(
    ("address", "patterns", "listed"),
    [
        # API spec 3.14
        ("66.179.26.146", ["66.179.26.128/26"], True),
        ("192.168.0.45", ["192.168.0.*"], True),
        ("2001:610:779:0:223:6cff:fe9a:9cf3", ["2001:610:779::/48"], True),
        ("1.2.3.4", ["1.2.?.4"], True),
        ("1.2.3.4", ["[12].2.3.4"], True),
        ("1.2.3.4", ["*"], True),
        ("127.0.0.9", ["localhost/8"], True),
        ("1.2.3.4", ["1.2.3.*/24"], False),
        ("1.2.3.4", [""], False),
        ("1.2.3.4", ["1.2.3"], False),
        ("4.2.2.2", ["nothing.example.invalid"], False),
        # the order does not matter to the result, nor an empty list
        ("1.2.3.4", [], False),
        ("1.2.3.4", ["5.6.7.8", "1.2.3.4"], True),
        ("1.2.3.4", ("1.2.3.4",), True),
        # as the lines of a file come
        ("1.2.3.4", ["1.2.3.4\n"], True),
        ("2001:db8::1", ["2001:db8::1\n"], True),
        ("127.0.0.1", ["localhost\n"], True),
        # edges
        ("66.179.26.127", ["66.179.26.128/26"], False),
        ("66.179.26.191", ["66.179.26.128/26"], True),
        ("66.179.26.192", ["66.179.26.128/26"], False),
        ("1.2.3.4", ["255.0.0.0/0"], True),
        ("1.2.3.4", ["1.2.3.4/32"], True),
        ("1.2.3.4", ["1.2.3.5/32"], False),
        ("1.2.3.4", ["1.2.3.4/99"], True),
        ("2001:db8::1", ["2001:DB8::2/127"], False),
        ("2001:db8::3", ["2001:DB8::2/127"], True),
        ("::1", ["::01"], True),
        # only within a family (pymilter goes by the low 32 bits)
        ("2001:db8::102:304", ["1.2.3.4"], False),
        ("2001:db8::102:304", ["1.2.3.0/24"], False),
        ("::1", ["0.0.0.0/0"], False),
        ("1.2.3.4", ["::/0"], False),
        ("1.2.3.4", ["::ffff:1.2.3.4"], False),
        ("::ffff:1.2.3.4", ["1.2.3.0/24"], True),
        ("::ffff:1.2.3.4", ["1.2.4.0/24"], False),
        ("::ffff:1.2.3.4", ["::ffff:0:0/96"], True),
        ("::ffff:1.2.3.4", ["1.2.3.4"], True),
        ("::1.2.3.4", ["1.2.3.4"], False),
        ("::fffe:1.2.3.4", ["1.2.3.4"], False),
    ],
)
def test_iniplist(address: str, patterns: list[str], listed: bool) -> None:
    """Addresses, networks, names and wildcards, each compared within the address's family."""
    assert listed is iniplist(address, patterns)


@pytest.mark.parametrize(
    ("address", "patterns"),
    [
        ("2G01::", ["*"]),
        ("fe80::1%eth0", ["*"]),
        ("", []),
        ("1.2.3", ["1.2.3"]),
        ("1.2.3.4", ["1.2.3.4/x"]),
        ("1.2.3.4", ["1.2.3.4/"]),
        ("1.2.3.4", ["1.2.3.4/-1"]),
        ("::1", ["::1/x"]),
    ],
)
def test_iniplist_of_no_address(address: str, patterns: list[str]) -> None:
    """Neither the address nor a number of bits may be something else."""
    with pytest.raises(ValueError, match=r"Invalid ip syntax|invalid literal|negative"):
        iniplist(address, patterns)


def test_iniplist_asks_in_the_family_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name is looked up once reached, in one family; any of its addresses counts."""
    asked = []

    def getaddrinfo(host: str, port: object, family: int, kind: int) -> list[tuple]:
        asked.append((host, family))
        if family == socket.AF_INET6:
            return [(family, kind, 6, "", ("fe80::7%lo", 0, 0, 1))]
        return [(family, kind, 6, "", (a, 0)) for a in ("192.0.2.1", "198.51.100.1")]

    monkeypatch.setattr(utils.socket, "getaddrinfo", getaddrinfo)
    assert iniplist("198.51.100.1", ["10.0.0.1", "mx.example.com"])
    assert iniplist("198.51.100.77", ["mx.example.com/24"])
    assert not iniplist("198.51.101.77", ["mx.example.com/24"])
    assert iniplist("fe80::7", ["mx.example.com"])
    assert iniplist("192.0.2.1", ["192.0.2.1", "never.example.com"])
    four, six = socket.AF_INET, socket.AF_INET6
    assert [four, four, four, six] == [family for _, family in asked]
    assert {"mx.example.com"} == {host for host, _ in asked}


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "no"), UnicodeError("label too long")])
def test_iniplist_without_an_answer(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """A name that cannot be looked up matches nothing, and the list goes on."""

    def getaddrinfo(*args: object) -> None:
        raise failure

    monkeypatch.setattr(utils.socket, "getaddrinfo", getaddrinfo)
    assert iniplist("1.2.3.4", ["gone.example.com", "1.2.3.4"])
    assert not iniplist("1.2.3.4", ["gone.example.com/8"])


# ---- Mail addresses ----


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user@example.com", ["user", "example.com"]),
        ("<user@example.com>", ["user", "example.com"]),
        ('"user@example.com"', ["user@example.com"]),
        ('"user@bar"@example.com', ["user@bar", "example.com"]),
        ("foo", ["foo"]),
        ("<foo>", ["foo"]),
        ("@mx.example.com:user@example.com", ["user", "example.com"]),
        ("<@a,@b:c@d>", ["c", "d"]),
        ("@user@example.com", ["@user", "example.com"]),
        ("a@b@c", ["a@b", "c"]),
        ("", [""]),
        ("<>", [""]),
        ("user@", ["user", ""]),
        ("a:b@c", ["a:b", "c"]),
        ("<user@example.com", ["<user", "example.com"]),
        ('"@"@x', ['"@"', "x"]),
        ("@foo", ["", "foo"]),
        # found with pymilter as a black box
        ('"', [""]),
        ('""@x', ["", "x"]),
        ('"a', ['"a']),
        ("@:", [""]),
        ('@h:"ab"@d', ['"ab"', "d"]),
        ("Bob@Example.COM ", ["Bob", "Example.COM "]),
    ],
)
def test_parse_addr(text: str, parts: list[str]) -> None:
    """Local part and domain, as the spec's table has it; no case changed, no blank stripped."""
    assert parts == parse_addr(text)


@pytest.mark.parametrize(("value", "error"), [(None, AttributeError), (b"a@b", TypeError)])
def test_parse_addr_of_no_text(value: object, error: type[Exception]) -> None:
    """Only str."""
    with pytest.raises(error):
        parse_addr(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('"Full Name" <foo@example.com>', ("Full Name", "foo@example.com")),
        ("spam@spammer.com <foo@example.com>", ("spam@spammer.com", "foo@example.com")),
        ("God@heaven <@hop1.org,@hop2.net:jeff@spec.org>", ("God@heaven", "jeff@spec.org")),
        (
            "Real Name ((comment)) <addr...@example.com>",
            ("Real Name (comment)", "addr...@example.com"),
        ),
        ("Doe, John <j@x>", ("Doe, John", "j@x")),
        ("a(WRONG)@b", ("WRONG WRONG", "a@b")),
        ("", ("", "")),
        ("<>", ("", "")),
        ("undisclosed-recipients:;", ("", "")),
        ("a@b, c@d", ("", "a@b")),
        ("x <>", ("x", "")),
        ("<@a:b@c>", ("", "b@c")),
        ("undisclosed-recipients:;<a@b>", ("undisclosed-recipients:;", "a@b")),
        ("a@b <c@d", ("", "a@b")),
        # found with pymilter as a black box: what is repaired is quoted and read again
        ("b;::>,,<<b >", ("b;::>,,", "")),
        ('"b@<a>', ("", "")),
        ('O, "B" <b@x>', ("O,  B ", "b@x")),
        ("a<b:c@d>", ("a", "b")),
        ('a<@\\@,(:">', ("a", '">"')),
        ("( <@<>)<<>", (" (<@<>)", "")),
        (",\\;<>", (",;", "")),
        ("@),;,\\<:\\)a@>", ("", '@),;," <:)a@>')),
        (" <a@b>", ("", "a@b")),
        (" <@r:a@b>", ("", "a@b")),
    ],
)
def test_parseaddr(text: str, parts: tuple[str, str]) -> None:
    """Name and address, the same on every Python (newer ones' own is stricter)."""
    assert parts == parseaddr(text)


@pytest.mark.parametrize("piece", ["(", "a:", "<@a:", "[", '"', "a@b,", "@", "<"])
def test_parseaddr_of_much(piece: str) -> None:
    """Nothing that a sender nests or repeats is an exception (pymilter: RecursionError)."""
    for text in (piece * 20_000, piece * 20_000 + ">"):
        name, address = parseaddr(text)
        assert isinstance(name, str)
        assert isinstance(address, str)


def test_parseaddr_of_what_nests_too_deeply() -> None:
    """That is no address."""
    assert ("", "") == parseaddr("(" * 20_000 + ")" * 20_000 + "a@b")


# ---- Header text ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("caf\udce9", "caf\udce9"),
        (
            "=?UTF-8?B?TGFzdCBGZXcgQ29sZHBsYXkgQWxidW0gQXJ0d29ya3MgQXZhaWxhYmxlAA?=",
            "Last Few Coldplay Album Artworks Available\0",
        ),
        ("=?iso-8859-1?Q?Peter_=D8rum?= <orum@ditas.dk>", "Peter \xd8rum <orum@ditas.dk>"),
        ("=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
        ("pre =?utf-8?q?a?= post", "pre a post"),
        ("=?utf-8?q?=FF?=", "\ufffd"),
        ("=?bogus?q?abc?=", "abc"),
        ("=?bogus?q?a=FF?=", "=?bogus?q?a=FF?="),
        ("=?bogus?q?a=C3=A9?=", "a\xe9"),
        ("=?utf-8?q?a?= =?utf-8?q?b", "a =?utf-8?q?b"),
        ("=?utf-8?q?\n\\u0041?= =?utf-8?q?b?=", "=?utf-8?q? \\u0041?= b"),
        ("=?utf-8?b?YWJjZ?=", "=?utf-8?b?YWJjZ?="),
        ("=?utf-8?b?!!!?=", ""),
        ("a\r\n =?utf-8?q?b?=", "ab"),
        ("", ""),
        # with a language, RFC 2231 section 5 (pymilter: not decoded)
        ("=?iso-8859-1*en?Q?=F8?=", "\xf8"),
        ("=?idna?q?abc?=", "=?idna?q?abc?="),
        ("=?utf\0?q?a?=", "=?utf\0?q?a?="),
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        # beside an encoded word, too, text stays what it is (pymilter: escapes, or not decoded)
        ("\u20ac =?utf-8?q?b?=", "\u20ac b"),
        ("caf\udce9 =?utf-8?q?b?=", "caf\udce9 b"),
        ("\xe9 =?utf-8?q?b?=", "\xe9 b"),
        (r"a \u0041 \\ =?utf-8?q?b?=", r"a \u0041 \\ b"),
        ("=?utf-8?q?a=5Cu?=", r"a\u"),
    ],
)
def test_parse_header(value: str, text: str) -> None:
    """Encoded words become text; what cannot be decoded stays as it came."""
    assert text == parse_header(value)


@pytest.mark.parametrize("value", [None, b"=?utf-8?q?a?="])
def test_parse_header_of_no_text(value: object) -> None:
    """Only str."""
    with pytest.raises(TypeError):
        parse_header(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit", ["=?", "=?a?q? ", "\\=?a?q? ", "=?a?q?\n", "=?a?q?a?=\n", "?=", "? =", "=?a"]
)
def test_parse_header_of_a_megabyte(unit: str) -> None:
    """A header of any length and shape comes to an end soon: in its length's square it would take
    minutes (and does in pymilter, for words without an end).
    """
    assert isinstance(parse_header(unit * (1_000_000 // len(unit))), str)


def test_parse_header_of_all_private_characters() -> None:
    """A text that leaves no character free to stand for another stays as it is."""
    text = "".join(map(chr, range(0xE000, 0xF900))) + "=?utf-8?q?a?="
    assert text == parse_header(text)


@pytest.mark.parametrize(
    ("text", "data"),
    [("YQ", b"a"), ("YWI", b"ab"), ("YWJj", b"abc"), ("YQ==", b"a"), ("!!", b""), ("", ""),
     (None, None), (b"YQ==", b"a")],
)  # fmt: skip
def test_decode(text: str, data: object) -> None:
    """Missing padding is added."""
    assert data == decode(text)


def test_decode_with_line_ends() -> None:
    """The second argument replaces each CR LF (pymilter: NameError)."""
    text = base64.b64encode(b"a\r\nb\n").decode("ascii")
    assert b"a\nb\n" == decode(text, "\n")
    assert b"a\r\nb\n" == decode(text)


def test_decode_of_bytes_without_padding() -> None:
    """The padding is text."""
    with pytest.raises(TypeError):
        decode(b"YQ")  # type: ignore[arg-type]
