"""`Milter.dynip.is_dynip`: names of dynamic addresses (API spec 3.5)."""

from __future__ import annotations

import pytest

from Milter.dynip import is_dynip

EXAMPLES = [
    # API spec 3.5, the second table
    ("post3.fabulousdealz.com", "69.60.99.112", False),
    ("mail.example.com", None, False),
    ("adsl-69-208-201-177.dsl.emhril.ameritech.net", "69.208.201.177", True),
    ("c-71-63-151-151.hsd1.mn.comcast.net", "71.63.151.151", True),
    ("[1.2.3.4]", "1.2.3.4", True),
    ("[bad", "1.2.3.4", False),
    ("host-4-3.example.com", "1.2.3.4", True),
    ("ip-6-9-8.x", "9.8.7.6", True),
    ("n1.4.5.x", "9.8.4.5", True),
    ("n1.2.3.4.5.x", "9.8.4.5", False),
    ("mx6.example.com", "9.8.7.6", False),
    ("mx-6.example.com", "9.8.7.6", True),
    ("x6-6.y", "9.8.7.6", False),
    ("6.example.com", "9.8.7.6", True),
    ("x987.example.com", "9.8.7.6", True),
    ("X0A0B0C0D.example.com", "10.11.12.13", True),
    ("x.adsl.example.com", "9.8.7.6", True),
    ("adsl.example.com", "9.8.7.6", False),
    ("x.ADSL.y", "9.8.7.6", False),
    ("S0106000c41bb86e1.vc.shawcable.net", "24.80.1.99", True),
    ("S0106000c41bb86e1.vc.shawcable.net", "24.80.1.1", False),
    ("mta-65-70.x", "1.2.3.4", True),
    ("x--.y", "9.8.7.6", True),
    ("mail.example.com", "2001:db8::1", False),
    ("x2001:db8::1", "2001:db8::1", True),
    # the rules in words
    ("[]", None, True),
    ("mail.example.com", "", False),
    ("a1.2.3.4b", "1.2.3.4", True),
    ("x-006-009-008.y", "9.8.7.6", True),  # compared as numbers
    ("n2n3n4.y", "1.2.3.4", True),
    ("n1n2n3.y", "1.2.3.4", True),
    ("n4n1n2n77.y", "1.2.3.4", True),
    ("n77n3n4.y", "1.2.3.4", True),
    ("n4n3n2.y", "1.2.3.4", True),
    ("n3n2n1.y", "1.2.3.4", True),
    ("n4n3n77.y", "1.2.3.4", True),  # the first two, backwards
    ("n3n4n77.y", "1.2.3.4", False),
    ("x2034.y", "10.20.3.4", True),  # the last three, run together
    # the first table, row by row; the last octet of 9.8.7.6 is 6
    ("xh0123456789ab.y", "9.8.7.6", True),
    ("xh0123456789a.y", "9.8.7.6", False),
    ("xh0123456789AB.y", "9.8.7.6", False),
    ("xhnco.y", "9.8.7.6", True),
    ("xh1n22c333o4444.y", "9.8.7.6", True),
    ("pcp555555pcs.y", "9.8.7.1", True),
    ("pcp55555pcs.y", "9.8.7.1", False),
    ("pcp55555555555pcs.y", "9.8.7.1", False),
    ("xno-reversey", "9.8.7.6", True),
    ("user6.y", "9.8.7.6", True),
    ("user5.y", "9.8.7.6", False),
    ("xcust6.y", "9.8.7.6", True),
    ("xCust6.y", "9.8.7.6", True),
    ("xCUST6.y", "9.8.7.6", False),
    ("pppabc6.y", "9.8.7.6", True),
    ("ppp.abc6.y", "9.8.7.6", False),
    ("x-ppp55.y", "9.8.7.6", True),
    ("x-ppp.y", "9.8.7.6", True),
    ("xp6.pool.y", "9.8.7.6", True),
    ("xp6.pond.y", "9.8.7.6", False),
    ("xh6.y", "9.8.7.6", True),
    ("xdsl-.y", "9.8.7.6", True),
    ("xdsl-12.y", "9.8.7.6", True),
    ("x.cable.y", "9.8.7.6", True),
    ("x.cables.y", "9.8.7.6", False),
]


@pytest.mark.parametrize(("host", "address", "dynamic"), EXAMPLES)
def test_examples(host: str, address: str | None, dynamic: bool) -> None:
    """Each name is judged as the spec says."""
    assert dynamic is is_dynip(host, address)


@pytest.mark.parametrize("address", ["a.b.c.d", "1.2.3", "1.2.3.4.5", "1", "1.2.3."])
def test_what_is_no_address(address: str) -> None:
    """An address that is not four numbers is a ValueError."""
    with pytest.raises(ValueError, match=r"invalid literal|not an IPv4 address"):
        is_dynip("mail.example.com", address)


@pytest.mark.parametrize("piece", ["ppp", "h1", "-1", "xdsl-1", "pcp1", "1", "S0", "user", "-ppp1"])
def test_a_name_of_a_megabyte(piece: str) -> None:
    """A name of any length is judged in one pass: nothing is tried again and again."""
    assert is_dynip(piece * (1_000_000 // len(piece)), "203.0.113.254") in (True, False)
