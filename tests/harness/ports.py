"""TCP ports for servers that must be told one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved(host: str = "127.0.0.1") -> Iterator[int]:
    """A port of an address of this machine that nobody else gets by chance while the block runs.

    A server that sets SO_REUSEADDR, as usual, can listen at it meanwhile.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind((host, 0))
        yield int(keeper.getsockname()[1])
