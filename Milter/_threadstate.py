"""Makes a reused thread as good as new for the next connection.

Under pymilter every connection has a thread of its own, with empty `threading.local` objects;
filters keep database handles there and rely on their being dropped when the connection ends
(API spec 1.13). Context variables are taken care of by running each connection in a fresh
`contextvars.Context`.
"""

from __future__ import annotations

from Milter._engine import lib


def renew() -> bool:
    """Drops what the calling thread keeps in `threading.local` objects.

    Returns:
        Whether it could be done. Where the interpreter does not let us (PyPy, a later CPython),
        the thread should end with its connection.
    """
    return bool(lib.mlt_threadstate_renew())
