"""Where a filter is: socket specifications as the MTA's side reads them, and connecting.

Knows nothing of the protocol. The other side of it, listening, is the engine's (socket.c).

Source: wire spec 6.1.
"""

from __future__ import annotations

import socket
from typing import Any, Final, NoReturn

from Milter._mtacodec import ConnectError, SocketSpecError

_EXPECTED: Final = (
    "expected unix:PATH, local:PATH, PATH, inet:PORT@HOST, inet:HOST:PORT, inet:PORT, "
    "inet6:PORT@HOST, inet6:HOST:PORT or inet6:PORT"
)


def _bad_spec(spec: str, why: str) -> NoReturn:
    raise SocketSpecError(f"bad socket {spec!r}: {why}; {_EXPECTED}")


def _host(spec: str, text: str) -> str:
    """A host name or address without the brackets that may stand around it."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if text[:5].lower() == "ipv6:":
            text = text[5:]
    if not text or "[" in text or "]" in text:
        _bad_spec(spec, "no host")
    return text


def parse_spec(spec: str) -> tuple[int, str, str]:
    """Reads a socket specification, as a filter's and as Postfix's configuration spell it.

    Returns:
        The address family (AF_UNSPEC where a host may be of either), the host or path, and the
        port ("" for a path). Without a host, it is this machine.

    Raises:
        SocketSpecError: it is none.

    Source: wire spec 6.1, seen from the other side.
    """
    kind, colon, rest = spec.partition(":")
    kind = kind.lower()
    if "\0" in spec:
        _bad_spec(spec, "a NUL")
    if not colon or kind in {"", "unix", "local"}:
        path = rest if colon else spec
        if not path:
            _bad_spec(spec, "no path")
        return socket.AF_UNIX, path, ""
    if kind not in {"inet", "inet6"}:
        _bad_spec(spec, f"unknown type {kind!r}")
    family = socket.AF_INET if kind == "inet" else socket.AF_INET6
    if "@" in rest:
        port, _, host = rest.partition("@")
        host = _host(spec, host)
    elif ":" in rest:
        host, _, port = rest.rpartition(":")
        if ":" in host and not host.startswith("["):
            _bad_spec(spec, "an IPv6 address wants brackets around it")
        host = _host(spec, host)
        if kind == "inet":
            # In Postfix's spelling it stands for either.
            family = socket.AF_UNSPEC
    else:
        host, port = ("127.0.0.1" if kind == "inet" else "::1"), rest
    if not port or (port[0].isdigit() and (not port.isdecimal() or int(port) > 65535)):
        _bad_spec(spec, f"bad port {port!r}")
    return family, host, port


def addresses_of(spec: str) -> list[tuple[int, Any]]:
    """Returns the addresses that a specification stands for: family, and what connect() takes.

    Raises:
        SocketSpecError: ``spec`` is no socket specification.
        ConnectError: the host's name is not known.
    """
    family, host, port = parse_spec(spec)
    if family == socket.AF_UNIX:
        return [(family, host)]
    try:
        found = socket.getaddrinfo(host, port, socket.AddressFamily(family), socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {spec}: {reason(error)}") from error
    return [(entry[0], entry[4]) for entry in found]


def open_socket(spec: str, timeout: float) -> socket.socket:
    """Returns a connected stream socket.

    Args:
        spec: where to.
        timeout: seconds for each address that a host name has.

    Raises:
        SocketSpecError: ``spec`` is no socket specification.
        ConnectError: nobody answers there.
    """
    reasons: list[str] = []
    for address_family, address in addresses_of(spec):
        try:
            sock = socket.socket(address_family, socket.SOCK_STREAM)
        except OSError as error:
            reasons.append(reason(error))
            continue
        try:
            sock.settimeout(timeout)
            sock.connect(address)
            if address_family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except socket.timeout:
            reasons.append(f"no connection within {timeout:g} s")
        except OSError as error:
            reasons.append(reason(error))
        else:
            return sock
        sock.close()
    # The same reason for two addresses of one host is said once.
    raise ConnectError(f"cannot connect to {spec}: {', '.join(dict.fromkeys(reasons))}")


def reason(error: Exception) -> str:
    """Returns what went wrong, without the number."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror
    return str(error)
