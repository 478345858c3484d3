"""Addresses: mail addresses taken apart, IP addresses compared, encoded header text decoded.

The functions that most filters import. Names and results are pymilter's (API spec 3.14), but for
what is wrong there: an IPv6 address is never taken for an IPv4 one, and importing this changes
nothing in the standard library.
"""

from __future__ import annotations

import binascii
import email.header
import email.utils
import re
import socket
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Optional, Union

from Milter.pyip6 import PAT_IP4

__all__ = [
    "MASK",
    "MASK6",
    "PAT_IP4",
    "addr2bin",
    "bin2long6",
    "cidr",
    "decode",
    "dnsre",
    "inet_ntop",
    "inet_pton",
    "iniplist",
    "ip4re",
    "ip6re",
    "parse_addr",
    "parse_header",
    "parseaddr",
]

#: All bits of an IPv4 address, and of an IPv6 address.
MASK = 0xFFFFFFFF
MASK6 = (1 << 128) - 1

#: An IPv4 address as text; to be used with ``match``. A line feed at the end passes.
ip4re = re.compile(PAT_IP4 + "$")

_H16 = "[0-9a-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{PAT_IP4})"

#: An IPv6 address as text, as RFC 3986 (IPv6address) has it, without a zone; as above.
ip6re = re.compile(
    "(?:"
    + "|".join(
        [
            f"(?:{_H16}:){{6}}{_LS32}",
            f"::(?:{_H16}:){{5}}{_LS32}",
            f"(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}",
            f"(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}",
            f"(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}",
            f"(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}",
            f"(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}",
            f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
            f"(?:(?:{_H16}:){{0,6}}{_H16})?::",
        ]
    )
    + ")$",
    re.IGNORECASE,
)

#: What may be a host name; as above.
dnsre = re.compile(r"[a-z][-a-z0-9.]+$", re.IGNORECASE)


# ---- IP addresses ----


def inet_ntop(s: bytes) -> str:
    """Return the text of an IPv6 address, *s*: its 16 bytes. Raises ValueError for more or less."""
    return socket.inet_ntop(socket.AF_INET6, s)


def inet_pton(s: str) -> bytes:
    """Return the 16 bytes of an IPv6 address, *s*: its text, with blanks around it or without.

    Raises OSError for what is none.
    """
    return socket.inet_pton(socket.AF_INET6, s.strip())


def bin2long6(s: bytes) -> int:
    """Return the 16 bytes of an IPv6 address as an integer. Raises ValueError for more or less."""
    if len(s) != 16:
        raise ValueError(f"an IPv6 address has 16 bytes, not {len(s)}")
    return int.from_bytes(s, "big")


def addr2bin(s: str) -> int:
    """Return an IP address, given as text, as an integer.

    What holds a colon is taken for IPv6, all else for IPv4 by the rules of inet_aton(3), which
    reads ``1.2.3`` as 1.2.0.3. Raises OSError for what is neither.
    """
    if ":" in s:
        try:
            return bin2long6(inet_pton(s))
        except (OSError, ValueError):
            raise OSError("Invalid IP6 address: " + s) from None
    try:
        return int.from_bytes(socket.inet_aton(s), "big")
    except (OSError, ValueError):
        raise OSError("Invalid IP4 address: " + s) from None


def cidr(i: int, n: int, mask: int = MASK) -> int:
    """Return the address *i* with all but its first *n* bits cleared.

    *mask*: all bits of an address of that family, `MASK` or `MASK6`. More bits than there are mean
    all of them; a negative number raises ValueError.
    """
    return ~(mask >> n) & mask & i


#: The first 96 bits of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
_MAPPED = 0xFFFF << 32


