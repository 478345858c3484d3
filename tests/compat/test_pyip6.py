"""`Milter.pyip6`: IPv6 addresses as text and bytes (API spec 3.10), and `Milter.unsign`."""

from __future__ import annotations

import re
import struct

import pytest

from Milter import pyip6
from Milter.unsign import unsign


def packed(*groups: int) -> bytes:
    """Return eight groups as bytes."""
    return struct.pack("!8H", *groups)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes(16), "::"),
        (packed(0, 0, 0, 0, 0, 0, 0, 1), "::0.0.0.1"),
        (packed(0, 0, 0, 0, 0, 0xFFFF, 0x0102, 0x0304), "::FFFF:1.2.3.4"),
        (packed(1, 0, 3, 4, 5, 6, 7, 8), "1::3:4:5:6:7:8"),
        (packed(1, 0, 0, 4, 0, 0, 7, 8), "1::4:0:0:7:8"),
        (packed(1, 0, 2, 0, 0, 6, 7, 8), "1:0:2::6:7:8"),
        (packed(0, 0, 3, 4, 5, 6, 7, 8), "::3:4:5:6:7:8"),
        (packed(1, 2, 3, 4, 5, 6, 7, 0), "1:2:3:4:5:6:7::"),
        (packed(0x2001, 0xDB8, 0xA, 4, 5, 6, 7, 0xFFFF), "2001:db8:a:4:5:6:7:ffff"),
        (packed(0, 0, 0, 0, 1, 0, 0, 1), "::1:0:0:1"),
    ],
)
def test_ntop(data: bytes, text: str) -> None:
    """An address's text, compressed at its first longest run of zeros, dotted where mostly zero."""
    assert text == pyip6.inet_ntop(data)


@pytest.mark.parametrize("data", [b"", b"1234", bytes(15), bytes(17)])
def test_ntop_of_another_length(data: bytes) -> None:
    """16 bytes it must be."""
    with pytest.raises(struct.error):
        pyip6.inet_ntop(data)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("::", bytes(16)),
        ("::1", packed(0, 0, 0, 0, 0, 0, 0, 1)),
        ("1::", packed(1, 0, 0, 0, 0, 0, 0, 0)),
        ("1.2.3.4", packed(0, 0, 0, 0, 0, 0xFFFF, 0x0102, 0x0304)),
        ("::1.2.3.4", packed(0, 0, 0, 0, 0, 0, 0x0102, 0x0304)),
        ("::FFFF:1.2.3.4", packed(0, 0, 0, 0, 0, 0xFFFF, 0x0102, 0x0304)),
        ("1:2:3:4:5:6:7:8", packed(1, 2, 3, 4, 5, 6, 7, 8)),
        ("1:2:3:4:5:6:1.2.3.4", packed(1, 2, 3, 4, 5, 6, 0x0102, 0x0304)),
        ("2001:DB8::a:b", packed(0x2001, 0xDB8, 0, 0, 0, 0, 10, 11)),
        ("1:2:3:4:5:6:7::", packed(1, 2, 3, 4, 5, 6, 7, 0)),
    ],
)
def test_pton(text: str, data: bytes) -> None:
    """Addresses with and without a compressed run or a dotted end; IPv4 becomes IPv4-mapped."""
    assert data == pyip6.inet_pton(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        ":",
        ":::",
        "1::2::3",
        "1:2:3",  # pymilter: struct.error
        "1:2:3:4:5:6:7:8:9",  # the same
        "::12345",  # the same
        "::10000",
        "1.2.3.4::",
        "1.2.3.4:5:6:7:8:9:a",
        "1:2:3:1.2.3.4:4:5:6",
        "1:2:3:4:5:6:7:8::1",
        "::256.1.1.1",
        " ::1",
        "::1\n",
        "::+1",
        "::1_2",
    ],
)
def test_pton_of_what_is_no_address(text: str) -> None:
    """Whatever is wrong, it is a ValueError whose argument is the text."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}") as caught:
        pyip6.inet_pton(text)
    assert (text,) == caught.value.args
    assert type(caught.value) is ValueError


def test_patterns() -> None:
    """The text of the pattern of an IPv4 address and the compiled one are exported."""
    assert pyip6.RE_IP4.match("255.249.199.0")
    assert not pyip6.RE_IP4.match("256.1.1.1")
    assert not pyip6.RE_IP4.match("1.2.3.4.5")
    assert pyip6.PAT_IP4 in pyip6.RE_IP4.pattern


@pytest.mark.parametrize("address", ["", "bob@example.com", "SRS0=x=y=example.org=a@example.com"])
def test_unsign(address: str) -> None:
    """The stub gives back what it got (API spec 3.14)."""
    assert address is unsign(address)
