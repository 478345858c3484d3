"""Addresses: `Milter.utils` and `Milter.pyip6` against the standard library, on any input."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from Milter import dynip, pyip6, utils

TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet='@<>":,.;() ab=?_qQ\r\n', max_size=40),
    st.lists(
        st.sampled_from(["=?utf-8?q?", "=?x?b?", "?=", "YQ", "=C3", " ", "\\", "\udce9", "€"])
    ).map("".join),
)


@given(TEXT)
def test_any_text_has_an_address(text: str) -> None:
    """Nothing in an envelope or a header makes these fail."""
    parts = utils.parse_addr(text)
    assert len(parts) in (1, 2)
    name, address = utils.parseaddr(text)
    assert isinstance(name, str)
    assert isinstance(address, str)
    assert isinstance(utils.parse_header(text), str)
    assert dynip.is_dynip(text, "192.0.2.1") in (True, False)


@given(st.ip_addresses(v=6))
def test_ipv6_there_and_back(address: ipaddress.IPv6Address) -> None:
    """What inet_ntop writes, ipaddress and inet_pton read as the same address."""
    text = pyip6.inet_ntop(address.packed)
    assert address == ipaddress.IPv6Address(text)
    assert address.packed == pyip6.inet_pton(text)
    assert address.packed == pyip6.inet_pton(str(address))
    assert utils.ip6re.match(str(address))


@given(st.text(alphabet="0123456789abcdefABCDEF:.g% \n", max_size=45))
def test_what_is_an_ipv6_address(text: str) -> None:
    """The regular expression and inet_pton take what the standard library takes."""
    try:
        expected = ipaddress.IPv6Address(text).packed
    except ValueError:
        assert not utils.ip6re.match(text) or text.endswith("\n")
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            with pytest.raises(ValueError, match=f"^{re.escape(text)}$") as caught:
                pyip6.inet_pton(text)
            assert (text,) == caught.value.args
        return
    if "%" not in text:
        assert utils.ip6re.match(text)
        assert expected == pyip6.inet_pton(text)


ADDRESSES = st.one_of(
    st.ip_addresses(),
    # near each other, so that some match
    st.integers(0, 255).map(lambda n: ipaddress.ip_address(0xC0000200 + n)),
    st.integers(0, 255).map(lambda n: ipaddress.ip_address((0x20010DB8 << 96) + n)),
)


@given(ADDRESSES, ADDRESSES, st.integers(0, 128))
def test_networks(address: ipaddress.IPv4Address, base: ipaddress.IPv4Address, bits: int) -> None:
    """An address is in a network when the standard library says so, and is in none of the other
    family but as an IPv4-mapped one.
    """
    bits = min(bits, base.max_prefixlen)
    network = ipaddress.ip_network((base, bits), strict=False)
    mapped = getattr(address, "ipv4_mapped", None)
    expected = address in network or (mapped is not None and mapped in network)
    assert expected is utils.iniplist(str(address), [f"{base}/{bits}"])
