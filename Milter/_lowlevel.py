"""The functions of the `milter` module, on the one server that they all mean.

Everything that is process-wide is this module's `server`. Source: API spec 1.3.
"""

from __future__ import annotations

from Milter import _context
from Milter._constants import VERSION
from Milter._errors import no_keywords
from Milter._server import Server

server = Server()
"""The server that module `milter` and `Milter.runmilter` work on."""

limits = server.limits
"""What it puts up with; see Limits."""

set_flags = no_keywords(server.set_flags)
set_connect_callback = no_keywords(server.set_connect_callback)
set_helo_callback = no_keywords(server.set_helo_callback)
set_envfrom_callback = no_keywords(server.set_envfrom_callback)
set_envrcpt_callback = no_keywords(server.set_envrcpt_callback)
set_header_callback = no_keywords(server.set_header_callback)
set_eoh_callback = no_keywords(server.set_eoh_callback)
set_body_callback = no_keywords(server.set_body_callback)
set_eom_callback = no_keywords(server.set_eom_callback)
set_abort_callback = no_keywords(server.set_abort_callback)
set_close_callback = no_keywords(server.set_close_callback)
set_exception_policy = no_keywords(server.set_exception_policy)
register = server.register
setconn = no_keywords(server.setconn)
opensocket = no_keywords(server.opensocket)
main = no_keywords(server.main)
stop = no_keywords(server.stop)
setdbg = no_keywords(server.setdbg)
settimeout = no_keywords(server.settimeout)
setbacklog = no_keywords(server.setbacklog)


@no_keywords
def getdiag() -> tuple[int, int]:
    """Returns how many contexts have been made, and how many of these are gone again."""
    return (_context.count.created, _context.count.deleted)


@no_keywords
def getversion() -> tuple[int, int, int]:
    """Returns the version of the library interface: major, minor, patch level (wire spec 1.5)."""
    return (VERSION >> 24 & 0x7F, VERSION >> 8 & 0x7FFF, VERSION & 0x7F)
