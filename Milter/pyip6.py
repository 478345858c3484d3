"""IPv6 addresses as text and as bytes, as old filters write them: no socket module needed.

The text is pymilter's own, not RFC 5952's: ``::FFFF:192.0.2.1`` in capitals, ``::0.0.0.1`` for the
loopback address, a single zero group compressed. New code uses `ipaddress` or `socket`.
"""

from __future__ import annotations

import re
import struct

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

#: A dotted IPv4 address, as a regular expression's text.
PAT_IP4 = r"\.".join([_OCTET] * 4)

#: The same, compiled, with an end: to be used with ``match``.
RE_IP4 = re.compile(PAT_IP4 + "$")

_GROUP = re.compile(r"[0-9a-f]{1,4}\Z", re.IGNORECASE)


def inet_ntop(s: bytes) -> str:
    """Return the text of an IPv6 address.

    *s*: its 16 bytes. An address whose first six groups are zero comes with a dotted end, an
    IPv4-mapped one with ``::FFFF:`` before it; of the others the first longest run of zero groups
    is compressed, even a single one. Raises struct.error for another number of bytes (API spec
    3.10).
    """
    groups = struct.unpack("!8H", s)
    if not any(groups):
        return "::"
    dotted = ".".join(map(str, s[12:]))
    if not any(groups[:6]):
        return "::" + dotted
    if not any(groups[:5]) and groups[5] == 0xFFFF:
        return "::FFFF:" + dotted
    start, length = _longest_zeros(groups)
    texts = [f"{group:x}" for group in groups]
    if not length:
        return ":".join(texts)
    return ":".join(texts[:start]) + "::" + ":".join(texts[start + length :])


def _longest_zeros(groups: tuple[int, ...]) -> tuple[int, int]:
    """Return where the first longest run of zeros begins, and its length."""
    best = (0, 0)
    start = None
    for index, group in enumerate((*groups, 1)):
        if group == 0:
            if start is None:
                start = index
        elif start is not None:
            if index - start > best[1]:
                best = (start, index - start)
            start = None
    return best


def inet_pton(p: str) -> bytes:
    """Return the 16 bytes of an address given as text.

    *p*: an IPv6 address, also with a dotted end, or an IPv4 address, which becomes its IPv4-mapped
    one. Raises ValueError, with *p* as its argument, for anything else (API spec 3.10).
    """
    if p == "::":
        return bytes(16)
    head, compressed, tail = p.partition("::")
    if not compressed and RE_IP4.match(p):
        head, compressed, tail = "", "::", "ffff:" + p
    before, after = _groups(head, p), _groups(tail, p)
    if not compressed:
        # A dotted end stands in what is, without a "::", the head.
        groups = before
    else:
        if head and len(_words(head)) != len(before):
            raise ValueError(p)  # dotted, but not at the end
        missing = 8 - len(before) - len(after)
        if missing < 0:
            raise ValueError(p)
        groups = before + [0] * missing + after
    if len(groups) != 8:
        raise ValueError(p)
    return struct.pack("!8H", *groups)


def _words(text: str) -> list[str]:
    return text.split(":") if text else []


def _groups(text: str, whole: str) -> list[int]:
    """Return the 16-bit groups of one side of the ``::``; raise ValueError(whole) for none."""
    words = _words(text)
    groups = []
    for index, word in enumerate(words):
        if index == len(words) - 1 and RE_IP4.match(word):
            octets = [int(octet) for octet in word.split(".")]
            groups += [octets[0] << 8 | octets[1], octets[2] << 8 | octets[3]]
        elif _GROUP.match(word):
            groups.append(int(word, 16))
        else:
            raise ValueError(whole)
    return groups