def iniplist(ipaddr: str, iplist: Iterable[str]) -> bool:
    """Tell whether an IP address is in a list.

    *ipaddr*: an IPv4 or IPv6 address as text. *iplist*: patterns, tried in order: an address; a
    network, as ``192.0.2.0/24`` or ``2001:db8::/32``; a host name, also with a number of bits,
    which is looked up in the DNS, in the address's own family (a name that is not found matches
    nothing); or a pattern with the wildcards ``*``, ``?`` and ``[...]``, which is compared with the
    text.

    An address is compared with networks of its own family only; an IPv4-mapped IPv6 address
    (``::ffff:192.0.2.1``) with those of both. Raises ValueError if *ipaddr* is no address, or if
    the number of bits in a pattern that is reached is no number or negative.

    >>> iniplist("66.179.26.146", ["127.0.0.1", "66.179.26.128/26"])
    True
    >>> iniplist("2001:db8::102:304", ["1.2.3.4"])
    False
    """
    if ip4re.match(ipaddr):
        addresses = {socket.AF_INET: addr2bin(ipaddr.rstrip("\n"))}
        family = socket.AF_INET
    elif ip6re.match(ipaddr):
        number = addr2bin(ipaddr)
        addresses = {socket.AF_INET6: number}
        if number >> 32 == _MAPPED >> 32:
            addresses[socket.AF_INET] = number & MASK
        family = socket.AF_INET6
    else:
        raise ValueError("Invalid ip syntax:" + ipaddr)
    for pattern in iplist:
        host, slash, bits = pattern.partition("/")
        # As the lines of a file come.
        name = host.rstrip("\n")
        if ip4re.match(host):
            networks = [(socket.AF_INET, addr2bin(name))]
        elif ip6re.match(host):
            networks = [(socket.AF_INET6, addr2bin(name))]
        elif dnsre.match(host):
            networks = _lookup(name, family)
        else:
            if fnmatchcase(ipaddr, pattern):
                return True
            continue
        for kind, network in networks:
            length = int(bits) if slash else 128
            mask = MASK if kind == socket.AF_INET else MASK6
            wanted = cidr(network, length, mask)
            if kind in addresses and cidr(addresses[kind], length, mask) == wanted:
                return True
    return False


def _lookup(host: str, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, int]]:
    """Return the addresses of *host* in *family*, none if it has none or the DNS does not say."""
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    # A zone ("%eth0") comes with an address that is of use on one link only.
    return [(family, addr2bin(str(entry[4][0]).partition("%")[0])) for entry in found]


# ---- Mail addresses ----


def parse_addr(t: str) -> list[str]:
    """Split an address of the envelope at its last ``@``.

    *t*: the address, in angle brackets or without. Returns ``[local part, domain]``, ``[local
    part]`` if there is no ``@``. A source route is dropped, quotes around the whole or the local
    part are taken off. Nothing else is changed: no case, no blanks. Any text has a result (API spec
    3.14).

    >>> parse_addr("<user@example.com>")
    ['user', 'example.com']
    >>> parse_addr("<>")
    ['']
    """
    if t.startswith("<") and t.endswith(">"):
        t = t[1:-1]
    if t.startswith('"'):
        if t.endswith('"'):
            return [t[1:-1]]
        end = t.find('"@')
        if end > 0:
            return [t[1:end], t[end + 2 :]]
    elif t.startswith("@"):
        _route, colon, rest = t.partition(":")
        if colon:
            t = rest
    local, at, domain = t.rpartition("@")
    return [local, domain] if at else [t]


def parseaddr(t: str) -> tuple[str, str]:
    """Split an address of a header into name and address, also some that are not well-formed.

    *t*: the header's value. Returns what `email.utils.parseaddr` does, which is ``('', '')`` for
    nothing and for what it cannot read, however deeply nested. A text that ends in ``>`` in which
    it finds no name or no address is read again with all before the first ``<`` taken for the name,
    and without a source route (API spec 3.14).

    Do not decide by the result who sent a message: a header may hold several addresses, and mail
    programs differ in what they show of a malformed one. Newer Pythons give ``('', '')`` for such a
    header, to warn (CVE-2023-27043). Here all of them give the first address, as they used to,
    since filters compare it with lists.
    """
    name, address = _parseaddr(t)
    if t.endswith(">") and not (name and address):
        before, _bracket, after = t.partition("<")
        # There is always a bracket after what has a name; what begins with one has none to repair.
        if before and before != t:
            route, _colon, rest = after.rpartition(":")
            if route:
                after = rest
            before = before.strip()
            return _parseaddr(f"{before}<{after}" if name else f'"{before}" <{after}')
    return name, address


