"""What filters are told of an SMTP client that is not in its commands: address, TLS, login.

Owns what aiosmtpd's Session and transport know of it, as Milter.mta wants it.

Source: wire spec 2.7.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from Milter._dialogue import SmtpClient
from Milter._message import from_wire

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP as Server
    from aiosmtpd.smtp import Session


def client_of(session: Session) -> SmtpClient:
    """Returns who a client is by its address alone, or the one that a proxy told of.

    Args:
        session: aiosmtpd's.
    """
    peer: Any = session.peer
    proxied = session.proxy_data
    if proxied is not None and proxied.src_addr is not None:
        peer = (str(proxied.src_addr), int(proxied.src_port or 0))
    if not isinstance(peer, tuple):
        # A unix socket.
        return SmtpClient("localhost", None)
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return SmtpClient("unknown", None)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    name = "localhost" if address.is_loopback else f"[{address}]"
    return SmtpClient(name, str(address), int(peer[1]))


def daemon_macros(server: Server) -> dict[str, str]:
    """The server's own address."""
    transport = server.transport
    assert transport is not None
    name = transport.get_extra_info("sockname")
    if not isinstance(name, tuple):
        return {}
    return {"{daemon_addr}": str(name[0]), "{if_addr}": str(name[0])}


def tls_macros(server: Server) -> dict[str, str]:
    """What filters are told of TLS; nothing without it."""
    transport = server.transport
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    cipher = None if tls is None else tls.cipher()
    if tls is None or cipher is None:
        return {}
    macros = {
        "{tls_version}": str(tls.version()),
        "{cipher}": str(cipher[0]),
        "{cipher_bits}": str(cipher[2]),
    }
    certificate = tls.getpeercert() or {}
    for macro, of in (("{cert_subject}", "subject"), ("{cert_issuer}", "issuer")):
        for pairs in certificate.get(of, ()):
            for key, value in pairs:
                if key == "commonName":
                    macros[macro] = value
    return macros


def auth_macros(session: Session, mechanism: str) -> dict[str, str]:
    """What filters are told of a client that has logged in."""
    if not session.authenticated:
        return {}
    macros = {"{auth_type}": mechanism}
    # An authenticator says in auth_data who it is. The older auth_callback has no such thing;
    # aiosmtpd then keeps the login where only its own, deprecated property finds it silently.
    login = getattr(session.auth_data, "login", session.auth_data)
    if login is None:
        login = getattr(session, "_login_data", None)
    if isinstance(login, bytes):
        login = from_wire(login)
    if isinstance(login, str):
        macros["{auth_authen}"] = login.replace("\0", "")
    return macros
