"""What the tests stand on: an MTA-side peer of raw bytes, and a recording filter to point it at.

`wire` knows nothing of our code, so that it can judge it; `filter` runs one `Milter._server.Server`
in this process. Neither holds an expectation: those are in the tests, written by hand from the
wire spec.
"""

from harness.filter import CALLBACKS, F, Run, running
from harness.wire import Peer, macros, offer, packet

__all__ = ["CALLBACKS", "F", "Peer", "Run", "macros", "offer", "packet", "running"]