def _parseaddr(t: str) -> tuple[str, str]:
    """Parse as the standard library did before it became strict; ``('', '')`` if it gives up."""
    try:
        # Pythons from 3.13 on, and late releases of earlier ones.
        return email.utils.parseaddr(t, strict=False)
    except RecursionError:
        # It calls itself for each parenthesis, group and route, of which a sender may write many.
        return "", ""
    except TypeError:
        if not isinstance(t, str):
            raise
    try:
        return email.utils.parseaddr(t)
    except RecursionError:
        return "", ""


# ---- Header text ----

#: An encoded word (RFC 2047), for the parts of a line that are none.
_ENCODED_WORD = re.compile(r"(=\?[^?]*\?[qb]\?.*?\?=)", re.IGNORECASE)


def parse_header(val: str) -> str:
    """Return a header's value with its encoded words (RFC 2047) decoded.

    A value without any, or with one that cannot be decoded at all, is returned as it is. Bytes that
    do not fit their charset become U+FFFD; words in an unknown charset are read as UTF-8. Raises
    TypeError for what is not `str`.

    >>> parse_header("=?iso-8859-1?Q?Peter_=D8rum?= <orum@ditas.dk>")
    'Peter Ørum <orum@ditas.dk>'
    """
    if not isinstance(val, str):
        raise TypeError(f"a header's value is str, not {type(val).__name__}")
    if "=?" not in val:
        return val
    # Two characters of text outside of encoded words mislead the standard library: it writes what
    # it does not decode with Python's escapes, which a backslash would be mistaken for; and it
    # looks for the end of a word from each "=?" to the end of the line, which takes the square of
    # the line's length where there is none. Two others stand for them until it is done.
    free = (c for c in map(chr, range(0xE000, 0xF900)) if c not in val)
    backslash, question = next(free, ""), next(free, "")
    if not question:
        return val  # it holds all that there are for private use: no text
    lines = []
    for line in val.splitlines(keepends=True):
        end = line.rfind("?=") + 2 if "?=" in line else 0
        parts = _ENCODED_WORD.split(line[:end])
        parts[::2] = [part.replace("\\", backslash) for part in parts[::2]]
        tail = line[end:].replace("\\", backslash).replace("?", question)
        lines.append("".join(parts) + tail)
    try:
        pieces = email.header.decode_header("".join(lines))
        result = "".join(_decode_piece(piece, charset) for piece, charset in pieces)
    except (ValueError, email.errors.MessageError):
        return val
    return result.replace(backslash, "\\").replace(question, "?")


def _decode_piece(piece: Union[str, bytes], charset: Optional[str]) -> str:
    """Return a piece of `email.header.decode_header` as text; raise ValueError if it has none."""
    if isinstance(piece, str):
        return piece
    if charset is None:
        return piece.decode("raw-unicode-escape")
    try:
        # A language may follow the charset (RFC 2231 section 5).
        return piece.decode(charset.partition("*")[0], "replace")
    except LookupError:
        return piece.decode()


def decode(s: str, convert_eols: Optional[str] = None) -> Union[bytes, str, None]:
    """Decode base64 whose padding may be missing.

    *s*: the text. *convert_eols*: what each CR LF of the result is replaced by, None: nothing.
    Returns bytes; an empty text and None as they are. Raises binascii.Error (a ValueError) for a
    text that cannot be repaired.
    """
    if not s:
        return s
    data = binascii.a2b_base64(s + "=" * (-len(s) % 4) if len(s) % 4 else s)
    if convert_eols is not None:
        data = data.replace(b"\r\n", convert_eols.encode("ascii"))
    return data
