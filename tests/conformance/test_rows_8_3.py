"""Wire spec 8.3, rows 56 to 75: what is in C, H, M, R, L and U packets."""

from __future__ import annotations

import socket

import pytest

from harness import F, packet, running
from harness.packets import C, H, L, M, R

V4 = b"h\0" + b"4" + b"\x04\xd2"
V6 = b"h\0" + b"6" + b"\x00\x19"
UNIX = b"h\0" + b"L" + b"\x00\x00"
PATH_107 = b"/" + b"p" * 106

#: Data of C packets that cannot be decoded.
BAD_CONNECTS = {
    "family X": b"h\0" + b"X" + b"\x04\xd2" + b"192.0.2.1\0",
    "family NUL": b"h\0" + b"\0" + b"\x04\xd2" + b"192.0.2.1\0",
    "IPv6 text as IPv4": V4 + b"2001:db8::1\0",
    "garbage as IPv4": V4 + b"garbage\0",
    "empty IPv4": V4 + b"\0",
    "IPv4 with a part too many": V4 + b"192.0.2.1.5\0",
    "IPv4 text as IPv6": V6 + b"192.0.2.1\0",
    "empty IPv6": V6 + b"\0",
    "IPv6 with only its tag": V6 + b"IPv6:\0",
    "IPv4 without NUL": V4 + b"192.0.2.1",
    "IPv6 without NUL": V6 + b"2001:db8::1",
    "path without NUL": UNIX + b"/s",
    "IPv4, more after its NUL": V4 + b"192.0.2.1\0x",
    "IPv6, more after its NUL": V6 + b"::1\0x",
    "path, more after its NUL": UNIX + b"/s\0x",
    "only the host": b"h\0",
    "the host without NUL": b"h",
    "host and family": b"h\0" + b"4",
    "host, family, half a port": b"h\0" + b"4" + b"\x04",
    "host, family, port": V4,
}


@pytest.mark.row(56, 57, 58)
@pytest.mark.parametrize(
    ("data", "family", "address"),
    [
        (V4 + b"192.0.2.1\0", socket.AF_INET, ("192.0.2.1", 1234)),
        (b"h\0" + b"4" + b"\0\0" + b"0.0.0.0\0", socket.AF_INET, ("0.0.0.0", 0)),
        (b"h\0" + b"4" + b"\xff\xff" + b"255.255.255.255\0", 2, ("255.255.255.255", 65535)),
        (V6 + b"2001:db8::1\0", socket.AF_INET6, ("2001:db8::1", 25, 0, 0)),
        (V6 + b"IPv6:2001:db8::1\0", socket.AF_INET6, ("2001:db8::1", 25, 0, 0)),
        (V6 + b"ipv6:::1\0", socket.AF_INET6, ("::1", 25, 0, 0)),
        (V6 + b"::ffff:192.0.2.1\0", socket.AF_INET6, ("::ffff:192.0.2.1", 25, 0, 0)),
        (V6 + b"2001:DB8:0:0:0:0:0:A\0", socket.AF_INET6, ("2001:db8::a", 25, 0, 0)),
        (UNIX + b"/s\0", socket.AF_UNIX, "/s"),
        (UNIX + b"\0", socket.AF_UNIX, ""),
        (UNIX + PATH_107 + b"\0", socket.AF_UNIX, PATH_107.decode()),
    ],
)  # fmt: skip
def test_client_address(feed: str, data: bytes, family: int, address: object) -> None:
    """Each family's address arrives as Python's socket module writes it."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("C", data))
        assert [("h", family, address)] == run.args("connect")


@pytest.mark.row(59)
def test_path_too_long(feed: str) -> None:
    """A path of 108 bytes has no room for its NUL in a socket address: the connection ends."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.send(packet("C", UNIX + PATH_107 + b"p\0"))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(60)
@pytest.mark.parametrize("trailing", [b"", b"\x04\xd2" + b"192.0.2.1\0", b"x"])
def test_unknown_client(feed: str, trailing: bytes) -> None:
    """Family U has no address, and what follows it is not looked at."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("C", b"localhost\0" + b"U" + trailing))
        assert [("localhost", 0, None)] == run.args("connect")


@pytest.mark.row(61)
@pytest.mark.parametrize("data", BAD_CONNECTS.values(), ids=BAD_CONNECTS)
def test_bad_connect(feed: str, data: bytes) -> None:
    """A client address that cannot be read ends the connection without a connect callback."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.send(packet("C", data))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(62)
@pytest.mark.parametrize("data", BAD_CONNECTS.values(), ids=BAD_CONNECTS)
def test_bad_connect_that_nobody_reads(feed: str, data: bytes) -> None:
    """A filter without connect callback answers `c`: the packet is not parsed."""
    with running(F(without=["connect"]), feed) as run:
        mta = run.mta()
        mta.play(packet("C", data), H)
        assert ["helo", "close"] == run.finish()


@pytest.mark.row(63)
@pytest.mark.ours
@pytest.mark.parametrize("text", [b"127.1", b"127.0.1", b"2130706433", b"0x7f.0.0.1"])
def test_short_ipv4(feed: str, text: bytes) -> None:
    """Only four decimal parts are an IPv4 address: `127.1` ends the connection."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.send(packet("C", V4 + text + b"\0"))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(64)
def test_empty_hostname(feed: str) -> None:
    """An empty hostname is passed on as such."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("C", b"\0" + b"4" + b"\x04\xd2" + b"192.0.2.1\0"))
        assert [("", socket.AF_INET, ("192.0.2.1", 1234))] == run.args("connect")


