"""Does a host's name look like one that a provider gives to a customer's dynamic address?

Such names hold the address, or a word that providers use. It is a guess, good for a score or a
greylist; API spec 3.5 has the rules and examples.
"""

from __future__ import annotations

import re
from typing import Optional

_RUNS = re.compile("[0-9]{1,3}")

#: Stands for the last octet in the host's name. No host name holds it.
_LAST = "\n"

#: What providers write, after the last octet was replaced by `_LAST`: the spec's table, without
#: what another row says already. No two repetitions meet, so the time grows with the name's length
#: only.
_PATTERNS = re.compile(
    "|".join(
        [
            r"h[0-9a-f]{12}\.",
            r"h[0-9]*n[0-9]*c[0-9]*o[0-9]*\.",
            r"pcp[0-9]{6,10}pcs\.",
            r"no-reverse",
            r"S[0-9a-f]{16}\.[a-z]{2}\.",
            rf"user{_LAST}\.",
            rf"[Cc]ust{_LAST}\.",
            rf"^{_LAST}\.",
            r"-ppp[0-9]*\.",
            rf"p{_LAST}\.pool",
            rf"-{_LAST}\.",
            rf"h{_LAST}\.",
            r"xdsl-[0-9]*\.",
            r"-[0-9]*-[0-9]*\.",
            r"\.adsl\.",
            r"\.cable\.",
        ]
    )
)


def is_dynip(host: str, addr: Optional[str]) -> bool:
    """Tell whether *host* looks like the name of a dynamic address.

    *host*: the client's name as the mail server found it, ``[192.0.2.1]`` if it found none. *addr*:
    its address as text; None or ``""`` if unknown. An IPv6 address counts only if *host* holds it.
    Raises ValueError for an address that is not four numbers.

    >>> is_dynip("adsl-69-208-201-177.dsl.example.net", "69.208.201.177")
    True
    >>> is_dynip("mail.example.com", "192.0.2.1")
    False
    """
    if host.startswith("[") and host.endswith("]"):
        return True
    if not addr:
        return False
    if addr in host:
        return True
    if ":" in addr:
        return False
    octets = [int(octet) for octet in addr.split(".")]
    if len(octets) != 4:
        raise ValueError(f"not an IPv4 address: {addr!r}")
    return (
        _holds_octets(host, octets)
        or _holds_word(host, octets[3])
        or "".join(map(str, octets[:3])) in host
        or "".join(map(str, octets[1:])) in host
        or "".join(f"{octet:02x}" for octet in octets) in host.lower()
    )


def _holds_octets(host: str, octets: list[int]) -> bool:
    """Tell whether the first four numbers in *host* are octets, in one of the usual orders."""
    numbers = [int(run.group()) for _, run in zip(range(4), _RUNS.finditer(host))]
    backwards = numbers[::-1]
    first, last = octets[:3], octets[1:]
    return (
        numbers[-3:] in (last, first)
        or (numbers[:1] == octets[3:] and numbers[1:3] == octets[:2])
        or numbers[-2:] == octets[2:]
        or backwards[:3] in (last, first)
        or octets[2:] in (backwards[:2], numbers[1::-1])
    )


def _holds_word(host: str, last: int) -> bool:
    """Tell whether *host* holds a word of providers, beside the *last* octet or alone."""
    for run in _RUNS.finditer(host):
        if int(run.group()) == last:
            before, after = host[: run.start()], host[run.end() :]
            if after.startswith(".") and "ppp" in before.rpartition(".")[2]:
                return True
            host = before + _LAST + after
            break
    return _PATTERNS.search(host) is not None
