"""The functions of the `milter` module, on the one server that they all mean.

Everything that is process-wide is this module's `server`. Source: API spec 1.3.
"""

from __future__ import annotations

from Milter import _context
from Milter._constants import VERSION
from Milter._server import Server

server = Server()
"""The server that module `milter` and `Milter.runmilter` work on."""

limits = server.limits
"""What it puts up with; see Limits."""

set_flags = server.set_flags
set_connect_callback = server.set_connect_callback
set_helo_callback = server.set_helo_callback
set_envfrom_callback = server.set_envfrom_callback
set_envrcpt_callback = server.set_envrcpt_callback
set_header_callback = server.set_header_callback
set_eoh_callback = server.set_eoh_callback
set_body_callback = server.set_body_callback
set_eom_callback = server.set_eom_callback
set_abort_callback = server.set_abort_callback
set_close_callback = server.set_close_callback
set_exception_policy = server.set_exception_policy
register = server.register
setconn = server.setconn
opensocket = server.opensocket
main = server.main
stop = server.stop
setdbg = server.setdbg
settimeout = server.settimeout
setbacklog = server.setbacklog


def getdiag() -> tuple[int, int]:
    """Returns how many contexts have been made, and how many of these are gone again."""
    return (_context.count.created, _context.count.deleted)


def getversion() -> tuple[int, int, int]:
    """Returns the version of the library interface: major, minor, patch level (wire spec 1.5)."""
    return (VERSION >> 24 & 0x7F, VERSION >> 8 & 0x7FFF, VERSION & 0x7F)