@pytest.mark.row(56)
def test_address_literal_as_hostname(feed: str) -> None:
    """An unresolvable client's hostname keeps its brackets."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("C", b"[192.0.2.1]\0" + b"4" + b"\x00\x00" + b"192.0.2.1\0"))
        assert [("[192.0.2.1]", socket.AF_INET, ("192.0.2.1", 0))] == run.args("connect")


@pytest.mark.row(65)
@pytest.mark.parametrize(
    ("before", "names"),
    [((), ["close"]), ((M, R), ["mail", "rcpt", "abort", "close"])],
    ids=["outside", "in a transaction"],
)
@pytest.mark.parametrize("data", [b"helo", b"a\0b"])
def test_helo_without_nul(
    feed: str, before: tuple[bytes, ...], names: list[str], data: bytes
) -> None:
    """An H that does not end with NUL ends the connection (libmilter: no reply, no callback)."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*before)
        mta.send(packet("H", data))
        run.expect_broken(mta, names)


@pytest.mark.row(66)
@pytest.mark.parametrize(("data", "name"), [(b"a\0b\0", "a"), (b"\0", "")])
def test_helo_up_to_its_nul(feed: str, data: bytes, name: str) -> None:
    """HELO's argument is the first string; it may be empty."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("H", data))
        assert [(name,)] == run.args("helo")


@pytest.mark.row(67, 68, 70)
@pytest.mark.parametrize("command", ["mail", "rcpt"])
@pytest.mark.parametrize(
    ("data", "args"),
    [
        (b"<a>\0SIZE=1\0BODY=8BITMIME\0", (b"<a>", b"SIZE=1", b"BODY=8BITMIME")),
        (b"<a>\0SIZE=1", (b"<a>",)),
        (b"<a>\0\0B\0", (b"<a>", b"", b"B")),
        (b"<>\0", (b"<>",)),
        (b"a@b\0", (b"a@b",)),
        (b"\0", (b"",)),
        (b"<\xff\xc3\xa9>\0\x01\0", (b"<\xff\xc3\xa9>", b"\x01")),
    ],
)
def test_envelope_arguments(feed: str, command: str, data: bytes, args: tuple[bytes, ...]) -> None:
    """Address and ESMTP parameters are the NUL-ended strings; a last one without NUL is dropped."""
    with running(feed=feed) as run:
        mta = run.mta()
        if command == "rcpt":
            mta.play(M)
        mta.play(packet("M" if command == "mail" else "R", data))
        assert [args] == run.args(command)


@pytest.mark.row(69)
@pytest.mark.parametrize(
    ("before", "letter", "names"),
    [
        ((), "M", ["close"]),
        ((C, H), "M", ["connect", "helo", "close"]),
        ((M, R), "M", ["mail", "rcpt", "abort", "close"]),
        ((M,), "R", ["mail", "abort", "close"]),
    ],
)
def test_envelope_without_nul(
    feed: str, before: tuple[bytes, ...], letter: str, names: list[str]
) -> None:
    """An envelope command without any NUL ends the connection, without its callback."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*before)
        mta.send(packet(letter, b"<a@b>"))
        run.expect_broken(mta, names)


@pytest.mark.row(71, 73, 74)
@pytest.mark.parametrize(
    ("data", "args"),
    [
        (b"A\0\0", ("A", b"")),
        (b"A\0b\0c\0", ("A", b"b")),
        (b"A\0\0\0", ("A", b"")),
        (b"X\0a\n\tb\0", ("X", b"a\n\tb")),
        (b"X\0 lead\0", ("X", b" lead")),
        (b"X Y:\0\x80\xff%\0", ("X Y:", b"\x80\xff%")),
    ],
)
def test_header(feed: str, data: bytes, args: tuple[str, bytes]) -> None:
    """A header is two strings, passed on unchanged; what follows them is ignored."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R, packet("L", data))
        assert [args] == run.args("header")


@pytest.mark.row(72)
@pytest.mark.parametrize("data", [b"A\0", b"A\0b", b"\0v\0", b"A", b"\0", b"\0\0", b"A\0b\0c"])
def test_bad_header(feed: str, data: bytes) -> None:
    """A header without name, without value or without NUL at its end ends the connection."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R, L)
        mta.send(packet("L", data))
        run.expect_broken(mta, ["mail", "rcpt", "header", "abort", "close"])


@pytest.mark.row(75)
@pytest.mark.parametrize(
    ("before", "names"),
    [((), ["close"]), ((M,), ["mail", "abort", "close"])],
    ids=["outside", "in a transaction"],
)
def test_unknown_command_without_nul(
    feed: str, before: tuple[bytes, ...], names: list[str]
) -> None:
    """A U whose string has no NUL ends the connection (libmilter reads past the packet)."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*before)
        mta.send(packet("U", b"FOO"))
        run.expect_broken(mta, names)


@pytest.mark.row(56, 64)
def test_hostname_that_is_not_utf8(feed: str) -> None:
    """Text that is not UTF-8 arrives with surrogate escapes, so that it can be written back."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(packet("C", b"h\xff\0U"), packet("H", b"\xc3\xa9\x80\0"), packet("U", b"\xfe\0"))
        run.finish()
        assert [("h\udcff", 0, None)] == run.args("connect")
        assert [("\u00e9\udc80",)] == run.args("helo")
        assert [("\udcfe",)] == run.args("unknown")
